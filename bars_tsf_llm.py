"""Bars and plain series: their kinds, and the one check that every row passes before anything is computed from it.

Design choices:
* A `Kind` is data: its columns, how two values make a change, and what is refused. Processor, windows, pipeline and
  evaluation ask the kind and are the same code for both.
* A price changes by its log return; a value by its difference, so zeros, negatives and gaps are allowed.
* Missing is NaN. A gap is a gap: nothing is filled. What has no honest reading is refused with its row and a remedy.
* A column is read as a whole, in a frame as in a file, by the rules of `cells_tsf_llm`.
* Strictly descending times are newest first, and turned round; any other disorder is refused.
* Times carry no zone, and a bare date as a fence includes that whole day: `day_end` is the one reading of fences.
* One bad series does not stop a panel: `CheckedBars` goes on with the others and records what it skipped, and why.
* Covariates are further columns, of bars as of plain series. A past one counts for its own row. A known one (a price
  list, a holiday flag) is declared as known ahead, and alone may be read ahead of t.

Shapes: N rows of one series, S series of one length, F features.
"""

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from transformers.utils import logging

from .cells_tsf_llm import (
    NumberFormat,
    TimeFormat,
    Unclear,
    is_typed,
    read_numbers,
    read_times,
    repeated_hour,
    why_no_time,
)
from .jumps_tsf_llm import QUARTER, believed, over_known
from .windows_tsf_llm import decayed_bars, decayed_sum

logger = logging.get_logger(__name__)
PRICES = ["open", "high", "low", "close"]
SIGMA_CAP = 6.0  # usual deviations: the crashes of an index count whole, an unadjusted split does not
COLUMNS = ["timestamp", *PRICES, "volume"]
MIN_BARS = 21  # observed bars before the first volatility is known
LARGEST = 1e150  # of a plain series: changes are squared
FIRST_DATE = 16780101  # of numbers that are dates, as 20240131
TWICE = (
    "the clock goes back there as daylight saving ends, so that an hour comes twice: give times in UTC or with their "
    "offset"
)
CLEAN = ", as tsf-llm clean does"  # with bars
RESAMPLE = ", or add --resample mean (or sum, last), which makes even rows of plain series"
LEADS = (1, 2, 3, 4, 5, 6, 7)  # rows ahead at which a known covariate is read
LISTED = 20  # skipped series that a warning names


@dataclass(frozen=True)
class Kind:
    """One kind of series.

    Args:
        id: column that names the series.
        value: column that is forecast.
        columns: numeric columns that every row has; a row without all `needed` ones is a missing row.
        additive: values -> the scale on which changes add up.
        change: (later, now) -> the change between two values.
        level: (now, change) -> the later value.
        volatility: (changes, decay, floor, cap) -> their scale known at each row.
        sigma_decay, sigma_floor: defaults of the extractor.
        refusals: (columns, each `[N]` -> mask `[N]`, what is wrong, remedy).
        noise: (values, generator) -> other values, for the audit.
        score_name, score_unit, score_factor, unit_scores: what scores are about, for tables and plots; with
            `unit_scores` changes are divided by the mean absolute one-step change known at the origin.
    """

    name: str
    id: str
    value: str
    columns: list[str]
    needed: list[str]
    additive: Callable[[Any], Any]
    change: Callable[[Any, Any], Any]
    level: Callable[[Any, Any], Any]
    volatility: Callable[[np.ndarray, float, float, float | None], np.ndarray]
    sigma_decay: float
    sigma_floor: float
    refusals: tuple[tuple[Callable[[Mapping[str, np.ndarray]], np.ndarray], str, str], ...]
    noise: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    score_name: str
    score_unit: str
    score_factor: float
    unit_scores: bool


