"""Features of volatility: ranges and falls in units of the usual move, the memory of a quarter, an implied index.

Design choices:

* The unit is the volatility by which a processor divides returns, as its defaults make it. So a feature says by how
  much the next move should be larger than that.
* The variance of a bar is the square of its overnight move and the Garman-Klass variance of what came after: no price
  of the bar is left out, and it is far less noisy than a squared return.
* What is zero, a window without a move, has no logarithm: it is unknown.
* The functions read columns of one ticker's bars, `bars.market` and `bars.once`, as `indicators_tsf_llm` gives them.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from .bars_tsf_llm import MIN_BARS, OHLCV, SIGMA_CAP

FLAT = 1e-9  # a volatility below this is rounding error, not movement
YEAR = 252  # trading days, over which an implied-volatility index is quoted
QUARTER = (59, 65)  # bars ago: 63 bars before the next one, and three on either side


def mean_root(variance: pd.Series, length: int) -> pd.Series:
    """Square root of a trailing mean; a sum of nothing may keep a negative residue of earlier bars."""
    return np.sqrt(variance.rolling(length).mean().clip(lower=0))


def garman_klass_variance(bars: pd.DataFrame) -> pd.Series:
    """Garman and Klass (1980), "On the estimation of security price volatilities from historical data"."""
    return np.log(bars.high / bars.low) ** 2 / 2 - (2 * np.log(2) - 1) * np.log(bars.close / bars.open) ** 2


def rogers_satchell_variance(bars: pd.DataFrame) -> pd.Series:
    """Rogers and Satchell (1991), "Estimating variance from high, low and closing prices"."""
    up, down = (np.log(extreme / bars.open) for extreme in (bars.high, bars.low))
    body = np.log(bars.close / bars.open)
    return up * (up - body) + down * (down - body)


def overnight_move(bars: pd.DataFrame) -> pd.Series:
    return np.log(bars.open / bars.close.shift(1))


def yang_zhang(bars: pd.DataFrame, length: int) -> pd.Series:
    """Yang and Zhang (2000), "Drift-independent volatility estimation based on high, low, open, and close prices"."""
    overnight = overnight_move(bars).rolling(length).var()
    inside = np.log(bars.close / bars.open).rolling(length).var()
    within = rogers_satchell_variance(bars).rolling(length).mean()
    k = 0.34 / (1.34 + (length + 1) / (length - 1))
    return np.sqrt((overnight + k * inside + (1 - k) * within).clip(lower=0))


# --- in units of the usual move ----------


def _usual_move(bars: pd.DataFrame) -> pd.Series:
    """Volatility per bar as the processor's defaults measure it."""
    returns = np.log(bars.close / bars.close.shift(1)).to_numpy()
    return pd.Series(OHLCV.volatility(returns, OHLCV.sigma_decay, OHLCV.sigma_floor, SIGMA_CAP), bars.index)


def _whole_variance(bars: pd.DataFrame) -> pd.Series:
    return overnight_move(bars) ** 2 + garman_klass_variance(bars)


def _overnight_variance(bars: pd.DataFrame) -> pd.Series:
    return overnight_move(bars) ** 2


def _log_ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    return np.log(part.where(part > FLAT) / whole)


def _in_usual_moves(bars: pd.DataFrame, variance: Callable[[pd.DataFrame], pd.Series], length: int) -> pd.Series:
    return _log_ratio(mean_root(bars.once(variance), length), bars.once(_usual_move))


def _fall(bars: pd.DataFrame, length: int) -> pd.Series:
    """Of falls alone: volatility answers to them more than to rises (Corsi and Reno 2012, "Leverage HAR")."""
    fall = (-np.log(bars.close / bars.close.shift(length))).clip(lower=0)
    return fall / (bars.once(_usual_move) * np.sqrt(length))


def _quarter_ago_move(bars: pd.DataFrame) -> pd.Series:
    """The largest bar of those that lie about as far behind the next one as a company's last quarterly report."""
    first, last = QUARTER
    largest = bars.once(_whole_variance).shift(first).rolling(last - first + 1).max()
    return _log_ratio(np.sqrt(largest.clip(lower=0)), mean_root(bars.once(_whole_variance), 63))


# --- an implied-volatility index ----------


def _implied_to_own(bars: pd.DataFrame, length: int) -> pd.Series:
    """Annual points, as 17.5, per bar, over the ticker's own volatility."""
    own = mean_root(bars.once(_whole_variance), length)
    return bars.market["implied"] - np.log(100 * np.sqrt(YEAR)) - np.log(own.where(own > FLAT))


