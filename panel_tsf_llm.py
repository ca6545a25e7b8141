"""The observed bars of many tickers side by side, for features that are functions of whole arrays.

Shapes: T bars, N tickers; a column is an array `[T,N]`, a ticker's bars from row 0 on, unknown after its last.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVarTuple

import numpy as np

from .bars_tsf_llm import OHLCV
from .market_tsf_llm import COLUMNS

Args = TypeVarTuple("Args")


class _Market(dict[str, np.ndarray]):
    """Columns that are made when they are read."""

    def __init__(self, makers: Mapping[str, Callable[[], np.ndarray]]):
        self.makers = makers

    def __missing__(self, name: str) -> np.ndarray:
        self[name] = self.makers[name]()
        return self[name]


class Panel:
    """What features read: the columns of bars, the market as of each bar, and what several features share.

    ```python
    np.log(panel.close / lag(panel.close, 1))
    panel.market["level"]
    panel.once(wilder_range, 14)
    ```

    Args:
        tickers: of each `timestamp` datetime64[ns] and float64 `open, high, low, close, volume`, of one length; and
            the columns of a market's `PARTS`, where they are known.
    """

    def __init__(self, tickers: Sequence[Mapping[str, np.ndarray]]):
        self.shape = max((len(one["timestamp"]) for one in tickers), default=0), len(tickers)
        self.timestamp = self._side_by_side(tickers, "timestamp")
        self.open, self.high, self.low, self.close, self.volume = (
            self._side_by_side(tickers, name) for name in OHLCV.columns
        )
        self.market = _Market({name: functools.partial(self._side_by_side, tickers, name) for name in COLUMNS})
        self._kept: dict[Any, np.ndarray] = {}

    def _side_by_side(self, tickers: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
        unknown = np.datetime64("NaT", "ns") if name == "timestamp" else np.nan
        side = np.full(self.shape[::-1], unknown)
        for row, one in zip(side, tickers, strict=True):
            if name in one:
                row[: len(one[name])] = one[name]
        return np.ascontiguousarray(side.T)

    def once(self, function: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
        """`function(panel, *args)`, computed once. Nobody writes into the answer."""
        key = (function, *args)
        if key not in self._kept:
            self._kept[key] = function(self, *args)
        return self._kept[key]


def shared(function: Callable[[Panel, *Args], np.ndarray]) -> Callable[[Panel, *Args], np.ndarray]:
    """Decorates a function of a panel that several features share: each panel computes it once (`Panel.once`)."""

    @functools.wraps(function)
    def kept(panel: Panel, *args: *Args) -> np.ndarray:
        return panel.once(function, *args)

    return kept


@dataclass(frozen=True)
class Feature:
    """One row of the table.

    Args:
        lookback: observed bars that must precede the first value.
        compute: a panel -> `[T,N]`; of a user's `own`, one ticker's `IndicatorFrame` -> a value per bar.
        memory: observed bars before its own that a value may read, where they are more than the lookback.
    """

    name: str
    group: str
    lookback: int
    formula: str
    compute: Callable[[Any], Any]
    memory: int = 0
    own: bool = False

    @property
    def reach(self) -> int:
        """Observed bars before its own that a value may read."""
        return max(self.lookback, self.memory)
