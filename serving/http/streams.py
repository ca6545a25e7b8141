"""`/v1/stream/{id}`: forecasts that move on bar by bar; made, updated, read and deleted, or held open as a websocket."""

import json
import logging
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Path, Request, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import from_json

from ..streaming import StreamingForecaster
from .answers import as_records
from .bodies import MAX_LEVELS, MAX_TEXT, Bars, Level, StrictRoute, check_columns, table
from .engine import Engine
from .errors import Refusal, describe, told
from .forecasts import note
from .stream_store import MOST_NEW, MOST_SYMBOLS, NAME, Streams

MOST_SOCKETS = 64  # websockets at one time
Id = Annotated[str, Path(pattern=NAME, description="Of the stream: small letters, digits, - and _, 64 at most.")]
log = logging.getLogger("tsf_llm.http")


class Update(BaseModel):
    """New bars of some or all symbols."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)

    bars: Bars = Field(description=f"timestamp, [ticker,] open, high, low, close, volume; {MOST_NEW:,} rows at most.")
    market: Bars | None = Field(None, description="The market's bars up to the first of them, all of a time at once.")

    @model_validator(mode="after")
    def _columns_are_tables(self) -> "Update":
        check_columns(bars=self.bars, market=self.market)
        return self


class Creation(Update):
    """The history of a new stream, and what is to be forecast of it."""

    bars: Bars = Field(description=f"timestamp, [ticker,] open, high, low, close, volume; {MOST_SYMBOLS} symbols at most.")
    market: Bars | None = Field(None, description="Bars of an index, of a universe or of VIX, which features read.")
    horizon: int | None = Field(None, ge=1, le=1000, description="Bars ahead, which the model must have a law of.")
    quantile_levels: list[Level] | None = Field(None, min_length=1, max_length=MAX_LEVELS)
    calibration: Literal["auto", "on", "off"] = "auto"
    calendar: str | None = Field(None, max_length=MAX_TEXT, description="Exchange that dates the steps, as XNYS.")
    adaptive: bool = Field(False, description="Widen or narrow the laws of each symbol by how they did on its bars.")
    strict: bool = Field(False, description="Refuse bars of which one ticker cannot be used.")

    def options(self) -> dict[str, Any]:
        """As arguments of a `StreamingForecaster`."""
        market = None if self.market is None else table(self.market)
        names = ("horizon", "quantile_levels", "calibration", "calendar", "adaptive", "strict")
        given = {name: getattr(self, name) for name in names} | {"market": market}
        return {name: value for name, value in given.items() if value is not None}


def routes(engine: Engine, streams: Streams) -> APIRouter:
    """The router of streams."""
    router = APIRouter(prefix="/v1/stream", route_class=StrictRoute, tags=["stream"])
    sockets = set[WebSocket]()

    def said(name: str, stream: StreamingForecaster, frame: pd.DataFrame) -> dict[str, Any]:
        return {
            "model": engine.settings.name,
            "stream": name,
            "horizon": stream.settings["horizon"],
            "symbols": {symbol: time.isoformat() for symbol, time in stream.last_times().items()},
            "forecast": as_records(frame),
            "skipped": frame.attrs["skipped"],
        }

    async def updated(name: str, asked: Update) -> tuple[dict[str, Any], int]:
        def update() -> tuple[dict[str, Any], int]:
            market = None if asked.market is None else table(asked.market)
            stream, frame = streams.update(name, table(asked.bars), market)
            return said(name, stream, frame), len(frame)

        return await engine.in_model_thread(update)

    @router.post("/{id}", status_code=201)
    async def create(id: Id, asked: Creation, request: Request) -> Any:
        """Starts a stream from its history: one or many symbols. Answers their forecasts."""

        def made() -> tuple[dict[str, Any], int]:
            stream, frame = streams.create(id, table(asked.bars), **asked.options())
            return said(id, stream, frame), len(frame)

        answer, rows = await engine.in_model_thread(made)
        note(request, rows, 0)
        return answer

    @router.post("/{id}/bars")
    async def update(id: Id, asked: Update, request: Request) -> Any:
        """Takes the next bars, all or none of them but those of symbols named in `skipped`; answers the forecasts of
        the others from their last bar. The state is saved before the answer is sent."""
        answer, rows = await updated(id, asked)
        note(request, rows, 0)
        return answer

    @router.get("/{id}")
    async def read(id: Id) -> Any:
        """The symbols, the time of their last bars, and their forecasts from these."""

        def found() -> dict[str, Any]:
            stream = streams.get(id)
            return said(id, stream, stream.forecast())

        return await engine.in_model_thread(found)

    @router.delete("/{id}", status_code=204)
    async def delete(id: Id) -> None:
        """Forgets the stream and its state."""
        await engine.in_model_thread(streams.delete, id)

    @router.websocket("/{id}/ws")
    async def held_open(socket: WebSocket, id: Id) -> None:
        """Each message is the body of an update, and is answered as one; an error is answered too, and ends nothing."""
        if len(sockets) >= MOST_SOCKETS:
            await socket.close(1013, f"{MOST_SOCKETS} websockets are open, the most")
            return
        sockets.add(socket)
        try:
            await socket.accept()
            while True:
                await socket.send_text(json.dumps(await replied(id, await socket.receive())))
        except WebSocketDisconnect:
            pass
        finally:
            sockets.discard(socket)

    async def replied(name: str, message: Any) -> dict[str, Any]:
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        try:
            return (await updated(name, parsed(message.get("text"))))[0]
        except Refusal as error:
            return told(error.code, error.detail)
        except Exception as error:
            engine.metrics.errors.inc()
            log.error(json.dumps({"error": type(error).__name__, "route": "/v1/stream/{id}/ws"}))
            return told("internal", "this is a mistake of the server")

    return router


def parsed(text: str | None) -> Update:
    """A message.

    Raises:
        Refusal: it is no update.
    """
    try:
        return Update.model_validate(from_json(text or "", allow_inf_nan=False))
    except ValidationError as error:
        raise Refusal(422, "invalid", describe(error.errors())) from None
    except ValueError as error:
        raise Refusal(400, "bad_json", f"the message is no JSON: {error}") from None
