"""How time and memory grow with bars, series and paths. For `speed`.

Design choices:
* Every point is a fresh process, which first does the smallest size: its peak memory is that of the point.
* A slope is that of the logarithm of CPU seconds over the logarithm of the size, by least squares over the last
  factor of eight: 1 is linear, and what does not grow, as loading, has no more weight there.
* A curve ends before a point that would take longer than `LONGEST`, which the table says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ..common.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure
from ..common.tables import Table
from ..serving.loading import load_pipeline
from .contest import made_bars
from .peers import HISTORY, HORIZON, OURS, Field, contestant
from .rounds import Task, Worker, peak_mb, took, typical

Say = Callable[[str], None]
LONGEST = 75.0  # CPU seconds of a point
QUICK = 1.0  # seconds, below which a point is repeated
STEPS = 20  # of a path


def context(place: Field, size: int) -> Task:
    """The network on one window."""
    one = contestant(OURS, place)
    inputs = one.read(1, size)

    @torch.inference_mode()
    def run() -> None:
        one.model.eval()(**inputs, use_cache=False)

    return run


def history(place: Field, size: int) -> Task:
    """Features of every bar of one series."""
    return partial(load_pipeline(place.model).processor.encode, made_bars(1, size))


def series(place: Field, size: int) -> Task:
    """From a DataFrame to a DataFrame."""
    return partial(load_pipeline(place.small), made_bars(size, HISTORY), horizon=HORIZON)


def paths(place: Field, size: int) -> Task:
    """Sampled paths of one series."""
    pipe = load_pipeline(place.model)
    return partial(pipe.sample, pipe.processor(made_bars(1, HISTORY)), horizon=STEPS, samples=size)


@dataclass(frozen=True)
class Curve:
    title: str
    task: Callable[[Field, int], Task]
    sizes: tuple[int, ...]
    colour: str


CURVES = {
    "context": Curve("bars of a window, network", context, (128, 256, 512, 1024, 2048), BLUE),
    "history": Curve("bars of a history, features", history, (256, 512, 1024, 2048), ORANGE),
    "series": Curve("series, mini, DataFrame to DataFrame", series, (16, 64, 256, 1024, 4096), GREEN),
    "paths": Curve(f"paths of {STEPS} steps", paths, (1, 4, 16, 64, 256, 1024), PURPLE),
}


def point(name: str, place: Field, size: int) -> dict[str, float]:
    """In a process that has done nothing else."""
    curve = CURVES[name]
    curve.task(place, curve.sizes[0])()
    task = curve.task(place, size)
    times = [took(task)]
    while times[0].wall < QUICK and len(times) < 3:
        times.append(took(task))
    return {"size": size, "peak_mb": peak_mb(), **typical(times)}


def run(place: Field, threads: int, say: Say, *, largest: int | None = None) -> dict[str, dict[str, Any]]:
    """`points`, `slope` and, where a curve ended early, `ended_before` by curve."""
    found = {}
    for name, curve in CURVES.items():
        points: list[dict[str, float]] = []
        sizes = [size for size in curve.sizes if largest is None or size <= largest] or list(curve.sizes[:1])
        for size in sizes:
            if points and points[-1]["counts"] * size / points[-1]["size"] > LONGEST:
                break
            with Worker(threads) as worker:
                points.append(worker.do(point, name, place, size))
            say(f"{curve.title}: {size:,} in {points[-1]['cpu']:.3g} CPU s, peak {points[-1]['peak_mb']:,.0f} MB")
        found[name] = {"points": points, "slope": slope(points)}
        if len(points) < len(sizes):
            found[name]["ended_before"] = sizes[len(points)]
    return found


def slope(points: Sequence[Mapping[str, float]]) -> float | None:
    """Of logarithms, over the last factor of eight; None of fewer than two points.

    >>> round(slope([{"size": n, "counts": 3.0 * n} for n in (1, 8, 64)]), 9)
    1.0
    """
    last = [one for one in points if 8 * one["size"] >= points[-1]["size"]]
    if len(last) < 2:
        return None
    x, y = (np.log([one[key] for one in last]) for key in ("size", "counts"))
    return float(np.polyfit(x, y, 1)[0])


def table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    cells = []
    for name, curve in found.items():
        for number, one in enumerate(curve["points"]):
            last = number == len(curve["points"]) - 1
            steep = "" if not last or curve["slope"] is None else f"{curve['slope']:.2f}"
            cells.append(
                [
                    "" if number else CURVES[name].title,
                    f"{one['size']:,}",
                    f"{one['cpu']:.3g}",
                    f"{one['wall']:.3g}",
                    f"{one['peak_mb']:,.0f}",
                    steep,
                ]
            )
        if "ended_before" in curve:
            cells.append(["", f"{curve['ended_before']:,}", f"over {LONGEST:.0f} s", "", "", ""])
    return Table(("", "size", "CPU s", "clock, s", "peak MB", "slope"), cells)


def draw(found: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Seconds above, memory below; a dashed line grows linearly."""
    figure, (above, below) = new_figure(
        "How cost grows", "CPU seconds, logarithmic; dashed: linear growth", rows=2, height=8.0
    )
    for name, curve in found.items():
        x, y, memory = ([one[key] for one in curve["points"]] for key in ("size", "counts", "peak_mb"))
        steep = "" if curve["slope"] is None else f", slope {curve['slope']:.2f}"
        above.plot(x, y, "o-", color=CURVES[name].colour, label=CURVES[name].title + steep)
        above.plot([x[-1] / 8, x[-1]], [y[-1] / 8, y[-1]], "--", color=GREY, linewidth=0.8, zorder=1)
        below.plot(x, memory, "o-", color=CURVES[name].colour)
    for axes in (above, below):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    above.set_yscale("log")
    above.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    above.yaxis.set_minor_formatter(NullFormatter())
    above.legend(frameon=False, fontsize=9, loc="upper left")
    below.set_ylim(0, 1.1 * below.get_ylim()[1])
    below.set_title("peak memory of the process, MB", loc="left", fontsize=9, color="#555555")
    below.set_xlabel("bars, series or paths")
    return figure
