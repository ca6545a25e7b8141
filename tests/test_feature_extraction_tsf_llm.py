"""Bars to scaled features: no row knows a later one, a fit lies in one dict, and once is enough."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler

from tsf_llm import bars_tsf_llm, feature_extraction_tsf_llm
from tsf_llm.bars_tsf_llm import MIN_BARS, day_end
from tsf_llm.feature_extraction_tsf_llm import GIVE, EncodedSeries, TsfLlmFeatureExtractor
from tsf_llm.indicators_tsf_llm import FEATURES, compute_features, feature
from tsf_llm.market_tsf_llm import market_state
from tsf_llm.original_features_tsf_llm import OriginalFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

FENCE = "2016-03-31"


PRICES = ["open", "high", "low", "close"]
NUMBERS = [*PRICES, "volume"]
ROWS = 320
FEW = settings(max_examples=6, deadline=None, derandomize=True)
MEMORYLESS = ["body", "upper_wick", "lower_wick", "range", "month_sin", "quarter_cos"]  # known from the first bar on


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


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(80, ROWS - 1))
def test_no_row_reads_a_later_one_of_the_market(beside_market, make_bars, seed, cut, assert_same_batch):
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
    bars, index = make_bars(400, seed=1), make_bars(400, ticker="INDEX", seed=2)
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
    assert len(of_market) > 20
    assert not series.features[:, of_market].any()
    (seen,) = beside_market.feature_extractor.encode(bars, market=make_bars(120, ticker="INDEX", seed=5))
    assert seen.features[:, of_market].any()
    assert np.array_equal(seen.features[:, :5], series.features[:, :5])


def test_a_market_that_cannot_be_read_is_refused(beside_market, small, make_bars):
    bars = make_bars(120)
    with pytest.raises(ValueError, match="no feature of this processor reads it"):
        small(bars, market=bars)
    alone = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["market"]), TsfLlmTokenizer(n_bins=32))
    alone.fit(make_bars(400))
    assert not alone(bars)["past_values"].any()
    with pytest.raises(ValueError, match=r"fitted without a universe or an index; give it to processor\.fit"):
        alone(bars, market=bars)
    with pytest.raises(ValueError, match=r"market, AAA: a bar every 0 days 01:00:00"):
        beside_market(bars, market=make_bars(500, freq="h"))
    with pytest.raises(ValueError, match=r"AAA, row 3, .*: price <= 0"):
        beside_market(bars, market=bars.assign(open=bars["open"].where(bars.index != 3, -1.0)))


@pytest.fixture
def beside_both(make_bars, make_index) -> TsfLlmProcessor:
    """Features of a universe and of an implied-volatility index."""
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market", "implied"], context_length=40)
    market = [*(make_bars(400, ticker=name, seed=ord(name)) for name in "XYZ"), make_index(400, seed=3)]
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(make_bars(400, seed=1), market=market)


def places(extractor: TsfLlmFeatureExtractor, *groups: str) -> list[int]:
    return [i for i, name in enumerate(extractor.names) if FEATURES[name].group in groups]


def test_a_market_in_parts(beside_both, make_bars, make_index):
    """Each part gives what it gives beside the other; the other is masked."""
    extractor, bars = beside_both.feature_extractor, make_bars(120, seed=4)
    universe, index = [make_bars(120, ticker=name, seed=ord(name)) for name in "XYZ"], make_index(120, seed=5)
    assert extractor.fitted_with_market == ["universe", "implied"]
    [both] = extractor.encode(bars, market=pd.concat([*universe, index]))
    assert both.features[70:, places(extractor, "market", "implied")].any(axis=0).all()
    for market, part, masked in ((universe, "market", "implied"), (index, "implied", "market")):
        [seen] = extractor.encode(bars, market=market)
        assert not seen.features[:, places(extractor, masked)].any()
        kept = places(extractor, part, "bar")
        assert np.array_equal(seen.features[:, kept], both.features[:, kept])


def test_what_is_masked_is_told_once_and_how_to_give_it(beside_both, make_bars, make_index, warnings_of):
    bars, universe = make_bars(120, seed=4), [make_bars(120, ticker=name, seed=ord(name)) for name in "XYZ"]
    encode = beside_both.feature_extractor.encode
    blind = "what features read of it is masked"
    assert warnings_of(lambda: encode(bars, market=[*universe, make_index(120)])) == []
    [told] = warnings_of(lambda: [encode(bars, market=universe) for _ in range(2)])
    assert told == f"{GIVE['implied']}: {blind}"
    [told] = warnings_of(lambda: encode(bars, market=make_index(120)))
    assert told == f"{GIVE['universe']}: {blind}"
    [told] = warnings_of(lambda: encode(bars, market=[bars, make_index(120)]))
    assert told == f"the universe is AAA alone: {blind}"
    assert len(warnings_of(lambda: encode(bars))) == 2


def test_a_lone_ticker_is_no_market_to_itself(beside_both, make_bars, make_index, warnings_of):
    bars, index = make_bars(120, seed=4), make_index(120)
    extractor = beside_both.feature_extractor
    [alone] = extractor.encode(bars, market=index)
    [beside_itself] = extractor.encode(bars, market=[bars, index])
    assert np.array_equal(beside_itself.features, alone.features)
    [without_a_name] = extractor.encode(bars, market=[bars.drop(columns="ticker"), index])  # an index, of no ticker
    assert without_a_name.features[100, places(extractor, "market")].any()
    new = TsfLlmFeatureExtractor(feature_groups=["bar", "market"])
    assert any(
        "is not learned" in told for told in warnings_of(lambda: new.fit(make_bars(400), market=make_bars(400)))
    )
    assert new.fitted_with_market == []


def test_a_part_that_was_not_learned_is_left_out(beside_market, make_bars, make_index):
    extractor, bars, index = beside_market.feature_extractor, make_bars(120, seed=4), make_index(120)
    universe = [make_bars(120, ticker=name, seed=ord(name)) for name in "XYZ"]
    [seen], [without] = extractor.encode(bars, market=[*universe, index]), extractor.encode(bars, market=universe)
    assert np.array_equal(seen.features, without.features)
    with pytest.raises(ValueError, match="fitted without an implied-volatility index; give it"):
        extractor.encode(bars, market=index)


def test_a_folder_of_before_reads_a_market_as_it_did(make_bars, make_index):
    """Two tickers had a dispersion then, a lone ticker saw itself, and every ticker was of the universe."""
    bars = make_bars(400, seed=1)
    pair = [bars, make_bars(400, ticker="VIX", seed=2)]
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar", "market"])
    extractor.fit(bars, market=[make_bars(400, ticker=name, seed=ord(name)) for name in "XYZ"])
    extractor.fitted["fitted_with_market"] = True
    [seen], [beside_itself] = extractor.encode(bars, market=pair), extractor.encode(bars, market=bars)
    raw = extractor.raw_features(bars, market_state({"AAA": pair[0], "B": pair[1]}, as_before=True))
    state = extractor.center["*"], extractor.scale["*"]
    expected = np.nan_to_num(np.clip((raw - state[0]) / state[1], -10, 10)).astype(np.float32)
    assert np.array_equal(seen.features, expected)
    assert seen.features[100:, extractor.names.index("market_dispersion")].any()
    assert beside_itself.features[100:, extractor.names.index("market_abs_return")].any()


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


def jumped(bars, row=-3, factor=0.1):
    bars = bars.assign(volume=1e6)
    bars.loc[bars.index[row:], PRICES] *= factor
    return bars


def law_of(series, sigma, rng):
    """Five-step sums `[B,K,P]` of the series' own standard returns, in units of these sigmas: a forecast by hand."""
    z = series.standard_return()
    z = z[np.isfinite(z) & (np.abs(z) < 20)]
    steps = rng.choice(z - z.mean(), (len(sigma), 2000, 5))
    return np.cumsum(steps, axis=-1) * sigma[:, None, None]


