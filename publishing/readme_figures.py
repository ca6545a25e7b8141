"""Writes the figures of an evaluation into a page, between its markers, so that no number there is typed by hand.

python -m tsf_llm.publishing.readme_figures quickstart/results.json README.md README.zh.md
"""

import sys
from pathlib import Path

from ..bars_tsf_llm import OHLCV
from ..common.errors import one_line_errors
from ..common.pages import write_between
from ..evaluation.report import OURS, Report, forecast_columns, table_of

MARKER = "quickstart-results"


def markdown(report: Report) -> str:
    """The rows and verdicts of `results.json`."""
    facts, count = report.facts, report.rows[OURS]["n"]
    period = f"{facts['start']} to {facts['end']}, {facts['horizon']} bars ahead"
    forecasts = f"{count} forecasts of {', '.join(facts['tickers'])}, {period}, seed {facts['seed']}. The model is:"
    table = table_of(report.rows, forecast_columns(OHLCV), heading="model").markdown()
    return "\n".join([table, "", forecasts, "", *(f"* {words}" for words in report.verdicts.values())])


if __name__ == "__main__":
    with one_line_errors("readme_figures"):
        figures = markdown(Report.read(Path(sys.argv[1])))
        for page in sys.argv[2:]:
            write_between(Path(page), figures, MARKER)
