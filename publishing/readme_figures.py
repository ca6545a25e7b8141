"""Writes the figures of an evaluation into a page, between its markers, so that no number there is typed by hand.

python -m tsf_llm.publishing.readme_figures quickstart/results.json README.md README.zh.md
"""

from ..bars_tsf_llm import OHLCV
from ..common.pages import fill_pages
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
    fill_pages("readme_figures", __doc__, lambda path: markdown(Report.read(path)), MARKER)
