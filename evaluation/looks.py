"""The log of looks at dates that a model is judged by, beside the model: who looks often chooses by what he sees.

Design choices:
* A look appends a line of its dates, the digest of the weights and the command. None is ever changed or removed.
* All looks at dates that overlap count, whatever weights the folder held: they were chosen one after another.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from .trials import add_trials

NAME = "looks.jsonl"


def add_look(folder: Path, digest: str, command: str, *, start: Any, end: Any) -> None:
    """One line more beside the model."""
    look = {"model": digest, "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    add_trials(folder / NAME, [look | {"start": str(pd.Timestamp(start)), "end": str(pd.Timestamp(end))}])


def count_looks(folder: Path, *, start: Any, end: Any) -> int:
    """How many looks at dates of [start, end] the folder's log has.

    Raises:
        ValueError: the file is no such log.
    """
    path, count = folder / NAME, 0
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            look = json.loads(line)
            first, last = pd.Timestamp(look["start"]), pd.Timestamp(look["end"])
            count += bool(first <= pd.Timestamp(end) and last >= pd.Timestamp(start))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is no look at a model: repair it") from error
    return count
