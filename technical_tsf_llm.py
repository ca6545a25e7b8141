"""Technical indicators of many tickers at once: functions of a panel, which several features share.

Design choices:

* The formulas are those of pandas-ta-classic, with which the tests compare each of them.
* Every function is `shared`: a panel computes it once for each of its arguments.
* Unknown is NaN: a window that is not full, a zero denominator, no volume. A flat window has no position in itself.

Shapes: T bars, N tickers; every answer is `[T,N]`, float64 or a mask; `name` is a column of bars.
"""

from collections.abc import Callable

import numpy as np

from .panel_tsf_llm import Panel, remembered, shared
from .windows_tsf_llm import (
    bars_since_max,
    change,
    decayed_bars,
    exponential_bars,
    exponential_mean,
    lag,
    moving_deviation,
    moving_max,
    moving_mean,
    moving_min,
    moving_std,
    moving_sum,
    trailing_run,
)

FLAT = 1e-9  # a window whose range is below this share of its price is rounding error, not movement
FADED = 1e-13  # and averages of moves below it are what is left of long ago
FIBONACCI_LEVELS = (0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0)
FAST, SLOW, SIGNAL = 12, 26, 9  # lengths of the MACD
TENKAN, KIJUN, SENKOU = 9, 26, 52  # of Ichimoku's lines
DAY = np.timedelta64(1, "D") // np.timedelta64(1, "ns")

# Bars before its own that a value of these reads
EMA_MEMORY = {length: exponential_bars(length) - 1 for length in (5, 10, 20, 50, 200)}
WILDER_MEMORY = {length: exponential_bars(length, 1 / length) for length in (5, 7, 14, 21)}  # rsi, wilder_range
MACD_MEMORY = exponential_bars(SLOW) - 1
MACD_SIGNAL_MEMORY = MACD_MEMORY + decayed_bars(1 - 2 / (SIGNAL + 1)) - 1
KELTNER_MEMORY = exponential_bars(20)


def distance(panel: Panel, line: np.ndarray) -> np.ndarray:
    """log(close / line), for a line in units of price."""
    return np.log(panel.close / line)


