"""Files and datasets to tables, as they stand: nothing is matched, parsed, sorted or repaired here.

Design choices:
- CSV (plain or gzip), parquet, and datasets of the Hub or of `save_to_disk`. A pickle can run code when it is
  opened, so it is refused; so is a dataset that comes with a script.
- CSV cells are read as text: a bad cell can be named with its row, tickers such as `NA` or `000001` stay as written.
- Tables come `ROWS` rows at a time, so that memory need not grow with them.
"""

import csv
import gzip
import os
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..columns_tsf_llm import ALIASES, SERIES_ALIASES, find_columns, plain_name, stacked, without_index
from ..common.reading import shapes_of
from .layouts import UNKNOWN_BYTES, Layout, begins_like_a_table, described, layout_of

SAMPLE = "sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "us_daily_2000_2013_publicdomain.csv.gz"
SAMPLE_INDEX = SAMPLE_FILE.with_name("vix_daily_2000_2013_publicdomain.csv.gz")
EXTENSIONS = (".csv", ".csv.gz", ".parquet")
TEXTS = (".txt", ".tsv", ".txt.gz", ".tsv.gz")  # of vendors; in a folder only those that begin like a table
HUB = "hf:"
ROWS = 100_000
SLIPS = 0.05  # share of names of series whose letters may be broken
MOST_ENTRIES = 100_000  # files and folders that are looked at below a folder


def list_files(source: str | Path | list) -> list[Path]:
    """Files, and what `datasets` opens: folders of `save_to_disk` and `hf:` names.

    Raises FileNotFoundError for a path that does not exist and ValueError for what is not read here.
    """
    if isinstance(source, list | tuple):
        if not source:
            raise ValueError("The list of price files is empty; name at least one file or folder.")
        return [file for part in source for file in list_files(part)]
    if source == SAMPLE:
        return [SAMPLE_FILE]
    if str(source).startswith(HUB):
        if not _hub_name(Path(source))[0]:
            raise ValueError(f"'{source}' names no dataset; write it as {HUB}org/name or {HUB}org/name:split.")
        return [Path(source)]
    try:
        path = Path(source).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{source}: no such user on this machine; write the path without ~.") from error
    if _is_saved_dataset(path):
        return [path]
    if path.is_dir():
        files = _files_below(path)
        if not files:
            raise ValueError(f"{path} holds no price files; expected {', '.join(EXTENSIONS)} files in it.")
        return files
    _check_file(path)
    return [path]


def _check_file(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(f"{path} is a link to {path.readlink()}, which does not exist; mend or remove it.")
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a file, a folder, or '{SAMPLE}' for the embedded data.")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe, a socket or a device; name a file, which can be read twice.")
    name = path.name.lower()
    if name.endswith((".pkl", ".pickle")):
        raise ValueError(f"{path} is a pickle, which can run code when opened; save it as parquet or CSV instead.")
    if name.endswith((".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar", ".bz2", ".xz", ".zst")):
        raise ValueError(f"{path} is an archive; unpack it and name the {' or '.join(EXTENSIONS)} file in it.")
    if name.endswith((".xlsx", ".xls", ".xlsm", ".ods")):
        raise ValueError(f"{path} is a spreadsheet; save its sheet as CSV (UTF-8) and name that file.")
    if not name.endswith((*EXTENSIONS, *TEXTS)):
        raise ValueError(f"{path} has an extension that is not read here; convert it to {' or '.join(EXTENSIONS)}.")


def _files_below(folder: Path) -> list[Path]:
    """The price files of a folder and of those in it, links to folders left out; sorted.

    Raises:
        ValueError: there are too many to be the folder of somebody's prices, or one of them is no file.
        OSError: a folder, or a link, that cannot be followed.
    """
    files, seen, folders = [], 0, [folder]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    raise ValueError(
                        f"{folder} holds more than {MOST_ENTRIES:,} files and folders, {len(files):,} of them price "
                        "files so far; name the folder of the price files."
                    )
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif _is_supported(path) and not path.is_dir():
                    _check_file(path)
                    files.append(path)
    return sorted(files)


def named_files(source: str | Path | list) -> list[tuple[Path, str]]:
    """`list_files`, each with the ticker in its path.

    `AAPL.csv`, `AAPL_yahoo_20260118.csv`, `AAPL/AAPL-daily.csv`, `AAPL/daily.csv` beside `MSFT/daily.csv`, and
    `BTCUSDT-1h-2024-01.csv` or `-2024-01-31.csv`, of which there are many per ticker.
    """
    files = list_files(source)
    stems = Counter(file.name for file in files)
    return [(file, _name_in(file, is_shared=stems[file.name] > 1 and not _is_ticker(file))) for file in files]


