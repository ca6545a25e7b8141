"""The options that commands share, and what is read from their words."""

from importlib.util import find_spec
from typing import Annotated, Any

import typer

DATA_HELP = "Price file (csv, csv.gz, parquet), folder of them, hf:org/name, or 'sample' for the embedded prices."
Data = Annotated[str, typer.Option(help=DATA_HELP)]
SHIPPED = "shipped"  # as training/models.py has it, which takes long to import
Model = Annotated[
    str, typer.Option(help="Folder of a model or adapter, a Hub name, or shipped or mini, which lie beside the code.")
]
Horizon = Annotated[int, typer.Option(min=1, help="Bars ahead.")]
Samples = Annotated[int, typer.Option(min=2, help="Sampled paths per forecast.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampled paths.")]
Ticker = Annotated[str | None, typer.Option(help="Only this ticker, or several with commas between.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data of which one ticker cannot be used; by default it is skipped.")
]
Market = Annotated[
    str | None,
    typer.Option(help="Price files that features read: a universe, an index, VIX; commas between, or 'sample'."),
]
Calendar = Annotated[
    str | None,
    typer.Option(help="Exchange whose sessions date the steps, as XNYS, XBOM or 24/7; by default the model's own."),
]
Calibrated = Annotated[
    str,
    typer.Option(
        "--calibration", metavar="auto|on|off", help="Use what `calibrate` kept, insist on it, or leave it out."
    ),
]
Value = Annotated[
    str | None,
    typer.Option(
        help="Plain series: column to forecast, by default value, y or the only one of numbers; '*' for all."
    ),
]
Id = Annotated[
    str | None,
    typer.Option("--id", help="Column that names the tickers or series, if its name is unusual; of series several."),
]
Time = Annotated[str | None, typer.Option(help="Column of times, if its name is unusual.")]
Dates = Annotated[
    str | None, typer.Option(metavar="dmy|mdy|ymd", help="Order of numeric dates, where they do not tell themselves.")
]
Decimal = Annotated[
    str | None, typer.Option(metavar="point|comma", help="Decimal mark, where the numbers do not tell themselves.")
]
Resample = Annotated[
    str | None,
    typer.Option(
        metavar="[STEP:]RULE",
        help="Plain series: make even rows by sum, mean, last or nearest, of the usual step or as 1h:mean, month:sum.",
    ),
]
PastCovariates = Annotated[
    str | None,
    typer.Option(help="Further columns, each known up to its row: names or patterns as text_*; commas between."),
]
KnownCovariates = Annotated[
    str | None, typer.Option(help="Further columns that are known in advance: names or patterns; commas between.")
]
Static = Annotated[
    str | None,
    typer.Option("--static", help="Plain series: table of static covariates, one row per series, joined by its name."),
]
Source = Annotated[
    str | None, typer.Option(metavar="yahoo", help="Where symbols are looked up; by default they are not.")
]


def names(ticker: str | None) -> list[str] | None:
    return None if ticker is None else [name.strip() for name in ticker.split(",") if name.strip()]


def market_bars(market: str | None, dates: str | None, decimal: str | None) -> Any:
    """Its bars, if there is one."""
    from ..data_prep.sources import read_market

    return None if market is None else read_market(names(market) or [], dates=dates, decimal=decimal)


def check_extra(extra: str, *packages: str) -> None:
    """Raises ValueError where a package of an extra is not installed."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ValueError(f'{", ".join(missing)} is not installed: pip install "tsf-llm[{extra}]"')


def looked_up(source: str | None) -> Any:
    """What looks up symbols, a `serving.symbols.Symbols`, if anything does.

    Raises:
        ValueError: a source that there is not.
    """
    from .symbols import Symbols

    if source not in (None, "yahoo"):
        raise ValueError(f"--source {source}: choose yahoo, or leave it out")
    return Symbols() if source else None
