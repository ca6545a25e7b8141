"""Cells of a column to times and numbers: one rule for files and for frames, told by the whole column.

Design choices:
* A column writes its dates in one order, and a table its numbers with one decimal mark. Either is proven by the cells,
  or the caller says it; nothing is told cell by cell, and what two readings fit is refused (`Unclear`).
* A date with a separator has its order from what can be read (a day above 12), from times that go one way, or from
  even spacing: `01/02/2004, 01/03/2004, ...` are month starts, not days of January.
* Times lose their zone: midnights of a zone are dates and stay so, other times become UTC.
* What cannot be read is missing, and its position is returned; whoever asked refuses or notes it.

Shapes: N cells of a column.
"""

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

# Digits of a time since 1970 -> its unit. A whole column of up to ten digits is of seconds, see `_are_seconds`.
EPOCHS = {10: "s", 13: "ms", 16: "us", 19: "ns"}
NO_TIMES = {"", "now", "today", "nat", "nan", "na", "none", "null", "<na>"}  # which tell nothing of a column's format
MISSING_NUMBERS = {"", "-", "--", ".", "na", "n/a", "nan", "none", "null", "#n/a", "<na>"}  # FRED writes a point
ORDERS = {"dmy": (2, 1, 0), "mdy": (2, 0, 1), "ymd": (0, 1, 2)}  # where the year, the month and the day are
FIRST_YEAR, LAST_YEAR = 1678, 2261  # whole years that nanoseconds hold
PIVOT = 69  # two-digit years: 69 is 1969, 68 is 2068, as POSIX has it
FEW = 0.01  # share of cells that another order alone reads: these are slips
ONE_WAY = 0.97  # share of steps in one direction, from which on times are in order
SLIPS = 5  # from so many on, numbers of fewer digits than others are earlier times
EVEN, UNEVEN, PROVING = 4, 20, 6  # longest step over the shortest; and times that a spacing needs to prove an order

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
ZONES = {"edt": -4, "cdt": -5, "mdt": -6, "pst": -8, "pdt": -7}  # of names that the database of zones lacks
_DAY = r"(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*[.,]?\s+)?"
_PART = r"(?:\d{4}|\d{1,2}|(?!mon|tue|wed|thu|fri|sat|sun)[a-z]{3,9})"
_DATE = rf"\d{{8}}|\d{{4}}-?q[1-4]|{_DAY}{_PART}\.?[-/., ]\s*{_PART}(?:[-/. ]|,\s*)\s*(?:\d{{4}}|\d{{1,2}})\.?"
CELL = rf"^(?:({_DATE})(?:[t ,_:]\s*|(?<=\d{{8}}))(\d.*)|({_DATE}|{_PART}[-/. ]\d{{4}}))$"
PARTS = rf"^{_DAY}({_PART})\.?[-/., ]\s*(?:({_PART})(?:[-/. ]|,\s*)\s*)?(\d{{4}}|\d{{1,2}})\.?$"
CLOCK = (
    r"^(\d{1,2}):?(\d\d)?(?::?(\d\d)([.,]\d{1,9})?)?\s*([ap]\.?m\.?(?![a-z]))?\s*"
    r"(z|(?:utc|gmt)?[+-]\d{1,2}(?::?\d\d)?|[a-z][\w/+-]*)?(?:\s*[\[(].*[\])])?$"
)
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d")
BARE_CLOCK = r"(?<![+-])(?<![+-]\d)\d:\d\d(?:[:.,]\d+)*\s*(?:[ap]\.?m\.?)?$"  # no zone behind it
OFFSET = r":\d\d(?:\.\d+)?\s*([+-]\d\d(?::?\d\d)?)$"  # hours, and minutes, from UTC behind a time of day


class Unclear(ValueError):
    """Two readings fit; the message says which, the caller how to choose on this route."""