@pytest.mark.parametrize("cap", [6.0, None])  # None: a folder of before the cap
@pytest.mark.parametrize("later", [0, 5])
def test_after_forty_jumps_the_band_is_narrower_than_the_price(small, make_bars, cap, later):
    rng = np.random.default_rng(0)
    processor = TsfLlmProcessor(
        type(small.feature_extractor)(**{**small.feature_extractor.to_dict(), "sigma_cap": cap}), small.tokenizer
    )
    factors = [0.5, 0.1, 0.05, 0.25, 1 / 3, 10.0, 100.0, 0.01] * 5
    for seed, factor in enumerate(factors):
        bars = jumped(make_bars(200, seed=seed), -1 - later, factor)
        [series] = processor.encode(bars)
        batch = processor(bars, return_tensors=None)
        [prices] = np.exp(law_of(series, np.asarray(batch["scale"]), rng))[:, :, -1]
        low, high = np.quantile(prices, [0.05, 0.95])
        assert high - low < 0.4
        assert abs(prices.mean() - 1) < 0.03
        if cap is None:  # its features and labels stay what its weights know
            np.testing.assert_allclose(
                series.sigma, TsfLlmFeatureExtractor(sigma_cap=None).volatility(series.close)[1], rtol=0
            )
            assert series.sigma[-1] > 2 * batch["scale"][0]


