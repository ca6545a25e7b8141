"""The original's inputs and target: each column against its formula, the split, the scaling, and no leak unasked."""

import json
import logging
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.preprocessing import RobustScaler

from tsf_llm.bars_tsf_llm import split_tickers
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.data_prep.windows import WindowDataset
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.original_features_tsf_llm import (
    OriginalFeatureExtractor,
    future_columns,
    last_rows,
    original_feature_names,
    original_features,
    original_sequences,
    original_split,
    original_target,
)
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving import cli

FUTURE = ["future_return_1d", "future_return_5d", "future_return_10d"]
ROW = 60  # by then every window is full


@pytest.fixture(scope="module")
def bars():
    return split_tickers(read_bars("sample", ["IBM"]).tail(400))["IBM"].assign(ticker="IBM")


@pytest.fixture(scope="module")
def processor(bars):
    return TsfLlmProcessor(OriginalFeatureExtractor()).fit(bars, through=bars["timestamp"].iloc[300])


@pytest.fixture
def warned(monkeypatch):
    """What the processor warns of."""
    messages = []
    logger = logging.getLogger("tsf_llm.original_features_tsf_llm")
    monkeypatch.setattr(logger, "warning_once", messages.append)
    return messages


@pytest.fixture
def head(tiny_model):
    return tiny_model(TsfLlmForPrediction, num_features=64, prediction_length=1)


# The table


def test_there_are_64_columns_in_the_published_order():
    names = original_feature_names()
    assert len(names) == len(set(names)) == 64
    assert names[:6] == ["close", "high", "low", "open", "volume", "day_of_week"]
    assert names[35:39] == [*FUTURE, "past_return_1d"]
    assert names[-1] == "volume_change_rate"
    assert original_feature_names(5)[35:38] == ["future_return_1d", "future_return_2d", "future_return_10d"]
    with pytest.raises(ValueError, match=r"horizon=3.*1, 2, 5, 10"):
        original_feature_names(3)


