"""What each contestant of `speed` is timed at: its network, its tokens, its way from a DataFrame to a DataFrame.

Design choices:
* A measure is an entry of `MEASURES`: its name, its task and which contestants it suits. A new one is a line.
* Models that read a series again for each path, or are large, forecast fewer series, and the time is scaled.
* Peak memory is that of a fresh process which has forecast these series and done nothing else.
* The yardstick is a matrix product of 1024 x 1024, the best of all rounds, float32 or bf16 as the model, by the faster
  of torch's libraries.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pandas as pd
import torch

from ..data_prep.sources import read_bars
from ..products_tsf_llm import onednn
from ..versions_tsf_llm import CACHE
from .data_speed import real_days, synthetic_ticker
from .peers import BF16, DEEPSEEK, HISTORY, INT8, OURS, PER, WINDOW, Contestant, Field, absent, contestant
from .rounds import Task, Took, Worker, in_turns, operations, peak_mb, ratio, took, typical

PRODUCT = "matrix product"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Say = Callable[[str], None]
Times = dict[tuple[str, str], list[Took]]  # by measure and contestant


@dataclass(frozen=True)
class Sizes:
    """`windows` of `WINDOW` bars; `steps` tokens after one, `many` or a `long` one of them; `paths` so far `ahead`."""

    windows: int = 8
    steps: int = 64
    many: int = 32
    long: int = 960
    paths: int = 256
    ahead: int = 20
    series: int = PER
    product: int = 1024
    rounds: int = 3


TINY = Sizes(windows=2, steps=3, many=2, long=160, paths=4, ahead=21, series=2, product=64, rounds=1)


@dataclass(frozen=True)
class Measure:
    title: str
    task: Callable[[Contestant, Sizes], Task]
    suits: Callable[[str, Contestant], bool] = field(default=lambda name, one: True)
    more_rounds: int = 1  # of a measure that takes no time


# --- tasks ---------------------------------------------------------------------------------------------------------


def forward(one: Contestant, sizes: Sizes) -> Task:
    inputs = one.read(sizes.windows, WINDOW)

    @torch.inference_mode()
    def run() -> None:
        one.model.eval()(**inputs, **no_cache(one))

    return run


def no_cache(one: Contestant) -> dict[str, bool]:
    return {"use_cache": False} if one.generates else {}


def train(one: Contestant, sizes: Sizes) -> Task:
    """Forward with labels, backward, AdamW."""
    inputs = one.read(sizes.windows, WINDOW)
    labels = one.learn(inputs)
    optimizer = torch.optim.AdamW(one.model.parameters(), lr=1e-6, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        one.model.train()(**inputs, **labels, **no_cache(one)).loss.backward()
        optimizer.step()

    return run


def generate(one: Contestant, sizes: Sizes, *, many: bool = False, long: bool = False, **options: Any) -> Task:
    """Greedily `sizes.steps` tokens."""
    inputs = one.read(sizes.many if many else 1, sizes.long if long else WINDOW)

    def run() -> None:
        tokens = one.model.eval().generate(**inputs, max_new_tokens=sizes.steps, do_sample=False, **options)
        assert tokens.shape[1] == inputs["input_ids"].shape[1] + sizes.steps, "generation stopped early"

    return run


def sample(one: Contestant, sizes: Sizes, paths: int | None = None) -> Task:
    """Paths of one series, from tensors to returns; by default as many as `sizes` has."""
    assert one.pipe is not None
    batch = one.pipe.processor(made_bars(1, HISTORY))
    return partial(one.pipe.sample, batch, horizon=sizes.ahead, samples=paths or sizes.paths)


def frame(one: Contestant, sizes: Sizes) -> Task:
    return partial(one.frame, made_bars(series_of(one, sizes), HISTORY))


def series_of(one: Contestant, sizes: Sizes) -> int:
    """That are forecast."""
    return min(one.series, sizes.series)


def generates(_: str, one: Contestant) -> bool:
    return one.generates


def samples(_: str, one: Contestant) -> bool:
    return one.pipe is not None


MEASURES = {
    "frame": Measure(f"DataFrame to DataFrame, {PER} series", frame),
    "forward": Measure("forward", forward, more_rounds=3),
    "many": Measure("generate, many series", partial(generate, many=True), generates),
    "one": Measure("generate, one series", generate, generates),
    "long": Measure("generate, long context", partial(generate, long=True), generates),
    "uncached": Measure(
        "the same, uncached", partial(generate, long=True, use_cache=False), lambda name, _: name == DEEPSEEK
    ),
    "paths": Measure("paths", sample, samples),
    "path": Measure("one path", partial(sample, paths=1), samples),
    "train": Measure("train", train, lambda name, _: name != INT8),
}
TOGETHER = [("frame",), ("forward",), ("many",), ("one",), ("long", "uncached"), ("paths", "path"), ("train",)]


@cache
def made_bars(tickers: int, length: int) -> pd.DataFrame:
    """Bars of tickers made of the days of the embedded prices."""
    days = real_days(read_bars("sample"))
    return pd.concat([synthetic_ticker(days, number, length) for number in range(tickers)], ignore_index=True)


# --- in the process of a contestant --------------------------------------------------------------------------------


@cache
def here(name: str, place: Field) -> Contestant:
    return contestant(name, place)


@cache
def task_of(name: str, place: Field, measure: str, sizes: Sizes) -> Task:
    return MEASURES[measure].task(here(name, place), sizes)


def timed(name: str, place: Field, measure: str, sizes: Sizes) -> Took:
    """One turn; of DataFrames told for `PER` series."""
    once = took(task_of(name, place, measure, sizes))
    return once.times(PER / series_of(here(name, place), sizes)) if measure == "frame" else once


def suited(name: str, place: Field) -> list[str]:
    """The measures that this contestant takes part in."""
    return [key for key, measure in MEASURES.items() if measure.suits(name, here(name, place))]


def facts(name: str, place: Field, sizes: Sizes) -> dict[str, Any]:
    """Parameters, operations counted in one pass and in a training step, bytes of a token in the cache."""
    one = here(name, place)
    found: dict[str, Any] = {"parameters": one.model.num_parameters(), "dtype": str(one.model.dtype)[6:]}
    found["gflop"] = {"forward": operations(forward(one, sizes)) / 1e9}
    if "train" in suited(name, place):
        found["gflop"]["train"] = operations(train(one, sizes)) / 1e9
    if one.generates:
        found["cache_bytes_per_token"] = cache_bytes(one, sizes)
    return found


@torch.inference_mode()
def cache_bytes(one: Contestant, sizes: Sizes) -> int:
    """Of all layers, weighed after a real forward pass."""
    layers = one.model.eval()(**one.read(1, WINDOW), use_cache=True)[CACHE].layers
    return sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values)) // WINDOW


@cache
def matrices(size: int, dtype: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    left = torch.randn(size, size, device=device, dtype=DTYPES[dtype])
    return left, left.T.contiguous()


def multiply(size: int, dtype: str, device: str) -> Took:
    """The best of five, and of torch's two libraries on a CPU."""
    left, right = matrices(size, dtype, device)
    tasks = [partial(torch.mm, left, right)]
    if device == "cpu" and dtype == "float32" and torch.backends.mkldnn.is_available():
        tasks.append(partial(onednn, left, right.T))
    return min((took(task) for task in tasks for _ in range(5)), key=Took.counts)


