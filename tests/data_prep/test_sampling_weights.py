"""Weights: rules give what they say, draws follow the weights and reproduce."""

import numpy as np
import pandas as pd
import pytest
import torch

from tsf_llm.data_prep.sampling_weights import parse_weights, recency, resample, volatility
from tsf_llm.data_prep.windows import WindowDataset
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer


@pytest.fixture(scope="module")
def windows(make_bars):
    bars = pd.concat([make_bars(300, ticker="AAA", seed=1), make_bars(250, ticker="BBB", seed=2)])
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=8)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars)
    series = processor.feature_extractor.encode(bars)
    return lambda sample_weights="none", **options: WindowDataset(
        processor, series, objective="regression", horizon=2, sample_weights=sample_weights, **options
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_window_is_drawn_as_often_as_its_weight_says(seed):
    weights = np.random.default_rng(seed).exponential(size=500)
    drawn = resample(weights, seed=seed, epoch=0)
    counts = np.bincount(drawn, minlength=500)
    expected = 500 * weights / weights.sum()
    assert counts.sum() == 500
    assert (np.abs(counts - expected) < 1).all()
    mean = np.mean([np.bincount(resample(weights, seed=seed, epoch=e), minlength=500) for e in range(400)], axis=0)
    np.testing.assert_allclose(mean, expected, atol=0.15)


def test_equal_weights_draw_every_window_once():
    np.testing.assert_array_equal(resample(np.full(37, 0.3), seed=1, epoch=2), np.arange(37))


def test_recent_windows_come_more_often(windows):
    data = windows("recency:60")
    stamps = data.timestamp[data.origins]
    age = (stamps.max() - stamps) / np.timedelta64(1, "D")
    np.testing.assert_allclose(data.weights, 2.0 ** (-age / 60))
    drawn = data._windows(np.arange(len(data)))
    assert (age[drawn] <= 60).mean() == pytest.approx(data.weights[age <= 60].sum() / data.weights.sum(), abs=0.02)
    assert len(data) == len(windows())
    np.testing.assert_allclose(recency(stamps, 60), data.weights)


def test_turbulent_windows_come_more_often_within_each_ticker(windows):
    data = windows("volatility")
    sigma, ticker = data.sigma[data.origins], data.start_of[data.origins]
    for name in np.unique(ticker):
        mine = ticker == name
        assert np.median(data.weights[mine]) == pytest.approx(1, abs=0.01)
        assert np.corrcoef(data.weights[mine], sigma[mine])[0, 1] > 0.9
    assert volatility(np.array([1.0, 1.0, 1.0, 100.0]), np.zeros(4)).tolist() == [1, 1, 1, 4]


def test_draws_change_with_the_epoch_and_reproduce(windows):
    data, again = windows("recency:60"), windows("recency:60")
    every = np.arange(len(data))
    first = data.__getitems__(every)
    for key, value in again.__getitems__(every).items():
        torch.testing.assert_close(value, first[key], rtol=0, atol=0, equal_nan=True)
    data.set_epoch(1)
    assert not torch.equal(data.__getitems__(every)["past_values"], first["past_values"])
    assert not torch.equal(windows("recency:60", seed=1).__getitems__(every)["past_values"], first["past_values"])


@pytest.mark.parametrize("text", ["loud", "recency", "recency:", "recency:-3", "recency:nan", "recency:inf", ""])
def test_bad_rules_are_refused(text):
    with pytest.raises(ValueError, match="sample_weights"):
        parse_weights(text)
