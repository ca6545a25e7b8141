import re

import pytest

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.evaluation.reconcile import reconcile
from tsf_llm.evaluation.track_record_page import print_record, remarks, warning_of


@pytest.fixture
def written(bars, log_forecasts, tmp_path):
    """`written(bars, ...)` -> what was found, and the page; of a record with late rows and a name that is markup."""

    def write(data=bars, origins=slice(-40, -1)):
        times = bars["timestamp"].unique()
        log_forecasts(bars, times[origins])
        path = log_forecasts(bars, times[-60:-50], whole=True, model="<b>late & bold</b>", model_digest="dd" * 16)
        found = reconcile(path, data, kind=OHLCV, out=tmp_path / "out")
        return found, (tmp_path / "out" / "track_record.html").read_text(encoding="utf-8")

    return write


def test_the_page_has_the_headline_the_months_and_what_came_too_late(written, bars):
    found, page = written()
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert found["models"][0]["steps"]["2"]["verdict"] in text
    assert text.index("2 bars ahead") < text.index("Made after the fact: 2 bars ahead")
    assert all(month in text for month in found["models"][0]["steps"]["2"]["months"])
    assert found["head"] in text
    assert page.count("data:image/png") == 6
    assert "&lt;b&gt;late &amp; bold" in page
    assert "<b>late" not in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert page.count('class="verdict') == 1  # the late model has none


def test_a_page_without_an_outcome_says_so(written, bars):
    found, page = written(bars[bars["timestamp"] <= bars["timestamp"].unique()[-65]])
    assert found["counts"]["scored"] == 0
    assert "nothing to score yet" in page
    assert "the data have no bar at the origin" in page


def test_the_terminal_has_the_same(written, capsys):
    found, _ = written()
    print_record(found, OHLCV)
    told = capsys.readouterr().out
    assert found["head"] in told.replace("\n", "")
    assert "Made in time" in told
    assert "Made after the fact" in told
    assert "tiny aaaaaa, 2 ahead" in told


def test_what_a_reader_must_know_is_said():
    record = {"open": {"1": 2}, "unmatched": {"the data have no such ticker": {"rows": 3, "tickers": ["A", "B"]}}}
    record |= {"other_close": {"C": {"origins": 1, "ratio": 0.5}}, "failed": {"har_range": "too short"}}
    record |= {"jumps": {"D": "close moved by -75 %, as in a split"}}
    record |= {"clock_went_back": 1, "sound": False, "broken": "row 4 is not as it was written", "broken_at": 4}
    lines = remarks(record)
    assert [line.split(":")[0] for line in lines[:4]] == [
        "Open, their bars have not come",
        "3 rows have no outcome",
        "C",
        "har_range failed",
    ]
    assert "0.5 times as high" in lines[2]
    assert "clock went back" in lines[4]
    assert lines[5] == "D: among its outcomes, close moved by -75 %, as in a split"
    assert "row 4 is not as it was written" in warning_of(record)
    assert warning_of(record | {"sound": True}) is None
