"""`tsf-llm forecast --log` and `tsf-llm reconcile`."""

import json
import sqlite3

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.evaluation import track_record
from tsf_llm.evaluation.distributions import Piecewise
from tsf_llm.evaluation.track_record import Chain, TrackRecord, law_of
from tsf_llm.modeling_tsf_llm import TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.record import Recorder
from tsf_llm.training.models import digest


@pytest.fixture
def forecast(run, model, tmp_path):
    """`forecast(out, *words)`: two tickers and three steps, from a date within the sample."""
    usual = ["--model", model, "--data", "sample", "--ticker", "AAPL,MSFT", "--horizon", 3, "--as-of", "2012-06-29"]
    return lambda out, *words: run("forecast", *usual, "--samples", 32, "--out", tmp_path / out, *words)


def rows_of(path):
    chain = Chain()
    return pd.concat(TrackRecord(path).chunks(chain), ignore_index=True), chain


@pytest.mark.parametrize("ends", ["csv", "parquet"])
def test_what_is_written_does_not_depend_on_the_log(forecast, tmp_path, model, ends):
    log = tmp_path / "deep" / "record.sqlite"
    assert forecast(f"without.{ends}")[0] == 0
    code, told, _ = forecast(f"with.{ends}", "--log", log)
    assert code == 0
    rows, chain = rows_of(log)
    assert "6 rows logged, 6 late" in told
    assert chain.head in told
    assert (tmp_path / f"with.{ends}").read_bytes() == (tmp_path / f"without.{ends}").read_bytes()
    pipe = load_pipeline(model)
    assert set(rows["model_digest"]) == {digest(pipe.model)}
    assert set(rows["processor_digest"]) == {pipe.processor.digest}
    assert rows["ticker"].tolist() == ["AAPL"] * 3 + ["MSFT"] * 3
    assert set(rows["late"]) == {"later bars were there"}


def test_the_logged_laws_are_those_of_the_model(forecast, tmp_path, model):
    forecast("a.csv", "--log", tmp_path / "record.sqlite")
    rows, _ = rows_of(tmp_path / "record.sqlite")
    pipe = load_pipeline(model)
    batch = pipe.preprocess(read_bars("sample", ["AAPL", "MSFT"]), as_of="2012-06-29")["batch"]
    for step, law in enumerate(pipe.laws(batch, 3), start=1):
        mine = rows[rows["step"] == step]
        logged = law_of(np.stack(mine["quantiles"].to_list()))
        for y in (np.array([0.01, -0.03]), np.zeros(2)):
            np.testing.assert_allclose(logged.crps(y), Piecewise.like(law).crps(y), rtol=3e-3)
        np.testing.assert_allclose(mine["p_up"], law.p_up, rtol=1e-12)
        np.testing.assert_allclose(mine["last_close"], batch["last_close"])


def test_joint_forecasts_and_whole_bars_can_be_logged(run, model, base_folder, prices, tmp_path):
    log, sample = tmp_path / "record.sqlite", ["--data", "sample", "--horizon", 2, "--samples", 32]
    for name, words in {"a.csv": [], "b.csv": ["--joint"]}.items():
        code, _, error = run("forecast", "--model", model, *sample, "--out", tmp_path / name, "--log", log, *words)
        assert code == 0, error
    rows, chain = rows_of(log)
    half = len(rows) // 2
    assert chain.sound
    assert rows["repeats"].tolist()[half:] == list(range(1, half + 1))
    np.testing.assert_array_equal(np.stack(rows["quantiles"][:half]), np.stack(rows["quantiles"][half:]))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_reconcile_scores_what_has_come_true(run, model, tmp_path, monkeypatch):
    bars = read_bars("sample", ["AAPL", "MSFT"])
    pipe, log = load_pipeline(model), tmp_path / "record.sqlite"
    recorder, asked = Recorder(pipe, model, log), {"horizon": 1, "samples": 16}
    for day in bars["timestamp"].unique()[-16:-1]:
        known = bars[bars["timestamp"] <= day]
        monkeypatch.setattr(track_record, "utc_now", lambda day=day: pd.Timestamp(day) + pd.Timedelta(hours=22))
        frame, appended = recorder.append(pipe(known, **recorder.asking(asked)), known, asked)
        assert (appended.rows, appended.late) == (2, 0)
    assert list(frame.columns) == list(pipe(known, **asked).columns)
    monkeypatch.undo()
    data = tmp_path / "prices.csv"
    bars.rename(columns={"ticker": "name", "timestamp": "day"}).to_csv(data, index=False)
    out, options = tmp_path / "out", ["--log", log, "--data", data, "--id", "name", "--time", "day"]
    code, told, error = run("reconcile", *options, "--out", out)
    assert code == 0, error
    assert "30 scored" in told
    content = json.loads((out / "track_record.json").read_text())
    assert content["models"][0]["model_digest"] == digest(pipe.model)
    assert content["models"][0]["steps"]["1"]["n"] == 30
    assert run("reconcile", *options, "--out", out, "--ticker", "MSFT")[0] == 0
    assert json.loads((out / "track_record.json").read_text())["counts"]["scored"] == 15
    connection = sqlite3.connect(log)
    connection.execute("DROP TRIGGER no_delete")
    connection.execute("DELETE FROM forecasts WHERE id = 5")
    connection.commit()
    connection.close()
    code, told, _ = run("reconcile", *options, "--out", out)
    assert code == 1
    assert "row 6 does not follow row 4" in " ".join(told.split())


