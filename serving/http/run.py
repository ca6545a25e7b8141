"""What `tsf-llm serve` does: open the model, take the port, answer until it is told to stop."""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import uvicorn
from fastapi import FastAPI

from ...training.models import located, public_name
from ..loading import load_pipeline
from ..record import Recorder
from ..symbols import Symbols
from .adapters import find_folders, open_adapters
from .app import create_app
from .guard import write_log
from .settings import TOKEN, Settings, is_local


def run(
    model: str,
    *,
    host: str,
    port: int,
    settings: Settings,
    adapters: Sequence[str] = (),
    market: pd.DataFrame | None = None,
    symbols: Symbols | None = None,
    log: Path | None = None,
) -> None:
    """Answers until SIGTERM or Ctrl-C, and what is in flight then.

    `adapters` are written NAME=FOLDER; `market` is bars for requests that bring none; `symbols` looks up symbols.
    `log` is the file of a track record.

    Raises:
        ValueError: the port is taken, the host is no address of this machine, or an adapter is none of this model.
    """
    with listening(host, port) as taken:
        folders = find_folders(str(located(model)), adapters)
        pipe = load_pipeline(model)
        state = None if market is None else pipe.processor.feature_extractor.state_of_market(market)
        beside = {"adapters": open_adapters(pipe, folders), "market": state, "source": symbols}
        recorder = None if log is None else Recorder(pipe, model, log)  # which must see the weights as they are saved
        app = create_app(pipe, settings, recorder=recorder, **beside)
        write_log()
        if settings.token is None and not is_local(host):
            print(f"tsf-llm: {host} is reached from elsewhere, and no {TOKEN} is set", file=sys.stderr)
        shown = f"[{host}]" if ":" in host else host
        print(f"tsf-llm: {settings.name} at http://{shown}:{taken.getsockname()[1]} (Ctrl-C ends)", flush=True)
        serve(app, taken, settings)


def serve(app: FastAPI, taken: socket.socket, settings: Settings) -> None:
    """Until a signal; uvicorn raises it again when all is answered, and that is a good end."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        ws_max_size=settings.max_body // 4,  # of each of many that wait for their turn
        timeout_graceful_shutdown=int(settings.timeout) + 1,
    )
    try:
        uvicorn.Server(config).run(sockets=[taken])
    except KeyboardInterrupt:
        return


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one.

    Raises:
        ValueError: it cannot.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError, OverflowError) as error:
        number = getattr(error, "errno", None) or 0
        why = os.strerror(number) if number > 0 else error
        raise ValueError(f"--host {host} --port {port}: {why}; choose another, or stop what listens there") from None


def token() -> str | None:
    """Of the environment; an empty one is none."""
    return os.environ.get(TOKEN) or None


def name_of(model: str) -> str:
    """What answers call the model: never a path."""
    return model if model in ("shipped", "mini") else public_name(model) or Path(model).resolve().name
