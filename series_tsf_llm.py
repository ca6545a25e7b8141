"""The features of plain series (sales, temperature, load), and the seasons that they read.

Design choices:
* A feature at row t reads values up to t only, and the scale of its differences known at t: the unit of the value
  never matters.
* Shifting all values by a constant changes no feature but those of the group `level`, which know where zero is.
* Lags count rows. A gap that is a row without a value keeps the rhythm of the seasons; an absent row breaks it.

In formulas `y[-n]` is y n rows ago, `d` is y - y[-1], and s the scale of d, see `difference_scale`.

Shapes: N rows of one series.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from .bars_tsf_llm import MIN_BARS, UNIVARIATE, difference_scale

SHORT_CYCLE = 12  # rows
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
SEASONS = {  # seconds between rows -> rows per cycle; for days and weeks see `candidate_seasons`
    10 * MINUTE: (144,),
    15 * MINUTE: (96,),
    30 * MINUTE: (48, 336),
    HOUR: (24, 168),
    7 * DAY: (52,),
    30.4 * DAY: (12,),
    91.3 * DAY: (4,),
}
MOST_LAG, LEAST_AUTOCORRELATION = 400, 0.2  # of the search for a season where the sampling tells none


# --- seasons -------------------------------------------------------------------------------------------------------


def candidate_seasons(timestamps: np.ndarray, spacing: float) -> tuple[int, ...]:
    """Rows per cycle that rows `spacing` seconds apart can have; none for a sampling without a calendar.

    Days are counted as given: a shop that closes on Sundays has weeks of six rows.
    """
    if 0.9 < spacing / DAY < 1.1:
        shares = pd.Series(pd.DatetimeIndex(timestamps).day_of_week).value_counts(normalize=True)
        week = int((shares > 0.05).sum())
        return (week, 4 * week, 52 * week)
    return next((rows for known, rows in SEASONS.items() if 0.95 < spacing / known < 1.05), ())


def choose_seasons(values: Sequence[np.ndarray], candidates: Sequence[int]) -> list[int]:
    """The candidates that fit twice into half of the series, best first: by the error of repeating the last season.

    Without candidates the lag of the highest autocorrelation of differences is the season, if it is high enough.
    """
    lengths = sorted(map(len, values))
    usable = [m for m in candidates if 2 * m + MIN_BARS <= lengths[len(lengths) // 2]]
    if not candidates:
        usable = _autocorrelated(values)
    return sorted(usable, key=lambda m: _repeat_error(values, m))


def _repeat_error(values: Sequence[np.ndarray], season: int) -> float:
    """Mean over series of mean |y - y[-season]| / mean |d|."""
    ratios = [
        np.nanmean(np.abs(y[season:] - y[:-season])) / np.nanmean(np.abs(np.diff(y)))
        for y in values
        if len(y) > season + MIN_BARS and np.nanmax(np.abs(np.diff(y))) > 0
    ]
    return float(np.mean(ratios)) if ratios else np.inf


def _autocorrelated(values: Sequence[np.ndarray]) -> list[int]:
    longest = max(values, key=len)
    changes = np.nan_to_num(np.diff(longest))
    lags = range(3, min(MOST_LAG, len(changes) // 4))
    power = float(changes @ changes)
    if not power or not lags:
        return []
    correlation = [float(changes[lag:] @ changes[:-lag]) / power for lag in lags]
    best = int(np.argmax(correlation))
    return [lags[best]] if correlation[best] > LEAST_AUTOCORRELATION else []


# --- features ------------------------------------------------------------------------------------------------------


class SeriesFrame:
    """One series as the features see it: `y`, its differences `d`, their scale `s`, and all of its columns."""

    def __init__(self, frame: pd.DataFrame, decay: float, floor: float, cap: float | None):
        self.frame = frame.reset_index(drop=True)
        self.y = self.frame["value"]
        self.d = self.y.diff()
        self.s = pd.Series(difference_scale(self.d.to_numpy(), decay, floor, cap))
        self.time = self.frame["timestamp"].dt


@dataclass(frozen=True)
class SeriesFeature:
    """One row of the table."""

    name: str
    group: str
    formula: str
    compute: Callable[[SeriesFrame], pd.Series]


def _change(f: SeriesFrame, lag: int) -> pd.Series:
    return (f.y - f.y.shift(lag)) / (f.s * np.sqrt(lag))


def _rolling(values: pd.Series, length: int) -> Any:
    """Windows in which at least half of the rows are known."""
    return values.rolling(length, min_periods=(length + 1) // 2)


def _mean(f: SeriesFrame, length: int) -> pd.Series:
    return (f.y - _rolling(f.y, length).mean()) / (f.s * np.sqrt(length))


def _volatility(f: SeriesFrame, length: int) -> pd.Series:
    return np.sqrt(_rolling(f.d**2, length).mean().clip(lower=0)) / f.s


def _position(f: SeriesFrame, length: int) -> pd.Series:
    window = _rolling(f.y, length)
    low, high = window.min(), window.max()
    return (f.y - low) / (high - low).where(high > low)


def _zero_share(f: SeriesFrame, length: int) -> pd.Series:
    return _rolling((f.y == 0).where(f.y.notna()).astype(float), length).mean()


def _season_ahead(f: SeriesFrame, season: int, ahead: int) -> pd.Series:
    past = pd.concat([f.y.shift(cycles * season - ahead) for cycles in (1, 2, 3)], axis=1)
    return (past.mean(axis=1) - f.y) / f.s


def _cycle(f: SeriesFrame, part: str, length: float, wave: Callable[[Any], Any]) -> pd.Series:
    return wave(2 * np.pi * getattr(f.time, part) / length)


def _rows(
    name: str, group: str, formula: str, compute: Callable[..., pd.Series], /, **choices: Sequence[Any]
) -> list[SeriesFeature]:
    """One row per value of the one argument in `choices`, written into the name and the formula."""
    [(argument, values)] = choices.items()
    return [
        SeriesFeature(name.format(value), group, formula.format(value), partial(compute, **{argument: value}))
        for value in values
    ]


_TABLE = (
    *_rows("change_{0}", "changes", "(y - y[-{0}]) / (s sqrt({0}))", _change, lag=(1, 2, 3, 5, 10, 21)),
    *_rows("mean_{0}", "means", "(y - mean over {0} rows) / (s sqrt({0}))", _mean, length=(5, 20, 60)),
    *_rows("position_{0}", "means", "(y - min) / (max - min) over {0} rows", _position, length=(60,)),
    *_rows("volatility_{0}", "volatility", "root mean square of d over {0} rows / s", _volatility, length=(5, 20, 60)),
    SeriesFeature("level", "level", "asinh(y / s)", lambda f: np.arcsinh(f.y / f.s)),
    *_rows("zero_share_{0}", "level", "share of zeros over {0} rows", _zero_share, length=(20, 60)),
    SeriesFeature("hour_sin", "calendar", "sin(2 pi hour / 24)", lambda f: _cycle(f, "hour", 24, np.sin)),
    SeriesFeature("hour_cos", "calendar", "cos(2 pi hour / 24)", lambda f: _cycle(f, "hour", 24, np.cos)),
    SeriesFeature("week_sin", "calendar", "sin(2 pi day of week / 7)", lambda f: _cycle(f, "day_of_week", 7, np.sin)),
    SeriesFeature("week_cos", "calendar", "cos(2 pi day of week / 7)", lambda f: _cycle(f, "day_of_week", 7, np.cos)),
    SeriesFeature("month_sin", "calendar", "sin(2 pi month / 12)", lambda f: _cycle(f, "month", 12, np.sin)),
    SeriesFeature("month_cos", "calendar", "cos(2 pi month / 12)", lambda f: _cycle(f, "month", 12, np.cos)),
)


def _seasonal(m: int) -> list[SeriesFeature]:
    """A season's rows: where it stood one cycle ago, and where the last three cycles went from there.

    Of a short cycle every step, of a longer one its quarters."""
    steps = range(1, m + 1) if m <= SHORT_CYCLE else [1, m // 4, m // 2, 3 * m // 4, m]
    formula = f"(mean of y[{{0}} - {m} k], k = 1, 2, 3, - y) / s"
    return [
        SeriesFeature(f"season_{m}", "seasons", f"(y[-{m}] - y) / s", lambda f: (f.y.shift(m) - f.y) / f.s),
        *_rows(f"season_{m}_ahead_{{0}}", "seasons", formula, partial(_season_ahead, season=m), ahead=steps),
    ]


def series_table(seasons: Sequence[int] = ()) -> dict[str, SeriesFeature]:
    """The features of series with these seasons (rows per cycle)."""
    return {row.name: row for row in [*_TABLE, *(row for season in seasons for row in _seasonal(season))]}


def series_feature_names(table: dict[str, SeriesFeature], groups: Sequence[str] | None = None) -> list[str]:
    """The features of these groups, or all of them.

    Raises:
        ValueError: no such group.
    """
    known = list(dict.fromkeys([*(row.group for row in table.values()), "seasons", "covariates"]))
    unknown = [group for group in groups or () if group not in known]
    if unknown:
        raise ValueError(f"unknown feature groups {unknown} of a plain series; choose from {known}")
    return [row.name for row in table.values() if groups is None or row.group in groups]


def compute_series_features(
    frame: pd.DataFrame,
    names: Sequence[str],
    table: dict[str, SeriesFeature],
    decay: float = UNIVARIATE.sigma_decay,
    floor: float = UNIVARIATE.sigma_floor,
    cap: float | None = None,
    *,
    start: int = 0,
) -> pd.DataFrame:
    """The named features of one series as float64 [N, len(names)] on the index of `frame`, NaN where unknown.

    With `start`, only the rows from there on, with the same bits; all are read, and one feature at a time is whole.

    Raises:
        ValueError: no such feature.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"unknown features {unknown} of a plain series: choose from {list(table)}")
    series = SeriesFrame(frame, decay, floor, cap)
    with np.errstate(all="ignore"):
        values = {name: np.array(table[name].compute(series)[start:], dtype=float) for name in names}
    known = pd.DataFrame(values, index=frame.index[start:])
    return known.where(np.isfinite(known))


__all__ = ["series_table"]
