"""Plain series on even steps: whether their stamps are even enough to count rows, and the rules that make them so.

Design choices:
* A row is what is stamped from the start of its step up to that of the next. It is stamped with its start and known at
  its end. `nearest` alone is a reading of the moment: the value stamped nearest to it, within half a step.
* Nothing is interpolated. A step without a value is a gap, but with `sum` it is 0, from the first row of a series to
  the last of the file: nothing was sold then.
* A step that is not over where the file ends has no value yet, nor has a sum that began before the file. So a file
  that is cut earlier has the same rows, and fewer of them.
* Covariates take the mean where the value is summed or averaged, and else what the value takes; texts, which are
  static, stay.

Shapes: N rows of a file, G of its steps that have rows, M rows of the result.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import MIN_BARS, UNIVARIATE

ID, VALUE = UNIVARIATE.id, UNIVARIATE.value
HOWS = ("sum", "mean", "last", "nearest")
SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
MONTHS = {"month": 1, "quarter": 3, "year": 12}
WORDS = {"s": "second", "min": "minute", "h": "hour", "d": "day", "w": "week"}
MONTH = 30.4375 * 86400  # seconds
MONDAY = np.int64(4 * 86400)  # the first after 1970 began, in seconds
USUAL = [  # steps that files have
    *((count, "s") for count in (1, 2, 5, 10, 15, 20, 30)),
    *((count, "min") for count in (1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30)),
    *((count, "h") for count in (1, 2, 3, 4, 6, 8, 12)),
    *((1, "d"), (1, "w"), (2, "w"), (1, "month"), (2, "month"), (1, "quarter"), (1, "year")),
]
OFF_DAY, OFF_CLOCK = 0.2, 0.1  # of a step: what a stamp of a day or more, or of less, may be off
UNEVEN = 0.1  # share of gaps that are no whole number of steps, from which on rows cannot be counted
ABSENT = 0.1  # share of rows that are not there, from which on it is said
CLOSED = 0.25  # of the rows of the fullest hour of the week: an hour with fewer is one at which a shop is closed
SPARSE = 0.1  # share of rows that are there, from which on times of day are those of rows and not of events
FILLED = 0.8  # share of steps with a value in what is proposed
MOST_ROWS = 50_000_000  # made at most
FEW_ROWS, FOLD = 1_000_000, 100  # of more than these at most so many times as there were


# --- steps ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """The time from one row to the next: so many seconds, minutes, ... or months, quarters, years of the calendar."""

    count: int
    unit: str

    @classmethod
    def near(cls, seconds: float) -> "Step":
        """The usual step that is nearest by ratio.

        >>> Step.near(3590.0), Step.near(31 * 86400.0).words
        (Step(count=1, unit='h'), '1 month')
        """
        return min((cls(*one) for one in USUAL), key=lambda step: abs(np.log(step.seconds / max(seconds, 1e-9))))

    @property
    def seconds(self) -> float:
        """Of a month, those of the mean one."""
        return float(self.count * (SECONDS[self.unit] if self.unit in SECONDS else MONTHS[self.unit] * MONTH))

    @property
    def words(self) -> str:
        return f"{self.count} {WORDS.get(self.unit, self.unit)}{'s' * (self.count > 1)}"

    @property
    def rule(self) -> str:
        """As it is written before a colon."""
        return f"{self.count}{self.unit}" if self.unit in SECONDS else self.unit

    @property
    def _origin(self) -> np.int64:
        return MONDAY * 10**9 if self.unit == "w" else np.int64(0)

    def lasting(self, rule: str) -> dict[str, int]:
        """From the stamp of a row until it is known, for `known_by`."""
        if self.unit in MONTHS:
            return {"months": self.count * MONTHS[self.unit]}
        return {"microseconds": int(self.seconds * 10**6) // (2 if rule == "nearest" else 1)}

    def places(self, times: np.ndarray, *, nearest: bool = False) -> np.ndarray:
        """The number of the step of each time (datetime64[ns]), int64: days from midnight on, weeks from Monday."""
        if self.unit in MONTHS:
            return times.astype("datetime64[M]").astype(np.int64) // (self.count * MONTHS[self.unit])
        length = int(self.count * SECONDS[self.unit]) * 10**9
        return (times.astype("datetime64[ns]").astype(np.int64) - self._origin + length // 2 * nearest) // length

    def starts(self, places: np.ndarray) -> np.ndarray:
        """When these steps begin, datetime64[ns]."""
        if self.unit in MONTHS:
            months = (places * self.count * MONTHS[self.unit]).astype("datetime64[M]")
            return months.astype("datetime64[ns]")
        return (places * (int(self.count * SECONDS[self.unit]) * 10**9) + self._origin).astype("datetime64[ns]")


@dataclass(frozen=True)
class Rule:
    """How rows become even: by which `step`, None for the usual one, and what becomes of several rows in one."""

    how: str
    step: Step | None = None

    @classmethod
    def read(cls, text: str) -> "Rule":
        """
        >>> Rule.read("15min:mean")
        Rule(how='mean', step=Step(count=15, unit='min'))

        Raises:
            ValueError: for what is no rule, or one that cannot be followed.
        """
        units = "|".join([*SECONDS, *MONTHS])
        found = re.fullmatch(rf"(?:(\d*) ?({units}):)?({'|'.join(HOWS)})", text.strip().lower())
        if found is None or found[1] in {"0", "00"}:
            raise ValueError(
                f"--resample {text!r}: write {', '.join(HOWS[:3])} or nearest, for rows of the usual step, or a step "
                "before it, as 1h:mean, 1d:sum, 1w:sum, month:last"
            )
        step = Step(int(found[1] or 1), found[2]) if found[2] else None
        if step is not None and step.unit in MONTHS and found[3] == "nearest":
            raise ValueError(f"--resample {text}: months are of several lengths; use last, mean or sum")
        return cls(found[3], step)


FINE = [Step(*one) for one in USUAL if Step(*one).seconds <= 86400]


# --- the gaps of a file --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gaps:
    """The times between neighbouring rows of each series that are not the same, in the order of the clock.

    Args:
        names: of the series, `[S]`.
        code: series of each gap, ascending, `[K]`.
        seconds: of each gap, `[K]`.
        usual: median of each series, NaN of one without a gap, `[S]`.
        first, last: times of each series, datetime64[ns] `[S]`.
        rows: of each series, `[S]`.
    """

    names: Sequence[Any]
    code: np.ndarray
    seconds: np.ndarray
    usual: np.ndarray
    first: np.ndarray
    last: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, frame: pd.DataFrame) -> "Gaps":
        """Of `timestamp, series_id`; rows without a time count as none."""
        code, names = pd.factorize(frame[ID])
        times = frame["timestamp"].to_numpy(dtype="datetime64[ns]")
        known = ~np.isnat(times)
        code, times = code[known], times[known]
        order = np.lexsort((times, code))
        code, times = code[order], times[order]
        inside = code[1:] == code[:-1]
        seconds = np.diff(times) / np.timedelta64(1, "s")
        apart = inside & (seconds > 0)
        S = len(names)
        begins = np.flatnonzero(np.diff(code, prepend=-1))
        ends = np.append(begins[1:], len(code)) - 1
        first, last = np.full((2, S), np.datetime64("NaT", "ns"))
        if len(code):
            first[code[begins]], last[code[ends]] = times[begins], times[ends]
        rows = np.bincount(code, minlength=S)
        gap_code, gap = code[1:][apart], seconds[apart]
        return cls(list(names), gap_code, gap, _medians(gap_code, gap, S), first, last, rows)

    @property
    def usual_of_all(self) -> float:
        """The median over the series of their usual gaps; NaN where none has one."""
        known = self.usual[~np.isnan(self.usual)]
        return float(np.median(known)) if len(known) else float("nan")

    def uneven(self) -> np.ndarray:
        """The share of gaps of each series that are no whole number of its usual ones, `[S]`."""
        usual = self.usual[self.code]
        times = self.seconds / usual
        allowed = np.where(usual < 0.9 * 86400, OFF_CLOCK, OFF_DAY)
        off = np.abs(times - np.maximum(np.round(times), 1)) > allowed
        return _shares(off, self.code, len(self.names))

    def finer(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each series the longest usual step, a day at most, of which its gaps are whole numbers, as of a shop that
        writes no row where it sold nothing: its place in `FINE`, -1 where there is none that rows fill. And how far
        they fill it, both `[S]`."""
        S = len(self.names)
        found, filled = np.full(S, -1), np.full(S, np.nan)
        span = (self.last - self.first) / np.timedelta64(1, "s")
        for place, step in reversed([*enumerate(FINE)]):
            times, share = self.seconds / step.seconds, self.rows / (span / step.seconds + 1)
            whole = _shares(np.abs(times - np.round(times)) > 0.01, self.code, S) <= UNEVEN
            here = whole & (step.seconds <= 1.05 * self.usual) & np.isnan(filled)
            filled[here] = share[here]
            found[here & ((share >= SPARSE) | (step.unit == "d"))] = place
        return found, filled

    def absent(self, times: pd.Series) -> np.ndarray:
        """The share of rows that are not there between the first and the last of each series, `[S]`.

        At an hour of the week at which the file has next to no rows nobody is open: such rows are not missed."""
        usual = self.usual_of_all
        if not usual > 0:
            return np.zeros(len(self.names))
        steps = (self.last - self.first) / np.timedelta64(1, "s") / np.fmax(self.usual, 1e-9) + 1
        expected = np.maximum(np.round(steps * _open_share(times, usual)), self.rows)
        return np.where(self.rows > 1, 1 - self.rows / np.maximum(expected, 1), 0.0)


