"""answers.py: a forecast is the pipeline's, its verdict that of the same bars; nothing is read that may not be."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.sources import read_bars, read_for
from tsf_llm.serving import answers as module
from tsf_llm.serving.answers import Answers, Data, worth
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.verdict import Verdict, own_verdict


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(model)


@pytest.fixture(scope="module")
def bars():
    return read_bars("sample", ["AAPL"]).tail(420).reset_index(drop=True)


@pytest.fixture(scope="module")
def text(bars):
    return bars.to_csv(index=False)


@pytest.fixture(scope="module")
def answer(pipe, text):
    return Answers(pipe).forecast(Data(bars=text), horizon=3)


def test_a_forecast_is_the_pipelines(pipe, bars, answer):
    [one], expected = answer.forecasts, pipe(bars, horizon=3)
    assert [step.mean for step in one.steps] == pytest.approx([*expected["mean"]], rel=1e-5)
    assert one.band_80 == pytest.approx((expected["q10"].iloc[-1], expected["q90"].iloc[-1]), rel=1e-5)
    assert one.steps[-1].date == str(expected["timestamp"].iloc[-1].date())
    assert (one.name, one.last_date) == ("AAPL", str(bars["timestamp"].iloc[-1].date()))
    assert one.last_price == pytest.approx(bars["close"].iloc[-1], rel=1e-5)
    assert one.expected_move_percent == pytest.approx(100 * (one.steps[-1].mean / one.last_price - 1), rel=0.01)


def test_it_comes_with_the_verdict_on_the_same_bars(pipe, bars, answer):
    assert answer.verdict == own_verdict(pipe, bars, horizon=3, most=module.DATES)
    assert worth(answer.verdict) in answer.forecasts[0].sentence
    assert answer.trained_through == pipe.model.config.trained_through
    assert answer.forecasts[0].out_of_sample is True
    json.dumps(answer.model_dump(), allow_nan=False)


@pytest.mark.parametrize(
    ("finding", "unseen", "words"),
    [
        ("no edge", True, "no edge; their 80 % bands held 78 % of the outcomes."),
        ("better", True, "better than the strongest baseline (garch_t);"),
        ("worse", False, "has seen some of them or all, so this is no test."),
        ("better", None, "may have seen them"),
        ("too few dates", None, "too few earlier dates to say"),
    ],
)
def test_what_it_is_worth_in_a_sentence(finding, unseen, words):
    rows = [{"model": "model", "coverage_80": 0.78}]
    verdict = Verdict("", finding, 5, strongest="garch_t", rows=rows, dates=30, out_of_sample=unseen)
    assert words in worth(verdict)


def test_records_and_text_are_the_same_bars(pipe, bars, answer):
    records = bars.astype({"timestamp": str}).to_dict("records")
    assert Answers(pipe).forecast(Data(bars=records), horizon=3) == answer


def test_as_of_reads_nothing_later(pipe, bars, text):
    day = bars["timestamp"].iloc[-30]
    asked = {"horizon": 2, "as_of": str(day.date())}
    whole = Answers(pipe).forecast(Data(bars=text), **asked)
    cut = Answers(pipe).forecast(Data(bars=bars[bars["timestamp"] <= day].to_csv(index=False)), horizon=2)
    assert whole.forecasts == cut.forecasts
    assert whole.verdict == cut.verdict


def test_a_name_where_the_bars_have_none_and_what_was_left_aside(pipe, bars):
    text = bars.drop(columns=["ticker", "volume"]).assign(sector="tech").to_csv(index=False)
    found = Answers(pipe).forecast(Data(bars=text, name="Apple"), horizon=1)
    assert found.forecasts[0].name == "Apple"
    assert (found.inputs.ignored, found.inputs.masked) == (["sector"], ["volume"])


def test_one_bad_series_stops_no_other(pipe, bars):
    two = pd.concat([bars, bars.tail(10).assign(ticker="NEW")])
    found = Answers(pipe).forecast(Data(bars=two.to_csv(index=False)), horizon=1)
    assert [one.name for one in found.forecasts] == ["AAPL"]
    assert "10 observed bars" in found.skipped["NEW"]
    only = Answers(pipe).forecast(Data(bars=two.to_csv(index=False), only="AAPL"), horizon=1)
    assert only.skipped == {}


def test_evaluation_explanation_and_audit(pipe, text, bars):
    answers, data = Answers(pipe), Data(bars=text)
    assert answers.evaluate(data, horizon=2, dates=15).verdict == own_verdict(pipe, bars, horizon=2, most=15)
    found = answers.explain(data)
    assert found.dates == module.EXPLAINED
    assert {one.group for one in found.groups} == {one["without"] for one in found.last_forecast} - {None}
    audited = answers.audit(data)
    assert audited.passed
    assert "no feature knows the future" in audited.sentence
    assert all(audited.tests.values())


def test_files_only_below_the_folder(pipe, bars, tmp_path):
    inside, outside = tmp_path / "prices", tmp_path / "secret.csv"
    inside.mkdir()
    for path in (inside / "AAPL.csv", outside):
        bars.to_csv(path, index=False)
    (inside / "link.csv").symlink_to(outside)
    assert Answers(pipe, folder=inside).forecast(Data(file="AAPL.csv"), horizon=1).forecasts[0].name == "AAPL"
    for name in ("../secret.csv", str(outside), "link.csv", "none.csv", "."):
        with pytest.raises(ValueError, match="no file in the folder"):
            Answers(pipe, folder=inside).forecast(Data(file=name), horizon=1)
    with pytest.raises(ValueError, match="reads no files"):
        Answers(pipe).forecast(Data(file="AAPL.csv"), horizon=1)


def test_symbols_where_the_server_has_a_source(pipe, bars):
    class Source:
        def recent(self, names):
            facts = {"AAPL": {"as_of": "2013-03-01", "fetched_at": "x", "stale": "not renewed: no answer"}}
            return type("Found", (), {"bars": bars, "symbols": facts, "skipped": {"NONE": "unknown"}})

    found = Answers(pipe, symbols=Source()).forecast(Data(symbol="AAPL, NONE"), horizon=1)
    assert found.notes == ["AAPL: bars up to 2013-03-01", "AAPL: not renewed: no answer", "NONE: unknown"]
    with pytest.raises(ValueError, match="looks up no symbols"):
        Answers(pipe).forecast(Data(symbol="AAPL"), horizon=1)


def test_too_much_is_refused_before_the_work(pipe, bars, text, monkeypatch):
    many = pd.concat([bars.tail(40).assign(ticker=f"T{i}") for i in range(21)]).to_csv(index=False)
    with pytest.raises(ValueError, match="840 bars of 21 series"):
        Answers(pipe).forecast(Data(bars=many), horizon=1)
    three = pd.concat([bars.tail(60).assign(ticker=name) for name in "ABC"]).to_csv(index=False)
    with pytest.raises(ValueError, match="ask for 1 series or fewer at once"):
        Answers(pipe).forecast(Data(bars=three), horizon=60)
    monkeypatch.setattr(module, "MOST_LETTERS", 1000)
    with pytest.raises(ValueError, match="letters: give 1,000 or fewer"):
        Answers(pipe).forecast(Data(bars=text), horizon=1)


@pytest.mark.parametrize("bars", ["", "{", "a,b\n1,2", "x" * 5000, [], [{"close": 1}]])
def test_what_is_no_bars_is_refused_without_a_path_of_the_server(pipe, bars):
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        Answers(pipe).forecast(Data(bars=bars), horizon=1)
    assert "data.bars" in str(refused.value)
    assert "/" not in str(refused.value)


def test_reasons_have_no_path_of_the_server(pipe, bars):
    twice = bars.to_csv(index=False) * 2  # the second header is no row
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        Answers(pipe).forecast(Data(bars=twice), horizon=1)
    assert "/tmp" not in str(refused.value)


def test_one_source_of_bars():
    with pytest.raises(ValueError, match="exactly one of bars, file, symbol, sample"):
        Data()
    with pytest.raises(ValueError, match="exactly one of"):
        Data(bars="x", sample="AAPL")


def test_the_market_is_read_beside_the_bars(pipe, text, bars):
    if pipe.processor.feature_extractor.market_parts:
        pytest.skip("the model reads a market")
    beside = bars.assign(ticker="X", close=bars["close"] * np.linspace(1, 1.01, len(bars)))
    with pytest.raises(ValueError, match="market="):
        Answers(pipe, market=beside).forecast(Data(bars=text), horizon=1)


def test_rows_of_series_are_made_even(shop_pipe, sales, tmp_path):
    halves = [
        sales.assign(value=sales["value"] / 2, timestamp=sales["timestamp"] + pd.Timedelta(h, "h")) for h in (1, 9)
    ]
    pd.concat(halves).to_csv(tmp_path / "sales.csv", index=False)
    pipe, text = shop_pipe(), (tmp_path / "sales.csv").read_text()
    expected = read_for(pipe.processor, str(tmp_path / "sales.csv"), columns=Columns(resample="1d:sum"))
    told, _, _ = Answers(pipe).read(Data(bars=text, resample="1d:sum"))
    pd.testing.assert_frame_equal(told, expected)
    with pytest.raises(ValueError, match="resample is for plain series, and a sample has prices: leave it out"):
        Data(sample="AAPL", resample="sum")


def test_known_covariates_are_asked_for_as_far_as_the_horizon(shop_pipe, sales):
    days = sales["timestamp"].unique()
    short = sales[sales["timestamp"].isin(days[:-2])]  # four of the six steps that the model knows
    answer = Answers(shop_pipe()).forecast(Data(bars=short.to_csv(index=False)), horizon=4)
    assert ([len(one.steps) for one in answer.forecasts], answer.skipped) == ([4, 4, 4], {})
    with pytest.raises(ValueError, match="promo must be known 5 steps ahead, and step 5 is not"):
        Answers(shop_pipe()).forecast(Data(bars=short.to_csv(index=False)), horizon=5)
