"""Scores of a distribution forecast, each with its uncertainty where it has one (`significance.py`).

* Everything is measured on cumulative log returns from the origin, never on price levels, where any forecast close to
  the last price looks good.
* What is undefined is None: never NaN, never a stand-in such as 0.5. Every result goes into JSON as it is.

Shapes: n forecasts, each with its date (origins of one date share it).
"""

import numpy as np
import pandas as pd
import statsmodels.api as sm

from .distributions import COVERAGE_LEVELS, Forecast
from .significance import FEWEST_DATES, mean_interval

FEWEST_TICKERS = 3  # a rank correlation of two tickers is always -1 or 1


def _direction(p_up: np.ndarray, realised: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int) -> dict:
    """Share of moves whose sign was called. A P(up) of exactly 0.5 calls nothing; a move of zero has no sign."""
    moved = realised != 0
    called = moved & (p_up != 0.5)
    right = (p_up > 0.5)[called] == (realised > 0)[called]
    interval = None
    if 0 < right.sum() < len(right):  # without both hits and misses there is no spread to resample
        interval = mean_interval(right, dates[called], horizon=horizon, seed=seed)
    return {
        "direction_n": int(called.sum()),
        "direction_accuracy": float(right.mean()) if called.any() else None,
        "direction_ci95": [max(interval[0], 0.0), min(interval[1], 1.0)] if interval else None,
        "direction_base_rate": float((realised[moved] > 0).mean()) if moved.any() else None,
    }


def rank_correlations(point: np.ndarray, realised: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Spearman correlation across tickers on each date, in date order.

    Dates with fewer than 3 tickers, or where all forecasts or all outcomes tie, have none and are left out.
    """
    dates = np.asarray(dates)
    by_date = pd.DataFrame({"point": point, "realised": realised}).groupby(dates)
    ranks = by_date.rank()
    centred = ranks - ranks.groupby(dates).transform("mean")
    pairs = (("point", "realised"), ("point", "point"), ("realised", "realised"))
    cross, point_square, realised_square = ((centred[a] * centred[b]).groupby(dates).sum() for a, b in pairs)
    scale = np.sqrt(point_square * realised_square)
    usable = (by_date.size() >= FEWEST_TICKERS) & (scale > 0)
    return (cross[usable] / scale[usable]).to_numpy()


def newey_west_t(values: np.ndarray, *, horizon: int) -> float | None:
    """t statistic of the mean of a series of dates, with the lags of overlapping h-step returns (Newey-West 1987)."""
    num_dates = len(values)
    if num_dates < max(FEWEST_DATES, 2 * horizon) or np.ptp(values) == 0:
        return None
    lags = max(horizon - 1, int(4 * (num_dates / 100) ** (2 / 9)))
    fit = sm.OLS(values, np.ones(num_dates)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True})
    return float(fit.tvalues[0])


def score(
    forecast: Forecast, realised: np.ndarray, dates: np.ndarray, naive_scale: np.ndarray, horizon: int, seed: int = 0
) -> dict[str, int | float | list[float] | None]:
    """One row of results for n forecasts of the cumulative log return to `horizon`.

    realised [n] are the outcomes; dates [n] the origins' dates; naive_scale [n] each ticker's mean absolute h-step log
    return known at the origin (`baselines.naive.naive_scale`).

    * crps: mean continuous ranked probability score, in log-return units; smaller is better
    * mae, mase: mean absolute error of the median; the same over naive_scale (1 = as far off as the last price was in
      sample; a ticker that never moved has no scale and is left out)
    * rmse: root mean square error of the mean
    * coverage_50, 80, 90: share of outcomes within the central interval of that level
    * direction_accuracy, direction_n: share and number of moves called by P(up) != 0.5; direction_base_rate: share of
      up moves, which "always up" would reach
    * rank_ic, rank_ic_t: mean over dates of the Spearman correlation across tickers, and its Newey-West t
    * *_ci95: 95 % block-bootstrap interval over dates (`mean_interval`)
    """
    realised, dates, naive_scale = np.asarray(realised, float), np.asarray(dates), np.asarray(naive_scale, float)
    if not len(forecast.point) == len(realised) == len(dates) == len(naive_scale) > 0:
        lengths = [len(forecast.point), len(realised), len(dates), len(naive_scale)]
        raise ValueError(f"forecast, realised, dates and naive_scale have {lengths} entries: give one of each or more")
    crps = forecast.crps(realised)
    if not np.isfinite(crps).all():
        raise ValueError(
            f"forecast or outcome {np.flatnonzero(~np.isfinite(crps))[0]} is not finite: score only origins whose"
            " outcome is known"
        )
    absolute_error = np.abs(realised - forecast.median)
    has_scale = naive_scale > 0
    tails = (1 - np.array(COVERAGE_LEVELS) / 100) / 2
    lower, upper = forecast.quantile(tails), forecast.quantile(1 - tails)  # [n, L] each
    inside = (lower <= realised[:, None]) & (realised[:, None] <= upper)
    correlations = rank_correlations(forecast.point, realised, dates)
    return {
        "horizon": int(horizon),
        "n": len(realised),
        "num_dates": len(np.unique(dates)),
        "crps": float(crps.mean()),
        "crps_ci95": mean_interval(crps, dates, horizon=horizon, seed=seed),
        "mae": float(absolute_error.mean()),
        "rmse": float(np.sqrt(np.mean((realised - forecast.point) ** 2))),
        "mase": float(np.mean(absolute_error[has_scale] / naive_scale[has_scale])) if has_scale.any() else None,
        **{f"coverage_{level}": float(share) for level, share in zip(COVERAGE_LEVELS, inside.mean(0), strict=True)},
        **_direction(forecast.p_up, realised, dates, horizon=horizon, seed=seed),
        "rank_ic": float(correlations.mean()) if len(correlations) else None,
        "rank_ic_t": newey_west_t(correlations, horizon=horizon),
        "rank_ic_dates": len(correlations),
    }


def skill(row: dict, baseline_row: dict) -> float | None:
    """Share of the baseline's CRPS that is saved: 1 - crps / baseline crps. Positive is better.

    >>> skill({"crps": 0.75}, {"crps": 1.0})
    0.25
    """
    return 1.0 - row["crps"] / baseline_row["crps"] if baseline_row["crps"] > 0 else None
