"""What differs between market bars and plain series (sales, temperature, load): the kinds, and a series' features.

Design choices:
* A `Kind` is data: its columns, how two values make a change, and what is refused. Processor, windows, pipeline and
  evaluation ask the kind and are the same code for both.
* A price changes by its log return; a value by its difference, so zeros, negatives and gaps are allowed.
* A feature at row t reads values up to t only, and the scale of its differences known at t: the unit of the value
  never matters.
* Covariates are further columns, of bars as of plain series. A past one counts for its own row. A known one (a price
  list, a holiday flag) is declared as known ahead, and alone may be read ahead of t.
* Shifting all values by a constant changes no feature but those of the group `level`, which know where zero is.
* Lags count rows. A gap that is a row without a value keeps the rhythm of the seasons; an absent row breaks it.

In formulas `y[-n]` is y n rows ago, `d` is y - y[-1], and s the scale of d, see `difference_scale`.

Shapes: N rows of one series.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

PRICES = ["open", "high", "low", "close"]
MIN_BARS = 21  # observed bars before the first volatility is known
LEADS = (1, 2, 3, 4, 5, 6, 7)  # rows ahead at which a known covariate is read
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


# --- kinds ---------------------------------------------------------------------------------------------------------


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
        volatility: (changes, decay, floor) -> their scale known at each row.
        sigma_decay, sigma_floor: defaults of the extractor.
        refusals: (rows -> mask, what is wrong, remedy).
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
    volatility: Callable[[np.ndarray, float, float], np.ndarray]
    sigma_decay: float
    sigma_floor: float
    refusals: tuple[tuple[Callable[[pd.DataFrame], pd.Series], str, str], ...]
    noise: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]
    score_name: str
    score_unit: str
    score_factor: float
    unit_scores: bool


def return_volatility(changes: np.ndarray, decay: float, floor: float) -> np.ndarray:
    """sigma[t]^2 = sum_k decay^k r[t-k]^2 / sum_k decay^k, over known returns. RiskMetrics 1996, section 5.2."""
    squares = pd.Series(changes**2)
    variance = squares.ewm(alpha=1 - decay, ignore_na=True, min_periods=MIN_BARS - 1).mean()
    return np.maximum(np.sqrt(variance.to_numpy()), floor)


def difference_scale(changes: np.ndarray, decay: float, floor: float) -> np.ndarray:
    """`return_volatility`, at least `floor` times the root mean square of all changes so far; NaN before the first.

    >>> difference_scale(np.array([np.nan, *[2.0] * 20, *[0.0] * 200]), 0.5, 0.1)[[19, 20, 220]].round(3).tolist()
    [nan, 2.0, 0.06]
    """
    so_far = np.sqrt(pd.Series(changes**2).expanding().mean().to_numpy())
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
        (lambda bars: (bars[PRICES] <= 0).any(axis=1), "price <= 0", "mask it with NaN, or correct it"),
        (lambda bars: bars["volume"] < 0, "negative volume", "mask it with NaN, or correct it"),
        (lambda bars: bars["high"] < bars["low"] * (1 - 1e-9), "high is below low", "swap or correct them"),
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
    refusals=(),
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


# --- covariates ----------------------------------------------------------------------------------------------------


def named_columns(wanted: Sequence[str], columns: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """The columns that are asked for, each once; a pattern stands for all that fit it and are not `taken`.

    What no column fits stays as it was written, for whoever needs the column to say so.

    >>> named_columns(["flag", "text_*"], ["close", "text_0", "text_1", "flag"])
    ['flag', 'text_0', 'text_1']
    """
    columns, taken, chosen = list(columns), set(taken), dict[str, None]()
    for one in wanted:
        fitting = [one] if one in columns else [name for name in columns if fnmatchcase(str(name), one)]
        free = [name for name in fitting if name == one or name not in taken]
        chosen |= dict.fromkeys(free or [one])
    return list(chosen)


def covariate_columns(past: Sequence[str], known: Sequence[str]) -> dict[str, tuple[str, int]]:
    """Feature -> its column, and how many rows ahead this is read: past ones as they are, known ones also as they
    will be. The processor scales them as any feature.
    """
    columns = {f"past:{name}": (name, 0) for name in past} | {f"known:{name}": (name, 0) for name in known}
    return columns | {f"known:{name}+{ahead}": (name, ahead) for name in known for ahead in LEADS}


def covariate_features(frame: pd.DataFrame, past: Sequence[str], known: Sequence[str]) -> pd.DataFrame:
    """The features of `covariate_columns`, float64 `[N,F]`, NaN where unknown."""
    features = {name: frame[column].shift(-k) for name, (column, k) in covariate_columns(past, known).items()}
    return pd.DataFrame(features, index=frame.index, dtype=float)


# --- features ------------------------------------------------------------------------------------------------------


class SeriesFrame:
    """One series as the features see it: `y`, its differences `d`, their scale `s`, and the covariates."""

    def __init__(self, frame: pd.DataFrame, decay: float, floor: float):
        self.frame = frame.reset_index(drop=True)
        self.y = self.frame["value"]
        self.d = self.y.diff()
        self.s = pd.Series(difference_scale(self.d.to_numpy(), decay, floor))
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


def _season_change(f: SeriesFrame, season: int) -> pd.Series:
    return (f.y.shift(season) - f.y) / f.s


def _season_ahead(f: SeriesFrame, season: int, ahead: int) -> pd.Series:
    past = pd.concat([f.y.shift(cycles * season - ahead) for cycles in (1, 2, 3)], axis=1)
    return (past.mean(axis=1) - f.y) / f.s


def _cycle(f: SeriesFrame, part: str, length: float, wave: Callable[[Any], Any]) -> pd.Series:
    return wave(2 * np.pi * getattr(f.time, part) / length)


def _covariate(f: SeriesFrame, column: str, ahead: int) -> pd.Series:
    return f.frame[column].shift(-ahead)


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
        SeriesFeature(f"season_{m}", "seasons", f"(y[-{m}] - y) / s", partial(_season_change, season=m)),
        *_rows(f"season_{m}_ahead_{{0}}", "seasons", formula, partial(_season_ahead, season=m), ahead=steps),
    ]


def series_table(
    seasons: Sequence[int] = (), past: Sequence[str] = (), known: Sequence[str] = ()
) -> dict[str, SeriesFeature]:
    """The features of series with these seasons (rows per cycle), past covariates and known covariates."""
    seasonal = [row for season in seasons for row in _seasonal(season)]
    covariates = [
        SeriesFeature(name, "covariates", f"{column}[+{ahead}]", partial(_covariate, column=column, ahead=ahead))
        for name, (column, ahead) in covariate_columns(past, known).items()
    ]
    return {row.name: row for row in [*_TABLE, *seasonal, *covariates]}


def series_feature_names(table: dict[str, SeriesFeature], groups: Sequence[str] | None = None) -> list[str]:
    """The features of these groups, or all of them; covariates always.

    Raises:
        ValueError: no such group.
    """
    known = list(dict.fromkeys([*(row.group for row in table.values()), "seasons", "covariates"]))
    unknown = [group for group in groups or () if group not in known]
    if unknown:
        raise ValueError(f"unknown feature groups {unknown} of a plain series; choose from {known}")
    return [row.name for row in table.values() if groups is None or row.group in (*groups, "covariates")]


def compute_series_features(
    frame: pd.DataFrame,
    names: Sequence[str],
    table: dict[str, SeriesFeature],
    decay: float = UNIVARIATE.sigma_decay,
    floor: float = UNIVARIATE.sigma_floor,
) -> pd.DataFrame:
    """The named features of one series as float64 [N, len(names)] on the index of `frame`, NaN where unknown.

    Raises:
        ValueError: no such feature.
    """
    unknown = [name for name in names if name not in table]
    if unknown:
        raise ValueError(f"unknown features {unknown} of a plain series: choose from {list(table)}")
    series = SeriesFrame(frame, decay, floor)
    with np.errstate(all="ignore"):
        values = np.column_stack([np.asarray(table[name].compute(series), dtype=float) for name in names])
    return pd.DataFrame(np.where(np.isfinite(values), values, np.nan), index=frame.index, columns=list(names))


def hide_after(frame: pd.DataFrame, cut: int, known: Sequence[str]) -> pd.DataFrame:
    """The frame as it was known at row `cut - 1`: later rows keep nothing but their times and known covariates."""
    if not known:
        return frame.iloc[:cut]
    kept = ["timestamp", *known]
    hidden = frame.copy()
    hidden.iloc[cut:, [i for i, name in enumerate(frame.columns) if name not in kept]] = np.nan
    return hidden


def random_walk_series(rng: np.random.Generator, n: int = 4000) -> pd.DataFrame:
    """Values without any pattern, hourly."""
    frame = pd.DataFrame({"timestamp": pd.date_range("2000-01-03", periods=n, freq="h")})
    frame["value"] = rng.normal(0, 1, n).cumsum()
    return frame


def peeking_covariates(
    frame: pd.DataFrame, names: Sequence[str], kind: Kind = UNIVARIATE, ahead: int = 24
) -> list[dict[str, Any]]:
    """Covariates that are, all but exactly, written from later rows: their own changes are those of the value some
    rows later, or, beside prices, they are the return over some rows to come.

    Prefix invariance cannot see these: the future was written into the column before it came here.
    """
    y = pd.Series(kind.additive(frame[kind.value].to_numpy()))
    found = []
    for name in names:
        x = frame[name].reset_index(drop=True)
        strength = [_correlation(x.diff(), y.diff().shift(-k)) for k in range(ahead + 1)]
        k = int(np.argmax(strength))
        if kind is OHLCV and strength[k] <= 0.99:  # a plain series may well be predictable from an honest column
            strength = [0.0, *(_correlation(x, y.shift(-k) - y) for k in range(1, ahead + 1))]
            k = int(np.argmax(strength))
        if k and strength[k] > 0.99 > strength[0]:
            found.append({"feature": name, "bar": str(frame["timestamp"].iloc[0]), "reads_up_to_bars_ahead": k})
    return found


def _correlation(left: pd.Series, right: pd.Series) -> float:
    both = left.notna() & right.notna()
    if both.sum() < 2 * MIN_BARS or not left[both].std() > 0 or not right[both].std() > 0:
        return 0.0
    return abs(float(np.corrcoef(left[both], right[both])[0, 1]))


__all__ = ["KINDS", "Kind", "kind_of", "named_columns", "series_table"]
