"""`/v1/forecast`, of JSON or of a file, and `/v1/forecast/batch`."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response

from .answers import as_csv, as_records
from .bodies import Asked, BatchRequest, ForecastRequest, StrictRoute, UploadRequest, UploadRoute
from .engine import Answer, Engine
from .errors import Refusal, as_fields, told
from .tables import sent_tables, uploaded, uploaded_market

TOGETHER = 8  # requests of one batch that are worked on at one time


def routes(engine: Engine) -> APIRouter:
    """The router of forecasts."""
    router = APIRouter(prefix="/v1", tags=["forecast"])

    def sent(asked: ForecastRequest) -> dict[str, Any]:
        return sent_tables(asked, engine.pipe.processor)

    async def upload(asked: Annotated[UploadRequest, Form(media_type="multipart/form-data")], request: Request) -> Any:
        """The same of a file."""
        content, name = await asked.file.read(), asked.file.filename or ""
        market = None if asked.market is None else (await asked.market.read(), asked.market.filename or "")
        static = None if asked.static is None else (await asked.static.read(), asked.static.filename or "")

        def read() -> dict[str, Any]:
            bars = uploaded(content, name, asked, engine.pipe.processor, static)
            return {"bars": bars, "market": None if market is None else uploaded_market(*market, asked)}

        return respond(engine, request, asked, await engine.forecast(read, **asked.of_pipeline()))

    async def forecast(asked: ForecastRequest, request: Request) -> Any:
        """Forecasts prices or plain series: mean, quantiles and the probability of a rise for every one and step.

        Send JSON, or a form with a file (csv, csv.gz, parquet). Known covariates of the steps ahead come as rows
        without a value. `Accept: text/csv` asks for a table."""
        answer = await engine.forecast(lambda: sent(asked), **asked.of_pipeline())
        return respond(engine, request, asked, answer)

    async def forecast_batch(asked: BatchRequest, request: Request) -> Any:
        """Several forecasts; each is answered as by `/v1/forecast`, or refused, by itself."""
        places = asyncio.Semaphore(TOGETHER)

        async def one(each: ForecastRequest) -> dict[str, Any]:
            async with places:
                try:
                    answer = await engine.forecast(lambda: sent(each), **each.of_pipeline())
                except Refusal as error:
                    return told(error.code, error.detail)
            note(request, answer)
            return said(engine, each, answer)

        return {"answers": await asyncio.gather(*map(one, asked.requests))}

    form = {"requestBody": {"content": {"multipart/form-data": {"schema": UploadRequest.model_json_schema()}}}}
    add, post = router.add_api_route, ["POST"]
    add("/forecast", upload, methods=post, route_class_override=UploadRoute, include_in_schema=False)
    add("/forecast", forecast, methods=post, route_class_override=StrictRoute, openapi_extra=form)
    add("/forecast/batch", forecast_batch, methods=post, route_class_override=StrictRoute)
    return router


def respond(engine: Engine, request: Request, asked: Asked, answer: Answer) -> Any:
    """JSON, or CSV for who asks for it."""
    note(request, answer)
    if "text/csv" not in request.headers.get("accept", ""):
        return said(engine, asked, answer)
    skipped = {"X-Skipped": str(len(answer.frame.attrs["skipped"]))}
    return Response(as_csv(answer.frame), media_type="text/csv", headers=skipped)


def said(engine: Engine, asked: Asked, answer: Answer) -> dict[str, Any]:
    """A forecast as JSON."""
    return {
        "model": engine.settings.name,
        "adapter": asked.adapter,
        "out_of_sample": answer.out_of_sample,
        "forecast": as_records(answer.frame),
        "skipped": {name: as_fields(why) for name, why in answer.frame.attrs["skipped"].items()},
        "notes": [as_fields(note) for note in answer.notes],
    }


def note(request: Request, answer: Answer) -> None:
    """For the log."""
    facts = request.scope["facts"]
    facts.rows, facts.batch = (facts.rows or 0) + len(answer.frame), max(facts.batch or 0, answer.rows)
