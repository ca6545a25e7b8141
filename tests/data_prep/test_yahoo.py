"""Downloads over real HTTP, from a stand-in for Yahoo. Time is a fake one wherever a wait is checked."""

import importlib.util
import itertools
import json
import os
import signal
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
import yfinance

from tsf_llm.data_prep import yahoo
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving import cli

spec = importlib.util.spec_from_file_location("stand_in_yahoo", Path(__file__).parents[1] / "stand_in_yahoo.py")
stand_in_yahoo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stand_in_yahoo)
DAYS, raw_bars, forget, redirect = (getattr(stand_in_yahoo, n) for n in ("DAYS", "raw_bars", "forget", "redirect"))
server, clock = stand_in_yahoo.server, stand_in_yahoo.clock  # fixtures
PERIOD = {"start": "2024-01-02", "end": "2024-01-12"}
pytestmark = pytest.mark.usefixtures("clock")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "raw"


def files(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())


# What is written


def test_prices_are_adjusted_and_the_folder_reads_as_it_is(server, out):
    server.plan = {"AAPL": ["ok"], "BRK-B": ["ok"]}
    report = yahoo.download("AAPL, brk-b,AAPL", **PERIOD, out=out)
    assert report == {"downloaded": ["AAPL", "BRK-B"], "kept": [], "failed": {}}
    bars = read_bars(out)
    assert bars["ticker"].unique().tolist() == ["AAPL", "BRK-B"]
    raw, apple = server.frame, bars[bars["ticker"] == "AAPL"]
    factor = (raw["adjclose"] / raw["close"]).to_numpy()
    assert set(factor.round(2)) == {0.99, 1.0}
    assert apple["timestamp"].tolist() == DAYS.tolist()  # the exchange's days, not UTC's
    for name in ["open", "high", "low", "close"]:
        pd.testing.assert_series_equal(
            apple[name], pd.Series(raw[name].to_numpy() * factor, name=name), check_index=False
        )
    assert apple["volume"].tolist() == raw["volume"].tolist()


def test_prices_are_those_of_yfinance(server, out, tmp_path):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", **PERIOD, out=out)
    forget(tmp_path / "again")
    theirs = yfinance.download("AAPL", start="2024-01-02", end="2024-01-13", progress=False, multi_level_index=False)
    ours = read_bars(out).set_index("timestamp")
    for name in ["Open", "High", "Low", "Close", "Volume"]:
        assert ours[name.lower()].tolist() == pytest.approx(theirs[name].tolist(), rel=1e-12)


def test_the_manifest_says_what_came_when(server, out):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", **PERIOD, out=out)
    manifest = json.loads((out / "manifest.json").read_text())
    entry = manifest["tickers"]["AAPL"]
    assert files(out) == ["manifest.json", entry["file"]]
    stamp = pd.Timestamp(entry.pop("downloaded_at"))
    assert stamp.tzinfo is not None
    assert entry == {
        "source": "yahoo",
        "interval": "1d",
        "start": "2024-01-02",
        "end": "2024-01-12",
        "file": f"price_history/AAPL/AAPL_yahoo_{stamp:%Y%m%d}.csv",
        "adjusted": True,
        "rows": 9,
        "first": "2024-01-02",
        "last": "2024-01-12",
    }


def test_both_ends_are_included_and_gaps_stay_gaps(server, out):
    server.frame = raw_bars().drop(pd.Timestamp("2024-01-05"))
    server.frame.loc["2024-01-09", ["open", "high", "low", "close", "adjclose"]] = float("nan")
    server.frame.loc["2024-01-09", "volume"] = 0
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", start="2024-01-03", end=date(2024, 1, 10), out=out)
    assert read_bars(out)["timestamp"].dt.strftime("%m-%d").tolist() == ["01-03", "01-04", "01-08", "01-10"]


def test_the_bar_of_an_unfinished_day_is_left_out(server, out):
    today = pd.Timestamp.now("UTC").tz_localize(None).normalize()
    server.frame = raw_bars().set_axis(pd.date_range(end=today, periods=len(DAYS)))
    server.plan = {"BTC-USD": ["ok"]}
    yahoo.download("BTC-USD", start=today.date() - timedelta(days=5), end=today.date(), out=out)
    assert read_bars(out)["timestamp"].max() == today - pd.Timedelta(days=1)


