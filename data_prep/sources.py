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
- Newest first is turned round: a series whose times strictly descend comes in ascending order.
- A row number in a message counts data rows from 1; the header is not counted.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

from ..bars_tsf_llm import OHLCV, PRICES, UNIVARIATE, Kind, may_hold, refuse_if_none_left, tell_skipped
from ..cells_tsf_llm import (
    NumberFormat,
    TimeFormat,
    Unclear,
    is_typed,
    read_numbers,
    read_times,
    stripped,
    why_no_time,
)
from ..columns_tsf_llm import (
    ALIASES,
    RAW_ALIASES,
    Whole,
    adjust,
    count_prices,
    find_bars,
    join_static,
    join_time_of_day,
    key_texts,
    look_again,
)
from ..processing_tsf_llm import TsfLlmProcessor
from .columns import COLUMNS, STATIC, USUAL, Columns, Found, SeriesColumns, choose_covariates, join_names, with_names
from .resample import Gaps, absent_rows, uneven_series
from .resample import resample as resampled
from .tables import ROWS, SAMPLE, SAMPLE_FILE, SAMPLE_INDEX, iter_tables, list_files, named_files, open_table

logger = logging.get_logger(__name__)
NAMES = ("ticker", "series_id", "source")  # columns of text
RAW_NUMBERS = [*PRICES, "volume", "adj_close", "split_coefficient"]
RAW_COLUMNS = ["timestamp", "ticker", *RAW_NUMBERS, "source", "file", "row", "note"]  # all else are covariates
OURS = ["row", "note", "file"]  # of a file's own columns of these names nothing is known
FILE = "(file)"  # column of `iter_bars`
LARGEST_NOTE = 80  # characters kept of what a bad cell held
LISTED = 20  # names in a message
ISOLATED = 5  # cells that cannot be read, of however few
LARGE = 0.05  # share of cells that cannot be read, from which on cleaning would hide that a file is misread
NO_NUMBER = "is not a number; write plain numbers, and leave missing cells empty"
Formats = tuple[TimeFormat, NumberFormat]
Spans = Mapping[str, tuple[Any, Any]]  # ticker -> its first and last time
Told = Callable[[str, pd.Series, np.ndarray], None]  # our name of a column, its cells, and where they cannot be read


# --- strictly ------------------------------------------------------------------------------------------------------


