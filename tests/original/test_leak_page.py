"""leak_page.py: what the command writes, and the page that has its figures."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tsf_llm.common.pages import fill
from tsf_llm.original import leak_page as leak
from tsf_llm.serving import cli

PAGE = Path(leak.__file__).parents[1] / "docs" / "leak.md"


def test_the_command_writes_json_and_a_plot(tmp_path, monkeypatch, capsys, make_bars):
    frame = pd.concat([make_bars(700, ticker="AAA"), make_bars(800, ticker="BBB", seed=1)])
    frame.to_csv(tmp_path / "prices.csv", index=False)
    words = ["leak", "--data", tmp_path / "prices.csv", "--ticker", "BBB", "--out", tmp_path / "out", "--seed", 3]
    monkeypatch.setattr(sys, "argv", ["tsf-llm", *map(str, words)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "random_walk_with_leak" in capsys.readouterr().out
    written = json.loads((tmp_path / "out" / "leak.json").read_text())
    assert (written["tickers"], written["seed"], written["horizon"]) == (["BBB"], 3, 2)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"leak.json", "leak.png", ".tsf_llm.json"}
    assert Image.open(tmp_path / "out" / "leak.png").size[0] > 900


@pytest.mark.parametrize(
    ("error", "words"),
    [(1e-12, "follows exactly"), (0.0123, "follows to within 0.012"), (None, "No input looks as far")],
)
def test_whether_the_target_follows_is_said(error, words):
    assert words in leak.reconstruction({"horizon": 10, "reconstruction": {"max_error": error, "n": 99}})


def test_the_page_has_the_measured_figures(results):
    page = PAGE.read_text(encoding="utf-8")
    assert fill(page, leak.markdown(results), leak.MARKER) == page


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"rows": []}')
    with pytest.raises(ValueError, match="write one with tsf-llm leak"):
        leak.read(tmp_path / "other.json")
