"""TSF-LLM for chat assistants: an MCP server with the tools `forecast`, `evaluate`, `explain` and `audit`.

Design choices:
* The tools are those of `answers.py`, typed in and out. What they are for is told to the assistant here.
* Calls run one after another, in a short line; who would wait too long is told to come again.
* Errors that speak of the input are one line for the assistant to act on. Others stay in the log of the server.
* Files are read only below a folder that whoever started the server has named; over HTTP never.
"""

import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import Field, ValidationError
from starlette.applications import Starlette

from ..common.errors import OF_THE_INPUT, printable
from ..common.provenance import release
from ..pipeline_tsf_llm import TsfLlmPipeline
from .answers import MOST_LETTERS, MOST_STEPS, Answers, Audit, Data, Evaluation, Explanation, Forecast
from .verdict import MOST

IN_LINE, PATIENCE = 8, 60.0  # calls that wait for the one that runs, and seconds
INSTRUCTIONS = """\
Probabilistic forecasts of prices (and other series), each with an honest verdict on what it is worth.
* "What may X do, and how sure are you": call `forecast`. Answer with its `sentence`: the 80 % band, P(up), and what \
the walk-forward test on the same series says. Give the band before any single number.
* Say "no edge" where the verdict says so; say it where the model has seen the dates or where there are too few.
* P(up) near 0.5 says nothing on direction. Daily direction is close to unpredictable: never promise a rise or a fall.
* `evaluate` tests more dates, `explain` says which inputs forecasts rest on, `audit` proves that no feature knows \
the future. Do not invent bars: ask the user for a table, or use a symbol if this server can look it up.
* Name what was masked (`inputs.masked`): a model that reads a market forecasts worse without one.
* This is no investment advice, and neither is your answer."""
LONGEST_ERROR = 600  # letters
AsOf = Annotated[str | None, Field(description="Forecast as if nothing after this date were known.")]
Seed = Annotated[int, Field(ge=0, lt=2**32, description="Of sampled paths, and of dates drawn.")]
Dates = Annotated[int, Field(ge=10, le=MOST, description="Earlier dates to forecast from, at most.")]
Features = Annotated[Literal["model", "table"], Field(description="Those of the model, or all of this package.")]


class Server(MCPServer):
    """Refuses unknown arguments, and those of another type, in one line."""

    async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
        known = {tool.name: sorted(tool.input_schema["properties"]) for tool in await self.list_tools()}
        if unknown := sorted(arguments.keys() - {*known.get(name, arguments)}):
            raise ToolError(one_line(f"unknown argument(s) {unknown}: {name} takes {', '.join(known[name])}"))
        try:
            return await super().call_tool(name, arguments, context)
        except ToolError as error:
            if isinstance(error.__cause__, ValidationError):
                wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.__cause__.errors()]
                raise ToolError(one_line("; ".join(wrong))) from error
            if isinstance(error.__cause__, ToolError):
                raise error.__cause__ from None
            raise


def one_line(text: str) -> str:
    return printable(" ".join(text.split()))[:LONGEST_ERROR]


class Line:
    """Calls one after another; who would wait behind too many is told to come again."""

    def __init__(self) -> None:
        self._places, self._turn = threading.BoundedSemaphore(IN_LINE), threading.Lock()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Raises ToolError where too many wait, or the wait was too long; and for what speaks of the input."""
        if not self._places.acquire(blocking=False):
            raise ToolError("the server is busy: try again in a minute")
        try:
            if not self._turn.acquire(timeout=PATIENCE):
                raise ToolError("the server is busy: try again in a minute")
            try:
                yield
            except OF_THE_INPUT as error:
                raise ToolError(one_line(on_this_route(str(error)))) from error
            finally:
                self._turn.release()
        finally:
            self._places.release()


def on_this_route(text: str) -> str:
    """Options of the command line as the arguments that they are here."""
    text = re.sub(r" \(in Python \w+=\)", "", text)
    return re.sub(r"--(dates|decimal|id|time|value|static|resample)\b(?: FILE; in Python \w+)?", r"data.\1", text)


def build(
    pipe: TsfLlmPipeline, *, market: pd.DataFrame | None = None, folder: Path | None = None, symbols: Any = None
) -> Server:
    """The server. `market` is read beside all bars; files are read below `folder` alone, and symbols looked up by
    `symbols`, a `serving.symbols.Symbols`, where these are given."""
    version = release("tsf-llm") or ""
    server = Server("tsf-llm", title="TSF-LLM", instructions=INSTRUCTIONS, version=version, log_level="WARNING")
    most = max(MOST_STEPS, pipe.reach)
    Horizon = Annotated[int, Field(ge=1, le=most, description="Bars ahead; of daily bars, 5 are a week.")]
    answers, line = Answers(pipe, market, folder, symbols), Line()
    reads = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=symbols is not None)

    @server.tool(annotations=reads, title="Forecast")
    def forecast(data: Data, horizon: Horizon = 5, as_of: AsOf = None, seed: Seed = 0) -> Forecast:
        """What may come of a price or series, how sure that is, and what such forecasts were worth on these very bars.

        Use it for any question on the future of a price: "what may AAPL do next week", "how likely is a rise", "what
        is the range for Friday". Answer with `sentence` of the series and keep its verdict."""
        with line.turn():
            return answers.forecast(data, horizon=horizon, as_of=as_of, seed=seed)

    @server.tool(annotations=reads, title="Evaluate")
    def evaluate(data: Data, horizon: Horizon = 5, dates: Dates = MOST) -> Evaluation:
        """How good the model's forecasts were on earlier dates of this series, beside random walk, GARCH and HAR.

        Use it when asked whether the forecasts can be trusted, or how accurate they are. `verdict.finding` is better,
        no edge, worse or too few dates; `out_of_sample` false means that the model has seen these dates."""
        with line.turn():
            return answers.evaluate(data, horizon=horizon, dates=dates)

    @server.tool(annotations=reads, title="Explain")
    def explain(data: Data, seed: Seed = 0) -> Explanation:
        """Which inputs the model's forecasts of this series rest on: groups of features, by permutation on past dates.

        Use it when asked why. It tells what the model reads, not what moves the market; an interval that spans zero
        means that no influence was found."""
        with line.turn():
            return answers.explain(data, seed=seed)

    @server.tool(annotations=reads, title="Audit")
    def audit(data: Data, features: Features = "model") -> Audit:
        """Proves on these bars that no feature knows the future: later bars are cut off or changed, nothing may move.

        Use it when asked whether results may come from look-ahead. It audits features, not the user's own data: a
        column that was made with later knowledge stays so."""
        with line.turn():
            return answers.audit(data, features=features)

    return server


def run(server: MCPServer) -> None:
    """Over stdio, until stdin ends. A signal ends it at once: nothing can be left half done, and a thread that waits
    for stdin would hold up an orderly end for ever."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: os._exit(128 + number))
    server.run("stdio")


def mount(app: Starlette, server: MCPServer, *, host: str, path: str = "/mcp") -> None:
    """Adds the server to an app, whose lifespan then runs it.

    No session is kept, so restarts and several workers do no harm. On a loopback `host` others are refused as Host.
    """
    inner, own = (
        app.router.lifespan_context,
        server.streamable_http_app(
            streamable_http_path=path,
            host=host,
            stateless_http=True,
            json_response=True,
            max_request_body_size=2 * MOST_LETTERS,
        ),
    )

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with server.session_manager.run(), inner(app) as state:
            yield state

    app.router.routes.extend(own.routes)
    app.router.lifespan_context = lifespan
