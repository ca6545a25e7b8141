"""answers.py: the page's figures are those of the pipeline; nothing after the origin is read."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation.portfolio import joint_forecast
from tsf_llm.serving.page import answers
from tsf_llm.serving.page.reading import Refusal, Upload


@pytest.fixture(scope="module")
def three(prices, csv):
    return answers.Prices(Upload("three.csv", csv(prices(200, tickers=("A", "B", "C")))).bars())


def test_a_forecast_is_that_of_the_pipeline(pipe):
    held = answers.sample()
    found = answers.forecast(pipe, held, "AAPL", horizon=5, as_of="2013-01-31")
    rows = pipe(held.of(["AAPL"]), horizon=5, as_of="2013-01-31", market=held.market)
    pd.testing.assert_frame_equal(found.rows, rows)
    assert found.close == found.past["close"].iloc[-1]
    assert found.outcome == found.later["close"].iloc[-1]
    assert len(found.later) == 5
    assert found.out_of_sample is False
    assert b"q50" in found.csv()


def test_later_bars_change_nothing_but_the_outcome(pipe, three):
    bars = three.bars.copy()
    later = bars["timestamp"] > "2020-08-31"
    bars.loc[later, ["open", "high", "low", "close"]] *= 2
    one, two = (
        answers.forecast(pipe, held, "A", horizon=5, as_of="2020-08-31") for held in (three, answers.Prices(bars))
    )
    pd.testing.assert_frame_equal(one.rows, two.rows)
    assert one.risk == two.risk
    assert one.outcome * 2 == pytest.approx(two.outcome)


def test_from_the_last_bar_nothing_is_known(pipe, three):
    found = answers.forecast(pipe, three, "B", horizon=20)
    assert found.outcome is None
    assert found.later.empty
    assert len(found.rows) == 20


def test_levels_are_those_that_were_asked_for(pipe, three):
    found = answers.forecast(pipe, three, "A", horizon=5, levels="1; 100")
    assert list(found.risk["tickers"][0]["p_touch"]) == ["1", "100"]
    assert found.risk["tickers"][0]["p_touch"]["1"] == 0
    asked = answers.forecast(pipe, three, "A", horizon=5).risk["tickers"][0]["p_touch"]
    assert len(asked) == 2


@pytest.mark.parametrize("given", ["abc", "-3", "0", "1e5", "nan", ",".join(map(str, range(1, 12)))])
def test_what_is_no_level_is_refused(given):
    with pytest.raises(Refusal, match="no price"):
        answers.read_levels(given)


@pytest.mark.parametrize("given", ["tomorrow", "2020-13-01", "31.01.2020", "0000-00-00"])
def test_what_is_no_date_is_refused(given):
    with pytest.raises(Refusal, match="no date"):
        answers.read_date(given)


def test_a_date_before_the_bars_is_refused(pipe, three):
    with pytest.raises(Refusal, match="too few bars up to"):
        answers.forecast(pipe, three, "A", horizon=5, as_of="2020-01-10")


def test_together_is_the_joint_forecast(pipe, three):
    table = answers.together(pipe, three, ["A", "B", "C"], horizon=5)
    _, whole = joint_forecast(pipe, three.bars, horizon=5, samples=answers.JOINT_SAMPLES)
    whole = whole[whole["step"] == 5]
    assert len(table) == 4
    assert list(table["p_best"][1:]) == sorted(whole["p_best"][1:], reverse=True)
    assert table["var_95"][0] == whole["var_95"].iloc[0]
    for few in ([], ["A"]):
        with pytest.raises(Refusal, match="two tickers"):
            answers.together(pipe, three, few, horizon=5)
    with pytest.raises(Refusal, match="one ticker alone"):
        answers.together(pipe, answers.Prices(three.of(["A"])), ["A"], horizon=5)


def test_the_verdict_is_about_earlier_dates(pipe, three):
    found = answers.verdict(pipe, three, "A", horizon=1, as_of="2020-08-31")
    assert found.end < "2020-08-31"
    assert {row["model"] for row in found.rows} >= {"model", "random_walk"}


def test_an_explanation_has_every_group(pipe, three):
    found = answers.why(pipe, three, "A")
    groups = {row["name"] for row in found.groups}
    assert {"volatility", "range"} <= groups
    assert found.usual["q10"] < found.usual["median"] < found.usual["q90"]
    assert np.all(np.diff([row["increase"] for row in found.groups]) <= 0)


def test_a_report_is_one_page(pipe, three):
    made = answers.report_of(pipe, three, "A", horizon=5, as_of="", levels="", language="zh")
    assert made.startswith("<!")
    assert "http://" not in made.replace("http://www.w3.org", "")
