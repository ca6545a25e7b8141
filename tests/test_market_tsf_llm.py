"""The market is seen as of each bar: its later bars never matter, and its holidays may be others."""

import doctest

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import market_tsf_llm
from tsf_llm.audit_tsf_llm import made_up_index
from tsf_llm.indicators_tsf_llm import compute_features, feature_names
from tsf_llm.market_tsf_llm import (
    IMPLIED_COLUMNS,
    MARKET_COLUMNS,
    STALE,
    as_of,
    beside,
    implied_index,
    market_state,
    parts_of,
)

NAMES = feature_names(["market", "reversal", "implied"])
FEW = settings(max_examples=8, deadline=None, derandomize=True)


def universe(make_bars, seed: int, tickers: int = 3, rows: int = 260) -> dict[str, pd.DataFrame]:
    """Tickers with holidays of their own and different first days."""
    rng = np.random.default_rng(seed)
    frames = [make_bars(rows - 20 * i, seed=seed + i).iloc[10 * i :] for i in range(tickers)]
    frames = [frame[rng.random(len(frame)) > 0.05].reset_index(drop=True) for frame in frames]
    return {f"T{number}": frame for number, frame in enumerate(frames)}


def test_the_docstring():
    assert doctest.testmod(market_tsf_llm).failed == 0


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(70, 259), tickers=st.integers(1, 3))
def test_the_future_of_the_market_never_matters(make_bars, seed, cut, tickers):
    bars, market = make_bars(260, seed=seed + 9), universe(make_bars, seed, tickers)
    market["VIX"] = made_up_index(bars["timestamp"].drop(index=[100, 101]), np.random.default_rng(seed))
    day = bars["timestamp"].iloc[cut]
    whole = compute_features(bars, NAMES, market_state(market)).iloc[: cut + 1]
    ended = {name: frame[frame["timestamp"] <= day] for name, frame in market.items()}
    noise = {
        name: frame.assign(close=frame["close"].where(frame["timestamp"] <= day, frame["close"] * 1.7))
        for name, frame in market.items()
    }
    for other in (ended, noise):
        seen = compute_features(bars, NAMES, market_state(other)).iloc[: cut + 1]
        assert seen.to_numpy().tobytes() == whole.to_numpy().tobytes()


def test_as_of_other_holidays(make_bars):
    index, bars = make_bars(120, seed=1), make_bars(120, seed=2)
    state = market_state({"X": index.drop(index=[50, 51])})  # closed while the ticker trades
    level = as_of(state, bars["timestamp"])["level"]
    assert level[50] == level[51] == level[49]
    np.testing.assert_allclose(level[52] - level[49], np.log(index["close"][52] / index["close"][49]))
    away = bars.drop(index=[80, 81])  # and the other way round
    moves = compute_features(away, ["market_return_1"], market_state({"X": index}))["market_return_1"]
    np.testing.assert_allclose(moves[82], np.log(index["close"][82] / index["close"][79]), rtol=1e-9)


def test_a_market_that_has_stopped_or_not_begun_is_unknown(make_bars):
    index, bars = make_bars(120, seed=1), make_bars(120, seed=2)
    seen = as_of(market_state({"X": index.iloc[30:60]}), bars["timestamp"])["level"]
    assert np.flatnonzero(seen.notna()).tolist() == list(range(30, 59 + STALE))
    assert compute_features(bars, NAMES, market_state({"X": index.iloc[:5]})).iloc[20:]["market_range"].isna().all()


def test_missing_bars_of_the_market_are_left_out(make_bars):
    index = make_bars(60)
    gap = index.copy()
    gap.loc[20:22, ["open", "high", "low", "close", "volume"]] = np.nan
    pd.testing.assert_frame_equal(market_state({"X": gap}), market_state({"X": index.drop(index=[20, 21, 22])}))


@pytest.mark.parametrize("unit", [1e-3, 700.0])
def test_the_units_of_the_market_do_not_matter(make_bars, unit):
    index = make_bars(100)
    dear = index.assign(**{c: index[c] * unit for c in ("open", "high", "low", "close")})
    left, right = (market_state({"X": frame, "Y": make_bars(90, seed=3)})[MARKET_COLUMNS] for frame in (index, dear))
    np.testing.assert_allclose(left, right, atol=1e-9)


def test_one_or_two_tickers_have_no_dispersion(make_bars):
    frames = {name: make_bars(60, seed=ord(name)) for name in "XYZ"}
    for count in (1, 2, 3):
        few = dict([*frames.items()][:count])
        assert market_state(few)["dispersion"].notna().sum() == 59 * (count == 3)
        assert market_state(few)["abs_return"].notna().sum() == 59
        assert market_state(few, as_before=True)["dispersion"].notna().sum() == 59 * (count > 1)


def test_rows_that_a_ticker_makes_alone_are_hidden_from_it(make_bars):
    long, late = make_bars(120, seed=1), make_bars(120, seed=2).iloc[50:]
    state = market_state({"LONG": long, "LATE": late})
    seen = as_of(beside(state, "LONG"), long["timestamp"])
    assert seen["level"].isna().tolist() == [True] * 50 + [False] * 70
    assert seen[IMPLIED_COLUMNS].isna().all(axis=None)
    for other in ("LATE", "THIRD"):
        assert beside(state, other) is state
    assert parts_of(beside(market_state({"LONG": long}), "LONG")) == []
    assert parts_of(beside(market_state({"LONG": long}), "LATE")) == ["universe"]


@pytest.mark.parametrize(
    "name", ["VIX", "^VIX", "vix_daily", "VIX9D", "^VXN", "RVX", "VXD", "VSTOXX", "India VIX", "V2X"]
)
def test_an_implied_volatility_index_is_no_ticker_of_the_universe(make_bars, name):
    universe = {"X": make_bars(90, seed=1), "Y": make_bars(90, seed=2)}
    index = made_up_index(make_bars(90)["timestamp"].drop(index=[40]), np.random.default_rng(0))
    state = market_state({**universe, name: index})
    assert parts_of(state) == ["universe", "implied"]
    pd.testing.assert_frame_equal(state[market_state(universe).columns], market_state(universe))
    assert parts_of(market_state({name: index})) == ["implied"]
    seen = as_of(state, make_bars(90)["timestamp"])
    np.testing.assert_allclose(seen["implied"][41], np.log(index["close"][40]))  # of its rows, 40 is missing
    assert seen["implied"][40] == seen["implied"][39]
    np.testing.assert_allclose(seen["implied_21"][39], np.log(index["close"][19:40].mean()))
    assert "implied" not in market_state({**universe, name: index}, as_before=True)


def test_of_several_implied_volatility_indices_the_first_of_the_list_is_read(make_bars):
    times = make_bars(90)["timestamp"]
    indices = {name: made_up_index(times, np.random.default_rng(i)) for i, name in enumerate(("^VXN", "VIX", "GVZ"))}
    pd.testing.assert_frame_equal(market_state(indices), market_state({"VIX": indices["VIX"]}))


@pytest.mark.parametrize("name", ["VXX", "VIXY", "RVX.TO", "AAPL", "MYVIX", "vixen_daily"])
def test_what_only_looks_like_one_is_a_ticker(name):
    assert implied_index(name) is None
