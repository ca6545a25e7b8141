"""The server under load: many clients at once, with and without shared model passes, and what its memory does.

examples:
    python -m tsf_llm.benchmarks.load --json load.json --write docs/http.md
    python -m tsf_llm.benchmarks.load --clients 64 --requests 20000 --figure memory.png

Design choices:
* A real server in a process of its own, real connections; clients and server share the machine's cores.
* Each request brings the bars of one ticker. Clients ask one after another, without a pause, so that as many are
  under way at any time as there are clients: a bounded load, that of a page or a bot that waits for its answer.
* `alone` is the same server with one request in each model pass. The turns alternate; medians are compared.
* Slow clients send a body a few bytes at a time while the others are measured.
* A 429 is counted, and asked again after the time that it names.
"""

import asyncio
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families

from ..common.errors import one_line_errors
from ..common.figures import BLUE, new_figure, save_figure
from ..common.files import check_output, write_json
from ..common.pages import write_between
from ..common.parser import Parser
from ..common.tables import Columns, Table, number
from ..data_prep.sources import read_bars
from ..serving.http.app import create_app
from ..serving.http.run import listening, serve
from ..serving.http.settings import Settings
from ..serving.loading import load_pipeline
from .results import Output, circumstances

SHARED, ALONE = "shared passes", "one request a pass"
BARS = 300
MARKER = "load"
LOOKS = 20  # at the server's memory
PASSES = "tsf_llm_batch_requests"


@dataclass
class Arguments(Output):
    """How many clients, for how long."""

    model: str = field(default="mini", metadata={"help": "folder or Hub name of a model, shipped or mini"})
    clients: int = field(default=64, metadata={"help": "connections that always have a request under way"})
    slow: int = field(default=16, metadata={"help": "further clients that send a body byte by byte"})
    requests: int = field(default=2000, metadata={"help": "of each server and turn"})
    turns: int = field(default=3, metadata={"help": "of each server"})
    horizon: int = field(default=5, metadata={"help": "bars ahead"})
    figure: Path | None = field(default=None, metadata={"metavar": "FILE", "help": "PNG file for the memory"})
    write: Path | None = field(
        default=None, metadata={"metavar": "PAGE", "help": "page to write the table into, between its markers"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.clients, self.requests, self.turns, self.horizon) < 1 or self.slow < 0:
            raise ValueError("--clients, --requests, --turns and --horizon must be 1 or more, --slow 0 or more")
        if self.figure is not None:
            check_output(self.figure, ".png")
        if self.quick:
            self.clients, self.slow, self.requests, self.turns = min(self.clients, 4), min(self.slow, 1), 12, 1


def bodies(horizon: int) -> list[dict[str, Any]]:
    """A request for each ticker of the embedded sample."""
    bars = read_bars("sample")
    bars = bars.assign(timestamp=bars["timestamp"].astype(str))
    return [{"bars": one.tail(BARS).to_dict("list"), "horizon": horizon} for _, one in bars.groupby("ticker")]


@contextmanager
def server(model: str, settings: Settings) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: its URL, and the process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(model, settings, there))
    process.start()
    try:
        if not here.poll(300):
            raise TimeoutError("the server did not start within 5 minutes")
        yield here.recv(), psutil.Process(process.pid)
    finally:
        process.terminate()
        process.join()


def _serve(model: str, settings: Settings, parent: Connection) -> None:
    with listening("127.0.0.1", 0) as taken:
        app = create_app(load_pipeline(model), settings)
        parent.send(f"http://127.0.0.1:{taken.getsockname()[1]}")
        serve(app, taken, settings)


