"""The processor: bars -> tensors -> bars. No leak is possible past it, and `audit` proves so on the user's own data.

Design choices:
* `TsfLlmProcessor` = `TsfLlmFeatureExtractor` (features, scalers, volatility) + `TsfLlmTokenizer` (return bins), so
  that AutoProcessor, Trainer and trl find what they ask for. All fitted state is plain JSON beside the weights.
* `fit(bars, through=...)` reads no bar after the fence. A row's features, volatility and token read no later row.
* A return token is the bin of `log(close[t] / close[t-1]) / sigma[t-1]`: what is left of a return once the
  volatility known before it is divided out.
* A plain series (`kind="univariate"`: sales, temperature, load) goes the same way, with differences for log returns;
  `series_tsf_llm` says what differs.
* Missing is NaN at the boundary, zero and a mask inside. A gap is a gap: nothing is filled.
* Further columns of the bars (texts as numbers, a calendar of earnings) join the features as covariates: they are
  taken as they are, row by row, and scaled as the others.
* `market=` is the bars of an index or of a universe, which the groups `market` and `reversal` read as of each bar.
* `feature_set="seed64"` is for the original's weights alone: its 64 inputs and its target, a scaled return in percent.
  Three of its inputs lie ahead of their bar. They are unknown here, so they get their median, zero after scaling.

Shapes: N bars of one ticker, B windows, T bars of a window, F features, K sampled paths, P steps, Q quantiles.
"""

import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin
from transformers.tokenization_utils import PreTrainedTokenizer
from transformers.utils import logging

from .calendars_tsf_llm import bar_spacing, check_calendar, next_timestamps
from .indicators_tsf_llm import FEATURES, compute_features, feature_names, reads_market
from .market_tsf_llm import MARKET_COLUMNS, market_state
from .original_features_tsf_llm import (
    SEED_HORIZON,
    SEED_LENGTH,
    future_columns,
    seed_feature_names,
    seed_features,
    seed_target,
)
from .series_tsf_llm import (
    KINDS,
    MIN_BARS,
    OHLCV,
    PRICES,
    UNIVARIATE,
    Kind,
    candidate_seasons,
    choose_seasons,
    compute_series_features,
    covariate_columns,
    covariate_features,
    hide_after,
    kind_of,
    named_columns,
    peeking_covariates,
    random_walk_series,
    series_feature_names,
    series_table,
)

if TYPE_CHECKING:  # never run: with it a saved processor brings the model's code too, see `modeling_tsf_llm.py`
    from .modeling_tsf_llm import TsfLlmModel  # noqa: F401

logger = logging.get_logger(__name__)
COLUMNS = ["timestamp", *PRICES, "volume"]
FORECAST_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
FORECAST_COLUMNS = [
    "ticker",
    "origin",
    "step",
    "timestamp",
    "mean",
    *(f"q{round(100 * q):02d}" for q in FORECAST_QUANTILES),
    "p_up",
]


# --- bars in -------------------------------------------------------------------------------------------------------


def split_tickers(
    bars: pd.DataFrame | Sequence[pd.DataFrame], kind: Kind = OHLCV, covariates: Sequence[str] = ()
) -> dict[str, pd.DataFrame]:
    """Bars of any number of tickers -> one checked frame per ticker, in order of appearance.

    Of a plain series the names are in `series_id`, and rows are its values. Covariates are further columns to keep.

    Raises:
        ValueError: names the ticker, the row and the remedy for every kind of bar that has no honest reading.
    """
    frames = [bars] if isinstance(bars, pd.DataFrame) else list(bars)
    if not frames:
        raise ValueError("no bars were given: pass a DataFrame or a list of them")
    tickers: dict[str, pd.DataFrame] = {}
    for number, frame in enumerate(frames):
        if not isinstance(frame, pd.DataFrame):
            columns = ["timestamp", *kind.columns]
            raise ValueError(f"bars must be DataFrames, got {type(frame).__name__}: build one with columns {columns}")
        if kind.id in frame:
            parts: Iterable = ((str(name), part) for name, part in frame.groupby(kind.id, sort=False, dropna=False))
        else:
            parts = [("series" if len(frames) == 1 else f"series_{number}", frame)]
        for name, part in parts:
            if name in tickers:
                raise ValueError(f"{name}: given in more than one frame; join its bars into one")
            tickers[name] = check_bars(part, name, kind, covariates)
    if not tickers:
        raise ValueError("the frame has no rows: load some bars first")
    return tickers


def check_bars(bars: pd.DataFrame, ticker: str, kind: Kind = OHLCV, covariates: Sequence[str] = ()) -> pd.DataFrame:
    """One ticker's bars as a new frame with clean types and a fresh index, or a `ValueError`.

    A row whose prices (or value) are missing stays, as a missing bar; its covariates may be known.
    """
    numeric = [*kind.columns, *covariates]
    missing = [c for c in ("timestamp", *numeric) if c not in bars]
    if missing:
        raise ValueError(f"{ticker}: column(s) {missing} missing from {list(bars.columns)}: rename or add them")
    bars = bars[["timestamp", *numeric]].reset_index(drop=True)
    if not bars.columns.is_unique:
        twice = sorted(bars.columns[bars.columns.duplicated()])
        raise ValueError(f"{ticker}: column(s) {twice} appear more than once: keep one of each")
    bars["timestamp"] = _timestamps(bars["timestamp"], ticker)
    for column in numeric:
        bars[column] = _numbers(bars[column], ticker, column)

    def refuse(rows: pd.Series, what: str, remedy: str) -> None:
        if rows.any():
            row = int(rows.to_numpy().argmax())
            day = bars["timestamp"].iloc[row]
            count = f" (and {rows.sum() - 1} more)" if rows.sum() > 1 else ""
            raise ValueError(f"{ticker}, row {row}, {day}{count}: {what}; {remedy}")

    step = bars["timestamp"].diff()
    refuse(bars["timestamp"].isna(), "timestamp is empty", "drop the row or give its date")
    refuse(step < pd.Timedelta(0), "timestamp goes backwards", "sort the bars by timestamp")
    refuse(step == pd.Timedelta(0), "timestamp is repeated", "keep one bar per timestamp")
    refuse(np.isinf(bars[numeric]).any(axis=1), "infinite value", "replace it by NaN or the true number")
    for wrong, what, remedy in kind.refusals:
        refuse(wrong(bars), what, remedy)
    partial = bars[kind.needed].isna().any(axis=1)
    bars.loc[partial, kind.columns] = np.nan  # three prices out of four are no bar
    return bars


