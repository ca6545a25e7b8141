"""Going on from a read context, one token at a time: the decode loop of `generate` and of sampled paths.

Design choices:
* K paths go on from one context. What attention caches of it is kept once; each path keeps the few tokens of its own.
  The scores of both pass one softmax, and those of all heads and paths on the context are one matrix product.
* Latent attention is absorbed as a whole: queries are made in the latent space, and its output is read from there.
  Both are products of two matrices of the model, which are made once per call. So is one matrix for all projections of
  a token, and one for gate and up. Nothing is kept between calls: weights may change.
* A step is arithmetic on these: no masks, positions or caches are built anew. Layers are not called as modules.
* What this does not cover goes on by calling the model, with a copy of the cache for each path: `RepeatedContext`.
  Both give the same tokens.
* On a CPU the tokens of an expert are multiplied together, in the order of experts; elsewhere the experts are called.
  So are those of many tokens where oneDNN wins, for which an expert's rows are rounded up.
* Products go to the faster library, see `products_tsf_llm`: one token takes as long as its weights take to be read.

Shapes: B contexts, K paths of each, N = B*K, T positions of the context, s tokens since, D hidden, H heads, KV key
heads, G = H/KV, d and v key and value part of a head, n its unrotated and r its rotated part, R latent rank.
"""

from .versions_tsf_llm import CACHE  # first: names below are missing where transformers is too old

# isort: split
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from transformers.cache_utils import DynamicCache
from transformers.utils.output_capturing import install_all_output_capturing_hooks

from .configuration_tsf_llm import PROCESSOR_EXTRAS, TsfLlmConfig
from .experts_tsf_llm import TsfLlmExperts, are_sorted, grouped_experts
from .norms_tsf_llm import TsfLlmRMSNorm
from .products_tsf_llm import TsfLlmLinear, product_of_few
from .rotary_tsf_llm import rope

ROOM = 64  # tokens that buffers grow by
WORTH_SORTING = 1 << 22  # tokens times numbers of an expert's first matrix
Product: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def going_on(
    model: Any, cache: Any, attention_mask: torch.Tensor, *, paths: int = 1, **kwargs: Any
) -> "SharedContext | RepeatedContext":
    """What goes on from contexts `[B,T]` that lie in the cache, with `paths` rows for each.

    `kwargs` are what the model wants beside tokens, once per path, such as `adapter_names`."""
    shares = not kwargs and can_share(model)
    return (SharedContext if shares else RepeatedContext)(model, cache, attention_mask, paths=paths, **kwargs)


def can_share(model: Any) -> bool:
    """Whether the step below computes what the causal LM does: its attention is made of plain matrices, and nobody
    listens or speaks in between."""
    c = model.config
    if getattr(model, "get_base_model", None) is not None or model.training:  # wrapped by peft, or with dropout
        return False
    if _is_changed(model) or torch.is_autocast_enabled(model.device.type):
        return False
    fixed_turns = not any(name in rope(c)["rope_type"] for name in ("dynamic", "longrope"))  # else they go by length
    parts = [one for layer in model.model.layers for one in layer.self_attn.children()]
    plain = all(_is_plain(one) for one in parts if not _is_norm(one))
    return fixed_turns and plain and len({weight.device for weight in model.parameters()}) == 1


def _is_changed(model: Any) -> bool:
    """Whether anything has a say in what modules answer: a hook, a `forward` of an object's own, a class not ours.
    Hooks of transformers, which record what is asked for, stay on a model and change nothing."""
    hooks = [
        hook
        for module in model.modules()
        for hook in (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if getattr(hook, "__module__", None) != install_all_output_capturing_hooks.__module__
    ]
    layers = model.model.layers
    ours = [model, model.model, *layers, *(one for layer in layers for one in (layer.self_attn, layer.mlp))]
    return (
        bool(hooks or _has_any_global_hook())
        or any("forward" in vars(module) for module in model.modules())
        or any(type(one).__module__.rpartition(".")[0] != __package__ for one in ours)
    )


def _is_plain(module: nn.Module) -> bool:
    """A matrix and nothing else: no adapter, no quantized or sharded weight."""
    return type(module) is TsfLlmLinear and type(module.weight) is nn.Parameter and module.bias is None


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, TsfLlmRMSNorm | nn.LayerNorm)


