"""Price files to one frame of bars.

Design choices:
- One function, `read_bars`, and one shape of result: `timestamp, ticker, open, high, low, close, volume`, and behind
  them the further columns that are asked for.
- Reading is not cleaning: nothing is sorted, filled, dropped or repaired, so that a defect stays visible to the
  cleaning report and to the processor, which names the row. Files with cells that are refused here are read by
  `raw.read_raw` and cleaned by `clean.clean_bars`.
- CSV (plain or gzip), parquet, and datasets of the Hub or of `save_to_disk`. A pickle can run code when it is
  opened, so it is refused; so is a dataset that comes with a script.
- CSV cells are read as text and converted here: a bad cell is reported with its row, tickers such as `NA` or
  `000001` stay as written.
- A row number in a message counts data rows from 1; the header is not counted.
"""

import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.tseries.api import guess_datetime_format

from ..bars_tsf_llm import named_columns, read_numbers

SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "us_daily_2000_2013_publicdomain.csv.gz"

PRICES = ["open", "high", "low", "close"]
COLUMNS = ["timestamp", "ticker", *PRICES, "volume"]
EXTENSIONS = (".csv", ".csv.gz", ".parquet")
HUB = "hf:"

# Names in use elsewhere, as `_plain_name` writes them, best first. docs/data.md says whose they are.
ALIASES = {
    "timestamp": ("timestamp", "datetime", "date", "time", "tradedate", "opentime", "windowstart", "t"),
    "ticker": ("ticker", "symbol", "tic", "T"),
    "open": ("open", "openprice", "o"),
    "high": ("high", "highprice", "h"),
    "low": ("low", "lowprice", "l"),
    "close": ("close", "closeprice", "c"),
    "adj_close": ("adjclose", "adjustedclose", "adjustedcloseprice", "closeadj"),
    "volume": ("volume", "vol", "v"),
}
# Binance's archive has no header in most of its files.
BINANCE_COLUMNS = [
    *("open_time", "open", "high", "low", "close", "volume", "close_time", "quote_volume", "count"),
    *("taker_buy_volume", "taker_buy_quote_volume", "ignore"),
]
# Digits of a time since 1970 -> its unit. Ten digits could be seconds or 2024013115: not read.
EPOCHS = {13: "ms", 16: "us", 19: "ns"}
NO_TIMES = {"", "now", "today", "nat", "nan", "na", "none", "null"}  # which tell nothing of a column's format
MISSING_NUMBERS = {"", "-", "na", "n/a", "nan", "none", "null", "#n/a", "<na>"}


