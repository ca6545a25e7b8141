"""The FastAPI app: its routes, and what stands before them."""

import pandas as pd
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from ...pipeline_tsf_llm import TsfLlmPipeline
from ..record import Recorder
from ..symbols import Symbols
from . import about, errors, explain, forecasts, streams, symbols
from .adapters import Adapters
from .engine import Engine
from .guard import Guard
from .metrics import Metrics
from .settings import Settings
from .stream_store import Streams

DESCRIPTION = "Forecast distributions of market prices. Every error is `{error: {code, message}}`, one line."
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]


def create_app(
    pipe: TsfLlmPipeline,
    settings: Settings,
    *,
    adapters: Adapters | None = None,
    market: pd.DataFrame | None = None,
    source: Symbols | None = None,
    recorder: Recorder | None = None,
) -> FastAPI:
    """An app that forecasts with this pipeline, whose weights become float64; `app.state.engine` runs it.

    `market` is a `market_state` for requests that bring no market of their own; `source` looks up symbols;
    `recorder` writes the forecasts of `/v1/forecast` down, but those of adapters."""
    app = FastAPI(title="TSF-LLM", version="1", description=DESCRIPTION)
    metrics = Metrics()
    engine = app.state.engine = Engine(pipe, settings, metrics, adapters, market, recorder)
    routers = [about.routes(engine), forecasts.routes(engine), explain.routes(engine)]
    routers += [symbols.routes(engine, source), streams.routes(engine, Streams(engine.pipe, settings.state))]
    for router in routers:
        app.include_router(router)
    errors.install(app)
    if settings.mcp:
        from .. import assistant

        assistant.mount(app, assistant.build(engine.pipe, market=market, symbols=source), host=settings.host)
    if settings.page:
        from ..page import blocks

        app.add_api_route("/v1/{path:path}", _nothing, methods=METHODS, include_in_schema=False)
        blocks.mount(app, engine.pipe, symbols=source)  # last: it answers all paths that are left
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    if settings.cors:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
        )
    return app


def _nothing(path: str) -> None:
    """Of a path of the API that has no route, which the page would answer."""
    raise errors.Refusal(404, "not_found", "no such path, or not by this method: see /openapi.json")