def _is_ticker(path: Path) -> bool:
    """`stooq/AAPL.csv`, beside which `yahoo/AAPL.csv` is the same ticker again; not `AAPL/daily.csv`."""
    capitals = r"[A-Z0-9^][A-Z0-9.=^-]*"
    return bool(re.fullmatch(capitals, _stem(path)) and not re.fullmatch(capitals, path.resolve().parent.name))


def _name_in(path: Path, *, is_shared: bool) -> str:
    path = Path(_hub_name(path)[0]) if str(path).startswith(HUB) else path
    stem, parent = _stem(path), path.resolve().parent.name
    if is_shared or re.match(rf"{re.escape(parent)}([_-]|$)", stem):
        return parent
    return re.sub(r"(_[A-Za-z]+_\d{8}|-\d+[a-z]+-\d{4}(-\d\d){1,2})$", "", stem)


def _stem(path: Path) -> str:
    return re.sub(r"\.(csv|parquet|txt|tsv)(\.gz)?$", "", path.name, flags=re.IGNORECASE)


def _is_supported(path: Path) -> bool:
    """A price file by its name; of texts also by its first lines, for a folder may hold a readme."""
    name = path.name.lower()
    if name.startswith(".") or not name.endswith((*EXTENSIONS, *TEXTS)):
        return False
    return name.endswith(EXTENSIONS) or (path.is_file() and begins_like_a_table(path))


def _is_saved_dataset(path: Path) -> bool:
    files = {"dataset_info.json", "state.json"}
    return (path / "dataset_dict.json").is_file() or all((path / name).is_file() for name in files)


def open_table(path: Path) -> pd.DataFrame:
    """All rows of a file or dataset.

    Raises:
        ValueError: it cannot be read, is not comma-separated, or has no rows.
    """
    pieces = [piece for piece in iter_tables(path) if len(piece)]
    if not pieces:
        raise ValueError(f"{path} has no rows; download or export it again.")
    return pd.concat(pieces, ignore_index=True)


def iter_tables(path: Path, rows: int = ROWS, *, crooked: bool = False) -> Iterator[pd.DataFrame]:
    """The rows of a file or dataset, at most `rows` at a time.

    A CSV whose lines differ in length, or with bytes that are no UTF-8, is refused unless `crooked` lines are welcome:
    then one with too many cells becomes a row without any but the line itself, in the column of times.
    """
    if str(path).startswith(HUB) or path.is_dir():
        yield from _open_dataset(path).to_pandas(batch_size=rows, batched=True)
    elif path.suffix.lower() == ".parquet":
        yield from _iter_parquet(path, rows)
    else:
        yield from (_iter_any_csv if crooked else _iter_csv)(path, rows)


# --- datasets ------------------------------------------------------------------------------------------------------


def _open_dataset(path: Path) -> Any:
    """A `datasets.Dataset`."""
    import datasets  # half a second, and most sources are files

    is_hub, (name, split) = str(path).startswith(HUB), _hub_name(path)
    remedy = "check its name, split, access and the connection" if is_hub else "write it again with save_to_disk"
    with shapes_of(path, remedy):
        try:
            data = datasets.load_dataset(name, split=split or None) if is_hub else datasets.load_from_disk(path)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(f"{path} cannot be read ({_first_line(error)}); {remedy}.") from error
    if isinstance(data, dict):
        if not data:
            raise ValueError(f"{path} has no split with rows; {remedy}.")
        if len(data) > 1:
            choices = ", ".join(f"{path}:{part}" if is_hub else str(path / part) for part in data)
            raise ValueError(f"{path} has several splits; name one: {choices}.")
        data = next(iter(data.values()))
    return data.with_format(None)


def _hub_name(path: Path) -> tuple[str, str]:
    """`hf:org/name:split` -> `org/name`, `split`; the split may be empty, or `train[:10%]`."""
    name, _, split = str(path).removeprefix(HUB).partition(":")
    return name, split


# --- parquet -------------------------------------------------------------------------------------------------------


