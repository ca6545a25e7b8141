"""`forecast --ohlcv`: further columns beside the usual ones, answers about levels, one line for wrong questions."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.sources import read_for
from tsf_llm.evaluation.barriers import touched
from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS
from tsf_llm.serving.bars import PARTS, Barriers, forecast_bars
from tsf_llm.serving.loading import load_pipeline

COLUMNS = [f"{part}_{level}" for part in PARTS for level in ("q10", "q50", "q90")]
USUAL = ["--data", "sample", "--horizon", 3, "--samples", 64, "--as-of", "2012-06-29"]


def test_bars_beside_the_usual_columns(run, model, tmp_path):
    out, plain = tmp_path / "bars.csv", tmp_path / "closes.csv"
    options = ["forecast", "--model", model, *USUAL, "--ticker", "AAPL,IBM"]
    code, text, error = run(*options, "--out", out, "--ohlcv")
    assert (code, error) == (0, "")
    assert "bars.risk.json" in text
    run(*options, "--out", plain)
    frame, usual = pd.read_csv(out), pd.read_csv(plain)
    assert list(frame.columns) == [*FORECAST_COLUMNS, *COLUMNS]
    pd.testing.assert_frame_equal(frame[FORECAST_COLUMNS], usual, check_exact=True)
    for part in PARTS:
        assert (frame[f"{part}_q10"] < frame[f"{part}_q50"]).all()
        assert (frame[f"{part}_q50"] < frame[f"{part}_q90"]).all()
    assert (frame["high_q50"] > frame["low_q50"]).all()
    assert (frame["volume_q10"] > 0).all()
    risk = json.loads((tmp_path / "bars.risk.json").read_text())
    assert [one["ticker"] for one in risk["tickers"]] == ["AAPL", "IBM"]
    for one in risk["tickers"]:
        assert one["p_touch"] == {}
        assert one["p_stop_first"] is one["p_target_first"] is None
        assert 0 < one["expected_max_drawdown"] < 0.2
    first = out.read_bytes(), (tmp_path / "bars.risk.json").read_bytes()
    run(*options, "--out", out, "--ohlcv")
    assert (out.read_bytes(), (tmp_path / "bars.risk.json").read_bytes()) == first


def test_levels_stop_and_target_are_those_of_the_paths(run, model, tmp_path):
    pipe = load_pipeline(model)
    bars = read_for(pipe.processor, "sample", ["IBM"])
    batch = pipe.processor(bars, as_of="2012-06-29")
    made = pipe.sample_bars(batch, horizon=3, samples=64)
    close = float(batch["last_close"][0])
    near, far = round(close * 1.01, 2), round(close * 3, 2)
    words = ["--levels", f"{near}, {far}", "--stop", close * 0.99, "--target", close * 1.01]
    options = ["--calibration", "off", "--ticker", "IBM", "--ohlcv", *words, "--out", tmp_path / "a.parquet"]
    assert run("forecast", "--model", model, *USUAL, *options)[0] == 0
    risk = json.loads((tmp_path / "a.risk.json").read_text())
    [one] = risk["tickers"]
    assert one["p_touch"] == {str(near): touched(made, near).mean(), str(far): 0.0}
    assert 0 < one["p_touch"][str(near)] < 1
    assert 0 < one["p_stop_first"] + one["p_target_first"] <= 1
    assert (risk["stop"], risk["target"]) == (close * 0.99, close * 1.01)
    frame = pd.read_parquet(tmp_path / "a.parquet")
    wanted = np.quantile(made.high[0], 0.9, axis=0, method="weibull")
    np.testing.assert_allclose(frame["high_q90"], wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--levels", "180"], "add --ohlcv"),
        (["--ohlcv", "--stop", 180], "go together"),
        (["--ohlcv", "--levels", "180,high"], "--levels high: give a price above 0"),
        (["--ohlcv", "--levels", "-3"], "--levels -3: give a price above 0"),
        (["--ohlcv", "--stop", "nan", "--target", 3], "--stop nan: give a price above 0"),
        (["--ohlcv", "--stop", 1, "--target", 2], "do not enclose the last close"),
    ],
)
def test_wrong_questions(run, model, tmp_path, words, says):
    out = tmp_path / "a.csv"
    code, _, error = run("forecast", "--model", model, *USUAL, "--ticker", "IBM", "--out", out, *words)
    assert (code, error.count("\n")) == (2, 1)
    assert says in error
    assert not out.exists()


def test_a_model_without_the_head(run, train, tmp_path):
    train(tmp_path / "closes", num_train_epochs=1, head="quantile")
    options = ["--data", "sample", "--horizon", 2, "--out", tmp_path / "a.csv", "--ohlcv"]
    code, _, error = run("forecast", "--model", tmp_path / "closes", *options)
    assert (code, error.count("\n")) == (2, 1)
    assert "no head for open, high, low and volume" in error


def test_a_strange_file_is_not_written_over(run, model, tmp_path):
    (tmp_path / "a.risk.json").write_text("{}")
    code, _, error = run("forecast", "--model", model, *USUAL, "--ohlcv", "--out", tmp_path / "a.csv")
    assert (code, error.count("\n")) == (2, 1)
    assert "stands where one goes" in error
    assert (tmp_path / "a.risk.json").read_text() == "{}"


def test_a_calibration_moves_the_closes_of_bars(model, monkeypatch):
    """Bars lie around the paths that the usual columns are made of."""
    pipe = load_pipeline(model)
    bars = read_for(pipe.processor, "sample", ["IBM"])
    options = {"horizon": 2, "samples": 64, "seed": 0, "as_of": "2012-06-29"}
    plain, _ = forecast_bars(pipe, bars, Barriers(), calibration="off", **options)
    wide = type("Wide", (), {"shift": [0.0] * 2, "spread": [3.0] * 2, "__call__": lambda self, paths: 3 * paths})()
    monkeypatch.setattr(type(pipe), "calibration", lambda *_: wide)
    frame, _ = forecast_bars(pipe, bars, Barriers(), calibration="auto", **options)
    for one in ("q90", "high_q90"):
        assert (frame[one] - frame["q50"] > 1.5 * (plain[one] - plain["q50"])).all()
