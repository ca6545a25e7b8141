"""Writes the figures of an evaluation into a page, between its markers, so that no number there is typed by hand.

python -m tsf_llm.publishing.readme_figures quickstart/results.json README.md README.zh.md
"""

import json
import sys
from pathlib import Path
from typing import Any

from ..common.pages import fill

START, END = "<!-- quickstart-results -->", "<!-- /quickstart-results -->"


def table(results: dict[str, Any]) -> str:
    """The rows and verdicts of `results.json` in Markdown."""
    lines = [
        "| model | CRPS, % | RMSE, % | MASE | coverage 80 | direction [95 % CI] | base rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in results["rows"]:
        direction = "-"
        if row["direction_accuracy"] is not None:
            low, high = row["direction_ci95"]
            direction = f"{row['direction_accuracy']:.3f} [{low:.2f}, {high:.2f}]"
        scores = f"{100 * row['crps']:.3f} | {100 * row['rmse']:.3f} | {row['mase']:.3f} | {row['coverage_80']:.2f}"
        lines.append(f"| {row['model']} | {scores} | {direction} | {row['direction_base_rate']:.3f} |")
    count, tickers = results["rows"][0]["n"], ", ".join(results["tickers"])
    period = f"{results['start']} to {results['end']}, {results['horizon']} bars ahead"
    lines += ["", f"{count} forecasts of {tickers}, {period}, seed {results['seed']}. The model is:", ""]
    lines += [f"* {answer['verdict']}" for answer in results["verdicts"].values()]
    return "\n".join(lines)


if __name__ == "__main__":
    figures = table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    for page in map(Path, sys.argv[2:]):
        page.write_text(fill(page.read_text(encoding="utf-8"), figures, (START, END)), encoding="utf-8")
