"""Jumps: changes that no usual row brings, what they may be, and how much of them a volatility believes.

Design choices:
* Usual is the median of the last quarter's changes, which a single one cannot move. Changes of zero are left out, so
  that thin trading does not make every trade a jump; a few new ones in a row are a new usual, no jump.
* What is known before a row says what is usual at it: nothing here reads ahead, but for the report on a bar that the
  next one takes back.
* One rule says what looks like a split, to cleaning and to the warning of a forecast.

Shapes: N rows of one series, S series of one length.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from .windows_tsf_llm import lag

FIRST = 20  # known changes before the first volatility
QUARTER, SOON = 63, 5  # known changes that say what is usual; and the last ones, if all but one moved by more
AT_ONCE = 4096  # medians
YEAR = 252  # rows in which features and volatility remember a jump
DEVIATION = 1.4826  # of a normal law, over its median distance from zero
JUMP = 0.4  # of a price
PRICE_DEVIATIONS = 8  # usual ones that a jump of a price exceeds
VALUE_DEVIATIONS = 100  # and one of a plain series, where there is no share
SPIKE_BACK = 0.2  # a jump of which at most this share is left one row later was no jump
SPLIT_RATIOS = (1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 15, 20, 25, 30, 40, 50)
SPLIT_NEAR = 0.05  # log distance from a common ratio
UNITS = (100, 1000)  # pence for pounds, thousands for ones
LARGEST_REAL = 3  # factor of a move that one believes in years later
LOOKBACK = 20  # bars that say what volume is usual


def over_known(function: Callable[[np.ndarray], np.ndarray], changes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A function of the known changes of each series, as if there were no others, `[N]` or `[N,S]`.

    Gives its values, at an unknown change that of the last known one, NaN before the first; and what is known.
    """
    by_series = changes if changes.ndim == 2 else changes[:, None]
    known = ~np.isnan(by_series)
    first = int(known.any(axis=1).argmax()) if len(known) else 0
    together, gap = by_series[first:], known[first + 1 :] > known[first:-1]
    if known[first:].all():
        values = np.vstack((np.full((first, by_series.shape[1]), np.nan), function(together)))
        return values.reshape(changes.shape), known.reshape(changes.shape)
    place = known.cumsum(axis=0) - 1
    if gap.any():
        rows, series = np.nonzero(known)
        together = np.full((place.max() + 1, by_series.shape[1]), np.nan)
        together[place[rows, series], series] = by_series[rows, series]
    values = np.vstack((np.full(by_series.shape[1], np.nan), function(together)))  # its first row stands for none
    values = np.take_along_axis(values, place + 1, axis=0)
    return values.reshape(changes.shape), known.reshape(changes.shape)


def usual_deviation(changes: np.ndarray, beyond: float | None = None) -> np.ndarray:
    """The deviation that the known changes before each row give it, `[N]` or `[N,S]`; NaN where these are too few.

    That of the first 20 is theirs together: no volatility is known before the last of them. All others are functions
    of the quarter of known changes before them. Of a change that is surely at most `beyond` of them a lower bound
    will do, which says so too: that spares most medians.

    >>> usual_deviation(np.array([np.nan, *[1.0, -1.0] * 10, 50.0]))[[1, -1]].tolist()
    [1.4826, 1.4826]
    """
    usual, known = over_known(lambda some: _usual_deviation(some, beyond), changes)
    return np.where(known, usual, np.nan)


def _usual_deviation(changes: np.ndarray, beyond: float | None) -> np.ndarray:
    """`[N,S]`, of known changes."""
    if len(changes) < FIRST:
        return np.full_like(changes, np.nan)
    size = np.abs(changes)
    wanted = np.ones(size.shape, bool) if beyond is None else size > 0
    size[size == 0] = np.nan
    usual = DEVIATION * lag(_four_of_five(size), 1)
    if beyond is not None:
        wanted &= ~(size <= beyond * usual)
    wanted[:FIRST] = False
    before = np.lib.stride_tricks.sliding_window_view(
        np.pad(size, ((QUARTER, 0), (0, 0)), constant_values=np.nan), QUARTER, 0
    )
    rows, series = np.nonzero(wanted)
    for part in range(0, len(rows), AT_ONCE):
        at = rows[part : part + AT_ONCE], series[part : part + AT_ONCE]
        usual[at] = np.fmax(usual[at], DEVIATION * _median(before[at]))
    usual[:FIRST] = np.where(np.isnan(changes[FIRST - 1]), np.nan, DEVIATION * _median(size[:FIRST].T.copy()))
    return usual


def _four_of_five(size: np.ndarray) -> np.ndarray:
    """What four of the last five changes exceeded or equalled; NaN where one was zero."""
    least, second = size, np.full_like(size, np.inf)
    for before in range(1, SOON):
        one = lag(size, before)
        least, second = np.minimum(least, one), np.minimum(second, np.maximum(least, one))
    return second


