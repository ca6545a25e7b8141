"""dpo.py: pairs from the right dates, what it writes, that it reproduces and resumes, and how it refuses."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tsf_llm.common.errors import one_line_errors
from tsf_llm.configuration_tsf_llm import TsfLlmConfig
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.original_features_tsf_llm import OriginalFeatureExtractor
from tsf_llm.preferences.pairs import PairArguments
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import dpo
from tsf_llm.train_scripts.build_preferences import FileArguments
from tsf_llm.train_scripts.build_preferences import main as build_pairs

KEYS = ("crps", "coverage_80", "pair_accuracy", "margin", "utility")


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def tune(base_folder, prices, command_line):
    """`tune(output_dir, **options)` -> the report of a small run on `prices`."""
    usual = {"model_name_or_path": base_folder, "data": prices, "horizon": 2, "report_samples": 8, "pair_samples": 4}
    usual |= {"per_device_train_batch_size": 32, "learning_rate": 1e-3, "disable_tqdm": True, "logging_steps": 2}

    def run(output_dir, **options):
        return dpo.main(*dpo.parse(command_line(**{**usual, "output_dir": output_dir, **options})))

    return run


@pytest.fixture(scope="module")
def tuned(tune, tmp_path_factory):
    """A finished run and its report. Read only."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(folder)


@pytest.fixture(scope="module")
def given(base_folder, prices, tmp_path_factory):
    """Pairs of the command `build_preferences`, also as lines. Read only."""
    folder = tmp_path_factory.mktemp("given")
    files = FileArguments(model=str(base_folder), data=str(prices), out=str(folder), jsonl=True)
    build_pairs(files, PairArguments(samples=4, horizon=2))
    return folder


@pytest.fixture(scope="module")
def regression(train, tmp_path_factory):
    """A small regression model. Read only."""
    folder = tmp_path_factory.mktemp("regression")
    train(folder, head="regression", num_train_epochs=1)
    return folder


# --- what it writes


def test_leaves_a_model_its_processor_and_a_report(tuned, base_folder):
    folder, report = tuned
    assert json.loads((folder / "report.json").read_text()) == json.loads(json.dumps(report))
    for part in ("before", "after"):
        for name in KEYS:
            low, high = report[part][f"{name}_ci95"]
            assert low <= report[part][name] <= high
    assert report["before"]["margin"] != report["after"]["margin"]
    assert set(report["difference"]) == {"crps", "utility", "pair_accuracy", "margin"}
    for name, one in report["difference"].items():
        assert one["difference"] == pytest.approx(report["after"][name] - report["before"][name], abs=1e-9)
        assert any(words in one["verdict"] for words in ("no edge over", "better than", "worse than"))
    held = {"always_long", "always_short", "nothing"}
    assert held <= set(report["baselines"])
    assert {f"utility_against_{name}" for name in held} <= set(report["verdicts"])
    assert report["out_of_sample"] is True
    assert not list(folder.glob("*.bin"))
    assert (folder / "loss.png").stat().st_size > 5000
    assert not same(weights(folder), weights(base_folder))
    pipe = load_pipeline(folder)
    assert isinstance(pipe.model, TsfLlmForCausalLM)
    assert pipe.model.config.trained_through == report["valid_through"]


def test_tuning_raises_the_margin_of_later_pairs(tuned):
    """Better paths are more likely in a way that carries over, for nearness to what happens is learnable."""
    _, report = tuned
    assert report["difference"]["margin"]["difference"] > 0
    assert report["valid_loss"] < math.log(2)


def outcomes(pairs, prices):
    """Dates of the last bars of the pairs' paths."""
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    times = {name: frame["timestamp"].to_numpy() for name, frame in bars.groupby("ticker")}
    ends = [
        times[row.ticker][np.searchsorted(times[row.ticker], row.origin.to_datetime64()) + 2]
        for row in pairs.itertuples()
    ]
    return pd.Series(ends)


def test_pairs_come_from_their_own_dates(tuned, prices):
    folder, report = tuned
    train, valid, test = (
        pq.read_table(folder / "preferences" / name / "preferences.parquet").to_pandas()
        for name in ("train", "valid", "test")
    )
    assert [len(part) for part in (train, valid, test)] == [report["pairs"][n] for n in ("train", "valid", "test")]
    fences = [pd.Timestamp(report[name]) for name in ("train_through", "valid_through")]
    assert outcomes(train, prices).max() <= fences[0] < valid["origin"].min()
    assert outcomes(valid, prices).max() <= fences[1] < test["origin"].min()
    times = pd.read_csv(prices, parse_dates=["timestamp"])["timestamp"].unique()
    first_label = np.sort(times[times > valid["origin"].min()])[0]
    assert ((times > fences[0]) & (times < first_label)).sum() == 2  # an embargo of one horizon