def read_bars(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    *,
    covariates: Sequence[str] = (),
    missing_ok: bool = False,
    id: str | None = None,
    time: str | None = None,
    dates: str | None = None,
    decimal: str | None = None,
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

    `id` and `time` name the columns of tickers and times, where their names are not among the usual. `dates` (`dmy`,
    `mdy`, `ymd`) and `decimal` (`point`, `comma`) say how cells are written, where these do not prove it themselves.

    `covariates` are further columns of numbers to keep, by their names in the file or by patterns as `text_*`. They
    are taken as they are: nothing is adjusted for a split. A file without one of them is refused or, with
    `missing_ok`, read without it.

    Returns `timestamp` (datetime64 without zone; zoned times are converted to UTC, unless all are midnights of their
    zone: these are dates), `ticker` (str), `open, high, low, close, volume` (float64; volume is NaN where the file has
    none) and the covariates (float64). Rows keep the order of the file within each ticker, unless this is newest
    first; tickers keep the order of their first row.

    Of several tickers or files, one that cannot be read is skipped: a warning says why, and so does `skipped` in the
    frame's `attrs`. With `strict` it is refused.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    frames, periods, refusals = [], Periods(), Refusals(strict=strict)
    for path, name in (files := named_files(source)):
        with refusals.of_file(name, alone=len(files) == 1):
            find = _bars_finder(path, covariates, missing_ok=missing_ok, id=id, time=time)
            bars, chosen = _read_file(path, find, refusals, dates, decimal, opened=join_time_of_day)
            bars = _completed(bars, ["volume", "adj_close"], name)
            adjust(bars)
            refusals.add(periods.add(path, spans_of(bars)))
            frames.append(bars[[*COLUMNS, *chosen]])
    return _readable(frames, OHLCV.id, tickers, refusals.skipped)


def _bars_finder(
    path: Path, covariates: Sequence[str], *, missing_ok: bool, id: str | None, time: str | None
) -> Callable[[pd.DataFrame, Whole | None], Found]:
    def find(table: pd.DataFrame, whole: Whole | None) -> Found:
        column = find_bars(table, path, id=id, time=time, whole=whole)
        options = {"taken": column.values(), "ours": COLUMNS, "missing_ok": missing_ok}
        return column, choose_covariates(table, path, covariates, **options)

    return find


def iter_bars(
    source: str | Path | list,
    refusals: "Refusals",
    *,
    covariates: Sequence[str] = (),
    missing_ok: bool = False,
    id: str | None = None,
    time: str | None = None,
    dates: str | None = None,
    decimal: str | None = None,
) -> Iterator[pd.DataFrame]:
    """The rows of `read_bars` in the order of the files, at most `ROWS` at a time, for `joined_bars` of each ticker.

    Beside its columns: `adj_close`, and the number of the file. A file of more rows is read twice, so that no row of
    it counts unless all can be read; one with cells that cannot is read at once. Rows of tickers that `refusals` has
    in the end are there too."""
    periods = Periods()
    for number, (path, name) in enumerate(files := named_files(source)):
        with refusals.of_file(name, alone=len(files) == 1):
            find = _bars_finder(path, covariates, missing_ok=missing_ok, id=id, time=time)
            for bars, chosen in _checked_pieces(path, find, refusals, dates, decimal):
                bars = _completed(bars, ["volume", "adj_close"], name)
                refusals.add(periods.add(path, spans_of(bars)))
                yield bars[[*COLUMNS, "adj_close", *chosen]].assign(**{FILE: number})


def _checked_pieces(
    path: Path,
    find: Callable[[pd.DataFrame, Whole | None], Found],
    refusals: "Refusals",
    dates: str | None,
    decimal: str | None,
) -> Iterator[tuple[pd.DataFrame, Sequence[str]]]:
    """Those of `_read_file`, once all of them were read."""
    how = (dates, decimal, OHLCV.id, join_time_of_day)
    try:
        pieces = _read_pieces(path, find, *how)
        first = list(islice(pieces, 2))
        for _ in pieces:
            first.clear()
    except ValueError:
        yield _read_at_once(path, find, refusals, *how)
        return
    yield from first if len(first) == 1 else _read_pieces(path, find, *how)


def joined_bars(rows: pd.DataFrame) -> pd.DataFrame:
    """All rows of a ticker from `iter_bars` -> what `read_bars` makes of them."""
    parts = [part.copy() for _, part in rows.groupby(FILE, sort=False)]
    for part in parts:
        adjust(part)
    return _chosen(pd.concat(parts, ignore_index=True).drop(columns=["adj_close", FILE]), OHLCV.id)


def read_market(
    source: str | Path | list, *, dates: str | None = None, decimal: str | None = None, strict: bool = False
) -> pd.DataFrame:
    """`read_bars` of what features read beside a ticker's own bars: files of a universe, of an index, of an
    implied-volatility index. Of `"sample"` that is the embedded prices and the VIX of the same years."""
    sources = source if isinstance(source, list | tuple) else [source]
    files = [file for one in sources for file in ([SAMPLE_FILE, SAMPLE_INDEX] if one == SAMPLE else [one])]
    return read_bars(files, dates=dates, decimal=decimal, strict=strict)


def read_series(
    source: str | Path | list,
    names: Sequence[str] | None = None,
    *,
    value: str | None = None,
    id: str | None = None,
    time: str | None = None,
    dates: str | None = None,
    decimal: str | None = None,
    resample: str | None = None,
    covariates: Sequence[str] = (),
    static: Sequence[str] = (),
    static_file: str | Path | None = None,
    strict: bool = False,
) -> pd.DataFrame:
    """Read `timestamp, series_id, value`, the columns named as `covariates`, and as texts those named as `static`.

    Those that are columns of the table at `static_file`, by default all of it, come from there, see `join_static`.

    `value`, `id` and `time` name columns of the file. By default the time is in `timestamp`, `date`, `datetime`,
    `time` or `ds`; the name is in `series_id`, `unique_id`, `item_id`, `id`, `ticker` or the like; the value is in
    `value`, `y`, `target` or the only column of numbers left. Without a column of names, a series is called as its
    `value` column or its file. A `value` of several names or a pattern (`a,b`, `*`) makes a series of each of these
    columns; an `id` of several columns (`store,item`) joins their texts with a stroke. `names` selects series.
    Covariates may be patterns, as `text_*`. What cannot be read is skipped as by `read_bars`, and so is a series whose
    times are uneven: `resample` is the rule that makes them even, see there.

    Raises FileNotFoundError for a path that does not exist and ValueError for everything else, with file, row and
    remedy.
    """
    frames, files = [], named_files(source)
    periods, refusals = Periods(), Refusals(strict=strict)
    beside = pd.DataFrame() if static_file is None else with_names(open_table(Path(static_file)), id)
    joined = [name for name in static or beside.columns if name in beside and name != UNIVARIATE.id]
    wanted = [name for name in static if name not in (*joined, UNIVARIATE.id)]
    for path, name in files:
        with refusals.of_file(name, alone=len(files) == 1):
            found = SeriesColumns(path, Columns(value, id, time), covariates, wanted, joined)
            opened = partial(join_names, id=id)
            frame, chosen = _read_file(path, found.find, refusals, dates, decimal, id=UNIVARIATE.id, opened=opened)
            frame = found.below_one_another(frame, chosen, name if value is None or len(files) > 1 else str(value))
            refusals.add(periods.add(path, spans_of(frame, UNIVARIATE.id)))
            frames.append(frame)
    frame = _even_rows(_readable(frames, UNIVARIATE.id, names, refusals.skipped), resample, strict=strict)
    return join_static(frame, beside, joined, strict=strict) if joined else frame


def _even_rows(frame: pd.DataFrame, rule: str | None, *, strict: bool) -> pd.DataFrame:
    """The rows as the rule makes them; without one, those of series whose rows can be counted."""
    if rule is not None:
        return resampled(frame, rule)
    gaps = Gaps.of(frame)
    refusals = Refusals(strict=strict, skipped=frame.attrs["skipped"])
    if uneven := uneven_series(frame, gaps):
        refusals.add(uneven)
        refuse_if_none_left([name for name in gaps.names if name not in uneven], uneven)
        tell_skipped([*uneven.values()])
        frame = frame[~frame[UNIVARIATE.id].isin(uneven)].reset_index(drop=True)
        frame.attrs["skipped"] = refusals.skipped
        gaps = Gaps.of(frame)
    if told := absent_rows(gaps, frame["timestamp"]):
        logger.warning(told)
    return frame


def _read_file(
    path: Path,
    find: Callable[[pd.DataFrame, Whole | None], Found],
    refusals: "Refusals",
    dates: str | None,
    decimal: str | None,
    *,
    id: str = OHLCV.id,
    opened: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table,
) -> tuple[pd.DataFrame, Sequence[str]]:
    """A file's columns, typed, and its covariates: piece by piece, so that its text is never there as a whole.

    Where the first piece does not tell how another is written, or a cell cannot be read, all of them at once say so.
    """
    try:
        frames, chosen = zip(*_read_pieces(path, find, dates, decimal, id, opened), strict=True)
        return pd.concat(frames, ignore_index=True), chosen[0]
    except ValueError:
        return _read_at_once(path, find, refusals, dates, decimal, id, opened)


def _read_at_once(
    path: Path,
    find: Callable[[pd.DataFrame, Whole | None], Found],
    refusals: "Refusals",
    dates: str | None,
    decimal: str | None,
    id: str,
    opened: Callable[[pd.DataFrame], pd.DataFrame],
) -> tuple[pd.DataFrame, Sequence[str]]:
    table = opened(open_table(path))
    column, chosen = find(table, None)
    formats = _formats(table, column, chosen, path, dates, decimal)
    told = refusals.by_ticker(path, formats, table, column.get(id))
    return _read_columns(table, column, chosen, path, told, formats), chosen


def _read_pieces(
    path: Path,
    find: Callable[[pd.DataFrame, Whole | None], Found],
    dates: str | None,
    decimal: str | None,
    id: str,
    opened: Callable[[pd.DataFrame], pd.DataFrame],
) -> Iterator[tuple[pd.DataFrame, Sequence[str]]]:
    formats: Formats | None = None
    percent: dict[Any, bool] = {}
    way, whole = _Way(), partial(_whole, path, ROWS, opened=opened)
    for table in (opened(table) for table in iter_tables(path, ROWS) if len(table)):
        if formats is None:
            is_piece = len(table) == ROWS
            column, chosen = find(table, whole if is_piece else None)
            formats = _formats(table, column, chosen, path, dates, decimal, whole if is_piece else None)
        frame = _read_columns(table, column, chosen, path, partial(_refuse, path, formats), formats)
        if id not in column and not way.goes_on(frame["timestamp"]):
            look_again(table, column, path, id, whole)
        for name in (column.get(UNIVARIATE.value), *chosen):
            ends = None if name is None else _in_percent(table[name])
            if ends is not None and percent.setdefault(name, ends) != ends:
                raise ValueError(f"{path}: column '{name}' has numbers with % and without; write all in one way.")
        yield frame, chosen
    if formats is None:
        raise ValueError(f"{path} has no rows; download or export it again.")


def _in_percent(cells: pd.Series) -> bool | None:
    """Whether the first known number ends in `%`; of a piece that could be read, the others do as it does."""
    held = pd.Series(dtype=str) if is_typed(cells) else stripped(cells)
    held = held[held != ""]
    return held.iloc[0].endswith("%") if len(held) else None


class _Way:
    """Whether times, piece by piece, strictly go one way, as those of one series do."""

    def __init__(self) -> None:
        self.last, self.signs, self.is_one = np.array([], dtype="datetime64[us]"), set[int](), True

    def goes_on(self, times: pd.Series) -> bool:
        """False once, where they first do not."""
        if not self.is_one:
            return True
        known = np.concatenate((self.last, times.dropna().to_numpy()))
        self.last = known[-1:]
        self.signs |= {*np.sign(np.diff(known).astype("int64")).tolist()}
        self.is_one = self.signs in (set(), {1}, {-1})
        return self.is_one


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
    check_no_value(columns)
    if columns.static_file is not None:
        raise ValueError("--static names a table about plain series, and these are bars: leave it out")
    options = {"covariates": covariates, "missing_ok": missing_ok, "strict": strict}
    return read_bars(source, names, **options, **columns.of_bars())


def read_for(
    processor: TsfLlmProcessor,
    data: str,
    names: list[str] | None = None,
    columns: Columns = USUAL,
    *,
    strict: bool = False,
) -> pd.DataFrame:
    """The data of the kind that the processor reads, with the covariates that it wants."""
    extractor = processor.feature_extractor
    columns = replace(columns, static=tuple(extractor.static_covariates))
    return read_data(
        data, names, kind=extractor.series_kind, columns=columns, covariates=extractor.covariates, strict=strict
    )


def check_no_value(columns: Columns) -> None:
    """Raises ValueError where one is chosen from bars."""
    if columns.value is not None:
        raise ValueError(
            f"this model reads market bars, which have no column '{columns.value}' to choose; leave --value out"
        )
    if columns.resample is not None:
        raise ValueError(
            f"--resample {columns.resample} is for plain series, and these are market bars: leave it out, or name a "
            "column with --value"
        )


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
    return count_prices(table.columns) >= 2


@dataclass
class Refusals:
    """What strict reading refuses, by ticker, or by file where this is all of it."""

    strict: bool = False
    skipped: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def of_file(self, name: str, *, alone: bool, inside: Collection[str] = ()) -> Iterator[None]:
        """Within, an error is of this file, one of several; and of the tickers that were found inside."""
        try:
            yield
        except ValueError as error:
            if self.strict or alone:
                raise
            for one in list(inside) or [name]:
                self.skipped.setdefault(one, str(error))

    def add(self, refused: Mapping[str, str]) -> None:
        """Tickers, and why each cannot be read; raises ValueError with the first reason if strict."""
        for name, reason in refused.items():
            with self.of_file(name, alone=False):
                raise ValueError(reason)

    def by_ticker(self, path: Path, formats: Formats, table: pd.DataFrame, id: str | None) -> Told:
        """Refuses cells: of one ticker alone, where a column names them."""
        if self.strict or id is None:
            return partial(_refuse, path, formats)

        def told(name: str, cells: pd.Series, bad: np.ndarray) -> None:
            if name in NAMES or len(bad) == len(cells):  # nobody knows whose row it is, or it is no ticker's own
                _refuse(path, formats, name, cells, bad)
            names = pd.Series(stripped(table[id]).to_numpy()[bad])
            for place, ticker in names.drop_duplicates().items():
                with self.of_file(str(ticker), alone=False):
                    _refuse(f"{ticker}: {path}", formats, name, cells, bad[place:])

        return told


def _readable(
    frames: Sequence[pd.DataFrame], id: str, names: Sequence[str] | None, skipped: dict[str, str]
) -> pd.DataFrame:
    """The rows of the named series but those `skipped`; see `left_of`."""
    frame = pd.DataFrame({id: []}) if not frames else frames[0]
    frame = pd.concat(frames, ignore_index=True) if len(frames) > 1 else frame  # one is not copied
    known = list(frame[id].unique())
    left, skipped = left_of(known, names, skipped, id)
    frame = _chosen(frame if len(left) == len(known) else frame[frame[id].isin(left)], id)
    frame.attrs["skipped"] = skipped
    return frame


def left_of(
    known: Sequence[str], names: Sequence[str] | None, skipped: Mapping[str, str], id: str
) -> tuple[list[str], dict[str, str]]:
    """Which series of a source are asked for and not skipped; and what was skipped of those, which a warning names.

    A ticker of which one file cannot be read is skipped as a whole: the rest of it would have a hole.

    Raises:
        ValueError: none is left, or there is none of such a name.
    """
    skipped, wanted = dict(skipped), _listed(names)
    known = [name for name in known if name not in skipped]
    if wanted is not None:
        if not {*wanted} - {*known} - {*skipped}:
            skipped = {name: reason for name, reason in skipped.items() if name in wanted}
        wanted = [name for name in wanted if name not in skipped]
    refuse_if_none_left(known if wanted is None else wanted, skipped)
    tell_skipped([*skipped.values()])
    check_known(wanted, known, id)
    return known if wanted is None else [name for name in known if name in {*wanted}], skipped


# --- leniently -----------------------------------------------------------------------------------------------------


def read_raw(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    *,
    covariates: Sequence[str] = (),
    id: str | None = None,
    time: str | None = None,
    dates: str | None = None,
    decimal: str | None = None,
    strict: bool = False,
) -> pd.DataFrame:
    """What is in the files of `source`, for `clean_bars`: defects and all, nothing adjusted.

    Columns as of `raw_columns`, and `file`; tickers and rows are ordered as by `read_bars`. A line of a CSV with too
    many cells becomes one row without any number, the line in its note. Of several files one that is no table of
    prices is skipped as by `read_bars`.

    Raises FileNotFoundError for a path that does not exist and ValueError for what is no table of prices.
    """
    refusals, columns = Refusals(strict=strict), {"id": id, "time": time, "dates": dates, "decimal": decimal}
    pieces = list(iter_raw(source, tickers, covariates=covariates, refusals=refusals, **columns))
    return _readable(pieces, OHLCV.id, tickers, refusals.skipped)


def iter_raw(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    rows: int = ROWS,
    *,
    covariates: Sequence[str] = (),
    id: str | None = None,
    time: str | None = None,
    dates: str | None = None,
    decimal: str | None = None,
    refusals: "Refusals | None" = None,
) -> Iterator[pd.DataFrame]:
    """The rows of `read_raw` in the order of the files, at most `rows` at a time.

    How a file writes its times and numbers is told by its first piece, or by all where this does not prove it. With
    `refusals`, one of several files that is no table of prices is skipped, and a ticker that two files have at once;
    what was read of their tickers before is there."""
    wanted, seen, periods = _listed(tickers), dict[str, None](), Periods()
    refusals = refusals or Refusals(strict=True)
    columns = Columns(id=id, time=time, dates=dates, decimal=decimal)
    for path, name in (files := named_files(source)):
        inside = dict[str, None]()
        with refusals.of_file(name, alone=len(files) == 1, inside=inside):
            for raw in raw_pieces(path, name, rows, covariates, columns):
                spans = spans_of(raw)
                refusals.add(periods.add(path, spans))
                inside |= dict.fromkeys(spans)
                seen |= inside
                yield raw if wanted is None else raw[raw["ticker"].isin(wanted)]
    check_known([name for name in wanted or () if name not in refusals.skipped], seen, OHLCV.id)


@dataclass(frozen=True)
class Reading:
    """How the tables of a file of prices are read, as its first rows tell, or all of them where these do not."""

    path: Path
    name: str  # the ticker in its path
    covariates: Sequence[str]
    column: dict[str, Any]  # our name -> the file's
    formats: Formats

    def typed(self, table: pd.DataFrame, unread: "Unread") -> pd.DataFrame:
        """The rows of `iter_raw` out of one of `raw_tables`."""
        options = (self.formats, self.covariates, self.column, unread)
        return raw_columns(table, self.path, self.name, *options).assign(file=self.path.name)


def raw_tables(
    path: Path, name: str, rows: int, covariates: Sequence[str], columns: Columns
) -> Iterator[tuple[pd.DataFrame, Reading]]:
    """A file of prices as it stands, at most `rows` rows at a time, which are numbered."""
    done, reading = 0, None
    for table in iter_tables(path, rows, crooked=True):
        if table.empty:
            continue
        table = join_time_of_day(table.reset_index(drop=True)).drop(columns=OURS, errors="ignore")
        if reading is None:
            whole = partial(_whole, path, rows, crooked=True) if len(table) == rows else None
            named = {"id": columns.id, "time": columns.time}
            column = find_bars(table, path, ALIASES | RAW_ALIASES, **named, whole=whole)
            chosen = choose_covariates(table, path, covariates, taken=column.values(), ours=RAW_COLUMNS)
            formats = _formats(table, column, chosen, path, columns.dates, columns.decimal, whole)
            reading = Reading(path, name, covariates, column, formats)
        table["row"] = np.arange(done + 1, done + len(table) + 1)
        done += len(table)
        yield table, reading
    if not done:
        raise ValueError(f"{path} has no rows; download or export it again.")


def raw_pieces(
    path: Path, name: str, rows: int, covariates: Sequence[str], columns: Columns
) -> Iterator[pd.DataFrame]:
    """The rows of one file, as `iter_raw` has them."""
    unread, way = Unread(path), _Way()
    for table, reading in raw_tables(path, name, rows, covariates, columns):
        raw = reading.typed(table, unread)
        if OHLCV.id not in reading.column and not way.goes_on(raw["timestamp"]):
            all_rows = partial(_whole, path, rows, crooked=True)
            look_again(table.drop(columns="row"), reading.column, path, OHLCV.id, all_rows)
        yield raw
    unread.check()


def _whole(
    path: Path,
    rows: int,
    columns: list[str],
    *,
    opened: Callable[[pd.DataFrame], pd.DataFrame] = join_time_of_day,
    crooked: bool = False,
) -> pd.DataFrame:
    """Some columns of a file that is read in pieces."""
    pieces = (opened(table) for table in iter_tables(path, rows, crooked=crooked))
    return pd.concat([table[columns] for table in pieces], ignore_index=True)


def raw_columns(
    table: pd.DataFrame,
    where: str | Path = "the frame",
    ticker: str = "series",
    formats: Formats | None = None,
    covariates: Sequence[str] = (),
    column: Mapping[str, str] | None = None,
    unread: "Unread | None" = None,
) -> pd.DataFrame:
    """Any table of prices in the columns that `clean_bars` works on; a second time changes nothing.

    `timestamp` (NaT where unreadable), `ticker` ("" where empty), `open, high, low, close, volume, adj_close,
    split_coefficient` and the covariates, by their own names (float64, NaN where missing or unreadable), `source` (if
    there is one), `row` (from 1) and `note`: what the unreadable cells of the row held, as in `close='#REF!'`. Of a
    table in pieces, `formats` and `unread` are those of all.

    Raises:
        ValueError: it is no table of prices, or a large share of its times or prices cannot be read.
    """
    if column is None and {*RAW_COLUMNS} - {"source", "file"} <= {*table.columns}:
        column = {name: name for name in RAW_COLUMNS if name in table and name not in OURS}
    column = column or find_bars(table.drop(columns=OURS, errors="ignore"), where, ALIASES | RAW_ALIASES)
    chosen = choose_covariates(table, where, covariates, taken=column.values(), ours=RAW_COLUMNS)
    notes = table["note"].astype(str).to_numpy(object) if "note" in table else np.full(len(table), "", dtype=object)

    total = unread or Unread(where)

    def note(name: str, cells: pd.Series, bad: np.ndarray) -> None:
        total.add(name, cells, bad)
        for row, value in zip(bad, cells.iloc[bad].astype(object), strict=True):
            if held := _held(value)[:LARGEST_NOTE].replace("NaT", ""):
                notes[row] += f"{'; ' if notes[row] else ''}{name}='{held}'"

    formats = formats or _formats(table, column, chosen, where)
    frame = _completed(_read_columns(table, column, chosen, where, note, formats), RAW_NUMBERS, ticker)
    total.count(frame)
    if unread is None:
        total.check()
    if "file" in table:
        frame["file"] = table["file"].to_numpy()
    frame["row"] = table["row"].to_numpy() if "row" in table else np.arange(1, len(table) + 1)
    return frame.assign(note=notes)


class Unread:
    """Cells of times and prices that cannot be read, of those that are not empty."""

    def __init__(self, where: str | Path):
        self.where = where
        self.first: dict[str, tuple[Any, Any]] = {}  # our name -> the column, and what the first such cell holds
        self.unread, self.known = Counter[str](), Counter[str]()

    def add(self, name: str, cells: pd.Series, bad: np.ndarray) -> None:
        """`bad` are the positions of the unreadable among a piece's cells."""
        held = cells.iloc[bad][[_held(cell) != "" for cell in cells.iloc[bad]]]
        if name in ("timestamp", *PRICES, "adj_close") and len(held):
            self.first.setdefault(name, (cells.name, held.iloc[0]))
            self.unread[name] += len(held)

    def count(self, frame: pd.DataFrame) -> None:
        for name in ("timestamp", *PRICES, "adj_close"):
            self.known[name] += int(frame[name].notna().sum())

    def join(self, other: "Unread") -> None:
        """Those of a later piece as well."""
        self.first = {**other.first, **self.first}
        self.unread += other.unread
        self.known += other.known

    def check(self) -> None:
        """Raises ValueError where it is a large share of a column, and more than isolated cells."""
        for name, count in self.unread.items():
            share = count / (count + self.known[name])
            if share > LARGE and count > ISOLATED:
                column, held = self.first[name]
                what = "dates in one format, such as 2024-01-31" if name == "timestamp" else "plain numbers"
                raise ValueError(
                    f"{self.where}: {share:.0%} of column '{column}' cannot be read, such as '{_held(held)}'; "
                    f"cleaning is not for that: write {what}."
                )


# --- both ----------------------------------------------------------------------------------------------------------


def _read_columns(
    table: pd.DataFrame,
    column: Mapping[str, str],
    covariates: Sequence[str],
    where: str | Path,
    told: Told,
    formats: Formats,
) -> pd.DataFrame:
    """Each column by its own rule: times, names, or else numbers; `told` hears of the cells that cannot be read."""
    frame, kind = {}, _kind(column)
    for ours, theirs in {**column, **{name: name for name in covariates}}.items():
        cells = table[theirs]
        if not isinstance(cells, pd.Series):
            raise ValueError(f"{where} has more than one column '{theirs}'; keep one of each.")
        if ours == "timestamp":
            values, bad = read_times(cells, formats[0])
            values = values.astype("datetime64[us]")
        elif ours.startswith(STATIC) or (ours in NAMES and ours not in covariates):
            values = key_texts(cells)
            bad = np.flatnonzero((values == "") & (ours in NAMES))
        else:
            values, bad = read_numbers(cells, formats[1], **may_hold(ours, kind))
        if bad.size:
            told(ours, cells, bad)
        frame[ours] = values.to_numpy()
    return pd.DataFrame(frame)


def _kind(column: Mapping[str, str]) -> Kind:
    return UNIVARIATE if UNIVARIATE.value in column else OHLCV


def _formats(
    table: pd.DataFrame,
    column: Mapping[str, str],
    covariates: Sequence[str],
    where: str | Path,
    dates: str | None = None,
    decimal: str | None = None,
    whole: Callable[[list[str]], pd.DataFrame] | None = None,
) -> Formats:
    """How a table writes its times and its numbers; `whole` gives columns of all rows, where these are the first.

    Raises:
        ValueError: nothing tells; it says how to.
    """
    names = [
        theirs for ours, theirs in column.items() if ours not in ("timestamp", *NAMES) and not ours.startswith(STATIC)
    ]
    names = [name for name in dict.fromkeys([*names, *covariates]) if isinstance(table[name], pd.Series)]
    names = [name for name in names if not is_typed(table[name])]  # what is typed is so in all rows
    keys = [column[name] for name in ("timestamp", _kind(column).id) if name in column]
    if not isinstance(table[keys[0]], pd.Series):
        raise ValueError(f"{where} has more than one column '{keys[0]}'; keep one of each.")

    def times(rows: pd.DataFrame) -> TimeFormat:
        return TimeFormat.of(rows[keys[0]], dates, rows[keys[1]] if len(keys) > 1 else None)

    def numbers(rows: pd.DataFrame) -> NumberFormat:
        return NumberFormat.of([rows[name] for name in names], decimal)

    try:
        try:
            of_times = times(table)
            is_told = not read_times(table[keys[0]], of_times)[1].size
        except Unclear:
            if whole is None:
                raise
            is_told = False
        of_times = of_times if is_told or whole is None else times(whole(keys))
    except Unclear as error:
        raise ValueError(f"{where}: {error}; say it with --dates (in Python dates=).") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    try:
        try:
            of_numbers = numbers(table)
        except Unclear:
            if whole is None:
                raise
            of_numbers = NumberFormat()
        if whole is not None and names and not of_numbers.proven:
            of_numbers = numbers(whole(names))
    except Unclear as error:
        raise ValueError(f"{where}: {error}; say it with --decimal point or comma (in Python decimal=).") from error
    except ValueError as error:
        raise ValueError(f"{where}: {error}.") from error
    return of_times, of_numbers


def _refuse(path: Path | str, formats: Formats, name: str, cells: pd.Series, bad: np.ndarray) -> None:
    place = f"{path}, row {bad[0] + 1}: column '{cells.name}'"
    held = _held(cells.iloc[bad[0]])
    if name in NAMES and not held:
        raise ValueError(f"{place} is empty; give every row its ticker, or drop it, as tsf-llm clean does.")
    what = why_no_time(cells.iloc[bad[0]], formats[0]) if name == "timestamp" else NO_NUMBER
    is_few = name in RAW_NUMBERS and len(bad) <= LARGE * len(cells)
    raise ValueError(f"{place} holds '{held}', which {what}{', as tsf-llm clean does' if is_few else ''}.")


def _held(cell: Any) -> str:
    return "" if pd.isna(cell) else str(cell).strip()


def _completed(bars: pd.DataFrame, numbers: Sequence[str], ticker: str) -> pd.DataFrame:
    """With the columns that the table did not have: its ticker, and numbers that nobody knows."""
    absent = {"ticker": ticker} | dict.fromkeys(numbers, np.nan)
    return bars.assign(**{name: value for name, value in absent.items() if name not in bars})


def spans_of(rows: pd.DataFrame, id: str = OHLCV.id) -> Spans:
    """From when to when there are rows of each ticker, in order of first row; NaT where no time is known."""
    times = rows.groupby(rows[id].to_numpy(), sort=False)["timestamp"].agg(["min", "max"])
    return {str(name): (first, last) for name, first, last in times.itertuples()}


class Periods:
    """From when to when each file has bars of each ticker. Pieces of a history join; two histories do not mix."""

    def __init__(self) -> None:
        self._files: dict[str, dict[Path, tuple[Any, Any]]] = {}

    def add(self, path: Path, spans: Spans) -> dict[str, str]:
        """The tickers of which another file has bars of the same time, each with what to say of it."""
        refused = {}
        for name, (first, last) in spans.items():
            if pd.isna(first):
                continue
            files = self._files.setdefault(name, {})
            for other, (start, end) in files.items():
                if other != path and first < end and start < last:
                    refused[name] = (
                        f"{name} is in {other} and in {path}, and both have rows from {max(first, start)} to "
                        f"{min(last, end)}; read one of them, or name other tickers in them."
                    )
            start, end = files.get(path, (first, last))
            files[path] = min(start, first), max(end, last)
        return refused


def _chosen(frame: pd.DataFrame, id: str) -> pd.DataFrame:
    """The rows of each series together, in the order of their first rows."""
    codes = pd.factorize(frame[id])[0]
    times = frame["timestamp"].to_numpy()
    order = np.argsort(codes, kind="stable")
    steps, inside = np.diff(times[order]).astype(float), np.diff(codes[order]) == 0
    up = np.bincount(codes[order][1:], inside & ~(steps < 0), minlength=codes.max(initial=0) + 1)
    rows = np.arange(len(codes))
    newest_first = (up == 0)[codes]
    if not newest_first.any() and np.array_equal(order, rows):
        return frame.reset_index(drop=True)
    return frame.iloc[np.lexsort((np.where(newest_first, -rows, rows), codes))].reset_index(drop=True)


def _listed(names: Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else names if names is None else list(names)


def check_known(wanted: Sequence[str] | None, known: Collection[str], id: str) -> None:
    unknown = [name for name in wanted or () if name not in known]
    if not unknown:
        return
    what, names = "ticker" if id == OHLCV.id else "series", [str(name) for name in known]
    told = ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED:,} more" if len(names) > LISTED else "")
    near = dict.fromkeys(one for name in unknown[:LISTED] for one in _near(name, names))
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(f"Unknown {what} {', '.join(unknown[:LISTED])}; the data holds {told}.{hint}")


def _near(name: str, names: Sequence[str]) -> list[str]:
    """The name in other letters, or else the nearest few."""
    same = [one for one in names if one.casefold() == name.casefold()]
    return same or get_close_matches(name.upper(), names, n=3, cutoff=0.7)
