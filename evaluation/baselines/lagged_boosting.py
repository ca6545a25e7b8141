"""LightGBM over lags, calendar and step: one global quantile model for all series and steps of plain series.

* A row of training is (series, origin, step): direct forecasts, the step being a feature. It reads what its origin
  knows: values one, two, three and four seasons before the step, and, of daily values, a year before it and around
  that; means of the last rows and of the same rows a year before; the calendar of the step; which series it is.
* All values, and the outcome, are multiples of the mean size of the last `SCALE` rows: series of all sizes are pooled,
  and growth carries over.
* Nine quantiles (`KNOTS`), a set of trees each. Its number of trees is that of the least loss on the last `CHECKED`
  known at the fence; then it is fitted again on all that is known there.
* Repeatable: at most `MOST_ROWS` rows, drawn with the panel's seed.
* A missing value is its last known one.

Shapes: N values of a series, k rows, F features, P steps, Q knots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from ...ahead_tsf_llm import Rhythm, Steps
from ...series_tsf_llm import DAY, candidate_seasons
from ..distributions import LEVELS, Forecast, Quantiles
from .knots import FEWEST_ROWS, KNOTS, spread_knots
from .panel import Panel, filled, moment

MOST_ROWS = 60_000
CHECKED = np.timedelta64(120, "D")
LEAST_TRAINED = 0.7  # of the time that is known: what is left of short histories for training
FIRST = 28  # rows before a row of training: lags, and a rhythm that goes on
SCALE, WINDOWS, CYCLES, YEARS, AROUND = 91, (7, 28, 91, 364), 4, 2, 3
TREES, PATIENCE = 400, 25
PARAMETERS: dict[str, Any] = {
    "objective": "quantile",
    "learning_rate": 0.06,
    "num_leaves": 31,
    "min_data_in_leaf": 60,
    "max_bin": 127,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.7,
    "bagging_freq": 1,
    "cat_smooth": 20,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


@dataclass(frozen=True)
class _Lags:
    """One series with what its rows of training are made of."""

    code: int
    value: np.ndarray  # float64 [N], filled
    known: np.ndarray  # bool [N]
    time: np.ndarray  # datetime64[ns] [N]
    ahead: Steps  # their times, by the rhythm of the rows up to the origin
    season: int
    year: int | None  # rows of it, where there is one

    @property
    def scale(self) -> np.ndarray:
        """Mean size of the last `SCALE` rows, `[N]`; NaN before the first value and where all are zero."""
        size = pd.Series(np.abs(self.value)).rolling(SCALE, min_periods=1).mean().to_numpy()
        return np.where(size > 0, size, np.nan)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Values of rows, NaN before the first."""
        return np.where(rows >= 0, self.value[np.maximum(rows, 0)], np.nan)

    def inputs(self, rows: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """`[k,F]` of pairs (origin, step)."""
        scale, running = self.scale[rows], _running(self.value)
        back = self.season * -(-steps // self.season)
        cycles = [self.at(rows + steps - back - self.season * i) for i in range(CYCLES)]
        means = [_mean(running, rows, length) for length in WINDOWS]
        columns = [*cycles, np.mean(cycles, axis=0), *means, self.at(rows)]
        if self.year is not None:
            for number in range(1, YEARS + 1):
                cycle = number * self.year * -(-(steps + AROUND) // self.year)
                columns += [
                    self.at(rows + steps - cycle),
                    _mean(running, rows + steps - cycle + AROUND, 2 * AROUND + 1),
                ]
                columns += [
                    _mean(running, rows + steps - cycle + 14, 29),
                    _mean(running, rows - number * self.year, 28),
                ]
        zeros = _mean(_running(np.where(np.isfinite(self.value), self.value == 0, np.nan)), rows, 28)
        times = self.ahead.times(rows, int(steps.max(initial=1)))
        when = pd.DatetimeIndex(times[np.arange(len(rows)), steps - 1])
        calendar = [when.day_of_week, when.day, when.month, when.day_of_year, when.hour]
        scaled = [column / scale for column in columns]
        return np.stack([*scaled, zeros, np.log(scale), *calendar, steps, np.full(len(rows), self.code)], axis=1)


def _running(values: np.ndarray) -> np.ndarray:
    """Sums of the known values before each row, and their number, `[2,N + 1]`."""
    sums = np.stack([np.nan_to_num(values), np.isfinite(values)]).astype(float)
    return np.concatenate([np.zeros((2, 1)), np.cumsum(sums, axis=1)], axis=1)


def _mean(running: np.ndarray, rows: np.ndarray, length: int) -> np.ndarray:
    """Over the `length` rows that end at each; NaN where none is known."""
    end, start = np.maximum(rows + 1, 0), np.maximum(rows + 1 - length, 0)
    total, count = running[:, end] - running[:, start]
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _lags(panel: Panel) -> list[_Lags]:
    """Of each series; a season that the panel does not name is told by the times up to the first fence."""
    made, first = [], panel.fences()[0][0]
    for code, one in enumerate(panel.series):
        times = one.timestamp[: max(2, int(np.searchsorted(one.timestamp, first, side="right")))]
        spacing = np.median(np.diff(times))
        found = candidate_seasons(times, float(spacing / np.timedelta64(1, "s")))
        season = panel.season or (found[0] if found else 1)
        year = 52 * season if 0.9 < spacing / np.timedelta64(1, "D") < 1.1 and season * DAY < 8 * DAY else None
        values = filled(one, panel.kind)
        start, end = np.zeros(len(values), int), np.full(len(values), len(values))
        ahead = Steps(one.timestamp, start, end, Rhythm.of(one.timestamp, None), None, told=False)
        made.append(_Lags(code, values, np.isfinite(one.close), one.timestamp, ahead, season, year))
    return made


def lightgbm_lags(panel: Panel, steps: Sequence[int], *, threads: int = 1) -> dict[int, Forecast]:
    """Of a panel of any number of series; refitted at each of its fences.

    Raises:
        ImportError: without the package.
        ValueError: where too few outcomes are known at a fence.
    """
    if find_spec("lightgbm") is None:
        raise ImportError("lightgbm is not installed: pip install 'tsf-llm[baselines]'")
    series, asked = _lags(panel), np.array([*steps])
    knots = np.empty((len(panel.origin), len(steps), len(KNOTS)))
    origins = [rows[None].T + 0 * asked for rows in panel.rows]  # [n,P] of each series
    whole = [one.inputs(rows.ravel(), np.tile(asked, len(rows))) for one, rows in zip(series, origins, strict=True)]
    inputs = np.concatenate(whole).reshape(len(panel.origin), len(steps), -1)
    for fence, positions in panel.fences():
        levels = _fitted(series, asked, fence, panel.seed, threads)
        flat = inputs[positions].reshape(-1, inputs.shape[-1])
        found = np.stack([trees.predict(flat, num_threads=threads) for trees in levels], axis=1)
        knots[positions] = found.reshape(len(positions), len(steps), -1)
    pairs = list(zip(series, panel.rows, strict=True))
    scale, value = (np.concatenate([getattr(one, name)[rows] for one, rows in pairs]) for name in ("scale", "value"))
    scale = np.nan_to_num(scale)  # nothing but zeros so far: zero it stays
    return {
        step: Quantiles(np.nan_to_num(spread_knots(knots[:, p])) * scale[:, None] - value[:, None], LEVELS)
        for p, step in enumerate(steps)
    }


def _fitted(series: Sequence[_Lags], steps: np.ndarray, fence: np.datetime64, seed: int, threads: int) -> list[Any]:
    """A set of trees for each knot."""
    import lightgbm as lgb

    first = min(one.time[0] for one in series)
    cut = max(fence - CHECKED, first + LEAST_TRAINED * (fence - first))
    draw = np.random.default_rng(seed)
    rows, target, known_by = _drawn(series, steps, fence, draw)
    train, check = known_by[1] <= cut, known_by[0] > cut
    if min(train.sum(), check.sum()) < FEWEST_ROWS:
        raise ValueError(
            f"{train.sum()} and {check.sum()} outcomes known by {moment(fence)} to train and to stop on, where each "
            f"needs {FEWEST_ROWS}: start later or give earlier values"
        )
    parameters = {**PARAMETERS, "seed": seed, "num_threads": threads}
    options: dict[str, Any] = {"params": parameters, "free_raw_data": False}
    options["categorical_feature"] = [rows.shape[1] - 1]
    data = lgb.Dataset(rows[train], target[train], **options)
    last = lgb.Dataset(rows[check], target[check], reference=data, **options)
    everything = lgb.Dataset(rows, target, **options)
    levels = []
    for level in KNOTS:
        stop, asked = lgb.early_stopping(PATIENCE, verbose=False), {**parameters, "alpha": float(level)}
        best = lgb.train(asked, data, TREES, valid_sets=[last], callbacks=[stop]).best_iteration
        levels.append(lgb.train(asked, everything, max(best, 1)))
    return levels


def _drawn(
    series: Sequence[_Lags], steps: np.ndarray, fence: np.datetime64, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs `[k,F]`, outcomes `[k]` in multiples of the scale, and `[2,k]` when each was asked and known."""
    parts = []
    ends = [int(np.searchsorted(one.time, fence, side="right")) for one in series]
    share = min(1.0, MOST_ROWS / max(1, sum(ends) * len(steps)))
    for one, end in zip(series, ends, strict=True):
        count = round(share * end * len(steps))
        at, ahead = draw.integers(0, max(end, 1), count), draw.choice(steps, count)
        inside = at + ahead < end
        at, ahead = at[inside], ahead[inside]
        use = (at >= FIRST) & one.known[at] & one.known[at + ahead] & np.isfinite(one.scale[at])
        at, ahead = at[use], ahead[use]
        outcome = one.value[at + ahead] / one.scale[at]
        parts.append((one.inputs(at, ahead), outcome, np.stack([one.time[at], one.time[at + ahead]])))
    inputs, outcomes, times = zip(*parts, strict=True)
    return np.concatenate(inputs), np.concatenate(outcomes), np.concatenate(times, axis=1)
