"""Files appear whole or not at all: each is written beside its target under another name, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq


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
