"""What is known at an origin about each step ahead: the further inputs of a model in series form.

Design choices:
* All windows of a batch are cut at once from the rows of all series, which lie in a row: nothing loops over windows or
  steps, and a window's numbers have the same bits beside any others.
* Nothing reads a later value. Of the rows behind an origin only known covariates are read, and with these their times;
  without them the steps have the times that the calendar code gives a forecast from there, in closed form where rows
  are even in time or daily.
* Static covariates are one value per series. Text and whole numbers are categories with a fitted vocabulary, 0 for
  what it does not hold; numbers with a fraction are numbers, and scaled.

Shapes: N rows of all series together, B windows, T bars, P steps ahead, M seasons, C known covariates, J numbers and K
categories that are static, G numbers known of a step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from transformers.utils import logging

from .bars_tsf_llm import UNIVARIATE, CheckedBars
from .calendars_tsf_llm import CLOSED, DAY, HOLIDAYS, PROOF, RECENT, WEEKS, YEAR, next_timestamps, recent_times

logger = logging.get_logger(__name__)
DAY_SECONDS, LEAP_YEAR = 86400.0, 365.2425
WAVES = {"day": (1.0, 2), "week": (7.0, 3), "year": (LEAP_YEAR, 4)}  # length in days, and waves in it
YEARS_SEEN = 2.0  # in which the wave of the year shows what comes back
CYCLES = 3  # of a season, of which the mean is told
FEWEST_DAYS = 15  # from which on the calendar code knows the days of the week
LONGEST_VOCABULARY = 100_000
MOST_STEPS = 100_000  # ahead
IN_DIGEST = "in_digest"  # in a fitted state: the processor's digest covers it, as it did not in folders saved before


# --- settings and fitted state ---------------------------------------------------------------------------------------


def check_series_form(kind: str, steps: Any, static: Sequence[str], *, nonnegative: bool, integer: bool) -> None:
    """Raises ValueError for settings of plain series, or of the series form, that are given to others."""
    if steps is not None and not (isinstance(steps, int) and 1 <= steps <= MOST_STEPS):
        raise ValueError(f"steps_ahead={steps!r}: give 1 to {MOST_STEPS:,} steps")
    if kind != UNIVARIATE.name and (steps or nonnegative or integer):
        raise ValueError(f"steps_ahead, nonnegative and integer go with kind='univariate', not {kind!r}")
    if static and steps is None:
        raise ValueError(
            f"static_covariates={list(static)}: a model in series form alone reads them (patch_length in its config, "
            "steps_ahead of its processor)"
        )
    if taken := [name for name in static if name in ("timestamp", UNIVARIATE.value)]:
        raise ValueError(f"{taken} cannot be static covariates: they are what is forecast, and when")


def nearest_possible(values: np.ndarray, *, nonnegative: bool, integer: bool) -> np.ndarray:
    """The nearest values that the series can have; unchanged where all can be.

    >>> nearest_possible(np.array([-2.0, 0.4, 1.7]), nonnegative=True, integer=True).tolist()
    [0.0, 0.0, 2.0]
    """
    values = np.rint(values) if integer else values
    return np.maximum(values, 0.0) if nonnegative else values


def refuse_inadmissible(frames: Mapping[str, pd.DataFrame], *, nonnegative: bool, integer: bool) -> None:
    """Raises ValueError for the first value that contradicts the settings."""
    for name, setting, said in _inadmissible(frames, nonnegative=nonnegative, integer=integer):
        raise ValueError(f"{setting}: {name} is {said}; leave {setting} out, or correct the data")


def skip_inadmissible(tickers: CheckedBars, *, nonnegative: bool, integer: bool) -> None:
    """Leaves out the series with a value that contradicts the settings of their model."""
    words = {"nonnegative": "none below zero", "integer": "whole numbers alone"}
    for name, setting, said in list(_inadmissible(tickers, nonnegative=nonnegative, integer=integer)):
        why = f"{name} is {said}, and this model was trained for {words[setting]} ({setting})"
        tickers.skip(name, f"{why}: correct the data, or train a model without {setting}")
    tickers.settle()


def _inadmissible(
    frames: Mapping[str, pd.DataFrame], *, nonnegative: bool, integer: bool
) -> Iterator[tuple[str, str, str]]:
    """Series, setting, and the first value that contradicts it with its time."""
    tests = {"nonnegative": (nonnegative, lambda y: y < 0), "integer": (integer, lambda y: y % 1 != 0)}
    for setting, is_wrong in ((name, test) for name, (asked, test) in tests.items() if asked):
        for name, frame in frames.items():
            y = frame[UNIVARIATE.value].to_numpy()
            if len(wrong := np.flatnonzero(~np.isnan(y) & is_wrong(y))):
                more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
                yield name, setting, f"{y[wrong[0]]:g} at {frame['timestamp'].iloc[wrong[0]]}{more}"


def choose_waves(spacing: float, days: float) -> list[str]:
    """The waves of the calendar that rows `spacing` seconds apart can have, over so many days of history.

    >>> choose_waves(3600.0, 100.0), choose_waves(86400.0, 1000.0), choose_waves(91.3 * 86400, 3000.0)
    (['day', 'week'], ['week', 'year'], ['year'])
    """
    year = days >= YEARS_SEEN * LEAP_YEAR and spacing < 200 * DAY_SECONDS
    can = {"day": spacing < 0.9 * DAY_SECONDS, "week": spacing < 1.5 * DAY_SECONDS, "year": year}
    return [name for name, has in can.items() if has]


def fit_ahead(
    frames: CheckedBars,
    *,
    known: Sequence[str],
    static: Sequence[str],
    spacing: float,
    scaler: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> dict[str, Any]:
    """The fitted state, as JSON: waves, scalers of known covariates and static numbers, vocabularies of categories.

    From the rows of these frames and the static covariates of their series. `scaler` gives center and scale of
    columns.

    Raises:
        ValueError: a static covariate is empty for all series.
    """
    ends = [one["timestamp"].iloc[[0, -1]].to_numpy() for one in frames.values()]
    days = float(np.median([(last - first) / np.timedelta64(1, "D") for first, last in ends]))
    vocabularies, numbers = fit_static({name: frames.static.get(name, {}) for name in frames}, static)
    columns = [np.concatenate([one[name].to_numpy(dtype=float) for one in frames.values()]) for name in known]
    columns += [
        np.array([static_number(frames.static.get(one, {}).get(name, "")) for one in frames]) for name in numbers
    ]
    fitted = [scaler(column[:, None]) for column in columns]
    return {
        "waves": choose_waves(spacing, days),
        "center": [float(center[0]) for center, _ in fitted],
        "scale": [float(scale[0]) for _, scale in fitted],
        "vocabularies": vocabularies,
        "numbers": numbers,
        IN_DIGEST: True,
    }


def told_ahead(
    name: str, tickers: CheckedBars, state: Mapping[str, Any], *, covariates: Sequence[str], clip: float | None
) -> dict[str, Any]:
    """`known` and `static` of an `EncodedSeries`."""
    bars, static = tickers[name], tickers.static.get(name, {})
    told: dict[str, Any] = {"known": None, "static": None}
    if state["center"]:
        columns = [bars[one].to_numpy(dtype=float) for one in covariates]
        numbers = {one: static_number(static.get(one, "")) for one in state["numbers"]}
        if unclear := [
            f"{one} {static[one]!r}" for one, number in numbers.items() if np.isnan(number) and static.get(one)
        ]:
            logger.warning_once(f"{name}: {', '.join(unclear)} is no number: it is read as unknown")
        columns += [np.full(len(bars), number) for number in numbers.values()]
        scaled = (np.stack(columns, axis=1) - state["center"]) / state["scale"]
        limit = np.inf if clip is None else clip
        told["known"] = np.clip(scaled, -limit, limit).astype(np.float32)
    if state["vocabularies"]:
        told["static"] = np.repeat(static_codes(name, static, state["vocabularies"])[None], len(bars), axis=0)
    return told


def check_ahead(state: Any) -> None:
    """Raises ValueError for a fitted state that no fit wrote."""

    def are(values: Any, *kinds: type) -> bool:
        return isinstance(values, list | tuple) and all(isinstance(one, kinds) for one in values)

    lists = {"waves": (str,), "numbers": (str,), "center": (int, float), "scale": (int, float)}
    sound = isinstance(state, dict) and all(are(state.get(name), *kinds) for name, kinds in lists.items())
    sound = sound and {*state["waves"]} <= {*WAVES} and len(state["center"]) == len(state["scale"])
    sound = sound and np.isfinite(state["center"]).all() and np.isfinite(state["scale"]).all()
    sound = sound and min(state["scale"], default=1) > 0 and isinstance(state.get("vocabularies"), dict)
    if not sound or not all(are(values, str) for values in state["vocabularies"].values()):
        raise ValueError("fitted: ahead is no state of steps ahead; copy the processor again, or fit it anew")


def fit_static(
    values: Mapping[str, Mapping[str, str]], names: Sequence[str]
) -> tuple[dict[str, list[str]], list[str]]:
    """Vocabularies of the categories among the static covariates, and the names of those that are numbers.

    Raises:
        ValueError: one of them is empty for all series.
    """
    vocabularies, numbers = dict[str, list[str]](), []
    for name in sorted(names):  # as the keys of a saved state stand, for the columns of `static_codes` follow them
        told = sorted({one.get(name, "") for one in values.values()} - {""})
        if not told:
            raise ValueError(f"static covariate '{name}' is empty for every series: leave it out, or fill it")
        as_number = pd.to_numeric(pd.Series(told), errors="coerce")
        if as_number.notna().all() and (as_number % 1 != 0).any():
            numbers.append(name)
        elif len(told) > LONGEST_VOCABULARY:
            raise ValueError(f"static covariate '{name}' has {len(told):,} values: group them, or leave it out")
        else:
            vocabularies[name] = told
    return vocabularies, numbers


def static_codes(ticker: str, told: Mapping[str, str], vocabularies: Mapping[str, Sequence[str]]) -> np.ndarray:
    """Codes `[K]` of a series' categories, 0 for what the fit did not see, of which a warning speaks."""
    codes = [_codes_of(tuple(known)).get(told.get(name, ""), 0) for name, known in vocabularies.items()]
    if new := [f"{name} {told.get(name)!r}" for code, name in zip(codes, vocabularies, strict=True) if not code]:
        logger.warning_once(f"{ticker}: {', '.join(new)} was not there in training: it is read as unknown")
    return np.array(codes, np.int32)


