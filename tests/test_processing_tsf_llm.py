"""Bars in, tensors out, prices back: no row knows a later one, and no bad bar passes in silence."""

import json
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from tsf_llm import audit_tsf_llm as audit
from tsf_llm.audit_tsf_llm import audit_features
from tsf_llm.bars_tsf_llm import day_end
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES, compute_features, feature
from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS, MIN_BARS, TsfLlmProcessor, next_timestamps
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

PRICES = ["open", "high", "low", "close"]
NUMBERS = [*PRICES, "volume"]
ROWS = 320
FEW = settings(max_examples=6, deadline=None, derandomize=True)
MEMORYLESS = ["body", "upper_wick", "lower_wick", "range", "month_sin", "quarter_cos"]  # known from the first bar on


@pytest.fixture(scope="module")
def processor(make_bars) -> TsfLlmProcessor:
    """All features, fitted on two tickers."""
    return TsfLlmProcessor().fit([make_bars(400, ticker="AAA", seed=1), make_bars(500, ticker="BBB", seed=2)])


@pytest.fixture(scope="module")
def small(make_bars) -> TsfLlmProcessor:
    """Few features and a short window, for what does not depend on the features."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=40)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(make_bars(400, seed=1))


@pytest.fixture
def table():
    """The feature table, put back as it was."""
    before = dict(FEATURES)
    yield FEATURES
    FEATURES.clear()
    FEATURES.update(before)


def rewritten(bars: pd.DataFrame, cut: int, seed: int = 0) -> pd.DataFrame:
    """The same bars up to `cut`, others from there on."""
    bars = bars.copy()
    rng = np.random.default_rng(seed)
    bars.loc[bars.index[cut:], PRICES] *= np.exp(rng.normal(0, 0.3, (len(bars) - cut, 1)))
    bars.loc[bars.index[cut:], "volume"] *= rng.lognormal(0, 1, len(bars) - cut)
    return bars


def assert_same_rows(left: EncodedSeries, right: EncodedSeries, rows: int) -> None:
    for name in ("timestamp", "features", "observed", "close", "log_return", "sigma"):
        ours, theirs = getattr(left, name)[:rows], getattr(right, name)[:rows]
        assert len(ours) == len(theirs) == rows
        assert ours.tobytes() == theirs.tobytes(), name


def assert_same_batch(left, right) -> None:
    assert left.keys() == right.keys()
    for key, value in left.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, right[key]), key
        else:
            assert all(np.array_equal(a, b) for a, b in zip(value, right[key], strict=True)), key


def stamps(start: str, periods: int, freq: str) -> np.ndarray:
    return pd.date_range(start, periods=periods, freq=freq).to_numpy()


def state(processor: TsfLlmProcessor) -> tuple[str, list[float]]:
    return processor.feature_extractor.to_json_string(), processor.tokenizer.bin_edges


# No leak


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(30, ROWS - 1))
def test_no_row_reads_a_later_one(processor, make_bars, seed, cut):
    bars = make_bars(ROWS, seed=seed)
    (whole,) = processor.feature_extractor.encode(bars)
    for other in (bars.iloc[:cut], rewritten(bars, cut, seed)):
        (series,) = processor.feature_extractor.encode(other)
        assert_same_rows(series, whole, cut)
    assert not np.array_equal(series.features[cut:], whole.features[cut:])  # the future did change


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(30, ROWS))
def test_as_of_equals_truncated_bars(processor, make_bars, seed, cut):
    bars = make_bars(ROWS, seed=seed)
    as_of = bars["timestamp"].iloc[cut - 1]
    assert_same_batch(processor(bars, as_of=as_of), processor(bars.iloc[:cut]))
    assert_same_batch(processor(bars, as_of=str(as_of.date())), processor(bars.iloc[:cut]))


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(290, ROWS), per_ticker=st.booleans())
def test_fit_reads_nothing_after_the_fence(make_bars, seed, cut, per_ticker):
    bars = pd.concat([make_bars(ROWS, ticker=name, seed=seed + i) for i, name in enumerate("AB")])
    fence = make_bars(ROWS)["timestamp"].iloc[cut - 1]

    def fitted(frame: pd.DataFrame) -> tuple[str, list[float]]:
        extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "volume"], per_ticker=per_ticker)
        return state(TsfLlmProcessor(extractor).fit(frame, through=fence))

    assert fitted(bars) == fitted(bars[bars["timestamp"] <= fence])
    future = bars["timestamp"] > fence
    changed = bars.copy()
    changed.loc[future, NUMBERS] *= 3.0
    assert fitted(changed) == fitted(bars)
    changed = bars.copy()
    changed.loc[~future, "volume"] = changed["volume"][~future].to_numpy()[::-1]
    assert fitted(changed) != fitted(bars)  # what lies before the fence does count


def test_a_bare_date_is_the_whole_day_and_a_timestamp_is_an_instant(small, make_bars):
    assert day_end("2020-06-30") == day_end(pd.Timestamp("2020-06-30").date()) == day_end(np.datetime64("2020-06-30"))
    assert day_end("2020-06-30") == pd.Timestamp("2020-07-01") - pd.Timedelta(1, "ns")
    for instant in (pd.Timestamp("2020-06-30"), pd.Timestamp("2020-06-30 15:30"), "2020-06-30 00:00"):
        assert day_end(instant) == pd.Timestamp(instant)
    assert day_end(pd.Timestamp("2020-06-30 09:00", tz="America/New_York")) == pd.Timestamp("2020-06-30 13:00")

    hourly = make_bars(600, freq="h")
    fitted = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly, through="2015-01-20")
    assert fitted.fitted_through == "2015-01-20"
    assert fitted(hourly, as_of="2015-01-20")["origin"] == [pd.Timestamp("2015-01-20 23:00")]
    assert fitted(hourly, as_of=pd.Timestamp("2015-01-20"))["origin"] == [pd.Timestamp("2015-01-20 00:00")]
    inside = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly[: 20 * 24])
    assert fitted.feature_extractor.center == inside.feature_extractor.center
    assert fitted.tokenizer.bin_edges == inside.tokenizer.bin_edges


@pytest.mark.parametrize("factor", [7.3, 1e-3])
def test_the_unit_of_price_does_not_matter(processor, make_bars, factor):
    bars = make_bars(ROWS, seed=5)
    dear = bars.assign(**{name: bars[name] * factor for name in PRICES})
    (series,), (scaled,) = processor.feature_extractor.encode(bars), processor.feature_extractor.encode(dear)
    np.testing.assert_allclose(scaled.features, series.features, rtol=1e-6, atol=1e-6)
    z, other = series.standard_return(), scaled.standard_return()
    tokens, others = (processor.tokenizer.encode_returns(each) for each in (z, other))
    to_edge = np.abs(z[:, None] - processor.tokenizer.bin_edges).min(axis=1)
    assert np.array_equal(tokens[to_edge > 1e-9], others[to_edge > 1e-9])  # rounding may decide on an edge itself
    assert (to_edge > 1e-9).sum() > 250

    cumulative = np.random.default_rng(0).normal(0, 0.02, (1, 50, 3))
    forecast, dear_forecast = (processor.decode(cumulative, processor(each)) for each in (bars, dear))
    prices = FORECAST_COLUMNS[4:-1]
    np.testing.assert_allclose(dear_forecast[prices], factor * forecast[prices], rtol=1e-12)
    assert dear_forecast["p_up"].equals(forecast["p_up"])


# Batches, padding, gaps


def test_ragged_batch_pads_on_the_left_and_changes_no_values(small, make_bars):
    frames = [make_bars(rows, ticker=name, seed=rows) for name, rows in (("A", 30), ("B", 200), ("C", 35))]
    batch = small(pd.concat(frames))
    assert batch["ticker"] == ["A", "B", "C"]
    assert batch["past_values"].shape == (3, 40, small.feature_extractor.feature_size)
    assert batch["past_values"].dtype == torch.float32
    for row, frame in enumerate(frames):
        alone = small(frame)
        length = alone["past_values"].shape[1]
        assert length == min(40, len(frame))
        for key in ("past_values", "attention_mask", "input_ids"):
            assert torch.equal(batch[key][row, -length:], alone[key][0]), key
        assert batch["attention_mask"][row, -length:].all()
        assert not batch["attention_mask"][row, :-length].any()
        assert not batch["past_values"][row, :-length].any()
        for key in ("scale", "last_close", "origin"):
            assert batch[key][row] == alone[key][0]
        assert batch["last_close"][row] == frame["close"].iloc[-1]
    assert (batch["input_ids"] == small.tokenizer.bar_token_id).all()


def test_batch_takes_any_origins(small, make_bars):
    bars = make_bars(120)
    (series,) = small.feature_extractor.encode(bars)
    origins = series.origins("2015-02-10", "2015-03-31")
    batch = small.batch([(series, origins)], return_tensors="np")
    assert batch["origin"][0] == pd.Timestamp("2015-02-10")
    assert batch["origin"][-1] == pd.Timestamp("2015-03-31")
    for i in (0, 5, len(origins) - 1):
        alone = small(bars, as_of=batch["origin"][i], return_tensors="np")
        length = alone["past_values"].shape[1]
        assert np.array_equal(batch["past_values"][i, -length:], alone["past_values"][0])
        assert batch["attention_mask"][i].sum() == length
        assert batch["scale"][i] == alone["scale"][0]
    with pytest.raises(ValueError, match="no origin to forecast from"):
        small.batch([(series, origins[:0])])


def test_missing_bars_are_masked_and_never_filled(small, make_bars):
    bars = make_bars(100)
    bars.loc[80:82, NUMBERS] = np.nan
    bars.loc[90, "high"] = np.nan  # three prices out of four are no bar either
    (series,) = small.feature_extractor.encode(bars)
    missing = [80, 81, 82, 90]
    assert np.flatnonzero(~series.observed).tolist() == missing
    assert not series.features[missing].any()
    assert np.isnan(series.close[missing]).all()
    assert np.flatnonzero(np.isnan(series.log_return)).tolist() == [0, 80, 81, 82, 83, 90, 91]
    unknown = small.tokenizer.encode_returns(series.standard_return()) == -100
    assert np.flatnonzero(unknown[MIN_BARS:]).tolist() == [i - MIN_BARS for i in (80, 81, 82, 83, 90, 91)]
    assert series.sigma[80] == series.sigma[82] == series.sigma[83] == series.sigma[79]  # no return, no news
    assert series.sigma[84] != series.sigma[83]
    assert not set(missing) & set(series.origins())

    batch = small(bars)
    assert np.flatnonzero(batch["attention_mask"][0] == 0).tolist() == [i - 60 for i in missing]
    assert not batch["past_values"][0][batch["attention_mask"][0] == 0].any()
    (before,) = small.feature_extractor.encode(bars[:80])
    assert_same_rows(before, series, 80)


def test_the_return_across_a_gap_shapes_no_bin(make_bars):
    """A jump over missing bars would else become the widest tail of the return bins."""
    bars = make_bars(400)
    bars.loc[200:, PRICES] *= 5.0
    bars.loc[195:200, NUMBERS] = np.nan
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"])
    edges = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars).tokenizer.bin_edges
    z = extractor.encode(bars)[0].standard_return()
    np.testing.assert_allclose([edges[0], edges[-1]], [np.nanmin(z), np.nanmax(z)], atol=1e-6)
    assert edges[-1] < 10


def test_origin_is_the_last_observed_bar(small, make_bars):
    bars = make_bars(60)
    bars.loc[57:, NUMBERS] = np.nan
    batch = small(bars)
    assert batch["origin"] == [bars["timestamp"].iloc[56]]
    assert batch["last_close"][0] == bars["close"].iloc[56]
    assert_same_batch(batch, small(bars.iloc[:57]))
    forecast = small.decode(np.zeros((1, 4, 1)), batch)
    assert forecast["timestamp"].iloc[0] == bars["timestamp"].iloc[57]


def test_too_few_known_returns_for_a_volatility_are_refused(small, make_bars):
    bars = make_bars(MIN_BARS + 1)
    bars.loc[10, NUMBERS] = np.nan
    (series,) = small.feature_extractor.encode(bars)
    assert not len(series.origins())
    with pytest.raises(ValueError, match=r"AAA: fewer than 20 returns are known.*more history"):
        small(pd.concat([bars, make_bars(60, ticker="BBB")]))


def test_every_ticker_needs_bars_up_to_as_of(small, make_bars):
    late = make_bars(60, ticker="LATE", start="2016-01-01")
    with pytest.raises(ValueError, match="LATE: 0 observed bars"):
        small(pd.concat([make_bars(300), late]), as_of="2015-06-30")


def test_an_ungrouped_frame_a_list_and_shuffled_tickers_say_the_same(small, make_bars):
    first, second = make_bars(50, ticker="A"), make_bars(60, ticker="B", seed=1)
    joined = pd.concat([first, second]).sort_values(["timestamp", "ticker"], kind="stable")
    assert_same_batch(small(joined), small([first, second]))
    assert small([first.drop(columns="ticker"), second.drop(columns="ticker")])["ticker"] == ["series_0", "series_1"]
    nameless = small(first.drop(columns="ticker"))
    assert nameless["ticker"] == ["series"]
    assert torch.equal(nameless["past_values"], small(first)["past_values"])


def test_the_frame_is_left_as_it_was(small, make_bars):
    bars = make_bars(60)
    bars.loc[30, "close"] = np.nan
    before = bars.copy(deep=True)
    small(bars, as_of="2015-03-10")
    pd.testing.assert_frame_equal(bars, before)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_zoned_dates_stay_the_same_dates(small, make_bars, zone):
    bars = make_bars(150)
    zoned = bars.assign(timestamp=bars["timestamp"].dt.tz_localize(zone))
    assert_same_batch(small(zoned), small(bars))
    text = zoned.assign(timestamp=zoned["timestamp"].map(lambda stamp: stamp.isoformat()))  # offsets change in March
    assert_same_batch(small(text), small(bars))


def test_zoned_hours_turn_into_utc(make_bars):
    hourly = make_bars(600, freq="h")
    fitted = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly)
    zoned = hourly.assign(timestamp=hourly["timestamp"].dt.tz_localize("UTC").dt.tz_convert("America/New_York"))
    assert_same_batch(fitted(zoned), fitted(hourly))
    middle = zoned["timestamp"].iloc[300]
    assert fitted(zoned, as_of=middle)["origin"] == [hourly["timestamp"].iloc[300]]


def test_feature_groups_choose_features(make_bars):
    assert TsfLlmFeatureExtractor().feature_size == 64
    extractor = TsfLlmFeatureExtractor(feature_groups=["macd", "calendar"])
    assert extractor.feature_size == len(extractor.names) == 10
    batch = TsfLlmProcessor(extractor).fit(make_bars(400))(make_bars(60))
    assert batch["past_values"].shape[-1] == 10
    assert TsfLlmFeatureExtractor(names=["range", "body"]).names == ["range", "body"]
    with pytest.raises(ValueError, match=r"unknown feature groups \['nope'\]; choose from"):
        TsfLlmFeatureExtractor(feature_groups=["nope"])


# The market


@pytest.fixture(scope="module")
def beside_market(make_bars) -> TsfLlmProcessor:
    """Features of the market, fitted beside two other tickers."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market", "reversal"], context_length=40)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32))
    return processor.fit(make_bars(400, seed=1), market=[make_bars(400, ticker=name, seed=ord(name)) for name in "XY"])


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(80, ROWS - 1))
def test_no_row_reads_a_later_one_of_the_market(beside_market, make_bars, seed, cut):
    bars = make_bars(ROWS, seed=seed)
    market = [make_bars(ROWS, ticker="X", seed=seed + 1), make_bars(ROWS, ticker="Y", seed=seed + 2)]
    market[1] = market[1].drop(index=[60, 61, 200])
    encode = beside_market.feature_extractor.encode
    (whole,) = encode(bars, market=market)
    day = bars["timestamp"].iloc[cut - 1]
    ended = [frame[frame["timestamp"] <= day] for frame in market]
    changed = [rewritten(frame, int((frame["timestamp"] <= day).sum()), seed) for frame in market]
    for other in (ended, changed):
        (series,) = encode(bars, market=other)
        assert_same_rows(series, whole, cut)
        assert_same_batch(beside_market(bars, as_of=day, market=other), beside_market(bars, as_of=day, market=market))
    assert not np.array_equal(series.features[cut:], whole.features[cut:])  # the future did change


