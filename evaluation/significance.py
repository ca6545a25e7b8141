"""Whether a difference is more than chance: block-bootstrap intervals over dates, paired differences, verdicts.

* Tickers of a date travel together, because they move together; blocks span at least the horizon (twice it where there
  are dates enough), because h-step returns of neighbouring origins overlap. Student's t with the number of blocks as
  sample size makes the interval honest when blocks are few.
* `horizon` is counted in dates everywhere here: the outcome of an origin overlaps those of the next horizon - 1 dates.
  Of origins that lie `stride` bars apart it is ceil(steps / stride) (`overlap`), so 1 where outcomes do not overlap.
* "Better" and "worse" need both the interval and the Diebold-Mariano test at 5 %. The interval sees dependence that
  lasts longer than the horizon, the test does not; the test does not depend on the draws of a bootstrap.
* What is undefined is None: never NaN, never a stand-in. Every result goes into JSON as it is.

Shapes: n values, each with its date; D dates, M models.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from arch.bootstrap import MCS
from scipy import stats

BOOTSTRAP_REPS = 1000
FEWEST_DATES = 10  # below this an interval says more about the method than about the forecast
DRAWN_AT_ONCE = 2**21  # sums of blocks in memory
SIGNIFICANT = 0.05  # two-sided
CONFIDENCE_SET = 0.10  # size of the model confidence set: it holds the best model in 90 % of all samples
Interval = list[float] | None


@dataclass(frozen=True)
class Figure:
    """How a verdict speaks of what was compared."""

    name: str
    form: str
    relative: bool = False  # told in percent of the other's mean
    more_is_better: bool = False


CRPS = Figure("CRPS", "+.1f", relative=True)
GAIN = Figure("", "+.3g", more_is_better=True)  # profits, and how pairs are ranked


def overlap(steps: int, stride: int) -> int:
    """How many dates in a row share a part of their outcomes.

    >>> overlap(20, 20), overlap(20, 5), overlap(1, 1)
    (1, 4, 1)
    """
    return -(-steps // stride)


def enough_dates(num_dates: int, horizon: int) -> bool:
    return num_dates >= max(FEWEST_DATES, 2 * horizon)


def block_length(num_dates: int, horizon: int) -> int:
    return max(horizon, min(max(2 * horizon, round(num_dates ** (1 / 3))), num_dates // 4))


def sums_by_date(values: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """Sums of values [n,C] over the forecasts of each date, and their number as the last column, `[D,C+1]`."""
    _, day = np.unique(dates, return_inverse=True)
    columns = [*np.asarray(values, float).T, np.ones(len(day))]
    return np.column_stack([np.bincount(day, weights=column) for column in columns])


def resampled(by_date: np.ndarray, block: int, *, seed: int) -> Iterator[np.ndarray]:
    """Column sums of by_date [D,C] over dates drawn by a circular block bootstrap, some of the draws at a time, [R,C].

    The draws are those of arch's `CircularBlockBootstrap` with this seed. Sums of blocks are differences of running
    sums, so a draw costs D / block additions and not D.
    """
    num_dates = len(by_date)
    num_blocks = -(-num_dates // block)
    lengths = np.full(num_blocks, block)
    lengths[-1] -= num_blocks * block - num_dates  # the last block is cut
    centre = by_date.mean(axis=0)  # running sums of what is centred stay small
    twice = np.concatenate([by_date, by_date]) - centre
    running = np.concatenate([np.zeros((1, by_date.shape[1])), np.cumsum(twice, axis=0)])
    generator = np.random.default_rng(seed)
    at_once = max(1, DRAWN_AT_ONCE // (num_blocks * by_date.shape[1]))
    for first in range(0, BOOTSTRAP_REPS, at_once):
        starts = generator.integers(num_dates, size=(min(at_once, BOOTSTRAP_REPS - first), num_blocks))
        yield (running[starts + lengths] - running[starts]).sum(axis=1) + num_dates * centre


def mean_interval(values: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int = 0) -> Interval:
    """95 % interval of the mean of values [n], by a circular block bootstrap over dates; None if there are too few."""
    by_date = sums_by_date(np.asarray(values)[:, None], dates)
    if not enough_dates(len(by_date), horizon):
        return None
    block = block_length(len(by_date), horizon)
    num_blocks = len(by_date) / block
    means = np.concatenate([sums[:, 0] / sums[:, 1] for sums in resampled(by_date, block, seed=seed)])
    half_width = stats.t.ppf(0.975, num_blocks - 1) * np.sqrt(means.var() * num_blocks / (num_blocks - 1))
    centre = float(np.mean(values))
    return [centre - float(half_width), centre + float(half_width)]


def date_means(values: np.ndarray, dates: np.ndarray) -> np.ndarray:
    """One value per date, [D], whose mean is the mean of values [n] and whose spread is that of its estimate.

    With as many forecasts on each date it is the mean of the date. Otherwise a date counts by its forecasts: with mean
    m it is m + (sum of the date - forecasts of the date * m) / forecasts per date, the ratio estimator linearised.
    """
    sums, counts = sums_by_date(np.asarray(values)[:, None], dates).T
    mean = sums.sum() / counts.sum()
    return mean + (sums - counts * mean) / counts.mean()


def long_run_variance(values: np.ndarray, horizon: int) -> float:
    """Of a series [D] whose neighbours within horizon - 1 dates are dependent: variance + 2 * their autocovariances.

    The autocovariances count in full, as Diebold and Mariano (1995) have them. Weights that fall with the lag (Newey
    and West) would leave out a third of the variance of overlapping sums; they stand in where the sum is not positive.
    """
    deviation, size = values - values.mean(), len(values)
    covariances = np.array([deviation[lag:] @ deviation[: size - lag] / size for lag in range(horizon)])
    full = covariances[0] + 2 * covariances[1:].sum()
    return float(full if full > 0 else covariances[0] + 2 * (1 - np.arange(1, horizon) / horizon) @ covariances[1:])


def diebold_mariano(difference: np.ndarray, dates: np.ndarray, *, horizon: int) -> float | None:
    """Two-sided p-value that the mean loss difference [n] is zero; None for too few dates or a constant difference.

    Diebold and Mariano (1995) on one difference per date with the small-sample factor of Harvey, Leybourne and Newbold
    (1997). Student's t has D / horizon - 1 degrees of freedom, as many as there are outcomes that do not overlap: at
    horizon 1 that is Harvey's D - 1; with it, 60 dates of 20 steps reject a true hypothesis in 20 % of all samples.
    """
    series = date_means(difference, dates)
    size = len(series)
    if not enough_dates(size, horizon) or np.ptp(series) <= 1e-12 * np.abs(series).max():
        return None
    harvey = np.sqrt((size + 1 - 2 * horizon + horizon * (horizon - 1) / size) / size)
    statistic = harvey * series.mean() / np.sqrt(long_run_variance(series, horizon) / size)
    return float(2 * stats.t.sf(abs(statistic), size / horizon - 1))


def confidence_set(
    losses: Mapping[str, np.ndarray], dates: np.ndarray, *, horizon: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Which of several models may be the best: `mcs_p` and `in_mcs` of each, from its losses [n] on the same outcomes.

    The model confidence set of Hansen, Lunde and Nason (2011) over dates: models leave from the worst on while equal
    skill of those that remain is refused at 10 %. Models whose losses are the same on every date share one place. Both
    are None where there are too few dates.
    """
    series = pd.DataFrame({name: date_means(loss, dates) for name, loss in losses.items()})
    if not enough_dates(len(series), horizon):
        return {name: {"mcs_p": None, "in_mcs": None} for name in losses}
    # a relative rounding: what differs in the last bits alone has no variance to test with
    same = (series / series.abs().to_numpy().max()).round(12).T
    first = {name: same.index[(same == same.loc[name]).all(axis=1)][0] for name in losses}
    distinct = series[list(dict.fromkeys(first.values()))]
    p_values = {distinct.columns[0]: 1.0}
    if distinct.shape[1] > 1:
        block = block_length(len(series), horizon)
        test = MCS(distinct, CONFIDENCE_SET, reps=BOOTSTRAP_REPS, block_size=block, bootstrap="circular", seed=seed)
        test.compute()
        p_values = test.pvalues["Pvalue"].to_dict()
    return {
        name: {"mcs_p": float(p_values[one]), "in_mcs": bool(p_values[one] > CONFIDENCE_SET)}
        for name, one in first.items()
    }


