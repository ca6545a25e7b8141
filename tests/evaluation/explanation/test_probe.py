"""probe.py: what is scored, that it is what an evaluation scores, and that nothing later is read."""

import numpy as np
import pytest
import torch

from tsf_llm.evaluation.explanation.probe import Probe
from tsf_llm.evaluation.walk_forward import walk_forward
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline

PERIOD = {"start": "2016-01-01", "end": "2016-03-01"}


def test_the_losses_are_those_of_an_evaluation(pipe, bars):
    series = pipe.processor.encode(bars)
    probe = Probe.of(pipe, series, **PERIOD, most=1000)
    walk = walk_forward(pipe, series, **PERIOD, horizon=1)
    assert probe.batch["ticker"] == walk.ticker.tolist()
    assert (probe.dates == walk.origin).all()
    np.testing.assert_allclose(probe.outcome * 0.01, walk.realised[:, 0])
    np.testing.assert_allclose(probe.loss() * 0.01, walk.crps(), rtol=1e-5)


def test_dates_are_drawn_whole_and_by_the_seed(pipe, bars):
    series = pipe.processor.encode(bars)
    probe, again, other = (Probe.of(pipe, series, **PERIOD, most=7, seed=seed) for seed in (0, 0, 1))
    assert len(np.unique(probe.dates)) == 7
    assert len(probe.outcome) == 14
    assert (probe.dates == again.dates).all()
    assert not np.array_equal(probe.dates, other.dates)


def test_no_bar_after_the_outcome_is_read(pipe, bars):
    probe = Probe.of(pipe, pipe.processor.encode(bars), **PERIOD, most=5)
    last = probe.dates.max()
    known = bars[bars["timestamp"] <= bars["timestamp"][bars["timestamp"] > last].min()]
    series = pipe.processor.encode(known)
    again = Probe.of(pipe, series, start=str(last)[:10], end=str(last)[:10], most=5)
    mine = probe.dates == last
    assert torch.equal(again.batch["past_values"], probe.batch["past_values"][torch.as_tensor(mine)])
    for name in ("outcome", "sigma", "trend"):
        assert getattr(again, name).tolist() == getattr(probe, name)[mine].tolist()


def test_the_last_bars_have_a_forecast_and_no_outcome(pipe, bars):
    series = pipe.processor.encode(bars)
    last = Probe.of(pipe, series, **PERIOD, most=5).at_last_bars(series)
    assert last.batch["ticker"] == ["AAA", "BBB"]
    assert {*last.batch["origin"]} == {bars["timestamp"].max()}
    assert np.isnan(last.outcome).all()
    assert np.isfinite(last.law().median).all()


@pytest.mark.parametrize("kind", ["quantile", "regression"])
def test_heads_are_scored_by_their_own_loss(tiny_model, processor, bars, kind):
    pipe = TsfLlmPipeline(model=tiny_model(TsfLlmForPrediction, prediction_type=kind), processor=processor)
    probe = Probe.of(pipe, processor.encode(bars), **PERIOD, most=3)
    assert probe.loss_name == ("crps" if kind == "quantile" else "absolute_error")
    answer = pipe.predict_head(probe.batch, 1)[:, 0] / 0.01
    if kind == "regression":
        np.testing.assert_allclose(probe.loss(), np.abs(answer - probe.outcome), rtol=1e-5)
    else:
        levels = list(pipe.model.config.quantiles)
        np.testing.assert_allclose(probe.law().quantile(levels), answer, rtol=1e-5)


def test_classes_have_no_loss(tiny_model, processor, bars):
    model = tiny_model(TsfLlmForPrediction, prediction_type="classification")
    with pytest.raises(ValueError, match="a classification model has no return to score"):
        Probe.of(TsfLlmPipeline(model=model, processor=processor), processor.encode(bars), **PERIOD, most=3)
