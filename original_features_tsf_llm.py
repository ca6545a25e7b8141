"""The 64 inputs and the target of SpaceExploreAI, as its published weights and data have them.

Why this exists: the original checkpoint can be loaded, and the eight published `.npz` files read, only with its own
columns, scaling and sequences. New models use `indicators_tsf_llm`.

Its leak: three inputs, `future_return_*d`, are returns that lie *ahead* of their bar. With `h = 2` the target follows
exactly from the window: `C[t+2] / C[t] = C[t-8] * (1 + future_return_10d[t-8] / 100) / C[t]`. They are unknowable when
a forecast is made, so here they are NaN unless `expose_leak` asks for them, to show what they are worth. Scaled, they
are zero: their median.

Units are the original's: prices, shares, percent. Values are scaled afterwards, by median and interquartile range.

Shapes: N bars of one ticker, T bars of a window, F = 64 features, n windows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from transformers.feature_extraction_utils import BatchFeature
from transformers.utils import logging

from .bars_tsf_llm import FeatureError
from .feature_extraction_tsf_llm import NOT_FITTED, EncodedSeries, Markets, TsfLlmFeatureExtractor, learned

logger = logging.get_logger(__name__)
ORIGINAL_HORIZON = 2  # bars ahead of the original's target
ORIGINAL_LENGTH = 32  # bars of a window
LAGS = (1, 2, 3, 5, 10)
RETURNS = (1, 2, 5, 10)
WINDOWS = (5, 10, 21)


def future_columns(horizon: int = ORIGINAL_HORIZON) -> list[str]:
    """The inputs that lie ahead of their bar; the target's own column is not among them.

    Raises:
        ValueError: the original has no such target.

    >>> future_columns(2)
    ['future_return_1d', 'future_return_5d', 'future_return_10d']
    """
    if horizon not in RETURNS:
        raise ValueError(f"horizon={horizon}: the original's targets lie {RETURNS} bars ahead; choose one of these")
    return [f"future_return_{k}d" for k in RETURNS if k != horizon]


def original_feature_names(horizon: int = ORIGINAL_HORIZON) -> list[str]:
    """The 64 columns in the original's order."""
    bars = pd.DataFrame({"timestamp": pd.to_datetime(["2020-01-02"]), **{name: [1.0] for name in _OHLCV}})
    return list(original_features(bars, horizon=horizon))


def original_features(
    bars: pd.DataFrame, *, horizon: int = ORIGINAL_HORIZON, expose_leak: bool = False
) -> pd.DataFrame:
    """The 64 inputs of one ticker as float64 [N,64] in raw units, on the index of `bars`.

    Zero where a window is not full yet, as in the original; NaN on a missing bar; the future columns are NaN
    throughout, or with `expose_leak` the true future, zero where it lies beyond the data.
    """
    hidden = future_columns(horizon)
    present = bars[bars["close"].notna()]
    columns = _calendar_and_lags(present) | _returns(present) | _windows(present)
    del columns[f"future_return_{horizon}d"]
    table = pd.DataFrame(columns, index=present.index, dtype=float)
    table = table.where(np.isfinite(table), 0.0)
    if not expose_leak:
        table[hidden] = np.nan
    return table.reindex(bars.index)


def original_target(close: pd.Series, horizon: int = ORIGINAL_HORIZON) -> pd.Series:
    """100 (C[t+h] / C[t] - 1), NaN where it lies beyond the data.

    >>> original_target(pd.Series([100.0, 101.0, 110.0]), 2).round(6).tolist()
    [10.0, nan, nan]
    """
    return _percent(close.shift(-horizon) / close)