@lru_cache(maxsize=64)
def _codes_of(vocabulary: tuple[str, ...]) -> dict[str, int]:
    return {value: code for code, value in enumerate(vocabulary, 1)}


def static_number(text: str) -> float:
    """NaN where it is none."""
    try:
        number = float(text)
    except ValueError:
        return float("nan")
    return number if np.isfinite(number) else float("nan")


# --- the times of the steps ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rhythm:
    """How the rows of series go on, row by row: a function of the rows up to each."""

    step: np.ndarray  # int64 [N] nanoseconds between even rows; 0 where they are not
    days: np.ndarray  # uint8 [N] of daily rows at midnight the weekdays with rows, as bits; 0 of others

    @classmethod
    def of(cls, timestamp: np.ndarray, calendar: str | None) -> "Rhythm":
        """Of one series. Where neither is known, `next_timestamps` must be asked."""
        n = len(timestamp)
        step, days = np.zeros(n, np.int64), np.zeros(n, np.uint8)
        if calendar is None and n > 1:
            time = timestamp.astype("datetime64[ns]").astype(np.int64)
            step = _even_steps(time)
            daily = _open_days(time)
            step, days = np.where(daily > 0, 0, step), daily
        return cls(step, days)


def _counts(marks: np.ndarray) -> np.ndarray:
    """How many are marked before each place, `[N + 1]`."""
    return np.concatenate(([0], np.cumsum(marks)))


