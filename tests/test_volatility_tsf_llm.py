"""Ranges, falls, a quarter's memory, an implied index: against numpy, causal, and unknown where nothing moves."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.audit_tsf_llm import made_up_index
from tsf_llm.bars_tsf_llm import OHLCV, SIGMA_CAP
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES, SELECTABLE_GROUPS, compute_features, feature_names
from tsf_llm.market_tsf_llm import market_state

GROUPS = ["range", "leverage", "events", "implied"]
NAMES = feature_names(GROUPS)


@pytest.fixture
def bars(make_bars) -> pd.DataFrame:
    return make_bars(600, seed=7)


def test_the_groups_are_to_be_chosen():
    assert set(GROUPS) <= set(SELECTABLE_GROUPS)
    assert [len(feature_names([group])) for group in GROUPS] == [12, 3, 1, 6]


def test_values_against_numpy(bars):
    index = made_up_index(bars["timestamp"], np.random.default_rng(0))
    features = compute_features(bars, NAMES, market_state({"VIX": index})).iloc[400]
    o, h, low, c = (np.log(bars[name].to_numpy()) for name in ("open", "high", "low", "close"))
    gap, returns = np.append(np.nan, o[1:] - c[:-1]), np.append(np.nan, np.diff(c))
    whole = gap**2 + (h - low) ** 2 / 2 - (2 * np.log(2) - 1) * (c - o) ** 2
    inside = (h - o) * (h - c) + (low - o) * (low - c)
    sigma = OHLCV.volatility(returns, 0.94, 1e-4, SIGMA_CAP)[400]

    def trailing(variance, n):
        return np.sqrt(variance[401 - n : 401].mean())

    points = index["close"].to_numpy()
    daily = points[400] / 100 / np.sqrt(252)
    expected = {
        **{f"range_volatility_{n}": np.log(trailing(whole, n) / sigma) for n in (1, 3, 5, 10, 21, 63, 252)},
        **{f"inside_volatility_{n}": np.log(trailing(inside, n) / sigma) for n in (5, 21)},
        **{f"night_volatility_{n}": np.log(trailing(gap**2, n) / sigma) for n in (5, 21, 63)},
        **{f"fall_{n}": max(0, c[400 - n] - c[400]) / sigma / np.sqrt(n) for n in (1, 5, 21)},
        "quarter_ago_move": np.log(np.sqrt(whole[335:342].max()) / trailing(whole, 63)),
        **{f"implied_to_own_{n}": np.log(daily / trailing(whole, n)) for n in (21, 63)},
        **{f"implied_change_{n}": np.log(points[400] / points[400 - n]) for n in (1, 5)},
        **{f"implied_to_mean_{n}": np.log(points[400] / points[401 - n : 401].mean()) for n in (21, 63)},
    }
    assert list(expected) == NAMES
    np.testing.assert_allclose(features, [*expected.values()], rtol=1e-9, atol=1e-12)


def test_the_unit_is_the_processors_own(bars):
    """So that a range volatility of 0 says: as much as the return is divided by."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["range"])
    sigma = extractor.volatility(bars["close"].to_numpy())[1]
    whole = compute_features(bars, ["range_volatility_21"])["range_volatility_21"].to_numpy()
    gap, low = np.log(bars.open / bars.close.shift()), np.log(bars.high / bars.low)
    variance = gap**2 + low**2 / 2 - (2 * np.log(2) - 1) * np.log(bars.close / bars.open) ** 2
    np.testing.assert_allclose((np.sqrt(variance.rolling(21).mean()) / np.exp(whole))[30:], sigma[30:], rtol=1e-9)


@pytest.mark.parametrize("cut", [70, 150, 300, 599])
def test_nothing_reads_a_later_bar_of_ticker_or_index(bars, cut):
    index = made_up_index(bars["timestamp"], np.random.default_rng(0))
    whole = compute_features(bars, NAMES, market_state({"VIX": index})).iloc[:cut].to_numpy().tobytes()
    later = bars.index >= cut
    prices = ["open", "high", "low", "close"]
    other = bars.assign(**{name: bars[name].where(~later, bars[name] * 2.5) for name in prices})
    moved = index.assign(close=index["close"].where(~later, 80.0))
    for frame, beside in ((bars[:cut], index[:cut]), (bars[:cut], index), (bars, index[:cut]), (other, moved)):
        part = compute_features(frame, NAMES, market_state({"VIX": beside})).iloc[:cut]
        assert part.to_numpy().tobytes() == whole


def test_a_rise_is_no_fall(bars):
    rising = bars.assign(**{name: 100 * 1.01 ** np.arange(600) for name in ("open", "high", "low", "close")})
    assert not compute_features(rising, feature_names(["leverage"])).iloc[100:].any(axis=None)


def test_without_a_move_there_is_no_logarithm(bars):
    flat = bars.assign(**dict.fromkeys(["open", "high", "low", "close"], 12.0))
    assert compute_features(flat, feature_names(["range", "events"])).isna().all(axis=None)


def test_without_an_index_its_features_are_unknown(bars, make_bars):
    universe = market_state({"X": make_bars(600, seed=1), "Y": make_bars(600, seed=2)})
    for state in (None, universe):
        assert compute_features(bars, feature_names(["implied"]), state).isna().all(axis=None)
    assert {FEATURES[name].group for name in feature_names(["implied"])} == {"implied"}