def paired_difference(
    loss_a: np.ndarray, loss_b: np.ndarray, dates: np.ndarray, horizon: int, seed: int = 0
) -> dict[str, float | list[float] | None]:
    """Mean of loss_a - loss_b [n] on the same outcomes with its 95 % interval, also relative to the mean of loss_b,
    and the p-value of `diebold_mariano`.

    The pairing removes what makes both losses large on the same days, so it finds differences that the two models'
    own intervals hide. The relative interval takes the mean of loss_b as given.
    """
    loss_a, loss_b = np.asarray(loss_a, float), np.asarray(loss_b, float)
    if not loss_a.shape == loss_b.shape == np.shape(dates):
        raise ValueError(f"losses of {loss_a.shape} and {loss_b.shape}, dates of {np.shape(dates)}: pair them first")
    if not np.isfinite(loss_a - loss_b).all():
        first = np.flatnonzero(~np.isfinite(loss_a - loss_b))[0]
        raise ValueError(f"loss {first} is not finite: compare only outcomes that both have a loss for")
    interval = mean_interval(loss_a - loss_b, dates, horizon=horizon, seed=seed)
    difference, reference = float(np.mean(loss_a - loss_b)), float(np.mean(loss_b))
    return {
        "difference": difference,
        "ci95": interval,
        "relative": difference / reference if reference > 0 else None,
        "relative_ci95": [bound / reference for bound in interval] if interval and reference > 0 else None,
        "dm_p": diebold_mariano(loss_a - loss_b, dates, horizon=horizon),
    }