def test_the_cap_is_a_setting_and_folders_without_it_keep_their_arithmetic(small, make_bars, tmp_path):
    small.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["feature_extractor"].pop("sigma_cap") == feature_extraction_tsf_llm.SIGMA_CAP
    (tmp_path / "processor_config.json").write_text(json.dumps(saved))
    before = TsfLlmProcessor.from_pretrained(tmp_path).feature_extractor
    assert before.sigma_cap is None
    assert type(before).from_dict(before.to_dict()).sigma_cap is None
    bars = make_bars(300, seed=5)
    bars.loc[200:, PRICES] *= 0.9  # a bad day, no jump
    [series], log_return = before.encode(bars), np.diff(np.log(bars["close"]), prepend=np.nan)
    squares = pd.Series(log_return**2).ewm(alpha=1 - 0.94, ignore_na=True, min_periods=MIN_BARS - 1).mean()
    np.testing.assert_allclose(series.sigma, np.maximum(np.sqrt(squares), 1e-4), rtol=1e-14)  # added in another order
    assert series.calm.tobytes() == series.sigma.tobytes()
    with pytest.raises(ValueError, match=r"sigma_cap=0: must be above 0"):
        TsfLlmFeatureExtractor(sigma_cap=0)


@pytest.mark.parametrize("cut", [180, 4096, 5000])
def test_after_a_jump_too_a_row_is_computed_once_to_the_bit(small, make_bars, cut):
    """The blocks of `encode` begin anew at fixed rows; the volatility is of all rows and has none."""
    bars = jumped(jumped(make_bars(5200), 170, 0.1), 4500, 100.0)
    [whole] = small.encode(bars)
    [before] = small.encode(bars[:cut])
    assert_same_rows(before, whole, cut)
    [onward] = small.feature_extractor.encode(bars, known={"AAA": before})
    assert_same_rows(onward, whole, len(bars))
    [window] = small.feature_extractor.encode(bars, last_window=True)
    assert window.sigma.tobytes() == whole.sigma.tobytes()


def test_a_jump_is_said_once_per_ticker(small, make_bars, monkeypatch):
    said = []
    monkeypatch.setattr(feature_extraction_tsf_llm.logger, "warning", said.append)
    bars = [make_bars(300, ticker="CALM"), jumped(make_bars(300, ticker="ACME", seed=3)), make_bars(300, ticker="B")]
    small(bars)
    [message] = said
    assert message.startswith("ACME: close moved by -")
    assert f"on {bars[1]['timestamp'].iloc[-3].date()}, near a 10:1 split: adjust the prices" in message
    small(bars, as_of=bars[1]["timestamp"].iloc[-4])
    assert len(said) == 1  # not known yet
    small.encode(bars)
    assert len(said) == 2
    many = [jumped(make_bars(60, ticker=f"T{i}", seed=i)) for i in range(30)]
    small(many)
    assert len(said) == 2 + 20 + 1
    assert "10 more series have such jumps" in said[-1]