# --- times ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TimeFormat:
    """How a column writes its times.

    Args:
        name: `typed`, `epoch`, `seconds`, `ISO8601` or `text`.
        dates: all are midnights, each of its own zone. Such times are dates, and stay so; other zoned ones become UTC.
        order: of `text`, one of `ORDERS`.
        zoned: whether most times of day have a zone; those of the other way are none. None if any way will do.
    """

    name: str
    dates: bool = False
    order: str = "ymd"
    zoned: bool | None = None

    @classmethod
    def of(cls, cells: pd.Series, order: str | None = None, series: pd.Series | None = None) -> "TimeFormat":
        """Told by all cells; of a file that is read in pieces, by those of the first if they prove it.

        `order` is what the caller says of numeric dates, `series` the names of the series that the rows are of.

        Raises:
            Unclear: two orders fit, and none was given.
            ValueError: no order reads the column, or not the given one.
        """
        if order is not None and order not in ORDERS:
            raise ValueError(f"dates={order!r}: use one of {', '.join(ORDERS)}")
        if pd.api.types.is_datetime64_any_dtype(cells):
            return cls("typed", _all_midnights(cells, cls("typed")) and cells.dt.tz is not None)
        if (stamps := _iso_at_once(cells)) is not None:
            local, utc = stamps
            return cls("ISO8601", local is not utc and _are_midnights(local), zoned=local is not utc)
        codes, text = _distinct(cells)
        name, parts = _format_name(text)
        format = cls(name) if parts is None else cls(name, order=_order(cells, codes, text, parts, order, series))
        if name in ("epoch", "seconds"):
            return format
        if not _names_zones(text):
            return replace(format, zoned=False)
        format = replace(format, zoned=_most_are_zoned(text))
        return replace(format, dates=_all_midnights(text.head(20), format) and _all_midnights(text, format))


def read_times(cells: pd.Series, format: TimeFormat | None = None) -> tuple[pd.Series, np.ndarray]:
    """Times without zone, NaT for what is none, and the positions of these.

    >>> read_times(pd.Series(["2024-01-31T00:00:00+09:00", "2024-02-01T00:00:00+09:00"]))[0].dt.day.tolist()
    [31, 1]
    """
    format = format or TimeFormat.of(cells)
    local, utc = clocks(cells, format)
    times = local.where(local == local.dt.normalize()) if format.dates else utc
    if times.dtype != "datetime64[ns]":
        first, after = (np.datetime64(f"{year}-01-01") for year in (FIRST_YEAR, LAST_YEAR + 1))
        if ((stamps := times.to_numpy()) < first).any() or (stamps >= after).any():
            times = times.where((stamps >= first) & (stamps < after))
    return times, np.flatnonzero(times.isna())


def why_no_time(cell: Any, format: TimeFormat) -> str:
    """What is wrong with a cell that `read_times` does not read, and what to do."""
    one = pd.Series([cell])
    read = clocks(one, format)[1]
    if pd.notna(read[0]) and not FIRST_YEAR <= read[0].year <= LAST_YEAR:
        return f"lies outside of the years {FIRST_YEAR} to {LAST_YEAR}; correct it"
    if format.name == "text" and pd.notna(clocks(one, format, is_dst=True)[1][0]):
        return "comes twice, or never, where daylight saving changes; write times in UTC or with their offset"
    if format.zoned is not None and pd.notna(clocks(one, replace(format, zoned=None))[1][0]):
        has, others = ("no zone", "have one") if format.zoned else ("a zone", "have none")
        return f"has {has}, and other times {others}; write all in UTC or with their offset"
    return "is not a date; write every date in one format, such as 2024-01-31 or 2024-01-31 15:30"


def clocks(cells: pd.Series, format: TimeFormat | None = None, is_dst: bool = False) -> tuple[pd.Series, pd.Series]:
    """Times as the clocks of their own zones show them, and in UTC; NaT for what is none.

    A time of a named zone that comes twice there is none, unless `is_dst` chooses.
    """
    format = format or TimeFormat.of(cells)
    if format.name == "typed" and cells.dt.tz is None:
        return cells, cells
    if format.name == "typed":
        return cells.dt.tz_localize(None), pd.to_datetime(cells, utc=True).dt.tz_localize(None)
    at_once = _iso_at_once(cells) if format.name == "ISO8601" else None
    if at_once is not None and format.zoned in (None, at_once[0] is not at_once[1]):
        return at_once
    codes, text = _distinct(cells)
    if format.name in ("epoch", "seconds"):
        local = utc = _from_epoch(text, format.name == "seconds")
    elif format.name == "ISO8601":
        utc = _iso(text)
        zones = text.str.extract(OFFSET)[0] if _names_zones(text) else pd.Series(dtype=object)
        local = utc
        if zones.notna().any():
            minutes = zones.map({zone: _minutes(zone) for zone in zones.dropna().unique()}).astype(float).fillna(0)
            local = (utc + pd.to_timedelta(minutes, unit="min")).astype(utc.dtype)
    else:
        local, utc = _from_text(text, format.order, is_dst)
    if format.zoned or (format.zoned is False and _names_zones(text)):
        alike = ~_of_other_zones(text, format.zoned)
        local, utc = local.where(alike), utc.where(alike)
    return tuple(pd.Series(one.to_numpy()[codes], index=cells.index, name=cells.name) for one in (local, utc))


