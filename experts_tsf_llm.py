"""The experts of a layer: router, routed experts, shared expert, and the loss that keeps the routed ones in balance.

Design choices:
* Experts are stacked tensors, dispatched by transformers' experts interface. The router is learned: softmax, top-k.
* On a CPU whose oneDNN wins they run here, and under its autocast, which transformers' grouped products do not know:
  positions are sorted by expert once, each expert's rows stay in the processor's cache from its first product to its
  last, and a position collects its `K` answers in one pass. Elsewhere transformers' grouped products run.
* The number of rows of an expert changes with every batch, and oneDNN prepares itself for every number: rows are
  rounded up to few numbers. It also keeps an answer the same to the bit, however many share an expert.

Shapes: N positions, D hidden, E experts, K experts per position, I inner width, P positions times K, rounded up.
"""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN
from transformers.integrations import use_experts_implementation
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, ExpertsInterface

from .configuration_tsf_llm import TsfLlmConfig
from .original_modeling_tsf_llm import TsfLlmRawLogitRouter
from .products_tsf_llm import (
    PLAIN,
    TsfLlmLinear,
    gradients_in_graph,
    is_followed,
    is_for_onednn,
    product,
    weight_gradient,
)

ROUND = 16  # rows of an expert, where it has more; fewer are at least two


class TsfLlmMLP(nn.Module):
    """SwiGLU: down(act(gate x) * up x). Shazeer 2020."""

    def __init__(self, config: TsfLlmConfig, intermediate_size: int):
        super().__init__()
        self.gate_proj = TsfLlmLinear(config.hidden_size, intermediate_size, bias=False)
        self.up_proj = TsfLlmLinear(config.hidden_size, intermediate_size, bias=False)
        self.down_proj = TsfLlmLinear(intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states))


class TsfLlmTopKRouter(nn.Module):
    """Softmax over all experts in float32, then the best `K`. Returns logits `[N,E]`, weights and indices `[N,K]`."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.top_k, self.norm_topk_prob = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.n_routed_experts, config.hidden_size))

    def forward(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.autocast(x_ND.device.type, enabled=False):  # bf16 would let near-equal experts swap
            logits_NE = F.linear(x_ND.float(), self.weight.float())
        if self.norm_topk_prob:  # softmax over the chosen = softmax over all, rescaled to the chosen
            chosen_NK, index_NK = logits_NE.topk(self.top_k, dim=-1)
            weights_NK = chosen_NK.softmax(dim=-1)
        else:
            weights_NK, index_NK = logits_NE.softmax(dim=-1).topk(self.top_k, dim=-1)
        return logits_NE, weights_NK.to(x_ND.dtype), index_NK


def rounded(rows: int) -> int:
    """
    >>> [rounded(rows) for rows in (0, 1, 5, 16, 17, 250)]
    [0, 2, 5, 16, 32, 256]
    """
    return rows and (max(rows, 2) if rows <= ROUND else -(-rows // ROUND) * ROUND)


def sorted_places(index_NK: torch.Tensor, num_experts: int) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Where positions sorted by expert stand, with each expert's rows rounded up by repeating its first one.

    Returns:
        The position of each of the `P` rows, the row of each choice `[N,K]`, and how many rows each expert has.
    """
    N, K = index_NK.shape
    expert, order = index_NK.flatten().sort(stable=True)
    counts = torch.bincount(expert, minlength=num_experts)
    sizes = [rounded(rows) for rows in counts.tolist()]
    size, position = counts.new_tensor(sizes), order // K
    start = counts.cumsum(0) - counts
    place = torch.arange(N * K, device=expert.device) + (size.cumsum(0) - size - start)[expert]
    token_P = position[start.clamp(max=N * K - 1)].repeat_interleave(size)
    token_P[place] = position
    return token_P, torch.empty_like(place).index_copy_(0, order, place).view(N, K), sizes


def answers(
    x_PD: torch.Tensor,
    sizes: list[int],
    gate_up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    act_fn: nn.Module,
    kept: list[torch.Tensor] | None = None,
) -> torch.Tensor:
    """What each expert says to its rows, `[P,D]`; `kept` collects gate and up of the experts that are asked."""
    outs = []
    for x, gate_up_weight, down_weight in zip(x_PD.split(sizes), gate_up_EID, down_EDI, strict=True):
        if len(x):
            gate_up = product(x, gate_up_weight)
            gate, up = gate_up.chunk(2, dim=-1)
            outs.append(product(act_fn(gate) * up, down_weight))
            if kept is not None:
                kept.append(gate_up)
    return torch.cat(outs)


