"""What clients do to a server: requests made up from its own OpenAPI page, noise for a body, bytes that never come."""

import json
import socket
import time
from collections import Counter

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings

from .conftest import started

QUIET = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck), "derandomize": True}


@pytest.fixture(scope="module")
def app(pipe):
    return create_app(pipe, Settings(name="mini"))


@pytest.fixture(scope="module")
def operations(app):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    return [operation.ok() for operation in schema.get_all_operations()]


def ask_what_the_schema_allows(operations, most):
    """`most` generated requests to each operation -> how many were answered with which status."""
    seen = {}
    for operation in operations:
        seen[operation.label] = statuses = Counter()
        settings(max_examples=most, **QUIET)(given(case=operation.as_strategy())(asks(statuses)))()
    return seen


def asks(statuses):
    def ask(case):
        response = case.call()
        statuses[response.status_code] += 1
        assert response.status_code < 500, response.text
        assert "Traceback" not in response.text
        if response.status_code >= 400:
            error = response.json()["error"]
            assert set(error) >= {"code", "message"}
            assert "\n" not in error["message"]

    return ask


def with_a_body(seen):
    return {label: counts.total() for label, counts in seen.items() if label.startswith("POST")}


def test_generated_requests_get_no_5xx_and_one_line(operations):
    made = with_a_body(ask_what_the_schema_allows(operations, most=30))
    assert made["POST /v1/forecast"] >= 30


@pytest.mark.slow
def test_ten_thousand_generated_requests_get_no_5xx_and_one_line(operations):
    seen = ask_what_the_schema_allows(operations, most=-(-10_000 // sum("POST" in one.label for one in operations)))
    print(json.dumps(seen))
    assert sum(with_a_body(seen).values()) > 9_000  # a small schema runs out of requests


ODD = [None, "", "x", -1, 0, 1e308, -1e308, 5e-324, 2**62]
ODD += ["9999-99-99", "9999-12-31", "0001-01-01", "NaN", "\u0000", "\U0001d7db"]


@settings(max_examples=60, **QUIET)
@given(data=st.data())
def test_a_good_request_with_odd_cells_is_answered_or_refused(client, body, data):
    bars = {name: list(column)[-120:] for name, column in body["bars"].items()}
    for _ in range(data.draw(st.integers(1, 4))):
        column = bars[data.draw(st.sampled_from(sorted(bars)))]
        column[data.draw(st.integers(0, len(column) - 1))] = data.draw(st.sampled_from(ODD))
    response = client.post("/v1/forecast", json={**body, "bars": bars})
    assert response.status_code in (200, 422), response.text
    if response.status_code == 200:
        rows = response.json()["forecast"]
        assert all(row["q05"] <= row["q50"] <= row["q95"] for row in rows)


@settings(max_examples=200, **QUIET)
@given(body=st.binary(max_size=300) | st.text(max_size=300).map(lambda text: json.dumps({"bars": text}).encode()))
def test_noise_for_a_body_is_refused(client, body):
    response = client.post("/v1/forecast", content=body, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert set(response.json()) == {"error"}


def test_slow_clients_are_let_go_and_keep_nobody_waiting(body):
    server, url = started("--timeout", "8")
    try:
        host, port = httpx.URL(url).host, httpx.URL(url).port
        head = (
            b"POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        slow = [socket.create_connection((host, port)) for _ in range(20)]
        for one in slow:
            one.sendall(head)
        assert httpx.get(f"{url}/health", timeout=10).status_code == 200
        assert httpx.post(f"{url}/v1/forecast", json=body, timeout=60).status_code == 200
        time.sleep(8)
        for one in slow:
            one.settimeout(20)
            assert b" 408 " in one.recv(4096).split(b"\r\n")[0]
            one.close()
        assert httpx.get(f"{url}/ready", timeout=10).status_code == 200
    finally:
        server.terminate()
        _, log = server.communicate(timeout=60)
    assert "Traceback" not in log
