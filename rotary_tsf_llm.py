"""Rotary positions: transformers' own frequencies for every `rope_type`, and DeepSeek's softmax scale under yarn.

Shapes: B batch, S sequence, H heads, r rotated part of a head.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from .configuration_tsf_llm import TsfLlmConfig


def rope(config: TsfLlmConfig) -> dict[str, Any]:
    """The rope dictionary, which transformers fills in when a config is made."""
    return dict(config.rope_parameters or {})


class TsfLlmRotaryEmbedding(nn.Module):
    """Cosines and sines `[B,S,r]` of rotary positions, for every `rope_type` of transformers. Su et al. 2021."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.config = config
        self.max_seq_len_cached = self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = rope(config)["rope_type"]
        known = {**ROPE_INIT_FUNCTIONS, "default": self.compute_default_rope_parameters}
        inv_freq, self.attention_scaling = known[self.rope_type](config)
        self.inv_freq = nn.Buffer(inv_freq, persistent=False)
        self.original_inv_freq = nn.Buffer(inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: TsfLlmConfig, device=None, **kwargs) -> tuple[torch.Tensor, float]:
        width = config.qk_rope_head_dim
        exponent = torch.arange(0, width, 2, dtype=torch.float, device=device) / width
        return 1.0 / rope(config)["rope_theta"] ** exponent, 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angle_BSr = (position_ids[..., None].float() * self.inv_freq.float()).repeat(1, 1, 2)
        scaling = self.attention_scaling
        return (angle_BSr.cos() * scaling).to(x.dtype), (angle_BSr.sin() * scaling).to(x.dtype)


def rotate(x_BHSr: torch.Tensor, cos_BSr: torch.Tensor, sin_BSr: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (i, i + r/2) of the last axis."""
    first, second = x_BHSr.chunk(2, dim=-1)
    return x_BHSr * cos_BSr[:, None] + torch.cat((-second, first), dim=-1) * sin_BSr[:, None]


def yarn_scaling(config: TsfLlmConfig) -> float:
    """DeepSeek's extra softmax scale under `rope_type="yarn"` with `mscale_all_dim`; 1 otherwise."""
    parameters = rope(config)
    if parameters["rope_type"] != "yarn" or parameters["factor"] <= 1:
        return 1.0
    return (0.1 * parameters.get("mscale_all_dim", 0) * math.log(parameters["factor"]) + 1.0) ** 2


__all__ = ["TsfLlmRotaryEmbedding", "rotate", "yarn_scaling"]
