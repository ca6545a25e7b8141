"""symbols.py over HTTP: symbols in place of bars, where the server looks them up; Yahoo is a stand-in."""

import pytest
from fastapi.testclient import TestClient

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.data_prep.yahoo import Busy
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings
from tsf_llm.serving.symbols import RecentBars

URL = "/v1/forecast/symbols"


class Source:
    """Knows AAPL and MSFT, of the sample."""

    def recent(self, symbols):
        if "DOWN" in symbols:
            raise Busy("no answer from Yahoo Finance (DOWN: no answer: HTTP 503)")
        bars = read_bars("sample").groupby("ticker").tail(300)
        bars = bars[bars["ticker"].isin(symbols)]
        if bars.empty:
            raise ValueError(f"no bars of {symbols[0]}: unknown or delisted: No data found")
        found = bars["ticker"].unique()
        facts = {"as_of": str(bars["timestamp"].max().date()), "fetched_at": "2013-03-02T00:10:00+00:00"}
        return RecentBars(bars, dict.fromkeys(found, facts), {one: "unknown" for one in symbols if one not in found})


@pytest.fixture(scope="module")
def client(pipe):
    return TestClient(create_app(pipe, Settings(name="mini"), source=Source()))


def test_symbols_in_place_of_bars(client, body):
    answer = client.post(URL, json={"symbols": ["AAPL", "GONE"], "horizon": 5}).json()
    assert answer["symbols"] == {"AAPL": {"as_of": "2013-03-01", "fetched_at": "2013-03-02T00:10:00+00:00"}}
    assert answer["skipped"] == {"GONE": "unknown"}
    assert answer["forecast"] == client.post("/v1/forecast", json=body).json()["forecast"]


@pytest.mark.parametrize(
    ("symbols", "status", "message"),
    [
        (["GONE"], 422, "no bars of GONE: unknown or delisted: No data found"),
        (["DOWN"], 503, "no answer from Yahoo Finance (DOWN: no answer: HTTP 503)"),
        ([], 422, "symbols: List should have at least 1 item after validation, not 0"),
    ],
)
def test_errors(client, symbols, status, message):
    answer = client.post(URL, json={"symbols": symbols})
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_server_without_a_source_says_so(client_of):
    answer = client_of().post(URL, json={"symbols": ["AAPL"]})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].endswith("start it with --source yahoo")
