"""Preference sets: their utilities, the fence, the bytes, and what is refused."""

import doctest
import json

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset

from tsf_llm.common.files import WRITTEN
from tsf_llm.evaluation.profit import profit
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.pipeline_tsf_llm import TsfLlmPipeline
from tsf_llm.preferences import pairs as module
from tsf_llm.preferences.pairs import (
    PairArguments,
    best_and_worst,
    build_preferences,
    max_drawdown,
    nearness,
    positions,
    utilities,
)
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

BINS = 32
SIZES = {"vocab_size": BINS + 2, "pad_token_id": BINS, "bar_token_id": BINS + 1}
FENCE = "2015-09-30"


@pytest.fixture(scope="module")
def bars(make_bars) -> pd.DataFrame:
    """Two tickers that go on after the fence, and one that hardly starts before it; a missing bar."""
    frames = [make_bars(240, ticker=name, seed=i) for i, name in enumerate(["AAA", "BBB"])]
    frames[0].loc[100, ["open", "high", "low", "close"]] = np.nan
    return pd.concat([*frames, make_bars(60, ticker="NEW", seed=5, start="2015-09-15")], ignore_index=True)


@pytest.fixture(scope="module")
def processor(bars) -> TsfLlmProcessor:
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=24)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(bars, through=FENCE)


@pytest.fixture(scope="module")
def pipe(processor, tiny_model) -> TsfLlmPipeline:
    return TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, **SIZES), processor=processor)


@pytest.fixture(scope="module")
def folder(pipe, bars, tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs")
    build_preferences(pipe, bars, out, PairArguments(samples=6), jsonl=True, progress=False)
    return out


def table(folder) -> pd.DataFrame:
    return pq.read_table(folder / "preferences.parquet").to_pandas()


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Utilities


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(module).failed == 0
    assert doctest.testmod(module).attempted >= 3


def test_crps_is_the_energy_score_term_of_each_path():
    rng = np.random.default_rng(0)
    paths, realised, sigma = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 4)), np.array([0.5, 1.0, 2.0])
    got = nearness(paths, realised, sigma)
    for b, k in np.ndindex(3, 5):
        by_hand = -sum(abs(paths[b, k, p] - realised[b, p]) for p in range(4)) / 4 / sigma[b]
        assert got[b, k] == pytest.approx(by_hand)
    spread = np.abs(paths[:, :, None] - paths[:, None]).mean(axis=(1, 2, 3)) / sigma / 2
    crps = -got.mean(axis=1) - spread
    scoringrules = pytest.importorskip("scoringrules")
    oracle = scoringrules.crps_ensemble(realised, paths, m_axis=1).mean(axis=1) / sigma
    np.testing.assert_allclose(crps, oracle)


def test_pnl_and_drawdown_by_hand():
    """100 -> 110 -> 99 -> 104.5; costs of 10 bp are paid twice; a short position gains what the price loses."""
    realised = np.log([[1.10, 0.99, 1.045]])
    paths = np.zeros((1, 3, 3))
    paths[0, :, -1] = [0.01, -0.01, 0.0]
    paths[0, :, 0] = -1.0  # only the end of a path says what to hold
    np.testing.assert_array_equal(positions(paths), [[1, -1, 0]])
    pnl, drawdown = profit(positions(paths), realised, 10.0), max_drawdown(positions(paths), realised)
    np.testing.assert_allclose(pnl, [[0.045 - 0.002, -0.045 - 0.002, 0.0]])
    np.testing.assert_allclose(drawdown, [[0.11, 0.10, 0.0]])
    given = {"paths_BKP": paths, "realised_BP": realised, "sigma_B": np.array([0.01])}
    settings = {"cost_bp": 10.0, "drawdown_weight": 0.5}
    np.testing.assert_allclose(utilities(PairArguments(utility="pnl", **settings), **given), pnl)
    np.testing.assert_allclose(utilities(PairArguments(utility="drawdown", **settings), **given), pnl - 0.5 * drawdown)


def test_the_first_of_equal_paths_is_taken():
    best, worst, margin = best_and_worst(np.array([[1.0, 2.0, 2.0, 1.0]]))
    assert (best[0], worst[0], margin[0]) == (1, 0, 1.0)


# What is in the folder


