from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import indicators_tsf_llm as indicators
from tsf_llm.indicators_tsf_llm import FEATURE_GROUPS, FEATURES, compute_features, feature, feature_names

PRICES = ["open", "high", "low", "close"]
SAMPLE = Path(__file__).parents[1] / "data_prep" / "sample" / "us_daily_2000_2013_publicdomain.csv.gz"
NAMES = feature_names()


@pytest.fixture(scope="module")
def sample() -> dict[str, pd.DataFrame]:
    table = pd.read_csv(SAMPLE, parse_dates=["date"]).rename(columns={"date": "timestamp"})
    return {ticker: rows.reset_index(drop=True) for ticker, rows in table.groupby("ticker")}


@pytest.fixture
def bars(sample: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return sample["MSFT"].iloc[:1000].astype({"volume": float})


@pytest.fixture
def table():
    """The feature table, put back as it was."""
    before = dict(FEATURES)
    yield FEATURES
    FEATURES.clear()
    FEATURES.update(before)


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


def assert_causal(bars: pd.DataFrame, names: list[str], cuts: list[int]) -> None:
    """Neither removing nor rewriting the bars after a cut changes a bit before it."""
    full = compute_features(bars, names)
    for cut in cuts:
        rewritten = bars.copy()
        rewritten.loc[rewritten.index[cut:], PRICES] *= np.linspace(0.5, 3.0, len(bars) - cut)[:, None]
        rewritten.loc[rewritten.index[cut:], "volume"] *= 17.0
        blanked = bars.copy()
        blanked.loc[blanked.index[cut:], [*PRICES, "volume"]] = np.nan
        for other in (bars.iloc[:cut], rewritten, blanked):
            past = compute_features(other, names).iloc[:cut]
            changed = [n for n in names if past[n].to_numpy().tobytes() != full[n].iloc[:cut].to_numpy().tobytes()]
            assert not changed, f"{changed} at bar {cut} read later bars"


def assert_same(left: pd.DataFrame, right: pd.DataFrame, tolerance: float) -> None:
    np.testing.assert_allclose(left.to_numpy(), right.to_numpy(), rtol=0, atol=tolerance)


def test_the_table():
    assert len(NAMES) == len(FEATURES) == 64
    assert all(name == row.name and row.formula and row.lookback >= 0 for name, row in FEATURES.items())
    assert feature_names(FEATURE_GROUPS) == NAMES
    assert feature_names(["calendar", "macd"])[:4] == ["macd", "macd_signal", "macd_histogram", "day_of_week_sin"]
    assert feature_names([]) == []


def test_shape_type_and_index(bars):
    bars.index = pd.Index(np.repeat(np.arange(500), 2))  # not unique, as after a concat
    features = compute_features(bars, ["rsi_14", "gap", "rsi_14"])
    assert features.index.equals(bars.index)
    assert list(features.columns) == ["rsi_14", "gap", "rsi_14"]
    assert (features.dtypes == np.float64).all()
    assert compute_features(bars, []).shape == (1000, 0)


def test_the_input_is_left_alone(bars):
    before = bars.copy()
    compute_features(bars, NAMES)
    pd.testing.assert_frame_equal(bars, before)


def test_the_first_value_follows_the_lookback(bars):
    features = compute_features(bars, NAMES)
    assert {n: int(features[n].first_valid_index()) for n in NAMES} == {n: FEATURES[n].lookback for n in NAMES}
    assert all(features[n].iloc[FEATURES[n].lookback :].notna().all() for n in NAMES)


@pytest.mark.parametrize("ticker", ["AAPL", "FB", "GOOG", "IBM", "MSFT"])
def test_no_feature_reads_later_bars(sample, ticker):
    bars = sample[ticker].iloc[:1200].astype({"volume": float})
    assert_causal(bars, NAMES, [cut for cut in (1, 2, 30, 77, 150, 600, 1111) if cut < len(bars)])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cut=st.integers(1, 399))
def test_no_feature_reads_later_bars_of_an_illiquid_ticker(seed, cut):
    assert_causal(illiquid_bars(seed), NAMES, [cut])


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


