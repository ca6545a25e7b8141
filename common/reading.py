"""JSON, weights and names of files, checked as they are read: others may have written them.

Design choices:
- What a folder's JSON names lies in that folder. A name that leads out of it is refused, whoever reads.
- What is published must also be a plain file: a link, a pipe or a device would publish something else.
- An error of shape (a list where an object is expected) while a file is opened is an error of the file.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

OF_SHAPE = (KeyError, IndexError, TypeError, AttributeError, RecursionError, OverflowError)


@contextmanager
def shapes_of(source: str | Path, remedy: str = "copy or write it again") -> Iterator[None]:
    """Opening what somebody else may have written.

    Raises:
        ValueError: instead of an error of shape; it names the source.
    """
    try:
        yield
    except OF_SHAPE as error:
        told = "nested too deep" if isinstance(error, RecursionError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{source} holds something of another shape than it should ({told}): {remedy}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that holds no JSON object."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no plain file: put a JSON file there")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    except RecursionError:
        raise ValueError(f"{path} is no JSON of ours: it is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def is_inside(name: Any) -> bool:
    """Whether it names a file below a folder, and none outside of it."""
    path = PurePath(name) if isinstance(name, str) and name.isprintable() else PurePath("..")
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def plain_file(folder: Path, name: Any) -> Path:
    """Where the file of that name lies in a folder, if there is one.

    Raises:
        ValueError: the name leads out of the folder, or to a link, a pipe or a device.
    """
    if not is_inside(name):
        raise ValueError(f"{folder} names {name!r}, which does not lie in it: name a file of the folder")
    path = folder / name
    if Path(os.path.realpath(path)) != folder.resolve() / name or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} is a link or no plain file: put the file itself there (cp -L)")
    return path


def refuse_pipes(folder: Path) -> None:
    """Raises ValueError if something in a folder is neither a file nor a folder: to open a pipe waits for ever.

    Links are followed, since the Hub's cache is made of them."""
    for path in sorted(folder.iterdir()):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no plain file: remove it")


def shard_names(index: Path) -> list[str]:
    """The files of an index of weights.

    Raises:
        ValueError: it names none, or something else than `safetensors` beside it.
    """
    weights = read_json(index).get("weight_map")
    names = list(weights.values()) if isinstance(weights, dict) else [weights]
    for name in names or [None]:
        if not is_inside(name) or PurePath(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{index} names {str(name)[:99]!r}, no safetensors file beside it: save the model again")
    return sorted(set(names))


def weight_files(folder: Path) -> dict[str, Path]:
    """One file, or an index with all the files it names; each is a plain file."""
    single, index = (plain_file(folder, name) for name in ("model.safetensors", "model.safetensors.index.json"))
    if single.is_file():
        return {single.name: single}
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors: save the model with save_pretrained")
    shards = {name: plain_file(folder, name) for name in shard_names(index)}
    missing = [name for name, path in shards.items() if not path.is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: save the model again")
    return {index.name: index, **shards}
