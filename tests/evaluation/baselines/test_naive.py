import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE
from tsf_llm.evaluation.baselines.naive import (
    drift,
    historical_volatility,
    naive_scale,
    naive_square_scale,
    random_walk,
    seasonal_naive,
)


@pytest.fixture
def close():
    return 50 * np.exp(np.cumsum(0.001 + 0.02 * np.random.default_rng(0).standard_normal(300)))


ORIGINS = np.array([20, 57, 120, 299])


@pytest.fixture
def baseline_forecasts(make_panel):
    rows = {"random_walk": random_walk, "drift": drift, "historical_volatility_20": historical_volatility}

    def forecasts(close, origins, horizon, kind=OHLCV):
        panel = make_panel(close, origins, kind)
        return {name: baseline(panel, [horizon])[horizon] for name, baseline in rows.items()}

    return forecasts


@pytest.fixture
def seasonal(make_panel):
    return lambda value, origins, horizon, season: seasonal_naive(
        make_panel(value, origins, UNIVARIATE, season=season), [horizon]
    )[horizon]


@pytest.mark.parametrize("horizon", [1, 5])
def test_baselines_agree_with_a_loop_over_origins(baseline_forecasts, close, horizon):
    forecasts = baseline_forecasts(close, ORIGINS, horizon)
    for i, origin in enumerate(ORIGINS):
        returns = np.diff(np.log(close[: origin + 1]))
        expected = {
            "random_walk": (0.0, np.sqrt(np.mean(returns**2))),
            "drift": (returns.mean() * horizon, returns.std(ddof=1)),
            "historical_volatility_20": (0.0, returns[-20:].std(ddof=1)),
        }
        assert forecasts.keys() == expected.keys()
        for name, (mean, step_std) in expected.items():
            assert_allclose(forecasts[name].mean[i], mean, atol=1e-14)
            assert_allclose(forecasts[name].std[i], step_std * np.sqrt(horizon), rtol=1e-10)
        multi_step = np.log(close[horizon : origin + 1] / close[: origin + 1 - horizon])
        assert_allclose(naive_scale(close, ORIGINS, horizon)[i], np.abs(multi_step).mean(), rtol=1e-12)
        assert_allclose(naive_square_scale(close, ORIGINS, horizon)[i], np.mean(multi_step**2), rtol=1e-12)


def test_the_future_never_changes_a_forecast(baseline_forecasts, close):
    origins = np.arange(20, 121)
    perturbed = close.copy()
    perturbed[121:] = 1e6 * np.random.default_rng(1).random(len(close) - 121)
    missing = np.where(np.arange(len(close)) > 120, np.nan, close)
    original = baseline_forecasts(close, origins, 3)
    for future in (close[:121], perturbed, missing):
        for name, forecast in baseline_forecasts(future, origins, 3).items():
            assert_array_equal(forecast.mean, original[name].mean)
            assert_array_equal(forecast.std, original[name].std)
        for scale in (naive_scale, naive_square_scale):
            assert_array_equal(scale(future, origins, 3), scale(close, origins, 3))


def test_the_past_does_change_a_forecast(baseline_forecasts, close):
    earlier = close.copy()
    earlier[115] *= 1.1
    for name, forecast in baseline_forecasts(earlier, np.array([120]), 3).items():
        assert forecast.std[0] != baseline_forecasts(close, np.array([120]), 3)[name].std[0]


def test_returns_over_a_gap_use_the_last_known_close(baseline_forecasts, close):
    gapped = close.copy()
    gapped[[0, 1, 60, 61, 200]] = np.nan
    known = np.isfinite(gapped)
    shifted = np.cumsum(known) - 1  # where each bar's last known close lies once the gaps are closed
    origins = np.array([100, 200, 250])  # bar 200 is itself missing
    for name, forecast in baseline_forecasts(gapped, origins, 2).items():
        closed_up = baseline_forecasts(gapped[known], shifted[origins], 2)[name]
        assert_array_equal(forecast.mean, closed_up.mean)
        assert_array_equal(forecast.std, closed_up.std)
    assert_array_equal(naive_scale(gapped, origins, 2), naive_scale(gapped[known], shifted[origins], 2))


