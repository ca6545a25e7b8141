"""page.py: one file that needs no other, and honest words where nothing was found."""

import pytest

from tsf_llm.evaluation.explanation.explain import explain_model
from tsf_llm.evaluation.explanation.page import page


@pytest.fixture(scope="module")
def result(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    return explain_model(pipe, bars, start="2016-01-01", end="2016-03-01", most=12, repeats=1, out=out)


def test_the_page_opens_offline(result):
    text = page(result)
    assert text.count("data:image/png;base64,") == 6
    assert "http" not in text
    assert all(name in text for name in ("AAA", "BBB", "No market was read", "Experts"))


def test_what_is_undefined_is_said_or_left_out(result):
    rows = [{**row, "percent_ci95": None} for row in result["groups"]]
    past = [{**row, "attention": None} for row in result["past_bars"]]
    regimes = [{**regime, "p": None} for regime in result["experts"]["regimes"]]
    text = page({**result, "groups": rows, "past_bars": past, "experts": {**result["experts"], "regimes": regimes}})
    assert text.count("too few dates to test") == 3
    text = page({**result, "experts": None, "out_of_sample": False})
    assert "The model has no routed experts." in text
    assert "has seen prices of this period" in text


def test_names_are_no_markup(result):
    rows = [{**row, "ticker": "<b>A"} for row in result["last_bars"][:2]]
    text = page({**result, "last_bars": rows})
    assert "<b>A" not in text
    assert "&lt;b&gt;A" in text


def test_the_market_is_told(result):
    found = {"increase": 0.1, "percent": 2.0, "percent_ci95": [1.0, 3.0], "mean_change_of_median": 0.25}
    assert "by +2.00 % (95 % interval +1.00 to +3.00), and the median" in page({**result, "without_market": found})
