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
        ({}, "0.700 | 0.81 | 0.500 [0.40, 0.60] | 0.500"),
        ({"direction_accuracy": None, "direction_ci95": None}, "0.700 | 0.81 | - | 0.500"),
        ({"direction_ci95": None}, "0.700 | 0.81 | 0.500 | 0.500"),  # too few dates for an interval
        ({"mase": None, "coverage_80": None, "direction_base_rate": None}, "- | - | 0.500 [0.40, 0.60] | -"),
    ],
)
def test_figures_come_from_results(change, cells):
    text = readme_figures.markdown(Report.of({**RESULTS, "rows": [ROW | change]}))
    assert f"| model | 2.130 | 4.000 | {cells} |" in text
    assert text.endswith("3 forecasts of A, a to b, 5 bars ahead, seed 0. The model is:\n\n* no edge over x")


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
