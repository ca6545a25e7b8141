"""The market is seen as of each bar: its later bars never matter, and its holidays may be others."""

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import market_tsf_llm
from tsf_llm.indicators_tsf_llm import compute_features, feature_names
from tsf_llm.market_tsf_llm import MARKET_COLUMNS, STALE, as_of, market_state

NAMES = feature_names(["market", "reversal"])
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def universe(make_bars, seed: int, tickers: int = 3, rows: int = 260) -> list[pd.DataFrame]:
    """Tickers with holidays of their own and different first days."""
    rng = np.random.default_rng(seed)
    frames = [make_bars(rows - 20 * i, seed=seed + i).iloc[10 * i :] for i in range(tickers)]
    return [frame[rng.random(len(frame)) > 0.05].reset_index(drop=True) for frame in frames]


def test_the_docstring():
    assert doctest.testmod(market_tsf_llm).failed == 0


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(70, 259), tickers=st.integers(1, 3))
def test_the_future_of_the_market_never_matters(make_bars, seed, cut, tickers):
    bars, market = make_bars(260, seed=seed + 9), universe(make_bars, seed, tickers)
    day = bars["timestamp"].iloc[cut]
    whole = compute_features(bars, NAMES, market_state(market)).iloc[: cut + 1]
    ended = [frame[frame["timestamp"] <= day] for frame in market]
    noise = [
        frame.assign(close=frame["close"].where(frame["timestamp"] <= day, frame["close"] * 1.7)) for frame in market
    ]
    for other in (ended, noise):
        seen = compute_features(bars, NAMES, market_state(other)).iloc[: cut + 1]
        assert seen.to_numpy().tobytes() == whole.to_numpy().tobytes()


def test_as_of_other_holidays(make_bars):
    index, bars = make_bars(120, seed=1), make_bars(120, seed=2)
    state = market_state([index.drop(index=[50, 51])])  # closed while the ticker trades
    level = as_of(state, bars["timestamp"])["level"]
    assert level[50] == level[51] == level[49]
    np.testing.assert_allclose(level[52] - level[49], np.log(index["close"][52] / index["close"][49]))
    away = bars.drop(index=[80, 81])  # and the other way round
    moves = compute_features(away, ["market_return_1"], market_state([index]))["market_return_1"]
    np.testing.assert_allclose(moves[82], np.log(index["close"][82] / index["close"][79]), rtol=1e-9)


def test_a_market_that_has_stopped_or_not_begun_is_unknown(make_bars):
    index, bars = make_bars(120, seed=1), make_bars(120, seed=2)
    seen = as_of(market_state([index.iloc[30:60]]), bars["timestamp"])["level"]
    assert np.flatnonzero(seen.notna()).tolist() == list(range(30, 59 + STALE))
    assert compute_features(bars, NAMES, market_state([index.iloc[:5]])).iloc[20:]["market_range"].isna().all()


def test_missing_bars_of_the_market_are_left_out(make_bars):
    index = make_bars(60)
    gap = index.copy()
    gap.loc[20:22, ["open", "high", "low", "close", "volume"]] = np.nan
    pd.testing.assert_frame_equal(market_state([gap]), market_state([index.drop(index=[20, 21, 22])]))


@pytest.mark.parametrize("unit", [1e-3, 700.0])
def test_the_units_of_the_market_do_not_matter(make_bars, unit):
    index = make_bars(100)
    dear = index.assign(**{c: index[c] * unit for c in ("open", "high", "low", "close")})
    left, right = (market_state([frame, make_bars(90, seed=3)])[MARKET_COLUMNS] for frame in (index, dear))
    np.testing.assert_allclose(left, right, atol=1e-9)


def test_one_index_has_no_dispersion(make_bars):
    state = market_state([make_bars(60)])
    assert state["dispersion"].isna().all()
    assert state["abs_return"].notna().sum() == 59
