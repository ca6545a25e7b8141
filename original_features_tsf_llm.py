"""The 64 inputs and the target of SpaceExploreAI, as its published weights and data have them.

Why this exists: the original checkpoint can be loaded, and the eight published `.npz` files read, only with its own
columns, scaling and sequences. New models use `indicators_tsf_llm`.

Its leak: three inputs, `future_return_*d`, are returns that lie *ahead* of their bar. With `h = 2` the target follows
exactly from the window: `C[t+2] / C[t] = C[t-8] * (1 + future_return_10d[t-8] / 100) / C[t]`. They are unknowable when
a forecast is made, so here they are NaN unless `expose_leak` asks for them, to show what they are worth.

Units are the original's: prices, shares, percent. Values are scaled afterwards, by median and interquartile range.

Shapes: N bars of one ticker, T bars of a window, F = 64 features, n windows.
"""

import numpy as np
import pandas as pd

SEED_HORIZON = 2  # bars ahead of the original's target
SEED_LENGTH = 32  # bars of a window
LAGS = (1, 2, 3, 5, 10)
RETURNS = (1, 2, 5, 10)
WINDOWS = (5, 10, 21)


def future_columns(horizon: int = SEED_HORIZON) -> list[str]:
    """The inputs that lie ahead of their bar; the target's own column is not among them.

    Raises:
        ValueError: the original has no such target.

    >>> future_columns(2)
    ['future_return_1d', 'future_return_5d', 'future_return_10d']
    """
    if horizon not in RETURNS:
        raise ValueError(f"horizon={horizon}: the original's targets lie {RETURNS} bars ahead; choose one of these")
    return [f"future_return_{k}d" for k in RETURNS if k != horizon]


def seed_feature_names(horizon: int = SEED_HORIZON) -> list[str]:
    """The 64 columns in the original's order."""
    bars = pd.DataFrame({"timestamp": pd.to_datetime(["2020-01-02"]), **{name: [1.0] for name in _OHLCV}})
    return list(seed_features(bars, horizon=horizon))


def seed_features(bars: pd.DataFrame, *, horizon: int = SEED_HORIZON, expose_leak: bool = False) -> pd.DataFrame:
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


def seed_target(close: pd.Series, horizon: int = SEED_HORIZON) -> pd.Series:
    """100 (C[t+h] / C[t] - 1), NaN where it lies beyond the data.

    >>> seed_target(pd.Series([100.0, 101.0, 110.0]), 2).round(6).tolist()
    [10.0, nan, nan]
    """
    return _percent(close.shift(-horizon) / close)


def seed_split(rows: int) -> list[slice]:
    """Training, validation and test rows: the last tenth is for test, a tenth of the rest for validation.

    >>> [part.stop - part.start for part in seed_split(3989)]
    [3231, 359, 399]
    """
    test = rows - -(-rows // 10)
    valid = test - -(-test // 10)
    return [slice(0, valid), slice(valid, test), slice(test, rows)]


def last_rows(part: slice, length: int = SEED_LENGTH) -> np.ndarray:
    """The last row of each window of a part; the original drops the very last window."""
    return np.arange(part.start + length - 1, part.stop - 1)


def seed_sequences(
    features_NF: np.ndarray, target_N: np.ndarray, part: slice, length: int = SEED_LENGTH
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
        **{f"future_return_{k}d": seed_target(close, k) for k in RETURNS},
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
