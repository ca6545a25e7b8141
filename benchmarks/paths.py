"""What sampled paths say and cost: quantile error and CRPS by their number, and the time of many beside one.

examples:
    OMP_NUM_THREADS=1 python -m tsf_llm.benchmarks.paths --model mini --json paths.json
    python -m tsf_llm.benchmarks.paths --model . --data us_daily.parquet --names AAPL JNJ --origins 8
    python -m tsf_llm.benchmarks.paths --quick

Design choices:
* The paths are those of tokens alone: at a step with a law there would be nothing to sample for. `--laws` takes them
  as `pipe.sample` gives them, for steps beyond the last law.
* Error: quantiles beside those of many more paths of another seed, in sigmas times the root of the steps: root mean
  square over origins, levels and seeds. `plain` are free uniform numbers, `stratified` the pipeline's.
* CRPS is that of the empirical distribution at what came. Its expectation falls with the number of free paths as the
  mean distance of two of them over twice their number, whatever the model knows.
* Cost: one origin, CPU time of this process; contestants take turns and ratios are medians. `tokens` is the ratio of
  positions that the model reads at all, the context once: no way of sharing it goes below that by arithmetic alone.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from .. import pipeline_tsf_llm
from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.tables import Table, number
from ..data_prep.sources import read_bars
from ..evaluation.cost import ratio
from ..evaluation.distributions import StratifiedSamples
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_QUANTILES
from ..serving.loading import load_pipeline
from .results import Output, circumstances

NUMBERS, SEEDS, REFERENCE, REPEATS = (64, 256), 8, 4096, 5


@dataclass
class Arguments(Output):
    """Which model, and what it forecasts."""

    model: str = field(default="mini", metadata={"help": "folder of the model"})
    data: str = field(default="sample", metadata={"help": "price file or folder"})
    names: list[str] | None = field(default=None, metadata={"help": "tickers of the data (default: all)"})
    origins: int = field(default=4, metadata={"help": "forecasts of each ticker"})
    laws: bool = field(default=False, metadata={"help": "paths that take the values of the laws"})
    steps: list[int] = field(default_factory=lambda: [1, 5, 20], metadata={"help": "of which quantiles are compared"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if min([self.origins, *self.steps]) < 1:
            raise ValueError("--origins and --steps: give 1 or more")


def free_uniforms(tickers: Any, origins: Any, samples: int, horizon: int, seed: int, *_: Any) -> torch.Tensor:
    """In the place of `path_uniforms`: independent numbers `[B*K,P]`."""
    return torch.from_numpy(np.random.default_rng([seed, len(tickers)]).random((len(tickers) * samples, horizon)))


def drawn(pipe: TsfLlmPipeline, batch: Any, unit: np.ndarray, laws: bool, **settings: int) -> np.ndarray:
    """Returns `[B,K,P]` of paths, in units `[B,P]`."""
    if laws:
        return pipe.sample(batch, **settings) / unit[:, None]
    return pipe.processor.path_returns(pipe.sample_tokens(batch, **settings), batch) / unit[:, None]


def quantiles(paths: np.ndarray) -> np.ndarray:
    """`[Q,B,P]` as `processor.decode` has them."""
    return np.quantile(paths, FORECAST_QUANTILES, axis=1, method="weibull")


def errors(pipe: TsfLlmPipeline, series: list[EncodedSeries], options: Arguments) -> list[dict[str, Any]]:
    """By way, number of paths and step: error of quantiles, and CRPS."""
    quick, horizon = options.quick, max(options.steps)
    ways = [(way, K) for way in ("plain", "stratified") for K in NUMBERS]
    found: dict[tuple[str, int], list[np.ndarray]] = {one: [] for one in ways}
    for one in track(series, "error", transient=True, console=Console(stderr=True)):
        rows = one.origins()
        rows = rows[rows < len(one.close) - horizon][::-horizon][: options.origins]
        batch = pipe.processor.batch([(one, rows)])
        unit = np.asarray(batch["scale"], float)[:, None] * np.sqrt(np.arange(1, horizon + 1))
        came = pipe.processor.kind.change(one.ahead(rows, horizon), one.close[rows, None]) / unit
        draw = partial(drawn, pipe, batch, unit, options.laws, horizon=horizon)
        parts = range(2 if quick else REFERENCE // max(NUMBERS))
        wanted = quantiles(np.concatenate([draw(samples=max(NUMBERS), seed=1000 + i) for i in parts], axis=1))
        for way, K in ways:
            free = {"path_uniforms": free_uniforms, "spread": lambda uniforms, come: uniforms}
            with patch.multiple(pipeline_tsf_llm, **(free if way == "plain" else {})):
                for seed in range(1 if quick else SEEDS):
                    paths = draw(samples=K, seed=seed)
                    apart = np.mean((quantiles(paths) - wanted) ** 2, axis=0)  # [B,P]
                    laws = map(StratifiedSamples, np.moveaxis(paths, -1, 0))
                    scores = [law.crps(y) for law, y in zip(laws, came.T, strict=True)]
                    found[way, K].append(np.stack((apart, np.stack(scores, axis=1))))
    return [
        {"numbers": way, "paths": K, "step": step, "error": float(apart**0.5), "crps": float(crps)}
        for (way, K), parts in found.items()
        for step, (apart, crps) in _at(np.concatenate(parts, axis=1), options.steps)
    ]


def _at(found: np.ndarray, steps: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Means over origins of `[2,n,P]` at these steps."""
    yield from ((step, np.nanmean(found[..., step - 1], axis=1)) for step in steps)


