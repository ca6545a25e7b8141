"""precision.py: two speeds of this machine, and what several processes are told."""

import torch

from tsf_llm.training.precision import device_here, has_bf16, matmul_speeds, several_processes


def test_both_precisions_are_timed_once():
    speeds = matmul_speeds("cpu")
    assert speeds.keys() == {"fp32", "bf16"}
    assert min(speeds.values()) > 0
    assert matmul_speeds("cpu") is speeds


def test_a_cpu_is_told_by_its_name(monkeypatch):
    assert device_here(use_cpu=True) == "cpu"
    assert device_here(use_cpu=False) == (
        "cpu" if not torch.accelerator.is_available() else device_here(use_cpu=False)
    )
    assert not has_bf16("cpu")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert not several_processes()
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert several_processes()
