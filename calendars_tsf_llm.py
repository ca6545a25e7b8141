"""The times of the bars to come: sessions of an exchange where its calendar is known, else what the past bars do.

Design choices:

* A calendar is a name of exchange_calendars ("XNYS", "XLON", "24/7"). That library is optional; without it, or
  without a calendar, week-ends and nights are skipped where the past bars skip them, and holidays are not known.
* Nothing is guessed lightly. New York's calendar is assumed only for daily bars that have matched every one of its
  sessions and holidays for `PROOF` bars; any other calendar must be named.
* Times are what the past bars say they are: an intraday bar is stamped in UTC (zoned times were turned into it) or in
  the exchange's own time, with the start or the end of its interval. Whichever explains the past bars is continued.
* A rhythm is told by most of the past bars, so that missing ones do not break it: the day of the month (its first, its
  last, a workday where that falls on a week-end), the weekday, or the hours of a session.
* Sessions keep the exchange's clock across daylight saving, if the past has a shift to know it by: the zone is then
  the one in which sessions open at the same time of day.
"""

import difflib
import functools
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

try:
    import exchange_calendars
except ImportError:
    exchange_calendars = None

logger = logging.get_logger(__name__)
PROOF = 250  # daily bars without one exception
HOLIDAYS = 5  # weekdays without a bar that these must have shown: the library knows none long ago and far ahead
EXPLAINED = 0.9  # least share of past bars that a calendar, or a step, must account for
DAY = pd.Timedelta(days=1)
RECENT = 256  # bars that tell the step, and at least so many the rhythm
WEEKS = 10 * 7 * DAY  # of bars that tell the rhythm
YEAR = 400 * DAY  # of bars that tell the zone: two shifts of the clock
CLOSED = pd.Timedelta(hours=4)  # a longer pause ends a session
SAME_SESSIONS = {"XNSE": "XBOM", "NSE": "XBOM"}  # India's exchanges keep the same holidays; the library knows one
# One zone for each rule of daylight saving that exchanges live by.
ZONES = (
    "America/New_York",
    "Europe/London",
    "Australia/Sydney",
    "Pacific/Auckland",
    "America/Santiago",
    "America/Sao_Paulo",
    "America/Mexico_City",
    "Asia/Jerusalem",
    "Africa/Cairo",
)


def bar_spacing(timestamps: np.ndarray) -> float:
    """Median seconds between bars; NaN for fewer than two."""
    return float(np.median(np.diff(timestamps) / np.timedelta64(1, "s"))) if len(timestamps) > 1 else float("nan")


def check_calendar(name: str | None, *, needed: bool = False) -> str | None:
    """The name, if it is one; without the library it cannot be told, nor used.

    Raises:
        ValueError: no such calendar, or one that the installed version cannot compute; or, if it is `needed`, the
            library is not installed.
    """
    if name is None or exchange_calendars is None:
        if name is not None and needed:
            raise ValueError(f"calendar={name!r}: exchange_calendars is not installed: pip install exchange_calendars")
        return name
    known = {*exchange_calendars.get_calendar_names(include_aliases=True), *SAME_SESSIONS}
    if name not in known:
        close = difflib.get_close_matches(str(name).upper(), sorted(known), 3) or ["XNYS", "XLON", "24/7"]
        raise ValueError(
            f"calendar={name!r}: no such calendar; take {' or '.join(close)}, or another name of exchange_calendars"
        )
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


def recent_times(timestamps: np.ndarray) -> np.ndarray:
    """Those that `next_timestamps` and `continue_rhythm` read of ascending times: a year, `RECENT` at least."""
    if not len(timestamps):
        return timestamps
    year = int(np.searchsorted(timestamps, timestamps[-1] - YEAR.to_timedelta64(), side="right"))
    return timestamps[min(year, max(len(timestamps) - RECENT, 0)) :]


def next_timestamps(timestamps: np.ndarray, horizon: int, calendar: str | None = None) -> pd.DatetimeIndex:
    """The next `horizon` bar times after the last of these, datetime64[ns].

    Bars that the calendar does not explain, and those beyond the years that it knows, follow `continue_rhythm`; with a
    calendar, bars of a week or more do so too, on its sessions if all past ones lie on sessions.
    """
    past = pd.DatetimeIndex(timestamps)
    calendar = calendar or infer_calendar(timestamps)
    step = _step(past)
    if calendar is None or exchange_calendars is None:
        return continue_rhythm(timestamps, horizon)
    if step > DAY:
        return _on_sessions(past, continue_rhythm(timestamps, horizon), calendar)
    daily = step == DAY or (past == past.normalize()).all()
    ahead = _next_days(past, horizon, calendar) if daily else _next_bars(past[-RECENT:], horizon, calendar, step)
    if len(ahead) == horizon:
        return ahead
    end = _calendar(calendar).bound_max()
    if end is not None and (past[-1] if not len(ahead) else ahead[-1]) + (2 * horizon + 20) * DAY > end:
        logger.warning_once(f"calendar {calendar} is known up to {end.date()}: later bars follow the past rhythm")
    return ahead.append(continue_rhythm(past.append(ahead).to_numpy(), horizon - len(ahead)))


