"""Bars per second of cleaning and features, beside pandas_ta_classic on the same bars; of preparing a dataset, of
adding a day to it, of training on it, and the memory they take.

    python -m tsf_llm.benchmarks.data_speed --json data_speed.json
    python -m tsf_llm.benchmarks.data_speed --tickers 50 --data prices.parquet
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.data_speed     # one core is then one core

Design choices:
* Tickers are those of the data, their last ten years, then made ones up to the number asked for: days of the data
  drawn with replacement, each with its gap, candle and volume, so that candles and tails are real ones. The seed and
  the number of a ticker say all of it. Without `--data` all are made, of the embedded prices.
* Every measurement runs in fresh processes, which read one ticker after the other from files: their peak memory is
  that of the work. Files are written by a process of their own, since a process starts with its parent's peak.
* Times are of the work alone: not of starting, importing, and a first ticker that warms up. Processes of one
  measurement start together; the slowest counts. `prepare` starts its workers itself: there, their start counts.
* CPU seconds are counted too: where other programs run, wall time says how busy the machine was.
* What several processes of `prepare` gain is told by CPU seconds, which other programs change little: on free cores
  they end when the one that works most does.
* Training counts from the start of its process to the first step of the optimizer, the score of the untrained model
  included. It waits for data between the end of one step and the begin of the next.
* The peer computes all it has, which is more columns than ours and other ones: multiply by the columns for values.
"""

import multiprocessing
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import yaml
from rich.console import Console
from transformers import TrainerCallback

from ..common.errors import one_line_errors
from ..common.files import write_json, write_parquet
from ..common.parser import Parser
from ..common.tables import Row, Table
from ..data_prep.clean import clean_bars
from ..data_prep.prepare import prepare
from ..data_prep.sources import read_raw
from ..data_prep.tables import SAMPLE
from ..feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from ..processing_tsf_llm import TsfLlmProcessor
from ..train_scripts import sft
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.data import TrainingData
from ..training.supervised import UNTRAINED_ORIGINS, load_or_make_model, test_scores
from ..training.trainer import make_trainer
from .results import Output, circumstances

OURS, PEER = "tsf-llm", "pandas_ta_classic"
BARS = 2520  # ten years of days
TICKERS = 800  # two million bars
PEER_TICKERS = 20  # it needs no more to show its speed
SEED = 0
SPEEDS = ("bars_per_second", "features_bars_per_second", "features_bars_per_cpu_second")
Contestant = Literal["tsf-llm", "pandas_ta_classic"]
STAGES = ("read", "clean", "features")
CONFIGS = Path(sft.__file__).parent / "configs"
SHAPES = (("pretrain_mini", 40), ("27m", 10))  # whose model it is, and steps
QUICK_SHAPES = (("debug_sft", 4),)


