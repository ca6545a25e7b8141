"""footprint.py: sizes on disk, and times of contestants that take turns."""

import time

import pytest
import torch
from safetensors.torch import save_file

from tsf_llm.evaluation import cost as footprint


def test_weights_are_weighed_without_checkpoints_and_other_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": torch.zeros(1000)}, tmp_path / "model.safetensors")
    (tmp_path / "loss.png").write_bytes(b"0" * 9000)
    (tmp_path / "checkpoint-1").mkdir()
    save_file({"a": torch.zeros(1000)}, tmp_path / "checkpoint-1" / "model.safetensors")
    assert footprint.weight_bytes(tmp_path) == (tmp_path / "model.safetensors").stat().st_size
    assert 4000 < footprint.weight_bytes(tmp_path) < 4200


def test_contestants_take_turns_and_the_first_is_the_reference():
    order = []

    def task(name, milliseconds):
        def run():
            order.append(name)
            time.sleep(milliseconds / 1e3)

        return run

    result = footprint.latencies({"a": task("a", 4), "b": task("b", 12)}, repeats=4)
    turns = order[2 * footprint.WARM_UP :]
    assert turns == ["a", "b", "b", "a"] * 2
    assert result["a"]["ratio"] == 1
    assert 1.5 < result["b"]["ratio"] < 4.5
    assert 4 <= result["a"]["ms"] < result["b"]["ms"]
    with pytest.raises(ValueError, match="repeats=0"):
        footprint.latencies({"a": task("a", 0)}, repeats=0)