def test_the_unfinished_bar_that_yahoo_adds_is_cut():
    index = pd.date_range("2024-01-10", periods=4, tz="America/New_York")
    bars = pd.DataFrame(dict.fromkeys(["Open", "High", "Low", "Close", "Volume"], 1.0), index=index)
    assert yahoo._as_written(bars, date(2024, 1, 12), "1d")["Date"].tolist() == ["2024-01-10", "2024-01-11"]
    with pytest.raises(yahoo.NoBars, match="no bars in this period"):
        yahoo._as_written(bars, date(2024, 1, 10), "1d")


def test_bars_within_a_day_are_stamped_in_utc(server, out):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", start="2024-01-10", end="2024-01-10", interval="1h", out=out)
    times = read_bars(out)["timestamp"]
    assert times.tolist() == pd.date_range("2024-01-10 14:30", periods=7, freq="h").tolist()  # the rest: after hours


# Failures


@pytest.mark.parametrize(
    "trouble", [503, 500, (429, "7"), "malformed", "down"], ids=["503", "500", "429", "malformed", "down"]
)
def test_trouble_twice_then_fine(server, out, clock, trouble):
    server.plan = {"AAPL": [trouble, trouble, "ok"]}
    assert yahoo.download("AAPL", **PERIOD, out=out)["downloaded"] == ["AAPL"]
    assert server.asked["AAPL"] == 4  # two in vain, then the time zone and the bars
    waits = [seconds for seconds in clock.slept if seconds > 0.9]
    if trouble == (429, "7"):
        # backoff first, then what is left of Retry-After
        assert clock.now - 1000 > 14
    else:
        assert 1 <= waits[0] <= 2 <= waits[1] <= 3


def test_tries_are_bounded_and_the_others_still_come(server, out, clock):
    server.plan = {"BUSY": [503], "AAPL": ["ok"]}
    report = yahoo.download("BUSY,AAPL", **PERIOD, out=out, retries=2)
    assert report["failed"] == {"BUSY": "no answer: Yahoo answered HTTP 503"}
    assert report["downloaded"] == ["AAPL"]
    assert server.asked["BUSY"] == 3


def test_slow_answer_times_out_and_is_tried_again(server, out):
    server.plan = {"AAPL": ["ok", "slow", "ok"]}  # the time zone comes at once
    assert yahoo.download("AAPL", **PERIOD, out=out, timeout=0.3)["downloaded"] == ["AAPL"]
    assert server.asked["AAPL"] == 3  # yfinance remembers the time zone


def test_each_failure_has_its_reason(server, out):
    server.plan = {"AAPL": ["ok"], "EMPTY": ["empty"], "GONE": [404], "ODD": ["odd"]}
    report = yahoo.download("GONE,EMPTY,ODD,AAPL", **PERIOD, out=out)
    assert report["downloaded"] == ["AAPL"]
    assert report["failed"]["GONE"] == "unknown or delisted: No data found, symbol may be delisted"
    assert report["failed"]["EMPTY"].startswith("possibly delisted; no price data found")
    assert report["failed"]["ODD"].startswith("odd answer (KeyError")
    assert list(report["failed"]) == ["GONE", "EMPTY", "ODD"]
    assert server.asked["GONE"] == 1  # another try would say the same
    assert read_bars(out)["ticker"].unique().tolist() == ["AAPL"]


def test_three_tickers_without_an_answer_end_the_run(server, out):
    names = [f"T{i}" for i in range(6)]
    server.plan = {name: [503] for name in names}
    failed = yahoo.download(names, **PERIOD, out=out, retries=1)["failed"]
    assert list(failed) == names
    assert [name for name in names if name in server.asked] == names[:3]
    assert failed["T5"] == "not tried: 3 tickers in a row got no answer"


def test_no_server_at_all(server, out):
    server.shutdown()
    server.server_close()
    failed = yahoo.download("AAPL", **PERIOD, out=out, retries=1)["failed"]
    assert failed["AAPL"].startswith("no answer: ")
    assert files(out) == []


def test_a_failed_renewal_leaves_the_old_file(server, out):
    server.plan = {"AAPL": ["ok", "ok", 503]}
    yahoo.download("AAPL", **PERIOD, out=out)
    before = files(out), read_bars(out)
    report = yahoo.download("AAPL", start="2024-01-03", end="2024-01-12", out=out, retries=0)
    assert list(report["failed"]) == ["AAPL"]
    assert files(out) == before[0]
    pd.testing.assert_frame_equal(read_bars(out), before[1])


