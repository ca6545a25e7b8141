"""Downloads over real HTTP: yfinance talks to a stand-in for Yahoo on this machine.

Only the address is changed, in `_redirect`; protocol, cookies, retries and adjustment are the libraries' own.
Time is a fake one wherever a wait is checked.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
import yfinance
from curl_cffi import requests
from yfinance.cache import _CookieCacheManager, _TzCacheManager
from yfinance.data import SingletonMeta, YfData

from tsf_llm.data_prep import yahoo
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving import cli

DAYS = pd.bdate_range("2024-01-02", "2024-01-12")
SPLIT, DIVIDEND = "2024-01-08", "2024-01-10"
PERIOD = {"start": "2024-01-02", "end": "2024-01-12"}


def raw_bars():
    """As Yahoo sends them: split-adjusted prices, and an adjusted close that also knows the dividend."""
    close = [100.0 + 3 * i for i in range(len(DAYS))]
    frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close}, index=DAYS)
    frame += [-1, 2, -2, 0]
    frame["volume"] = range(1000, 1000 + len(DAYS))
    frame["adjclose"] = frame["close"].where(frame.index >= DIVIDEND, frame["close"] * 0.99)
    return frame


def chart(ticker, frame, *, zone="America/New_York"):
    """`frame` has the days, or the times of bars within one."""
    is_daily = (frame.index == frame.index.normalize()).all()
    opened = frame.index.tz_localize(zone) + pd.Timedelta(hours=9.5 * is_daily)
    stamps = [int(time.timestamp()) for time in opened]
    at = {day: int((pd.Timestamp(day, tz=zone) + pd.Timedelta(hours=9.5)).timestamp()) for day in (SPLIT, DIVIDEND)}
    meta = {
        "symbol": ticker,
        "currency": "USD",
        "instrumentType": "EQUITY",
        "exchangeTimezoneName": zone,
        "timezone": "EST",
        "gmtoffset": -18000,
        "firstTradeDate": 345479400,
        "regularMarketTime": stamps[-1] if stamps else 0,
        "regularMarketPrice": 1.0,
        "priceHint": 2,
        "dataGranularity": "1d" if is_daily else "1h",
        "range": "",
        "validRanges": ["1d", "5d", "1mo", "max"],
    }
    if not is_daily:
        session = {"timezone": "EST", "gmtoffset": -18000, "start": stamps[0], "end": stamps[0] + 23400}
        meta["tradingPeriods"] = [[session]]
    if frame.empty:
        return {"meta": meta, "indicators": {"quote": [{}], "adjclose": [{}]}}
    events = {
        "dividends": {str(at[DIVIDEND]): {"amount": 1.0, "date": at[DIVIDEND]}},
        "splits": {str(at[SPLIT]): {"date": at[SPLIT], "numerator": 2.0, "denominator": 1.0, "splitRatio": "2:1"}},
    }
    values = frame.astype(object).where(frame.notna(), None)
    quote = {name: values[name].tolist() for name in ["open", "high", "low", "close", "volume"]}
    indicators = {"quote": [quote], "adjclose": [{"adjclose": values["adjclose"].tolist()}]}
    return {"meta": meta, "timestamp": stamps, "events": events, "indicators": indicators}


class FakeYahoo(ThreadingHTTPServer):
    """`plan[ticker]` is a list of answers to its chart requests, the last one for ever: "ok", "empty", "slow",
    "malformed", "down", "hang", an HTTP status, or (status, Retry-After). `asked` counts chart requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan, self.asked, self.seen, self.frame = {}, {}, [], raw_bars()
        self.hours = raw_bars().set_axis(pd.date_range("2024-01-10 09:30", periods=len(DAYS), freq="h"))
        self.hanging, self.release = threading.Event(), threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """A client that has gone is part of these tests."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        url = urlsplit(self.path)
        self.server.seen.append(url.path)
        if "/v8/finance/chart/" in url.path:
            return self.chart(url.path.rpartition("/")[2], parse_qs(url.query))
        if url.path.endswith("/getcrumb"):
            return self.answer(200, "crumb")
        return self.answer(404, "", {"Set-Cookie": "A3=cookie; Max-Age=9999999"})

    do_POST = do_GET

    def chart(self, ticker, query):
        asked = self.server.asked[ticker] = self.server.asked.get(ticker, 0) + 1
        plan = self.server.plan.get(ticker, [404])
        step = plan[min(asked, len(plan)) - 1]
        if step == 404:
            error = {"code": "Not Found", "description": "No data found, symbol may be delisted"}
            return self.answer(404, json.dumps({"chart": {"result": None, "error": error}}))
        if step in ("slow", "hang"):
            self.server.hanging.set()
            self.server.release.wait(60)
            return None
        if step == "malformed":
            return self.answer(200, '{"chart": {"result": [')
        if step == "down":
            return self.answer(200, "<html>Will be right back</html>")
        if step == "odd":
            return self.answer(200, '{"chart": {"result": [{"meta": {}}], "error": null}}')
        if isinstance(step, tuple):
            return self.answer(step[0], "Too Many Requests\r\n", {"Retry-After": step[1]})
        if isinstance(step, int):
            # an error as JSON, which yfinance alone would take for a ticker without data
            return self.answer(step, json.dumps({"chart": {"result": None, "error": {"description": "later"}}}))
        return self.answer(200, json.dumps({"chart": {"result": [self.bars(ticker, step, query)], "error": None}}))

    def bars(self, ticker, step, query):
        frame = self.server.frame
        if "period1" in query:
            first, last = (pd.Timestamp(int(query[name][0]), unit="s") for name in ("period1", "period2"))
            frame = self.server.hours if query["interval"] == ["1h"] else frame
            frame = frame[(frame.index >= first.normalize()) & (frame.index < last)]
        return chart(ticker, frame[:0] if step == "empty" and "period1" in query else frame)

    def answer(self, status, text, headers=None):
        body = text.encode()
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def _redirect(patch, server, cache):
    """Send every request to `server`, the host name in front of its path; yfinance's own caches go to `cache`."""
    send = requests.Session.request

    def request(session, method, url, *args, **kwargs):
        return send(session, method, server + "/" + url.removeprefix("https://"), *args, **kwargs)

    patch(requests.Session, "request", request)
    _forget(cache)


def _forget(cache):
    """As in a new process with another cache: yfinance remembers answers, cookies and time zones."""
    yfinance.set_tz_cache_location(str(cache))
    YfData.cache_get.cache_clear()
    SingletonMeta._instances.clear()
    _TzCacheManager._tz_cache = _CookieCacheManager._Cookie_cache = None


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FakeYahoo()
    _redirect(monkeypatch.setattr, server.url, tmp_path / "yfinance")
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()


class Clock:
    """Stands in for the module `time`: sleeping takes no time and is written down."""

    def __init__(self):
        self.now, self.slept = 1000.0, []

    def monotonic(self):
        return self.now

    time = monotonic

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(yahoo, "time", clock)
    return clock


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
    _forget(tmp_path / "again")
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
    _forget(tmp_path / "again")
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
    _redirect(setattr, address, cache)
    yahoo.download("AAPL,MSFT,IBM", **PERIOD, out=folder, rate=1000, timeout=120)