def continue_rhythm(timestamps: np.ndarray, horizon: int) -> pd.DatetimeIndex:
    """The next `horizon` bar times: as the past bars go on, week-ends and nights skipped where these skip them."""
    past = pd.DatetimeIndex(timestamps)
    zone = infer_zone(past)
    if zone is None:
        return _continue(past, horizon)
    ahead = _continue(past.tz_localize("UTC").tz_convert(zone).tz_localize(None), horizon + 8)
    summer = np.zeros(len(ahead), bool)  # of an hour that comes twice, the second
    utc = ahead.tz_localize(zone, nonexistent="shift_forward", ambiguous=summer).tz_convert("UTC").tz_localize(None)
    return utc[utc > past[-1]].unique()[:horizon]


def infer_zone(past: pd.DatetimeIndex) -> str | None:
    """The zone in whose time sessions open at the same hour, where these times (UTC) do not; None if none is better.

    Bars around the clock and dates have none, nor have bars that the clock was not changed among."""
    past = past[past > past[-1] - YEAR]
    if len(past) < 10:
        return None
    step = _step(past)
    is_open = np.append(False, past[1:] - past[:-1] > max(1.5 * step, CLOSED))
    opens = past[is_open] if step < DAY else past
    if len(opens) < 10 or (opens == opens.normalize()).all():
        return None

    def regularity(times: pd.DatetimeIndex) -> float:
        """The chance that two sessions open at one time of day."""
        return float(((times - times.normalize()).value_counts() / len(times)).pow(2).sum())

    found = {zone: regularity(opens.tz_localize("UTC").tz_convert(zone).tz_localize(None)) for zone in ZONES}
    best = max(found, key=lambda zone: found[zone])
    return best if found[best] > max(0.2, regularity(opens) + 0.01) else None


def _step(past: pd.DatetimeIndex) -> pd.Timedelta:
    return pd.Timedelta(seconds=bar_spacing(past[-RECENT:].to_numpy()))


def _continue(past: pd.DatetimeIndex, horizon: int) -> pd.DatetimeIndex:
    """`continue_rhythm` in the clock's own time."""
    step = _step(past)
    recent = past[min(max(len(past) - RECENT, 0), int((past <= past[-1] - WEEKS).sum())) :]
    if step < DAY:
        return _next_hours(recent, horizon, step)
    if step == DAY:
        return _next_weekdays(past[-RECENT:], horizon)
    return _next_periods(past[-RECENT:], horizon, step)


def _weekdays(past: pd.DatetimeIndex) -> np.ndarray:
    """The days of the week that have bars; of a few days only, Monday to Friday do as well."""
    count = np.bincount(past.normalize().unique().day_of_week, minlength=7)
    return np.flatnonzero(2 * count >= count.max() if count.sum() >= 15 else (count > 0) | (np.arange(7) < 5))


def _next_weekdays(past: pd.DatetimeIndex, horizon: int) -> pd.DatetimeIndex:
    days = pd.date_range(past[-1] + DAY, periods=7 * horizon, freq="D")
    return _plain(days[days.day_of_week.isin(_weekdays(past))][:horizon])


