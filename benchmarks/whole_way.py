"""What comes before and around the network: features, a stream, and a process that has just started. For `speed`.

Design choices:
* *Last window* is the processor's answer to a DataFrame: checks, features, scaling, tensors. *Encoding* is every bar.
* The peer of the features computes all it has, other columns and more of them: values per CPU second compare.
* A stream is measured by `streaming`: one bar more, and the same forecast from all bars.
* Starting is measured from outside, as `python -c`: importing torch and transformers is what any package pays.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from ..common.files import write_parquet
from ..data_prep.sources import read_bars
from ..serving.loading import load_pipeline
from . import streaming
from .contest import made_bars
from .data_speed import peer_features, real_days
from .peers import HORIZON, OURS, Field
from .rounds import Task, Took, Worker, in_turns, peak_mb, took, typical
from .whole_market import CODE

Say = Callable[[str], None]
PEER = "pandas-ta-classic"
ANY = "import torch; from transformers import AutoModelForCausalLM, Pipeline, PreTrainedModel, ProcessorMixin"
HELP = "tsf-llm --help"
STARTS = {  # code, and its words
    "torch and transformers": (ANY,),
    "and the pipeline": (f"{ANY}; import tsf_llm.pipeline_tsf_llm",),
    "and what loads models": (f"{ANY}; import tsf_llm.serving.loading",),
    HELP: (CODE, "--help"),
}


@dataclass(frozen=True)
class Sizes:
    """Numbers of tickers, bars, symbols and repeats."""

    windows: tuple[int, ...] = (60, 500)  # tickers of last windows
    history: int = 1000  # their bars, and those of a first forecast
    first: int = 60  # its tickers
    encoded: int = 50  # tickers of which every bar is encoded
    bars: int = 2520  # theirs
    peer: int = 3  # tickers of the peer
    symbols: tuple[int, ...] = (1, 100)  # of streams
    steps: int = 3  # of a stream that are measured
    more: int = 200  # bars, after which they are measured again
    starts: tuple[str, ...] = tuple(STARTS)
    rounds: int = 3  # of starts


TINY = Sizes(
    windows=(2,),
    history=300,
    first=0,
    encoded=2,
    bars=300,
    peer=1,
    symbols=(1,),
    steps=1,
    more=2,
    starts=(HELP,),
    rounds=1,
)


# --- features ------------------------------------------------------------------------------------------------------


@cache
def task_of(what: str, model: str, tickers: int, length: int) -> Task:
    bars = made_bars(tickers, length)
    if what == PEER:
        frames = [one for _, one in bars.groupby("ticker")]
        return lambda: [peer_features(one) for one in frames]
    processor = load_pipeline(model).processor
    return partial(processor if what == "window" else processor.encode, bars)


def timed(*what: Any) -> Took:
    return took(task_of(*what))


def columns(model: str) -> dict[str, int]:
    """Of ours and, where it is installed, of the peer's."""
    found = {OURS: len(load_pipeline(model).processor.feature_extractor.names)}
    if importlib.util.find_spec("pandas_ta_classic"):
        found[PEER] = peer_features(made_bars(1, 300))
    return found


def features(place: Field, sizes: Sizes, threads: int, say: Say) -> dict[str, Any]:
    """CPU and clock of a ticker's last window, bars and values per CPU second of encoding, and the peer's values."""
    with Worker(threads) as worker:
        width = worker.do(columns, place.model)
        jobs: dict[str, tuple[str, int, int]] = {
            f"last window, {tickers} tickers": ("window", tickers, sizes.history) for tickers in sizes.windows
        }
        jobs["encoding"] = ("encode", sizes.encoded, sizes.bars)
        if PEER in width:
            jobs[PEER] = (PEER, sizes.peer, sizes.bars)
        tasks = {
            name: partial(worker.do, timed, what, place.model, tickers, length)
            for name, (what, tickers, length) in jobs.items()
        }
        times = in_turns(tasks, range(1))
        peak = worker.do(peak_mb)
    told: dict[str, Any] = {"columns": width, "peak_mb": peak, "windows": {}}
    for name, (what, tickers, length) in jobs.items():
        each = typical([times[name][0].times(1 / tickers)])
        if what == "window":
            told["windows"][str(tickers)] = each
            say(f"features of the last window of {tickers} tickers: {1e3 * each['cpu']:.1f} CPU ms a ticker")
        else:
            bars = length / each["cpu"]
            values = bars * width[PEER if what == PEER else OURS]
            told[name] = {"bars_per_cpu_second": bars, "values_per_cpu_second": values}
            say(f"{name}: {bars:,.0f} bars per CPU second")
    return told


# --- a stream ------------------------------------------------------------------------------------------------------


def stream_cost(model: str, symbols: int, steps: int, more: int) -> dict[str, Any]:
    days = real_days(read_bars("sample"))
    return streaming.cost(load_pipeline(model), symbols, days, repeats=steps, more=more)


def stream(place: Field, sizes: Sizes, threads: int, say: Say) -> list[dict[str, Any]]:
    """See `streaming.cost`: milliseconds of CPU by number of symbols."""
    rows = []
    for symbols in sizes.symbols:
        with Worker(threads) as worker:
            row = worker.do(stream_cost, place.model, symbols, sizes.steps, sizes.more if symbols == 1 else 0)
        rows.append(row)
        say(f"stream of {symbols}: a step {row['step']['all']:.1f} CPU ms, recomputed {row['recompute']['all']:.1f}")
    return rows


# --- a fresh process -----------------------------------------------------------------------------------------------


def apart(threads: int, code: str, *words: str) -> Took:
    """`python -c code words`, from outside.

    Raises:
        ValueError: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"python -c {code!r} {' '.join(words)} failed: run it to see why")
    return Took(used.ru_utime + used.ru_stime, time.perf_counter() - started)


def first_forecast(place: Field, sizes: Sizes, threads: int) -> Took:
    with tempfile.TemporaryDirectory() as folder:
        prices, out = Path(folder) / "prices.parquet", Path(folder) / "forecast.csv"
        write_parquet(made_bars(sizes.first, sizes.history), prices)
        words = ["forecast", "--data", str(prices), "--model", place.model, "--horizon", str(HORIZON)]
        return apart(threads, CODE, *words, "--out", str(out))


def start(place: Field, sizes: Sizes, threads: int, say: Say) -> dict[str, dict[str, float]]:
    """CPU and clock of imports, of the help and of a first forecast, each in a new process."""
    times = in_turns({name: partial(apart, threads, *STARTS[name]) for name in sizes.starts}, range(sizes.rounds))
    if sizes.first:
        times[f"first forecast, {sizes.first} tickers"] = [first_forecast(place, sizes, threads)]
    told = {}
    for name, each in times.items():
        told[name] = typical(each)
        say(f"a new process, {name}: {told[name]['wall']:.2f} s, {told[name]['cpu']:.2f} of CPU")
    return told