def test_every_column_follows_its_formula(bars):
    got = original_features(bars, expose_leak=True).iloc[ROW]
    O, H, L, C, V = (bars[name].to_numpy() for name in ("open", "high", "low", "close", "volume"))  # noqa: E741
    t, day = ROW, bars["timestamp"].iloc[ROW]
    change = 100 * (C[1:] / C[:-1] - 1)  # change[i] leads to bar i + 1
    reach = np.maximum(H[1:], C[:-1]) - np.minimum(L[1:], C[:-1])
    expected = {
        **{"close": C[t], "high": H[t], "low": L[t], "open": O[t], "volume": V[t]},
        **{"day_of_week": day.weekday(), "day_of_month": day.day, "week_of_year": day.isocalendar()[1]},
        **{"month": day.month, "quarter": (day.month + 2) // 3, "year": day.year},
        **{"is_month_start": day.day == 1, "is_month_end": (day + pd.Timedelta(days=1)).day == 1},
        **{"is_week_start": day.weekday() == 0, "is_week_end": day.weekday() == 4},
        **{f"{n}_lag_{k}": v[t - k] for n, v in zip(("close", "high", "low", "volume"), (C, H, L, V), strict=True)
           for k in (1, 2, 3, 5, 10)},
        **{f"future_return_{k}d": 100 * (C[t + k] / C[t] - 1) for k in (1, 5, 10)},
        **{f"past_return_{k}d": 100 * (C[t] / C[t - k] - 1) for k in (1, 2, 5, 10)},
        **{"daily_range": 100 * (H[t] - L[t]) / C[t], "daily_range_abs": H[t] - L[t]},
        **{"gap": 100 * (O[t] - C[t - 1]) / C[t - 1], "close_to_open": 100 * (C[t] - O[t]) / O[t]},
        **{"close_to_high": 100 * (C[t] - H[t]) / H[t], "close_to_low": 100 * (C[t] - L[t]) / L[t]},
        "volume_change_rate": V[t] / V[t - 1] - 1,
    }  # fmt: skip
    for k in (5, 10, 21):
        window = slice(t - k + 1, t + 1)
        expected |= {
            f"volatility_{k}d": change[t - k : t].std(ddof=1),
            f"atr_{k}d": reach[t - k : t].mean(),
            f"momentum_{k}d": 100 * (C[t] / C[t - k] - 1),
            f"volume_change_{k}d": 100 * (V[t] / V[window].mean() - 1),
            f"close_to_ma_{k}d": 100 * (C[t] / C[window].mean() - 1),
        }
    assert set(expected) == set(got.index)
    np.testing.assert_allclose(got.to_numpy(), [float(expected[name]) for name in got.index], rtol=1e-9, atol=1e-9)


def test_warm_up_is_zero_and_a_missing_bar_is_none(bars):
    table = original_features(bars)
    assert (table.loc[0, ["close_lag_1", "past_return_10d", "volatility_21d", "volume_change_rate"]] == 0).all()
    assert table["atr_5d"].ne(0).idxmax() == 4  # the first range needs no bar before it
    assert table[FUTURE].isna().all(axis=None)
    assert table.drop(columns=FUTURE).notna().all(axis=None)
    gap = bars.copy()
    gap.loc[50, ["open", "high", "low", "close", "volume"]] = np.nan
    table = original_features(gap)
    assert table.loc[50].isna().all()
    assert table.loc[51, "close_lag_1"] == bars.loc[49, "close"]


def test_the_exposed_future_is_true_where_known_and_else_zero(bars):
    table, close = original_features(bars, expose_leak=True), bars["close"].to_numpy()
    ahead = table["future_return_5d"].to_numpy()
    np.testing.assert_allclose(ahead[:-5], 100 * (close[5:] / close[:-5] - 1), rtol=1e-9, atol=1e-9)
    assert (ahead[-5:] == 0).all()


def test_split_and_sequences_are_the_originals(bars):
    assert [len(last_rows(part)) for part in original_split(3989)] == [3199, 327, 367]
    table, target = original_features(bars).to_numpy(), original_target(bars["close"]).to_numpy()
    train, valid, test = original_split(len(bars))
    assert (train.start, train.stop, valid.stop, test.stop) == (0, valid.start, test.start, len(bars))
    X, y = original_sequences(table, target, valid)
    assert X.shape == (valid.stop - valid.start - 32, 32, 64)
    np.testing.assert_array_equal(X[3], table[valid.start + 3 : valid.start + 35])
    assert y[3] == target[valid.start + 34]


# The processor


def test_inputs_are_scaled_as_by_scikit_learn_ticker_by_ticker(make_bars):
    frames = [make_bars(200, ticker=name, seed=i) for i, name in enumerate("AB")]
    extractor = OriginalFeatureExtractor().fit(frames)
    assert extractor.context_length == 32
    for frame, series in zip(frames, extractor.encode(frames), strict=True):
        raw = original_features(frame).drop(columns=FUTURE)
        places = [extractor.names.index(name) for name in raw]
        np.testing.assert_allclose(series.features[:, places], RobustScaler().fit_transform(raw), rtol=1e-5, atol=1e-5)
        assert (series.features[:, [extractor.names.index(name) for name in FUTURE]] == 0).all()
        target = original_target(frame["close"]).dropna().to_numpy()[:, None]
        scaler = RobustScaler().fit(target)
        ticker = frame["ticker"].iloc[0]
        assert extractor.target_center[ticker] == pytest.approx(scaler.center_[0])
        assert extractor.target_scale[ticker] == pytest.approx(scaler.scale_[0])


def test_the_fit_reads_nothing_behind_the_fence(bars, processor):
    fence = bars["timestamp"].iloc[300]
    cut = OriginalFeatureExtractor().fit(bars.iloc[:301], through=fence)
    assert cut.to_json_string() == processor.feature_extractor.to_json_string()


def test_the_audit_passes_the_default_and_names_the_exposed_future(bars):
    assert TsfLlmProcessor(OriginalFeatureExtractor()).audit(bars)["passed"] is True
    report = TsfLlmProcessor(OriginalFeatureExtractor(expose_leak=True)).audit(bars)
    assert report["passed"] is False
    assert {leak["feature"] for leak in report["prefix_invariance"]["leaks"]} == set(FUTURE) == set(future_columns())
    assert report["random_walk"]["passed"] is False
    assert report["random_walk"]["direction_accuracy"] > 0.9
    assert report["shuffled_labels"]["passed"] is True


def test_says_that_the_future_is_unknown(bars, processor, warned):
    processor(bars)
    assert all(name in warned[0] for name in FUTURE)
    assert "median" in warned[0]


def test_is_saved_and_loaded(bars, processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = TsfLlmProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.to_json_string() == processor.feature_extractor.to_json_string()
    assert torch.equal(loaded(bars)["past_values"], processor(bars)["past_values"])


def test_a_scaled_prediction_becomes_a_price(bars, processor):
    batch = processor(bars)
    extractor = processor.feature_extractor
    percent = 0.7 * extractor.target_scale["IBM"] + extractor.target_center["IBM"]
    expected = bars["close"].iloc[-1] * (1 + percent / 100)
    np.testing.assert_allclose(processor.inverse_transform(np.array([[0.7]]), batch), [[expected]])
    # a ticker that was not there gets the common scale; no price falls below zero
    other = processor(bars.assign(ticker="OTHER"))
    assert processor.inverse_transform(np.array([[0.7]]), other).item() == pytest.approx(expected)
    assert processor.inverse_transform(np.array([[-1e9]]), batch).item() > 0


# The pipeline


def test_forecasts_the_one_horizon_in_prices(bars, processor, head):
    pipe = TsfLlmPipeline(model=head, processor=processor)
    batch = processor(bars)
    scaled = head(past_values=batch["past_values"], attention_mask=batch["attention_mask"]).prediction
    expected = processor.inverse_transform(scaled.detach().numpy(), batch).item()
    frame = pipe(bars)
    assert frame["step"].tolist() == [1, 2]
    assert frame["mean"].iloc[1] == pytest.approx(expected)
    line = np.sqrt(bars["close"].iloc[-1] * expected)  # half way, in logs
    assert frame["mean"].iloc[0] == pytest.approx(line)
    pd.testing.assert_frame_equal(frame, pipe(bars, horizon=2))
    with pytest.raises(ValueError, match="2 bars ahead alone"):
        pipe(bars, horizon=1)
    with pytest.raises(ValueError, match="trained for 2"):
        pipe(bars, horizon=3)


def test_the_commands_take_it(bars, processor, head, tmp_path, monkeypatch, capsys):
    head.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    bars.to_csv(tmp_path / "prices.csv", index=False)
    common = ["--model", tmp_path / "model", "--data", tmp_path / "prices.csv"]
    dates = ["--start", bars["timestamp"].iloc[-60].date(), "--end", bars["timestamp"].iloc[-1].date()]
    for words in (
        ["forecast", *common, "--horizon", 2, "--out", tmp_path / "forecast.csv"],
        ["evaluate", *common, *dates, "--horizon", 2, "--out", tmp_path],
        ["audit", *common],
    ):
        monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    assert json.loads(capsys.readouterr().out.partition("\n{")[2].join(["{", ""]))["passed"] is True
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["model"] for row in rows][:2] == ["model", "random_walk"]
    assert pd.read_csv(tmp_path / "forecast.csv")["mean"].notna().all()


def test_no_forecast_sees_the_exposed_future(bars, head, tiny_model):
    leaky = TsfLlmProcessor(OriginalFeatureExtractor(expose_leak=True)).fit(bars)
    with pytest.raises(ValueError, match="expose_leak"):
        TsfLlmPipeline(model=head, processor=leaky)
    honest = TsfLlmProcessor(OriginalFeatureExtractor())
    vocabulary = {"vocab_size": 258, "pad_token_id": 256, "bar_token_id": 257}
    with pytest.raises(ValueError, match="regression head of one step"):
        TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, num_features=64, **vocabulary), processor=honest)


def test_bad_settings_are_refused(bars, processor):
    with pytest.raises(ValueError, match="inputs are OriginalFeatureExtractor"):
        TsfLlmFeatureExtractor(feature_set="seed64")
    with pytest.raises(ValueError, match="no room for covariates"):
        OriginalFeatureExtractor(past_covariates=["mood"])
    with pytest.raises(ValueError, match="for market bars"):
        OriginalFeatureExtractor(kind="univariate")
    with pytest.raises(ValueError, match=r"\.npz sequences"):
        WindowDataset(processor, processor.feature_extractor.encode(bars), objective="regression", horizon=2)
