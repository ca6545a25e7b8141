"""Causal baselines for the cumulative log return of one ticker, from an origin bar to `horizon` bars later.

* An origin is the index of a bar in `close`; a forecast uses the closes up to and including it and nothing later.
* A missing close (NaN) is skipped: a return over a gap runs from the last known close and counts as one step.
* Per-step forecasts are one call per step: everything is a running statistic, so a call costs one pass over the bars.
"""

import numpy as np
import pandas as pd

from .distributions import Gaussian

VOLATILITY_WINDOW = 20


def _known_log_prices(
    close: np.ndarray, origins: np.ndarray, horizon: int, returns_needed: int
) -> tuple[pd.Series, np.ndarray]:
    """The log of every known close, and for each origin the position in it of the last one known there."""
    close, origins = np.asarray(close, dtype=float), np.asarray(origins)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}: ask for at least one step ahead")
    if origins.size and not 0 <= origins.min() <= origins.max() < len(close):
        raise ValueError(f"origins run from {origins.min()} to {origins.max()}: give indices of the {len(close)} bars")
    known = np.isfinite(close)
    if (close[known] <= 0).any():
        bar = np.flatnonzero(known & ~(close > 0))[0]
        raise ValueError(f"close at bar {bar} is {close[bar]}: log returns need positive prices; clean the data first")
    position = np.cumsum(known)[origins] - 1
    if (position < returns_needed).any():
        first = np.argmin(position)
        raise ValueError(
            f"origin {origins[first]} has {max(position[first], 0)} returns before it and {returns_needed} are needed:"
            " start at a later origin or give earlier bars"
        )
    return pd.Series(np.log(close[known])), position


def baseline_forecasts(close: np.ndarray, origins: np.ndarray, horizon: int) -> dict[str, Gaussian]:
    """Forecasts of log(close[origin + horizon] / close[origin]) for close [N] and origins [n].

    With r the one-step log returns known at the origin and h the horizon:

    * `random_walk`: mean 0, std = root mean square of all r * sqrt(h)
    * `drift`: mean of all r * h, std = standard deviation of all r * sqrt(h)
    * `historical_volatility_20`: mean 0, std = standard deviation of the last 20 r * sqrt(h)

    Raises ValueError where an origin has fewer than 20 returns before it, or a close is not positive.
    """
    log_close, position = _known_log_prices(close, origins, horizon, VOLATILITY_WINDOW)
    returns = log_close.diff()
    root_mean_square = np.sqrt((returns**2).expanding().mean())
    volatility = returns.rolling(VOLATILITY_WINDOW).std()
    zero = np.zeros(len(position))

    def at_origins(statistic: pd.Series) -> np.ndarray:
        return statistic.to_numpy()[position]

    return {
        "random_walk": Gaussian(zero, at_origins(root_mean_square) * np.sqrt(horizon)),
        "drift": Gaussian(
            at_origins(returns.expanding().mean()) * horizon, at_origins(returns.expanding().std()) * np.sqrt(horizon)
        ),
        f"historical_volatility_{VOLATILITY_WINDOW}": Gaussian(zero, at_origins(volatility) * np.sqrt(horizon)),
    }


def naive_scale(close: np.ndarray, origins: np.ndarray, horizon: int) -> np.ndarray:
    """Mean absolute `horizon`-step log return among those known at each origin [n]: the denominator of MASE.

    It is what the last price misses by, on average, in sample. Raises ValueError where an origin has none.
    """
    log_close, position = _known_log_prices(close, origins, horizon, horizon)
    return log_close.diff(horizon).abs().expanding().mean().to_numpy()[position]
