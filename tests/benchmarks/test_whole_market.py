"""The benchmark runs the command that it names; how much memory anything takes is never asserted."""

import json

import pytest

from tsf_llm.benchmarks import whole_market
from tsf_llm.data_prep.sources import read_bars


def test_layouts_hold_the_same_tickers(tmp_path, monkeypatch):
    monkeypatch.setattr(whole_market, "BARS", 60)
    places = whole_market.write_market(tmp_path, 2)
    one, other = (read_bars(str(place)) for place in places.values())
    assert list(places) == list(whole_market.LAYOUTS)
    assert one["ticker"].value_counts().to_dict() == {"T00000": 60, "T00001": 60}
    assert (one["close"] - other["close"]).abs().max() < 1e-9


def test_a_row_has_what_the_command_wrote(tmp_path):
    row = whole_market.measure("plain", "one", 1, whole_market.write_market(tmp_path, 1)["one file by date"], "mini")
    assert row["rows"] == whole_market.HORIZON
    assert row["peak_mb"] > 50
    told = whole_market.table([{**row, "tickers": 3000, "seconds": 100.0, "peak_mb": 812.4}])
    assert told.cells == [["plain", "one", "3,000", "100", "30.0", "812"]]
    with pytest.raises(ValueError, match="see why"):
        whole_market.measure("plain", "one", 1, tmp_path / "none", "mini")


@pytest.mark.slow
def test_quick(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("<!-- whole_market -->\n<!-- /whole_market -->\n")
    assert whole_market.main(["--quick", "--json", str(tmp_path / "out.json"), "--markdown", str(page)]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["tickers"] for row in rows] == [1, 3, 3, 3]
    assert "| --engine local | one file by date | 3 |" in page.read_text()
    assert "peak MB" in capsys.readouterr().out


def test_refusals(capsys):
    with pytest.raises(SystemExit) as end:
        whole_market.main(["--tickers", "0"])
    assert end.value.code == 2
    assert "give 1 or more" in capsys.readouterr().err
