"""What tests of the page share: prices as people have them, the small shipped model, one server and one browser."""

import shutil
import socket
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tsf_llm.serving.loading import load_pipeline
from tsf_llm.training.models import ROOT

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@pytest.fixture(scope="session")
def pipe():
    if not (ROOT / "mini" / "config.json").is_file():
        pytest.skip("mini does not lie beside this code")
    return load_pipeline("mini")


@pytest.fixture(scope="session")
def prices():
    """`prices(days, tickers=...)` -> a table of bars."""
    return made_up


@pytest.fixture(scope="session")
def csv():
    return lambda frame: frame.to_csv(index=False).encode()


def made_up(days, *, tickers=("",), seed=0, form="%Y-%m-%d"):
    """Daily bars of a random walk as a vendor writes them, with a column of tickers if there are several."""
    rng, frames = np.random.default_rng(seed), []
    for ticker in tickers:
        close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, days)))
        opened = close * np.exp(rng.normal(0, 0.003, days))
        dates = pd.bdate_range("2020-01-01", periods=days).strftime(form)
        table = {"Date": dates, "Open": opened, "High": np.maximum(opened, close) * 1.004}
        table |= {"Low": np.minimum(opened, close) * 0.996, "Close": close, "Volume": rng.integers(1e6, 2e6, days)}
        frames.append(pd.DataFrame(table) if len(tickers) == 1 else pd.DataFrame({**table, "Ticker": ticker}))
    return pd.concat(frames, ignore_index=True)


@pytest.fixture(scope="session")
def server(pipe, tmp_path_factory):
    """Where the page answers, and the folder in which Gradio keeps uploads while they come in."""
    from tsf_llm.serving.page import blocks, look

    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("uploads")
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        page = blocks.build(pipe, symbols=Source())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        page.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **look.options())
        yield f"http://127.0.0.1:{port}", folder
        page.close(verbose=False)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, without a window. It ends here: its event loop would stop others of the same thread."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).is_file():
        pytest.skip("there is no chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=["--no-sandbox"])
        yield opened
        opened.close()


class Source:
    """In place of the source with network: it knows one symbol."""

    def recent(self, given):
        from tsf_llm.data_prep.yahoo import Busy
        from tsf_llm.serving.symbols import RecentBars

        if given == "BUSY":
            raise Busy("no answer")
        if given != "KNOWN":
            raise ValueError("no bars of it")
        frame = made_up(200).rename(columns=str.lower).rename(columns={"date": "timestamp"})
        bars = frame.assign(timestamp=pd.to_datetime(frame["timestamp"]), ticker="KNOWN", volume=1e6)
        return RecentBars(bars, {"KNOWN": {"as_of": "2020-10-06", "stale": "not renewed"}}, {})
