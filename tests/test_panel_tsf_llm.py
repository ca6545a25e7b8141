import numpy as np
import pandas as pd

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.panel_tsf_llm import Panel


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


def test_no_tickers():
    assert Panel([]).close.shape == (0, 0)
