"""Trailing windows of many series at once: functions of arrays `[bars, series]`.

Design choices:

* Windows grow by doubling: a sum over 2n bars is the one that ends now and the one that ended n bars ago. A window of
  n bars takes about 2 log2(n) passes over the array.
* So a value is a function of its window alone, to the bit: not of what lies before, of another column, or of the place
  where a computation began. There is no running sum that drifts, none that keeps a residue of bars that have left.
* Exponential averages are windows too, cut where the weight of a bar falls below `FORGOTTEN`, beside 1 less than the
  last bit of a float64.
* A window is NaN until it is full, and where one of its values is.

Shapes: T bars, N series; `x` is float64 `[T,N]`, oldest first, and so is every answer.
"""

from collections.abc import Callable

import numpy as np

FORGOTTEN = 1e-17
Parts = tuple[np.ndarray, ...]  # what is known of the windows of one length; row i is the window that begins at bar i
Join = Callable[[Parts, Parts, int, int], Parts]  # newer and older windows and their lengths -> those of both together


def lag(x: np.ndarray, bars: int) -> np.ndarray:
    """x[-bars]."""
    return _ended(x[: max(0, len(x) - bars)], len(x))


def change(x: np.ndarray, bars: int = 1) -> np.ndarray:
    """x - x[-bars]."""
    return _ended(x[bars:] - x[: max(0, len(x) - bars)], len(x))


def _ended(values: np.ndarray, bars: int) -> np.ndarray:
    """The rows of the last windows, below as many NaN as make `bars` rows of them."""
    out = np.empty((bars, *values.shape[1:]))
    out[: bars - len(values)] = np.nan
    out[bars - len(values) :] = values
    return out


