"""How this package writes: whole files, apart from what it reads, and never over what somebody else wrote.

Design choices:
- A file appears whole or not at all: it is written beside its target under another name, then renamed.
- A command enters the names of its files into the manifest of their folder (`WRITTEN`) before it writes them. Only
  what a manifest names is replaced or removed; anything else in the place of such a file stops the command first.
- A file that the user named (`--out forecast.csv`) is replaced: that is what was asked for.
- Nothing is written into what is read, nor around it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import chain
from pathlib import Path, PurePosixPath
from threading import get_native_id
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .errors import printable

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what OWASP names
WRITTEN = ".tsf_llm.json"  # the manifest: which files of its folder are ours, and what wrote them


def check_apart(out: str | Path, *sources: Any, whole: bool = False) -> None:
    """Raises ValueError if what is written and what is read lie in one another; links are followed.

    A source is a file, a folder, a list of these, or anything that is no path, as a name on the Hub. A file may be
    read from the folder that named files go to, where `check_free` guards it, but not from one that is ours `whole`.
    """
    target = Path(out).resolve()
    for source in sources:
        if isinstance(source, list | tuple):
            check_apart(out, *source, whole=whole)
        elif isinstance(source, str | Path) and (name := str(source).removeprefix("hf:")) and Path(name).exists():
            read = Path(name).resolve()
            inside = read.is_relative_to(target) and (whole or read.is_dir())
            if target.is_relative_to(read) or inside:
                how = "is" if target == read else "lies in" if target.is_relative_to(read) else "holds"
                raise ValueError(f"{out} {how} {source}, which is read: write to another place, outside of it")


def check_output(path: Path, *extensions: str) -> None:
    """Raises ValueError if no file with one of the extensions can stand there: before the work, not after it."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, and a file is to be written: name one, as {path / 'name'}{extensions[0]}"
        )
    if path.suffix.lower() not in extensions:
        raise ValueError(f"{path} must end in {' or '.join(extensions)}, which says how it is written")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is a pipe, a socket or a device: name a file")
    check_folder(path.parent)


def check_folder(folder: Path) -> None:
    """Raises ValueError if a file stands where a folder is to be, or above it."""
    if blocked := next((one for one in (folder, *folder.parents) if one.exists() and not one.is_dir()), None):
        raise ValueError(f"{blocked} is a file, and a folder is to be written: name another one")


def written(folder: Path) -> dict[str, str]:
    """The files of a folder that are ours, and what wrote each; never one outside of it.

    Raises:
        ValueError: the manifest is torn.
    """
    try:
        files = json.loads((folder / WRITTEN).read_text(encoding="utf-8"))["files"]
        return {name: str(by) for name, by in files.items() if not {"..", "/"} & {*PurePosixPath(name).parts}}
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{folder / WRITTEN} does not say which files are ours: choose another folder") from error


def check_free(folder: Path, names: Collection[str], *, by: str, told_by: tuple[str, ...] = ()) -> None:
    """Raises ValueError if in the place of a file that `by` will write there is one that it did not write.

    `names` may be patterns with `*`; of a folder that one with `**` finds, only the files count. `told_by` is the name
    of a JSON file and keys of it: where there is no manifest yet, such a file tells that all of `names` are ours.
    """
    if told_by and not (folder / WRITTEN).is_file() and has_keys(folder / told_by[0], told_by[1:]):
        adopt(folder, names, by=by)
    check_folder(folder)
    ours = written(folder)
    for name in sorted(names):
        for path in sorted(folder.glob(name)) if "*" in name else [folder / name]:
            opened = "**" in name and path.is_dir() and not path.is_symlink()
            if opened or path == folder / WRITTEN or not os.path.lexists(path):
                continue
            authors = [_author(ours, one.relative_to(folder).as_posix()) for one in (path, _finished(path))]
            if by not in authors:
                who = f"was written by {authors[0]}" if authors[0] else "was not written by this package"
                raise ValueError(f"{path} {who} and stands where {by} writes: move it away, or choose another folder")


def claim(folder: Path, names: Iterable[str], *, by: str) -> None:
    """Enters files that `by` is about to write into the folder's manifest: names, or patterns with `*`.

    Raises:
        ValueError: as `check_free`.
    """
    names = list(names)
    check_free(folder, names, by=by)
    adopt(folder, names, by=by)