def _distinct(cells: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """The cell of each row among the distinct ones, and these as text without blanks around; missing is empty."""
    if pd.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0).all() and cells.abs().max() < 2**63:
        cells = cells.astype("Int64")
    if cells.dtype == object:
        cells = stripped(cells)  # a list cannot be told from others by its hash
    codes, distinct = pd.factorize(cells, use_na_sentinel=False)
    text = stripped(pd.Series(distinct))
    whole = text.str.len().gt(2) & text.str.endswith(".0")
    return codes, text.mask(whole, text.str.slice(stop=-2)) if whole.any() else text


def _known(text: pd.Series) -> pd.Series:
    return ~text.str.lower().isin(NO_TIMES)


def _format_name(text: pd.Series) -> tuple[str, "_Parts | None"]:
    """And the parts of a text's dates, which are dear to find."""
    known = text[_known(text)]
    if _are_epochs(known):
        return "epoch", None
    iso = _iso(known).notna().sum()
    if iso == len(known):
        return "ISO8601", None
    if _are_seconds(known):
        return "seconds", None
    parts = _parts(text)
    read = np.any([~np.isnat(_days(parts[0], order)) for order in ORDERS], axis=0)[parts[1]]
    read &= ~np.isnat(_time_of_day(parts[2])[0])
    return ("text", parts) if read.sum() > iso else ("ISO8601", None)


def _iso(text: pd.Series) -> pd.Series:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        told = text.mask(text.isin(("now", "today")))  # pandas would read the time of reading
        return pd.to_datetime(told, errors="coerce", utc=True, format="ISO8601").dt.tz_localize(None)


def _iso_at_once(cells: pd.Series) -> tuple[pd.Series, pd.Series] | None:
    """`clocks` of a column in which pandas reads every cell as ISO 8601, and in no other way; else None.

    Digits alone may count seconds and the like, and some words are read as the time of reading."""
    if not pd.api.types.is_string_dtype(cells):
        return None
    first = next((cell for cell in cells.head(20) if isinstance(cell, str) and cell), "")
    if not ISO_DATE.match(first) or cells.isin(("now", "today")).any() or cells.str.isdecimal().any():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # pandas 2 warns of several zones, which 3 refuses
            stamps = pd.to_datetime(cells, format="ISO8601")
    except (ValueError, TypeError, OverflowError, FutureWarning):
        return _of_many_offsets(cells)
    if not pd.api.types.is_datetime64_any_dtype(stamps):
        return None
    if stamps.dt.tz is None:
        return stamps, stamps
    zone = re.search(r"(?:[zZ]|[+-]\d\d(?::?\d\d)?)$", first)
    if zone is None or not (cells.str.endswith(zone[0], na=False) | stamps.isna()).all():
        return None  # pandas 2 takes a time without a zone to be of the others'
    return stamps.dt.tz_localize(None), stamps.dt.tz_convert(None)


def _of_many_offsets(cells: pd.Series) -> tuple[pd.Series, pd.Series] | None:
    """`clocks` where each cell ends in an offset, as daylight saving changes it; else None."""
    codes, ends = pd.factorize(cells.str.slice(-6))
    zones = [re.search(r"[+-]\d\d:?\d\d$", str(end)) for end in ends]
    if (codes < 0).any() or not all(zones) or cells.str.len().min() < len("2024-01-31T10:00+0900"):
        return None
    utc = _iso(cells)
    if utc.isna().any():
        return None
    minutes = np.array([_minutes(zone[0]) for zone in zones if zone])[codes]
    return (utc + pd.to_timedelta(minutes, unit="min").to_numpy()).astype(utc.dtype), utc


def _are_seconds(text: pd.Series) -> bool:
    """Nearly all have nine or ten digits, or fewer before 1973; `2024013115` has the hour behind the day instead."""
    whole = text.str.fullmatch(r"-?\d{1,10}")
    return bool(
        len(text)
        and whole.mean() > 1 - FEW
        and text[whole].str.len().isin((9, 10)).mean() > 0.5
        and not text[whole].str.fullmatch(r"(?:19|20)\d\d(?:0\d|1[0-2])[0-3]\d[0-2]\d").all()
    )


