"""Forecast distributions of one scalar: the cumulative log return from an origin to one step ahead.

* Forms with the same methods: closed (`Gaussian`), sampled (`Samples`), a scale times an empirical law (`Residuals`),
  a grid of quantiles (`Quantiles`), and shares of bins (`Piecewise`: what a causal model names).
* `Moved` is any of them, moved and widened (`calibration_tsf_llm`).
* Each holds n forecasts; every method is one vectorised call and returns one value (or one row) per forecast.
* Ties count half, so a forecast with all its mass on zero gives P(up) = 0.5, not 0 or 1.
* Quantiles of K samples are those of Weibull (the i-th of K sits at level i / (K + 1)): where outcome and samples are
  exchangeable, an interval then covers exactly its nominal level. numpy's default interpolation covers too little.
* Evenly spaced quantiles are no samples: the fair estimate of CRPS, made for samples, would be too low by 1 / K.

Shapes: n forecasts, K samples per forecast, L quantile levels, B bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import scoringrules
from scipy import special

from ..laws_tsf_llm import PiecewiseLaw

# A ticker that never moved has a standard deviation of zero, where the closed forms are 0 / 0.
SMALLEST_STD = 1e-12
COVERAGE_LEVELS = (50, 80, 90)  # percent, of the central intervals that are scored
LEVELS = np.arange(1, 100) / 100  # of the quantiles that scores ask of every forecast
DECILES = np.arange(1, 10) / 10
MASSES = 200  # equal ones, into which `Quantiles` are cut


class Law:
    """What all forms share; `_below_and_equal` counts samples, which a continuous law does not have."""

    def pit(self, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """Randomised probability integral transform: exactly uniform on [0, 1] if y is exchangeable with the samples.

        The rank of y among K samples takes K + 1 values; spreading each over its own cell keeps a histogram from
        showing steps that come only from bins and ranks not dividing evenly.
        """
        low, width = self.pit_cell(y)
        return low + np.random.default_rng(seed).uniform(size=len(low)) * width

    def pit_cell(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where `pit` lies: the lower end of its cell and the cell's width, `[n]` each."""
        below = self.cdf(y)
        return below, np.zeros(len(below))

    @property
    def median(self) -> np.ndarray:
        return self.quantile([0.5])[:, 0]

    @property
    def p_up(self) -> np.ndarray:
        return 1.0 - self.cdf(np.zeros(len(self.point)))


@dataclass(frozen=True)
class Gaussian(Law):
    """n normal distributions.

    >>> float(Gaussian(mean=np.zeros(1), std=np.ones(1)).p_up[0])
    0.5
    """

    mean: np.ndarray  # [n]
    std: np.ndarray  # [n]; zero is taken as a point mass

    @classmethod
    def joined(cls, parts: "Sequence[Gaussian]") -> "Gaussian":
        """The forecasts of all parts, in order."""
        return cls(np.concatenate([one.mean for one in parts]), np.concatenate([one.std for one in parts]))

    def _standard(self, y: np.ndarray | float) -> np.ndarray:
        return (y - self.mean) / np.maximum(self.std, SMALLEST_STD)

    @property
    def point(self) -> np.ndarray:
        return self.mean

    @property
    def median(self) -> np.ndarray:
        return self.mean

    @property
    def variance(self) -> np.ndarray:
        return self.std**2

    @property
    def p_up(self) -> np.ndarray:
        return special.ndtr(-self._standard(0.0))

    def divided(self, unit: np.ndarray) -> "Gaussian":
        """In units `[n]`."""
        return Gaussian(self.mean / unit, self.std / unit)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return special.ndtr(self._standard(y))

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        return special.ndtri(levels) * np.maximum(self.std, SMALLEST_STD)[:, None] + self.mean[:, None]  # [n, L]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score in closed form (Gneiting and Raftery 2007)."""
        return scoringrules.crps_normal(y, self.mean, np.maximum(self.std, SMALLEST_STD), backend="numpy")


