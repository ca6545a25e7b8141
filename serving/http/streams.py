"""`/v1/stream/{id}`: forecasts that move on bar by bar, by requests or over a websocket."""

import asyncio
import json
import logging
from typing import Annotated, Any, Literal

import pandas as pd
from fastapi import APIRouter, Path, Request, WebSocket, WebSocketDisconnect
from pydantic import Field, ValidationError
from pydantic_core import from_json

from ..streaming import StreamingForecaster
from .answers import as_records
from .bodies import MAX_HORIZON, MAX_LEVELS, MAX_TEXT, Level, StrictRoute, Tables
from .engine import Engine
from .errors import Refusal, describe, told
from .notes import NOTES
from .stream_store import NAME, Streams
from .tables import sent_tables

MOST_SOCKETS = 64  # websockets at one time
Id = Annotated[str, Path(pattern=NAME, description="Of the stream: small letters, digits, - and _, 64 at most.")]
log = logging.getLogger("tsf_llm.http")


class Update(Tables):
    """New bars of some or all symbols, and the market's up to the first of them."""


class Creation(Tables):
    """The history of a new stream, and what is to be forecast of it."""

    horizon: int | None = Field(
        None, ge=1, le=MAX_HORIZON, description="Bars ahead, which the model must have a law of."
    )
    quantile_levels: list[Level] | None = Field(None, min_length=1, max_length=MAX_LEVELS)
    calibration: Literal["auto", "on", "off"] = "auto"
    calendar: str | None = Field(None, max_length=MAX_TEXT, description="Exchange that dates the steps, as XNYS.")
    adaptive: bool = Field(False, description="Widen or narrow the laws of each symbol by how they did on its bars.")

    def options(self) -> dict[str, Any]:
        """As arguments of a `StreamingForecaster`, beside its bars."""
        names = ("horizon", "quantile_levels", "calibration", "calendar", "adaptive", "strict")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value is not None}


def routes(engine: Engine, streams: Streams) -> APIRouter:
    """The router of streams."""
    router = APIRouter(prefix="/v1/stream", route_class=StrictRoute, tags=["stream"])
    sockets, turn = set[WebSocket](), asyncio.Lock()

    def said(name: str, stream: StreamingForecaster, frame: pd.DataFrame, notes: list[str]) -> dict[str, Any]:
        return {
            "model": engine.settings.name,
            "stream": name,
            "horizon": stream.settings["horizon"],
            "symbols": {symbol: time.isoformat() for symbol, time in stream.last_times.items()},
            "forecast": as_records(frame),
            "skipped": frame.attrs["skipped"],
            "notes": notes,
        }

    async def updated(name: str, asked: Update) -> tuple[dict[str, Any], int]:
        def update() -> tuple[dict[str, Any], int]:
            notes, tables = list[str](), sent_tables(asked, engine.pipe.processor)
            with NOTES.listening(notes):
                stream, frame = streams.update(name, tables, strict=asked.strict)
            return said(name, stream, frame, notes), len(frame)

        return await engine.in_model_thread(update)

    @router.post("/{id}", status_code=201)
    async def create(id: Id, asked: Creation, request: Request) -> Any:
        """Starts a stream from its history: one or many symbols. Answers their forecasts."""

        def made() -> tuple[dict[str, Any], int]:
            notes, tables = list[str](), sent_tables(asked, engine.pipe.processor)
            with NOTES.listening(notes):
                stream, frame = streams.create(id, tables, **asked.options())
            return said(id, stream, frame, notes), len(frame)

        answer, rows = await engine.in_model_thread(made)
        request.scope["facts"].rows = rows
        return answer

    @router.post("/{id}/bars")
    async def update(id: Id, asked: Update, request: Request) -> Any:
        """Takes the next bars, all or none of them but those of symbols named in `skipped`; answers the forecasts of
        the others from their last bar. The state is saved before the answer is sent."""
        answer, rows = await updated(id, asked)
        request.scope["facts"].rows = rows
        return answer

    @router.get("/{id}")
    async def read(id: Id) -> Any:
        """The symbols, the time of their last bars, and their forecasts from these."""

        def found() -> dict[str, Any]:
            stream = streams.get(id)
            return said(id, stream, stream.forecast(), [])

        return await engine.in_model_thread(found)

    @router.delete("/{id}", status_code=204)
    async def delete(id: Id) -> None:
        """Forgets the stream and its state."""
        await engine.in_model_thread(streams.delete, id)

    @router.websocket("/{id}/ws")
    async def held_open(socket: WebSocket, id: Id) -> None:
        """Each message is the body of an update and is answered as one; an error is answered too, and ends nothing."""
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
            async with turn:  # what is read of a message takes many times its bytes
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
