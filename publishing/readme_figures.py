"""Writes the figures of an evaluation into a page, between its markers, so that no number there is typed by hand.

python -m tsf_llm.publishing.readme_figures quickstart/results.json docs/evaluation.md
"""

from ..bars_tsf_llm import OHLCV
from ..common.pages import fill_pages
from ..evaluation.report import OURS, Report, evaluation_table, headlines, remarks

MARKER = "quickstart-results"


def markdown(report: Report) -> str:
    """The rows of `results.json`, a table per horizon, what they say, and what failed."""
    facts, count = report.facts, report.rows[OURS]["n"]
    steps = ", ".join(str(one.facts["horizon"]) for one in report.horizons)
    period = f"{facts['start']} to {facts['end']}, {steps} bars ahead"
    forecasts = f"{count} forecasts of {', '.join(facts['tickers'])}, {period}, seed {facts['seed']}. The model is:"
    tables = [evaluation_table(one, OHLCV, heading="model").markdown() for one in report.horizons]
    said = [f"* {words}" for words in headlines(report)]
    notes = [line for words in remarks(report) for line in ("", words)]
    return "\n".join(["\n\n".join(tables), "", forecasts, "", *said, *notes])


if __name__ == "__main__":
    fill_pages("readme_figures", __doc__, lambda path: markdown(Report.read(path)), MARKER)
