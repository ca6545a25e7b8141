"""Bars per second of cleaning and features, beside pandas_ta_classic on the same bars, and the memory they take.

    python -m tsf_llm.benchmarks.data_speed --json data_speed.json
    python -m tsf_llm.benchmarks.data_speed --tickers 50 --data prices.csv
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.data_speed     # one core is then one core

Design choices:
* Tickers are made from the embedded prices: days drawn with replacement, each with its gap, candle and volume, so that
  candles and tails are real ones. The seed and the number of a ticker say all of it.
* Every measurement runs in fresh processes, which read one ticker after the other from files: their peak memory is
  that of the work. Files are written by a process of their own, since a process starts with its parent's peak.
* Times are of the work alone: not of starting, importing, and a first ticker that warms up. Processes of one
  measurement start together; the slowest counts.
* CPU seconds are counted too: where other programs run, wall time says how busy the machine was.
* The peer computes all it has, which is more columns than ours and other ones: multiply by the columns for values.
"""

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from ..data_prep.clean import clean_bars
from ..data_prep.files import write_json, write_parquet
from ..data_prep.raw import read_raw
from ..data_prep.sources import SAMPLE, read_bars
from ..processing_tsf_llm import TsfLlmFeatureExtractor

OURS, PEER = "tsf-llm", "pandas_ta_classic"
BARS = 2520  # ten years of days
PEER_TICKERS = 20  # it needs no more to show its speed
SEED = 0
SPEEDS = ("bars_per_second", "features_bars_per_second", "features_bars_per_cpu_second")
Contestant = Literal["tsf-llm", "pandas_ta_classic"]


def real_days(bars: pd.DataFrame) -> np.ndarray:
    """Log of open / close before, of high, low and close / open, and the volume, one row per day of all tickers."""
    days = []
    for _, one in bars.groupby("ticker", sort=False):
        candle = np.log(one[["high", "low", "close"]].div(one["open"], axis=0))
        gap = np.log(one["open"] / one["close"].shift())
        days.append(np.column_stack([gap, candle, one["volume"]])[1:])
    days = np.concatenate(days)
    return days[np.isfinite(days).all(axis=1)]


def synthetic_ticker(days: np.ndarray, number: int, bars: int = BARS) -> pd.DataFrame:
    """`bars` rows of `days` (see `real_days`), drawn with replacement and strung together from a price of 100."""
    drawn = days[np.random.default_rng([SEED, number]).integers(len(days), size=bars)]
    gap, high, low, close, volume = drawn.T
    log_open = np.log(100) + np.cumsum(gap + close) - close
    prices = {name: np.exp(log_open + move) for name, move in {"high": high, "low": low, "close": close}.items()}
    timestamp = pd.bdate_range("2010-01-04", periods=bars)
    frame = pd.DataFrame({"timestamp": timestamp, "ticker": f"T{number:05d}", "open": np.exp(log_open), **prices})
    return frame.assign(volume=volume)


def write_tickers(folder: Path, data: str | None, tickers: int, bars: int) -> list[Path]:
    """One file per ticker: of `data`, or synthetic ones."""
    if data is not None:
        frames = [one for _, one in read_raw(data).groupby("ticker", sort=False)][:tickers]
    else:
        days = real_days(read_bars(SAMPLE))
        frames = (synthetic_ticker(days, number, bars) for number in range(tickers))
    paths = []
    for number, frame in enumerate(frames):
        paths.append(folder / f"{number}.parquet")
        write_parquet(frame, paths[-1])
    return paths


def our_features(bars: pd.DataFrame) -> int:
    return TsfLlmFeatureExtractor().raw_features(bars).shape[1]


def peer_features(bars: pd.DataFrame) -> int:
    """All indicators of the peer, in this process."""
    import pandas_ta_classic  # noqa: F401 (gives frames their `ta`)

    frame = bars.drop(columns="ticker").set_index("timestamp")
    given = frame.shape[1]
    frame.ta.cores = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pandas, about how the peer builds its frame
        frame.ta.strategy("All")
    return frame.shape[1] - given


def work(contestant: Contestant, paths: Sequence[Path]) -> dict[str, float]:
    """Seconds by stage over all files, bars, columns, and the peak memory of this process so far."""
    compute = {OURS: our_features, PEER: peer_features}[contestant]
    seconds = {"read": 0.0, "clean": 0.0, "features": 0.0}
    features_cpu = 0.0
    bars = columns = 0
    for number, path in enumerate([paths[0], *paths]):
        times = [time.perf_counter()]
        raw = pd.read_parquet(path)
        times.append(time.perf_counter())
        cleaned, _ = clean_bars(raw)
        times.append(time.perf_counter())
        cpu = time.process_time()
        columns = compute(cleaned)
        times.append(time.perf_counter())
        if number:
            features_cpu += time.process_time() - cpu
            bars += len(cleaned)
            for stage, took in zip(seconds, np.diff(times), strict=True):
                seconds[stage] += float(took)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    return {**seconds, "features_cpu": features_cpu, "bars": bars, "columns": columns, "peak_mb": peak}