# Pace


def test_requests_keep_their_distance(server, out, clock, monkeypatch):
    server.plan = {name: ["ok"] for name in ["AAPL", "MSFT", "IBM"]}
    times, wait = [], yahoo.Pacer.wait
    monkeypatch.setattr(yahoo.Pacer, "wait", lambda pacer: (wait(pacer), times.append(clock.now)))
    yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=out, rate=4)
    assert len(times) == len(server.seen) >= 6  # cookie and crumb are paced as well
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == pytest.approx([0.25] * len(gaps))


def test_pacer_holds_for_retry_after(clock):
    pacer = yahoo.Pacer(10)
    pacer.wait()
    pacer.hold("30")
    pacer.wait()
    assert clock.slept == [30]
    pacer.hold("Thu, 01 Jan 1970 00:17:40 GMT")  # 1060 seconds; the clock stands at 1030
    pacer.wait()
    assert clock.slept[1:] == [30]
    for nonsense in (None, "soon", "-5"):
        pacer.hold(nonsense)
    pacer.wait()
    assert clock.slept[2:] == [pytest.approx(0.1)]
    pacer.hold("86400")
    pacer.wait()
    assert clock.slept[3:] == [yahoo.LONGEST_WAIT]


# A second run


def test_a_second_run_brings_only_what_is_missing(server, out, tmp_path):
    server.plan = {"AAPL": ["ok"], "MSFT": [404, "ok"], "IBM": ["ok"]}
    yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=out)
    (out / json.loads((out / "manifest.json").read_text())["tickers"]["IBM"]["file"]).unlink()
    server.asked.clear()
    server.plan["MSFT"] = ["ok"]
    forget(tmp_path / "again")
    report = yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=out)
    assert report == {"downloaded": ["MSFT", "IBM"], "kept": ["AAPL"], "failed": {}}
    assert "AAPL" not in server.asked


def test_another_period_replaces_the_file(server, out):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", **PERIOD, out=out)
    manifest = json.loads((out / "manifest.json").read_text())
    old = out / manifest["tickers"]["AAPL"]["file"]
    renamed = old.with_name("AAPL_yahoo_20240113.csv")  # as a run on that day would have left it
    old.rename(renamed)
    manifest["tickers"]["AAPL"]["file"] = renamed.relative_to(out).as_posix()
    (out / "manifest.json").write_text(json.dumps(manifest))
    report = yahoo.download("AAPL", start="2024-01-04", end="2024-01-12", out=out)
    assert report["downloaded"] == ["AAPL"]
    assert files(out) == ["manifest.json", old.relative_to(out).as_posix()]
    assert read_bars(out)["timestamp"].min() == pd.Timestamp("2024-01-04")


def test_renewed_bars_are_yahoos_and_not_remembered(server, out):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", **PERIOD, out=out)
    server.frame = server.frame.assign(volume=7)
    assert yahoo.download("AAPL", **PERIOD, out=out)["kept"] == ["AAPL"]
    assert yahoo.download("AAPL", **PERIOD, out=out, renew=True)["downloaded"] == ["AAPL"]
    assert read_bars(out)["volume"].tolist() == [7] * 9


def test_the_newest_downloads_are_kept(server, out):
    names = ["AAPL", "MSFT", "IBM"]
    server.plan = {name: ["ok"] for name in names}
    yahoo.download(names, **PERIOD, out=out)
    manifest = yahoo.read_manifest(out)
    for day, name in enumerate(names, 1):
        manifest["tickers"][name]["downloaded_at"] = f"2024-01-{day:02d}T00:00:00+00:00"
    yahoo.write_json(manifest, out / "manifest.json")
    yahoo.keep_newest(out, 5)
    yahoo.keep_newest(out, 2)
    assert list(yahoo.read_manifest(out)["tickers"]) == ["MSFT", "IBM"]
    assert read_bars(out)["ticker"].unique().tolist() == ["IBM", "MSFT"]


