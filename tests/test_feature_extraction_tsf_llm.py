"""What a fit finds lies in one dict; bars are checked, and features computed, once."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm import bars_tsf_llm, feature_extraction_tsf_llm, original_features_tsf_llm
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.original_features_tsf_llm import OriginalFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

FENCE = "2016-03-31"


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


@pytest.mark.parametrize("name", ["default", "covariates", "series"])
def test_each_bar_is_checked_and_each_feature_computed_once(world, name, monkeypatch):
    counts = {}

    def counting(module, function):
        honest = getattr(module, function)

        def counted(frame, *args, **kwargs):
            counts[function] = counts.get(function, 0) + len(frame)
            return honest(frame, *args, **kwargs)

        monkeypatch.setattr(module, function, counted)

    features = "compute_series_features" if name == "series" else "compute_features"
    counting(bars_tsf_llm, "check_bars")
    counting(feature_extraction_tsf_llm, features)
    processor, frame, market = world(name)
    processor.fit_encode(frame, through=FENCE, market=market)
    assert counts == {"check_bars": len(frame), features: len(frame)}
    counts.clear()
    processor.fit(frame, through=FENCE, market=market)
    assert counts == {"check_bars": len(frame), features: 2 * len(pd.bdate_range("2015-01-01", FENCE))}
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
    assert not original_features_tsf_llm.OriginalFeatureExtractor().reads_market
    with pytest.raises(ValueError, match="no feature of this processor reads it"):
        OriginalFeatureExtractor().fit(bars, market=bars)


def test_windows_and_closes_ahead(bars):
    processor = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=8), TsfLlmTokenizer(32))
    series = processor.fit_encode(bars)[0]
    rows = series.origins("2015-03-02", horizon=3)
    assert rows[-1] == len(series.close) - 4
    np.testing.assert_array_equal(series.ahead(rows, 3)[:, 2], series.close[rows + 3])
    windows = processor.windows(series, rows)
    np.testing.assert_array_equal(windows["past_values"][5], series.features[rows[5] - 7 : rows[5] + 1])
    assert windows["attention_mask"].all()
