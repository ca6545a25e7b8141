"""What bars along paths say of price levels: is one touched, does a stop or a target come first, how deep is a fall?

Design choices:
* Nothing is fitted and nothing is drawn here: each answer is a fact of a path, its mean over paths a probability.
* A bar tells its range, not the order within it. Where that matters the answer is the careful one: a stop and a target
  in one bar count as the stop, and a drawdown is what is certain whatever the order.

Shapes: B forecasts, K paths, P steps. A bar on its way is open, then high and low in any order, then close.
"""

import numpy as np
from scipy.special import ndtr

from ..emission_tsf_llm import BarPaths

STOP, NEITHER, TARGET = -1, 0, 1


def touched(bars: BarPaths, level: float | np.ndarray) -> np.ndarray:
    """Whether low <= level <= high in some bar, `[B,K]`; one level, or one per forecast `[B]`.

    A level that is jumped over between two bars is not touched: nobody traded there."""
    level = np.reshape(level, (-1, 1, 1))
    return ((bars.low <= level) & (level <= bars.high)).any(axis=-1)


def first_of(bars: BarPaths, *, stop: float, target: float) -> np.ndarray:
    """`STOP`, `TARGET` or `NEITHER`, what a path reaches or passes first, `[B,K]`; both in one bar count as the stop.

    A stop below the target belongs to a long position, above it to a short one.

    Raises:
        ValueError: the two do not enclose the last close.
    """
    low, high = min(stop, target), max(stop, target)
    if wrong := [float(close) for close in bars.last_close if not low < close < high]:
        raise ValueError(f"stop {stop:g} and target {target:g} do not enclose the last close, {wrong[0]:g}: move one")
    below, above = _first(bars.low <= low), _first(bars.high >= high)
    stopped, reached = (below, above) if stop < target else (above, below)
    return np.where(
        np.minimum(stopped, reached) == bars.low.shape[-1], NEITHER, np.where(reached < stopped, TARGET, STOP)
    )


def _first(hit: np.ndarray) -> np.ndarray:
    """The first step that is hit, `[B,K]`; P where none is."""
    return np.where(hit.any(axis=-1), hit.argmax(axis=-1), hit.shape[-1])


def max_drawdown(bars: BarPaths) -> np.ndarray:
    """The largest fall from a peak since the last close, as a share of the peak, `[B,K]`.

    In each bar two falls are certain: from the highest price before it, or its open, to its low; and from that or its
    high to its close."""
    before = np.broadcast_to(bars.last_close[:, None, None], bars.high[..., :1].shape)
    peak = np.maximum.accumulate(np.concatenate((before, bars.high), axis=-1), axis=-1)
    to_low = 1 - bars.low / np.maximum(peak[..., :-1], bars.open)
    to_close = 1 - bars.close / peak[..., 1:]
    return np.maximum(to_low, to_close).max(axis=-1)


def walk_touches(distance: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Probability that a Brownian motion without drift, of this standard deviation at its end, comes this far.

    The reflection principle, 2 (1 - Phi(|distance| / deviation)). Karatzas and Shreve 1991, section 2.6.

    >>> walk_touches(np.array([0.0, 1.0]), np.array([1.0, 1.0])).round(4).tolist()
    [1.0, 0.3173]
    """
    return 2 * ndtr(-np.abs(distance) / deviation)
