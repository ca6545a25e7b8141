"""The M6 forecasting competition again, with prices that you bring: how well simple forecasts of 100 assets rank their
returns over its twelve windows of four weeks.

examples:
    python -m tsf_llm.benchmarks.m6 --prices m6_assets.csv --json m6.json
    python -m tsf_llm.benchmarks.m6 --prices m6_assets.csv --quick

The file has the columns symbol, date and price (adjusted), one line per asset and day. The organisers' own, from
github.com/Mcompetitions/M6-methods, has no licence, so it is not part of this package.

Design choices:
* Windows end on 2022-04-01 and then every 28 days, and start 28 days before. Returns are simple ones, from the price
  at the start to that at the end. A missing price is the last one before it.
* RPS is that of return quintiles (`evaluation/ranking.py`), its overall figure the mean of the windows. A fifth
  everywhere gives 0.16.
* The information ratio is the sum of the daily log returns of a portfolio over their standard deviation; overall, of
  all days together. Only equal weights have one: the other rows expect every asset to return nothing.
* A forecast knows the prices up to the start of its window. In the first window that is 24 days of the public file.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.tables import Table, number
from ..dependence_tsf_llm import one_factor as loadings
from ..evaluation.ranking import FEWEST_RANKED, QUINTILES, quintiles, ranked_probability_score
from .results import Output, circumstances

BOUNDARIES = pd.date_range("2022-03-04", periods=13, freq="28D")
COLUMNS = ["symbol", "date", "price"]
DAYS = 60  # of history, for volatilities and correlations; as many as there are at first
FEWEST_DAYS = 20
NOTE = (
    f"All {len(BOUNDARIES) - 1} windows ({BOUNDARIES[0].date()} to {BOUNDARIES[-1].date()}) lie in the past of whoever"
    " runs this: these are figures in hindsight, and no entry to the competition."
)


@dataclass
class Arguments(Output):
    """Which prices."""

    prices: Path | None = field(
        default=None, metadata={"metavar": "FILE", "help": "CSV file with the columns symbol, date and price (needed)"}
    )
    draws: int | None = field(
        default=None, metadata={"help": "of all assets together (default 10000; 500 with --quick)"}
    )
    seed: int = field(default=0, metadata={"help": "of the draws"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.prices is None or not self.prices.is_file():
            told = "is needed" if self.prices is None else f"{self.prices}: there is no such file"
            raise ValueError(f"--prices {told}: give a CSV file with the columns {', '.join(COLUMNS)}")
        if self.draws is not None and self.draws < 2:
            raise ValueError(f"--draws {self.draws}: give at least 2")


def read_prices(path: Path) -> pd.DataFrame:
    """Prices `[dates, assets]`, a missing one being the last before it.

    Raises:
        ValueError: what is not such a file, or does not hold the windows.
    """
    table = pd.read_csv(path)
    if missing := [name for name in COLUMNS if name not in table]:
        raise ValueError(f"{path}: no column {missing[0]}; it has {', '.join(map(str, table))}")
    table = table.assign(date=pd.to_datetime(table["date"], errors="coerce"))
    table["price"] = pd.to_numeric(table["price"], errors="coerce")
    bad = table["date"].isna() | ~(table["price"] > 0) | np.isinf(table["price"])
    if bad.any():
        raise ValueError(f"{path}: line {bad.idxmax() + 2} has no date or no positive price; correct or remove it")
    if (again := table.duplicated(["symbol", "date"])).any():
        raise ValueError(f"{path}: line {again.idxmax() + 2} is the second of its asset and day; remove one")
    prices = table.pivot(index="date", columns="symbol", values="price").ffill()
    if len(absent := BOUNDARIES.difference(prices.index)):
        raise ValueError(f"{path}: no prices of {absent[0].date()}, where a window of the competition starts or ends")
    if prices.shape[1] < FEWEST_RANKED:
        raise ValueError(f"{path}: {prices.shape[1]} asset(s); give {FEWEST_RANKED} or more")
    first = prices.index.get_loc(BOUNDARIES[0]) - FEWEST_DAYS
    late = prices.columns if first < 0 else prices.columns[prices.iloc[first].isna()]
    if len(late):
        raise ValueError(
            f"{path}: {late[0]} has fewer than {FEWEST_DAYS} days of prices before {BOUNDARIES[0].date()}; "
            "give more, or leave it out"
        )
    return prices


def independent(returns: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Gaussians of mean zero with the volatility of returns [T,A], `[A,K]`."""
    return returns.std(axis=0)[:, None] * generator.standard_normal((returns.shape[1], draws))