def collected(row_NK: torch.Tensor, out_PD: torch.Tensor, weights_NK: torch.Tensor | None = None) -> torch.Tensor:
    """The `K` rows of each position, summed by weight."""
    return F.embedding_bag(row_NK, out_PD, mode="sum", per_sample_weights=weights_NK)


def one_by_one(
    x_ND: torch.Tensor,
    weights_NK: torch.Tensor,
    gate_up_EID: torch.Tensor,
    down_EDI: torch.Tensor,
    *,
    index_NK: torch.Tensor,
    act_fn: nn.Module,
) -> torch.Tensor:
    """The reference: each expert by torch's own operations, `[N,D]`."""
    out_ND = torch.zeros_like(x_ND)
    for expert, (gate_up_weight, down_weight) in enumerate(zip(gate_up_EID, down_EDI, strict=True)):
        token, slot = torch.where(index_NK == expert)
        gate, up = F.linear(x_ND[token], gate_up_weight).chunk(2, dim=-1)
        expert_out = F.linear(act_fn(gate) * up, down_weight)
        out_ND.index_add_(0, token, (expert_out * weights_NK[token, slot, None]).to(out_ND.dtype))
    return out_ND


class SortedExperts(torch.autograd.Function):
    """`answers`, collected, with gradients. What the activation makes is computed again for them."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: torch.Tensor,
        weights_NK: torch.Tensor,
        index_NK: torch.Tensor,
        gate_up_EID: torch.Tensor,
        down_EDI: torch.Tensor,
        act_fn: nn.Module,
    ) -> torch.Tensor:
        token_P, row_NK, ctx.sizes = sorted_places(index_NK, len(gate_up_EID))
        x_PD, ctx.act_fn = x_ND[token_P], act_fn
        kept: list[torch.Tensor] = []
        out_PD = answers(x_PD, ctx.sizes, gate_up_EID, down_EDI, act_fn, kept)
        ctx.index_NK = index_NK
        inputs = x_ND, weights_NK, gate_up_EID, down_EDI
        ctx.save_for_backward(*inputs, x_PD, token_P, row_NK, out_PD, *kept)
        return collected(row_NK, out_PD, weights_NK)

    @staticmethod
    def backward(ctx: Any, grad_ND: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x_ND, weights_NK, gate_up_EID, down_EDI, x_PD, token_P, row_NK, out_PD, *kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            needed = [ctx.needs_input_grad[i] for i in (0, 1, 3, 4)]
            answer = partial(one_by_one, index_NK=ctx.index_NK, act_fn=ctx.act_fn)
            grads = gradients_in_graph(answer, (x_ND, weights_NK, gate_up_EID, down_EDI), needed, grad_ND)
            return *grads[:2], None, *grads[2:], None
        weight_P = weights_NK.new_zeros(len(token_P)).index_copy_(0, row_NK.flatten(), weights_NK.flatten())
        grad_PD = grad_ND[token_P]
        grad_weights = torch.linalg.vecdot(grad_PD, out_PD)[row_NK]
        grad_PD *= weight_P[:, None]  # a repeated row weighs nothing
        grad_gate_up, grad_down = (
            torch.empty_like(one) if needed else None
            for one, needed in zip((gate_up_EID, down_EDI), ctx.needs_input_grad[3:5], strict=True)
        )
        grads_x, gate_ups = [], iter(kept)
        for e, (x, grad) in enumerate(zip(x_PD.split(ctx.sizes), grad_PD.split(ctx.sizes), strict=True)):
            if len(x):
                inner, grad_parts = glu_gradient(next(gate_ups), product(grad, down_EDI[e].T), ctx.act_fn)
                grads_x.append(product(grad_parts, gate_up_EID[e].T))
            if grad_down is not None:
                grad_down[e] = weight_gradient(inner, grad) if len(x) else 0
            if grad_gate_up is not None:
                grad_gate_up[e] = weight_gradient(x, grad_parts) if len(x) else 0
        return collected(row_NK, torch.cat(grads_x)), grad_weights, None, grad_gate_up, grad_down, None


def glu_gradient(
    gate_up: torch.Tensor, grad_inner: torch.Tensor, act_fn: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """act(gate) * up again, and the gradient of gate and up side by side."""
    gate, up = gate_up.chunk(2, dim=-1)
    with torch.enable_grad():
        gate = gate.detach().requires_grad_()
        activated = act_fn(gate)
    grad_parts = torch.empty_like(gate_up)
    grad_gate, grad_up = grad_parts.chunk(2, dim=-1)
    grad_gate.copy_(torch.autograd.grad(activated, gate, grad_inner * up)[0])
    activated = activated.detach()  # may be the gate itself, which is kept
    torch.mul(grad_inner, activated, out=grad_up)
    return activated * up, grad_parts


def are_sorted(experts: "TsfLlmExperts", x_ND: torch.Tensor) -> bool:
    """Whether `SortedExperts` runs them."""
    weight, act_learns = experts.gate_up_proj, any(True for _ in experts.act_fn.parameters())
    if is_followed() or experts._is_expert_parallel or type(weight) not in PLAIN or act_learns:
        return False
    if torch.is_autocast_enabled("cpu"):
        return x_ND.device.type == "cpu" and len(x_ND) > 0
    return is_for_onednn(x_ND, weight[0])


def grouped_experts(
    self: "TsfLlmExperts", hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """All experts at once: by `SortedExperts` where a CPU gains by it, elsewhere as transformers does it."""
    if not are_sorted(self, hidden_states):
        return ALL_EXPERTS_FUNCTIONS["grouped_mm"](self, hidden_states, top_k_index, top_k_weights)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self.gate_up_proj.dtype
    x_ND, weights_NK = hidden_states.to(dtype), top_k_weights.to(dtype)
    gate_up_EID, down_EDI = self.gate_up_proj.to(dtype), self.down_proj.to(dtype)
    if torch.is_grad_enabled() and any(one.requires_grad for one in (x_ND, weights_NK, gate_up_EID, down_EDI)):
        out_ND = SortedExperts.apply(x_ND, weights_NK, top_k_index, gate_up_EID, down_EDI, self.act_fn)
    else:
        token_P, row_NK, sizes = sorted_places(top_k_index, self.num_experts)
        out_PD = answers(x_ND[token_P], sizes, gate_up_EID, down_EDI, self.act_fn)
        out_ND = collected(row_NK, out_PD, weights_NK)
    return out_ND.to(hidden_states.dtype)


EXPERTS = ExpertsInterface()
EXPERTS["grouped_mm"] = grouped_experts


@use_experts_implementation(experts_interface=EXPERTS)
class TsfLlmExperts(nn.Module):
    """`E` SwiGLU experts as stacked tensors. `forward` is the eager reference; `grouped_experts` is the usual way."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        E, D, inner = config.n_routed_experts, config.hidden_size, config.moe_intermediate_size
        self.num_experts, self.hidden_dim, self.intermediate_dim = E, D, inner
        self.gate_up_proj = nn.Parameter(torch.empty(E, 2 * inner, D))
        self.down_proj = nn.Parameter(torch.empty(E, D, inner))
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        weights = self.gate_up_proj, self.down_proj
        return one_by_one(hidden_states, top_k_weights, *weights, index_NK=top_k_index, act_fn=self.act_fn)


