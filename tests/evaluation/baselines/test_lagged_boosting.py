"""lagged_boosting.py: a rhythm and a year are found, no input reads past its origin, and it is repeatable."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines import lagged_boosting
from tsf_llm.evaluation.baselines.lagged_boosting import lightgbm_lags
from tsf_llm.evaluation.baselines.naive import seasonal_naive
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

pytest.importorskip("lightgbm")
N, FIRST, STEPS = 900, 780, [1, 5, 10]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(lagged_boosting, "TREES", 60)
    monkeypatch.setattr(lagged_boosting, "MOST_ROWS", 6000)


def series(code: int, size: float) -> EncodedSeries:
    """Sales with a week and a year."""
    rng, day = np.random.default_rng(code), np.arange(N)
    rate = size * (1 + 0.4 * np.sin(2 * np.pi * day / 7)) * (1 + 0.5 * np.sin(2 * np.pi * day / 364))
    value, unknown = rng.poisson(rate).astype(float), np.full(N, np.nan)
    times = pd.date_range("2015-01-01", periods=N).to_numpy().astype("datetime64[ns]")
    return EncodedSeries(f"S{code}", times, np.empty((N, 0)), np.ones(N, bool), value, unknown, unknown)


def panel(seed: int = 0) -> Panel:
    sizes = (5.0, 50.0, 20.0)
    rows = [np.arange(FIRST, N - 10, 7)] * len(sizes)
    return Panel([series(i, size) for i, size in enumerate(sizes)], rows, UNIVARIATE, 7, seed=seed)


def outcome(asked: Panel, step: int) -> np.ndarray:
    pairs = zip(asked.series, asked.rows, strict=True)
    return np.concatenate([one.close[rows + step] - one.close[rows] for one, rows in pairs])


def test_it_beats_the_seasonal_naive():
    asked = panel()
    laws = lightgbm_lags(asked, STEPS)
    for step in STEPS:
        naive = np.concatenate([seasonal_naive(one, [step])[step].crps(outcome(one, step)) for one in asked.alone()])
        assert laws[step].crps(outcome(asked, step)).mean() < 0.8 * naive.mean()
    low, high = laws[5].quantile([0.1, 0.9]).T
    assert 0.65 < ((low <= outcome(asked, 5)) & (outcome(asked, 5) <= high)).mean() < 0.95


def test_inputs_read_nothing_after_the_origin():
    asked = panel()
    later = [replace(one, close=np.where(np.arange(N) > FIRST, 1e6, one.close)) for one in asked.series]
    rows = [np.array([FIRST])] * 3
    ours, theirs = (lightgbm_lags(replace(asked, series=one, rows=rows), STEPS) for one in (asked.series, later))
    for step in STEPS:
        assert_array_equal(ours[step].values, theirs[step].values)


def test_a_season_is_told_by_the_times_up_to_the_first_fence():
    asked = replace(panel(), season=None, rows=[np.array([300])] * 3)
    weeks = np.timedelta64(6, "D") * np.maximum(np.arange(N) - 300, 0)  # from there on, most rows of all, weekly
    later = [replace(one, timestamp=one.timestamp + weeks) for one in asked.series]
    ours, theirs = (lagged_boosting._lags(replace(asked, series=one)) for one in (asked.series, later))
    assert [(one.season, one.year) for one in ours] == [(7, 364)] * 3
    assert [(one.season, one.year) for one in theirs] == [(7, 364)] * 3


def test_a_seed_repeats_itself():
    first, again, other = (lightgbm_lags(panel(seed), [5])[5].values for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).any()


def test_too_little_history_is_one_line():
    with pytest.raises(ValueError, match=r"to train and to stop on.*give earlier values"):
        lightgbm_lags(replace(panel(), rows=[np.arange(20, 25)] * 3), [1])


def test_a_missing_package_is_one_line_with_its_remedy(monkeypatch):
    monkeypatch.setattr(lagged_boosting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"lightgbm is not installed: pip install 'tsf-llm\[baselines\]'"):
        lightgbm_lags(panel(), [1])
