"""Configuration of TSF-LLM.

Design choices:
* Field names follow DeepSeek-V3 and Llama in transformers, so that a reader of either finds his way at once.
* Fields are typed and strict; what types cannot say is checked in `validate_*`, each with its remedy.
* The defaults are the 27M shape. Other sizes live in `train_scripts/configs/`.
* `auto_map` and `custom_pipelines` are written in full, so that any saved folder loads through every Auto class.
"""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

AUTO_MAP: dict[str, Any] = {
    "AutoConfig": "configuration_tsf_llm.TsfLlmConfig",
    "AutoModel": "modeling_tsf_llm.TsfLlmModel",
    "AutoModelForCausalLM": "modeling_tsf_llm.TsfLlmForCausalLM",
    "AutoModelForTimeSeriesPrediction": "modeling_tsf_llm.TsfLlmForPrediction",
    "AutoProcessor": "processing_tsf_llm.TsfLlmProcessor",
    "AutoFeatureExtractor": "processing_tsf_llm.TsfLlmFeatureExtractor",
    "AutoTokenizer": ["processing_tsf_llm.TsfLlmTokenizer", None],
}
PROCESSOR_EXTRAS = ("scale", "last_close", "ticker", "origin", "bar_times")  # for `decode`; the model ignores them
CLASS_LABELS = {0: "down", 1: "flat", 2: "up"}


SIZES = (
    "num_features",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "kv_lora_rank",
    "qk_nope_head_dim",
    "v_head_dim",
    "n_routed_experts",
    "num_experts_per_tok",
    "n_shared_experts",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "max_position_embeddings",
    "prediction_length",
)


