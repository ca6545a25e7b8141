"""HAR on ranges: it finds a planted volatility, the market helps where it leads, and nothing is read too early."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.evaluation.baselines.har import har_range, har_range_own
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.evaluation.distributions import Gaussian

N, ROWS = 1200, [har_range_own, har_range]


def prices(seed, log_sigma):
    """Bars of 20 moves each, whose standard deviation follows log_sigma `[N]`: float `[N,4]`."""
    rng = np.random.default_rng(seed)
    inside = rng.normal(size=(N, 20)) * np.exp(log_sigma)[:, None] / np.sqrt(21)
    gap = rng.normal(size=N) * np.exp(log_sigma) / np.sqrt(21)
    opened = np.cumsum(gap + np.append(0, inside.sum(axis=1)[:-1]))
    path = opened[:, None] + np.concatenate((np.zeros((N, 1)), inside.cumsum(axis=1)), axis=1)
    return 30 * np.exp(np.stack([path[:, 0], path.max(axis=1), path.min(axis=1), path[:, -1]], axis=1))


def wave(seed):
    """A log volatility that wanders."""
    noise, out = np.random.default_rng(seed).normal(0, 0.25, N), np.empty(N)
    level = 0.0
    for t in range(N):
        out[t] = level = 0.95 * level + noise[t]
    return np.log(0.01) + out


@pytest.fixture(scope="module")
def paths():
    common = wave(0)
    return [prices(seed, common) for seed in (1, 2, 3)]


@pytest.fixture
def panel(paths, make_series):
    def make(changed=paths, origins=None):
        names = ("A", "B", "C")
        series = [make_series(one[:, 3], ticker=name, ohlc=one) for one, name in zip(changed, names, strict=True)]
        return Panel(series, [np.arange(500, N - 10, 3) if origins is None else origins] * 3)

    return make


def outcomes(panel, step):
    return np.concatenate(
        [np.log(one.close[rows + step] / one.close[rows]) for one, rows in zip(panel.series, panel.rows, strict=True)]
    )


@pytest.mark.parametrize("baseline", ROWS)
@pytest.mark.parametrize("step", [1, 5])
def test_a_planted_volatility_is_found_and_bands_cover(baseline, step, panel):
    asked = panel()
    forecast, outcome = baseline(asked, [step])[step], outcomes(asked, step)
    flat = Gaussian(np.zeros(len(outcome)), np.full(len(outcome), outcome.std()))
    assert forecast.crps(outcome).mean() < 0.97 * flat.crps(outcome).mean()
    low, high = forecast.quantile([0.1, 0.9]).T
    assert abs(np.mean((low <= outcome) & (outcome <= high)) - 0.8) < 0.04


def test_the_market_tells_more_than_a_single_ticker(panel):
    asked = panel()
    outcome = outcomes(asked, 1)
    own, wide = (row(asked, [1])[1].crps(outcome).mean() for row in (har_range_own, har_range))
    assert wide < own


@pytest.mark.parametrize("baseline", ROWS)
def test_nothing_is_read_past_an_origin(baseline, panel, paths):
    origins = np.arange(500, 1000, 7)
    whole = baseline(panel(origins=origins), [1, 5])
    for last in (500, 640, 759, 801):
        others = [one.copy() for one in paths]
        for i, one in enumerate(others):
            one[last + 1 :] *= np.exp(np.random.default_rng(i).normal(0, 0.2, (N - last - 1, 1)).cumsum(axis=0))
        changed = baseline(panel(others, origins), [1, 5])
        mine = np.tile(origins <= last, 3)
        for step in (1, 5):
            assert_array_equal(changed[step].scale[mine], whole[step].scale[mine])
            assert_array_equal(changed[step].quantile([0.05, 0.9])[mine], whole[step].quantile([0.05, 0.9])[mine])
            assert not np.array_equal(changed[step].scale[~mine], whole[step].scale[~mine])


def test_one_ticker_alone_has_no_market(paths, make_series):
    alone = Panel([make_series(paths[0][:, 3], ohlc=paths[0])], [np.arange(600, 700)])
    assert np.isfinite(har_range(alone, [1])[1].scale).all()


def test_missing_bars_and_short_tickers_leave_the_others_their_forecasts(panel, paths, make_series):
    holed = [one.copy() for one in paths]
    holed[0][300:310] = np.nan
    forecast = har_range(panel(holed, np.arange(600, 650)), [1, 5])
    assert all(np.isfinite(one.scale).all() for one in forecast.values())
    still = np.full((N, 4), 7.0)
    forecast = har_range_own(panel([paths[0], paths[1], still], np.arange(600, 650)), [1])[1]
    assert_allclose(np.isfinite(forecast.scale), np.repeat([1, 1, 0], 50))


def test_too_little_history_is_refused(panel):
    with pytest.raises(ValueError, match=r"bars with a known outcome of 1 step\(s\) before .*, and 250 are needed"):
        har_range_own(panel(origins=np.arange(40, 60)), [1])
