"""Features of volatility: ranges and falls in units of the usual move, the memory of a quarter, an implied index.

Design choices:

* The unit is the volatility by which a processor divides returns, as its defaults make it. So a feature says by how
  much the next move should be larger than that.
* The variance of a bar is the square of its overnight move and the Garman-Klass variance of what came after: no price
  of the bar is left out, and it is far less noisy than a squared return.
* What is zero, a window without a move, has no logarithm: it is unknown.
* Each row says how many bars before its own it reads: those of its window, or of the usual move.

Shapes: a function of a panel gives `[T,N]`, T bars of N tickers.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from .bars_tsf_llm import MIN_BARS, OHLCV, SIGMA_CAP, volatility_bars
from .panel_tsf_llm import Feature, Panel, remembered, shared
from .technical_tsf_llm import known, log_range, log_return
from .windows_tsf_llm import change, lag, moving_max, moving_mean, moving_var

FLAT = 1e-9  # a volatility below this is rounding error, not movement
YEAR = 252  # trading days, over which an implied-volatility index is quoted
QUARTER = (59, 65)  # bars ago: 63 bars before the next one, and three on either side
USUAL = volatility_bars(OHLCV.sigma_decay)  # bars before its own that say what move is usual
Compute = Callable[[Panel], np.ndarray]


def mean_root(variance: np.ndarray, length: int) -> np.ndarray:
    """Square root of a trailing mean; a bar whose open or close leaves its range may have less than no variance."""
    return np.sqrt(np.maximum(moving_mean(variance, length), 0))


@shared
def garman_klass_variance(panel: Panel) -> np.ndarray:
    """Garman and Klass (1980), "On the estimation of security price volatilities from historical data"."""
    return log_range(panel) ** 2 / 2 - (2 * np.log(2) - 1) * np.log(panel.close / panel.open) ** 2


@shared
def rogers_satchell_variance(panel: Panel) -> np.ndarray:
    """Rogers and Satchell (1991), "Estimating variance from high, low and closing prices"."""
    up, down = (np.log(extreme / panel.open) for extreme in (panel.high, panel.low))
    body = np.log(panel.close / panel.open)
    return up * (up - body) + down * (down - body)


@shared
def overnight_move(panel: Panel) -> np.ndarray:
    return np.log(panel.open / lag(panel.close, 1))


def yang_zhang(panel: Panel, length: int) -> np.ndarray:
    """Yang and Zhang (2000), "Drift-independent volatility estimation based on high, low, open, and close prices"."""
    overnight = moving_var(overnight_move(panel), length)
    inside = moving_var(np.log(panel.close / panel.open), length)
    within = moving_mean(rogers_satchell_variance(panel), length)
    k = 0.34 / (1.34 + (length + 1) / (length - 1))
    return np.sqrt(np.maximum(overnight + k * inside + (1 - k) * within, 0))


# --- in units of the usual move ----------


@remembered
def usual_move(panel: Panel) -> np.ndarray:
    """Volatility per bar as the processor's defaults measure it."""
    return OHLCV.volatility(log_return(panel, 1), OHLCV.sigma_decay, OHLCV.sigma_floor, SIGMA_CAP)


@shared
def _whole_variance(panel: Panel) -> np.ndarray:
    return _overnight_variance(panel) + garman_klass_variance(panel)


@shared
def _overnight_variance(panel: Panel) -> np.ndarray:
    return overnight_move(panel) ** 2


@shared
def _whole_move(panel: Panel, length: int) -> np.ndarray:
    return mean_root(_whole_variance(panel), length)


def _log_ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.log(known(part, part > FLAT) / whole)


def _range_volatility(panel: Panel, length: int) -> np.ndarray:
    return _log_ratio(_whole_move(panel, length), usual_move(panel))


def _in_usual_moves(panel: Panel, length: int, variance: Compute) -> np.ndarray:
    return _log_ratio(mean_root(variance(panel), length), usual_move(panel))


def _move(panel: Panel, length: int) -> np.ndarray:
    return log_return(panel, length) / (usual_move(panel) * np.sqrt(length))


def _fall(panel: Panel, length: int) -> np.ndarray:
    """Of falls alone: volatility answers to them more than to rises (Corsi and Reno 2012, "Leverage HAR")."""
    return np.maximum(-_move(panel, length), 0)


def _quarter_ago_move(panel: Panel) -> np.ndarray:
    """The largest bar of those that lie about as far behind the next one as a company's last quarterly report."""
    first, last = QUARTER
    largest = lag(moving_max(_whole_variance(panel), last - first + 1), first)
    return _log_ratio(np.sqrt(np.maximum(largest, 0)), _whole_move(panel, 63))