def return_volatility(changes: np.ndarray, decay: float, floor: float, cap: float | None = None) -> np.ndarray:
    """sigma[t]^2 = sum_k decay^k r[t-k]^2 / sum_k decay^k, over known returns, `[N]` or `[N,S]`. RiskMetrics 1996,
    section 5.2. What lies `volatility_bars` back has no weight, to the bit.

    With a cap no return counts as more than so many usual deviations: a split or a wrong bar does not set sigma."""

    def deviation(returns: np.ndarray) -> np.ndarray:
        variance = decayed_sum(believed(returns, cap) ** 2, decay) / decayed_sum(np.ones((len(returns), 1)), decay)
        variance[: MIN_BARS - 2] = np.nan
        return np.maximum(np.sqrt(variance), floor)

    return over_known(deviation, changes)[0]


def volatility_bars(decay: float) -> int:
    """How many known changes a `return_volatility` reads, with a cap or without."""
    return decayed_bars(decay) + QUARTER


def difference_scale(changes: np.ndarray, decay: float, floor: float, cap: float | None = None) -> np.ndarray:
    """`return_volatility`, at least `floor` times the root mean square of all changes so far; NaN before the first.

    >>> difference_scale(np.array([np.nan, *[2.0] * 20, *[0.0] * 200]), 0.5, 0.1)[[19, 20, 220]].round(3).tolist()
    [nan, 2.0, 0.06]
    """
    changes = believed(changes, cap)
    so_far = np.sqrt(pd.DataFrame(changes**2).expanding().mean().to_numpy().reshape(changes.shape))
    return np.where(so_far > 0, return_volatility(changes, decay, 0.0).clip(floor * so_far), np.nan)


