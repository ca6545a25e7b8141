"""shipped.py: what the shipped weights suit, and a quick start from a stand-in for them, with its variants."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from tsf_llm.processing_tsf_llm import FORECAST_COLUMNS
from tsf_llm.serving import cli, quickstart, shipped
from tsf_llm.training.models import digest, load_model


@pytest.fixture(scope="module")
def begun(model, tmp_path_factory):
    """What the quick start leaves, and what it said; the stand-in is a model of the same prices and dates."""
    out, patch = tmp_path_factory.mktemp("shipped"), pytest.MonkeyPatch()
    patch.setattr(shipped, "ROOT", model)
    patch.setitem(shipped.ADAPTER, "max_seconds", 2)
    patch.setattr(shipped, "PAIRS", 16)
    patch.setattr(quickstart, "VARIANTS_BY", 10_000)
    patch.setattr(sys, "argv", ["tsf-llm", "quickstart", "--ticker", "IBM", "--out", str(out)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    patch.undo()
    assert not end.value.code
    return out


def test_a_quick_start_from_the_shipped_weights(begun, model):
    results = json.loads((begun / "results.json").read_text())
    assert (results["weights"], results["ticker"], results["out_of_sample"]) == ("shipped", "IBM", True)
    assert [row["model"] for row in results["rows"]][:2] == ["model", "random_walk"]
    assert "no verdict" not in results["verdict"]
    assert digest(load_model(begun / "model")) == digest(load_model(model))
    frame = pd.read_csv(begun / "forecast.csv")
    assert list(frame.columns) == FORECAST_COLUMNS
    assert frame["ticker"].unique().tolist() == ["IBM"]
    assert {path.name for path in begun.glob("*.png")} == {"forecast.png", "hindsight.png", "scores.png", "pit.png"}


def test_variants_stay_only_where_they_are_better(begun):
    results = json.loads((begun / "results.json").read_text())
    folders = {"adapter": begun / "model" / "adapters" / "IBM", "dpo": begun / "dpo"}
    for name, folder in folders.items():
        told = results[name]
        assert told["reason"].startswith("kept: better" if told["kept"] else "not kept: no better")
        assert folder.exists() is told["kept"] or not any(folder.glob("*.safetensors"))
        assert told["kept"] is False or told["difference"] < 0
        assert told["after"]["n"] == results["adapter"]["before"]["n"]
    assert not list((begun / "model").glob("adapters/.*"))


@pytest.mark.parametrize(("valid", "later", "kept"), [(-1, -1, True), (-1, 1, False), (1, -1, False), (1, 1, False)])
def test_an_adapter_must_be_better_on_both_stretches_of_dates(monkeypatch, tmp_path, valid, later, kept):
    folder = tmp_path / "adapters" / "IBM"

    def trained(*args, out, **options):
        found = {"kept": valid < 0, "difference": later, "out_of_sample": later < 0}
        found |= {"ci95": None, "verdict": "", "steps": 1}
        if valid < 0:
            (out / "weights").mkdir(parents=True)
        return {**found, "before": {}, "after": {}, "baselines": {}}, out

    monkeypatch.setattr(shipped, "adapt", trained)
    told = shipped._adapter(tmp_path, "IBM", {})
    assert ("in sample" in told["reason"]) is (later > 0)
    assert (told["kept"], folder.exists()) == (kept, kept)
    assert told["reason"].startswith("kept: better" if kept else "not kept: no better")


@pytest.mark.parametrize(("crps", "kept"), [(0.01, True), (0.03, False)])
def test_a_variant_by_pairs_must_be_better_on_the_later_dates(monkeypatch, tmp_path, daily, crps, kept):
    (tmp_path / "data").mkdir()
    daily.to_parquet(tmp_path / "data" / "bars.parquet")

    def tuned(data_args, base_args, preference_args, training_args):
        work = Path(training_args.output_dir)
        (work / "checkpoint-1").mkdir(parents=True)
        (work / "config.json").write_text("{}")
        assert (data_args.tickers, preference_args.pair_stride) == (["A"], 400 // shipped.PAIRS)
        return {"after": {"crps": crps}, "pairs": {"train": 3}, "out_of_sample": False}

    monkeypatch.setattr(shipped.dpo, "main", tuned)
    folder, options = tmp_path / "out" / "dpo", {"data": tmp_path / "data", "tickers": ["A"]}
    told = shipped._preference_variant(tmp_path / "model", {"crps": 0.02}, folder, tmp_path / "work", options)
    assert (told["kept"], folder.exists(), told["difference"] < 0) == (kept, kept, kept)
    assert "in sample for the shipped weights" in told["reason"]
    if kept:
        assert sorted(path.name for path in folder.iterdir()) == [".tsf_llm.json", "config.json"]


def test_what_the_shipped_weights_have_seen_is_no_test(begun, tmp_path):
    content = json.loads((begun / "results.json").read_text())
    for out_of_sample in (False, None, True):
        (tmp_path / "results.json").write_text(json.dumps({**content, "out_of_sample": out_of_sample}))
        report = quickstart.noted({"weights": "shipped"}, tmp_path / "results.json")
        words = json.loads((tmp_path / "results.json").read_text())["verdict"]
        assert report.headline == words
        assert words.startswith("no verdict: in sample for the shipped weights") is (out_of_sample is not True)


@pytest.fixture
def daily():
    times = pd.bdate_range("2015-01-01", periods=400)
    frame = pd.DataFrame({"timestamp": times, "ticker": "A", "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0})
    return frame.assign(volume=1.0)


def test_what_the_shipped_weights_do_not_suit_is_learned_from_scratch(daily, model, monkeypatch):
    monkeypatch.setattr(shipped, "ROOT", model)

    def why(bars=daily, head="causal_lm", covariates=()):
        return shipped.why_from_scratch(bars, head=head, covariates=covariates)

    hourly = daily.assign(timestamp=pd.date_range("2015-01-01", periods=400, freq="h"))
    series = pd.DataFrame({"timestamp": daily["timestamp"], "series_id": "A", "value": 1.0})
    assert why() is None
    assert why(hourly) == "the shipped weights know daily bars, and here comes one every 0 days 01:00:00"
    assert why(series) == "the shipped weights know prices, and this is a plain series"
    assert why(covariates=["news"]) == "the shipped weights read no further columns"
    assert why(head="quantile") == "the shipped weights have no quantile head"
    monkeypatch.setattr(shipped, "ROOT", model / "nowhere")
    assert why() == "no weights lie beside this code"


def test_the_test_dates_are_later_than_what_the_weights_have_seen_where_that_leaves_some():
    times = pd.bdate_range("2015-01-01", periods=1000)
    bars = pd.DataFrame({"timestamp": times})
    usual = shipped.fences(bars, None)
    assert usual.valid_through == times[900]
    assert shipped.fences(bars, str(times[850].date())) == usual
    assert shipped.fences(bars, str(times[920].date())).valid_through.date() == times[920].date()
    assert shipped.fences(bars, str(times[920].date())).train_through == usual.train_through
    for last in (950, 999):  # too little lies behind: the test is in sample, and said to be
        assert shipped.fences(bars, str(times[last].date())) == usual
    assert shipped.fences(bars, "2030-01-01") == usual
