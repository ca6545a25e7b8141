"""evaluate.py: what is written, whether the model has seen the period, and what is left alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tsf_llm.evaluation.evaluate import FILES, evaluate_model
from tsf_llm.evaluation.report import Report
from tsf_llm.evaluation.walk_forward import walk_forward

PERIOD = {"start": "2016-01-01", "end": "2016-02-15", "horizon": 3, "samples": 8}


@pytest.fixture(scope="module")
def evaluated(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation")
    return out, evaluate_model(pipe, bars, **PERIOD, out=out, seed=5)


def test_writes_what_it_returns_a_page_and_two_plots(evaluated):
    out, report = evaluated
    assert {path.name for path in out.iterdir()} == {*FILES, ".tsf_llm.json"}
    assert Report.read(out / "results.json") == report
    assert str(report.headline) in (out / "report.html").read_text(encoding="utf-8")
    for picture in ("scores.png", "pit.png"):
        assert Image.open(out / picture).size[0] > 900


def test_the_results_say_what_was_asked_and_what_was_scored(evaluated):
    results = json.loads((evaluated[0] / "results.json").read_text())
    assert {name: results[name] for name in ("horizon", "stride", "samples", "seed")} == {
        "horizon": 3,
        "stride": 3,  # by default, so that no outcome is counted twice
        "samples": 8,
        "seed": 5,
    }
    assert results["tickers"] == ["AAA", "BBB"]
    assert PERIOD["start"] <= results["start"] < results["end"] <= PERIOD["end"]
    assert [row["model"] for row in results["rows"]] == ["model", *results["verdicts"]]
    assert results["made_by"] == "evaluate"
    assert set(results["mcs"]) == {row["model"] for row in results["rows"]}
    assert any(one["in_mcs"] for one in results["mcs"].values())


@pytest.mark.parametrize(("seen", "out_of_sample"), [("2015-12-31", True), ("2016-01-05", False), (None, None)])
def test_says_whether_the_model_has_seen_the_period(pipe, bars, tmp_path, monkeypatch, seen, out_of_sample):
    monkeypatch.setattr(pipe.model.config, "trained_through", seen)
    evaluate_model(pipe, bars, **PERIOD, out=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert (results["trained_through"], results["out_of_sample"]) == (seen, out_of_sample)


def test_results_of_something_else_are_left_alone(pipe, bars, tmp_path):
    (tmp_path / "results.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="was not written by this package"):
        evaluate_model(pipe, bars, **PERIOD, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_what_cannot_be_scored_is_skipped_with_the_reason(pipe, bars, make_bars, tmp_path):
    panel = [bars, make_bars(10, ticker="IPO", start="2015-06-01"), make_bars(60, ticker="EARLY", start="2015-01-01")]
    evaluate_model(pipe, pd.concat(panel), **PERIOD, out=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["tickers"] == ["AAA", "BBB"]
    assert "10 observed bars" in results["skipped"]["IPO"]
    assert "can be scored" in results["skipped"]["EARLY"]
    with pytest.raises(ValueError, match="IPO: 10 observed bars"):
        evaluate_model(pipe, pd.concat(panel), **PERIOD, out=tmp_path / "strict", strict=True)


@pytest.fixture(scope="module")
def several(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("several")
    period = {"start": "2016-01-01", "end": "2016-05-31", "samples": 8}
    evaluate_model(pipe, bars, **period, horizon=[1, 4], out=out, seed=5)
    return json.loads((out / "results.json").read_text())


def test_each_horizon_has_its_own_origins_rows_and_verdict(several):
    standard = ["random_walk", "drift", "historical_volatility_20", "ewma", "garch_t", "har_range"]
    assert [(row["model"], row["horizon"]) for row in several["rows"]] == [
        (name, horizon) for horizon in (1, 4) for name in ("model", *standard)
    ]
    counts = {horizon: found["n"] for horizon, found in several["horizons"].items()}
    assert counts["1"] > 3 * counts["4"]
    assert several["horizon"] == 1
    assert several["verdicts"] == several["horizons"]["1"]["verdicts"]
    assert several["refits"]["garch_t"] == "refitted yearly"
    assert several["failed"] == {}


def test_the_headline_speaks_of_the_strongest_baseline_first(several):
    for horizon, found in several["horizons"].items():
        rows = {row["model"]: row for row in several["rows"] if row["horizon"] == int(horizon)}
        assert found["strongest"] == min(found["verdicts"], key=lambda name: rows[name]["crps"])
        assert f" {found['strongest']} " in found["verdict"]
        for name, answer in found["verdicts"].items():
            assert answer["skill"] == pytest.approx(1 - rows["model"]["crps"] / rows[name]["crps"])
            assert 0 <= answer["dm_p"] <= 1


def test_outcomes_that_overlap_widen_the_intervals(pipe, bars):
    """The same forecasts: neighbours share four fifths of their outcomes."""
    result = walk_forward(
        pipe,
        pipe.processor.feature_extractor.encode(bars),
        start="2015-10-01",
        end="2016-05-31",
        horizon=5,
        stride=1,
        samples=8,
        progress=False,
    )
    assert result.overlap == 5
    width = [np.ptp(one.verdicts()["random_walk"]["ci95"]) for one in (replace(result, stride=5), result)]
    assert width[1] > 1.05 * width[0]


def test_an_unknown_baseline_is_refused_before_the_work(pipe, bars, tmp_path):
    with pytest.raises(ValueError, match="--baselines garch: choose fast, standard, all or from"):
        evaluate_model(pipe, bars, **PERIOD, baselines="garch", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_baseline_that_fails_is_named_and_the_others_are_scored(pipe, bars, tmp_path):
    early = {"start": "2015-05-15", "end": "2015-07-15", "horizon": 1, "samples": 8}
    evaluate_model(pipe, bars, **early, out=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert "2 of 2 series: AAA: " in results["failed"]["garch_t"]
    assert "and 250 are needed" in results["failed"]["garch_t"]
    assert {row["model"] for row in results["rows"]} >= {"model", "random_walk", "ewma"}
    assert "garch_t" not in results["verdicts"]