def read_bars(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    *,
    covariates: Sequence[str] = (),
    missing_ok: bool = False,
) -> pd.DataFrame:
    """Read bars with split- and dividend-adjusted prices.

    `source` is `"sample"` (the embedded daily prices), a `.csv`, `.csv.gz` or `.parquet` file, a folder that is
    searched for such files, a folder of `Dataset.save_to_disk`, `hf:org/name[:split]` (or `hf:` and a folder) for
    `datasets.load_dataset`, or a list of these. Column names are matched whatever their case and punctuation
    (`Adj Close`, `adj_close`, `5. adjusted close`). Without a ticker column the ticker comes from the path:
    `AAPL.csv`, `AAPL_yahoo_20260118.csv`, `AAPL/daily.csv`, `BTCUSDT-1h-2024-01.csv`.

    With an adjusted close, `open, high, low, close` are multiplied by `adj_close / close` and the volume is divided
    by it, so that a split moves neither the returns nor the traded value (price times volume). Back-adjustment looks
    into the future only through one factor common to all bars up to t, which scale-free features cancel; so it leaks
    nothing into them. A ticker without any adjusted close keeps its prices as they are. A ticker with some gets NaN
    where its own is missing: raw prices between adjusted ones would look like jumps.

    `covariates` are further columns of numbers to keep, by their names in the file or by patterns as `text_*`. They
    are taken as they are: nothing is adjusted for a split. A file without one of them is refused or, with
    `missing_ok`, read without it.

    Returns `timestamp` (datetime64 without zone; zoned times are converted to UTC), `ticker` (str),
    `open, high, low, close, volume` (float64; volume is NaN where the file has none) and the covariates (float64).
    Rows keep the order of the file within each ticker, tickers the order of their first row.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    return _read(source, tickers, partial(_read_file, covariates=covariates, missing_ok=missing_ok))


def _read(
    source: str | Path | list, tickers: Sequence[str] | None, read_file: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    files = _list_files(source)
    stems = Counter(file.name for file in files)
    bars = pd.concat([read_file(file, shared_name=stems[file.name] > 1) for file in files], ignore_index=True)
    if tickers is not None:
        bars = _select(bars, [tickers] if isinstance(tickers, str) else list(tickers))
    by_first_row = np.argsort(pd.factorize(bars["ticker"])[0], kind="stable")
    return bars.iloc[by_first_row].reset_index(drop=True)


def _list_files(source: str | Path | list) -> list[Path]:
    """Files, and what `datasets` opens: folders of `save_to_disk` and `hf:` names."""
    if isinstance(source, list | tuple):
        if not source:
            raise ValueError("The list of price files is empty; name at least one file or folder.")
        return [file for part in source for file in _list_files(part)]
    if source == SAMPLE:
        return [SAMPLE_FILE]
    if str(source).startswith(HUB):
        if not _hub_name(Path(source))[0]:
            raise ValueError(f"'{source}' names no dataset; write it as {HUB}org/name or {HUB}org/name:split.")
        return [Path(source)]
    path = Path(source).expanduser()
    if _is_saved_dataset(path):
        return [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and _is_supported(file))
        if not files:
            raise ValueError(f"{path} holds no price files; expected {', '.join(EXTENSIONS)} files in it.")
        return files
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a file, a folder, or '{SAMPLE}' for the embedded data.")
    if path.suffix.lower() in {".pkl", ".pickle"}:
        raise ValueError(f"{path} is a pickle, which can run code when opened; save it as parquet or CSV instead.")
    if not _is_supported(path):
        raise ValueError(f"{path} has an extension that is not read here; convert it to {' or '.join(EXTENSIONS)}.")
    return [path]


def _is_supported(path: Path) -> bool:
    return path.name.lower().endswith(EXTENSIONS) and not path.name.startswith(".")


def _is_saved_dataset(path: Path) -> bool:
    files = {"dataset_info.json", "state.json"}
    return (path / "dataset_dict.json").is_file() or all((path / name).is_file() for name in files)


def _read_file(
    path: Path, *, shared_name: bool, covariates: Sequence[str] = (), missing_ok: bool = False
) -> pd.DataFrame:
    raw = _load(path)
    if raw.empty:
        raise ValueError(f"{path} has no rows; download or export it again.")
    column = _match_columns(raw, path)
    bars = pd.DataFrame({"timestamp": _to_timestamps(raw[column["timestamp"]], path)})
    if "ticker" in column:
        bars["ticker"] = _to_tickers(raw[column["ticker"]], path)
    else:
        bars["ticker"] = _ticker_of(path, shared_name=shared_name)
    for name in [*PRICES, "volume"]:
        bars[name] = _to_numbers(raw[column[name]], path) if name in column else np.nan
    if "adj_close" in column:
        _adjust(bars, _to_numbers(raw[column["adj_close"]], path))
    chosen = _choose_covariates(raw, path, covariates, taken=column.values(), missing_ok=missing_ok)
    return bars[COLUMNS].assign(**{name: _to_numbers(raw[name], path) for name in chosen})


def _choose_covariates(
    raw: pd.DataFrame, path: Path, wanted: Sequence[str], *, taken: Iterable[object], missing_ok: bool = False
) -> list[str]:
    """The columns of a file that these names and patterns ask for; patterns pass over those that are `taken`."""
    chosen = named_columns(wanted, raw.columns, taken)
    if own := [name for name in chosen if name in COLUMNS]:
        raise ValueError(f"{own} cannot be covariates: bars have a column of this name; rename it in {path}.")
    missing = [name for name in chosen if name not in raw.columns]
    if missing and not missing_ok:
        raise ValueError(
            f"{path} has no column {', '.join(map(repr, missing))}; found: {', '.join(map(str, raw.columns))}."
        )
    return [name for name in chosen if name in raw.columns]


def _load(path: Path) -> pd.DataFrame:
    if str(path).startswith(HUB) or path.is_dir():
        return _join_time_of_day(_open_dataset(path).to_pandas())
    return _join_time_of_day(_read_parquet(path) if path.suffix.lower() == ".parquet" else _read_csv(path))


def _join_time_of_day(raw: pd.DataFrame) -> pd.DataFrame:
    """A date and the time of day beside it become one column, as Stooq's 20240131 and 153000, or 15:30."""
    found = {_plain_name(name): name for name in reversed(raw.columns)}
    if not {"date", "time"} <= found.keys() or {"timestamp", "datetime"} & found.keys():
        return raw
    days, clock = raw[found["date"]].astype(str), raw[found["time"]].astype(str)
    clock = clock.str.replace(r"^(\d\d)(\d\d)(\d\d)$", r"\1:\2:\3", regex=True)
    return raw.assign(**{found["date"]: days.str.cat(clock, sep=" ")})


