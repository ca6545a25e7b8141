import importlib.util
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import indicators_tsf_llm as indicators
from tsf_llm.audit_tsf_llm import made_up_index
from tsf_llm.indicators_tsf_llm import (
    BUILT_IN,
    FEATURE_GROUPS,
    FEATURES,
    SELECTABLE_GROUPS,
    compute_features,
    feature,
    feature_names,
    features_of,
)
from tsf_llm.market_tsf_llm import as_of, market_state
from tsf_llm.own_features_tsf_llm import IndicatorFrame

spec = importlib.util.spec_from_file_location("pandas_features", Path(__file__).with_name("pandas_features.py"))
pandas_features = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pandas_features)
ORACLE = {row[0]: row[4] for row in pandas_features.TABLE}

PRICES = ["open", "high", "low", "close"]
SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample" / "us_daily_2000_2013_publicdomain.csv.gz"
NAMES = feature_names()
ALL = list(FEATURES)  # the default ones and those to choose by name
OF_THE_MARKET = feature_names(["market", "implied"])
OF_VOLUME = [
    *feature_names(["volume", "more_volume"]),
    *("price_volume_5", "price_volume_20", "reversal_up_volume", "reversal_down_volume"),
]
SCORES = ["reversal_up_score", "reversal_down_score"]  # which lose the part of the volume without it


@pytest.fixture(scope="module")
def sample() -> dict[str, pd.DataFrame]:
    table = pd.read_csv(SAMPLE, parse_dates=["date"]).rename(columns={"date": "timestamp"})
    return {ticker: rows.reset_index(drop=True) for ticker, rows in table.groupby("ticker")}


