"""Bars on past dates: what is scored is what came, the simple answer reads no later bar, wrong questions one line."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import bars as benchmark
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer


@pytest.fixture(scope="module")
def prices(make_bars):
    return pd.concat([make_bars(300, ticker=name, seed=seed) for name, seed in (("AAA", 1), ("BBB", 2))])


@pytest.fixture(scope="module")
def processor(prices):
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=16)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(prices, through="2015-12-31")


@pytest.fixture
def folder(processor, tiny_model, tmp_path):
    """`folder(**fields)` -> a folder of a random model that has seen 2015."""

    def build(**fields):
        fields = {"emits_bars": True, "trained_through": "2015-12-31", "horizons": None, **fields}
        sizes = {"vocab_size": 34, "pad_token_id": 32, "bar_token_id": 33, "prediction_length": 3}
        model = tiny_model(TsfLlmForCausalLM, num_features=len(processor.feature_extractor.names), **sizes, **fields)
        model.save_pretrained(tmp_path / "model")
        processor.save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return build


def test_the_outcome_is_the_bars_that_came(processor, prices):
    [one, _] = processor.encode(prices)
    outcome = benchmark.realised(one, np.array([100, 200]), 3)
    mine = prices[prices["ticker"] == "AAA"]
    for name in ("open", "high", "low", "close", "volume"):
        wanted = mine[name].to_numpy()
        np.testing.assert_array_equal(getattr(outcome, name)[:, 0], [wanted[101:104], wanted[201:204]])
    np.testing.assert_array_equal(outcome.last_close, mine["close"].to_numpy()[[100, 200]])


def test_own_past_reads_no_later_bar_and_draws_whole_bars(processor, prices):
    options = {"horizon": 2, "samples": 50, "seed": 0}
    rows = np.array([60, 150])
    whole, cut = (benchmark.own_past(processor.encode(some)[0], rows, **options) for some in (prices, prices[:151]))
    for name in ("open", "high", "low", "close", "volume"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))
    assert (whole.high >= np.maximum(whole.open, whole.close)).all()
    assert (whole.low <= np.minimum(whole.open, whole.close)).all()


def test_coverage_and_reliability_are_counts():
    values, true = np.tile(np.linspace(0, 1, 101), (4, 1)), np.array([0.05, 0.5, 0.6, 0.95])
    assert benchmark.coverage(values, true) == {"coverage_80": 0.5, "below": 0.25, "above": 0.25}
    told = benchmark.reliability(np.array([0.05, 0.05, 1.0, 0.95]), np.array([False, True, True, True]))
    assert told == [{"told": 0.05, "came": 0.5, "n": 2}, {"told": 0.975, "came": 1.0, "n": 2}]


def test_the_command_writes_scores_and_a_figure(folder, prices, tmp_path, capsys):
    prices.to_csv(tmp_path / "prices.csv", index=False)
    words = ["--model", str(folder()), "--data", str(tmp_path / "prices.csv"), "--horizon", "2", "--quick"]
    written = ["--json", str(tmp_path / "bars.json"), "--figure", str(tmp_path / "bars.png")]
    assert benchmark.main([*words, *written]) == 0
    results = json.loads((tmp_path / "bars.json").read_text())
    assert [row["part"] for row in results["parts"]] == list(benchmark.PARTS)
    assert results["start"] > results["trained_through"] == "2015-12-31"
    for row in results["parts"]:
        for score in row["scores"].values():
            assert score["coverage_80"] + score["below"] + score["above"] == pytest.approx(1)
    assert set(results["touch"]["scores"]) == set(benchmark.COLOURS)
    assert all(0 < score["brier"] < 1 for score in results["touch"]["scores"].values())
    assert (tmp_path / "bars.png").stat().st_size > 10_000
    assert "walk, sigma" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fields", "words", "says"),
    [
        ({}, ["--start", "2015-06-30"], "has seen dates through 2015-12-31"),
        ({"trained_through": None}, [], "give --start"),
        ({"emits_bars": False}, [], "no head for open, high, low and volume"),
        ({}, ["--horizon", "0"], "give at least 1 and 2"),
    ],
)
def test_wrong_questions(folder, prices, tmp_path, capsys, fields, words, says):
    prices.to_csv(tmp_path / "prices.csv", index=False)
    model = folder(**fields)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        benchmark.main(["--model", str(model), "--data", str(tmp_path / "prices.csv"), *words])
    error = capsys.readouterr().err
    assert (end.value.code, error.count("\n")) == (2, 1)
    assert says in error
