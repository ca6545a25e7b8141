"""Files of any size to one checked file per ticker, in memory that does not grow with the number of tickers.

Design choices:
- Rows come in pieces, in the order of the files, and go to disk regrouped by ticker; then one ticker after the other
  is read back and cleaned. A piece, `BUFFER` rows and the longest ticker are all that each process has in memory.
- A crew reads: some small files each, or the cells of a piece of a large one, whose text one process takes apart. What
  files say of one another (a ticker in two of them, names that are unknown) is told in their order when all are read.
- What is needed of all tickers together is gathered on the way: the distinct bar times, and the moments of a universe.
- Files of plain series are read at once: they are small, and their value may have to be guessed from a whole column.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..bars_tsf_llm import OHLCV, UNIVARIATE, Kind, refuse_if_none_left, split_tickers, tell_skipped
from ..columns_tsf_llm import with_static_of
from ..common.crew import Crew, progress_bar
from ..common.files import write_json, write_parquet
from ..market_tsf_llm import MarketMoments
from .clean import check_left, clean_ticker, summary_of
from .columns import USUAL, Columns
from .shards import file_name
from .sources import (
    Periods,
    Reading,
    Refusals,
    Spans,
    Unread,
    check_known,
    check_no_value,
    iter_bars,
    joined_bars,
    left_of,
    raw_pieces,
    raw_tables,
    read_series,
    spans_of,
)
from .tables import ROWS, named_files

BUFFER = 300_000  # rows; of prices about 50 MB
GROUP = 64  # tickers, of fewer than BUFFER rows together unless one has more
GROUPS = "groups.json"
JOB = 20_000  # rows of the tickers that one process cleans or encodes together
LARGE = 4_000_000  # bytes of a file from which on several processes read it
Place = tuple[int, int]  # file and batch of a spill
PathPlace = tuple[Path, int]
Cleaned = tuple[
    dict[str, Any] | None, int, Any, ValueError | None
]  # report, bars, their first time, why there is none


@dataclass
class Collected:
    """One parquet file of checked bars per ticker, in order of first row, and what is known of all together."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)  # time of each ticker's first bar
    times: np.ndarray = field(default_factory=lambda: np.array([], "datetime64[us]"))
    moments: MarketMoments | None = None  # of all tickers, where they are a market
    report: dict[str, Any] | None = None  # of cleaning
    skipped: dict[str, str] = field(default_factory=dict)  # ticker or file -> why there is none of it
    lasting: dict[str, int] | None = None  # of resampled rows, see `known_by`

    def add(self, name: str, rows: int, first: Any) -> None:
        """A ticker whose file is written."""
        self.files[name], self.rows[name], self.first[name] = self.folder / file_name(name), rows, first

    def add_times(self, times: np.ndarray) -> None:
        if not np.array_equal(times, self.times):
            self.times = np.union1d(self.times, times)


def collect_bars(
    source: str | Path | list,
    folder: Path,
    tickers: Sequence[str] | None = None,
    *,
    columns: Columns = USUAL,
    covariates: Sequence[str] = (),
    universe: bool = False,
    strict: bool = False,
    crew: Crew | None = None,
) -> Collected:
    """The cleaned bars of all tickers, with these columns; and the moments of the `universe`, the market they make.

    A ticker counts from its second bar, whether or not many will follow: to ask for more would look ahead. Who of the
    `crew` reads and cleans what changes nothing.

    Raises:
        ValueError: for files that cannot be read (several: all of them or, if `strict`, one), or if no bar is left.
    """
    found = Collected(folder / "bars", moments=MarketMoments() if universe else None)
    reports, refusals, crew = {}, Refusals(strict=strict), crew or Crew()
    raw = _spilled_raw(source, folder / "raw", tickers, refusals, covariates, columns, crew)
    groups = groups_of({name: rows for name, rows in raw.rows.items() if name not in refusals.skipped})
    jobs = [partial(_clean_group, {name: raw.places[name] for name in group}, found.folder) for group in groups]
    with progress_bar("cleaning", sum(map(len, groups))) as bar:

        def told(answer: tuple[dict[str, Cleaned], list[np.ndarray]]) -> None:
            found.add_times(answer[1].pop())
            bar.update(len(answer[0]))

        answers = crew.run(jobs, told)
    for name, (report, rows, first, error) in ((name, one) for answer, _ in answers for name, one in answer.items()):
        with refusals.of_file(name, alone=False):
            if report is not None:
                reports[name] = report
            if error is not None:
                raise error
            found.add(name, rows, first)
            if found.moments is not None:
                found.moments.add(name, pd.read_parquet(found.files[name]))
    refuse_if_none_left(reports, refusals.skipped)
    found.report, found.skipped = summary_of(reports) | {"skipped": refusals.skipped}, refusals.skipped
    tell_skipped([*found.skipped.values()])
    return found


