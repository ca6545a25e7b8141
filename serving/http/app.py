"""The FastAPI app: its routes, and what stands before them."""

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from ...pipeline_tsf_llm import TsfLlmPipeline
from . import about, errors, forecasts
from .engine import Engine
from .guard import Guard
from .metrics import Metrics
from .settings import Settings

DESCRIPTION = "Forecast distributions of market prices. Every error is `{error: {code, message}}`, one line."


def create_app(pipe: TsfLlmPipeline, settings: Settings) -> FastAPI:
    """An app that forecasts with this pipeline, whose weights become float64; `app.state.engine` runs it."""
    app = FastAPI(title="TSF-LLM", version="1", description=DESCRIPTION)
    metrics = Metrics()
    engine = app.state.engine = Engine(pipe, settings, metrics)
    for router in (about.routes(engine), forecasts.routes(engine)):
        app.include_router(router)
    errors.install(app)
    if settings.mcp:
        from .. import assistant

        assistant.mount(app, assistant.build(engine.pipe), host=settings.host)
    app.add_middleware(Guard, settings=settings, metrics=metrics)
    if settings.cors:
        allowed = {"allow_methods": ["GET", "POST", "DELETE"], "allow_headers": ["Authorization", "Content-Type"]}
        app.add_middleware(CORSMiddleware, allow_origins=list(settings.cors), **allowed)
    return app
