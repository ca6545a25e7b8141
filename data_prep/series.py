"""Files of plain series (sales, temperature, load) to one frame, and the choice between these and price files.

Design choices:
- Two shapes. Long: one row per time and series, with a column of names. Wide: one row per time, several columns of
  numbers, of which one is chosen with `value` and is the name of the series.
- Reading is not cleaning, as in `sources`: nothing is sorted, filled or dropped.
- A file is of prices where it has two of open, high, low and close, and no `value` was named. What else it holds may
  be asked for as covariates, of prices as of other series.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow.parquet

from ..bars_tsf_llm import OHLCV, UNIVARIATE, Kind, named_columns
from .sources import (
    ALIASES,
    PRICES,
    SAMPLE,
    _list_files,
    _load,
    _plain_name,
    _read_csv,
    _read_parquet,
    _ticker_of,
    _to_numbers,
    _to_tickers,
    _to_timestamps,
    read_bars,
)

TIMES = (*ALIASES["timestamp"], "ds")
NAMES = ("seriesid", "uniqueid", "series", "itemid", "id", *ALIASES["ticker"])
VALUES = ("value", "y", "target")


def read_data(
    source: str | Path | list,
    names: Sequence[str] | None = None,
    *,
    kind: Kind | None = None,
    value: str | None = None,
    id: str | None = None,
    time: str | None = None,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Bars (`read_bars`) from files of prices, a plain series (`read_series`) from others or where `value` is given.

    `kind` is the one that a model wants; without it the columns tell. A model's covariates may be missing from bars,
    which then come without them: its processor masks them.

    Raises ValueError for a `value` to choose from bars.
    """
    missing_ok = kind is not None
    if kind is None:
        kind = OHLCV if value is None and has_prices(source) else UNIVARIATE
    if kind is UNIVARIATE:
        return read_series(source, names, value=value, id=id, time=time, covariates=covariates)
    if value is not None:
        raise ValueError(f"this model reads market bars, which have no column '{value}' to choose; leave --value out")
    return read_bars(source, names, covariates=covariates, missing_ok=missing_ok)


def read_series(
    source: str | Path | list,
    names: Sequence[str] | None = None,
    *,
    value: str | None = None,
    id: str | None = None,
    time: str | None = None,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Read `timestamp, series_id, value` and the columns named as `covariates` from CSV or parquet.

    `value`, `id` and `time` name columns of the file. By default the time is in `timestamp`, `date`, `datetime`,
    `time` or `ds`; the name is in `series_id`, `unique_id`, `item_id`, `id`, `ticker` or the like; the value is in
    `value`, `y`, `target` or the only column of numbers left. Without a column of names, a series is called as its
    `value` column or its file. `names` selects series. Covariates may be patterns, as `text_*`.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    files = _list_files(source)
    stems = Counter(file.name for file in files)
    parts = []
    for file in files:
        raw = _read_parquet(file) if file.suffix.lower() == ".parquet" else _read_csv(file)
        if raw.empty:
            raise ValueError(f"{file} has no rows; download or export it again.")
        parts.append(_series(raw, file, value, id, time, covariates))
        if "series_id" not in parts[-1]:
            name = _ticker_of(file, shared_name=stems[file.name] > 1)
            parts[-1].insert(1, "series_id", str(value) if value is not None and len(files) == 1 else name)
    frame = pd.concat(parts, ignore_index=True)
    if names is not None:
        frame = _select(frame, [names] if isinstance(names, str) else list(names))
    order = pd.Series(pd.factorize(frame["series_id"])[0]).argsort(kind="stable")
    return frame.iloc[order.to_numpy()].reset_index(drop=True)


def _series(
    raw: pd.DataFrame, path: Path, value: str | None, id: str | None, time: str | None, covariates: Sequence[str]
) -> pd.DataFrame:
    stamp = _column(raw, path, time, TIMES)
    if stamp is None:
        raise ValueError(f"{path} has no column of times; found: {_listed(raw)}. Name it with --time.")
    name = _column(raw, path, id, NAMES)
    chosen = _column(raw, path, value, VALUES)
    if chosen is None:
        used = {stamp, name, *named_columns(covariates, raw.columns, {stamp, name})}
        numeric = [column for column in raw.columns if column not in used and _is_numeric(raw[column])]
        if len(numeric) != 1:
            found = f"columns of numbers: {', '.join(map(str, numeric))}" if numeric else "no column of numbers"
            raise ValueError(f"{path} has {found}; choose what to forecast with --value.")
        [chosen] = numeric
    covariates = named_columns(covariates, raw.columns, {stamp, name, chosen})
    for column in covariates:
        _column(raw, path, column, ())
    frame = pd.DataFrame({"timestamp": _to_timestamps(raw[stamp], path)})
    if name is not None:
        frame["series_id"] = _to_tickers(raw[name], path)
    frame["value"] = _to_numbers(raw[chosen], path)
    return frame.assign(**{column: _to_numbers(raw[column], path) for column in covariates})


def _column(raw: pd.DataFrame, path: Path, named: str | None, usual: Sequence[str]) -> str | None:
    """The named column, or the first that has a usual name, or None."""
    if named is not None:
        if named not in raw.columns:
            raise ValueError(f"{path} has no column '{named}'; found: {_listed(raw)}.")
        return named
    found = {_plain_name(column): column for column in reversed(raw.columns)}
    return next((found[name] for name in usual if name in found), None)


def _is_numeric(column: pd.Series) -> bool:
    first = column[column.notna() & (column.astype(str).str.strip() != "")].head(20)
    return len(first) > 0 and bool(pd.to_numeric(first, errors="coerce").notna().all())


def _listed(raw: pd.DataFrame) -> str:
    return ", ".join(map(str, raw.columns))


def has_prices(source: str | Path | list) -> bool:
    """Whether the first file holds bars: two of the four prices at least, as `c` or `close` alone can be any series.

    A file that cannot be read counts as bars: their reader says why."""
    if source == SAMPLE:
        return True
    first = _list_files(source)[0]
    try:
        is_parquet = first.suffix.lower() == ".parquet"
        columns = pyarrow.parquet.read_schema(first).names if is_parquet else list(_load(first).columns)
    except (OSError, ValueError):
        return True
    names = {_plain_name(column) for column in columns}
    return sum(bool(names & set(ALIASES[price])) for price in PRICES) >= 2


def _select(frame: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    known = list(frame["series_id"].unique())
    unknown = [name for name in names if name not in known]
    if unknown:
        listed = ", ".join(known[:20]) + (f" and {len(known) - 20} more" if len(known) > 20 else "")
        raise ValueError(f"Unknown series {', '.join(unknown)}; the data holds {listed}.")
    return frame[frame["series_id"].isin(names)]
