"""charts.py: the fan starts at the last close and holds the forecast's quantiles; what happened is there if known."""

import pandas as pd
import pytest

from tsf_llm.serving.page import answers, charts


@pytest.fixture(scope="module")
def answer(pipe):
    return answers.forecast(pipe, answers.sample(), "AAPL", horizon=5, as_of="2013-01-31")


def test_bands_are_the_quantiles(answer):
    figure = charts.fan(answer, "en")
    parts = {part.name: part for part in figure.data}
    assert list(parts) == ["90 % band", "80 % band", "50 % band", "Bars", "Median", "What happened"]
    high = list(parts["80 % band"].y)[1:6]
    assert high == list(answer.rows["q90"])
    assert parts["Median"].y[0] == parts["What happened"].y[0] == answer.close
    assert list(parts["What happened"].y)[1:] == list(answer.later["close"])
    assert list(parts["Bars"].close)[-1] == answer.close
    assert len(parts["Bars"].x) == charts.SHOWN


def test_chinese_titles(answer):
    names = [part.name for part in charts.fan(answer, "zh").data]
    assert names == ["90% 区间", "80% 区间", "50% 区间", "K 线", "中位数", "实际走势"]


def test_without_an_outcome_there_is_no_line_of_it(pipe):
    figure = charts.fan(answers.forecast(pipe, answers.sample(), "IBM", horizon=1), "en")
    assert "What happened" not in [part.name for part in figure.data]


def test_labels_are_dates_of_bars(answer):
    figure = charts.fan(answer, "en")
    assert figure.layout.xaxis.ticktext[-1] == "01-31<br>2013"
    first = pd.Timestamp(answer.past["timestamp"].iloc[-1 - 30])
    assert figure.layout.xaxis.ticktext[0] == f"{first:%m-%d<br>%Y}"