def _windows(parts: Parts, length: int, join: Join) -> Parts:
    """`parts` of single bars -> of the windows of `length`, `[T-length+1,N]`."""

    def joined(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        return join(tuple(x[b:] for x in newer), tuple(x[: len(x) - a] for x in older), a, b)

    if length > len(parts[0]):
        return tuple(x[:0] for x in parts)
    whole, done = parts, 0
    power, reach = parts, 1  # windows of `reach` bars
    while True:
        if length & reach:
            whole = joined(whole, power, done, reach) if done else power
            done += reach
        if done == length:
            return whole
        power, reach = joined(power, power, reach, reach), 2 * reach


def moving_sum(x: np.ndarray, length: int) -> np.ndarray:
    (total,) = _windows((x,), length, lambda newer, older, a, b: (newer[0] + older[0],))
    return _ended(total, len(x))


def moving_mean(x: np.ndarray, length: int) -> np.ndarray:
    return moving_sum(x, length) / length


def moving_max(x: np.ndarray, length: int) -> np.ndarray:
    (most,) = _windows((x,), length, lambda newer, older, a, b: (np.maximum(newer[0], older[0]),))
    return _ended(most, len(x))


def moving_min(x: np.ndarray, length: int) -> np.ndarray:
    (least,) = _windows((x,), length, lambda newer, older, a, b: (np.minimum(newer[0], older[0]),))
    return _ended(least, len(x))


def moving_var(x: np.ndarray, length: int, ddof: int = 1) -> np.ndarray:
    """By pairwise updates (Chan, Golub and LeVeque 1983): no squares of levels, which would cancel."""

    def join(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        between = newer[0] - older[0] * (a / b)
        between *= between
        between *= b / (a * (a + b))
        between += newer[1]
        between += older[1]
        return newer[0] + older[0], between

    _, squares = _windows((x, 0 * x), length, join)
    return _ended(squares, len(x)) / (length - ddof)


def moving_std(x: np.ndarray, length: int, ddof: int = 1) -> np.ndarray:
    return np.sqrt(moving_var(x, length, ddof))


def moving_cov(x: np.ndarray, y: np.ndarray, length: int, ddof: int = 1) -> np.ndarray:
    """As `moving_var`."""

    def join(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        between = newer[0] - older[0] * (a / b)
        between *= newer[1] - older[1] * (a / b)
        between *= b / (a * (a + b))
        between += newer[2]
        between += older[2]
        return newer[0] + older[0], newer[1] + older[1], between

    _, _, products = _windows((x, y, 0 * (x + y)), length, join)
    return _ended(products, len(x)) / (length - ddof)


def moving_deviation(x: np.ndarray, length: int, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Mean of a function of what each value of the window differs from the window's mean: a pass for each of them."""
    mean = moving_mean(x, length)[length - 1 :]
    total, away = np.zeros_like(mean), np.empty_like(mean)
    for first in range(len(x) and length):
        total += function(np.subtract(x[first : first + len(mean)], mean, out=away))
    return _ended(total / length, len(x))


def moving_slope(x: np.ndarray, length: int) -> np.ndarray:
    """Rise per bar of the least-squares line."""

    def join(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        return newer[0] + older[0], newer[1] + older[1] + a * older[0]  # the older are `a` bars older

    total, aged = _windows((x, 0 * x), length, join)
    spread = length * (length * length - 1) / 12
    return _ended(((length - 1) / 2 * total - aged) / spread, len(x))


def bars_since_max(x: np.ndarray, length: int) -> np.ndarray:
    """Of the last `length` bars; of equal ones the latest counts."""

    def join(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        later = newer[0] >= older[0]
        return np.maximum(newer[0], older[0]), np.where(later, newer[1], older[1] + a)

    most, age = _windows((x, 0 * x), length, join)
    return _ended(age + 0 * most, len(x))


def trailing_run(flags: np.ndarray, most: int) -> np.ndarray:
    """How many of the last bars, at most `most`, are True without a break. `flags` is a mask `[T,N]`."""

    def join(newer: Parts, older: Parts, a: int, b: int) -> Parts:
        return (np.where(newer[0] == a, a + older[0], newer[0]),)

    before = np.zeros((most - 1, *flags.shape[1:]))
    (run,) = _windows((np.concatenate((before, flags)),), most, join)
    return run


def decayed_sum(x: np.ndarray, decay: float) -> np.ndarray:
    """sum over k of decay^k x[-k], over `decayed_bars(decay)` of them; what lies before the first row counts as 0."""
    total, spare, reach = x.copy(), np.empty_like(x), 1
    while reach < min(decayed_bars(decay), len(x)):
        np.multiply(total[:-reach], decay**reach, out=spare[reach:])
        spare[reach:] += total[reach:]
        spare[:reach] = total[:reach]
        total, spare, reach = spare, total, 2 * reach
    return total


def decayed_bars(decay: float) -> int:
    """How many bars a `decayed_sum` reads."""
    return 1 << int(np.ceil(np.log2(np.log(FORGOTTEN) / np.log(decay))))


def exponential_mean(x: np.ndarray, length: int, alpha: float | None = None) -> np.ndarray:
    """m = alpha x + (1 - alpha) m[-1], alpha 2 / (length + 1); the first m is the mean of the first `length` bars.

    The columns have their first value in one row, and no gap after it. With alpha 1 / length it is Wilder's average.
    """
    alpha = 2 / (length + 1) if alpha is None else alpha
    first = int(np.argmin(np.isnan(x).all(axis=1))) if len(x) else 0
    seed = first + length - 1
    if seed >= len(x):
        return np.full_like(x, np.nan)
    taken = alpha * x
    taken[:seed] = 0
    taken[seed] = moving_mean(x[first : seed + 1], length)[-1]
    mean = decayed_sum(taken, 1 - alpha)
    mean[:seed] = np.nan
    return mean


def exponential_bars(length: int, alpha: float | None = None) -> int:
    """How many bars from the first on an `exponential_mean` needs until no trace is left of where they begin."""
    return length + decayed_bars(1 - (2 / (length + 1) if alpha is None else alpha))