def one_factor(returns: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """The same, all moved by one factor with the loadings of joint paths, `[A,K]`."""
    loading = loadings(returns.T)[:, None]
    common, own = generator.standard_normal((1, draws)), generator.standard_normal((len(loading), draws))
    return returns.std(axis=0)[:, None] * (loading * common + np.sqrt(1 - loading**2) * own)


UNIFORM = "uniform, equal weights"
FORECASTS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "independent Gaussians": independent,
    "one-factor Gaussians": one_factor,
}


def log_returns(weights: np.ndarray, prices: pd.DataFrame) -> np.ndarray:
    """Of each day of a portfolio that holds the same weights [A] every day."""
    return np.log1p(prices.pct_change().iloc[1:].to_numpy() @ weights)


def information_ratio(daily: np.ndarray) -> float | None:
    """Sum over standard deviation of daily log returns; None if they are all the same."""
    return float(daily.sum() / daily.std(ddof=1)) if np.ptp(daily) > 0 else None


def run(prices: pd.DataFrame, draws: int, seed: int) -> dict[str, Any]:
    """Scores of every row in every window."""
    num_assets = prices.shape[1]
    equal, fifth = np.full(num_assets, 1 / num_assets), np.full((num_assets, QUINTILES), 1 / QUINTILES)
    scores: dict[str, list[float]] = {name: [] for name in (UNIFORM, *FORECASTS)}
    windows, daily = [], []
    pairs = list(pairwise(BOUNDARIES))
    for start, end in track(pairs, "windows", console=Console(stderr=True)):
        known = np.log(prices[:start]).diff().tail(DAYS).dropna().to_numpy()
        outcome = quintiles((prices.loc[[end]].to_numpy() / prices.loc[[start]].to_numpy()).T)
        scores[UNIFORM].append(float(ranked_probability_score(fifth, outcome).mean()))
        for name, forecast in FORECASTS.items():
            probability = quintiles(forecast(known, draws, np.random.default_rng(seed)))
            scores[name].append(float(ranked_probability_score(probability, outcome).mean()))
        daily.append(log_returns(equal, prices[start:end]))
        windows.append({"start": str(start.date()), "end": str(end.date()), "days": len(daily[-1])})
    ratios = {UNIFORM: (information_ratio(np.concatenate(daily)), [information_ratio(one) for one in daily])}
    return {
        "note": NOTE,
        "rows": [_row(name, *one, *ratios.get(name, (None, None)), scores[UNIFORM]) for name, *one in scores.items()],
        "windows": windows,
        "assets": num_assets,
        "draws": draws,
        "seed": seed,
        **circumstances("numpy", "pandas", "scipy"),
    }


def _row(
    name: str, rps: list[float], ratio: float | None, ratios: list[float | None] | None, uniform: list[float]
) -> dict[str, Any]:
    better = sum(ours < theirs for ours, theirs in zip(rps, uniform, strict=True))
    row = {"model": name, "rps": float(np.mean(rps)), "rps_by_window": rps, "better_than_uniform": better}
    return row | {"ir": ratio, "ir_by_window": ratios}


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    windows = len(results["windows"])
    table = Table.of(
        results["rows"],
        {
            "forecast": lambda row: row["model"],
            "RPS": lambda row: number(row["rps"], ".5f"),
            "better than uniform": lambda row: f"{row['better_than_uniform']} of {windows}",
            "IR": lambda row: number(row["ir"], ".2f"),
        },
    )
    console.print(table.terminal(title=f"M6: {results['assets']} assets, {windows} windows of four weeks"))
    console.print(results["note"], soft_wrap=True)


@one_line_errors("m6")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="m6", description=__doc__).parse_args_and_config(arguments)
    results = run(read_prices(parsed.prices), parsed.draws or (500 if parsed.quick else 10_000), parsed.seed)
    show(results, Console())
    if parsed.json is not None:
        write_json(results, parsed.json)
    return 0


if __name__ == "__main__":
    main()
