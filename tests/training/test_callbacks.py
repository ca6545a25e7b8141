"""callbacks.py: the trend moves the learning rate and survives a resume; NaN stops the run; one bar shows it."""

import itertools
import json
import math

import pytest
import torch
from safetensors.torch import load_file
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from tqdm import tqdm
from transformers import TrainerControl, TrainerState

from tsf_llm.common.errors import one_line_errors
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.training import callbacks
from tsf_llm.training.arguments import SftArguments
from tsf_llm.training.callbacks import DynamicLrCallback, FiniteCallback, NonFiniteError, trend_factor
from tsf_llm.training.checkpoints import checkpoints, missing_parts

STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 3, "eval_steps": 3, "max_steps": 15}


@pytest.mark.parametrize(
    ("losses", "factor"),
    [
        ([], 1),
        ([1.0, 2.0], 1),  # no trend yet
        ([1.0, 1.01, 1.02], 0.4),
        ([100.0, 101.0, 102.0], 0.4),  # in proportion, whatever the size
        ([1.0, 1.001, 1.002], None),  # rises too slowly to count: a plateau
        ([1.0, 0.9, 1.2], 1),  # neither rises throughout nor stands still
        ([1.0, 1.1, 1.2, 1.3], 0.4**2),
        ([1.0 + 0.1 * i for i in range(9)], 0.01),  # bounded
    ],
)
def test_the_factor_follows_the_trend(losses, factor):
    found = trend_factor(losses, seed=1)
    assert found in (1.0, 2.0) if factor is None else found == pytest.approx(factor)


def test_on_a_plateau_a_seeded_coin_decides():
    flat = [1.0] * 4
    found = [trend_factor(flat, seed=seed) for seed in range(64)]
    assert found == [trend_factor(flat, seed=seed) for seed in range(64)]
    assert set(found) == {1.0, 2.0, 4.0}
    assert max(trend_factor([1.0] * 40, seed=seed) for seed in range(8)) == 4.0


def make(schedule):
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([{"params": [weight]}], lr=0.1)
    return optimizer, schedule(optimizer)


@pytest.mark.parametrize("schedule", [lambda o: LambdaLR(o, lambda step: 1 / (step + 1)), ReduceLROnPlateau])
def test_the_rate_of_any_schedule_is_changed_and_stays_so(schedule, tmp_path):
    args = SftArguments(output_dir=str(tmp_path), dynamic_lr=True)
    optimizer, scheduler = make(schedule)
    state = TrainerState(log_history=[{"eval_loss": 1.0}, {"loss": 3.0}, {"eval_loss": 1.1}])
    callback = DynamicLrCallback()
    callback.on_evaluate(args, state, TrainerControl(), optimizer=optimizer, lr_scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == 0.1
    state.log_history.append({"eval_loss": 1.2})
    callback.on_evaluate(args, state, TrainerControl(), optimizer=optimizer, lr_scheduler=scheduler)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)
    if isinstance(scheduler, LambdaLR):
        optimizer.step()
        scheduler.step()
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02)
        _, fresh = make(schedule)
        fresh.load_state_dict(scheduler.state_dict())
        assert fresh.base_lrs == pytest.approx([0.04])


