"""Causal baselines for the cumulative log return of one ticker, from an origin bar to `horizon` bars later.

* Of a plain series `close` is its value, and a return its difference. It has one more baseline, the seasonal naive.
* An origin is the index of a bar in `close`; a forecast uses the closes up to and including it and nothing later.
* A missing close (NaN) is skipped: a return over a gap runs from the last known close and counts as one step.
* Per-step forecasts are one call per step: everything is a running statistic, so a call costs one pass over the bars.
"""

import numpy as np
import pandas as pd

from ..bars_tsf_llm import OHLCV, Kind
from .distributions import Gaussian, Samples

VOLATILITY_WINDOW = 20
SEASONAL_ERRORS = 500  # most recent errors that make the seasonal naive distribution
SEASONAL_SAMPLES = 99  # their evenly spaced quantiles


def _known_log_prices(
    close: np.ndarray, origins: np.ndarray, horizon: int, returns_needed: int, kind: Kind
) -> tuple[pd.Series, np.ndarray]:
    """The log of every known close (or the value), and for each origin the position of the last one known there."""
    close, origins = np.asarray(close, dtype=float), np.asarray(origins)
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}: ask for at least one step ahead")
    if origins.size and not 0 <= origins.min() <= origins.max() < len(close):
        raise ValueError(f"origins run from {origins.min()} to {origins.max()}: give indices of the {len(close)} bars")
    known = np.isfinite(close)
    if kind is OHLCV and (close[known] <= 0).any():
        bar = np.flatnonzero(known & ~(close > 0))[0]
        raise ValueError(f"close at bar {bar} is {close[bar]}: log returns need positive prices; clean the data first")
    position = np.cumsum(known)[origins] - 1
    if (position < returns_needed).any():
        first = np.argmin(position)
        raise ValueError(
            f"origin {origins[first]} has {max(position[first], 0)} returns before it and {returns_needed} are needed:"
            " start at a later origin or give earlier bars"
        )
    return pd.Series(kind.additive(close[known])), position


def baseline_forecasts(
    close: np.ndarray, origins: np.ndarray, horizon: int, kind: Kind = OHLCV
) -> dict[str, Gaussian]:
    """Forecasts of log(close[origin + horizon] / close[origin]) for close [N] and origins [n], or of the difference.

    With r the one-step log returns known at the origin and h the horizon:

    * `random_walk`: mean 0, std = root mean square of all r * sqrt(h)
    * `drift`: mean of all r * h, std = standard deviation of all r * sqrt(h)
    * `historical_volatility_20`: mean 0, std = standard deviation of the last 20 r * sqrt(h)

    Raises ValueError where an origin has fewer than 20 returns before it, or a close is not positive.
    """
    log_close, position = _known_log_prices(close, origins, horizon, VOLATILITY_WINDOW, kind)
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


def seasonal_naive(value: np.ndarray, origins: np.ndarray, horizon: int, season: int) -> Samples:
    """Forecasts of value[origin + horizon] - value[origin] by what the value was a whole number of seasons before.

    With m = season * ceil(horizon / season), the distribution is value[origin + horizon - m] plus the errors
    value[t] - value[t - m] known at the origin: quantiles of the last 500. A missing value is taken from its last
    known one. Raises ValueError where an origin has fewer than m + 20 values before it.
    """
    filled = pd.Series(np.asarray(value, dtype=float)).ffill().to_numpy()
    back = season * -(-horizon // season)
    start = int(np.isfinite(filled).argmax())
    if len(origins) and min(origins) < start + back + VOLATILITY_WINDOW:
        raise ValueError(
            f"origin {min(origins)} has fewer than {back + VOLATILITY_WINDOW} values before it, which seasons of "
            f"{season} need: start at a later origin or give earlier values"
        )
    levels = np.arange(1, SEASONAL_SAMPLES + 1) / (SEASONAL_SAMPLES + 1)
    errors = [
        np.quantile(filled[first : t + 1] - filled[first - back : t + 1 - back], levels, method="weibull")
        for t in origins
        for first in [max(start + back, t + 1 - SEASONAL_ERRORS)]
    ]
    return Samples((filled[origins + horizon - back] - filled[origins])[:, None] + np.array(errors))


def naive_scale(close: np.ndarray, origins: np.ndarray, horizon: int, kind: Kind = OHLCV) -> np.ndarray:
    """Mean absolute `horizon`-step log return (or difference) known at each origin [n]: the denominator of MASE.

    It is what the last price misses by, on average, in sample. Raises ValueError where an origin has none.
    """
    log_close, position = _known_log_prices(close, origins, horizon, horizon, kind)
    return log_close.diff(horizon).abs().expanding().mean().to_numpy()[position]