@dataclass
class Arguments(Output):
    """Which tickers."""

    tickers: int | None = field(default=None, metadata={"help": "how many (default 800; 3, and short, with --quick)"})
    data: list[str] | None = field(
        default=None, metadata={"help": "price files or folders, instead of the embedded prices"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tickers is not None and self.tickers < 1:
            raise ValueError(f"--tickers {self.tickers}: give at least 1")
        if missing := [path for path in self.data or () if not Path(path).exists()]:
            raise ValueError(f"--data {missing[0]}: there is no such file or folder")


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


def write_tickers(folder: Path, data: str | list[str] | None, tickers: int, bars: int) -> list[Path]:
    """One file per ticker: of `data`, and then made ones."""
    raw = read_raw(SAMPLE if data is None else data).drop(columns=["row", "note", "file"])
    own = [] if data is None else [one.tail(bars) for _, one in raw.groupby("ticker", sort=False)][:tickers]
    days = real_days(clean_bars(raw)[0])
    paths = []
    for number in range(tickers):
        frame = own[number] if number < len(own) else synthetic_ticker(days, number, bars)
        paths.append(folder / f"{number}.parquet")
        write_parquet(frame, paths[-1])
    return paths


def write_sources(folder: Path, paths: Sequence[Path]) -> dict[str, Any]:
    """The same tickers as `prepare` may get them: by date in one file, and in files that lack the last bar."""
    together = pd.concat([pd.read_parquet(path) for path in paths], ignore_index=True)
    write_parquet(together.sort_values("timestamp", kind="stable", ignore_index=True), folder / "together.parquet")
    before = [folder / "before" / path.name for path in paths]
    for path, shorter in zip(paths, before, strict=True):
        write_parquet(pd.read_parquet(path).iloc[:-1], shorter)
    return {"together": folder / "together.parquet", "before": before}


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
    seconds, features_cpu = dict.fromkeys(STAGES, 0.0), 0.0
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
    peak = _peak_mb(resource.RUSAGE_SELF)
    return {**seconds, "features_cpu": features_cpu, "bars": bars, "columns": columns, "peak_mb": peak}


def measure(contestant: Contestant, paths: Sequence[Path], processes: int) -> dict[str, Any]:
    """A row of results: `paths` shared among fresh processes that start together."""
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, initializer=_wait, initargs=(start,)) as pool:
        futures = [pool.submit(work, contestant, paths[i::processes]) for i in range(processes)]
        parts = [future.result() for future in futures]
    slowest = max(parts, key=lambda part: sum(part[stage] for stage in STAGES))
    bars = sum(part["bars"] for part in parts)
    return {
        "contestant": contestant,
        "tickers": len(paths),
        "processes": processes,
        "bars": bars,
        "columns": slowest["columns"],
        **{f"{stage}_seconds": slowest[stage] for stage in STAGES},
        "bars_per_second": bars / sum(slowest[stage] for stage in STAGES),
        "features_bars_per_second": bars / slowest["features"],
        "features_bars_per_cpu_second": bars / sum(part["features_cpu"] for part in parts),
        "peak_mb": max(part["peak_mb"] for part in parts),
    }


def _wait(start: Any) -> None:
    start.wait()


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """What it returns, from a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def _peak_mb(who: int) -> float:
    return resource.getrusage(who).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def prepare_once(source: Any, out: Path, processes: int) -> dict[str, float]:
    """Seconds, CPU seconds and peak memory of `prepare` in this process and its workers, and what it encoded."""
    before = _peak_mb(resource.RUSAGE_SELF)
    started, cpu = time.perf_counter(), time.process_time()
    info = prepare(source, out, processor=TsfLlmProcessor(), horizon=5, num_proc=processes)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "rows": info["run"]["rows"],
        "rows_encoded": info["run"]["rows_encoded"],
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "worker_cpu_seconds": children.ru_utime + children.ru_stime if processes > 1 else 0.0,
        "imports_mb": before,
        "peak_mb": _peak_mb(resource.RUSAGE_SELF),
        "worker_peak_mb": _peak_mb(resource.RUSAGE_CHILDREN) if processes > 1 else 0.0,
    }


def measure_prepare(what: str, source: Any, out: Path, tickers: int, processes: int = 1) -> dict[str, Any]:
    found = apart(prepare_once, source, out, processes)
    speed = found["rows"] / found["seconds"]
    return {"what": what, "tickers": tickers, "processes": processes, "bars_per_second": speed, **found}


def run_prepare(folder: Path, paths: Sequence[Path], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Datasets of a tenth, two fifths and all of the tickers, in files of their own and in one; and one more day."""
    sources = apart(write_sources, folder, paths)
    parts = sorted({max(1, len(paths) // 10), max(1, 2 * len(paths) // 5)})
    some = [(n, apart(write_sources, folder / str(n), paths[:n])["together"]) for n in parts]
    everything, n = folder / "all", len(paths)
    plan: list[tuple[str, Any, Path, int, int]] = [
        *(("a file per ticker", list(paths[:part]), folder / f"files{part}", part, 1) for part in parts),
        ("a file per ticker", sources["before"], everything, n, 1),
        ("one more day", list(paths), everything, n, 1),
        ("a file per ticker", sources["before"], folder / "two", n, min(2, n)),
        *(("one file by date", source, folder / f"one{part}", part, 1) for part, source in some),
        ("one file by date", sources["together"], folder / "one", n, 1),
    ]
    rows = []
    for what, source, out, tickers, processes in plan:
        say(f"prepare: {what}, {tickers} tickers, {processes} processes")
        rows.append(measure_prepare(what, source, out, tickers, processes))
    return rows


class Clock(TrainerCallback):
    """CPU seconds of this process at the begin and the end of each step."""

    def __init__(self) -> None:
        self.begins: list[float] = []
        self.ends: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begins.append(time.process_time())

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ends.append(time.process_time())


def train_once(folder: Path, out: Path, config: str, steps: int) -> dict[str, float]:
    """CPU seconds and peak memory of this process until the first step, as `train_scripts.sft` takes it on a prepared
    folder; and what a later step takes, of it the wait for data, medians."""
    settings = yaml.safe_load((CONFIGS / f"{config}.yaml").read_text(encoding="utf-8"))
    data_args, model_args = DataArguments(data=str(folder), horizon=5), ModelArguments()
    model_args.model_config = settings["model_config"]
    options: dict[str, Any] = {"output_dir": str(out), "report_to": "none", "max_steps": steps, "disable_tqdm": True}
    never: dict[str, Any] = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    training_args = SftArguments(per_device_train_batch_size=16, **options, **never)
    data = TrainingData.read(data_args)
    model = load_or_make_model(data_args, model_args, data.processor)
    data.mark(model)
    train, valid = data.windows("causal_lm")
    test_scores(data, model, train, training_args, most=UNTRAINED_ORIGINS)
    trainer = make_trainer(model, data.processor, train=train, valid=valid, training_args=training_args)
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    waits = np.subtract(clock.begins[1:], clock.ends[:-1])
    taken = np.diff(clock.ends)
    return {
        "bars": len(data.bars),
        "parameters": model.num_parameters(),
        "start_cpu_seconds": clock.ends[0],
        "step_cpu_ms": float(np.median(taken)) * 1e3,
        "wait_cpu_ms": float(np.median(waits)) * 1e3,
        "wait_share": float(waits.sum() / taken.sum()),
        "peak_mb": _peak_mb(resource.RUSAGE_SELF),
    }


def run(data: list[str] | None, tickers: int, bars: int, say: Callable[[str], None]) -> dict[str, Any]:
    """All measurements: a tenth of the tickers and all of them on one core, all on two, some with the peer."""
    with tempfile.TemporaryDirectory() as folder:
        paths = apart(write_tickers, Path(folder), data, tickers, bars)
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
        prepared = run_prepare(Path(folder), paths, say)
        training = []
        for config, steps in QUICK_SHAPES if bars < BARS else SHAPES:
            say(f"training: {config}")
            told = apart(train_once, Path(folder) / "all", Path(folder) / "training", config, steps)
            training.append({"config": config, **told})
    return {
        "rows": rows,
        "prepare": prepared,
        "training": training,
        "settings": {"data": "the sample" if data is None else [Path(one).name for one in data], "seed": SEED},
        **circumstances("numpy", "pandas", "pandas-ta-classic", omp_num_threads=os.environ.get("OMP_NUM_THREADS")),
    }


def table(rows: Sequence[Row], headings: Sequence[str], keys: Sequence[str]) -> Table:
    """The name of each row, and its figures as whole numbers."""
    name, *figures = keys
    return Table(headings, [[row[name], *(f"{row[key]:,.0f}" for key in figures)] for row in rows])


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    headings = ("", "tickers", "processes", "columns", "in all", "features", "features, CPU s", "peak MB")
    keys = ("contestant", "tickers", "processes", "columns", *SPEEDS, "peak_mb")
    title = f"bars per second, {results['machine']['cpu_count']} cores"
    console.print(table(results["rows"], headings, keys).terminal(title=title))
    headings = ("", "tickers", "processes", "rows", "encoded", "seconds", "CPU s", "workers' CPU s", "rows/s")
    headings += ("peak MB", "workers' MB")
    keys = ("what", "tickers", "processes", "rows", "rows_encoded", "seconds", "cpu_seconds", "worker_cpu_seconds")
    keys += ("bars_per_second", "peak_mb", "worker_peak_mb")
    console.print(table(results["prepare"], headings, keys).terminal(title="tsf-llm prepare"))
    console.print(f"of the peak, imports take {results['prepare'][0]['imports_mb']:,.0f} MB")
    shown = [{**row, "wait_share": f"{row['wait_share']:.2%}"} for row in results["training"]]
    headings = ("training", "bars", "parameters", "first step, CPU s", "CPU ms a step", "peak MB")
    keys = ("config", "bars", "parameters", "start_cpu_seconds", "step_cpu_ms", "peak_mb")
    console.print(table(shown, headings, keys).terminal(title="training on the prepared folder"))
    for row in shown:
        console.print(f"{row['config']}: {row['wait_share']} of a step is waiting for data")


@one_line_errors("data_speed")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="data_speed", description=__doc__).parse_args_and_config(arguments)
    tickers, bars = (3, 400) if parsed.quick else (TICKERS, BARS)
    results = run(parsed.data, parsed.tickers or tickers, bars, Console(stderr=True).print)
    show(results, Console(width=max(Console().width, 120)))
    if parsed.json is not None:
        write_json(results, parsed.json)
    return 0


if __name__ == "__main__":
    main()