def test_a_ticker_that_ended_long_before_others_is_named(small, make_bars, monkeypatch):
    said = []
    monkeypatch.setattr(feature_extraction_tsf_llm.logger, "warning", said.append)
    bars = [make_bars(300, ticker="NOW"), make_bars(300, ticker="LATELY")[:-20], make_bars(300, ticker="GONE")[:200]]
    small(bars)
    assert said == [f"forecast from a last bar long before that of others: GONE ({bars[2]['timestamp'].iloc[-1]})"]
    small(bars, as_of=bars[2]["timestamp"].iloc[-1])
    assert len(said) == 1


# What a fit finds, and once is enough


def plain_series(bars):
    return pd.DataFrame(
        {
            "timestamp": bars["timestamp"],
            "series_id": bars["ticker"],
            "value": bars["close"] + 3 * np.sin(2 * np.pi * bars.groupby("ticker").cumcount() / 5),
            "wind": bars["open"],
            "promo": (bars["volume"] > 20_000).astype(float),
        }
    )


@pytest.fixture
def bars(make_bars):
    """Two tickers on both sides of the fence, one that begins behind it."""
    late = make_bars(60, ticker="LATE", seed=3, start="2016-04-11")
    return pd.concat([make_bars(400, ticker="AAA", seed=1), make_bars(400, ticker="BBB", seed=2), late])


@pytest.fixture
def world(bars):
    """`world(name)` -> an unfitted processor, its bars and market."""
    wide = bars.assign(mood_0=bars["open"], mood_1=bars["volume"], meeting=(bars["volume"] > 20_000).astype(float))
    worlds = {
        "default": (TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], per_ticker=True), bars, None),
        "market": (TsfLlmFeatureExtractor(feature_groups=["bar", "market"]), bars, bars),
        "covariates": (
            TsfLlmFeatureExtractor(
                feature_groups=["bar"], past_covariates=["mood_*"], known_covariates=["meeting"], scaling="standard"
            ),
            wide,
            None,
        ),
        "series": (
            TsfLlmFeatureExtractor(kind="univariate", past_covariates=["w*"], known_covariates=["promo"]),
            plain_series(bars),
            None,
        ),
        "original": (OriginalFeatureExtractor(expose_leak=True), bars, None),
    }

    def build(name):
        extractor, frame, market = worlds[name]
        return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)), frame, market

    return build


WORLDS = ["default", "market", "covariates", "series", "original"]


def test_a_frequency_that_changes_after_the_fence_changes_no_fit(make_bars):
    days, other = make_bars(200, ticker="DAYS"), make_bars(200, ticker="OTHER", seed=1)
    fence = days["timestamp"].iloc[-1]
    hours = make_bars(900, ticker="OTHER", seed=2, freq="h", start=fence + pd.Timedelta(days=1))
    fits = []
    for bars in ([days, other], [days, pd.concat([other, hours])]):
        processors = [
            TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"]), TsfLlmTokenizer(n_bins=32))
            for _ in range(2)
        ]
        processors[0].fit(bars, through=fence)
        answered = [one.ticker for one in processors[1].fit_encode(bars, through=fence)]
        fits += [(one.feature_extractor.fitted, one.tokenizer.bin_edges) for one in processors]
    assert answered == ["DAYS"]
    assert all(one == fits[0] for one in fits)


