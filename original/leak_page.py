"""The leak of the original's recipe: `leak.json`, its plot, and the same numbers on the terminal or in a page.

tsf-llm leak --data sample --out leak
python -m tsf_llm.original.leak_page leak/leak.json docs/leak.md
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from ..common.files import check_free, claim, write_json
from ..common.pages import fill
from ..common.provenance import provenance
from ..evaluation.plots import leak_bars
from .leak import measure_leak

FILES = ("leak.json", "leak.png")
MARKERS = ("<!-- leak-results -->", "<!-- /leak-results -->")
COLUMNS = ("inputs", "MSE", "MSE of 0", "direction [95 % CI]", "base rate")


def run(bars: pd.DataFrame, *, out: Path, horizon: int, seed: int = 0) -> dict[str, Any]:
    """Measures, writes `leak.json` and `leak.png` in `out`, and returns the results."""
    check_free(out, FILES, by="leak", told_by=("leak.json", "rows", "reconstruction"))
    results = {**measure_leak(bars, horizon=horizon, seed=seed), **provenance()}
    claim(out, FILES, by="leak")
    write_json(results, out / "leak.json")
    leak_bars(results["rows"], out / "leak.png", note=_note(results))
    return results


def print_leak(results: dict[str, Any]) -> None:
    """The rows of `leak.json` and what they mean."""
    table = Table(title=_note(results), caption="scaled units; MSE of 0: a constant, the training median")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "inputs" else "right", no_wrap=True)
    for cells in _cells(results):
        table.add_row(*cells)
    console = Console()
    console.print(table)
    console.print(reconstruction(results), highlight=False)


def markdown(results: dict[str, Any]) -> str:
    """The same for a page."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *_cells(results)]
    skipped = f" Skipped for want of bars: {', '.join(results['skipped'])}." if results["skipped"] else ""
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*rows, "", f"{_note(results)}, seed {results['seed']}.{skipped}", "", reconstruction(results)])


def reconstruction(results: dict[str, Any]) -> str:
    """Whether the target follows from the inputs alone, in words."""
    error, count = results["reconstruction"]["max_error"], results["reconstruction"]["n"]
    if error is None:
        return f"No input looks as far ahead as the target, {results['horizon']} bars."
    exact = "exactly (to 1e-9)" if error < 1e-9 else f"to within {error:.2g}"
    return f"The target follows {exact} from the inputs alone in all {count} test windows whose outcome is known."


def _note(results: dict[str, Any]) -> str:
    return f"{', '.join(results['tickers'])}, {results['start']} to {results['end']}, {results['horizon']} bars ahead"


def _cells(results: dict[str, Any]) -> list[list[str]]:
    rows = []
    for row in results["rows"]:
        numbers = [f"{row[key]:.3f}" for key in ("mse", "mse_constant_0")]
        interval = row["direction_ci95"]
        direction = f"{row['direction_accuracy']:.3f}" + (
            f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        )
        rows.append([row["model"], *numbers, direction, f"{row['direction_base_rate']:.3f}"])
    return rows


if __name__ == "__main__":
    figures = markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    for page in map(Path, sys.argv[2:]):
        page.write_text(fill(page.read_text(encoding="utf-8"), figures, MARKERS), encoding="utf-8")