def _even_steps(time: np.ndarray) -> np.ndarray:
    """Nanoseconds between rows within a day that are even for as long as the calendar code looks back; else 0."""
    gap, rows = np.diff(time, prepend=time[0]), np.arange(len(time))
    changes = _counts((rows > 1) & (gap != np.roll(gap, 1)))  # of the gap

    def even(first: np.ndarray) -> np.ndarray:
        """Whether all gaps behind this row are one."""
        return changes[rows + 1] == changes[np.minimum(first + 2, rows + 1)]

    recent, year = (np.searchsorted(time, time - span.value, side="right") for span in (WEEKS, YEAR))
    recent = np.minimum(np.maximum(rows + 1 - RECENT, 0), recent)
    pauses = _counts(gap > CLOSED.value)
    around_the_clock = even(year) | (pauses[rows + 1] - pauses[year] < 10)
    spans = time // DAY.value - time[recent] // DAY.value + 1 >= FEWEST_DAYS
    is_step = (gap > 0) & (gap < DAY.value) & even(recent) & around_the_clock & spans
    return np.where(is_step, gap, 0)


def _open_days(time: np.ndarray) -> np.ndarray:
    """Bits of the weekdays that daily rows at midnight have, where the calendar code goes by these alone; else 0."""
    rows = np.arange(len(time))
    first = np.maximum(rows + 1 - RECENT, 0)
    day = (time // DAY.value + 3) % 7
    seen = np.stack([_counts(day == one) for one in range(7)], axis=1)
    count = seen[rows + 1] - seen[first]
    most, total = count.max(axis=1, keepdims=True), count.sum(axis=1, keepdims=True)
    is_open = np.where(total >= FEWEST_DAYS, 2 * count >= most, (count > 0) | (np.arange(7) < 5))
    one_day = _counts(np.diff(time, prepend=time[0]) == DAY.value)
    daily = 2 * (one_day[rows + 1] - one_day[np.minimum(first + 1, rows + 1)]) > rows - first
    at_midnight = _counts(time % DAY.value != 0)[rows + 1] == 0
    proof = np.maximum(rows + 1 - PROOF, 0)
    weekends = seen[:, 5] + seen[:, 6]
    dates = time.astype("datetime64[ns]").astype("datetime64[D]")
    holidays = np.busday_count(dates[proof], dates + 1) - PROOF >= HOLIDAYS
    may_be_exchange = (rows + 1 >= PROOF) & (weekends[rows + 1] == weekends[proof]) & holidays
    known = daily & at_midnight & ~may_be_exchange & (rows > 0)
    return np.where(known, (is_open << np.arange(7)).sum(axis=1), 0).astype(np.uint8)


@lru_cache(maxsize=1024)
def _days_ahead(open_days: int, weekday: int, horizon: int) -> np.ndarray:
    """Days from one of this weekday to each of the next open ones, `[P]`."""
    after = np.arange(1, 7 * horizon + 8)
    is_open = open_days >> ((weekday + after) % 7) & 1
    return after[is_open > 0][:horizon]


class Steps:
    """The times of the steps ahead of rows of several series.

    Args:
        timestamp: datetime64[ns] `[N]`; the rows of a series begin in `start` and end before `end`, `[N]` each.
        told: whether rows behind an origin are known in advance, as they are with known covariates.
    """

    def __init__(
        self,
        timestamp: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        rhythm: Rhythm,
        calendar: str | None,
        *,
        told: bool,
    ):
        self.timestamp, self.start, self.end, self.rhythm = timestamp, start, end, rhythm
        self.calendar, self.told = calendar, told
        self._asked: dict[bytes, np.ndarray] = {}

    def times(self, origins: np.ndarray, horizon: int) -> np.ndarray:
        """datetime64[ns] `[B,P]`."""
        if not self.told:
            return self._rhythmic(origins, horizon)
        rows, last = origins[:, None] + np.arange(1, horizon + 1), self.end[origins] - 1
        times = self.timestamp[np.minimum(rows, last[:, None])]
        if (open_ended := last - origins < horizon).any():
            ends, which = np.unique(last[open_ended], return_inverse=True)
            beyond = self._rhythmic(ends, horizon)[which]
            place = rows[open_ended] - last[open_ended, None] - 1
            after = np.take_along_axis(beyond, np.maximum(place, 0), axis=1)
            times[open_ended] = np.where(place >= 0, after, times[open_ended])
        return times

    def _rhythmic(self, origins: np.ndarray, horizon: int) -> np.ndarray:
        step, days, now = self.rhythm.step[origins], self.rhythm.days[origins], self.timestamp[origins]
        ahead = step[:, None] * np.arange(1, horizon + 1)
        weekday = (now.astype("datetime64[D]").astype(np.int64) + 3) % 7
        kinds, which = np.unique(np.stack((days, weekday), axis=1)[days > 0], axis=0, return_inverse=True)
        if len(kinds):
            table = np.stack([_days_ahead(int(bits), int(one), horizon) for bits, one in kinds])
            ahead[days > 0] = table[which.reshape(-1)] * DAY.value
        times = now[:, None] + ahead.astype("timedelta64[ns]")
        for place in np.flatnonzero((step == 0) & (days == 0)):
            times[place] = self._ask(int(origins[place]), horizon)
        return times

    def _ask(self, origin: int, horizon: int) -> np.ndarray:
        """The calendar code, once for each past: series of a panel mostly share their times."""
        past = recent_times(self.timestamp[self.start[origin] : origin + 1])
        key = past.tobytes()
        if key not in self._asked:
            self._asked[key] = next_timestamps(past, horizon, self.calendar).to_numpy()
        return self._asked[key]


def waves_of(times: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Sines and cosines of these waves of the calendar, float32 `[B,P,2 per wave]`."""
    days = times.astype("datetime64[ns]").astype(np.int64) / DAY.value + 3  # 1970 began on a Thursday
    parts = []
    for name in names:
        length, count = WAVES[name]
        turns = days / length % 1.0
        for number in range(1, count + 1):
            parts += [np.sin(2 * np.pi * number * turns), np.cos(2 * np.pi * number * turns)]
    return np.stack(parts, axis=-1).astype(np.float32) if parts else np.empty((*times.shape, 0), np.float32)


# --- the inputs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ahead:
    """The rows of some series, of which `inputs` cuts what a model in series form reads beside features and mask."""

    value: np.ndarray  # float64 [N]
    steps: Steps
    waves: Sequence[str]
    seasons: Sequence[int]
    horizon: int
    known: np.ndarray | None  # float32 [N,C+J] scaled, NaN where unknown: known covariates, then static numbers
    covariates: int  # C
    static: np.ndarray | None  # int32 [N,K]

    @classmethod
    def of(cls, series: Sequence[Any], extractor: Any) -> "Ahead":
        """Of `EncodedSeries` one after the other, by the settings and the fitted state of a feature extractor."""
        sizes = [len(one.close) for one in series]
        ends = np.cumsum(sizes)
        rhythms = [Rhythm.of(one.timestamp, extractor.calendar) for one in series]
        rhythm = Rhythm(*(np.concatenate([getattr(one, name) for one in rhythms]) for name in ("step", "days")))
        times = np.concatenate([one.timestamp for one in series])
        steps = Steps(
            times,
            np.repeat(ends - sizes, sizes),
            np.repeat(ends, sizes),
            rhythm,
            extractor.calendar,
            told=bool(extractor.known_covariates),
        )
        parts = {name: [getattr(one, name) for one in series] for name in ("known", "static")}
        joined = {name: None if part[0] is None else np.concatenate(part) for name, part in parts.items()}
        return cls(
            value=np.concatenate([one.close for one in series]),
            steps=steps,
            waves=extractor.ahead["waves"],
            seasons=extractor.seasons or (),
            horizon=extractor.steps_ahead,
            covariates=len(extractor.known_covariates),
            **joined,
        )

    @classmethod
    def of_requests(cls, requests: Sequence[tuple[Any, np.ndarray]], extractor: Any) -> tuple["Ahead", np.ndarray]:
        """Of series and their origins; and where these lie among all rows, `[B]`."""
        series = [one for one, _ in requests]
        first = np.cumsum([0, *(len(one.close) for one in series)])
        places = [rows + start for (_, rows), start in zip(requests, first, strict=False)]
        return cls.of(series, extractor), np.concatenate(places)

    def inputs(self, origins: np.ndarray, mask: np.ndarray, scale: np.ndarray) -> dict[str, np.ndarray]:
        """Of rows `[B]`, which rows of their contexts are observed `[B,T]`, and their `scale` `[B]`:
        `past_target [B,T]`, `season_values [B,P,2M]`, `ahead_values [B,P,G]`, `static_ids [B,K]`, `zero_level [B]`."""
        now, unit = self.value[origins], scale
        context = np.maximum(origins[:, None] - np.arange(mask.shape[1])[::-1], 0)
        past = (self.value[context] - now[:, None]) / unit[:, None]
        told = {
            "past_target": np.where(mask, past, 0.0).astype(np.float32),
            "ahead_values": self._ahead_values(origins),
            "zero_level": (-now / unit).astype(np.float32),
        }
        if self.seasons:
            told["season_values"] = self._season_values(origins, now, unit)
        if self.static is not None:
            told["static_ids"] = self.static[origins].astype(np.int64)
        return told

    def examples(self, origins: np.ndarray, mask: np.ndarray, scale: np.ndarray, usual: np.ndarray) -> dict:
        """`inputs`, and `labels [B,P]`; `loss_weight [B]` makes errors count in a series' `usual` deviation `[B]`."""
        weight = (scale / usual).astype(np.float32)
        labels = self.labels(origins, scale)
        return {**self.inputs(origins, mask, scale), "labels": labels, "loss_weight": weight}

    def labels(self, origins: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """float32 `[B,P]` in units of `scale`, NaN where a value is missing or the series has ended.

        A value of zero is the window's `zero_level` to the bit."""
        rows = origins[:, None] + np.arange(1, self.horizon + 1)
        end = self.steps.end[origins, None]
        later = np.where(rows < end, self.value[np.minimum(rows, end - 1)], np.nan)
        return ((later - self.value[origins, None]) / scale[:, None]).astype(np.float32)

    def _season_values(self, origins: np.ndarray, now: np.ndarray, unit: np.ndarray) -> np.ndarray:
        start, steps, parts = self.steps.start[origins, None], np.arange(1, self.horizon + 1), []
        for season in self.seasons:
            last = origins[:, None] + steps - season * -(-steps // season)
            rows = last[..., None] - season * np.arange(CYCLES)  # [B,P,cycles]
            past = np.where(rows >= start[..., None], self.value[np.maximum(rows, 0)], np.nan)
            moved = (past - now[:, None, None]) / unit[:, None, None]
            known = np.isfinite(moved)
            moved = np.where(known, moved, 0.0)
            mean = moved[..., 0] + moved[..., 1] + moved[..., 2]
            parts += [moved[..., 0], mean / np.maximum(known.sum(axis=-1), 1)]
        return np.stack(parts, axis=-1).astype(np.float32)

    def _ahead_values(self, origins: np.ndarray) -> np.ndarray:
        parts = [waves_of(self.steps.times(origins, self.horizon), self.waves)] if self.waves else []
        if self.known is not None:
            known = self._known(origins)
            unknown = np.isnan(known)
            parts.append(
                np.stack((np.where(unknown, np.float32(0), known), unknown), axis=-1).reshape(*known.shape[:2], -1)
            )
        shape = (len(origins), self.horizon, 0)
        return np.concatenate(parts, axis=-1, dtype=np.float32) if parts else np.empty(shape, np.float32)

    def _known(self, origins: np.ndarray) -> np.ndarray:
        """Known covariates at each step and static numbers, `[B,P,C+J]`, NaN where unknown."""
        assert self.known is not None
        rows, end = origins[:, None] + np.arange(1, self.horizon + 1), self.steps.end[origins, None]
        ahead = self.known[np.minimum(rows, end - 1)]
        ahead[..., : self.covariates][rows >= end] = np.nan
        return ahead

    def steps_known(self, origins: np.ndarray) -> np.ndarray:
        """How many of the steps ahead have all known covariates, `[B]`."""
        if not self.covariates:
            return np.full(len(origins), self.horizon)
        missing = np.isnan(self._known(origins)[..., : self.covariates]).any(axis=-1)
        return np.where(missing.any(axis=1), missing.argmax(axis=1), self.horizon)


def usual_deviation(value: np.ndarray, rows: slice | np.ndarray) -> float:
    """Of the values of a series in these rows, for the weight of its losses; 1 where they never change."""
    known = value[rows][np.isfinite(value[rows])]
    deviation = float(np.std(known)) if len(known) else 0.0
    return deviation if deviation > 0 else 1.0


def num_ahead(waves: Sequence[str], known: int) -> int:
    """Numbers `G` that are told of each step: two per wave, and of a covariate or number its value and whether it is
    unknown."""
    return sum(2 * WAVES[name][1] for name in waves) + 2 * known


__all__ = ["Ahead", "Steps"]
