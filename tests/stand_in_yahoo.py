"""A stand-in for Yahoo Finance on this machine: yfinance talks to it over real HTTP.

Only the address is changed, in `redirect`; protocol, cookies, retries and adjustment are the libraries' own.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
import yfinance
from curl_cffi import requests
from yfinance.cache import _CookieCacheManager, _TzCacheManager
from yfinance.data import SingletonMeta, YfData

from tsf_llm.data_prep import yahoo

DAYS = pd.bdate_range("2024-01-02", "2024-01-12")
SPLIT, DIVIDEND = "2024-01-08", "2024-01-10"


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


def redirect(patch, server, cache):
    """Send every request to `server`, the host name in front of its path; yfinance's own caches go to `cache`."""
    send = requests.Session.request

    def request(session, method, url, *args, **kwargs):
        return send(session, method, server + "/" + url.removeprefix("https://"), *args, **kwargs)

    patch(requests.Session, "request", request)
    forget(cache)


def forget(cache):
    """As in a new process with another cache: yfinance remembers answers, cookies and time zones."""
    yfinance.set_tz_cache_location(str(cache))
    YfData.cache_get.cache_clear()
    SingletonMeta._instances.clear()
    _TzCacheManager._tz_cache = _CookieCacheManager._Cookie_cache = None


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = FakeYahoo()
    redirect(monkeypatch.setattr, server.url, tmp_path / "yfinance")
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


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(yahoo, "time", clock)
    return clock
