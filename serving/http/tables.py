"""What a client sent as bars -> frames: JSON as it stands, a file by the reader of `data_prep`, with its refusals.

Design choices:
* A file is read from a folder of its own that is gone afterwards. Its name, of which a ticker may come, is made plain;
  no message names the folder.
* What a file would become is bounded before it is read: a few bytes of gzip or parquet can hold billions.
"""

import gzip
import re
import tempfile
import zlib
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...cells_tsf_llm import NumberFormat, TimeFormat, read_numbers, read_times
from ...columns_tsf_llm import ALIASES, SERIES_ALIASES, find_columns
from ...data_prep.columns import Columns
from ...data_prep.sources import read_market
from ...processing_tsf_llm import TsfLlmProcessor
from ...training.data import read_for
from .bodies import MAX_BARS, MAX_COLUMNS, Hints, Tables

MAX_UNPACKED = 64 * 2**20  # bytes of a file's table
MAX_CELL = 1024  # bytes of a text in parquet
NUMBERS = {name: aliases for name, aliases in ALIASES.items() if name not in ("timestamp", "ticker")}
CHUNK = 2**20


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
            check_size(path)
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


def check_size(path: Path) -> None:
    """Raises ValueError for a file that holds more rows, columns or bytes than a request may."""
    if path.suffix.lower() == ".parquet":
        _check_parquet(path)
    elif path.name.lower().endswith((".csv", ".tsv", ".txt", ".gz")):
        _check_text(path)


def _check_text(path: Path) -> None:
    size = rows = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while text := file.read(CHUNK):
                if not size and text.partition(b"\n")[0].count(b",") >= MAX_COLUMNS:
                    raise ValueError(f"{path} has more than {MAX_COLUMNS} columns: send fewer")
                size, rows = size + len(text), rows + text.count(b"\n")
                if size > MAX_UNPACKED or rows > MAX_BARS + 1:
                    raise ValueError(f"{path} holds more than {MAX_BARS:,} rows or {MAX_UNPACKED:,} bytes: send less")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is no whole gzip file ({error}); send it again") from None


def _check_parquet(path: Path) -> None:
    """By its own account, and of texts by what they are: one long text may stand in every row."""
    try:
        with pq.ParquetFile(path) as file:
            about, schema = file.metadata, file.schema_arrow
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            unpacked = sum(group.total_byte_size for group in groups)
            if about.num_rows > MAX_BARS or about.num_columns > MAX_COLUMNS or unpacked > MAX_UNPACKED:
                raise ValueError(
                    f"{path} holds more than {MAX_BARS:,} rows, {MAX_COLUMNS} columns or 64 MiB: send less"
                )
            if other := [one.name for one in schema if not _is_flat(one.type)]:
                raise ValueError(f"{path}: column '{other[0][:40]}' holds no numbers, times or texts; leave it out")
        for name in [one.name for one in schema if not pa.types.is_primitive(one.type)]:
            _check_texts(path, name)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise ValueError(
            f"{path} is no parquet file that can be read ({type(error).__name__}); send it again"
        ) from None


def _is_flat(kind: pa.DataType) -> bool:
    """Whether cells of a type are one number, time or text."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.null())
    return pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or kind in texts


def _check_texts(path: Path, name: str) -> None:
    """Raises ValueError for a long text; each is looked at once, however many rows it stands in."""
    for chunk in pq.read_table(path, columns=[name], read_dictionary=[name])[name].chunks:
        values = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
        if len(values) and (pc.max(pc.binary_length(values.cast(pa.large_binary()))).as_py() or 0) > MAX_CELL:
            raise ValueError(f"{path}: column '{name[:40]}' holds a text of more than {MAX_CELL} bytes")
