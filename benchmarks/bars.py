"""Whole bars on past dates: are the ranges of highs, lows and volumes as wide as they should be, and what are the
probabilities of touching a price level worth beside a random walk?

examples:
    python -m tsf_llm.benchmarks.bars --model quickstart/model --json bars.json --figure bars.png
    python -m tsf_llm.benchmarks.bars --model my_model --data prices.csv --horizon 20 --json bars.json

Design choices:
* Only dates that the model has not seen, every `--horizon`-th bar, so that outcomes do not overlap.
* `own past` is the strong simple answer: the ticker's last 250 bars, drawn whole with replacement, in units of the
  same sigma and mean volume as the model's. It knows how gaps, wicks and volumes go together, but not the day.
* Levels lie `DISTANCES` sigmas of the horizon above and below the last close, so that all tickers count alike.
* The random walk touches a level with the probability of the reflection principle, once with the volatility of the
  model's own closes at the horizon, once with sigma. It moves without jumps, so it also touches what bars jump over.
* What is compared is paired by date: Diebold and Mariano's p-value and a block-bootstrap interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from ..bars_tsf_llm import day_end
from ..common.errors import one_line_errors
from ..common.figures import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure, save_figure
from ..common.files import check_output, write_json
from ..common.parser import Parser
from ..common.tables import Table, number
from ..data_prep.sources import read_for, read_market
from ..emission_tsf_llm import BarPaths, bars_around, mean_volume, own_parts
from ..evaluation.barriers import max_drawdown, touched, walk_touches
from ..evaluation.distributions import Samples
from ..evaluation.significance import Figure, compare
from ..evaluation.walk_forward import pick_origins
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..serving.loading import load_pipeline
from .results import Output, circumstances

MODEL, PAST, WALK, SIGMA_WALK = "model", "own past", "walk, model's volatility", "walk, sigma"
POOL = 250  # bars of its past that a ticker draws from
DISTANCES = (0.5, 1.0, 1.5)
PARTS = ("open", "high", "low", "volume", "drawdown")
COLOURS = {MODEL: BLUE, PAST: ORANGE, WALK: GREEN, SIGMA_WALK: GREY}
CELLS = np.linspace(0, 1, 11)
BRIER = Figure("Brier score", "+.1f", relative=True)


@dataclass
class Arguments(Output):
    """Which model, on which bars."""

    model: str | None = field(
        default=None, metadata={"help": "folder or Hub name of a model with emits_bars (needed)"}
    )
    data: str = field(default="sample", metadata={"help": "price file, folder, or 'sample'"})
    market: str | None = field(default=None, metadata={"help": "price file of an index or universe, if it reads one"})
    start: str | None = field(default=None, metadata={"help": "first date; by default the first it has not seen"})
    end: str | None = field(default=None, metadata={"help": "last date; by default the last"})
    horizon: int = field(default=5, metadata={"help": "bars ahead, and between forecasts"})
    samples: int = field(default=256, metadata={"help": "paths per forecast (32 with --quick)"})
    seed: int = field(default=0, metadata={"help": "of all paths"})
    figure: Path | None = field(default=None, metadata={"metavar": "FILE", "help": "PNG file for a figure"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None:
            raise ValueError("--model is needed: name a folder of a causal LM trained on market bars")
        if self.horizon < 1 or self.samples < 2:
            raise ValueError(f"--horizon {self.horizon}, --samples {self.samples}: give at least 1 and 2")
        if self.figure is not None:
            check_output(self.figure, ".png")


def realised(series: EncodedSeries, rows: np.ndarray, horizon: int) -> BarPaths:
    """What came after the origins at these rows, as one path each."""
    assert series.ohlc is not None
    assert series.volume is not None
    ahead = rows[:, None] + np.arange(1, horizon + 1)
    columns = np.moveaxis(series.ohlc[ahead], -1, 0)[:, :, None]
    return BarPaths(*columns, series.volume[ahead][:, None], series.close[rows])


def own_past(series: EncodedSeries, rows: np.ndarray, *, horizon: int, samples: int, seed: int) -> BarPaths:
    """Paths of the ticker's last `POOL` whole bars up to each origin, drawn with replacement."""
    assert series.ohlc is not None
    assert series.volume is not None
    parts = own_parts(series.ohlc, series.volume, series.sigma)
    whole = np.flatnonzero(np.isfinite(parts).all(axis=1))
    known = np.searchsorted(whole, rows, side="right")[:, None, None]
    drawn = np.random.default_rng(seed).random((len(rows), samples, horizon)) * np.minimum(known, POOL)
    parts = parts[whole[known - 1 - drawn.astype(int)]]
    units = {"last_close": series.close[rows], "sigma": series.sigma[rows]}
    close = units["last_close"][:, None, None] * np.exp(parts[..., 0].cumsum(-1) * units["sigma"][:, None, None])
    return bars_around(close, parts, **units, usual_volume=mean_volume(series.volume)[rows])


