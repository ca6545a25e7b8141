"""What the learned baselines share: rows with their units, and a law from a few quantiles.

* A learner is asked for outcomes in units of the origin's sigma * sqrt(step), so series of all sizes are pooled.
* It answers with a few quantiles (`KNOTS`). Between them the law is linear in normal scores: exact for a normal law,
  smooth for others, and independent of how the knots are spaced.
* A fit at a fence takes rows whose outcomes are known there. Among them it validates on the last ones, and trains on
  rows whose outcomes are known before the first of those.

Shapes: n forecasts, k rows of a fit, Q knots, L levels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ...bars_tsf_llm import Kind
from ...feature_extraction_tsf_llm import EncodedSeries
from ..distributions import LEVELS, Quantiles
from .panel import moment

KNOTS = np.array([0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99])
FEWEST_ROWS = 100  # of a fit


def unit(one: EncodedSeries, rows: np.ndarray, step: int) -> np.ndarray:
    """How far a series usually moves in so many steps, as known at each row: sigma * sqrt(step)."""
    sigma = one.sigma if one.calm is None else one.calm
    return sigma[rows] * np.sqrt(step)


def spread_knots(knots: np.ndarray) -> np.ndarray:
    """Quantiles `[n,Q]` at `KNOTS` in any order -> the law's at `LEVELS` `[n,L]`.

    >>> exact = stats.norm.ppf(LEVELS)
    >>> bool(np.allclose(spread_knots(stats.norm.ppf(KNOTS)[None]), exact))
    True
    """
    scores, asked = stats.norm.ppf(KNOTS), stats.norm.ppf(LEVELS)
    weights_QL = np.array([np.interp(asked, scores, one) for one in np.eye(len(KNOTS))])
    return np.sort(knots, axis=1) @ weights_QL


def law(knots: np.ndarray, units: np.ndarray) -> Quantiles:
    """That of quantiles `[n,Q]` in units `[n]`."""
    return Quantiles(spread_knots(knots) * units[:, None], LEVELS)


@dataclass
class Outcomes:
    """All rows of some series whose outcome some steps ahead lies in the data, series by series."""

    rows: list[np.ndarray]
    value: np.ndarray  # [k] in units
    made: np.ndarray  # [k] times of the rows
    known: np.ndarray  # [k] times from which the outcome is known

    @classmethod
    def of(cls, series: Sequence[EncodedSeries], step: int, kind: Kind) -> "Outcomes":
        rows = [usable(one, step) for one in series]
        pairs = list(zip(series, rows, strict=True))
        values = [kind.change(one.close[at + step], one.close[at]) / unit(one, at, step) for one, at in pairs]
        return cls(
            rows=rows,
            value=np.concatenate(values),
            made=np.concatenate([one.timestamp[at] for one, at in pairs]),
            known=np.concatenate([one.timestamp[at + step] for one, at in pairs]),
        )

    def apply(
        self, series: Sequence[EncodedSeries], positions: np.ndarray, function: Callable[..., np.ndarray]
    ) -> np.ndarray:
        """function(series, its rows) at some sorted positions `[k]`, joined `[k,...]`."""
        ends = np.cumsum([len(rows) for rows in self.rows])
        parts = np.split(positions, np.searchsorted(positions, ends[:-1]))
        rows = [at[part - end + len(at)] for at, part, end in zip(self.rows, parts, ends, strict=True)]
        return np.concatenate([function(one, at) for one, at in zip(series, rows, strict=True)])

    def split(
        self, fence: np.datetime64, cut: np.datetime64, rng: np.random.Generator, most: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Positions to train on, at most so many, and to validate on: known by the cut, made after it and known by
        the fence.

        Raises:
            ValueError: where either is too few.
        """
        train, check = np.flatnonzero(self.known <= cut), np.flatnonzero((self.made > cut) & (self.known <= fence))
        if min(len(train), len(check)) < FEWEST_ROWS:
            raise ValueError(
                f"{len(train)} and {len(check)} outcomes known by {moment(fence)} to train and to stop on, where each "
                f"needs {FEWEST_ROWS}: start later or give earlier bars"
            )
        return _some(train, rng, most), _some(check, rng, most)

    def cut(self, fence: np.datetime64, share: float, longest: np.timedelta64 | None = None) -> np.datetime64:
        """The time that leaves that share of what is known at the fence after it, and no more than `longest`."""
        made = np.sort(self.made[self.known <= fence])
        if not len(made):
            raise ValueError(f"no outcome is known by {moment(fence)}: start later or give earlier bars")
        at = made[int((len(made) - 1) * (1 - share))]
        return at if longest is None else max(at, fence - longest)


def usable(one: EncodedSeries, step: int) -> np.ndarray:
    """Rows from which a forecast can be made and whose outcome `step` rows later is known."""
    rows = one.origins()
    rows = rows[rows + step < len(one.close)]
    return rows[np.isfinite(one.close[rows + step])]


def _some(positions: np.ndarray, rng: np.random.Generator, most: int) -> np.ndarray:
    return positions if len(positions) <= most else np.sort(rng.choice(positions, most, replace=False))
