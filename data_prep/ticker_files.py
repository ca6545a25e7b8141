"""Files of any size to one checked file per ticker, in memory that does not grow with the number of tickers.

Design choices:
- Rows come in pieces, in the order of the files, and go to disk regrouped by ticker; then one ticker after the other
  is read back and cleaned. A piece, `BUFFER` rows and the longest ticker are all that is in memory.
- What is needed of all tickers together is gathered on the way: the distinct bar times, and the moments of a universe.
- Files of plain series are read at once: they are small, and their value may have to be guessed from a whole column.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..bars_tsf_llm import OHLCV, UNIVARIATE, Kind, refuse_if_none_left, split_tickers, tell_skipped
from ..common.files import write_json, write_parquet
from ..market_tsf_llm import MarketMoments
from .clean import check_left, clean_ticker, summary_of
from .columns import USUAL, Columns
from .shards import file_name
from .sources import Refusals, check_no_value, iter_bars, iter_raw, joined_bars, left_of, read_series

BUFFER = 300_000  # rows; of prices about 50 MB
GROUP = 64  # tickers, of fewer than BUFFER rows together unless one has more
GROUPS = "groups.json"
Place = tuple[int, int]  # file and batch of a spill


@dataclass
class Collected:
    """One parquet file of checked bars per ticker, in order of first row, and what is known of all together."""

    folder: Path
    files: dict[str, Path] = field(default_factory=dict)
    times: np.ndarray = field(default_factory=lambda: np.array([], "datetime64[us]"))
    moments: MarketMoments | None = None  # of all tickers, where they are a market
    report: dict[str, Any] | None = None  # of cleaning
    skipped: dict[str, str] = field(default_factory=dict)  # ticker or file -> why there is none of it

    def add(self, name: str, bars: pd.DataFrame) -> None:
        self.files[name] = self.folder / file_name(name)
        write_parquet(bars, self.files[name])
        times = bars["timestamp"].to_numpy()
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
) -> Collected:
    """The cleaned bars of all tickers, with these columns; and the moments of the `universe`, the market they make.

    A ticker counts from its second bar, whether or not many will follow: to ask for more would look ahead.

    Raises:
        ValueError: for files that cannot be read (several: all of them or, if `strict`, one), or if no bar is left.
    """
    found = Collected(folder / "bars", moments=MarketMoments() if universe else None)
    reports, refusals = {}, Refusals(strict=strict)
    with Spill(folder / "raw", "ticker") as spill:
        for raw in iter_raw(source, tickers, covariates=covariates, refusals=refusals, **columns.of_bars()):
            spill.add(raw if "source" in raw else raw.assign(source=""))
        for name in (name for name in spill.names() if name not in refusals.skipped):
            with refusals.of_file(name, alone=False):
                bars, reports[name] = clean_ticker(spill.take(name), name)
                check_left(bars, name)
                found.add(name, bars)
                if found.moments is not None:
                    found.moments.add(name, bars)
    refuse_if_none_left(reports, refusals.skipped)
    found.report, found.skipped = summary_of(reports) | {"skipped": refusals.skipped}, refusals.skipped
    tell_skipped([*found.skipped.values()])
    return found


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
    more = [name for name in frame if name not in ("timestamp", UNIVARIATE.id, *UNIVARIATE.columns)]
    panel = split_tickers(frame, UNIVARIATE, more, strict=strict)
    found.skipped = panel.skipped
    for name, rows in panel.items():
        rows["timestamp"] = rows["timestamp"].astype("datetime64[us]")
        rows.insert(1, UNIVARIATE.id, name)
        found.add(name, rows)
    return found


class Spill:
    """Rows that come in any order, given back name by name, and on disk in between.

    A file holds `BUFFER` rows, in one record batch per name, so that a name is read without the others.
    """

    def __init__(self, folder: Path, column: str):
        folder.mkdir(parents=True)
        self.folder, self.column = folder, column
        self._buffer: list[pd.DataFrame] = []
        self._files: list[pa.ipc.RecordBatchFileReader] = []
        self.places: dict[str, list[Place]] = {}  # by name
        self.rows: Counter[str] = Counter()  # of each name

    def __enter__(self) -> "Spill":
        return self

    def __exit__(self, *_: Any) -> None:
        self._files.clear()

    def add(self, rows: pd.DataFrame) -> None:
        self._buffer.append(rows)
        if sum(map(len, self._buffer)) >= BUFFER:
            self._write()

    def names(self) -> list[str]:
        """In order of first row."""
        self._write()
        return list(self.places)

    def take(self, name: str) -> pd.DataFrame:
        """The rows of a name, in the order they came."""
        parts = [self._files[file].get_batch(batch).to_pandas() for file, batch in self.places[name]]
        return pd.concat(parts, ignore_index=True)

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
        path = _spilled(self.folder, len(self._files))
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            for number, (name, end) in enumerate(zip(names, ends, strict=True)):
                first = ends[number - 1] if number else 0
                file.write_batch(batch.slice(first, end - first))
                self.places.setdefault(str(name), []).append((len(self._files), number))
                self.rows[str(name)] += int(end - first)
        self._files.append(_opened(self.folder, len(self._files)))


def _spilled(folder: Path, number: int) -> Path:
    return folder / f"{number}.arrow"


def _opened(folder: Path, number: int) -> pa.ipc.RecordBatchFileReader:
    return pa.ipc.open_file(pa.OSFile(str(_spilled(folder, number))))


@dataclass(frozen=True)
class Group:
    """Some tickers of a spill, for any process that sees its folder."""

    folder: Path
    kind: str
    places: dict[str, list[Place]]  # by ticker

    def read(self) -> pd.DataFrame:
        """Their bars, as `read_bars` or `read_series` gives them."""
        numbers = sorted({file for places in self.places.values() for file, _ in places})
        files = {number: _opened(self.folder, number) for number in numbers}
        frames = []
        for places in self.places.values():
            rows = pd.concat([files[file].get_batch(batch).to_pandas() for file, batch in places], ignore_index=True)
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
    with Spill(folder, kind.id) as spill:
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