@strict
class TsfLlmConfig(PreTrainedConfig):
    r"""
    Args:
        num_features: features per bar, `F`; must equal what the processor delivers.
        hidden_size: width of the residual stream, `D`.
        num_hidden_layers, num_attention_heads: depth and heads, `H`.
        attention_type: `mla` (latent cache), `gqa` or `mha`.
        num_key_value_heads: key/value heads of `gqa`; `mla` and `mha` use `num_attention_heads`.
        q_lora_rank: rank of the query projection of `mla`; `None` for a full projection.
        kv_lora_rank: rank of the latent that `mla` caches, `R`.
        qk_nope_head_dim, qk_rope_head_dim: size per head of the unrotated and the rotated part of queries and keys.
        v_head_dim: size per head of the values.
        n_routed_experts, num_experts_per_tok: experts `E` and how many of them each token uses, `K`.
        n_shared_experts: experts that every token uses, on top.
        moe_intermediate_size: inner width of one routed expert.
        shared_expert_intermediate_size: inner width of the shared experts together; by default
            `n_shared_experts * moe_intermediate_size`, as in DeepSeek.
        norm_topk_prob: whether the weights of the chosen experts are rescaled to sum to one.
        router_aux_loss_coef: weight of the load-balancing loss in training; 0 switches it off.
        norm_type: `rmsnorm`, `batch_norm` (over batch and time, padding left out) or `dynamic_tanh`.
        rope_parameters: transformers' rope dictionary (`rope_type` of `default`, `linear`, `dynamic`, `yarn`, ...).
        max_position_embeddings: longest sequence of bars and return tokens that training shows.
        attention_dropout, hidden_dropout: probabilities in [0, 1).
        prediction_length: steps ahead, `P`.
        prediction_type: head of `TsfLlmForPrediction`: `regression`, `quantile` or `classification` (down, flat, up).
        quantiles: increasing levels in (0, 1) of the quantile head.
        vocab_size: return bins and special tokens, `V`.
        pad_token_id, bar_token_id: ids of `<pad>` and of the bar placeholder `<bar>`.
        trained_through: last date (ISO) that the weights have seen; forecasts before it are not out of sample.
        trained_on: what the weights were trained on, in words.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a field of the wrong type or an impossible combination.
    """

    model_type = "tsf_llm"
    keys_to_ignore_at_inference = [  # noqa: RUF012 (Trainer wants a list)
        "past_key_values",
        "router_logits",
        "aux_loss",
        "hidden_states",
        "attentions",
        "last_hidden_state",
    ]
    attribute_map = {  # noqa: RUF012 (the base class declares it as a ClassVar)
        "num_experts": "n_routed_experts",
        "num_local_experts": "n_routed_experts",
        "feature_dim": "num_features",
        "intermediate_size": "moe_intermediate_size",
    }

    num_features: int = 64
    hidden_size: int = 256
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    attention_type: Literal["mla", "gqa", "mha"] = "mla"
    num_key_value_heads: int | None = None
    q_lora_rank: int | None = None
    kv_lora_rank: int = 32
    qk_nope_head_dim: int = 32
    qk_rope_head_dim: int = 32
    v_head_dim: int = 64
    n_routed_experts: int = 8
    num_experts_per_tok: int = 2
    n_shared_experts: int = 1
    moe_intermediate_size: int = 1024
    shared_expert_intermediate_size: int | None = 384
    norm_topk_prob: bool = True
    output_router_logits: bool = False
    router_aux_loss_coef: float | int = 0.01
    hidden_act: str = "silu"
    norm_type: Literal["rmsnorm", "batch_norm", "dynamic_tanh"] = "rmsnorm"
    norm_eps: float = 1e-6
    rope_parameters: RopeParameters | dict | None = None
    max_position_embeddings: int = 512
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    initializer_range: float = 0.02
    use_cache: bool = True
    prediction_length: int = 1
    prediction_type: Literal["regression", "quantile", "classification"] = "regression"
    quantiles: list[float] | tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    vocab_size: int = 258
    pad_token_id: int = 256
    bar_token_id: int = 257
    tie_word_embeddings: bool = False
    trained_through: str | None = None
    trained_on: str | None = None
    auto_map: dict | None = None
    custom_pipelines: dict | None = None

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.shared_expert_intermediate_size is None:
            self.shared_expert_intermediate_size = self.n_shared_experts * self.moe_intermediate_size
        if self.auto_map is None:
            self.auto_map = dict(AUTO_MAP)
        if self.custom_pipelines is None:
            self.custom_pipelines = {
                "time-series-forecasting": {
                    "impl": "pipeline_tsf_llm.TsfLlmPipeline",
                    "pt": ["AutoModelForCausalLM"],
                }
            }
        if self.prediction_type == "classification" and self.id2label is None:
            self.id2label = dict(CLASS_LABELS)
            self.label2id = {label: i for i, label in CLASS_LABELS.items()}
        self.head_dim = self.qk_rope_head_dim  # what transformers' rotary functions read
        super().__post_init__(**kwargs)

    def validate_sizes(self):
        """Every size is at least 1, every probability lies in [0, 1)."""
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
        for name in ("attention_dropout", "hidden_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a probability must lie in [0, 1)")

    def validate_attention(self):
        """Heads divide evenly; the rotated part is even; the latent rank is sensible."""
        self.validate_sizes()  # validators run in alphabetical order, and the next lines divide by a size
        if self.qk_rope_head_dim < 2 or self.qk_rope_head_dim % 2:
            raise ValueError(
                f"qk_rope_head_dim={self.qk_rope_head_dim}: rotation works on pairs; use an even number >= 2"
            )
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}: choose a divisor"
            )
        if self.attention_type != "gqa" and self.num_key_value_heads != self.num_attention_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} has no meaning for attention_type="
                f"'{self.attention_type}': leave it out, or set attention_type='gqa'"
            )
        if self.q_lora_rank is not None and (self.attention_type != "mla" or self.q_lora_rank < 1):
            raise ValueError(
                f"q_lora_rank={self.q_lora_rank} with attention_type='{self.attention_type}': "
                "only 'mla' has it, as a positive rank; leave it out for a full projection"
            )

    def validate_experts(self):
        """No token can use more experts than there are."""
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} exceeds n_routed_experts={self.n_routed_experts}: "
                "lower the first or raise the second"
            )
        if self.router_aux_loss_coef < 0:
            raise ValueError(
                f"router_aux_loss_coef={self.router_aux_loss_coef}: must not be negative; 0 switches it off"
            )

    def validate_quantiles(self):
        """Levels increase strictly inside (0, 1)."""
        levels = list(self.quantiles)
        if not levels or sorted(set(levels)) != levels or levels[0] <= 0 or levels[-1] >= 1:
            raise ValueError(
                f"quantiles={levels}: give strictly increasing levels between 0 and 1, e.g. [0.1, 0.5, 0.9]"
            )

    def validate_tokens(self):
        """Special tokens are distinct ids of the vocabulary that leave room for return bins."""
        for name in ("pad_token_id", "bar_token_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ValueError(
                    f"{name}={getattr(self, name)} lies outside the vocabulary of {self.vocab_size} tokens"
                )
        if self.pad_token_id == self.bar_token_id:
            raise ValueError(f"pad_token_id and bar_token_id are both {self.bar_token_id}: they must differ")


TsfLlmConfig.register_for_auto_class()

__all__ = ["AUTO_MAP", "CLASS_LABELS", "PROCESSOR_EXTRAS", "TsfLlmConfig"]