@dataclass
class Raw:
    """Rows of prices on disk as they were read, by ticker, in order of first row."""

    places: dict[str, list[PathPlace]] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)

    def add(self, spill: "Spill") -> None:
        for name in spill.names():
            self.places[name] = [(_spilled(spill.folder, file), batch) for file, batch in spill.places[name]]
        self.rows = spill.rows

    def join(self, other: "Raw") -> None:
        for name, places in other.places.items():
            self.places.setdefault(name, []).extend(places)
            self.rows[name] += other.rows[name]


@dataclass
class FileRead:
    """What one file, or a piece of it, tells those who read the others."""

    number: int
    pieces: list[Spans] = field(default_factory=list)
    unread: Unread | None = None  # of a piece, which alone does not tell how much of its file this is
    error: Exception | None = None  # after these pieces


def _spilled_raw(
    source: str | Path | list,
    folder: Path,
    tickers: Sequence[str] | None,
    refusals: Refusals,
    covariates: Sequence[str],
    columns: Columns,
    crew: Crew,
) -> Raw:
    """All rows of `iter_raw`, and what it refuses. Whoever reads them, files are told in their order."""
    files = named_files(source)
    wanted = [tickers] if isinstance(tickers, str) else tickers if tickers is None else list(tickers)
    broken: dict[int, Exception] = {}
    raw, seen, periods, told = Raw(), dict[str, None](), Periods(), defaultdict[int, list[tuple[FileRead, Raw]]](list)
    with progress_bar("reading", len(files), "file") as bar:
        jobs = _reading_jobs(files, folder, wanted, covariates, columns, broken)
        for reads, rows in crew.run(jobs, lambda answer: bar.update(sum(one.unread is None for one in answer[0]))):
            for read in reads:
                told[read.number].append((read, rows))
    joined = set[int]()
    for number, (path, name) in enumerate(files):
        inside, unread = dict[str, None](), Unread(path)
        with refusals.of_file(name, alone=len(files) == 1, inside=inside):
            for read, rows in told[number]:
                if id(rows) not in joined:
                    joined.add(id(rows))
                    raw.join(rows)
                for spans in read.pieces:
                    refusals.add(periods.add(path, spans))
                    inside |= dict.fromkeys(spans)
                    seen |= inside
                if read.error is not None:
                    raise read.error
                if read.unread is not None:
                    unread.join(read.unread)
            if number in broken:
                raise broken[number]
            unread.check()
    check_known([name for name in wanted or () if name not in refusals.skipped], seen, OHLCV.id)
    return raw


def _reading_jobs(
    files: Sequence[tuple[Path, str]],
    folder: Path,
    wanted: Sequence[str] | None,
    covariates: Sequence[str],
    columns: Columns,
    broken: dict[int, Exception],
) -> Iterator[Callable[[], Any]]:
    """Small files together; of a large one of several tickers this process reads the tables, and others the cells.

    `broken` gets what is wrong with a table of such a file, after the pieces before it."""
    small: list[tuple[int, Path, str]] = []
    options, places, size = (wanted, covariates, columns), count(), 0
    for number, (path, name) in enumerate(files):
        bytes_ = path.stat().st_size if path.is_file() else LARGE
        if small and size + bytes_ > LARGE:
            yield partial(_read_files, small, folder / str(next(places)), *options)
            small, size = [], 0
        tables = None
        if bytes_ >= LARGE:
            try:
                for table, reading in raw_tables(path, name, ROWS, covariates, columns):
                    if OHLCV.id not in reading.column:  # it is one ticker
                        break
                    tables = True
                    yield partial(_read_piece, number, table, reading, folder / str(next(places)), wanted)
            except Exception as error:  # told when its file's turn comes
                tables, broken[number] = True, error
        if tables is None:
            small, size = [*small, (number, path, name)], size + bytes_
    if small:
        yield partial(_read_files, small, folder / str(next(places)), *options)