def position(panel: Panel, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Close within a channel: 0 at the lower line, 1 at the upper, NaN where the two coincide."""
    span = upper - lower
    return (panel.close - lower) / known(span, span > FLAT * panel.close)


def known(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The values there, NaN elsewhere."""
    return np.where(where, values, np.nan)


# --- windows of a column ----------


@shared
def log_return(panel: Panel, length: int) -> np.ndarray:
    return np.log(panel.close / lag(panel.close, length))


@shared
def mean(panel: Panel, name: str, length: int) -> np.ndarray:
    return moving_mean(getattr(panel, name), length)


@shared
def highest(panel: Panel, name: str, length: int) -> np.ndarray:
    return moving_max(getattr(panel, name), length)


@shared
def lowest(panel: Panel, name: str, length: int) -> np.ndarray:
    return moving_min(getattr(panel, name), length)


@shared
def moves(panel: Panel, high: str, low: str, length: int) -> np.ndarray:
    """True where the trailing window of these columns has a range at all."""
    top = highest(panel, high, length)
    return top - lowest(panel, low, length) > FLAT * top


@shared
def traded(panel: Panel, length: int) -> np.ndarray:
    """True where the trailing window has any volume."""
    return highest(panel, "volume", length) > 0


@shared
def log_range(panel: Panel) -> np.ndarray:
    return np.log(panel.high / panel.low)


@shared
def rises(panel: Panel) -> np.ndarray:
    """close - close[-1]."""
    return change(panel.close)


@shared
def true_range(panel: Panel) -> np.ndarray:
    before = lag(panel.close, 1)
    top = np.maximum(np.maximum(panel.high, panel.low), before)
    return top - np.minimum(np.minimum(panel.high, panel.low), before)


# --- exponential averages ----------


@remembered
def ema(panel: Panel, length: int) -> np.ndarray:
    return exponential_mean(panel.close, length)


@remembered
def wilder_range(panel: Panel, length: int) -> np.ndarray:
    """The average true range."""
    return exponential_mean(true_range(panel), length, 1 / length)


@remembered
def ema_range(panel: Panel, length: int) -> np.ndarray:
    """The exponential average of true ranges."""
    return exponential_mean(true_range(panel), length)


@remembered
def rsi(panel: Panel, length: int) -> np.ndarray:
    """From 0 to 1; unknown once nothing has moved for long, before the last moves leave the averages one by one."""
    up, down = (exponential_mean(np.maximum(side * rises(panel), 0), length, 1 / length) for side in (1, -1))
    moved = up + down
    return up / known(moved, moved > FADED * panel.close)


@remembered
def macd(panel: Panel) -> np.ndarray:
    """In units of price."""
    return exponential_mean(panel.close, FAST) - exponential_mean(panel.close, SLOW)


@remembered
def macd_signal(panel: Panel) -> np.ndarray:
    return exponential_mean(macd(panel), SIGNAL)


# --- oscillators ----------


@shared
def _fast_stochastic(panel: Panel) -> np.ndarray:
    low = lowest(panel, "low", 14)
    span = highest(panel, "high", 14) - low
    return (panel.close - low) / known(span, moves(panel, "high", "low", 14))


@shared
def stochastic_k(panel: Panel) -> np.ndarray:
    """From 0 to 1; a flat market has no answer, nor have the bars whose average would include it."""
    return moving_mean(_fast_stochastic(panel), 3)


@shared
def stochastic_d(panel: Panel) -> np.ndarray:
    return moving_mean(stochastic_k(panel), 3)


@shared
def cci(panel: Panel, length: int) -> np.ndarray:
    """In hundreds."""
    typical = (panel.high + panel.low + panel.close) / 3
    index = (typical - moving_mean(typical, length)) / (1.5 * moving_deviation(typical, length, np.abs))
    return known(index, moves(panel, "high", "low", length))


# --- channels ----------


@shared
def bollinger_deviation(panel: Panel, length: int) -> np.ndarray:
    """Of the close, over all bars of the window."""
    return moving_std(panel.close, length, ddof=0)


@shared
def bollinger_position(panel: Panel, length: int) -> np.ndarray:
    """In the channel of two deviations."""
    middle, reach = mean(panel, "close", length), 2 * bollinger_deviation(panel, length)
    return position(panel, middle - reach, middle + reach)


@shared
def donchian_position(panel: Panel, length: int) -> np.ndarray:
    return position(panel, lowest(panel, "low", length), highest(panel, "high", length))


@shared
def keltner_position(panel: Panel, length: int) -> np.ndarray:
    """In the channel of two average ranges."""
    middle, reach = ema(panel, length), 2 * ema_range(panel, length)
    return position(panel, middle - reach, middle + reach)


@shared
def fibonacci_distance(panel: Panel, length: int) -> np.ndarray:
    """Unsigned: the side of the nearest level would flip midway between two."""
    place = donchian_position(panel, length)
    nearest = np.abs(place)
    for level in FIBONACCI_LEVELS[1:]:
        np.minimum(nearest, np.abs(place - level), out=nearest)
    return nearest


@shared
def middle(panel: Panel, length: int) -> np.ndarray:
    return (highest(panel, "high", length) + lowest(panel, "low", length)) / 2


@shared
def span_a(panel: Panel) -> np.ndarray:
    """Ichimoku's cloud over a bar, made of bars at least 26 before it."""
    return lag((middle(panel, TENKAN) + middle(panel, KIJUN)) / 2, KIJUN)


@shared
def span_b(panel: Panel) -> np.ndarray:
    return lag(middle(panel, SENKOU), KIJUN)


# --- volatility ----------


@shared
def volatility(panel: Panel, length: int) -> np.ndarray:
    """Standard deviation of log returns, per bar."""
    deviation = moving_std(log_return(panel, 1), length)
    return np.where(moves(panel, "close", "close", length + 1), deviation, 0.0)


@shared
def parkinson(panel: Panel, length: int) -> np.ndarray:
    """Parkinson (1980), "The extreme value method for estimating the variance of the rate of return"."""
    return np.sqrt(moving_mean(log_range(panel) ** 2, length) / (4 * np.log(2)))


# --- volume ----------


@shared
def signed_volume(panel: Panel, length: int) -> np.ndarray:
    """Volume of the window on rising closes less that on falling ones, as a share of all of it.

    The change of OBV, whose level depends on where the history starts.
    """
    total = known(moving_sum(panel.volume, length), traded(panel, length))
    return moving_sum(np.sign(rises(panel)) * panel.volume, length) / total


@shared
def volume_ratio(panel: Panel, length: int) -> np.ndarray:
    return np.log(panel.volume / mean(panel, "volume", length))


@shared
def volume_zscore(panel: Panel, length: int) -> np.ndarray:
    zscore = (panel.volume - mean(panel, "volume", length)) / moving_std(panel.volume, length)
    return known(zscore, moves(panel, "volume", "volume", length))


@shared
def money_flow(panel: Panel, length: int) -> np.ndarray:
    """Chaikin's. Within [-1, 1] by definition; a close outside its own bar's range would leave it."""
    span = panel.high - panel.low
    share = (2 * panel.close - (panel.high + panel.low)) / np.where(span == 0, np.finfo(float).eps, span)
    flow = moving_sum(share * panel.volume, length) / moving_sum(panel.volume, length)
    return known(np.clip(flow, -1, 1), traded(panel, length))


@shared
def vwma(panel: Panel, length: int) -> np.ndarray:
    """Mean of the close weighted by volume."""
    weighted = moving_mean(panel.close * panel.volume, length) / mean(panel, "volume", length)
    return known(weighted, traded(panel, length))


# --- trend ----------


@shared
def vortex(panel: Panel, length: int) -> np.ndarray:
    """(VI+ - VI-) / (VI+ + VI-)."""
    up = moving_sum(np.abs(panel.high - lag(panel.low, 1)), length)
    down = moving_sum(np.abs(panel.low - lag(panel.high, 1)), length)
    return known((up - down) / (up + down), moving_max(true_range(panel), length) > FLAT * panel.close)


@shared
def aroon(panel: Panel, length: int) -> np.ndarray:
    """The oscillator, from -1 to 1."""
    return (bars_since_max(-panel.low, length + 1) - bars_since_max(panel.high, length + 1)) / length


@shared
def efficiency(panel: Panel, length: int) -> np.ndarray:
    """Net move / path."""
    path = moving_sum(np.abs(rises(panel)), length)
    return known(np.abs(change(panel.close, length)) / path, moves(panel, "close", "close", length + 1))


@shared
def streak(panel: Panel, most: int) -> np.ndarray:
    """Signed run of up or down closes, at most so many, over the most."""
    direction = np.sign(rises(panel))
    return direction * (1 + trailing_run(direction == lag(direction, 1), most - 1)) / most


# --- time ----------


@shared
def by_day(panel: Panel, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of dates `datetime64[D]`, computed once for each of the days between the first and the last."""
    unknown = np.isnat(panel.timestamp)
    days = panel.timestamp.astype(np.int64) // DAY
    if unknown.all():
        return np.full(panel.shape, np.nan)
    first = days[~unknown].min()
    days[unknown] = first
    table = function(np.arange(first, days.max() + 1).astype("datetime64[D]"))
    return known(np.take(table, days - first), ~unknown)


@shared
def session_gap(panel: Panel) -> np.ndarray:
    """Days since the bar before."""
    gap = np.full(panel.shape, np.nan)
    gap[1:] = np.diff(panel.timestamp, axis=0) / np.timedelta64(1, "D")
    return gap
