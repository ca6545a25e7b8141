"""What lies around a close: the law of a bar's gap, wicks and volume, given its return; and bars from draws of it.

Design choices:
* A bar is five numbers (`PARTS`), its return among them. The first four are in units of sigma, which is known at the
  bar before; of bars ahead it is the origin's and stays so along a path, as that of the tokens does. The volume is
  the log ratio to the mean of `VOLUME_BARS` known volumes, also of the bar before or of the origin.
* Bars are coherent by construction: wicks are not negative and lie outside of open and close, volumes exponentials.
* The chain is return -> gap -> wicks -> volume, each linear in the hidden state and in what came before it. The gap
  is a share of the return and a Student t with 4 degrees of freedom; a wick is Burr XII (Singh and Maddala 1976), near
  a Weibull but with a tail that bears wrong bars; the log volume is a Student t again. All have quantiles in closed
  form, so that a path is a function of its uniform numbers.
* Wicks below `SMALLEST` are counted as such, by their probability: prices come in ticks, and many wicks are 0.
* Given hidden state and return, the two wicks are drawn independently, and so is each bar of a path.

Shapes: N bars of one ticker, B windows, S sequence, K sampled paths, P steps, D hidden; the last axis 5 is `PARTS`.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

PARTS = ("return", "gap", "upper_wick", "lower_wick", "volume")
VOLUME_BARS, LEAST_VOLUMES = 20, 5  # known volumes of the mean, and how few will do
SMALLEST = 0.01  # sigmas: what a tick may hide
LARGEST = 20.0  # sigmas, or of the log volume: what lies beyond is a wrong bar
TAIL = 8.0  # of the wicks: their laws have moments up to 8 times their shape
USUAL_SHARE, USUAL_GAP, USUAL_WICK, USUAL_SHAPE, USUAL_VOLUME = (
    -1.2,
    math.log(0.2),
    math.log(2.0),
    0.15,
    math.log(0.27),
)
MOST = 4.0  # how far, as logarithms, a hidden state may move a scale from the usual one


# Labels


def mean_volume(volume: np.ndarray) -> np.ndarray:
    """Mean of the last `VOLUME_BARS` known volumes at each bar, `[N]`; NaN until `LEAST_VOLUMES` are known.

    A volume of 0 is none: the bar was not traded."""
    known = pd.Series(np.where(volume > 0, volume, np.nan)).dropna()
    mean = known.rolling(VOLUME_BARS, min_periods=LEAST_VOLUMES).mean()
    return mean.reindex(range(len(volume))).ffill().to_numpy()


def bar_parts(
    ohlc: np.ndarray, volume: np.ndarray, *, previous_close: np.ndarray, sigma: np.ndarray, usual_volume: np.ndarray
) -> np.ndarray:
    """Bars `[...,4]` with volumes `[...]` in the units of `PARTS`, `[...,5]`; NaN where unknown or incoherent."""
    with np.errstate(divide="ignore", invalid="ignore"):
        opened, high, low, close = np.moveaxis(np.log(ohlc), -1, 0)
        before, traded = np.log(previous_close), np.where(volume > 0, volume, np.nan)
        wicks = [high - np.maximum(opened, close), np.minimum(opened, close) - low]
        prices = np.stack([close - before, opened - before, *wicks], axis=-1) / sigma[..., None]
        parts = np.concatenate((prices, np.log(traded / usual_volume)[..., None]), axis=-1)
        wrong = (prices[..., 2:] < -1e-6).any(axis=-1)
    parts[..., 2:4] = np.where(wrong[..., None], np.nan, np.maximum(parts[..., 2:4], 0))
    return parts


def own_parts(ohlc: np.ndarray, volume: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Every bar of a ticker in units that are known at the bar before, `[N,5]`; a row reads no later one."""
    before = slice(None, -1)
    ahead = bar_parts(
        ohlc[1:],
        volume[1:],
        previous_close=ohlc[before, 3],
        sigma=sigma[before],
        usual_volume=mean_volume(volume)[before],
    )
    return np.concatenate((np.full((min(len(ohlc), 1), 5), np.nan), ahead))


