"""Price files as they are, for cleaning: where `read_bars` refuses a cell, it is left empty and noted.

Files, names of columns, dates and numbers are found and read by `sources`; only what happens to a bad cell differs.
Files are read `ROWS` rows at a time, so that memory need not grow with them: `iter_raw` yields the pieces, `read_raw`
joins them. How a file writes its dates is told by its first piece.
"""

import csv
import gzip
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from . import sources
from .sources import PRICES

# Names of columns that only cleaning asks for.
RAW_ALIASES = {
    "split_coefficient": ("splitcoefficient", "splitfactor", "splitratio", "stocksplits"),
    "source": ("source", "vendor", "provider"),
}
RAW_NUMBERS = [*PRICES, "volume", "adj_close", "split_coefficient"]
RAW_COLUMNS = ["timestamp", "ticker", *RAW_NUMBERS, "source", "file", "row", "note"]  # all else are covariates
LARGEST_NOTE = 80  # characters kept of what a bad cell held
OURS = ["row", "note", "file"]  # of a file's own columns of these names nothing is known
ROWS = 100_000


def read_raw(
    source: str | Path | list, tickers: Sequence[str] | None = None, *, covariates: Sequence[str] = ()
) -> pd.DataFrame:
    """What is in the files of `source`, for `clean_bars`: defects and all, nothing adjusted.

    Columns as of `raw_columns`, and `file`; tickers and rows are ordered as by `read_bars`. A line of a CSV with too
    many cells becomes one row without any number, the line in its note.

    Raises FileNotFoundError for a path that does not exist and ValueError for what is no table of prices.
    """
    raw = pd.concat(iter_raw(source, tickers, covariates=covariates), ignore_index=True)
    by_first_row = np.argsort(pd.factorize(raw["ticker"])[0], kind="stable")
    return raw.iloc[by_first_row].reset_index(drop=True)


def iter_raw(
    source: str | Path | list,
    tickers: Sequence[str] | None = None,
    rows: int = ROWS,
    *,
    covariates: Sequence[str] = (),
) -> Iterator[pd.DataFrame]:
    """The rows of `read_raw` in the order of the files, at most `rows` at a time."""
    files = sources._list_files(source)
    stems = Counter(file.name for file in files)
    wanted = None if tickers is None else [tickers] if isinstance(tickers, str) else list(tickers)
    seen: dict[str, None] = {}
    for file in files:
        ticker = sources._ticker_of(file, shared_name=stems[file.name] > 1)
        for raw in _iter_file(file, ticker, rows, covariates):
            if wanted is not None:
                seen |= dict.fromkeys(raw["ticker"].unique())
                raw = raw[raw["ticker"].isin(wanted)]
            yield raw
    if unknown := [name for name in wanted or () if name not in seen]:
        raise ValueError(f"Unknown ticker {', '.join(unknown)}; the data holds {', '.join(seen)}.")


def _iter_file(path: Path, ticker: str, rows: int, covariates: Sequence[str]) -> Iterator[pd.DataFrame]:
    """A file's pieces in the columns of `raw_columns`."""
    done, time_format = 0, None
    for raw in _load(path, rows):
        if raw.empty:
            continue
        raw = sources._join_time_of_day(raw.reset_index(drop=True)).drop(columns=OURS, errors="ignore")
        if time_format is None:
            column = sources._match_columns(raw, path, sources.ALIASES | RAW_ALIASES)
            time_format = sources._time_format(raw[column["timestamp"]])
        raw["row"] = np.arange(done + 1, done + len(raw) + 1)
        done += len(raw)
        yield raw_columns(raw, path, ticker, time_format, covariates).assign(file=path.name)
    if not done:
        raise ValueError(f"{path} has no rows; download or export it again.")


