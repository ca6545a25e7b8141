"""The benchmark of sampled paths measures what it says; how long anything takes is never asserted."""

import json
from pathlib import Path

import pytest

from tsf_llm.benchmarks import paths

MINI = Path(paths.__file__).parents[1] / "mini"


def test_it_says_what_paths_say_and_cost(tmp_path, capsys):
    target = tmp_path / "paths.json"
    arguments = ["--quick", "--model", str(MINI), "--origins", "2", "--steps", "1", "4", "--json", str(target)]
    assert paths.main(arguments) == 0
    found = json.loads(target.read_text())
    error = {(one["numbers"], one["paths"], one["step"]): one["error"] for one in found["error"]}
    assert len(error) == 8
    for step in (1, 4):
        assert error["stratified", 64, step] < error["plain", 64, step]
    assert all(0 < one["crps"] < 3 for one in found["error"])
    assert [one["paths"] for one in found["cost"]] == [1, *paths.NUMBERS]
    assert found["cost"][0]["ratio"] == found["cost"][0]["tokens"] == 1
    assert "error of quantiles" in capsys.readouterr().out


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="give 1 or more"):
        paths.Arguments(origins=0)