def test_fit_reads_no_market_after_the_fence(make_bars):
    bars, index = make_bars(400, seed=1), make_bars(400, seed=2)
    fence = bars["timestamp"].iloc[300]

    def fitted(market: pd.DataFrame) -> tuple[str, list[float]]:
        extractor = TsfLlmFeatureExtractor(feature_groups=["market"])
        return state(TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, fence, market=market))

    assert fitted(index) == fitted(index[:301]) == fitted(rewritten(index, 301))
    assert fitted(index) != fitted(rewritten(index, 200))


def test_without_a_market_its_features_are_masked(beside_market, make_bars):
    bars = make_bars(120, seed=4)
    (series,) = beside_market.feature_extractor.encode(bars)
    names = beside_market.feature_extractor.names
    of_market = [i for i, name in enumerate(names) if FEATURES[name].group == "market"]
    assert len(of_market) == 20
    assert not series.features[:, of_market].any()
    (seen,) = beside_market.feature_extractor.encode(bars, market=make_bars(120, seed=5))
    assert seen.features[:, of_market].any()
    assert np.array_equal(seen.features[:, :5], series.features[:, :5])


def test_a_market_that_cannot_be_read_is_refused(beside_market, small, make_bars):
    bars = make_bars(120)
    with pytest.raises(ValueError, match="no feature of this processor reads it"):
        small(bars, market=bars)
    alone = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["market"]), TsfLlmTokenizer(n_bins=32))
    alone.fit(make_bars(400))
    assert not alone(bars)["past_values"].any()
    with pytest.raises(ValueError, match=r"fitted without one; give it to processor\.fit"):
        alone(bars, market=bars)
    with pytest.raises(ValueError, match=r"market, AAA: a bar every 0 days 01:00:00"):
        beside_market(bars, market=make_bars(500, freq="h"))
    with pytest.raises(ValueError, match=r"AAA, row 3, .*: price <= 0"):
        beside_market(bars, market=bars.assign(open=bars["open"].where(bars.index != 3, -1.0)))


