"""What a baseline is asked: series as the model's processor read them, and the bars to forecast from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from ...ahead_tsf_llm import nearest_possible
from ...bars_tsf_llm import OHLCV, Kind
from ...feature_extraction_tsf_llm import EncodedSeries

REFIT = pd.DateOffset(years=1)


def filled(one: EncodedSeries, kind: Kind) -> np.ndarray:
    """Values (of prices their logs) `[N]`, a missing one the last known one; NaN before the first."""
    return pd.Series(kind.additive(one.close)).ffill().to_numpy()


def moment(fence: np.datetime64 | pd.Timestamp) -> str:
    """The date, with the time only where there is one."""
    at = pd.Timestamp(fence)
    return str(at.date() if at == at.normalize() else at)


@dataclass(frozen=True)
class Panel:
    """Origins of several series. A forecast from one reads bars up to it, a fit at a fence bars up to the fence.

    Forecasts stand series by series, origins of each in order: n in all.
    """

    series: Sequence[EncodedSeries]
    rows: Sequence[np.ndarray]  # origins of each series, increasing
    kind: Kind = OHLCV
    season: int | None = None  # bars per cycle of a plain series
    start: np.datetime64 | None = None  # the first fence; by default the first origin
    seed: int = 0
    nonnegative: bool = False  # what is known of the values, by which all forecasts are bounded
    integer: bool = False

    @property
    def is_bounded(self) -> bool:
        return self.nonnegative or self.integer

    def admissible(self, values: np.ndarray) -> np.ndarray:
        return nearest_possible(values, nonnegative=self.nonnegative, integer=self.integer)

    @cached_property
    def now(self) -> np.ndarray:
        """The value at each origin, `[n]`."""
        return np.concatenate([one.close[rows] for one, rows in zip(self.series, self.rows, strict=True)])

    @cached_property
    def origin(self) -> np.ndarray:
        """Time of each forecast, datetime64 `[n]`."""
        return np.concatenate([one.timestamp[rows] for one, rows in zip(self.series, self.rows, strict=True)])

    @cached_property
    def which(self) -> np.ndarray:
        """Index of each forecast's series, int `[n]`."""
        return np.repeat(np.arange(len(self.series)), [len(rows) for rows in self.rows])

    def fences(self) -> list[tuple[np.datetime64, np.ndarray]]:
        """When to fit: at the first origin, then yearly; each with the positions in n that its fit serves.

        A fit may use every outcome that is known at its fence, and nothing later. Fences without origins are left out.
        """
        first = pd.Timestamp(self.origin.min() if self.start is None else self.start)
        last = pd.Timestamp(self.origin.max())
        fences = [first]
        while first + len(fences) * REFIT <= last:
            fences.append(first + len(fences) * REFIT)
        ends = [fence.to_datetime64() for fence in fences]
        serving = np.searchsorted(ends, self.origin, side="right") - 1
        found = ((fence, np.flatnonzero(serving == i)) for i, fence in enumerate(ends))
        return [(fence, positions) for fence, positions in found if len(positions)]

    def prices_alone(self) -> "Panel":
        """Without what a model's processor made of the bars: the same for every model."""
        bare = [
            replace(
                one,
                features=np.empty((len(one.close), 0)),
                sigma=np.full(len(one.close), np.nan),
                **dict.fromkeys(("calm", "known", "static")),
            )
            for one in self.series
        ]
        return replace(self, series=bare)

    def alone(self) -> "list[Panel]":
        """A panel of each series, with the same fences."""
        start = self.origin.min() if self.start is None else self.start
        pairs = zip(self.series, self.rows, strict=True)
        return [replace(self, series=[one], rows=[rows], start=start) for one, rows in pairs]