def compare(
    values_a: np.ndarray,
    values_b: np.ndarray,
    dates: np.ndarray,
    name: str,
    *,
    horizon: int,
    seed: int = 0,
    figure: Figure = CRPS,
) -> dict[str, Any]:
    """The `paired_difference` of a - b [n], and what it says of a beside b, which is called `name`."""
    difference = paired_difference(values_a, values_b, dates, horizon, seed=seed)
    return {**difference, "verdict": verdict(difference, name, figure)}


def finding(difference: Mapping[str, Any], figure: Figure = CRPS) -> str | None:
    """`better`, `worse` or `no edge`, by interval and test; None where there are too few dates.

    A difference that is the same on all dates has no test, and the interval alone decides.

    >>> finding({"ci95": [-0.2, -0.1], "dm_p": 0.2})
    'no edge'
    """
    if difference["ci95"] is None:
        return None
    low, high = difference["ci95"]
    below, above = ("worse", "better") if figure.more_is_better else ("better", "worse")
    p = difference.get("dm_p")
    if p is not None and p >= SIGNIFICANT:
        return "no edge"
    return below if high < 0 else above if low > 0 else "no edge"


def verdict(difference: Mapping[str, Any], name: str, figure: Figure = CRPS) -> str:
    """What a `paired_difference` says about the one beside the other, in plain words.

    >>> verdict({"ci95": [-0.2, -0.1], "relative": -0.012, "relative_ci95": [-0.019, -0.005], "dm_p": 0.0031}, "drift")
    'better than drift (CRPS -1.2 %, 95 % CI [-1.9 %, -0.5 %], DM p = 0.003)'
    >>> verdict({"difference": 0.002, "ci95": [0.001, 0.003]}, "before", GAIN)
    'better than before (+0.002, 95 % CI [+0.001, +0.003])'
    """
    interval = difference["relative_ci95" if figure.relative else "ci95"]
    found = finding(difference, figure)
    if interval is None or found is None:
        return f"too few dates to compare with {name}"
    factor, unit = (100, " %") if figure.relative else (1, "")
    values = (difference["relative" if figure.relative else "difference"], *interval)
    value, low, high = (f"{factor * one:{figure.form}}{unit}" for one in values)
    told = f"{figure.name} {value}".strip()
    return f"{_than(found)} {name} ({told}, 95 % CI [{low}, {high}]{_test(difference)})"


def headline(verdicts: Mapping[str, Mapping[str, Any]], strongest: str) -> str:
    """What the paired CRPS differences `verdicts` say of a model, the `strongest` baseline first.

    Where the model does not beat it, the strongest of those that it does beat follows: the one of least CRPS.

    >>> har = {"difference": -0.1, "ci95": [-0.3, 0.1], "relative": -0.01, "relative_ci95": [-0.03, 0.01], "dm_p": 0.3}
    >>> garch = {"difference": -1, "ci95": [-2, -0.5], "relative": -0.1, "relative_ci95": [-0.2, -0.05], "dm_p": 1e-5}
    >>> headline({"garch_t": garch, "har_range": har}, "har_range").split("; ")[0]
    'no edge over har_range (CRPS -1.0 %, 95 % CI [-3.0 %, +1.0 %], DM p = 0.300)'
    >>> headline({"garch_t": garch, "har_range": har}, "har_range").split("; ")[1]
    'better than garch_t by 10.0 % CRPS [5.0, 20.0], DM p < 0.001'
    """
    first = verdicts[strongest]
    found = finding(first)
    if found is None or first["relative_ci95"] is None:
        return verdict(first, strongest)
    if found == "better":
        return _by(first, strongest, found)
    beaten = {
        name: one
        for name, one in verdicts.items()
        if name != strongest and one["relative_ci95"] is not None and finding(one) == "better"
    }
    told = [verdict(first, strongest) if found == "no edge" else _by(first, strongest, found)]
    if beaten:  # ours - theirs is largest for the one of least CRPS
        best = max(beaten, key=lambda name: beaten[name]["difference"])
        told.append(_by(beaten[best], best, "better"))
    return "; ".join(told if beaten or len(verdicts) == 1 else [*told, "better than no other baseline"])


def _than(found: str) -> str:
    return "no edge over" if found == "no edge" else f"{found} than"


def _by(difference: Mapping[str, Any], name: str, found: str) -> str:
    """By how much: a gain in percent with its interval, both without sign where the words say the direction."""
    sign = -100 if found == "better" else 100
    low, high = sorted(sign * bound for bound in difference["relative_ci95"])
    gain = sign * difference["relative"]
    return f"{_than(found)} {name} by {gain:.1f} % CRPS [{low:.1f}, {high:.1f}]{_test(difference)}"


def _test(difference: Mapping[str, Any]) -> str:
    p = difference.get("dm_p")
    return "" if p is None else ", DM p < 0.001" if p < 0.001 else f", DM p = {p:.3f}"
