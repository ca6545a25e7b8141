"""Bars in, tensors out, prices back: no row knows a later one, and no bad bar passes in silence."""

import copy
import hashlib
import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor

from tsf_llm.configuration_tsf_llm import PROCESSOR_EXTRAS
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS, MIN_BARS, TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

PRICES = ["open", "high", "low", "close"]
NUMBERS = [*PRICES, "volume"]
ROWS = 320
FEW = settings(max_examples=6, deadline=None, derandomize=True)


def stamps(start: str, periods: int, freq: str) -> np.ndarray:
    return pd.date_range(start, periods=periods, freq=freq).to_numpy()


def state(processor: TsfLlmProcessor) -> tuple[str, list[float]]:
    return processor.feature_extractor.to_json_string(), processor.tokenizer.bin_edges


# No leak


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(30, ROWS))
def test_as_of_equals_truncated_bars(processor, make_bars, seed, cut, assert_same_batch):
    bars = make_bars(ROWS, seed=seed)
    as_of = bars["timestamp"].iloc[cut - 1]
    assert_same_batch(processor(bars, as_of=as_of), processor(bars.iloc[:cut]))
    assert_same_batch(processor(bars, as_of=str(as_of.date())), processor(bars.iloc[:cut]))


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
    extras = set(batch) - {"past_values", "attention_mask", "input_ids"}
    assert extras | {"loading"} == set(PROCESSOR_EXTRAS)  # `generate` lets pass


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


def test_origin_is_the_last_observed_bar(small, make_bars, assert_same_batch):
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
        small(pd.concat([bars, make_bars(60, ticker="BBB")]), strict=True)
    assert list(small(pd.concat([bars, make_bars(60, ticker="BBB")]))["skipped"]) == ["AAA"]


def test_every_ticker_needs_bars_up_to_as_of(small, make_bars):
    late = make_bars(60, ticker="LATE", start="2016-01-01")
    with pytest.raises(ValueError, match="LATE: 0 observed bars"):
        small(pd.concat([make_bars(300), late]), as_of="2015-06-30", strict=True)


# The market


def test_the_market_and_the_calendar_survive_saving(beside_market, make_bars, tmp_path, assert_same_batch):
    extractor = TsfLlmFeatureExtractor(feature_groups=["market"], calendar="XLON")
    bars, index = make_bars(400), make_bars(400, ticker="INDEX", seed=2)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, market=index)
    processor.save_pretrained(tmp_path)
    loaded = TsfLlmProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.fitted_with_market == ["universe"]
    assert loaded.feature_extractor.calendar == "XLON"
    assert_same_batch(loaded(bars, market=index), processor(bars, market=index))


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
def test_save_and_load(tmp_path, make_bars, per_ticker, assert_same_batch):
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


def test_the_digest_is_that_of_features_and_bins(small, processor, make_bars, tmp_path):
    small.save_pretrained(tmp_path)
    again = TsfLlmProcessor.from_pretrained(tmp_path)
    assert again.digest == small.digest != processor.digest
    again.feature_extractor.center["*"][0] += 1.0
    assert again.digest == small.digest  # an adapter may have scalers of its own
    again.tokenizer.law_edges["5"][0] -= 1e-9
    assert again.digest != small.digest


def test_the_digest_covers_what_is_told_of_steps_ahead(series_form, tmp_path):
    processor = copy.deepcopy(series_form().processor)
    processor.save_pretrained(tmp_path)
    assert TsfLlmProcessor.from_pretrained(tmp_path).digest == processor.digest
    state = processor.feature_extractor.fitted
    changes = {
        "ahead": [{**state["ahead"], "waves": []}, {**state["ahead"], "vocabularies": {"store": ["south", "north"]}}],
        "seasons": [[14]],
    }
    others = []
    for name, values in changes.items():
        for value in values:
            other = copy.deepcopy(processor)
            other.feature_extractor.fitted[name] = value
            others.append(other.digest)
    assert len({processor.digest, *others}) == 4


def test_a_digest_of_before_stays(series_form):
    """Of a folder saved before what is told of steps ahead was in it: the hash of features and bins."""
    processor = copy.deepcopy(series_form().processor)
    del processor.feature_extractor.fitted["ahead"]["in_digest"]
    meaning = processor.feature_extractor.names, processor.tokenizer.bin_edges, processor.tokenizer.law_edges
    told = hashlib.blake2b(json.dumps(meaning, sort_keys=True).encode(), digest_size=8).hexdigest()
    assert processor.digest == told


def test_a_calibration_travels_with_the_processor(processor, tmp_path):
    kept = {"kept": True, "shift": [0.0, 0.1], "spread": [1.1, 1.2], "through": "2019-02-28"}
    TsfLlmProcessor(processor.feature_extractor, processor.tokenizer, calibration=kept).save_pretrained(tmp_path)
    assert TsfLlmProcessor.from_pretrained(tmp_path).calibration == kept
    assert AutoProcessor.from_pretrained(tmp_path, trust_remote_code=True).calibration == kept
    path = tmp_path / "processor_config.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps(saved | {"calibration": kept | {"spread": [1.1, -1]}}))
    with pytest.raises(ValueError, match="shift and spread are not one sound number per step"):
        TsfLlmProcessor.from_pretrained(tmp_path)
    path.write_text(json.dumps({name: part for name, part in saved.items() if name != "calibration"}))
    assert TsfLlmProcessor.from_pretrained(tmp_path).calibration is None


def test_bins_of_no_horizon_know_a_bar_behind_the_fence(make_bars):
    bars = make_bars(400, seed=1)
    fence = bars["timestamp"].iloc[250]
    wild = bars["timestamp"] > fence
    other = bars.assign(**{name: bars[name].where(~wild, bars[name] * 9) for name in ("open", "high", "low", "close")})
    ours, theirs = (TsfLlmProcessor(tokenizer=TsfLlmTokenizer(n_bins=32)).fit(one, fence) for one in (bars, other))
    assert ours.tokenizer.horizons == [1, 5, 20]
    assert ours.tokenizer.bin_edges == theirs.tokenizer.bin_edges
    assert ours.tokenizer.law_edges == theirs.tokenizer.law_edges


def test_horizons_too_long_for_the_data_are_left_out_unless_asked_for(make_bars, caplog):
    bars = make_bars(64, seed=1)
    processor = TsfLlmProcessor(tokenizer=TsfLlmTokenizer(n_bins=32)).fit(bars)
    assert processor.tokenizer.horizons == [1, 5]
    assert "too few bars for the law of [20] bars ahead" in caplog.text
    with pytest.raises(ValueError, match="returns over 20 bars for 32 bins"):
        TsfLlmProcessor(tokenizer=TsfLlmTokenizer(n_bins=32), horizons=[1, 20]).fit(bars)
