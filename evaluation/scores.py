"""Scores of a distribution forecast, each with its uncertainty where it has one (`significance.py`).

* Everything is measured on cumulative log returns from the origin, never on price levels, where any forecast close to
  the last price looks good.
* What is undefined is None: never NaN, never a stand-in such as 0.5. Every result goes into JSON as it is.

Shapes: n forecasts, each with its date (origins of one date share it).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scoringrules
from scipy import stats
from sklearn.metrics import r2_score
from statsmodels.regression.linear_model import OLS
from statsmodels.stats.proportion import proportion_confint

from .distributions import COVERAGE_LEVELS, LEVELS, Forecast
from .ranking import Ranked
from .significance import (
    FEWEST_DATES,
    block_length,
    diebold_mariano,
    enough_dates,
    mean_interval,
    overlap,
    resampled,
    sums_by_date,
)

FEWEST_TICKERS = 3  # a rank correlation of two tickers is always -1 or 1
PINBALL_LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
PIT_GRID = np.arange(1, 40) / 40  # where the test looks at the distribution function of the PIT
ROUNDING = 1e-20  # of a sum of squares: less is no spread


def _coverage(forecast: Forecast, realised: np.ndarray, levels: Sequence[int]) -> dict[str, float]:
    """Share of outcomes within the central interval of each level in percent."""
    tails = (1 - np.array(levels) / 100) / 2
    lower, upper = forecast.quantile(tails), forecast.quantile(1 - tails)  # [n, L] each
    inside = (lower <= realised[:, None]) & (realised[:, None] <= upper)
    return {f"coverage_{level}": float(share) for level, share in zip(levels, inside.mean(0), strict=True)}


def _called(p_up: np.ndarray, realised: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a sign was called, and whether those were right.

    A P(up) of exactly 0.5 calls nothing; a move of zero has no sign.
    """
    called = (realised != 0) & (p_up != 0.5)
    return called, (p_up > 0.5)[called] == (realised > 0)[called]


def _direction(p_up: np.ndarray, realised: np.ndarray, dates: np.ndarray, *, shared: int, seed: int) -> dict:
    called, right = _called(p_up, realised)
    moved, interval, wilson = realised != 0, None, None
    if 0 < right.sum() < len(right):  # without both hits and misses there is no spread to resample
        interval = mean_interval(right, dates[called], horizon=shared, seed=seed)
    if called.any():
        wilson = [float(bound) for bound in proportion_confint(right.sum(), len(right), method="wilson")]
    return {
        "direction_n": int(called.sum()),
        "direction_accuracy": float(right.mean()) if called.any() else None,
        "direction_ci95": [max(interval[0], 0.0), min(interval[1], 1.0)] if interval else None,
        "direction_wilson95": wilson,
        "direction_base_rate": float((realised[moved] > 0).mean()) if moved.any() else None,
        "pesaran_timmermann_p": pesaran_timmermann(
            (p_up > 0.5)[called], (realised > 0)[called], dates[called], horizon=shared
        ),
    }


def pesaran_timmermann(called_up: np.ndarray, up: np.ndarray, dates: np.ndarray, *, horizon: int) -> float | None:
    """One-sided p-value that calls of up [n] have nothing to do with moves up [n], dates being `horizon` dependent.

    Pesaran and Timmermann (1992) compare the share of hits with what the shares of up calls and up moves alone give:
    the difference is twice their covariance. Its sum over the tickers of a date is tested as `diebold_mariano` tests a
    loss, as tickers of a date move together. None for too few dates, or where one side never changes.
    """
    if not len(up):
        return None
    product = (called_up - called_up.mean()) * (up - up.mean())
    two_sided = diebold_mariano(product, dates, horizon=horizon)
    if two_sided is None:
        return None
    return two_sided / 2 if product.mean() > 0 else 1 - two_sided / 2


