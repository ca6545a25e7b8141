"""streams.py: forecasts that move on over HTTP and a websocket; a server that is killed goes on where it answered."""

import json
import signal
import threading
import time

import pandas as pd
import pytest
from starlette.websockets import WebSocketDisconnect

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving.http import stream_store, streams

URL = "/v1/stream/tech"


def sent(bars):
    """As JSON."""
    return bars.assign(timestamp=bars["timestamp"].astype(str)).to_dict("list")


@pytest.fixture(scope="session")
def panel():
    """320 bars of AAPL and MSFT."""
    return read_bars("sample", ["AAPL", "MSFT"]).groupby("ticker").tail(320)


@pytest.fixture(scope="session")
def days(panel):
    return sorted(panel["timestamp"].unique())


@pytest.fixture
def client(client_of, tmp_path):
    return client_of(state=tmp_path)


@pytest.fixture
def history(panel, days):
    return {"bars": sent(panel[panel["timestamp"] < days[300]]), "horizon": 5}


@pytest.fixture
def bar(panel, days):
    """`bar(300, 302)`: a body with the bars of these days."""

    def body(first, end=None, tickers=("AAPL", "MSFT")):
        wanted = panel["timestamp"].isin(days[first : end or first + 1]) & panel["ticker"].isin(tickers)
        return {"bars": sent(panel[wanted])}

    return body


def code(response):
    """Status and code of an error of one line."""
    error = response.json()["error"]
    assert "\n" not in error["message"]
    return response.status_code, error["code"]


def test_a_stream_is_made_updated_read_and_deleted(client, panel, days, history, bar, pipe):
    made = client.post(URL, json=history)
    assert made.status_code == 201
    assert made.json()["symbols"] == dict.fromkeys(["AAPL", "MSFT"], days[299].isoformat())
    updated = client.post(f"{URL}/bars", json=bar(300)).json()
    assert updated["symbols"] == dict.fromkeys(["AAPL", "MSFT"], days[300].isoformat())
    assert client.get(URL).json() == {**updated, "notes": []}
    rows = pd.DataFrame(updated["forecast"])
    frame = pipe(panel[panel["timestamp"] <= days[300]], horizon=5)
    assert rows["timestamp"].tolist() == [day.isoformat() for day in frame["timestamp"]]
    assert rows["q50"].tolist() == pytest.approx(frame["q50"].tolist(), rel=1e-3)
    assert client.delete(URL).status_code == 204
    assert code(client.get(URL)) == (404, "not_found")
    assert code(client.delete(URL)) == (404, "not_found")
    assert client.post(URL, json=history).status_code == 201


def test_several_bars_are_one_after_another(client, history, bar):
    client.post(URL, json=history)
    client.post("/v1/stream/other", json=history)
    for day in (300, 301, 302):
        single = client.post(f"{URL}/bars", json=bar(day)).json()
    together = client.post("/v1/stream/other/bars", json=bar(300, 303)).json()
    assert together["forecast"] == single["forecast"]


def test_an_update_of_some_symbols_answers_these(client, days, history, bar):
    client.post(URL, json=history)
    answer = client.post(f"{URL}/bars", json=bar(300, tickers=["MSFT"])).json()
    assert {row["ticker"] for row in answer["forecast"]} == {"MSFT"}
    assert answer["symbols"] == {"AAPL": days[299].isoformat(), "MSFT": days[300].isoformat()}


def test_a_refused_update_takes_nothing(client, history, bar):
    client.post(URL, json=history)
    before = client.get(URL).json()
    late = {
        "bars": {
            name: [*new, *old]
            for (name, new), old in zip(bar(300)["bars"].items(), bar(5)["bars"].values(), strict=True)
        }
    }
    refused = client.post(f"{URL}/bars", json=late)
    assert code(refused) == (422, "refused")
    assert "comes too late" in refused.json()["error"]["message"]
    assert client.get(URL).json() == before
    assert client.post(f"{URL}/bars", json=bar(300)).status_code == 200
    again = client.post(f"{URL}/bars", json=bar(300))
    assert code(again) == (422, "refused")
    assert "known already" in again.json()["error"]["message"]


def test_one_bad_symbol_is_named_and_the_other_goes_on(client, days, history, bar):
    client.post(URL, json=history)
    client.post(f"{URL}/bars", json=bar(300, tickers=["MSFT"]))
    answer = client.post(f"{URL}/bars", json=bar(300, 302)).json()
    assert list(answer["skipped"]) == ["MSFT"]
    assert answer["symbols"] == {"AAPL": days[301].isoformat(), "MSFT": days[300].isoformat()}


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1/stream/none/bars", {"bars": [{"close": 1}]}, (404, "not_found")),
        ("/v1/stream/..%2fx", {"bars": [{"close": 1}]}, (404, "not_found")),
        ("/v1/stream/UPPER", {"bars": [{"close": 1}]}, (422, "invalid")),
        ("/v1/stream/" + "a" * 65, {"bars": [{"close": 1}]}, (422, "invalid")),
        ("/v1/stream/new", {"bars": [{"close": 1}]}, (422, "refused")),
        ("/v1/stream/new", {"bars": []}, (422, "invalid")),
        ("/v1/stream/new", {"bars": {"close": [1], "open": []}}, (422, "invalid")),
        ("/v1/stream/new", {"bars": [{"close": 1}], "horizon": -1}, (422, "invalid")),
        ("/v1/stream/new", {"bars": [{"close": 1}], "folder": "/etc"}, (422, "invalid")),
    ],
)
def test_what_is_wrong_is_told_in_a_line(client, path, body, expected):
    assert code(client.post(path, json=body)) == expected