# --- an implied-volatility index ----------


def _implied_to_own(panel: Panel, length: int) -> np.ndarray:
    """Annual points, as 17.5, per bar, over the ticker's own volatility."""
    own = _whole_move(panel, length)
    return panel.market["implied"] - np.log(100 * np.sqrt(YEAR)) - np.log(known(own, own > FLAT))


def _implied_change(panel: Panel, length: int) -> np.ndarray:
    return change(panel.market["implied"], length)


def _implied_to_mean(panel: Panel, length: int) -> np.ndarray:
    return panel.market["implied"] - panel.market[f"implied_{length}"]


# --- the market in the ticker's usual moves, and its own moves so ----------


def _market_to_own(panel: Panel, length: int, name: str) -> np.ndarray:
    column = name if length == 1 else f"{name}_{length}"
    return _log_ratio(panel.market[column], usual_move(panel))


def _market_move(panel: Panel, length: int) -> np.ndarray:
    return change(panel.market["level"], length) / (usual_move(panel) * np.sqrt(length))


def by_length(
    group: str,
    name: str,
    formula: str,
    function: Callable[..., np.ndarray],
    lookbacks: Mapping[int, int],
    memory: Mapping[int, int] | None = None,
) -> list[Feature]:
    """One row per length of a window, N in the formula, with how many bars must come before its first value."""

    def of_length(n: int) -> Compute:
        return lambda panel: function(panel, n)

    return [
        Feature(
            *(f"{name}_{n}", group, lookback, formula.replace("N", str(n)), of_length(n)),
            memory=0 if memory is None else memory[n],
        )
        for n, lookback in lookbacks.items()
    ]


def _of_moves(
    group: str, name: str, formula: str, function: Callable[..., np.ndarray], lengths: tuple[int, ...]
) -> list[Feature]:
    """The same of what is known where the usual move is known and the window full."""
    lookbacks = {n: max(n, MIN_BARS - 1) for n in lengths}
    return by_length(group, name, formula, function, lookbacks, dict.fromkeys(lengths, USUAL))


_RANGE = "log(sqrt(mean gap^2 + Garman-Klass) / usual move), N bars"
ROWS: list[Feature] = [
    *_of_moves("range", "range_volatility", _RANGE, _range_volatility, (1, 3, 5, 10, 21, 63, 252)),
    *_of_moves(
        *("range", "inside_volatility", "log(Rogers-Satchell / usual move), N bars"),
        *(partial(_in_usual_moves, variance=rogers_satchell_variance), (5, 21)),
    ),
    *_of_moves(
        *("range", "night_volatility", "log(sqrt(mean gap^2) / usual move), N bars"),
        *(partial(_in_usual_moves, variance=_overnight_variance), (5, 21, 63)),
    ),
    *_of_moves("leverage", "fall", "max(0, -log return of N bars) / (usual move * sqrt(N))", _fall, (1, 5, 21)),
    Feature(
        *("quarter_ago_move", "events", QUARTER[1] + 1),
        "log(largest sqrt(gap^2 + Garman-Klass) 59 to 65 bars ago / that of 63 bars)",
        _quarter_ago_move,
    ),
    *by_length(
        *("implied", "implied_to_own", "log(implied per bar / sqrt(mean gap^2 + Garman-Klass)), N bars"),
        *(_implied_to_own, {21: 21, 63: 63}),
    ),
    *by_length("implied", "implied_change", "log(implied / implied[-N])", _implied_change, {1: 10, 5: 10}),
    *by_length(
        "implied", "implied_to_mean", "log(implied / its mean over N of its bars)", _implied_to_mean, {21: 20, 63: 62}
    ),
    *_of_moves("moves", "move", "log return of N bars / (usual move * sqrt(N))", _move, (1, 2, 3, 5, 10, 21, 63, 252)),
    *_of_moves(
        *("market", "market_range_to_own", "log(market_range_N / usual move)"),
        *(partial(_market_to_own, name="range"), (1, 5, 21)),
    ),
    *_of_moves(
        *("market", "market_moves_to_own", "log(market_abs_return_N / usual move)"),
        *(partial(_market_to_own, name="abs_return"), (1, 5, 21)),
    ),
    *_of_moves(
        *("market", "dispersion_to_own", "log(market_dispersion_N / usual move)"),
        *(partial(_market_to_own, name="dispersion"), (1, 21)),
    ),
    *_of_moves(
        *("market", "market_move", "log return of the market over N bars / (usual move * sqrt(N))"),
        *(_market_move, (1, 5, 21)),
    ),
]
