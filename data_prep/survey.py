"""What a file of plain series is: told by the quick start and `describe`, and what both choose a horizon by.

Design choices:
* Of many series all are counted; seasons are told by some of them, evenly chosen, for they are one fact of the file.
* A season is told with what it is worth: how much smaller the error of a value one cycle ago is than that of values
  half a cycle beside it (a shorter season, where there is one). A sampling that could have a season need not have it.
* A horizon follows the sampling, and the length: a tenth of the usual series is tested, and holds at least one.

Shapes: N rows of all series, S series.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import MIN_BARS, UNIVARIATE, split_tickers
from ..series_tsf_llm import candidate_seasons, choose_seasons
from .columns import Columns, find_series, is_numeric, join_names, parts_of, wide_values
from .resample import Gaps, Step
from .tables import iter_tables, list_files

ID, VALUE = UNIVARIATE.id, UNIVARIATE.value
SOME, LATEST = 100, 20_000  # series that tell seasons, and rows of each
WORTH = 0.03  # least share of the error that a season saves
ENDED = 0.1  # of the time that the file spans: a series that ends so long before it has ended, and so of its begin
LISTED = 8  # names in a line
HORIZONS = {  # seconds between rows, at most -> rows ahead
    2.0: 60,
    90.0: 60,
    450.0: 72,
    700.0: 72,
    1000.0: 96,
    2700.0: 48,
    5400.0: 24,
    0.9 * 86400: 28,
    2.5 * 86400: 28,
    15 * 86400.0: 13,
    50 * 86400.0: 12,
    100 * 86400.0: 8,
    float("inf"): 4,
}
ODD = {  # what a series may be -> in words
    "constant": "of one value",
    "begun": "begun long after the others",
    "ended": "ended long before the others",
    "short": f"with fewer than {MIN_BARS} values",
    "other_steps": "of another step",
}
NO_VALUE = "no value of these series is known: name the column to forecast with --value"
TESTED = 12  # of so many rows one is ahead at most


@dataclass(frozen=True)
class Survey:
    """Shares are of known values, or of series."""

    rows: int
    series: int
    lengths: tuple[int, int, int]  # least, median, most rows of a series
    first: str
    last: str
    step: str  # in words
    seconds: float
    seasons: list[dict[str, Any]]  # rows, words and worth, best first
    zeros: float
    negatives: float
    integer: bool
    unknown: float  # share of rows without a value
    longest_unknown: int  # rows in a row
    absent: float  # share of rows that are not there
    constant: int  # series that are odd, by the names of `ODD`
    begun: int
    ended: int
    short: int
    other_steps: int
    covariates: list[str]  # further columns of numbers

    @property
    def nonnegative(self) -> bool:
        return self.negatives == 0.0

    def facts(self) -> dict[str, str]:
        """In words, for people: what -> what was found."""
        least, median, most = self.lengths
        told = {
            "rows": f"{self.rows:,} of {self.series:,} series"
            + (f", {least:,} to {most:,} each, half of them {median:,} or more" if self.series > 1 else ""),
            "time": f"{self.first} to {self.last}, one row every {self.step}",
            "seasons": ", ".join(f"{one['rows']} rows ({one['words']})" for one in self.seasons) or "none found",
            "values": ", ".join(self._values()),
            "gaps": self._gaps(),
        }
        odd = [f"{getattr(self, name):,} {words}" for name, words in ODD.items() if getattr(self, name)]
        if odd:
            told["series"] = ", ".join(odd)
        if self.covariates:
            more = f" and {len(self.covariates) - LISTED:,} more" if len(self.covariates) > LISTED else ""
            told["other columns"] = ", ".join(self.covariates[:LISTED]) + more
        return told

    def _values(self) -> list[str]:
        words = ["whole numbers" if self.integer else "numbers with fractions"]
        words.append("none below zero" if self.nonnegative else f"{_percent(self.negatives)} below zero")
        words.append("none zero" if self.zeros == 0.0 else f"{_percent(self.zeros)} zeros")
        return words

    def _gaps(self) -> str:
        parts = []
        if self.unknown:
            parts.append(
                f"{_percent(self.unknown)} of the rows have no value, {self.longest_unknown:,} in a row at most"
            )
        if self.absent > 0.005:
            parts.append(f"{_percent(self.absent)} of the rows are not there")
        return "; ".join(parts) or "none"

    def to_json(self) -> dict[str, Any]:
        seconds = self.seconds if self.seconds > 0 else None  # NaN of a file of single rows
        return {**asdict(self), "lengths": [*self.lengths], "seconds": seconds}


def _percent(share: float) -> str:
    return "under 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def usable(frame: pd.DataFrame, *, strict: bool = False) -> pd.DataFrame:
    """Without the series that no command can use, for what stands in one of their rows; `skipped` in `attrs` says why.

    Raises:
        ValueError: none is left or, if `strict`, one is skipped.
    """
    checked = split_tickers(frame, UNIVARIATE, strict=strict, made=lambda rows: rows)
    if len(checked) == frame[ID].nunique():
        return frame
    left = frame[frame[ID].isin([*checked])].reset_index(drop=True)
    left.attrs["skipped"] = dict(checked.skipped)
    return left


def survey(frame: pd.DataFrame, covariates: Sequence[str] = ()) -> Survey:
    """Of `timestamp, series_id, value`, as `read_series` has them; `covariates` are further columns of the file.

    Raises:
        ValueError: no value is known at all.
    """
    values = frame[VALUE].to_numpy(dtype=float)
    known = values[~np.isnan(values)]
    if not len(known):
        raise ValueError(NO_VALUE)
    gaps = Gaps.of(frame)
    seconds = gaps.usual_of_all
    code = pd.factorize(frame[ID])[0]
    absent = gaps.absent(frame["timestamp"])
    return Survey(
        rows=len(frame),
        series=len(gaps.names),
        lengths=(int(gaps.rows.min()), int(np.median(gaps.rows)), int(gaps.rows.max())),
        first=_moment(gaps.first.min()),
        last=_moment(gaps.last.max()),
        step=Step.near(seconds).words if seconds > 0 else "unknown",
        seconds=seconds,
        seasons=_seasons(frame, code, gaps),
        zeros=float((known == 0).mean()),
        negatives=float((known < 0).mean()),
        integer=bool((known == np.round(known)).all()),
        unknown=float(np.isnan(values).mean()),
        longest_unknown=int(longest_runs(np.isnan(values), code).max(initial=0)),
        absent=float(np.average(absent, weights=np.maximum(gaps.rows, 1))),
        **{name: int(is_so.sum()) for name, is_so in odd_series(frame, gaps).items()},
        covariates=[*covariates],
    )


def odd_series(frame: pd.DataFrame, gaps: Gaps) -> dict[str, np.ndarray]:
    """Whether each series is what the names of `ODD` say, bool `[S]`."""
    values, code = frame[VALUE].to_numpy(dtype=float), pd.factorize(frame[ID])[0]
    S, seconds = len(gaps.names), gaps.usual_of_all
    first, last = gaps.first.min(), gaps.last.max()
    far = np.timedelta64(int(ENDED * (last - first) / np.timedelta64(1, "s")), "s")
    return {
        "constant": _span(values, code, S) == 0,
        "begun": gaps.first > first + far,
        "ended": gaps.last < last - far,
        "short": np.bincount(code, ~np.isnan(values), minlength=S) < MIN_BARS,
        "other_steps": (gaps.usual < seconds / 2) | (gaps.usual > 2 * seconds),
    }


def _moment(time: np.datetime64) -> str:
    return str(pd.Timestamp(time)).removesuffix(" 00:00:00")


def _span(values: np.ndarray, code: np.ndarray, count: int) -> np.ndarray:
    """Largest less smallest value of each series, NaN where none is known."""
    ends = pd.Series(values).groupby(code).agg(["min", "max"]).reindex(range(count))
    return (ends["max"] - ends["min"]).to_numpy()


def longest_runs(is_unknown: np.ndarray, code: np.ndarray) -> np.ndarray:
    """The most rows in a row that are unknown, of each series `[S]`; `code [N]` is that of each row."""
    begins = np.flatnonzero(np.append(True, (np.diff(is_unknown) != 0) | (np.diff(code) != 0)))
    lengths, longest = np.diff(begins, append=len(is_unknown)), np.zeros(code.max(initial=-1) + 1, dtype=np.int64)
    np.maximum.at(longest, code[begins], lengths * is_unknown[begins])
    return longest


def _seasons(frame: pd.DataFrame, code: np.ndarray, gaps: Gaps) -> list[dict[str, Any]]:
    """Those of the fit that are worth something, told by some series of the usual step."""
    seconds = gaps.usual_of_all
    fitting = np.flatnonzero((gaps.usual > seconds / 2) & (gaps.usual < 2 * seconds) & (gaps.rows >= MIN_BARS))
    some = fitting[:: -(-len(fitting) // SOME)] if len(fitting) else fitting
    rows = np.isin(code, some)
    parts = [part.to_numpy(dtype=float)[-LATEST:] for _, part in frame.loc[rows, VALUE].groupby(code[rows])]
    parts = [part for part in parts if np.isfinite(part).sum() >= MIN_BARS and np.nanmax(part) > np.nanmin(part)]
    if not parts:
        return []
    times = frame.loc[rows, "timestamp"].to_numpy(dtype="datetime64[ns]")
    chosen = choose_seasons(parts, candidate_seasons(times, seconds))
    worth = {rows: _worth(parts, rows, [one for one in chosen if one < rows]) for rows in chosen}
    return [
        {"rows": rows, "words": _cycle(rows, seconds, times), "worth": round(gain, 3)}
        for rows, gain in worth.items()
        if gain >= WORTH
    ]


def _worth(parts: Sequence[np.ndarray], season: int, shorter: Sequence[int]) -> float:
    """The share of the error of values beside the cycle that those one cycle ago save."""
    fitting = [one for one in shorter if season % one == 0]
    beside = max(fitting) if fitting else max(1, season // 2)
    errors = {
        lag: np.mean([np.nanmean(np.abs(y[lag:] - y[:-lag])) / np.nanstd(y) for y in parts if len(y) > lag + MIN_BARS])
        for lag in (season - beside, season, season + beside)
        if any(len(y) > lag + MIN_BARS for y in parts) and lag > 0
    }
    others = [errors[lag] for lag in errors if lag != season]
    return float(1 - errors[season] / np.mean(others)) if season in errors and others and np.mean(others) > 0 else 0.0


def _cycle(rows: int, seconds: float, times: np.ndarray) -> str:
    """What a cycle of so many rows is, by the time that it takes."""
    stamps = np.unique(times)
    took = float(np.median((stamps[rows:] - stamps[:-rows]) / np.timedelta64(1, "s"))) if len(stamps) > rows else 0.0
    for length, word in ((60, "a minute"), (3600, "an hour"), (86400, "a day"), (7 * 86400, "a week")):
        if abs(took / length - 1) < 0.02:
            return word
    for length, word in ((28 * 86400, "four weeks"), (365.25 * 86400, "a year")):
        if abs(took / length - 1) < 0.03:
            return word
    return (
        Step.near(seconds).words
        if rows == 1
        else f"{pd.Timedelta(seconds=round(rows * seconds))}".removesuffix(" 00:00:00")
    )


def choose_horizon(found: Survey) -> int:
    """Rows ahead: as many as people ask for at such a sampling, and no more than the usual length can test."""
    usual = next(rows for seconds, rows in HORIZONS.items() if found.seconds <= seconds)
    return max(1, min(usual, found.lengths[1] // TESTED))


def other_numbers(source: str | Path | list, columns: Columns, covariates: Sequence[str] = ()) -> list[str]:
    """Columns of numbers in the first file that are neither time, value nor name: what could be a covariate."""
    path = list_files(source)[0]
    table = join_names(next(iter_tables(path, rows=1000), pd.DataFrame()), columns.id)
    if wide_values(table, path, columns, covariates):
        return []
    used = {*find_series(table, path, columns, covariates).values(), *parts_of(columns.id)}
    return [str(name) for name in table.columns if name not in used and is_numeric(table[name])]


def lines(facts: Mapping[str, str]) -> list[str]:
    """For a terminal, in two columns."""
    width = max(map(len, facts)) + 2
    return [f"{what + ':':{width}} {words}" for what, words in facts.items()]
