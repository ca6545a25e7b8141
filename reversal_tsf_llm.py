"""Reversals, a pivot and what speaks for it, and the market as of each bar.

Design choices:

* A pivot is a low (side 1, the market may turn up) below the `PIVOT` bars before and since, or a high so (side -1).
* The bar that confirms a pivot gives its points; they stand for `PIVOT` more bars. Two pivots are further apart than
  that. Without a pivot there are no points.
* Points come in proportion, so that no rounding error decides.

Shapes: a function of a panel gives `[T,N]`, T bars of N tickers.
"""

from collections.abc import Callable

import numpy as np

from .panel_tsf_llm import Feature, Panel, shared
from .technical_tsf_llm import (
    FLAT,
    MACD_MEMORY,
    WILDER_MEMORY,
    highest,
    known,
    log_return,
    macd,
    mean,
    rsi,
    stochastic_k,
    traded,
    wilder_range,
)
from .volatility_tsf_llm import by_length
from .windows_tsf_llm import change, lag, moving_cov, moving_max, moving_min, moving_std, moving_var

PIVOT = 5  # bars on either side that a pivot must undercut; the later ones confirm it
PIVOT_REACH = 63  # most bars between two pivots that are compared, and bars that make a support or resistance
LEVEL_MEMORY = 2 * PIVOT + WILDER_MEMORY[14]  # the average range at a pivot whose points stand until now
DIVERGENCE_MEMORY = 2 * PIVOT + PIVOT_REACH + max(MACD_MEMORY, WILDER_MEMORY[14])  # at the pivot before that one


# --- reversals ----------


@shared
def _extreme(panel: Panel, side: int) -> np.ndarray:
    """Lows, or highs upside down, so that a pivot is a minimum on either side."""
    return panel.low if side > 0 else -panel.high


@shared
def _pivot(panel: Panel, side: int) -> np.ndarray:
    """True at the bar that confirms a pivot: `PIVOT` bars ago was lower than the `PIVOT` bars before and since."""
    lowest = moving_min(_extreme(panel, side), PIVOT)
    pivot = lag(_extreme(panel, side), PIVOT)
    return (pivot < lag(lowest, PIVOT + 1)) & (pivot < lowest)


def _held(panel: Panel, side: int, points: np.ndarray) -> np.ndarray:
    """Points, known or not, given when a pivot was confirmed stand for `PIVOT` more bars."""
    return moving_max(np.where(_pivot(panel, side) & (points > 0), points, 0.0), PIVOT + 1)


@shared
def _macd_to_range(panel: Panel) -> np.ndarray:
    usual = wilder_range(panel, 14)
    return macd(panel) / known(usual, usual > FLAT * panel.close)


def _rsi(panel: Panel) -> np.ndarray:
    return rsi(panel, 14)


OSCILLATORS = ((_rsi, 0.2), (_macd_to_range, 1.0), (stochastic_k, 0.4))  # and the rise of each that gives full points


@shared
def _divergence(panel: Panel, side: int) -> np.ndarray:
    """A lower low with a higher RSI, MACD, stochastic than at the pivot before: a third of 4 points for each.

    Full points for 20 of RSI, 1 ATR of MACD, 40 of the stochastic, in proportion below.
    """
    tickers, rows = np.nonzero(_pivot(panel, side).T)  # of P pivots, ticker by ticker: [P]
    reached = (np.diff(tickers) == 0) & (np.diff(rows) <= PIVOT_REACH)  # from one to the next: [P-1]
    at, extreme = (rows - PIVOT, tickers), _extreme(panel, side)
    diverged = np.flatnonzero(reached & (np.diff(extreme[at]) < 0)) + 1
    given = np.zeros(len(rows))
    for oscillator, full in OSCILLATORS:
        rise = side * np.diff(oscillator(panel)[at])[diverged - 1] / full
        given[diverged] += np.nan_to_num(np.clip(rise, 0, 1)) * 4 / 3
    points = np.zeros(panel.shape)
    points[rows, tickers] = given
    return _held(panel, side, points)


@shared
def _surge(panel: Panel, side: int) -> np.ndarray:
    """Up to 4 points for 4 times the usual volume (20 bars) in the 5 bars around the pivot."""
    ratio = lag(highest(panel, "volume", 5), PIVOT - 2) / lag(mean(panel, "volume", 20), PIVOT + 3)
    return known(_held(panel, side, np.clip(ratio - 1, 0, 3) * 4 / 3), traded(panel, 20 + 2 * PIVOT + 3))


@shared
def _level(panel: Panel, side: int) -> np.ndarray:
    """Up to 3 points for a pivot at the support (resistance) of the bars before it, none from 1 ATR away."""
    extreme, usual = _extreme(panel, side), lag(wilder_range(panel, 14), PIVOT)
    away = np.abs(lag(extreme, PIVOT) - lag(moving_min(extreme, PIVOT_REACH), 2 * PIVOT + 1))
    return _held(panel, side, 3 * np.clip(1 - away / known(usual, usual > FLAT * panel.close), 0, 1))


