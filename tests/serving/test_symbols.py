"""symbols.py: bars of symbols from a stand-in for Yahoo; what is on disk answers until the next bar is due."""

import importlib.util
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

from tsf_llm.data_prep import yahoo
from tsf_llm.serving import symbols
from tsf_llm.serving.symbols import Symbols, is_fresh

spec = importlib.util.spec_from_file_location("stand_in_yahoo", Path(__file__).parents[1] / "stand_in_yahoo.py")
stand_in_yahoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_yahoo)
server, clock = stand_in_yahoo.server, stand_in_yahoo.clock  # fixtures
pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture(autouse=True)
def recent_days(server):
    """Bars that end with the last workday before today."""
    raw = stand_in_yahoo.raw_bars()
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    server.frame = raw.set_axis(pd.bdate_range(end=yesterday, periods=len(raw)))
    server.plan = {name: ["ok"] for name in ("AAPL", "MSFT")}


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(symbols, "POLITE", {"rate": 1000.0, "retries": 0, "timeout": 10.0})
    return Symbols(tmp_path / "symbols")


def backdate(source, **fields):
    """As if the downloads had been made earlier."""
    manifest = yahoo.read_manifest(source.folder)
    for entry in manifest["tickers"].values():
        entry |= fields
    yahoo.write_json(manifest, source.folder / "manifest.json")


OLD = {"last": "2020-01-02", "downloaded_at": "2020-01-03T00:00:00+00:00"}


def test_bars_come_with_their_last_day_and_when_they_were_fetched(server, source):
    found = source.recent("aapl, MSFT,NONE")
    assert found.bars["ticker"].value_counts().to_dict() == {"AAPL": 9, "MSFT": 9}
    assert found.bars["timestamp"].max() == server.frame.index[-1]
    assert found.skipped == {"NONE": "unknown or delisted: No data found, symbol may be delisted"}
    for facts in found.symbols.values():
        assert facts.keys() == {"as_of", "fetched_at"}
        assert facts["as_of"] == str(server.frame.index[-1].date())
        assert datetime.now(UTC) - datetime.fromisoformat(facts["fetched_at"]) < timedelta(minutes=1)


def test_what_is_on_disk_answers_until_the_next_bar_is_due(server, source):
    first = source.recent("AAPL")
    asked = dict(server.asked)
    pd.testing.assert_frame_equal(Symbols(source.folder).recent(["AAPL"]).bars, first.bars)
    assert server.asked == asked
    backdate(source, **OLD)
    assert source.recent("AAPL").symbols["AAPL"]["as_of"] == first.symbols["AAPL"]["as_of"]
    assert server.asked["AAPL"] > asked["AAPL"]


@pytest.mark.parametrize(
    ("now", "last", "age", "fresh"),
    [
        ("2024-01-13 00:20", "2024-01-12", 10, True),
        ("2024-01-14 23:00", "2024-01-12", 2000, True),  # Sunday: Friday's bar is the last
        ("2024-01-15 23:00", "2024-01-12", 2000, True),  # Monday is not over
        ("2024-01-16 00:05", "2024-01-12", 2000, False),
        ("2024-01-16 12:00", "2024-01-12", 10, True),  # a holiday: asked again later
        ("2024-01-16 12:00", "2024-01-12", 16, False),
    ],
)
def test_how_long_a_download_is_fresh(now, last, age, fresh):
    now = datetime.fromisoformat(now).replace(tzinfo=UTC)
    fetched = (now - timedelta(minutes=age)).isoformat()
    assert is_fresh({"last": last, "downloaded_at": fetched}, now) is fresh


def test_bars_that_cannot_be_renewed_say_so(server, source):
    source.recent("AAPL")
    backdate(source, **OLD)
    server.plan["AAPL"] = [503]
    found = source.recent("AAPL")
    assert len(found.bars) == 9
    assert found.symbols["AAPL"]["stale"] == "not renewed: no answer: Yahoo answered HTTP 503"
    assert found.skipped == {}


def test_a_failure_is_not_asked_for_again_at_once(server, source, monkeypatch):
    for _ in range(3):
        with pytest.raises(ValueError, match=r"^no bars of GONE: unknown or delisted: No data found, symbol"):
            source.recent("GONE")
    assert server.asked["GONE"] == 1
    server.plan["GONE"] = ["ok"]
    monkeypatch.setattr(symbols, "FORGET", 0.0)
    assert len(source.recent("GONE").bars) == 9


def test_no_network(server, source):
    server.shutdown()
    server.server_close()
    with pytest.raises(yahoo.Busy, match=r"^no answer from Yahoo Finance \(AAPL: no answer: .*\)$") as error:
        source.recent("AAPL")
    assert "\n" not in str(error.value)


def test_many_threads_make_one_download(server, source):
    found = []
    threads = [threading.Thread(target=lambda: found.append(source.recent("AAPL"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(one.bars) for one in found] == [9] * 6
    assert server.asked["AAPL"] == 2  # the time zone and the bars


def test_others_are_waited_for_not_for_ever(server, source, monkeypatch):
    monkeypatch.setattr(symbols, "WAIT", 0.05)
    with source._alone(), pytest.raises(yahoo.Busy, match="other symbols are being downloaded"):
        Symbols(source.folder).recent("AAPL")


def test_the_oldest_leave_the_disk(server, source, monkeypatch):
    monkeypatch.setattr(symbols, "KEPT", 1)
    source.recent("AAPL")
    backdate(source, downloaded_at="2020-01-03T00:00:00+00:00")
    source.recent("MSFT")
    assert list(yahoo.read_manifest(source.folder)["tickers"]) == ["MSFT"]
    assert [path.parent.name for path in source.folder.rglob("*.csv")] == ["MSFT"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", "no ticker given"),
        ("../x", "is no ticker of Yahoo Finance"),
        ([f"T{i}" for i in range(33)], "33 symbols at once: ask for 32 or fewer"),
    ],
)
def test_wrong_input(server, source, asked, message):
    with pytest.raises(ValueError, match=message):
        source.recent(asked)
    assert server.seen == []
