"""Price files as they are, for cleaning: where `read_bars` refuses a cell, it is left empty and noted.

Files, names of columns, dates and numbers are found and read by `sources`; only what happens to a bad cell differs.
"""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from . import sources
from .sources import PRICES

# Names of columns that only cleaning asks for.
RAW_ALIASES = {
    "split_coefficient": ("splitcoefficient", "splitfactor", "splitratio", "stocksplits"),
    "source": ("source", "vendor", "provider"),
}
RAW_NUMBERS = [*PRICES, "volume", "adj_close", "split_coefficient"]
LARGEST_NOTE = 80  # characters kept of what a bad cell held


def read_raw(source: str | Path | list, tickers: Sequence[str] | None = None) -> pd.DataFrame:
    """What is in the files of `source`, for `clean_bars`: defects and all, nothing adjusted.

    Columns as of `raw_columns`, and `file`; tickers and rows are ordered as by `read_bars`. A line of a CSV with too
    many cells becomes one row without any number, the line in its note.

    Raises FileNotFoundError for a path that does not exist and ValueError for what is no table of prices.
    """
    return sources._read(source, tickers, _read_raw_file)


def _read_raw_file(path: Path, *, shared_name: bool) -> pd.DataFrame:
    try:
        raw = sources._load(path)
    except ValueError as error:
        if not isinstance(error.__cause__, pd.errors.ParserError | pd.errors.ParserWarning | UnicodeError):
            raise
        raw = _read_crooked_csv(path)
    if raw.empty:
        raise ValueError(f"{path} has no rows; download or export it again.")
    return raw_columns(raw, path, ticker=sources._ticker_of(path, shared_name=shared_name)).assign(file=path.name)


def raw_columns(raw: pd.DataFrame, where: str | Path = "the frame", ticker: str = "series") -> pd.DataFrame:
    """Any table of prices in the columns that `clean_bars` works on; a second time changes nothing.

    `timestamp` (NaT where unreadable), `ticker` ("" where empty), `open, high, low, close, volume, adj_close,
    split_coefficient` (float64, NaN where missing or unreadable), `source` (if there is one), `row` (from 1) and
    `note`: what the unreadable cells of the row held, as in `close='#REF!'`.
    """
    column = sources._match_columns(raw, where, sources.ALIASES | RAW_ALIASES)
    for name in column.values():
        if not isinstance(raw[name], pd.Series):
            raise ValueError(f"{where} has more than one column '{name}'; keep one of each.")
    notes = raw["note"].astype(str).to_numpy(object) if "note" in raw else np.full(len(raw), "", dtype=object)

    def note(name: str, bad: np.ndarray) -> None:
        for row, value in zip(bad, raw[column[name]].iloc[bad].astype(object), strict=True):
            if held := str(value).strip()[:LARGEST_NOTE].replace("NaT", ""):
                notes[row] += f"{'; ' if notes[row] else ''}{name}='{held}'"

    stamps, bad = sources._parse_timestamps(raw[column["timestamp"]])
    note("timestamp", bad)
    frame = pd.DataFrame({"timestamp": stamps.to_numpy()})
    frame["ticker"] = ticker if "ticker" not in column else sources._stripped(raw[column["ticker"]]).to_numpy()
    for name in RAW_NUMBERS:
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


def _read_crooked_csv(path: Path) -> pd.DataFrame:
    """A CSV whose lines differ in length, or with bytes that are no UTF-8: slower; each such line is one bad row."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "encoding_errors": "replace"}
            header = pd.read_csv(path, nrows=0, engine="python", index_col=False, **options).columns
            names = [sources._plain_name(name) for name in header]
            place = next((i for i, name in enumerate(names) if name in sources.ALIASES["timestamp"]), 0)

            def one_bad_cell(cells: list[str]) -> list[str]:
                return ["" if i != place else ",".join(map(str, cells)) for i in range(len(names))]

            return pd.read_csv(
                path,
                engine="python",
                index_col=False,
                on_bad_lines=one_bad_cell,
                **options,
            )
    except (ValueError, OverflowError, csv.Error) as error:  # pandas' own parser errors are among these
        raise ValueError(
            f"{path} is not a comma-separated file ({sources._first_line(error)}); export it again."
        ) from error
