"""Baselines that fit nothing: running statistics of one ticker, known at the origin.

* Of a plain series `close` is its value, and a return its difference. It has one more baseline, the seasonal naive.
* An origin is the index of a bar in `close`; a forecast uses the closes up to and including it and nothing later.
* A missing close (NaN) is skipped: a return over a gap runs from the last known close and counts as one step.
* Per-step forecasts are one call per step: everything is a running statistic, so a call costs one pass over the bars.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from ...bars_tsf_llm import OHLCV, Kind
from ..distributions import LEVELS, Gaussian, Quantiles
from .panel import Panel, filled

VOLATILITY_WINDOW = 20
SEASONAL_ERRORS = 500  # most recent errors that make the seasonal naive distribution


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


def random_walk(panel: Panel, steps: Sequence[int]) -> dict[int, Gaussian]:
    """Mean 0, std = root mean square of all returns known * sqrt(h)."""
    return _gaussians(panel, steps, lambda r: (0 * r, np.sqrt((r**2).expanding().mean())))


def drift(panel: Panel, steps: Sequence[int]) -> dict[int, Gaussian]:
    """Mean of all returns known * h, std = their standard deviation * sqrt(h)."""
    return _gaussians(panel, steps, lambda r: (r.expanding().mean(), r.expanding().std()))


def historical_volatility(panel: Panel, steps: Sequence[int]) -> dict[int, Gaussian]:
    """Mean 0, std = standard deviation of the last 20 returns * sqrt(h)."""
    return _gaussians(panel, steps, lambda r: (0 * r, r.rolling(VOLATILITY_WINDOW).std()))


def _gaussians(
    panel: Panel, steps: Sequence[int], statistics: Callable[[pd.Series], tuple[pd.Series, pd.Series]]
) -> dict[int, Gaussian]:
    """From the mean and standard deviation of one step, as functions of the one-step returns of a series."""
    [one], [rows] = panel.series, panel.rows
    log_close, position = _known_log_prices(one.close, rows, max(steps), VOLATILITY_WINDOW, panel.kind)
    mean, std = (statistic.to_numpy()[position] for statistic in statistics(log_close.diff()))
    return {h: Gaussian(mean * h, std * np.sqrt(h)) for h in steps}


def seasonal_naive(panel: Panel, steps: Sequence[int]) -> dict[int, Quantiles]:
    """What the value was a whole number of seasons before, and how far off that has been.

    With m = season * ceil(h / season), the distribution is value[origin + h - m] plus the errors
    value[t] - value[t - m] known at the origin: quantiles of the last 500. A missing value is taken from its last
    known one. Raises ValueError where an origin has fewer than m + 20 values before it.
    """
    [one], [origins] = panel.series, panel.rows
    assert panel.season is not None
    values, errors = filled(one, panel.kind), dict[int, np.ndarray]()
    for back in {panel.season * -(-h // panel.season) for h in steps}:
        errors[back] = _seasonal_errors(values, origins, back, panel.season)
    laws = {}
    for h in steps:
        back = panel.season * -(-h // panel.season)
        laws[h] = Quantiles((values[origins + h - back] - values[origins])[:, None] + errors[back], LEVELS)
    return laws


def _seasonal_errors(values: np.ndarray, origins: np.ndarray, back: int, season: int) -> np.ndarray:
    """Quantiles of the errors of repeating what was `back` rows ago, known at each origin, `[n,99]`."""
    start = int(np.isfinite(values).argmax())
    if len(origins) and min(origins) < start + back + VOLATILITY_WINDOW:
        raise ValueError(
            f"origin {min(origins)} has fewer than {back + VOLATILITY_WINDOW} values before it, which seasons of "
            f"{season} need: start at a later origin or give earlier values"
        )
    errors = [
        np.quantile(values[first : t + 1] - values[first - back : t + 1 - back], LEVELS, method="weibull")
        for t in origins
        for first in [max(start + back, t + 1 - SEASONAL_ERRORS)]
    ]
    return np.array(errors).reshape(len(origins), len(LEVELS))


def naive_scale(close: np.ndarray, origins: np.ndarray, horizon: int, kind: Kind = OHLCV) -> np.ndarray:
    """Mean absolute `horizon`-step log return (or difference) known at each origin [n]: the denominator of MASE.

    It is what the last price misses by, on average, in sample. Raises ValueError where an origin has none.
    """
    return _naive_error(close, origins, horizon, kind, power=1)


def naive_square_scale(close: np.ndarray, origins: np.ndarray, horizon: int, kind: Kind = OHLCV) -> np.ndarray:
    """Mean squared one, [n]: the denominator of RMSSE, before its root."""
    return _naive_error(close, origins, horizon, kind, power=2)


def _naive_error(close: np.ndarray, origins: np.ndarray, horizon: int, kind: Kind, *, power: int) -> np.ndarray:
    log_close, position = _known_log_prices(close, origins, horizon, horizon, kind)
    return (log_close.diff(horizon).abs() ** power).expanding().mean().to_numpy()[position]