def _are_epochs(text: pd.Series) -> bool:
    """Some have the digits of a smaller unit; `202401311530` has the time of day behind the day instead."""
    digits = text.str.len().where(text.str.isdecimal(), 0)
    if digits.isin((13, 16, 19)).any():
        return True
    before_2001 = text[digits == 12]
    minutes = before_2001.str.fullmatch(r"(?:19|20)\d\d(?:0\d|1[0-2])[0-3]\d[0-2]\d[0-5]\d")
    return 2 * len(before_2001) > len(text) and not minutes.all()


def _from_epoch(text: pd.Series, seconds: bool) -> pd.Series:
    """Times since 1970; smaller units than seconds are told by their number of digits. NaT for other cells.

    A column of seconds or milliseconds may have fewer digits. A few cells of fewer than usual are slips."""
    times = pd.Series(pd.NaT, index=text.index, dtype="datetime64[us]")
    digits = text.str.len().where(text.str.isdecimal(), 0)
    units = {EPOCHS[n]: digits == n for n in ((10,) if seconds else (13, 16, 19))}
    if seconds or 2 * digits.isin((12, 13)).sum() > len(text):
        most = 10 if seconds else 13
        whole = text.str.fullmatch(rf"-?\d{{1,{most}}}")
        short = whole & (text.str.len() < text.str.len()[whole].mode().max())
        units[EPOCHS[most]] = whole & ~short if short.sum() < SLIPS else whole
    for unit, of_unit in units.items():
        times[of_unit] = pd.to_datetime(text[of_unit].astype("int64"), unit=unit).to_numpy()
    return times


def _all_midnights(cells: pd.Series, format: TimeFormat) -> bool:
    return _are_midnights(clocks(cells, format)[0])


def _are_midnights(times: pd.Series) -> bool:
    known = times.dropna()
    return bool((known == known.dt.normalize()).all())


def _names_zones(text: pd.Series) -> bool:
    """Whether any may have a zone or an offset behind a time of day."""
    return bool(text.str.contains(":[0-9].*[-+A-Za-z]").any())


def _most_are_zoned(text: pd.Series) -> bool:
    return bool(_of_other_zones(text, False).sum() >= _of_other_zones(text, True).sum())


def _of_other_zones(text: pd.Series, zoned: bool) -> pd.Series:
    """Which times of day have a zone, or if the column is `zoned`, none."""
    has_clock, is_bare = text.str.contains(r"\d:\d\d"), text.str.lower().str.contains(BARE_CLOCK)
    return has_clock & (is_bare if zoned else ~is_bare)


def _minutes(zone: str) -> int:
    """From UTC, of `+09:00`, `-0330` or `+9`."""
    hours, _, minutes = zone[1:].partition(":")
    hours, minutes = (hours[:-2], hours[-2:]) if len(hours) > 2 else (hours, minutes)
    return (-1 if zone[0] == "-" else 1) * (60 * int(hours) + int(minutes or 0))


# --- times in other words than ISO's ---


def _from_text(text: pd.Series, order: str, is_dst: bool) -> tuple[pd.Series, pd.Series]:
    heads, of_cell, clock = _parts(text)
    days = _days(heads, order)[of_cell].astype("datetime64[us]")
    times, zones = _time_of_day(clock)
    local = pd.Series(days + times, index=text.index)
    utc = local.copy()
    for zone in zones.dropna().unique():
        rows = (zones == zone).to_numpy() & local.notna().to_numpy()
        utc[rows] = _without_zone(local[rows], zone, is_dst)
    return local.where(utc.notna()), utc


_Parts: TypeAlias = tuple[pd.DataFrame, np.ndarray, pd.Series]


def _parts(text: pd.Series) -> _Parts:
    """The distinct dates in three parts (their numbers, NaN if none; which is a name; which has four digits), which of
    them each cell has, and its time of day.
    """
    found = text.str.extract(CELL, flags=re.IGNORECASE)
    of_cell, dates = pd.factorize(_filled(_filled(found[0], found[2]), ""))
    return _date_parts(pd.Series(dates, dtype=object).astype(str)), of_cell, found[1]


