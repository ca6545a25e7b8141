"""The features of plain series (sales, temperature, load), and the seasons that they read.

Design choices:
* A feature at row t reads values up to t only, and the scale of its differences known at t: the unit of the value
  never matters.
* Shifting all values by a constant changes no feature but those of the group `level`, which know where zero is.
* Series lie side by side, and a value is a function of its own last rows and of s, to the bit: not of other series.
* Lags count rows. A gap that is a row without a value keeps the rhythm of the seasons; an absent row breaks it.

In formulas `y[-n]` is y n rows ago, `d` is y - y[-1], and s the scale of d, see `difference_scale`.

Shapes: T rows of N series side by side; what is computed of one has N rows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from .bars_tsf_llm import MIN_BARS, difference_scale
from .panel_tsf_llm import LONGEST, alike, side_by_side, wall_clock
from .windows_tsf_llm import change, lag, moving_max, moving_min, moving_sum

SHORT_CYCLE = 12  # rows
REACH = 60  # rows of the longest window; seasons read more
MINUTE, DAY = 60.0, 86400.0
SEASONS = {  # seconds between rows -> rows per cycle; what a day and a week have is counted, see `candidate_seasons`
    1.0: (60, 3600),
    MINUTE: (60, 1440),
    7 * DAY: (52,),
    30.4 * DAY: (12,),
    91.3 * DAY: (4,),
}
WEEKLY = 30 * MINUTE  # rows as far apart, or further, have a week beside their day: a season of at most 336 rows
MOST_LAG, LEAST_AUTOCORRELATION = 400, 0.2  # of the search for a season where the sampling tells none
AS_GOOD = 0.9  # of the highest autocorrelation: an earlier lag with so much is the season, and not a multiple of it
LONGER = 1.05  # what a multiple of a shorter season has to be better by: it repeats older values
MOST_RANKED = 500  # series that rank the seasons


# --- seasons -------------------------------------------------------------------------------------------------------


def candidate_seasons(timestamps: np.ndarray, spacing: float) -> tuple[int, ...]:
    """Rows per cycle that rows `spacing` seconds apart can have; none for a sampling without a calendar.

    Days are counted as given: a shop that closes on Sundays has weeks of six rows, a market days of seven hours.
    """
    if 0.9 < spacing / DAY < 1.1:
        shares = pd.Series(pd.DatetimeIndex(timestamps).day_of_week).value_counts(normalize=True)
        week = int((shares > 0.05).sum())
        return (week, 4 * week, 52 * week)
    if 1.5 * MINUTE < spacing < 0.9 * DAY and abs(DAY / spacing - round(DAY / spacing)) < 0.05:
        whole = round(DAY / spacing)
        seconds = np.unique(timestamps).astype("datetime64[s]").astype(np.int64)
        day = _usual_count(seconds // int(DAY), whole)
        week = _usual_count((seconds + 3 * int(DAY)) // int(7 * DAY), 7 * whole) if spacing >= 0.99 * WEEKLY else 0
        return tuple(rows for rows in (day, week) if rows > 2)
    return next((rows for known, rows in SEASONS.items() if 0.95 < spacing / known < 1.05), ())


def _usual_count(cycle: np.ndarray, whole: int) -> int:
    """Rows of the usual one of these cycles, which a `whole` one has; 0 where they are of no one length."""
    counts = np.unique(cycle, return_counts=True)[1][1:-1]
    counts = counts[2 * counts >= counts.max(initial=0)]
    if len(counts) < 2 or (usual := float(np.median(counts))) >= 0.9 * whole:
        return whole
    return int(usual) if np.median(np.abs(counts - usual)) <= 0.05 * usual else 0


def choose_seasons(values: Sequence[np.ndarray], candidates: Sequence[int]) -> list[int]:
    """The candidates that fit twice into half of the series, best first: by the error of repeating the last season.

    Without candidates the lag of the highest autocorrelation of differences is the season, if it is high enough.
    """
    lengths = sorted(map(len, values))
    usable = [m for m in candidates if 2 * m + MIN_BARS <= lengths[len(lengths) // 2]]
    if not candidates:
        usable = _autocorrelated(values)
    some = values[:: -(-len(values) // MOST_RANKED)]

    def error(m: int) -> float:
        return _repeat_error(some, m) * (LONGER if any(m % other == 0 and other < m for other in usable) else 1.0)

    return sorted(usable, key=error)


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
    best = max(correlation)
    first = next(i for i, one in enumerate(correlation) if one >= AS_GOOD * best)
    peak = first + int(np.argmax(correlation[first : max(first + 1, int(1.5 * lags[first]) - lags[0])]))
    return [lags[peak]] if best > LEAST_AUTOCORRELATION else []


# --- features ------------------------------------------------------------------------------------------------------


class SeriesPanel:
    """Rows of several series: `y`, differences `d`, their scale `s`, and `time` datetime64[ns], `[T,N]`.

    The rows of each series begin in row 0, and are unknown after its last; those before row 0 count as unknown too.
    """

    def __init__(self, y: np.ndarray, d: np.ndarray, s: np.ndarray, time: np.ndarray):
        self.y, self.d, self.s, self.time = y, d, s, time

    @classmethod
    def of(cls, frames: Sequence[pd.DataFrame], decay: float, floor: float, cap: float | None) -> "SeriesPanel":
        rows = max(map(len, frames))
        y = side_by_side([frame["value"].to_numpy(dtype=float) for frame in frames], rows)
        d = change(y)
        time = side_by_side([wall_clock(frame["timestamp"]) for frame in frames], rows, of_times=True)
        return cls(y, d, difference_scale(d, decay, floor, cap), time)

    def rows(self, begin: int, end: int) -> "SeriesPanel":
        return SeriesPanel(*(x[begin:end] for x in (self.y, self.d, self.s, self.time)))


@dataclass(frozen=True)
class SeriesFeature:
    """One row of the table: a function of a panel -> `[T,N]`, of which a value reads `reach` rows before its own."""

    name: str
    group: str
    formula: str
    compute: Callable[[SeriesPanel], np.ndarray]
    reach: int = REACH


def _change(p: SeriesPanel, lag: int) -> np.ndarray:
    return change(p.y, lag) / (p.s * np.sqrt(lag))


def _windows(function: Callable[..., np.ndarray], x: np.ndarray, length: int, unknown: float) -> np.ndarray:
    """Of windows that may begin before the first row; what is unknown counts as this number."""
    filled = np.where(np.isnan(x), unknown, x)
    before = np.full((length - 1, x.shape[1]), unknown)
    return function(np.concatenate((before, filled)), length)[length - 1 :]


def _half_known(x: np.ndarray, length: int) -> np.ndarray:
    """How many rows of each window are known; NaN if they are less than half."""
    known = _windows(moving_sum, np.where(np.isnan(x), 0.0, 1.0), length, 0.0)
    return np.where(known < (length + 1) // 2, np.nan, known)


def _moving_mean(x: np.ndarray, length: int) -> np.ndarray:
    return _windows(moving_sum, x, length, 0.0) / _half_known(x, length)


def _mean(p: SeriesPanel, length: int) -> np.ndarray:
    return (p.y - _moving_mean(p.y, length)) / (p.s * np.sqrt(length))


def _volatility(p: SeriesPanel, length: int) -> np.ndarray:
    return np.sqrt(_moving_mean(p.d**2, length)) / p.s


def _position(p: SeriesPanel, length: int) -> np.ndarray:
    low, high = _windows(moving_min, p.y, length, np.inf), _windows(moving_max, p.y, length, -np.inf)
    span = np.where((high > low) & ~np.isnan(_half_known(p.y, length)), high - low, np.nan)
    return (p.y - low) / span


def _zero_share(p: SeriesPanel, length: int) -> np.ndarray:
    return _moving_mean(np.where(np.isnan(p.y), np.nan, p.y == 0), length)


def _season(p: SeriesPanel, season: int) -> np.ndarray:
    return (lag(p.y, season) - p.y) / p.s


def _season_ahead(p: SeriesPanel, season: int, ahead: int) -> np.ndarray:
    past = [lag(p.y, cycles * season - ahead) for cycles in (1, 2, 3)]
    known = sum((~np.isnan(y) for y in past), start=np.zeros(p.y.shape))
    total = sum((np.nan_to_num(y) for y in past), start=np.zeros(p.y.shape))
    return (total / np.where(known > 0, known, np.nan) - p.y) / p.s


def _hour(time: np.ndarray) -> np.ndarray:
    return time.astype("datetime64[h]").astype(np.int64) % 24


def _day_of_week(time: np.ndarray) -> np.ndarray:
    return (time.astype("datetime64[D]").astype(np.int64) + 3) % 7  # 1970 began on a Thursday


def _month(time: np.ndarray) -> np.ndarray:
    return time.astype("datetime64[M]").astype(np.int64) % 12 + 1


def _cycle(p: SeriesPanel, part: Callable[[np.ndarray], np.ndarray], length: int, wave: Callable) -> np.ndarray:
    known = ~np.isnat(p.time)
    values = np.full(p.time.shape, np.nan)
    values[known] = wave(2 * np.pi * np.arange(length + 1) / length)[part(p.time[known])]
    return values


def _rows(
    name: str,
    group: str,
    formula: str,
    compute: Callable[..., np.ndarray],
    /,
    reach: int = REACH,
    **choices: Sequence[int],
) -> list[SeriesFeature]:
    """One row per value of the one argument in `choices`, written into the name and the formula."""
    [(argument, values)] = choices.items()
    return [
        SeriesFeature(
            *(name.format(value), group, formula.format(value), partial(compute, **{argument: value})), reach=reach
        )
        for value in values
    ]


_TABLE = (
    *_rows("change_{0}", "changes", "(y - y[-{0}]) / (s sqrt({0}))", _change, lag=(1, 2, 3, 5, 10, 21)),
    *_rows("mean_{0}", "means", "(y - mean over {0} rows) / (s sqrt({0}))", _mean, length=(5, 20, 60)),
    *_rows("position_{0}", "means", "(y - min) / (max - min) over {0} rows", _position, length=(60,)),
    *_rows("volatility_{0}", "volatility", "root mean square of d over {0} rows / s", _volatility, length=(5, 20, 60)),
    SeriesFeature("level", "level", "asinh(y / s)", lambda p: np.arcsinh(p.y / p.s)),
    *_rows("zero_share_{0}", "level", "share of zeros over {0} rows", _zero_share, length=(20, 60)),
    SeriesFeature("hour_sin", "calendar", "sin(2 pi hour / 24)", lambda p: _cycle(p, _hour, 24, np.sin)),
    SeriesFeature("hour_cos", "calendar", "cos(2 pi hour / 24)", lambda p: _cycle(p, _hour, 24, np.cos)),
    SeriesFeature("week_sin", "calendar", "sin(2 pi day of week / 7)", lambda p: _cycle(p, _day_of_week, 7, np.sin)),
    SeriesFeature("week_cos", "calendar", "cos(2 pi day of week / 7)", lambda p: _cycle(p, _day_of_week, 7, np.cos)),
    SeriesFeature("month_sin", "calendar", "sin(2 pi month / 12)", lambda p: _cycle(p, _month, 12, np.sin)),
    SeriesFeature("month_cos", "calendar", "cos(2 pi month / 12)", lambda p: _cycle(p, _month, 12, np.cos)),
)


def _seasonal(m: int) -> list[SeriesFeature]:
    """A season's rows: where it stood one cycle ago, and where the last three cycles went from there.

    Of a short cycle every step, of a longer one its quarters."""
    steps = range(1, m + 1) if m <= SHORT_CYCLE else [1, m // 4, m // 2, 3 * m // 4, m]
    formula = f"(mean of y[{{0}} - {m} k], k = 1, 2, 3, - y) / s"
    return [
        *_rows("season_{0}", "seasons", "(y[-{0}] - y) / s", _season, m, season=[m]),
        *_rows(f"season_{m}_ahead_{{0}}", "seasons", formula, partial(_season_ahead, season=m), 3 * m, ahead=steps),
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


def series_features_of(
    frames: Mapping[str, pd.DataFrame],
    names: Sequence[str],
    table: dict[str, SeriesFeature],
    decay: float,
    floor: float,
    cap: float | None,
    *,
    starts: Mapping[str, int],
) -> dict[str, np.ndarray]:
    """The named features of each series as float64 `[N - start, len(names)]`, NaN where unknown.

    Only the rows from `start` on (default 0) are computed, though the scale of differences reads all before. A number
    has the same bits alone and with others, from any start.

    Raises:
        ValueError: no such feature.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"unknown features {unknown} of a plain series: choose from {list(table)}")
    series, chosen, values = list(frames), [table[name] for name in names], {}
    for together in alike([len(frames[name]) for name in series]):
        part = [series[place] for place in together]
        with np.errstate(all="ignore"):
            whole = SeriesPanel.of([frames[name] for name in part], decay, floor, cap)
            first = min(starts.get(name, 0) for name in part)
            computed = _compute(whole, chosen, first)
        for column, name in enumerate(part):
            rows = slice(starts.get(name, 0) - first, len(frames[name]) - first)
            values[name] = np.where(np.isfinite(of_one := computed[:, rows, column]), of_one, np.nan).T
    return {name: values[name] for name in series}


def _compute(whole: SeriesPanel, features: Sequence[SeriesFeature], first: int) -> np.ndarray:
    """Rows from `first` on, `[F,T - first,N]`, some at a time."""
    rows, series = whole.y.shape
    reach = max((feature.reach for feature in features), default=0)
    values = np.empty((len(features), max(0, rows - first), series))
    for begin in range(first, rows, LONGEST):
        head, end = max(0, begin - reach), begin + LONGEST
        panel = whole.rows(head, end)
        for place, feature in enumerate(features):
            values[place, begin - first : end - first] = feature.compute(panel)[begin - head :]
    return values


__all__ = ["series_table"]
