"""`tsf-llm forecast --joint`: the weights of a portfolio, its table beside the forecast, and both for people."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ..common.errors import printable
from ..common.tables import Table, number

SHOWN = 10  # tickers on the terminal
COLUMNS = ("ticker", "weight")
TAILS = {"var": "VaR", "es": "ES"}


def joint_file(out: Path) -> Path:
    """Where the joint table goes, beside the forecast.

    >>> joint_file(Path("deep/forecast.csv")).as_posix()
    'deep/forecast.joint.csv'
    """
    return out.with_suffix(f".joint{out.suffix}")


def read_weights(given: str | None) -> dict[str, float] | None:
    """`AAPL=0.5,MSFT=0.5`, or a CSV file with the columns ticker and weight.

    Raises:
        ValueError: it is neither, a weight is no number, or a ticker has two.
    """
    if given is None:
        return None
    pairs = _pairs_of_file(Path(given)) if given.lower().endswith(".csv") else _pairs_of_words(given)
    weights: dict[str, float] = {}
    for ticker, weight in pairs:
        if ticker in weights:
            raise ValueError(f"--weights: {ticker} has two weights: give it one")
        try:
            weights[ticker] = float(weight)
        except ValueError:
            raise ValueError(f"--weights: {weight!r} of {ticker} is no number: give a share, as 0.5") from None
    return weights


def _pairs_of_words(given: str) -> list[tuple[str, str]]:
    parts = [part.strip().rpartition("=") for part in given.split(",") if part.strip()]  # EURUSD=X is a ticker too
    if not parts or any(not ticker or not weight for ticker, _, weight in parts):
        raise ValueError(f'--weights {given}: write them as "AAPL=0.5,MSFT=0.5", or name a CSV file')
    return [(ticker.strip(), weight.strip()) for ticker, _, weight in parts]


def _pairs_of_file(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise ValueError(f"--weights {path}: there is no such file; give one with the columns {', '.join(COLUMNS)}")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors too
        raise ValueError(f"--weights {path} is no CSV file: {printable(str(error))}") from error
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"--weights {path}: no column {missing[0]}; it has {', '.join(map(str, table))}")
    return list(zip(table["ticker"].str.strip(), table["weight"].str.strip(), strict=True))


def print_joint(table: pd.DataFrame, out: Path) -> None:
    """The portfolio at every step, and the tickers likeliest to be the best at the last one."""
    from ..evaluation.portfolio import PORTFOLIO

    console = Console(highlight=False)
    rows: list[dict[str, Any]] = [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in table.to_dict("records")
    ]
    steps = [row for row in rows if row["ticker"] == PORTFOLIO]
    ends = [row for row in rows if row["ticker"] != PORTFOLIO and row["step"] == steps[-1]["step"]]
    told = {"mean": "mean", "q50": "q50", "q95": "q95", "p_loss": "P(loss)"}
    told |= {f"{name}_{level}": f"{called} {level}" for level in (95, 99) for name, called in TAILS.items()}
    columns = {"step": lambda row: str(row["step"])} | {heading: _percent(name) for name, heading in told.items()}
    when = str(steps[0]["origin"]).removesuffix(" 00:00:00")
    title = f"Return of the portfolio of {len(ends)} tickers from {when}, %"
    console.print(Table.of(steps, columns).terminal(title=title))
    told = {
        "weight": "weight",
        "mean": "mean",
        "p_loss": "P(loss)",
        "p_best": "P(best)",
        "p_top_fifth": "P(top fifth)",
    }
    columns = {"ticker": lambda row: printable(row["ticker"])}
    columns |= {heading: _percent(name) for name, heading in told.items()}
    columns |= {"loading": lambda row: number(row["loading"], ".2f")}
    likeliest = sorted(ends, key=lambda row: -row["p_best"])[:SHOWN]
    console.print(Table.of(likeliest, columns).terminal(title=f"Tickers at step {steps[-1]['step']}, %"))
    more = f"; {len(ends) - SHOWN} more tickers there" if len(ends) > SHOWN else ""
    console.print(f"{len(table)} rows of the joint forecast written to {out}{more}", soft_wrap=True)


def _percent(name: str) -> Any:
    return lambda row: number(row[name], ".2f", 100)
