"""The log of what was tried: one line per strategy and settings, because the best of many is good by chance alone.

Design choices:
* A line is added, none is ever changed or removed. Who starts a new log starts to count again, and hides that.
* The same settings again are no new trial: the last line of them counts.
* All trials of a log count against each of them, whatever data they saw.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAME = "trials.jsonl"


def read_trials(path: Path) -> dict[str, float]:
    """Sharpe ratio per year of each trial that has one, by its settings.

    Raises:
        ValueError: the file is no such log.
    """
    trials: dict[str, float | None] = {}
    for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
        try:
            trial = json.loads(line)
            ratio = trial["sharpe"]
            trials[_key(trial["settings"])] = None if ratio is None else float(ratio)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}, line {number} is no trial of a backtest: repair it, or name another log with --trials-log"
            ) from error
    return {key: ratio for key, ratio in trials.items() if ratio is not None}


def add_trials(path: Path, trials: Sequence[Mapping[str, Any]]) -> None:
    """Adds lines of `settings` and `sharpe` in one write, so that two runs at a time do not mix theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(trial, default=str, allow_nan=False) + "\n" for trial in trials)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        lines = f"\n{lines}"  # the last line was left open by an editor
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, lines.encode())
    finally:
        os.close(descriptor)


def _key(settings: Mapping[str, Any]) -> str:
    if not isinstance(settings, Mapping):
        raise TypeError(f"settings of {type(settings).__name__}")
    return json.dumps(settings, sort_keys=True)
