"""TSF-LLM: a decoder-only language model over market bars.

Design choices:
* A bar enters as continuous features, a future step leaves as a *return token*. The sequence is `T` bar placeholders
  followed by up to `P` return tokens, so transformers' `generate`, `Trainer`, trl and PEFT work unchanged.
* Multi-head latent attention caches one latent and one rotary key per token. Prefill expands them for SDPA/flash;
  decoding is *absorbed*: queries move into the latent space and the cache is read as it is.
* Every bar position is trained to name the next return, so a window of `T` bars gives `T` lessons.

Shapes: B batch, T bars, S sequence (bars and tokens), F features, D hidden, H heads, R latent rank, N nope and
r rotary part of a head, v value part, V vocabulary, P prediction steps, Q quantiles.
"""

from .versions_tsf_llm import CACHE  # first: names below are missing where transformers is too old

# isort: split
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MoeCausalLMOutputWithPast, MoeModelOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_tsf_llm import AUTO_MAP, PROCESSOR_EXTRAS, TsfLlmConfig
from .decoding_tsf_llm import sample_lean
from .emission_tsf_llm import TsfLlmBarHead
from .experts_tsf_llm import TsfLlmExperts, TsfLlmMoE, TsfLlmTopKRouter, load_balancing_loss
from .front_end_tsf_llm import TsfLlmFrontEnd, init_front_end
from .laws_tsf_llm import law_loss
from .norms_tsf_llm import TsfLlmBatchNorm, TsfLlmDynamicTanh, block_norm, latent_norm
from .original_modeling_tsf_llm import (
    NEVER_LOADED,
    ORIGINAL_ATTENTION,
    TsfLlmRawLogitRouter,
    key_conversions,
    rotate_pairs,
    wrap_positions,
)
from .pipeline_tsf_llm import TsfLlmPipeline  # noqa: F401 (registers its task; and so all code travels with a model)
from .products_tsf_llm import TsfLlmLinear
from .quantization_tsf_llm import use_int8_layers
from .rotary_tsf_llm import TsfLlmRotaryEmbedding, rotate, yarn_scaling
from .series_head_tsf_llm import (
    SeriesWindow,
    TsfLlmSeriesHead,
    above_zero,
    check_series_inputs,
    init_series_head,
    input_width,
    series_loss,
)

logger = logging.get_logger(__name__)
SHOWN = ("output_hidden_states", "output_attentions", "output_router_logits")  # of every position, where asked for


@dataclass
class TsfLlmPredictionOutput(ModelOutput):
    """Output of `TsfLlmForPrediction`.

    Args:
        loss: scalar, when labels were given (in training with the load-balancing loss added).
        prediction: `[B,P]` values, `[B,P,Q]` increasing quantiles or `[B,P,3]` probabilities of down, flat, up.
        logits: what `prediction` is made from: the same values, the same quantiles, or `[B,P,3]` class logits.
        last_hidden_state: `[B,T,D]`, after the final norm.
        past_key_values (`cache` from transformers 5.24), hidden_states, attentions, router_logits: as elsewhere.
        aux_loss: scalar load-balancing loss, 1 when the experts are used evenly.
        llmps_loss: scalar loss of the front end (`use_mscnn`, `use_t2t`), before its weight `llmps_lambda`.
        zero_logits: `[B,P]` log odds of zero, of `zero_inflated` models; `logits` are then quantiles of the rest.
    """

    loss: torch.Tensor | None = None
    prediction: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    last_hidden_state: torch.Tensor | None = None
    if CACHE == "cache":
        cache: Cache | None = None
    else:
        past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    aux_loss: torch.Tensor | None = None
    llmps_loss: torch.Tensor | None = None
    zero_logits: torch.Tensor | None = None


@dataclass
class TsfLlmModelOutput(MoeModelOutputWithPast):
    """transformers' own, and `llmps_loss`, the scalar loss of the front end where there is one."""

    llmps_loss: torch.Tensor | None = None


@dataclass
class TsfLlmCausalLMOutput(MoeCausalLMOutputWithPast):
    """transformers' own; scalar losses of front end and bar head, where there is one; and `law_logits` `[B,S,H,bins]`,
    the bins of the cumulative return to each of `config.far_horizons`."""

    llmps_loss: torch.Tensor | None = None
    bar_loss: torch.Tensor | None = None
    law_logits: torch.Tensor | None = None


