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


def test_the_table_is_written_between_its_markers(tiny_model, monkeypatch, tmp_path):
    tiny_model().save_pretrained(tmp_path / "model")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- torchao -->\nold\n<!-- /torchao -->\nafter\n")
    monkeypatch.setattr(int8, "CONTESTANTS", {"float32": copy.deepcopy})
    monkeypatch.setattr(int8, "find_spec", lambda name: name)
    monkeypatch.setattr(int8, "version", lambda name: "1.0")
    int8.main(["--model", str(tmp_path / "model"), "--repeats", "1", "--write", str(page)])
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    assert any(line.startswith("| float32 |") for line in lines)
