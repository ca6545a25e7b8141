"""explain.py: what is written, which dates are taken, what the market is worth, and what is left alone."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation.explanation.explain import FILES, explain_model
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

OPTIONS = {"start": "2016-01-01", "end": "2016-03-01", "most": 12, "repeats": 1}


@pytest.fixture(scope="module")
def explained(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("explanation")
    return out, explain_model(pipe, bars, **OPTIONS, out=out)


def test_writes_what_it_returns_and_a_page(explained):
    out, result = explained
    assert {path.name for path in out.iterdir()} == {*FILES, ".tsf_llm.json"}
    assert json.loads((out / "explain.json").read_text()) == result
    assert (result["windows"], result["dates"], result["loss"]) == (24, 12, "crps")
    assert [row["name"] for row in result["groups"]] == ["bar"]
    assert len(result["features"]) == 5
    assert result["without_market"] is None
    assert {row["origin"] for row in result["last_bars"]} == {"2016-07-13 00:00:00"}


def test_by_default_dates_are_those_the_model_has_not_seen(pipe, bars, tmp_path, monkeypatch):
    rest = {"most": 5, "repeats": 1, "out": tmp_path}
    monkeypatch.setattr(pipe.model.config, "trained_through", "2016-06-01")
    result = explain_model(pipe, bars, **rest)
    assert result["start"] > "2016-06-01"
    assert result["out_of_sample"] is True
    monkeypatch.setattr(pipe.model.config, "trained_through", "2020-01-01")
    assert explain_model(pipe, bars, **rest)["out_of_sample"] is False


def test_the_market_is_taken_away(beside_market, tiny_model, make_bars, tmp_path):
    names = len(beside_market.feature_extractor.names)
    tokens = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "num_features": names}
    pipe = TsfLlmPipeline(model=tiny_model(**tokens), processor=beside_market)
    bars = pd.concat([make_bars(400, ticker=name, seed=ord(name)) for name in "XY"])
    with_market = explain_model(pipe, bars, **OPTIONS, out=tmp_path, market=bars)["without_market"]
    assert with_market["increase"] != 0
    assert with_market["mean_change_of_median"] > 0
    assert explain_model(pipe, bars, **OPTIONS, out=tmp_path)["without_market"] is None


def test_what_somebody_else_wrote_is_left_alone(pipe, bars, tmp_path):
    (tmp_path / "explain.json").write_text("mine")
    with pytest.raises(ValueError, match="was not written by this package"):
        explain_model(pipe, bars, **OPTIONS, out=tmp_path)
    assert (tmp_path / "explain.json").read_text() == "mine"


def test_a_plain_series_is_told_in_units_of_its_own_changes(tiny_model, tmp_path):
    rng = np.random.default_rng(0)
    series = pd.DataFrame({"timestamp": pd.date_range("2020-01-01", periods=500, freq="h"), "series_id": "A"})
    series["value"], series["x"] = 1000 * rng.normal(0, 1, 500), rng.normal(0, 1, 500)
    extractor = TsfLlmFeatureExtractor(kind="univariate", context_length=16, past_covariates=["x"])
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(series)
    sizes = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "num_features": len(extractor.names)}
    pipe = TsfLlmPipeline(model=tiny_model(**sizes), processor=processor)
    result = explain_model(pipe, series, out=tmp_path, most=20, repeats=1)
    assert result["unit"] == "mean absolute change"
    assert 0 < result["mean_loss"] < 10
    assert {"changes", "seasons", "covariates"} <= {row["name"] for row in result["groups"]}


def test_the_given_model_is_left_alone(pipe, bars, tmp_path, monkeypatch):
    """A server forecasts with it at the same time."""
    changed, change = [], type(pipe.model).set_attn_implementation

    def noted(model, name):
        changed.append(model)
        change(model, name)

    monkeypatch.setattr(type(pipe.model), "set_attn_implementation", noted)
    explain_model(pipe, bars, out=tmp_path / "out", start="2016-01-01", end="2016-02-01", most=5, repeats=1)
    assert changed
    assert all(model is not pipe.model for model in changed)
