"""Croston's method and TSB, for demand that is zero on many days; each with a law.

* Both smooth the size of what is sold when something is sold. Croston (1972) divides it by the smoothed number of rows
  from one sale to the next, TSB (Teunter, Syntetos, Babai 2011) multiplies it by the smoothed share of rows with a
  sale, which falls while nothing is sold. What they say of every step ahead is the same: the mean of a row.
* Each smoothing is chosen at each fence from `GRID`, by the squared errors of one step known there.
* The law is what was sold so many rows later as a multiple of what was forecast, of the last `ERRORS` rows whose
  outcome the fence knows: so zero keeps its probability, nothing lies below it, and Croston's mean loses its bias. A
  forecast below `LEAST` of the mean demand counts as that: TSB's nears zero while nothing is sold, and one sale after
  that would be a multiple without bound.
* A row without a value is skipped: steps are counted in rows with one. Each smoothing is one filter over all rows.

Shapes: N values, k origins, G smoothings.
"""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from ..distributions import Residuals
from .panel import Panel, moment

GRID = (0.05, 0.1, 0.2, 0.3)
ERRORS = 500  # most recent outcomes that make the law
FEWEST_ERRORS = 30
LEAST = 0.1


def smoothed(values: np.ndarray, alpha: float) -> np.ndarray:
    """Simple exponential smoothing `[N]` from the first value on.

    >>> smoothed(np.array([4.0, 8.0]), 0.25).tolist()
    [4.0, 5.0]
    """
    return lfilter([alpha], [1, alpha - 1], values, zi=[(1 - alpha) * values[0]])[0]


def croston_levels(values: np.ndarray) -> np.ndarray:
    """Mean demand per row that is known after each row, `[N,G]`; NaN before the first sale."""
    at = np.flatnonzero(values)
    between = np.diff(at, prepend=-1).astype(float)
    return np.stack([_carried(smoothed(values[at], a) / smoothed(between, a), at, len(values)) for a in GRID], axis=1)


def tsb_levels(values: np.ndarray) -> np.ndarray:
    """See `croston_levels`; of each pair of smoothings, that of the share first."""
    at = np.flatnonzero(values)
    sizes = {a: _carried(smoothed(values[at], a), at, len(values)) for a in GRID}
    sold = (values[at[0] :] > 0).astype(float)
    shares = {a: np.concatenate([np.full(at[0], np.nan), smoothed(sold, a)]) for a in GRID}
    return np.stack([shares[a] * sizes[b] for a, b in product(GRID, GRID)], axis=1)


def _carried(known: np.ndarray, at: np.ndarray, length: int) -> np.ndarray:
    """Values of some rows, each until the next, `[N]`."""
    levels = np.full(length, np.nan)
    levels[at] = known
    return pd.Series(levels).ffill().to_numpy()


def croston(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """Of a panel of one series.

    Raises:
        ValueError: a series with values below zero, or with too few since its first sale at a fence.
    """
    return _forecasts(panel, steps, croston_levels)


def tsb(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """See `croston`."""
    return _forecasts(panel, steps, tsb_levels)


def _forecasts(panel: Panel, steps: Sequence[int], method: Callable[[np.ndarray], np.ndarray]) -> dict[int, Residuals]:
    (one,), (rows,) = panel.series, panel.rows
    known = np.isfinite(one.close)
    values, time, origins = one.close[known], one.timestamp[known], np.cumsum(known)[rows] - 1
    if (negative := values[: origins.max() + 1] < 0).any():
        row = np.flatnonzero(negative)[0]
        raise ValueError(
            f"series {one.ticker!r} is {values[row]:g} at {pd.Timestamp(time[row])}: demand is never below 0"
        )
    level, which = np.empty(len(rows)), np.empty(len(rows), int)
    laws: dict[int, list[np.ndarray]] = {step: [] for step in steps}
    for number, (fence, positions) in enumerate(panel.fences()):
        last = int(np.searchsorted(time, fence, side="right")) - 1
        first = int((values[: last + 1] > 0).argmax()) if values[: last + 1].any() else last
        if last - first < max(steps) + FEWEST_ERRORS:
            raise ValueError(
                f"series {one.ticker!r} has {max(last - first, 0)} values by {moment(fence)} since its first sale and "
                f"needs {max(steps) + FEWEST_ERRORS}: start later or give earlier values"
            )
        end = int(origins[positions].max()) + 1
        levels_NG = method(values[: max(end, last + 1)])
        squares_G = ((values[first + 1 : last + 1, None] - levels_NG[first:last]) ** 2).mean(axis=0)
        best = levels_NG[:, squares_G.argmin()]
        level[positions], which[positions] = best[origins[positions]], number
        of = np.maximum(best, LEAST * values[first : last + 1].mean())
        for step in steps:
            past = np.arange(max(first, last + 1 - step - ERRORS), last + 1 - step)
            laws[step].append(values[past + step] / of[past])
    return {step: Residuals.of(level, laws[step], which, -one.close[rows]) for step in steps}
