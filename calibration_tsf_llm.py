"""Calibration: each step's law is moved and widened as dates show that shaped no weight; stored with the processor.

Design choices:
* A law X with the median m and the half width w of its central 80 % becomes m + shift * w + spread * (X - m). That
  keeps the order of sampled paths and is the same for samples and quantiles; w carries the volatility of the day.
* `fit` is scaled conformal prediction (Romano, Patterson and Candes 2019) about the median: the shift centres the
  outcomes, the spread is what intervals of 50, 80 and 90 % need to hold as many of them.
* Both are shrunk towards changing nothing by how much they differ between blocks of dates: days are the sample, for
  the tickers of a day share its shock, and a calm year says little about the next one.
* Whether a fit is kept is decided on later dates (`evaluation/calibration.py`). One that is not kept changes nothing.
* Steps beyond the fitted ones stay as they are.

Shapes: n or B forecasts, K samples or quantiles of one, P steps.
"""

from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

import numpy as np

METHOD = "shift and spread about the median, per step, shrunk by their variation over dates"
CHOICES = ("auto", "on", "off")  # use what was kept; insist on it; leave the model's law as it is
COVERAGES = (0.5, 0.8, 0.9)  # central intervals that the spread is fitted to
MOST_SHIFT, MOST_SPREAD = 2.0, 4.0  # half widths; a factor, and one over it
MOST_BLOCKS, FEWEST_BLOCKS, BLOCK_DATES = 10, 4, 4  # of dates, and non-overlapping dates in each
SHRINKAGE = 2.0  # a fit of z standard errors keeps 1 - 2 / z^2 of itself, nothing where Akaike's criterion drops it


@dataclass(frozen=True)
class Calibration:
    """What each of the first P steps is moved and widened by.

    >>> law = np.array([[[1.0], [2.0], [3.0]]])
    >>> Calibration(shift=[0.0], spread=[2.0])(law)[0, :, 0].tolist()
    [0.0, 2.0, 4.0]
    """

    shift: list[float]  # [P] half widths of the central 80 %
    spread: list[float]  # [P] factors

    @property
    def steps(self) -> int:
        return len(self.shift)

    @property
    def changes_nothing(self) -> bool:
        return not any(self.shift) and all(one == 1 for one in self.spread)

    def __call__(self, values_BKP: np.ndarray) -> np.ndarray:
        """The calibrated samples (or evenly spaced quantiles), of the same shape and in the same order."""
        steps = min(values_BKP.shape[-1], self.steps)
        near_BKP = values_BKP[..., :steps]
        middle, half_width = (one[:, None] for one in middle_and_half_width(near_BKP))  # [B,1,P]
        shift, spread = np.array(self.shift[:steps]), np.array(self.spread[:steps])
        moved = middle + shift * half_width + spread * (near_BKP - middle)
        return np.concatenate([moved, values_BKP[..., steps:]], axis=-1)