def _iter_parquet(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    try:
        with pq.ParquetFile(path) as file:
            columns = _flat_columns(path, file.schema_arrow)
            for batch in file.iter_batches(batch_size=rows, columns=columns):
                yield _in_rows(_to_pandas(pa.Table.from_batches([batch])))
    except (OSError, ValueError) as error:  # pyarrow's errors are among these
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download or export it again.") from error


def _flat_columns(path: Path, schema: pa.Schema) -> list[str] | None:
    """All of them, or those without lists and structs in their cells, which nothing here reads."""
    nested = [field for field in schema if pa.types.is_nested(field.type)]
    for field in nested:
        if any(plain_name(field.name) in names for names in (ALIASES | SERIES_ALIASES).values()):
            raise ValueError(f"{path}: column '{field.name}' holds {field.type} in a cell; write one number or text.")
    return [field.name for field in schema if field not in nested] if nested else None


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    """By pandas' own description of the table; where that is broken, or not true, its columns as they are."""
    try:
        return table.to_pandas()
    except (ValueError, TypeError, LookupError, AttributeError):
        return table.replace_schema_metadata(None).to_pandas()


# --- CSV -----------------------------------------------------------------------------------------------------------


def _iter_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    layout = _layout(path)
    with _csv_errors(path, layout):
        reader = pd.read_csv(path, chunksize=rows, **layout.options)
    with reader:
        while True:
            with _csv_errors(path, layout):
                cells = next(reader, None)
                if cells is None:
                    return
                table = _in_rows(layout.named(cells))
                layout.check(table)
            yield table


def _in_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One row per time and ticker, and all that is known in columns."""
    return without_index(stacked(table)).reset_index(drop=True)


def _layout(path: Path) -> Layout:
    try:
        return layout_of(path)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download or export it again.") from error


@contextmanager
def _csv_errors(path: Path, layout: Layout) -> Iterator[None]:
    """What pandas says of a CSV as one line; a row longer than the header is an error too.

    pandas would cut it, or take the first column for an index.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            yield
    except pd.errors.EmptyDataError:
        return  # a header, and nothing else
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeError) as error:
        raise ValueError(
            f"{path} is not a {described(layout)} file ({_first_line(error)}); export it again, or let tsf-llm clean "
            "drop the lines that are none."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({_first_line(error)}); download or export it again.") from error


def _iter_any_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """Where the fast reader meets a line that no CSV has, the slower reader of such lines goes on."""
    done = 0
    try:
        for table in _iter_csv(path, rows):
            done += len(table)
            yield table
        return
    except ValueError as error:
        if not isinstance(error.__cause__, pd.errors.ParserError | pd.errors.ParserWarning | UnicodeError):
            raise
    for table in _iter_crooked_csv(path, rows):
        skipped = min(done, len(table))
        done -= skipped
        yield table.iloc[skipped:]


def _iter_crooked_csv(path: Path, rows: int) -> Iterator[pd.DataFrame]:
    """Not by pandas, whose version 2 cuts a long line in silence."""
    layout = _layout(path)
    encoding = "utf-8-sig" if layout.encoding == UNKNOWN_BYTES else layout.encoding
    options: dict[str, Any] = {"encoding": encoding, "errors": "replace", "newline": ""}
    length = len(layout.names)
    place = _place_of_time(layout)

    def one_row(cells: list[str]) -> list[str]:
        if len(cells) > length:  # nobody knows which cell is which
            return ["" if i != place else layout.separator.join(cells) for i in range(length)]
        return cells + [""] * (length - len(cells))

    try:
        with gzip.open(path, "rt", **options) if path.suffix.lower() == ".gz" else path.open(**options) as file:
            for _ in range(layout.first):
                next(file)
            cells_of = csv.reader(file, delimiter=layout.separator, skipinitialspace=layout.blanks)
            lines = (cells for cells in cells_of if len(cells) > 1 or "".join(cells).strip())
            while piece := list(islice(lines, rows)):
                table = _in_rows(layout.named(pd.DataFrame([one_row(cells) for cells in piece], dtype=str)))
                layout.check(table, lambda name: "\ufffd" not in name, share=SLIPS)
                yield table
    except (ValueError, OverflowError, csv.Error) as error:  # pandas' own parser errors are among these
        raise ValueError(
            f"{path} is not a {described(layout)} file ({_first_line(error)}); export it again."
        ) from error


def _place_of_time(layout: Layout) -> int:
    if layout.levels > 1:
        return 0
    table = pd.DataFrame(columns=list(layout.names))
    name = find_columns(table, {"timestamp": SERIES_ALIASES["timestamp"]}).get("timestamp")
    return 0 if name is None else list(layout.names).index(name)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