def test_the_market_and_the_calendar_survive_saving(beside_market, make_bars, tmp_path):
    extractor = TsfLlmFeatureExtractor(feature_groups=["market"], calendar="XLON")
    bars = make_bars(400)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, market=bars)
    processor.save_pretrained(tmp_path)
    loaded = TsfLlmProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.fitted_with_market
    assert loaded.feature_extractor.calendar == "XLON"
    assert_same_batch(loaded(bars, market=bars), processor(bars, market=bars))


def test_a_forecast_is_dated_by_the_calendar(make_bars):
    bars = make_bars(260, start="2018-12-27")  # up to Christmas Eve 2019, or one day on
    bars = bars[bars["timestamp"] <= "2019-12-24"]
    expected = {None: ["2019-12-25", "2019-12-26"], "XNYS": ["2019-12-26", "2019-12-27"]}
    expected |= {"24/7": ["2019-12-25", "2019-12-26"], "XLON": ["2019-12-27", "2019-12-30"]}
    for calendar, days in expected.items():
        extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], calendar=calendar)
        processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars)
        forecast = processor.decode(np.zeros((1, 4, 2)), processor(bars))
        assert forecast["timestamp"].tolist() == [pd.Timestamp(day) for day in days]
    with pytest.raises(ValueError, match="calendar='XMARS': no such calendar"):
        TsfLlmFeatureExtractor(calendar="XMARS")


