"""The page of `speed`: what was measured, where, and what came out. Nothing there is typed by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.figures import save_figure
from ..common.files import write_text
from ..common.tables import Table
from . import growth
from .peers import HISTORY, HORIZON, LEVELS, PATHS, PER, WINDOW

PLOT = "benchmarks_growth.png"
TEXT = """# Benchmarks

By `python -m tsf_llm.benchmarks.speed --json speed.json --page docs/benchmarks.md` on {date}: {machine}.
Versions: {versions}; commit {commit}. Seed {seed}.{quick}

{table}

{notes}

How many times as long as `tsf-llm` the others took. Above 1 ours is faster.

{ratios}

## What is compared

* CPU time, torch on {threads} thread(s); the JSON has the clock's beside each. Every contestant is a process
  of its own. They take turns, in alternating order. Times are medians of {rounds} round(s), {more} of the forward
  pass; a ratio is the median of the ratios of single rounds.
* `tsf-llm` is the shipped model, `mini` the small one; `bf16` and `int8` are the shipped one in other numbers. All
  weights are random in the network's rows, where laws and the head for bars, which the peers lack, are left out.
  Forecasts come from the whole models as they are shipped.
* *DeepSeek-V3* has our shape and starts from our weights. *Mixtral* and *Llama* have our hidden size, layers and
  heads, and the width at which their parameters are as many as ours. *TimesFM 2.5* has its 200 million parameters,
  *Chronos-Bolt* and *Chronos-2* those of `small`, *PatchTST* the shape of its paper over {window} bars.
* Operations are those of matrix products and attention, counted while the model runs. The limit is the best product of
  {product} x {product} in the same run, in float32 or bf16, by the faster of torch's libraries.
* *Train* is forward with labels, backward and fused AdamW. *Generate* is greedy with a cache, after {window} bars.
* *DataFrame to DataFrame* is a forecast of {horizon} bars of {per} series of {history} bars: ours with features,
  laws, dates and quantiles; Chronos by its own `predict_df`. Others have no such function, so the shortest code stands
  in: a pivot, the network, a frame with the quantiles {levels}. A language model samples {paths} paths. It is timed on
  2 series and TimesFM on 20, told for {per}.
* Peak memory is that of the process after these forecasts, {imports:,.0f} MB of which imports take.
* *Last window* is from a DataFrame to the network's inputs; *bars encoded* are all of {encoded} tickers, {bars} each.
  pandas-ta-classic computes its `strategy("All")`.
* *One more bar* is an update of a stream, beside the same forecast from all bars.
* What starts a process is `python -c`: importing torch and transformers alone, then our pipeline with them, then what
  loads models; the command's help; a forecast of {first} tickers with the shipped model.
* Prices are made of the days of the embedded sample, drawn with replacement.

## Growth

![CPU seconds and memory by bars, series and paths](images/{plot})

{growth}

Each point is a fresh process. *Slope* is that of the logarithms over the last factor of eight: 1 is linear.
"""


def write_page(results: Mapping[str, Any], page: Path, table: Table, ratios: Table, notes: Sequence[str]) -> None:
    """The page, and its plot into `images/` beside it."""
    save_figure(growth.draw(results["growth"]), page.parent / "images" / PLOT)
    write_text(text(results, table, ratios, notes), page)


def text(results: Mapping[str, Any], table: Table, ratios: Table, notes: Sequence[str]) -> str:
    machine, settings = results["machine"], results["settings"]
    sizes, own = settings["contest"], settings["whole_way"]
    flags = " ".join(machine["cpu_flags"]) or "unknown"
    imports = max(one["imports_mb"] for one in results["contest"]["contestants"].values())
    return TEXT.format(
        date=results["date"],
        machine=f"{machine['cpu_count']} cores ({flags}), {machine['device']}",
        versions=", ".join(f"{name} {version}" for name, version in results["versions"].items()),
        commit=results["commit"],
        seed=settings["seed"],
        quick=" **A quick run, to see that it works: its times mean nothing.**" if settings["field"]["quick"] else "",
        table=table.markdown(),
        ratios=ratios.markdown(),
        notes="\n".join(f"* {note}" for note in notes),
        threads=machine["threads"],
        rounds=sizes["rounds"],
        more=3 * sizes["rounds"],
        window=WINDOW,
        product=sizes["product"],
        horizon=HORIZON,
        per=PER,
        history=HISTORY,
        levels=", ".join(map(str, LEVELS)),
        paths=PATHS,
        imports=imports,
        encoded=own["encoded"],
        bars=f"{own['bars']:,}",
        first=own["first"],
        plot=PLOT,
        growth=growth.table(results["growth"]).markdown(),
    )