def _read_files(
    files: Sequence[tuple[int, Path, str]],
    folder: Path,
    wanted: Sequence[str] | None,
    covariates: Sequence[str],
    columns: Columns,
) -> tuple[list[FileRead], Raw]:
    reads, raw = [], Raw()
    spill = Spill(folder, "ticker")
    for number, path, name in files:
        reads.append(read := FileRead(number))
        try:
            for rows in raw_pieces(path, name, ROWS, covariates, columns):
                read.pieces.append(spans_of(rows))
                spill.add(_to_spill(rows, wanted))
        except Exception as error:
            read.error = error
    raw.add(spill)
    return reads, raw


def _read_piece(
    number: int, table: pd.DataFrame, reading: Reading, folder: Path, wanted: Sequence[str] | None
) -> tuple[list[FileRead], Raw]:
    read, raw = FileRead(number, unread=Unread(reading.path)), Raw()
    spill = Spill(folder, "ticker")
    try:
        rows = reading.typed(table, read.unread)
        read.pieces.append(spans_of(rows))
        spill.add(_to_spill(rows, wanted))
    except Exception as error:
        read.error = error
    raw.add(spill)
    return [read], raw


def _to_spill(raw: pd.DataFrame, wanted: Sequence[str] | None) -> pd.DataFrame:
    raw = raw if wanted is None else raw[raw["ticker"].isin(wanted)]
    return raw if "source" in raw else raw.assign(source="")


def groups_of(rows: Mapping[str, int]) -> list[list[str]]:
    """Tickers for one job each, of `JOB` rows together unless one has more."""
    groups: list[list[str]] = []
    size = JOB
    for name, own in rows.items():
        if size + own > JOB:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += own
    return groups


def _clean_group(
    places: Mapping[str, Sequence[PathPlace]], folder: Path
) -> tuple[dict[str, Cleaned], list[np.ndarray]]:
    """By ticker what became of it, and the times of all."""
    answers: dict[str, Cleaned] = {}
    times, opened = np.array([], "datetime64[us]"), Opened()
    for name, own in places.items():
        report = None
        try:
            bars, report = clean_ticker(opened.take(own), name)
            check_left(bars, name)
        except ValueError as error:
            answers[name] = report, 0, None, error
            continue
        write_parquet(bars, folder / file_name(name))
        own_times = bars["timestamp"].to_numpy()
        times = times if np.array_equal(times, own_times) else np.union1d(times, own_times)
        answers[name] = report, len(bars), own_times[0], None
    return answers, [times]


def collect_series(
    source: str | Path | list,
    folder: Path,
    names: Sequence[str] | None = None,
    *,
    columns: Columns = USUAL,
    covariates: Sequence[str] = (),
    strict: bool = False,
) -> Collected:
    """The rows of all plain series.

    Raises:
        ValueError: for files that cannot be read, and for rows that the processor refuses.
    """
    found = Collected(folder / "bars")
    frame = read_series(source, names, covariates=covariates, strict=strict, **asdict(columns))
    own = ("timestamp", UNIVARIATE.id, *UNIVARIATE.columns, *columns.static)
    more = [name for name in frame if name not in own]
    panel = with_static_of(split_tickers(frame, UNIVARIATE, more, strict=strict), frame, columns.static)
    found.skipped, found.lasting = panel.skipped, panel.lasting
    for name, rows in panel.items():
        rows["timestamp"] = rows["timestamp"].astype("datetime64[us]")
        rows.insert(1, UNIVARIATE.id, name)
        rows.attrs["static"] = panel.static.get(name, {})
        write_parquet(rows, found.folder / file_name(name))
        found.add(name, len(rows), rows["timestamp"].to_numpy()[0])
        found.add_times(rows["timestamp"].to_numpy())
    return found


