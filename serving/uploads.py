"""What a file that somebody sent would become, bounded before it is read: a little gzip can hold billions of rows."""

import gzip
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

UNPACKED = 64 * 2**20  # bytes of a file's table
LONGEST_CELL = 1024  # bytes of a text in parquet
CHUNK = 2**20


class TooLarge(ValueError):
    """More rows or bytes than are taken."""


class Unreadable(ValueError):
    """Not whole, or not what its name says."""


def check_size(path: Path, *, rows: int, columns: int, unpacked: int = UNPACKED) -> None:
    """Looks at a file before it is read.

    Raises:
        TooLarge: it holds more rows, or more bytes once it is unpacked.
        Unreadable: it is no whole gzip or parquet file.
        ValueError: more columns, long texts, or cells of which each is a table of its own.
    """
    if path.suffix.lower() == ".parquet":
        _check_parquet(path, rows, columns, unpacked)
    elif path.name.lower().endswith((".csv", ".tsv", ".txt", ".gz")):
        _check_text(path, rows, columns, unpacked)


def _too_large(path: Path, rows: int, unpacked: int) -> TooLarge:
    return TooLarge(f"{path} holds more than {rows:,} rows or {unpacked:,} bytes: send less")


def _check_columns(path: Path, count: int, columns: int) -> None:
    if count > columns:
        raise ValueError(f"{path} has more than {columns} columns: send less")


def _check_text(path: Path, most_rows: int, columns: int, unpacked: int) -> None:
    size = rows = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while text := file.read(CHUNK):
                if not size:
                    _check_columns(path, text.partition(b"\n")[0].count(b",") + 1, columns)
                size, rows = size + len(text), rows + text.count(b"\n")
                if size > unpacked or rows > most_rows + 1:
                    raise _too_large(path, most_rows, unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise Unreadable(f"{path} is no whole gzip file ({error}); send it again") from None


def _check_parquet(path: Path, rows: int, columns: int, unpacked: int) -> None:
    """By its own account, and of texts by what they are: one long text may stand in every row."""
    try:
        with pq.ParquetFile(path) as file:
            about, schema = file.metadata, file.schema_arrow
            groups = [about.row_group(i) for i in range(about.num_row_groups)]
            if about.num_rows > rows or sum(group.total_byte_size for group in groups) > unpacked:
                raise _too_large(path, rows, unpacked)
            _check_columns(path, about.num_columns, columns)
            if other := [one.name for one in schema if not _is_flat(one.type)]:
                raise ValueError(f"{path}: column '{other[0][:40]}' holds no numbers, times or texts; leave it out")
        for name in [one.name for one in schema if not pa.types.is_primitive(one.type)]:
            _check_texts(path, name)
    except (pa.ArrowException, OSError, MemoryError) as error:
        raise Unreadable(
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
        if len(values) and (pc.max(pc.binary_length(values.cast(pa.large_binary()))).as_py() or 0) > LONGEST_CELL:
            raise ValueError(f"{path}: column '{name[:40]}' holds a text of more than {LONGEST_CELL} bytes")
