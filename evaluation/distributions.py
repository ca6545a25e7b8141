"""Forecast distributions of one scalar: the cumulative log return from an origin to one step ahead.

* Two forms with the same methods: a closed-form `Gaussian` (the baselines) and `Samples` (the model's sampled paths).
* Each holds n forecasts; every method is one vectorised call and returns one value (or one row) per forecast.
* Ties count half, so a forecast with all its mass on zero gives P(up) = 0.5, not 0 or 1.
* Quantiles of K samples are those of Weibull (the i-th of K sits at level i / (K + 1)): where outcome and samples are
  exchangeable, an interval then covers exactly its nominal level. numpy's default interpolation covers too little.

Shapes: n forecasts, K samples per forecast, L quantile levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import scoringrules
from scipy import stats

# A ticker that never moved has a standard deviation of zero, where the closed forms are 0 / 0.
SMALLEST_STD = 1e-12
COVERAGE_LEVELS = (50, 80, 90)  # percent, of the central intervals that are scored
KEPT_LEVELS = [*((1 - np.array(COVERAGE_LEVELS) / 100) / 2), *((1 + np.array(COVERAGE_LEVELS) / 100) / 2)]


@dataclass(frozen=True)
class Gaussian:
    """n normal distributions.

    >>> float(Gaussian(mean=np.zeros(1), std=np.ones(1)).p_up[0])
    0.5
    """

    mean: np.ndarray  # [n]
    std: np.ndarray  # [n]; zero is taken as a point mass

    @property
    def _normal(self):
        return stats.norm(loc=self.mean, scale=np.maximum(self.std, SMALLEST_STD))

    @property
    def point(self) -> np.ndarray:
        return self.mean

    @property
    def median(self) -> np.ndarray:
        return self.mean

    @property
    def p_up(self) -> np.ndarray:
        return self._normal.sf(0.0)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return self._normal.cdf(y)

    def pit(self, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """Probability integral transform: uniform on [0, 1] if calibrated. `seed` is for `Samples` alone."""
        return self.cdf(y)

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        return self._normal.ppf(np.asarray(levels)[:, None]).T  # [n, L]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Continuous ranked probability score in closed form (Gneiting and Raftery 2007)."""
        return scoringrules.crps_normal(y, self.mean, np.maximum(self.std, SMALLEST_STD), backend="numpy")


@dataclass(frozen=True)
class Samples:
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
    def p_up(self) -> np.ndarray:
        return 1.0 - self.cdf(np.zeros(len(self.values)))

    def _below_and_equal(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        column = np.asarray(y)[:, None]
        return (self.values < column).sum(axis=1), (self.values == column).sum(axis=1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        below, equal = self._below_and_equal(y)
        return (below + 0.5 * equal) / self.values.shape[1]

    def pit(self, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """Randomised probability integral transform: exactly uniform on [0, 1] if y is exchangeable with the samples.

        The rank of y among K samples takes K + 1 values; spreading each over its own cell keeps a histogram from
        showing steps that come only from bins and ranks not dividing evenly.
        """
        below, equal = self._below_and_equal(y)
        spread = np.random.default_rng(seed).uniform(size=len(below))
        return (below + spread * (equal + 1)) / (self.values.shape[1] + 1)

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        return np.quantile(self.values, levels, axis=1, method="weibull").T  # [n, L]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """Unbiased ("fair") ensemble estimate: few samples are not punished for being few.

        mean |x_i - y| - sum_ij |x_i - x_j| / (2 K (K - 1)), in the sorted form, which needs O(K log K) and not O(K^2).
        """
        return scoringrules.crps_ensemble(y, self.values, estimator="pwm", backend="numpy")


@dataclass(frozen=True)
class ScoredSamples:
    """What scores ask of n `Samples` and their outcomes, without the samples: memory that does not depend on K.

    >>> scored = ScoredSamples.of(Samples(np.array([[-1.0, 0.0, 1.0, 2.0]])), np.array([0.5]))
    >>> float(scored.p_up[0]), float(scored.crps(np.array([0.5]))[0])
    (0.625, 0.16666666666666663)
    """

    outcome: np.ndarray  # [n]
    point: np.ndarray  # [n]
    median: np.ndarray  # [n]
    p_up: np.ndarray  # [n]
    sign: np.ndarray  # [n] mean sign
    quantiles: np.ndarray  # [n, L] at `KEPT_LEVELS`
    below: np.ndarray  # [n] samples below the outcome
    equal: np.ndarray  # [n] samples that are the outcome
    losses: np.ndarray  # [n] CRPS
    is_one_number: np.ndarray  # [n] all samples are the same
    samples: int  # K

    @classmethod
    def of(cls, forecast: Samples, outcome: np.ndarray) -> "ScoredSamples":
        values = forecast.values
        below, equal = forecast._below_and_equal(outcome)
        return cls(
            outcome=np.asarray(outcome),
            point=forecast.point,
            median=forecast.median,
            p_up=forecast.p_up,
            sign=np.sign(values).mean(axis=1),
            quantiles=forecast.quantile(KEPT_LEVELS),
            below=below,
            equal=equal,
            losses=forecast.crps(outcome),
            is_one_number=(values == values[:, :1]).all(axis=1),
            samples=values.shape[1],
        )

    @classmethod
    def joined(cls, parts: Sequence["ScoredSamples"]) -> "ScoredSamples":
        """All of these, which have the same number of samples each, in order."""
        names = [part.name for part in fields(cls) if part.name != "samples"]
        arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**arrays, samples=parts[0].samples)

    def pit(self, y: np.ndarray, seed: int = 0) -> np.ndarray:
        """That of `Samples`."""
        self._check(y)
        spread = np.random.default_rng(seed).uniform(size=len(self.below))
        return (self.below + spread * (self.equal + 1)) / (self.samples + 1)

    def quantile(self, levels: Sequence[float]) -> np.ndarray:
        """[n, L] at some of the `KEPT_LEVELS`."""
        return self.quantiles[:, [int(np.flatnonzero(np.isclose(KEPT_LEVELS, level))[0]) for level in levels]]

    def crps(self, y: np.ndarray) -> np.ndarray:
        """That of `Samples`."""
        self._check(y)
        return self.losses

    def _check(self, y: np.ndarray) -> None:
        assert np.array_equal(y, self.outcome, equal_nan=True), "scored on other outcomes"


Forecast = Gaussian | Samples | ScoredSamples
