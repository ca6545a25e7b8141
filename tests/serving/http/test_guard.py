import json
import logging

import pytest


@pytest.mark.parametrize(
    ("header", "status"),
    [
        *((None, 401), ("Bearer secret", 200), ("bearer  secret", 200), ("Bearer Secret", 401), ("secret", 401)),
        *(("Basic dXNlcjpzZWNyZXQ=", 200), ("Basic !", 401), ("Bearer \xe9", 401)),
    ],
)
def test_the_token(client_of, header, status):
    headers = {} if header is None else {"Authorization": header.encode("latin-1")}
    response = client_of(token="secret").get("/v1/models", headers=headers)
    assert response.status_code == status


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_machines_need_no_token(client_of, path):
    assert client_of(token="secret").get(path).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_large_bodies(client_of, chunked):
    content = (b"x" * 1000 for _ in range(10)) if chunked else b"x" * 10_000
    response = client_of(max_body=5000).post("/v1/forecast", content=content)
    assert response.status_code == 413
    assert response.json()["error"]["message"] == "the body has more than 5,000 bytes"


def test_a_full_queue(client_of, body):
    client = client_of(queue=0)
    response = client.post("/v1/forecast", json=body)
    assert (response.status_code, response.headers["retry-after"]) == (429, "1")
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200


def test_too_slow_an_answer(client_of, body):
    response = client_of(timeout=0.001).post("/v1/forecast", json=body)
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "timeout"


def test_mistakes_of_ours_are_one_line(client_of, body, monkeypatch, caplog):
    def broken(*args, **kwargs):
        raise RuntimeError("secret data")

    client = client_of()
    monkeypatch.setattr(client.app.state.engine.pipe, "preprocess", broken)
    with caplog.at_level(logging.INFO, logger="tsf_llm.http"):
        response = client.post("/v1/forecast", json=body, headers={"X-Request-ID": "mine-1"})
    assert response.status_code == 500
    assert "secret" not in response.text + caplog.text
    assert "RuntimeError in broken" in caplog.text
    assert "tsf_llm_errors_total 1.0" in client.get("/metrics").text


def test_request_ids_and_log(client, body, caplog):
    with caplog.at_level(logging.INFO, logger="tsf_llm.http"):
        response = client.post("/v1/forecast", json=body, headers={"X-Request-ID": "mine-1"})
        other = client.get("/health", headers={"X-Request-ID": b"no id\x01"})
    assert response.headers["x-request-id"] == "mine-1"
    assert len(other.headers["x-request-id"]) == 32
    line = json.loads(next(record.getMessage() for record in caplog.records if record.name == "tsf_llm.http"))
    assert line["time"].endswith("Z")
    assert {name: line[name] for name in ("id", "method", "route", "status", "rows", "batch")} == {
        **{"id": "mine-1", "method": "POST", "route": "/v1/forecast", "status": 200, "rows": 5, "batch": 1}
    }
