"""The last bars of a streamed symbol, with room for more.

Design choices:
* A tail never changes. A longer one shares its buffers and writes beyond its end, so that a bar costs no copy, and one
  that is refused is taken back by going on with the tail before it.
* Of several that were made longer than one tail, the last alone holds.

Shapes: N bars, C columns of numbers, R rows of a buffer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from ..bars_tsf_llm import BarArrays

ROOM = 256  # bars that a new buffer takes before it is copied


@dataclass(frozen=True)
class Tail:
    """Bars `first` to `end` of buffers: times datetime64[ns] `[R]`, numbers float64 `[C,R]`."""

    columns: Sequence[str]
    times: np.ndarray
    values: np.ndarray
    first: int
    end: int

    @classmethod
    def of(cls, columns: Sequence[str], times: np.ndarray, values: np.ndarray) -> Self:
        """Of times `[N]` and numbers `[C,N]`, which are copied."""
        end = len(times)
        tail = cls(columns, np.empty(end + ROOM, "datetime64[ns]"), np.empty((len(columns), end + ROOM)), 0, end)
        tail.times[:end], tail.values[:, :end] = times, values
        return tail

    def __len__(self) -> int:
        return self.end - self.first

    @property
    def bars(self) -> BarArrays:
        return BarArrays(self.columns, self.times[self.first : self.end], self.values[:, self.first : self.end])

    @property
    def last(self) -> np.datetime64:
        return self.times[self.end - 1]

    def with_bar(self, bar: BarArrays, keep: int) -> Self:
        """The last `keep` bars after one more."""
        first = max(self.first, self.end + 1 - keep)
        tail = self
        if self.end == len(self.times):
            tail = self.of(self.columns, self.times[first:], self.values[:, first:])
            first = 0
        tail.times[tail.end], tail.values[:, tail.end] = bar.timestamp[0], bar.values[:, 0]
        return type(self)(self.columns, tail.times, tail.values, first, tail.end + 1)