def costs(pipe: TsfLlmPipeline, series: EncodedSeries, options: Arguments) -> list[dict[str, Any]]:
    """Milliseconds of K paths, and in units of those of one."""
    batch, horizon = pipe.processor.batch([(series, series.origins()[-1:])]), max(options.steps)
    numbers, T = (1, *NUMBERS), batch["past_values"].shape[1]
    seconds: dict[int, list[float]] = {K: [] for K in numbers}
    for repeat in range(2 if options.quick else REPEATS + 1):
        for K in numbers:
            started = time.process_time()
            pipe.sample_tokens(batch, horizon=horizon, samples=K)
            if repeat:  # the first warms up
                seconds[K].append(time.process_time() - started)
    return [
        {
            "paths": K,
            "ms": 1e3 * median(seconds[K]),
            "ratio": ratio(seconds[K], seconds[1]),
            "tokens": (T + K * (horizon - 1)) / (T + horizon - 1),
        }
        for K in numbers
    ]


def run(options: Arguments) -> dict[str, Any]:
    """All results."""
    pipe = load_pipeline(options.model)
    series = pipe.processor.encode(read_bars(options.data, options.names))[: 1 if options.quick else None]
    found = {"error": errors(pipe, series, options), "cost": costs(pipe, series[0], options)}
    return {**found, **circumstances("torch", "transformers", threads=torch.get_num_threads())}


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    columns: dict[str, Any] = {name: lambda row, name=name: str(row[name]) for name in ("numbers", "paths", "step")}
    columns |= {"error of quantiles": lambda row: number(row["error"], ".4f")}
    columns |= {"CRPS": lambda row: number(row["crps"], ".5f")}
    console.print(Table.of(results["error"], columns).terminal(title="sampled paths, sigmas"))
    columns = {"paths": lambda row: str(row["paths"]), "ms": lambda row: number(row["ms"], ",.1f")}
    columns |= {f"{name} / one": lambda row, name=name: number(row[name], ".1f") for name in ("ratio", "tokens")}
    console.print(Table.of(results["cost"], columns).terminal(title="cost of one series"))


@one_line_errors("paths")
def main(arguments: list[str] | None = None) -> int:
    (options,) = Parser(Arguments, prog="paths", description=__doc__).parse_args_and_config(arguments)
    results = run(options)
    show(results, Console(width=max(Console().width, 100)))
    if options.json is not None:
        write_json(results, options.json)
    return 0


if __name__ == "__main__":
    main()
