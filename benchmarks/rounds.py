"""How `speed` measures: each contestant in a process of its own, all taking turns.

Design choices:
* CPU seconds of the contestant's process count, the clock stands beside them: where other programs run, the clock says
  how busy the machine was. With one thread the two are the same on a quiet machine. On CUDA the clock counts.
* Turns are taken in alternating order, so that a machine that slows down meanwhile slows all; a ratio is the median of
  the ratios of single rounds. Every measure is run once before it counts.
* Processes are forked from one that has the imports done and nothing else, so the peak memory of each is its own.
* Operations are counted as the tensors are multiplied: products alone, a multiplication and an addition as two. Those
  of ours are counted in torch's own products, which round no expert's rows up.
"""

import logging
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Self, TypeVar
from unittest.mock import patch

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from .. import products_tsf_llm

Task = Callable[[], Any]
Name = TypeVar("Name", bound=str | tuple)
IMPORTS = ["tsf_llm.benchmarks.peers"]  # of a fresh process, before it is forked
BACKWARD = 2.5  # of attention: five products where forward has two


@dataclass(frozen=True)
class Took:
    """Seconds of this process's CPU and of the clock."""

    cpu: float
    wall: float

    on_device: bool = False

    def counts(self) -> float:
        """The one that says how long it takes."""
        return self.wall if self.on_device else self.cpu

    def times(self, factor: float) -> "Took":
        return Took(factor * self.cpu, factor * self.wall, self.on_device)


def took(task: Task) -> Took:
    _wait()
    wall, cpu = time.perf_counter(), time.process_time()
    task()
    _wait()
    return Took(time.process_time() - cpu, time.perf_counter() - wall, torch.cuda.is_initialized())


def _wait() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def typical(times: Sequence[Took]) -> dict[str, float]:
    """The medians."""
    figures = {"cpu": [one.cpu for one in times], "wall": [one.wall for one in times]}
    figures["counts"] = [one.counts() for one in times]
    return {name: median(seconds) for name, seconds in figures.items()}


def ratio(own: Sequence[Took], other: Sequence[Took]) -> float:
    """Median over rounds of how many times longer the other took."""
    return median(b.counts() / a.counts() for a, b in zip(own, other, strict=True))


def in_turns(tasks: Mapping[Name, Callable[[], Took]], rounds: Iterable[int]) -> dict[Name, list[Took]]:
    """What each task took in every round, after one that does not count."""
    for task in tasks.values():
        task()
    times: dict[Name, list[Took]] = {name: [] for name in tasks}
    for number in rounds:
        for name in tasks if number % 2 == 0 else reversed(list(tasks)):
            times[name].append(tasks[name]())
    return times


class Worker:
    """A fresh process, one thread of torch by default, that does one thing after the other."""

    def __init__(self, threads: int = 1):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTS)
        self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(threads,))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def do(self, work: Callable[..., Any], *args: Any) -> Any:
        return self._pool.submit(work, *args).result()


def _begin(threads: int) -> None:
    torch.set_num_threads(threads)
    logging.getLogger("tsf_llm").setLevel(logging.ERROR)  # what it says of dates and markets is known here


def peak_mb() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def operations(task: Task) -> int:
    """Floating-point operations (of an int8 model, whole numbers too) of the products in `task`.

    Ours are counted as torch's own libraries do them: for oneDNN the rows of experts are padded."""
    aten: Any = torch.ops.aten
    counts = {
        aten._grouped_mm: _product,
        aten._int_mm: _product,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    own = patch.object(products_tsf_llm, "onednn_wins", return_value=False)
    with own, FlopCounterMode(display=False, custom_mapping=counts) as counter:
        task()
    return counter.get_total_flops()


def _product(left: Sequence[int], right: Sequence[int], *_: Any, **__: Any) -> int:
    """Of grouped products too: each row has one group."""
    return 2 * left[0] * left[1] * right[-1]


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(_: Any, *shapes: Any, **__: Any) -> int:
    return int(BACKWARD * sdpa_flop_count(*shapes[:3]))