def _load(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """The pieces of a file as they stand in it."""
    if str(path).startswith(sources.HUB) or path.is_dir():
        yield from sources._open_dataset(path).to_pandas(batch_size=rows, batched=True)
    elif path.suffix.lower() == ".parquet":
        with sources._parquet_errors(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=rows):
                yield sources._without_index(pa.Table.from_batches([batch]).to_pandas())
    else:
        yield from _load_csv(path, rows)


def _load_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """Where the fast reader meets a line that no CSV has, the slower reader of such lines goes on."""
    done = 0
    try:
        for raw in _load_straight_csv(path, rows):
            done += len(raw)
            yield raw
        return
    except ValueError as error:
        if not isinstance(error.__cause__, pd.errors.ParserError | pd.errors.ParserWarning | UnicodeError):
            raise
    for raw in _load_crooked_csv(path, rows):
        skipped = min(done, len(raw))
        done -= skipped
        yield raw.iloc[skipped:]


def _load_straight_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    with sources._csv_errors(path):
        reader = pd.read_csv(path, chunksize=rows, **sources._csv_options(path))
    with reader:
        while True:
            with sources._csv_errors(path):
                raw = next(reader, None)
            if raw is None:
                return
            yield raw


def raw_columns(
    raw: pd.DataFrame,
    where: str | Path = "the frame",
    ticker: str = "series",
    time_format: str | None = None,
    covariates: Sequence[str] = (),
) -> pd.DataFrame:
    """Any table of prices in the columns that `clean_bars` works on; a second time changes nothing.

    `timestamp` (NaT where unreadable), `ticker` ("" where empty), `open, high, low, close, volume, adj_close,
    split_coefficient` and the covariates, by their own names (float64, NaN where missing or unreadable), `source` (if
    there is one), `row` (from 1) and `note`: what the unreadable cells of the row held, as in `close='#REF!'`.
    """
    column = sources._match_columns(raw, where, sources.ALIASES | RAW_ALIASES)
    chosen = sources._choose_covariates(raw, where, covariates, taken=[*column.values(), *RAW_COLUMNS])
    if own := set(chosen) & set(RAW_COLUMNS):
        raise ValueError(f"{where}: {sorted(own)} cannot be covariates, as cleaning has such columns; rename them.")
    column |= {name: name for name in chosen}
    for name in column.values():
        if not isinstance(raw[name], pd.Series):
            raise ValueError(f"{where} has more than one column '{name}'; keep one of each.")
    notes = raw["note"].astype(str).to_numpy(object) if "note" in raw else np.full(len(raw), "", dtype=object)

    def note(name: str, bad: np.ndarray) -> None:
        for row, value in zip(bad, raw[column[name]].iloc[bad].astype(object), strict=True):
            if held := str(value).strip()[:LARGEST_NOTE].replace("NaT", ""):
                notes[row] += f"{'; ' if notes[row] else ''}{name}='{held}'"

    stamps, bad = sources._parse_timestamps(raw[column["timestamp"]], time_format)
    note("timestamp", bad)
    frame = pd.DataFrame({"timestamp": stamps.to_numpy()})
    frame["ticker"] = ticker if "ticker" not in column else sources._stripped(raw[column["ticker"]]).to_numpy()
    for name in [*RAW_NUMBERS, *chosen]:
        frame[name] = np.nan
        if name in column:
            numbers, bad, _ = sources._parse_numbers(raw[column[name]])
            frame[name] = numbers.to_numpy()
            note(name, bad)
    if "source" in column:
        frame["source"] = sources._stripped(raw[column["source"]]).to_numpy()
    if "file" in raw:
        frame["file"] = raw["file"].to_numpy()
    frame["row"] = raw["row"].to_numpy() if "row" in raw else np.arange(1, len(raw) + 1)
    frame["note"] = notes
    return frame


def _load_crooked_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """A CSV whose lines differ in length, or with bytes that are no UTF-8: slower; each such line is one bad row.

    Not by pandas, whose version 2 cuts a long line in silence.
    """
    options: dict[str, Any] = {"encoding": "utf-8-sig", "errors": "replace", "newline": ""}
    try:
        columns = pd.read_csv(path, nrows=0, index_col=False, encoding="utf-8-sig", encoding_errors="replace").columns
        names = [sources._plain_name(name) for name in columns]
        place = next((i for i, name in enumerate(names) if name in sources.ALIASES["timestamp"]), 0)

        def one_row(cells: list[str]) -> list[str]:
            if len(cells) > len(names):  # nobody knows which cell is which
                return ["" if i != place else ",".join(cells) for i in range(len(names))]
            return cells + [""] * (len(names) - len(cells))

        with gzip.open(path, "rt", **options) if path.suffix.lower() == ".gz" else path.open(**options) as file:
            lines = (cells for cells in csv.reader(file) if len(cells) > 1 or "".join(cells).strip())
            next(lines)  # the header
            while piece := list(islice(lines, rows)):
                yield pd.DataFrame([one_row(cells) for cells in piece], columns=columns, dtype=str)
    except (ValueError, OverflowError, csv.Error) as error:  # pandas' own parser errors are among these
        raise ValueError(
            f"{path} is not a comma-separated file ({sources._first_line(error)}); export it again."
        ) from error