class Spill:
    """Rows that come in any order, given back name by name, and on disk in between.

    A file holds `BUFFER` rows, in one record batch per name, so that a name is read without the others.
    """

    def __init__(self, folder: Path, column: str):
        folder.mkdir(parents=True)
        self.folder, self.column = folder, column
        self._buffer: list[pd.DataFrame] = []
        self._files = 0
        self.places: dict[str, list[Place]] = {}  # by name
        self.rows: Counter[str] = Counter()  # of each name

    def add(self, rows: pd.DataFrame) -> None:
        self._buffer.append(rows)
        if sum(map(len, self._buffer)) >= BUFFER:
            self._write()

    def names(self) -> list[str]:
        """In order of first row."""
        self._write()
        return list(self.places)

    def _write(self) -> None:
        rows = pd.concat(self._buffer, ignore_index=True) if self._buffer else pd.DataFrame()
        self._buffer = []
        if rows.empty:
            return
        codes, names = pd.factorize(rows[self.column])
        order = np.argsort(codes, kind="stable")
        ends = np.cumsum(np.bincount(codes))
        table = pa.Table.from_pandas(rows.iloc[order], preserve_index=False)
        [batch] = table.combine_chunks().to_batches()
        path = _spilled(self.folder, self._files)
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            for number, (name, end) in enumerate(zip(names, ends, strict=True)):
                first = ends[number - 1] if number else 0
                file.write_batch(batch.slice(first, end - first))
                self.places.setdefault(str(name), []).append((self._files, number))
                self.rows[str(name)] += int(end - first)
        self._files += 1


def _spilled(folder: Path, number: int) -> Path:
    return folder / f"{number}.arrow"


class Opened:
    """Files of spills, which are read in places."""

    def __init__(self) -> None:
        self._files: dict[Path, pa.ipc.RecordBatchFileReader] = {}

    def take(self, places: Iterable[PathPlace]) -> pd.DataFrame:
        """The rows there, in this order."""
        batches = []
        for path, number in places:
            if path not in self._files:
                self._files[path] = pa.ipc.open_file(pa.OSFile(str(path)))
            batches.append(pa.Table.from_batches([self._files[path].get_batch(number)]))
        return pa.concat_tables(batches, promote_options="permissive").to_pandas()


@dataclass(frozen=True)
class Group:
    """Some tickers of a spill, for any process that sees its folder."""

    folder: Path
    kind: str
    places: dict[str, list[Place]]  # by ticker

    def read(self) -> pd.DataFrame:
        """Their bars, as `read_bars` or `read_series` gives them."""
        opened, frames = Opened(), []
        for places in self.places.values():
            rows = opened.take((_spilled(self.folder, file), batch) for file, batch in places)
            frames.append(joined_bars(rows) if self.kind == OHLCV.name else rows)
        return pd.concat(frames, ignore_index=True)


def collect_groups(
    source: str | Path | list,
    folder: Path,
    tickers: Sequence[str] | None = None,
    *,
    kind: Kind,
    columns: Columns = USUAL,
    covariates: Sequence[str] = (),
    strict: bool = False,
    told: Callable[[int], Any] = lambda rows: None,
) -> tuple[list[Group], dict[str, str]]:
    """All bars of `source` on disk, in groups of tickers in order of first row, which the data alone decide; and the
    tickers or files that were skipped. `told` hears of the rows as they come. Plain series are read at once.

    Raises:
        ValueError: as `read_bars` and `read_series`.
    """
    refusals = Refusals(strict=strict)
    spill = Spill(folder, kind.id)
    if kind is OHLCV:
        check_no_value(columns)
        options: dict[str, Any] = {"covariates": covariates, "missing_ok": True, **columns.of_bars()}
        seen: dict[str, None] = {}
        for rows in iter_bars(source, refusals, **options):
            seen |= dict.fromkeys(rows[kind.id].unique())
            spill.add(rows if tickers is None else rows[rows[kind.id].isin(tickers)])
            told(len(rows))
        spill.names()  # writes the last of them
        names, skipped = left_of(list(seen), tickers, refusals.skipped, kind.id)
    else:
        frame = read_series(source, tickers, covariates=covariates, strict=strict, **asdict(columns))
        told(len(frame))
        spill.add(frame)
        names, skipped = spill.names(), frame.attrs["skipped"]
    parts: list[list[str]] = []
    for name in names:
        rows = sum(spill.rows[one] for one in [name, *(parts[-1] if parts else [])])
        if not parts or len(parts[-1]) == GROUP or rows > BUFFER:
            parts.append([])
        parts[-1].append(name)
    places = [{name: spill.places[name] for name in part} for part in parts]
    write_json({"kind": kind.name, "groups": places}, folder / GROUPS)
    return read_groups(folder), skipped


def read_groups(folder: Path) -> list[Group]:
    """What `collect_groups` left there."""
    told = json.loads((folder / GROUPS).read_text(encoding="utf-8"))
    return [Group(folder, told["kind"], places) for places in told["groups"]]