async def drive(url: str, process: psutil.Process, asked: list[dict[str, Any]], a: Arguments) -> dict[str, Any]:
    """One turn: rates, latencies in seconds, statuses, and the server's memory on the way."""
    left, spent, seen, memory = iter(range(a.requests)), [], Counter[str](), []
    every = max(1, a.requests // LOOKS)
    limits = httpx.Limits(max_connections=a.clients, max_keepalive_connections=a.clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as client:

        async def one_client() -> None:
            for i in left:
                started = time.perf_counter()
                while (status := await _status(client, asked[i % len(asked)])) == "429":
                    seen["429"] += 1
                    await asyncio.sleep(1)
                seen[status] += 1
                spent.append(time.perf_counter() - started)
                if i % every == 0:
                    memory.append([i, process.memory_info().rss])

        await client.post("/v1/forecast", json=asked[0])  # the first of a process is slow
        before, started = await _passes(client), time.perf_counter()
        slow = [asyncio.create_task(_send_slowly(url)) for _ in range(a.slow)]
        await asyncio.gather(*(one_client() for _ in range(a.clients)))
        seconds = time.perf_counter() - started
        for task in slow:
            task.cancel()
        passes, requests = (now - then for now, then in zip(await _passes(client), before, strict=True))
    return {
        "requests": a.requests,
        "per_second": a.requests / seconds,
        "p50": float(np.quantile(spent, 0.5)),
        "p99": float(np.quantile(spent, 0.99)),
        "statuses": dict(sorted(seen.items())),
        "requests_per_pass": requests / passes if passes else None,
        "memory": memory,
    }


async def _status(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """Of an answer, or the kind of error that came instead."""
    try:
        return str((await client.post("/v1/forecast", json=body)).status_code)
    except httpx.HTTPError as error:
        return type(error).__name__


async def _passes(client: httpx.AsyncClient) -> tuple[float, float]:
    """Model passes so far, and the requests in them."""
    text = (await client.get("/metrics")).text
    samples = {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}
    return samples[f"{PASSES}_count"], samples[f"{PASSES}_sum"]


async def _send_slowly(url: str) -> None:
    """A client that promises a body and sends it byte by byte; comes again when the server has had enough."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    head = "POST /v1/forecast HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10000\r\n\r\n"
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(head.encode())
                while not writer.is_closing():
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.5)
            finally:
                writer.close()
        await asyncio.sleep(0.5)


def measure(a: Arguments) -> dict[str, Any]:
    """Both servers, in alternating turns; the first name is the server as it is."""
    asked, usual = bodies(a.horizon), Settings(name=a.model, queue=a.clients + a.slow)
    turns: dict[str, list[dict[str, Any]]] = {SHARED: [], ALONE: []}
    with server(a.model, usual) as shared, server(a.model, replace(usual, window=0.0, batch_rows=1)) as alone:
        for _ in range(a.turns):
            for name, (url, process) in zip(turns, (shared, alone), strict=True):
                turns[name].append(asyncio.run(drive(url, process, asked, a)))
    return {name: _together(each) for name, each in turns.items()}


def _together(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the figures, all statuses, the memory from the first turn to the last."""
    figures = {key: median(turn[key] for turn in turns) for key in ("per_second", "p50", "p99", "requests_per_pass")}
    statuses = sum((Counter[str](turn["statuses"]) for turn in turns), Counter[str]())
    memory, before = [], 0
    for turn in turns:
        memory += [[before + i, rss] for i, rss in turn["memory"]]
        before += turn["requests"]
    return {**figures, "statuses": dict(statuses), "errors": _errors(statuses), "memory": memory}


def _errors(statuses: Counter[str]) -> int:
    return sum(count for status, count in statuses.items() if status not in ("200", "429"))


def table(found: dict[str, Any]) -> str:
    """As Markdown."""
    columns: Columns = {
        "server": lambda row: row["name"],
        "requests/s": lambda row: number(row["per_second"], ".1f"),
        "p50, ms": lambda row: number(row["p50"], ".0f", 1000),
        "p99, ms": lambda row: number(row["p99"], ".0f", 1000),
        "requests a pass": lambda row: number(row["requests_per_pass"], ".1f"),
        "errors": lambda row: str(row["errors"]),
        "429": lambda row: str(row["statuses"].get("429", 0)),
        "MB at first": lambda row: number(row["memory"][0][1], ".0f", 2**-20),
        "MB at last": lambda row: number(row["memory"][-1][1], ".0f", 2**-20),
    }
    return Table.of([{"name": name, **one} for name, one in found.items()], columns).markdown()


def draw(found: dict[str, Any], path: Path) -> Path:
    """The memory of the usual server over the requests that it answered."""
    figure, [axes] = new_figure("Memory of the server", "resident megabytes over requests answered")
    i, rss = np.array(found[SHARED]["memory"]).T
    axes.plot(i, rss / 2**20, color=BLUE)
    axes.set_ylim(0)
    return save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    (a,) = Parser(Arguments, prog="load", description=__doc__).parse_args_and_config(arguments)
    found = measure(a)
    ratio = found[SHARED]["per_second"] / found[ALONE]["per_second"]
    told = circumstances("torch", "transformers", "fastapi", "uvicorn")
    words = (
        f"{a.model}, {a.clients} clients and {a.slow} slow ones, {a.requests * a.turns:,} requests of {BARS} bars to "
        f"each server, {a.horizon} bars ahead, {told['machine']['cpu_count']} CPUs: shared passes answer "
        f"{ratio:.2f} times as many a second."
    )
    text = f"{table(found)}\n\n{words}"
    print(text)
    if a.json is not None:
        write_json({**found, "ratio": ratio, "requests": a.requests * a.turns, "clients": a.clients, **told}, a.json)
    if a.write is not None:
        write_between(a.write, text, MARKER)
    if a.figure is not None:
        draw(found, a.figure)


if __name__ == "__main__":
    with one_line_errors("load"):
        main()
