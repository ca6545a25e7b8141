"""The times of the bars to come: sessions of an exchange where its calendar is known, else what the past bars do.

Design choices:

* A calendar is a name of exchange_calendars ("XNYS", "XLON", "24/7"). That library is optional; without it, or
  without a calendar, week-ends and nights are skipped where the past bars skip them, and holidays are not known.
* Nothing is guessed lightly. New York's calendar is assumed only for daily bars that have matched every one of its
  sessions and holidays for `PROOF` bars; any other calendar must be named.
* Times are what the past bars say they are: an intraday bar is stamped in UTC (zoned times were turned into it) or in
  the exchange's own time, with the start or the end of its interval. Whichever explains the past bars is continued.
"""

import functools
from typing import Any

import numpy as np
import pandas as pd

try:
    import exchange_calendars
except ImportError:
    exchange_calendars = None

PROOF = 250  # daily bars without one exception
HOLIDAYS = 5  # weekdays without a bar that these must have shown: the library knows none long ago and far ahead
EXPLAINED = 0.9  # least share of intraday bars, missing and surplus ones counted, that a calendar must account for
DAY = pd.Timedelta(days=1)


def bar_spacing(timestamps: np.ndarray) -> float:
    """Median seconds between bars; NaN for fewer than two."""
    return float(np.median(np.diff(timestamps) / np.timedelta64(1, "s"))) if len(timestamps) > 1 else float("nan")


def check_calendar(name: str | None) -> str | None:
    """The name, if it is one; without the library it cannot be told, nor used.

    Raises:
        ValueError: no such calendar, or one that the installed version cannot compute.
    """
    if name is None or exchange_calendars is None:
        return name
    if name not in (known := exchange_calendars.get_calendar_names(include_aliases=True)):
        raise ValueError(f"calendar={name!r}: no such calendar; choose one of {', '.join(sorted(known))}")
    try:
        _calendar(name)
    except Exception as error:  # whatever the library's own arithmetic of holidays stumbles over
        version = exchange_calendars.__version__
        raise ValueError(
            f"calendar={name!r}: exchange_calendars {version} cannot compute it ({error}); use another, or none"
        ) from error
    return name


def infer_calendar(timestamps: np.ndarray) -> str | None:
    """ "XNYS" if at least the last `PROOF` daily bars are New York's sessions, all of them and no other; else None.

    Bars of five days a week without a holiday, and those of an exchange with other holidays, are not.
    """
    past = pd.DatetimeIndex(timestamps)[-PROOF:]
    if exchange_calendars is None or len(past) < PROOF or (past != past.normalize()).any():
        return None
    if len(pd.bdate_range(past[0], past[-1])) - PROOF < HOLIDAYS:
        return None
    return "XNYS" if past.equals(_sessions("XNYS", past[0], past[-1]).index) else None


def next_timestamps(timestamps: np.ndarray, horizon: int, calendar: str | None = None) -> pd.DatetimeIndex:
    """The next `horizon` bar times after the last of these, datetime64[ns].

    Bars of a week or more, and bars that the calendar does not explain, follow `continue_rhythm`.
    """
    past = pd.DatetimeIndex(timestamps)
    calendar = calendar or infer_calendar(timestamps)
    step = pd.Timedelta(seconds=bar_spacing(timestamps))
    ahead = None
    if calendar is not None and exchange_calendars is not None and step <= DAY:
        daily = step == DAY or (past == past.normalize()).all()
        ahead = _next_days(past, horizon, calendar) if daily else _next_bars(past, horizon, calendar, step)
    return continue_rhythm(timestamps, horizon) if ahead is None else ahead