def _other_prices(values: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """All numbers of a bar times one factor; a covariate may be zero, so it is moved."""
    others = values * np.exp(rng.normal(0, 0.1, (len(values), 1)))
    covariates = values.columns.difference(OHLCV.columns)
    return others.assign(**_other_values(values[covariates], rng)) if len(covariates) else others


def _other_values(values: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    spread = values.std().fillna(0.0).to_numpy() + 1.0
    return values + rng.normal(0, 1, values.shape) * spread


OHLCV = Kind(
    name="ohlcv",
    id="ticker",
    value="close",
    columns=[*PRICES, "volume"],
    needed=PRICES,
    additive=np.log,
    change=lambda later, now: np.log(later / now),
    level=lambda now, change: now * np.exp(change),
    volatility=return_volatility,
    sigma_decay=0.94,
    sigma_floor=1e-4,
    refusals=(
        (
            lambda bars: (bars["open"] == 0) & (np.minimum.reduce([bars[name] for name in PRICES[1:]]) > 0),
            "open is 0, as vendors write one that they do not know",
            f"start later, or mask these bars with NaN{CLEAN}",
        ),
        (
            lambda bars: np.fmin.reduce([bars[name] for name in PRICES]) <= 0,
            "price <= 0",
            f"mask it with NaN{CLEAN}, or correct it",
        ),
        (lambda bars: bars["volume"] < 0, "negative volume", f"mask it with NaN{CLEAN}, or correct it"),
        (
            lambda bars: bars["high"] < bars["low"] * (1 - 1e-9),
            "high is below low",
            f"mask the bar with NaN{CLEAN}, or correct it",
        ),
    ),
    noise=_other_prices,
    score_name="cumulative log return",
    score_unit="% log return",
    score_factor=100.0,
    unit_scores=False,
)

UNIVARIATE = Kind(
    name="univariate",
    id="series_id",
    value="value",
    columns=["value"],
    needed=["value"],
    additive=lambda value: value,
    change=lambda later, now: later - now,
    level=lambda now, change: now + change,
    volatility=difference_scale,
    sigma_decay=0.98,
    sigma_floor=0.1,
    refusals=(
        (
            lambda series: np.abs(series["value"]) > LARGEST,
            f"value beyond {LARGEST:g}, whose square no number holds",
            "give the values in larger units, or correct it",
        ),
    ),
    noise=_other_values,
    score_name="change of the value",
    score_unit="mean one-step changes",
    score_factor=1.0,
    unit_scores=True,
)

KINDS = {kind.name: kind for kind in (OHLCV, UNIVARIATE)}


def kind_of(frame: Any) -> Kind:
    """The kind whose column to forecast a frame has; bars where it has neither, or is a list of frames of bars.

    A plain series may have a covariate `close`, and bars one called `value`: then the column of names tells.

    >>> kind_of(pd.DataFrame(columns=["timestamp", "value"])).name
    'univariate'
    """
    first = frame if isinstance(frame, pd.DataFrame) or not len(frame) else frame[0]
    is_series = isinstance(first, pd.DataFrame) and "value" in first and ("close" not in first or "series_id" in first)
    return UNIVARIATE if is_series else OHLCV


def named_columns(wanted: Sequence[str], columns: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The columns that are asked for, each once; a pattern stands for all that fit it and are not `taken`.

    What no column fits stays as it was written, for whoever needs the column to say so.

    >>> named_columns(["flag", "text_*"], ["close", "text_0", "text_1", "flag"])
    ['flag', 'text_0', 'text_1']
    """
    columns, taken, chosen = list(columns), set(taken), dict[str, None]()
    for pattern in wanted:
        fitting = [pattern] if pattern in columns else [name for name in columns if fnmatchcase(str(name), pattern)]
        free = [name for name in fitting if name == pattern or name not in taken]
        chosen |= dict.fromkeys(free or [pattern])
    return list(chosen)


def covariate_columns(
    past: Sequence[str], known: Sequence[str], leads: Sequence[int] = LEADS
) -> dict[str, tuple[str, int]]:
    """Feature -> its column, and how many rows ahead this is read: past ones as they are, known ones also as they
    will be. The processor scales them as any feature.
    """
    columns = {f"past:{name}": (name, 0) for name in past} | {f"known:{name}": (name, 0) for name in known}
    return columns | {f"known:{name}+{ahead}": (name, ahead) for name in known for ahead in leads}


def covariate_features(
    frame: pd.DataFrame, past: Sequence[str], known: Sequence[str], leads: Sequence[int] = LEADS
) -> pd.DataFrame:
    """The features of `covariate_columns`, float64 `[N,F]`, NaN where unknown."""
    features = {name: frame[column].shift(-k) for name, (column, k) in covariate_columns(past, known, leads).items()}
    return pd.DataFrame(features, index=frame.index, dtype=float)


def refuse_covariates(
    frames: Mapping[str, pd.DataFrame], past: Sequence[str], known: Sequence[str], through: Any, kind: Kind
) -> None:
    """Raises ValueError for columns that are empty in the rows up to `through`, which these are, and for a known one
    that is the value of its own row, which nobody knows in advance."""
    if unknown := [name for name in (*past, *known) if all(frame[name].isna().all() for frame in frames.values())]:
        raise ValueError(f"column(s) {unknown} are empty up to {through}: leave them out or move the fence")
    for name in known:
        moves = False
        for frame in frames.values():
            both = frame[[name, kind.value]].dropna().to_numpy()
            if not np.array_equal(both[:, 0], both[:, 1]):
                break
            moves |= len(both) > 1 and bool(np.ptp(both[:, 0]) > 0)
        else:
            if moves:
                raise ValueError(
                    f"known covariate '{name}' is the value to forecast itself, row by row, which nobody knows in "
                    "advance: leave it out"
                )


def hide_after(frame: pd.DataFrame, cut: int, known: Sequence[str]) -> pd.DataFrame:
    """The frame as it was known at row `cut - 1`: later rows keep nothing but their times and known covariates."""
    if not known:
        return frame.iloc[:cut]
    kept = ["timestamp", *known]
    hidden = frame.copy()
    hidden.iloc[cut:, [i for i, name in enumerate(frame.columns) if name not in kept]] = np.nan
    return hidden


class FeatureError(ValueError):
    """A feature cannot be computed of some bars; of which ticker they are is told by `naming`."""


@contextmanager
def naming(ticker: str) -> Iterator[None]:
    """Says of which ticker a feature could not be computed."""
    try:
        yield
    except FeatureError as error:
        raise ValueError(f"{ticker}: {error}") from error


class CheckedBars(dict[str, pd.DataFrame]):
    """What `split_tickers` made of bars, one frame per ticker; it takes them as they are: each bar is checked once.

    Later stages (too few bars, another frequency, no known volatility) skip tickers by the same record. A frame
    carries its own as `frame.attrs["skipped"]`: that of a file reader is taken over, a forecast's is this one.

    Args:
        skipped: name -> why it was left out, in order.
        strict: what would be skipped raises a `ValueError` instead.
    """

    def __init__(self, frames: Mapping[str, pd.DataFrame] | None = None, *, strict: bool = False):
        super().__init__(frames or {})
        self.skipped: dict[str, str] = {}
        self.static: dict[str, dict[str, str]] = {}  # by series its static covariates as texts, empty where unknown
        self.lasting: dict[str, int] | None = None  # see `known_by`
        self.strict, self._told = strict, set[str]()

    def like(self, frames: Mapping[str, pd.DataFrame]) -> "CheckedBars":
        """Other frames with this record, which both go on to write."""
        other = CheckedBars(frames, strict=self.strict)
        other.skipped, other._told, other.static = self.skipped, self._told, self.static
        other.lasting = self.lasting
        return other

    def take_over(self, skipped: Mapping[str, str]) -> None:
        """What was skipped, and told, before these bars came here."""
        self.skipped |= skipped
        self._told |= skipped.keys()

    def skip(self, name: str, reason: str) -> None:
        """Leaves a series out.

        Raises:
            ValueError: with this reason, if strict.
        """
        if self.strict:
            raise ValueError(reason)
        self.pop(name, None)
        self.skipped.setdefault(name, reason)

    def settle(self) -> "CheckedBars":
        """A warning names what was skipped since the last one.

        Raises:
            ValueError: if nothing is left, with the first reasons.
        """
        refuse_if_none_left(self, self.skipped)
        tell_skipped([reason for name, reason in self.skipped.items() if name not in self._told])
        self._told.update(self.skipped)
        return self


def refuse_if_none_left(left: Collection, skipped: Mapping[str, str]) -> None:
    """Raises ValueError with the first reasons if all was skipped."""
    if skipped and not len(left):
        reasons = list(dict.fromkeys(skipped.values()))
        more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
        raise ValueError("; ".join(reasons[:3]) + more)


def tell_skipped(reasons: Sequence[str]) -> None:
    """One warning, a line per reason; of many, the first and how many more."""
    reasons = list(dict.fromkeys(reasons))
    lines = [f"skipped {' '.join(reason.split())}" for reason in reasons[:LISTED]]
    if len(reasons) > LISTED:
        lines.append(f"skipped {len(reasons) - LISTED} more")
    if lines:
        logger.warning("\n".join(lines))


@dataclass(frozen=True)
class BarArrays:
    """Checked bars of one series, where a frame would cost more than what is computed of it.

    Args:
        columns: of numbers.
        timestamp: datetime64[ns] `[N]`.
        values: float64 `[len(columns),N]`.
    """

    columns: Sequence[str]
    timestamp: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.timestamp)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.timestamp if name == "timestamp" else self.values[self.columns.index(name)]

    def frame(self) -> pd.DataFrame:
        """The same, a copy."""
        frame = pd.DataFrame(self.values.copy().T, columns=list(self.columns), copy=False)
        frame.insert(0, "timestamp", self.timestamp.copy())
        return frame


def as_frame(bars: pd.DataFrame | BarArrays) -> pd.DataFrame:
    return bars.frame() if isinstance(bars, BarArrays) else bars


Bars: TypeAlias = pd.DataFrame | Sequence[pd.DataFrame] | CheckedBars


def named_covariates(
    bars: Bars, past: Sequence[str], known: Sequence[str], kind: Kind = OHLCV
) -> tuple[list[str], list[str]]:
    """Past and known covariates, columns of these bars in place of patterns such as `text_*`."""
    frames = list(bars.values()) if isinstance(bars, CheckedBars) else bars
    columns = list(frames if isinstance(frames, pd.DataFrame) else frames[0]) if len(frames) else []
    taken = {"timestamp", kind.id, *kind.columns}
    known = named_columns(known, columns, taken)
    return named_columns(past, columns, {*taken, *known}), known


def split_tickers(
    bars: Bars,
    kind: Kind = OHLCV,
    covariates: Sequence[str] = (),
    *,
    strict: bool = False,
    made: Callable[[BarArrays], Any] = BarArrays.frame,
) -> CheckedBars:
    """Bars of any number of tickers -> one checked frame per ticker, in order of appearance.

    Of a plain series the names are in `series_id`, and rows are its values. Covariates are further columns to keep. A
    ticker with a bar that has no honest reading is skipped, and a warning names it with the row and the remedy.
    `made` makes something else than frames of the checked bars.

    Raises:
        ValueError: for what is no panel of bars; with the first reasons if no ticker is left, or, if `strict`, for
            the first ticker that would be skipped.
    """
    if isinstance(bars, CheckedBars):
        return bars
    frames = [bars] if isinstance(bars, pd.DataFrame) else list(bars)
    if not frames:
        raise ValueError("no bars were given: pass a DataFrame or a list of them")
    tickers = CheckedBars(strict=strict)
    for number, frame in enumerate(frames):
        if not isinstance(frame, pd.DataFrame):
            columns = ["timestamp", *kind.columns]
            raise ValueError(f"bars must be DataFrames, got {type(frame).__name__}: build one with columns {columns}")
        tickers.take_over(frame.attrs.get("skipped", {}))
        tickers.lasting = frame.attrs.get("lasting", tickers.lasting)
        sound = _sound_tickers(frame, kind, covariates)
        parts: Iterable = [("series" if len(frames) == 1 else f"series_{number}", frame)]
        if kind.id in frame:
            at_once = sound and all(checked is not None for checked in sound.values())
            rows = frame.reset_index(drop=True)  # its index may have the name of a column
            parts = sound.items() if at_once else rows.groupby(kind.id, sort=False, dropna=False, observed=True)
        formats = None
        for given_name, part in parts:
            name = str(given_name)
            if name in tickers:
                raise ValueError(f"{name}: given in more than one frame; join its bars into one")
            try:
                if (checked := sound.get(name)) is None:
                    formats = formats or frame_formats(frame, kind, covariates, name)
                    checked = _check(part, name, kind, covariates, formats)
                tickers[name] = made(checked)
            except ValueError as error:
                tickers.skip(name, str(error))
    if not tickers and not tickers.skipped:
        raise ValueError("the frame has no rows: load some bars first")
    return tickers.settle()


def _sound_tickers(frame: pd.DataFrame, kind: Kind, covariates: Sequence[str]) -> dict[str, BarArrays | None]:
    """What `check_bars` makes of the tickers of a frame of typed columns, from one look at all rows: None of a ticker
    whose rows are not as they should be, which it has words for; empty where the frame is another one."""
    numeric = [*kind.columns, *covariates]
    columns = [frame.get(name) for name in (kind.id, "timestamp", *numeric)]
    if not len(frame) or len({*numeric}) < len(numeric) or not all(isinstance(one, pd.Series) for one in columns):
        return {}
    names, stamps, *numbers = columns
    if not (pd.api.types.is_datetime64_any_dtype(stamps) and all(map(is_typed, numbers))):
        return {}
    code, given = pd.factorize(names, use_na_sentinel=False)
    if len({str(name) for name in given}) < len(given):
        return {}
    order = np.argsort(code, kind="stable")
    try:
        values = np.stack([cells.to_numpy(dtype="float64")[order] for cells in numbers])
        times = _timestamps(stamps, "", TimeFormat.of(stamps, series=names))[order]
    except ValueError:
        return {}
    first = np.flatnonzero(np.diff(code[order], prepend=-1))
    wrong = np.isnat(times) | np.isinf(values).any(axis=0)
    later = times[1:] > times[:-1]
    later[first[1:] - 1] = True
    wrong[1:] |= ~later
    rows = dict(zip(numeric, values, strict=True))
    for is_wrong, _, _ in kind.refusals:
        wrong |= is_wrong(rows)
    _hide_partial(values, numeric, kind)
    places = zip(given, first, [*first[1:], len(times)], np.logical_or.reduceat(wrong, first), strict=True)
    return {str(name): None if bad else BarArrays(numeric, times[a:b], values[:, a:b]) for name, a, b, bad in places}


def _hide_partial(values: np.ndarray, numeric: Sequence[str], kind: Kind) -> None:
    """Three prices out of four are no bar."""
    partial = np.isnan([values[numeric.index(name)] for name in kind.needed]).any(axis=0)
    values[: len(kind.columns), partial] = np.nan


def frame_formats(
    frame: pd.DataFrame, kind: Kind = OHLCV, covariates: Sequence[str] = (), ticker: str = "series"
) -> tuple[TimeFormat | None, NumberFormat]:
    """How a frame writes its times and numbers, told by all of its rows."""
    try:
        columns = [frame[name] for name in (*kind.columns, *covariates) if name in frame]
        numbers = NumberFormat.of(cells for cells in columns if isinstance(cells, pd.Series))
    except Unclear as error:
        raise ValueError(
            f"{ticker}: {error}; pass numbers, as pandas.to_numeric of the column without marks"
        ) from error
    cells = frame.get("timestamp")
    if not isinstance(cells, pd.Series):
        return None, numbers
    try:
        return TimeFormat.of(cells, series=frame.get(kind.id)), numbers
    except Unclear as error:
        raise ValueError(f"{ticker}: {error}; pass datetimes, as pandas.to_datetime(column, dayfirst=True)") from error


def check_bars(
    bars: pd.DataFrame,
    ticker: str,
    kind: Kind = OHLCV,
    covariates: Sequence[str] = (),
    formats: tuple[TimeFormat | None, NumberFormat] | None = None,
) -> pd.DataFrame:
    """One ticker's bars as a new frame with clean types and a fresh index, or a `ValueError`.

    A row whose prices (or value) are missing stays, as a missing bar; its covariates may be known. `formats` are those
    of the frame that the bars are a part of.
    """
    return _check(bars, ticker, kind, covariates, formats).frame()


def _check(
    bars: pd.DataFrame,
    ticker: str,
    kind: Kind,
    covariates: Sequence[str],
    formats: tuple[TimeFormat | None, NumberFormat] | None,
) -> BarArrays:
    numeric = [*kind.columns, *covariates]
    missing = [c for c in ("timestamp", *numeric) if c not in bars]
    if missing:
        raise ValueError(f"{ticker}: column(s) {missing} missing from {list(bars.columns)}: rename or add them")
    given = {name: bars[name] for name in ("timestamp", *numeric)}
    asked = ["timestamp", *numeric].count
    twice = [name for name, cells in given.items() if isinstance(cells, pd.DataFrame) or asked(name) > 1]
    if twice:
        raise ValueError(f"{ticker}: column(s) {sorted(twice)} appear more than once: keep one of each")
    given = {name: cells if is_typed(cells) else cells.reset_index(drop=True) for name, cells in given.items()}
    of_times, of_numbers = formats or frame_formats(bars, kind, covariates, ticker)
    times = _timestamps(given["timestamp"], ticker, of_times or TimeFormat.of(given["timestamp"]))
    values = np.empty((len(numeric), len(times)))
    for row, column in zip(values, numeric, strict=True):
        numbers, bad = read_numbers(given[column], of_numbers, **may_hold(column, kind))
        if bad.size:
            cell = f"{ticker}, row {bad[0]}: {column} is {given[column].iloc[bad[0]]!r}"
            raise ValueError(f"{cell}, not a number; correct it or leave it empty")
        row[:] = numbers.to_numpy()
    if is_newest_first := len(times) > 1 and bool((times[1:] < times[:-1]).all()):
        times, values = times[::-1].copy(), values[:, ::-1].copy()
    _refuse_rows(ticker, times, dict(zip(numeric, values, strict=True)), kind, is_newest_first=is_newest_first)
    _hide_partial(values, numeric, kind)
    return BarArrays(numeric, times, values)


def _refuse_rows(
    ticker: str, times: np.ndarray, columns: Mapping[str, np.ndarray], kind: Kind, *, is_newest_first: bool
) -> None:
    """Raises ValueError for the first row, as it was given, that has no honest reading."""

    def refuse(rows: np.ndarray, what: str, remedy: str) -> None:
        if (count := int(np.count_nonzero(rows))) > 0:
            row = int(rows.argmax())
            day = pd.Timestamp(times[row])
            row = len(times) - 1 - row if is_newest_first else row
            more = f" (and {count - 1} more)" if count > 1 else ""
            raise ValueError(f"{ticker}, row {row}, {day}{more}: {what}; {remedy}")

    clean, even = (CLEAN, "") if kind is OHLCV else ("", RESAMPLE)
    refuse(np.isnat(times), "timestamp is empty", f"drop the row{clean}, or give its date")
    if (times[1:] <= times[:-1]).any():
        again = None if repeated_hour(pd.Series(times)) is None else TWICE + even
        backwards, repeated = (np.append(False, one) for one in (times[1:] < times[:-1], times[1:] == times[:-1]))
        refuse(backwards, "timestamp goes backwards", again or f"sort the bars by timestamp{clean}{even}")
        refuse(repeated, "timestamp is repeated", again or f"keep one bar per timestamp{clean}{even}")
    infinite = np.logical_or.reduce([np.isinf(values) for values in columns.values()])
    refuse(infinite, "infinite value", f"replace it by NaN{clean}, or the true number")
    for wrong, what, remedy in kind.refusals:
        refuse(wrong(columns), what, remedy)


def _timestamps(values: pd.Series, ticker: str, format: TimeFormat) -> np.ndarray:
    is_number = pd.api.types.is_numeric_dtype(values)
    if is_number and len(values) and format.name == "ISO8601" and not values.min() >= FIRST_DATE:
        given = f" ({values.iloc[0]})"
        raise ValueError(f"{ticker}: timestamp is a number{given}: convert it with pandas.to_datetime(..., unit=)")
    stamps, unread = read_times(values, format)
    if bad := [row for row in unread if pd.notna(values.iloc[row])]:
        cell = values.iloc[bad[0]]
        raise ValueError(f"{ticker}, row {bad[0]}: timestamp '{cell}' {why_no_time(cell, format)}")
    return stamps.to_numpy(dtype="datetime64[ns]")


def may_hold(column: str, kind: Kind) -> dict[str, bool]:
    """What `read_numbers` reads in a column: no price has a short form, and no price or volume is a percentage."""
    is_price, is_volume = column in (*PRICES, "adj_close"), column == "volume"
    return {"scales": kind is not OHLCV or not is_price, "percent": kind is not OHLCV or not (is_price or is_volume)}


# --- moments: fences, and what a forecast is made as of -------------------------------------------------------------

# Year first, or a month by its name: which number is the day, and which the month, is then no question.
MOMENT = re.compile(r"\d{4}([-/. ].*|q\d)?|\d{8}([t ].*)?|\d{12}|\d{14}|(?=.*\b\d{4}\b).*\b[a-z]{3,9}\b.*", re.I)


def day_end(moment: Any, times: Any = None) -> pd.Timestamp:
    """The last instant that a fence or an as-of includes: what names no clock time stands for its whole.

    Type and precision decide. `"2020-06-30"` and a `datetime.date` are a whole day, `"2020-06"` a month, a `Period`
    what it is; `"2020-06-30T16"` is an instant, and so is any `Timestamp`, else a forecast as of an intraday bar at
    midnight would read the day that follows. An instant of a zone becomes UTC. Where the `times` that are fenced are
    dates, a zone's midnight is its date, and any other instant the earlier of its own clock and UTC's.

    Raises:
        ValueError: no date or time; a number is none, since nothing tells what it counts.
    """
    return _span(moment, times)[1]


def day_start(moment: Any, times: Any = None) -> pd.Timestamp:
    """The first instant of what ends at `day_end`; they are the same if it is an instant."""
    return _span(moment, times)[0]


def _span(moment: Any, times: Any) -> tuple[pd.Timestamp, pd.Timestamp]:
    told = str(moment).strip() if isinstance(moment, str) else moment
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)  # pandas 2 would leave out a zone that it does not know
            if (whole := _whole(told)) is not None:
                first, after = whole.start_time.as_unit("ns"), (whole + 1).start_time.as_unit("ns")
                return first, after - pd.Timedelta(1, "ns")
            stamp = pd.Timestamp(told).as_unit("ns")
    except (ValueError, TypeError, OverflowError, AttributeError, FutureWarning):
        raise ValueError(f"{moment!r} is no date: write it as 2020-06-30, or as 2020-06-30T16:00") from None
    if stamp.tz is not None:
        utc, clock = stamp.tz_convert("UTC").tz_localize(None), stamp.tz_localize(None)
        dated = times is not None and (pd.DatetimeIndex(times) == pd.DatetimeIndex(times).normalize()).all()
        stamp = utc if not dated else clock if clock == clock.normalize() else min(utc, clock)
    return stamp, stamp


def _whole(moment: Any) -> pd.Period | None:
    """The day, or longer, that a moment names; None for an instant. Raises ValueError for what is neither."""
    if isinstance(moment, str) and MOMENT.fullmatch(moment):
        period = pd.Period(moment)
        return period if (period + 1).start_time - period.start_time >= pd.Timedelta(days=1) else None
    if moment is pd.NaT or not isinstance(moment, (date, np.datetime64, pd.Period)) or pd.isna(moment):
        raise ValueError
    if isinstance(moment, pd.Period):
        return moment
    if isinstance(moment, np.datetime64):
        unit = np.datetime_data(moment)[0]
        return pd.Period(str(moment.astype("datetime64[D]")), freq=unit) if unit in "YMWD" else None
    return None if isinstance(moment, datetime) else pd.Period(moment, freq="D")


def known_by(times: pd.Series, moment: Any, lasting: Mapping[str, int] | None = None) -> pd.Series:
    """Which rows are known at a moment: those stamped up to it.

    Rows that were made of others in a step of time are stamped with its start and known at its end: `lasting`, of a
    frame its `attrs["lasting"]`, is how long that is, as of a `pandas.DateOffset`.

    >>> known_by(pd.Series(pd.date_range("2024-01-01", periods=3, freq="MS")), "2024-03-15", {"months": 1}).tolist()
    [True, True, False]
    """
    known = times if lasting is None else times + pd.DateOffset(**lasting) - pd.Timedelta(1, "ns")
    return known <= day_end(moment, times)


def step_fence(times: pd.Series, moment: Any, lasting: Mapping[str, int] | None) -> Any:
    """The moment; where it lies inside the step of a row, the time of the last row that is known by then."""
    if moment is None or lasting is None:
        return moment
    known = known_by(times, moment, lasting)
    return moment if not known.any() or known.equals(known_by(times, moment)) else times[known].max()


def bars_through(bars: Bars, through: Any, kind: Kind = OHLCV, covariates: Sequence[str] = ()) -> CheckedBars:
    """Bars up to the fence, of the tickers that have enough of them by then.

    The others stay in the bars: they may be encoded, though nothing is fitted on them.

    Raises:
        ValueError: if no ticker has.
    """
    frames = {}
    tickers = split_tickers(bars, kind, covariates)
    for ticker, frame in tickers.items():
        times = frame["timestamp"]
        inside = frame if through is None else frame[times <= day_end(through, times)]
        if inside[kind.value].notna().sum() >= MIN_BARS:
            frames[ticker] = inside
    if not frames:
        upto = "" if through is None else f" up to {through}"
        raise ValueError(f"no ticker has {MIN_BARS} bars{upto}: give more history or a later fence")
    return tickers.like(frames)
