"""Every error that a client sees: `{"error": {"code", "message"}}`, one clear line, nothing of the server's inside."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from ...common.errors import printable

LONGEST = 600  # characters of a message
TAGS = {"body", "records", "columns"}  # of a place in a body, which say nothing to a client
OPTION = r"--([a-z]+)(?: FILE)?(?: \(in Python \w+=\)|; in Python \w+)?"  # as the library writes it
CODES = {404: "not_found", 405: "method_not_allowed"}
MESSAGES = {404: "no such path: see /openapi.json", 405: "this path answers another method: see /openapi.json"}


class Refusal(HTTPException):
    """What a client is told, instead of an answer."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(status, message, headers)
        self.code = code


def refused(error: ValueError) -> Refusal:
    """Bars or arguments that the library refuses, in its own words; its options are fields here."""
    return Refusal(422, "refused", as_fields(str(error)))


def as_fields(text: str) -> str:
    """What the library says, with its options as the fields that they are here.

    >>> as_fields("add --resample 1d:sum (in Python resample=)")
    'add the field resample 1d:sum'
    """
    return re.sub(r" \(in Python \w+=\)", "", re.sub(OPTION, r"the field \1", text))


def told(code: str, message: str) -> dict[str, Any]:
    """An error as JSON."""
    line = printable(" ".join(message.split()))
    return {"error": {"code": code, "message": line if len(line) <= LONGEST else line[: LONGEST - 3] + "..."}}


def answer(error: HTTPException) -> JSONResponse:
    code = error.code if isinstance(error, Refusal) else CODES.get(error.status_code, "http")
    message = (
        MESSAGES.get(error.status_code, str(error.detail)) if code != getattr(error, "code", "") else error.detail
    )
    return JSONResponse(told(code, message), error.status_code, error.headers)


def place(loc: Sequence[int | str]) -> str:
    """Where in a body something is wrong.

    >>> place(("body", "bars", "records", 3, "close"))
    'bars[3].close'
    """
    parts = [f"[{one}]" if isinstance(one, int) else f".{one}" for one in loc if one not in TAGS]
    return "".join(parts).removeprefix(".")[:80]


def describe(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors, without what the client sent."""
    first = errors[0]
    message = first["msg"].removeprefix("Value error, ")
    if "UploadFile" in message:
        message = "send a file, with a name"
    if not (where := place(first["loc"])):
        return "the body is empty: send a JSON object" if first["type"] == "missing" else f"the body: {message}"
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return f"{where}: {message}{more}"


def install(app: FastAPI) -> None:
    """Makes the app answer its errors so."""

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def of_body(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse(told("invalid", describe(error.errors())), 422)