def test_units_do_not_matter(sample):
    for bars in sample.values():
        rescaled = bars.assign(**{c: bars[c] * 7.3 for c in PRICES}, volume=bars.volume * 1000.0)
        assert_same(compute_features(rescaled, NAMES), compute_features(bars, NAMES), 1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_units_do_not_matter_for_an_illiquid_ticker(seed):
    bars = illiquid_bars(seed)
    rescaled = bars.assign(**{c: bars[c] * 7.3 for c in PRICES}, volume=bars.volume * 1000.0)
    features = compute_features(bars, NAMES)
    assert_same(compute_features(rescaled, NAMES), features, 1e-6)
    assert features.drop(columns="session_gap").abs().max().max() < 50


@pytest.mark.parametrize("ticker", ["AAPL", "GOOG", "IBM", "MSFT"])
def test_the_start_of_the_history_is_forgotten(sample, ticker):
    bars = sample[ticker]
    late = compute_features(bars.iloc[500:], NAMES).iloc[600:]
    early = compute_features(bars, NAMES).iloc[1100:]
    assert_same(late / early.std(), early / early.std(), 1e-6)


@pytest.mark.parametrize("length", range(1, 31))
def test_short_history(bars, length):
    short = compute_features(bars.iloc[:length], NAMES)
    assert short.equals(compute_features(bars, NAMES).iloc[:length])


def test_no_history(bars):
    assert compute_features(bars.iloc[:0], NAMES).shape == (0, 64)


@pytest.mark.parametrize("volume", [np.nan, 0.0])
def test_no_volume(bars, volume):
    features = compute_features(bars.assign(volume=volume), NAMES)
    of_volume = feature_names(["volume"])
    assert features[of_volume].isna().all(axis=None)
    assert features.drop(columns=of_volume).equals(compute_features(bars, NAMES).drop(columns=of_volume))


def test_a_flat_market(bars):
    features = compute_features(bars.assign(**dict.fromkeys(PRICES, 12.34)), NAMES)
    unknown = features.columns[features.isna().all()]
    assert set(unknown) == {
        *("rsi_7", "rsi_14", "rsi_21", "stochastic_k", "stochastic_d", "cci_20", "vortex_14", "efficiency_21"),
        *("bollinger_position", "donchian_position", "keltner_position", "fibonacci_position", "fibonacci_distance"),
        "volatility_ratio",
    }
    still = feature_names(["returns", "bar", "averages", "macd", "ichimoku", "volatility"])
    assert features[still].drop(columns="volatility_ratio").abs().max().max() < 1e-9


def test_missing_bars_are_stepped_over(bars):
    bars.loc[bars.index % 7 == 3, [*PRICES, "volume"]] = np.nan
    bars.loc[500, "open"] = np.nan
    missing = bars[PRICES].isna().any(axis=1)
    features = compute_features(bars, NAMES)
    assert features[missing].isna().all(axis=None)
    assert features[~missing].equals(compute_features(bars[~missing], NAMES))
    assert features[~missing].iloc[-100:].notna().all(axis=None)


def test_one_bar_without_volume_passes(bars):
    bars.loc[100, "volume"] = np.nan
    features = compute_features(bars, feature_names(["volume"]))
    assert features.loc[100].isna().all()
    assert features.loc[163:].notna().all(axis=None)


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


def test_streak():
    close = pd.Series([5.0, 6, 7, 7, 6, 5, 4, *range(5, 20)])
    bars = pd.DataFrame({"timestamp": pd.bdate_range("2020-01-01", periods=len(close)), "volume": 1.0})
    streak = compute_features(bars.assign(**dict.fromkeys(PRICES, close)), ["streak"]).streak
    np.testing.assert_allclose(streak[1:10], [0.1, 0.2, 0, -0.1, -0.2, -0.3, 0.1, 0.2, 0.3])
    assert streak.max() == 1.0


def test_an_indicator_is_computed_once(bars, monkeypatch):
    calls = []
    no_answer = calls.append  # None, which pandas-ta returns for a short series
    monkeypatch.setattr(indicators.ta, "macd", lambda **kwargs: no_answer(kwargs))
    features = compute_features(bars, feature_names(["macd"]))
    assert features.isna().all(axis=None)
    assert len(calls) == 1
    assert calls[0]["talib"] is False


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


def test_without_pandas_ta(bars, monkeypatch):
    monkeypatch.setattr(indicators, "ta", None)
    assert compute_features(bars, ["body", "session_gap"]).notna().any(axis=None)
    with pytest.raises(ImportError, match="pip install pandas-ta-classic"):
        compute_features(bars, ["rsi_14"])
