"""The norms of a layer and of the latents, chosen by `config.norm_type`.

Design choices:
* Each computes in float32 and answers in the type of its input.
* Positions that `token_mask` hides take no part in the statistics of a batch.

Shapes: B batch, S sequence, D hidden.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_tsf_llm import TsfLlmConfig
from .products_tsf_llm import gradients_in_graph, is_followed


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float | None) -> torch.Tensor:
    return F.rms_norm(x, weight.shape, weight, eps)


class RmsNormOnCpu(torch.autograd.Function):
    """torch's own float32 norm with a gradient in few passes: on a CPU torch's takes ten times as long as its norm."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        return rms_norm(x, weight, eps)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            norm = partial(rms_norm, eps=ctx.eps)
            return *gradients_in_graph(norm, (x, weight), ctx.needs_input_grad[:2], grad), None
        D = weight.numel()
        inverse = torch.linalg.vecdot(x, x).div_(D).add_(ctx.eps).rsqrt_()[..., None]
        normed = x * inverse
        grad_weight = (grad * normed).flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        along = torch.linalg.vecdot(grad, normed).div_(D)[..., None]
        return grad.sub_(normed.mul_(along)).mul_(inverse), grad_weight, None


class TsfLlmRMSNorm(nn.RMSNorm):
    """x / rms(x) * weight, in float32 inside. Zhang and Sennrich 2019.

    torch's own `forward` gives the same, but warns under autocast, where bfloat16 meets float32 weights."""

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        x, weight = hidden_states.float(), self.weight.float()
        if x.device.type == "cpu" and torch.is_grad_enabled() and not is_followed():
            return RmsNormOnCpu.apply(x, weight, self.eps).to(hidden_states.dtype)
        return rms_norm(x, weight, self.eps).to(hidden_states.dtype)


class TsfLlmBatchNorm(nn.Module):
    """Normalises each channel over batch and time. In training, positions that `token_mask` hides are left out.

    `correction` is that of the running variance: 1 for the unbiased one, as in torch; 0 is the original's habit."""

    def __init__(self, hidden_size: int, eps: float, momentum: float = 0.1, correction: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))
        self.running_mean = nn.Buffer(torch.zeros(hidden_size))
        self.running_var = nn.Buffer(torch.ones(hidden_size))
        self.eps, self.momentum, self.correction = eps, momentum, correction

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        x_BSD = hidden_states.float()
        mean, var = self.running_mean.float(), self.running_var.float()
        if self.training:
            keep_BS = torch.ones_like(x_BSD[..., 0]) if token_mask is None else token_mask
            keep_BS1 = keep_BS[..., None].to(x_BSD.dtype)
            count = keep_BS1.sum().clamp(min=1)
            mean = (x_BSD * keep_BS1).sum(dim=(0, 1)) / count  # no einsum: autocast would sum in bf16
            var = ((x_BSD - mean).square() * keep_BS1).sum(dim=(0, 1)) / count
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                corrected = var * count / (count - self.correction).clamp(min=1)
                self.running_var.lerp_(corrected.to(self.running_var.dtype), self.momentum)
        normed = (x_BSD - mean) * torch.rsqrt(var + self.eps) * self.weight.float() + self.bias.float()
        return normed.to(hidden_states.dtype)


class TsfLlmDynamicTanh(nn.Module):
    """tanh(alpha * x) * weight + bias, a norm without statistics. Zhu et al. 2025."""

    def __init__(self, hidden_size: int, eps: float):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(self.alpha * hidden_states) * self.weight + self.bias


NORMS = {"rmsnorm": TsfLlmRMSNorm, "batch_norm": TsfLlmBatchNorm, "dynamic_tanh": TsfLlmDynamicTanh}


def block_norm(config: TsfLlmConfig) -> nn.Module:
    """The norm before each half of a layer and after the last layer."""
    if config.original_arithmetic and config.norm_type == "batch_norm":
        return TsfLlmBatchNorm(config.hidden_size, config.norm_eps, correction=0)
    return NORMS[config.norm_type](config.hidden_size, config.norm_eps)


def latent_norm(config: TsfLlmConfig, rank: int) -> nn.Module:
    """The norm between the two factors of a low-rank projection."""
    return nn.LayerNorm(rank) if config.original_arithmetic else TsfLlmRMSNorm(rank, config.norm_eps)


__all__ = ["block_norm", "latent_norm"]
