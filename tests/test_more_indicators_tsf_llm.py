"""Values beside pandas: `test_indicators_tsf_llm.py`."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.more_indicators_tsf_llm import ROWS
from tsf_llm.panel_tsf_llm import Panel


@pytest.fixture
def value_of(columns_of):
    """`value_of(name, *tickers)`: a feature of these tickers' bars, `[T,N]`."""
    compute = {row.name: row.compute for row in ROWS}
    return lambda name, *tickers: compute[name](Panel([columns_of(bars) for bars in tickers]))


@pytest.mark.parametrize("length", [10, 20])
def test_moments_of_a_window_are_those_of_pandas(value_of, make_bars, length):
    bars = make_bars(200)
    skew, kurtosis = (value_of(f"close_{name}_{length}", bars)[:, 0] for name in ("skew", "kurtosis"))
    windows = [bars["close"].iloc[end - length : end] for end in range(length, 201)]
    np.testing.assert_allclose(skew[length - 1 :], [window.skew() for window in windows], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(kurtosis[length - 1 :], [window.kurt() for window in windows], rtol=1e-9, atol=1e-11)
    assert np.isnan(skew[: length - 1]).all()


def test_days_of_month_and_year(value_of, make_bars):
    days = ["2024-01-01", "2024-01-31", "2024-02-15", "2024-02-29", "2024-03-01", "2024-12-31"]
    bars = make_bars(6).assign(timestamp=pd.to_datetime(days) + pd.Timedelta(hours=6))
    names = ("month_start", "month_end", "day_of_month_sin", "week_of_year_cos", "time_of_day_sin")
    first, last, month, year, hour = (value_of(name, bars, bars[:2]) for name in names)
    np.testing.assert_array_equal(first[:, 0], [1, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(last[:, 0], [0, 1, 0, 1, 0, 1])
    of_month = np.array([0 / 31, 30 / 31, 14 / 29, 28 / 29, 0 / 31, 30 / 31])
    np.testing.assert_allclose(month[:, 0], np.sin(2 * np.pi * of_month), atol=1e-15)
    of_year = np.array([0, 30, 45, 59, 60, 365])
    np.testing.assert_allclose(year[:, 0], np.cos(2 * np.pi * of_year / 365.25), atol=1e-15)
    np.testing.assert_allclose(hour[:, 0], 1.0)
    for value in (first, last, month, year, hour):
        np.testing.assert_array_equal(value[:, 1], [*value[:2, 0], *[np.nan] * 4])


def test_a_crossing_of_two_means(value_of, make_bars):
    close = np.array([*[10.0] * 20, 11, 11, 9, 10.5])
    bars = make_bars(24).assign(close=close)
    np.testing.assert_array_equal(value_of("cross_sma_20", bars)[20:, 0], [0.5, 0, -1, 1])