def test_the_table(folder, pipe, bars):
    rows = table(folder)
    info = json.loads((folder / "preferences.json").read_text())
    assert set(rows["ticker"]) == {"AAA", "BBB"}
    assert info["too_few_bars"] == ["NEW"]
    assert len(rows) == info["counts"]["pairs"] > 50
    assert sum(info["counts"][name] for name in ("pairs", "ties", "below_margin")) == info["counts"]["origins"]
    assert info["pairs_by_ticker"] == rows["ticker"].value_counts().to_dict()
    assert info["margin"]["q50"] == pytest.approx(rows["margin"].median())
    assert (info["settings"]["through"], info["settings"]["horizon"], info["settings"]["stride"]) == (FENCE, 3, 3)
    assert np.stack([np.stack(row) for row in rows["past_values"]]).shape == (len(rows), 24, 5)
    assert np.stack(rows["past_values"][0]).dtype == np.float32
    assert np.stack(rows["attention_mask"]).shape == (len(rows), 24)
    masks = np.stack(rows["attention_mask"])
    assert (masks[0] == 0).tolist() == [True] * 3 + [False] * 21  # the first origin has 21 bars
    assert (masks.sum(axis=1) == 23).sum() >= 7  # windows that hold the missing bar
    assert not np.stack([np.stack(row) for row in rows["past_values"]])[masks == 0].any()
    for name in ("chosen_ids", "rejected_ids"):
        ids = np.stack(rows[name])
        assert ids.shape == (len(rows), 3)
        assert 0 <= ids.min() <= ids.max() < BINS
    assert np.stack(rows["utilities"]).shape == (len(rows), 6)
    assert all((a != b).any() for a, b in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True))


def test_rows_are_what_the_pipeline_samples_and_rank_as_said(folder, pipe, bars):
    aaa = bars[bars["ticker"] == "AAA"].reset_index(drop=True)
    rows = table(folder).query("ticker == 'AAA'")
    for _, row in rows.iloc[[0, len(rows) // 2, -1]].iterrows():
        batch = pipe.processor(aaa, as_of=row["origin"])
        paths = pipe.processor.path_returns(pipe.sample_tokens(batch, horizon=3, samples=6, seed=0), batch)
        now = int(np.flatnonzero(aaa["timestamp"] == row["origin"])[0])
        realised = np.log(aaa["close"].to_numpy()[now + 1 : now + 4] / aaa["close"][now])
        assert row["last_close"] == aaa["close"][now]
        assert row["sigma"] == pytest.approx(float(batch["scale"][0]))
        score = nearness(paths, realised[None], np.array([row["sigma"]]))[0]
        np.testing.assert_allclose(row["utilities"], score)
        for name, k in (("chosen_ids", score.argmax()), ("rejected_ids", score.argmin())):
            path = np.cumsum(pipe.processor.tokenizer.decode_returns(row[name])) * row["sigma"]
            np.testing.assert_allclose(path, paths[0, k])
        window = batch["past_values"][0].numpy()
        np.testing.assert_array_equal(np.stack(row["past_values"])[-len(window) :], window)


def test_datasets_reads_it(folder, tmp_path):
    path = str(folder / "preferences.parquet")
    rows = load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path))
    assert set(rows.column_names) >= {"past_values", "attention_mask", "chosen_ids", "rejected_ids", "margin"}
    assert rows.with_format("numpy")[0]["past_values"].shape == (24, 5)


def test_the_jsonl_has_the_layout_of_the_original(folder, pipe):
    rows = table(folder)
    lines = [json.loads(line) for line in (folder / "preferences.jsonl").read_text().splitlines()]
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows.itertuples(), strict=True):
        assert list(line) == ["prompt", "chosen", "rejected"]
        prompt = np.array(line["prompt"], dtype=np.float32)
        np.testing.assert_array_equal(prompt[0], np.stack(row.past_values)[-prompt.shape[1] :])
        for name in ("chosen", "rejected"):
            again = pipe.processor.tokenizer.encode_returns(np.array(line[name]))
            np.testing.assert_array_equal(again, getattr(row, f"{name}_ids"))


def test_a_short_history_is_padded_in_the_table_and_not_in_the_jsonl(tiny_model, make_bars, tmp_path):
    extractor = TsfLlmFeatureExtractor(feature_groups=["bar"], context_length=30)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(make_bars(200))
    pipe = TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, **SIZES), processor=processor)
    build_preferences(pipe, make_bars(60), tmp_path, PairArguments(samples=4), jsonl=True, progress=False)
    row = table(tmp_path).iloc[0]
    line = json.loads((tmp_path / "preferences.jsonl").read_text().splitlines()[0])
    history = int(row["attention_mask"].sum())
    assert history < 30 == len(row["past_values"])
    assert not np.stack(row["past_values"])[: 30 - history].any()
    assert np.shape(line["prompt"]) == (1, history, 5)


