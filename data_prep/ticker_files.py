"""Files of any size to one checked file per ticker, in memory that does not grow with the number of tickers.

Design choices:
- Rows come in pieces, in the order of the files, and go to disk regrouped by ticker; then one ticker after the other
  is read back and cleaned. A piece, `BUFFER` rows and the longest ticker are all that is in memory.
- What is needed of all tickers together is gathered on the way: the distinct bar times, and the moments of a universe.
- Files of plain series are read at once: they are small, and their value may have to be guessed from a whole column.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ..bars_tsf_llm import UNIVARIATE, refuse_if_none_left, split_tickers, tell_skipped
from ..common.files import write_parquet
from ..market_tsf_llm import MarketMoments
from .clean import check_left, clean_ticker, summary_of
from .columns import USUAL, Columns
from .shards import file_name
from .sources import Refusals, iter_raw, read_series

BUFFER = 300_000  # rows; of prices about 50 MB


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
        self._places: dict[str, list[tuple[int, int]]] = {}  # name -> file and batch

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
        return list(self._places)

    def take(self, name: str) -> pd.DataFrame:
        """The rows of a name, in the order they came."""
        parts = [self._files[file].get_batch(batch).to_pandas() for file, batch in self._places[name]]
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
        path = self.folder / f"{len(self._files)}.arrow"
        with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as file:
            for number, (name, end) in enumerate(zip(names, ends, strict=True)):
                first = ends[number - 1] if number else 0
                file.write_batch(batch.slice(first, end - first))
                self._places.setdefault(str(name), []).append((len(self._files), number))
        self._files.append(pa.ipc.open_file(pa.OSFile(str(path))))