def _implied_change(bars: pd.DataFrame, length: int) -> pd.Series:
    return bars.market["implied"].diff(length)


def _implied_to_mean(bars: pd.DataFrame, length: int) -> pd.Series:
    return bars.market["implied"] - bars.market[f"implied_{length}"]


# --- the market in the ticker's usual moves, and its own moves so ----------


def _market_to_own(bars: pd.DataFrame, name: str, length: int) -> pd.Series:
    column = name if length == 1 else f"{name}_{length}"
    return _log_ratio(bars.market[column], bars.once(_usual_move))


def _market_move(bars: pd.DataFrame, length: int) -> pd.Series:
    return bars.market["level"].diff(length) / (bars.once(_usual_move) * np.sqrt(length))


def _move(bars: pd.DataFrame, length: int) -> pd.Series:
    return np.log(bars.close / bars.close.shift(length)) / (bars.once(_usual_move) * np.sqrt(length))


Row = tuple[str, str, int, str, Callable[[pd.DataFrame], pd.Series]]  # name, group, lookback, formula, function


def _rows(
    group: str, name: str, formula: str, function: Callable[..., pd.Series], lookbacks: dict[int, int]
) -> list[Row]:
    """One row per length of a window, N in the formula, and how many bars must come before its first value."""

    def of_length(n: int) -> Callable[[pd.DataFrame], pd.Series]:
        return lambda bars: function(bars, n)

    return [
        (f"{name}_{n}", group, lookback, formula.replace("N", str(n)), of_length(n))
        for n, lookback in lookbacks.items()
    ]


def _of_moves(*lengths: int) -> dict[int, int]:
    """Lookbacks where the usual move is known and the window full."""
    return {n: max(n, MIN_BARS - 1) for n in lengths}


_RANGE = "log(sqrt(mean gap^2 + Garman-Klass) / usual move), N bars"
ROWS: list[Row] = [
    *_rows(
        *("range", "range_volatility", _RANGE),
        lambda bars, n: _in_usual_moves(bars, _whole_variance, n),
        _of_moves(1, 3, 5, 10, 21, 63, 252),
    ),
    *_rows(
        *("range", "inside_volatility", "log(Rogers-Satchell / usual move), N bars"),
        lambda bars, n: _in_usual_moves(bars, rogers_satchell_variance, n),
        _of_moves(5, 21),
    ),
    *_rows(
        *("range", "night_volatility", "log(sqrt(mean gap^2) / usual move), N bars"),
        lambda bars, n: _in_usual_moves(bars, _overnight_variance, n),
        _of_moves(5, 21, 63),
    ),
    *_rows("leverage", "fall", "max(0, -log return of N bars) / (usual move * sqrt(N))", _fall, _of_moves(1, 5, 21)),
    (
        *("quarter_ago_move", "events", QUARTER[1] + 1),
        "log(largest sqrt(gap^2 + Garman-Klass) 59 to 65 bars ago / that of 63 bars)",
        _quarter_ago_move,
    ),
    *_rows(
        *("implied", "implied_to_own", "log(implied per bar / sqrt(mean gap^2 + Garman-Klass)), N bars"),
        _implied_to_own,
        {21: 21, 63: 63},
    ),
    *_rows("implied", "implied_change", "log(implied / implied[-N])", _implied_change, {1: 10, 5: 10}),
    *_rows(
        "implied", "implied_to_mean", "log(implied / its mean over N of its bars)", _implied_to_mean, {21: 20, 63: 62}
    ),
    *_rows(
        "moves", "move", "log return of N bars / (usual move * sqrt(N))", _move, _of_moves(1, 2, 3, 5, 10, 21, 63, 252)
    ),
    *_rows(
        *("market", "market_range_to_own", "log(market_range_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "range", n),
        _of_moves(1, 5, 21),
    ),
    *_rows(
        *("market", "market_moves_to_own", "log(market_abs_return_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "abs_return", n),
        _of_moves(1, 5, 21),
    ),
    *_rows(
        *("market", "dispersion_to_own", "log(market_dispersion_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "dispersion", n),
        _of_moves(1, 21),
    ),
    *_rows(
        *("market", "market_move", "log return of the market over N bars / (usual move * sqrt(N))"),
        _market_move,
        _of_moves(1, 5, 21),
    ),
]
