"""grpo.py: rewards by hand, whose bars a path is scored with, what is learned, and what is written and refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tsf_llm.serving.loading import load_pipeline
from tsf_llm.train_scripts import grpo


@pytest.fixture
def tune(base_folder, prices, command_line):
    """`tune(output_dir, **options)` -> the report of a small run on `prices`."""
    usual = {"model_name_or_path": base_folder, "data": prices, "horizon": 2, "report_samples": 8, "pair_samples": 4}
    usual |= {"max_steps": 4, "per_device_train_batch_size": 16, "num_generations": 4, "learning_rate": 1e-3}
    usual |= {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "disable_tqdm": True}

    def run(output_dir, **options):
        return grpo.main(*grpo.parse(command_line(**{**usual, "output_dir": output_dir, **options})))

    return run


def same(a, b):
    a, b = (load_file(folder / "model.safetensors") for folder in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_leaves_a_model_its_processor_and_a_report(tune, base_folder, tmp_path):
    report = tune(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == json.loads(json.dumps(report))
    for part in ("before", "after"):
        assert {"crps", "coverage_80", "utility", "pair_accuracy", "margin"} <= set(report[part])
    assert len(report["rewards"]) == report["steps"] == 4
    assert not same(tmp_path, base_folder)
    pipe = load_pipeline(tmp_path)
    assert pipe.processor.fitted_through == report["train_through"]
    assert not list(tmp_path.glob("*.bin"))


@pytest.mark.slow
def test_low_rank_updates_near_the_reference_reproduce_and_resume(tune, base_folder, tmp_path):
    options = {"lora_r": 2, "beta": 0.1}
    for name in ("a", "b"):
        tune(tmp_path / name, **options)
    assert same(tmp_path / "a", tmp_path / "b")
    assert not same(tmp_path / "a", base_folder)
    assert (tmp_path / "a" / "adapter" / "adapter_model.safetensors").is_file()
    load_pipeline(tmp_path / "a")
    report = tune(tmp_path / "b", **{**options, "max_steps": 6}, resume_from_checkpoint="true")
    assert report["steps"] == 6
    assert not same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": "sharpe"}, ["sharpe", "pnl"]),
        ({"learning_rate": 0}, ["learning_rate=0"]),
        ({"beta": 0.1}, ["beta=0.1", "lora_r"]),
        ({"cost_bp": -1}, ["cost_bp=-1"]),
    ],
)
def test_bad_input_is_refused_with_a_remedy(tune, tmp_path, options, words):
    with pytest.raises(ValueError, match=words[0]) as refused:
        tune(tmp_path / "out", **options)
    assert all(word in str(refused.value) for word in words)


def test_a_head_for_numbers_is_refused(tune, train, tmp_path):
    train(tmp_path / "head", head="regression", num_train_epochs=1)
    with pytest.raises(ValueError, match="samples no paths"):
        tune(tmp_path / "out", model_name_or_path=tmp_path / "head")