def test_a_run_with_a_moving_rate_reproduces_and_resumes(train, tmp_path, monkeypatch):
    monkeypatch.setattr(callbacks, "FLAT", 10.0)  # every window counts as a plateau
    options = {**STEPS, "save_total_limit": 9, "dynamic_lr": True, "seed": 2}
    options |= {"lr_scheduler_type": "constant", "logging_steps": 1}
    train(tmp_path, **options)
    whole = load_file(tmp_path / "model.safetensors")
    log = json.loads((tmp_path / "checkpoint-15" / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates == pytest.approx([1e-3] * 10 + [2e-3] * 5)  # after step 9; the log is a step late
    train(tmp_path, **options, resume_from_checkpoint=tmp_path / "checkpoint-12")
    again = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_trend_needs_validations(train, tmp_path):
    with pytest.raises(ValueError, match="dynamic_lr=true follows the validation loss: set eval_strategy"):
        train(tmp_path, dynamic_lr=True, eval_strategy="no", save_strategy="no", load_best_model_at_end=False)


@pytest.fixture
def poisoned(monkeypatch):
    """The training loss becomes NaN in the eighth step."""
    total_loss, calls = TsfLlmForCausalLM.total_loss, []

    def total(self, *args, **kwargs):
        calls.append(self.training)
        loss = total_loss(self, *args, **kwargs)
        return loss * math.nan if self.training and sum(calls) == 8 else loss

    monkeypatch.setattr(TsfLlmForCausalLM, "total_loss", total)


def test_a_loss_that_is_no_number_stops_with_a_way_on(train, tmp_path, poisoned, capsys):
    with pytest.raises(SystemExit, match="2"), one_line_errors("sft"):
        train(tmp_path / "out", **STEPS)
    [line] = [one for one in capsys.readouterr().err.splitlines() if one.startswith("sft: error")]
    assert "the loss is nan in step 8" in line
    good = tmp_path / "out" / "checkpoint-6"
    options = line.partition("a lower rate, ")[2].split()
    assert options == [
        *("--model_name_or_path", str(good), "--learning_rate", "0.0001"),
        *("--output_dir", f"{tmp_path / 'out'}-again"),
    ]
    assert [missing_parts(path) for path in checkpoints(tmp_path / "out")] == [[], []]
    assert not (tmp_path / "out" / "report.json").exists()
    train(options[-1], model_name_or_path=good, learning_rate=1e-4, max_steps=2)  # the way on is one
    assert all(value.isfinite().all() for value in load_file(f"{options[-1]}/model.safetensors").values())


def test_without_a_checkpoint_it_says_so(train, tmp_path, poisoned):
    with pytest.raises(NonFiniteError, match=r"no checkpoint yet: start with a lower rate, --learning_rate 0\.0001$"):
        train(tmp_path, save_strategy="no", eval_strategy="no", load_best_model_at_end=False)


def test_a_rate_that_is_far_too_high_is_noticed(train, tmp_path):
    with pytest.raises(NonFiniteError, match=r"is (nan|inf) in step"):
        train(tmp_path, learning_rate=1e30, warmup_steps=0, num_train_epochs=5)


def test_a_gradient_or_validation_loss_that_is_no_number_stops_too(tmp_path):
    args, state, control = SftArguments(output_dir=str(tmp_path)), TrainerState(global_step=4), TrainerControl()
    layer = torch.nn.Linear(2, 2)
    layer.weight.grad = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    FiniteCallback().on_pre_optimizer_step(args, state, control, model=layer)
    FiniteCallback().on_evaluate(args, state, control, metrics={"eval_loss": 2.0})
    layer.weight.grad[0, 0] = math.inf
    with pytest.raises(NonFiniteError, match="the gradient's norm is inf in step 5"):
        FiniteCallback().on_pre_optimizer_step(args, state, control, model=layer)
    with pytest.raises(NonFiniteError, match="the validation loss is nan in step 5"):
        FiniteCallback().on_evaluate(args, state, control, metrics={"eval_loss": math.nan})


def test_a_line_for_each_validation_where_there_is_no_terminal(train, tmp_path, capsys):
    train(tmp_path, **STEPS, logging_steps=1)
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert [line.partition(":")[0] for line in lines] == [f"step {n} of 15" for n in (3, 6, 9, 12, 15)]
    log = json.loads((tmp_path / "checkpoint-15" / "trainer_state.json").read_text())["log_history"]
    losses = [f"{entry[name]:.4g}" for entry in log for name in ("loss", "eval_loss") if name in entry]
    assert lines[-1].endswith(f": loss {losses[-2]}, validation {losses[-1]}")
    assert "{" not in out


@pytest.mark.parametrize("shown", [True, False])
def test_one_bar_on_a_terminal_and_none_where_it_is_not_wanted(train, tmp_path, capsys, monkeypatch, shown):
    def terminal(*args, disable=None, **options):  # None asks whether there is one
        return tqdm(*args, disable=bool(disable), mininterval=0, ncols=120, **options)

    monkeypatch.setattr(callbacks, "tqdm", terminal)
    train(tmp_path, **STEPS, logging_steps=1, disable_tqdm=not shown)
    out, err = capsys.readouterr()
    while_training = err[: err.rfind("training:") + 9].replace("\r", "\n")  # the end of it writes and reads a folder
    bars = {line.partition(":")[0] for line in while_training.splitlines() if "%|" in line}
    assert bars == ({"training"} if shown else set())
    assert ("15/15" in err, "validation=" in err) == (shown, shown)
    assert ("step 15 of 15" in out, "{'" in out) == (not shown, False)


@pytest.mark.parametrize(("seconds", "steps"), [(30, 30), (20, 20), (1, 10), (300, 60)])
def test_a_limit_of_time_cuts_steps_and_squeezes_the_schedule(train, tmp_path, capsys, monkeypatch, seconds, steps):
    monkeypatch.setattr(callbacks.time, "perf_counter", itertools.count().__next__)  # a second per step
    options = {**STEPS, "eval_strategy": "epoch", "save_strategy": "epoch", "logging_steps": 1}
    train(tmp_path, **options | {"max_steps": 60, "max_seconds": seconds}, early_stopping_patience=0)
    [last] = [path for path in checkpoints(tmp_path) if path.name == f"checkpoint-{steps}"]
    log = json.loads((last / "trainer_state.json").read_text())["log_history"]
    assert (log[-1]["step"], "eval_loss" in log[-1]) == (steps, True)  # validated, and saved, where it ended
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates[-1] < 0.02 * max(rates) or steps == 10
    told = [line for line in capsys.readouterr().out.splitlines() if "seconds allow" in line]
    assert told == ([] if steps == 60 else [f"{steps} of 60 steps: as many as {seconds} seconds allow here"])


def test_a_limit_of_time_is_no_less_than_none(train, tmp_path):
    with pytest.raises(ValueError, match=r"max_seconds=-1\.0: must be 0 or more"):
        train(tmp_path, max_seconds=-1)
