from prometheus_client import generate_latest

from tsf_llm.serving.http.metrics import Metrics


def test_two_apps_count_apart():
    one, other = Metrics(), Metrics()
    one.passes.inc()
    assert b"tsf_llm_passes_total 1.0" in generate_latest(one.registry)
    assert b"tsf_llm_passes_total 0.0" in generate_latest(other.registry)