@shared
def _strength(panel: Panel, side: int) -> np.ndarray:
    """Up to 3 points for outdoing the market since the pivot by 2 standard deviations."""
    ahead = _ahead_of_market(panel)
    usual = moving_std(change(ahead), 21)
    outdone = side * change(ahead, PIVOT) / (known(usual, usual > FLAT) * np.sqrt(PIVOT))
    return known(_held(panel, side, 1.5 * np.clip(outdone, 0, 2)), ~np.isnan(ahead))


def _score(panel: Panel, side: int) -> np.ndarray:
    """All 14 points; what is unknown (no volume, no market) is no evidence and adds none."""
    parts = (_divergence, _surge, _strength, _level)
    return sum((np.nan_to_num(part(panel, side)) for part in parts), start=np.zeros(panel.shape)) / 14


# --- the market ----------


@shared
def _ahead_of_market(panel: Panel) -> np.ndarray:
    """Log price relative to the market; only its changes mean anything."""
    return np.log(panel.close) - panel.market["level"]


@shared
def _market_return(panel: Panel, length: int) -> np.ndarray:
    return change(panel.market["level"], length)


def _relative_return(panel: Panel, length: int) -> np.ndarray:
    return change(_ahead_of_market(panel), length)


def _varies(returns: np.ndarray, length: int) -> np.ndarray:
    return moving_max(returns, length) - moving_min(returns, length) > FLAT


@shared
def _market_variance(panel: Panel, length: int) -> np.ndarray:
    """Unknown where the market stands still."""
    returns = _market_return(panel, 1)
    return known(moving_var(returns, length), _varies(returns, length))


@shared
def _market_covariance(panel: Panel, length: int) -> np.ndarray:
    return moving_cov(log_return(panel, 1), _market_return(panel, 1), length)


def _market_beta(panel: Panel, length: int) -> np.ndarray:
    return _market_covariance(panel, length) / _market_variance(panel, length)


def _market_correlation(panel: Panel, length: int) -> np.ndarray:
    own = moving_var(log_return(panel, 1), length)
    correlation = _market_covariance(panel, length) / np.sqrt(own * _market_variance(panel, length))
    return known(np.clip(correlation, -1, 1), _varies(log_return(panel, 1), length))


def _market_column(name: str) -> Callable[[Panel], np.ndarray]:
    return lambda panel: panel.market[name]


def _reversal_rows(way: str, side: int) -> list[Feature]:
    return [
        Feature(
            *(f"reversal_{way}_divergence", "reversal", 106, "0-1: divergence of RSI, MACD, stochastic"),
            *(lambda panel: _divergence(panel, side) / 4, DIVERGENCE_MEMORY),
        ),
        Feature(
            *(f"reversal_{way}_volume", "reversal", 32, "0-1: volume around the pivot"),
            lambda panel: _surge(panel, side) / 4,
        ),
        Feature(
            *(f"reversal_{way}_level", "reversal", 78, "0-1: pivot at support or resistance"),
            *(lambda panel: _level(panel, side) / 3, LEVEL_MEMORY),
        ),
        Feature(
            *(f"reversal_{way}_score", "reversal", 106, "all of it and the strength, of 14 points"),
            *(lambda panel: _score(panel, side), DIVERGENCE_MEMORY),
        ),
    ]


def _strength_row(way: str, side: int) -> Feature:
    return Feature(
        *(f"reversal_{way}_strength", "market", 26, "0-1: ahead of the market since the pivot"),
        lambda panel: _strength(panel, side) / 3,
    )


def _market_rows(name: str, formula: str) -> list[Feature]:
    """A column of the market as of each bar, and its means over 5 and 21 bars of the market."""
    return [
        Feature(f"market_{name}", "market", 10, formula, _market_column(name)),
        *(
            Feature(
                *(f"market_{name}_{n}", "market", lookback, f"mean of market_{name} over {n} market bars"),
                _market_column(f"{name}_{n}"),
            )
            for n, lookback in {5: 10, 21: 21}.items()
        ),
    ]


ROWS: list[Feature] = [
    *_reversal_rows("up", 1),
    *_reversal_rows("down", -1),
    _strength_row("up", 1),
    _strength_row("down", -1),
    *by_length(
        *("market", "market_return", "log return of the market over N bars", _market_return), {1: 10, 5: 10, 21: 21}
    ),
    *by_length(
        *("market", "relative_return", "log_return_N - market_return_N", _relative_return),
        {1: 10, 5: 10, 21: 21, 63: 63},
    ),
    *by_length("market", "market_beta", "cov(own, market) / var(market), N returns", _market_beta, {63: 63}),
    *by_length("market", "market_correlation", "corr(own, market), N returns", _market_correlation, {63: 63}),
    *_market_rows("abs_return", "mean |log return| of its tickers"),
    *_market_rows("dispersion", "std of log returns across its tickers"),
    *_market_rows("range", "mean log(high / low) of its tickers"),
]
