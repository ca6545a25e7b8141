"""Two processes train what one does: the same losses and, but for rounding, the same weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.train_scripts import sft

CONFIGS = Path(sft.__file__).parent / "configs" / "accelerate"
PYTHON = [sys.executable, "-m"]
LAUNCHERS = {
    "torchrun": [*PYTHON, "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    "ddp": [*PYTHON, "accelerate.commands.launch", "--config_file", CONFIGS / "ddp.yaml", "-m"],
    "fsdp2": [*PYTHON, "accelerate.commands.launch", "--config_file", CONFIGS / "fsdp2.yaml"],
}
STEPS = 8


@pytest.fixture(scope="module")
def options(small_model):
    """A run whose gradient is a sum over windows: the balance of experts, a product over a batch, is left out."""
    model = {**json.loads(small_model), "router_aux_loss_coef": 0.0}
    return {"model_config": json.dumps(model), "max_steps": STEPS, "logging_steps": 1} | {
        f"{what}_{name}": value for what in ("eval", "save") for name, value in (("strategy", "steps"), ("steps", 4))
    }


@pytest.fixture(scope="module")
def alone(train, options, tmp_path_factory):
    """What one process leaves."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, **options, per_device_train_batch_size=32)
    return folder


@pytest.fixture
def together(prices, options, command_line, tmp_path):
    """`together(launcher)` -> what two processes leave that share the same batches."""

    def run(launcher, **further):
        script = Path(__file__).parent / "fsdp_on_cpu.py" if launcher == "fsdp2" else "tsf_llm.train_scripts.sft"
        chosen = {"context_length": 16, "horizon": 2, "stride": 2, "n_bins": 32, "report_samples": 8, "data": prices}
        chosen |= {
            **options,
            "per_device_train_batch_size": 16,
            "output_dir": tmp_path,
            "disable_tqdm": True,
            **further,
        }
        chosen |= {} if launcher == "fsdp2" else {"use_cpu": True}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} | (
            {} if launcher == "fsdp2" else {"ACCELERATE_USE_CPU": "true"}
        )
        done = subprocess.run(
            [*map(str, LAUNCHERS[launcher]), str(script), *command_line(**chosen)],
            env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return tmp_path

    return run


def losses(folder, name="loss"):
    state = json.loads((folder / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return [entry[name] for entry in state["log_history"] if name in entry]


def check_same(folder, alone):
    assert len(losses(folder)) == STEPS
    torch.testing.assert_close(losses(folder), losses(alone), atol=2e-5, rtol=0)
    torch.testing.assert_close(losses(folder, "eval_loss"), losses(alone, "eval_loss"), atol=2e-5, rtol=0)
    ours, theirs = load_file(folder / "model.safetensors"), load_file(alone / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=2e-4, rtol=0, msg=name)
    assert json.loads((folder / "report.json").read_text())["after"]["crps"] > 0


def test_two_processes_train_what_one_does(together, alone):
    check_same(together("torchrun"), alone)


@pytest.mark.slow
def test_the_shipped_ddp_config_does_too(together, alone):
    check_same(together("ddp"), alone)


@pytest.mark.slow
def test_sharded_training_does_too_and_its_checkpoints_load_as_they_are(together, alone, code_files):
    folder = together("fsdp2")
    check_same(folder, alone)
    for saved in (folder, folder / f"checkpoint-{STEPS}"):
        model = TsfLlmForCausalLM.from_pretrained(saved)
        assert model.config.auto_map["AutoModelForCausalLM"] == "modeling_tsf_llm.TsfLlmForCausalLM"
        assert {path.name for path in saved.glob("*.py")} == code_files
    (folder / "model.safetensors").rename(folder / "whole.safetensors")
    together("fsdp2", resume_from_checkpoint=folder / "checkpoint-4")
    whole, resumed = load_file(folder / "whole.safetensors"), load_file(folder / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["quantile", "regression"])
def test_heads_too(train, together, options, tmp_path, head):
    train(tmp_path / "alone", **options, per_device_train_batch_size=32, head=head)
    check_same(together("torchrun", head=head), tmp_path / "alone")
