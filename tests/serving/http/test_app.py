import pytest
from fastapi.testclient import TestClient

from tsf_llm.evaluation.track_record import Chain, TrackRecord
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.record import Recorder
from tsf_llm.training.models import digest


def test_openapi(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/forecast", "/v1/forecast/batch", "/v1/models", "/health", "/ready", "/metrics"} <= {*paths}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("PUT", "/v1/forecast", 405),
        ("HEAD", "/v1/forecast", 405),
        ("DELETE", "/health", 405),
    ],
)
def test_unknown_paths_and_methods(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    assert method == "HEAD" or response.json()["error"]["code"] in ("not_found", "method_not_allowed")


def test_cors_is_off_unless_asked_for(client, client_of):
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    allowed = "access-control-allow-origin"
    assert allowed not in client.options("/v1/forecast", headers=asked).headers
    own = client_of(cors=("https://a.example",), token="secret")
    assert own.options("/v1/forecast", headers=asked).headers[allowed] == "https://a.example"
    assert allowed not in own.options("/v1/forecast", headers={**asked, "Origin": "https://b.example"}).headers


def test_the_page_takes_what_is_left(pipe):
    pytest.importorskip("gradio")
    with TestClient(create_app(pipe, Settings(page=True, token="secret"))) as client:
        assert client.get("/").status_code == 401
        assert "Basic" in client.get("/").headers["www-authenticate"]
        assert "TSF-LLM" in client.get("/", auth=("", "secret")).text
        assert client.get("/health").json() == {"status": "ok"}
        assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get("/v1/nothing", auth=("", "secret")).json()["error"]["code"] == "not_found"


def test_forecasts_join_a_track_record_before_they_are_answered(body, tmp_path):
    pipe = load_pipeline("mini")
    recorder = Recorder(pipe, "mini", tmp_path / "record.sqlite")
    client = TestClient(create_app(pipe, Settings(name="mini"), recorder=recorder))
    answer = client.post("/v1/forecast", json=body).json()
    plain = TestClient(create_app(pipe, Settings(name="mini"))).post("/v1/forecast", json=body).json()
    assert answer["forecast"] == plain["forecast"]
    [chunk] = TrackRecord(tmp_path / "record.sqlite").chunks(Chain())
    assert chunk["step"].tolist() == [1, 2, 3, 4, 5]
    assert set(chunk["model_digest"]) == {digest(load_pipeline("mini").model)}  # of the weights as they are saved
