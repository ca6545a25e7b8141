"""What a model costs: bytes on disk and milliseconds, measured beside other models in one run.

Design choices:
* Contestants take turns within each repeat, in alternating order, and a ratio is the median of the ratios of single
  repeats: a machine that slows down meanwhile slows all of them.
* Two things are timed: one forward pass over a window, and a whole forecast from tensors to sampled paths.
"""

import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import CONFIG_NAME, cached_file

from ..common.reading import weight_files
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import SERIES_INPUTS, TsfLlmPipeline

Task = Callable[[], Any]
Name = TypeVar("Name", bound=Hashable)
WARM_UP = 2  # unmeasured runs: allocations, kernel choice


def weights(model: str | Path) -> list[Path]:
    """The files with the weights of a folder or Hub model."""
    files = weight_files(Path(str(cached_file(str(model), CONFIG_NAME))).parent).values()
    return [path for path in files if path.suffix == ".safetensors"]


def weight_bytes(model: str | Path) -> int:
    """Their size on disk."""
    return sum(path.stat().st_size for path in weights(model))


def last_windows(pipe: TsfLlmPipeline, series: Sequence[EncodedSeries], count: int) -> BatchFeature:
    """The last `count` windows of the first series that has as many, as the model reads them.

    Raises:
        ValueError: if no series has as many.
    """
    for one in series:
        rows = one.origins(one.timestamp[0], one.timestamp[-1])[-count:]
        if len(rows) == count:
            return pipe.processor.batch([(one, rows)])
    raise ValueError(f"no series has {count} windows to time: give more history")


def forward_task(pipe: TsfLlmPipeline, batch: BatchFeature) -> Task:
    """One forward pass, as forecasting begins: the next step's logits, or the head's answer."""
    wanted = ("past_values", "attention_mask", *(("input_ids",) if pipe.model.can_generate() else SERIES_INPUTS))
    names = [name for name in wanted if name in batch]
    inputs = {name: batch[name].to(pipe.model.device) for name in names}
    options = {"use_cache": False, "logits_to_keep": 1} if pipe.model.can_generate() else {}

    @torch.inference_mode()
    def run() -> Any:
        return pipe.model(**inputs, **options)

    return run


def forecast_task(pipe: TsfLlmPipeline, batch: BatchFeature, *, horizon: int, samples: int) -> Task:
    """A whole forecast: the laws where the model names them all, else sampled paths, or the head's answer."""
    if horizon <= pipe.law_reach:
        return partial(pipe.laws, batch, horizon)
    if pipe.samples_paths:
        return partial(pipe.sample, batch, horizon=horizon, samples=samples)
    return partial(pipe.predict_head, batch, horizon)


def turns(tasks: Mapping[Name, Task], repeats: Iterable[int]) -> dict[Name, list[float]]:
    """Seconds of every repeat by task; tasks take turns, in alternating order."""
    for task in tasks.values():
        for _ in range(WARM_UP):
            task()
    times: dict[Name, list[float]] = {name: [] for name in tasks}
    for repeat in repeats:
        for name in tasks if repeat % 2 == 0 else reversed(tasks):
            times[name].append(_seconds(tasks[name]))
    return times


def ratio(own: Sequence[float], reference: Sequence[float]) -> float:
    """Median over repeats of one task's time in units of the other's."""
    return statistics.median(a / b for a, b in zip(own, reference, strict=True))


def _seconds(task: Task) -> float:
    _wait()
    started = time.perf_counter()
    task()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def latencies(tasks: dict[str, Task], *, repeats: int = 20) -> dict[str, dict[str, float]]:
    """Median milliseconds `ms` of each task, and `ratio`, its time in units of the first task's time.

    Raises:
        ValueError: for fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats}: give at least 1")
    times = turns(tasks, range(repeats))
    reference = times[next(iter(tasks))]
    return {
        name: {"ms": round(1e3 * statistics.median(own), 3), "ratio": round(ratio(own, reference), 3)}
        for name, own in times.items()
    }


def contest(measures: dict[str, dict[str, Task]], *, repeats: int = 20) -> dict[str, dict[str, float]]:
    """`latencies` of several measures, beside each other for each name: `forward_ms`, `forward_ratio`, ..."""
    result: dict[str, dict[str, float]] = {}
    for measure, tasks in measures.items():
        for name, timed in latencies(tasks, repeats=repeats).items():
            result.setdefault(name, {}).update({f"{measure}_{key}": value for key, value in timed.items()})
    return result
