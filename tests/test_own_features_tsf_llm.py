import sys

import numpy as np
import pandas as pd
import pytest

from tsf_llm import own_features_tsf_llm as own
from tsf_llm.indicators_tsf_llm import compute_features, feature
from tsf_llm.market_tsf_llm import market_state
from tsf_llm.own_features_tsf_llm import WARM_UP

PRICES = ["open", "high", "low", "close"]


@pytest.fixture
def averages(table):
    """Features that remember where they begin, with and without a market, and one that reaches far."""
    feature(group="mine", lookback=50, name="average")(lambda bars: bars.close / bars.indicator("ema", length=50))
    feature(group="mine", lookback=1, name="ahead")(
        lambda bars: (np.log(bars.close) - bars.market["level"]).diff().ewm(span=30).mean()
    )
    feature(group="mine", lookback=1500, name="far")(lambda bars: np.log(bars.close / bars.close.shift(1500)))
    return ["average", "ahead", "far"]


@pytest.fixture(scope="module")
def long_bars(make_bars) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars of three blocks, some of them missing, and a market."""
    bars = make_bars(9000, seed=3, start="1990-01-01")
    bars.loc[[7, 900, 4095, 4098, 8193], PRICES] = np.nan
    return bars, market_state({f"T{i}": make_bars(9000, seed=4 + i, start="1990-01-01") for i in range(2)})


def test_new_bars_cost_their_block_and_have_the_bits_of_the_whole(long_bars, averages, monkeypatch):
    bars, market = long_bars
    whole = compute_features(bars, averages, market)
    computed = []
    evaluate = own._evaluate
    monkeypatch.setattr(own, "_evaluate", lambda row, frame: computed.append(len(frame)) or evaluate(row, frame))
    for length, new in [(300, 1), (4093, 5), (4096, 1), (4100, 1), (4100, 5), (4100, 700), (8100, 700), (8300, 1)]:
        computed.clear()
        tail = compute_features(bars.iloc[: length + new], averages[:2], market, start=length)
        assert tail.to_numpy().tobytes() == whole[averages[:2]].iloc[length : length + new].to_numpy().tobytes()
        assert list(tail.index) == list(range(length, length + new))
        begin = max(start for start in (0, 4096, 8192) if start <= length - bars["close"][:length].isna().sum())
        assert max(computed) <= length + new - max(0, begin - WARM_UP)
    assert max(computed) < 1200  # of the last one: the warm-up and what its block has so far


def test_a_block_forgets_what_hardly_mattered(long_bars, averages, monkeypatch):
    bars, market = long_bars
    blocks = compute_features(bars, averages, market)
    for limit in ("SHORTEST_BLOCK", "LONGEST_BLOCK"):
        monkeypatch.setattr(own, limit, len(bars))
    assert list(own._blocks(len(bars), 0)) == [(0, len(bars))]
    whole = compute_features(bars, averages, market)
    assert blocks.isna().equals(whole.isna())
    assert ((blocks - whole).abs().max() / whole.std()).max() < 1e-7


def test_a_market_that_stops_in_the_warm_up_is_as_stale_as_in_the_whole(make_bars, averages):
    bars = make_bars(8400, freq="h", start="1990-01-01")
    begins = 8192 - 2 * 1500
    for hole in (begins - 12, begins - 9, begins - 5, begins):
        universe = make_bars(8400, seed=4, freq="h", start="1990-01-01").drop(range(hole, hole + 40))
        market = market_state({"U": universe})
        whole = compute_features(bars, averages, market)
        tail = compute_features(bars, averages, market, start=8300)
        assert tail.to_numpy().tobytes() == whole.iloc[8300:].to_numpy().tobytes()


def test_blocks_lie_where_they_lie():
    edges = list(own._blocks(40_000, 0))
    assert edges == [(0, 4096), (4096, 8192), (8192, 16384), (16384, 24576), (24576, 32768), (32768, 40_000)]
    assert list(own._blocks(8200, 8192)) == [(8192, 8200)]
    assert list(own._blocks(8200, 8191)) == [(4096, 8192), (8192, 8200)]
    assert not list(own._blocks(0, 0))


def test_a_long_lookback_gets_a_longer_warm_up(averages, make_bars):
    bars = make_bars(4500)  # the second block holds the last of them
    expected = np.log(bars["close"] / bars["close"].shift(1500))
    values = compute_features(bars, ["far", "rsi_14"])["far"]
    pd.testing.assert_series_equal(values, expected, check_names=False)


def test_an_indicator_is_computed_once(table, make_bars, monkeypatch):
    calls = []
    no_answer = calls.append  # None, which pandas-ta returns for a short series
    monkeypatch.setattr("pandas_ta_classic.macd", lambda **kwargs: no_answer(kwargs))
    for name, column in (("line", "MACD_12_26_9"), ("signal", "MACDs_12_26_9")):
        feature(group="mine", lookback=1, name=name)(
            lambda bars, column=column: bars.indicator("macd", column, fast=12, slow=26, signal=9)
        )
    assert compute_features(make_bars(100), ["line", "signal"]).isna().all(axis=None)
    assert len(calls) == 1
    assert calls[0]["talib"] is False


def test_what_features_share_is_computed_once(table, make_bars):
    calls = []

    def shared(bars):
        calls.append(len(bars))
        return bars.close - bars.open

    for name in ("one", "other"):
        feature(group="mine", lookback=0, name=name)(lambda bars: bars.once(shared))
    features = compute_features(make_bars(50), ["one", "other"])
    assert features["one"].equals(features["other"])
    assert calls == [50]


def test_without_pandas_ta(table, make_bars, monkeypatch):
    feature(group="mine", lookback=14, name="strength")(lambda bars: bars.indicator("rsi", length=14))
    monkeypatch.setitem(sys.modules, "pandas_ta_classic", None)
    with pytest.raises(ImportError, match="pip install pandas-ta-classic"):
        compute_features(make_bars(50), ["strength"])
