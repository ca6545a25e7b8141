"""strategy.py: what is written, that nothing after a decision is read, what is refused, and when it says "better"."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tsf_llm.evaluation.strategy import FILES, HOLD, backtest_model, forecast_law, print_backtest, verdict
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

PERIOD = {"start": "2016-01-01", "end": "2016-03-31", "horizon": 3, "samples": 8, "weights": "tiny"}


@pytest.fixture(scope="module")
def tested(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("trading") / "backtest"
    return out, backtest_model(pipe, bars, **PERIOD, rules="all", out=out)


def test_writes_what_it_returns_and_a_plot(tested):
    out, results = tested
    assert {path.name for path in out.iterdir()} == {*FILES, ".tsf_llm.json"}
    assert json.loads((out / "backtest.json").read_text()) == results
    assert Image.open(out / "equity.png").size[0] > 900
    assert results["made_by"] == "backtest"
    assert (results["every"], results["horizon"], results["cost_bp"]) == (3, 3, 10)
    assert [*results["strategies"]] == ["sign", "threshold", "kelly", "long-short", HOLD]
    assert [*results["verdicts"]] == [*results["strategies"]][:-1]
    assert results["decisions"] == 22  # of 65 business days, the last of which has no next open
    assert (results["start"], results["end"]) == ("2016-01-01", "2016-03-31")


def test_costs_and_chance_stand_beside_every_rule(tested):
    for name, row in tested[1]["strategies"].items():
        if name != HOLD and row["turnover"] > 0:
            assert row["gross_total_return"] > row["total_return"]
            assert 0 <= row["random_percentile"] <= 100
            assert row["random_total_return"] == sorted(row["random_total_return"])
            assert row["deflated_sharpe"] <= row["probabilistic_sharpe"]


def test_prints_the_figures(tested, capsys):
    print_backtest(tested[1])
    text = capsys.readouterr().out
    assert "long-short" in text
    assert "buy and hold" in text
    assert max(map(len, text.splitlines())) <= 80


def test_every_rule_is_a_trial_and_the_same_settings_are_none(pipe, bars, tmp_path):
    def run(**more):
        return backtest_model(pipe, bars, **{**PERIOD, **more}, out=tmp_path / "out")

    first = run()
    assert (first["trials"], first["trials_log"]) == (1, str(tmp_path / "trials.jsonl"))
    again = run()
    assert again == first
    assert run(rules="sign,kelly")["trials"] == 2
    assert run(cost_bp=5)["trials"] == 3
    assert run(weights="other")["trials"] == 4
    assert run(trials_log=tmp_path / "new" / "log.jsonl")["trials"] == 1
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 6


def test_nothing_after_the_period_is_read(pipe, bars, tmp_path):
    """Bars after the end: gone, or ten times as high."""
    later = bars["timestamp"] > "2016-03-31"
    columns = ["open", "high", "low", "close"]
    higher = bars.copy()
    higher.loc[later, columns] *= 10
    one, two, three = (
        backtest_model(pipe, some, **PERIOD, rules="all", out=tmp_path / name / "out")
        for name, some in {"all": bars, "cut": bars[~later], "higher": higher}.items()
    )
    for other in (two, three):
        assert other | {"trials_log": None} == one | {"trials_log": None}


def test_a_forecast_at_a_close_does_not_know_the_next_bar(pipe, bars):
    encode = pipe.processor.encode
    whole = encode(bars)
    times = whole[0].timestamp[200:260:10]
    law = forecast_law(pipe, whole, times, horizon=2, samples=8, progress=False)
    for k, moment in enumerate(times):
        known = forecast_law(
            pipe, encode(bars[bars["timestamp"] <= moment]), times[[k]], horizon=2, samples=8, progress=False
        )
        assert np.allclose(known.mean[0], law.mean[k], rtol=0, atol=1e-8)
        assert np.allclose(known.p_up[0], law.p_up[k], rtol=0, atol=1e-6)


def test_one_step_ahead_the_law_is_exact(pipe, bars):
    series = pipe.processor.encode(bars)
    times = series[0].timestamp[200:210]
    first, second = (forecast_law(pipe, series, times, horizon=1, samples=8, seed=s, progress=False) for s in (0, 1))
    assert np.array_equal(first.mean, second.mean)
    [law] = pipe.laws(pipe.processor.batch([(series[1], np.arange(200, 210))]), horizon=1)
    assert first.mean[:, 1] == pytest.approx(law.point, rel=1e-5)


def test_a_ticker_without_a_bar_has_no_forecast(pipe, bars, make_bars):
    series = pipe.processor.encode(pd.concat([bars, make_bars(100, ticker="GONE", seed=5)]))
    law = forecast_law(pipe, series, series[0].timestamp[[90, 200]], horizon=1, progress=False)
    assert np.isfinite(law.p_up[0]).all()
    assert np.isnan(law.p_up[1]).tolist() == [False, False, True]


def test_says_whether_the_model_has_seen_the_period(pipe, bars, tmp_path, monkeypatch, caplog):
    for seen, unseen in (("2015-12-31", True), ("2016-01-05", False), (None, None)):
        monkeypatch.setattr(pipe.model.config, "trained_through", seen)
        results = backtest_model(pipe, bars, **PERIOD, out=tmp_path / "out")
        assert (results["trained_through"], results["out_of_sample"]) == (seen, unseen)
        assert ("the model has seen prices through 2016-01-05" in caplog.text) == (unseen is False)
        caplog.clear()


def test_what_cannot_be_forecast_is_skipped_with_the_reason(pipe, bars, make_bars, tmp_path):
    panel = pd.concat([bars, make_bars(10, ticker="IPO"), make_bars(60, ticker="EARLY", start="2015-01-01")])
    results = backtest_model(pipe, panel, **PERIOD, out=tmp_path / "out")
    assert results["tickers"] == ["AAA", "BBB"]
    assert results["skipped"].keys() == {"IPO", "EARLY"}
    with pytest.raises(ValueError, match="IPO"):
        backtest_model(pipe, panel, **PERIOD, out=tmp_path / "strict", strict=True)


def test_a_delisted_ticker_stays_in_the_backtest(pipe, bars, make_bars, tmp_path):
    gone = make_bars(290, ticker="GONE", seed=7)  # until February 2016
    results = backtest_model(pipe, pd.concat([bars, gone]), **PERIOD, out=tmp_path / "out")
    assert results["tickers"] == ["AAA", "BBB", "GONE"]
    assert results["strategies"][HOLD]["stranded_positions"] == 1


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"rules": "magic"}, "no rule magic: choose from sign, threshold, kelly, long-short, or all"),
        ({"rules": ""}, "no rule ''"),
        ({"cost_bp": -1}, "cost_bp=-1"),
        ({"trials_log": Path("log.txt")}, "must end in .jsonl"),
        ({"start": "2031-01-01", "end": "2031-02-01"}, "2031-01-01"),
        ({"start": "2016-03-31"}, "a position needs a next open"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(pipe, bars, tmp_path, more, says):
    with pytest.raises(ValueError, match=says) as error:
        backtest_model(pipe, bars, **{**PERIOD, **more}, out=tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [*tmp_path.iterdir()] == []


def test_heads_have_the_rules_that_they_tell_enough_for(tiny_model, processor, bars, tmp_path):
    for kind in ("regression", "classification"):
        pipe = TsfLlmPipeline(model=tiny_model(TsfLlmForPrediction, prediction_type=kind), processor=processor)
        results = backtest_model(pipe, bars, **PERIOD, rules="all", out=tmp_path / kind)
        assert [*results["verdicts"]] == ["sign", "long-short"]
        with pytest.raises(ValueError, match="rule kelly needs mean, std, which this model does not tell"):
            backtest_model(pipe, bars, **PERIOD, rules="kelly", out=tmp_path / kind)


def test_a_plain_series_is_refused(tiny_model, tmp_path):
    hours = pd.date_range("2020-01-01", periods=400, freq="h")
    loads = pd.DataFrame({"timestamp": hours, "value": np.random.default_rng(0).normal(size=400)})
    extractor = TsfLlmFeatureExtractor(kind="univariate", context_length=16)
    fitted = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(loads, through="2020-01-10")
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33}
    pipe = TsfLlmPipeline(model=tiny_model(num_features=extractor.feature_size, **tokens), processor=fitted)
    with pytest.raises(ValueError, match="a plain series has no open to trade at"):
        backtest_model(pipe, loads, **PERIOD, out=tmp_path)


def test_better_needs_the_interval_and_the_deflated_ratio():
    def words(low, high, deflated):
        row = {
            "sharpe": 1.0,
            "sharpe_difference": (low + high) / 2,
            "sharpe_difference_ci95": [low, high],
            "deflated_sharpe": deflated,
        }
        return verdict(row, {"sharpe": 0.5}, 7)

    assert words(0.1, 0.9, 0.96).startswith("better than buy and hold: Sharpe 1.00 against 0.50")
    assert words(0.1, 0.9, 0.94).startswith("no edge over buy and hold")
    assert words(-0.1, 0.9, 0.99).startswith("no edge over buy and hold")
    assert words(-0.9, -0.1, 0.0).startswith("worse than buy and hold")
    assert "over 7 trial(s)" in words(0.1, 0.9, 0.96)
    still = {"sharpe": None, "sharpe_difference_ci95": None, "deflated_sharpe": None}
    assert verdict(still, {"sharpe": 0.5}, 1) == "nothing to compare with buy and hold: it never moved"
