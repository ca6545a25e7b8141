"""Price files, and files of plain series, to one frame.

Design choices:
- One reader. `tables` opens files, `columns` finds which column is which, and times and numbers are read by the rules
  that a frame in memory meets in the processor (`read_times`, `read_numbers`). Only what happens to a cell that cannot
  be read differs: `read_bars` and `read_series` refuse it with its row, `read_raw` leaves it empty and notes what it
  held. One bad ticker, or one file of several, does not stop the others: it is skipped, with file, row and reason.
- Reading is not cleaning: nothing is sorted, filled, dropped or repaired, so that a defect stays visible to the
  cleaning report (`clean.clean_bars` on `read_raw`) and to the processor, which names the row.
- Plain series come in two shapes. Long: one row per time and series, with a column of names. Wide: one row per time,
  several columns of numbers, of which one is chosen and is the name of the series.
- A file is of prices where it has two of open, high, low and close, and no value was named.
- A row number in a message counts data rows from 1; the header is not counted.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import (
    OHLCV,
    PRICES,
    UNIVARIATE,
    Kind,
    TimeFormat,
    read_numbers,
    read_times,
    refuse_if_none_left,
    stripped,
    tell_skipped,
)
from .columns import (
    ALIASES,
    COLUMNS,
    RAW_ALIASES,
    USUAL,
    Columns,
    choose_covariates,
    find_bars,
    find_columns,
    find_series,
    join_time_of_day,
)
from .tables import ROWS, iter_tables, list_files, named_files, open_table

NAMES = ("ticker", "series_id", "source")  # columns of text
RAW_NUMBERS = [*PRICES, "volume", "adj_close", "split_coefficient"]
RAW_COLUMNS = ["timestamp", "ticker", *RAW_NUMBERS, "source", "file", "row", "note"]  # all else are covariates
OURS = ["row", "note", "file"]  # of a file's own columns of these names nothing is known
LARGEST_NOTE = 80  # characters kept of what a bad cell held
LISTED = 20  # names in a message
REMEDIES = {
    "timestamp": "is not a date; write every date in one format, such as 2024-01-31 or 2024-01-31 15:30.",
    "number": "is not a number; write plain numbers without currency signs or thousands separators, and leave missing "
    "cells empty.",
}
Told = Callable[[str, pd.Series, np.ndarray], None]  # our name of a column, its cells, and where they cannot be read


# --- strictly ------------------------------------------------------------------------------------------------------


def read_bars(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    *,
    covariates: Sequence[str] = (),
    missing_ok: bool = False,
    strict: bool = False,
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

    Returns `timestamp` (datetime64 without zone; zoned times are converted to UTC, unless all are midnights of their
    zone: these are dates), `ticker` (str), `open, high, low, close, volume` (float64; volume is NaN where the file has
    none) and the covariates (float64). Rows keep the order of the file within each ticker, tickers the order of their
    first row.

    Of several tickers or files, one that cannot be read is skipped: a warning says why, and so does `skipped` in the
    frame's `attrs`. With `strict` it is refused.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    refusals = Refusals(strict=strict)
    frames = []
    for path, name in (files := named_files(source)):
        with refusals.of_file(name, alone=len(files) == 1):
            table = join_time_of_day(open_table(path))
            column = find_bars(table, path)
            chosen = choose_covariates(
                table, path, covariates, taken=column.values(), ours=COLUMNS, missing_ok=missing_ok
            )
            told = refusals.by_ticker(path, table, column.get(OHLCV.id))
            bars = _read_columns(table, column, chosen, path, told)
            bars = _completed(bars, ["volume", "adj_close"], name)
            adjust(bars)
            frames.append(bars[[*COLUMNS, *chosen]])
    return _readable(frames, OHLCV.id, tickers, refusals.skipped)


def read_series(
    source: str | Path | list,
    names: Sequence[str] | None = None,
    *,
    value: str | None = None,
    id: str | None = None,
    time: str | None = None,
    covariates: Sequence[str] = (),
    strict: bool = False,
) -> pd.DataFrame:
    """Read `timestamp, series_id, value` and the columns named as `covariates`.

    `value`, `id` and `time` name columns of the file. By default the time is in `timestamp`, `date`, `datetime`,
    `time` or `ds`; the name is in `series_id`, `unique_id`, `item_id`, `id`, `ticker` or the like; the value is in
    `value`, `y`, `target` or the only column of numbers left. Without a column of names, a series is called as its
    `value` column or its file. `names` selects series. Covariates may be patterns, as `text_*`. What cannot be read is
    skipped as by `read_bars`.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    frames, files, refusals = [], named_files(source), Refusals(strict=strict)
    for path, name in files:
        with refusals.of_file(name, alone=len(files) == 1):
            table = open_table(path)
            column = find_series(table, path, Columns(value=value, id=id, time=time), covariates)
            ours = ["timestamp", UNIVARIATE.id, UNIVARIATE.value]
            chosen = choose_covariates(table, path, covariates, taken=column.values(), ours=ours)
            told = refusals.by_ticker(path, table, column.get(UNIVARIATE.id))
            frame = _read_columns(table, column, chosen, path, told)
            if UNIVARIATE.id not in frame:
                frame[UNIVARIATE.id] = str(value) if value is not None and len(files) == 1 else name
            frames.append(frame[[*ours, *chosen]])
    return _readable(frames, UNIVARIATE.id, names, refusals.skipped)


