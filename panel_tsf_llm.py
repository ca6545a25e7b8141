"""The observed bars of many tickers side by side, for features that are functions of whole arrays.

Shapes: T bars, N tickers; a column is an array `[T,N]`, a ticker's bars from row 0 on, unknown after its last.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVarTuple

import numpy as np
import pandas as pd

from .bars_tsf_llm import OHLCV
from .market_tsf_llm import COLUMNS

Args = TypeVarTuple("Args")
PANEL = 1 << 15  # numbers of a panel's column: 256 KB
LONGEST = 1 << 13  # rows of a panel: a longer history becomes several of its columns
FAR = 80  # bars: what reads more than so many and its lookback reads `remembered` columns
CALL = 2000  # numbers that are computed in the time that a call takes


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
        self._whole: tuple[Panel, int] | None = None

    def tail(self, first: int) -> "Panel":
        """The rows from `first` on. What is `remembered` is computed of all rows."""
        part = copy.copy(self)
        part.shape = self.shape[0] - first, self.shape[1]
        for name in ("timestamp", *OHLCV.columns):
            setattr(part, name, getattr(self, name)[first:])
        part.market = _Market({name: functools.partial(self._from, first, name) for name in COLUMNS})
        part._kept, part._whole = {}, (self, first)
        return part

    def _from(self, first: int, name: str) -> np.ndarray:
        return self.market[name][first:]

    def _side_by_side(self, tickers: Sequence[Mapping[str, np.ndarray]], name: str) -> np.ndarray:
        return side_by_side([one.get(name) for one in tickers], self.shape[0], of_times=name == "timestamp")

    def once(self, function: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
        """`function(panel, *args)`, computed once. Nobody writes into the answer."""
        key = (function, *args)
        if key not in self._kept:
            self._kept[key] = function(self, *args)
        return self._kept[key]

    def remembered(self, function: Callable[..., np.ndarray], *args: Any) -> np.ndarray:
        """`once`, of a function that reaches much further than its users: of the panel whose tail this is."""
        if self._whole is None:
            return self.once(function, *args)
        whole, first = self._whole
        return whole.once(function, *args)[first:]


def side_by_side(columns: Sequence[np.ndarray | None], rows: int, *, of_times: bool = False) -> np.ndarray:
    """Columns from row 0 on, float64 or datetime64[ns] `[rows,N]`; unknown after the last of each."""
    side = np.full((len(columns), rows), np.datetime64("NaT", "ns") if of_times else np.nan)
    for row, column in zip(side, columns, strict=True):
        if column is not None:
            row[: len(column)] = column
    return np.ascontiguousarray(side.T)


def alike(lengths: Sequence[int], room: int = PANEL) -> Iterator[list[int]]:
    """Places of columns of about one length, as many as a panel of so many numbers takes; the longest first."""
    part: list[int] = []
    longest = padding = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        padding += longest - lengths[place]
        if part and (longest * (len(part) + 1) > room or padding > max(CALL, longest * len(part) // 8)):
            yield part
            part = []
        if not part:
            longest, padding = lengths[place], 0
        part.append(place)
    if part:
        yield part


def wall_clock(times: pd.Series | np.ndarray) -> np.ndarray:
    """datetime64 without a zone."""
    if isinstance(times, np.ndarray):
        return times
    return (times if isinstance(times.dtype, np.dtype) else times.dt.tz_localize(None)).to_numpy()


def in_utc(times: pd.Series | np.ndarray) -> np.ndarray:
    """datetime64; what has no zone as it is."""
    if isinstance(times, np.ndarray):
        return times
    return (times if isinstance(times.dtype, np.dtype) else times.dt.tz_convert(None)).to_numpy()


def shared(function: Callable[[Panel, *Args], np.ndarray]) -> Callable[[Panel, *Args], np.ndarray]:
    """Decorates a function of a panel that several features share: each panel computes it once (`Panel.once`)."""

    @functools.wraps(function)
    def kept(panel: Panel, *args: *Args) -> np.ndarray:
        return panel.once(function, *args)

    return kept


def remembered(function: Callable[[Panel, *Args], np.ndarray]) -> Callable[[Panel, *Args], np.ndarray]:
    """As `shared`, of a function that reaches further than its users (`Panel.remembered`): an exponential average."""

    @functools.wraps(function)
    def kept(panel: Panel, *args: *Args) -> np.ndarray:
        return panel.remembered(function, *args)

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

    @property
    def near(self) -> int:
        """The same but for what is `remembered`: the lookback covers the windows of all that remembers far."""
        return self.lookback if self.memory > FAR else self.reach
