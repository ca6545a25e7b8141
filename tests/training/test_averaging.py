"""averaging.py: the average by hand, what is saved and chosen by it, and that a resume is exact."""

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.training.averaging import UNAVERAGED, WeightAverage

STEPS = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 1, "eval_steps": 1, "save_total_limit": 99}
DECAY = 0.8


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def averaged(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaged")
    return folder, train(folder, **STEPS, max_steps=12, ema_decay=DECAY, early_stopping_patience=0)


def test_checkpoints_hold_the_average_by_hand(averaged):
    folder, report = averaged
    assert report["ema_decay"] == DECAY
    mean = weights(folder / "checkpoint-1", UNAVERAGED)  # the first step is the average's start
    for step in range(1, 13):
        now = weights(folder / f"checkpoint-{step}", UNAVERAGED)
        if step > 1:
            decay = min(DECAY, step / (9 + step))  # 1 + n over 10 + n, n steps before it
            mean = {name: decay * mean[name] + (1 - decay) * now[name] for name in now}
        saved = weights(folder / f"checkpoint-{step}")
        for name, value in mean.items():
            torch.testing.assert_close(saved[name], value, atol=1e-6, rtol=1e-5)
    assert not same(now, saved)


def test_training_itself_is_the_same_and_its_choice_another(averaged, train, tmp_path):
    folder, report = averaged
    plain = train(tmp_path, **STEPS, max_steps=12, early_stopping_patience=0)
    for step in (1, 7, 12):
        assert same(weights(folder / f"checkpoint-{step}", UNAVERAGED), weights(tmp_path / f"checkpoint-{step}"))
    assert report["valid_loss"] != plain["valid_loss"]
    assert any(same(weights(folder), weights(one)) for one in folder.glob("checkpoint-*"))
    assert not (folder / UNAVERAGED).exists()


@pytest.mark.parametrize("step", [1, 5])
def test_resumed_equals_uninterrupted(averaged, train, tmp_path, step):
    folder, _ = averaged
    options = {**STEPS, "max_steps": 12, "ema_decay": DECAY, "early_stopping_patience": 0}
    train(tmp_path, **options, resume_from_checkpoint=folder / f"checkpoint-{step}")
    for name in ("model.safetensors", UNAVERAGED):
        assert same(weights(tmp_path / "checkpoint-12", name), weights(folder / "checkpoint-12", name))
    assert same(weights(tmp_path), weights(folder))


def test_without_a_best_checkpoint_the_last_average_is_saved(averaged, train, tmp_path):
    folder, _ = averaged
    off = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    train(tmp_path, **off, max_steps=12, ema_decay=DECAY)
    assert same(weights(tmp_path), weights(folder / "checkpoint-12"))


@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_a_checkpoint_of_the_other_kind_is_refused(averaged, train, tmp_path, decay):
    checkpoint = averaged[0] / "checkpoint-5"
    if decay:
        train(tmp_path / "plain", **STEPS, max_steps=2)
        checkpoint = tmp_path / "plain" / "checkpoint-1"
    with pytest.raises(ValueError, match=rf"averag.* its weights, and ema_decay={decay:g}"):
        train(tmp_path / "out", max_steps=12, ema_decay=decay, resume_from_checkpoint=checkpoint)


def test_the_weights_come_back_after_a_look():
    model = torch.nn.Linear(3, 2)
    average = WeightAverage(model, 0.9)
    for _ in range(3):
        with torch.no_grad():
            model.weight += 1
        average.on_optimizer_step(None, None, None)
    before = model.weight.clone()
    with average.in_place():
        assert not torch.equal(model.weight, before)
    assert torch.equal(model.weight, before)
