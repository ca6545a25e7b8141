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


def test_an_upload_is_answered_as_json_is(client, body, bars):
    file = bars.drop(columns="ticker").to_csv(index=False)
    fields = {"horizon": "5", "quantile_levels": "0.1,0.9"}
    response = client.post("/v1/forecast", files={"file": ("../AAPL.csv", file)}, data=fields)
    assert response.json() == client.post("/v1/forecast", json={**body, "quantile_levels": [0.1, 0.9]}).json()


@pytest.mark.parametrize(
    ("files", "fields"),
    [
        ({"file": ("a.csv", b"x")}, {"horizon": "-1"}),
        ({"file": ("a.csv", b"x")}, {"path": "/etc/passwd"}),
        ({"file": ("a.csv", b"")}, {}),
        ({"other": ("a.csv", b"x")}, {}),
        ({"file": ("a.pkl", b"\x80\x04.")}, {}),
    ],
)
def test_uploads_that_are_refused(client, files, fields):
    response = client.post("/v1/forecast", files=files, data=fields)
    assert response.status_code == 422
    assert "/tmp" not in response.json()["error"]["message"]


def test_what_is_said_beside_a_forecast(client, body, bars):
    jump = {**body["bars"], "close": [*body["bars"]["close"][:-1], body["bars"]["close"][-1] * 10]}
    jump["high"] = [*body["bars"]["high"][:-1], jump["close"][-1]]
    answer = client.post("/v1/forecast", json={**body, "bars": jump}).json()
    assert answer["out_of_sample"] is False
    usual = client.post("/v1/forecast", json=body).json()["notes"]
    [jumped] = [note for note in answer["notes"] if note not in usual]
    assert jumped.startswith("AAPL")
    assert usual == client.post("/v1/forecast", json=body).json()["notes"]  # whoever asked before
    later = [
        str(stamp.date()) for stamp in bars["timestamp"] + (bars["timestamp"].max() - bars["timestamp"].min()) * 15
    ]
    assert client.post("/v1/forecast", json={**body, "bars": {**body["bars"], "timestamp": later}}).json()[
        "out_of_sample"
    ]


def test_a_market_of_the_request(client, body, bars):
    index = bars.assign(ticker="INDEX", timestamp=bars["timestamp"].astype(str)).to_dict("records")
    plain, with_market = (client.post("/v1/forecast", json={**body, **one}).json() for one in ({}, {"market": index}))
    assert plain["forecast"] != with_market["forecast"]


def test_one_bad_ticker_stops_no_other(client, bars, body):
    short = [{**row, "ticker": "SHORT", "timestamp": str(row["timestamp"])} for row in bars.tail(3).to_dict("records")]
    rows = bars.assign(timestamp=bars["timestamp"].astype(str)).to_dict("records")
    answer = client.post("/v1/forecast", json={"bars": rows + short, "horizon": 5}).json()
    assert answer["forecast"] == client.post("/v1/forecast", json=body).json()["forecast"]
    assert "at least" in answer["skipped"]["SHORT"]


def test_too_many_paths(client_of, body):
    response = client_of(max_steps=1000).post("/v1/forecast", json={**body, "horizon": 30})
    assert response.json()["error"]["code"] == "too_much"
