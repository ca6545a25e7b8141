"""load.py: both servers answer, slow clients hinder nobody, the table has a row for each."""

import json

import pytest

from tsf_llm.benchmarks import load


def test_both_servers_answer_under_load(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- load -->\n<!-- /load -->\n")
    words = ["--quick", "--requests", "6", "--clients", "3", "--json", tmp_path / "load.json", "--write", page]
    load.main([*map(str, words), "--figure", str(tmp_path / "memory.png")])
    found = json.loads((tmp_path / "load.json").read_text())
    for name in (load.SHARED, load.ALONE):
        assert found[name]["errors"] == 0
        assert found[name]["statuses"]["200"] >= 6
        assert 0 < found[name]["p50"] <= found[name]["p99"]
    assert found[load.ALONE]["requests_per_pass"] == 1 <= found[load.SHARED]["requests_per_pass"]
    assert page.read_text().count("\n| ") == 4
    assert (tmp_path / "memory.png").stat().st_size > 1000


@pytest.mark.parametrize("words", [["--clients", "0"], ["--slow", "-1"], ["--figure", "memory.gif"]])
def test_what_is_no_load_is_refused(words):
    with pytest.raises((ValueError, SystemExit)):
        load.main(words)
