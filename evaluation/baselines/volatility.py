"""Volatility of one ticker from its own returns: an EWMA, GARCH(1,1) and GJR-GARCH(1,1) with Student t errors.

Design choices:
* The h-step law is a scale known at the origin times the empirical law of the ticker's past h-step returns, each
  divided by its own scale. It is as wide as those were, so a scale need be right only up to a factor. Simulating
  residuals step by step would cost more, and adds up the errors of the model.
* At each fence parameters and law are fitted anew, on all returns known there. Between fences the variance is
  filtered on with these parameters.
* A missing close is skipped: the return over it runs from the last known close and counts as one step.
* Parameters are fitted on returns divided by their standard deviation, where the optimiser works well.

Shapes: N known closes, n origins.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from arch import arch_model
from scipy.signal import lfilter

from ..distributions import Residuals
from .panel import Panel, moment

DECAY = 0.94  # RiskMetrics 1996
WARM_UP = 20  # returns before the first residual
FEWEST_RETURNS = 250  # for the four or five parameters of a GARCH
FEWEST_RESIDUALS = 50
STARTS = ((0.05, 0.9, 8.0), (0.1, 0.8, 5.0), (0.02, 0.97, 12.0))  # alpha (or half of it and gamma / 2), beta, nu


@dataclass(frozen=True)
class Garch:
    """v[t+1] = omega + (alpha + gamma [e[t] < 0]) e[t]^2 + beta v[t], e = return - mean. Glosten et al. 1993."""

    mean: float
    omega: float
    alpha: float
    gamma: float
    beta: float

    def variance(self, returns: np.ndarray) -> np.ndarray:
        """Of the next return, known after each of these, `[N]`; it starts from the first 75 squares."""
        error = returns - self.mean
        news = self.omega + (self.alpha + self.gamma * (error < 0)) * error**2
        start = np.mean(error[:75] ** 2)
        return lfilter([1.0], [1.0, -self.beta], news, zi=np.array([self.beta * start]))[0]

    def ahead(self, variance: np.ndarray, steps: int) -> np.ndarray:
        """Variance of the sum of the next `steps` returns, from that of the next one.

        >>> Garch(0.0, 1.0, 0.1, 0.0, 0.8).ahead(np.array([10.0, 20.0]), 2).round(6).tolist()
        [20.0, 39.0]
        """
        total, each = np.zeros_like(variance), variance
        for _ in range(steps):
            total = total + each
            each = self.omega + (self.alpha + self.gamma / 2 + self.beta) * each
        return total


@dataclass(frozen=True)
class _Known:
    """The one series of a panel without its missing bars."""

    ticker: str
    value: np.ndarray  # [N] log prices, or values
    origins: np.ndarray  # [n] their positions among the N
    fences: list[tuple[pd.Timestamp, int, np.ndarray]]  # time, position of the last close known there, its origins

    @classmethod
    def of(cls, panel: Panel) -> "_Known":
        (one,), (rows,) = panel.series, panel.rows
        known = np.isfinite(one.close)
        time = one.timestamp[known]
        fences = [
            (pd.Timestamp(fence), int(np.searchsorted(time, np.datetime64(fence), side="right")) - 1, picked)
            for fence, picked in panel.fences()
        ]
        return cls(one.ticker, panel.kind.additive(one.close[known]), np.cumsum(known)[rows] - 1, fences)

    def check(self, fence: pd.Timestamp, last: int, fewest: int) -> None:
        """Raises ValueError where fewer returns are known, or none of them is a move."""
        if last < fewest:
            raise ValueError(
                f"{self.ticker}: {max(last, 0)} return(s) are known at {moment(fence)} and {fewest} are needed: "
                "start later, or give earlier bars"
            )
        if np.ptp(self.value[: last + 1]) == 0:
            raise ValueError(f"{self.ticker}: no move is known at {moment(fence)}: start later, or leave it out")

    def law(self, scale: np.ndarray, last: int, step: int, location: float = 0.0) -> np.ndarray:
        """Standardised `step`-step returns known at `last`; NaN or infinite where the scale was zero."""
        start = np.arange(WARM_UP, last - step + 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (self.value[start + step] - self.value[start] - location) / scale[start]


def ewma(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """Scale: the RiskMetrics volatility times sqrt(step). The law is that of each fence.

    Raises:
        ValueError: a ticker that has too few returns at a fence, or never moved.
    """
    known = _Known.of(panel)
    squares = pd.Series(np.diff(known.value) ** 2)
    volatility = np.sqrt(squares.ewm(alpha=1 - DECAY).mean().to_numpy())
    scale = np.concatenate([[np.nan], volatility])
    for fence, last, _ in known.fences:
        known.check(fence, last, WARM_UP + FEWEST_RESIDUALS + max(steps))
    return {
        step: _residuals(known, step, [(scale * np.sqrt(step), 0.0, last, at) for _, last, at in known.fences])
        for step in steps
    }


def garch_t(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """GARCH(1,1) with a constant mean and Student t errors, with the law of its own past residuals.

    Raises:
        ValueError: a ticker that has too few returns at a fence, or never moved, or whose fit does not converge.
    """
    return _garch(panel, steps, asymmetric=False)


def gjr_garch_t(panel: Panel, steps: Sequence[int]) -> dict[int, Residuals]:
    """`garch_t` in which a fall counts for more than a rise."""
    return _garch(panel, steps, asymmetric=True)


def _garch(panel: Panel, steps: Sequence[int], *, asymmetric: bool) -> dict[int, Residuals]:
    known = _Known.of(panel)
    returns = np.diff(known.value)
    fits = [
        (*_fit_at(known, returns, fence, last, max(steps), asymmetric), last, at) for fence, last, at in known.fences
    ]

    def scaled(step: int) -> Iterator[tuple[np.ndarray, float, int, np.ndarray]]:
        for model, variance, last, at in fits:
            yield np.concatenate([[np.nan], np.sqrt(model.ahead(variance, step))]), model.mean * step, last, at

    return {step: _residuals(known, step, list(scaled(step))) for step in steps}


def _residuals(known: _Known, step: int, fits: list[tuple[np.ndarray, float, int, np.ndarray]]) -> Residuals:
    """The forecasts of all fences: of each the scale `[N]`, the location, the last known close and its origins."""
    scale, location, which = np.empty((3, len(known.origins)))
    for k, (scales, where, _, at) in enumerate(fits):
        scale[at], location[at], which[at] = scales[known.origins[at]], where, k
    laws = [known.law(scales, last, step, where) for scales, where, last, _ in fits]
    return Residuals.of(scale, laws, which.astype(int), location)


def _fit_at(
    known: _Known, returns: np.ndarray, fence: pd.Timestamp, last: int, step: int, asymmetric: bool
) -> tuple[Garch, np.ndarray]:
    """The model fitted on the returns known at a fence, and the variances that it filters from all of them."""
    known.check(fence, last, max(FEWEST_RETURNS, WARM_UP + FEWEST_RESIDUALS + step))
    model = fit_garch(returns[:last], asymmetric=asymmetric)
    if model is None:
        name = "GJR-GARCH" if asymmetric else "GARCH"
        raise ValueError(
            f"{known.ticker}: {name} did not converge on the {last} returns known at {moment(fence)}, from "
            f"{len(STARTS) + 1} starting points: look at its prices, or leave it out"
        )
    return model, model.variance(returns)


def fit_garch(returns: np.ndarray, *, asymmetric: bool) -> Garch | None:
    """By maximum likelihood; None where it converges from none of several starting points."""
    size = returns.std()
    model = arch_model(returns / size, mean="Constant", p=1, o=int(asymmetric), q=1, dist="t", rescale=False)
    for start in (None, *STARTS):
        fit = model.fit(
            disp="off", show_warning=False, starting_values=_start(start, returns.mean() / size, asymmetric)
        )
        values = fit.params.to_numpy()
        if fit.convergence_flag == 0 and np.isfinite(values).all():
            mean, omega, alpha, *gamma, beta, _ = values.tolist()
            return Garch(mean * size, omega * size**2, alpha, gamma[0] if gamma else 0.0, beta)
    return None


def _start(start: tuple[float, float, float] | None, mean: float, asymmetric: bool) -> np.ndarray | None:
    """In arch's order, for returns of variance 1."""
    if start is None:
        return None
    alpha, beta, nu = start
    news = (alpha / 2, alpha) if asymmetric else (alpha,)
    return np.array([mean, 1 - alpha - beta, *news, beta, nu])
