import pytest

BAD = [b"", b"{", b'{"bars":[]}', b'{"bars":"x"}', b'{"bars":[{"close":1}],"horizon":-1}', b"a" * 200_000]


def test_a_forecast(client, pipe, bars, body):
    answer = client.post("/v1/forecast", json=body).json()
    assert answer["model"] == "mini"
    assert answer["skipped"] == {}
    assert [row["step"] for row in answer["forecast"]] == [1, 2, 3, 4, 5]
    frame = pipe(bars, horizon=5)
    assert [row["q50"] for row in answer["forecast"]] == pytest.approx(frame["q50"].tolist(), rel=1e-7)


def test_other_names_levels_and_dates(client, body, bars):
    renamed = {{"timestamp": "when", "ticker": "share"}.get(name, name): cells for name, cells in body["bars"].items()}
    asked = {"time": "when", "id": "share", "quantile_levels": [0.2, 0.8], "as_of": str(bars["timestamp"].iloc[-10])}
    answer = client.post("/v1/forecast", json={**body, "bars": renamed, **asked}).json()["forecast"]
    assert list(answer[0]) == ["ticker", "origin", "step", "timestamp", "mean", "q20", "q80", "p_up"]
    assert answer[0]["origin"] == bars["timestamp"].iloc[-10].isoformat()


def test_paths_depend_on_the_seed_alone(client, body):
    first, again, other = (
        client.post("/v1/forecast", json={**body, "horizon": 22, "samples": 8, "seed": seed}).json()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first["forecast"][:20] == other["forecast"][:20]  # of a law
    assert first["forecast"][21] != other["forecast"][21]


def test_csv(client, body):
    response = client.post("/v1/forecast", json=body, headers={"Accept": "text/csv"})
    assert response.headers["content-type"].startswith("text/csv")
    assert len(response.text.splitlines()) == 6


def test_a_batch_answers_each_by_itself(client, body):
    bad = {"bars": [{"close": 1}]}
    first, second, third = client.post("/v1/forecast/batch", json={"requests": [body, bad, body]}).json()["answers"]
    assert first == third == client.post("/v1/forecast", json=body).json()
    assert second["error"]["code"] == "refused"


@pytest.mark.parametrize("content", BAD)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", None])
def test_bad_bodies(client, content, kind):
    response = client.post("/v1/forecast", content=content, headers={} if kind is None else {"Content-Type": kind})
    assert 400 <= response.status_code < 500
    message = response.json()["error"]["message"]
    assert 0 < len(message) < 300
    assert "Traceback" not in message


@pytest.mark.parametrize("content", BAD)
def test_a_real_server_stands(server, content):
    httpx = pytest.importorskip("httpx")
    response = httpx.post(f"{server}/v1/forecast", content=content, headers={"Content-Type": "application/json"})
    assert 400 <= response.status_code < 500
    assert "Traceback" not in response.text
    assert httpx.get(f"{server}/health").status_code == 200