def _next_hours(past: pd.DatetimeIndex, horizon: int, step: pd.Timedelta) -> pd.DatetimeIndex:
    """The times of day that most days have, on the days that have bars, within the hours of each of these."""
    last, days = past[-1], past.normalize()
    seen = (past - days).value_counts()
    weekdays = _weekdays(past)
    if (
        seen.max() < 3 or 3 * seen.max() < 2 * days.nunique()
    ):  # too short a past, or a step that no day is a multiple of
        ahead = pd.date_range(last + step, periods=3 * horizon + int(2 * DAY / step) + 3, freq=step)
        return _plain(ahead[ahead.day_of_week.isin(weekdays)][:horizon])
    times, share = seen.index, seen.to_numpy() / seen.max()
    usual = times[share >= 0.5]
    is_hole = (share >= 0.25) & (times - step).isin(usual) & (times + step).isin(usual)  # of bars that are missing
    hours = usual.append(times[is_hole & (share < 0.5)]).sort_values()
    ends = (past - days).to_series().groupby(days).agg(["min", "max"]).iloc[:-1]  # the last day may go on
    coming = pd.date_range(last.normalize(), periods=4 * (horizon // len(hours)) + 10)
    grid = coming.to_numpy()[:, None] + hours.to_numpy()
    keep = np.tile(np.isin(coming.day_of_week, weekdays)[:, None], len(hours))
    for weekday, part in ends.groupby(ends.index.day_of_week):
        if len(part) >= 3:  # a market that opens on Sunday evening and closes on Friday afternoon
            opens, closes = (
                part["min"].sort_values().iloc[len(part) // 4],
                part["max"].sort_values().iloc[-len(part) // 4],
            )
            keep[coming.day_of_week == weekday] &= np.asarray((hours >= opens) & (hours <= closes))
    ahead = pd.DatetimeIndex(grid[keep])
    return _plain(ahead[ahead > last + step / 2][:horizon])


def _next_periods(past: pd.DatetimeIndex, horizon: int, step: pd.Timedelta) -> pd.DatetimeIndex:
    """Bars of months, of weeks, of some days a week or of a number of days: whichever most past bars agree with."""
    days, last = past.normalize(), past[-1].normalize()
    weeks, weekday = round(step / (7 * DAY)), int(np.bincount(days.day_of_week).argmax())
    steps = np.arange(1, horizon + 1)
    even = float(((days[1:] - days[:-1]) % step == pd.Timedelta(0)).mean())
    agreed, ahead = even, pd.DatetimeIndex(last + steps * step)
    if step < 6 * DAY and even < EXPLAINED:
        return _next_weekdays(past, horizon)
    if weeks and (share := float((days.day_of_week == weekday).mean())) >= max(agreed, 0.5):
        nearest = last + ((weekday - last.day_of_week + 3) % 7 - 3) * DAY  # a holiday moves the last bar at most
        agreed, ahead = share, pd.DatetimeIndex(nearest + steps * (7 * weeks * DAY))
    if step >= 27 * DAY:
        months = days.to_period("M")
        every = max(1, int(np.median(np.diff(months.asi8))))
        rules = [
            (day, move) for move in (0, -1, 1) for day in (1, 31, days.day.max(), int(np.bincount(days.day).argmax()))
        ]
        shares = [float((_in_months(months, *rule) == days).mean()) for rule in rules]
        if max(shares) >= max(agreed, 0.5):
            ahead = _in_months(pd.PeriodIndex(months[-1] + every * steps), *rules[int(np.argmax(shares))])
    return _plain(ahead + (past[-1] - last))


def _in_months(months: pd.PeriodIndex, day: int, move: int) -> pd.DatetimeIndex:
    """A day of each month, its last at most; if that is of a week-end, the workday before it (-1) or after it (1)."""
    dates = months.to_timestamp() + pd.to_timedelta(np.minimum(day, months.days_in_month) - 1, unit="D")
    over = np.maximum(dates.day_of_week - 4, 0)
    return dates + pd.to_timedelta(np.select([over == 0, move < 0, move > 0], [0, -over, 3 - over], 0), unit="D")


def _on_sessions(past: pd.DatetimeIndex, ahead: pd.DatetimeIndex, calendar: str) -> pd.DatetimeIndex:
    """Bars of weeks or months on sessions, if all past ones are: late in a period the one before, else the next."""
    span = past[-RECENT:]
    sessions = _sessions(calendar, span[0].normalize(), ahead[-1] + 10 * DAY).index
    if not len(sessions) or not span.normalize().isin(sessions).all():
        return ahead
    weekly = _step(past) < 27 * DAY
    late = ahead.day_of_week >= 2 if weekly else ahead.day > 15
    days = ahead.normalize()
    before = sessions[np.maximum(sessions.searchsorted(days, side="right") - 1, 0)]
    after = sessions[np.minimum(sessions.searchsorted(days), len(sessions) - 1)]
    moved = pd.DatetimeIndex(np.where(late, before, after))
    far = np.asarray(abs(moved - days) > 7 * DAY)  # beyond what the calendar knows
    return _plain(pd.DatetimeIndex(np.where(far, days, moved)) + (ahead - days))


def _plain(times: pd.DatetimeIndex) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(times.to_numpy(), dtype="datetime64[ns]")


def _next_days(past: pd.DatetimeIndex, horizon: int, calendar: str) -> pd.DatetimeIndex:
    """The sessions after the last bar, at its time of day; fewer where the calendar knows no more."""
    today, time = past[-1].normalize(), past[-1] - past[-1].normalize()
    days = _sessions(calendar, today + DAY, today + (2 * horizon + 20) * DAY).index[:horizon]
    return _plain(days + time)


def _next_bars(past: pd.DatetimeIndex, horizon: int, calendar: str, step: pd.Timedelta) -> pd.DatetimeIndex:
    """The intervals of the next sessions, in the convention that explains the past bars best; none if none does."""
    first, last = past[0], past[-1]
    conventions = [(local, at_end) for local in (False, True) for at_end in (False, True)]
    grids = [_intervals(calendar, first, last, step, local=local, at_end=end) for local, end in conventions]
    explained = [len(past.intersection(grid)) / len(past) for grid in grids]  # bars may be missing, but none surplus
    agreement = [(share, -len(grid)) for share, grid in zip(explained, grids, strict=True)]
    best = max(range(len(grids)), key=lambda i: agreement[i])
    if explained[best] < EXPLAINED:
        return past[:0]
    local, at_end = conventions[best]
    days, ahead = 10, past[:0]
    while len(ahead) < horizon and days < 20 * horizon + 40:  # a session has one bar at least
        grid = _intervals(calendar, last, last + days * DAY, step, local=local, at_end=at_end)
        ahead, days = grid[grid > last][:horizon], 2 * days
    return ahead


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
    name = SAME_SESSIONS.get(calendar, calendar)
    return exchange_calendars.get_calendar(name, start=start, end=end).schedule


@functools.lru_cache(maxsize=8)
def _calendar(name: str) -> Any:
    return exchange_calendars.get_calendar(SAME_SESSIONS.get(name, name))
