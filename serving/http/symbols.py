"""`/v1/forecast/symbols`: symbols in place of bars, where the server was started with `--source yahoo`."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field

from ...bars_tsf_llm import OHLCV
from ...data_prep.yahoo import Busy
from ..symbols import MOST, RecentBars, Symbols
from .bodies import Asked, StrictRoute
from .engine import Engine
from .errors import Refusal, refused
from .forecasts import note, said

Symbol = Annotated[str, Field(min_length=1, max_length=32)]


class SymbolRequest(Asked):
    """Symbols, and what to forecast of them."""

    symbols: list[Symbol] = Field(min_length=1, max_length=MOST, description="As Yahoo Finance has them: AAPL, ^GSPC.")
    strict: bool = Field(False, description="Refuse bars of which one ticker cannot be used.")


def routes(engine: Engine, symbols: Symbols | None) -> APIRouter:
    """The router of symbols."""
    router = APIRouter(prefix="/v1", route_class=StrictRoute, tags=["forecast"])

    @router.post("/forecast/symbols")
    async def forecast(asked: SymbolRequest, request: Request) -> Any:
        """Forecasts of symbols, from recent daily bars that this server looks up and keeps for some time.

        `symbols` says of each which bar was the last (`as_of`), when it was fetched, and why no later one could be
        (`stale`). A symbol without bars is in `skipped`."""
        recent = await looked_up(symbols, engine, asked.symbols)
        answer = await engine.forecast(lambda: {"bars": recent.bars}, **asked.of_pipeline())
        note(request, answer)
        told = said(engine, asked, answer)
        return {**told, "symbols": recent.symbols, "skipped": recent.skipped | told["skipped"]}

    return router


async def looked_up(symbols: Symbols | None, engine: Engine, names: list[str]) -> RecentBars:
    """Raises Refusal where this server, or Yahoo, knows none of them, or does not answer."""
    if symbols is None:
        raise Refusal(404, "no_source", "this server looks up no symbols: send bars, or start it with --source yahoo")
    if engine.pipe.processor.kind is not OHLCV:
        raise Refusal(422, "refused", "the model of this server reads plain series, and symbols have prices")
    try:
        return await asyncio.to_thread(symbols.recent, names)
    except Busy as error:
        raise Refusal(503, "no_answer", str(error), {"Retry-After": "60"}) from error
    except ValueError as error:
        raise refused(error) from error
