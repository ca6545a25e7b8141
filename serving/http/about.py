"""`/v1/models` and `/v1/adapters`, and what machines ask: `/health`, `/ready`, `/metrics`."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .engine import Engine
from .errors import Refusal


def routes(engine: Engine) -> APIRouter:
    """The router of what is not a forecast."""
    router = APIRouter()

    @router.get("/health", tags=["operations"])
    async def health() -> dict[str, str]:
        """Whether the server is alive."""
        return {"status": "ok"}

    @router.get("/ready", tags=["operations"])
    async def ready(request: Request) -> dict[str, str]:
        """Whether the next request would be taken."""
        if request.scope["guard"].is_full:
            raise Refusal(503, "busy", "the queue is full", {"Retry-After": "1"})
        return {"status": "ready"}

    @router.get("/metrics", tags=["operations"], response_class=Response)
    async def metrics() -> Response:
        """Counts for Prometheus."""
        return Response(generate_latest(engine.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/v1/models", tags=["models"])
    async def models() -> dict[str, Any]:
        """The model that answers, and what it knows."""
        return {"models": [described(engine)]}

    @router.get("/v1/adapters", tags=["models"])
    async def adapters() -> dict[str, Any]:
        """The adapters that a request may name, beside `by_ticker`."""
        known = engine.adapters.by_name.values()
        names = ("name", "ticker", "trained_through")
        return {"adapters": [{name: getattr(one, name) for name in names} for one in known]}

    return router


def described(engine: Engine) -> dict[str, Any]:
    """What a client wants to know of the model; no path of this machine."""
    pipe, config = engine.pipe, engine.pipe.model.config
    extractor = pipe.processor.feature_extractor
    return {
        "name": engine.settings.name,
        "kind": extractor.kind,
        "context_length": extractor.context_length,
        "bar_seconds": extractor.bar_seconds,
        "horizon": pipe.reach,
        "law_reach": pipe.law_reach,
        "head": None if pipe.model.can_generate() else config.prediction_type,
        "covariates": extractor.covariates,
        "known_covariates": extractor.known_covariates,
        "static_covariates": extractor.static_covariates,
        "market": extractor.market_parts if extractor.reads_market else [],
        "calendar": extractor.calendar,
        "trained_through": config.trained_through,
        "fitted_through": pipe.processor.fitted_through,
        "calibrated": (pipe.processor.calibration or {}).get("kept", False),
        "processor_digest": pipe.processor.digest,
    }
