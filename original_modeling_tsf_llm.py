"""The arithmetic of SpaceExploreAI, for its published weights.

Why this exists: those weights give their numbers only under the habits below. New models use the correct forms.
* `attention_softmax_axis="heads"`: the softmax of its trained layout runs over the heads, so the weights of a key sum
  to one over heads, not over keys, and the output grows with the length of the window.
* `attention_softmax_axis="pooled_heads"`: its grouped inner form, which no published model uses. Keys and values are
  averaged to a quarter of the heads, and the softmax runs over these.
* `rope_interleaved`: neighbours (2i, 2i+1) rotate together, not (i, i + r/2).
* `router_weighting="raw_logits"`: a softmax only chooses the experts; the mixing weights are the logits
  themselves, without gradient, so its routers never learned.
* `is_causal=False`: no mask; every bar sees every other one.
* `original_arithmetic`: LayerNorm in the latents, positions modulo the window's length, biased running variance in
  BatchNorm.

Shapes as in `modeling_tsf_llm`: B batch, S and T positions of queries and keys, H heads, n head size, r rotary part,
N tokens, D hidden, E experts, K experts per token.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.core_model_loading import Concatenate, MergeModulelist, WeightConverter, WeightRenaming

from .configuration_tsf_llm import TsfLlmConfig

# Sources are regular expressions. `*.` stands for the expert's number.
RENAMED = {
    r"^final_norm\.": "norm.",
    r"\.pre_attn_norm\.": ".input_layernorm.",
    r"\.pre_moe_norm\.": ".post_attention_layernorm.",
    r"\.attention\.attention\.": ".self_attn.",  # the layout with caches wraps its attention once more
    r"\.attention\.": ".self_attn.",
    r"\.self_attn\.q_proj_a\.": ".self_attn.q_a_proj.",
    r"\.self_attn\.q_norm\.": ".self_attn.q_a_layernorm.",
    r"\.self_attn\.q_proj_b\.": ".self_attn.q_b_proj.",
    r"\.self_attn\.kv_proj_a\.": ".self_attn.kv_a_proj_with_mqa.",
    r"\.self_attn\.kv_norm\.": ".self_attn.kv_a_layernorm.",
    r"\.self_attn\.kv_proj_b\.": ".self_attn.kv_b_proj.",
    r"\.self_attn\.out_proj\.": ".self_attn.o_proj.",
    r"\.moe\.router\.router\.": ".mlp.gate.",
    r"\.moe\.shared_expert\.w1\.": ".mlp.shared_experts.gate_proj.",
    r"\.moe\.shared_expert\.w3\.": ".mlp.shared_experts.up_proj.",
    r"\.moe\.shared_expert\.w2\.": ".mlp.shared_experts.down_proj.",
}
# The rotary table is recomputed: a copy in safetensors has lost its sines. Caches are no weights; a name is looked up
# here after it has been renamed.
NEVER_LOADED = [r"rotary_emb\.freqs_buffer$", r"\.(attention|self_attn)\.(kv|pe|k|v)_cache$"]


def key_conversions() -> list[WeightRenaming | WeightConverter]:
    """The original's tensor names -> ours; its experts are separate matrices, ours are stacked."""
    experts = [
        WeightConverter(
            source_patterns=[r"\.moe\.experts.*.mlp.w1.weight", r"\.moe\.experts.*.mlp.w3.weight"],
            target_patterns=r"\.mlp\.experts\.gate_up_proj",
            operations=[MergeModulelist(dim=0), Concatenate(dim=1)],
        ),
        WeightConverter(
            source_patterns=r"\.moe\.experts.*.mlp.w2.weight",
            target_patterns=r"\.mlp\.experts\.down_proj",
            operations=[MergeModulelist(dim=0)],
        ),
    ]
    return [*(WeightRenaming(source, target) for source, target in RENAMED.items()), *experts]


def attention_over_heads(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention whose softmax runs over the heads. What a mask hides gets weight zero."""
    scores_BHST = torch.einsum("bhsn,bhtn->bhst", query, key) * scaling
    weights_BHST = F.softmax(scores_BHST, dim=1, dtype=torch.float32).to(query.dtype)
    if attention_mask is not None:
        seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask >= 0
        weights_BHST = weights_BHST.masked_fill(~seen, 0.0)
    weights_BHST = F.dropout(weights_BHST, p=dropout, training=module.training)
    return torch.einsum("bhst,bhtv->bshv", weights_BHST, value), weights_BHST


def attention_over_pooled_heads(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention to keys and values averaged over groups of heads (head = group * M + m); softmax over the `M` means.

    With four heads there is one mean, so every weight is 1."""
    M = max(1, query.shape[1] // 4)
    key, value = (part.unflatten(1, (-1, M)).mean(dim=1) for part in (key, value))  # [B,M,T,*]
    scores_BHSTM = torch.einsum("bhsn,bmtn->bhstm", query, key) * scaling
    weights_BHSTM = F.softmax(scores_BHSTM, dim=-1, dtype=torch.float32).to(query.dtype)
    if attention_mask is not None:
        seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask >= 0
        weights_BHSTM = weights_BHSTM.masked_fill(~seen[..., None], 0.0)
    weights_BHSTM = F.dropout(weights_BHSTM, p=dropout, training=module.training)
    return torch.einsum("bhstm,bmtv->bshv", weights_BHSTM, value), weights_BHSTM


ORIGINAL_ATTENTION = {"heads": attention_over_heads, "pooled_heads": attention_over_pooled_heads}


def rotate_pairs(x_BHSr: torch.Tensor, cos_BSr: torch.Tensor, sin_BSr: torch.Tensor) -> torch.Tensor:
    """Rotates the pairs (2i, 2i+1) of the last axis. The angles come twice, one half is enough."""
    cos, sin = (table[:, None, :, : x_BHSr.shape[-1] // 2] for table in (cos_BSr, sin_BSr))  # [B,1,S,r/2]
    even, odd = x_BHSr[..., 0::2], x_BHSr[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def wrap_positions(position_ids: torch.Tensor, *, length: int, limit: int) -> torch.Tensor:
    """The original keeps a table of `limit` positions, cuts it to the window and wraps whatever lies beyond."""
    return position_ids % min(length, limit)


class TsfLlmRawLogitRouter(nn.Module):
    """Chooses by softmax, mixes by raw logits. Returns logits `[N,E]`, weights and indices `[N,K]`, no gradient."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    @torch.no_grad()
    def forward(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.autocast(x_ND.device.type, enabled=False):  # bf16 would let near-equal experts swap
            logits_NE = F.linear(x_ND.float(), self.weight.float())
        index_NK = logits_NE.softmax(dim=-1).topk(self.top_k, dim=-1).indices
        return logits_NE, logits_NE.gather(-1, index_NK).to(x_ND.dtype), index_NK
