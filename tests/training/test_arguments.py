"""arguments.py: what trains nothing is refused before anything is read, and what to resume from."""

import pytest
import torch

from tsf_llm.train_scripts import sft
from tsf_llm.training import arguments


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("horizon", 0),
        ("stride", 0),
        ("context_length", -1),
        ("n_bins", 10**8),
        ("report_samples", 1),
        ("report_samples", -3),
        ("train_through", "2015-99-01"),
        ("learning_rate", "nan"),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", -1),
        ("num_train_epochs", 0),
        ("max_steps", 0),
        ("max_grad_norm", -1),
        ("weight_decay", "nan"),
        ("save_total_limit", 0),
        ("early_stopping_patience", -1),
        ("seed", -1),
        ("ema_decay", 1),
        ("ema_decay", "nan"),
        ("report_to", "nothing-of-this-name"),
        ("model_config", "[1]"),
        ("model_config", "{"),
        ("output_dir", ""),
    ],
)
def test_values_that_train_nothing_are_refused_before_anything_is_read(command_line, option, value):
    with pytest.raises(ValueError, match=f"^{option}"):
        sft.parse(command_line(**{option: value}))


def test_resume_true_means_the_last_checkpoint(base_folder, tmp_path):
    [*_, first] = sft.parse(["--output_dir", str(tmp_path), "--resume_from_checkpoint", "true"])
    assert first.checkpoint_to_resume() is None  # a first run has none, and starts
    [*_, again] = sft.parse(["--output_dir", str(base_folder), "--resume_from_checkpoint", "true"])
    assert "checkpoint-" in again.checkpoint_to_resume()


@pytest.mark.skipif(torch.cuda.is_available(), reason="fp16 works on this machine")
def test_float16_is_refused_on_a_cpu(train, tmp_path):
    with pytest.raises(ValueError, match="fp16=true needs a GPU; on a CPU use bf16=true"):
        train(tmp_path, fp16=True)


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_missing_package_is_named(train, tmp_path, monkeypatch, name):
    monkeypatch.setattr(arguments, "get_available_reporting_integrations", list)
    with pytest.raises(ValueError, match=rf"report_to={name}: not installed; pip install 'tsf-llm\[train\]'"):
        train(tmp_path, report_to=name)


@pytest.mark.parametrize(
    ("options", "speeds", "chosen", "told"),
    [
        ({"probe_bf16": True}, (58.0, 1.2), False, "1.2 GFLOP/s, in fp32 at 58: training in fp32"),
        ({"probe_bf16": True}, (100.0, 450.0), True, "training in bf16"),
        ({"probe_bf16": True}, (100.0, 110.0), False, "training in fp32"),
        ({"probe_bf16": True, "bf16": False}, (100.0, 450.0), False, None),
        ({"bf16": True}, (58.0, 1.2), True, "bf16=true is obeyed, but here a product in bf16 runs at 1.2 GFLOP/s"),
        ({"bf16": True}, (100.0, 450.0), True, None),
        ({}, (100.0, 450.0), False, None),
    ],
)
def test_the_faster_precision_is_chosen_and_told(
    command_line, tmp_path, monkeypatch, caplog, options, speeds, chosen, told
):
    monkeypatch.setattr(arguments, "matmul_speeds", lambda device: dict(zip(("fp32", "bf16"), speeds, strict=True)))
    monkeypatch.setattr(arguments.logger, "propagate", True)
    [*_, training] = sft.parse(command_line(output_dir=tmp_path, **options))
    assert training.bf16 is chosen
    assert training.mixed_precision == ("bf16" if chosen else "no")
    assert len(caplog.messages) == (told is not None)
    assert (told or "") in " ".join(caplog.messages)


def test_several_processes_do_not_time(command_line, tmp_path, monkeypatch):
    """Each has a clock of its own, and they must agree."""
    monkeypatch.setattr(arguments, "several_processes", lambda: True)
    monkeypatch.setattr(arguments, "matmul_speeds", None)
    monkeypatch.setattr(arguments, "has_bf16", lambda device: True)
    [*_, training] = sft.parse(command_line(output_dir=tmp_path, probe_bf16=True))
    assert training.bf16 is True