def read_data(
    source: str | Path | list,
    names: Sequence[str] | None = None,
    *,
    kind: Kind | None = None,
    columns: Columns = USUAL,
    covariates: Sequence[str] = (),
    strict: bool = False,
) -> pd.DataFrame:
    """Bars (`read_bars`) from files of prices, a plain series (`read_series`) from others or where a value is named.

    `kind` is the one that a model wants; without it the columns tell. A model's covariates may be missing from bars,
    which then come without them: its processor masks them.

    Raises ValueError for a value to choose from bars.
    """
    missing_ok = kind is not None
    if kind is None:
        kind = OHLCV if columns.value is None and has_prices(source) else UNIVARIATE
    if kind is UNIVARIATE:
        return read_series(source, names, covariates=covariates, strict=strict, **asdict(columns))
    if columns.value is not None:
        raise ValueError(
            f"this model reads market bars, which have no column '{columns.value}' to choose; leave --value out"
        )
    return read_bars(source, names, covariates=covariates, missing_ok=missing_ok, strict=strict)


def has_prices(source: str | Path | list) -> bool:
    """Whether one of the first files holds bars: two of the four prices at least, as `c` or `close` alone can be any
    series.

    Files that cannot be read count as bars: their reader says why."""
    told = [_has_prices(file) for file in list_files(source)[:LISTED]]
    return True in told or set(told) == {None}


def _has_prices(file: Path) -> bool | None:
    try:
        table = next(iter_tables(file, rows=1), pd.DataFrame())
    except (OSError, ValueError):
        return None
    return len(find_columns(table, {name: ALIASES[name] for name in PRICES})) >= 2


@dataclass
class Refusals:
    """What strict reading refuses, by ticker, or by file where this is all of it."""

    strict: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of_file(self, name: str, *, alone: bool) -> Iterator[None]:
        """Within, an error is of this file, one of several."""
        try:
            yield
        except ValueError as error:
            if self.strict or alone:
                raise
            self.skipped.setdefault(name, str(error))

    def by_ticker(self, path: Path, table: pd.DataFrame, id: str | None) -> Told:
        """Refuses cells: of one ticker alone, where a column names them."""
        if self.strict or id is None:
            return partial(_refuse, path)

        def told(name: str, cells: pd.Series, bad: np.ndarray) -> None:
            if name in NAMES:  # nobody knows whose row it is
                _refuse(path, name, cells, bad)
            names = pd.Series(stripped(table[id]).to_numpy()[bad])
            for place, ticker in names.drop_duplicates().items():
                with self.of_file(str(ticker), alone=False):
                    _refuse(path, name, cells, bad[place:])

        return told