@pytest.mark.parametrize("name", WORLDS)
def test_fit_encode_is_fit_then_encode_to_the_bit(world, name):
    processor, frame, market = world(name)
    given = processor.feature_extractor.to_dict()
    at_once = processor.fit_encode(frame, through=FENCE, market=market)
    state = processor.feature_extractor.to_json_string(), processor.tokenizer.bin_edges
    assert {**processor.feature_extractor.to_dict(), "fitted": None, "feature_size": None} == {
        **given,
        "feature_size": None,
    }  # settings stay as they were given
    processor.fit(frame, through=FENCE, market=market)
    assert (processor.feature_extractor.to_json_string(), processor.tokenizer.bin_edges) == state
    before = frame[frame["timestamp"] <= FENCE]  # what lies after the fence shaped nothing
    processor.fit(before, through=FENCE, market=market)
    assert (processor.feature_extractor.to_json_string(), processor.tokenizer.bin_edges) == state
    for ours, theirs in zip(at_once, processor.encode(frame, market=market), strict=True):
        assert ours.ticker == theirs.ticker
        for field in ("timestamp", "features", "observed", "close", "log_return", "sigma"):
            assert getattr(ours, field).tobytes() == getattr(theirs, field).tobytes(), field


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("last_window", [False, True])
def test_a_ticker_has_the_same_bits_alone_and_with_others(world, name, last_window, monkeypatch):
    processor, frame, market = world(name)
    processor.fit(frame, through=FENCE, market=market)
    id, extractor = processor.kind.id, processor.feature_extractor
    names = list(frame[id].unique())
    short = frame[frame[id] == names[0]].iloc[70:].assign(**{id: "SHORT"})  # another length, another place
    gaps = frame[frame[id] == names[-1]].assign(**{id: "GAPS"}).drop(frame.index[-40:-30], errors="ignore")
    together = extractor.encode(pd.concat((short, frame, gaps)), market=market, last_window=last_window)
    assert [one.ticker for one in together] == ["SHORT", *names, "GAPS"]
    monkeypatch.setattr(feature_extraction_tsf_llm, "ROWS_AT_ONCE", 1)  # a ticker at a time
    apart = extractor.encode(pd.concat((short, frame, gaps)), market=market, last_window=last_window)
    for ours, theirs in zip(together, apart, strict=True):
        for field in ("timestamp", "features", "observed", "close", "log_return", "sigma"):
            assert getattr(ours, field).tobytes() == getattr(theirs, field).tobytes(), field


def test_a_ticker_whose_feature_fails_stops_no_other(make_bars, monkeypatch):
    def picky(one):
        if (one.volume == 7).any():
            raise ArithmeticError("seven")
        return one.close

    feature(group="mine", lookback=0)(picky)
    monkeypatch.setitem(FEATURES, "picky", FEATURES.pop("picky"))  # for this test alone
    extractor = TsfLlmFeatureExtractor(names=["body", "picky"]).fit(make_bars(60))
    frames = pd.concat([make_bars(60, ticker=name).assign(volume=one) for name, one in (("A", 1), ("B", 7), ("C", 1))])
    tickers = extractor.check_known(frames)
    assert [one.ticker for one in extractor.encode_newest(tickers)] == ["A", "C"]
    assert tickers.skipped == {"B": "B: feature 'picky' raised ArithmeticError: seven"}
    with pytest.raises(ValueError, match="B: feature 'picky' raised ArithmeticError: seven"):
        extractor.encode(frames)


@pytest.mark.parametrize("name", ["default", "covariates", "series"])
def test_each_bar_is_checked_and_each_feature_computed_once(world, name, monkeypatch):
    counts = {}

    def counting(module, function):
        honest = getattr(module, function)

        def counted(bars, *args, **kwargs):
            frames = [bars] if isinstance(bars, pd.DataFrame) else bars.values()
            counts[function] = counts.get(function, 0) + sum(map(len, frames))
            return honest(bars, *args, **kwargs)

        monkeypatch.setattr(module, function, counted)

    features = "series_features_of" if name == "series" else "features_of"
    for function in ("check_bars", "_sound_tickers"):
        counting(bars_tsf_llm, function)
    counting(feature_extraction_tsf_llm, features)
    processor, frame, market = world(name)
    processor.fit_encode(frame, through=FENCE, market=market)
    assert counts == {"_sound_tickers": len(frame), features: len(frame)}
    counts.clear()
    processor.fit(frame, through=FENCE, market=market)
    assert counts == {"_sound_tickers": len(frame), features: 2 * len(pd.bdate_range("2015-01-01", FENCE))}
    tickers = processor.feature_extractor.check(frame)
    counts.clear()
    processor.encode(tickers)
    assert counts == {features: len(frame)}