# Scales


@pytest.mark.parametrize(
    ("scaling", "oracle"),
    [("robust", RobustScaler()), ("standard", StandardScaler()), ("minmax", MinMaxScaler((-1, 1)))],
)
def test_scaling_equals_scikit_learn(make_bars, scaling, oracle):
    train, test = make_bars(400, seed=1), make_bars(100, seed=2)
    extractor = TsfLlmFeatureExtractor(names=MEMORYLESS, scaling=scaling, clip=1e6).fit(train)
    oracle.fit(compute_features(train, MEMORYLESS).to_numpy())
    expected = oracle.transform(compute_features(test, MEMORYLESS).to_numpy())
    np.testing.assert_allclose(extractor.encode(test)[0].features, expected, rtol=1e-5, atol=1e-6)


def test_scaled_features_are_clipped_and_unknown_ones_zero(make_bars):
    bars = make_bars(300)
    series = TsfLlmFeatureExtractor(names=["range", "sma_200"], clip=1.5).fit(bars).encode(bars)[0]
    assert np.abs(series.features).max() == 1.5
    assert not series.features[:199, 1].any()
    assert np.count_nonzero(series.features[199:, 1]) >= 100  # the median itself is scaled to zero


def test_a_constant_or_unknown_feature_stays_finite(make_bars):
    extractor = TsfLlmFeatureExtractor(names=["session_gap", "sma_200"]).fit(make_bars(100, freq="D"))
    assert (extractor.center["*"], extractor.scale["*"]) == ([1.0, 0.0], [1.0, 1.0])


def test_per_ticker_scales(make_bars):
    calm, wild = make_bars(400, ticker="CALM", seed=1), make_bars(400, ticker="WILD", seed=2)
    wild["high"] *= 1.2
    both, names = pd.concat([calm, wild]), ["range", "body"]
    extractor = TsfLlmFeatureExtractor(names=names, per_ticker=True).fit(both)
    pooled = TsfLlmFeatureExtractor(names=names).fit(both)
    assert set(extractor.center) == {"*", "CALM", "WILD"}
    assert set(pooled.center) == {"*"}
    alone = TsfLlmFeatureExtractor(names=names).fit(wild)
    assert np.array_equal(extractor.encode(wild)[0].features, alone.encode(wild)[0].features)
    assert not np.array_equal(extractor.encode(wild)[0].features, pooled.encode(wild)[0].features)
    stranger = calm.assign(ticker="NEW")
    assert np.array_equal(extractor.encode(stranger)[0].features, pooled.encode(stranger)[0].features)


# Volatility