def _readable(
    frames: Sequence[pd.DataFrame], id: str, names: Sequence[str] | None, skipped: dict[str, str]
) -> pd.DataFrame:
    """The rows of the named series but those `skipped`, which a warning names.

    A ticker of which one file cannot be read is skipped as a whole: the rest of it would have a hole."""
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({id: []})
    frame = frame[~frame[id].isin(skipped)]
    wanted = _listed(names)
    if wanted is not None:
        if not {*wanted} - {*frame[id]} - {*skipped}:
            skipped = {name: reason for name, reason in skipped.items() if name in wanted}
        wanted = [name for name in wanted if name not in skipped]
    refuse_if_none_left(frame if wanted is None else wanted, skipped)
    tell_skipped([*skipped.values()])
    frame = _chosen(frame, id, wanted)
    frame.attrs["skipped"] = skipped
    return frame


# --- leniently -----------------------------------------------------------------------------------------------------


def read_raw(
    source: str | Path | list, tickers: Sequence[str] | None = None, *, covariates: Sequence[str] = ()
) -> pd.DataFrame:
    """What is in the files of `source`, for `clean_bars`: defects and all, nothing adjusted.

    Columns as of `raw_columns`, and `file`; tickers and rows are ordered as by `read_bars`. A line of a CSV with too
    many cells becomes one row without any number, the line in its note.

    Raises FileNotFoundError for a path that does not exist and ValueError for what is no table of prices.
    """
    return _chosen(pd.concat(iter_raw(source, tickers, covariates=covariates), ignore_index=True), OHLCV.id)


def iter_raw(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    rows: int = ROWS,
    *,
    covariates: Sequence[str] = (),
    refusals: "Refusals | None" = None,
) -> Iterator[pd.DataFrame]:
    """The rows of `read_raw` in the order of the files, at most `rows` at a time.

    How a file writes its times is told by its first piece. With `refusals`, one of several files that is no table of
    prices is skipped, as far as it cannot be read."""
    wanted, seen, files = _listed(tickers), dict[str, None](), named_files(source)
    refusals = refusals or Refusals(strict=True)
    for path, name in files:
        with refusals.of_file(name, alone=len(files) == 1):
            for raw in _raw_pieces(path, name, rows, covariates):
                seen |= dict.fromkeys(raw["ticker"].unique())
                yield raw if wanted is None else raw[raw["ticker"].isin(wanted)]
    _check_known(wanted, seen, OHLCV.id)


def _raw_pieces(path: Path, name: str, rows: int, covariates: Sequence[str]) -> Iterator[pd.DataFrame]:
    done, format = 0, None
    for table in iter_tables(path, rows, crooked=True):
        if table.empty:
            continue
        table = join_time_of_day(table.reset_index(drop=True)).drop(columns=OURS, errors="ignore")
        format = format or TimeFormat.of(table[find_bars(table, path)["timestamp"]])
        table["row"] = np.arange(done + 1, done + len(table) + 1)
        done += len(table)
        yield raw_columns(table, path, name, format, covariates).assign(file=path.name)
    if not done:
        raise ValueError(f"{path} has no rows; download or export it again.")


