import numpy as np
import pandas as pd

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.panel_tsf_llm import Panel, in_utc, wall_clock


def columns(bars: int, **more: np.ndarray) -> dict[str, np.ndarray]:
    numbers = {name: np.arange(bars) + 1.0 for name in OHLCV.columns}
    return {"timestamp": pd.date_range("2024-01-02", periods=bars).to_numpy("datetime64[ns]"), **numbers, **more}


def test_tickers_lie_side_by_side_from_the_first_row_on():
    panel = Panel([columns(3), columns(5)])
    assert panel.shape == panel.close.shape == panel.timestamp.shape == (5, 2)
    np.testing.assert_array_equal(panel.close[:, 0], [1, 2, 3, np.nan, np.nan])
    assert np.isnat(panel.timestamp[3:, 0]).all()
    assert panel.timestamp[4, 1] == np.datetime64("2024-01-06")


def test_a_market_is_unknown_where_it_is_not_given():
    panel = Panel([columns(2, level=np.array([0.5, 0.6])), columns(2)])
    np.testing.assert_array_equal(panel.market["level"], [[0.5, np.nan], [0.6, np.nan]])
    assert np.isnan(panel.market["implied"]).all()


def test_what_features_share_is_computed_once():
    panel, calls = Panel([columns(2)]), []

    def shared(panel: Panel, length: int) -> np.ndarray:
        calls.append(length)
        return panel.close * length

    assert panel.once(shared, 2) is panel.once(shared, 2)
    assert panel.once(shared, 3) is not panel.once(shared, 2)
    assert calls == [2, 3]


def test_a_tail_has_the_last_rows_and_what_is_remembered_of_all():
    panel = Panel([columns(5, level=np.arange(5.0))])
    tail = panel.tail(2)
    assert tail.shape == tail.close.shape == tail.timestamp.shape == (3, 1)
    np.testing.assert_array_equal(tail.market["level"][:, 0], [2, 3, 4])
    np.testing.assert_array_equal(tail.once(so_far)[:, 0], [3, 7, 12])
    np.testing.assert_array_equal(tail.remembered(so_far)[:, 0], [6, 10, 15])
    assert panel.remembered(so_far) is panel.once(so_far)


def so_far(panel: Panel) -> np.ndarray:
    return panel.close.cumsum(axis=0)


def test_times_with_a_zone_have_two_readings():
    times = pd.Series(pd.to_datetime(["2024-01-02 09:30"]))
    there = times.dt.tz_localize("America/New_York")
    assert wall_clock(times) == in_utc(times) == wall_clock(there) == np.datetime64("2024-01-02T09:30")
    assert in_utc(there) == np.datetime64("2024-01-02T14:30")


def test_no_tickers():
    assert Panel([]).close.shape == (0, 0)