def eager_attention_forward(
    module: "TsfLlmAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The reference that sdpa and flash are compared with; also the one that returns its weights."""
    key = key.repeat_interleave(module.num_key_value_groups, dim=1)
    value = value.repeat_interleave(module.num_key_value_groups, dim=1)
    scores_BHSS = torch.einsum("bhsn,bhtn->bhst", query, key) * scaling
    if attention_mask is not None:
        scores_BHSS = scores_BHSS + attention_mask
    weights_BHSS = F.softmax(scores_BHSS, dim=-1, dtype=torch.float32).to(query.dtype)
    weights_BHSS = F.dropout(weights_BHSS, p=dropout, training=module.training)
    return torch.einsum("bhst,bhtv->bshv", weights_BHSS, value), weights_BHSS


def asked(
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    attention_mask: torch.Tensor | None,
    last: int | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor | None]:
    """What the queries are made of, their places, and their mask: of all positions, or of the `last` ones alone."""
    if last is None:
        return hidden_states, position_embeddings, attention_mask
    cos, sin = position_embeddings
    mask = None if attention_mask is None else attention_mask[:, :, -last:]
    return hidden_states[:, -last:], (cos[:, -last:], sin[:, -last:]), mask


class TsfLlmAttention(nn.Module):
    """What latent and grouped attention share: the call of the attention interface and the output projection."""

    num_key_value_groups: int  # heads that share one key; the attention interface reads it

    def __init__(self, config: TsfLlmConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = config.is_causal
        self.qk_head_dim = config.qk_nope_head_dim + config.qk_rope_head_dim
        self.scaling = self.qk_head_dim**-0.5 * yarn_scaling(config)
        self.rotate = rotate_pairs if config.rope_interleaved else rotate
        self.o_proj = TsfLlmLinear(config.num_attention_heads * config.v_head_dim, config.hidden_size, bias=False)

    def attend(self, query, key, value, attention_mask, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`[B,H,S,*]` queries on `[B,KV,S',*]` keys and values -> `[B,S,H,*]`, and weights when eager."""
        attention = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        attention = ORIGINAL_ATTENTION.get(self.config.attention_softmax_axis, attention)
        dropout = self.config.attention_dropout if self.training else 0.0
        return attention(self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs)


class TsfLlmLatentAttention(TsfLlmAttention):
    """Multi-head latent attention with a decoupled rotary key. DeepSeek-V2, section 2.1."""

    num_key_value_groups = 1

    def __init__(self, config: TsfLlmConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        D, H, R = config.hidden_size, config.num_attention_heads, config.kv_lora_rank
        if config.q_lora_rank is None:
            self.q_proj = TsfLlmLinear(D, H * self.qk_head_dim, bias=False)
        else:
            self.q_a_proj = TsfLlmLinear(D, config.q_lora_rank, bias=False)
            self.q_a_layernorm = latent_norm(config, config.q_lora_rank)
            self.q_b_proj = TsfLlmLinear(config.q_lora_rank, H * self.qk_head_dim, bias=False)
        self.kv_a_proj_with_mqa = TsfLlmLinear(D, R + config.qk_rope_head_dim, bias=False)
        self.kv_a_layernorm = latent_norm(config, R)
        self.kv_b_proj = TsfLlmLinear(R, H * (config.qk_nope_head_dim + config.v_head_dim), bias=False)

    def queries(self, x_BSD: torch.Tensor) -> torch.Tensor:
        if self.config.q_lora_rank is None:
            return self.q_proj(x_BSD)
        return self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BSD)))

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        cache: Cache | None = None,
        last: int | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        c, B = self.config, hidden_states.shape[0]
        H, N, v = c.num_attention_heads, c.qk_nope_head_dim, c.v_head_dim
        asking, places, attention_mask = asked(hidden_states, position_embeddings, attention_mask, last)
        S = asking.shape[1]
        q_BHSn = self.queries(asking).view(B, S, H, self.qk_head_dim).transpose(1, 2)
        q_nope, q_rope = q_BHSn.split([N, c.qk_rope_head_dim], dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(hidden_states).split([c.kv_lora_rank, c.qk_rope_head_dim], dim=-1)
        latent, k_rope = self.kv_a_layernorm(latent)[:, None], k_rope[:, None]  # [B,1,S,R], [B,1,S,r]
        q_rope, k_rope = self.rotate(q_rope, *places), self.rotate(k_rope, *position_embeddings)
        if cache is not None:
            latent, k_rope = cache.update(latent, k_rope, self.layer_idx)

        # Flash and flex attention tie their masks to one query per token. An adapter (PEFT) wraps the projection,
        # whose `weight` lacks the adapter's share. A softmax over heads needs the heads. All three expand instead.
        absorbs = self.config._attn_implementation in ("eager", "sdpa") and type(self.kv_b_proj) is TsfLlmLinear
        if S == 1 and cache is not None and last is None and absorbs and c.attention_softmax_axis == "keys":
            context, weights = self.absorbed(q_nope, q_rope, latent, k_rope, attention_mask, **kwargs)
        else:
            kv = self.kv_b_proj(latent).view(B, -1, H, N + v).transpose(1, 2)  # [B,H,S',N+v]
            k_nope, value = kv.split([N, v], dim=-1)
            query = torch.cat((q_nope, q_rope), dim=-1)
            key = torch.cat((k_nope, k_rope.expand(-1, H, -1, -1)), dim=-1)
            context, weights = self.attend(query, key, value, attention_mask, **kwargs)
        return self.o_proj(context.reshape(B, S, H * v)), weights

    def absorbed(self, q_nope, q_rope, latent, k_rope, attention_mask, **kwargs):
        """One new token straight on the latent cache `[B,1,S',R]`: nothing is expanded to heads.

        The heads take the place of the sequence, one key serves them all, and it serves as value too: its first `R`
        numbers are the latent. Equal sizes of key and value keep the fused kernels in play."""
        H, N, R = self.config.num_attention_heads, self.config.qk_nope_head_dim, self.config.kv_lora_rank
        w_k, w_v = self.kv_b_proj.weight.view(H, -1, R).split([N, self.config.v_head_dim], dim=1)
        query = torch.cat((torch.einsum("bhsn,hnr->bshr", q_nope, w_k), q_rope.transpose(1, 2)), dim=-1)  # [B,1,H,R+r]
        key = torch.cat((latent, k_rope), dim=-1)
        kwargs["is_causal"] = False  # the heads are no sequence; transformers hands down the config's value
        context, weights = self.attend(query, key, key, attention_mask, **kwargs)  # [B,H,1,R+r]
        context = torch.einsum("bhsr,hvr->bshv", context[..., :R], w_v)
        return context, None if weights is None else weights.transpose(1, 2)


class TsfLlmGroupedAttention(TsfLlmAttention):
    """Grouped-query attention, and multi-head attention when every head has its own keys. Ainslie et al. 2023.

    Only the last `qk_rope_head_dim` parts of a head are rotated, as in the latent form."""

    def __init__(self, config: TsfLlmConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        D, H = config.hidden_size, config.num_attention_heads
        KV = config.num_key_value_heads or H
        self.num_key_value_groups = H // KV
        self.q_proj = TsfLlmLinear(D, H * self.qk_head_dim, bias=False)
        self.k_proj = TsfLlmLinear(D, KV * self.qk_head_dim, bias=False)
        self.v_proj = TsfLlmLinear(D, KV * config.v_head_dim, bias=False)

    def rotate_part(
        self, x_BHSn: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        nope, rope = x_BHSn.split([self.config.qk_nope_head_dim, self.config.qk_rope_head_dim], dim=-1)
        return torch.cat((nope, self.rotate(rope, *position_embeddings)), dim=-1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None,
        cache: Cache | None = None,
        last: int | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        B, S, _ = hidden_states.shape
        asking, places, attention_mask = asked(hidden_states, position_embeddings, attention_mask, last)
        query = self.q_proj(asking).unflatten(-1, (-1, self.qk_head_dim)).transpose(1, 2)
        key = self.k_proj(hidden_states).view(B, S, -1, self.qk_head_dim).transpose(1, 2)
        value = self.v_proj(hidden_states).view(B, S, -1, self.config.v_head_dim).transpose(1, 2)
        query, key = self.rotate_part(query, places), self.rotate_part(key, position_embeddings)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        context, weights = self.attend(query, key, value, attention_mask, **kwargs)
        return self.o_proj(context.flatten(2)), weights


def last_columns(attention_mask: torch.Tensor | None, length: int) -> torch.Tensor | None:
    """A mask `[B,S']` over cache and input -> `[B,length]` over the input; None for no mask or one of another rank."""
    return attention_mask[:, -length:] if attention_mask is not None and attention_mask.ndim == 2 else None


class TsfLlmDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: TsfLlmConfig, layer_idx: int):
        super().__init__()
        attention = TsfLlmLatentAttention if config.attention_type == "mla" else TsfLlmGroupedAttention
        self.input_layernorm = block_norm(config)
        self.self_attn = attention(config, layer_idx)
        self.post_attention_layernorm = block_norm(config)
        self.mlp = TsfLlmMoE(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self, hidden_states: torch.Tensor, token_mask: torch.Tensor | None = None, last: int | None = None, **kwargs
    ) -> torch.Tensor:
        """Of all positions, or of the `last` ones alone, `[B,last,D]`."""
        cache = kwargs.pop(CACHE, None)  # by that name the base class withholds it while activations are checkpointed
        attended, _ = self.self_attn(self.input_layernorm(hidden_states, token_mask), cache=cache, last=last, **kwargs)
        if last is not None:
            hidden_states, token_mask = hidden_states[:, -last:], last_columns(token_mask, last)
        hidden_states = hidden_states + self.dropout(attended)
        mixed = self.mlp(self.post_attention_layernorm(hidden_states, token_mask))
        return hidden_states + self.dropout(mixed)


class TsfLlmPreTrainedModel(PreTrainedModel):
    config: TsfLlmConfig
    base_model_prefix = "model"
    main_input_name = "past_values"
    input_modalities = ["time"]  # noqa: RUF012 (declared by the base class)
    supports_gradient_checkpointing = True
    _no_split_modules = ["TsfLlmDecoderLayer"]  # noqa: RUF012 (declared by the base class)
    _skip_keys_device_placement = [CACHE]  # noqa: RUF012
    _keys_to_ignore_on_load_unexpected = [  # noqa: RUF012 (declared by the base class); first, other heads
        *(r"^lm_head\.", r"^law_head\.", r"^bar_head\.", r"^head\.", r"embed_tokens\."),
        *NEVER_LOADED,
    ]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": TsfLlmDecoderLayer,
        "attentions": OutputRecorder(TsfLlmAttention, index=1),
        "router_logits": [OutputRecorder(TsfLlmTopKRouter), OutputRecorder(TsfLlmRawLogitRouter)],
    }

    dates_itself = False  # whoever trains this model has set `config.trained_through` to what it will have seen
    use_int8_layers = use_int8_layers  # its quantizer calls it before the weights of an int8 folder are loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, TsfLlmTopKRouter | TsfLlmRawLogitRouter):
            init.normal_(module.weight, mean=0.0, std=std)
        elif isinstance(module, TsfLlmExperts):
            init.normal_(module.gate_up_proj, mean=0.0, std=std)
            init.normal_(module.down_proj, mean=0.0, std=std)
        elif isinstance(module, TsfLlmBatchNorm | TsfLlmDynamicTanh):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            if isinstance(module, TsfLlmDynamicTanh):
                init.constant_(module.alpha, 0.5)
            else:
                init.zeros_(module.running_mean)
                init.ones_(module.running_var)
        else:
            init_front_end(module)
            init_series_head(module)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, output_loading_info=False, **kwargs) -> Any:
        """transformers' own, without a random head in the place of another one, behind a report in the log.

        Raises:
            ValueError: the folder holds a head of another class. A `prediction_type` in the call asks for a new one.
        """
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        saved = model.config.architectures
        other = saved and {cls.__name__, "TsfLlmModel"}.isdisjoint(saved)  # a base model has no head to be taken for
        if other and any("head." in name for name in info["missing_keys"]):
            raise ValueError(
                f"{pretrained_model_name_or_path} holds a {saved[0]}, whose head is no {cls.__name__}'s: load it with "
                "its own class" + cls.NEW_HEAD
            )
        return (model, info) if output_loading_info else model

    NEW_HEAD = ""  # how to ask for one in `from_pretrained`

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """True; transformers' own looks for `@use_experts_implementation` in this very file."""
        return True

    def forget_date(self, *_: Any) -> None:
        """Weights that change may have seen any date: `trained_through` goes, unless `dates_itself`."""
        if self.config.trained_through is not None and not self.dates_itself:
            logger.warning(
                f"the weights change: trained_through={self.config.trained_through} no longer holds and is cleared; "
                "set model.config.trained_through to the last date of the labels after training"
            )
            self.config.trained_through = None

    def watched(self, output: torch.Tensor) -> torch.Tensor:
        """Forgets the date once a gradient comes back through it: some loops never call `train()`."""
        if output.requires_grad and not torch.compiler.is_compiling():
            output.register_hook(self.forget_date)
        return output

    def train(self, mode: bool = True) -> "TsfLlmPreTrainedModel":
        if mode or hasattr(self, "peft_config"):  # peft calls `eval()` when it has loaded an adapter, of unknown dates
            self.forget_date()
        return super().train(mode)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.forget_date()
        return super().load_state_dict(*args, **kwargs)

    def save_pretrained(self, save_directory, *args, **kwargs) -> None:
        """transformers' own, with a config that names all code files: the folder, or the repo with `push_to_hub=True`,
        stands on its own. Tensors keep our names, also those of a model that was loaded from the original's.

        `AutoModel` leads to the class that was saved, except that a causal LM opens as its base model."""
        predicts = isinstance(self, TsfLlmForPrediction)
        auto_model = "TsfLlmForPrediction" if predicts else "TsfLlmModel"
        auto_pipeline = "AutoModelForTimeSeriesPrediction" if predicts else "AutoModelForCausalLM"
        self.config.auto_map = {**AUTO_MAP, "AutoModel": f"modeling_tsf_llm.{auto_model}"}
        for task in (self.config.custom_pipelines or {}).values():
            task["pt"] = [auto_pipeline]
        kwargs.setdefault("save_original_format", False)
        own_class = type(self)
        # While sharded it is of a class that torch makes around ours, whose code is not to be saved.
        self.__class__ = next(one for one in own_class.__mro__ if not one.__module__.startswith("torch."))
        try:
            super().save_pretrained(save_directory, *args, **kwargs)
        finally:
            self.__class__ = own_class


class TsfLlmModel(TsfLlmPreTrainedModel):
    """Decoder without a head. `token_embedding=False` leaves the table of return tokens out (bars only)."""

    def __init__(self, config: TsfLlmConfig, token_embedding: bool = True):
        super().__init__(config)
        self.input_projection = TsfLlmLinear(input_width(config), config.hidden_size)
        if token_embedding:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(TsfLlmDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = block_norm(config)
        self.rotary_emb = TsfLlmRotaryEmbedding(config)
        self.front_end = TsfLlmFrontEnd(config) if config.use_mscnn or config.use_t2t else None
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return getattr(self, "embed_tokens", self.input_projection)

    def set_input_embeddings(self, value: nn.Module) -> None:
        setattr(self, "embed_tokens" if hasattr(self, "embed_tokens") else "input_projection", value)

    def embed(
        self, past_values: torch.Tensor | None, input_ids: torch.Tensor | None, token_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Bars `[B,T,F]` and tokens `[B,S]` -> `[B,S,D]`. Bars fill the `<bar>` places of `input_ids` in order.

        `token_mask` `[B,S]` tells the front end, where there is one, which bars are observed.

        Raises:
            ValueError: if neither is given, features differ from the config, or bars and places differ in number.
        """
        return self.embed_with_loss(past_values, input_ids, token_mask)[0]

    def embed_with_loss(
        self, past_values: torch.Tensor | None, input_ids: torch.Tensor | None, token_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What `embed` gives, and the loss of the front end."""
        if past_values is None and input_ids is None:
            raise ValueError("give past_values [B,T,F], input_ids [B,S] or inputs_embeds [B,S,D]")
        if past_values is not None and past_values.shape[-1] != self.config.num_features:
            raise ValueError(
                f"past_values has {past_values.shape[-1]} features, the model expects {self.config.num_features}: "
                "use the processor that was saved with it"
            )
        if past_values is not None:
            past_values = past_values.to(self.input_projection.weight.dtype)
            past_values = F.dropout(past_values, self.config.input_dropout, self.training)
            bars_BTD = self.input_projection(past_values)
        if input_ids is None:
            assert past_values is not None
            return self.with_front_end(bars_BTD, past_values, token_mask)
        tokens_BSD = self.embed_tokens(input_ids)
        places_BS = input_ids == self.config.bar_token_id
        places_B, T = places_BS.sum(dim=1), 0 if past_values is None else past_values.shape[1]
        if (places_B != T).any():
            raise ValueError(f"rows have {places_B.tolist()} <bar> places for {T} bars: give one place to each bar")
        if past_values is None or T == 0:
            return tokens_BSD, None
        observed_BT = None if token_mask is None else token_mask[places_BS].view(-1, T)
        bars_BTD, llmps_loss = self.with_front_end(bars_BTD, past_values, observed_BT)
        return tokens_BSD.index_put((places_BS,), bars_BTD.flatten(0, 1).to(tokens_BSD.dtype)), llmps_loss

    def with_front_end(
        self, bars_BTD: torch.Tensor, past_values: torch.Tensor, observed_BT: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings of bars with what the front end adds, and its loss."""
        if self.front_end is None:
            return bars_BTD, None
        observed_BT = torch.ones_like(past_values[..., 0]) if observed_BT is None else observed_BT
        added_BTD, llmps_loss = self.front_end(past_values, observed_BT.bool())
        return bars_BTD + added_BTD.to(bars_BTD.dtype), llmps_loss

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        past_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        last: int | None = None,
        **kwargs: Any,
    ) -> TsfLlmModelOutput:
        """
        Args:
            past_values: features of the bars, `[B,T,F]`.
            attention_mask: `[B,S]`, 1 where a bar or token counts; padding belongs on the left.
            input_ids: `[B,S]`: one `<bar>` for each bar, then return tokens; may be left out for bars alone.
            position_ids: `[B,S]`; by default counted over the observed positions.
            past_key_values, cache: two names of the cache of what came before; new bars or tokens continue it.
            last: how many of the last positions are wanted: the last layer computes no others.

        Raises:
            ValueError: for bars that continue a cache although a front end must read all bars at once.
        """
        llmps_loss = None
        cache = past_key_values if cache is None else cache
        past = cache.get_seq_length() if cache is not None else 0
        if inputs_embeds is None:
            if past_values is not None and self.front_end is not None and past:
                raise ValueError(
                    "this model has a front end (use_mscnn, use_t2t), which reads all bars at once: give the whole "
                    "window without a cache; only return tokens can continue a cache"
                )
            length = (
                input_ids.shape[1] if input_ids is not None else 0 if past_values is None else past_values.shape[1]
            )
            inputs_embeds, llmps_loss = self.embed_with_loss(
                past_values, input_ids, last_columns(attention_mask, length)
            )
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        named_cache: dict[str, Any] = {CACHE: cache}
        S = inputs_embeds.shape[1]
        token_mask = last_columns(attention_mask, S)
        if position_ids is None and attention_mask is not None and token_mask is not None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -S:]
        elif position_ids is None:
            position_ids = torch.arange(past, past + S, device=inputs_embeds.device)[None]
        if self.config.original_arithmetic:
            position_ids = wrap_positions(position_ids, length=past + S, limit=self.config.max_position_embeddings)
        causal_mask = create_causal_mask(  # bidirectional where the config says so
            config=self.config,
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            **named_cache,
        )
        position_embeddings = self.rotary_emb(inputs_embeds, position_ids)
        hidden_states = inputs_embeds
        trimmed = self.trims(last, S, causal_mask, cache)
        for i, layer in enumerate(self.layers, start=1):
            hidden_states = layer(
                hidden_states,
                token_mask,
                position_embeddings=position_embeddings,
                attention_mask=causal_mask,
                last=trimmed if i == len(self.layers) else None,
                **named_cache,
                **kwargs,
            )
        kept = slice(None if last is None else -last, None)
        token_mask = token_mask if trimmed is None else last_columns(token_mask, trimmed)
        return TsfLlmModelOutput(
            last_hidden_state=self.watched(self.norm(hidden_states, token_mask)[:, kept]),
            llmps_loss=llmps_loss,
            **(named_cache if use_cache else {}),
        )

    def trims(self, last: int | None, length: int, causal_mask: Any, cache: Cache | None) -> int | None:
        """The positions that the last layer computes; None for all. Several need a mask of their own, which flash and
        flex attention do not take, and so does one with a static cache, whose empty places have keys too. A softmax
        over heads needs every position."""
        c = self.config
        if last is None or last >= length or self.training or c.attention_softmax_axis != "keys":
            return None
        one_mask = isinstance(causal_mask, torch.Tensor) and causal_mask.ndim == 4
        all_filled = cache is None or not cache.is_compileable
        fits = one_mask or (causal_mask is None and last == 1 and all_filled)
        return last if fits and c._attn_implementation in ("eager", "sdpa") else None


class TsfLlmHead(TsfLlmPreTrainedModel):
    """What both heads share: running the decoder and charging for unbalanced experts."""

    def decode(
        self, *, attention_mask: torch.Tensor | None, training_loss: bool, output_router_logits: bool | None, **kwargs
    ) -> tuple[TsfLlmModelOutput, torch.Tensor | None]:
        kwargs = {key: value for key, value in kwargs.items() if key not in PROCESSOR_EXTRAS}
        wanted = self.config.output_router_logits if output_router_logits is None else output_router_logits
        outputs = self.model(attention_mask=attention_mask, output_router_logits=wanted or training_loss, **kwargs)
        aux_loss = None
        if training_loss:  # never while generating, where no labels are given
            token_mask = last_columns(attention_mask, outputs.last_hidden_state.shape[1])
            aux_loss = load_balancing_loss(outputs.router_logits, self.config.num_experts_per_tok, token_mask)
        if not wanted:
            outputs.router_logits = None
        return outputs, aux_loss

    def total_loss(
        self,
        loss: torch.Tensor,
        aux_loss: torch.Tensor | None,
        share: float | torch.Tensor = 1.0,
        llmps_loss: torch.Tensor | None = None,
        bar_loss: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """In training experts' balance, front end and bar head count too, by this batch's share in one step."""
        c = self.config
        weighed = (c.router_aux_loss_coef, aux_loss), (c.llmps_lambda, llmps_loss), (c.bar_loss_weight, bar_loss)
        for weight, one in weighed if self.training else ():
            loss = loss if one is None else loss + weight * share * one
        return loss


class TsfLlmForPrediction(TsfLlmHead):
    """All `P` steps from one pass: a value, increasing quantiles or three classes per step, read at the last bar.

    Labels are `[B,P]`: the cumulative return from the origin to each step in units of the origin's sigma
    (`regression`, `quantile`; NaN where unknown), or classes 0, 1, 2 = down, flat, up (-100 where unknown).

    With `patch_length` the model has the series form, see `series_head_tsf_llm`, and reads all positions. Its inputs,
    of which o is the row of the origin and s its scale of differences:
    * `past_target` `[B,T]`: (y[t] - y[o]) / s, 0 where unobserved; `past_values` `[B,T,F]`, unless F is 0;
    * `season_values` `[B,P,2M]`: of each season the value one cycle before each step, and the mean of the last three
      such, in the same units, 0 where unknown; `zero_level` `[B]`: -y[o] / s;
    * `ahead_values` `[B,P,G]`: known at o of each step; `static_ids` `[B,K]`: codes, 0 for unknown;
    * `loss_weight` `[B]`: what errors are multiplied by in the loss, by default 1."""

    NEW_HEAD = ", or give prediction_type in the call for a new head, to be trained"
    accepts_loss_kwargs = False  # losses are means: Trainer must divide by the accumulation steps itself

    def __init__(self, config: TsfLlmConfig):
        super().__init__(config)
        self.model = TsfLlmModel(config, token_embedding=False)
        width = {"regression": 1, "quantile": len(config.quantiles), "classification": 3}[config.prediction_type]
        is_series = config.patch_length is not None
        full = TsfLlmLinear(config.hidden_size, config.prediction_length * width) if not is_series else None
        self.head = full or TsfLlmSeriesHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        past_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        cache: Cache | None = None,
        past_target: torch.Tensor | None = None,
        season_values: torch.Tensor | None = None,
        ahead_values: torch.Tensor | None = None,
        static_ids: torch.Tensor | None = None,
        zero_level: torch.Tensor | None = None,
        loss_weight: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TsfLlmPredictionOutput:
        told = {
            "season_values": season_values,
            "ahead_values": ahead_values,
            "static_ids": static_ids,
            "zero_level": zero_level,
        }
        window = None
        if isinstance(self.head, TsfLlmSeriesHead):
            if use_cache or past_key_values is not None or cache is not None:
                raise ValueError("the series form reads its window at once: give all of it, without a cache")
            check_series_inputs(self.config, past_target=past_target, past_values=past_values, **told)
            window = SeriesWindow.of(self.config, past_target, past_values, attention_mask)
            inputs_embeds = self.model.input_projection(window.patches.to(self.dtype))
            past_values, attention_mask, use_cache = None, window.observed.long(), False
        outputs, aux_loss = self.decode(
            past_values=past_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            training_loss=labels is not None,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        zero_logits = None
        if window is not None:
            logits, zero_logits = self.head(window, outputs[0], **told)
            logits = self.watched(logits)
        else:
            logits = self.answer(self.watched(self.head(outputs[0][:, -1])).float())
        loss = None
        if labels is not None and window is not None:
            asked = {"zero_logits": zero_logits, "zero_level": zero_level, "loss_weight": loss_weight}
            loss = series_loss(self.config, logits, labels.reshape(logits.shape[:2]), **asked)
        elif labels is not None:
            loss = self.task_loss(logits, labels)
        prediction = logits.softmax(-1) if self.config.prediction_type == "classification" else logits
        if zero_logits is not None:
            prediction = above_zero(logits, self.config.quantiles, zero_logits, zero_level)
        return TsfLlmPredictionOutput(
            loss=None if loss is None else self.total_loss(loss, aux_loss, llmps_loss=outputs.llmps_loss),
            prediction=prediction,
            logits=logits,
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            aux_loss=aux_loss,
            llmps_loss=outputs.llmps_loss,
            zero_logits=zero_logits,
            **{CACHE: outputs.get(CACHE)},
        )

    def answer(self, raw_BO: torch.Tensor) -> torch.Tensor:
        """What the head says of the last bar -> `[B,P]` values, `[B,P,Q]` increasing quantiles, `[B,P,3]` logits."""
        logits = raw_BO.unflatten(-1, (self.config.prediction_length, -1))
        if self.config.prediction_type == "quantile":
            return increasing(logits)
        return logits.squeeze(-1) if self.config.prediction_type == "regression" else logits

    def task_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Mean squared error, pinball or cross-entropy over the known labels `[B,P]` (or `[B]` for one step)."""
        labels = labels.reshape(logits.shape[:2])
        if self.config.prediction_type == "classification":
            return F.cross_entropy(logits.flatten(0, 1), labels.flatten().long())
        known = ~labels.isnan()
        if self.config.prediction_type == "regression":
            return F.mse_loss(logits[known], labels[known].float())
        levels = logits.new_tensor(self.config.quantiles)
        error = labels[known].float()[:, None] - logits[known]  # [n,Q]
        return torch.maximum(levels * error, (levels - 1) * error).mean() * 2  # twice: comparable with the CRPS


def increasing(raw_BPQ: torch.Tensor) -> torch.Tensor:
    """Free numbers -> strictly increasing ones along the last axis: the first, then softplus steps."""
    first, steps = raw_BPQ[..., :1], F.softplus(raw_BPQ[..., 1:])
    return torch.cat((first, first + steps.cumsum(dim=-1)), dim=-1)


class TsfLlmForCausalLM(TsfLlmHead, GenerationMixin):
    """The language model: next-return tokens at every bar and at every return token.

    `labels` `[B,S]` are aligned with the sequence and shifted inside, as everywhere in transformers: the label of a
    bar is the return token *of that bar*, so the bar before learns to name it; -100 where unknown. `law_labels`
    `[B,T,H]` are the bins of the cumulative return *from* each bar to each far horizon, not shifted. `bar_targets`
    `[B,S,5]` are aligned as `labels`: what a bar is made of, see `emission_tsf_llm`; NaN where unknown."""

    main_input_name = "input_ids"
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012 (declared by the base class)

    def __init__(self, config: TsfLlmConfig):
        if not config.is_causal:
            raise ValueError("is_causal=False: a language model must not see ahead; use TsfLlmForPrediction")
        if config.patch_length is not None:
            raise ValueError(
                f"patch_length={config.patch_length}: the series form is a TsfLlmForPrediction's; leave it out here"
            )
        if config.use_t2t and config.t2t_context == "window":
            raise ValueError(
                "t2t_context='window' shows every bar the bars after it, and this model learns at every bar: use "
                "t2t_context='causal', or a TsfLlmForPrediction, which is read at the last bar alone"
            )
        super().__init__(config)
        self.model = TsfLlmModel(config)
        self.lm_head = TsfLlmLinear(config.hidden_size, config.vocab_size, bias=False)
        far = len(config.far_horizons)
        self.law_head = TsfLlmLinear(config.hidden_size, far * config.num_bins, bias=False) if far else None
        self.bar_head = TsfLlmBarHead(config.hidden_size) if config.emits_bars else None
        self.post_init()
        defaults = {"do_sample": True, "top_k": 0, "max_new_tokens": config.prediction_length}  # whole distribution
        self.generation_config.update(
            **defaults, suppress_tokens=sorted((config.pad_token_id, config.bar_token_id)), allow_custom_entries=True
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        past_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        law_labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache: Cache | None = None,
        bar_targets: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> TsfLlmCausalLMOutput:
        loss_kwargs = {k: kwargs.pop(k) for k in ("num_items_in_batch", "shift_labels") if k in kwargs}
        self.check_labels(labels)
        shown = {"output_router_logits": output_router_logits, **kwargs}
        whole = labels is not None or any(shown.get(name) or getattr(self.config, name, False) for name in SHOWN)
        outputs, aux_loss = self.decode(
            last=logits_to_keep if isinstance(logits_to_keep, int) and logits_to_keep and not whole else None,
            input_ids=input_ids,
            past_values=past_values,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            training_loss=labels is not None,
            output_router_logits=output_router_logits,
            **kwargs,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        hidden = outputs[0][:, keep]
        logits, law_logits = self.watched(self.lm_head(hidden)), None
        if self.law_head is not None:
            law_logits = self.law_head(hidden).unflatten(-1, (-1, self.config.num_bins))
        loss = bar_loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **loss_kwargs)
            known = (labels[:, 1:] != -100).sum()
            if self.bar_head is not None and bar_targets is not None:
                bar_loss = self.bar_head(outputs[0][:, :-1], bar_targets[:, 1:]) / known.clamp(min=1)
            total = loss_kwargs.get("num_items_in_batch")  # of all batches that Trainer accumulates into one step
            total = known if total is None else total
            if law_logits is not None and law_labels is not None:
                far_loss = law_loss(law_logits, law_labels, self.config.far_horizons)
                loss = loss + far_loss / total  # per token: a batch may be cut into parts
            share = known / total
            loss = self.total_loss(loss, aux_loss, share, outputs.llmps_loss, bar_loss)
        return TsfLlmCausalLMOutput(
            loss=loss,
            aux_loss=aux_loss,
            llmps_loss=outputs.llmps_loss,
            bar_loss=bar_loss,
            logits=logits,
            law_logits=law_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            router_logits=outputs.router_logits,
            **{CACHE: outputs.get(CACHE)},
        )

    def tokens_only(self) -> "TsfLlmForCausalLM":
        """Gives up far horizons' laws and bars, in place: what tunes sampled paths alone leaves them behind."""
        self.config.horizons = self.law_head = self.bar_head = None
        self.config.emits_bars = False
        return self

    def check_labels(self, labels: torch.Tensor | None) -> None:
        """Raises ValueError for labels that are no returns: `labels=input_ids` would teach to answer `<bar>`.

        Leaving them out is no way: what counts the labels, as Trainer does, would count them."""
        if labels is None or torch.compiler.is_compiling():
            return
        config = self.config
        wrong = int(((labels == config.bar_token_id) | (labels == config.pad_token_id)).sum())
        if wrong:
            raise ValueError(
                f"{wrong} labels are <bar> or <pad>, which are no returns: label a bar with its own return token, the "
                "unknown with -100; processor.training_dataset does, with transformers' default_data_collator"
            )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """transformers' own. `max_length` counts instead of the saved `max_new_tokens`, where it alone is given.

        Raises:
            ValueError: for a way of decoding that drops the bars or cuts the model.
        """
        chosen = kwargs.get("generation_config")
        for name, usual in {"guidance_scale": 1, "assistant_early_exit": None}.items():
            value = kwargs.get(name, getattr(chosen, name, None))
            if value not in (None, usual):
                raise ValueError(f"{name}={value}: this model cannot be decoded so; leave it out")
        if chosen is None and kwargs.get("max_length") is not None:
            kwargs.setdefault("max_new_tokens", None)
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _sample(self, input_ids: Any, **options: Any) -> Any:  # type: ignore[override]
        """transformers' own loop, greedy or sampling; ours where it does the same: see `sample_lean`."""
        tokens, theirs = sample_lean(self, input_ids, **options), super()._sample  # type: ignore[misc]
        return theirs(input_ids, **options) if tokens is None else tokens

    def _validate_model_kwargs(self, model_kwargs: dict[str, Any]) -> None:
        known = {key: value for key, value in model_kwargs.items() if key not in PROCESSOR_EXTRAS}
        super()._validate_model_kwargs(known)  # type: ignore[misc]

    def prepare_inputs_for_generation(  # type: ignore[override]
        self, input_ids, past_values=None, **kwargs
    ) -> dict[str, Any]:
        """Hands over only the bars that the cache does not hold yet; of a prefill in chunks those of the chunk."""
        kwargs = {key: value for key, value in kwargs.items() if key not in PROCESSOR_EXTRAS}
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]
        cache = inputs.get(CACHE)
        seen = cache.get_seq_length() if cache is not None else 0
        if past_values is not None and past_values.shape[1] > seen:
            inputs["past_values"] = past_values[:, seen : seen + inputs["input_ids"].shape[1]]
        return inputs


TsfLlmModel.register_for_auto_class("AutoModel")
TsfLlmForPrediction.register_for_auto_class("AutoModelForTimeSeriesPrediction")
TsfLlmForCausalLM.register_for_auto_class("AutoModelForCausalLM")
register_checkpoint_conversion_mapping("tsf_llm", key_conversions(), overwrite=True)

__all__ = [
    "TsfLlmForCausalLM",
    "TsfLlmForPrediction",
    "TsfLlmModel",
    "TsfLlmPreTrainedModel",
    "TsfLlmPredictionOutput",
]
