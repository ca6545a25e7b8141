"""What a client sent as bars -> frames: JSON as it stands, a file by the reader of `data_prep`, with its refusals.

Design choices:
* A file is read from a folder of its own that is gone afterwards. Its name, of which a ticker may come, is made plain;
  no message names the folder.
* What a file would become is bounded before it is read: a few bytes of gzip or parquet can hold billions.
"""

import re
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from ...cells_tsf_llm import NumberFormat, TimeFormat, read_numbers, read_times
from ...columns_tsf_llm import ALIASES, SERIES_ALIASES, find_columns
from ...data_prep.columns import Columns
from ...data_prep.sources import read_for, read_market
from ...processing_tsf_llm import TsfLlmProcessor
from ..uploads import check_size
from .bodies import MAX_BARS, MAX_COLUMNS, Hints, Tables

NUMBERS = {name: aliases for name, aliases in ALIASES.items() if name not in ("timestamp", "ticker")}


def sent_tables(asked: Tables) -> dict[str, Any]:
    """Bars, market and names of columns, as the pipeline takes them.

    Raises:
        ValueError: the records have too many columns, or are not written as the hints say.
    """
    market = None if asked.market is None else _frame(asked.market, asked)
    names = {"id_column": asked.id, "timestamp_column": asked.time, "target_column": asked.value}
    given = {name: value for name, value in names.items() if value is not None}
    return {"bars": _frame(asked.bars, asked), "market": market, **given}


def _frame(bars: list[dict[str, Any]] | dict[str, list[Any]], asked: Hints) -> pd.DataFrame:
    frame = pd.DataFrame(bars)
    if len(frame.columns) > MAX_COLUMNS:
        raise ValueError(f"the records have {len(frame.columns)} columns: give at most {MAX_COLUMNS}")
    known = find_columns(frame, {"timestamp": SERIES_ALIASES["timestamp"], **NUMBERS})
    if asked.dates is not None:
        time = asked.time or known.get("timestamp")
        if time in frame:
            stamps, bad = read_times(frame[time], TimeFormat.of(frame[time], asked.dates))
            frame[time] = frame[time] if bad.size else stamps  # whatever is no time, the processor names
    if asked.decimal is not None:
        for name in {*known.values(), asked.value} - {known.get("timestamp"), asked.time, None} & {*frame}:
            numbers, bad = read_numbers(frame[name], NumberFormat(asked.decimal, proven=True), scales=True)
            frame[name] = frame[name] if bad.size else numbers
    return frame


def uploaded(content: bytes, name: str, asked: Hints, processor: TsfLlmProcessor) -> pd.DataFrame:
    """The bars, or the plain series, of a file of this name.

    Raises:
        ValueError: the reader refuses it, or it holds too much.
    """
    columns = Columns(value=asked.value, id=asked.id, time=asked.time, dates=asked.dates, decimal=asked.decimal)
    return _read(content, name, lambda path: read_for(processor, path, columns=columns, strict=asked.strict))


def uploaded_market(content: bytes, name: str, asked: Hints) -> pd.DataFrame:
    """The bars of an index, or of a universe, in a file of this name; raises ValueError as `uploaded`."""
    return _read(content, name, lambda path: read_market(path, dates=asked.dates, decimal=asked.decimal))


def _read(content: bytes, name: str, read: Any) -> pd.DataFrame:
    with tempfile.TemporaryDirectory(prefix="tsf-llm-") as folder:
        path = Path(folder) / plain_file_name(name)
        path.write_bytes(content)
        try:
            check_size(path, rows=MAX_BARS, columns=MAX_COLUMNS)
            return read(str(path))
        except (OSError, ValueError) as error:
            raise ValueError(str(error).replace(f"{folder}/", "")) from None


def plain_file_name(name: str) -> str:
    """The last part of a client's name for a file, of plain characters.

    >>> plain_file_name("../../etc/BRK B.csv"), plain_file_name("C:\\\\AAPL.csv.gz"), plain_file_name("")
    ('BRK_B.csv', 'AAPL.csv.gz', 'file')
    """
    last = re.split(r"[/\\]", name)[-1]
    return re.sub(r"[^\w.^=-]", "_", last)[-80:].lstrip(".-") or "file"