def test_spread_covers_a_random_walk(baseline_forecasts):
    steps = 0.02 * np.random.default_rng(2).standard_normal(6_000)
    log_close = np.cumsum(steps)
    origins = np.arange(100, 5_990)
    forecast = baseline_forecasts(np.exp(log_close), origins, 4)["random_walk"]
    low, high = forecast.quantile([0.1, 0.9]).T
    realised = log_close[origins + 4] - log_close[origins]
    assert abs(np.mean((low <= realised) & (realised <= high)) - 0.8) < 0.03


def test_a_ticker_that_never_moved_has_no_spread(baseline_forecasts):
    for forecast in baseline_forecasts(np.full(40, 7.0), np.array([30]), 1).values():
        assert_allclose(forecast.crps(np.array([0.01])), 0.01, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "origins", "horizon", "message"),
    [
        (None, [19, 50], 1, "origin 19 has 19 returns .* 20 are needed: start at a later origin"),
        (None, [50, 300], 1, "origins run from 50 to 300"),
        (None, [-1], 1, "origins run from -1"),
        (None, [50], 0, "horizon is 0"),
        ((7, 0.0), [50], 1, "close at bar 7 is 0.0"),
    ],
)
def test_unusable_input_is_refused_with_a_remedy(baseline_forecasts, close, change, origins, horizon, message):
    if change:
        close[change[0]] = change[1]
    with pytest.raises(ValueError, match=message):
        baseline_forecasts(close, np.array(origins), horizon)


# Plain series


def test_baselines_of_a_plain_series_are_about_differences(baseline_forecasts):
    value = np.random.default_rng(0).normal(0, 2, 300).cumsum() - 50
    forecasts = baseline_forecasts(value, ORIGINS, 5, UNIVARIATE)
    scales = naive_scale(value, ORIGINS, 5, UNIVARIATE)
    for i, origin in enumerate(ORIGINS):
        changes = np.diff(value[: origin + 1])
        assert_allclose(forecasts["random_walk"].std[i], np.sqrt(np.mean(changes**2) * 5))
        assert_allclose(forecasts["drift"].mean[i], changes.mean() * 5)
        assert_allclose(forecasts["historical_volatility_20"].std[i], changes[-20:].std(ddof=1) * np.sqrt(5))
        assert_allclose(scales[i], np.abs(value[5 : origin + 1] - value[: origin - 4]).mean())


@pytest.mark.parametrize(("horizon", "back"), [(1, 7), (7, 7), (8, 14)])
def test_seasonal_naive_repeats_the_last_season(seasonal, horizon, back):
    value = np.random.default_rng(0).normal(0, 2, 300).cumsum()
    forecast = seasonal(value, np.array([60, 299]), horizon, 7)
    for i, origin in enumerate((60, 299)):
        errors = value[back : origin + 1] - value[: origin + 1 - back]
        expected = value[origin + horizon - back] - value[origin] + np.median(errors)
        assert_allclose(forecast.median[i], expected)
    changed = value.copy()
    changed[61:] = 1e9
    assert_array_equal(seasonal(changed, np.array([60]), horizon, 7).values[0], forecast.values[0])


def test_seasonal_naive_is_exact_where_the_season_is_and_wants_history(seasonal):
    value = np.tile([1.0, 5, 2, np.nan, 7, 3, 4], 20)
    value[100] = 9.0
    forecast = seasonal(np.tile([1.0, 5, 2, 3], 20), np.array([70]), 3, 4)
    assert_array_equal(forecast.values, np.full((1, 99), forecast.values[0, 0]))
    assert np.isfinite(seasonal(value, np.array([90, 120]), 3, 7).values).all()
    with pytest.raises(ValueError, match="give earlier values"):
        seasonal(value, np.array([26]), 3, 7)
