"""assistant.py, by the client of the SDK: in memory, over stdio with a real process, and over HTTP."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import httpx2
import pytest
import uvicorn
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving import assistant
from tsf_llm.serving.assistant import Line, build, mount
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import Settings
from tsf_llm.serving.loading import load_pipeline

SAMPLE = {"data": {"sample": "AAPL"}, "horizon": 2}
TOOLS = ["forecast", "evaluate", "explain", "audit"]


def ask(server, *calls):
    """The answers of one conversation, and the tools that it could choose from."""

    async def talk():
        async with Client(server) as client:
            tools = (await client.list_tools()).tools
            return tools, [await client.call_tool(name, arguments) for name, arguments in calls]

    return anyio.run(talk)


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(model)


@pytest.fixture(scope="module")
def bars_of_sample():
    return read_bars("sample", ["AAPL"]).tail(400).to_csv(index=False)


@pytest.fixture(scope="module")
def server(pipe):
    return build(pipe)


@pytest.fixture(scope="module")
def told(server):
    """Of a conversation in memory."""
    return ask(server, ("forecast", SAMPLE), ("evaluate", SAMPLE | {"dates": 12}))


def test_tools_are_typed_in_and_out_and_say_when_to_use_them(told):
    tools = {tool.name: tool for tool in told[0]}
    assert [*tools] == TOOLS
    for tool in tools.values():
        assert "Use it" in tool.description
        assert tool.output_schema["type"] == "object"
        assert tool.input_schema["required"] == ["data"]
        assert tool.annotations.read_only_hint
    horizon = tools["forecast"].input_schema["properties"]["horizon"]
    assert (horizon["minimum"], horizon["maximum"]) == (1, 60)


def test_a_forecast_has_its_verdict_inside(told):
    answer = told[1][0].structured_content
    [one] = answer["forecasts"]
    assert one["sentence"].startswith("AAPL was at ")
    assert "80 %" in one["sentence"]
    assert "P(up)" in one["sentence"]
    assert answer["verdict"]["sentence"]
    assert answer["inputs"]["used"]
    assert "No investment advice" in answer["notice"]
    assert json.loads(told[1][0].content[0].text) == answer  # for clients that read text alone


def test_an_evaluation_is_a_verdict(told):
    verdict = told[1][1].structured_content["verdict"]
    assert verdict["dates"] == 12
    assert verdict["rows"][0]["model"] == "model"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "data: Field required"),
        ({"data": {}}, "exactly one of bars, file, symbol, sample"),
        ({**SAMPLE, "days": 3}, "unknown argument(s) ['days']: forecast takes"),
        ({"data": {"sample": "AAPL", "path": "/etc/passwd"}}, "data.path: Extra inputs"),
        ({**SAMPLE, "horizon": -1}, "horizon: Input should be greater than or equal to 1"),
        ({**SAMPLE, "horizon": 10**9}, "horizon: Input should be less than or equal to 60"),
        ({**SAMPLE, "as_of": "soon"}, "'soon' is no date"),
        ({**SAMPLE, "seed": -1}, "seed: Input should be greater"),
        ({"data": {"sample": "XXX"}}, "Unknown ticker XXX"),
        ({"data": {"sample": " ,"}}, "data.sample"),
        ({"data": {"sample": "AAPL", "name": "\x1b[31m"}}, "data.name"),
        ({"data": {"bars": "x" * 200_000}}, "data.bars"),
        ({"data": {"bars": [[1]]}}, "data.bars"),
        ({"data": {"file": "/etc/passwd"}}, "reads no files"),
        ({"data": {"symbol": "AAPL"}}, "looks up no symbols"),
    ],
)
def test_errors_are_one_line(server, arguments, words):
    _, [answer] = ask(server, ("forecast", arguments))
    assert answer.is_error
    [content] = answer.content
    assert words in content.text
    assert "\n" not in content.text
    assert len(content.text) <= assistant.LONGEST_ERROR


def test_options_of_the_command_line_are_called_as_they_are_here():
    told = "data.bars: 03/04 has two readings; say it with --dates (in Python dates=)."
    assert assistant.on_this_route(told) == "data.bars: 03/04 has two readings; say it with data.dates."


def test_what_is_no_mistake_of_the_caller_stays_in_the_log(server, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("secret of the machine")

    monkeypatch.setattr(assistant.Answers, "forecast", broken)
    _, [answer] = ask(server, ("forecast", SAMPLE))
    assert answer.is_error
    assert "secret" not in answer.content[0].text


def test_who_waits_behind_too_many_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(assistant, "IN_LINE", 1)
    line = Line()
    with line.turn(), pytest.raises(assistant.ToolError, match="busy: try again"), line.turn():
        pass
    monkeypatch.setattr(assistant, "IN_LINE", 2)
    monkeypatch.setattr(assistant, "PATIENCE", 0.01)
    line = Line()
    with line.turn(), pytest.raises(assistant.ToolError, match="busy: try again"), line.turn():
        pass
    with line.turn():  # its place was given back
        pass


@pytest.fixture(scope="module")
def over_stdio(model, tmp_path_factory):
    """A conversation with `tsf-llm mcp`, and what the process wrote to stderr."""
    folder = tmp_path_factory.mktemp("prices")
    read_bars("sample", ["MSFT"]).tail(400).to_csv(folder / "MSFT.csv", index=False)
    words = ["-c", "from tsf_llm.serving.cli import main; main()", "mcp", "--model", str(model)]
    words += ["--allow-files", str(folder)]
    path = os.pathsep.join(one for one in sys.path if one)
    log = (folder / "stderr.txt").open("w+")
    params = StdioServerParameters(command=sys.executable, args=words, env={**os.environ, "PYTHONPATH": path})
    tools, answers = ask(
        stdio_client(params, errlog=log),
        ("forecast", {"data": {"file": "MSFT.csv"}, "horizon": 2}),
        ("forecast", {"data": {"file": "../x.csv"}}),
        ("evaluate", {"data": {"file": "MSFT.csv"}, "dates": 10}),
    )
    log.seek(0)
    return tools, answers, log.read()


def test_over_stdio(over_stdio):
    tools, [answer, refused, evaluated], log = over_stdio
    assert [tool.name for tool in tools] == TOOLS
    assert answer.structured_content["forecasts"][0]["name"] == "MSFT"
    assert "no file in the folder" in refused.content[0].text
    assert evaluated.structured_content["verdict"]["dates"] == 10
    assert "Traceback" not in log


def test_a_signal_ends_it_though_stdin_stays_open():
    command = [sys.executable, "-c", "from tsf_llm.serving.cli import main; main()", "mcp", "--model", "mini"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
    process.stdin.write(json.dumps(hello).encode() + b"\nnonsense\n")
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "tsf-llm"
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert process.stdout.read() == b""  # nothing but the protocol
    assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--allow-files", "nowhere"], "nowhere is no folder"),
        (["--source", "bloomberg"], "--source bloomberg: choose yahoo"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_the_command_refuses_in_one_line(run, words, message):
    code, out, err = run("mcp", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


@contextlib.contextmanager
def served(app):
    """`app` on a free port, until the end of the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.02)
    try:
        yield port
    finally:
        running.should_exit = True
        thread.join()


