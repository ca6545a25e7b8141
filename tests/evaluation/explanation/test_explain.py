"""explain.py: what is written, which dates are taken, what the market is worth, and what is left alone."""

import json

import pandas as pd
import pytest

from tsf_llm.evaluation.explanation.explain import FILES, explain_model
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline

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
