"""What `/metrics` counts, for Prometheus. Each app has a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """Requests by route and status, their seconds, sizes of model passes, and what is in the works."""

    def __init__(self) -> None:
        self.registry = own = CollectorRegistry()
        labels = ["route", "status"]
        self.requests = Counter("tsf_llm_requests", "Requests answered.", labels, registry=own)
        self.seconds = Histogram(
            "tsf_llm_request_seconds", "Seconds of a request.", ["route"], buckets=SECONDS, registry=own
        )
        self.errors = Counter("tsf_llm_errors", "Answers with status 500: mistakes of the server.", registry=own)
        self.in_flight = Gauge("tsf_llm_queue_depth", "Requests that are read or answered now.", registry=own)
        self.passes = Counter("tsf_llm_passes", "Model passes.", registry=own)
        self.batch_rows = Histogram("tsf_llm_batch_rows", "Series of a model pass.", buckets=ROWS, registry=own)
        self.batch_requests = Histogram(
            "tsf_llm_batch_requests", "Requests of a model pass.", buckets=ROWS, registry=own
        )