@pytest.mark.parametrize("decay", [0.94, 0.8])
def test_sigma_is_the_riskmetrics_recursion(make_bars, decay):
    close = make_bars(120)["close"].to_numpy(copy=True)
    close[60:63] = np.nan
    log_return, sigma = TsfLlmFeatureExtractor(names=["body"], sigma_decay=decay).volatility(close)
    numerator = denominator = known = 0.0
    for t in range(len(close)):
        r = np.log(close[t] / close[t - 1]) if t else np.nan
        np.testing.assert_allclose(log_return[t], r, rtol=1e-12)
        if not np.isnan(r):
            numerator, denominator, known = decay * numerator + r**2, decay * denominator + 1, known + 1
        if known < MIN_BARS - 1:
            assert np.isnan(sigma[t])
        else:
            np.testing.assert_allclose(sigma[t], np.sqrt(numerator / denominator), rtol=1e-10)


def test_a_halted_price_has_the_floor_for_volatility():
    extractor = TsfLlmFeatureExtractor(names=["body"], sigma_floor=0.002)
    log_return, sigma = extractor.volatility(np.full(40, 12.5))
    assert (sigma[MIN_BARS - 1 :] == 0.002).all()
    assert np.isnan(sigma[: MIN_BARS - 1]).all()
    assert not log_return[1:].any()


# Return tokens


def heavy_tails(seed: int, n: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, n)


def assert_valid(edges: list[float]) -> None:
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    assert 0.0 in edges[1:-1]


def test_the_default_vocabulary():
    tokenizer = TsfLlmTokenizer().fit(heavy_tails(0))
    assert (len(tokenizer.bin_edges), len(tokenizer.bin_centers)) == (257, 256)
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab()) == 258
    assert sorted(tokenizer.get_vocab().values()) == list(range(258))
    assert (tokenizer.pad_token_id, tokenizer.bar_token_id) == (256, 257)
    assert tokenizer.convert_ids_to_tokens([0, 255, 256, 257]) == ["r0", "r255", "<pad>", "<bar>"]
    assert tokenizer.convert_tokens_to_ids(["r0", "r255", "<pad>", "<bar>"]) == [0, 255, 256, 257]
    assert tokenizer.padding_side == "left"


@FEW
@given(seed=st.integers(0, 10_000), n_bins=st.sampled_from([32, 64, 256]))
def test_round_trip_is_within_half_a_bin(seed, n_bins):
    tokenizer = TsfLlmTokenizer(n_bins).fit(heavy_tails(seed))
    edges = np.array(tokenizer.bin_edges)
    assert_valid(tokenizer.bin_edges)
    values = np.random.default_rng(seed + 1).uniform(edges[0], edges[-1], 3000)
    ids = tokenizer.encode_returns(values)
    assert ((edges[ids] <= values) & (values <= edges[ids + 1])).all()
    assert (np.abs(tokenizer.decode_returns(ids) - values) <= np.diff(edges)[ids] / 2 * (1 + 1e-9)).all()
    assert np.array_equal(tokenizer.encode_returns(tokenizer.bin_centers), np.arange(n_bins))


def test_signs_survive_the_tokens():
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    values = np.array([-4.0, -1e-7, 0.0, 1e-7, 4.0])
    assert np.sign(tokenizer.decode_returns(tokenizer.encode_returns(values))).tolist() == [-1, -1, 1, 1, 1]


def test_outside_clips_and_unknown_is_ignored():
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    values = np.array([-1e9, -np.inf, 1e9, np.inf, np.nan])
    assert tokenizer.encode_returns(values).tolist() == [0, 0, 31, 31, -100]
    assert tokenizer.encode_returns(values, unknown=tokenizer.pad_token_id)[-1] == 32
    assert tokenizer.encode_returns(values).dtype == np.int64
    assert np.isnan(tokenizer.decode_returns(np.array([32, 33, -100]))).all()


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(2000) % 3 > 0, 0.0, heavy_tails(0, 2000)),  # mostly zero
        np.round(heavy_tails(1, 2000) * 2) / 2,  # a coarse grid
        np.zeros(500),
        np.full(500, 0.7),
        np.abs(heavy_tails(2, 2000)) + 0.1,  # only up
        -np.abs(heavy_tails(2, 2000)) - 0.1,  # only down
        np.append(np.zeros(999), 1e-12),
    ],
    ids=["zeros", "grid", "all zero", "one value", "only up", "only down", "almost nothing"],
)
def test_ties_and_one_sided_returns_still_give_bins(values):
    tokenizer = TsfLlmTokenizer().fit(values)
    assert_valid(tokenizer.bin_edges)
    ids = tokenizer.encode_returns(values)
    edges = np.array(tokenizer.bin_edges)
    assert ((edges[ids] <= values + 1e-6) & (values - 1e-6 <= edges[ids + 1])).all()


