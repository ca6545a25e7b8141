"""Bars -> scaled features and volatility. A row reads no later row, and nothing is fitted past its fence.

Design choices:
* `fit(bars, through=...)` reads no bar after the fence. Settings stay as they were given; what a fit finds lies in one
  dict of plain JSON beside them, `fitted`.
* `fit_encode` is `fit`, then `encode` of the same bars, but checks each bar and computes each feature once.
* Features are computed of many tickers at once, as many as bound the memory; each has the same bits alone.
* A plain series (`kind="univariate"`: sales, temperature, load) goes the same way, with differences for log returns;
  `series_tsf_llm` has its features.
* Missing is NaN at the boundary, zero and a mask inside.
* Further columns of the bars (texts as numbers, a calendar of earnings) join the features as covariates: they are
  taken as they are, row by row, and scaled as the others.
* `market=` is the bars of an index or of a universe, and of an implied-volatility index, together or alone, which the
  groups `market` and `reversal`, and `implied`, read as of each bar. What a model knows and is not given is masked.
* The inputs of the original's weights are a subclass, `original_features_tsf_llm.OriginalFeatureExtractor`.

Shapes: N bars of one ticker, B windows, T bars of a window, F features, P steps ahead.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import pandas as pd
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging

from .ahead_tsf_llm import (
    check_ahead,
    check_series_form,
    fit_ahead,
    nearest_possible,
    num_ahead,
    refuse_inadmissible,
    skip_inadmissible,
    told_ahead,
)
from .bars_tsf_llm import (
    KINDS,
    LEADS,
    LISTED,
    MIN_BARS,
    OHLCV,
    PRICES,
    SIGMA_CAP,
    UNIVARIATE,
    BarArrays,
    Bars,
    CheckedBars,
    FeatureError,
    Kind,
    as_frame,
    bars_through,
    covariate_columns,
    covariate_features,
    day_end,
    day_start,
    hide_after,
    known_by,
    named_covariates,
    refuse_covariates,
    split_tickers,
    volatility_bars,
)
from .calendars_tsf_llm import bar_spacing, check_calendar
from .columns_tsf_llm import given_bars, with_static_of
from .indicators_tsf_llm import FEATURES, READERS, feature_names, features_of, market_parts
from .jumps_tsf_llm import YEAR, jump_report, jumps, lately
from .market_tsf_llm import MARKET_COLUMNS, PARTS, beside, market_state, parts_of
from .series_tsf_llm import candidate_seasons, choose_seasons, series_feature_names, series_features_of, series_table

logger = logging.get_logger(__name__)
ENDED = 60  # times between bars that a ticker may lag behind the newest
PATIENCE = 2.0  # seconds before a progress bar
PART_NAMES = {"universe": "a universe or an index", "implied": "an implied-volatility index"}
GIVE = {
    "universe": "no universe or index was given (market=, --market: bars of several tickers, or of an index)",
    "implied": "no implied-volatility index was given (market=, --market: bars of a ticker, or a file, named as VIX)",
}
NOT_FITTED = "the processor is not fitted: call processor.fit(bars, through=...) first"
COMPLETED = ("names", "seasons", "past_covariates", "known_covariates")  # settings that a fit completes
LEARNED = ("center", "scale", "bar_seconds", "fitted_through", "fitted_with_market", "target_center", "target_scale")
ROWS_AT_ONCE = 1 << 16  # of raw features, 46 MB of 88 of them: bounds memory, not results
LONGEST_CONTEXT = 1_000_000  # bars of a window
SIDE_BY_SIDE = 1 << 15  # numbers of tickers whose volatility is computed at once: 256 KB
Markets: TypeAlias = Mapping[str, pd.DataFrame | None]  # by ticker a `market_tsf_llm.market_state`, where it has one
ORIGINALS = {"feature_set", "seed_horizon", "expose_leak"}  # settings of earlier versions, for the original alone


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
    calm: np.ndarray | None = None  # float64 [N], what a forecast takes for it; `sigma` itself where this is None
    ohlc: np.ndarray | None = None  # float64 [N,4], open, high, low, close; None for a plain series
    volume: np.ndarray | None = None  # float64 [N], NaN where unknown; None for a plain series
    known: np.ndarray | None = None  # float32 [N,C+J], for the series form: see `Ahead`
    static: np.ndarray | None = None  # int32 [N,K], codes of its categories, the same in all rows

    def standard_return(self) -> np.ndarray:
        """log_return[t] / sigma[t-1], `[N]`; NaN where either is unknown."""
        return standard_return(self.log_return, self.sigma)

    def origins(self, start: Any = None, end: Any = None, *, horizon: int = 0) -> np.ndarray:
        """Rows in [start, end] from which a forecast can be made, and whose next `horizon` closes are known."""
        usable = self.observed & ~np.isnan(self.sigma)
        if start is not None:
            usable &= self.timestamp >= day_start(start, self.timestamp).to_datetime64()
        if end is not None:
            usable &= self.timestamp <= day_end(end, self.timestamp).to_datetime64()
        rows = np.flatnonzero(usable)
        rows = rows[rows + horizon < len(self.close)]
        return rows[np.isfinite(self.ahead(rows, horizon)).all(axis=1)]

    def ahead(self, origins: np.ndarray, horizon: int) -> np.ndarray:
        """Closes of the next `horizon` bars of each origin, `[B,P]`."""
        return self.close[origins[:, None] + np.arange(1, horizon + 1)]

    def windows(self, origins: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """The `length` bars that end at each origin, left-padded: `past_values [B,T,F]`, `attention_mask [B,T]`."""
        rows = origins[:, None] - np.arange(length)[::-1]  # [B,T]
        inside = rows >= 0
        rows = np.where(inside, rows, 0)
        mask = inside & self.observed[rows]
        return {
            "past_values": np.where(mask[..., None], self.features[rows], np.float32(0)),
            "attention_mask": mask.astype(np.int64),
        }


def _completed(name: str) -> Any:
    """A property that reads a setting as the fit completed it, before the fit as it was given."""
    return property(lambda extractor: (extractor.fitted or extractor.given)[name])


def _check_window(context_length: Any, clip: Any) -> None:
    """Raises ValueError for settings that no window and no scale can have."""
    if not isinstance(context_length, int) or not 1 <= context_length <= LONGEST_CONTEXT:
        raise ValueError(f"context_length={context_length!r}: give 1 to {LONGEST_CONTEXT:,} bars")
    if clip is not None and not (isinstance(clip, int | float) and clip > 0):
        raise ValueError(f"clip={clip!r}: give a number above 0, or None to cut nothing")


def _check_fitted(fitted: Any) -> None:
    """Raises ValueError for a fitted state that no fit wrote: with it, features would be silently wrong."""
    broken = "fitted: {}; copy the processor again, or fit it anew"
    if not isinstance(fitted, dict):
        raise ValueError(broken.format("it is no JSON object"))
    for name in ("names", "past_covariates", "known_covariates"):
        if not _are_texts(fitted.get(name)):
            raise ValueError(broken.format(f"{name} is no list of names"))
    if fitted.get("ahead") is not None:
        check_ahead(fitted["ahead"])
    if not isinstance(fitted.get("seasons"), list | tuple | None) or any(
        not isinstance(rows, int) or rows < 1 for rows in fitted.get("seasons") or ()
    ):
        raise ValueError(broken.format(f"seasons={fitted.get('seasons')!r} are no rows per cycle"))
    if not (isinstance(fitted.get("bar_seconds"), int | float) and 0 < fitted["bar_seconds"] < float("inf")):
        raise ValueError(broken.format(f"bar_seconds={fitted.get('bar_seconds')!r} is no number above 0"))
    for name in ("center", "scale"):
        state = fitted.get(name)
        if not isinstance(state, dict) or "*" not in state:
            raise ValueError(broken.format(f"{name} has no part '*'"))
        for ticker, numbers in state.items():
            if not _are_numbers(numbers, len(fitted["names"])) or (name == "scale" and min(numbers, default=1) <= 0):
                raise ValueError(broken.format(f"{name} of {ticker!r} is not one sound number per feature"))


def _are_texts(values: Any) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


def _are_numbers(values: Any, count: int) -> bool:
    if not isinstance(values, list | tuple) or len(values) != count:
        return False
    return all(isinstance(value, int | float) for value in values) and bool(np.isfinite(values).all())


def learned(name: str) -> Any:
    """A property that reads a part of `fitted`, None before the fit."""
    return property(lambda extractor: (extractor.fitted or {}).get(name))


class TsfLlmFeatureExtractor(SequenceFeatureExtractor):
    """Bars -> scaled features and volatility.

    Args:
        feature_groups: groups of `indicators_tsf_llm` to use, see docs/features.md; by default those of the 64 default
            features. Ignored when `names` is given.
        names: the exact features, in order (what `feature_groups` resolves to).
        scaling: `robust` (median, interquartile range), `standard` (mean, deviation) or `minmax` (to [-1, 1]).
        per_ticker: scale each ticker of the fit by itself; a ticker that was not there gets the common scale.
        context_length: most bars of one window, `T`.
        sigma_decay: lambda of the exponentially weighted volatility (RiskMetrics 1996 uses 0.94 for daily bars, and so
            do we; 0.98 for a plain series).
        sigma_floor: smallest volatility, 1e-4, so that a halted price does not divide by zero; for a plain series 0.1
            of the root mean square of its differences so far.
        sigma_cap: most usual deviations, of the quarter before, that one return adds to the volatility: 6, so that an
            unadjusted split or a wrong bar does not set it. None caps nothing, as folders saved before it.
        clip: scaled features are cut to [-clip, clip]; None cuts nothing.
        kind: `ohlcv` (market bars) or `univariate` (`timestamp, value[, series_id]` and covariates).
        past_covariates: further columns of the bars or the plain series, each known up to its row; names, or patterns
            as `text_*`, which stand for the columns that `fit` finds.
        known_covariates: further columns that are known in advance (price list, holiday): read up to 7 rows ahead.
        seasons: of a plain series: rows per cycle, best first; if none are given, `fit` finds them.
        steps_ahead: of a plain series, for a model in series form: how many steps its further inputs tell of, see
            `ahead_tsf_llm`. Known covariates are then told of each step, and are features of their own row alone.
        static_covariates: for such a model, columns with one value per series (store, item); `series_id` is one too.
        nonnegative, integer: a plain series has no value below zero, or whole ones alone, and so do its forecasts; the
            fit refuses other values.
        calendar: exchange whose sessions date a forecast, a name of exchange_calendars such as "XNYS" or "24/7". By
            default New York's where a year of daily bars proves it, else the rhythm of the past bars.
        fitted: what `fit` found; it sets this. The properties of the same names read it.
    """

    model_input_names = ["past_values", "attention_mask"]  # noqa: RUF012 (declared by the base class)
    reach: int | None = None  # bars ahead of the one target whose scale the extractor knows; None: returns at any step

    def __init__(
        self,
        feature_groups: Sequence[str] | None = None,
        names: Sequence[str] | None = None,
        scaling: Literal["robust", "standard", "minmax"] = "robust",
        per_ticker: bool = False,
        context_length: int = 128,
        sigma_decay: float | None = None,
        sigma_floor: float | None = None,
        sigma_cap: float | None = SIGMA_CAP,
        clip: float | None = 10.0,
        kind: Literal["ohlcv", "univariate"] = "ohlcv",
        past_covariates: Sequence[str] = (),
        known_covariates: Sequence[str] = (),
        seasons: Sequence[int] | None = None,
        calendar: str | None = None,
        fitted: dict[str, Any] | None = None,
        steps_ahead: int | None = None,
        static_covariates: Sequence[str] = (),
        nonnegative: bool = False,
        integer: bool = False,
        **kwargs: Any,
    ):
        if kwargs.pop("feature_set", "default") != "default":
            raise ValueError("feature_set: the original's inputs are OriginalFeatureExtractor(), leave it out here")
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: choose one of {list(KINDS)}")
        sigma_decay = KINDS[kind].sigma_decay if sigma_decay is None else sigma_decay
        if scaling not in ("robust", "standard", "minmax"):
            raise ValueError(f"scaling={scaling!r}: choose robust, standard or minmax")
        if not 0 < sigma_decay < 1:
            raise ValueError(f"sigma_decay={sigma_decay}: must lie between 0 and 1, e.g. 0.94")
        if sigma_cap is not None and not sigma_cap > 0:
            raise ValueError(f"sigma_cap={sigma_cap}: must be above 0, e.g. {SIGMA_CAP}, or None for no cap")
        if kind != "univariate" and seasons:
            raise ValueError(f"seasons go with kind='univariate', not {kind!r}")
        check_series_form(kind, steps_ahead, static_covariates, nonnegative=nonnegative, integer=integer)
        self.steps_ahead, self.static_covariates = steps_ahead, list(static_covariates)
        self.nonnegative, self.integer = nonnegative, integer
        if taken := {"timestamp", KINDS[kind].id, *KINDS[kind].columns} & {*past_covariates, *known_covariates}:
            raise ValueError(f"{sorted(taken)} cannot be covariates: every feature is made of them already")
        self.kind, self.scaling, self.per_ticker, self.clip = kind, scaling, per_ticker, clip
        self.feature_groups = None if feature_groups is None else list(feature_groups)
        self.context_length, self.calendar = context_length, check_calendar(calendar)
        self.sigma_decay, self.sigma_cap = sigma_decay, sigma_cap
        self.sigma_floor = KINDS[kind].sigma_floor if sigma_floor is None else sigma_floor
        given = dict(zip(COMPLETED, (names, seasons, past_covariates, known_covariates), strict=True))
        self.given: dict[str, Any] = {name: None if value is None else list(value) for name, value in given.items()}
        self.fitted = fitted
        _check_window(context_length, clip)
        if fitted is not None:
            _check_fitted(fitted)
        fixed = {"feature_size": len(self.names), "sampling_rate": 1, "padding_value": 0.0, "padding_side": "left"}
        super().__init__(**{**kwargs, **fixed})

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Also what versions before `fitted` saved: there a fit's parts lie among the settings, which it changed."""
        settings = {"sigma_cap": None, **feature_extractor_dict}
        if "fitted" not in settings:
            parts = {name: value for name in LEARNED if (value := settings.pop(name, None)) is not None}
            completed = {name: settings.get(name) for name in COMPLETED}
            settings["fitted"] = {**completed, **parts} if "center" in parts else None
            if settings.get("feature_set") == "default":
                settings = {name: settings[name] for name in settings.keys() - ORIGINALS}
        return super().from_dict(settings, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """The settings as they were given, and `fitted`."""
        settings = super().to_dict()
        return {**settings.pop("given"), **settings}

    # --- what it resolves to: as given, or as fitted

    seasons: list[int] | None = _completed("seasons")
    past_covariates: list[str] = _completed("past_covariates")
    known_covariates: list[str] = _completed("known_covariates")
    center: dict[str, list[float]] | None = learned("center")  # by ticker, and of all of them under `*`
    scale: dict[str, list[float]] | None = learned("scale")
    bar_seconds: float | None = learned("bar_seconds")
    fitted_through: str | None = learned("fitted_through")  # the fence: no later bar shaped the fit
    fitted_with_market: list[str] | bool | None = learned("fitted_with_market")  # parts; True: saved before these
    ahead: dict[str, Any] | None = learned("ahead")  # of the series form: waves, scalers, vocabularies

    @property
    def names(self) -> list[str]:
        """The features, in order."""
        return self._names() if self.fitted is None else self.fitted["names"]

    @property
    def covariates(self) -> list[str]:
        return [*self.past_covariates, *self.known_covariates]

    @property
    def leads(self) -> Sequence[int]:
        """Rows ahead at which known covariates are features: in series form none, for each step is told its own."""
        return LEADS if self.steps_ahead is None else ()

    def series_fields(self) -> dict[str, Any]:
        """The fields of a config that the inputs of the series form decide; none of another form."""
        if self.ahead is None:
            return {}
        sizes = [len(values) + 1 for values in self.ahead["vocabularies"].values()]
        return {
            "context_length": self.context_length,
            "num_seasons": len(self.seasons or ()),
            "num_ahead_features": num_ahead(self.ahead["waves"], len(self.ahead["center"])),
            "static_cardinalities": sizes or None,
        }

    @property
    def is_bounded(self) -> bool:
        """Whether the series cannot have every value."""
        return self.nonnegative or self.integer

    def admissible(self, values: np.ndarray) -> np.ndarray:
        """The nearest values that the series can have."""
        return nearest_possible(values, nonnegative=self.nonnegative, integer=self.integer)

    @property
    def series_kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def reads_market(self) -> bool:
        """Whether a market would change any of the features."""
        return self.series_kind is OHLCV and bool(market_parts(self.names))

    @property
    def market_parts(self) -> list[str]:
        """The parts of a market that the fit knew."""
        known = self.fitted_with_market
        return known if isinstance(known, list) else ["universe"] * bool(known)

    def _names(self) -> list[str]:
        """As given, covariates by the names that they have now; or those of the groups, then covariates."""
        covariates = covariate_columns(self.past_covariates, self.known_covariates, self.leads)
        if self.given["names"] is not None:
            as_given = covariate_columns(self.given["past_covariates"], self.given["known_covariates"], self.leads)
            if as_given.keys() == covariates.keys():
                return self.given["names"]
            return [name for name in self.given["names"] if name not in as_given] + list(covariates)
        if self.series_kind is UNIVARIATE:
            return [*series_feature_names(series_table(self.seasons or ()), self.feature_groups), *covariates]
        groups = self.feature_groups and [group for group in self.feature_groups if group != "covariates"]
        return [*feature_names(groups), *covariates]

    # --- bars and market, checked

    def check(self, bars: Bars, *, strict: bool = False) -> CheckedBars:
        """The bars of every ticker with the covariates' columns, checked; `fit` takes them as they are.

        `fit` and `encode` leave further tickers out of it, and write why into its `skipped`.

        Raises:
            ValueError: for bars without an honest reading: of all tickers or, if `strict`, of one.
        """
        bars = self._given(bars)
        past, known = self._covariates_of(bars)
        return self._split(bars, [*past, *known], strict=strict)

    def _split(self, bars: Bars, covariates: Sequence[str], *, strict: bool) -> CheckedBars:
        tickers = split_tickers(bars, self.series_kind, covariates, strict=strict)
        return tickers if tickers is bars else with_static_of(tickers, bars, self.static_covariates)

    def check_known(self, bars: Bars, *, strict: bool = False) -> CheckedBars:
        """`check` for `encode`: the covariates are those of the fit, and unknown where market bars bring none."""
        if isinstance(bars, CheckedBars):
            return bars
        given = self._given(bars)
        frames = [given] if isinstance(given, pd.DataFrame) else list(given)
        frames = [self.with_unknown_covariates(frame) for frame in frames]
        return self._split(frames, self.covariates, strict=strict)

    def _given(self, bars: Bars) -> Bars:
        """With our names of columns, see `given_bars`; a covariate keeps its own."""
        own = [*self.given["past_covariates"], *self.given["known_covariates"], *self.static_covariates]
        return given_bars(bars, self.series_kind, [name for name in own if name != self.series_kind.id])

    def _covariates_of(self, bars: Bars) -> tuple[list[str], list[str]]:
        return named_covariates(bars, self.given["past_covariates"], self.given["known_covariates"], self.series_kind)

    def with_unknown_covariates(self, bars: pd.DataFrame) -> pd.DataFrame:
        """Bars with a column for every covariate, unknown where they bring none; a plain series must bring them."""
        if self.series_kind is UNIVARIATE or not isinstance(bars, pd.DataFrame):
            return bars
        if missing := [name for name in self.covariates if name not in bars]:
            logger.warning_once(f"the bars have no column(s) {missing}: what the processor knows of them is masked")
        return bars.assign(**dict.fromkeys(missing, np.nan))

    def state_of_market(self, market: Bars | None) -> pd.DataFrame | None:
        """The market's bars, checked, as `market_tsf_llm.market_state`; or one of these as it is.

        Every `market=` takes such a state in place of the bars, which need not be read again then."""
        if market is None:
            return None
        if not self.reads_market:
            raise ValueError("market=: no feature of this processor reads it; leave it out, or fit one with the group")
        if isinstance(market, pd.DataFrame) and set(MARKET_COLUMNS) <= set(market.columns):
            return market
        return market_state(self.checked_market(market), as_before=self.fitted_with_market is True)

    def checked_market(self, market: Bars) -> CheckedBars:
        """The bars of a market's tickers; those of another frequency are skipped.

        Raises:
            ValueError: for bars without an honest reading.
        """
        tickers = split_tickers(_named_market(given_bars(market, OHLCV)))
        tickers = tickers.like(tickers)
        for ticker, frame in list(tickers.items()):
            try:
                self.check_market_spacing(f", {ticker}", frame["timestamp"].to_numpy())
            except ValueError as error:
                tickers.skip(ticker, str(error))
        return tickers.settle()

    def _known_market(self, market: Bars | None, tickers: Iterable[str]) -> dict[str, pd.DataFrame | None]:
        """By ticker the state of what the fit knew of a market; a warning says what is masked.

        Raises:
            ValueError: the fit knew nothing of it.
        """
        state = self.state_of_market(market)
        given, known = parts_of(state), self.market_parts
        if given and not set(given) & set(known):
            named = " and ".join(PART_NAMES[part] for part in given)
            raise ValueError(
                f"market=: the processor was fitted without {named}; give it to processor.fit(...) as well"
            )
        for part in set(given) - set(known):
            state = state.assign(**dict.fromkeys(PARTS[part], np.nan))  # type: ignore[union-attr]
        states = {ticker: None if state is None else beside(state, ticker) for ticker in tickers}
        parts = {id(seen): parts_of(seen) for seen in {id(seen): seen for seen in states.values()}.values()}
        for part in known:
            if blind := next((ticker for ticker, seen in states.items() if part not in parts[id(seen)]), None):
                why = f"the universe is {blind} alone" if part in given else GIVE[part]
                logger.warning_once(f"{why}: what features read of it is masked")
        return states

    def _parts_at_fit(self, states: Iterable[pd.DataFrame | None]) -> list[str]:
        """The parts of a market that features read and some ticker knows up to the fence; a warning names others."""
        different = {id(state): state for state in states if state is not None}.values()
        until = day_end(self.fitted_through)
        known = {part for state in different for part in parts_of(state[state["timestamp"] <= until])}
        wanted = market_parts(self.names) if self.series_kind is OHLCV else []
        for part in wanted:
            if part not in known and {*self.names} & {*feature_names(READERS[part][:1])}:
                logger.warning_once(f"{GIVE[part]}: what features read of it is masked, and is not learned")
        return [part for part in wanted if part in known]

    def check_market_spacing(self, name: str, timestamps: np.ndarray) -> None:
        """Raises ValueError for market bars of another frequency; few of them tell none."""
        if len(timestamps) >= MIN_BARS:
            self._check_spacing(f"market{name}", timestamps)

    def _check_spacing(self, name: str, timestamps: np.ndarray, fitted: float | None = None) -> None:
        spacing, fitted = bar_spacing(timestamps), fitted or self.bar_seconds
        if fitted is None or not 0.5 < spacing / fitted < 2:
            remedy = "resample the bars" if self.series_kind is OHLCV else "bring all to one step (--resample 1d:mean)"
            raise ValueError(
                f"{name}: a bar every {pd.Timedelta(seconds=spacing)}, the processor was fitted on "
                f"{pd.Timedelta(seconds=fitted)}: {remedy}, or train a model on such"
            )

    def _skip_short(self, tickers: CheckedBars, as_of: Any = None) -> None:
        """Leaves out the tickers that have too few bars."""
        for ticker, frame in list(tickers.items()):
            if (observed := frame[self.series_kind.value].notna().sum()) < MIN_BARS:
                upto = "" if as_of is None else f" up to {as_of}"
                tickers.skip(
                    ticker,
                    f"{ticker}: {observed} observed bars{upto}, at least {MIN_BARS} are needed: "
                    "give more history or leave the ticker out",
                )
        tickers.settle()

    def _skip_other_spacings(self, tickers: CheckedBars, spacing: float | None = None) -> None:
        """Leaves out the tickers whose bars are of another frequency."""
        for ticker, frame in list(tickers.items()):
            try:
                self._check_spacing(ticker, frame["timestamp"].to_numpy(), spacing)
            except ValueError as error:
                tickers.skip(ticker, str(error))
        tickers.settle()

    def _warn_of_jumps(self, tickers: Mapping[str, pd.DataFrame], last_window: bool = False) -> None:
        """One warning per ticker with a jump that its forecast remembers; of a whole history, that is likely wrong."""
        value, found = self.series_kind.value, 0
        for ticker, frame in tickers.items():
            near = len(frame) - self.context_length if last_window else len(frame)
            far = min(near, len(frame) - YEAR) if last_window else 0
            if report := jump_report(frame, value, since=near, wrong_since=far):
                found += 1
                if found <= LISTED:
                    logger.warning(f"{ticker}: {report}")
        if found > LISTED:
            logger.warning(f"{found - LISTED} more series have such jumps: `tsf-llm clean` lists those of bars")

    def _warn_of_ended(self, tickers: Mapping[str, pd.DataFrame]) -> None:
        """One warning names those whose last bar lies long before that of others: delisted, or a feed that stopped."""
        value = self.series_kind.value
        ends = {ticker: frame["timestamp"][frame[value].last_valid_index()] for ticker, frame in tickers.items()}
        since = max(ends.values()) - pd.Timedelta(seconds=ENDED * (self.bar_seconds or 0.0))
        if ended := [f"{ticker} ({end})" for ticker, end in ends.items() if end < since]:
            more = f" and {len(ended) - 5} more" if len(ended) > 5 else ""
            logger.warning(f"forecast from a last bar long before that of others: {', '.join(ended[:5])}{more}")

    # --- fit

    def fit(self, bars: Bars, through: Any = None, *, market: Bars | None = None, strict: bool = False) -> Self:
        """Learns scalers and bar spacing from the bars up to and including `through`; all of them by default.

        Tickers of another frequency than most are skipped."""
        self._learn(self.check(bars, strict=strict), through, market)
        return self

    def fit_encode(
        self, bars: Bars, through: Any = None, *, market: Bars | None = None, strict: bool = False
    ) -> list[EncodedSeries]:
        """`fit`, then `encode` of the same bars, to the same bits: each is checked, each feature computed, once."""
        tickers = self.check(bars, strict=strict)
        self._skip_short(tickers)
        self._warn_of_jumps(tickers)
        raw = self._learn(tickers, through, market, whole=True)
        answered = tickers.like(tickers)  # of the fit are those too whose frequency changes after the fence
        self._skip_other_spacings(answered)
        skip_inadmissible(answered, nonnegative=self.nonnegative, integer=self.integer)
        return [self._with_features(one, raw.pop(ticker)) for ticker, one in self._series(answered).items()]

    def unfitted(self, **changes: Any) -> Self:
        """The same features, in the same order, with nothing fitted."""
        settings = {**self.to_dict(), **{name: getattr(self, name) for name in COMPLETED}}
        return type(self)(**{**settings, **changes, "fitted": None})

    def fit_ticker(self, ticker: str, bars: Bars, through: Any = None, *, market: Bars | None = None) -> Self:
        """Adds scalers of one more ticker, fitted on these bars of it; of the rest only the fence may move on."""
        assert self.fitted is not None
        state = self.state_of_market(market)  # by the rules of this folder
        alone = self.unfitted(per_ticker=False).fit(bars, through, market=state)
        self.per_ticker = True
        for state in ("center", "scale"):
            self.fitted[state] = {**self.fitted[state], ticker: getattr(alone, state)["*"]}
        self.fitted["fitted_through"] = max(self.fitted_through, alone.fitted_through, key=day_end)
        return self

    def _learn(
        self, tickers: CheckedBars, through: Any, market: Bars | None, *, whole: bool = False
    ) -> dict[str, np.ndarray]:
        """Sets `fitted`; returns the raw features, `[N,F]` by ticker, of bars up to the fence or of the `whole`."""
        past, known = self._covariates_of(tickers)
        frames = bars_through(tickers, through, self.series_kind)
        refuse_covariates(frames, past, known, through, self.series_kind)
        spacing = usual_spacing([bar_spacing(frame["timestamp"].to_numpy()) for frame in frames.values()])
        self._skip_other_spacings(frames, spacing)
        for other in frames.skipped:
            tickers.pop(other, None)
        times = [frame["timestamp"].to_numpy() for frame in frames.values()]
        last = pd.Timestamp(max(stamps[-1] for stamps in times))
        self.fitted = {
            "past_covariates": past,
            "known_covariates": known,
            "seasons": self.given["seasons"],
            "bar_seconds": spacing,
            "fitted_through": _stored_fence(day_end(last if through is None else through, times[0]), spacing),
        }
        if self.series_kind is UNIVARIATE and self.seasons is None:
            values = [frame["value"].to_numpy() for frame in frames.values()]
            self.fitted["seasons"] = choose_seasons(values, candidate_seasons(np.concatenate(times), spacing))
        refuse_inadmissible(frames, nonnegative=self.nonnegative, integer=self.integer)
        if self.steps_ahead is not None:
            options: dict[str, Any] = {"static": self.static_covariates, "known": known, "spacing": spacing}
            self.fitted["ahead"] = fit_ahead(frames, **options, scaler=lambda x: center_and_scale(x, self.scaling))
        self.fitted["names"] = self._names()
        self.feature_size = len(self.names)
        state = self.state_of_market(market)
        seen = {ticker: None if state is None else beside(state, ticker) for ticker in tickers}
        self.fitted["fitted_with_market"] = self._parts_at_fit([seen[ticker] for ticker in frames])
        read = tickers if whole else frames
        raw = dict(self._raw_by_ticker(read, seen, dict.fromkeys(read, 0)))
        center, scale = self._fit_scalers({t: self._known_by(frame, raw[t]) for t, frame in frames.items()})
        self.fitted |= {"center": center, "scale": scale, **self._fit_targets(frames)}
        return raw

    def _known_by(self, bars: pd.DataFrame, raw_NF: np.ndarray) -> np.ndarray:
        """The raw features of these bars as their end knows them, out of those of a frame that may go on after it.

        A row reads none behind it, but for known covariates: what they are after the end must shape no scaler."""
        raw_NF = raw_NF[: len(bars)]
        ahead = covariate_features(bars, (), self.known_covariates, self.leads)
        if places := [i for i, name in enumerate(self.names) if name in ahead]:
            raw_NF = raw_NF.copy()
            raw_NF[:, places] = ahead[[self.names[i] for i in places]]
        return raw_NF

    def _fit_targets(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
        """Further fitted state: none, since returns are scaled by their volatility."""
        return {}

    def _fit_scalers(self, parts: dict[str, np.ndarray]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Center and scale of all tickers together under `*`, and of each if `per_ticker`; parts are `[N,F]`.

        Column by column: all of them together would take the memory of the parts once more."""
        each = parts if self.per_ticker else {}
        fitted = {ticker: center_and_scale(values, self.scaling) for ticker, values in each.items()}
        by_column = zip(*(part.T for part in parts.values()), strict=True)
        pooled = [center_and_scale(np.concatenate(column)[:, None], self.scaling) for column in by_column]
        pooled = pooled or [(np.empty(0), np.empty(0))]  # a model in series form may have no features
        fitted["*"] = np.concatenate([c for c, _ in pooled]), np.concatenate([s for _, s in pooled])
        return {t: c.tolist() for t, (c, _) in fitted.items()}, {t: s.tolist() for t, (_, s) in fitted.items()}

    # --- encode

    def raw_features(self, bars: pd.DataFrame, market: pd.DataFrame | None = None, start: int = 0) -> pd.DataFrame:
        """The features of one ticker before scaling, `[N,F]` with their names, NaN where unknown; from row `start` on.

        `market` is a `market_tsf_llm.market_state`."""
        raw, errors = self.raw_features_of({"": bars}, {"": market}, {"": start})
        for error in errors.values():
            raise error
        return pd.DataFrame(raw[""], bars.index[start:], self.names)

    def raw_features_of(
        self, tickers: Mapping[str, pd.DataFrame | BarArrays], markets: Markets, starts: Mapping[str, int]
    ) -> tuple[dict[str, np.ndarray], dict[str, FeatureError]]:
        """`raw_features` of each ticker, float64 `[N - start,F]`, or what went wrong."""
        covariates = covariate_columns(self.past_covariates, self.known_covariates, self.leads)
        names, errors = [name for name in self.names if name not in covariates], dict[str, FeatureError]()
        if self.series_kind is UNIVARIATE:
            table, sigma = series_table(self.seasons or ()), (self.sigma_decay, self.sigma_floor, self.sigma_cap)
            frames = {ticker: as_frame(bars) for ticker, bars in tickers.items()}
            raw = series_features_of(frames, names, table, *sigma, starts=starts)
        else:
            raw, errors = features_of(tickers, names, markets=markets, starts=starts)
        if covariates:
            raw = {t: self._beside_covariates(values, as_frame(tickers[t]), starts[t]) for t, values in raw.items()}
        return raw, errors

    def _beside_covariates(self, raw_NF: np.ndarray, bars: pd.DataFrame, start: int) -> np.ndarray:
        """All features in their order, of those that are no covariates."""
        covariates = covariate_features(bars, self.past_covariates, self.known_covariates, self.leads).iloc[start:]
        joined = np.empty((len(raw_NF), len(self.names)))
        joined[:, [i for i, name in enumerate(self.names) if name not in covariates]] = raw_NF
        places = [i for i, name in enumerate(self.names) if name in covariates]
        joined[:, places] = covariates[[self.names[i] for i in places]]
        return joined

    def _raw(
        self, tickers: Mapping[str, pd.DataFrame | BarArrays], markets: Markets, starts: Mapping[str, int]
    ) -> Iterator[tuple[str, np.ndarray | FeatureError]]:
        """`raw_features_of` ticker by ticker, computed some at a time."""

        def groups() -> Iterator[tuple[str, np.ndarray | FeatureError]]:
            left = list(tickers)
            while left:
                rows = np.cumsum([len(tickers[ticker]) - starts[ticker] for ticker in left])
                count = max(1, int(np.searchsorted(rows, ROWS_AT_ONCE, side="right")))
                raw, errors = self.raw_features_of({t: tickers[t] for t in left[:count]}, markets, starts)
                yield from ((t, raw.pop(t) if t in raw else errors[t]) for t in left[:count])
                left = left[count:]

        yield from with_progress(groups(), "features", total=len(tickers))

    def _raw_by_ticker(
        self, tickers: Mapping[str, pd.DataFrame], markets: Markets, starts: Mapping[str, int]
    ) -> Iterator[tuple[str, np.ndarray]]:
        """`_raw`; raises ValueError for the first ticker of which a feature cannot be computed."""
        for ticker, raw in self._raw(tickers, markets, starts):
            if isinstance(raw, FeatureError):
                raise ValueError(f"{ticker}: {raw}") from raw
            yield ticker, raw

    def volatility(self, close: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log returns (differences) and the exponentially weighted volatility known at each bar, both `[N]`.

        See `return_volatility` and `difference_scale`; of several tickers `[N,S]`.
        """
        log_return = np.diff(self.series_kind.additive(close), axis=0, prepend=np.nan)
        return log_return, self.series_kind.volatility(log_return, self.sigma_decay, self.sigma_floor, self.sigma_cap)

    def _moves(self, tickers: Mapping[str, pd.DataFrame | BarArrays]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`volatility` of each ticker, those of about one length side by side."""
        closes = {ticker: np.asarray(frame[self.series_kind.value]) for ticker, frame in tickers.items()}
        left, moves = sorted(closes, key=lambda ticker: -len(closes[ticker])), {}
        while left:
            longest = len(closes[left[0]])
            count = max(1, SIDE_BY_SIDE // max(1, longest))
            some, left = left[:count], left[count:]
            close = np.full((longest, len(some)), np.nan)
            for column, ticker in enumerate(some):
                close[: len(closes[ticker]), column] = closes[ticker]
            log_return, sigma = self.volatility(close)
            for column, ticker in enumerate(some):
                rows = slice(len(closes[ticker])), column
                moves[ticker] = log_return[rows].copy(), sigma[rows].copy()
        return moves

    def log_returns(self, values: np.ndarray, batch: BatchFeature) -> np.ndarray:
        """A head's numbers, one row per origin of the batch -> cumulative log returns (differences), same shape.

        The numbers are returns in units of the origin's sigma."""
        return values * np.asarray(batch["scale"], dtype=float).reshape(-1, *[1] * (values.ndim - 1))

    def check_head(self, prediction_type: str | None, prediction_length: int) -> None:
        """Raises ValueError for a head that these inputs do not go with; a causal LM has no `prediction_type`."""
        if self.steps_ahead is None:
            return
        if prediction_type not in ("regression", "quantile"):
            what = prediction_type or "causal_lm"
            raise ValueError(f"{what}: the series form answers numbers; choose the head quantile or regression")
        if prediction_length != self.steps_ahead:
            raise ValueError(
                f"horizon={prediction_length}, but the processor tells of {self.steps_ahead} steps: use that horizon"
            )

    def encode(
        self,
        bars: Bars,
        as_of: Any = None,
        *,
        market: Bars | None = None,
        known: Mapping[str, EncodedSeries] | None = None,
        last_window: bool = False,
        strict: bool = False,
    ) -> list[EncodedSeries]:
        """Every bar of every ticker, up to and including `as_of`, once. Windows are slices of the result.

        A bar reads the market's last row at or before it, so the market may go on after `as_of`. Market bars without a
        covariate's column are read without it: it is masked, and a warning says so.

        `known` has tickers encoded before, for a ticker's first rows. Their features are taken as they are and only
        those of later rows are computed, to the same bits; that bars and market are the same up to there is the
        caller's word. With known covariates the last rows read later ones: leave it out.

        With `last_window`, features are those of the window that ends at the last origin, and zero before it: to
        forecast from there needs no others, however long the history is.

        A ticker that `check_bars` refuses, that has too few bars, another frequency or values that cannot be
        (`nonnegative`, `integer`) is skipped: a warning says so. `check_known` makes bars that keep the record.

        Raises:
            ValueError: if not fitted, for such bars of all tickers or, if `strict`, of one.
        """
        tickers = self.check_known(bars, strict=strict)
        if as_of is not None:
            ends = {t: int(known_by(frame["timestamp"], as_of, tickers.lasting).sum()) for t, frame in tickers.items()}
            known_then = {t: hide_after(frame, ends[t], self.known_covariates) for t, frame in tickers.items()}
            tickers = tickers.like(known_then)
        self._skip_short(tickers, as_of)
        if self.center is None:
            raise ValueError(NOT_FITTED)
        self._skip_other_spacings(tickers)
        skip_inadmissible(tickers, nonnegative=self.nonnegative, integer=self.integer)
        states = self._known_market(market, tickers)
        self._warn_of_jumps(tickers, last_window)
        if last_window:
            self._warn_of_ended(tickers)
        series = self._series(tickers)
        starts = dict.fromkeys(series, 0)
        if last_window:
            starts = {t: max(0, self._last_origin(one) + 1 - self.context_length) for t, one in series.items()}
        for ticker, before in (known or {}).items():
            if ticker in series and not last_window:
                starts[ticker] = len(before.features)
                series[ticker].features[: starts[ticker]] = before.features
        raw = self._raw_by_ticker(tickers, states, starts)
        return [self._with_features(series[ticker], values) for ticker, values in raw]

    @staticmethod
    def _last_origin(series: EncodedSeries) -> int:
        """The last row of which value and volatility are known; 0 if none is."""
        return int(np.flatnonzero(series.observed & ~np.isnan(series.sigma))[-1:].sum())

    @property
    def memory(self) -> int:
        """Observed bars before one that its features and volatility may remember.

        Raises:
            ValueError: no number of them will do: the scale of a plain series remembers all, and a known covariate
                changes what earlier bars knew.
        """
        if self.series_kind is UNIVARIATE or self.known_covariates or self.reach is not None:
            what = "the original's inputs" if self.reach is not None else "a plain series or known covariates"
            raise ValueError(f"this model reads {what}, which no bounded past tells: forecast with pipe(bars)")
        return max(
            volatility_bars(self.sigma_decay), *(FEATURES[name].reach for name in self.names if name in FEATURES)
        )

    def encode_newest(self, tickers: CheckedBars, market: pd.DataFrame | None = None) -> list[EncodedSeries]:
        """Series of the last bar alone, for bars that are known to be sound, frames or `BarArrays`.

        Of each ticker the last `memory` bars before that one will do. A ticker whose features cannot be computed is
        skipped. `market` is a `market_tsf_llm.market_state`."""
        states, encoded = self._known_market(market, tickers), []
        bars, moves = dict(tickers), self._moves(tickers)
        for ticker, raw in self._raw(bars, states, {ticker: len(one) - 1 for ticker, one in bars.items()}):
            if isinstance(raw, FeatureError):
                tickers.skip(ticker, f"{ticker}: {raw}")
            else:
                newest = self._one_series(ticker, bars[ticker], *moves[ticker], rows=slice(-1, None))
                encoded.append(self._with_features(newest, raw))
        return encoded

    def _series(self, tickers: Mapping[str, pd.DataFrame]) -> dict[str, EncodedSeries]:
        """All that is known of each ticker but its features, which are zero."""
        moves = self._moves(tickers)
        series = {ticker: self._one_series(ticker, frame, *moves[ticker]) for ticker, frame in tickers.items()}
        if self.ahead is None:
            return series
        assert isinstance(tickers, CheckedBars)
        options: dict[str, Any] = {"covariates": self.known_covariates, "clip": self.clip}
        return {name: replace(one, **told_ahead(name, tickers, self.ahead, **options)) for name, one in series.items()}

    def _one_series(
        self,
        ticker: str,
        bars: pd.DataFrame | BarArrays,
        log_return: np.ndarray,
        sigma: np.ndarray,
        rows: slice = slice(None),
    ) -> EncodedSeries:
        """Of these rows alone."""
        close, is_bars = np.asarray(bars[self.series_kind.value])[rows], self.series_kind is OHLCV
        return EncodedSeries(
            ticker=ticker,
            timestamp=np.asarray(bars["timestamp"])[rows],
            features=np.zeros((len(close), len(self.names)), np.float32),  # takes no memory until it is written
            observed=~np.isnan(close),
            close=close,
            log_return=log_return[rows],
            sigma=sigma[rows],
            calm=None if self.sigma_cap is not None else self._calm(log_return, sigma)[rows],
            ohlc=np.stack([np.asarray(bars[name])[rows] for name in PRICES], axis=1) if is_bars else None,
            volume=np.asarray(bars["volume"])[rows] if is_bars else None,
        )

    def _with_features(self, series: EncodedSeries, raw_NF: np.ndarray) -> EncodedSeries:
        """The same series, with its last features from what they are before scaling."""
        assert self.center is not None
        assert self.scale is not None
        center, scale = (np.array(state.get(series.ticker, state["*"])) for state in (self.center, self.scale))
        limit = np.inf if self.clip is None else self.clip
        scaled = raw_NF - center
        scaled /= scale
        np.clip(scaled, -limit, limit, out=scaled)
        series.features[len(series.features) - len(raw_NF) :] = np.nan_to_num(scaled, copy=False)
        return series

    def _calm(self, log_return: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """The volatility, but after a jump the one with a cap: for folders whose weights know it without.

        Their features and labels stay as they were; a forecast after a split should not be a hundred per cent wide."""
        jumped = jumps(log_return, of_prices=self.series_kind is OHLCV)
        if not jumped.any():
            return sigma
        capped = self.series_kind.volatility(log_return, self.sigma_decay, self.sigma_floor, SIGMA_CAP)
        return np.where(lately(jumped), np.fmin(sigma, capped), sigma)


def _named_market(bars: Bars) -> Bars:
    """Bars without a column of tickers are an index, and no ticker's own."""
    if isinstance(bars, CheckedBars):
        return bars
    frames = [bars] if isinstance(bars, pd.DataFrame) else list(bars)
    return [
        frame if "ticker" in frame or not isinstance(frame, pd.DataFrame) else frame.assign(ticker=f"market {number}")
        for number, frame in enumerate(frames)
    ]


def usual_spacing(seconds: Sequence[float]) -> float:
    """The median of the bar spacings within a factor of two of most; one of another frequency does not count.

    >>> usual_spacing([86400.0, 3600.0, 86400.0, 60.0])
    86400.0
    """
    values, counts = np.unique(seconds, return_counts=True)
    ratio = values / values[:, None]
    votes = ((ratio > 0.5) & (ratio < 2)) @ counts
    usual = values[int(np.argmax(votes))]
    return float(np.median([one for one in seconds if 0.5 < one / usual < 2]))


def with_progress(items: Iterable[Any], what: str, unit: str = "ticker", total: int | None = None) -> Any:
    """The items, of an iterator `total` ones, with a bar on a terminal where they take over `PATIENCE` seconds."""
    return logging.tqdm(items, desc=what, unit=unit, total=total, disable=None, delay=PATIENCE, leave=False)


def _stored_fence(fence: pd.Timestamp, spacing: float) -> str:
    """As `day_end` reads it back: a date where that says it all."""
    whole_day = spacing >= 86400 or fence == day_end(str(fence.date()))
    return str(fence.date() if whole_day else fence)


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