def parts_ahead(
    ohlc: np.ndarray, volume: np.ndarray, usual_volume: np.ndarray, sigma: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Bars at `rows` `[B,P]`, the next ones of each origin, in units known at the origin, `[B,P,5]`."""
    origin = rows[:, :1] - 1
    units = {"sigma": sigma[origin] + np.zeros(rows.shape), "usual_volume": usual_volume[origin]}
    return bar_parts(ohlc[rows], volume[rows], previous_close=ohlc[rows - 1, 3], **units)


# The laws


def t4_log_density(x: torch.Tensor) -> torch.Tensor:
    """Of Student's t with 4 degrees of freedom."""
    return math.log(3 / 8) - 2.5 * torch.log1p(x**2 / 4)


def t4_quantile(p: torch.Tensor) -> torch.Tensor:
    """Its quantile in closed form. Shaw 2006, "Sampling Student's t distribution", section 3.

    >>> t4_quantile(torch.tensor([0.025, 0.5], dtype=torch.float64)).numpy().round(4).tolist()
    [-2.7764, 0.0]
    """
    root = (4 * p * (1 - p)).clamp(max=1).sqrt()
    q = torch.cos(torch.arccos(root) / 3) / root
    return 2 * torch.sign(p - 0.5) * (q - 1).clamp(min=0).sqrt()


def wick_log_likelihood(wick: torch.Tensor, log_scale: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    """Log density of a wick with P(wick > x) = (1 + (x / scale)^shape)^-TAIL; below `SMALLEST` the log probability."""
    log_wick = wick.clamp(min=SMALLEST).log()
    odds = F.softplus(shape * (log_wick - log_scale))  # log(1 + (x / scale)^shape)
    density = math.log(TAIL) + shape.log() - log_scale + (shape - 1) * (log_wick - log_scale) - (TAIL + 1) * odds
    smaller = torch.log(-torch.expm1(-TAIL * odds))
    return torch.where(wick <= SMALLEST, smaller, density)


def wick_quantile(p: torch.Tensor, log_scale: torch.Tensor, shape: torch.Tensor) -> torch.Tensor:
    return log_scale.exp() * torch.expm1(-torch.log1p(-p) / TAIL) ** (1 / shape)


def read(*parts: torch.Tensor) -> torch.Tensor:
    """Numbers of any size as inputs of a linear layer, with sign and without, `[...,2n]`."""
    values = torch.stack(parts, dim=-1).asinh()
    return torch.cat((values, values.abs()), dim=-1)


class TsfLlmBarHead(nn.Module):
    """Hidden state at a bar, and the return of the next one -> the laws of that bar's gap, wicks and volume."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.gap = nn.Linear(hidden_size + 2, 2)  # share of the return, scale; of the return
        self.wicks = nn.Linear(hidden_size + 4, 4)  # scale and shape of both; of the return and the body
        self.volume = nn.Linear(hidden_size + 8, 2)  # location, scale; of these and both wicks

    def forward(self, hidden_states: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        """Negative log-likelihood of bars `[B,S,5]` that follow these `[B,S,D]`: a sum over all that is known of them.

        NaN is unknown, and counts for nothing."""
        known = parts.isfinite().cumprod(dim=-1)[..., 1:].bool()  # a part is read by those after it
        values = parts.float().nan_to_num(0.0).clamp(-LARGEST, LARGEST)
        z, gap, *wicks, volume = values.unbind(-1)
        location, scale = self._gap(hidden_states, z)
        likelihood = [t4_log_density((gap - location) / scale) - scale.log()]
        likelihood += map(wick_log_likelihood, wicks, *self._wicks(hidden_states, z, gap))
        location, scale = self._volume(hidden_states, z, gap, *wicks)
        likelihood.append(t4_log_density((volume - location) / scale) - scale.log())
        return torch.where(known, -torch.stack(likelihood, dim=-1), 0.0).sum()

    @torch.no_grad()
    def draw(self, hidden_states: torch.Tensor, z: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Bars `[...,5]` with returns `z` `[...]` out of uniform numbers `[...,4]` in [0, 1), float64."""
        p_gap, *p_wicks, p_volume = uniforms.unbind(-1)
        location, scale = self._gap(hidden_states, z)
        gap = (location + scale * t4_quantile(p_gap)).clamp(-LARGEST, LARGEST)
        wicks = [one.clamp(max=LARGEST) for one in map(wick_quantile, p_wicks, *self._wicks(hidden_states, z, gap))]
        location, scale = self._volume(hidden_states, z, gap, *wicks)
        volume = (location + scale * t4_quantile(p_volume)).clamp(-LARGEST, LARGEST)
        return torch.stack((z, gap, *wicks, volume), dim=-1)

    def _raw(self, layer: nn.Linear, hidden_states: torch.Tensor, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = torch.cat((hidden_states, read(*given).to(hidden_states.dtype)), dim=-1)
        return layer(inputs).to(given[0].dtype).clamp(-MOST, MOST).unbind(-1)

    def _gap(self, hidden_states: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        share, log_scale = self._raw(self.gap, hidden_states, z)
        return z * torch.sigmoid(share + USUAL_SHARE), SMALLEST + torch.exp(log_scale + USUAL_GAP)

    def _wicks(
        self, hidden_states: torch.Tensor, z: torch.Tensor, gap: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Log scales and shapes of the upper and the lower wick."""
        raw = self._raw(self.wicks, hidden_states, z, z - gap)
        shapes = [torch.exp((one + USUAL_SHAPE).clamp(-1, 1)) for one in raw[2:]]
        return [one + USUAL_WICK for one in raw[:2]], shapes

    def _volume(
        self, hidden_states: torch.Tensor, z: torch.Tensor, gap: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        location, log_scale = self._raw(self.volume, hidden_states, z, z - gap, upper, lower)
        return location, SMALLEST + torch.exp(log_scale + USUAL_VOLUME)


# Bars along paths


@dataclass(frozen=True)
class BarPaths:
    """Bars along sampled paths, each float64 `[B,K,P]`, in price units; volume is NaN where none is known."""

    open: np.ndarray
    high: np.ndarray
    low: np.ndarray
    close: np.ndarray
    volume: np.ndarray
    last_close: np.ndarray  # [B]


def bars_around(
    close: np.ndarray, parts: np.ndarray, *, last_close: np.ndarray, sigma: np.ndarray, usual_volume: np.ndarray
) -> BarPaths:
    """The bars with these closes `[B,K,P]` and parts `[B,K,P,5]`; last close, sigma, usual volume are `[B]`.

    It inverts `bar_parts`, and high >= max(open, close), low <= min(open, close), volume >= 0 for all parts."""
    previous = np.concatenate((np.broadcast_to(last_close[:, None, None], close[..., :1].shape), close[..., :-1]), -1)
    gap, upper, lower = np.moveaxis(np.exp(parts[..., 1:4] * sigma[:, None, None, None]), -1, 0)
    opened = previous * gap
    high, low = np.maximum(opened, close) * upper, np.minimum(opened, close) / lower
    volume = usual_volume[:, None, None] * np.exp(parts[..., 4])
    return BarPaths(opened, high, low, close, volume, last_close)


def bar_uniforms(
    tickers: Sequence[str], origins: Sequence[pd.Timestamp], *, samples: int, horizon: int, seed: int
) -> np.ndarray:
    """Uniform numbers `[B,K,P,4]` in [0, 1), others than those of the closes.

    A row's depend on the seed, its ticker and its origin alone, and the first steps not on the horizon."""
    names = (f"{ticker} {origin.isoformat()} bars" for ticker, origin in zip(tickers, origins, strict=True))
    generators = [np.random.default_rng([seed, zlib.crc32(name.encode())]) for name in names]
    return np.stack([rng.random((horizon, samples, 4)).swapaxes(0, 1) for rng in generators])


__all__ = ["BarPaths", "TsfLlmBarHead"]
