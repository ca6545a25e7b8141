"""readme_figures.py: the page says what the evaluation found, the undefined included."""

import json
import runpy
import sys

import pytest

from tsf_llm.evaluation.report import Report
from tsf_llm.publishing import readme_figures

ROW = {"model": "model", "n": 3, "crps": 0.0213, "rmse": 0.04, "mase": 0.7, "coverage_80": 0.81}
ROW |= {"direction_accuracy": 0.5, "direction_ci95": [0.4, 0.6], "direction_base_rate": 0.5}
RESULTS = {"rows": [ROW], "verdicts": {"x": {"verdict": "no edge over x"}}, "tickers": ["A"], "seed": 0}
RESULTS |= {"start": "a", "end": "b", "horizon": 5}


@pytest.mark.parametrize(
    ("change", "cells"),
    [
        ({}, "- | - | 0.81 | 0.500 [0.40, 0.60] | 0.500"),  # no baseline to measure skill against
        ({"direction_accuracy": None, "direction_ci95": None}, "- | - | 0.81 | - | 0.500"),
        ({"direction_ci95": None}, "- | - | 0.81 | 0.500 | 0.500"),  # too few dates for an interval
        ({"coverage_80": None, "direction_base_rate": None}, "- | - | - | 0.500 [0.40, 0.60] | -"),
    ],
)
def test_figures_come_from_results(change, cells):
    text = readme_figures.markdown(Report.of({**RESULTS, "rows": [ROW | change]}))
    assert f"| model | 2.130 | {cells} |" in text
    assert text.endswith("3 forecasts of A, a to b, 5 bars ahead, seed 0. The model is:\n\n* no edge over x")


def test_what_failed_stands_below():
    text = readme_figures.markdown(Report.of(RESULTS | {"failed": {"garch_t": "A: too short"}}))
    assert text.endswith("* no edge over x\n\ngarch_t failed: A: too short")


def test_every_horizon_has_a_table_and_a_headline():
    rows = [ROW | {"horizon": 5}, ROW | {"model": "x", "crps": 0.0426, "horizon": 5}, ROW | {"horizon": 1}]
    verdicts = {"x": {"dm_p": 0.0001, "verdict": "better than x (CRPS)"}}
    one = {"verdict": "better than x by 50 %", "strongest": "x", "verdicts": verdicts}
    content = RESULTS | one | {"rows": rows, "horizons": {"5": one, "1": {"verdict": "nothing", "verdicts": {}}}}
    text = readme_figures.markdown(Report.of(content))
    assert "| model | CRPS, % | skill, % of x | DM p |" in text
    assert "| model | 2.130 | +50.0 | - |" in text
    assert "| x | 4.260 | +0.0 | <.001 |" in text
    assert text.endswith("* 5 ahead: better than x by 50 %\n* 1 ahead: nothing")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_command_fills_every_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    page = "before\n<!-- quickstart-results -->{}<!-- /quickstart-results -->\nafter\n"
    pages = [tmp_path / name for name in ("one.md", "two.md")]
    for path in pages:
        path.write_text(page.format("\nold\n"))
    words = ["readme_figures", *map(str, [tmp_path / "results.json", *pages])]
    monkeypatch.setattr(sys, "argv", words)
    runpy.run_module(readme_figures.__name__, run_name="__main__")
    expected = page.format("\n" + readme_figures.markdown(Report.of(RESULTS)) + "\n")
    assert [path.read_text() for path in pages] == [expected, expected]
    pages[0].write_text("no markers")
    with pytest.raises(SystemExit, match="2"):
        runpy.run_module(readme_figures.__name__, run_name="__main__")
    assert "add both markers" in capsys.readouterr().err
