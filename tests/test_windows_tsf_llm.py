"""Each window beside pandas; and what its running sums cannot promise: a value is a function of its window alone."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm import windows_tsf_llm as windows
from tsf_llm.windows_tsf_llm import exponential_bars, exponential_mean

LENGTHS = (1, 2, 5, 21, 64)
WINDOWS = {
    "lag": (windows.lag, lambda x, n: x.shift(n)),
    "change": (windows.change, lambda x, n: x.diff(n)),
    "moving_sum": (windows.moving_sum, lambda x, n: x.rolling(n).sum()),
    "moving_mean": (windows.moving_mean, lambda x, n: x.rolling(n).mean()),
    "moving_max": (windows.moving_max, lambda x, n: x.rolling(n).max()),
    "moving_min": (windows.moving_min, lambda x, n: x.rolling(n).min()),
    "moving_var": (windows.moving_var, lambda x, n: x.rolling(n).apply(np.var, raw=True, kwargs={"ddof": 1})),
    "moving_std": (windows.moving_std, lambda x, n: x.rolling(n).apply(np.std, raw=True, kwargs={"ddof": 1})),
    "moving_cov": (lambda x, n: windows.moving_cov(x, np.sqrt(x), n), lambda x, n: x.rolling(n).cov(np.sqrt(x))),
    "moving_slope": (windows.moving_slope, lambda x, n: x.rolling(n).apply(_slope, raw=True)),
    "moving_deviation": (
        lambda x, n: windows.moving_deviation(x, n, np.abs),
        lambda x, n: x.rolling(n).apply(lambda w: np.abs(w - w.mean()).mean(), raw=True),
    ),
    "bars_since_max": (
        windows.bars_since_max,
        lambda x, n: x.rolling(n).apply(lambda w: np.argmax(w[::-1]), raw=True),
    ),
}
CASES = [
    pytest.param(*WINDOWS[name], length, id=f"{name}-{length}")
    for name in WINDOWS
    for length in LENGTHS
    if length > 1 or name not in ("moving_var", "moving_std", "moving_cov", "moving_slope")
]
SPANS = [(2, None), (5, None), (26, None), (200, None), (14, 1 / 14), (21, 1 / 21)]


def _slope(window: np.ndarray) -> float:
    return np.polyfit(np.arange(len(window)), window, 1)[0]


@pytest.fixture(scope="module")
def prices() -> np.ndarray:
    moves = np.random.default_rng(0).normal(0, 0.02, (500, 3))
    return np.round(100 * np.exp(moves.cumsum(axis=0)), 1)  # rounded: some are equal


@pytest.mark.parametrize(("ours", "oracle", "length"), CASES)
def test_a_window_is_that_of_pandas(prices, ours, oracle, length):
    expected = np.column_stack([oracle(pd.Series(column), length) for column in prices.T])
    np.testing.assert_allclose(ours(prices, length), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("ours", "oracle", "length"), CASES)
def test_a_window_is_a_function_of_itself_alone(prices, ours, oracle, length):
    whole = ours(prices, length)
    noisy = np.concatenate((1e9 * prices[:100], prices))
    np.testing.assert_array_equal(ours(noisy, length)[100 + length :], whole[length:])
    for column in range(prices.shape[1]):
        np.testing.assert_array_equal(ours(prices[:, [column]], length)[:, 0], whole[:, column])


@pytest.mark.parametrize(("ours", "oracle", "length"), CASES)
def test_a_later_bar_changes_nothing(prices, ours, oracle, length):
    np.testing.assert_array_equal(ours(prices[:300], length), ours(prices, length)[:300])


@pytest.mark.parametrize(("ours", "oracle", "length"), CASES)
def test_a_window_with_a_gap_is_unknown_and_no_other(prices, ours, oracle, length):
    with_gap = prices.copy()
    with_gap[400, 1] = np.nan
    values, whole = ours(with_gap, length), ours(prices, length)
    touched = values.view(np.int64) != whole.view(np.int64)
    assert touched.any()
    assert np.isnan(values[touched]).all()
    assert not touched[:, [0, 2]].any()
    assert not touched[:400].any()
    assert not touched[401 + length :].any()


@pytest.mark.parametrize(("ours", "oracle", "length"), CASES)
@pytest.mark.parametrize("bars", [0, 1, 4])
def test_short_histories(prices, ours, oracle, length, bars):
    expected = ours(prices[:20], length)[:bars]
    np.testing.assert_array_equal(ours(prices[:bars], length), expected)


def test_a_window_that_stands_still_has_no_variance():
    still = np.full((100, 1), 0.1)
    still[:10] = 1e6
    assert (windows.moving_var(still, 32)[60:] == 0).all()
    assert (windows.moving_var(still, 21)[60:] < 1e-30).all()


@pytest.mark.parametrize(("length", "alpha"), SPANS)
@pytest.mark.parametrize("start", [0, 3])
def test_an_exponential_mean_is_that_of_pandas_from_its_seed_on(prices, length, alpha, start):
    x = prices.copy()
    x[:start] = np.nan
    seed = start + length - 1
    for column, mean in zip(x.T, exponential_mean(x, length, alpha).T, strict=True):
        seeded = pd.Series(column)
        seeded[:seed], seeded[seed] = np.nan, column[start : seed + 1].mean()
        expected = seeded.ewm(alpha=alpha or 2 / (length + 1), adjust=False).mean()
        np.testing.assert_allclose(mean, expected, rtol=1e-13)


@pytest.mark.parametrize(("length", "alpha"), [(5, None), (26, None), (14, 1 / 14)])
def test_an_exponential_mean_forgets_where_it_began_to_the_bit(length, alpha):
    x = 100 + np.random.default_rng(1).normal(0, 1, (2500, 2)).cumsum(axis=0)
    whole, memory = exponential_mean(x, length, alpha), exponential_bars(length, alpha)
    for first in (1, 37, 1000):
        later = exponential_mean(x[first:], length, alpha)
        np.testing.assert_array_equal(later[memory - 1 :], whole[first + memory - 1 :])
        assert (later[length : memory // 3] != whole[first + length : first + memory // 3]).any()


def test_an_exponential_mean_of_too_little_is_unknown(prices):
    assert np.isnan(exponential_mean(prices[:4], 5)).all()
    assert np.isnan(exponential_mean(prices[:0], 5)).all()
    assert np.isfinite(exponential_mean(prices[:5], 5)[-1]).all()
