"""A user's own features: functions of one ticker's bars, any pandas code, which see an `IndicatorFrame`.

Design choices:

* Nothing is known of such a function, so its memory is bounded from outside: values are computed in blocks at fixed
  rows, each after a warm-up. The values of new bars then cost one block, and are, bit for bit, those of a computation
  of the whole history.
* `bars.indicator` is pandas-ta-classic, imported when it is asked for. Values do not depend on whether TA-Lib is
  installed: every call says `talib=False`.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from .bars_tsf_llm import OHLCV, FeatureError
from .market_tsf_llm import PARTS, STALE, as_of
from .panel_tsf_llm import Feature

WARM_UP = 1024  # bars before a block that its averages may remember
SHORTEST_BLOCK, LONGEST_BLOCK = 4096, 8192  # an indicator of a block takes 0.5 ms, and little per bar of it


class IndicatorFrame(pd.DataFrame):
    """One ticker's observed bars: a DataFrame that computes each pandas-ta indicator once.

    ```python
    bars.close / bars["close"].shift(1)
    bars.indicator("rsi", length=14)
    bars.indicator("sma", close="volume", length=20)
    bars.indicator("macd", "MACDh_12_26_9", fast=12, slow=26, signal=9)
    bars.market["level"]
    ```

    `market` holds the columns of a market's `PARTS` as of each bar, NaN without a market.
    """

    market: pd.DataFrame

    def __init__(self, bars: pd.DataFrame, market: pd.DataFrame | None = None):
        super().__init__(bars)
        if market is None:
            market = pd.DataFrame(np.nan, index=bars.index, columns=[name for part in PARTS.values() for name in part])
        object.__setattr__(self, "_memo", {})  # past pandas, which takes a plain assignment for a new column
        object.__setattr__(self, "market", market)

    def indicator(self, name: str, column: str | None = None, **params: Any) -> pd.Series:
        """`pandas_ta_classic.<name>` over these bars; `column` picks one of several results.

        The price and volume arguments are filled by name, or from another column on request (`close="volume"`); a
        `benchmark` always names its column.
        A frame shorter than the window gives NaN.

        Raises:
            ImportError: pandas-ta-classic is not installed.
        """
        key = (name, *sorted(params.items()))
        if key not in self._memo:
            self._memo[key] = self._compute(name, **params)
        result = self._memo[key]
        if result is None:
            return pd.Series(np.nan, index=self.index)
        return result if column is None else result[column]

    def once(self, function: Callable[["IndicatorFrame"], pd.Series]) -> pd.Series:
        """`function` of these bars, computed once: for what several features share."""
        if function not in self._memo:
            self._memo[function] = function(self)
        return self._memo[function]

    def _compute(self, name: str, **params: Any) -> pd.Series | pd.DataFrame | None:
        try:
            import pandas_ta_classic as ta
        except ImportError as error:
            raise ImportError("bars.indicator needs pandas-ta-classic: pip install pandas-ta-classic") from error
        function = getattr(ta, name)
        wanted = [p for p in inspect.signature(function).parameters if p in ("high", "low", "close", "volume")]
        wanted += ["benchmark"] if "benchmark" in params else []
        inputs = {p: self[params.pop(p, p)] for p in wanted}
        return function(**inputs, **params, talib=False)


def own_features(
    bars: pd.DataFrame, rows: np.ndarray, market: pd.DataFrame | None, features: Sequence[Feature], begin: int
) -> np.ndarray:
    """`[len(rows) - begin, len(features)]` of one ticker, of whose bars `rows` are observed, and a market's state.

    Raises:
        FeatureError: a feature raises, or does not return a value per bar.
        ImportError: a feature needs pandas-ta-classic, which is not installed.
    """
    values = np.empty((len(rows) - begin, len(features)))
    blocks = list(_blocks(len(rows), begin))
    if not blocks:
        return values
    first = max(0, blocks[0][0] - max(feature.reach for feature in features))  # of a long history the end is copied
    present = bars.iloc[rows[first:]].reset_index(drop=True).astype(dict.fromkeys(OHLCV.columns, float))
    before = min(first, STALE)  # bars that tell a stale market
    seen = None if market is None else as_of(market, bars["timestamp"].iloc[rows[first - before :]]).iloc[before:]
    for start, end in blocks:
        block = _block(present, seen, features, start - first, end - first)
        wanted = max(start, begin)
        values[wanted - begin : end - begin] = block[wanted - start :]
    return values


def _blocks(length: int, start: int) -> Iterator[tuple[int, int]]:
    """The blocks of rows that hold rows from `start` to `length`. Their places depend on neither.

    Each is as long as all before it, within the limits: of a short history the end is computed again, of a long one
    few blocks are computed. A shorter first block would cost as much, since most of the cost is not of the rows.
    """
    begin = 0
    while begin < length:
        end = begin + min(max(begin, SHORTEST_BLOCK), LONGEST_BLOCK)
        if end > start:
            yield begin, min(end, length)
        begin = end


def _block(
    bars: pd.DataFrame, market: pd.DataFrame | None, features: Sequence[Feature], begin: int, end: int
) -> np.ndarray:
    """The features of rows `begin` to `end`, `[end - begin, len(features)]`."""
    values = np.empty((end - begin, len(features)))
    frames: dict[int, IndicatorFrame] = {}  # by first row
    for column, feature in enumerate(features):
        head = max(0, begin - feature.reach)
        if head not in frames:
            part = None if market is None else market.iloc[head:end].reset_index(drop=True)
            frames[head] = IndicatorFrame(bars.iloc[head:end].reset_index(drop=True), part)
        values[:, column] = _evaluate(feature, frames[head])[begin - head :]
    return values


def _evaluate(feature: Feature, frame: IndicatorFrame) -> np.ndarray:
    """One column, NaN for the first `lookback` bars: values before a window is full depend on where history starts."""
    if len(frame) <= feature.lookback:
        return np.full(len(frame), np.nan)
    try:
        values = np.array(feature.compute(frame), dtype=float)
    except ImportError:
        raise
    except Exception as error:  # whatever a user's function stumbles over
        raise FeatureError(f"feature {feature.name!r} raised {type(error).__name__}: {error}") from error
    if values.shape != (len(frame),):
        shape = values.shape
        raise FeatureError(f"feature {feature.name!r} returned shape {shape}, not one value per bar: {len(frame)}")
    values[: feature.lookback] = np.nan
    return values