def flat(extractor):
    """The JSON of versions before `fitted`."""
    settings = json.loads(extractor.to_json_string())
    settings |= settings.pop("fitted") or {}
    settings |= {"feature_set": "default", "seed_horizon": 2, "expose_leak": settings.get("expose_leak", False)}
    settings |= {name: settings.get(name) for name in ("center", "scale", "target_center", "target_scale")}
    if "horizon" in settings:
        settings |= {"feature_set": "seed64", "seed_horizon": settings.pop("horizon")}
    settings["feature_extractor_type"] = "TsfLlmFeatureExtractor"
    return settings


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("is_fitted", [True, False])
def test_folders_of_earlier_versions_load(world, name, is_fitted, tmp_path):
    processor, frame, market = world(name)
    if is_fitted:
        processor.fit(frame, through=FENCE, market=market)
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    earlier = {**saved, "feature_extractor": flat(processor.feature_extractor)}
    (tmp_path / "processor_config.json").write_text(json.dumps(earlier))
    again, ours = TsfLlmProcessor.from_pretrained(tmp_path).feature_extractor, processor.feature_extractor
    assert type(again) is type(ours)
    assert again.fitted == ours.fitted
    assert again.names == ours.names
    assert again.per_ticker == ours.per_ticker
    assert again.to_dict().keys() == ours.to_dict().keys()
    if is_fitted:
        assert [s.features.tobytes() for s in again.encode(frame, market=market)] == [
            s.features.tobytes() for s in processor.encode(frame, market=market)
        ]


def test_exact_names_of_a_plain_series_stay_when_it_is_fitted(bars):
    extractor = TsfLlmFeatureExtractor(kind="univariate", names=["change_1", "level"]).fit(plain_series(bars))
    assert extractor.names == ["change_1", "level"]
    assert extractor.encode(plain_series(bars))[0].features.shape[1] == 2


def test_a_second_fit_starts_from_the_settings(bars):
    extractor = TsfLlmFeatureExtractor(kind="univariate", past_covariates=["w*"]).fit(plain_series(bars))
    assert extractor.past_covariates == ["wind"]
    assert extractor.seasons
    extractor.fit(plain_series(bars).rename(columns={"wind": "water"}))
    assert extractor.past_covariates == ["water"]


def test_the_original_checks_no_market(bars):
    assert not OriginalFeatureExtractor().reads_market
    with pytest.raises(ValueError, match="no feature of this processor reads it"):
        OriginalFeatureExtractor().fit(bars, market=bars)


def test_scalers_of_one_more_ticker_change_no_other(bars, make_bars):
    frame = plain_series(bars)
    extractor = TsfLlmFeatureExtractor(kind="univariate", scaling="standard").fit(frame, through=FENCE)
    before, other = json.loads(extractor.to_json_string()), plain_series(make_bars(400, ticker="CCC", seed=9))
    alone = TsfLlmFeatureExtractor(
        kind="univariate", scaling="standard", names=extractor.names, seasons=extractor.seasons
    )
    alone.fit(other, through="2016-01-29")
    extractor.fit_ticker("CCC", other, "2016-01-29")
    assert extractor.center == {"*": before["fitted"]["center"]["*"], "CCC": alone.center["*"]}
    assert extractor.scale == {"*": before["fitted"]["scale"]["*"], "CCC": alone.scale["*"]}
    assert (extractor.per_ticker, extractor.fitted_through, extractor.names) == (True, FENCE, alone.names)
    assert extractor.fit_ticker("CCC", other).fitted_through > before["fitted"]["fitted_through"]


def test_windows_and_closes_ahead(bars):
    processor = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=8), TsfLlmTokenizer(32))
    series = processor.fit_encode(bars)[0]
    rows = series.origins("2015-03-02", horizon=3)
    assert rows[-1] == len(series.close) - 4
    np.testing.assert_array_equal(series.ahead(rows, 3)[:, 2], series.close[rows + 3])
    windows = processor.windows(series, rows)
    np.testing.assert_array_equal(windows["past_values"][5], series.features[rows[5] - 7 : rows[5] + 1])
    assert windows["attention_mask"].all()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("names", None),
        ("center", {}),
        ("center", {"*": [float("nan")]}),
        ("scale", {"*": [0.0]}),
        ("scale", [1]),
        ("bar_seconds", "x"),
        ("past_covariates", 3),
        ("seasons", ["x"]),
    ],
)
def test_a_fitted_state_that_no_fit_wrote_is_refused(small, name, value):
    settings = small.feature_extractor.to_dict()
    settings["fitted"] = {**settings["fitted"], name: value}
    with pytest.raises(ValueError, match=f"fitted: {name}.*copy the processor again"):
        TsfLlmFeatureExtractor.from_dict(settings)