def test_body_bins_share_the_data_and_tails_hold_the_rest():
    values = heavy_tails(3, 200_000)
    counts = np.bincount(TsfLlmTokenizer().fit(values).encode_returns(values), minlength=256) / len(values)
    body, tails = counts[8:-8], (counts[:8].sum(), counts[-8:].sum())
    expected = np.full(240, 0.99 / 240)
    moved = np.abs(np.cumsum(body - expected))  # the edge that was put at zero moves data between two neighbours
    assert (np.abs(body - expected) > 0.05 / 240).sum() <= 2
    assert moved.max() < 1 / 240
    np.testing.assert_allclose(tails, 0.005, rtol=0.05)
    widths = np.diff(TsfLlmTokenizer().fit(values).bin_edges)
    assert (np.diff(widths[-8:]) > 0).all()
    assert (np.diff(widths[:8]) < 0).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: TsfLlmTokenizer(33), "n_bins=33: use an even number"),
        (lambda: TsfLlmTokenizer(16), "at least 32"),
        (lambda: TsfLlmTokenizer(32, [1.0, 0.0]), "33 increasing numbers, got 2"),
        (lambda: TsfLlmTokenizer(32, [0.0] * 33), "33 increasing numbers"),
        (lambda: TsfLlmTokenizer(32).bin_centers, "not fitted"),
        (lambda: TsfLlmTokenizer(32).encode_returns(np.zeros(1)), "not fitted"),
        (lambda: TsfLlmTokenizer().fit(np.append(np.zeros(255), np.nan)), "255 returns for 256 bins"),
    ],
)
def test_tokenizer_refuses(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_the_tokenizer_does_what_trainers_ask(tmp_path):
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    padded = tokenizer.pad([{"input_ids": [33, 33, 4]}, {"input_ids": [33]}], return_tensors="pt")
    assert padded["input_ids"].tolist() == [[33, 33, 4], [32, 32, 33]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert tokenizer("r3 r31")["input_ids"] == [3, 31]
    assert tokenizer.decode([3, 33, 31], skip_special_tokens=True).split() == ["r3", "r31"]
    tokenizer.save_pretrained(tmp_path)
    loaded = TsfLlmTokenizer.from_pretrained(tmp_path)
    assert loaded.bin_edges == tokenizer.bin_edges
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.padding_side == "left"


# Bad input


def spoiled(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def breaker(bars: pd.DataFrame) -> pd.DataFrame:
        bars[column] = bars[column].astype(object)
        bars.loc[row, column] = value
        return bars

    return breaker


BAD_INPUT = {
    "missing column": (
        lambda b: b.drop(columns=["high", "volume"]),
        r"AAA: column.*'high', 'volume'. missing.*add",
    ),
    "column twice": (
        lambda b: pd.concat([b, b[["close"]]], axis=1),
        r"AAA: column.*'close'. appear more than once",
    ),
    "unsorted": (lambda b: b.iloc[[*range(30), 31, 30, *range(32, 60)]], "AAA, row 31, .*backwards; sort"),
    "repeated": (lambda b: b.iloc[[*range(30), 29, *range(30, 60)]], "AAA, row 30, .*repeated; keep one"),
    "text price": (spoiled(7, "open", "12,5"), "AAA, row 7: open is '12,5', not a number; correct"),
    "text volume": (spoiled(8, "volume", "lots"), "AAA, row 8: volume is 'lots', not a number; correct"),
    "high below low": (spoiled(9, "high", 0.5), "AAA, row 9, 2015-01-14.*high is below low; swap or correct"),
    "zero price": (spoiled(10, "low", 0.0), "AAA, row 10, .*price <= 0; mask it with NaN"),
    "negative price": (spoiled(10, "close", -3.0), "AAA, row 10, .*price <= 0; mask it with NaN"),
    "infinite price": (spoiled(11, "close", np.inf), "AAA, row 11, .*infinite value; replace"),
    "infinite volume": (spoiled(11, "volume", -np.inf), "AAA, row 11, .*infinite value; replace"),
    "negative volume": (spoiled(12, "volume", -1.0), "AAA, row 12, .*negative volume; mask"),
    "several": (lambda b: b.assign(volume=-1.0), r"AAA, row 0, .*\(and 59 more\): negative volume"),
    "no time": (spoiled(13, "timestamp", pd.NaT), "AAA, row 13, .*timestamp is empty; drop"),
    "text time": (
        spoiled(14, "timestamp", "yesterday"),
        "AAA, row 14: timestamp 'yesterday' is no date; use",
    ),
    "numeric time": (lambda b: b.assign(timestamp=range(60)), r"AAA: timestamp is a number \(0\): convert it"),
    "too few": (lambda b: b.iloc[:20], "AAA: 20 observed bars, at least 21 are needed: give more history"),
    "too few observed": (lambda b: b.assign(close=[np.nan] * 40 + [5.0] * 20, low=1.0), "AAA: 20 observed bars"),
    "other frequency": (
        lambda b: b.assign(timestamp=stamps("2020-01-01", 60, "h")),
        "AAA: a bar every 0 days 01:00:00, the processor was fitted on 1 days 00:00:00: resample",
    ),
    "weekly": (
        lambda b: b.assign(timestamp=pd.date_range("2020-01-01", periods=60, freq="W")),
        "AAA: a bar every 7 day",
    ),
    "no rows": (lambda b: b.iloc[:0], "no rows: load"),
    "no rows, no ticker": (lambda b: b.iloc[:0].drop(columns="ticker"), "series: 0 observed bars.*more history"),
    "no frames": (lambda b: [], "no bars were given: pass a DataFrame"),
    "no frame": (lambda b: [b.to_numpy()], "bars must be DataFrames, got ndarray: build one"),
    "same ticker twice": (lambda b: [b, b], "AAA: given in more than one frame; join"),
}


@pytest.mark.parametrize(("breaker", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_bars_are_refused_by_name(small, make_bars, breaker, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=words):
            small(breaker(make_bars(60)))


def test_the_bad_ticker_is_the_one_named(small, make_bars):
    bars = pd.concat([make_bars(60, ticker="GOOD"), spoiled(5, "close", "x")(make_bars(60, ticker="BAD"))])
    with pytest.raises(ValueError, match=r"^BAD, row 5: close is 'x'"):
        small(bars)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda b: TsfLlmProcessor()(b), "not fitted: call processor.fit"),
        (lambda b: TsfLlmFeatureExtractor(scaling="log"), "scaling='log': choose robust, standard or minmax"),
        (lambda b: TsfLlmFeatureExtractor(sigma_decay=1.0), "sigma_decay=1.0: must lie between 0 and 1"),
        (lambda b: TsfLlmProcessor().fit(b, through="2001-01-01"), "no ticker has 21 bars up to 2001-01-01"),
        (lambda b: TsfLlmProcessor().fit(b), "39 returns for 256 bins: fit on more bars"),
    ],
)
def test_misuse_is_refused(make_bars, build, words):
    with pytest.raises(ValueError, match=words):
        build(make_bars(60))


# Save and load


@pytest.mark.parametrize("per_ticker", [False, True])
def test_save_and_load(tmp_path, make_bars, per_ticker):
    extractor = TsfLlmFeatureExtractor(
        feature_groups=["returns", "trend"], scaling="standard", per_ticker=per_ticker, context_length=50, clip=4.0
    )
    bars = make_bars(500)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(64)).fit(bars, through="2016-06-30")
    processor.save_pretrained(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".py"]
    assert files
    assert all(path.suffix == ".json" and json.loads(path.read_text()) for path in files)
    loaded = TsfLlmProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded.feature_extractor, TsfLlmFeatureExtractor)
    assert state(loaded) == state(processor)
    assert loaded.fitted_through == "2016-06-30"
    assert loaded.feature_extractor.padding_side == "left"
    assert_same_batch(loaded(bars), processor(bars))
    cumulative = np.random.default_rng(0).normal(size=(1, 9, 2))
    pd.testing.assert_frame_equal(
        loaded.decode(cumulative, loaded(bars)), processor.decode(cumulative, processor(bars))
    )