@dataclass(frozen=True)
class Samples(Law):
    """n empirical distributions of K samples each.

    >>> float(Samples(np.array([[-1.0, 0.0, 1.0, 2.0]])).p_up[0])
    0.625
    """

    values: np.ndarray  # [n, K]

    def __post_init__(self):
        if np.ndim(self.values) != 2 or np.shape(self.values)[1] < 2:
            shape = np.shape(self.values)
            raise ValueError(f"samples must have the shape [n, K] with K >= 2, not {shape}: sample more paths")

    @property
    def point(self) -> np.ndarray:
        return self.values.mean(axis=1)

    @property
    def median(self) -> np.ndarray:
        return np.median(self.values, axis=1)

    @property
    def variance(self) -> np.ndarray:
        return self.values.var(axis=1, ddof=1)

    def divided(self, unit: np.ndarray) -> "Samples":
        """In units `[n]`."""
        return type(self)(self.values / unit[:, None])

    def _below_and_equal(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        column = np.asarray(y)[:, None]
        return (self.values < column).sum(axis=1), (self.values == column).sum(axis=1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        below, equal = self._below_and_equal(y)
        return (below + 0.5 * equal) / self.values.shape[1]

    def pit_cell(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (below, equal), cells = self._below_and_equal(y), self.values.shape[1] + 1
        return below / cells, (equal + 1) / cells

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        return np.quantile(self.values, levels, axis=1, method="weibull").T  # [n, L]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Unbiased ("fair") ensemble estimate: few samples are not punished for being few.

        mean |x_i - y| - sum_ij |x_i - x_j| / (2 K (K - 1)), in the sorted form, which needs O(K log K) and not O(K^2).
        """
        return scoringrules.crps_ensemble(y, self.values, estimator="pwm", backend="numpy")


@dataclass(frozen=True)
class StratifiedSamples(Samples):
    """Samples that were spread out (`path_uniforms`), of which the fair estimate would take evenness for sharpness."""

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Of the empirical distribution itself: never better than that of the law that was sampled, on average."""
        return scoringrules.crps_ensemble(y, self.values, estimator="nrg", backend="numpy")


@dataclass(frozen=True)
class Residuals(Law):
    """n laws: location + scale x one of a few empirical laws of standardised residuals; exact, whatever their size.

    >>> law = Residuals.of(np.ones(1), [np.array([-1.0, 1.0])], np.zeros(1, int))
    >>> float(law.crps(np.array([0.0]))[0]), law.quantile([0.5]).tolist()
    (0.5, [[0.0]])
    """

    location: np.ndarray  # [n]
    scale: np.ndarray  # [n]; zero is taken as a point mass
    laws: list[np.ndarray]  # sorted
    which: np.ndarray  # int [n], index into laws

    @classmethod
    def of(
        cls, scale: np.ndarray, laws: Sequence[np.ndarray], which: np.ndarray, location: float | np.ndarray = 0
    ) -> "Residuals":
        """From residuals in any order, whose unknown ones are left out.

        Raises:
            ValueError: a law without two residuals.
        """
        known = [np.sort(law[np.isfinite(law)]) for law in laws]
        if (fewest := min(map(len, known))) < 2:
            raise ValueError(f"a law of {fewest} residual(s): give more history before the first origin")
        return cls(np.broadcast_to(np.asarray(location, float), np.shape(scale)), scale, known, which)

    @classmethod
    def joined(cls, parts: "Sequence[Residuals]") -> "Residuals":
        """The forecasts of all parts, in order."""
        location, scale = (np.concatenate([getattr(one, name) for one in parts]) for name in ("location", "scale"))
        first = np.cumsum([0, *(len(one.laws) for one in parts)])
        which = [one.which + start for one, start in zip(parts, first, strict=False)]
        return cls(location, scale, [law for one in parts for law in one.laws], np.concatenate(which))

    def divided(self, unit: np.ndarray) -> "Residuals":
        """In units `[n]`."""
        return Residuals(self.location / unit, self.scale / unit, self.laws, self.which)

    def _each(self, function, *arrays: np.ndarray) -> np.ndarray:
        """`function(law, *arrays of its forecasts)` for every law, back in order."""
        out = np.empty(len(self.scale))
        order = np.argsort(self.which, kind="stable")
        ends = np.searchsorted(self.which[order], np.arange(len(self.laws) + 1))
        for law, start, end in zip(self.laws, ends, ends[1:], strict=False):
            mine = order[start:end]
            out[mine] = function(law, *(one[mine] for one in arrays))
        return out

    def _spread(self, statistic) -> np.ndarray:
        """A statistic of each forecast's law, `[n, ...]`."""
        return np.array([statistic(law) for law in self.laws])[self.which]

    def _standard(self, y: np.ndarray) -> np.ndarray:
        return (np.asarray(y) - self.location) / np.maximum(self.scale, SMALLEST_STD)

    @property
    def point(self) -> np.ndarray:
        return self.location + self.scale * self._spread(np.mean)

    @property
    def median(self) -> np.ndarray:
        return self.location + self.scale * self._spread(np.median)

    @property
    def variance(self) -> np.ndarray:
        return self.scale**2 * self._spread(np.var)

    def _below_and_equal(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = self._standard(y)
        below = self._each(lambda law, part: np.searchsorted(law, part, side="left"), z)
        return below, self._each(lambda law, part: np.searchsorted(law, part, side="right"), z) - below

    def cdf(self, y: np.ndarray) -> np.ndarray:
        below, equal = self._below_and_equal(y)
        return (below + 0.5 * equal) / self._spread(len)

    def pit_cell(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (below, equal), cells = self._below_and_equal(y), self._spread(len) + 1
        return below / cells, (equal + 1) / cells

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        standard = self._spread(lambda law: np.quantile(law, levels, method="weibull"))
        return self.location[:, None] + self.scale[:, None] * standard  # [n, L]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """E|X - y| - E|X - X'| / 2 of the empirical law, by its cumulative sums: O(log of its size) per forecast."""
        return np.maximum(self.scale, SMALLEST_STD) * self._each(_crps_of_law, self._standard(y))


def _crps_of_law(law: np.ndarray, z: np.ndarray) -> np.ndarray:
    size, below = len(law), np.searchsorted(law, z)
    sums = np.concatenate(([0.0], np.cumsum(law)))
    distance = (z * (2 * below - size) - 2 * sums[below] + sums[-1]) / size
    return distance - (2 * np.arange(1, size + 1) - size - 1) @ law / size**2


class EqualMasses(Law):
    """What follows from `quantile` alone: the law as equal masses in the middle of as many steps of probability."""

    def quantile(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """`[n,L]`."""
        raise NotImplementedError

    @cached_property
    def _masses(self) -> "Samples":
        return Samples(self.quantile((np.arange(MASSES) + 0.5) / MASSES))

    @property
    def point(self) -> np.ndarray:
        return self._masses.point

    @property
    def variance(self) -> np.ndarray:
        return self._masses.values.var(axis=1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return self._masses.cdf(y)

    def pit_cell(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self._masses.pit_cell(y)

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Twice the mean pinball loss over the masses' levels, which is their E|X - y| - E|X - X'| / 2."""
        return scoringrules.crps_ensemble(y, self._masses.values, estimator="nrg", backend="numpy")


@dataclass(frozen=True)
class Quantiles(EqualMasses):
    """n laws given by their quantiles: linear between the levels, nothing beyond the outer ones.

    >>> law = Quantiles(np.array([[-1.0, 0.0, 1.0]]), np.array([0.25, 0.5, 0.75]))
    >>> law.quantile([0.5, 0.625]).tolist(), law.p_up.tolist()
    ([[0.0, 0.5]], [0.5])
    """

    values: np.ndarray  # [n, L], increasing
    levels: np.ndarray  # [L], increasing

    @classmethod
    def joined(cls, parts: "Sequence[Quantiles]") -> "Quantiles":
        """The forecasts of all parts, in order; all have the same levels."""
        return cls(np.concatenate([one.values for one in parts]), parts[0].levels)

    def divided(self, unit: np.ndarray) -> "Quantiles":
        """In units `[n]`."""
        return Quantiles(self.values / unit[:, None], self.levels)

    def quantile(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        at = np.interp(levels, self.levels, np.arange(len(self.levels)))
        left = np.clip(at.astype(int), 0, max(len(self.levels) - 2, 0))
        right = np.minimum(left + 1, len(self.levels) - 1)
        return self.values[:, left] * (1 - (at - left)) + self.values[:, right] * (at - left)


@dataclass(frozen=True)
class Admitted(EqualMasses):
    """n laws of changes since `now`, whose values are moved to the nearest `admissible` ones: whole numbers, or none
    below zero.

    >>> law = Admitted(Gaussian(np.zeros(1), np.ones(1)), np.ones(1), lambda x: np.maximum(x, 0.0), np.ones(1))
    >>> law.quantile([0.01, 0.5]).tolist(), law.p_up.tolist()
    ([[-1.0, 0.0]], [0.5])
    """

    law: Law
    now: np.ndarray  # [n]
    admissible: Callable[[np.ndarray], np.ndarray]
    unit: np.ndarray  # [n]

    def divided(self, unit: np.ndarray) -> "Admitted":
        """In units `[n]`."""
        return replace(self, unit=self.unit * unit)

    def quantile(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        now = self.now[:, None]
        return (self.admissible(now + self.law.quantile(levels)) - now) / self.unit[:, None]


class Piecewise(PiecewiseLaw, Law):
    """n laws whose quantile functions are linear between given points, as a causal model's own."""

    @classmethod
    def like(cls, law: PiecewiseLaw) -> "Piecewise":
        return cls(law.values, law.levels)


@dataclass(frozen=True)
class Moved(Law):
    """n laws of another form, each moved and widened: exact, whatever the form.

    >>> law = Moved.about_median(Gaussian(np.ones(1), np.ones(1)), shift=0.0, spread=2.0)
    >>> law.point.tolist(), law.variance.tolist()
    ([1.0], [4.0])
    """

    law: Law
    offset: np.ndarray  # [n]
    factor: float

    @classmethod
    def about_median(cls, law: Law, shift: float, spread: float) -> "Moved":
        """By `shift` half widths of its central 80 %, and `spread` times as wide, as `Calibration` does to samples."""
        low, middle, high = law.quantile([0.1, 0.5, 0.9]).T
        return cls(law, middle * (1 - spread) + shift * (high - low) / 2, spread)

    def divided(self, unit: np.ndarray) -> "Moved":
        """In units `[n]`."""
        return Moved(self.law.divided(unit), self.offset / unit, self.factor)

    def _back(self, y: np.ndarray) -> np.ndarray:
        return (np.asarray(y) - self.offset) / self.factor

    @property
    def point(self) -> np.ndarray:
        return self.offset + self.factor * self.law.point

    @property
    def variance(self) -> np.ndarray:
        return self.factor**2 * self.law.variance

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return self.law.cdf(self._back(y))

    def pit_cell(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.law.pit_cell(self._back(y))

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        return self.offset[:, None] + self.factor * self.law.quantile(levels)

    def crps(self, y: np.ndarray) -> np.ndarray:
        return self.factor * self.law.crps(self._back(y))


@dataclass(frozen=True)
class Scored:
    """What scores ask of n forecasts and their outcomes, without the laws: memory that does not depend on their form.

    A forecast that could not be made has NaN everywhere, and is left out by `known`.

    >>> scored = Scored.of(Samples(np.array([[-1.0, 0.0, 1.0, 2.0]])), np.array([0.5]))
    >>> float(scored.p_up[0]), round(float(scored.crps(np.array([0.5]))[0]), 6)
    (0.625, 0.166667)
    """

    outcome: np.ndarray  # [n]
    point: np.ndarray  # [n]
    median: np.ndarray  # [n]
    variance: np.ndarray  # [n]
    p_up: np.ndarray  # [n]
    quantiles: np.ndarray  # [n, 99] at `LEVELS`, or [n, 9] at `DECILES`, see `brief`
    pit_low: np.ndarray  # [n] see `Law.pit_cell`
    pit_width: np.ndarray  # [n]
    losses: np.ndarray  # [n] CRPS

    @classmethod
    def of(cls, forecast: "Law | Scored", outcome: np.ndarray) -> "Scored":
        if isinstance(forecast, Scored):
            return forecast
        low, width = forecast.pit_cell(outcome)
        return cls(
            outcome=np.asarray(outcome),
            point=forecast.point,
            median=forecast.median,
            variance=forecast.variance,
            p_up=forecast.p_up,
            quantiles=forecast.quantile(LEVELS),
            pit_low=low,
            pit_width=width,
            losses=forecast.crps(outcome),
        )

    @classmethod
    def missing(cls, outcome: np.ndarray) -> "Scored":
        """Of forecasts that could not be made."""
        shapes = {one.name: (len(outcome),) for one in fields(cls)} | {"quantiles": (len(outcome), len(LEVELS))}
        unknown = {name: np.full(shape, np.nan) for name, shape in shapes.items()}
        return cls(**unknown | {"outcome": np.array(outcome)})

    @classmethod
    def joined(cls, parts: "Sequence[Scored]") -> "Scored":
        """All of these, in order."""
        return cls(**{one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)})

    def take(self, which: np.ndarray) -> "Scored":
        """Those of an index or a mask."""
        return Scored(**{one.name: getattr(self, one.name)[which] for one in fields(self)})

    def brief(self) -> "Scored":
        """With the deciles alone: all quantiles of many steps would take gigabytes."""
        return replace(self, quantiles=self.quantile(DECILES))

    @property
    def levels(self) -> np.ndarray:
        """Of the quantiles that are kept."""
        return LEVELS if self.quantiles.shape[1] == len(LEVELS) else DECILES

    @property
    def known(self) -> np.ndarray:
        """Which forecasts could be made, bool `[n]`."""
        return np.isfinite(self.losses)

    @property
    def sign(self) -> np.ndarray:
        """Mean sign of the outcome that is forecast, `[n]`: P(up) less P(down), as ties count half."""
        return 2 * self.p_up - 1

    def pit(self, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """That of the law."""
        self._check(y)
        return self.pit_low + np.random.default_rng(seed).uniform(size=len(self.pit_low)) * self.pit_width

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        """[n, L] at some of its `levels`."""
        return self.quantiles[:, [int(np.flatnonzero(np.isclose(self.levels, level))[0]) for level in levels]]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """That of the law."""
        self._check(y)
        return self.losses

    def _check(self, y: np.ndarray) -> None:
        assert np.array_equal(y, self.outcome, equal_nan=True), "scored on other outcomes"


Forecast = Gaussian | Samples | Residuals | Quantiles | Piecewise | Moved | Admitted | Scored