def _timestamps(values: pd.Series, ticker: str) -> pd.Series:
    """Times without a zone. Zoned ones turn into UTC, unless all are midnights: these are dates, and stay so."""
    if pd.api.types.is_numeric_dtype(values):
        given = f" ({values.iloc[0]})" if len(values) else ""
        raise ValueError(f"{ticker}: timestamp is a number{given}: convert it with pandas.to_datetime(..., unit=)")
    stamps = pd.to_datetime(values, errors="coerce", utc=True)
    bad = (stamps.isna() & values.notna()).to_numpy()
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{ticker}, row {row}: timestamp {values.iloc[row]!r} is no date; use ISO 8601")
    known = values.dropna()
    if len(known) and pd.Timestamp(known.iloc[0]).tz is not None:
        local = known.map(lambda moment: pd.Timestamp(moment).tz_localize(None))
        if (local == local.dt.normalize()).all():
            stamps = local.reindex(values.index)
    return stamps.dt.tz_localize(None).astype("datetime64[ns]")


def _numbers(values: pd.Series, ticker: str, column: str) -> pd.Series:
    numbers = pd.to_numeric(values, errors="coerce")
    text = numbers.isna() & values.notna()
    if text.any():
        row = int(text.to_numpy().argmax())
        raise ValueError(
            f"{ticker}, row {row}: {column} is {values.iloc[row]!r}, not a number; correct it or leave it empty"
        )
    return numbers.astype("float64")


def day_end(moment: Any) -> pd.Timestamp:
    """The last instant that a fence or an as-of includes: a bare date stands for the whole day.

    A date has no clock time: `"2020-06-30"` or a `datetime.date`. A `Timestamp` at midnight is an instant, else a
    forecast as of an intraday bar at midnight would read the day that follows.
    """
    stamp = pd.Timestamp(moment)
    if ":" not in str(moment):
        return stamp + pd.Timedelta(days=1) - pd.Timedelta(1, "ns")
    return stamp if stamp.tz is None else stamp.tz_convert("UTC").tz_localize(None)


# --- features ------------------------------------------------------------------------------------------------------


def bars_through(
    bars: pd.DataFrame | Sequence[pd.DataFrame], through: Any, kind: Kind = OHLCV, covariates: Sequence[str] = ()
) -> dict[str, pd.DataFrame]:
    """Bars up to the fence, of the tickers that have enough of them by then.

    Raises:
        ValueError: if no ticker has.
    """
    frames = {}
    for ticker, frame in split_tickers(bars, kind, covariates).items():
        inside = frame if through is None else frame[frame["timestamp"] <= day_end(through)]
        if inside[kind.value].notna().sum() >= MIN_BARS:
            frames[ticker] = inside
    if not frames:
        raise ValueError(f"no ticker has {MIN_BARS} bars up to {through}: give more history or a later fence")
    return frames