# Prices out


def test_decode_by_hand(small, make_bars):
    batch = small(make_bars(60, start="2024-01-02"))
    batch["last_close"] = torch.tensor([100.0], dtype=torch.float64)
    prices = np.arange(81.0, 120.0)[::-1]  # 39 paths: the Weibull quantile q is exactly number 40 q
    forecast = small.decode(np.log(np.column_stack((prices, prices + 10)) / 100)[None], batch)
    assert list(forecast.columns) == FORECAST_COLUMNS
    assert forecast["step"].tolist() == [1, 2]
    np.testing.assert_allclose(forecast["mean"], [100, 110])
    for column, number in (("q05", 2), ("q10", 4), ("q25", 10), ("q50", 20), ("q75", 30), ("q90", 36), ("q95", 38)):
        np.testing.assert_allclose(forecast[column], [80 + number, 90 + number], err_msg=column)
    np.testing.assert_allclose(forecast["p_up"], [(19 + 0.5) / 39, (29 + 0.5) / 39])
    assert (forecast["origin"] == pd.Timestamp("2024-03-25")).all()
    assert forecast["timestamp"].tolist() == [pd.Timestamp("2024-03-26"), pd.Timestamp("2024-03-27")]


def test_path_returns_and_inverse_transform_by_hand(small, make_bars):
    bars = [make_bars(60, ticker="A", seed=1), make_bars(60, ticker="B", seed=2)]
    batch = small(bars)
    c, (sigma_a, sigma_b) = small.tokenizer.bin_centers, batch["scale"].tolist()
    tokens = np.array([[[3, 30], [16, 16]], [[0, 31], [5, 6]]])
    expected = [
        [[c[3] * sigma_a, (c[3] + c[30]) * sigma_a], [c[16] * sigma_a, 2 * c[16] * sigma_a]],
        [[c[0] * sigma_b, (c[0] + c[31]) * sigma_b], [c[5] * sigma_b, (c[5] + c[6]) * sigma_b]],
    ]
    np.testing.assert_allclose(small.path_returns(torch.tensor(tokens), batch), expected, rtol=1e-12)
    values = np.random.default_rng(0).normal(size=(2, 3, 4))
    close = [frame["close"].iloc[-1] for frame in bars]
    for each in (values, values[..., 0]):
        by_hand = np.stack([close[0] * np.exp(each[0] * sigma_a), close[1] * np.exp(each[1] * sigma_b)])
        np.testing.assert_allclose(small.inverse_transform(torch.tensor(each), batch), by_hand, rtol=1e-12)


def test_tokens_of_the_real_returns_lead_back_to_the_real_prices(processor, make_bars):
    bars = make_bars(400, seed=1)
    (series,) = processor.feature_extractor.encode(bars)
    origins = series.origins()[200:230]
    batch = processor.batch([(series, origins)])
    z = series.log_return[origins + 1] / series.sigma[origins]
    np.testing.assert_allclose(z, series.standard_return()[origins + 1])
    paths = processor.path_returns(processor.tokenizer.encode_returns(z)[:, None, None], batch)
    realised = bars["close"].to_numpy()[origins + 1]
    np.testing.assert_allclose(processor.decode(paths, batch)["mean"], realised, rtol=0.005)
    np.testing.assert_allclose(processor.inverse_transform(z[:, None], batch)[:, 0], realised, rtol=1e-12)


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        (stamps("2024-01-01", 40, "B"), ["2024-02-26", "2024-02-27", "2024-02-28"]),  # from a Friday
        (stamps("2024-01-01", 40, "D"), ["2024-02-10", "2024-02-11", "2024-02-12"]),  # seven days a week
        (stamps("2024-01-01", 54, "h"), ["2024-01-03 06:00", "2024-01-03 07:00", "2024-01-03 08:00"]),
        (stamps("2024-01-01", 24 * 5, "h"), ["2024-01-08 00:00", "2024-01-08 01:00", "2024-01-08 02:00"]),
        (stamps("2024-01-01", 24 * 7, "h"), ["2024-01-08 00:00", "2024-01-08 01:00", "2024-01-08 02:00"]),
        (stamps("2024-01-07", 10, "W"), ["2024-03-17", "2024-03-24", "2024-03-31"]),
        (stamps("2024-01-05 09:30", 60, "min"), ["2024-01-05 10:30", "2024-01-05 10:31", "2024-01-05 10:32"]),
    ],
    ids=["weekdays", "every day", "hours", "hours of weekdays", "hours of every day", "weeks", "minutes"],
)
def test_next_timestamps(past, expected):
    assert next_timestamps(past, 3).tolist() == pd.DatetimeIndex(expected).tolist()


