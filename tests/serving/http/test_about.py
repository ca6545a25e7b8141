def test_models(client):
    (model,) = client.get("/v1/models").json()["models"]
    assert model["name"] == "mini"
    assert model["law_reach"] == 20
    assert model["trained_through"] == "2018-12-31"


def test_metrics(client, body):
    client.post("/v1/forecast", json=body)
    text = client.get("/metrics").text
    for name in ("requests_total", "request_seconds_bucket", "batch_rows_bucket", "queue_depth", "errors_total"):
        assert f"tsf_llm_{name}" in text
    assert 'route="/v1/forecast",status="200"' in text
