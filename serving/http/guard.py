"""What stands before every route: request ids, the token, sizes and times of bodies, room in the queue, log and count.

Design choices:
* The body is read here, whole and bounded, with or without a Content-Length: no route meets a slow or a huge one.
* Requests that work (`/v1/`, but GET) take a place of the queue before their body is read.
* All bodies together are bounded, of whatever route: what is made of one takes many times its bytes.
* A client that goes away, or a request that takes too long, cancels its route.
* A route's own mistake becomes one line for the client, and its kind and place, never data, one for the log.
"""

import asyncio
import base64
import hmac
import json
import logging
import re
import sys
import time
import traceback
import uuid
import warnings
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from transformers.utils import logging as transformers_logging

from .errors import Refusal, answer
from .metrics import Metrics
from .settings import Settings

OPEN = {"/health", "/ready", "/metrics"}  # without a token: they tell nobody's data
WORK = "/v1/"
BODIES = 4  # of the largest size, that are held at one time
REQUEST_ID = b"x-request-id"
log = logging.getLogger("tsf_llm.http")


@dataclass
class Facts:
    """Of one request, for its line in the log: `request.scope["facts"]`."""

    id: str
    status: int = 0
    rows: int | None = None  # forecast
    batch: int | None = None  # series of the largest model pass that it took part in
    bytes: int = 0  # of its body, while that is held


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics):
        self.app, self.settings, self.metrics = app, settings, metrics
        self.working = self.held = 0  # requests, and bytes of all bodies

    @property
    def is_full(self) -> bool:
        return self.working >= self.settings.queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        scope["facts"], scope["guard"] = facts, _ = Facts(_request_id(scope)), self
        if scope["type"] == "websocket":
            return await self._websocket(scope, receive, send)
        started = time.perf_counter()

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                facts.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, facts.id.encode())]
            await send(message)

        try:
            await self._answered(scope, receive, sent)
        finally:
            self._note(scope, facts, time.perf_counter() - started)
        return None

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._may_enter(scope):
            return await self.app(scope, receive, send)
        await receive()
        return await send({"type": "websocket.close", "code": 1008})

    async def _answered(self, scope: Scope, receive: Receive, send: Send) -> None:
        works = scope["path"].startswith(WORK) and scope["method"] not in ("GET", "HEAD")
        try:
            if not self._may_enter(scope):
                headers = {"WWW-Authenticate": 'Bearer, Basic realm="tsf-llm"'}
                raise Refusal(401, "unauthorized", "send the token: Authorization: Bearer TOKEN", headers)
            if works and self.is_full:
                raise _busy("the queue is full")
            self.working += works
            self.metrics.in_flight.set(self.working)
            try:
                body = await self._body(scope, receive)
                await self._run(scope, receive, body, send, self.settings.timeout if works else None)
            finally:
                self.working -= works
                self.held -= scope["facts"].bytes
                self.metrics.in_flight.set(self.working)
        except Refusal as error:
            if not scope["facts"].status:
                await answer(error)(scope, receive, send)
        except ClientGone:
            scope["facts"].status = scope["facts"].status or 499
        except Exception as error:
            self.metrics.errors.inc()
            log.error(json.dumps({"time": _now(), "id": scope["facts"].id, "error": _where(error)}))
            if not scope["facts"].status:
                failed = Refusal(500, "internal", "this is a mistake of the server: its log has more, under this id")
                await answer(failed)(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, body: bytes, send: Send, timeout: float | None) -> None:
        """The app's answer, cancelled when the client goes away or time is up."""
        gone = asyncio.create_task(_until_gone(receive))
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replayed() -> Message:
            if (message := next(messages, None)) is not None:
                return message
            await asyncio.wait({gone})
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self.app(scope, replayed, send))
        try:
            await asyncio.wait({work, gone}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return await work
            if gone.done():
                raise ClientGone
            raise Refusal(504, "timeout", f"no answer within {timeout:g} seconds: ask for less, or later")
        finally:
            await _end(work)
            await _end(gone)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """Raises Refusal for one that is larger than allowed, or does not come in time."""
        too_large = Refusal(413, "too_large", f"the body has more than {self.settings.max_body:,} bytes")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self.settings.max_body:
            raise too_large
        parts = bytearray()
        try:
            async with asyncio.timeout(self.settings.timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    part = message.get("body", b"")
                    parts += part
                    if len(parts) > self.settings.max_body:
                        raise too_large
                    scope["facts"].bytes, self.held = len(parts), self.held + len(part)
                    if self.held > BODIES * self.settings.max_body:
                        raise _busy("the bodies of other requests fill the memory")
                    if not message.get("more_body"):
                        return bytes(parts)
        except TimeoutError:
            raise Refusal(408, "slow", f"the body did not come within {self.settings.timeout:g} seconds") from None

    def _may_enter(self, scope: Scope) -> bool:
        if self.settings.token is None or scope["path"] in OPEN:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return hmac.compare_digest(_token(given), self.settings.token.encode())

    def _note(self, scope: Scope, facts: Facts, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", None) or "other"
        self.metrics.requests.labels(route, facts.status).inc()
        self.metrics.seconds.labels(route).observe(seconds)
        line = {"time": _now(), "id": facts.id, "method": scope["method"][:10], "route": route, "status": facts.status}
        line |= {"ms": round(1000 * seconds, 1), "rows": facts.rows, "batch": facts.batch}
        log.info(json.dumps(line))


class ClientGone(Exception):
    """The client closed its connection before it had an answer."""


def _busy(why: str) -> Refusal:
    return Refusal(429, "busy", f"{why}: try again in a second", {"Retry-After": "1"})


def _token(header: bytes) -> bytes:
    """Of `Bearer TOKEN`, or of `Basic`, which browsers know, as its password."""
    kind, _, rest = header.partition(b" ")
    if kind.lower() == b"basic":
        try:
            return base64.b64decode(rest).partition(b":")[2]
        except ValueError:
            return b""
    return rest.strip() if kind.lower() == b"bearer" else b""


def _request_id(scope: Scope) -> str:
    """The client's own, where it is one, else a new one."""
    given = dict(scope["headers"]).get(REQUEST_ID, b"").decode("latin-1")
    return given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else uuid.uuid4().hex


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(task: "asyncio.Future[Any]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait({task})


def _where(error: BaseException) -> str:
    """Kind and place of a mistake of ours; its text may hold a client's data."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.name}, {last.filename}:{last.lineno}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z"


def write_log() -> None:
    """The log, one JSON object a line, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    logging.getLogger("tsf_llm").propagate = False  # `notes` has the library's warnings, which may hold data
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    warnings.simplefilter("ignore", RuntimeWarning)  # of odd numbers, which the answer has as null
