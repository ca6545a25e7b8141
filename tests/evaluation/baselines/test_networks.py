from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_array_equal
from scipy.signal import lfilter

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.networks import DLinear, Lstm, PatchTST, Sizes, network_forecasts
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

N, FIRST = 1200, 900
SMALL = Sizes(length=24, width=16, batch=64, epochs=12, rate=5e-3)
BUILDS = [DLinear, PatchTST, Lstm]


def series(seed: int, planted: float, size: float = 1.0) -> EncodedSeries:
    """Values whose moves repeat a part of the last one."""
    moves = lfilter([1], [1, -planted], np.random.default_rng(seed).standard_normal(N)) * np.sqrt(1 - planted**2)
    return EncodedSeries(
        ticker=f"S{seed}",
        timestamp=pd.date_range("2015-01-01", periods=N).to_numpy(),
        features=np.zeros((N, 1), np.float32),
        observed=np.ones(N, bool),
        close=size * np.cumsum(moves),
        log_return=size * moves,
        sigma=np.full(N, size),
    )


def panel(planted: float = 0.9) -> Panel:
    return Panel([series(i, planted, 10.0**i) for i in range(3)], [np.arange(FIRST, N - 3)] * 3, kind=UNIVARIATE)


def mean_crps(laws, asked: Panel, step: int) -> float:
    """In the moves' standard deviation."""
    pairs = list(zip(asked.series, asked.rows, strict=True))
    outcome = np.concatenate([one.close[at + step] - one.close[at] for one, at in pairs])
    unit = np.concatenate([one.sigma[at] for one, at in pairs])
    return (laws[step].crps(outcome) / unit).mean()


@pytest.mark.parametrize("build", BUILDS)
def test_a_planted_signal_is_found_in_series_of_all_sizes(build):
    asked = panel()
    laws = network_forecasts(asked, [1, 2], build=build, sizes=SMALL)
    assert mean_crps(laws, asked, 1) < 0.75 * 0.564  # of the law of the moves; 0.436 of it for who knows the rule


@pytest.mark.parametrize("build", BUILDS)
def test_noise_gives_no_edge(build):
    asked = panel(0.0)
    loss = mean_crps(network_forecasts(asked, [1], build=build, sizes=SMALL), asked, 1)
    assert 0.97 < loss / 0.564 < 1.06


def test_a_seed_repeats_to_the_bit_and_leaves_torch_as_it_was():
    asked, state, options = panel(), torch.get_rng_state(), {"build": PatchTST, "sizes": replace(SMALL, epochs=2)}
    first, again = (network_forecasts(asked, [2], **options)[2].values for _ in range(2))
    assert_array_equal(first, again)
    assert_array_equal(torch.get_rng_state(), state)
    assert (network_forecasts(replace(asked, seed=1), [2], **options)[2].values != first).any()


def test_a_missing_value_is_the_last_known_one():
    asked = panel()
    for one in asked.series:
        one.close[[0, 1, 500, FIRST - 3]] = np.nan
    asked.series[0].close[: FIRST - 30] = np.nan
    assert np.isfinite(network_forecasts(asked, [1], build=DLinear, sizes=SMALL)[1].values).all()