def _filled(cells: pd.Series, others: Any) -> pd.Series:
    """`fillna`, which pandas 2 warns of where all are missing."""
    return cells.where(cells.notna(), others)


def _date_parts(dates: pd.Series) -> pd.DataFrame:
    dates = dates.str.replace(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", regex=True)
    quarter = dates.str.extract(r"^(\d{4})-?[qQ]([1-4])$")
    starts = quarter[0] + "-" + (3 * quarter[1].astype(float) - 2).fillna(0).astype(int).astype(str) + "-1"
    parts = _filled(starts, dates).str.extract(PARTS, flags=re.IGNORECASE)
    no_day = parts[1].isna() & parts[2].notna()  # a month and its year
    parts.loc[no_day, 1] = "1"
    frame = {"no_day": no_day}
    for i in range(3):
        month = parts[i].str[:3].str.lower().map({name: k + 1 for k, name in enumerate(MONTHS)})
        frame[f"named{i}"] = month.notna()
        frame[f"long{i}"] = parts[i].str.len().eq(4) & month.isna()
        frame[f"part{i}"] = pd.to_numeric(parts[i], errors="coerce").fillna(month)
    return pd.DataFrame(frame)


def _days(heads: pd.DataFrame, order: str) -> np.ndarray:
    """Days as one order reads them, NaT for what it does not."""
    y, m, d = ORDERS[order]
    year, month, day = (heads[f"part{i}"].fillna(0).to_numpy(int) for i in (y, m, d))
    long = heads[[f"long{i}" for i in range(3)]].to_numpy()
    named = heads[[f"named{i}" for i in range(3)]].to_numpy()
    fits = (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31) & heads["part2"].notna().to_numpy()
    fits &= ~long[:, m] & ~long[:, d] & ~named[:, y] & ~named[:, d] & heads["part0"].notna().to_numpy()
    if order == "ymd":
        fits &= long[:, 0] | ~named[:, 1]  # 02-Jan-24 has the day first
    no_day = heads["no_day"].to_numpy()
    fits = np.where(no_day, (heads["part0"].between(1, 12) & long[:, 2]).to_numpy(), fits)
    year = np.where(long[:, y], year, np.where(year < PIVOT, 2000, 1900) + year)
    month, day = np.where(no_day, heads["part0"].fillna(0), month).astype(int), np.where(no_day, 1, day)
    year = np.where(no_day, heads["part2"].fillna(0), year).astype(int)
    months = (year - 1970).astype("datetime64[Y]").astype("datetime64[M]") + (np.where(fits, month, 1) - 1)
    days = months.astype("datetime64[D]") + (day - 1)
    return np.where(fits & (days.astype("datetime64[M]") == months), days, np.datetime64("NaT"))


def _time_of_day(clock: pd.Series) -> tuple[np.ndarray, pd.Series]:
    """Since midnight, NaT for what is no time, and the zone of each: an offset or a name; 0 and none for no clock."""
    codes, distinct = pd.factorize(_filled(clock, "0"))
    parts = pd.Series(distinct, dtype=object).astype(str).str.extract(CLOCK, flags=re.IGNORECASE)
    hour, minute, second = (pd.to_numeric(parts[i]).fillna(0 if i else np.nan) for i in range(3))
    fraction = pd.to_numeric(parts[3].str.replace(",", ".")).fillna(0)
    half = parts[4].str[0].str.lower()
    valid = hour.between(0, 23) & minute.lt(60) & second.lt(60) & (half.isna() | hour.between(1, 12))
    hour = hour.where(half.isna(), hour % 12 + 12 * (half == "p"))
    micro = (((hour.fillna(0) * 60 + minute) * 60 + second) * 1e6 + (fraction * 1e6).round()).astype("int64")
    times = np.where(valid, micro.to_numpy().astype("timedelta64[us]"), np.timedelta64("NaT"))
    return times[codes], pd.Series(parts[5].to_numpy()[codes], index=clock.index)


def _without_zone(local: pd.Series, zone: str, is_dst: bool) -> Any:
    """UTC of the clock times of a zone; NaT where the zone is unknown, or a time comes twice or never in it."""
    name = re.sub(r"^(utc|gmt)(?=[+-])", "", zone.lower())
    if name in ("z", "utc", "gmt"):
        return local
    if name[0] in "+-" or name in ZONES:
        return local - pd.Timedelta(minutes=_minutes(name) if name[0] in "+-" else 60 * ZONES[name])
    try:
        rule: Any = np.full(len(local), True) if is_dst else "NaT"
        never: Any = "shift_forward" if is_dst else "NaT"
        zoned = local.dt.tz_localize(zone, ambiguous=rule, nonexistent=never)
    except (KeyError, ValueError, OSError):  # no zone of this name
        return pd.NaT
    return zoned.dt.tz_convert("UTC").dt.tz_localize(None)


# --- the order of a date ---


def _order(
    cells: pd.Series, codes: np.ndarray, text: pd.Series, parts: _Parts, given: str | None, series: pd.Series | None
) -> str:
    heads, of_cell, _ = parts
    known = _known(text).to_numpy()
    read = {order: _days(heads, order)[of_cell] for order in ORDERS}
    rows = np.bincount(codes, minlength=len(text)) * known
    by_any = sum(~np.isnat(days) for days in read.values()) > 0
    counts = {order: int(rows[~np.isnat(days)].sum()) for order, days in read.items()}
    total = int(rows[by_any].sum())
    if given is not None:
        if total - counts[given] > FEW * total:
            unread = text[by_any & known & np.isnat(read[given])].iloc[0]
            raise ValueError(f"column '{cells.name}' is not written as {given}: '{unread}' cannot be read so")
        return given
    fitting = [order for order in ORDERS if counts[order] == total]
    if not fitting:
        best = max(counts, key=lambda order: counts[order])
        if total - counts[best] <= FEW * total:
            return best
        other = text[by_any & known & np.isnat(read[best])].iloc[0]
        one = text[known & ~np.isnat(read[best]) & ~(~np.isnat([read[o] for o in ORDERS if o != best])).any(axis=0)]
        beside = f"'{one.iloc[0]}' and '{other}'" if len(one) else f"'{other}'"
        raise ValueError(f"column '{cells.name}' holds dates of more than one order ({beside}); write all in one")
    return _proven({order: read[order] for order in fitting}, codes, text, cells, series)


def _proven(
    read: dict[str, np.ndarray], codes: np.ndarray, text: pd.Series, cells: pd.Series, series: pd.Series | None
) -> str:
    """Of orders that read every cell, the one whose times make sense."""
    read = {order: days for i, (order, days) in enumerate(read.items()) if not _same(days, list(read.values())[:i])}
    if len(read) == 1:
        return next(iter(read))
    names = np.zeros(len(codes), int) if series is None else pd.factorize(series, use_na_sentinel=False)[0]
    by_series = np.argsort(names, kind="stable")
    inside = np.diff(names[by_series]) == 0
    one_way, ratio = {}, {}
    for order, days in read.items():
        steps = np.diff(days[codes[by_series]])[inside]
        steps = steps[~np.isnat(steps)].astype(int)
        steps = steps[steps != 0]
        one_way[order] = max((steps > 0).mean(), (steps < 0).mean()) if len(steps) else 1.0
        gaps = np.diff(np.unique(days[~np.isnat(days)])).astype(int)
        ratio[order] = gaps.max() / gaps.min() if len(gaps) >= PROVING - 1 else np.nan
    likely = [order for order in read if one_way[order] >= ONE_WAY]
    is_long = all(not np.isnan(one) for one in ratio.values())
    if is_long and len(likely) > 1:
        even = [order for order in likely if ratio[order] <= EVEN]
        if len(even) == 1 and all(ratio[order] > UNEVEN for order in likely if order not in even):
            likely = even
    if is_long and len(likely) == 1:
        return likely[0]
    differing = np.flatnonzero(~np.all([_same_cells(days, read) for days in read.values()], axis=0))
    cell = differing[0]
    readings = " or ".join(f"{days[cell]} ({order})" for order, days in read.items())
    raise Unclear(f"in column '{cells.name}', '{text.iloc[cell]}' is {readings}, and no cell of it tells which")


def _same(days: np.ndarray, others: list[np.ndarray]) -> bool:
    return any(np.array_equal(days, other, equal_nan=True) for other in others)


def _same_cells(days: np.ndarray, read: dict[str, np.ndarray]) -> np.ndarray:
    return np.all([(days == other) | (np.isnat(days) & np.isnat(other)) for other in read.values()], axis=0)


# --- daylight saving ---


def repeated_hour(times: pd.Series) -> int | None:
    """The first row at which times within a day go back, or stand, as clocks do when daylight saving ends.

    That is in the small hours of a Sunday around the end of October, or of the first in April.
    """
    step = times.diff()
    usual = step.abs().median()
    if not usual <= pd.Timedelta(hours=1):
        return None
    back = (step <= usual - pd.Timedelta(hours=1)) & (step >= pd.Timedelta(hours=-1))
    day = times.dt.day
    month = times.dt.month
    ends = ((month == 10) & (day >= 25)) | (month.isin((4, 11)) & (day <= 7))
    back &= ends & (times.dt.day_of_week == 6) & (times.dt.hour < 4)
    return int(back.to_numpy().argmax()) if back.any() else None


# --- numbers -------------------------------------------------------------------------------------------------------


MONEY = "$€£¥₹₩"
BLANKS = " '\u2019\u00a0\u2009\u202f"  # between groups of digits, as in 1 234 and 1'234
SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
NUMBER = rf"[-+]?[{MONEY}]?[-+]?[\d.,{BLANKS}]*\d[\d.,{BLANKS}]*[kmbtKMBT%{MONEY}]?"  # in any way of writing
PROOFS = {  # what only a decimal mark can be: not three digits behind it, or a zero, four digits or a blank before
    "point": rf"\d\.\d{{0,2}}(?:[^\d.,]|$)|\.\d{{4}}|^[-+]?0?\.\d|\d{{4}}\.\d|,\d+[.,]|\d[{BLANKS}]\d{{3}}\.",
    "comma": rf"\d,\d{{0,2}}(?:[^\d.,]|$)|,\d{{4}}|^[-+]?0?,\d|\d{{4}},\d|\.\d+[.,]|\d[{BLANKS}]\d{{3}},",
}
GROUPS = {  # the whole part of a number, with marks between its groups; India's are of two digits
    "point": r"^([-+]?\d{1,3}(?:,\d{2,3})*,\d{3})(\.\d*)?$",
    "comma": r"^([-+]?\d{1,3}(?:\.\d{3})+)(,\d*)?$",
}
SUSPECT = 10  # numbers such as 1.008 beside 982 that are no accident


@dataclass(frozen=True)
class NumberFormat:
    """How a table writes its numbers: with a decimal `point` or `comma`; the other is between groups of three digits.

    `proven` by its cells, or said by the caller; else a point, in a table without any comma.
    """

    decimal: str = "point"
    proven: bool = False

    @classmethod
    def of(cls, columns: Iterable[pd.Series], decimal: str | None = None) -> "NumberFormat":
        """Told by all cells of all columns of numbers.

        Raises:
            Unclear: either mark may be the decimal one.
            ValueError: some cells prove a point and others a comma.
        """
        if decimal is not None:
            if decimal not in PROOFS:
                raise ValueError(f"decimal={decimal!r}: use one of {', '.join(PROOFS)}")
            return cls(decimal, proven=True)
        texts = [cells.dropna().astype(str).str.strip() for cells in columns if not is_typed(cells)]
        if not any(text.str.contains(r",|\.\d*\.", regex=True).any() for text in texts):
            return cls(proven=_has_point(texts))
        texts = [text[text.str.fullmatch(NUMBER)] for text in texts]
        votes = {mark: sum(int(text.str.contains(PROOFS[mark]).sum()) for text in texts) for mark in PROOFS}
        best, least = sorted(PROOFS, key=lambda mark: -votes[mark])
        marked = [text[text.str.contains(",", regex=False)] for text in texts]
        first = next((text for text in marked if len(text)), None)
        if 10 * votes[least] < votes[best]:
            return cls(best, proven=True)  # and cells of the other kind are slips
        if first is None:
            return cls()
        one = first.iloc[0]
        if votes[best]:
            raise ValueError(
                f"column '{first.name}' writes numbers as '{one}', others otherwise: use one decimal mark"
            )
        readings = f"{one.replace(',', '')} or {one.replace(',', '.')}"
        raise Unclear(f"in column '{first.name}', '{one}' is {readings}, and no cell tells which")


def _has_point(texts: Sequence[pd.Series]) -> bool:
    """Whether a cell proves that points are decimal; `Unclear` for 1.008 beside 982, which can be 1008."""
    if any(text.head(1000).str.contains(PROOFS["point"]).any() for text in texts):
        return True
    if any(text.str.contains(PROOFS["point"]).any() for text in texts):
        return True
    for text in texts:
        grouped = text[text.str.fullmatch(r"[-+]?[1-9]\d{0,2}\.\d{3}")]
        if len(grouped) >= SUSPECT and text.str.fullmatch(r"[-+]?[1-9]\d{0,2}").sum() >= SUSPECT:
            one = grouped.iloc[0]
            raise Unclear(
                f"in column '{text.name}', '{one}' is {one} or {one.replace('.', '')}, and no cell tells which"
            )
    return False


def is_typed(cells: pd.Series) -> bool:
    """Of a type of real numbers."""
    return pd.api.types.is_numeric_dtype(cells) and not pd.api.types.is_complex_dtype(cells)


def read_numbers(
    cells: pd.Series, format: NumberFormat | None = None, *, scales: bool = False, percent: bool = False
) -> tuple[pd.Series, np.ndarray]:
    """float64, NaN where missing or no number, and the positions of the latter.

    Args:
        format: the table's; without one no mark between groups is read.
        scales: read `1.5K`, `2.3M` and `1.2B`.
        percent: read a column in which all numbers end in `%`, as the numbers before it.
    """
    if is_typed(cells):
        return cells if cells.dtype == "float64" else cells.astype("float64"), np.array([], dtype=int)
    format, text = format or NumberFormat(), stripped(cells)
    if format.decimal == "point" and (plain := _plain_numbers(text)) is not None:
        return pd.Series(plain, index=cells.index, name=cells.name), np.array([], dtype=int)
    given = ~text.str.lower().isin(MISSING_NUMBERS)
    known = pd.to_numeric(text, errors="coerce").notna()
    marked = (given & ~known) if format.decimal == "point" else given & ~(known & ~text.str.contains(".", regex=False))
    factors = pd.Series(1.0, index=text.index)
    if marked.any():
        percent = percent and bool(text[given].str.endswith("%").all())
        text = text.astype(object)
        text[marked], factors[marked] = _unmarked(text[marked].astype(str), format, scales, percent)
        known = pd.to_numeric(text.astype(str), errors="coerce").notna()
    numbers = pd.Series(np.nan, index=cells.index, name=cells.name)
    # To the last bit, which pandas 2 misses in one of eight.
    numbers[known.to_numpy()] = text[known].to_numpy(object).astype("float64")
    return numbers * factors, np.flatnonzero(given & ~known)


def _plain_numbers(text: pd.Series) -> np.ndarray | None:
    """A column whose cells are empty or numbers as every program writes them; None for any other."""
    held = text.to_numpy(dtype=object)
    letters = "".join(held)
    if "_" in letters or not letters.isascii():  # which Python reads, and no file means
        return None
    given = held != ""
    numbers = np.full(len(held), np.nan)
    try:
        numbers[given] = held[given].astype("float64")
    except ValueError:
        return None
    return numbers if np.isfinite(numbers[given]).all() else None


def _unmarked(text: pd.Series, format: NumberFormat, scales: bool, percent: bool) -> tuple[pd.Series, Any]:
    """Numbers as Python writes them, empty where there is none, and what to multiply each by."""
    is_number = text.str.fullmatch(NUMBER)
    text = text.str.replace(rf"[{MONEY}]", "", regex=True)
    text = text.str.replace(rf"(?<=\d)[{BLANKS}](?=\d{{3}}(?!\d))", "", regex=True).str.strip()
    scale = text.str[-1:].str.lower().map(SCALES)
    text = text.str[:-1].where(scale.notna() & scales, text)
    text = text.str.rstrip("%").str.rstrip() if percent else text
    is_grouped = text.str.fullmatch(GROUPS[format.decimal]) & format.proven
    between, decimal = (",", ".") if format.decimal == "point" else (".", ",")
    text = text.where(~is_grouped, text.str.replace(between, "", regex=False))
    is_number &= ~text.str.contains(between, regex=False)
    return text.str.replace(decimal, ".", regex=False).where(is_number, ""), scale.fillna(1.0) if scales else 1.0


def stripped(cells: pd.Series) -> pd.Series:
    """As text without blanks around it, empty where missing."""
    if not isinstance(cells.dtype, pd.StringDtype):
        cells = cells.astype(object).where(cells.notna(), "").astype(str)
    return cells.fillna("").str.strip()


__all__ = ["read_numbers", "read_times"]
