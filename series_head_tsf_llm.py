"""The series form of `TsfLlmForPrediction`: long windows in patches, every step ahead told what is known of it.

Design choices:
* A window is normalised by its own mean and deviation (RevIN, Kim et al. 2022) and read in patches (PatchTST, Nie et
  al. 2023) by the decoder. The answer is given back in the units that came in.
* Two linear maps run beside the decoder: from the window to all steps (NLinear, Zeng et al. 2023), and from the same
  place of all patches to that place ahead (SparseTSF, Lin et al. 2024): a patch should be a season long, or a share.
* Each step ahead passes one small network with the decoder's last position and the mean of all (all positions side by
  side learn the past by heart), the step's own embedding, the seasons' values, what is known ahead, and the codes
  of static covariates.
* Of intermittent demand zero has a probability of its own; the quantiles of the rest are put above it (a hurdle).
* Patches end at the origin. What is unobserved, or left padding, is zero everywhere: it changes no answer.

Shapes: B windows, T bars, F features, p bars per patch, N patches, D hidden, P steps ahead, Q quantiles, M seasons,
G numbers known ahead, K static covariates, W width of a step.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN

from .configuration_tsf_llm import TsfLlmConfig
from .products_tsf_llm import TsfLlmLinear

LEAST_DEVIATION = 0.1  # of a window, in units of s at its origin: a constant one has none
DIRECT_SHARE = 0.2  # of the map to each step by itself: it learns slowly, and leaves the rest to the shared one
GATE_START = 0.1  # of the network beside the linear maps
SAME = 1e-6  # of an outcome and the level of zero, in units of s


@dataclass
class Scale:
    """Mean and deviation `[B]` of each window: `normal` takes them out of `[B,...]`, `back` puts them in."""

    mean: torch.Tensor
    deviation: torch.Tensor

    @classmethod
    def of(cls, past_target: torch.Tensor, observed: torch.Tensor) -> "Scale":
        """Of the observed bars of `[B,T]`."""
        count = observed.sum(dim=1).clamp(min=1)
        mean = (past_target * observed).sum(dim=1) / count
        variance = ((past_target - mean[:, None]) ** 2 * observed).sum(dim=1) / count
        return cls(mean, (variance + LEAST_DEVIATION**2).sqrt())

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        return (x - self._like(self.mean, x)) / self._like(self.deviation, x)

    def back(self, x: torch.Tensor) -> torch.Tensor:
        return x * self._like(self.deviation, x) + self._like(self.mean, x)

    @staticmethod
    def _like(state: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return state.view(-1, *[1] * (x.ndim - 1))


def num_patches(config: TsfLlmConfig) -> int:
    return (config.context_length or 0) // (config.patch_length or 1)


def input_width(config: TsfLlmConfig) -> int:
    """Numbers of one position of the decoder: features of a bar; or value, whether it is observed, and features of
    each bar of a patch."""
    return config.num_features if config.patch_length is None else config.patch_length * (2 + config.num_features)


@dataclass
class SeriesWindow:
    """What the network reads of a window: its `scale`; `values` `[B,L]`, normalised, zero where unobserved; `patches`
    `[B,N,p*(2+F)]`, and in which of them anything is `observed` `[B,N]`."""

    scale: Scale
    values: torch.Tensor
    patches: torch.Tensor
    observed: torch.Tensor

    @classmethod
    def of(
        cls,
        config: TsfLlmConfig,
        past_target: torch.Tensor | None,
        past_values: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> "SeriesWindow":
        """The last `L = context_length` of `[B,T]` bars, or as many as there are with padding before them."""
        L = config.context_length or 0
        assert past_target is not None
        past_target = past_target.float()
        mask = torch.ones_like(past_target) if attention_mask is None else attention_mask.to(past_target)
        target, mask = latest(past_target, L), latest(mask, L)
        scale = Scale.of(target, mask)
        values = scale.normal(target) * mask
        bars = [values[..., None], mask[..., None]]
        if past_values is not None and config.num_features:
            bars.append(latest(past_values.float(), L) * mask[..., None])
        patches = torch.cat(bars, dim=-1).unflatten(1, (num_patches(config), -1)).flatten(2)
        return cls(scale, values, patches, observed_patches(config, mask))


def observed_patches(config: TsfLlmConfig, mask: torch.Tensor) -> torch.Tensor:
    """In which patches `[B,N]` anything is observed, of bars `[B,T]`."""
    return latest(mask, config.context_length or 0).unflatten(1, (num_patches(config), -1)).amax(dim=-1)


def latest(x: torch.Tensor, length: int) -> torch.Tensor:
    """The last `length` rows of `[B,T,...]`, with zeros before the first."""
    x, missing = x[:, -length:], length - x.shape[1]
    return x if missing <= 0 else torch.cat((x.new_zeros(len(x), missing, *x.shape[2:]), x), dim=1)


def check_series_inputs(config: TsfLlmConfig, **given: torch.Tensor | None) -> None:
    """Raises ValueError if an input that the config asks for is missing or of another shape."""
    c, P = config, config.prediction_length
    target = given["past_target"]
    if target is None or target.ndim != 2:
        raise ValueError("the series form needs past_target [B,T]: use the processor that was saved with the model")
    B, T = target.shape
    wanted = {
        "past_values": (B, T, c.num_features) if c.num_features else None,
        "season_values": (B, P, 2 * c.num_seasons) if c.num_seasons else None,
        "ahead_values": (B, P, c.num_ahead_features) if c.num_ahead_features else None,
        "static_ids": (B, len(c.static_cardinalities)) if c.static_cardinalities else None,
        "zero_level": (B,) if c.zero_inflated else None,
    }
    for name, shape in wanted.items():
        value = given[name]
        if shape is not None and (value is None or tuple(value.shape) != shape):
            found = "is missing" if value is None else f"has the shape {list(value.shape)}"
            raise ValueError(
                f"{name} {found}, the model expects {list(shape)}: use the processor that was saved with it"
            )


def normal_quantiles(levels: Any) -> torch.Tensor:
    """Of the standard normal law."""
    return math.sqrt(2) * torch.erfinv(2 * torch.tensor(list(levels)) - 1)


def shares(levels: torch.Tensor) -> torch.Tensor:
    """The share of a law that is nearest to each of its quantiles: their weights in its mean.

    >>> shares(torch.tensor([0.25, 0.5, 0.75])).tolist()
    [0.375, 0.25, 0.375]
    """
    middle = (levels[1:] + levels[:-1]) / 2
    return torch.cat((middle.new_zeros(1), middle, middle.new_ones(1))).diff()


class TsfLlmSeriesHead(nn.Module):
    """Window, positions of the decoder and inputs of each step -> `[B,P]`, or `[B,P,Q]` increasing quantiles, in the
    units of `past_target`; and the logit of zero `[B,P]` where zero has a probability."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        c, W = config, config.step_hidden_size
        assert c.context_length is not None
        self.config = config
        self.step_inputs = 2 * c.num_seasons + c.num_ahead_features + int(c.zero_inflated)
        self.direct = TsfLlmLinear(c.context_length, c.prediction_length)
        self.across = TsfLlmLinear(
            2 * num_patches(c) + 1, -(-c.prediction_length // (c.patch_length or 1)), bias=False
        )
        self.season = TsfLlmLinear(2 * c.num_seasons, 1, bias=False) if c.num_seasons else None
        self.context = TsfLlmLinear(2 * c.hidden_size, W)
        self.step = nn.Embedding(c.prediction_length, W)
        self.known = TsfLlmLinear(self.step_inputs, W, bias=False) if self.step_inputs else None
        self.static = nn.ModuleList(nn.Embedding(size, W) for size in c.static_cardinalities or ())
        self.mix = TsfLlmLinear(W, W)
        self.gate = nn.Parameter(torch.full((W,), GATE_START))
        self.out = TsfLlmLinear(W, (len(c.quantiles) if c.prediction_type == "quantile" else 1) + int(c.zero_inflated))
        self.act, self.dropout = ACT2FN[c.hidden_act], nn.Dropout(c.hidden_dropout)

    def forward(
        self,
        window: SeriesWindow,
        positions: torch.Tensor,
        *,
        season_values: torch.Tensor | None = None,
        ahead_values: torch.Tensor | None = None,
        static_ids: torch.Tensor | None = None,
        zero_level: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`positions` `[B,N,D]` of the decoder; the others as `TsfLlmForPrediction` takes them."""
        c, scale, dtype = self.config, window.scale, positions.dtype
        told, seasons = [], None  # [B,P,*]
        if season_values is not None and c.num_seasons:
            told.append(seasons := scale.normal(season_values.float()).to(dtype))
        if ahead_values is not None and c.num_ahead_features:
            told.append(ahead_values.to(dtype))
        if zero_level is not None and c.zero_inflated:
            zero = scale.normal(zero_level.float()).asinh().to(dtype)
            told.append(zero[:, None, None].expand(-1, c.prediction_length, 1))
        seen = window.observed[..., None].to(dtype)
        mean = (positions * seen).sum(dim=1) / seen.sum(dim=1).clamp(min=1)
        context = self.context(self.dropout(torch.cat((positions[:, -1], mean), dim=-1)))
        hidden = c.context_share * context[:, None] + self.step.weight  # [B,P,W]
        if self.known is not None:
            hidden = hidden + self.known(torch.cat(told, dim=-1))
        for i, table in enumerate(self.static):
            assert static_ids is not None
            hidden = hidden + table(static_ids[:, i])[:, None]
        hidden = self.dropout(self.act(hidden))
        hidden = hidden + self.dropout(self.act(self.mix(hidden)))
        out = self.out(hidden * self.gate).float()
        base = DIRECT_SHARE * self.direct(window.values.to(dtype)) + self.from_places(window.values.to(dtype))
        if self.season is not None:
            base = base + self.season(seasons).squeeze(-1)
        near = self.near(scale)
        base = base.float() + (1 - near) * window.values[:, -1:]
        out, zero_logits = (out[..., :-1], out[..., -1]) if c.zero_inflated else (out, None)
        if c.prediction_type == "regression":
            return scale.back(base + near * out.squeeze(-1)), zero_logits
        return scale.back(base[..., None] + near[..., None] * self.around_zero(out)), zero_logits

    def near(self, scale: Scale) -> torch.Tensor:
        """How far a random walk comes by each step, in deviations of the window, 1 at most: `[B,P]`. A step is first
        taken to stay that near to the last value."""
        steps = torch.arange(1, self.config.prediction_length + 1, device=scale.mean.device)
        return (steps.sqrt() / scale.deviation[:, None]).clamp(max=1.0)

    def from_places(self, values_BL: torch.Tensor) -> torch.Tensor:
        """`[B,P]`: each step from its own place in all patches, and from the means around it, and from the last value,
        by weights that all places share."""
        p = self.config.patch_length or 1
        means = F.avg_pool1d(values_BL[:, None], 2 * (p // 2) + 1, stride=1, padding=p // 2)[:, 0]
        last = values_BL[:, -1:].expand(-1, p)[:, None]
        parts = torch.cat([*(one.unflatten(1, (-1, p)) for one in (values_BL, means)), last], dim=1)  # [B,2N+1,p]
        ahead = self.across(parts.transpose(1, 2))  # [B,p,patches ahead]
        return ahead.transpose(1, 2).flatten(1)[:, : self.config.prediction_length]

    def around_zero(self, raw_BPQ: torch.Tensor) -> torch.Tensor:
        """Free numbers -> strictly increasing ones; zeros give the quantiles of a standard normal law."""
        start = normal_quantiles(self.config.quantiles).to(raw_BPQ)
        steps = F.softplus(raw_BPQ[..., 1:] + start.diff().expm1().log())  # softplus of log(exp(x) - 1) is x
        first = raw_BPQ[..., :1] + start[0]
        return torch.cat((first, first + steps.cumsum(dim=-1)), dim=-1)


def above_zero(
    quantiles: torch.Tensor, levels: Any, zero_logits: torch.Tensor, zero_level: torch.Tensor | None
) -> torch.Tensor:
    """Quantiles `[B,P,Q]` at `levels` of an outcome that is zero with a probability, else has these `quantiles`.

    With p the probability of zero, the level t of the whole is the level (t - p) / (1 - p) of the rest: on a line
    between its quantiles, which begins at zero with level 0.
    """
    assert zero_level is not None
    zero, levels = zero_level.view(-1, 1, 1).float(), quantiles.new_tensor(list(levels))
    p = zero_logits.sigmoid()[..., None]
    asked = ((levels - p) / (1 - p).clamp(min=SAME)).clamp(min=0.0)
    asked = torch.minimum(asked, levels)  # which it is, but for rounding
    x = F.pad(levels, (1, 0))  # [Q+1]
    y = torch.cat((zero.expand(*quantiles.shape[:2], 1), quantiles.clamp(min=zero)), dim=-1)
    right = torch.searchsorted(x, asked.detach().contiguous()).clamp(min=1)
    low, high = y.gather(-1, right - 1), y.gather(-1, right)
    share = (asked - x[right - 1]) / (x[right] - x[right - 1])
    return low + share * (high - low)


def series_loss(
    config: TsfLlmConfig,
    answer: torch.Tensor,
    labels: torch.Tensor,
    *,
    zero_logits: torch.Tensor | None = None,
    zero_level: torch.Tensor | None = None,
    loss_weight: torch.Tensor | None = None,
) -> torch.Tensor:
    """Mean over known labels `[B,P]` of the squared or absolute error of `answer` `[B,P]`, or of twice the pinball
    loss of `[B,P,Q]`; errors are multiplied by `loss_weight` `[B]`. Where zero has a probability: the pinball loss of
    outcomes that are not zero, and the cross-entropy of which are. `mean_loss_weight` adds the squared error of the
    mean of the quantiles."""
    known = ~labels.isnan()
    labels = torch.where(known, labels, 0.0).float()
    weight = known.float() if loss_weight is None else known * loss_weight.float()[:, None]
    if config.prediction_type == "regression":
        error = (labels - answer) * weight
        return (error.abs() if config.regression_loss == "l1" else error**2).sum() / known.sum()
    chance = labels.new_zeros(())
    count = known.sum()
    if zero_logits is not None:
        assert zero_level is not None
        is_zero = (labels - zero_level[:, None]).abs() < SAME
        chance = F.binary_cross_entropy_with_logits(zero_logits, is_zero.float(), reduction="none")
        chance, weight = (chance * known).sum(), weight * ~is_zero
    levels = answer.new_tensor(config.quantiles)
    error = (labels[..., None] - answer) * weight[..., None]
    pinball = torch.maximum(levels * error, (levels - 1) * error).mean(dim=-1).sum() * 2
    mean_error = (error * shares(levels)).sum(dim=-1)
    return (pinball + chance + config.mean_loss_weight * (mean_error**2).sum()) / count


def init_series_head(module: nn.Module) -> None:
    """The linear maps start at zero: the window's mean."""
    if isinstance(module, TsfLlmSeriesHead):
        for linear in (module.direct, module.across):
            init.zeros_(linear.weight)
        init.zeros_(module.direct.bias)
        init.constant_(module.gate, GATE_START)


__all__ = ["Scale", "SeriesWindow", "TsfLlmSeriesHead", "above_zero", "series_loss"]