def continue_rhythm(timestamps: np.ndarray, horizon: int) -> pd.DatetimeIndex:
    """The next `horizon` bar times: week-ends and nights are skipped where the past bars skip them."""
    past = pd.DatetimeIndex(timestamps)
    last, step = past[-1], pd.Timedelta(seconds=bar_spacing(timestamps))
    if step > DAY:
        return pd.date_range(last + step, periods=horizon, freq=step)
    seen = (past - past.normalize()).value_counts()
    if step == DAY or seen.max() < 3:  # the past is too short to tell the hours of a session
        ahead = pd.date_range(last + step, periods=3 * horizon + int(2 * DAY / step) + 3, freq=step)
    else:
        hours = seen.index[2 * seen.to_numpy() >= seen.max()].sort_values()
        days = pd.date_range(last.normalize(), periods=2 * (horizon // len(hours)) + 7)
        ahead = pd.DatetimeIndex((days.to_numpy()[:, None] + hours.to_numpy()).ravel())
        ahead = ahead[ahead > last + step / 2]
    weekend = (past.day_of_week >= 5).any()
    return ahead[weekend | (ahead.day_of_week < 5)][:horizon]


def _next_days(past: pd.DatetimeIndex, horizon: int, calendar: str) -> pd.DatetimeIndex | None:
    """The sessions after the last bar, at its time of day."""
    today, time = past[-1].normalize(), past[-1] - past[-1].normalize()
    days = _sessions(calendar, today + DAY, today + (2 * horizon + 20) * DAY).index[:horizon]
    return days + time if len(days) == horizon else None


def _next_bars(past: pd.DatetimeIndex, horizon: int, calendar: str, step: pd.Timedelta) -> pd.DatetimeIndex | None:
    """The intervals of the next sessions, in the convention that explains the past bars best; None if none does."""
    first, last = past[0], past[-1]
    conventions = [(local, at_end) for local in (False, True) for at_end in (False, True)]
    grids = [_intervals(calendar, first, last, step, local=local, at_end=end) for local, end in conventions]
    agreement = [len(past.intersection(grid)) / len(past.union(grid)) for grid in grids]
    best = int(np.argmax(agreement))
    if agreement[best] < EXPLAINED:
        return None
    local, at_end = conventions[best]
    days = 10
    while days < 20 * horizon + 40:  # a session has one bar at least
        grid = _intervals(calendar, last, last + days * DAY, step, local=local, at_end=at_end)
        if len(ahead := grid[grid > last]) >= horizon:
            return ahead[:horizon]
        days *= 2
    return None


def _intervals(
    calendar: str, start: pd.Timestamp, end: pd.Timestamp, step: pd.Timedelta, *, local: bool, at_end: bool
) -> pd.DatetimeIndex:
    """The bars of all sessions within [start, end], by the start or the end of their intervals. None is longer than
    its session: the last one before a break or a close is cut short there."""
    schedule = _sessions(calendar, start - 2 * DAY, end + 2 * DAY)
    stamps = []
    for opens, break_start, break_end, closes in schedule[["open", "break_start", "break_end", "close"]].to_numpy():
        halves = [(opens, closes)] if pd.isna(break_start) else [(opens, break_start), (break_end, closes)]
        for begins, ends in halves:
            starts = pd.date_range(begins, ends, freq=step, inclusive="left")
            stamps.append(np.minimum(starts + step, ends) if at_end else starts)
    if not stamps:
        return pd.DatetimeIndex([], dtype="datetime64[ns]")
    grid = stamps[0].append(stamps[1:])
    grid = (grid.tz_convert(_calendar(calendar).tz) if local else grid).tz_localize(None).as_unit("ns")
    return grid[(grid >= start) & (grid <= end)]


def _sessions(calendar: str, start: pd.Timestamp, end: pd.Timestamp) -> pd.DataFrame:
    """Opens, breaks and closes in UTC of the sessions in [start, end], by date."""
    return _schedule(calendar, start.year, end.year).loc[start.normalize() : end]


@functools.lru_cache(maxsize=64)
def _schedule(calendar: str, first: int, last: int) -> pd.DataFrame:
    """All sessions of whole years, as far as the calendar goes; making one takes a tenth of a second."""
    known = _calendar(calendar)
    start, end = pd.Timestamp(first, 1, 1), pd.Timestamp(last, 12, 31)
    start, end = max(start, known.bound_min() or start), min(end, known.bound_max() or end)
    if start >= end:
        return known.schedule.iloc[:0]
    return exchange_calendars.get_calendar(calendar, start=start, end=end).schedule


@functools.lru_cache(maxsize=8)
def _calendar(name: str) -> Any:
    return exchange_calendars.get_calendar(name)