def measure(contestant: Contestant, paths: Sequence[Path], processes: int) -> dict[str, Any]:
    """A row of results: `paths` shared among fresh processes that start together."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_wait, initargs=(start,)) as pool:
        futures = [pool.submit(work, contestant, paths[i::processes]) for i in range(processes)]
        parts = [future.result() for future in futures]
    slowest = max(parts, key=lambda part: part["read"] + part["clean"] + part["features"])
    bars = sum(part["bars"] for part in parts)
    stages = ("read", "clean", "features")
    return {
        "contestant": contestant,
        "tickers": len(paths),
        "processes": processes,
        "bars": bars,
        "columns": slowest["columns"],
        **{f"{stage}_seconds": slowest[stage] for stage in stages},
        "bars_per_second": bars / sum(slowest[stage] for stage in stages),
        "features_bars_per_second": bars / slowest["features"],
        "features_bars_per_cpu_second": bars / sum(part["features_cpu"] for part in parts),
        "peak_mb": max(part["peak_mb"] for part in parts),
    }


def _wait(start: Any) -> None:
    start.wait()


def run(data: str | None, tickers: int, bars: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All measurements: a tenth of the tickers and all of them on one core, all on two, some with the peer."""
    with tempfile.TemporaryDirectory() as folder:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            paths = pool.submit(write_tickers, Path(folder), data, tickers, bars).result()
        plan = [
            (OURS, paths[: max(1, len(paths) // 10)], 1),
            (OURS, paths, 1),
            (OURS, paths, min(2, len(paths))),
            (PEER, paths[:PEER_TICKERS], 1),
        ]
        rows = []
        for contestant, share, processes in plan:
            say(f"{contestant}: {len(share)} tickers, {processes} processes")
            rows.append(measure(contestant, share, processes))
    return {
        "rows": rows,
        "settings": {"data": "bootstrap of the sample" if data is None else Path(data).name, "seed": SEED},
        "machine": {"cpu_count": os.cpu_count(), "omp_num_threads": os.environ.get("OMP_NUM_THREADS")},
        "versions": {
            "python": sys.version.split()[0],
            **{name: version(name) for name in ("numpy", "pandas", "pandas-ta-classic")},
        },
    }


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    table = Table(title=f"bars per second, {results['settings']['data']}, {results['machine']['cpu_count']} cores")
    for heading in ("", "tickers", "processes", "columns", "in all", "features", "features, CPU s", "peak MB"):
        table.add_column(heading, justify="left" if not heading else "right")
    for row in results["rows"]:
        speeds = [f"{row[name]:,.0f}" for name in SPEEDS]
        counts = [f"{row[name]:,}" for name in ("tickers", "processes", "columns")]
        table.add_row(row["contestant"], *counts, *speeds, f"{row['peak_mb']:,.0f}")
    console.print(table)


class OneLineParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = OneLineParser(
        prog="python -m tsf_llm.benchmarks.data_speed",
        description="Times cleaning and features over tickers of ten years of daily bars, beside pandas_ta_classic,\n"
        "and weighs the memory.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tickers", metavar="N", type=int, help="default 500, or all of --data; 3 with --quick")
    parser.add_argument("--data", metavar="FILE", help="price file or folder, instead of synthetic tickers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all results here (a file is replaced)")
    parser.add_argument("--quick", action="store_true", help="a few short tickers: its speeds mean nothing")
    parsed = parser.parse_args(arguments)
    if parsed.tickers is not None and parsed.tickers < 1:
        parser.error(f"--tickers {parsed.tickers}: give at least 1")
    if parsed.data is not None and not Path(parsed.data).exists():
        parser.error(f"--data {parsed.data}: there is no such file or folder")
    if parsed.json is not None and (parsed.json.is_dir() or not parsed.json.absolute().parent.is_dir()):
        parser.error(f"--json {parsed.json}: give a file name in an existing folder")
    return parsed


def main(arguments: list[str] | None = None) -> int:
    parsed = parse_arguments(arguments)
    default = 3 if parsed.quick else 500 if parsed.data is None else sys.maxsize
    errors = Console(stderr=True)
    results = run(parsed.data, parsed.tickers or default, 300 if parsed.quick else BARS, errors.print)
    show(results, Console())
    if parsed.json is not None:
        write_json(results, parsed.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