def middle_and_half_width(values_BKP: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median, and half the width of the central 80 %, of samples or evenly spaced quantiles: both `[B,P]`."""
    low, middle, high = np.quantile(values_BKP, (0.1, 0.5, 0.9), axis=1, method="weibull")
    return middle, (high - low) / 2


def fit(values_nKP: np.ndarray, outcomes_nP: np.ndarray, dates: np.ndarray, *, overlap: int = 1) -> Calibration:
    """The calibration that n past laws and outcomes ask for, shrunk towards none.

    Args:
        values_nKP: samples or evenly spaced quantiles.
        dates: of the origins `[n]`.
        overlap: how many dates in a row share bars of their outcomes.

    Raises:
        ValueError: too few dates to tell a fault from chance.
    """
    times, day = np.unique(dates, return_inverse=True)
    blocks = min(MOST_BLOCKS, len(times) // overlap // BLOCK_DATES)
    if blocks < FEWEST_BLOCKS:
        needed = FEWEST_BLOCKS * BLOCK_DATES * overlap
        raise ValueError(f"{len(times)} dates, and a calibration needs {needed}: give more dates or a smaller horizon")
    block = day * blocks // len(times)
    whole = _unshrunk(values_nKP, outcomes_nP)
    parts = np.array([_unshrunk(values_nKP[block == b], outcomes_nP[block == b]) for b in range(blocks)])
    variance = parts.var(axis=0, ddof=1) / blocks
    kept = np.maximum(0, 1 - SHRINKAGE * variance / np.maximum(whole**2, 1e-300))
    shift, log_spread = whole * kept
    return Calibration(
        np.clip(shift, -MOST_SHIFT, MOST_SHIFT).tolist(),
        np.clip(np.exp(log_spread), 1 / MOST_SPREAD, MOST_SPREAD).tolist(),
    )


def _unshrunk(values_nKP: np.ndarray, outcomes_nP: np.ndarray) -> np.ndarray:
    """Shift and log spread, `[2,P]`. Laws without width say nothing."""
    middle, half_width = middle_and_half_width(values_nKP)
    half_width = np.where(half_width > 0, half_width, np.nan)
    shift = np.nanmedian((outcomes_nP - middle) / half_width, axis=0)
    error = outcomes_nP - middle - shift * half_width
    spreads = []
    for share in COVERAGES:
        ends = np.quantile(values_nKP, ((1 - share) / 2, (1 + share) / 2), axis=1, method="weibull")
        reach = np.where(error > 0, ends[1] - middle, middle - ends[0])
        needed = np.abs(error) / np.where(reach > 0, reach, np.nan)
        spreads.append(np.nanquantile(needed, share, axis=0))
    logs = np.log(np.clip(spreads, 1 / MOST_SPREAD, MOST_SPREAD))
    return np.nan_to_num(np.stack([shift, logs.mean(axis=0)]))


def check_state(state: Any) -> None:
    """Raises ValueError for a stored calibration that this module did not write: with it, forecasts would be wrong."""
    broken = 'calibration: {}; copy the processor again, or take "calibration" out of processor_config.json'
    if not isinstance(state, dict) or not isinstance(state.get("kept"), bool):
        raise ValueError(broken.format("it does not say whether it was kept"))
    if not state["kept"]:
        if not isinstance(state.get("reason"), str):
            raise ValueError(broken.format("it does not say why it was not kept"))
        return
    shift, spread = state.get("shift") or (), state.get("spread") or ()
    if not _are_within(shift, -MOST_SHIFT, MOST_SHIFT) or not _are_within(spread, 1 / MOST_SPREAD, MOST_SPREAD):
        raise ValueError(broken.format("shift and spread are not one sound number per step"))
    if len(shift) != len(spread):
        raise ValueError(broken.format(f"{len(shift)} shifts, but {len(spread)} spreads"))
    try:
        date.fromisoformat(state["through"])
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(broken.format("through is no date")) from error


def _are_within(values: Any, low: float, high: float) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(isinstance(one, int | float) and not isinstance(one, bool) and low <= one <= high for one in values)


def stored(state: dict[str, Any] | None) -> Calibration | None:
    """The calibration of a stored state, if one was kept."""
    return Calibration(state["shift"], state["spread"]) if state and state["kept"] else None


@dataclass
class AdaptiveSpread:
    """A spread that follows its own misses: the interval of a stream then holds its share of outcomes under drift.

    After a date the log of the spread moves by rate * (coverage - share of outcomes inside): the quantile tracker of
    Angelopoulos, Candes and Tibshirani (2023), on a log scale; adaptive conformal inference (Gibbs and Candes 2021)
    moves the level of the interval in that way. Over T dates the mean coverage is within log(16) / (rate * T) of the
    nominal one, whatever the outcomes do, as long as the spread stays inside its bounds of 1/4 and 4.

    >>> AdaptiveSpread().update(low=[-1.0], middle=[0.0], high=[1.0], outcome=[3.0]) > 1
    True
    """

    coverage: float = 0.8
    rate: float = 0.05
    spread: float = 1.0

    def __post_init__(self) -> None:
        numbers = (self.coverage, self.rate, self.spread)
        if not all(isinstance(one, int | float) for one in numbers) or not (0 < self.coverage < 1 and self.rate > 0):
            raise ValueError(f"{self}: give a coverage between 0 and 1 and a rate above 0, as 0.05")
        if not (1 / MOST_SPREAD <= self.spread <= MOST_SPREAD and self.rate <= 1):
            raise ValueError(f"{self}: the spread lies between 1/4 and 4, the rate is at most 1")

    def interval(self, low: Any, middle: Any, high: Any) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the widened (or narrowed) central intervals of a date."""
        low, middle, high = (np.asarray(one, dtype=float) for one in (low, middle, high))
        return middle + self.spread * (low - middle), middle + self.spread * (high - middle)

    def update(self, low: Any, middle: Any, high: Any, outcome: Any) -> float:
        """Learns from the outcomes of a date, one per ticker; unknown ones (NaN) count for nothing.

        `low`, `middle` and `high` are the model's own interval of the nominal coverage. Returns the new spread."""
        outcome = np.asarray(outcome, dtype=float)
        ends = self.interval(low, middle, high)
        if (known := np.isfinite(outcome)).any():
            inside = ((ends[0] <= outcome) & (outcome <= ends[1]))[known].mean()
            moved = self.spread * np.exp(self.rate * (self.coverage - inside))
            self.spread = float(np.clip(moved, 1 / MOST_SPREAD, MOST_SPREAD))
        return self.spread

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, float]) -> Self:
        """Raises ValueError for a state that `to_dict` did not write."""
        if not isinstance(state, dict) or state.keys() != {"coverage", "rate", "spread"}:
            raise ValueError(f"adaptive spread {state!s:.99}: give what to_dict wrote")
        return cls(**state)


__all__ = ["AdaptiveSpread", "Calibration"]