def correlations(point: np.ndarray, realised: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Pearson correlation across tickers on each date, in date order.

    Dates with fewer than 3 tickers, or where all forecasts or all outcomes tie, have none and are left out.
    """
    dates = np.asarray(dates)
    values = pd.DataFrame({"point": point, "realised": realised})
    centred = values - values.groupby(dates).transform("mean")
    squares, raw = ((one**2).groupby(dates).sum() for one in (centred, values))
    cross = (centred["point"] * centred["realised"]).groupby(dates).sum()
    usable = (values.groupby(dates).size() >= FEWEST_TICKERS) & (squares > ROUNDING * raw).all(axis=1)
    return (cross / np.sqrt(squares["point"] * squares["realised"]))[usable].to_numpy()


def rank_correlations(point: np.ndarray, realised: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Spearman correlation across tickers on each date: the `correlations` of the ranks within each."""
    ranks = pd.DataFrame({"point": point, "realised": realised}).groupby(np.asarray(dates)).rank()
    return correlations(ranks["point"].to_numpy(), ranks["realised"].to_numpy(), dates)


def newey_west_t(values: np.ndarray, *, horizon: int) -> float | None:
    """t statistic of the mean of a series of dates, with the lags of overlapping h-step returns (Newey-West 1987)."""
    num_dates = len(values)
    if num_dates < max(FEWEST_DATES, 2 * horizon) or np.ptp(values) == 0:
        return None
    lags = max(horizon - 1, int(4 * (num_dates / 100) ** (2 / 9)))
    fit = OLS(values, np.ones(num_dates)).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True})
    return float(fit.tvalues[0])


def pit_test(pit: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int = 0) -> float | None:
    """p-value that the PIT [n] is uniform: how often a block bootstrap over dates is as far from its own centre.

    The distance is the largest difference of the distribution functions at 39 levels. A Kolmogorov-Smirnov table
    would take tickers of a date for independent, and reject forecasts that are right. None for too few dates.
    """
    by_date = sums_by_date(pit[:, None] <= PIT_GRID, dates)
    if not enough_dates(len(by_date), horizon):
        return None
    block = block_length(len(by_date), horizon)
    drawn = np.concatenate([*resampled(by_date, block, seed=seed)])
    centre = by_date[:, :-1].sum(axis=0) / by_date[:, -1].sum()
    num_blocks = len(by_date) / block
    chance = np.abs(drawn[:, :-1] / drawn[:, -1:] - centre).max(axis=1) * np.sqrt(num_blocks / (num_blocks - 1))
    farther = (chance >= np.abs(centre - PIT_GRID).max()).sum()
    return float((1 + farther) / (1 + len(chance)))


def _law(forecast: Forecast, realised: np.ndarray, dates: np.ndarray, *, shared: int, seed: int) -> dict:
    """What only a forecast with spread has; without any, all of it is None."""
    tails = forecast.quantile([0.1, 0.9])
    if (forecast.variance == 0).all():
        names = [f"coverage_{level}" for level in COVERAGE_LEVELS]
        return dict.fromkeys([*names, "interval_score_80", "pit_ks", "pit_ks_p", "qlike", "r2_variance"])
    pit, square, variance = forecast.pit(realised, seed), realised**2, forecast.variance
    with np.errstate(all="ignore"):
        qlike = float(np.mean(np.log(variance) + square / variance))
    return {
        **_coverage(forecast, realised, COVERAGE_LEVELS),
        "interval_score_80": float(scoringrules.interval_score(realised, *tails.T, 0.2, backend="numpy").mean()),
        "pit_ks": float(stats.kstest(pit, "uniform").statistic),
        "pit_ks_p": pit_test(pit, dates, horizon=shared, seed=seed),
        "qlike": qlike if np.isfinite(qlike) else None,
        "r2_variance": float(r2_score(square, variance)) if np.ptp(square) > 0 else None,
    }


def _scaled(errors: np.ndarray, scale: np.ndarray) -> float | None:
    """Mean of errors over scale, where there is one."""
    return float(np.mean(errors[scale > 0] / scale[scale > 0])) if (scale > 0).any() else None


def bands(forecast: Forecast, realised: np.ndarray) -> dict[str, float | None]:
    """CRPS and the coverage of every central interval; one number has none."""
    coverage = dict(_coverage(forecast, realised, COVERAGE_LEVELS))
    known = (forecast.variance > 0).any()
    return {"crps": float(forecast.crps(realised).mean()), **(coverage if known else dict.fromkeys(coverage))}


def brief(forecast: Forecast, realised: np.ndarray, naive_scale: np.ndarray) -> dict[str, float | None]:
    """CRPS, MASE, coverage of the 80 % interval and direction: what `score` says of them, without a bootstrap."""
    _, right = _called(forecast.p_up, realised)
    return {
        "crps": float(forecast.crps(realised).mean()),
        "mase": _scaled(np.abs(realised - forecast.median), naive_scale),
        "coverage_80": None if (forecast.variance == 0).all() else _coverage(forecast, realised, [80])["coverage_80"],
        "direction_accuracy": float(right.mean()) if len(right) else None,
    }


