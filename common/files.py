"""Files appear whole or not at all: each is written beside its target under another name, then renamed. What is read
is checked."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


def read_json(path: Path) -> dict[str, Any]:
    """Raises ValueError for a file that holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def write_json(content: dict[str, Any], path: str | Path) -> None:
    """JSON without NaN (a `ValueError` otherwise: undefined is null), indented."""
    write_text(json.dumps(content, indent=2, default=str, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """UTF-8."""
    _replace(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """CSV without the index."""
    _replace(path, lambda unfinished: frame.to_csv(unfinished, index=False))


def write_parquet(table: pd.DataFrame | pa.Table, path: str | Path) -> None:
    """Parquet (zstd) without the index; the same table gives the same bytes."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    _replace(path, lambda unfinished: pq.write_table(table, unfinished, compression="zstd"))


def _replace(path: str | Path, write: Callable[[Path], Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def weight_files(folder: Path) -> dict[str, Path]:
    """One file, or an index with all the files it names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return {single.name: single}
    if not index.is_file():
        raise ValueError(f"{folder} has no model.safetensors: save the model with save_pretrained")
    shards = sorted(set(read_json(index)["weight_map"].values()))
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: save the model again")
    return {name: folder / name for name in [index.name, *shards]}