def _median(windows: np.ndarray) -> np.ndarray:
    """Of what is known in each row, if it is enough; sorts them."""
    windows.sort(axis=1)
    known = np.count_nonzero(~np.isnan(windows), axis=1)
    row = np.arange(len(windows))
    median = (windows[row, (known - 1) // 2] + windows[row, known // 2]) / 2
    return np.where(known < SOON, np.nan, median)


def believed(changes: np.ndarray, cap: float | None) -> np.ndarray:
    """Sizes of the changes, each at most `cap` usual deviations; as they are without a cap or where none is known."""
    size = np.abs(changes)
    return size if cap is None else np.fmin(size, cap * usual_deviation(changes, cap)) + 0.0 * size


def jumps(changes: np.ndarray, *, of_prices: bool) -> np.ndarray:
    """Changes that are jumps, bool `[N]`: log returns of a factor of 1.4 and eight usual deviations, or, of a plain
    series, where there is no share, a hundred of them.

    >>> jumps(np.array([*[0.01, -0.01] * 15, -0.7]), of_prices=True)[-2:].tolist()
    [False, True]
    """
    size = np.abs(changes)
    if not of_prices:
        return size > VALUE_DEVIATIONS * usual_deviation(changes, VALUE_DEVIATIONS)
    large = size > np.log1p(JUMP)
    return large & ~(size <= PRICE_DEVIATIONS * usual_deviation(changes, PRICE_DEVIATIONS)) if large.any() else large


def lately(rows: np.ndarray) -> np.ndarray:
    """Whether any of the last 252 rows up to each is true, bool `[N]`."""
    return pd.Series(rows).rolling(YEAR, min_periods=1).max().to_numpy().astype(bool)


def taken_back(level: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Whether the row after takes most of a move back, `[N-1]` of levels `[N]` on which changes add up."""
    left = np.append(np.abs(level[2:] - level[:-2]), np.inf)
    return left <= SPIKE_BACK * np.abs(move)


def like_a_split(move: np.ndarray, gap: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Shares for one, where open and close are both near a common ratio and the money traded is at most three times
    the usual: a crash is loud. NaN elsewhere, `[N-1]`. `volume [N]` need not rise by the ratio: on the day of a split
    it seldom does. An unknown one fits.
    """
    ratios = np.log(SPLIT_RATIOS)
    nearest = np.searchsorted((ratios[1:] + ratios[:-1]) / 2, np.abs(gap))
    ratio = -np.sign(gap) * ratios[nearest]  # log shares for one
    near = (np.abs(gap + ratio) < SPLIT_NEAR) & (np.abs(move + ratio) < 2 * SPLIT_NEAR)
    usual = pd.Series(volume).rolling(LOOKBACK, min_periods=LOOKBACK // 4).median().to_numpy()[:-1]
    with np.errstate(all="ignore"):
        more = np.log(volume[1:] / usual)
        crash = np.isfinite(more) & (more + move > np.log(3))
    return np.where(near & (ratio != 0) & ~crash, np.exp(ratio), np.nan)


def jump_report(frame: pd.DataFrame, value: str, *, since: int = 0, wrong_since: int = 0) -> str | None:
    """The last jump of one checked series from row `since` on, its likely cause and the remedy; None without any.

    A real crash is a jump too. Those that are likely wrong (some factor explains them, the next row takes them back,
    or beyond three for one) are reported from row `wrong_since` on, which may be long before."""
    rows = np.flatnonzero(frame[value].notna())
    level, of_prices = frame[value].to_numpy()[rows], value == "close"
    scale = np.log(level) if of_prices else level
    move = np.diff(scale)
    found = jumps(move, of_prices=of_prices) & (rows[1:] >= min(since, wrong_since))
    if not found.any():
        return None
    back = taken_back(scale, move)
    found[1:] &= ~(found[:-1] & back[:-1])  # the way there says it, not the way back
    with np.errstate(all="ignore"):
        factor = np.abs(np.log(np.abs(level[1:] / level[:-1])))
    ratio, unit = np.full(len(move), np.nan), _near(factor, UNITS)
    if of_prices:
        gap = np.log(frame["open"].to_numpy()[rows[1:]]) - scale[:-1]
        ratio = like_a_split(move, gap, frame["volume"].to_numpy()[rows])
    is_wrong = back | ~np.isnan(ratio) | (unit > 0) | (factor > np.log(LARGEST_REAL))
    found &= (rows[1:] >= since) | (is_wrong & (rows[1:] >= wrong_since))
    if not (at := np.flatnonzero(found)).size:
        return None
    last = at[-1]
    stamp = frame["timestamp"].iloc[rows[last + 1]]
    date = stamp.date() if stamp == stamp.normalize() else stamp
    moved = f"value moved from {level[last]:g} to {level[last + 1]:g}"
    if of_prices:
        moved = f"close moved by {100 * np.expm1(min(move[last], 700)):+.1f} %"
    more = f" ({len(at) - 1} more before)" if len(at) > 1 else ""
    return f"{moved} on {date}{more}, {_cause(bool(back[last]), ratio[last], unit[last], of_prices)}"


def _near(factor: np.ndarray, wanted: Sequence[float]) -> np.ndarray:
    """Which of the wanted ones a log factor is near, 0 where none."""
    distance = np.abs(factor[:, None] - np.log(wanted))
    nearest = np.argmin(np.nan_to_num(distance, nan=np.inf), axis=1)
    return np.where(distance.min(axis=1) < 2 * SPLIT_NEAR, np.array(wanted)[nearest], 0)


def _cause(back: bool, ratio: float, unit: float, of_prices: bool) -> str:
    """What a jump likely is, and what to do about it."""
    if back:
        return "and back on the next row, as a wrong one does: correct or mask it"
    if not np.isnan(ratio):
        name = f"{ratio:.3g}:1 split" if ratio > 1 else f"1:{1 / ratio:.3g} reverse split"
        return f"near a {name}: adjust the prices, or run `tsf-llm clean` with a split column"
    if unit:
        return f"near a factor of {unit}, as from another unit or currency: bring all rows to one"
    if of_prices:
        return "near no common split: a real move, or prices on another scale; if not real, correct or adjust them"
    return f"over {VALUE_DEVIATIONS} usual changes: a real move, or another unit; if not real, correct it"


__all__ = ["jump_report"]
