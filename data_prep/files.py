"""Files appear whole or not at all: each is written beside its target under another name, then renamed."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd


def write_json(content: dict[str, Any], path: str | Path) -> None:
    """JSON without NaN (a `ValueError` otherwise: undefined is null), indented."""
    text = json.dumps(content, indent=2, default=str, allow_nan=False) + "\n"
    _replace(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """CSV without the index."""
    _replace(path, lambda unfinished: frame.to_csv(unfinished, index=False))


def _replace(path: str | Path, write: Callable[[Path], Any]) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(unfinished)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