def original_split(rows: int) -> list[slice]:
    """Training, validation and test rows: the last tenth is for test, a tenth of the rest for validation.

    >>> [part.stop - part.start for part in original_split(3989)]
    [3231, 359, 399]
    """
    test = rows - -(-rows // 10)
    valid = test - -(-test // 10)
    return [slice(0, valid), slice(valid, test), slice(test, rows)]


def last_rows(part: slice, length: int = ORIGINAL_LENGTH) -> np.ndarray:
    """The last row of each window of a part; the original drops the very last window."""
    return np.arange(part.start + length - 1, part.stop - 1)


def original_sequences(
    features_NF: np.ndarray, target_N: np.ndarray, part: slice, length: int = ORIGINAL_LENGTH
) -> tuple[np.ndarray, np.ndarray]:
    """Windows [n,T,F] within a part of the rows, and the target at the last row of each, [n]."""
    last = last_rows(part, length)
    rows = last[:, None] - np.arange(length)[::-1]  # [n,T]
    return features_NF[rows], target_N[last]


_OHLCV = ["open", "high", "low", "close", "volume"]


def _percent(ratio: pd.Series) -> pd.Series:
    return 100 * (ratio - 1)


def _calendar_and_lags(bars: pd.DataFrame) -> dict[str, pd.Series]:
    day = bars["timestamp"].dt
    return {
        **{name: bars[name] for name in ("close", "high", "low", "open", "volume")},
        "day_of_week": day.day_of_week,
        "day_of_month": day.day,
        "week_of_year": day.isocalendar().week,
        "month": day.month,
        "quarter": day.quarter,
        "year": day.year,
        "is_month_start": day.is_month_start,
        "is_month_end": day.is_month_end,
        "is_week_start": day.day_of_week == 0,
        "is_week_end": day.day_of_week == 4,
        **{f"{name}_lag_{k}": bars[name].shift(k) for name in ("close", "high", "low", "volume") for k in LAGS},
    }


def _returns(bars: pd.DataFrame) -> dict[str, pd.Series]:
    open_, high, low, close = (bars[name] for name in _OHLCV[:4])
    return {
        **{f"future_return_{k}d": original_target(close, k) for k in RETURNS},
        **{f"past_return_{k}d": _percent(close / close.shift(k)) for k in RETURNS},
        "daily_range": 100 * (high - low) / close,
        "daily_range_abs": high - low,
        "gap": _percent(open_ / close.shift()),
        "close_to_open": _percent(close / open_),
        "close_to_high": _percent(close / high),
        "close_to_low": _percent(close / low),
    }


def _windows(bars: pd.DataFrame) -> dict[str, pd.Series]:
    high, low, close, volume = (bars[name] for name in _OHLCV[1:])
    reach = pd.concat([high - low, (high - close.shift()).abs(), (low - close.shift()).abs()], axis=1).max(axis=1)
    change = _percent(close / close.shift())
    return {
        **{f"volatility_{k}d": change.rolling(k).std() for k in WINDOWS},
        **{f"atr_{k}d": reach.rolling(k).mean() for k in WINDOWS},
        **{f"momentum_{k}d": _percent(close / close.shift(k)) for k in WINDOWS},
        **{f"volume_change_{k}d": _percent(volume / volume.rolling(k).mean()) for k in WINDOWS},
        **{f"close_to_ma_{k}d": _percent(close / close.rolling(k).mean()) for k in WINDOWS},
        "volume_change_rate": volume / volume.shift() - 1,
    }


# --- the extractor ---------------------------------------------------------------------------------------------------


class OriginalFeatureExtractor(TsfLlmFeatureExtractor):
    """Bars -> the 64 inputs, and its scaled target -> log returns. For the original's weights alone.

    Args:
        horizon: bars ahead of the target: 1, 2, 5 or 10.
        expose_leak: let it see its three future returns. Only to show what they are worth: no forecast uses it.
        per_ticker, context_length, clip: as of `TsfLlmFeatureExtractor`, with the original's defaults.
        settings: its other arguments; the inputs are fixed, and have no room for covariates.
    """

    def __init__(
        self,
        horizon: int = ORIGINAL_HORIZON,
        expose_leak: bool = False,
        per_ticker: bool = True,
        context_length: int = ORIGINAL_LENGTH,
        clip: float | None = None,
        **settings: Any,
    ):
        if settings.get("past_covariates") or settings.get("known_covariates"):
            raise ValueError("the original has 64 inputs and no room for covariates: leave them out")
        if settings.get("kind", "ohlcv") != "ohlcv":
            raise ValueError("the original's inputs are for market bars: leave kind at 'ohlcv'")
        settings["names"] = original_feature_names(horizon)
        self.horizon, self.expose_leak = horizon, expose_leak
        super().__init__(per_ticker=per_ticker, context_length=context_length, clip=clip, **settings)

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Also what earlier versions saved as `feature_set="seed64"`."""
        settings = dict(feature_extractor_dict)
        if settings.pop("feature_set", None) == "seed64":
            settings["horizon"] = settings.pop("seed_horizon")
        return super().from_dict(settings, **kwargs)

    target_center: dict[str, float] | None = learned("target_center")  # median in percent, by ticker and under `*`
    target_scale: dict[str, float] | None = learned("target_scale")  # interquartile range

    @property
    def reach(self) -> int:  # type: ignore[override]
        return self.horizon

    @property
    def reads_market(self) -> bool:
        return False

    def raw_features_of(
        self, tickers: Mapping[str, pd.DataFrame], markets: Markets, starts: Mapping[str, int]
    ) -> tuple[dict[str, np.ndarray], dict[str, FeatureError]]:
        raw = {ticker: self._inputs(frame)[starts[ticker] :] for ticker, frame in tickers.items()}
        return raw, {}

    def _inputs(self, bars: pd.DataFrame) -> np.ndarray:
        return original_features(bars, horizon=self.horizon, expose_leak=self.expose_leak).to_numpy()

    def _known_by(self, bars: pd.DataFrame, raw_NF: np.ndarray) -> np.ndarray:
        return self._inputs(bars)  # an exposed future ends with the bars

    def _fit_targets(self, frames: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
        targets = {
            ticker: original_target(frame["close"].dropna(), self.horizon).to_numpy()[:, None]
            for ticker, frame in frames.items()
        }
        center, scale = ({t: value for t, [value] in state.items()} for state in self._fit_scalers(targets))
        return {"target_center": center, "target_scale": scale}

    def log_returns(self, values: np.ndarray, batch: BatchFeature) -> np.ndarray:
        """Scaled targets, one row per origin of the batch -> log returns over `horizon` bars, same shape."""
        if self.target_center is None or self.target_scale is None:
            raise ValueError(NOT_FITTED)
        shape = (-1, *[1] * (values.ndim - 1))
        center, scale = (
            np.array([state.get(ticker, state["*"]) for ticker in batch["ticker"]]).reshape(shape)
            for state in (self.target_center, self.target_scale)
        )
        return np.log1p(np.maximum(values * scale + center, -99.9) / 100)  # no price falls by all of itself

    def check_head(self, prediction_type: str | None, prediction_length: int) -> None:
        """These inputs go with one number, and never with the future in them."""
        if prediction_type != "regression" or prediction_length != 1:
            raise ValueError("the original's 64 inputs are for a regression head of one step, as the original's")
        if self.expose_leak:
            raise ValueError("expose_leak=True: these inputs hold the future; no forecast is made from them")

    def _series(self, tickers: Mapping[str, pd.DataFrame]) -> dict[str, EncodedSeries]:
        columns = ", ".join(future_columns(self.horizon))
        if self.expose_leak:
            logger.warning_once(f"expose_leak: {columns} hold the future. No score of these inputs is a forecast's.")
        else:
            logger.warning_once(
                f"the original was trained on inputs that lie ahead of their bar ({columns}). They cannot be known "
                "when a forecast is made and are set to their median; expect no skill of its weights."
            )
        return super()._series(tickers)


OriginalFeatureExtractor.register_for_auto_class()

__all__ = ["OriginalFeatureExtractor"]