def test_killed_run_goes_on_where_it_stopped(server, out, tmp_path):
    server.plan = {"AAPL": ["ok"], "MSFT": ["ok"], "IBM": ["hang", "ok"]}
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, __file__, server.url, out, tmp_path / "other"], env=environment)
    try:
        assert server.hanging.wait(60)
        child.send_signal(signal.SIGKILL)
    finally:
        child.kill()
        child.wait()
    done = files(out)
    assert len(done) == 3
    (out / "price_history" / "IBM").mkdir()
    (out / "price_history" / "IBM" / ".IBM_yahoo_20240113.csv.99").write_text("Date,Op")  # killed while writing
    server.asked.clear()
    server.plan["IBM"] = ["ok"]
    report = yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=out)
    assert report == {"downloaded": ["IBM"], "kept": ["AAPL", "MSFT"], "failed": {}}
    assert set(server.asked) == {"IBM"}
    assert len(files(out)) == 4
    assert read_bars(out)["ticker"].value_counts().tolist() == [9, 9, 9]


@pytest.mark.parametrize("step", ["write_json", "write_csv"])
def test_a_stop_between_the_steps_of_storing_repeats_no_bar(server, out, monkeypatch, step):
    server.plan = {"AAPL": ["ok"]}
    yahoo.download("AAPL", **PERIOD, out=out)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(yahoo, step, stop)
        with pytest.raises(KeyboardInterrupt):
            yahoo.download("AAPL", start="2024-01-03", end="2024-01-12", out=out)
    for _ in range(2):
        yahoo.download("AAPL", start="2024-01-03", end="2024-01-12", out=out)
        assert not read_bars(out)["timestamp"].duplicated().any()
        assert len(read_bars(out)) == 8


# Wrong input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tickers": " , "}, "no ticker given"),
        ({"tickers": "AAPL,../etc"}, "'../ETC' is no ticker of Yahoo Finance"),
        ({"tickers": ".."}, "'..' is no ticker"),
        ({"start": "yesterday"}, "start 'yesterday' is no day; write it like 2024-01-31"),
        ({"end": "2024-02-30"}, "end '2024-02-30' is no day"),
        ({"start": "2024-02-01"}, "start 2024-02-01 lies after 2024-01-12"),
        ({"start": "2999-01-01", "end": None}, "start 2999-01-01 lies after"),
        ({"interval": "1wk"}, "interval '1wk' is unknown; choose one of 1d, 1h"),
        ({"rate": 0.0}, "rate 0.0 and timeout 20.0 must be above 0"),
    ],
)
def test_wrong_input(server, out, wrong, message):
    with pytest.raises(ValueError, match=message):
        yahoo.download(**{"tickers": "AAPL", **PERIOD, "out": out, **wrong})
    assert server.seen == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("manifest.json", "{", "is no JSON"),
        ("manifest.json", '{"files": []}', "is no manifest of downloads"),
        ("manifest.json", '{"tickers": {"AAPL": {"file": "../precious.csv"}}}', "is no manifest of downloads"),
        ("price_history/AAPL/AAPL_yahoo_20200101.csv", "Date", "its bars would be read twice"),
    ],
)
def test_what_others_wrote_is_left_alone(server, out, name, text, message):
    path = out / name
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        yahoo.download("AAPL", **PERIOD, out=out)
    assert path.read_text() == text
    assert server.seen == []


@pytest.mark.parametrize("missing", ["yfinance", "tenacity"])
def test_without_the_extra(out, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ValueError, match=rf"a download needs {missing}: pip install 'tsf-llm\[data\]'"):
        yahoo.download("AAPL", **PERIOD, out=out)


# The command


@pytest.mark.parametrize(
    ("tickers", "code", "text", "error"),
    [
        ("AAPL,MSFT", 0, "2 downloaded", ""),
        ("AAPL,GONE", 1, "1 downloaded", "1 failed:\n  GONE: unknown or delisted"),
        ("AA PL", 2, "", "tsf-llm: error: 'AA PL' is no ticker"),
    ],
)
def test_exit_codes(server, out, monkeypatch, capsys, tickers, code, text, error):
    server.plan = {"AAPL": ["ok"], "MSFT": ["ok"]}
    words = ["download", "--tickers", tickers, "--start", "2024-01-02", "--end", "2024-01-12", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["tsf-llm", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    printed = capsys.readouterr()
    assert (end.value.code or 0) == code
    assert text in printed.out
    assert error in printed.err


if __name__ == "__main__":  # the process that is killed
    address, folder, cache = sys.argv[1:]
    redirect(setattr, address, cache)
    yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=folder, rate=1000, timeout=120)
