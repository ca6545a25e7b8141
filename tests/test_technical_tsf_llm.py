"""Values beside pandas-ta-classic: `test_indicators_tsf_llm.py`."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm import technical_tsf_llm as technical
from tsf_llm.panel_tsf_llm import Panel


@pytest.fixture
def panel(make_bars, columns_of) -> Panel:
    return Panel([columns_of(make_bars(300)), columns_of(make_bars(120, seed=1))])


def test_an_indicator_is_computed_once(panel):
    assert technical.rsi(panel, 14) is technical.rsi(panel, 14)
    assert technical.rsi(panel, 14) is not technical.rsi(panel, 7)


def test_a_shorter_ticker_is_unknown_where_it_has_ended(panel):
    for values in (
        technical.macd_signal(panel),
        technical.cci(panel, 20),
        technical.by_day(panel, lambda days: days.astype(float)),
    ):
        assert np.isfinite(values[119]).all()
        assert np.isnan(values[120:, 1]).all()


def test_bounds(panel):
    for values, least in (
        (technical.rsi(panel, 14), 0),
        (technical.stochastic_d(panel), 0),
        (technical.donchian_position(panel, 20), 0),
        (technical.money_flow(panel, 20), -1),
        (technical.aroon(panel, 25), -1),
        (technical.streak(panel, 10), -1),
    ):
        assert least <= np.nanmin(values) < np.nanmax(values) <= 1


@pytest.mark.parametrize("length", [7, 14, 21])
def test_strength_of_a_market_that_stopped_stays_until_it_is_unknown(make_bars, columns_of, length):
    bars = make_bars(1600)
    bars.loc[300:, ["open", "high", "low", "close"]] = 50.0
    strength = technical.rsi(Panel([columns_of(bars)]), length)[300:, 0]
    assert np.isnan(strength[-1])
    np.testing.assert_allclose(strength[~np.isnan(strength)], strength[0], rtol=1e-6)


def test_a_date_is_that_of_its_own_bar(make_bars, columns_of):
    times = pd.to_datetime(["1969-12-31 23:59", "1970-01-01 00:00", "2024-02-29 12:00"])
    bars = make_bars(3).assign(timestamp=times)
    panel = Panel([columns_of(bars), columns_of(bars[1:2])])
    seen = technical.by_day(panel, lambda days: days.astype(float))
    np.testing.assert_array_equal(seen, [[-1, 0], [0, np.nan], [19782, np.nan]])
    empty = technical.by_day(Panel([columns_of(bars[:0])]), lambda days: days.astype(float))
    assert empty.shape == (0, 1)


def test_days_since_the_bar_before(make_bars, columns_of):
    bars = make_bars(3).assign(timestamp=pd.to_datetime(["2024-02-28 00:00", "2024-03-01 00:00", "2024-03-01 06:00"]))
    gaps = technical.session_gap(Panel([columns_of(bars)]))[:, 0]
    np.testing.assert_array_equal(gaps, [np.nan, 2, 0.25])