def test_bars_may_be_given_as_a_pipeline_takes_them(model, tmp_path):
    bars = read_bars("sample", ["AAPL", "MSFT"])
    pipe, asked = load_pipeline(model), {"horizon": 2, "samples": 16}
    turned = bars.sort_values("timestamp", ascending=False, kind="stable")
    texts = bars.assign(timestamp=bars["timestamp"].dt.strftime("%Y-%m-%d")).rename(columns={"ticker": "Symbol"})
    alone = bars[bars["ticker"] == "AAPL"].drop(columns="ticker")
    logged = []
    for number, given in enumerate((bars, turned, texts, alone)):
        recorder = Recorder(pipe, model, tmp_path / f"{number}.sqlite")
        recorder.append(pipe(given, **recorder.asking(asked)), given, asked)
        logged.append(rows_of(tmp_path / f"{number}.sqlite")[0].drop(columns=["made_at", "previous", "hash"]))
    for other in logged[1:3]:
        pd.testing.assert_frame_equal(
            logged[0].sort_values(["ticker", "step"], ignore_index=True).drop(columns="id"),
            other.sort_values(["ticker", "step"], ignore_index=True).drop(columns="id"),
        )
    assert logged[3]["ticker"].tolist() == ["series", "series"]
    assert logged[3]["last_close"].iloc[0] == logged[0]["last_close"].iloc[0]


def test_names_of_columns_and_quantiles_are_those_of_the_call(model, tmp_path):
    bars = read_bars("sample", ["AAPL", "MSFT"]).rename(columns={"ticker": "what", "timestamp": "when"})
    pipe, asked = load_pipeline(model), {"horizon": 2, "id_column": "what", "timestamp_column": "when"}
    asked |= {"quantile_levels": [0.013, 0.5, 0.9]}
    recorder = Recorder(pipe, model, tmp_path / "record.sqlite")
    frame, appended = recorder.append(pipe(bars, **recorder.asking(asked)), bars, asked)
    pd.testing.assert_frame_equal(frame, pipe(bars, **asked))
    assert list(frame.columns) == ["what", "origin", "step", "when", "mean", "q01.3", "q50", "q90", "p_up"]
    assert appended.rows == 4
    assert set(rows_of(tmp_path / "record.sqlite")[0]["ticker"]) == {"AAPL", "MSFT"}


def test_mistakes_end_in_one_line(run, forecast, tmp_path, model):
    (text := tmp_path / "text.sqlite").write_text("a text, and no database\n" * 99)
    log = tmp_path / "record.sqlite"
    cases = {
        "is no track record": lambda: forecast("a.csv", "--log", text),
        "name another file for the track record": lambda: forecast("a.csv", "--log", tmp_path / "a.csv"),
        "no plain file": lambda: forecast("a.csv", "--log", tmp_path),
        "holds no forecast": lambda: run("reconcile", "--log", log, "--data", "sample"),
        "is no track record, or": lambda: run("reconcile", "--log", text, "--data", "sample"),
    }
    for says, call in cases.items():
        code, _, error = call()
        assert (code, error.count("\n")) == (2, 1), error
        assert says in error
    assert not (tmp_path / "a.csv").exists()
    assert text.read_text().startswith("a text")


@pytest.fixture
def headed(tiny_model, small):
    """`headed(prediction_type)` -> a pipeline of an untrained model with that head."""

    def build(kind):
        fields = {"prediction_type": kind, "num_features": len(small.feature_extractor.names)}
        return TsfLlmPipeline(model=tiny_model(TsfLlmForPrediction, **fields), processor=small)

    return build


@pytest.mark.parametrize("kind", ["regression", "quantile"])
def test_heads_are_logged_as_what_they_say(headed, make_bars, tmp_path, kind):
    pipe, bars, log = headed(kind), make_bars(200, ticker="AAA", seed=3), tmp_path / "record.sqlite"
    recorder, asked = Recorder(pipe, "headed", log), {"horizon": 2}
    frame, _ = recorder.append(pipe(bars, **recorder.asking(asked)), bars, asked)
    pd.testing.assert_frame_equal(frame, pipe(bars, **asked))
    rows, _ = rows_of(log)
    assert set(rows["law"]) == {"number" if kind == "regression" else "quantiles"}
    law = law_of(np.stack(rows["quantiles"].to_list()))
    middle = frame["mean" if kind == "regression" else "q50"] / bars["close"].iloc[-1]
    np.testing.assert_allclose(law.median, np.log(middle), rtol=1e-5)


def test_a_model_of_classes_has_nothing_to_log(headed, tmp_path):
    with pytest.raises(ValueError, match="names no law"):
        Recorder(headed("classification"), "headed", tmp_path / "record.sqlite")


def test_a_plain_series_tells_its_bounds(shop_pipe, law_pipe, tmp_path):
    for pipe, told in ((shop_pipe(), "univariate nonnegative integer"), (law_pipe(), "ohlcv")):
        assert Recorder(pipe, "tiny", tmp_path / "record.sqlite").facts["kind"] == told