def test_over_http_beside_the_routes_of_an_app(pipe, server):
    events = []

    @contextlib.asynccontextmanager
    async def own(app):
        events.append("began")
        yield
        events.append("ended")

    app = Starlette(lifespan=own)
    mount(app, build(pipe), host="127.0.0.1")
    calls = ("forecast", SAMPLE), ("forecast", {"data": {"file": "/etc/passwd"}})
    with served(app) as port:
        url = f"http://127.0.0.1:{port}/mcp"
        tools, [answer, refused] = ask(url, *calls)
        stranger = httpx2.post(url, json={}, headers={"Host": "evil.example", "Accept": "application/json"})
    assert events == ["began", "ended"]  # the app's own lifespan is kept
    assert [tool.name for tool in tools] == TOOLS
    assert "reads no files" in refused.content[0].text
    assert answer.structured_content == ask(server, ("forecast", SAMPLE))[1][0].structured_content
    assert stranger.status_code == 421


def test_the_server_of_forecasts_has_it_where_it_is_asked_for(bars_of_sample):
    app = create_app(load_pipeline("mini"), Settings(token="secret", mcp=True))
    call = ("forecast", {"data": {"bars": bars_of_sample}, "horizon": 1})

    async def talk(url):
        http = httpx2.AsyncClient(headers={"Authorization": "Bearer secret"}, timeout=60)
        async with http, Client(streamable_http_client(url, http_client=http)) as client:
            return await client.call_tool(*call)

    with served(app) as port:
        url = f"http://127.0.0.1:{port}"
        answer = anyio.run(talk, f"{url}/mcp")
        assert httpx2.post(f"{url}/mcp", json={}).status_code == 401
        assert httpx2.get(f"{url}/health").status_code == 200
    assert answer.structured_content["forecasts"][0]["name"] == "AAPL"
    assert TestClient(create_app(load_pipeline("mini"), Settings())).post("/mcp", json={}).status_code == 404


def test_the_page_names_every_tool_and_option(run):
    page = (Path(assistant.__file__).parents[1] / "docs" / "mcp.md").read_text(encoding="utf-8")
    code, out, _ = run("mcp", "--help")
    assert code == 0
    assert all(f"`{tool}`" in page for tool in TOOLS)
    assert all(f"`{option}" in page for option in set(re.findall(r"--[a-z-]+", out)) - {"--help"})
    for block in re.findall(r"```json\n(.*?)\n```", page, re.DOTALL):
        json.loads(block)