@pytest.mark.slow
def test_later_prices_change_nothing_but_the_report(tuned, tune, prices, tmp_path):
    folder, report = tuned
    bars = pd.read_csv(prices, parse_dates=["timestamp"])
    late = bars["timestamp"] > report["valid_through"]
    bars.loc[late, ["open", "high", "low", "close"]] *= 1.5
    bars.to_csv(tmp_path / "other.csv", index=False)
    other = tune(tmp_path / "out", data=tmp_path / "other.csv")
    assert same(weights(tmp_path / "out"), weights(folder))
    assert other["after"]["crps"] != report["after"]["crps"]


def test_the_same_seed_gives_the_same_weights_and_finished_pairs_are_used_again(tuned, tune, tmp_path, caplog):
    folder, _ = tuned
    shutil.copytree(folder / "preferences", tmp_path / "preferences", ignore=shutil.ignore_patterns("cache"))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "preferences").rglob("*.parquet")}
    tune(tmp_path)
    assert same(weights(tmp_path), weights(folder))
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    tune(tmp_path, pair_samples=5)
    assert all(path.stat().st_mtime_ns != stamp for path, stamp in stamps.items())
    assert not same(weights(tmp_path), weights(folder))


@pytest.mark.slow
def test_resumed_equals_uninterrupted(tune, tuned, tmp_path):
    steps = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    tune(tmp_path, **steps, save_total_limit=9, report_samples=4)
    whole = weights(tmp_path)
    checkpoints = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) >= 2
    for path in checkpoints[1:]:  # as if killed after the first one
        shutil.rmtree(path)
    (tmp_path / "model.safetensors").unlink()
    written = (checkpoints[0] / "trainer_state.json").stat().st_mtime_ns
    tune(tmp_path, **steps, save_total_limit=9, report_samples=4, resume_from_checkpoint="true")
    assert (checkpoints[0] / "trainer_state.json").stat().st_mtime_ns == written  # it was gone on from, not redone
    assert same(weights(tmp_path), whole)


def test_low_rank_updates_end_merged_and_alone(tune, tuned, base_folder, tmp_path):
    report = tune(tmp_path, lora_r=2, loss_type="ipo", beta=1.0, learning_rate=5e-3)
    assert (report["reference"], report["loss_type"]) == ("adapter off", ["ipo"])
    assert report["trained_parameters"] < report["parameters"]
    merged = TsfLlmForCausalLM.from_pretrained(tmp_path)
    adapted = PeftModel.from_pretrained(TsfLlmForCausalLM.from_pretrained(base_folder), tmp_path / "adapter").eval()
    processor = TsfLlmProcessor.from_pretrained(tmp_path)
    inputs = {
        "input_ids": torch.full((2, 16), processor.tokenizer.bar_token_id),
        "past_values": torch.randn(2, 16, merged.config.num_features),
    }
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, adapted(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert not same(weights(tmp_path), weights(base_folder))
    assert merged.config.trained_through == report["valid_through"]


@pytest.mark.slow
def test_a_base_is_trained_first_if_none_is_given(tune, tmp_path, small_model):
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"model_config: {small_model}\ncontext_length: 16\nn_bins: 32\nnum_train_epochs: 1\ndisable_tqdm: true\n"
    )
    report = tune(tmp_path / "out", model_name_or_path=None, base_config=config, precompute_ref_log_probs=True)
    assert (tmp_path / "out" / "base" / "model.safetensors").is_file()
    assert report["reference"] == "precomputed"


# --- pairs that are given


def test_pairs_of_the_command_are_read_and_the_last_held_out(tune, given, tmp_path):
    report = tune(tmp_path, preferences=given)
    rows = pq.read_table(given / "preferences.parquet").num_rows
    pairs = report["pairs"]
    assert pairs["train"] + pairs["valid"] + sum(pairs["left_out"].values()) == rows
    assert (pairs["left_out"]["after_fence"], pairs["dated"]) == (0, True)
    assert report["difference"]["margin"]["difference"] > 0


@pytest.mark.slow
def test_given_pairs_behind_the_fence_do_not_train(tune, given, tmp_path):
    report = tune(tmp_path, preferences=given / "preferences.parquet", train_through="2015-06-30")
    whole = pq.read_table(given / "preferences.parquet").to_pandas()
    assert report["pairs"]["train"] <= (whole["origin"] < "2015-06-30").sum()
    assert report["pairs"]["valid"] > 0
    assert report["pairs"]["left_out"]["embargo"] > 0
    with pytest.raises(ValueError, match="no pair's outcome lies by the training fence"):
        tune(tmp_path / "none", preferences=given, train_through="2015-02-01", valid_through="2015-02-20")