def standard_return(log_return: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """log_return[t] / sigma[t-1], `[N]`."""
    return log_return / np.concatenate(([np.nan], sigma[:-1]))


@dataclass(frozen=True)
class EncodedSeries:
    """One ticker after feature extraction; row t is a function of bars <= t (and of known covariates).

    Of a plain series `close` is its value and `log_return` its difference."""

    ticker: str
    timestamp: np.ndarray  # datetime64[ns] [N]
    features: np.ndarray  # float32 [N,F], scaled, 0 where unknown
    observed: np.ndarray  # bool [N], False for a missing bar
    close: np.ndarray  # float64 [N], NaN for a missing bar
    log_return: np.ndarray  # float64 [N], NaN where this bar or the one before is missing
    sigma: np.ndarray  # float64 [N], volatility known at t; NaN until MIN_BARS bars were seen

    def standard_return(self) -> np.ndarray:
        """log_return[t] / sigma[t-1], `[N]`; NaN where either is unknown."""
        return standard_return(self.log_return, self.sigma)

    def origins(self, start: Any = None, end: Any = None) -> np.ndarray:
        """Rows in [start, end] from which a forecast can be made."""
        usable = self.observed & ~np.isnan(self.sigma)
        if start is not None:
            usable &= self.timestamp >= pd.Timestamp(start).to_datetime64()
        if end is not None:
            usable &= self.timestamp <= day_end(end).to_datetime64()
        return np.flatnonzero(usable)


class TsfLlmFeatureExtractor(SequenceFeatureExtractor):
    """Bars -> scaled features and volatility.

    Args:
        kind: `ohlcv` (market bars) or `univariate` (`timestamp, value[, series_id]` and covariates).
        past_covariates: further columns of the bars or the plain series, each known up to its row; names, or patterns
            as `text_*`, for which `fit` puts the columns that it finds.
        known_covariates: further columns that are known in advance (price list, holiday): read up to 7 rows ahead.
        seasons: fitted state of a plain series: rows per cycle, best first; if none are given, `fit` finds them.
        feature_set: `default`, or `seed64`: the inputs of the original checkpoint, see `original_features_tsf_llm`.
        seed_horizon: bars ahead of `seed64`'s target: 1, 2, 5 or 10.
        expose_leak: let `seed64` see its three future returns. Only to show what they are worth: no forecast uses it.
        feature_groups: groups of `indicators_tsf_llm` to use, see docs/features.md; by default those of the 64 default
            features. Ignored when `names` is given.
        names: the exact features, in order (what `feature_groups` resolves to).
        scaling: `robust` (median, interquartile range), `standard` (mean, deviation) or `minmax` (to [-1, 1]).
        per_ticker: scale each ticker of the fit by itself; a ticker that was not there gets the common scale. By
            default only `seed64` does.
        context_length: most bars of one window, `T`; by default 128, for `seed64` 32.
        sigma_decay: lambda of the exponentially weighted volatility (RiskMetrics 1996 uses 0.94 for daily bars, and so
            do we; 0.98 for a plain series).
        sigma_floor: smallest volatility, 1e-4, so that a halted price does not divide by zero; for a plain series 0.1
            of the root mean square of its differences so far.
        clip: scaled features are cut to [-clip, clip]; by default 10, for `seed64` not at all.
        calendar: exchange whose sessions date a forecast, a name of exchange_calendars such as "XNYS" or "24/7". By
            default New York's where a year of daily bars proves it, else the rhythm of the past bars.
        center, scale, bar_seconds, fitted_through, fitted_with_market: fitted state; `fit` sets them.
        target_center, target_scale: fitted state of `seed64`: median and interquartile range of its target in percent.
    """

    model_input_names = ["past_values", "attention_mask"]  # noqa: RUF012 (declared by the base class)

    def __init__(
        self,
        feature_groups: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        scaling: Literal["robust", "standard", "minmax"] = "robust",
        per_ticker: bool | None = None,
        context_length: int | None = None,
        sigma_decay: float | None = None,
        sigma_floor: float | None = None,
        clip: float | None = None,
        feature_set: Literal["default", "seed64"] = "default",
        seed_horizon: int = SEED_HORIZON,
        expose_leak: bool = False,
        center: dict[str, list[float]] | None = None,
        scale: dict[str, list[float]] | None = None,
        target_center: dict[str, float] | None = None,
        target_scale: dict[str, float] | None = None,
        bar_seconds: float | None = None,
        fitted_through: str | None = None,
        kind: Literal["ohlcv", "univariate"] = "ohlcv",
        past_covariates: Sequence[str] = (),
        known_covariates: Sequence[str] = (),
        seasons: Sequence[int] | None = None,
        calendar: str | None = None,
        fitted_with_market: bool = False,
        **kwargs: Any,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {list(KINDS)}")
        sigma_decay = KINDS[kind].sigma_decay if sigma_decay is None else sigma_decay
        sigma_floor = KINDS[kind].sigma_floor if sigma_floor is None else sigma_floor
        if scaling not in ("robust", "standard", "minmax"):
            raise ValueError(f"scaling={scaling!r}: choose robust, standard or minmax")
        if feature_set not in ("default", "seed64"):
            raise ValueError(f"feature_set={feature_set!r}: choose default or seed64")
        if not 0 < sigma_decay < 1:
            raise ValueError(f"sigma_decay={sigma_decay}: must lie between 0 and 1, e.g. 0.94")
        seed = feature_set == "seed64"
        if expose_leak and not seed:
            raise ValueError("expose_leak=True: only feature_set='seed64' has a leak to expose")
        if kind != "univariate" and seasons:
            raise ValueError(f"seasons go with kind='univariate', not {kind!r}")
        own_columns = {"timestamp", KINDS[kind].id, *KINDS[kind].columns}
        if taken := own_columns & {*past_covariates, *known_covariates}:
            raise ValueError(f"{sorted(taken)} cannot be covariates: every feature is made of them already")
        if seed and (past_covariates or known_covariates):
            raise ValueError("feature_set='seed64' has 64 inputs and no room for covariates: leave them out")
        if kind != "ohlcv" and seed:
            raise ValueError("feature_set='seed64' is for market bars: leave kind at 'ohlcv'")
        self.feature_set, self.seed_horizon, self.expose_leak = feature_set, seed_horizon, expose_leak
        self.kind, self.seasons = kind, None if seasons is None else list(seasons)
        self.past_covariates, self.known_covariates = list(past_covariates), list(known_covariates)
        self.feature_groups = None if feature_groups is None else list(feature_groups)
        if seed:
            names = seed_feature_names(seed_horizon)
        self.names = list(names) if names is not None else self._feature_names()
        self.scaling, self.per_ticker = scaling, seed if per_ticker is None else per_ticker
        self.context_length = context_length or (SEED_LENGTH if seed else 128)
        self.sigma_decay, self.sigma_floor = sigma_decay, sigma_floor
        self.clip = 10.0 if clip is None and not seed else clip
        self.center, self.scale = center, scale
        self.target_center, self.target_scale = target_center, target_scale
        self.bar_seconds, self.fitted_through = bar_seconds, fitted_through
        self.calendar, self.fitted_with_market = check_calendar(calendar), fitted_with_market
        for known in ("feature_size", "sampling_rate", "padding_value", "padding_side"):
            kwargs.pop(known, None)
        super().__init__(
            feature_size=len(self.names), sampling_rate=1, padding_value=0.0, padding_side="left", **kwargs
        )

    @property
    def is_seed(self) -> bool:
        return self.feature_set == "seed64"

    @property
    def series_kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def covariates(self) -> list[str]:
        return [*self.past_covariates, *self.known_covariates]

    def _feature_names(self) -> list[str]:
        """Those of the groups, then covariates; of a plain series they depend on its seasons, so `fit` asks again."""
        if self.series_kind is OHLCV:
            groups = self.feature_groups and [group for group in self.feature_groups if group != "covariates"]
            return [*feature_names(groups), *self._covariate_columns()]
        return series_feature_names(self._series_table(), self.feature_groups)

    def _covariate_columns(self) -> dict[str, tuple[str, int]]:
        return covariate_columns(self.past_covariates, self.known_covariates)

    def _name_covariates(self, bars: pd.DataFrame | Sequence[pd.DataFrame]) -> None:
        """Puts the columns of these bars for patterns such as `text_*`, and their features among the others."""
        columns = list(bars if isinstance(bars, pd.DataFrame) else bars[0]) if len(bars) else []
        taken = {"timestamp", self.series_kind.id, *self.series_kind.columns}
        before = self._covariate_columns()
        self.known_covariates = named_columns(self.known_covariates, columns, taken)
        self.past_covariates = named_columns(self.past_covariates, columns, {*taken, *self.known_covariates})
        if self._covariate_columns().keys() != before.keys():
            self.names = [name for name in self.names if name not in before] + list(self._covariate_columns())
            self.feature_size = len(self.names)

    def _with_unknown_covariates(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Bars with a column for every covariate, unknown where they bring none; a plain series must bring them."""
        if self.series_kind is UNIVARIATE or not isinstance(bars, pd.DataFrame):
            return bars
        missing = [name for name in self.covariates if name not in bars]
        if not missing:
            return bars
        logger.warning_once(f"the bars have no column(s) {missing}: what the processor knows of them is masked")
        return bars.assign(**dict.fromkeys(missing, np.nan))

    def _series_table(self) -> dict[str, Any]:
        return series_table(self.seasons or (), self.past_covariates, self.known_covariates)

    @property
    def reads_market(self) -> bool:
        """Whether a market would change any of the features."""
        return self.series_kind is OHLCV and not self.is_seed and reads_market(self.names)

    def _market_state(self, market: pd.DataFrame | Sequence[pd.DataFrame] | None) -> pd.DataFrame | None:
        """The market's bars, checked, as `market_tsf_llm.market_state`; or one of these as it is."""
        if market is None:
            return None
        if not self.reads_market:
            raise ValueError("market=: no feature of this processor reads it; leave it out, or fit one with the group")
        if isinstance(market, pd.DataFrame) and set(MARKET_COLUMNS) <= set(market.columns):
            return market
        tickers = split_tickers(market)
        for ticker, frame in tickers.items():
            self.check_market_spacing(f", {ticker}", frame["timestamp"].to_numpy())
        return market_state(tickers.values())

    def check_market_spacing(self, name: str, timestamps: np.ndarray) -> None:
        """Raises ValueError for market bars of another frequency; few of them tell none."""
        if len(timestamps) >= MIN_BARS:
            self._check_spacing(f"market{name}", timestamps)

    def _check_spacing(self, name: str, timestamps: np.ndarray) -> None:
        spacing = bar_spacing(timestamps)
        if self.bar_seconds is None or not 0.5 < spacing / self.bar_seconds < 2:
            raise ValueError(
                f"{name}: a bar every {pd.Timedelta(seconds=spacing)}, the processor was fitted on "
                f"{pd.Timedelta(seconds=self.bar_seconds)}: resample the bars or fit a processor on these"
            )

    def raw_features(self, bars: pd.DataFrame, market: pd.DataFrame | None = None, start: int = 0) -> pd.DataFrame:
        """The features of one ticker before scaling, `[N,F]` with their names, NaN where unknown; from row `start` on.

        `market` is a `market_tsf_llm.market_state`."""
        if self.is_seed:
            return seed_features(bars, horizon=self.seed_horizon, expose_leak=self.expose_leak).iloc[start:]
        if self.series_kind is UNIVARIATE:
            table = self._series_table()
            return compute_series_features(bars, self.names, table, self.sigma_decay, self.sigma_floor).iloc[start:]
        covariates = covariate_features(bars, self.past_covariates, self.known_covariates)
        own = [name for name in self.names if name not in covariates]
        table = compute_features(bars, own, market, start=start)
        return table.join(covariates)[self.names] if len(covariates.columns) else table

    def fit(
        self,
        bars: pd.DataFrame | Sequence[pd.DataFrame],
        through: Any = None,
        *,
        market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
    ) -> "TsfLlmFeatureExtractor":
        """Learns scalers and bar spacing from the bars up to and including `through`; all of them by default."""
        self._name_covariates(bars)
        frames = bars_through(bars, through, self.series_kind, self.covariates)
        unknown = [name for name in self.covariates if all(frame[name].isna().all() for frame in frames.values())]
        if unknown:
            raise ValueError(f"column(s) {unknown} are empty up to {through}: leave them out or move the fence")
        self.bar_seconds = float(np.median([bar_spacing(frame["timestamp"].to_numpy()) for frame in frames.values()]))
        if self.series_kind is UNIVARIATE and self.seasons is None:
            times = np.concatenate([frame["timestamp"].to_numpy() for frame in frames.values()])
            values = [frame["value"].to_numpy() for frame in frames.values()]
            self.seasons = choose_seasons(values, candidate_seasons(times, self.bar_seconds))
            self.names = self._feature_names()
            self.feature_size = len(self.names)
        state, self.fitted_with_market = self._market_state(market), market is not None
        raw = {ticker: self.raw_features(frame, state).to_numpy() for ticker, frame in frames.items()}
        self.center, self.scale = self._fit_scalers(raw)
        if self.is_seed:
            targets = {
                t: seed_target(f["close"].dropna(), self.seed_horizon).to_numpy()[:, None] for t, f in frames.items()
            }
            center, scale = self._fit_scalers(targets)
            self.target_center = {ticker: value for ticker, [value] in center.items()}
            self.target_scale = {ticker: value for ticker, [value] in scale.items()}
        last = max(frame["timestamp"].iloc[-1] for frame in frames.values())
        fence = day_end(last if through is None else through)
        whole_day = self.bar_seconds >= 86400 or fence == day_end(str(fence.date()))
        self.fitted_through = str(fence.date() if whole_day else fence)  # `day_end` reads it back as the same fence
        return self

    def _fit_scalers(self, parts: dict[str, np.ndarray]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Center and scale of all tickers together under `*`, and of each if `per_ticker`; parts are `[N,F]`.

        Column by column: all of them together would take the memory of the parts once more."""
        own = parts if self.per_ticker else {}
        fitted = {ticker: center_and_scale(values, self.scaling) for ticker, values in own.items()}
        by_column = zip(*(part.T for part in parts.values()), strict=True)
        pooled = [center_and_scale(np.concatenate(column)[:, None], self.scaling) for column in by_column]
        fitted["*"] = np.concatenate([c for c, _ in pooled]), np.concatenate([s for _, s in pooled])
        return {t: c.tolist() for t, (c, _) in fitted.items()}, {t: s.tolist() for t, (_, s) in fitted.items()}

    def seed_log_returns(self, values: np.ndarray, tickers: Sequence[str]) -> np.ndarray:
        """Scaled targets of `seed64`, one row per ticker -> log returns over `seed_horizon` bars, same shape."""
        if self.target_center is None or self.target_scale is None:
            raise ValueError("the processor is not fitted: call processor.fit(bars, through=...) first")
        shape = (-1, *[1] * (values.ndim - 1))
        center, scale = (
            np.array([state.get(ticker, state["*"]) for ticker in tickers]).reshape(shape)
            for state in (self.target_center, self.target_scale)
        )
        return np.log1p(np.maximum(values * scale + center, -99.9) / 100)  # no price falls by all of itself

    def volatility(self, close: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log returns (differences) and the exponentially weighted volatility known at each bar, both `[N]`.

        See `return_volatility` and `difference_scale`.
        """
        log_return = np.diff(self.series_kind.additive(close), prepend=np.nan)
        return log_return, self.series_kind.volatility(log_return, self.sigma_decay, self.sigma_floor)

    def encode(
        self,
        bars: pd.DataFrame | Sequence[pd.DataFrame],
        as_of: Any = None,
        *,
        market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
        known: Mapping[str, EncodedSeries] | None = None,
        last_window: bool = False,
    ) -> list[EncodedSeries]:
        """Every bar of every ticker, up to and including `as_of`, once. Windows are slices of the result.

        A bar reads the market's last row at or before it, so the market may go on after `as_of`. Market bars without a
        covariate's column are read without it: it is masked, and a warning says so.

        `known` has tickers encoded before, for a ticker's first rows. Their features are taken as they are and only
        those of later rows are computed, to the same bits; that bars and market are the same up to there is the
        caller's word. With known covariates the last rows read later ones: leave it out.

        With `last_window`, features are those of the window that ends at the last origin, and zero before it: to
        forecast from there needs no others, however long the history is.

        Raises:
            ValueError: if not fitted, or for bars that `check_bars` refuses, too few or of another frequency.
        """
        frames = [bars] if isinstance(bars, pd.DataFrame) else list(bars)
        frames = [self._with_unknown_covariates(frame) for frame in frames]
        tickers = split_tickers(frames, self.series_kind, self.covariates)
        if as_of is not None:
            tickers = {
                ticker: hide_after(frame, int((frame["timestamp"] <= day_end(as_of)).sum()), self.known_covariates)
                for ticker, frame in tickers.items()
            }
        for ticker, frame in tickers.items():
            if (observed := frame[self.series_kind.value].notna().sum()) < MIN_BARS:
                upto = "" if as_of is None else f" up to {as_of}"
                raise ValueError(
                    f"{ticker}: {observed} observed bars{upto}, at least {MIN_BARS} are needed: "
                    "give more history or leave the ticker out"
                )
        if self.center is None or self.scale is None or self.bar_seconds is None:
            raise ValueError("the processor is not fitted: call processor.fit(bars, through=...) first")
        state = self._market_state(market)
        if market is not None and not self.fitted_with_market:
            raise ValueError("market=: the processor was fitted without one; give it to processor.fit(...) as well")
        if market is None and self.fitted_with_market:
            logger.warning_once("no market= was given: what the processor knows of the market is masked")
        earlier = {ticker: series.features for ticker, series in (known or {}).items()}
        return [
            self._encode(ticker, frame, state, earlier.get(ticker), last_window) for ticker, frame in tickers.items()
        ]

    def _encode(
        self,
        ticker: str,
        bars: pd.DataFrame,
        market: pd.DataFrame | None,
        known: np.ndarray | None,
        last_window: bool,
    ) -> EncodedSeries:
        """`known` is the features of the first rows."""
        assert self.center is not None
        assert self.scale is not None
        observed = bars[self.series_kind.value].notna().to_numpy()
        timestamp = bars["timestamp"].to_numpy()
        self._check_spacing(ticker, timestamp)
        if self.is_seed:
            self._warn_of_the_leak()
        center, scale = (np.array(state.get(ticker, state["*"])) for state in (self.center, self.scale))
        close = bars[self.series_kind.value].to_numpy()
        log_return, sigma = self.volatility(close)
        if last_window:
            origin = np.flatnonzero(observed & ~np.isnan(sigma))[-1:].sum()
            known = np.zeros((max(0, origin + 1 - self.context_length), len(self.names)), np.float32)
        scaled = (self.raw_features(bars, market, 0 if known is None else len(known)).to_numpy() - center) / scale
        limit = np.inf if self.clip is None else self.clip
        features = np.nan_to_num(np.clip(scaled, -limit, limit)).astype(np.float32)
        return EncodedSeries(
            ticker=ticker,
            timestamp=timestamp,
            features=features if known is None else np.concatenate((known, features)),
            observed=observed,
            close=close,
            log_return=log_return,
            sigma=sigma,
        )

    def _warn_of_the_leak(self) -> None:
        columns = ", ".join(future_columns(self.seed_horizon))
        if self.expose_leak:
            logger.warning_once(f"expose_leak: {columns} hold the future. No score of these inputs is a forecast's.")
        else:
            logger.warning_once(
                f"seed64: the original was trained on inputs that lie ahead of their bar ({columns}). They cannot be "
                "known when a forecast is made and are set to their median; expect no skill of its weights."
            )

    def windows(self, series: EncodedSeries, origins: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]:
        """The `T` bars that end at each origin, left-padded: `past_values [B,T,F]`, `attention_mask [B,T]`."""
        length = min(self.context_length, int(origins.max()) + 1) if length is None else length
        rows = origins[:, None] - np.arange(length)[::-1]  # [B,T]
        inside = rows >= 0
        rows = np.where(inside, rows, 0)
        mask = inside & series.observed[rows]
        return {
            "past_values": np.where(mask[..., None], series.features[rows], np.float32(0)),
            "attention_mask": mask.astype(np.int64),
        }


def center_and_scale(values_NF: np.ndarray, scaling: str) -> tuple[np.ndarray, np.ndarray]:
    """Per feature, NaN left out; a constant feature gets scale 1, an unknown one center 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numpy warns of columns that are all NaN
        if scaling == "robust":
            low, center, high = np.nanpercentile(values_NF, (25, 50, 75), axis=0)
            scale = high - low
        elif scaling == "standard":
            center, scale = np.nanmean(values_NF, axis=0), np.nanstd(values_NF, axis=0)
        else:
            low, high = np.nanmin(values_NF, axis=0), np.nanmax(values_NF, axis=0)
            center, scale = (low + high) / 2, (high - low) / 2
    scale = np.where(scale > 1e-12, scale, 1.0)
    return np.nan_to_num(center), np.nan_to_num(scale, nan=1.0)


# --- return tokens -------------------------------------------------------------------------------------------------


class TsfLlmTokenizer(PreTrainedTokenizer):
    """Standardised returns <-> bins `0..n_bins-1`; then come `<pad>` and `<bar>`.

    Args:
        n_bins: number of bins, tails included; even, so that zero can be an edge.
        bin_edges: fitted state, `n_bins + 1` increasing numbers; `fit` sets them.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (declared by the base class)
    vocab_files_names: dict[str, str] = {}  # noqa: RUF012
    TAIL_SHARE = 0.005  # of the data, beyond which bins are as wide as the tail needs
    TAIL_BINS = 8  # on each side

    def __init__(self, n_bins: int = 256, bin_edges: Sequence[float] | None = None, **kwargs: Any):
        if n_bins < 4 * self.TAIL_BINS or n_bins % 2:
            raise ValueError(f"n_bins={n_bins}: use an even number of at least {4 * self.TAIL_BINS}")
        if bin_edges is not None and (len(bin_edges) != n_bins + 1 or (np.diff(bin_edges) <= 0).any()):
            raise ValueError(f"bin_edges must be {n_bins + 1} increasing numbers, got {len(bin_edges)}: fit it again")
        self.n_bins = n_bins
        self.bin_edges = None if bin_edges is None else [float(edge) for edge in bin_edges]
        self._names = [f"r{i}" for i in range(n_bins)] + ["<pad>", "<bar>"]
        self._ids = {token: i for i, token in enumerate(self._names)}
        kwargs = {"pad_token": "<pad>", "extra_special_tokens": ["<bar>"], "padding_side": "left", **kwargs}
        super().__init__(n_bins=n_bins, bin_edges=self.bin_edges, **kwargs)

    def fit(self, standard_returns: np.ndarray) -> "TsfLlmTokenizer":
        """Edges from the data: equal shares in the body, geometric widths in both tails, and an edge at zero.

        Raises:
            ValueError: for too few returns to place the edges.
        """
        z = np.sort(standard_returns[np.isfinite(standard_returns)])
        if len(z) < self.n_bins:
            raise ValueError(f"{len(z)} returns for {self.n_bins} bins: fit on more bars or use fewer bins")
        body = np.quantile(z, np.linspace(self.TAIL_SHARE, 1 - self.TAIL_SHARE, self.n_bins - 2 * self.TAIL_BINS + 1))
        low, high = min(z[0], -1e-6), max(z[-1], 1e-6)  # zero lies inside, even for prices that only rise
        left = body[0] - _tail(body[0] - low, self.TAIL_BINS)[::-1]
        right = body[-1] + _tail(high - body[-1], self.TAIL_BINS)
        edges = np.concatenate((left, body, right))
        inner = slice(1, -1)
        edges[inner][np.abs(edges[inner]).argmin()] = 0.0
        edges = np.maximum.accumulate(edges)
        edges += 1e-9 * (np.arange(len(edges)) - np.flatnonzero(edges == 0)[0])  # ties would give bins without width
        self.bin_edges = self.init_kwargs["bin_edges"] = edges.tolist()
        return self

    @property
    def fitted_edges(self) -> np.ndarray:
        """`bin_edges`, or a `ValueError` before `fit`."""
        if self.bin_edges is None:
            raise ValueError("the return bins are not fitted: call processor.fit(bars, through=...) first")
        return np.asarray(self.bin_edges)

    @property
    def bin_centers(self) -> np.ndarray:
        """Middles of the bins, `[n_bins]`."""
        edges = self.fitted_edges
        return (edges[1:] + edges[:-1]) / 2

    def encode_returns(self, standard_returns: np.ndarray, unknown: int = -100) -> np.ndarray:
        """Bin of every standardised return, int64; `unknown` for NaN. Beyond the outer edges the outer bin."""
        bins = np.searchsorted(self.fitted_edges[1:-1], np.nan_to_num(standard_returns), side="right")
        return np.where(np.isnan(standard_returns), unknown, bins)

    def decode_returns(self, ids: np.ndarray) -> np.ndarray:
        """Bin centers of the ids, NaN for special tokens and for -100."""
        return np.append(self.bin_centers, [np.nan, np.nan])[np.maximum(ids, -1)]

    @property
    def bar_token_id(self) -> int:
        return self.n_bins + 1

    @property
    def vocab_size(self) -> int:
        return len(self._names)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)

    def _tokenize(self, text: str, **kwargs: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, self._ids["<pad>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self._names[index]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str, ...]:
        return ()  # the edges are part of tokenizer_config.json


def _tail(width: float, bins: int) -> np.ndarray:
    """Distances of `bins` outer edges from the body, growing to `width`; at least a little where the tail is empty."""
    return max(width, 1e-6) * np.geomspace(1 / 2**bins, 1, bins)


# --- the processor -------------------------------------------------------------------------------------------------


class TsfLlmProcessor(ProcessorMixin):
    """Bars in, tensors out; samples in, price forecasts out.

    >>> processor = TsfLlmProcessor().fit(bars, through="2018-12-31")  # doctest: +SKIP
    >>> batch = processor(bars, as_of="2020-06-30")  # doctest: +SKIP
    >>> paths = model.generate(**batch, max_new_tokens=5, do_sample=True, num_return_sequences=100)  # doctest: +SKIP
    """

    feature_extractor: TsfLlmFeatureExtractor
    tokenizer: TsfLlmTokenizer

    def __init__(
        self,
        feature_extractor: TsfLlmFeatureExtractor | None = None,
        tokenizer: TsfLlmTokenizer | None = None,
        **kwargs: Any,
    ):
        super().__init__(feature_extractor or TsfLlmFeatureExtractor(), tokenizer or TsfLlmTokenizer(), **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> "TsfLlmProcessor":  # type: ignore[override]
        """Both parts with this module's own classes: no Auto class, hence no remote code, is needed."""
        return cls(
            TsfLlmFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            TsfLlmTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        )

    @property
    def fitted_through(self) -> str | None:
        """The fence (ISO date): no later bar shaped the scalers or the bins."""
        return self.feature_extractor.fitted_through

    def fit(
        self,
        bars: pd.DataFrame | Sequence[pd.DataFrame],
        through: Any = None,
        *,
        market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
    ) -> "TsfLlmProcessor":
        """Learns scalers and return bins from the bars up to and including `through`, by default all of them.

        `market` is the bars of an index, or of a universe, for features that read them.

        Raises:
            ValueError: for bars without an honest reading, or too few before the fence.
        """
        self.feature_extractor.fit(bars, through, market=market)
        if self.feature_extractor.is_seed:
            return self  # it has no return tokens
        kind, covariates = self.feature_extractor.series_kind, self.feature_extractor.covariates
        closes = [frame[kind.value].to_numpy() for frame in bars_through(bars, through, kind, covariates).values()]
        self.tokenizer.fit(np.concatenate([standard_return(*self.feature_extractor.volatility(c)) for c in closes]))
        return self

    def __call__(
        self,
        bars: pd.DataFrame | Sequence[pd.DataFrame],
        as_of: Any = None,
        return_tensors: str | None = "pt",
        *,
        market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
    ) -> BatchFeature:
        """The last window of every ticker, up to and including `as_of`, beside the market as of then.

        Returns:
            `past_values [B,T,F]`, `attention_mask [B,T]`, `input_ids [B,T]` (bar placeholders) for the model, and
            `scale [B]` (sigma at the origin), `last_close [B]`, `ticker`, `origin`, `bar_times` (lists) for `decode`.

        Raises:
            ValueError: not fitted, bars without an honest reading, or too few of them.
        """
        encoded = self.feature_extractor.encode(bars, as_of, market=market, last_window=True)
        for series in encoded:
            if not len(series.origins()):
                raise ValueError(
                    f"{series.ticker}: fewer than {MIN_BARS - 1} returns are known (gaps have none), or its value "
                    "never changed: give more history"
                )
        return self.batch([(series, series.origins()[-1:]) for series in encoded], return_tensors=return_tensors)

    def batch(
        self, requests: Sequence[tuple[EncodedSeries, np.ndarray]], return_tensors: str | None = "pt"
    ) -> BatchFeature:
        """Windows of encoded series at given origins; the fields are those of `__call__`."""
        requests = [(series, np.asarray(origins)) for series, origins in requests if len(origins)]
        if not requests:
            raise ValueError("no origin to forecast from: give more history or other dates")
        longest = max(int(origins.max()) + 1 for _, origins in requests)
        length = min(self.feature_extractor.context_length, longest)
        parts = [self.feature_extractor.windows(series, origins, length) for series, origins in requests]
        arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        arrays["input_ids"] = np.full(arrays["attention_mask"].shape, self.tokenizer.bar_token_id)
        arrays["scale"] = np.concatenate([series.sigma[origins] for series, origins in requests])
        arrays["last_close"] = np.concatenate([series.close[origins] for series, origins in requests])
        batch = BatchFeature(arrays, tensor_type=return_tensors)
        batch["ticker"] = [series.ticker for series, origins in requests for _ in origins]
        batch["origin"] = [pd.Timestamp(stamp) for series, origins in requests for stamp in series.timestamp[origins]]
        batch["bar_times"] = [series.timestamp[: row + 1][-256:] for series, origins in requests for row in origins]
        return batch

    # --- prices out

    def path_returns(self, tokens: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """Sampled return tokens `[B,K,P]` -> cumulative log returns from the origin, float64 `[B,K,P]`."""
        standard = self.tokenizer.decode_returns(np.asarray(tokens))
        return np.cumsum(standard, axis=-1) * np.asarray(batch["scale"], dtype=float)[:, None, None]

    def log_returns(self, values: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """A head's numbers `[B,P]` or `[B,P,Q]` -> cumulative log returns from the origin, of the same shape.

        The numbers are returns in units of the origin's sigma; for `seed64` scaled percentage returns."""
        values = np.asarray(values, dtype=float)
        if self.feature_extractor.is_seed:
            return self.feature_extractor.seed_log_returns(values, batch["ticker"])
        return values * np.asarray(batch["scale"], dtype=float).reshape(-1, *[1] * (values.ndim - 1))

    def inverse_transform(self, values: np.ndarray | torch.Tensor, batch: BatchFeature) -> np.ndarray:
        """A head's numbers `[B,P]` or `[B,P,Q]`, see `log_returns` -> prices of the same shape."""
        log_returns = self.log_returns(values, batch)
        last_close = np.asarray(batch["last_close"], dtype=float).reshape(-1, *[1] * (log_returns.ndim - 1))
        return self.feature_extractor.series_kind.level(last_close, log_returns)

    def decode(self, cumulative: np.ndarray, batch: BatchFeature) -> pd.DataFrame:
        """Sampled cumulative log returns (differences) `[B,K,P]` -> one row per origin and step, in price units.

        Columns: ticker, origin, step, timestamp, mean, q05, q10, q25, q50, q75, q90, q95, p_up, where `p_up` is the
        share of paths above the last close, ties counted half.
        """
        last_close = np.asarray(batch["last_close"], dtype=float)[:, None, None]
        prices_BKP = self.feature_extractor.series_kind.level(last_close, cumulative)
        frame = self._empty_forecast(batch, cumulative.shape[-1])
        frame["mean"] = prices_BKP.mean(axis=1).ravel()
        quantiles_QBP = np.quantile(prices_BKP, FORECAST_QUANTILES, axis=1, method="weibull")  # unbiased coverage
        for level, values in zip(FORECAST_QUANTILES, quantiles_QBP, strict=True):
            frame[f"q{round(100 * level):02d}"] = values.ravel()
        frame["p_up"] = ((cumulative > 0).mean(axis=1) + 0.5 * (cumulative == 0).mean(axis=1)).ravel()
        return frame

    def _empty_forecast(self, batch: BatchFeature, horizon: int) -> pd.DataFrame:
        B = len(batch["ticker"])
        calendar = self.feature_extractor.calendar
        stamps = [next_timestamps(times, horizon, calendar) for times in batch["bar_times"]]
        frame = pd.DataFrame(index=range(B * horizon), columns=FORECAST_COLUMNS, dtype=float)
        frame["ticker"] = np.repeat(batch["ticker"], horizon)
        frame["origin"] = pd.DatetimeIndex(batch["origin"]).repeat(horizon)
        frame["step"] = np.tile(np.arange(1, horizon + 1), B)
        frame["timestamp"] = stamps[0].append(stamps[1:])
        return frame

    # --- the proof

    def audit(
        self,
        bars: pd.DataFrame | Sequence[pd.DataFrame],
        seed: int = 0,
        *,
        market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
    ) -> dict[str, Any]:
        """Prefix invariance of every feature of this processor, and two canaries; see `audit_features`."""
        extractor = self.feature_extractor
        return audit_features(
            bars,
            seed=seed,
            compute=extractor.raw_features,
            market=bars if market is None and extractor.reads_market else market,
            kind=extractor.series_kind,
            past_covariates=extractor.past_covariates,
            known_covariates=extractor.known_covariates,
        )


def audit_features(
    bars: pd.DataFrame | Sequence[pd.DataFrame],
    names: Sequence[str] | None = None,
    seed: int = 0,
    cuts: int = 6,
    compute: Callable[..., pd.DataFrame] | None = None,
    kind: Kind | None = None,
    past_covariates: Sequence[str] = (),
    known_covariates: Sequence[str] = (),
    market: pd.DataFrame | Sequence[pd.DataFrame] | None = None,
) -> dict[str, Any]:
    """Tests features for knowledge of the future: those named, all of the table, or what `compute` makes of bars.

    * Prefix invariance: history is cut at several bars, and once more its future is replaced by noise. No value up to
      the cut may change by a single bit. Some cuts lie within the first bars, where values filled from later show.
    * Random-walk canary: on bars that no one can predict, a ridge regression on the features must not find direction.
    * Shuffled-label canary: on the given bars with shuffled next returns it must not either. (This one watches the
      canary itself: a test harness that leaks would sing here.)

    `kind` is told by the columns. A known covariate stays as it is where the rest of the future is cut or replaced: to
    read it ahead is no leak. A past one that is written from later rows is a leak that came with the data, see
    `peeking_covariates`.

    Features of the market see one in all of this, by default made of the given bars. Then its future is cut off and
    replaced as well, and the longest ticker's features must not change. `compute` takes its state as `market`.

    Returns:
        `{"passed", "features", "prefix_invariance", "random_walk", "shuffled_labels"}`, ready for JSON.
    """
    kind = kind or kind_of(bars)
    extractor = TsfLlmFeatureExtractor(
        kind="univariate" if kind is UNIVARIATE else "ohlcv",
        past_covariates=past_covariates,
        known_covariates=known_covariates,
    )
    extractor._name_covariates(bars)
    past_covariates, known_covariates = extractor.past_covariates, extractor.known_covariates
    covariates = extractor.covariates
    if compute is None:
        compute = _table_of(bars, extractor, names)
        if market is None and kind is OHLCV and reads_market(list(FEATURES) if names is None else names):
            market = bars
    rng = np.random.default_rng(seed)
    tickers = split_tickers(bars, kind, covariates)
    longest = max(tickers.values(), key=len)
    market_leaks = []
    if market is not None:
        others = split_tickers(market)
        market_leaks = _market_leaks(longest, list(others.values()), compute, rng, cuts)
        compute = functools.partial(compute, market=market_state(others.values()))
    leaks = market_leaks + [
        leak
        for ticker, frame in tickers.items()
        for leak in _prefix_leaks(ticker, frame, compute, rng, cuts, kind, known_covariates)
    ]
    for ticker, frame in tickers.items() if past_covariates else ():
        leaks += [{**found, "ticker": ticker} for found in peeking_covariates(frame, past_covariates, kind)]
    walk_bars = random_walk_bars(rng) if kind is OHLCV else random_walk_series(rng)
    walk_bars = walk_bars.assign(**{name: rng.normal(0, 1, len(walk_bars)) for name in covariates})
    walk = _canary(walk_bars, compute, rng, shuffle=False, kind=kind)
    shuffled = _canary(longest, compute, rng, shuffle=True, kind=kind)
    return {
        "passed": not leaks and walk["passed"] and shuffled["passed"],
        "features": compute(longest.head(MIN_BARS)).shape[1],
        "tickers": len(tickers),
        "bars": sum(len(frame) for frame in tickers.values()),
        "prefix_invariance": {"passed": not leaks, "cuts_per_ticker": cuts, "leaks": leaks},
        "random_walk": walk,
        "shuffled_labels": shuffled,
    }


def _table_of(
    bars: pd.DataFrame | Sequence[pd.DataFrame], extractor: TsfLlmFeatureExtractor, names: Sequence[str] | None
) -> Callable[..., pd.DataFrame]:
    """What computes the named features of the extractor's kind, by default all of the table."""
    if extractor.series_kind is OHLCV:
        extractor.names = [*FEATURES, *extractor._covariate_columns()]
    else:
        extractor.fit(bars)
    extractor.names = extractor.names if names is None else list(names)
    return extractor.raw_features


def _market_leaks(
    bars: pd.DataFrame,
    market: Sequence[pd.DataFrame],
    compute: Callable[..., pd.DataFrame],
    rng: np.random.Generator,
    cuts: int,
) -> list[dict]:
    """One entry per feature of these bars that the market's future changes."""
    table = compute(bars, market=market_state(market))
    found: dict[str, dict] = {}
    for cut in np.unique(np.linspace(1, len(bars) - 1, cuts + 1, dtype=int)[:-1]):
        now = bars["timestamp"].iloc[cut]
        ended = [frame[frame["timestamp"] <= now] for frame in market]
        noise = []
        for frame in market:
            future = (frame["timestamp"] > now).to_numpy()[:, None]
            factor = np.where(future, np.exp(rng.normal(0, 0.1, (len(frame), 1))), 1.0)
            noise.append(frame.assign(**{name: frame[name] * factor[:, 0] for name in COLUMNS[1:]}))
        for other in (ended, noise):
            part = compute(bars, market=market_state(other)).to_numpy()[: cut + 1]
            whole = table.to_numpy()[: cut + 1]
            differs = (part != whole) & ~(np.isnan(part) & np.isnan(whole))
            for column in np.flatnonzero(differs.any(axis=0)):
                row = int(differs[:, column].argmax())
                entry = {"feature": table.columns[column], "ticker": "market", "bar": str(bars["timestamp"].iloc[row])}
                found.setdefault(table.columns[column], {**entry, "reads_up_to_bars_ahead": int(cut + 1 - row)})
    return list(found.values())


def _prefix_leaks(
    ticker: str,
    bars: pd.DataFrame,
    compute: Callable[[pd.DataFrame], pd.DataFrame],
    rng: np.random.Generator,
    cuts: int,
    kind: Kind,
    known_covariates: Sequence[str],
) -> list[dict]:
    """One entry per leaking feature, with the first bar that its future changed."""
    table = compute(bars)
    names, whole = list(table), table.to_numpy()
    found: dict[str, dict] = {}
    unknown = [name for name in bars.columns if name not in ("timestamp", *known_covariates)]
    even = np.unique(np.linspace(1, len(bars) - 1, cuts + 1, dtype=int)[1:])
    first = [cut for cut in (1, 2, 5, 15, 40) if cut < even[0]]
    for cut in [*first, *even]:
        others = [hide_after(bars, cut, known_covariates)]
        if cut in even:
            noise = bars.copy()
            noise.loc[cut:, unknown] = kind.noise(noise.loc[cut:, unknown], rng)
            others.append(noise)
        for other in others:
            part = compute(other).to_numpy()[:cut]
            differs = (part != whole[:cut]) & ~(np.isnan(part) & np.isnan(whole[:cut]))
            for column in np.flatnonzero(differs.any(axis=0)):
                row = int(differs[:, column].argmax())
                bars_ahead = int(cut - row)
                entry = {"feature": names[column], "ticker": ticker, "bar": str(bars["timestamp"].iloc[row])}
                found.setdefault(names[column], {**entry, "reads_up_to_bars_ahead": bars_ahead})
    return list(found.values())


def _canary(
    bars: pd.DataFrame,
    compute: Callable[[pd.DataFrame], pd.DataFrame],
    rng: np.random.Generator,
    shuffle: bool,
    kind: Kind = OHLCV,
) -> dict[str, Any]:
    """Ridge regression of the next return on the features: first half fits, second half is scored for direction.

    The interval is 99.9 % wide: a lone canary must not cry on one honest run out of twenty."""
    features = compute(bars).to_numpy()
    target = np.append(np.diff(kind.additive(bars[kind.value].to_numpy())), np.nan)
    known = np.isfinite(target) & (target != 0)
    features, target = features[known], target[known]
    if shuffle:
        target = rng.permutation(target)
    half = len(target) // 2
    if half < 2 * MIN_BARS:
        return {"passed": True, "bars": 0, "note": f"skipped: {len(target)} bars are too few to tell"}
    center, scale = center_and_scale(features[:half], "standard")
    x = np.nan_to_num(np.clip((features - center) / scale, -5, 5))
    x, y = np.column_stack((x, np.ones(len(x)))), target / target[:half].std()
    weights = np.linalg.solve(x[:half].T @ x[:half] + 10 * np.eye(x.shape[1]), x[:half].T @ y[:half])
    hits = np.sign(x[half:] @ weights) == np.sign(y[half:])
    accuracy, n = hits.mean(), len(hits)
    base = max((y[half:] > 0).mean(), (y[half:] < 0).mean())
    margin = 3.29 * 0.5 / np.sqrt(n)
    return {
        "passed": bool(accuracy <= base + margin),
        "direction_accuracy": round(float(accuracy), 4),
        "base_rate": round(float(base), 4),
        "limit": round(float(base + margin), 4),
        "bars": n,
    }


def random_walk_bars(rng: np.random.Generator, n: int = 4000) -> pd.DataFrame:
    """Prices without any pattern: Gaussian log returns, honest highs and lows around them."""
    steps = rng.normal(0, 0.005, (n, 4)).cumsum(axis=1)
    close = 100 * np.exp(steps[:, -1].cumsum())
    start = np.concatenate(([100.0], close[:-1]))
    inside = start[:, None] * np.exp(np.column_stack((np.zeros(n), steps)))
    return pd.DataFrame(
        {
            "timestamp": pd.bdate_range("2000-01-03", periods=n),
            "open": inside[:, 0],
            "high": inside.max(axis=1),
            "low": inside.min(axis=1),
            "close": inside[:, -1],
            "volume": rng.lognormal(12, 0.5, n),
        }
    )


TsfLlmFeatureExtractor.register_for_auto_class()
TsfLlmTokenizer.register_for_auto_class()
TsfLlmProcessor.register_for_auto_class()

__all__ = ["EncodedSeries", "TsfLlmFeatureExtractor", "TsfLlmProcessor", "TsfLlmTokenizer", "audit_features"]
