"""int8.py: a row for each contestant, and the error of one that does not run."""

import copy

import pytest

from tsf_llm.benchmarks import int8
from tsf_llm.quantization_tsf_llm import to_int8


def broken(model):
    raise NotImplementedError("no such product, types=(Tensor,)")


def test_each_contestant_has_a_row(tiny_model, monkeypatch):
    contestants = {"float32": copy.deepcopy, "ours": to_int8, "other": broken}
    monkeypatch.setattr(int8, "CONTESTANTS", contestants)
    rows = int8.measure(tiny_model(), repeats=1)
    same, ours, other = rows.values()
    assert same["distance"] == 0 < ours["distance"] < 0.1
    assert ours["bytes"] < same["bytes"]
    assert same["one"]["ratio"] == 1
    assert other == {"error": "NotImplementedError: no such product"}
    lines = int8.table(rows).splitlines()
    assert len(lines) == 5
    assert len({line.count("|") for line in lines}) == 1


def test_a_missing_torchao_is_told(monkeypatch):
    monkeypatch.setattr(int8, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install torchao"):
        int8.main(["--model", "nowhere"])
