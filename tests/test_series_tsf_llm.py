"""Plain series through the same processor: no row knows a later one, units do not matter, known covariates may."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import series_tsf_llm as series_module
from tsf_llm.audit_tsf_llm import audit_features, peeking_covariates
from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE, difference_scale, kind_of
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.series_tsf_llm import (
    SeriesFeature,
    candidate_seasons,
    choose_seasons,
    series_feature_names,
    series_features_of,
    series_table,
)
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

spec = importlib.util.spec_from_file_location("pandas_series", Path(__file__).with_name("pandas_series.py"))
pandas_series = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pandas_series)
ROWS = 400
FEW = settings(max_examples=6, deadline=None, derandomize=True)
TABLE = series_table([24])
SIGMA = (UNIVARIATE.sigma_decay, UNIVARIATE.sigma_floor)


def series(rows=ROWS, *, seed=0, freq="h", name="load", season=24):
    """A daily rhythm over a random walk, with zeros, negatives and two covariates."""
    rng = np.random.default_rng(seed)
    time = pd.date_range("2020-01-01", periods=rows, freq=freq)
    promo = (rng.uniform(size=rows) < 0.2).astype(float)
    value = 5 * np.sin(2 * np.pi * np.arange(rows) / season) + rng.normal(0, 0.5, rows).cumsum() + 3 * promo
    value[rng.uniform(size=rows) < 0.05] = 0.0
    return pd.DataFrame(
        {"timestamp": time, "series_id": name, "value": value, "promo": promo, "wind": rng.normal(size=rows)}
    )


def features(frame, table=TABLE, cap=None):
    [values] = series_features_of({"": frame}, list(table), table, *SIGMA, cap, starts={}).values()
    return pd.DataFrame(values, frame.index, list(table))


@pytest.fixture(scope="module")
def processor():
    extractor = TsfLlmFeatureExtractor(
        kind="univariate", context_length=48, past_covariates=["wind"], known_covariates=["promo"]
    )
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(series(600), through="2020-01-20")


@pytest.fixture
def pipe(processor, tiny_model):
    size = {"num_features": processor.feature_extractor.feature_size, "max_position_embeddings": 256}
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33}
    return lambda cls=TsfLlmForCausalLM, **more: TsfLlmPipeline(
        model=tiny_model(cls, **size, **tokens, **more), processor=processor
    )


# Features


@FEW
@given(seed=st.integers(0, 10_000), cut=st.integers(30, ROWS - 1))
def test_no_row_reads_a_later_one(seed, cut):
    frame = series(seed=seed)
    other = frame.copy()
    other.loc[cut:, "value"] = np.random.default_rng(seed).normal(0, 100, ROWS - cut)
    whole = features(frame).to_numpy()
    for changed in (frame.iloc[:cut], other):
        assert features(changed).to_numpy()[:cut].tobytes() == whole[:cut].tobytes()
    assert not np.array_equal(features(other).to_numpy()[cut:], whole[cut:], equal_nan=True)


@FEW
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([1e-6, 0.37, 1e5]))
def test_the_unit_does_not_matter(seed, factor):
    frame = series(seed=seed)
    scaled = features(frame.assign(value=factor * frame["value"]))
    np.testing.assert_allclose(scaled, features(frame), rtol=1e-6, atol=1e-7)


@FEW
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([-40.0, 7.5, 300.0]))
def test_a_shift_changes_only_what_knows_where_zero_is(seed, shift):
    frame = series(seed=seed)
    here, there = features(frame), features(frame.assign(value=frame["value"] + shift))
    level = [row.name for row in TABLE.values() if row.group == "level"]
    assert level == ["level", "zero_share_20", "zero_share_60"]
    np.testing.assert_allclose(there.drop(columns=level), here.drop(columns=level), rtol=1e-6, atol=1e-7)
    assert not np.allclose(there[level], here[level], equal_nan=True)


def test_features_are_what_their_formulas_say():
    frame = series()
    y, t = frame["value"].to_numpy(), 300
    d = np.diff(y, prepend=np.nan)
    s = difference_scale(d, UNIVARIATE.sigma_decay, UNIVARIATE.sigma_floor)[t]
    row = features(frame).iloc[t]
    expected = {
        "change_5": (y[t] - y[t - 5]) / (s * np.sqrt(5)),
        "mean_20": (y[t] - y[t - 19 : t + 1].mean()) / (s * np.sqrt(20)),
        "volatility_20": np.sqrt((d[t - 19 : t + 1] ** 2).mean()) / s,
        "level": np.arcsinh(y[t] / s),
        "zero_share_60": (y[t - 59 : t + 1] == 0).mean(),
        "season_24": (y[t - 24] - y[t]) / s,
        "season_24_ahead_6": (np.mean([y[t + 6 - 24 * k] for k in (1, 2, 3)]) - y[t]) / s,
        "season_24_ahead_24": (np.mean([y[t], y[t - 24], y[t - 48]]) - y[t]) / s,
        "hour_sin": np.sin(2 * np.pi * frame["timestamp"][t].hour / 24),
    }
    for name, value in expected.items():
        assert row[name] == pytest.approx(value), name


def odd_series() -> dict[str, pd.DataFrame]:
    """With gaps, without a move, of zeros, too short, empty, and others of several lengths."""
    frames = {f"of {n}": series(n, seed=n) for n in (1, 2, 25, 400, 410, 3000)}
    gaps = series(seed=1)
    gaps.loc[gaps.index % 7 > 3, "value"] = np.nan
    gaps.loc[100:180, "value"] = np.nan
    late = series(seed=2)
    late.loc[:90, "value"] = np.nan
    return frames | {
        "gaps": gaps,
        "late": late,
        "still": series().assign(value=0.1),
        "zeros": series(seed=3).assign(value=lambda f: f["value"].where(f.index % 50 < 3, 0.0)),
        "unknown": series().assign(value=np.nan),
        "none": series().iloc[:0],
    }


@pytest.mark.parametrize("seasons", [[24], [7, 28], []])
@pytest.mark.parametrize("cap", [None, 6.0])
def test_features_are_those_of_pandas(seasons, cap):
    table = series_table(seasons)
    oracle = pandas_series.table(seasons)
    assert list(table) == list(oracle)
    for name, frame in odd_series().items():
        ours = features(frame, table, cap)
        one = pandas_series.SeriesFrame(frame, *SIGMA, cap)
        for column, function in oracle.items():
            with np.errstate(all="ignore"):
                expected = np.array(function(one), dtype=float)
            expected[~np.isfinite(expected)] = np.nan
            np.testing.assert_allclose(ours[column], expected, rtol=1e-12, atol=1e-12, err_msg=f"{column} of {name}")


def test_a_series_has_the_same_bits_alone_and_with_others_from_any_start(monkeypatch):
    monkeypatch.setattr(series_module, "LONGEST", 700)  # the longest come in pieces
    frames, table = odd_series(), series_table([24, 168])
    whole = {name: features(frame, table, 6.0).to_numpy() for name, frame in frames.items()}
    for starts in ({}, {name: max(0, len(frame) - 60) for name, frame in frames.items()}, {"gaps": 150, "of 410": 1}):
        together = series_features_of(frames, list(table), table, *SIGMA, 6.0, starts=starts)
        assert list(together) == list(frames)
        for name, values in together.items():
            assert values.tobytes() == whole[name][starts.get(name, 0) :].tobytes(), name


def test_missing_rows_blank_themselves_and_not_the_rest():
    frame = series()
    frame.loc[200:205, "value"] = np.nan
    table = features(frame)
    assert table.loc[200:205, ["change_1", "level", "season_24"]].isna().all(axis=None)
    assert table.loc[240:].notna().all(axis=None)


def test_groups_choose_features():
    names = series_feature_names(TABLE, ["changes"])
    assert names == ["change_1", "change_2", "change_3", "change_5", "change_10", "change_21"]
    with pytest.raises(ValueError, match="unknown feature groups"):
        series_feature_names(TABLE, ["oscillators"])
    with pytest.raises(ValueError, match="unknown features"):
        series_features_of({"": series()}, ["rsi_14"], TABLE, *SIGMA, None, starts={})


# Seasons


@pytest.mark.parametrize(
    ("freq", "periods", "seasons"),
    [("h", 500, (24, 168)), ("D", 800, (7, 28, 364)), ("B", 800, (5, 20, 260)), ("15min", 500, (96,)), ("7s", 99, ())],
)
def test_the_sampling_tells_the_seasons(freq, periods, seasons):
    times = pd.date_range("2020-01-01", periods=periods, freq=freq).to_numpy()
    spacing = float(np.median(np.diff(times)) / np.timedelta64(1, "s"))
    assert candidate_seasons(times, spacing) == seasons


def test_seasons_are_ranked_by_error_and_found_by_autocorrelation():
    weekly = np.tile([1.0, 2, 3, 4, 5, 9, 0], 60) + np.random.default_rng(0).normal(0, 0.1, 420)
    assert choose_seasons([weekly], (5, 7, 364))[0] == 7
    assert 364 not in choose_seasons([weekly], (5, 7, 364))  # does not fit twice
    assert choose_seasons([weekly], ()) in ([7 * k] for k in range(1, 16))
    assert choose_seasons([np.random.default_rng(1).normal(size=400).cumsum()], ()) == []


# The processor


def test_fit_stores_seasons_and_survives_saving(processor, tmp_path):
    extractor = processor.feature_extractor
    assert extractor.seasons[0] == 24
    assert extractor.feature_size == len(extractor.names) > 30
    processor.save_pretrained(tmp_path)
    again = TsfLlmProcessor.from_pretrained(tmp_path)
    ours, theirs = processor(series()), again(series())
    assert torch.equal(ours["past_values"], theirs["past_values"])
    assert again.feature_extractor.to_json_string() == extractor.to_json_string()


def test_patterns_of_covariates_are_fitted():
    frame = series().assign(rain=1.0, close=2.0)  # a covariate may have the name of a price
    extractor = TsfLlmFeatureExtractor(kind="univariate", past_covariates=["*"], known_covariates=["pro*"])
    names = extractor.fit(frame).names
    assert extractor.past_covariates == ["wind", "rain", "close"]
    assert extractor.feature_size == len(names)
    assert sum(name.startswith("past:") for name in names) == 3
    assert sum(name.startswith("known:") for name in names) == 8
    assert extractor.encode(frame)[0].features.shape[1] == len(names)


def test_fit_reads_nothing_after_the_fence():
    def fitted(frame):
        extractor = TsfLlmFeatureExtractor(kind="univariate", known_covariates=["promo"])
        return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(frame, through="2020-01-15")

    frame = series()
    changed = frame.copy()
    changed.loc[frame["timestamp"] >= "2020-01-16", ["value", "promo"]] = 1e6
    ours, theirs = fitted(frame), fitted(changed)
    assert ours.feature_extractor.to_json_string() == theirs.feature_extractor.to_json_string()
    assert ours.tokenizer.bin_edges == theirs.tokenizer.bin_edges


def test_tokens_are_scaled_differences_and_paths_are_values(processor):
    frame = series()
    [one] = processor.feature_extractor.encode(frame)
    y = frame["value"].to_numpy()
    np.testing.assert_array_equal(one.log_return[1:], np.diff(y))
    np.testing.assert_allclose(one.standard_return()[50:], np.diff(y)[49:] / one.sigma[49:-1])
    batch = processor(frame)
    bins = torch.randint(0, 32, (1, 9, 4))
    table = processor.decode(processor.path_returns(bins, batch), batch)
    steps = processor.tokenizer.bin_centers[bins[0].numpy()].cumsum(axis=-1) * one.sigma[-1]
    np.testing.assert_allclose(table["mean"], y[-1] + steps.mean(axis=0))
    np.testing.assert_allclose(
        processor.inverse_transform(np.array([[0.5]]), batch), [[y[-1] + 0.5 * one.sigma[-1]]], rtol=1e-6
    )


def test_a_known_covariate_is_read_ahead_and_a_past_one_is_not(processor):
    frame = series()
    as_of = frame["timestamp"][300]
    before = processor(frame, as_of=as_of)["past_values"]
    for column, changes in (("promo", True), ("wind", False), ("value", False)):
        other = frame.copy()
        other.loc[301:, column] = 9.0
        assert torch.equal(processor(other, as_of=as_of)["past_values"], before) is not changes
    for known, equal in ((9, True), (3, False)):  # seven rows ahead are read
        rows = frame.iloc[301 : 301 + known].assign(value=np.nan, wind=np.nan, promo=1.0)
        given = pd.concat([frame.iloc[:301], rows])
        full = frame.assign(promo=frame["promo"].where(frame.index <= 300, 1.0))
        assert processor(given)["origin"] == [as_of]
        here, there = processor(given), processor(full, as_of=as_of)
        assert torch.equal(here["past_values"], there["past_values"]) is equal


def test_a_batch_does_not_mix_series(processor):
    frames = [series(seed=seed, name=f"s{seed}") for seed in (1, 2)]
    both = processor(pd.concat(frames))
    assert both["ticker"] == ["s1", "s2"]
    for row, frame in enumerate(frames):
        assert torch.equal(both["past_values"][row], processor(frame)["past_values"][0])


def test_wrong_input_is_refused(processor):
    frame = series()
    for wrong, says in (
        (frame.drop(columns="wind"), r"column\(s\) \['wind'\] missing"),
        (frame.assign(value=np.inf), "infinite value"),
        (frame.assign(value=3.0), "never changed"),
        (frame.iloc[[*range(5), 6, 5, *range(7, len(frame))]], "timestamp goes backwards"),
    ):
        with pytest.raises(ValueError, match=says):
            processor(wrong)
    with pytest.raises(ValueError, match="kind='weather'"):
        TsfLlmFeatureExtractor(kind="weather")
    with pytest.raises(ValueError, match=r"\['value'\] cannot be covariates"):
        TsfLlmFeatureExtractor(kind="univariate", known_covariates=["value"])
    assert kind_of(frame) is UNIVARIATE
    assert kind_of(pd.DataFrame(columns=["timestamp", "close"])) is OHLCV


# Forecasts


def test_the_language_model_samples_any_horizon(pipe):
    forecast = pipe()(series(), horizon=72, samples=8)
    assert len(forecast) == 72
    assert forecast["timestamp"].diff().dropna().eq(pd.Timedelta(hours=1)).all()
    assert np.isfinite(forecast["mean"]).all()
    scaled = series().assign(value=lambda f: 4 * f["value"])
    np.testing.assert_allclose(pipe()(scaled, horizon=5, samples=8)["q50"], 4 * forecast["q50"][:5], rtol=1e-4)


def test_a_head_predicts_72_steps_at_once(pipe):
    forecast = pipe(TsfLlmForPrediction, prediction_type="quantile", prediction_length=72)(series())
    assert len(forecast) == 72
    assert (forecast["q90"] >= forecast["q10"]).all()


# The audit


def test_audit_passes_with_known_covariates(processor):
    report = processor.audit(series(), cuts=6)
    assert report["passed"], report
    assert report["features"] == processor.feature_extractor.feature_size
    table = audit_features(series(), cuts=6, past_covariates=["wind"], known_covariates=["promo"])
    assert table["passed"], table


def test_audit_flags_an_undeclared_covariate_that_is_read_ahead():
    def peeking(frame):
        return features(frame).assign(peek=frame["promo"].shift(-1))

    report = audit_features(series(), compute=peeking, past_covariates=["promo"])
    assert [leak["feature"] for leak in report["prefix_invariance"]["leaks"]] == ["peek"]
    report = audit_features(series(), compute=peeking, known_covariates=["promo"])
    assert report["passed"], report


def test_audit_flags_a_column_into_which_the_future_was_written():
    frame = series()
    frame["wind"] = 2 * frame["value"].shift(-3).ffill() + 1
    assert [leak["reads_up_to_bars_ahead"] for leak in peeking_covariates(frame, ["wind", "promo"])] == [3]
    report = audit_features(frame, past_covariates=["wind"])
    assert not report["passed"]
    assert report["prefix_invariance"]["leaks"][0]["feature"] == "wind"
    assert audit_features(frame, known_covariates=["wind"])["prefix_invariance"]["passed"]


def test_the_random_walk_canary_sings():
    def tomorrow(panel):
        return np.append(np.diff(panel.y, axis=0), [[np.nan]], axis=0)

    table = {**TABLE, "tomorrow": SeriesFeature("tomorrow", "mine", "y[+1] - y", tomorrow)}
    report = audit_features(series(), compute=lambda frame: features(frame, table))
    assert report["random_walk"]["passed"] is False
