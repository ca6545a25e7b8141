"""Bars -> scaled features and volatility. A row reads no later row, and nothing is fitted past its fence.

Design choices:
* `fit(bars, through=...)` reads no bar after the fence. All fitted state is plain JSON beside the weights.
* A plain series (`kind="univariate"`: sales, temperature, load) goes the same way, with differences for log returns;
  `series_tsf_llm` has its features.
* Missing is NaN at the boundary, zero and a mask inside.
* Further columns of the bars (texts as numbers, a calendar of earnings) join the features as covariates: they are
  taken as they are, row by row, and scaled as the others.
* `market=` is the bars of an index or of a universe, which the groups `market` and `reversal` read as of each bar.
* `feature_set="seed64"` is for the original's weights alone: its 64 inputs and its target, a scaled return in percent.
  Three of its inputs lie ahead of their bar. They are unknown here, so they get their median, zero after scaling.

Shapes: N bars of one ticker, B windows, T bars of a window, F features.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.utils import logging

from .bars_tsf_llm import (
    KINDS,
    MIN_BARS,
    OHLCV,
    UNIVARIATE,
    Kind,
    bars_through,
    covariate_columns,
    covariate_features,
    day_end,
    hide_after,
    named_columns,
    split_tickers,
)
from .calendars_tsf_llm import bar_spacing, check_calendar
from .indicators_tsf_llm import compute_features, feature_names, reads_market
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
    candidate_seasons,
    choose_seasons,
    compute_series_features,
    series_feature_names,
    series_table,
)

logger = logging.get_logger(__name__)


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


TsfLlmFeatureExtractor.register_for_auto_class()

__all__ = ["EncodedSeries", "TsfLlmFeatureExtractor"]
