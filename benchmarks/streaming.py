"""What one more bar costs a stream beside a forecast from all bars, and how far the two lie apart.

examples:
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.streaming --symbols 1 100 1000 --windows 128 512 --json stream.json
    python -m tsf_llm.benchmarks.streaming --models mini --data us_daily.parquet --end 2018-12-31 --names AAPL JNJ
    python -m tsf_llm.benchmarks.streaming --quick

Design choices:
* Cost: made tickers, as those of `data_speed`. A step has two parts, of all symbols at once: the model and features.
  The rest is checks and the frame. Beside it stand the same parts of `pipe(bars)` of as many bars as a window has.
* Of many symbols `pipe(bars)` reads the first `AGAIN`, and counts for all: each costs it the same.
* Times are CPU time of this process, so that others do not count; with one thread that is how long it takes alone.
* The cost is measured again when the stream has seen many more bars.
* Distance: real series, streamed for several contexts; then CRPS of the stream and of `pipe(bars)` on the same bars,
  both divided by sigma and the square root of the steps, and the differences of quantiles in the same unit.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import track

from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.tables import Table, number
from ..data_prep.sources import read_bars
from ..feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor
from ..laws_tsf_llm import every_step
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_QUANTILES
from ..serving.loading import load_pipeline
from ..serving.stream_model import LOGITS, reader_of, write
from ..serving.streaming import StreamingForecaster
from .data_speed import real_days, synthetic_ticker
from .results import Output, circumstances

HISTORY, REPEATS = 1100, 3  # bars before a stream; steps that are timed, the median of which counts
AGAIN = 100  # symbols at most that are forecast from all their bars
CONTEXTS = 4  # that a series is streamed for


@dataclass
class Arguments(Output):
    """Which models and how many symbols."""

    models: list[str] = field(default_factory=lambda: ["mini"], metadata={"help": "folders of models"})
    symbols: list[int] | None = field(default=None, metadata={"help": "numbers of symbols (default 1 and 100)"})
    windows: list[int] | None = field(default=None, metadata={"help": "bars of a window (default: the model's)"})
    more: int = field(default=1000, metadata={"help": "bars after which the cost of one symbol is measured again"})
    data: str = field(default="sample", metadata={"help": "price file or folder of the distance"})
    names: list[str] | None = field(default=None, metadata={"help": "tickers of the data (default: all)"})
    end: str | None = field(default=None, metadata={"help": "last date of the data that is read"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if min([*(self.symbols or [1]), *(self.windows or [1]), self.more]) < 1:
            raise ValueError("--symbols, --windows and --more: give 1 or more")


@contextmanager
def timed(seconds: dict[str, float], name: str, owner: Any, method: str) -> Iterator[None]:
    """Within, adds up how long a method takes."""
    own = getattr(owner, method)

    def run(*args: Any, **kwargs: Any) -> Any:
        started = time.process_time()
        try:
            return own(*args, **kwargs)
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.process_time() - started

    with patch.object(owner, method, run):
        yield


def step_seconds(stream: StreamingForecaster, bars: pd.DataFrame) -> dict[str, float]:
    """Of one update: the model, the features, and all of it."""
    seconds: dict[str, float] = {}
    with (
        timed(seconds, "model", stream._reader, "step"),
        timed(seconds, "features", stream._extractor, "encode_newest"),
    ):
        started = time.process_time()
        stream.update(bars)
    return {**seconds, "all": time.process_time() - started}


def recompute_seconds(pipe: TsfLlmPipeline, bars: pd.DataFrame) -> dict[str, float]:
    """The same of `pipe(bars)`."""
    seconds: dict[str, float] = {}
    with timed(seconds, "model", pipe, "laws"), timed(seconds, "features", TsfLlmFeatureExtractor, "encode"):
        started = time.process_time()
        pipe(bars, horizon=pipe.law_reach)
    return {**seconds, "all": time.process_time() - started}


@contextmanager
def window_of(pipe: TsfLlmPipeline, bars: int | None) -> Iterator[int]:
    """Within, the model reads windows of so many bars, by default its own."""
    extractor = pipe.processor.feature_extractor
    with patch.object(extractor, "context_length", bars or extractor.context_length):
        yield extractor.context_length


def cost(pipe: TsfLlmPipeline, symbols: int, days: np.ndarray, *, repeats: int, more: int = 0) -> dict[str, Any]:
    """Milliseconds of a step by part, of a forecast from a window, of a step after `more` bars; bytes of a symbol."""
    window = pipe.processor.feature_extractor.context_length
    series = [synthetic_ticker(days, i, HISTORY + repeats + more) for i in range(symbols)]
    bars = pd.concat([one[:HISTORY] for one in series])
    stream = StreamingForecaster(pipe, bars, horizon=pipe.law_reach)
    steps = [step_seconds(stream, pd.concat([one[HISTORY + i :][:1] for one in series])) for i in range(repeats)]
    told = {"symbols": symbols, "window": window, "step": _median(steps), "bytes": _bytes(stream) // symbols}
    again = pd.concat([one[HISTORY - window : HISTORY] for one in series[:AGAIN]])
    times = symbols / min(symbols, AGAIN)
    told["recompute"] = {name: times * ms for name, ms in _median([recompute_seconds(pipe, again)]).items()}
    if more:
        later = [
            step_seconds(stream, one[HISTORY + i :][:1]) for one in series for i in range(repeats, repeats + more)
        ]
        told["later"] = _median(later[-repeats:])
    return told


def _median(steps: list[dict[str, float]]) -> dict[str, float]:
    return {name: 1e3 * float(np.median([one[name] for one in steps])) for name in steps[0]}


def _bytes(stream: StreamingForecaster) -> int:
    return sum(values.numel() * values.element_size() for values in stream._tensors().values())


def distance(pipe: TsfLlmPipeline, series: list[EncodedSeries]) -> dict[str, dict[str, float]]:
    """By horizon: CRPS of stream and windows in sigmas, and how far their quantiles lie apart."""
    reader, (near, *far) = reader_of(pipe), [1, *pipe.model.config.far_horizons]
    parts: dict[int, list[np.ndarray]] = {h: [] for h in (near, *far)}
    for one in track(series, "distance", transient=True):
        last = len(one.close) - 1 - max(parts)
        start = last - CONTEXTS * reader.context
        state, rows = reader.begin(pipe.processor.batch([(one, [start])])), np.arange(start + 1, last + 1)
        logits = []
        for row in rows:
            write(state, reader.step(state, torch.tensor([0]), torch.from_numpy(one.features[row : row + 1])))
            logits.append(state[LOGITS].clone())
        kept = slice(reader.context, None)  # the first bars fill the window
        batch = pipe.processor.batch([(one, rows[kept])])
        laws = pipe.laws(batch, max(parts))
        streamed = every_step(pipe.named_laws(torch.cat(logits)[kept], batch), max(parts))
        for h in parts:
            unit = np.asarray(batch["scale"]) * np.sqrt(h)
            outcome = pipe.processor.kind.change(one.close[rows[kept] + h], one.close[rows[kept]])
            pair = [law[h - 1].divided(unit) for law in (streamed, laws)]
            apart = np.abs(pair[0].quantile(FORECAST_QUANTILES) - pair[1].quantile(FORECAST_QUANTILES)).max(axis=1)
            parts[h].append(np.stack([*(law.crps(outcome / unit) for law in pair), apart]))
    return {str(h): _distance(np.concatenate(found, axis=1)) for h, found in parts.items()}


def _distance(found: np.ndarray) -> dict[str, float]:
    streamed, windows, apart = found[:, np.isfinite(found).all(axis=0)]
    return {
        "bars": len(apart),
        "crps_stream": float(streamed.mean()),
        "crps_windows": float(windows.mean()),
        "relative": float(streamed.mean() / windows.mean() - 1),
        "quantiles_apart": float(apart.mean()),
        "quantiles_apart_p99": float(np.quantile(apart, 0.99)),
        "quantiles_apart_most": float(apart.max()),
    }


def run(options: Arguments) -> dict[str, Any]:
    """All results."""
    days, quick = real_days(read_bars("sample")), options.quick
    bars = read_bars(options.data, options.names)
    results: dict[str, Any] = {"models": {}, **circumstances("torch", "transformers", threads=torch.get_num_threads())}
    for model in options.models:
        pipe = load_pipeline(model)
        counts = options.symbols or ([1, 3] if quick else [1, 100])
        costs = []
        asked = [(count, window) for window in options.windows or [None] for count in counts]
        for count, window in track(asked, f"{model}: cost", transient=True):
            more = (5 if quick else options.more) if count == 1 else 0
            with window_of(pipe, window):
                costs.append(cost(pipe, count, days, repeats=1 if quick else REPEATS, more=more))
        series = [
            one
            for one in pipe.processor.encode(bars, options.end)
            if len(one.origins()) > (CONTEXTS + 1) * pipe.processor.feature_extractor.context_length + pipe.law_reach
        ]
        results["models"][model] = {"cost": costs, "distance": distance(pipe, series[:1] if quick else series)}
    return results


def show(results: dict[str, Any], console: Console) -> None:
    for model, found in results["models"].items():
        rows = [
            {"part": name, **one} for one in found["cost"] for name in ("step", "later", "recompute") if name in one
        ]
        columns = {
            "window": lambda row: str(row["window"]),
            "symbols": lambda row: f"{row['symbols']:,}",
            "what": lambda row: row["part"],
        }
        columns |= {f"{part}, ms": _milliseconds(part) for part in ("model", "features", "all")}
        columns["kB per symbol"] = lambda row: number(row.get("bytes"), ".0f", 1e-3)
        console.print(Table.of(rows, columns).terminal(title=f"{model}: one more bar"))
        rows = [{"horizon": h, **one} for h, one in found["distance"].items()]
        columns = {"horizon": lambda row: row["horizon"], "bars": lambda row: f"{row['bars']:,}"}
        columns |= {name: _figure(name) for name in list(rows[0])[2:]}
        console.print(
            Table.of(rows, columns).terminal(title=f"{model}: the stream beside the pipeline's windows, sigmas")
        )


def _milliseconds(part: str) -> Any:
    return lambda row: number(row[row["part"]].get(part), ",.1f")


def _figure(name: str) -> Any:
    return lambda row: number(row[name], ".5f" if name != "relative" else "+.5%")


@one_line_errors("streaming")
def main(arguments: list[str] | None = None) -> int:
    (options,) = Parser(Arguments, prog="streaming", description=__doc__).parse_args_and_config(arguments)
    results = run(options)
    show(results, Console(width=max(Console().width, 140)))
    if options.json is not None:
        write_json(results, options.json)
    return 0


if __name__ == "__main__":
    main()