def test_horizons_without_a_law_are_refused(client, history):
    assert code(client.post(URL, json={**history, "horizon": 21})) == (422, "refused")
    assert code(client.get(URL)) == (404, "not_found")


def test_a_name_is_taken_once(client, history):
    client.post(URL, json=history)
    assert code(client.post(URL, json=history)) == (409, "exists")


def test_numbers_are_bounded(client, history, bar, monkeypatch):
    monkeypatch.setattr(stream_store, "MOST", 1)
    monkeypatch.setattr(stream_store, "MOST_NEW", 1)
    client.post(URL, json=history)
    assert code(client.post("/v1/stream/two", json=history)) == (429, "too_many_streams")
    assert code(client.post(f"{URL}/bars", json=bar(300))) == (422, "refused")
    client.delete(URL)
    monkeypatch.setattr(stream_store, "MOST_SYMBOLS", 1)
    assert code(client.post(URL, json=history)) == (422, "refused")


# A websocket


def test_a_websocket_takes_bars_and_answers_forecasts(client, history, bar):
    client.post(URL, json=history)
    client.post("/v1/stream/other", json=history)
    with client.websocket_connect(f"{URL}/ws") as socket:
        for day in (300, 301):
            socket.send_text(json.dumps(bar(day)))
            answer = socket.receive_json()
            posted = client.post("/v1/stream/other/bars", json=bar(day)).json()
            assert answer == {**posted, "stream": "tech"}
        wrong = {"{": "bad_json", '{"bars": NaN}': "bad_json", "{}": "invalid", json.dumps(bar(301)): "refused"}
        for message, expected in wrong.items():
            socket.send_text(message)
            assert socket.receive_json()["error"]["code"] == expected
        socket.send_bytes(b"\x00")
        assert socket.receive_json()["error"]["code"] == "bad_json"
        client.delete(URL)
        socket.send_text(json.dumps(bar(302)))
        assert socket.receive_json()["error"]["code"] == "not_found"


def test_messages_of_many_sockets_are_read_one_at_a_time(client, monkeypatch):
    """What waits is a text, not the many times larger update that is made of it."""
    events, parsed = [], streams.parsed

    def slow(*asked):
        time.sleep(0.2)
        events.append("worked")
        raise ValueError("no bars")

    monkeypatch.setattr(streams, "parsed", lambda text: events.append("read") or parsed(text))
    monkeypatch.setattr(streams, "sent_tables", slow)
    with client, client.websocket_connect(f"{URL}/ws") as one, client.websocket_connect(f"{URL}/ws") as other:
        for socket in (one, other):
            socket.send_json({"bars": [{"close": 1.0}]})
        assert [socket.receive_json()["error"]["code"] for socket in (one, other)] == ["refused", "refused"]
    assert events == ["read", "worked"] * 2


def test_websockets_are_few_and_want_the_token(client_of, monkeypatch):
    monkeypatch.setattr(streams, "MOST_SOCKETS", 0)
    for settings, closed in ({}, 1013), ({"token": "secret"}, 1008):
        with pytest.raises(WebSocketDisconnect) as end, client_of(**settings).websocket_connect(f"{URL}/ws"):
            pass
        assert end.value.code == closed
    with pytest.raises(WebSocketDisconnect), client_of().websocket_connect("/v1/stream/UPPER/ws"):
        pass


# A restart


@pytest.fixture
def start(tmp_path):
    """`start()`: a server of its own process that keeps streams in one folder -> it, and its URL."""
    from .conftest import started

    servers = []

    def run():
        servers.append(started("--state", str(tmp_path / "state")))
        return servers[-1]

    yield run
    for process, _ in servers:
        process.kill()
        process.communicate()


def test_killed_in_mid_request_a_server_goes_on_where_it_answered(start, history, bar):
    httpx = pytest.importorskip("httpx")
    process, url = start()
    assert httpx.post(f"{url}{URL}", json=history, timeout=60).status_code == 201
    answered = [httpx.get(f"{url}{URL}").json()]

    def post():
        for day in range(300, 320):
            try:
                answered.append(httpx.post(f"{url}{URL}/bars", json=bar(day), timeout=60).json())
            except httpx.HTTPError:
                return

    client = threading.Thread(target=post)
    client.start()
    while len(answered) < 4 and client.is_alive():
        client.join(0.01)
    process.send_signal(signal.SIGKILL)
    client.join()
    _, url = start()
    found = httpx.get(f"{url}{URL}").json()
    if found["symbols"] != answered[-1]["symbols"]:  # the bar was taken, and its answer lost
        assert found["symbols"]["AAPL"] > answered[-1]["symbols"]["AAPL"]
    else:
        assert found == {**answered[-1], "notes": []}
    day = 300 + len(answered) - 1 + (found["symbols"] != answered[-1]["symbols"])
    after = httpx.post(f"{url}{URL}/bars", json=bar(day), timeout=60).json()
    httpx.post(f"{url}/v1/stream/fresh", json=history, timeout=60)
    whole = httpx.post(f"{url}/v1/stream/fresh/bars", json=bar(300, day + 1), timeout=60).json()
    assert after["forecast"] == whole["forecast"]
