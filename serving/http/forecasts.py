"""`/v1/forecast` and `/v1/forecast/batch`."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from .answers import as_csv, as_records
from .bodies import BatchRequest, ForecastRequest, StrictRoute, table
from .engine import Engine
from .errors import Refusal, told

TOGETHER = 8  # requests of one batch that are worked on at one time


def routes(engine: Engine) -> APIRouter:
    """The router of forecasts."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["forecast"])

    @router.post("/forecast")
    async def forecast(asked: ForecastRequest, request: Request, accept: Annotated[str, Header()] = "") -> Any:
        """Forecasts prices: mean, quantiles and the probability of a rise for every ticker and step."""
        frame, batch = await answered(engine, asked)
        note(request, len(frame), batch)
        if "text/csv" in accept:
            return Response(as_csv(frame), media_type="text/csv")
        return said(engine, frame)

    @router.post("/forecast/batch")
    async def forecast_batch(asked: BatchRequest, request: Request) -> Any:
        """Several forecasts; each is answered as by `/v1/forecast`, or refused, by itself."""
        places = asyncio.Semaphore(TOGETHER)

        async def one(each: ForecastRequest) -> dict[str, Any]:
            async with places:
                try:
                    frame, batch = await answered(engine, each)
                except Refusal as error:
                    return told(error.code, error.detail)
            note(request, len(frame), batch)
            return said(engine, frame)

        return {"answers": await asyncio.gather(*map(one, asked.requests))}

    return router


async def answered(engine: Engine, asked: ForecastRequest) -> tuple[Any, int]:
    """The frame that `asked` wants, and how many series shared its model pass."""

    def read() -> dict[str, Any]:
        market = None if asked.market is None else table(asked.market)
        columns = {"id_column": asked.id, "timestamp_column": asked.time, "target_column": asked.value}
        given = {name: value for name, value in columns.items() if value is not None}
        return {"bars": table(asked.bars), "market": market, **given}

    return await engine.forecast(read, **asked.of_pipeline())


def said(engine: Engine, frame: Any) -> dict[str, Any]:
    """A forecast as JSON."""
    return {"model": engine.settings.name, "forecast": as_records(frame), "skipped": frame.attrs["skipped"]}


def note(request: Request, rows: int, batch: int) -> None:
    """For the log."""
    facts = request.scope["facts"]
    facts.rows, facts.batch = (facts.rows or 0) + rows, max(facts.batch or 0, batch)
