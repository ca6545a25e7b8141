"""Laws of returns: what a model says of a step ahead, whole and exact, and how paths are made to agree with it.

Design choices:
* A causal model names the bin of the cumulative return to each of its horizons at every bar. Bins have shares and
  nothing is known inside them, so a law is a distribution function that is linear between the edges.
* Steps between two horizons take the mean of the two quantile functions, in units of the square root of the steps.
* Sampled token paths keep their ranks, hence their order in time and their dependence; the laws give the values.

Shapes: n or B forecasts, K - 1 bins, L levels, M sampled paths, P steps, H horizons, N bars of one series.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class PiecewiseLaw:
    """n distributions whose quantile functions are linear between given points.

    >>> law = PiecewiseLaw(values=np.array([[-2.0, 0.0, 2.0]]), levels=np.array([[0.0, 0.5, 1.0]]))
    >>> law.quantile([0.25, 0.75]).tolist(), law.crps(np.array([0.0])).round(6).tolist()
    ([[-1.0, 1.0]], [0.333333])
    """

    values: np.ndarray  # [n, K], increasing
    levels: np.ndarray  # [n, K], from 0 to 1, never decreasing

    @classmethod
    def of_bins(cls, shares: np.ndarray, edges: np.ndarray, unit: np.ndarray) -> Self:
        """The law of bins with these shares `[n,K-1]` and edges `[K]`, in units `[n]`."""
        above = np.cumsum(shares, axis=1, dtype=float)
        levels = np.concatenate((np.zeros((len(above), 1)), above / above[:, -1:]), axis=1)
        return cls(np.asarray(unit, dtype=float)[:, None] * edges, levels)

    @classmethod
    def joined(cls, parts: Sequence["PiecewiseLaw"]) -> Self:
        """The forecasts of several parts, in order; all have as many points."""
        return cls(np.concatenate([one.values for one in parts]), np.concatenate([one.levels for one in parts]))

    def _with(self, values: np.ndarray) -> Self:
        return type(self)(values, self.levels)

    def divided(self, unit: np.ndarray) -> Self:
        """In units `[n]`."""
        return self._with(self.values / unit[:, None])

    def moved(self, shift: float, spread: float | np.ndarray) -> Self:
        """By `shift` half widths of the central 80 %, and `spread` times (or `[n,1]`) as wide about the median: a
        `Calibration`."""
        low, middle, high = (one[:, None] for one in self.quantile([0.1, 0.5, 0.9]).T)
        return self._with(middle + shift * (high - low) / 2 + spread * (self.values - middle))

    # --- moments

    @property
    def shares(self) -> np.ndarray:
        """Of the bins, `[n,K-1]`."""
        return np.diff(self.levels)

    def expectation(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Mean of `function` of the outcome, `[n]`, by Simpson's rule in each bin: exact for cubics."""
        low, high = self.values[:, :-1], self.values[:, 1:]
        return (self.shares * (function(low) + 4 * function((low + high) / 2) + function(high))).sum(axis=1) / 6

    @cached_property
    def point(self) -> np.ndarray:
        return self.expectation(lambda x: x)

    @property
    def variance(self) -> np.ndarray:
        return self.expectation(lambda x: x**2) - self.point**2

    @property
    def p_up(self) -> np.ndarray:
        return 1.0 - self.cdf(np.zeros(len(self.values)))

    # --- distribution function, quantiles, score

    def _place(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows, the bin of each y, y moved into the support, and the distribution function there."""
        rows, inside = np.arange(len(self.values)), np.clip(y, self.values[:, 0], self.values[:, -1])
        which = count_below(self.values[:, 1:-1], inside[:, None], equal=True)[:, 0]
        low, high = self.values[rows, which], self.values[rows, which + 1]
        part = np.divide(inside - low, high - low, out=np.ones(len(rows)), where=high > low)
        below = self.levels[rows, which]
        return rows, which, inside, below + (self.levels[rows, which + 1] - below) * part

    def cdf(self, y: np.ndarray) -> np.ndarray:
        return self._place(np.asarray(y))[3]

    def quantile(self, levels: Sequence[float] | np.ndarray) -> np.ndarray:
        """`[n,L]` at levels `[L]`, or at levels of each row `[n,L]`."""
        levels = np.broadcast_to(np.asarray(levels, dtype=float), (len(self.values), np.shape(levels)[-1]))
        which = count_below(self.levels[:, 1:-1], levels, equal=False)
        low, high = (np.take_along_axis(self.levels, one, axis=1) for one in (which, which + 1))
        start, end = (np.take_along_axis(self.values, one, axis=1) for one in (which, which + 1))
        part = np.divide(levels - low, high - low, out=np.zeros(levels.shape), where=high > low).clip(0, 1)
        return start + part * (end - start)

    def crps(self, y: np.ndarray) -> np.ndarray:
        """The integral of (F(x) - 1[x >= y])^2, in closed form."""
        y = np.asarray(y, dtype=float)
        rows, which, inside, here = self._place(y)
        width, f = np.diff(self.values), self.levels
        left = _zero_first(np.cumsum(width * _mean_square(f[:, :-1], f[:, 1:]), axis=1))
        right = _zero_first(np.cumsum(width * _mean_square(1 - f[:, :-1], 1 - f[:, 1:]), axis=1))
        to_left, to_right = inside - self.values[rows, which], self.values[rows, which + 1] - inside
        whole = left[rows, which] + right[:, -1] - right[rows, which + 1]
        own = to_left * _mean_square(f[rows, which], here) + to_right * _mean_square(1 - here, 1 - f[rows, which + 1])
        return whole + own + np.abs(y - inside)


def count_below(increasing: np.ndarray, bounds: np.ndarray, *, equal: bool) -> np.ndarray:
    """How many of each row `[n,K]` lie below each of its bounds `[n,L]`, or, if `equal`, not above."""
    rows, wanted = torch.tensor(increasing), torch.tensor(bounds)
    return torch.searchsorted(rows, wanted, right=equal).numpy()


def _mean_square(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Mean of the square of what runs linearly from low to high."""
    return (low**2 + low * high + high**2) / 3


def _zero_first(sums: np.ndarray) -> np.ndarray:
    return np.concatenate((np.zeros((len(sums), 1)), sums), axis=1)


# --- horizons and steps ----------------------------------------------------------------------------------------------


def horizon_returns(additive: np.ndarray, sigma: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    """Cumulative returns `[N,H]` from each bar to each horizon, in units of the bar's sigma times its square root.

    `additive` is the log close (the value of a plain series) `[N]`; NaN where an end is unknown."""
    ahead = [np.concatenate((additive[h:], np.full(min(h, len(additive)), np.nan))) for h in horizons]
    moved = [(later - additive) / np.sqrt(h) for later, h in zip(ahead, horizons, strict=True)]
    return np.stack(moved, axis=1) / sigma[:, None] if moved else np.empty((len(additive), 0))


def every_step(anchors: Mapping[int, PiecewiseLaw], horizon: int) -> list[PiecewiseLaw]:
    """The laws of steps 1 to `horizon`, which the horizons in `anchors` must enclose, the first of them 1."""
    known = sorted(anchors)
    laws = [anchors[known[0]]]
    for near, far in pairwise(known):
        if near < horizon:
            laws += _between(anchors[near], anchors[far], near, far)
    return laws[:horizon]


def _between(first: PiecewiseLaw, last: PiecewiseLaw, near: int, far: int) -> list[PiecewiseLaw]:
    """The laws of the steps behind `near` up to `far`."""
    if far - near == 1:
        return [last]
    levels = np.sort(np.concatenate((first.levels, last.levels), axis=1), axis=1)
    starts, ends = first.quantile(levels) / np.sqrt(near), last.quantile(levels) / np.sqrt(far)
    shares = ((step - near) / (far - near) for step in range(near + 1, far))
    values = [np.sqrt(near + w * (far - near)) * ((1 - w) * starts + w * ends) for w in shares]
    return [*(PiecewiseLaw(one, levels) for one in values), last]


def with_laws(paths_BMP: np.ndarray, laws: Sequence[PiecewiseLaw], order_BMP: np.ndarray) -> np.ndarray:
    """Paths with the same ranks at each step, but the laws' values, at the levels rank / (M + 1).

    Steps behind the last law go on from there as they did. `order_BMP` ranks what is equal: token paths take few
    values."""
    moved = paths_BMP.astype(float)
    M, reach = paths_BMP.shape[1], min(len(laws), paths_BMP.shape[2])
    levels = np.arange(1, M + 1) / (M + 1)
    for p in range(reach):
        ranked = np.lexsort((order_BMP[..., p], paths_BMP[..., p]), axis=-1)
        np.put_along_axis(moved[..., p], ranked, laws[p].quantile(levels), axis=1)
    if reach:
        moved[..., reach:] += (moved[..., reach - 1] - paths_BMP[..., reach - 1])[..., None]
    return moved


def law_loss(logits: torch.Tensor, labels: torch.Tensor, horizons: Sequence[int]) -> torch.Tensor:
    """Cross-entropy of all known bins, summed over bars and, weighted by `law_weights`, over the far horizons.

    `logits [B,S,H,V]` of a sequence that begins with the bars of `labels [B,T,H]`; -100 is unknown."""
    logits = logits[:, : labels.shape[1]].float()
    losses = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), ignore_index=-100, reduction="none")
    return (losses.view(labels.shape).sum(dim=(0, 1)) * law_weights(horizons, losses)).sum()


def law_weights(horizons: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """One over the square root of each horizon, `[H]`: the outcomes of neighbouring bars share all but one of its
    bars, so there is less to learn from as many labels."""
    return torch.as_tensor(horizons, dtype=like.dtype, device=like.device).rsqrt()


def check_edges(edges: Mapping[str, Any] | None, count: int, is_sound: Callable[[Any, int], bool]) -> None:
    """Raises ValueError for stored edges of horizons that no fit wrote."""
    for horizon, one in (edges or {}).items():
        if not str(horizon).isdigit() or not is_sound(one, count):
            raise ValueError(f"law_edges of {horizon!r} must be {count} increasing numbers: fit the processor again")


__all__ = ["PiecewiseLaw", "every_step", "horizon_returns", "law_loss", "law_weights", "with_laws"]