class TsfLlmMoE(nn.Module):
    """Routed experts plus the shared expert that every token passes."""

    def __init__(self, config: TsfLlmConfig):
        super().__init__()
        self.gate = (TsfLlmRawLogitRouter if config.router_weighting == "raw_logits" else TsfLlmTopKRouter)(config)
        self.experts = TsfLlmExperts(config)
        self.shared_experts = TsfLlmMLP(config, config.shared_expert_intermediate_size or config.moe_intermediate_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        x_ND = hidden_states.reshape(-1, hidden_states.shape[-1])
        _, weights_NK, index_NK = self.gate(x_ND)
        return self.experts(x_ND, index_NK, weights_NK).view_as(hidden_states) + self.shared_experts(hidden_states)


def load_balancing_loss(
    router_logits: tuple[torch.Tensor, ...], top_k: int, token_mask: torch.Tensor | None
) -> torch.Tensor:
    """E * sum_e(share of choices of e * mean probability of e), mean over layers; 1 when balanced.

    Switch Transformer (Fedus et al. 2021), equation 4, for top-k. `router_logits`: per layer `[B*S,E]`;
    `token_mask` `[B,S]` hides padding.
    """
    logits_LNE = torch.stack([layer.float() for layer in router_logits])
    if token_mask is not None:
        logits_LNE = logits_LNE[:, token_mask.reshape(-1).bool()]
    probs_LNE = logits_LNE.softmax(dim=-1)
    chosen_LNE = torch.zeros_like(probs_LNE).scatter_(-1, probs_LNE.topk(top_k, dim=-1).indices, 1.0 / top_k)
    return logits_LNE.shape[-1] * (chosen_LNE.mean(1) * probs_LNE.mean(1)).sum(-1).mean()


__all__ = ["TsfLlmExperts", "TsfLlmMLP", "TsfLlmMoE", "TsfLlmTopKRouter", "load_balancing_loss"]