def score(
    forecast: Forecast,
    realised: np.ndarray,
    dates: np.ndarray,
    naive_scale: np.ndarray,
    horizon: int,
    seed: int = 0,
    *,
    square_scale: np.ndarray | None = None,
    stride: int = 1,
    ranked: Ranked | None = None,
) -> dict[str, int | float | list[float] | None]:
    """One row of results for n forecasts of the cumulative log return to `horizon`, from every `stride`-th bar.

    realised [n] are the outcomes; dates [n] the origins' dates; naive_scale [n] and square_scale [n] each ticker's
    mean absolute and mean squared h-step log return known at the origin (`baselines.naive`). Whoever scores several
    forecasts of the same outcomes gives their `Ranked`, made once.

    * crps: mean continuous ranked probability score, in log-return units; smaller is better
    * pinball: mean quantile loss over 5, 10, 25, 50, 75, 90 and 95 %; interval_score_80: width of the 80 % interval
      plus ten times what an outcome lies outside of it (Gneiting and Raftery 2007)
    * mae, mase: mean absolute error of the median; the same over naive_scale (1 = as far off as the last price was in
      sample; a ticker that never moved has no scale and is left out)
    * rmse, rmsse: root mean square error of the mean; the same with each square over square_scale
    * coverage_50, 80, 90: share of outcomes within the central interval of that level
    * pit_ks, pit_ks_p: largest distance of the PIT's distribution function from the uniform one, and its `pit_test`
    * qlike: mean of log(variance) + squared return / variance (Patton 2011); None where a variance is zero
    * r2_variance: share of the variance of squared returns that the forecast variance explains
    * r2_oos: 1 - squared errors of the mean / squared returns, so against a forecast of zero (Campbell, Thompson 2008)
    * direction_accuracy, direction_n: share and number of moves called by P(up) != 0.5; direction_base_rate: share of
      up moves, which "always up" would reach; direction_wilson95: interval as if all moves were independent;
      pesaran_timmermann_p: see `pesaran_timmermann`
    * ic, rank_ic, ic_t, rank_ic_t: mean over dates of the Pearson and the Spearman correlation across tickers, and
      their Newey-West t
    * rps, rps_dates: see `ranking.Ranked`
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
    shared = overlap(horizon, stride)
    absolute_error, square_error = np.abs(realised - forecast.median), (realised - forecast.point) ** 2
    relative_square = None if square_scale is None else _scaled(square_error, np.asarray(square_scale, float))
    pinball = scoringrules.quantile_score(
        realised[:, None], forecast.quantile(PINBALL_LEVELS), np.array(PINBALL_LEVELS), backend="numpy"
    )
    linear, by_rank = (each(forecast.point, realised, dates) for each in (correlations, rank_correlations))
    return {
        "horizon": int(horizon),
        "n": len(realised),
        "num_dates": len(np.unique(dates)),
        "crps": float(crps.mean()),
        "crps_ci95": mean_interval(crps, dates, horizon=shared, seed=seed),
        "pinball": float(pinball.mean()),
        "mae": float(absolute_error.mean()),
        "rmse": float(np.sqrt(square_error.mean())),
        "mase": _scaled(absolute_error, naive_scale),
        "rmsse": None if relative_square is None else float(np.sqrt(relative_square)),
        "r2_oos": float(1 - square_error.sum() / (realised**2).sum()) if realised.any() else None,
        **_law(forecast, realised, dates, shared=shared, seed=seed),
        **_direction(forecast.p_up, realised, dates, shared=shared, seed=seed),
        "ic": float(linear.mean()) if len(linear) else None,
        "ic_t": newey_west_t(linear, horizon=shared),
        "rank_ic": float(by_rank.mean()) if len(by_rank) else None,
        "rank_ic_t": newey_west_t(by_rank, horizon=shared),
        "rank_ic_dates": len(by_rank),
        **(ranked or Ranked.of(realised, dates, seed)).rps(forecast.quantile(LEVELS)),
    }


def skill(row: dict, baseline_row: dict) -> float | None:
    """Share of the baseline's CRPS that is saved: 1 - crps / baseline crps. Positive is better.

    >>> skill({"crps": 0.75}, {"crps": 1.0})
    0.25
    """
    return 1.0 - row["crps"] / baseline_row["crps"] if baseline_row["crps"] > 0 else None
