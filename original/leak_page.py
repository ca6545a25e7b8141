"""The leak of the original's recipe: `leak.json`, its plot, and the same numbers on the terminal or in a page.

tsf-llm leak --data sample --out leak
python -m tsf_llm.original.leak_page leak/leak.json docs/leak.md
"""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from ..common.files import check_free, claim, write_json
from ..common.pages import fill_pages
from ..common.provenance import provenance
from ..common.reading import read_json
from ..common.tables import Columns, Table, number, with_interval
from ..evaluation.plots import leak_bars
from .leak import measure_leak

FILES = ("leak.json", "leak.png")
MARKER = "leak-results"
COLUMNS: Columns = {
    "inputs": lambda row: row["model"],
    "MSE": lambda row: number(row["mse"], ".3f"),
    "MSE of 0": lambda row: number(row["mse_constant_0"], ".3f"),
    "direction [95 % CI]": lambda row: with_interval(row, "direction_accuracy", ".3f", ("direction_ci95", ".2f")),
    "base rate": lambda row: number(row["direction_base_rate"], ".3f"),
}


def run(bars: pd.DataFrame, *, out: Path, horizon: int, seed: int = 0) -> dict[str, Any]:
    """Measures, writes `leak.json` and `leak.png` in `out`, and returns the results."""
    check_free(out, FILES, by="leak", told_by=("leak.json", "rows", "reconstruction"))
    results = {**measure_leak(bars, horizon=horizon, seed=seed), **provenance("leak")}
    claim(out, FILES, by="leak")
    write_json(results, out / "leak.json")
    leak_bars(results["rows"], out / "leak.png", note=_note(results))
    return results


def print_leak(results: dict[str, Any]) -> None:
    """The rows of `leak.json` and what they mean."""
    table, console = Table.of(results["rows"], COLUMNS), Console()
    caption = "scaled units; MSE of 0: a constant, the training median"
    console.print(table.terminal(title=_note(results), caption=caption))
    console.print(reconstruction(results), highlight=False)


def markdown(results: dict[str, Any]) -> str:
    """The same for a page."""
    skipped = f" Skipped for want of bars: {', '.join(results['skipped'])}." if results["skipped"] else ""
    table, note = Table.of(results["rows"], COLUMNS).markdown(), f"{_note(results)}, seed {results['seed']}.{skipped}"
    return "\n".join([table, "", note, "", reconstruction(results)])


def reconstruction(results: dict[str, Any]) -> str:
    """Whether the target follows from the inputs alone, in words."""
    error, count = results["reconstruction"]["max_error"], results["reconstruction"]["n"]
    if error is None:
        return f"No input looks as far ahead as the target, {results['horizon']} bars."
    exact = "exactly (to 1e-9)" if error < 1e-9 else f"to within {error:.2g}"
    return f"The target follows {exact} from the inputs alone in all {count} test windows whose outcome is known."


def _note(results: dict[str, Any]) -> str:
    return f"{', '.join(results['tickers'])}, {results['start']} to {results['end']}, {results['horizon']} bars ahead"


def read(path: Path) -> dict[str, Any]:
    """What `run` wrote."""
    results = read_json(path)
    if "reconstruction" not in results:
        raise ValueError(f"{path} is no leak.json: write one with tsf-llm leak")
    return results


if __name__ == "__main__":
    fill_pages("leak_page", __doc__, lambda path: markdown(read(path)), MARKER)
