"""A calibration is kept where later dates are better for it, and neither later outcomes nor later bars shape it."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tsf_llm.calibration_tsf_llm import check_state
from tsf_llm.evaluation import calibration
from tsf_llm.evaluation.calibration import calibrate, decide
from tsf_llm.evaluation.demand import Demand
from tsf_llm.evaluation.distributions import Gaussian, Scored
from tsf_llm.evaluation.walk_forward import WalkForward, walk_forward
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor

NS = "datetime64[ns]"


def walk(seed=0, *, spread=1.0, late_spread=None, days=240, tickers=6, steps=2):
    """Laws whose width is `spread` times what it should be, on the later half `late_spread` times; when each outcome
    was known: at the next date."""
    rng = np.random.default_rng(seed)
    day = np.repeat(np.arange(days), tickers)
    wrong = np.where(day < days // 2, spread, spread if late_spread is None else late_spread)
    size = 0.01 * np.sqrt(np.arange(1, steps + 1))
    outcomes = rng.standard_normal((len(day), steps)) * size
    dates = pd.bdate_range("2015-01-01", periods=days + 1).to_numpy().astype(NS)
    laws = [Gaussian(np.zeros(len(day)), wrong * one) for one in size]
    scored = [{"model": Scored.of(law, outcomes[:, p])} for p, law in enumerate(laws)]
    names = np.tile([f"T{k}" for k in range(tickers)], days)
    parts = {"ticker": names, "origin": dates[day], "realised": outcomes, "scale": np.ones_like(outcomes)}
    return WalkForward(**parts, steps=scored, due=dates[day + 1])


def test_a_too_narrow_law_is_widened_and_kept():
    state = decide(walk(spread=0.6))
    assert state["kept"]
    np.testing.assert_allclose(state["spread"], 1 / 0.6, rtol=0.08)
    before, after = (state["by_step"][name] for name in ("before", "after"))
    for step in range(2):
        assert before["coverage_80"][step] < 0.6
        assert after["coverage_80"][step] == pytest.approx(0.8, abs=0.04)
        assert after["crps"][step] < before["crps"][step]
    assert state["later_half"]["verdict"].startswith("better than no calibration")
    check_state(json.loads(json.dumps(state, allow_nan=False)))


@pytest.mark.parametrize("seed", range(3))
def test_what_was_true_of_one_half_alone_is_not_kept(seed):
    state = decide(walk(seed, spread=0.6, late_spread=1.2))
    assert not state["kept"]
    assert "on the later half" in state["reason"]
    assert state["later_half"]["difference"] > 0
    check_state(json.loads(json.dumps(state, allow_nan=False)))


def test_too_few_dates_are_a_reason_and_no_error():
    state = decide(walk(spread=0.6, days=20))
    assert (state["kept"], "too short" in state["reason"]) == (False, True)
    check_state(state)


def test_the_first_fit_knows_no_outcome_of_the_later_half(monkeypatch):
    """Some outcomes of the earlier half come late, as those of a ticker with gaps do: they are left out."""
    seen = []

    def watched(laws, outcomes, dates):
        seen.append((outcomes, dates))
        return original(laws, outcomes, dates)

    original = calibration.fit
    monkeypatch.setattr(calibration, "fit", watched)
    one = walk(spread=0.6)
    middle = np.unique(one.origin)[120]
    late = one.origin < middle
    late[::2] = False
    known = np.where(late, middle + np.timedelta64(9, "D"), one.due)
    decide(replace(one, due=known))
    realised = np.where((known > middle)[:, None], 9.0, one.realised)
    decide(replace(one, realised=realised, due=known))
    (first, dates), (again, _) = seen[0], seen[-2 if len(seen) == 4 else -1]
    assert len(dates) == (known <= middle).sum()
    assert dates.max() < middle
    np.testing.assert_array_equal(first, again)


def test_no_bar_after_the_end_is_read(pipe, bars):
    dates = {"start": "2016-01-04", "end": "2016-05-31", "horizon": 1, "samples": 8, "progress": False}
    other = bars.copy()
    other.loc[other["timestamp"] > "2016-05-31", ["open", "high", "low", "close"]] *= 1.5
    first, again = (calibrate(pipe, pipe.processor.encode(one, "2016-05-31"), **dates) for one in (bars, other))
    assert first == again
    assert first["through"] == "2016-05-31"
    assert (first["horizon"], first["samples"], first["seed"]) == (1, 8, 0)


def test_one_number_has_nothing_to_calibrate(processor, tiny_model, bars):
    head = TsfLlmPipeline(model=tiny_model(TsfLlmForPrediction), processor=processor)
    with pytest.raises(ValueError, match="nothing to calibrate"):
        calibrate(head, [], start="2016-01-04", end="2016-05-31", horizon=1)


def test_bounded_values_are_judged_as_they_are_answered(monkeypatch):
    """Half of what a wider law says lies below zero, where no value can be."""
    judged = []

    def watched(laws, outcomes):
        judged.append(laws)
        return original(laws, outcomes)

    original = calibration._figures
    monkeypatch.setattr(calibration, "_figures", watched)
    free = walk(spread=0.6)
    n, now, unit = len(free.origin), 0.02, 2.0
    whole = np.ones(n)
    demand = Demand(value=now * whole, unit=unit * whole, square=whole, sold=whole, whole=whole == 0)
    bounded = replace(free, realised=np.maximum(free.realised, -now / unit), demand=demand)
    decide(bounded, possible=lambda values: np.maximum(values, 0.0))
    (before, after), reaches = judged, [one.min() for one in judged]
    np.testing.assert_allclose(reaches, -now / unit)
    assert (after.max(axis=1) > 1.3 * before.max(axis=1)).all()
    decide(bounded)
    assert judged[-1].min() < -1.5 * now / unit


def test_what_is_judged_of_bounded_values_is_what_the_pipeline_answers(series_form, weekly_sales, monkeypatch):
    pipe, seen = series_form(initializer_range=0.3), {}
    dates = {"start": "2020-06-01", "end": "2020-07-15", "horizon": 3, "samples": 99, "progress": False}
    series = pipe.processor.encode(weekly_sales)

    def watched(walk, seed, possible):
        seen["laws"] = np.stack([one["model"].quantiles for one in walk.steps], axis=-1)
        seen["possible"] = calibration._bounded(seen["laws"], walk, np.full(len(walk.origin), True), possible)
        return {}

    monkeypatch.setattr(calibration, "decide", watched)
    calibrate(pipe, series, **dates)
    answered = walk_forward(pipe, series, **dates, baselines=())
    laws = np.stack([one["model"].quantiles for one in answered.steps], axis=-1)
    np.testing.assert_allclose(seen["possible"], laws, atol=1e-12)
    assert (seen["laws"] < laws - 0.01).any()


def test_a_zero_with_a_probability_of_its_own_is_not_calibrated(series_form, weekly_sales):
    """Not even by what an earlier version kept: quantiles up to `p_zero` stay zero, and those beyond it stay there."""
    pipe = series_form(zero_inflated=True, initializer_range=0.3)
    with pytest.raises(ValueError, match="zero a probability of its own, which shift and spread would break"):
        calibrate(pipe, [], start="2020-06-01", end="2020-07-01", horizon=1)
    before = pipe(weekly_sales)
    kept = {"kept": True, "shift": [0.5] * 3, "spread": [0.5] * 3, "through": "2020-06-30"}
    told = replace_calibration(pipe, kept)
    pd.testing.assert_frame_equal(told(weekly_sales), before)
    with pytest.raises(ValueError, match="calibration=on, but this model gives zero a probability"):
        told(weekly_sales, calibration="on")


def replace_calibration(pipe, state):
    """The pipeline with a processor that keeps this one."""
    processor = TsfLlmProcessor(pipe.processor.feature_extractor, pipe.processor.tokenizer, calibration=state)
    return TsfLlmPipeline(model=pipe.model, processor=processor)