@pytest.mark.parametrize("utility", ["crps", "pnl", "drawdown"])
def test_small_margins_are_left_out(pipe, bars, tmp_path, utility):
    settings = {"utility": utility, "samples": 6, "cost_bp": 3.0}
    everything = build_preferences(pipe, bars, tmp_path / "all", PairArguments(**settings), progress=False)
    every = table(tmp_path / "all")
    least = float(every["margin"].median())
    some = PairArguments(**settings, min_margin=least)
    info = build_preferences(pipe, bars, tmp_path / "some", some, progress=False)
    kept = table(tmp_path / "some")
    assert (every["margin"] > 0).all()
    assert info["counts"]["origins"] == everything["counts"]["origins"]
    assert info["counts"]["ties"] == everything["counts"]["ties"]
    assert info["counts"]["below_margin"] == len(every) - len(kept) > 0
    expected = every[every["margin"] >= least].reset_index(drop=True)
    pd.testing.assert_series_equal(kept["margin"], expected["margin"])
    for row in kept.itertuples():
        assert row.utilities.max() >= row.utilities.min() + least
        assert row.margin == row.utilities.max() - row.utilities.min()


def test_ties_are_counted(pipe, bars, tmp_path):
    """With two paths, both often say the same side."""
    info = build_preferences(pipe, bars, tmp_path, PairArguments(utility="pnl", samples=2), progress=False)
    assert info["counts"]["ties"] > 5
    assert info["counts"]["below_margin"] == 0


# The fence, and the bytes


def test_no_byte_depends_on_what_comes_after_the_fence(pipe, bars, folder, tmp_path):
    after = bars["timestamp"] > FENCE
    assert after.sum() > 50
    other = bars.copy()
    factor = np.exp(np.random.default_rng(1).normal(0, 0.2, after.sum()))[:, None]
    columns = ["open", "high", "low", "close"]
    other.loc[after, columns] = other.loc[after, columns].to_numpy() * factor
    other.loc[after, "volume"] *= 3
    for name, frame in (("other", other), ("cut", bars[~after])):
        build_preferences(pipe, frame, tmp_path / name, PairArguments(samples=6), jsonl=True, progress=False)
        assert contents(tmp_path / name) == contents(folder)


def test_outcomes_end_at_the_fence(folder, bars):
    rows = table(folder)
    for ticker, frame in bars.groupby("ticker"):
        known = frame.loc[(frame["timestamp"] <= FENCE), "timestamp"].to_numpy()
        origins = rows.loc[rows["ticker"] == ticker, "origin"]
        assert (origins <= known[-4]).all()  # three bars come after it, up to the fence
    assert rows["origin"].max() >= pd.Timestamp(FENCE) - pd.Timedelta(days=14)


def test_bars_before_the_fence_do_matter(pipe, bars, folder, tmp_path):
    other = bars.copy()
    other.loc[60, "close"] = other.loc[60, "open"]
    build_preferences(pipe, other, tmp_path, PairArguments(samples=6), jsonl=True, progress=False)
    assert contents(tmp_path) != contents(folder)


def test_a_second_run_writes_the_same_bytes_and_another_seed_others(pipe, bars, folder, tmp_path):
    first = contents(folder)
    for seed in (0, 1, 0):
        build_preferences(pipe, bars, tmp_path, PairArguments(samples=6, seed=seed), jsonl=True, progress=False)
        assert (contents(tmp_path) == first) == (seed == 0)
    build_preferences(pipe, bars, tmp_path, PairArguments(samples=6), progress=False)
    assert set(contents(tmp_path)) == {
        "preferences.parquet",
        "preferences.json",
        WRITTEN,
    }  # no .jsonl of an earlier run


def test_chunks_do_not_decide(pipe, bars, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 30)
    monkeypatch.setattr(module, "TICKERS_AT_ONCE", 1)
    build_preferences(pipe, bars, tmp_path, PairArguments(samples=6), progress=False)
    assert pq.ParquetFile(tmp_path / "preferences.parquet").num_row_groups > 10
    few, many = table(tmp_path), table(folder)
    assert few["origin"].tolist() == many["origin"].tolist()
    np.testing.assert_array_equal(np.stack(few["chosen_ids"]), np.stack(many["chosen_ids"]))


def test_an_earlier_fence_and_a_first_origin(pipe, bars, tmp_path):
    pairs = PairArguments(samples=4, start="2015-04-01", through="2015-06-30", stride=2, horizon=2)
    info = build_preferences(pipe, bars, tmp_path, pairs, progress=False)
    assert "2015-04-01" <= info["first_origin"] < info["last_origin"] < "2015-06-30"
    gaps = table(tmp_path).query("ticker == 'BBB'")["origin"].diff().dropna()
    assert (gaps >= pd.Timedelta(days=2)).all()


def test_the_earlier_of_the_two_fences_holds(pipe, processor, bars, tiny_model, tmp_path):
    model = tiny_model(TsfLlmForCausalLM, **SIZES, trained_through="2015-07-31")
    other = TsfLlmPipeline(model=model, processor=processor)
    info = build_preferences(other, bars, tmp_path, PairArguments(samples=4), progress=False)
    assert info["settings"]["through"] == "2015-07-31"
    with pytest.raises(ValueError, match="training ended with 2015-07-31"):
        build_preferences(other, bars, tmp_path, PairArguments(through="2015-08-01"))