# --- all of them ---------------------------------------------------------------------------------------------------


def run(names: Sequence[str], place: Field, sizes: Sizes, threads: int, say: Say) -> dict[str, Any]:
    """Each contestant's figures, those of ours over theirs, and the yardstick."""
    missing = {name: why for name in names if (why := absent(name))}
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(threads)) for name in names if name not in missing}
        yardstick = stack.enter_context(Worker(threads))
        say(f"building and warming up {', '.join(workers)}")
        imports = {name: worker.do(peak_mb) for name, worker in workers.items()}
        suits = {name: worker.do(suited, name, place) for name, worker in workers.items()}
        dtypes = [dtype for dtype in DTYPES if dtype == "float32" or BF16 in workers]
        products = {
            (PRODUCT, dtype): partial(yardstick.do, multiply, sizes.product, dtype, place.device) for dtype in dtypes
        }
        times: Times = {key: [] for key in products}
        found: dict[str, dict[str, Any]] = {}
        for keys in TOGETHER:
            tasks = {
                (key, name): partial(worker.do, timed, name, place, key, sizes)
                for key in keys
                for name, worker in workers.items()
                if key in suits[name]
            }
            measure = MEASURES[keys[0]]
            each = in_turns(tasks | products, said(measure, sizes.rounds * measure.more_rounds, say))
            for key in products:
                times[key] += each.pop(key)
            times |= each
            say(told(keys, each))
            if keys == ("frame",):
                found = {
                    name: {"peak_mb": worker.do(peak_mb), "imports_mb": imports[name]}
                    | worker.do(facts, name, place, sizes)
                    for name, worker in workers.items()
                }
    return summary(times, found, sizes) | {"absent": missing}


def said(measure: Measure, rounds: int, say: Say) -> Iterator[int]:
    """The numbers of the rounds, with a line of progress before each that takes a while."""
    for number in range(rounds):
        if measure.more_rounds == 1:
            say(f"{measure.title}: round {number + 1} of {rounds}")
        yield number


def told(keys: Sequence[str], times: Times) -> str:
    """A line of progress."""
    first = {name: each for (key, name), each in times.items() if key == keys[0]}
    seconds = ", ".join(f"{name} {typical(each)['cpu']:.3g}" for name, each in first.items())
    return f"{MEASURES[keys[0]].title}, CPU seconds: {seconds}"


def summary(times: Times, found: Mapping[str, dict[str, Any]], sizes: Sizes) -> dict[str, Any]:
    """Medians and shares of the limit by contestant; how much longer than ours each took, and paths than one path."""
    gflops = {
        dtype: 2e-9 * sizes.product**3 / min(one.counts() for one in each)
        for (key, dtype), each in times.items()
        if key == PRODUCT
    }
    contestants: dict[str, dict[str, Any]] = {name: {**facts} for name, facts in found.items()}
    ratios: dict[str, dict[str, float]] = {key: {} for key in (*MEASURES, "paths over one path")}
    for (key, name), each in times.items():
        if key == PRODUCT:
            continue
        one = contestants[name]
        one[key] = typical(each)
        if (own := times.get(("long" if key == "uncached" else key, OURS))) and name != OURS:
            ratios[key][name] = ratio(own, each)
        if key == "path":
            ratios["paths over one path"][name] = ratio(each, times["paths", name])
        if (counted := one["gflop"].get(key)) and name != INT8:
            one.setdefault("share", {})[key] = counted / typical(each)["counts"] / gflops[one["dtype"]]
    return {"contestants": contestants, "ratios": ratios, "gemm_gflops": gflops}