def has_keys(path: Path, keys: Iterable[str]) -> bool:
    """Whether it is a JSON file, an object with these keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= set(keys)


def adopt(folder: Path, names: Iterable[str], *, by: str) -> None:
    """Enters files that `by` wrote, as their content tells, though no manifest says so: there were none once."""
    before = written(folder)
    if (after := before | dict.fromkeys(names, by)) != before:
        _write_manifest(folder, after)


def check_ours(folder: Path, *, by: str) -> None:
    """Raises ValueError if a folder that is to be replaced, or whose every file will be read, holds a foreign file."""
    check_free(folder, ["**/*"], by=by)


def remove(folder: Path, names: Iterable[str], *, by: str) -> None:
    """Removes those of the files, or folders, that `by` wrote."""
    ours = written(folder)
    gone = [name for name in names if ours.get(name) == by]
    for path in (folder / name for name in gone):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if gone:
        _write_manifest(folder, {name: by for name, by in ours.items() if name not in gone})


def remove_empty(folder: Path) -> None:
    """Removes a folder that holds nothing of ours any more, unless somebody else's files are in it."""
    if not written(folder):
        (folder / WRITTEN).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def remove_unfinished(folder: Path, names: Collection[str]) -> None:
    """Removes what killed runs left half-written of these files."""
    for path in list(folder.rglob(".*")):
        if path != _finished(path) and _finished(path).relative_to(folder).as_posix() in names:
            path.unlink(missing_ok=True)


def replace_folder(folder: Path, write: Callable[[Path], Any], *, by: str) -> None:
    """`write` fills a folder beside it, which then takes the place of `folder`, whole.

    Raises:
        ValueError: there is one with a file that `by` did not write.
    """
    check_ours(folder, by=by)
    unfinished = _unfinished(folder)
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed one of the same number
    try:
        write(unfinished)
        files = [path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()]
        _write_manifest(unfinished, dict.fromkeys(files, by))
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _author(ours: dict[str, str], name: str) -> str | None:
    """Of a file that the manifest names, by its name, a pattern or the folder that it lies in."""
    return next((by for one, by in ours.items() if fnmatchcase(name, one) or name.startswith(f"{one}/")), None)


def _write_manifest(folder: Path, files: dict[str, str]) -> None:
    write_json({"files": dict(sorted(files.items()))}, folder / WRITTEN)


def write_json(content: dict[str, Any], path: str | Path) -> None:
    """JSON without NaN (a `ValueError` otherwise: undefined is null), indented."""
    write_text(json.dumps(content, indent=2, default=str, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """UTF-8."""
    replace_file(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """CSV without the index.

    A text that a spreadsheet would run as a formula gets an apostrophe in front, as it would be typed there. Control
    characters are written as escapes: a lone carriage return would tear the row."""
    safe = _safe(frame)
    replace_file(path, lambda unfinished: safe.to_csv(unfinished, index=False))


def _safe(frame: pd.DataFrame) -> pd.DataFrame:
    texts = {name: frame[name].map(_no_formula) for name in frame.columns if frame[name].map(type).eq(str).any()}
    return frame.assign(**texts).rename(columns=_no_formula)


def _no_formula(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return f"'{printable(cell)}" if cell.startswith(FORMULA) else printable(cell)


def write_table(frame: pd.DataFrame, path: str | Path) -> None:
    """Parquet where the name ends so, or else CSV."""
    (write_parquet if Path(path).suffix.lower() == ".parquet" else write_csv)(frame, path)


def write_tables(parts: Iterable[pd.DataFrame], path: str | Path) -> None:
    """As `write_table` of all parts together, one of which is in memory at a time; there is one or more."""

    def as_csv(unfinished: Path) -> None:
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            for number, part in enumerate(parts):
                _safe(part).to_csv(file, index=False, header=number == 0)

    def as_parquet(unfinished: Path) -> None:
        tables = (pa.Table.from_pandas(part, preserve_index=False) for part in parts)
        first = next(tables)
        with pq.ParquetWriter(unfinished, first.schema, compression="zstd") as file:
            for table in chain([first], tables):
                file.write_table(table.cast(first.schema))

    replace_file(path, as_parquet if Path(path).suffix.lower() == ".parquet" else as_csv)


def write_parquet(table: pd.DataFrame | pa.Table, path: str | Path) -> None:
    """Parquet (zstd) without the index; the same table gives the same bytes.

    Texts alone get a dictionary: numbers seldom repeat, and to look for those that do takes most of the time."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    texts = [field.name for field in table.schema if str(field.type).endswith("string")]
    options = {"compression": "zstd", "use_dictionary": texts}
    replace_file(path, lambda unfinished: pq.write_table(table, unfinished, **options))


def replace_file(path: str | Path, write: Callable[[Path], Any]) -> None:
    """`write` fills a file beside `path`, which then takes its place."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _unfinished(path)
    try:
        write(unfinished)
        os.replace(unfinished, path)
    except OSError as error:
        if error.filename is None and error.errno is not None:  # a full or failing disk does not say which file
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)


def _unfinished(path: Path) -> Path:
    """The name under which this thread writes it."""
    return path.with_name(f".{path.name}.{get_native_id()}")


def _finished(path: Path) -> Path:
    """The name it would have got; its own, if it is no unfinished file."""
    name = re.fullmatch(r"\.(.+)\.\d+", path.name)
    return path.with_name(name[1]) if name else path