def test_a_later_fence_can_be_named_for_pairs_that_judge(pipe, bars, tmp_path):
    later = PairArguments(samples=4, start="2015-10-01", through="2015-11-15")
    with pytest.raises(ValueError, match=f"training ended with {FENCE}"):
        build_preferences(pipe, bars, tmp_path, later)
    info = build_preferences(pipe, bars, tmp_path, later, fence="2015-11-15", progress=False)
    assert FENCE < info["first_origin"] < info["last_origin"] < "2015-11-15"
    with pytest.raises(ValueError, match="2015-11-15"):
        build_preferences(pipe, bars, tmp_path, PairArguments(through="2015-11-16"), fence="2015-11-15")


def test_a_market_is_read_up_to_each_origin(make_bars, tiny_model, tmp_path):
    bars, index = make_bars(300, ticker="AAA", seed=1), make_bars(300, ticker="IDX", seed=2)
    extractor = TsfLlmFeatureExtractor(names=["body", "market_return_5", "market_range"], context_length=24)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(bars, through=FENCE, market=index)
    pipe = TsfLlmPipeline(model=tiny_model(TsfLlmForCausalLM, num_features=3, **SIZES), processor=processor)
    settings = {"progress": False, "pairs": PairArguments(samples=4)}
    build_preferences(pipe, bars, tmp_path / "whole", market=index, **settings)
    build_preferences(pipe, bars, tmp_path / "cut", market=index[index["timestamp"] <= FENCE], **settings)
    build_preferences(pipe, bars, tmp_path / "self", **settings)  # by default all tickers of the data
    assert contents(tmp_path / "whole") == contents(tmp_path / "cut") != contents(tmp_path / "self")


def test_plain_series_know_crps_alone(tiny_model, tmp_path):
    times = pd.date_range("2020-01-01", periods=400, freq="D")
    series = pd.DataFrame({"timestamp": times, "value": np.random.default_rng(0).normal(size=400).cumsum()})
    extractor = TsfLlmFeatureExtractor(kind="univariate", context_length=24)
    processor = TsfLlmProcessor(extractor, TsfLlmTokenizer(BINS)).fit(series)
    features = len(processor.feature_extractor.names)
    model = tiny_model(TsfLlmForCausalLM, num_features=features, **SIZES)
    pipe = TsfLlmPipeline(model=model, processor=processor)
    assert build_preferences(pipe, series, tmp_path, PairArguments(samples=4), progress=False)["counts"]["pairs"] > 50
    with pytest.raises(ValueError, match="use crps"):
        build_preferences(pipe, series, tmp_path, PairArguments(utility="pnl"))


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"utility": "sharpe"}, "utility='sharpe': choose one of crps, pnl, drawdown"),
        ({"samples": 1}, "samples=1: a pair needs 2"),
        ({"horizon": 0}, "horizon=0"),
        ({"stride": -1}, "stride=-1"),
        ({"min_margin": float("nan")}, "min_margin=nan"),
        ({"cost_bp": -1.0}, "cost_bp=-1"),
        ({"drawdown_weight": float("inf")}, "drawdown_weight=inf"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        PairArguments(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"through": "2015-10-01"}, "through=2015-10-01: training ended with 2015-09-30"),
        ({"start": "2015-09-29"}, "no origin from 2015-09-29"),
        ({"horizon": 500}, "no origin from the first bar whose 500 step"),
        ({"through": "2015-01-10"}, "no ticker has"),
        ({"min_margin": 1e6}, "no pair left of"),
    ],
)
def test_what_leaves_nothing(pipe, bars, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        build_preferences(pipe, bars, tmp_path, PairArguments(samples=4, **settings), progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_head_samples_no_paths(processor, bars, tiny_model, tmp_path):
    model = tiny_model(TsfLlmForPrediction, prediction_type="quantile")
    with pytest.raises(ValueError, match="need a causal LM"):
        build_preferences(TsfLlmPipeline(model=model, processor=processor), bars, tmp_path)


def test_special_tokens_are_never_written(processor, bars, tiny_model, tmp_path):
    model = tiny_model(TsfLlmForCausalLM, **SIZES)
    pipe = TsfLlmPipeline(model=model, processor=processor)
    for suppressed in (None, [BINS]):
        model.generation_config.suppress_tokens = suppressed
        with pytest.raises(ValueError, match=f"must suppress {{{BINS}, {BINS + 1}}}"):
            build_preferences(pipe, bars, tmp_path, PairArguments(samples=4), progress=False)
    model.generation_config.suppress_tokens = [BINS, BINS + 1]
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ValueError, match="no finite probabilities"):
        build_preferences(pipe, bars, tmp_path, PairArguments(samples=4, horizon=1), progress=False)
    assert list(tmp_path.iterdir()) == []
