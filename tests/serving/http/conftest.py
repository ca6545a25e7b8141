"""The shipped small model as an app in this process, and as a real one on a free port."""

import os
import re
import signal
import subprocess
import sys

import pytest
from fastapi.testclient import TestClient

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.serving.http.app import create_app
from tsf_llm.serving.http.settings import TOKEN, Settings
from tsf_llm.serving.loading import load_pipeline


@pytest.fixture(scope="session")
def pipe():
    return load_pipeline("mini")


@pytest.fixture(scope="session")
def bars():
    """300 bars of AAPL."""
    return read_bars("sample", ["AAPL"]).tail(300)


@pytest.fixture(scope="session")
def body(bars):
    """A request of them."""
    return {"bars": bars.assign(timestamp=bars["timestamp"].astype(str)).to_dict("list"), "horizon": 5}


@pytest.fixture
def client_of(pipe):
    """`client_of(timeout=...)`: a client of an app with such settings."""
    return lambda **settings: TestClient(create_app(pipe, Settings(name="mini", **settings)))


@pytest.fixture(scope="session")
def client(pipe):
    return TestClient(create_app(pipe, Settings(name="mini")))


def started(*words, **environment):
    """A server of its own process -> it, and its URL. The page and MCP have tests of their own, and take seconds."""
    words = ("--no-page", "--no-mcp", *words)
    command = [sys.executable, "-c", "from tsf_llm.serving.cli import main; main()", "serve", "--model", "mini"]
    env = {name: value for name, value in os.environ.items() if name != TOKEN} | environment
    server = subprocess.Popen(
        [*command, "--port", "0", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    line = server.stdout.readline()
    return server, re.search(r"http://\S+", line).group()


@pytest.fixture(scope="session")
def server():
    """The URL of a real server."""
    process, url = started()
    yield url
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in log
