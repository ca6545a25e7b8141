"""Speed of TSF-LLM and of public models beside it, in one run: networks, tokens, the whole way from a DataFrame to a
DataFrame, features, a stream, a fresh process, and how all of it grows. See docs/benchmarks.md.

examples:
    python -m tsf_llm.benchmarks.speed --json speed.json
    python -m tsf_llm.benchmarks.speed --json speed.json --page docs/benchmarks.md     # ten minutes
    python -m tsf_llm.benchmarks.speed --parts contest --only tsf-llm DeepSeek-V3
    python -m tsf_llm.benchmarks.speed --quick        # shows that it works, its times mean nothing

Design choices:
* `contest` has what each contestant is timed at, `peers` the contestants, `whole_way` what surrounds our network,
  `growth` the curves, `rounds` how anything is timed. Here they become one table.
* One thread each, so that CPU seconds are how long it takes alone; `--threads` changes it.
* A peer that is not installed has no column, and the reason is told.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from ..common.errors import one_line_errors
from ..common.files import check_output, write_json
from ..common.parser import Parser
from ..common.provenance import provenance, release
from ..common.tables import Table
from . import contest, growth, whole_way
from .data_speed import SEED
from .peers import BOLT, CHRONOS2, DEEPSEEK, MAKERS, OURS, PATCHTST, PER, TIMESFM, WINDOW, Field, cpu_flags
from .results import Output, circumstances
from .speed_page import write_page

PARTS = ("contest", "features", "stream", "start", "growth")
TOLD_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "bf16", "i8mm", "sve")
QUICK = [OURS, DEEPSEEK, PATCHTST, TIMESFM, BOLT, CHRONOS2]  # of all but what differs in shape or numbers alone
QUICK_GROWTH = 4  # largest size, or the smallest of a curve


@dataclass
class Arguments(Output):
    """What to measure, where, and what to write."""

    parts: list[str] = field(
        default_factory=lambda: list(PARTS), metadata={"help": f"some of {', '.join(PARTS)} (default: all)"}
    )
    only: list[str] | None = field(
        default=None, metadata={"help": "contestants (default: all that are installed; fewer with --quick)"}
    )
    rounds: int | None = field(
        default=None, metadata={"help": f"of the contest (default {contest.Sizes.rounds}; 1 with --quick)"}
    )
    threads: int = field(default=1, metadata={"help": "of torch, for each contestant"})
    device: Literal["cpu", "cuda"] = field(default="cpu", metadata={"help": "of the contest"})
    page: Path | None = field(
        default=None, metadata={"help": "write this page of Markdown, and its plot into images/ beside it"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, given, known in (("--parts", self.parts, PARTS), ("--only", self.only or (), MAKERS)):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(f"{option} {unknown[0]}: choose of {', '.join(known)}")
        if self.only is not None and OURS not in self.only:
            raise ValueError(f"--only {' '.join(self.only)}: name {OURS} too, which the others are compared with")
        for option, number in (("--rounds", self.rounds), ("--threads", self.threads)):
            if number is not None and number < 1:
                raise ValueError(f"{option} {number}: give at least 1")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device here; use --device cpu")
        if self.page is not None:
            check_output(self.page, ".md")
            if set(self.parts) != set(PARTS):
                raise ValueError("--page: it tells all parts, so leave --parts out")


def run(options: Arguments, say: Callable[[str], None]) -> dict[str, Any]:
    """The parts that were asked for by name, and the circumstances."""
    quick, threads = options.quick, options.threads
    place = Field(quick=quick, model="mini" if quick else "shipped", device=options.device)
    own = whole_way.TINY if quick else whole_way.Sizes()
    sizes = contest.TINY if quick else contest.Sizes()
    sizes = replace(sizes, rounds=options.rounds or sizes.rounds)
    here = Field(quick=quick, model=place.model)
    names = options.only or (QUICK if quick else list(MAKERS))
    work: dict[str, Callable[[], Any]] = {
        "contest": partial(contest.run, names, place, sizes, threads, say),
        "features": partial(whole_way.features, here, own, threads, say),
        "stream": partial(whole_way.stream, here, own, threads, say),
        "start": partial(whole_way.start, here, own, threads, say),
        "growth": partial(growth.run, here, threads, say, largest=QUICK_GROWTH if quick else None),
    }
    return {
        **{part: work[part]() for part in PARTS if part in options.parts},
        "settings": {"contest": vars(sizes), "whole_way": vars(own), "field": vars(place), "seed": SEED},
        **measured_on(options),
    }


def measured_on(options: Arguments) -> dict[str, Any]:
    packages = ["torch", "transformers", "numpy", "pandas"]
    packages += [name for name in ("chronos-forecasting", "pandas-ta-classic") if release(name)]
    flags = [flag for flag in TOLD_FLAGS if flag in cpu_flags()]
    device = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    told = circumstances(*packages, threads=options.threads, cpu_flags=flags, device=device)
    return {**told, **provenance("benchmarks.speed"), "date": date.today().isoformat()}


# --- the table -----------------------------------------------------------------------------------------------------


def table(results: Mapping[str, Any]) -> Table:
    """A row per measure, a column per contestant: CPU time."""
    found = results["contest"]
    sizes, names = results["settings"]["contest"], list(found["contestants"])
    rows: list[tuple[str, Callable[[Mapping[str, Any]], str | None]]] = [
        ("parameters, million", lambda one: f"{one['parameters'] / 1e6:,.2f}"),
        ("GFLOP of a forward pass", lambda one: f"{one['gflop']['forward']:.2f}"),
        (f"forward, {sizes['windows']} x {WINDOW} bars, ms", times("forward", 1e3)),
        ("share of the GEMM limit", share("forward")),
        ("train, the same, ms", times("train", 1e3)),
        ("share of the GEMM limit", share("train")),
        (f"generate {sizes['steps']}, {sizes['many']} series, s", times("many")),
        ("one series, s", times("one")),
        (f"one series after {sizes['long']} bars, s", times("long")),
        ("the same, uncached, s", times("uncached")),
        (f"{sizes['paths']} paths of {sizes['ahead']} steps, s", times("paths")),
        ("one path, s", times("path")),
        (f"DataFrame to DataFrame, {PER} series, s", times("frame")),
        ("the same by the clock, s", times("frame", clock="wall")),
        ("peak memory of that, MB", lambda one: plain(one["peak_mb"])),
        ("bytes of a token in the cache", lambda one: whole(one.get("cache_bytes_per_token"))),
    ]
    cells = [[title, *((cell(found["contestants"][name]) or "-") for name in names)] for title, cell in rows]
    return Table(("CPU time", *names), [*cells, *(own_row(names, *row) for row in surroundings(results))])


def times(key: str, unit: float = 1.0, clock: str = "cpu") -> Callable[[Mapping[str, Any]], str | None]:
    return lambda one: plain(unit * one[key][clock]) if key in one else None


def plain(value: float) -> str:
    """Three digits, without exponents.

    >>> plain(1234.5), plain(0.01234)
    ('1,234', '0.0123')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def share(key: str) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda one: f"{one['share'][key]:.0%}" if key in one.get("share", {}) else None


def whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def own_row(names: list[str], title: str, cell: str) -> list[str]:
    """Of what ours alone is measured at."""
    return [title, *(cell if name == OURS else "-" for name in names)]


def surroundings(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Titles and cells of the other parts."""
    rows = []
    if found := results.get("features"):
        for tickers, each in found["windows"].items():
            rows.append((f"last window of {tickers} tickers, ms each", plain(1e3 * each["cpu"])))
        rows.append(("bars encoded per second", plain(found["encoding"]["bars_per_cpu_second"])))
    for row in results.get("stream", ()):
        step, again = row["step"]["all"], row["recompute"]["all"]
        rows.append((f"stream of {row['symbols']}: one more bar, ms", plain(step)))
        rows.append(("times cheaper than from all bars", plain(again / step)))
    for name, each in results.get("start", {}).items():
        rows.append((f"{name}, by the clock, s", plain(each["wall"])))
    return rows


def ratios(results: Mapping[str, Any]) -> Table:
    """How many times as long as ours the others took; above 1 ours is faster."""
    found = results["contest"]["ratios"]
    names = [name for name in results["contest"]["contestants"] if name != OURS]
    keys = [key for key in contest.MEASURES if found[key]]
    cells = [
        [contest.MEASURES[key].title, *(plain(found[key][name]) if name in found[key] else "-" for name in names)]
        for key in keys
    ]
    return Table(("time over ours", *names), cells)


def notes(results: Mapping[str, Any]) -> list[str]:
    """Lines under the tables."""
    lines = []
    if found := results.get("contest"):
        limits = ", ".join(f"{speed:.0f} GFLOP/s in {dtype}" for dtype, speed in found["gemm_gflops"].items())
        lines.append(f"Matrix product, the limit: {limits}.")
        factors = ", ".join(f"{name} {factor:.2f}" for name, factor in found["ratios"]["paths over one path"].items())
        lines.append(f"Paths over one path: {factors}.")
        lines += [f"{name} is absent: {why}." for name, why in found["absent"].items()]
    if (found := results.get("features")) and (peer := found.get(whole_way.PEER)):
        own, columns = found["encoding"]["values_per_cpu_second"], found["columns"]
        lines.append(
            f"Features: {own:,.0f} values per CPU second in {columns[OURS]} columns; {whole_way.PEER} "
            f"{peer['values_per_cpu_second']:,.0f} in {columns[whole_way.PEER]}."
        )
    return lines


def show(results: Mapping[str, Any], console: Console) -> None:
    if "contest" in results:
        console.print(table(results).terminal(title="CPU time, medians"))
        console.print(ratios(results).terminal())
    else:
        for title, cell in surroundings(results):
            console.print(f"{title}: {cell}")
    if "growth" in results:
        console.print(growth.table(results["growth"]).terminal(title="growth"))
    for line in notes(results):
        console.print(line, soft_wrap=True)


@one_line_errors("speed")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="speed", description=__doc__).parse_args_and_config(arguments)
    started, progress = time.perf_counter(), Console(stderr=True)
    results = run(
        parsed, lambda line: progress.print(f"{time.perf_counter() - started:4.0f} s  {line}", soft_wrap=True)
    )
    show(results, Console(width=max(Console().width, 180)))
    if parsed.json is not None:
        write_json(results, parsed.json)
    if parsed.page is not None:
        write_page(results, parsed.page, table(results), ratios(results), notes(results))
    return 0


if __name__ == "__main__":
    main()