def raw_columns(
    table: pd.DataFrame,
    where: str | Path = "the frame",
    ticker: str = "series",
    format: TimeFormat | None = None,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Any table of prices in the columns that `clean_bars` works on; a second time changes nothing.

    `timestamp` (NaT where unreadable), `ticker` ("" where empty), `open, high, low, close, volume, adj_close,
    split_coefficient` and the covariates, by their own names (float64, NaN where missing or unreadable), `source` (if
    there is one), `row` (from 1) and `note`: what the unreadable cells of the row held, as in `close='#REF!'`.
    """
    column = find_bars(table, where, ALIASES | RAW_ALIASES)
    chosen = choose_covariates(table, where, covariates, taken=column.values(), ours=RAW_COLUMNS)
    notes = table["note"].astype(str).to_numpy(object) if "note" in table else np.full(len(table), "", dtype=object)

    def note(name: str, cells: pd.Series, bad: np.ndarray) -> None:
        for row, value in zip(bad, cells.iloc[bad].astype(object), strict=True):
            if held := _held(value)[:LARGEST_NOTE].replace("NaT", ""):
                notes[row] += f"{'; ' if notes[row] else ''}{name}='{held}'"

    frame = _read_columns(table, column, chosen, where, note, format)
    frame = _completed(frame, RAW_NUMBERS, ticker)
    if "file" in table:
        frame["file"] = table["file"].to_numpy()
    frame["row"] = table["row"].to_numpy() if "row" in table else np.arange(1, len(table) + 1)
    return frame.assign(note=notes)


# --- both ----------------------------------------------------------------------------------------------------------


def _read_columns(
    table: pd.DataFrame,
    column: Mapping[str, str],
    covariates: Sequence[str],
    where: str | Path,
    told: Told,
    format: TimeFormat | None = None,
) -> pd.DataFrame:
    """Each column by its own rule: times, names, or else numbers; `told` hears of the cells that cannot be read."""
    frame = {}
    for ours, theirs in {**column, **{name: name for name in covariates}}.items():
        cells = table[theirs]
        if not isinstance(cells, pd.Series):
            raise ValueError(f"{where} has more than one column '{theirs}'; keep one of each.")
        if ours == "timestamp":
            values, bad = read_times(cells, format)
            values = values.astype("datetime64[us]")
        elif ours in NAMES and ours not in covariates:
            values = stripped(cells)
            bad = np.flatnonzero(values == "")
        else:
            values, bad = read_numbers(cells)
        if bad.size:
            told(ours, cells, bad)
        frame[ours] = values.to_numpy()
    return pd.DataFrame(frame)


def _refuse(path: Path, name: str, cells: pd.Series, bad: np.ndarray) -> None:
    place = f"{path}, row {bad[0] + 1}: column '{cells.name}'"
    held = _held(cells.iloc[bad[0]])
    if name in NAMES and not held:
        raise ValueError(f"{place} is empty; give every row its ticker.")
    raise ValueError(f"{place} holds '{held}', which {REMEDIES.get(name, REMEDIES['number'])}")


def _held(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell).strip()


def _completed(bars: pd.DataFrame, numbers: Sequence[str], ticker: str) -> pd.DataFrame:
    """With the columns that the table did not have: its ticker, and numbers that nobody knows."""
    absent = {"ticker": ticker} | dict.fromkeys(numbers, np.nan)
    return bars.assign(**{name: value for name, value in absent.items() if name not in bars})


def adjust(bars: pd.DataFrame) -> None:
    """Multiply prices by `adj_close / close` and divide the volume by it, in place; see `read_bars`.

    All four prices get the same factor, the close too: rounding then cannot lift the close above the high. A close
    that is not positive has no such factor; its row stays as it is for the processor to report.
    """
    adj_close = bars["adj_close"].where(np.isfinite(bars["adj_close"]))
    is_adjusted = adj_close.notna().groupby(bars["ticker"]).transform("any")
    ratio = (adj_close / bars["close"]).where(is_adjusted & ~(bars["close"] <= 0), 1.0)
    bars[PRICES] = bars[PRICES].mul(ratio, axis=0)
    bars["volume"] = bars["volume"] / ratio


def _chosen(frame: pd.DataFrame, id: str, names: Sequence[str] | None = None) -> pd.DataFrame:
    """The rows of the named series, those of each together, in the order of their first rows."""
    if (wanted := _listed(names)) is not None:
        _check_known(wanted, frame[id].unique(), id)
        frame = frame[frame[id].isin(wanted)]
    by_first_row = np.argsort(pd.factorize(frame[id])[0], kind="stable")
    return frame.iloc[by_first_row].reset_index(drop=True)


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else names if names is None else list(names)


def _check_known(wanted: Sequence[str] | None, known: Collection[str], id: str) -> None:
    if unknown := [name for name in wanted or () if name not in known]:
        listed = ", ".join(list(known)[:LISTED]) + (f" and {len(known) - LISTED} more" if len(known) > LISTED else "")
        what = "ticker" if id == OHLCV.id else "series"
        raise ValueError(f"Unknown {what} {', '.join(unknown)}; the data holds {listed}.")