class RepeatedContext:
    """Calls the model, on a copy of the cache for each path."""

    def __init__(self, model: Any, cache: Any, attention_mask: torch.Tensor, *, paths: int = 1, **kwargs: Any):
        if paths > 1:
            cache.batch_repeat_interleave(paths)
        self.model, self.kwargs = model, {**kwargs, CACHE: cache, "use_cache": True}
        self.mask = attention_mask.repeat_interleave(paths, 0)

    def _inputs(self, tokens: torch.Tensor) -> dict[str, Any]:
        self.mask = torch.cat((self.mask, self.mask.new_ones(len(tokens), 1)), dim=1)
        return {"input_ids": tokens[:, None], "attention_mask": self.mask, **self.kwargs}

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[N,D]` behind one more token of each path `[N]`."""
        return self.model.model(**self._inputs(tokens)).last_hidden_state[:, -1]

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """`[N,V]` behind one more token of each path `[N]`."""
        return self.model(**self._inputs(tokens)).logits[:, -1]


class SharedContext:
    """Computes the step itself, see above; the methods are those of `RepeatedContext`. The cache is read, not changed;
    `write_back` adds the tokens since."""

    def __init__(
        self,
        model: Any,
        cache: Any,
        attention_mask: torch.Tensor,
        *,
        paths: int = 1,
        position: torch.Tensor | None = None,
    ):
        """`position [B]` of the next token: by default the positions are counted over what is observed."""
        decoder, self.model, self.paths, self.cache = model.model, model, paths, cache
        self.embed, self.norm, self.rotary = decoder.get_input_embeddings(), norm_of(decoder.norm), decoder.rotary_emb
        observed = attention_mask.bool()
        self.position, self.step = observed.sum(dim=1) if position is None else position, 0
        hidden = None
        if not observed.all():
            hidden = torch.zeros(observed.shape, dtype=model.dtype, device=observed.device)
            hidden.masked_fill_(~observed, -torch.inf)
        self.layers = [
            _Layer(layer, model.config, part.keys, part.values, hidden=hidden, paths=paths)
            for layer, part in zip(decoder.layers, cache.layers, strict=True)
        ]

    def hidden(self, tokens: torch.Tensor) -> torch.Tensor:
        x_ND = self.embed(tokens)
        turns = self._turns(x_ND)
        for layer in self.layers:
            x_ND = layer(x_ND, turns)
        self.step += 1
        return self.norm(x_ND)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.lm_head(self.hidden(tokens))

    def _turns(self, x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines `[N,1,r]` of the position of this step."""
        place = self.step % ROOM
        if place == 0:
            ahead = torch.arange(self.step, self.step + ROOM, device=x_ND.device)
            self.table = self.rotary(x_ND, self.position[:, None] + ahead)  # [B,ROOM,r]
        cos, sin = (one[:, place, None].repeat_interleave(self.paths, 0) for one in self.table)
        return cos, sin

    def write_back(self) -> None:
        """Adds the tokens since to the cache, of contexts with one path each."""
        for i, layer in enumerate(self.layers):
            self.cache.update(*layer.attention.since(), i)


class _Layer:
    """One layer for one token of each path: `[N,D]` -> `[N,D]`."""

    def __init__(self, layer: Any, config: TsfLlmConfig, *cached: torch.Tensor, **options: Any):
        attention = _Latent if config.attention_type == "mla" else _Grouped
        self.attention = attention(layer.self_attn, *cached, **options)
        self.first, self.second = norm_of(layer.input_layernorm), norm_of(layer.post_attention_layernorm)
        self.gate, self.experts = layer.mlp.gate, experts_of(layer.mlp.experts)
        shared = layer.mlp.shared_experts
        self.gate_up, self.down = joined(shared.gate_proj, shared.up_proj), shared.down_proj
        self.act = shared.act_fn

    def __call__(self, x_ND: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x_ND = x_ND + self.attention(self.first(x_ND), turns)
        normed = self.second(x_ND)
        _, weights_NK, index_NK = self.gate(normed)
        gate, up = self.gate_up(normed).chunk(2, dim=-1)
        return x_ND + self.experts(normed, index_NK, weights_NK) + self.down(self.act(gate) * up)


# --- the loop of `generate` ------------------------------------------------------------------------------------------

INPUTS = {"past_values", "attention_mask", "position_ids", "use_cache", "logits_to_keep", CACHE, *PROCESSOR_EXTRAS}


@torch.no_grad()
def sample_lean(
    model: Any,
    input_ids: torch.Tensor,
    *,
    logits_processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    stopping_criteria: Any,
    generation_config: Any,
    synced_gpus: bool = False,
    streamer: Any = None,
    **inputs: Any,
) -> torch.Tensor | None:
    """What transformers' loop returns for these arguments of it, token by token the same; None where it has to run.

    It has to for whatever returns more than tokens, for inputs that we do not know, and away from the CPU, where it
    has kernels of its own for the experts of few tokens."""
    cache, mask, positions = (inputs.get(name) for name in (CACHE, "attention_mask", "position_ids"))
    mask = torch.ones_like(input_ids) if mask is None else mask
    usual = not (synced_gpus or streamer is not None or generation_config.return_dict_in_generate)
    usual = usual and generation_config.prefill_chunk_size is None and inputs.keys() <= INPUTS
    fresh = type(cache) is DynamicCache and cache.get_seq_length() == 0 and inputs.get("use_cache")
    if not (usual and fresh and mask.ndim == 2 and input_ids.device.type == "cpu"):
        return None
    ends = any(hasattr(one, "eos_token_id") for one in stopping_criteria)
    if not can_share(model) or (ends and generation_config.pad_token_id is None):
        return None
    going = torch.ones(len(input_ids), dtype=torch.long)
    position = None if positions is None else positions[:, -1].expand(len(input_ids)) + 1
    logits, context = model(input_ids=input_ids, **inputs).logits[:, -1], None
    while True:
        scores = logits_processor(input_ids, logits.float())
        if generation_config.do_sample:
            tokens = torch.multinomial(F.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = scores.argmax(dim=-1)
        if ends:
            tokens = tokens * going + generation_config.pad_token_id * (1 - going)
        input_ids = torch.cat((input_ids, tokens[:, None]), dim=-1)
        going = going & ~stopping_criteria(input_ids, None)
        if not going.any():
            break
        context = context or SharedContext(model, cache, mask, position=position)
        logits = context.logits(tokens)
    if context is not None:
        context.write_back()  # the cache may be the caller's
    return input_ids


# --- attention -------------------------------------------------------------------------------------------------------


class _Attention:
    """Keys and values of contexts, once, and of the tokens since, of each path; and attention to both.

    `keys [B,KV,T,d]`; `values [B,KV,T,v]`, or None where they are the first `v` numbers of the keys."""

    def __init__(
        self, keys: torch.Tensor, values: torch.Tensor | None, width: int, *, hidden: torch.Tensor | None, paths: int
    ):
        _, self.heads, self.context, _ = keys.shape
        self.paths, self.length, self.width = paths, 0, width
        kept = [one.flatten(0, 1) for one in (keys, values) if one is not None]  # [B*KV,T,*]
        self.shared = kept if paths > 1 else None
        self.hidden = None if hidden is None else hidden.repeat_interleave(self.heads, 0)[:, None]  # [B*KV,1,T]
        if paths > 1:
            self.own = [one.new_empty(len(one) * paths, ROOM, one.shape[-1]) for one in kept]
        else:  # a context of its own is but the beginning of a path
            self.own = [torch.cat((one, one.new_empty(len(one), ROOM, one.shape[-1])), dim=1) for one in kept]
            self.length = self.context

    def append(self, *parts: torch.Tensor) -> None:
        """One token's key, and value where there are any, `[N,KV,*]`."""
        if self.length == self.own[0].shape[1]:
            self.own = [torch.cat((one, torch.empty_like(one[:, :ROOM])), dim=1) for one in self.own]
        for own, part in zip(self.own, parts, strict=True):
            own[:, self.length] = part.flatten(0, 1)
        self.length += 1

    def attend(self, query: torch.Tensor) -> torch.Tensor:
        """`[N,KV,G,d]` queries, scaled -> `[N,KV,G,v]`."""
        size = query.shape[:3]
        own = [one[:, : self.length] for one in self.own]  # [N*KV,s,*]
        scores = torch.bmm(query.flatten(0, 1), own[0].transpose(1, 2))  # [N*KV,G,s]
        if self.shared is None:
            if self.hidden is not None:
                scores[..., : self.context] += self.hidden
            return torch.bmm(_softmax(scores), own[-1][..., : self.width]).view(*size, -1)
        far = torch.bmm(self._together(query), self.shared[0].transpose(1, 2))  # [B*KV,K*G,T]
        if self.hidden is not None:
            far += self.hidden
        weights = _softmax(torch.cat((self._apart(far, size), scores.view(*size, -1)), dim=-1))
        far_weights, weights = weights.split([self.context, self.length], dim=-1)
        far = torch.bmm(self._together(far_weights), self.shared[-1][..., : self.width])
        near = torch.bmm(weights.flatten(0, 1), own[-1][..., : self.width])
        return near.view(*size, -1) + self._apart(far, size)

    def _together(self, x: torch.Tensor) -> torch.Tensor:
        """`[N,KV,G,*]` -> `[B*KV,K*G,*]`: what reads one context is one matrix."""
        x = x.unflatten(0, (-1, self.paths)).transpose(1, 2)  # [B,KV,K,G,*]
        return x.flatten(2, 3).flatten(0, 1)

    def _apart(self, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
        """The way back."""
        x = x.view(-1, self.heads, self.paths, size[2], x.shape[-1]).transpose(1, 2)  # [B,K,KV,G,*]
        return x.flatten(0, 1)

    def since(self) -> list[torch.Tensor]:
        """The tokens since the context as the cache has them, `[B,KV,s,*]`."""
        return [one[:, self.context : self.length].unflatten(0, (-1, self.heads)) for one in self.own]


class _Latent(_Attention):
    """Multi-head latent attention. The one key of all heads is the latent and the rotary key, its value the latent."""

    def __init__(self, module: Any, latent: torch.Tensor, k_rope: torch.Tensor, **options: Any):
        c = module.config
        H, n, r, R, v = (c.num_attention_heads, c.qk_nope_head_dim, c.qk_rope_head_dim, c.kv_lora_rank, c.v_head_dim)
        super().__init__(torch.cat((latent, k_rope), dim=-1), None, R, **options)
        self.rotate, self.sizes = module.rotate, (H, r, R)
        w_k, w_v = _wide(module.kv_b_proj).view(H, n + v, R).split([n, v], dim=1)
        q_last = module.q_proj if c.q_lora_rank is None else module.q_b_proj
        w_nope, w_rope = (module.scaling * _wide(q_last)).view(H, n + r, -1).split([n, r], dim=1)
        absorbed = torch.einsum("hnr,hnd->hrd", w_k, w_nope).flatten(0, 1)  # [H*R,D]
        query, latents = torch.cat((absorbed, w_rope.flatten(0, 1))), _wide(module.kv_a_proj_with_mqa).roll(r, 0)
        dtype = module.o_proj.weight.dtype
        self.query: Product | None = None
        if c.q_lora_rank is None:
            self.first = torch.cat((query, latents)).to(dtype)  # [H*R + H*r + r + R,D]
        else:
            self.first = torch.cat((_wide(module.q_a_proj), latents)).to(dtype)
            q_norm, query = norm_of(module.q_a_layernorm), query.to(dtype)
            self.query = lambda x: product_of_few(q_norm(x), query)
        self.norm = norm_of(module.kv_a_layernorm)
        w_o = _wide(module.o_proj).view(-1, H, v)
        self.out = torch.einsum("dhv,hvr->dhr", w_o, w_v).flatten(1).to(dtype)  # [D,H*R]

    def __call__(self, x_ND: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        N, (H, r, R) = len(x_ND), self.sizes
        first = product_of_few(x_ND, self.first)
        head, latent = first[:, :-R], self.norm(first[:, -R:])
        if self.query is not None:
            head = torch.cat((self.query(head[:, :-r]), head[:, -r:]), dim=-1)
        ropes = self.rotate(head[:, H * R :].view(N, H + 1, 1, r), *turns).squeeze(2)  # of all heads and of the key
        query = torch.cat((head[:, : H * R].view(N, H, R), ropes[:, :H]), dim=-1)
        self.append(torch.cat((latent, ropes[:, H]), dim=-1)[:, None])
        return product_of_few(self.attend(query[:, None]).view(N, H * R), self.out)

    def since(self) -> list[torch.Tensor]:
        return list(super().since()[0].split([self.sizes[2], self.sizes[1]], dim=-1))


class _Grouped(_Attention):
    """Grouped-query and multi-head attention."""

    def __init__(self, module: Any, keys: torch.Tensor, values: torch.Tensor, **options: Any):
        super().__init__(keys, values, values.shape[-1], **options)
        self.rotate, self.rope = module.rotate, module.config.qk_rope_head_dim
        self.groups = module.num_key_value_groups
        projections = (module.scaling * _wide(module.q_proj), _wide(module.k_proj), _wide(module.v_proj))
        self.first = torch.cat(projections).to(module.o_proj.weight.dtype)  # [(H+KV)*d + KV*v,D]
        self.out = module.o_proj

    def __call__(self, x_ND: torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        N, KV, values = len(x_ND), self.heads, self.heads * self.width
        first = product_of_few(x_ND, self.first)
        heads = first[:, :-values].view(N, KV * (self.groups + 1), 1, -1)  # queries and keys
        turned = self.rotate(heads[..., -self.rope :], *turns)
        heads = torch.cat((heads[..., : -self.rope], turned), dim=-1).squeeze(2)
        self.append(heads[:, -KV:], first[:, -values:].view(N, KV, -1))
        return self.out(self.attend(heads[:, :-KV].view(N, KV, self.groups, -1)).view(N, -1))


def _wide(module: nn.Linear) -> torch.Tensor:
    """A matrix, in float32 at least: products of matrices are rounded once, at the end."""
    weight = module.weight.detach()
    return weight.float() if weight.dtype.itemsize < 4 else weight


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    return F.softmax(scores.float() if scores.dtype.itemsize < 4 else scores, dim=-1).to(scores.dtype)


# --- norms and experts -----------------------------------------------------------------------------------------------


def norm_of(module: nn.Module) -> Product:
    """The norm as a function. torch puts RMSNorm together from many small steps, which few tokens notice:
    rms(x) = hypot(|x|, sqrt(D eps)) / sqrt(D)."""
    if type(module) is not TsfLlmRMSNorm or module.weight.dtype.itemsize < 4:
        return module
    size, eps = module.weight.numel(), module.eps or 0.0
    weight = module.weight.detach() * size**0.5
    least = weight.new_tensor((size * eps) ** 0.5)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return (x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(least)).mul_(weight)

    return norm


def joined(*layers: nn.Module) -> Product:
    """Several layers on the same input, their outputs side by side: one product where they are plain matrices."""
    if all(_is_plain(one) for one in layers):
        weight = torch.cat([one.get_parameter("weight").detach() for one in layers])
        return lambda x: product_of_few(x, weight)
    return lambda x: torch.cat([one(x) for one in layers], dim=-1)


def experts_of(module: Any) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """`(x [N,D], index [N,K], weights [N,K]) -> [N,D]`, K here the experts of a token."""
    if type(module) is not TsfLlmExperts or module.gate_up_proj.device.type != "cpu":
        return module
    up, down = (one.detach().unbind(0) for one in (module.gate_up_proj, module.down_proj))
    act = module.act_fn

    def answer(x: torch.Tensor, expert: int) -> torch.Tensor:
        gate, up_x = product_of_few(x, up[expert]).chunk(2, dim=-1)
        return product_of_few(act(gate) * up_x, down[expert])

    def run(x: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if len(x) == 1:
            return weights @ torch.cat([answer(x, expert) for expert in index[0].tolist()])
        if len(x) * up[0].numel() > WORTH_SORTING and are_sorted(module, x):
            return grouped_experts(module, x, index, weights)
        expert, order = index.flatten().sort(stable=True)
        token = order // index.shape[1]
        parts = x[token].split(expert.bincount(minlength=len(up)).tolist())
        weighed = torch.cat([answer(part, e) for e, part in enumerate(parts) if len(part)])
        return torch.zeros_like(x).index_add_(0, token, weighed.mul_(weights.flatten()[order, None]))

    return run


__all__ = ["RepeatedContext", "SharedContext", "can_share", "going_on"]