def test_next_timestamps_skip_the_night():
    days = pd.bdate_range("2024-01-01", periods=10)
    past = pd.DatetimeIndex([day + pd.Timedelta(hours=h, minutes=30) for day in days for h in range(9, 16)])
    ahead = next_timestamps(past.to_numpy(), 16)
    monday = [pd.Timestamp("2024-01-15") + pd.Timedelta(hours=h, minutes=30) for h in range(9, 16)]
    assert ahead[:7].tolist() == monday
    assert len(ahead) == 16
    assert ahead[-1] == pd.Timestamp("2024-01-17 10:30")
    half = next_timestamps(past.to_numpy()[:-3], 4)
    assert half.tolist() == [pd.Timestamp(f"2024-01-12 {h}:30") for h in (13, 14, 15)] + monday[:1]


@FEW
@given(horizon=st.integers(1, 300), freq=st.sampled_from(["B", "D", "h", "30min", "W"]), rows=st.integers(25, 256))
def test_next_timestamps_are_as_many_as_asked(horizon, freq, rows):
    past = stamps("2024-01-01", rows, freq)
    ahead = next_timestamps(past, horizon)
    assert len(ahead) == horizon
    assert ahead[0] > past[-1]
    assert ahead.is_monotonic_increasing
    assert ahead.is_unique


# The audit


def test_the_audit_passes_on_the_sample(processor):
    report = processor.audit(read_bars("sample", ["MSFT", "FB"]))
    assert report["passed"]
    assert report["prefix_invariance"] == {"passed": True, "cuts_per_ticker": 6, "leaks": []}
    assert (report["features"], report["tickers"]) == (64, 2)
    for canary in ("random_walk", "shuffled_labels"):
        assert report[canary]["passed"]
        assert report[canary]["bars"] > 500
        assert report[canary]["direction_accuracy"] <= report[canary]["limit"] < 0.6
    assert json.loads(json.dumps(report)) == report


LEAKS = {
    "next_close": lambda b: np.log(b.close.shift(-1) / b.close),
    "centred_mean": lambda b: np.log(b.close.rolling(5, center=True).mean() / b.close),
    "full_sample_zscore": lambda b: (b.close.diff() - b.close.diff().mean()) / b.close.diff().std(),
    "warm_up_filled_backwards": lambda b: np.log(b.close / b.close.rolling(20).mean()).bfill(),
    "next_gap_in_days": lambda b: -b.timestamp.diff(-1) / pd.Timedelta(days=1),
    "far_future": lambda b: b.volume / b.volume.shift(-200),
}


@pytest.mark.parametrize("name", LEAKS)
def test_the_audit_names_every_leak(table, make_bars, name):
    feature(group="mine", lookback=0, name=name)(LEAKS[name])
    report = audit_features(make_bars(600), ["log_return_1", name])
    assert not report["passed"]
    assert not report["prefix_invariance"]["passed"]
    (leak,) = report["prefix_invariance"]["leaks"]
    assert leak["feature"] == name
    assert leak["ticker"] == "AAA"
    assert leak["reads_up_to_bars_ahead"] >= 1


def test_the_random_walk_canary_sings_for_a_leak_alone(table, make_bars):
    feature(group="mine", lookback=0, name="next_close")(LEAKS["next_close"])
    bars = make_bars(1200)
    leaking, honest = (audit_features(bars, ["rsi_14", *more]) for more in (["next_close"], []))
    assert not leaking["random_walk"]["passed"]
    assert leaking["random_walk"]["direction_accuracy"] > 0.9
    assert honest["random_walk"]["passed"]
    assert leaking["shuffled_labels"]["passed"]
    assert honest["shuffled_labels"]["passed"]


def test_the_audit_covers_the_market(beside_market, make_bars, monkeypatch):
    bars = [make_bars(500, ticker="AAA", seed=1), make_bars(480, ticker="BBB", seed=2)]
    names = ["market_return_1", "market_dispersion_5", "reversal_up_score"]
    assert audit_features(bars, names)["passed"]
    assert beside_market.audit(bars, market=bars[1])["passed"]

    honest = audit.market_state

    def centred(tickers):
        table = honest(tickers)
        return table.assign(dispersion_5=table["dispersion"].rolling(5, center=True).mean())

    monkeypatch.setattr(audit, "market_state", centred)
    report = audit_features(bars, names)
    assert not report["passed"]
    assert {leak["feature"] for leak in report["prefix_invariance"]["leaks"]} == {"market_dispersion_5"}


def test_the_audit_covers_gaps_and_own_features(table, make_bars):
    feature(group="mine", lookback=1, name="honest")(lambda b: b.close / b.close.shift(1))
    bars = make_bars(300)
    bars.loc[[40, 41, 150], NUMBERS] = np.nan
    assert audit_features(bars, ["honest", "volume_change", "rsi_14"])["passed"]


def test_a_short_history_skips_the_canary(make_bars):
    report = audit_features(make_bars(60), ["body"])
    assert report["passed"]
    assert "too few" in report["shuffled_labels"]["note"]


@pytest.mark.parametrize(
    ("freq", "through", "stored"),
    [
        ("h", "2015-01-20", "2015-01-20"),  # a bare date is the whole day
        ("h", pd.Timestamp("2015-01-20"), "2015-01-20 00:00:00"),  # an instant of an intraday series is not
        ("B", pd.Timestamp("2015-06-30"), "2015-06-30"),
        ("B", day_end("2015-06-30"), "2015-06-30"),
    ],
)
def test_the_stored_fence_reads_back_as_the_same_fence(make_bars, freq, through, stored):
    processor = TsfLlmProcessor(tokenizer=TsfLlmTokenizer(n_bins=32)).fit(make_bars(700, freq=freq), through=through)
    assert processor.fitted_through == stored
    bars = make_bars(700, freq=freq)["timestamp"]
    assert ((bars <= day_end(stored)) == (bars <= day_end(through))).all()