def _medians(code: np.ndarray, values: np.ndarray, count: int) -> np.ndarray:
    order = np.lexsort((values, code))
    sizes = np.bincount(code, minlength=count)
    middle = np.cumsum(sizes) - sizes + (np.maximum(sizes, 1) - 1) // 2
    medians = np.full(count, np.nan)
    medians[sizes > 0] = values[order][middle[sizes > 0]]
    return medians


def _shares(is_so: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    return np.bincount(code, is_so, minlength=count) / np.maximum(np.bincount(code, minlength=count), 1)


def _open_share(times: pd.Series, usual: float) -> float:
    """The share of the steps of a week at which the file has rows; 1 of steps longer than a day."""
    if usual > 1.5 * 86400 or usual < 60:
        return 1.0
    seconds = times.dropna().to_numpy(dtype="datetime64[s]").astype(np.int64) - int(MONDAY)
    step = round(min(usual, 86400))
    counts = np.bincount((seconds % (7 * 86400)) // step, minlength=-(-7 * 86400 // step))
    return float((counts >= CLOSED * counts.max()).mean()) if counts.max(initial=0) >= 4 else 1.0


def uneven_series(frame: pd.DataFrame, gaps: Gaps) -> dict[str, str]:
    """The series whose rows cannot be counted, each with what to say of it and the rule that would help."""
    shares, counts = gaps.uneven(), np.bincount(gaps.code, minlength=len(gaps.names))
    uneven = np.flatnonzero((shares > UNEVEN) & (counts >= MIN_BARS - 1))
    if not len(uneven):
        return {}
    steps, filled = gaps.finer()
    told, proposed = {}, dict[str, str]()
    for place in uneven:
        name, usual = str(gaps.names[place]), Step.near(gaps.usual[place])
        if steps[place] >= 0:
            step = FINE[steps[place]]
            told[name] = (
                f"{name}: {1 - filled[place]:.0%} of its rows are not there, of one every {step.words}, so that rows "
                f"say nothing of seasons and steps: add --resample {step.rule}:sum where an absent row is a zero, or "
                "a longer step (in Python resample=)"
            )
            continue
        if usual.rule not in proposed:
            proposed[usual.rule] = _proposed(frame.loc[frame[ID] == gaps.names[place], "timestamp"], gaps.usual[place])
        told[name] = (
            f"{name}: the times are uneven ({shares[place]:.0%} of {counts[place]:,} gaps are no whole number of the "
            f"usual {usual.words}), so that rows say nothing of seasons and steps: add --resample "
            f"{proposed[usual.rule]} (in Python resample=)"
        )
    return told


def _proposed(times: pd.Series, usual: float) -> str:
    """The reading nearest to each moment, if there mostly is one; else the shortest step that is mostly filled."""
    stamps = times.to_numpy(dtype="datetime64[ns]")

    def filled(step: Step, *, nearest: bool = False) -> bool:
        places = np.unique(step.places(stamps, nearest=nearest))
        return len(places) >= FILLED * (places[-1] - places[0] + 1)

    near = Step.near(usual)
    if near.unit in SECONDS and filled(near, nearest=True):
        return f"{near.rule}:nearest"
    steps = [Step(*one) for one in USUAL if Step(*one).seconds > 0.6 * usual and one != (2, "w")]
    rule = next((step for step in steps if filled(step)), steps[-1]).rule
    return f"{rule}:mean for readings, {rule}:sum for amounts or {rule}:last for states"


def absent_rows(gaps: Gaps, times: pd.Series) -> str | None:
    """What to say where many rows are not there; None where few are."""
    shares = gaps.absent(times)
    many = (shares > ABSENT) & (gaps.rows >= MIN_BARS)
    if not many.any():
        return None
    step = Step.near(float(np.median(gaps.usual[many])))
    names = [str(gaps.names[place]) for place in np.flatnonzero(many)]
    who = names[0] if len(names) == 1 else f"{len(names):,} series ({', '.join(names[:3])}, ...)"
    return (
        f"{who}: {np.median(shares[many]):.0%} of the rows between first and last are not there, and seasons count "
        f"rows: add --resample {step.rule}:sum where an absent row is a zero, or :last where it is unknown"
    )


# --- the rule ------------------------------------------------------------------------------------------------------


@dataclass
class _Grid:
    """Where the rows of a file lie: sorted by series, step and time."""

    code: np.ndarray  # of each step with rows, [G]
    place: np.ndarray  # the number of that step, [G]
    order: np.ndarray  # of the rows, [N]
    first: np.ndarray  # the first sorted row of each step, [G]
    distance: np.ndarray | None = field(default=None)  # of each sorted row from the moment, [N], for `nearest`

    @classmethod
    def of(cls, code: np.ndarray, times: np.ndarray, step: Step, *, nearest: bool) -> "_Grid":
        place = step.places(times, nearest=nearest)
        order = np.lexsort((times, place, code))
        by_code, by_place = code[order], place[order]
        first = np.flatnonzero(np.append(True, (np.diff(by_code) != 0) | (np.diff(by_place) != 0)))
        moments = step.starts(by_place) if nearest else None
        distance = None if moments is None else np.abs((times[order] - moments) / np.timedelta64(1, "s"))
        return cls(by_code[first], by_place[first], order, first, distance)

    def of_steps(self, cells: np.ndarray, how: str) -> np.ndarray:
        """One number per step, `[G]`, NaN where no row of it is known."""
        cells = cells[self.order]
        known = ~np.isnan(cells)
        if how in ("sum", "mean"):
            count = np.add.reduceat(known.astype(float), self.first)
            total = np.add.reduceat(np.where(known, cells, 0.0), self.first)
            return np.where(count > 0, total / (np.maximum(count, 1) if how == "mean" else 1.0), np.nan)
        rows = np.arange(len(cells))
        if how == "nearest":
            assert self.distance is not None
            distance = np.where(known, self.distance, np.inf)
            least = np.repeat(np.minimum.reduceat(distance, self.first), np.diff(self.first, append=len(cells)))
            known = known & (distance == least)
            chosen = np.minimum.reduceat(np.where(known, rows, len(cells)), self.first)
        else:
            chosen = np.maximum.reduceat(np.where(known, rows, -1), self.first)
        is_known = np.add.reduceat(known, self.first) > 0
        return np.where(is_known, cells[np.clip(chosen, 0, len(cells) - 1)], np.nan)


def resample(frame: pd.DataFrame, rule: str | Rule) -> pd.DataFrame:
    """`timestamp, series_id, value` and covariates, in any order and as often as they come -> rows of one even step.

    Rows whose value is unknown, such as those to come of known covariates, stay rows of their steps.

    >>> hours = pd.to_datetime(["2024-01-01 00:10", "2024-01-01 00:50", "2024-01-01 02:05", "2024-01-01 03:20"])
    >>> frame = pd.DataFrame({"timestamp": hours, "series_id": "a", "value": [1.0, 3.0, 5.0, 7.0]})
    >>> resample(frame, "1h:mean")["value"].tolist()
    [2.0, nan, 5.0]

    Raises:
        ValueError: a time is missing, or the rule does not suit the file.
    """
    rule = Rule.read(rule) if isinstance(rule, str) else rule
    if frame["timestamp"].isna().any():
        row = int(frame["timestamp"].isna().to_numpy().argmax())
        raise ValueError(f"{frame[ID].iloc[row]}: the time of a row is empty; give its time, or drop the row")
    if not len(frame):
        return frame
    gaps = Gaps.of(frame)
    step = rule.step or Step.near(gaps.usual_of_all)
    if rule.step is None and not gaps.usual_of_all > 0:
        raise ValueError(
            f"--resample {rule.how}: no series has two times, so there is no usual step: give one, as 1d:sum"
        )
    if rule.how == "nearest" and step.unit in MONTHS:
        raise ValueError("--resample nearest: rows come in months, which are of several lengths; use last")
    code, names = pd.factorize(frame[ID])
    times = frame["timestamp"].to_numpy(dtype="datetime64[ns]")
    grid = _Grid.of(code, times, step, nearest=rule.how == "nearest")
    more = [name for name in frame.columns if name not in ("timestamp", ID, VALUE)]
    covariates = [name for name in more if pd.api.types.is_numeric_dtype(frame[name])]
    beside = "mean" if rule.how == "sum" else rule.how
    columns = {VALUE: grid.of_steps(frame[VALUE].to_numpy(dtype=float), rule.how)}
    columns |= {name: grid.of_steps(frame[name].to_numpy(dtype=float), beside) for name in covariates}
    end = grid.place[~np.isnan(columns[VALUE])].max(initial=grid.place.min() - 1)
    _hide_unfinished(columns, grid, step, rule, times, ~frame[VALUE].isna().to_numpy())
    is_over = not np.isnan(columns[VALUE][grid.place == end]).any()
    even = _even(grid, columns, step, rule, names, until=int(end) - (not is_over))
    for name in more:
        if name not in covariates:  # static ones: texts, one of each series
            even[name] = even[ID].map(frame.groupby(ID, sort=False)[name].first())
    if (
        rule.how in ("mean", "last", "nearest")
        and even[VALUE].notna().mean() < 1 - FILLED
        and gaps.usual_of_all > step.seconds
    ):
        raise ValueError(
            f"--resample {step.rule}:{rule.how}: rows come about every {Step.near(gaps.usual_of_all).words}, so that "
            "most steps would be empty: give a longer step"
        )
    even.attrs = {
        **frame.attrs,
        "lasting": step.lasting(rule.how),
        "resampled": f"{len(frame):,} rows to {len(even):,}, one every {step.words}, by {rule.how}",
    }
    return even


def _hide_unfinished(
    columns: Mapping[str, np.ndarray], grid: _Grid, step: Step, rule: Rule, times: np.ndarray, known: np.ndarray
) -> None:
    """Steps that are not over with the last known row, and sums that began before the first one, are not known."""
    if not known.any():
        return
    stamps = np.unique(times[known])
    width = np.timedelta64(int(min(_width(stamps), step.seconds) * 1e9), "ns")
    half = np.timedelta64(int(step.seconds * 1e9) // 2, "ns")
    ends = step.starts(grid.place) + half if rule.how == "nearest" else step.starts(grid.place + 1)
    to_come = times.max() > stamps[-1]  # rows of known covariates, which stay
    for column in columns.values() if not to_come else [columns[VALUE]]:
        column[ends > stamps[-1] + width] = np.nan
    for column in columns.values() if rule.how == "sum" else ():
        column[step.starts(grid.place) <= stamps[0] - width] = np.nan


def _width(stamps: np.ndarray) -> float:
    """Seconds that a row of the file stands for: from stamp to stamp where these are even; else it is an event."""
    seconds = np.diff(stamps) / np.timedelta64(1, "s")
    if not len(seconds):
        return 0.0 if stamps[0] != stamps[0].astype("datetime64[D]") else 86400.0
    usual = float(np.median(seconds))
    off = np.abs(seconds / usual - np.maximum(np.round(seconds / usual), 1))
    return usual if (off > (0.01 if usual < 0.9 * 86400 else OFF_DAY)).mean() <= UNEVEN else 0.0


def _even(
    grid: _Grid, columns: Mapping[str, np.ndarray], step: Step, rule: Rule, names: Any, *, until: int
) -> pd.DataFrame:
    """A row for every step of each series from its first to its last in which anything is known; of sums to the step
    `until`, the last that is over in the file."""
    told = np.logical_or.reduce([~np.isnan(column) for column in columns.values()])
    asked = f"--resample {step.rule}:{rule.how}"
    if not told.any():
        raise ValueError(f"{asked}: no step of {step.words} is over within the file: give a shorter one")
    first, last = _ends(grid.code[told], grid.place[told], len(names))
    there = first <= last
    if rule.how == "sum":
        last[there] = np.maximum(last[there], until)
    sizes = np.where(there, last - first + 1, 0)
    most = min(MOST_ROWS, max(FEW_ROWS, FOLD * len(grid.order)))
    if (total := int(sizes.sum())) > most:
        raise ValueError(f"{asked} would make {total:,} rows: give a longer step, or correct the times")
    offset = np.cumsum(sizes) - sizes
    of_row = np.repeat(np.arange(len(names)), sizes)
    places = np.arange(total) - offset[of_row] + first[of_row]
    inside = (grid.place >= first[grid.code]) & (grid.place <= last[grid.code])
    at = offset[grid.code[inside]] + grid.place[inside] - first[grid.code[inside]]
    even = {"timestamp": step.starts(places), ID: np.asarray(names)[of_row]}
    for name, column in columns.items():
        even[name] = np.full(total, np.nan)
        if name == VALUE and rule.how == "sum":
            even[name][places <= until] = 0.0
        even[name][at] = column[inside]
    return pd.DataFrame(even)


def _ends(code: np.ndarray, place: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last step of each series, in order of both; 0 and -1 of one without any."""
    first, last = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    begins = np.flatnonzero(np.diff(code, prepend=-1))
    first[code[begins]], last[code[begins]] = place[begins], place[np.append(begins[1:], len(code)) - 1]
    return first, last