def quantity(bars: BarPaths, part: str) -> np.ndarray:
    """What is scored at the horizon, `[B,K]`: a log price from the last close, a log volume, the drawdown so far."""
    if part == "drawdown":
        return max_drawdown(bars)
    with np.errstate(divide="ignore"):
        logs = np.log(getattr(bars, part)[..., -1])
    return logs if part == "volume" else logs - np.log(bars.last_close)[:, None]


def run(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    *,
    start: Any,
    end: Any,
    horizon: int,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Scores of the parts of a bar and of touching levels, on every `horizon`-th bar of [start, end].

    Raises:
        ValueError: the model has no head for bars, or no origin has its outcome.
    """
    pipe.check_emits_bars()
    rows = pick_origins(series, start, end, horizon, horizon)
    used = [(one, own) for one, own in zip(series, rows, strict=True) if len(own)]
    options = {"horizon": horizon, "samples": samples, "seed": seed}
    batch = pipe.processor.batch(used)
    forecasts = {
        MODEL: pipe.sample_bars(batch, **options),
        PAST: joined([own_past(one, own, **options) for one, own in used]),
    }
    outcome, dates = joined([realised(one, own, horizon) for one, own in used]), np.array(batch["origin"], "M8[ns]")
    sigma = np.asarray(batch["scale"], float) * np.sqrt(horizon)
    return {
        "parts": [part_row(part, forecasts, outcome, dates, seed) for part in PARTS],
        "touch": touch_rows(forecasts, outcome, sigma, dates, seed),
        "forecasts": len(dates),
        "dates": len(np.unique(dates)),
        "start": str(pd.Timestamp(dates.min()).date()),
        "end": str(pd.Timestamp(dates.max()).date()),
        **options,
    }


def joined(parts: Sequence[BarPaths]) -> BarPaths:
    names = ("open", "high", "low", "close", "volume", "last_close")
    return BarPaths(*(np.concatenate([getattr(one, name) for one in parts]) for name in names))


def part_row(
    part: str, forecasts: dict[str, BarPaths], outcome: BarPaths, dates: np.ndarray, seed: int
) -> dict[str, Any]:
    """CRPS and coverage of each forecast; the model's CRPS against the other's. Unknown volumes are left out."""
    true = quantity(outcome, part)[:, 0]
    made = {name: quantity(bars, part) for name, bars in forecasts.items()}
    known = np.isfinite(true) & np.all([np.isfinite(one).all(axis=1) for one in made.values()], axis=0)
    row: dict[str, Any] = {"part": part, "forecasts": int(known.sum())}
    if not known.any():
        return row | {"scores": None, "comparison": None}
    losses = {name: Samples(values[known]).crps(true[known]) for name, values in made.items()}
    row["scores"] = {
        name: {"crps": float(losses[name].mean()), **coverage(values[known], true[known])}
        for name, values in made.items()
    }
    return row | {"comparison": compare(losses[MODEL], losses[PAST], dates[known], PAST, horizon=1, seed=seed)}


def coverage(values: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Shares of outcomes inside of, below and above the central 80 %."""
    low, high = np.quantile(values, (0.1, 0.9), axis=1, method="weibull")
    below, above = float((true < low).mean()), float((true > high).mean())
    return {"coverage_80": 1 - below - above, "below": below, "above": above}


def touch_rows(
    forecasts: dict[str, BarPaths], outcome: BarPaths, sigma: np.ndarray, dates: np.ndarray, seed: int
) -> dict[str, Any]:
    """Brier scores of touching levels above and below, all together and by distance; and how reliable they are."""
    deviation = np.log(forecasts[MODEL].close[..., -1]).std(axis=1)
    truth, told, far = [], {name: [] for name in COLOURS}, []  # type: ignore[var-annotated]
    for distance in (side * one for one in DISTANCES for side in (1, -1)):
        level = outcome.last_close * np.exp(distance * sigma)
        truth.append(touched(outcome, level)[:, 0])
        for name, bars in forecasts.items():
            told[name].append(touched(bars, level).mean(axis=1))
        told[WALK].append(walk_touches(distance * sigma, deviation))
        told[SIGMA_WALK].append(walk_touches(distance * sigma, sigma))
        far.append(np.full(len(sigma), abs(distance)))
    true, days, distances = np.concatenate(truth), np.tile(dates, len(truth)), np.concatenate(far)
    probability = {name: np.concatenate(values) for name, values in told.items()}
    losses = {name: (values - true) ** 2 for name, values in probability.items()}
    return {
        "frequency": float(true.mean()),
        "scores": {
            name: {
                "brier": float(loss.mean()),
                "by_distance": {f"{one:g}": float(loss[distances == one].mean()) for one in DISTANCES},
                "mean_probability": float(probability[name].mean()),
                "reliability": reliability(probability[name], true),
            }
            for name, loss in losses.items()
        },
        "comparisons": {
            name: compare(losses[MODEL], losses[name], days, name, horizon=1, seed=seed, figure=BRIER)
            for name in losses
            if name != MODEL
        },
    }


def reliability(probability: np.ndarray, true: np.ndarray) -> list[dict[str, float]]:
    """Mean probability, frequency and number of each tenth of [0, 1] that has any."""
    cell = np.clip(np.digitize(probability, CELLS) - 1, 0, len(CELLS) - 2)
    return [
        {
            "told": float(probability[cell == i].mean()),
            "came": float(true[cell == i].mean()),
            "n": int((cell == i).sum()),
        }
        for i in np.unique(cell)
    ]


def draw(results: dict[str, Any], path: Path) -> None:
    """Coverage of the parts, and how reliable the probabilities of a touch are."""
    title = f"Whole bars, {results['horizon']} ahead: {results['forecasts']} forecasts"
    figure, (above, below) = new_figure(title, "share of outcomes inside the central 80 %", rows=2, height=8.0)
    rows = [row for row in results["parts"] if row["scores"]]
    for shift, name in ((-0.2, MODEL), (0.2, PAST)):
        heights = [row["scores"][name]["coverage_80"] for row in rows]
        above.bar(np.arange(len(rows)) + shift, heights, 0.38, color=COLOURS[name], label=name)
    above.axhline(0.8, color=BLACK, linewidth=1)
    above.set_xticks(range(len(rows)), [row["part"] for row in rows])
    above.set_ylim(0, 1)
    above.legend(frameon=False, fontsize=9, loc="upper right", ncols=2)
    for name, score in results["touch"]["scores"].items():
        points = [one for one in score["reliability"] if one["n"] >= 10]
        below.plot(
            [one["told"] for one in points], [one["came"] for one in points], "o-", color=COLOURS[name], label=name
        )
    below.plot([0, 1], [0, 1], color=BLACK, linewidth=1)
    below.set_title("touching a level: how often it came, by the probability that was told", loc="left", fontsize=9)
    below.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def show(results: dict[str, Any], console: Console) -> None:
    """The results as text."""
    scored = [
        {**row, "name": name, **row["scores"][name]}
        for row in results["parts"]
        if row["scores"]
        for name in (MODEL, PAST)
    ]
    columns = {"part": lambda row: row["part"], "forecast": lambda row: row["name"]}
    columns |= {
        name: lambda row, name=name: number(row[name], ".4f" if name == "crps" else ".3f")
        for name in ("crps", "coverage_80", "below", "above")
    }  # type: ignore[misc]
    console.print(
        Table.of(scored, columns).terminal(
            title=f"bars at step {results['horizon']}, {results['forecasts']} forecasts"
        )
    )
    touch = [{"name": name, **score} for name, score in results["touch"]["scores"].items()]
    columns = {"touching a level": lambda row: row["name"], "Brier": lambda row: number(row["brier"], ".4f")}
    columns["mean probability"] = lambda row: number(row["mean_probability"], ".3f")
    console.print(Table.of(touch, columns).terminal(title=f"touched: {results['touch']['frequency']:.3f}"))
    for row in results["parts"]:
        if row["comparison"]:
            console.print(f"{row['part']}: {row['comparison']['verdict']}", highlight=False, soft_wrap=True)
    for comparison in results["touch"]["comparisons"].values():
        console.print(f"touch: {comparison['verdict']}", highlight=False, soft_wrap=True)


@one_line_errors("bars")
def main(arguments: list[str] | None = None) -> int:
    (parsed,) = Parser(Arguments, prog="bars", description=__doc__).parse_args_and_config(arguments)
    pipe = load_pipeline(parsed.model)
    seen = pipe.model.config.trained_through
    if parsed.start is None and seen is None:
        raise ValueError("this model does not say which dates it has seen: give --start")
    if parsed.start is not None and seen is not None and day_end(parsed.start) <= day_end(seen):
        raise ValueError(f"--start {parsed.start}: the model has seen dates through {seen}; give a later one")
    start = parsed.start or day_end(seen) + pd.Timedelta(1, "ns")
    market = None if parsed.market is None else read_market(parsed.market)
    series = pipe.processor.encode(read_for(pipe.processor, parsed.data), market=market)
    options = {"horizon": parsed.horizon, "seed": parsed.seed, "samples": 32 if parsed.quick else parsed.samples}
    results = run(pipe, series, start=start, end=parsed.end, **options)
    results |= {
        "trained_through": seen,
        "data": Path(parsed.data).name,
        **circumstances("numpy", "torch", "transformers"),
    }
    show(results, Console())
    if parsed.json is not None:
        write_json(results, parsed.json)
    if parsed.figure is not None:
        draw(results, parsed.figure)
    return 0


if __name__ == "__main__":
    main()