def test_lines_tune_a_regression_head(tune, regression, given, tmp_path):
    """No path is sampled: the given pairs train and, held out, judge."""
    report = tune(
        tmp_path, model_name_or_path=regression, preferences=given / "preferences.jsonl", learning_rate=1e-2, beta=0.5
    )
    assert (report["head"], report["pairs"]["dated"], report["pairs"]["test"]) == ("regression", False, None)
    assert 2 <= report["noise"]["df"] <= 100
    assert 0.3 < report["noise"]["scale"] < 3  # returns are in units of sigma
    assert report["before"]["coverage_80"] is None
    assert report["before"]["crps"] != report["after"]["crps"]
    assert TsfLlmForPrediction.from_pretrained(tmp_path).config.prediction_type == "regression"
    assert not same(weights(tmp_path), weights(regression))


@pytest.mark.slow
def test_lines_of_the_original_s_layout_tune_a_model_of_its_shape(tune, prices, small_model, tmp_path):
    """64 inputs, one number, its arithmetic; as its converted weights, which know two bars ahead."""
    processor = TsfLlmProcessor(OriginalFeatureExtractor())
    processor.fit(pd.read_csv(prices, parse_dates=["timestamp"]), through="2016-01-01")
    shape = {"num_features": 64, "prediction_type": "regression", "prediction_length": 1, "is_causal": False}
    habits = {"original_arithmetic": True, "attention_softmax_axis": "heads", "router_weighting": "raw_logits"}
    model = TsfLlmForPrediction(TsfLlmConfig(**shape, **habits, **json.loads(small_model)))
    for part in (model, processor):
        part.save_pretrained(tmp_path / "original")
    rng = np.random.default_rng(0)
    with (tmp_path / "pairs.jsonl").open("w") as file:
        for _ in range(60):
            window = rng.normal(size=(1, 32, 64)).round(3)
            better, worse = np.sign(window[0, -1, 0]) * np.array([[0.8], [-0.8]]) + rng.normal(0, 0.1, (2, 1))
            pair = {"prompt": window.tolist(), "chosen": better.tolist(), "rejected": worse.tolist()}
            file.write(json.dumps(pair) + "\n")
    start, pairs = tmp_path / "original", tmp_path / "pairs.jsonl"
    report = tune(tmp_path / "out", model_name_or_path=start, preferences=pairs, num_train_epochs=4)
    assert report["valid_loss"] < math.log(2)
    assert report["noise"]["scale"] > 0
    tuned = TsfLlmForPrediction.from_pretrained(tmp_path / "out")
    assert (tuned.config.original_arithmetic, tuned.config.attention_softmax_axis) == (True, "heads")
    assert not same(weights(tmp_path / "out"), weights(tmp_path / "original"))


# --- refusals


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"learning_rate": 0}, ["learning_rate=0", "above 0"]),
        ({"loss_type": "kto"}, ["kto", "sigmoid, ipo, hinge"]),
        ({"beta": 0}, ["beta=0"]),
        ({"lora_r": -1}, ["lora_r=-1"]),
        ({"utility": "sharpe"}, ["sharpe", "crps, pnl, drawdown"]),
        ({"pair_samples": 1}, ["samples=1"]),
        ({"preferences": "nowhere.parquet"}, ["nowhere.parquet", "does not exist"]),
        ({"model_name_or_path": None}, ["model_name_or_path", "base_config"]),
        ({"min_margin": 1e6}, ["no pair left", "min_margin"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(tune, tmp_path, options, words):
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        tune(tmp_path / "out", **options)
    assert all(word in str(refused.value) for word in words)
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_heads_that_pairs_cannot_tune_are_refused(tune, train, regression, tmp_path):
    with pytest.raises(ValueError, match=r"samples no paths: give preferences"):
        tune(tmp_path / "out", model_name_or_path=regression)
    with pytest.raises(ValueError, match=r"horizon=3, but .* answers for 2 bar\(s\)"):
        tune(tmp_path / "out", model_name_or_path=regression, horizon=3)
    train(tmp_path / "quantile", head="quantile", num_train_epochs=1)
    with pytest.raises(ValueError, match=r"quantile head: pairs tune a causal LM or a regression head"):
        tune(tmp_path / "out", model_name_or_path=tmp_path / "quantile")


def test_a_refusal_is_one_line_and_exit_code_2(tune, tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"prompt": [[[0.1')
    with pytest.raises(SystemExit, match="2"), one_line_errors("dpo"):
        tune(tmp_path / "out", preferences=tmp_path / "pairs.jsonl")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("dpo: error:")
    assert "line 1 is no JSON" in last
