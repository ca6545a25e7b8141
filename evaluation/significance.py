"""Whether a difference is more than chance: block-bootstrap intervals over dates, paired differences, verdicts.

* Tickers of a date travel together, because they move together; blocks span at least the horizon (twice it where there
  are dates enough), because h-step returns of neighbouring origins overlap. Student's t with the number of blocks as
  sample size makes the interval honest when blocks are few.
* What is undefined is None: never NaN, never a stand-in. Every result goes into JSON as it is.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from arch.bootstrap import CircularBlockBootstrap
from scipy import stats

BOOTSTRAP_REPS = 1000
FEWEST_DATES = 10  # below this an interval says more about the method than about the forecast
Interval = list[float] | None


@dataclass(frozen=True)
class Figure:
    """How a verdict speaks of what was compared."""

    name: str
    form: str
    relative: bool = False  # told in percent of the other's mean
    more_is_better: bool = False


CRPS = Figure("CRPS", "+.1f", relative=True)
GAIN = Figure("", "+.3g", more_is_better=True)  # profits, and how pairs are ranked


def mean_interval(values: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int = 0) -> Interval:
    """95 % interval of the mean of values [n], by a circular block bootstrap over dates; None if there are too few."""
    _, day = np.unique(dates, return_inverse=True)
    per_date = np.column_stack([np.bincount(day, weights=values), np.bincount(day)])  # [dates, 2]: sum and count
    num_dates = len(per_date)
    if num_dates < max(FEWEST_DATES, 2 * horizon):
        return None
    block = max(horizon, min(max(2 * horizon, round(num_dates ** (1 / 3))), num_dates // 4))
    num_blocks = num_dates / block

    def mean(resampled: np.ndarray) -> np.ndarray:
        total, count = resampled.sum(axis=0)
        return np.array([total / count])

    variance = CircularBlockBootstrap(block, per_date, seed=seed).cov(mean, reps=BOOTSTRAP_REPS).item()
    half_width = stats.t.ppf(0.975, num_blocks - 1) * np.sqrt(variance * num_blocks / (num_blocks - 1))
    centre = float(np.mean(values))
    return [centre - float(half_width), centre + float(half_width)]


def paired_difference(
    loss_a: np.ndarray, loss_b: np.ndarray, dates: np.ndarray, horizon: int, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """Mean of loss_a - loss_b [n] on the same outcomes with its 95 % interval, also relative to the mean of loss_b.

    The pairing removes what makes both losses large on the same days, so it finds differences that the two models'
    own intervals hide. The relative interval takes the mean of loss_b as given.
    """
    loss_a, loss_b = np.asarray(loss_a, float), np.asarray(loss_b, float)
    if not loss_a.shape == loss_b.shape == np.shape(dates):
        raise ValueError(f"losses of {loss_a.shape} and {loss_b.shape}, dates of {np.shape(dates)}: pair them first")
    interval = mean_interval(loss_a - loss_b, dates, horizon=horizon, seed=seed)
    difference, reference = float(np.mean(loss_a - loss_b)), float(np.mean(loss_b))
    return {
        "difference": difference,
        "ci95": interval,
        "relative": difference / reference if reference > 0 else None,
        "relative_ci95": [bound / reference for bound in interval] if interval and reference > 0 else None,
    }


def compare(
    values_a: np.ndarray,
    values_b: np.ndarray,
    dates: np.ndarray,
    name: str,
    *,
    horizon: int,
    seed: int = 0,
    figure: Figure = CRPS,
) -> dict[str, Any]:
    """The `paired_difference` of a - b [n], and what it says of a beside b, which is called `name`."""
    difference = paired_difference(values_a, values_b, dates, horizon, seed=seed)
    return {**difference, "verdict": verdict(difference, name, figure)}


def verdict(difference: dict, name: str, figure: Figure = CRPS) -> str:
    """What a `paired_difference` says about the one beside the other, in plain words.

    >>> verdict({"ci95": [-0.2, -0.1], "relative": -0.012, "relative_ci95": [-0.019, -0.005]}, "drift")
    'better than drift (CRPS -1.2 %, 95 % CI [-1.9 %, -0.5 %])'
    >>> verdict({"difference": 0.002, "ci95": [0.001, 0.003]}, "before", GAIN)
    'better than before (+0.002, 95 % CI [+0.001, +0.003])'
    """
    interval = difference["relative_ci95" if figure.relative else "ci95"]
    if interval is None:
        return f"too few dates to compare with {name}"
    low, high = difference["ci95"]
    below, above = ("worse", "better") if figure.more_is_better else ("better", "worse")
    finding = f"{below} than" if high < 0 else f"{above} than" if low > 0 else "no edge over"
    factor, unit = (100, " %") if figure.relative else (1, "")
    values = (difference["relative" if figure.relative else "difference"], *interval)
    value, low, high = (f"{factor * one:{figure.form}}{unit}" for one in values)
    return f"{finding} {name} ({f'{figure.name} {value}'.strip()}, 95 % CI [{low}, {high}])"
