"""The benchmark of streams measures what it says; how long anything takes is never asserted."""

import json
from pathlib import Path

import pytest

from tsf_llm.benchmarks import streaming

MINI = Path(streaming.__file__).parents[1] / "mini"


def test_it_says_what_a_bar_costs_and_how_far_the_stream_lies_from_the_windows(tmp_path, capsys):
    assert (
        streaming.main(
            [
                "--quick",
                "--models",
                str(MINI),
                "--symbols",
                "1",
                "3",
                "200",
                "--json",
                str(tmp_path / "streaming.json"),
            ]
        )
        == 0
    )
    found = json.loads((tmp_path / "streaming.json").read_text())["models"][str(MINI)]
    assert [one["symbols"] for one in found["cost"]] == [1, 3, 200]
    assert found["cost"].pop()["step"]["model"] > 0
    for one in found["cost"]:
        for name in {"step", "recompute", "later"} & one.keys():
            assert 0 < one[name]["model"] < one[name]["all"]
            assert 0 < one[name]["features"] < one[name]["all"]
        assert one["bytes"] < 200_000
    for one in found["distance"].values():
        assert one["bars"] > 300
        assert abs(one["relative"]) < 0.001
        assert 0 < one["quantiles_apart"] < one["quantiles_apart_p99"] < one["quantiles_apart_most"] < 0.05
    assert "kB per symbol" in capsys.readouterr().out


def test_numbers_below_one_are_refused():
    with pytest.raises(ValueError, match="give 1 or more"):
        streaming.Arguments(symbols=[0])