def _open_dataset(path: Path) -> Any:
    """A `datasets.Dataset`."""
    import datasets  # half a second, and most sources are files

    is_hub, (name, split) = str(path).startswith(HUB), _hub_name(path)
    try:
        data = datasets.load_dataset(name, split=split or None) if is_hub else datasets.load_from_disk(path)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        remedy = "check its name, split, access and the connection" if is_hub else "write it again with save_to_disk"
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); {remedy}.") from error
    if isinstance(data, dict):
        if len(data) > 1:
            choices = ", ".join(f"{path}:{part}" if is_hub else str(path / part) for part in data)
            raise ValueError(f"{path} has several splits; name one: {choices}.")
        data = next(iter(data.values()))
    return data.with_format(None)


def _hub_name(path: Path) -> tuple[str, str]:
    """`hf:org/name:split` -> `org/name`, `split`; the split may be empty, or `train[:10%]`."""
    name, _, split = str(path).removeprefix(HUB).partition(":")
    return name, split


def _read_csv(path: Path) -> pd.DataFrame:
    with _csv_errors(path):
        return pd.read_csv(path, **_csv_options(path))


def _csv_options(path: Path) -> dict[str, Any]:
    """All cells as text; with Binance's names where the first line is one of its rows."""
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "index_col": False, "encoding": "utf-8-sig"}
    first = [str(name) for name in pd.read_csv(path, nrows=0, **options).columns]
    if len(first) == len(BINANCE_COLUMNS) and re.fullmatch(r"\d{13}(\d{3})?", first[0]):
        options |= {"header": None, "names": BINANCE_COLUMNS}
    return options


@contextmanager
def _csv_errors(path: Path) -> Iterator[None]:
    """What pandas says of a CSV as one line; a row longer than the header is an error too.

    pandas would cut it, or take the first column for an index.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.EmptyDataError as error:
        raise ValueError(f"{path} is empty; download or export it again.") from error
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeError) as error:
        raise ValueError(
            f"{path} is not a comma-separated UTF-8 file ({_first_line(error)}); export it again."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download or export it again.") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    with _parquet_errors(path):
        return _without_index(pd.read_parquet(path))


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download or export it again.") from error


def _without_index(frame: pd.DataFrame) -> pd.DataFrame:
    if isinstance(frame.index, pd.DatetimeIndex):
        frame.index.name = frame.index.name or "timestamp"
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _plain_name(name: object) -> str:
    """Lower case, letters and digits only, no leading number; `T` stays, Polygon's ticker beside its time `t`.

    >>> _plain_name("Adj Close"), _plain_name("5. adjusted close"), _plain_name("adj_close"), _plain_name("<DATE>")
    ('adjclose', 'adjustedclose', 'adjclose', 'date')
    """
    if name == "T":
        return "T"
    return re.sub(r"[\W_]+", "", str(name).lower()).lstrip("0123456789")


def _match_columns(
    raw: pd.DataFrame, path: str | Path, known: dict[str, tuple[str, ...]] = ALIASES
) -> dict[str, object]:
    found = {_plain_name(name): name for name in reversed(raw.columns)}
    column = {}
    for ours, aliases in known.items():
        names = [found[alias] for alias in aliases if alias in found]
        if names:
            column[ours] = names[0]
    missing = [name for name in ["timestamp", *PRICES] if name not in column]
    if missing:
        raise ValueError(
            f"{path} has no column for {', '.join(missing)}; found: {', '.join(map(str, raw.columns))}. "
            "Rename its columns to timestamp, [ticker,] open, high, low, close, [adj_close, volume]."
        )
    return column


def _to_timestamps(column: pd.Series, path: Path) -> pd.Series:
    times, bad = _parse_timestamps(column)
    if bad.size:
        raise ValueError(
            f"{path}, row {bad[0] + 1}: column '{column.name}' holds '{column.iloc[bad[0]]}', which is not a date; "
            "write every date in one format, such as 2024-01-31 or 2024-01-31 15:30."
        )
    return times


def _time_format(column: pd.Series) -> str:
    """How a column, or the first of its rows, writes times: `typed`, `epoch`, `ISO8601`, `mixed` or a format.

    ISO unless its first cell is not; then the format that pandas guesses from the first time, if it reads as many.
    """
    if pd.api.types.is_datetime64_any_dtype(column):
        return "typed"
    text = column.astype(str)
    if text.str.len().where(text.str.isdecimal(), 0).isin(EPOCHS).any():
        return "epoch"

    def read(values: pd.Series, format: str) -> int:
        return int(pd.to_datetime(values, errors="coerce", utc=True, format=format).notna().sum())

    if not len(text) or read(text.iloc[:1], "ISO8601"):
        return "ISO8601"
    first = next((str(one) for one in text if str(one).lower() not in NO_TIMES), "")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no format fits the first row: then its row is reported
        guess = guess_datetime_format(first) or "mixed"
        return guess if read(text, guess) >= read(text, "ISO8601") else "ISO8601"


def _parse_timestamps(column: pd.Series, format: str | None = None) -> tuple[pd.Series, np.ndarray]:
    """Times without zone, NaT for what is no date, and the positions of these. The format is the column's own."""
    format = format or _time_format(column)
    if format == "typed":
        times = pd.to_datetime(column, utc=True)
    elif format == "epoch":  # a bare number would be read as nanoseconds
        times = _from_epoch(column.astype(str)).dt.tz_localize("UTC")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            times = pd.to_datetime(column.astype(str), errors="coerce", utc=True, format=format)
    return times.dt.tz_localize(None).astype("datetime64[us]"), np.flatnonzero(times.isna())