@pytest.fixture(scope="module")
def market(sample: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The state of the whole sample by date, beside an implied-volatility index."""
    return state_of(*sample.values())


@pytest.fixture
def bars(sample: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return sample["MSFT"].iloc[:1000].astype({"volume": float})


def state_of(*tickers: pd.DataFrame) -> pd.DataFrame:
    """Of these tickers, and of an implied-volatility index at the times of the last that begins."""
    last = max(tickers, key=lambda frame: frame["timestamp"].iloc[-1])
    days = max((one for one in tickers if one["timestamp"].iloc[-1] == last["timestamp"].iloc[-1]), key=len)
    index = made_up_index(days["timestamp"], np.random.default_rng(1))
    return market_state({**{f"T{i}": bars for i, bars in enumerate(tickers)}, "VIX": index})


def illiquid_bars(seed: int, length: int = 400) -> pd.DataFrame:
    """Prices in whole cents with flat stretches, bars without a range, and volume that is often zero."""
    rng = np.random.default_rng(seed)
    awake = (rng.random(length) < 0.3) & (np.arange(length) % 200 > 100)
    level = rng.choice([0.05, 1.0, 7.0, 300.0])
    close = np.round(level * np.exp(np.cumsum(rng.normal(0, 0.004, length) * awake)) + 0.01, 2)
    elsewhere = np.round(close * np.exp(rng.normal(0, 0.005, length)) + 0.01, 2)
    open_ = np.where(rng.random(length) < 0.6, close, elsewhere)
    high = np.round(np.maximum(open_, close) + rng.random(length) * (rng.random(length) < 0.2), 2)
    volume = rng.lognormal(5, 2, length) * (rng.random(length) < 0.5) * (np.arange(length) % 150 > 50)
    prices = {"open": open_, "high": high, "low": np.minimum(open_, close), "close": close}
    return pd.DataFrame({"timestamp": pd.bdate_range("2010-01-01", periods=length), **prices, "volume": volume})


def assert_causal(bars: pd.DataFrame, names: list[str], cuts: list[int], market: pd.DataFrame | None = None) -> None:
    """Neither removing nor rewriting the bars after a cut changes a bit before it."""
    full = compute_features(bars, names, market)
    for cut in cuts:
        rewritten = bars.copy()
        rewritten.loc[rewritten.index[cut:], PRICES] *= np.linspace(0.5, 3.0, len(bars) - cut)[:, None]
        rewritten.loc[rewritten.index[cut:], "volume"] *= 17.0
        blanked = bars.copy()
        blanked.loc[blanked.index[cut:], [*PRICES, "volume"]] = np.nan
        for other in (bars.iloc[:cut], rewritten, blanked):
            past = compute_features(other, names, market).iloc[:cut]
            changed = [n for n in names if past[n].to_numpy().tobytes() != full[n].iloc[:cut].to_numpy().tobytes()]
            assert not changed, f"{changed} at bar {cut} read later bars"


def assert_same(left: pd.DataFrame, right: pd.DataFrame, tolerance: float) -> None:
    np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), rtol=0, atol=tolerance)


def test_the_table():
    assert len(NAMES) == 64
    assert len(ALL) == 64 + len(feature_names(SELECTABLE_GROUPS))
    assert ALL[:64] == NAMES
    assert set(FEATURE_GROUPS).isdisjoint(SELECTABLE_GROUPS)
    assert {row.group for row in FEATURES.values()} == {*FEATURE_GROUPS, *SELECTABLE_GROUPS}
    assert all(name == row.name and row.formula and row.lookback >= 0 for name, row in FEATURES.items())
    assert feature_names(FEATURE_GROUPS) == NAMES
    assert feature_names(["calendar", "macd"])[:4] == ["macd", "macd_signal", "macd_histogram", "day_of_week_sin"]
    assert feature_names([]) == []
    assert feature_names(["candles", "bar"])[:6] == [
        *("gap", "body", "upper_wick", "lower_wick", "range"),
        "upper_shadow",
    ]


def test_shape_type_and_index(bars):
    bars.index = pd.Index(np.repeat(np.arange(500), 2))  # not unique, as after a concat
    features = compute_features(bars, ["rsi_14", "gap", "rsi_14"])
    assert features.index.equals(bars.index)
    assert list(features.columns) == ["rsi_14", "gap", "rsi_14"]
    assert (features.dtypes == np.float64).all()
    assert compute_features(bars, []).shape == (1000, 0)


def test_the_input_is_left_alone(bars):
    before = bars.copy()
    compute_features(bars, ALL)
    pd.testing.assert_frame_equal(bars, before)


def test_the_first_value_follows_the_lookback(bars, market):
    features = compute_features(bars, ALL, market)
    assert {n: int(features[n].first_valid_index()) for n in ALL} == {n: FEATURES[n].lookback for n in ALL}
    assert all(features[n].iloc[FEATURES[n].lookback :].notna().all() for n in ALL)


@pytest.mark.parametrize("ticker", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
def test_no_feature_reads_later_bars(sample, market, ticker):
    bars = sample[ticker].iloc[:1200].astype({"volume": float})
    assert_causal(bars, ALL, [cut for cut in (1, 2, 30, 77, 150, 600, 1111) if cut < len(bars)], market)


def test_no_feature_reads_later_bars_over_the_edge_of_a_piece(sample, market, monkeypatch):
    monkeypatch.setattr(indicators, "LONGEST", 1500)
    bars = sample["IBM"].iloc[:2000].astype({"volume": float})
    assert_causal(bars, ALL, [1499, 1500, 1501, 1800], market)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 399))
def test_no_feature_reads_later_bars_of_an_illiquid_ticker(seed, cut):
    assert_causal(illiquid_bars(seed), ALL, [cut], state_of(*map(illiquid_bars, (1, 2, 3))))


@pytest.mark.parametrize(
    "leak",
    [
        lambda bars: bars.close.shift(-1) / bars.close,
        lambda bars: bars.close / bars.close.mean(),
        lambda bars: bars.close.rolling(5, center=True).mean() / bars.close,
        lambda bars: bars.close.shift(20).bfill() / bars.close,
    ],
    ids=["tomorrow", "sample mean", "centred window", "backward fill"],
)
def test_a_planted_leak_is_caught(table, bars, leak):
    feature(group="planted", lookback=0, name="leak")(leak)
    with pytest.raises(AssertionError, match="leak"):
        assert_causal(bars, ["leak"], [10, 500])


def test_units_do_not_matter(sample, market):
    for bars in sample.values():
        rescaled = bars.assign(**{c: bars[c] * 7.3 for c in PRICES}, volume=bars.volume * 1000.0)
        assert_same(compute_features(rescaled, ALL, market), compute_features(bars, ALL, market), 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_units_do_not_matter_for_an_illiquid_ticker(seed):
    bars = illiquid_bars(seed)
    rescaled = bars.assign(**{c: bars[c] * 7.3 for c in PRICES}, volume=bars.volume * 1000.0)
    market = state_of(*map(illiquid_bars, (1, 2, 3)))
    features = compute_features(bars, ALL, market)
    assert_same(compute_features(rescaled, ALL, market), features, 1e-6)
    of_the_market = [name for name in features if name.startswith("market_move_")]  # in moves of one that hardly moves
    assert features.drop(columns=["session_gap", "market_beta_63", *of_the_market]).abs().max().max() < 50


@pytest.mark.parametrize("ticker", ["AAPL", "GOOG", "IBM", "MSFT"])
def test_the_start_of_the_history_is_forgotten(sample, market, ticker):
    bars = sample[ticker]
    late, early = compute_features(bars.iloc[500:], ALL, market), compute_features(bars, ALL, market).iloc[500:]
    spread = early.std().replace(0.0, 1.0)  # the time of day is constant
    apart = (late - early) / spread
    assert apart.drop(columns="ema_200").iloc[600:].abs().max().max() < 1e-6
    assert apart["ema_200"].iloc[1500:].abs().max() < 1e-6  # its memory is longer


# The oracle


def assert_oracle(bars: pd.DataFrame, market: pd.DataFrame | None, tolerance: float = 1e-12) -> None:
    """Every built-in feature is that of pandas over the whole history, in units of its spread."""
    present = bars[bars[PRICES].notna().all(axis=1)].reset_index(drop=True).astype({"volume": float})
    frame = IndicatorFrame(present, None if market is None else as_of(market, present["timestamp"]))
    features = compute_features(present, list(ORACLE), market)
    wrong = {}
    with np.errstate(all="ignore"):
        for name, function in ORACLE.items():
            expected, values = function(frame).to_numpy(dtype=float, copy=True), features[name].to_numpy()
            expected[: FEATURES[name].lookback] = np.nan
            expected[~np.isfinite(expected)] = np.nan
            known = np.isfinite(expected)
            apart = np.abs(values - expected)[known] / max(1e-3, expected[known].std() if known.any() else 0)
            if not (np.isfinite(values) == known).all() or (apart > tolerance).any():
                wrong[name] = apart.max(initial=0)
    assert wrong == {}


def test_the_oracle_knows_every_feature():
    assert set(ORACLE) == BUILT_IN


@pytest.mark.parametrize("ticker", ["FB", "GOOG", "MSFT"])
def test_features_are_those_of_pandas(sample, market, ticker):
    assert_oracle(sample[ticker].iloc[:1500], market)


def test_features_are_those_of_pandas_beyond_what_averages_remember(make_bars):
    bars = make_bars(6000, seed=5, start="1990-01-01")
    assert_oracle(bars, state_of(*(make_bars(6000, seed=6 + i, start="1990-01-01") for i in range(2)), bars))


@pytest.mark.parametrize("seed", range(4))
def test_features_of_an_illiquid_ticker_are_those_of_pandas(seed):
    residue = 1e-9  # of bars that have left a running sum
    assert_oracle(illiquid_bars(seed), state_of(*map(illiquid_bars, (11, 12, 13))), residue)


# Many tickers at once, and the last rows of a long history


@pytest.fixture(scope="module", params=["B", "5min"], ids=["daily", "intraday"])
def long_bars(request, make_bars) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Bars of two pieces, some of them missing, and a market."""
    bars = make_bars(9000, seed=3, freq=request.param, start="1990-01-01")
    bars.loc[[7, 900, 4095, 4098, 8193], PRICES] = np.nan
    return bars, state_of(
        *(make_bars(9000, seed=4 + i, freq=request.param, start="1990-01-01") for i in range(2)), bars
    )


@pytest.fixture
def read(monkeypatch) -> list[int]:
    """The lengths of all panels of which features are computed."""
    lengths: list[int] = []
    panel = indicators.Panel
    monkeypatch.setattr(
        indicators, "Panel", lambda tickers: lengths.extend(len(one["close"]) for one in tickers) or panel(tickers)
    )
    return lengths


@pytest.mark.parametrize("names", [NAMES, ALL], ids=["default", "all"])
def test_new_bars_cost_their_reach_and_have_the_bits_of_the_whole(long_bars, names, read):
    bars, market = long_bars
    whole = compute_features(bars, names, market)
    reach = max(FEATURES[name].reach for name in names)
    for length, new in [(300, 1), (4093, 5), (4096, 1), (4100, 1), (4100, 5), (4100, 700), (8100, 700), (8300, 1)]:
        read.clear()
        tail = compute_features(bars.iloc[: length + new], names, market, start=length)
        assert tail.to_numpy().tobytes() == whole.iloc[length : length + new].to_numpy().tobytes()
        assert list(tail.index) == list(range(length, length + new))
        assert max(read) <= reach + new


@pytest.mark.parametrize("name", ALL)
def test_a_feature_reads_no_further_than_its_reach(long_bars, name):
    bars, market = long_bars
    bars = bars.dropna(ignore_index=True)
    feature, t = FEATURES[name], 7000
    whole = compute_features(bars.iloc[: t + 1], [name], market, start=t)
    short = bars.iloc[t - feature.reach : t + 1].reset_index(drop=True)
    seen = as_of(market, bars["timestamp"].iloc[: t + 1]).iloc[t - feature.reach :]
    with np.errstate(all="ignore"):
        panel = indicators.Panel([{c: short[c].to_numpy() for c in short} | {c: seen[c].to_numpy() for c in seen}])
        for part in (panel, panel.tail(feature.reach - feature.near)):
            assert feature.compute(part)[-1:].tobytes() == whole.to_numpy().tobytes()


def test_a_ticker_has_the_same_bits_alone_and_with_others(sample, market, make_bars):
    tickers = {name: bars.astype({"volume": float}) for name, bars in sample.items()}
    tickers["SHORT"], tickers["NONE"] = tickers["IBM"].iloc[:30], tickers["IBM"].iloc[:0]
    tickers["GAPS"] = tickers["MSFT"].assign(open=tickers["MSFT"]["open"].where(tickers["MSFT"].index % 5 > 0))
    tickers |= {f"T{i}": make_bars(1000 + 7 * i, seed=i) for i in range(40)}
    markets = {name: market if i % 3 else None for i, name in enumerate(tickers)}
    for starts in ({}, {name: max(0, len(bars) - 60) for name, bars in tickers.items()}, {"IBM": 3000, "T3": 1}):
        together, errors = features_of(tickers, ALL, markets=markets, starts=starts)
        assert errors == {}
        assert list(together) == list(tickers)
        for name in ("AAPL", "FB", "IBM", "SHORT", "NONE", "GAPS", "T3", "T39"):
            alone = compute_features(tickers[name], ALL, markets[name], start=starts.get(name, 0))
            assert alone.to_numpy().tobytes() == together[name].tobytes()


def test_panels_hold_tickers_of_about_one_length(make_bars, read):
    tickers = {f"T{n}": make_bars(n) for n in (4000, 3990, 1200, 1190, 500)}
    features_of(tickers, ["body"], markets={}, starts={})
    assert read == [4000, 3990, 1200, 1190, 500]


def test_one_bad_ticker_does_not_stop_the_others(table, bars):
    @feature(group="mine", lookback=0)
    def picky(bars):
        if bars.close.iloc[0] > 1e6:
            raise KeyError("price")
        return bars.close * 0.0

    tickers = {"A": bars, "B": bars.assign(**{c: bars[c] * 1e7 for c in PRICES}), "C": bars}
    values, errors = features_of(tickers, ["picky", "body"], markets={}, starts={})
    assert list(values) == ["A", "C"]
    assert {name: str(error) for name, error in errors.items()} == {"B": "feature 'picky' raised KeyError: 'price'"}
    assert not values["C"][:, 0].any()


def test_a_market_that_stops_before_the_first_row_is_as_stale_as_in_the_whole(make_bars):
    bars = make_bars(8400, freq="h", start="1990-01-01")
    for reach in {max(FEATURES[name].reach for name in names) for names in (ALL, OF_THE_MARKET)}:
        begins = 8300 - reach
        for hole in (begins - 12, begins - 9, begins - 5, begins):
            market = state_of(make_bars(8400, seed=4, freq="h", start="1990-01-01").drop(range(hole, hole + 40)))
            whole = compute_features(bars, ALL, market)
            tail = compute_features(bars, ALL, market, start=8300)
            assert tail.to_numpy().tobytes() == whole.iloc[8300:].to_numpy().tobytes()


def test_the_memory_of_the_last_rows_hardly_grows_with_the_history(make_bars):
    peaks = []
    for length in (20_000, 100_000):
        bars = make_bars(length, freq="min")
        tracemalloc.start()
        compute_features(bars, NAMES, start=length - 32)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 80_000 * 24  # bytes: a copy of the bars takes 48 a row, the features 512


@pytest.mark.parametrize("length", range(1, 31))
def test_short_history(bars, length):
    short = compute_features(bars.iloc[:length], ALL)
    assert short.equals(compute_features(bars, ALL).iloc[:length])


def test_no_history(bars):
    assert compute_features(bars.iloc[:0], NAMES).shape == (0, 64)
    assert compute_features(bars.iloc[:0], ALL).shape == (0, len(ALL))


@pytest.mark.parametrize("volume", [np.nan, 0.0])
def test_no_volume(bars, volume):
    features = compute_features(bars.assign(volume=volume), ALL)
    assert features[OF_VOLUME].isna().all(axis=None)
    others = [name for name in ALL if name not in [*OF_VOLUME, *SCORES]]
    assert features[others].equals(compute_features(bars, others))


def test_a_flat_market(bars):
    features = compute_features(bars.assign(**dict.fromkeys(PRICES, 12.34)), ALL)
    unknown = features.columns[features.isna().all()]
    assert set(unknown) == {
        *OF_THE_MARKET,
        *feature_names(["shape"])[:4],
        *("upper_shadow", "lower_shadow", "body_share", "price_position_5", "price_position_10"),
        *("price_volume_5", "price_volume_20", "return_to_volatility_10", "return_to_volatility_30"),
        *("volatility_regime", "bollinger_position_50", "donchian_position_55"),
        *feature_names(["range", "events"]),
        *("rsi_7", "rsi_14", "rsi_21", "stochastic_k", "stochastic_d", "cci_20", "vortex_14", "efficiency_21"),
        *("bollinger_position", "donchian_position", "keltner_position", "fibonacci_position", "fibonacci_distance"),
        "volatility_ratio",
    }
    still = feature_names(["returns", "bar", "averages", "macd", "ichimoku", "volatility"])
    assert features[still].drop(columns="volatility_ratio").abs().max().max() < 1e-9
    still = feature_names(["more_averages", "crossovers", "momentum", "estimators", "leverage"])
    assert features[[*still, "trend_slope_50", "channel_width_20"]].abs().max().max() < 1e-9
    assert not features[["reversal_up_divergence", "reversal_down_level"]].any(axis=None)


def test_missing_bars_are_stepped_over(bars, market):
    bars.loc[bars.index % 7 == 3, [*PRICES, "volume"]] = np.nan
    bars.loc[500, "open"] = np.nan
    missing = bars[PRICES].isna().any(axis=1)
    features = compute_features(bars, ALL, market)
    assert features[missing].isna().all(axis=None)
    assert features[~missing].equals(compute_features(bars[~missing], ALL, market))
    assert features[~missing].iloc[-100:].notna().all(axis=None)


def test_one_bar_without_volume_passes(bars):
    bars.loc[100, "volume"] = np.nan
    features = compute_features(bars, feature_names(["volume"]))
    assert features.loc[100].isna().all()
    assert features.loc[163:].notna().all(axis=None)
    assert compute_features(bars, [name for name in ALL if name not in OF_THE_MARKET]).loc[300:].notna().all(axis=None)


def test_values_against_numpy(bars):
    features = compute_features(bars, NAMES)
    open_, high, low, close = (bars[c].to_numpy() for c in PRICES)
    volume, t = bars.volume.to_numpy(), 700
    returns = np.diff(np.log(close))  # returns[i] is known at bar i + 1

    def middle(length: int, end: int) -> float:
        return (high[end - length + 1 : end + 1].max() + low[end - length + 1 : end + 1].min()) / 2

    cloud = t - 26  # the spans over bar t were drawn then
    top, bottom = high[t - 62 : t + 1].max(), low[t - 62 : t + 1].min()
    where = (close[t] - bottom) / (top - bottom)
    true_range = np.maximum(high[1:], close[:-1]) - np.minimum(low[1:], close[:-1])
    atr = true_range[:14].mean()
    for value in true_range[14:t]:
        atr += (value - atr) / 14
    last_20, last_21 = slice(t - 19, t + 1), slice(t - 20, t + 1)
    spread = close[last_20].std()
    expected = {
        "log_return_5": np.log(close[t] / close[t - 5]),
        "gap": np.log(open_[t] / close[t - 1]),
        "upper_wick": np.log(high[t] / max(open_[t], close[t])),
        "sma_200": np.log(close[t] / close[t - 199 : t + 1].mean()),
        "bollinger_position": (close[t] - close[last_20].mean() + 2 * spread) / (4 * spread),
        "fibonacci_position": where,
        "fibonacci_distance": min(abs(where - level) for level in (0, 0.236, 0.382, 0.5, 0.618, 0.786, 1)),
        "ichimoku_tenkan": np.log(close[t] / middle(9, t)),
        "ichimoku_kijun": np.log(close[t] / middle(26, t)),
        "ichimoku_span_a": np.log(close[t] / ((middle(9, cloud) + middle(26, cloud)) / 2)),
        "ichimoku_span_b": np.log(close[t] / middle(52, cloud)),
        "atr_14": atr / close[t],
        "volatility_21": returns[t - 21 : t].std(ddof=1),
        "obv_21": (np.sign(returns[t - 21 : t]) * volume[last_21]).sum() / volume[last_21].sum(),
        "volume_zscore_21": (volume[t] - volume[last_21].mean()) / volume[last_21].std(ddof=1),
        "vwma_20": np.log(close[t] / np.average(close[last_20], weights=volume[last_20])),
        "drawdown_252": np.log(close[t] / close[t - 251 : t + 1].max()),
        "momentum_12_1": np.log(close[t - 21] / close[t - 252]),
        "month_sin": np.sin(2 * np.pi * bars.timestamp[t].month / 12),
        "session_gap": (bars.timestamp[t] - bars.timestamp[t - 1]).days,
    }
    np.testing.assert_allclose(features.loc[t, list(expected)], list(expected.values()), rtol=1e-9, atol=1e-12)


def test_chosen_values_against_numpy(bars):
    features = compute_features(bars, ALL)
    open_, high, low, close = (bars[c].to_numpy() for c in PRICES)
    volume, t = bars.volume.to_numpy(), 700
    last_20, last_21 = slice(t - 19, t + 1), slice(t - 20, t + 1)
    body, span = np.log(close / open_), np.log(high / low)
    up, down = np.log(high / open_), np.log(low / open_)
    gap = np.log(open_[1:] / close[:-1])[t - 21 : t]
    rogers_satchell = (up * (up - body) + down * (down - body))[last_21].mean()
    k = 0.34 / (1.34 + 22 / 20)
    centred = close[last_20] - close[last_20].mean()
    second = (centred**2).mean()
    daily = np.diff(np.log(close))
    volatility = [daily[i - 21 : i].std(ddof=1) for i in range(t - 251, t + 1)]
    rose = close[last_20] > close[t - 20 : t]
    expected = {
        "sma_10": np.log(close[t] / close[t - 9 : t + 1].mean()),
        "upper_shadow": (high[t] - max(open_[t], close[t])) / (high[t] - low[t]),
        "body_share": (close[t] - open_[t]) / (high[t] - low[t]),
        "price_position_5": (close[t] - low[t - 4 : t + 1].min())
        / np.ptp([high[t - 4 : t + 1].max(), low[t - 4 : t + 1].min()]),
        "price_to_high_20": np.log(close[t] / high[last_20].max()),
        "price_to_low_20": np.log(close[t] / low[last_20].min()),
        "close_skew_20": np.sqrt(20 * 19) / 18 * (centred**3).mean() / second**1.5,
        "close_kurtosis_20": 19 / (18 * 17) * (21 * ((centred**4).mean() / second**2 - 3) + 6),
        "roc_20": close[t] / close[t - 20] - 1,
        "acceleration_10": np.log(close[t] * close[t - 20] / close[t - 10] ** 2),
        "trend_slope_20": 20 * np.polyfit(np.arange(20), close[last_20], 1)[0] / close[t],
        "price_volume_20": np.corrcoef(close[last_20], volume[last_20])[0, 1],
        "return_to_volatility_10": np.log(close[t] / close[t - 10]) / (daily[t - 10 : t].std(ddof=1) * np.sqrt(10)),
        "volatility_regime": np.log(volatility[-1] / np.mean(volatility)),
        "garman_klass_21": np.sqrt((span**2 / 2 - (2 * np.log(2) - 1) * body**2)[last_21].mean()),
        "rogers_satchell_21": np.sqrt(rogers_satchell),
        "yang_zhang_21": np.sqrt(gap.var(ddof=1) + k * body[last_21].var(ddof=1) + (1 - k) * rogers_satchell),
        "overnight_volatility_21": gap.std(ddof=1),
        "true_range": (max(high[t], close[t - 1]) - min(low[t], close[t - 1])) / close[t],
        "channel_width_20": np.log(high[last_20].max() / low[last_20].min()),
        "up_volume_20": volume[last_20][rose].sum() / volume[last_20].sum(),
    }
    np.testing.assert_allclose(features.loc[t, list(expected)], list(expected.values()), rtol=1e-8, atol=1e-12)


def test_a_crossing_is_marked_at_its_bar():
    close = pd.Series(np.concatenate((np.linspace(20, 10, 30), np.linspace(10, 20, 30))))
    bars = pd.DataFrame({"timestamp": pd.bdate_range("2020-01-01", periods=60), "volume": 1.0})
    crossing = compute_features(bars.assign(**dict.fromkeys(PRICES, close)), ["cross_sma_20"]).cross_sma_20
    above = close > close.rolling(20).mean()
    assert crossing[crossing != 0].dropna().to_dict() == {int(above[above].index[0]): 1.0}


def reversal_bars() -> tuple[pd.DataFrame, int]:
    """A fall, a bounce, and a lower low that is reached slowly and on much volume; the row of that low."""
    legs = [
        np.linspace(120, 110, 100),
        np.linspace(110, 100, 15),
        np.linspace(100, 106, 11),
        np.linspace(106, 99.5, 25),
    ]
    path = np.concatenate([*(leg[:-1] for leg in legs), np.linspace(99.5, 108, 20)])
    low = sum(len(leg) - 1 for leg in legs)
    volume = np.full(len(path), 100.0)
    volume[low] = 500.0
    prices = {"open": path, "high": path + 0.5, "low": path - 0.5, "close": path}
    return pd.DataFrame(
        {"timestamp": pd.bdate_range("2020-01-01", periods=len(path)), **prices, "volume": volume}
    ), low


def test_a_reversal_is_scored_once_its_pivot_is_confirmed():
    bars, low = reversal_bars()
    features = compute_features(bars, feature_names(["reversal"]))
    seen = features.loc[low : low + 12, "reversal_up_score"] > 0
    assert seen.tolist() == [False] * 5 + [True] * 6 + [False] * 2  # known 5 bars later, and stands for 5 more
    at = features.loc[low + 5]
    assert at["reversal_up_divergence"] > 0.3
    assert at["reversal_up_volume"] == 1.0  # five times the usual
    assert at["reversal_up_level"] > 0.4  # half a point below the support, an average range of 1 to 2
    by_hand = 4 * at["reversal_up_divergence"] + 4 + 3 * at["reversal_up_level"]
    np.testing.assert_allclose(at["reversal_up_score"], by_hand / 14)
    assert not features.loc[low : low + 12, "reversal_down_score"].any()

    mirrored = bars.assign(**{c: 220 - bars[o] for c, o in zip(PRICES, ("open", "low", "high", "close"), strict=True)})
    other = compute_features(mirrored, feature_names(["reversal"])).loc[low + 5]
    assert other["reversal_down_volume"] == 1.0
    assert other["reversal_down_divergence"] > 0.3
    assert other["reversal_up_score"] == 0.0


def test_the_strength_against_the_market_adds_to_the_reversal():
    bars, low = reversal_bars()
    noise = np.exp(np.random.default_rng(0).normal(0, 0.001, len(bars)).cumsum())
    index = bars.assign(**dict.fromkeys(PRICES, 50 * noise))
    names = ["reversal_up_strength", "reversal_down_strength", "reversal_up_score"]
    alone, beside = (
        compute_features(bars, names, state).loc[low + 5] for state in (None, market_state({"^GSPC": index}))
    )
    assert np.isnan(alone["reversal_up_strength"])
    assert beside["reversal_up_strength"] > 0.3
    assert beside["reversal_down_strength"] == 0.0
    added = beside["reversal_up_score"] - alone["reversal_up_score"]
    np.testing.assert_allclose(added, 3 * beside["reversal_up_strength"] / 14)


def test_market_values_against_numpy(sample, market):
    own, t = sample["MSFT"], 700
    table = pd.DataFrame({name: bars.set_index("timestamp")["close"] for name, bars in sample.items()}).sort_index()
    returns = np.log(table).diff()
    mean, day = returns.mean(axis=1).to_numpy(), int(table.index.get_loc(own["timestamp"][t]))
    mine = np.log(own["close"]).diff().to_numpy()[t - 62 : t + 1]
    theirs = mean[day - 62 : day + 1]
    expected = {
        "market_return_5": mean[day - 4 : day + 1].sum(),
        "relative_return_21": np.log(own["close"][t] / own["close"][t - 21]) - mean[day - 20 : day + 1].sum(),
        "market_beta_63": np.cov(mine, theirs)[0, 1] / theirs.var(ddof=1),
        "market_correlation_63": np.corrcoef(mine, theirs)[0, 1],
        "market_abs_return": returns.abs().mean(axis=1).iloc[day],
        "market_dispersion": returns.iloc[day].std(ddof=0),
        "market_dispersion_5": returns.std(axis=1, ddof=0).iloc[day - 4 : day + 1].mean(),
    }
    features = compute_features(own, list(expected), market)
    np.testing.assert_allclose(features.loc[t], list(expected.values()), rtol=1e-8, atol=1e-12)


def test_without_a_market_its_features_are_unknown(bars):
    assert compute_features(bars, OF_THE_MARKET).isna().all(axis=None)


@pytest.mark.parametrize("part", ["universe", "implied"])
def test_what_is_not_computed_without_a_market_would_be_unknown(bars, columns_of, part):
    rows = [FEATURES[name] for name in feature_names(indicators.READERS[part][:1])]
    with np.errstate(all="ignore"):
        panel = indicators.Panel([columns_of(bars)])
        assert not any(np.isfinite(row.compute(panel)).any() for row in rows)


def test_streak():
    close = pd.Series([5.0, 6, 7, 7, 6, 5, 4, *range(5, 20)])
    bars = pd.DataFrame({"timestamp": pd.bdate_range("2020-01-01", periods=len(close)), "volume": 1.0})
    streak = compute_features(bars.assign(**dict.fromkeys(PRICES, close)), ["streak"]).streak
    np.testing.assert_allclose(streak[1:10], [0.1, 0.2, 0, -0.1, -0.2, -0.3, 0.1, 0.2, 0.3])
    assert streak.max() == 1.0


def test_a_users_own_feature(table, bars):
    @feature(group="mine", lookback=1, formula="close / close[-1] - 1")
    def simple_return(bars):
        return bars["close"] / bars.close.shift(1) - 1

    assert feature_names(["mine"]) == ["simple_return"]
    assert feature_names()[-1] == "simple_return"
    features = compute_features(bars, ["simple_return", "log_return_1"])
    np.testing.assert_allclose(np.log1p(features.simple_return), features.log_return_1, atol=1e-12)
    assert_causal(bars, ["simple_return"], [1, 500])


def test_the_table_was_put_back():
    assert "simple_return" not in FEATURES


def test_division_by_zero_is_unknown(table, bars):
    feature(group="mine", lookback=0, name="infinite")(lambda bars: bars.close / 0.0)
    assert compute_features(bars, ["infinite"]).isna().all(axis=None)


def test_errors(table, bars):
    with pytest.raises(ValueError, match=r"'rsi_14' exists already"):
        feature(group="mine", lookback=14, name="rsi_14")(lambda bars: bars.close)
    with pytest.raises(ValueError, match=r"\['astrology'\].*'returns'"):
        feature_names(["astrology"])
    with pytest.raises(ValueError, match=r"\['moon'\]; import the module that defines them with @feature"):
        compute_features(bars, ["gap", "moon"])
    feature(group="mine", lookback=0, name="last")(lambda bars: bars.close.iloc[-1:])
    with pytest.raises(ValueError, match=r"'last' returned shape \(1,\)"):
        compute_features(bars, ["last"])


def test_built_in_features_need_no_pandas_ta(bars, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas_ta_classic", None)
    assert compute_features(bars, NAMES).iloc[-1].notna().all()


def test_a_cent_in_a_price_of_hundreds_is_not_lost_to_rounding():
    bars = pd.concat([illiquid_bars(seed) for seed in range(60)], ignore_index=True)
    bars["timestamp"] = pd.bdate_range("1990-01-01", periods=len(bars))
    names = ["price_volume_5", "price_volume_20"]
    rescaled = bars.assign(**{c: bars[c] * 7.3 for c in PRICES}, volume=bars.volume * 1000.0)
    assert_same(compute_features(rescaled, names), compute_features(bars, names), 1e-9)
