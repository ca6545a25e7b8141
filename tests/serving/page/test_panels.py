"""panels.py: what a visitor reads is what was found, in both languages, and never markup of theirs."""

import base64

import pandas as pd
import pytest

from tsf_llm.serving.page import answers, panels
from tsf_llm.serving.page.reading import Refusal, Upload
from tsf_llm.serving.verdict import Verdict

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def answer(pipe):
    return answers.forecast(pipe, answers.sample(), "AAPL", horizon=5, as_of="2013-01-31")


def test_the_head_has_chance_move_band_and_outcome(answer):
    page = panels.head(answer, "en")
    row = answer.last
    assert panels.chance(row["p_up"]) in page
    assert f"{row['q10']:,.2f} – {row['q90']:,.2f}" in page  # noqa: RUF001
    assert f"{row['mean'] - answer.close:+,.2f}" in page
    assert "What happened" in page
    assert "收高的概率" in panels.head(answer, "zh")


def test_the_forecast_goes_along_as_a_file(answer):
    page = panels.link(answer, "en")
    content = page.partition("base64,")[2].partition('"')[0]
    assert base64.b64decode(content) == answer.csv()
    assert 'download="AAPL_2013-01-31.csv"' in page
    assert "looks better than it is" in panels.below(answer, answers.sample(), "en")


@pytest.mark.parametrize("finding", ["better", "worse", "no edge", "too few dates"])
@pytest.mark.parametrize("seen", [True, False, None])
def test_every_verdict_has_words(finding, seen):
    rows = [{"model": "model", "crps": 0.01, "coverage_80": 0.8}]
    rows += [{"model": "har_range", "crps": 0.02, "coverage_80": None, "relative": -0.5, "relative_ci95": None}]
    found = Verdict("", finding, 5, "har_range", rows, 9, 9, "2020-01-01", "2020-02-01", "2019-12-31", seen)
    for language in ("en", "zh"):
        page = panels.of_verdict(found, language)
        assert "None" not in page
        assert "nan" not in page
    assert "HAR on ranges" in panels.of_verdict(found, "en")
    assert "极差 HAR" in panels.of_verdict(found, "zh")


def test_a_series_without_any_verdict_says_so():
    page = panels.of_verdict(Verdict("", "too few dates", 5), "en")
    assert "Too few dates" in page
    assert "<table" not in page


def test_tables_of_several_and_of_why(pipe, prices, csv):
    held = answers.Prices(Upload("x.csv", csv(prices(90, tickers=(EVIL, "B")))).bars())
    page = panels.of_together(answers.together(pipe, held, held.tickers, horizon=5), "en")
    assert EVIL not in page
    assert "&lt;img" in page
    assert "VaR" in page
    why = panels.of_why(answers.why(pipe, held, "B"), "zh")
    assert "波动率" in why


def test_names_of_visitors_are_text(pipe, prices, csv):
    held = answers.Prices(Upload("x.csv", csv(prices(90).assign(Ticker=EVIL))).bars())
    found = answers.forecast(pipe, held, EVIL, horizon=1)
    for page in (panels.head(found, "en"), panels.below(found, held, "en")):
        assert EVIL not in page
    assert EVIL not in panels.refused(Refusal("bad_empty", name=EVIL), "en")


def test_undefined_numbers_are_a_dash():
    nothing = float("nan")
    assert {panels.chance(nothing), panels.percent(nothing), panels.price(nothing), panels.number(None)} == {"–"}  # noqa: RUF001
    assert panels.day(pd.Timestamp("2020-01-01 09:30")) == "2020-01-01 09:30:00"