def _from_epoch(column: pd.Series) -> pd.Series:
    """Times since 1970, told by their number of digits; NaT for other cells."""
    digits = column.str.len().where(column.str.isdecimal(), 0)
    times = pd.Series(pd.NaT, index=column.index, name=column.name, dtype="datetime64[us]")
    for length, unit in EPOCHS.items():
        times[digits == length] = pd.to_datetime(column[digits == length].astype("int64"), unit=unit)
    return times


def _to_tickers(column: pd.Series, path: Path) -> pd.Series:
    tickers = _stripped(column)
    bad = np.flatnonzero(tickers == "")
    if bad.size:
        raise ValueError(f"{path}, row {bad[0] + 1}: column '{column.name}' is empty; give every row its ticker.")
    return tickers


def _ticker_of(path: Path, *, shared_name: bool) -> str:
    """The ticker in a path.

    `AAPL.csv`, `AAPL_yahoo_20260118.csv`, `AAPL/AAPL-daily.csv`, `AAPL/daily.csv` beside `MSFT/daily.csv`, and
    `BTCUSDT-1h-2024-01.csv` or `-2024-01-31.csv`, of which there are many per ticker.
    """
    path = Path(_hub_name(path)[0]) if str(path).startswith(HUB) else path
    stem, parent = path.name.split(".csv")[0].removesuffix(".parquet"), path.resolve().parent.name
    if shared_name or re.match(rf"{re.escape(parent)}([_-]|$)", stem):
        return parent
    return re.sub(r"(_[A-Za-z]+_\d{8}|-\d+[a-z]+-\d{4}(-\d\d){1,2})$", "", stem)


def _stripped(column: pd.Series) -> pd.Series:
    return column.astype(object).where(column.notna(), "").astype(str).str.strip()


def _to_numbers(column: pd.Series, path: Path) -> pd.Series:
    numbers, bad, text = _parse_numbers(column)
    if bad.size:
        raise ValueError(
            f"{path}, row {bad[0] + 1}: column '{column.name}' holds '{text.iloc[bad[0]]}', which is not a number; "
            "write plain numbers without currency signs or thousands separators, and leave missing cells empty."
        )
    return numbers


def _parse_numbers(column: pd.Series) -> tuple[pd.Series, np.ndarray, pd.Series]:
    """float64, NaN where missing or no number; the positions of the latter; the column as text."""
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        return column.astype("float64"), np.array([], dtype=int), column
    text = _stripped(column)
    numbers = read_numbers(text)
    return numbers, np.flatnonzero(numbers.isna() & ~text.str.lower().isin(MISSING_NUMBERS)), text


def _adjust(bars: pd.DataFrame, adj_close: pd.Series) -> None:
    """Multiply prices by `adj_close / close` and divide the volume by it, in place; see `read_bars`.

    All four prices get the same factor, the close too: rounding then cannot lift the close above the high. A close
    that is not positive has no such factor; its row stays as it is for the processor to report.
    """
    adj_close = adj_close.where(np.isfinite(adj_close))
    is_adjusted = adj_close.notna().groupby(bars["ticker"]).transform("any")
    ratio = (adj_close / bars["close"]).where(is_adjusted & ~(bars["close"] <= 0), 1.0)
    bars[PRICES] = bars[PRICES].mul(ratio, axis=0)
    bars["volume"] = bars["volume"] / ratio


def _select(bars: pd.DataFrame, tickers: list[str]) -> pd.DataFrame:
    known = list(bars["ticker"].unique())
    unknown = [ticker for ticker in tickers if ticker not in known]
    if unknown:
        raise ValueError(f"Unknown ticker {', '.join(unknown)}; the data holds {', '.join(known)}.")
    return bars[bars["ticker"].isin(tickers)]
