"""Whether a calibration is kept: fitted on the earlier half of the validation dates, it must help on the later half.

Design choices:
* No outcome of the earlier half comes after the first date of the later half. No bar after the last date is read.
* It helps if the mean over steps of CRPS, each step in units of its own mean, is less, and coverage of the central
  50, 80 and 90 % is nearer to that on average. What helps is fitted again, on all dates.
* Laws stand here by their 99 quantiles, before and after alike. Of bounded values (`nonnegative`, `integer`) they are
  fitted as the network gives them, and judged as they are answered: moved first, then bounded.
* A zero with a probability of its own (`zero_inflated`) has no place in this: shift and spread would move it off zero,
  or others onto it. Such a model is refused.
* What does not help is not kept; the state says so, and why. Either way it has the figures of the later half by step.

Shapes: n forecasts, P steps, L quantiles of a law.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..calibration_tsf_llm import METHOD, fit
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from .distributions import COVERAGE_LEVELS, LEVELS, Quantiles
from .significance import compare
from .walk_forward import WalkForward, walk_forward

TAILS = (1 - np.array(COVERAGE_LEVELS) / 100) / 2


def calibrate(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    *,
    start: Any,
    end: Any,
    horizon: int,
    samples: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """The state that a processor stores, `kept` or not with a `reason`, from forecasts of [start, end].

    `series` must end with `end`, for outcomes are read as far as there are bars. Origins lie a horizon apart.

    Raises:
        ValueError: the model gives no law, or zero a probability of its own, or no forecast can be scored.
    """
    if not pipe.samples_paths:
        raise ValueError("this model gives one number or classes and no law: there is nothing to calibrate")
    if pipe.has_own_zero:
        raise ValueError(
            "this model gives zero a probability of its own, which shift and spread would break: its laws stay as "
            "they are; to calibrate, train one with zero_inflated=false"
        )
    options = {"samples": samples, "seed": seed, "calibration": "off", "baselines": (), "progress": progress}
    walk = walk_forward(pipe, series, start=start, end=end, horizon=horizon, bounded=False, **options)
    extractor = pipe.processor.feature_extractor
    possible = extractor.admissible if extractor.is_bounded else None
    return {**decide(walk, seed, possible), "horizon": horizon, "samples": samples, "seed": seed}


def decide(
    walk: WalkForward, seed: int = 0, possible: Callable[[np.ndarray], np.ndarray] | None = None
) -> dict[str, Any]:
    """The state: what both halves of the dates say. Of bounded values `possible` gives the nearest ones."""
    laws_nLP = np.stack([step["model"].quantiles for step in walk.steps], axis=-1)
    dates = np.unique(walk.origin)
    middle = dates[len(dates) // 2]
    early, late = walk.due <= middle, walk.origin >= middle
    told = {"method": METHOD, "start": _day(dates[0]), "tested_from": _day(middle), "through": _day(walk.due.max())}
    try:
        tried = fit(laws_nLP[early], walk.realised[early], walk.origin[early])
    except ValueError as error:
        return {"kept": False, "reason": f"the earlier half of the dates is too short ({error})", **told}
    if tried.changes_nothing:
        return {"kept": False, "reason": "the laws are right as they are, as far as these dates tell", **told}
    bounded = (_bounded(laws, walk, late, possible) for laws in (laws_nLP[late], tried(laws_nLP[late])))
    before, after = (_figures(laws, walk.realised[late]) for laws in bounded)
    unit = before["losses"].mean(axis=0)
    losses = [(one["losses"] / unit).mean(axis=1) for one in (before, after)]
    difference = compare(losses[1], losses[0], walk.origin[late], "no calibration", horizon=1, seed=seed)
    told |= {"later_half": difference, "by_step": {"before": _told(before), "after": _told(after)}}
    if difference["difference"] >= 0 or after["miss"] >= before["miss"]:
        crps, *misses = (100 * one for one in (difference["relative"], after["miss"], before["miss"]))
        why = f"CRPS changes by {crps:+.2f} % and coverage misses by {misses[0]:.1f} points instead of {misses[1]:.1f}"
        return {"kept": False, "reason": f"on the later half of the dates {why}", **told}
    kept = fit(laws_nLP, walk.realised, walk.origin)
    return {"kept": True, "shift": kept.shift, "spread": kept.spread, **told}


def _bounded(
    laws_nLP: np.ndarray, walk: WalkForward, which: np.ndarray, possible: Callable[[np.ndarray], np.ndarray] | None
) -> np.ndarray:
    """The laws of these origins as they are answered."""
    if possible is None or walk.demand is None:
        return laws_nLP
    now, unit = (one[which, None, None] for one in (walk.demand.value, walk.demand.unit))
    return (possible(now + laws_nLP * unit) - now) / unit


def _figures(laws_nLP: np.ndarray, outcomes_nP: np.ndarray) -> dict[str, Any]:
    """CRPS `losses [n,P]`, `coverage` `[3,P]`, and by how much it misses what it should be."""
    steps = [Quantiles(laws_nLP[..., p], LEVELS) for p in range(outcomes_nP.shape[1])]
    losses = np.stack([law.crps(outcomes_nP[:, p]) for p, law in enumerate(steps)], axis=1)
    low, high = (np.stack([law.quantile(levels) for law in steps], axis=-1) for levels in (TAILS, 1 - TAILS))
    inside = ((low <= outcomes_nP[:, None]) & (outcomes_nP[:, None] <= high)).mean(axis=0)
    miss = float(np.abs(inside - np.array(COVERAGE_LEVELS)[:, None] / 100).mean())
    return {"losses": losses, "coverage": inside, "miss": miss}


def _told(figures: dict[str, Any]) -> dict[str, list[float]]:
    coverage = {
        f"coverage_{level}": row.tolist() for level, row in zip(COVERAGE_LEVELS, figures["coverage"], strict=True)
    }
    return {"crps": figures["losses"].mean(axis=0).tolist(), **coverage}


def _day(time: Any) -> str:
    return str(pd.Timestamp(time).date())
