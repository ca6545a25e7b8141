"""continual.py: new rules are learned, old ones kept, old windows end at their fence, Fisher is what it says."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.train_scripts import sft
from tsf_llm.training.continual import (
    FISHER_FILE,
    Anchor,
    OldWindows,
    ReplayDataset,
    diagonal_fisher,
    load_or_measure_fisher,
    mean_loss,
)
from tsf_llm.training.data import TrainingData

TINY = {"context_length": 8, "horizon": 1, "stride": 1, "feature_groups": "bar", "report_samples": 0, "n_bins": 32}
SETTINGS = {**TINY, "num_train_epochs": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 64}


def signs(turns, *, start, rows=700, seed=0):
    """Bars whose next direction is the other one with probability `turns`."""
    rng = np.random.default_rng(seed)
    sign = np.where(np.cumsum(rng.random(rows) < turns) % 2, -1.0, 1.0)
    close = 50 * np.exp((sign * np.abs(rng.normal(0, 0.01, rows))).cumsum())
    open_ = np.concatenate(([50.0], close[:-1]))
    prices = {"open": open_, "high": np.maximum(open_, close) * 1.003, "low": np.minimum(open_, close) / 1.003}
    times = pd.date_range(start, periods=rows, freq="B")
    return pd.DataFrame({"timestamp": times, "ticker": "AAA", **prices, "close": close, "volume": 1000.0})


@pytest.fixture(scope="module")
def two_eras(tmp_path_factory):
    """An old era in which the direction turns, a new one in which it stays: each in a file of its own, and joined."""
    folder = tmp_path_factory.mktemp("eras")
    old = signs(0.95, start="2010-01-01")
    new = signs(0.05, start=old["timestamp"].iloc[-1] + pd.Timedelta("3D"), seed=1)
    new[["open", "high", "low", "close"]] *= old["close"].iloc[-1] / 50
    for name, frame in {"old": old, "new": new, "both": pd.concat([old, new])}.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    return folder


@pytest.fixture(scope="module")
def old_model(train, two_eras, small_model, tmp_path_factory):
    """It knows returns alone: whole bars have no rule that turns, and so small a model would forget less by them."""
    folder = tmp_path_factory.mktemp("old")
    fields = json.dumps({**json.loads(small_model), "emits_bars": False})
    train(folder, **SETTINGS, model_config=fields, data=two_eras / "old.csv")
    return folder


@pytest.fixture(scope="module")
def go_on(train, two_eras, old_model, tmp_path_factory):
    """`go_on(**options)` -> the folder and report of a training on the new era."""

    def run(**options):
        folder = tmp_path_factory.mktemp("on")
        usual = {"data": two_eras / "new.csv", "replay_data": two_eras / "old.csv", "continue_from": old_model}
        return folder, train(folder, **{**SETTINGS, **usual, **options})

    return run


@pytest.fixture(scope="module")
def naive(go_on):
    return go_on(replay=0)


def read(two_eras, old_model, **options):
    words = {"data": two_eras / "both.csv", "continue_from": old_model, **TINY, **options}
    line = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    data_args, model_args, _ = sft.parse([*line, "--output_dir", str(old_model / "unused")])
    data = TrainingData.read(data_args, model_args.start)
    return data, OldWindows.read(data, data_args, model_args, "causal_lm")


@pytest.mark.parametrize("options", [{"replay": 0.4}, {"replay": 0, "ewc": 1000}])
def test_what_was_learned_is_kept_better_than_by_naive_fine_tuning(go_on, naive, options):
    _, plain = naive
    _, report = go_on(**options, report_samples=16)
    forgotten = [one["continual"]["old_loss_after"] - one["continual"]["old_loss_before"] for one in (plain, report)]
    assert forgotten[0] > 0.1  # nothing to keep otherwise
    assert forgotten[1] < 0.7 * forgotten[0]
    assert report["after"]["crps"] < report["before"]["crps"]  # what is new was learned all the same
    assert report["continual"]["old_loss_before"] == plain["continual"]["old_loss_before"]
    assert report["continual"]["replay"] == options["replay"]


def test_the_report_tells_what_it_went_on_from(go_on):
    folder, report = go_on(replay=0.3, max_steps=2)
    assert report["continual"]["replayed_per_epoch"] == round(report["windows"]["train"] * 0.3 / 0.7)
    assert report["data"].startswith("new.csv")
    assert "before that: old.csv" in report["data"]
    assert json.loads((folder / "report.json").read_text())["out_of_sample"] is True
    assert not (folder / FISHER_FILE).exists()


def test_the_same_seed_gives_the_same_weights_and_a_resumed_run_too(go_on, train, two_eras, old_model, tmp_path):
    options = {"replay": 0.3, "ewc": 2, "max_steps": 8, "save_steps": 4, "eval_steps": 4}
    options |= {"save_strategy": "steps", "eval_strategy": "steps"}
    weights = []
    for _ in range(2):
        folder, _ = go_on(**options)
        weights.append(load_file(folder / "model.safetensors"))
    again = {"data": two_eras / "new.csv", "replay_data": two_eras / "old.csv", "continue_from": old_model}
    train(folder, **{**SETTINGS, **again, **options}, resume_from_checkpoint=folder / "checkpoint-4")
    weights.append(load_file(folder / "model.safetensors"))
    assert all(torch.equal(one[name], weights[0][name]) for one in weights for name in one)


def test_old_windows_end_at_the_old_fence_and_new_ones_begin_behind_it(two_eras, old_model):
    data, old = read(two_eras, old_model)
    told = pd.Timestamp(json.loads((old_model / "report.json").read_text())["train_through"])
    assert old.through.normalize() == told
    last = old.kept_back.timestamp[old.kept_back.origins + 1]
    assert last.max() <= old.through.to_datetime64()
    assert old.replayed.timestamp[old.replayed.origins + 1].max() < last.min()
    new, _ = data.windows("causal_lm", after=old.through)
    assert new.timestamp[new.origins + 1].min() > old.through.to_datetime64()
    later = old.replayed.timestamp[old.replayed.is_label]
    assert later.max() < last.min()  # nor do the labels within a window reach what is kept back


def test_a_new_fence_before_the_old_one_ends_the_old_windows_too(two_eras, old_model):
    early = {"train_through": "2011-06-30", "valid_through": "2011-12-30", "replay_data": two_eras / "old.csv"}
    data, old = read(two_eras, old_model, **early)
    assert old.through == data.split.train_through
    assert old.kept_back.timestamp[old.kept_back.is_label].max() <= data.split.train_through.to_datetime64()


def test_replay_draws_other_old_windows_in_each_epoch_and_the_same_again(two_eras, old_model):
    data, old = read(two_eras, old_model)
    new, _ = data.windows("causal_lm", after=old.through)
    mixed = ReplayDataset(new, old.replayed, share=0.5, seed=3)
    assert len(mixed) == 2 * len(new)
    first = mixed.replayed().copy()
    assert len(set(first)) == min(len(first), len(old.replayed))
    batch = mixed.__getitems__([0, len(new), 1, len(new) + 1])
    expected = [new[0], new[1], *(old.replayed[int(i)] for i in first[:2])]
    for key in batch:
        torch.testing.assert_close(batch[key], torch.stack([one[key] for one in expected]), equal_nan=True)
    mixed.set_epoch(1)
    assert not np.array_equal(mixed.replayed(), first)
    mixed.set_epoch(0)
    assert np.array_equal(mixed.replayed(), first)


def test_fisher_is_the_mean_squared_gradient_of_single_windows(two_eras, old_model):
    _, old = read(two_eras, old_model)
    model = TsfLlmForCausalLM.from_pretrained(old_model)
    fisher = diagonal_fisher(model, old.replayed, limit=3, seed=0, progress=False)
    expected = torch.zeros_like(model.lm_head.weight)
    for index in np.random.default_rng(0).permutation(len(old.replayed))[:3]:
        batch = old.replayed.__getitems__([int(index)])
        model.zero_grad()
        model(**batch).loss.backward()
        expected += (batch["labels"] != -100).sum() * model.lm_head.weight.grad.square() / 3
    torch.testing.assert_close(fisher["lm_head.weight"], expected)
    assert all((value >= 0).all() for value in fisher.values())


def test_fisher_is_kept_for_a_resumed_run(two_eras, old_model, tmp_path):
    _, old = read(two_eras, old_model)
    model = TsfLlmForCausalLM.from_pretrained(old_model)
    fisher = load_or_measure_fisher(model, old, tmp_path, resumed=False, progress=False)
    with torch.no_grad():
        model.lm_head.weight.zero_()  # as if training had gone on
    again = load_or_measure_fisher(model, old, tmp_path, resumed=True, progress=False)
    assert all(torch.equal(fisher[name], again[name]) for name in fisher)


def test_the_anchor_pulls_back_in_proportion_to_fisher(tiny_model):
    model = tiny_model()
    anchor = Anchor.at(model, {name: torch.full_like(p, 3.0) for name, p in model.named_parameters()}, weight=2.0)
    assert anchor.penalty(model) == 0
    with torch.no_grad():
        model.lm_head.weight += 0.5
    penalty = anchor.penalty(model)
    torch.testing.assert_close(penalty, torch.tensor(3.0 * 0.25 * model.lm_head.weight.numel()))
    penalty.backward()
    torch.testing.assert_close(model.lm_head.weight.grad, torch.full_like(model.lm_head.weight, 2.0 * 3.0 * 0.5))


def test_the_mean_loss_does_not_depend_on_the_batches(two_eras, old_model, monkeypatch):
    _, old = read(two_eras, old_model)
    model = TsfLlmForCausalLM.from_pretrained(old_model).train()
    whole = mean_loss(model, old.kept_back)
    monkeypatch.setattr("tsf_llm.training.continual.AT_ONCE", 1)
    assert mean_loss(model, old.kept_back) == pytest.approx(whole, rel=0.02)
    assert model.training


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_name_or_path": "other"}, ["continue_from", "not both"]),
        ({"continue_from": None, "ewc": 1, "replay_data": None}, ["continue_from", "ewc"]),
        ({"replay": 1}, ["replay=1.0", "[0, 1)"]),
        ({"ewc": -1}, ["ewc=-1.0"]),
        ({"replay_data": None}, ["no old bar up to", "replay_data"]),
        ({"head": "regression"}, ["causal_lm model", "--head causal_lm"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(go_on, options, words):
    with pytest.raises(ValueError, match=r".") as refused:
        go_on(**options)
    assert all(word in str(refused.value) for word in words)
