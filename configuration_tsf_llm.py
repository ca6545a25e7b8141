"""Configuration of TSF-LLM.

Design choices:
* Field names follow DeepSeek-V3 and Llama in transformers, so that a reader of either finds his way at once.
* Fields are typed and strict; what types cannot say is checked in `validate_*`, each with its remedy.
* The defaults are the 27M shape. Other sizes live in `train_scripts/configs/`.
* `auto_map` and `custom_pipelines` are written in full, so that any saved folder loads through every Auto class.
"""

from .versions_tsf_llm import CACHE  # first: names below are missing where transformers is too old

# isort: split
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
    "AutoFeatureExtractor": "feature_extraction_tsf_llm.TsfLlmFeatureExtractor",
    "AutoTokenizer": ["tokenization_tsf_llm.TsfLlmTokenizer", None],
}
# For `decode` and for people; the model ignores them.
PROCESSOR_EXTRAS = ("scale", "last_close", "mean_volume", "ticker", "origin", "bar_times", "skipped", "loading")
CLASS_LABELS = {0: "down", 1: "flat", 2: "up"}
# Fields that version 0.1.0 wrote, and the one value that every model had.
REMOVED = {"attention_scale_factor": 1.0, "routed_scaling_factor": 1.0, "router_score_function": "softmax"}

# Whole numbers that need not be 1 or more: they have rules of their own. All others are sizes.
LARGEST = {"num_hidden_layers": 1_000, "t2t_num_layers": 1_000, "mscnn_blocks": 12, "max_position_embeddings": 10**9}
LARGEST_SIZE = 10_000_000  # of the others; what they come to together is bounded too
MOST_WEIGHTS = 10**12
MOST_STEP_INPUTS = 10_000  # of one step ahead in the series form
NO_SIZES = {
    *("q_lora_rank", "qk_rope_head_dim", "t2t_patch_overlap", "vocab_size", "pad_token_id", "bar_token_id"),
    *("num_features", "patch_length", "context_length", "num_seasons", "num_ahead_features"),  # `validate_series`
}


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
        is_causal: whether a bar sees only itself and what came before; the language model must be causal.
        rope_interleaved: rotates neighbours (2i, 2i+1) instead of (i, i + r/2): another layout of the weights.
        attention_softmax_axis, router_weighting, original_arithmetic: how SpaceExploreAI computes, for its weights
            alone; `original_modeling_tsf_llm.py` tells each. `original_arithmetic` stands for LayerNorm in the latents
            of `mla`, positions modulo the window, BatchNorm's biased running variance.
        input_dropout: probability in [0, 1) with which an input feature is hidden while training.
        horizons: steps ahead whose cumulative return the language model names at every bar, beside the next token,
            which is step 1; `None` for tokens alone, as in folders saved before it.
        prediction_length: steps ahead, `P`.
        prediction_type: head of `TsfLlmForPrediction`: `regression`, `quantile` or `classification` (down, flat, up).
        quantiles: increasing levels in (0, 1) of the quantile head.
        patch_length: bars per position of the decoder; given, the model has the *series form*, see
            `series_head_tsf_llm.py`. `None`: one, as ever.
        context_length: of the series form, bars that it reads at most, a multiple of `patch_length`; windows may be
            shorter.
        num_seasons: seasons `M`, of each of which `season_values` tells the last value and the mean of three.
        num_ahead_features: numbers `G` that are known of each step ahead, in `ahead_values`.
        static_cardinalities: for each static covariate how many codes it has, 0 (unknown) included.
        zero_inflated: whether zero has a probability of its own, and no quantile lies below it.
        step_hidden_size: width of the network that all steps ahead share.
        mean_loss_weight: weight, in the loss of quantiles, of the squared error of their mean.
        regression_loss: `mse`, or `l1`, with which a regression learns the median.
        vocab_size: return bins and special tokens, `V`.
        pad_token_id, bar_token_id: ids of `<pad>` and of the bar placeholder `<bar>`.
        use_mscnn, use_t2t: put multi-scale convolutions, patch semantics or both ahead of the decoder. Return tokens
            are then generated as ever, but bars must come all at once: no bar can be added to a cache.
        mscnn_channels, mscnn_blocks: width of the first block, a multiple of 4; blocks, each twice as wide and slow.
        t2t_patch_size, t2t_patch_overlap: bars per patch, and how many of them the next patch shares.
        t2t_hidden_size, t2t_num_heads, t2t_num_layers: the encoder of patches, or (but for the layers) the attention
            to text prototypes.
        t2t_mask_ratio: share of patches that are hidden while training.
        t2t_reconstruct: whether hidden patches must be restored; needs a `t2t_mask_ratio` above 0.
        t2t_context: `causal`, or `window`: every patch sees the whole window, allowed only in `TsfLlmForPrediction`,
            which is read at the last bar alone.
        t2t_backbone: a pretrained language model (Hub name or folder) that reads the patches, frozen. Not saved with
            this model: whoever loads a checkpoint needs it too. Bidirectional ones need `t2t_context="window"`.
        t2t_num_prototypes: text prototypes distilled from the backbone's vocabulary.
        t2t_prompt: whether the backbone reads statistics of the bars in words, which takes its tokenizer.
        llmps_lambda: weight in training of the front end's own loss: features should resemble the bars.
        emits_bars: whether the causal LM has a head for gap, wicks and volume of bars; plain series have none.
        bar_loss_weight: weight in training of that head's negative log-likelihood.
        trained_through: last date (ISO) that the weights have seen; forecasts before it are not out of sample.
        trained_on: what the weights were trained on, in words.
        processor_digest: `digest` of the processor they were trained with; another one would be misread.

    Raises:
        huggingface_hub.errors.StrictDataclassError: for a field of the wrong type or an impossible combination.
    """

    model_type = "tsf_llm"
    keys_to_ignore_at_inference = [  # noqa: RUF012 (Trainer wants a list)
        CACHE,
        "law_logits",
        "router_logits",
        "aux_loss",
        "llmps_loss",
        "bar_loss",
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
    input_dropout: float | int = 0.0
    is_causal: bool = True
    rope_interleaved: bool = False
    attention_softmax_axis: Literal["keys", "heads", "pooled_heads"] = "keys"
    router_weighting: Literal["softmax_topk", "raw_logits"] = "softmax_topk"
    original_arithmetic: bool = False
    initializer_range: float = 0.02
    use_cache: bool = True
    horizons: list[int] | tuple[int, ...] | None = (1, 5, 20)
    prediction_length: int = 1
    prediction_type: Literal["regression", "quantile", "classification"] = "regression"
    quantiles: list[float] | tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    patch_length: int | None = None
    context_length: int | None = None
    num_seasons: int = 0
    num_ahead_features: int = 0
    static_cardinalities: list[int] | tuple[int, ...] | None = None
    zero_inflated: bool = False
    step_hidden_size: int = 64
    mean_loss_weight: float | int = 0.0
    regression_loss: Literal["mse", "l1"] = "mse"
    vocab_size: int = 258
    pad_token_id: int = 256
    bar_token_id: int = 257
    tie_word_embeddings: bool = False
    use_mscnn: bool = False
    mscnn_channels: int = 64
    mscnn_blocks: int = 1
    use_t2t: bool = False
    t2t_patch_size: int = 16
    t2t_patch_overlap: int = 8
    t2t_hidden_size: int = 128
    t2t_num_heads: int = 4
    t2t_num_layers: int = 2
    t2t_mask_ratio: float | int = 0.15
    t2t_reconstruct: bool = False
    t2t_context: Literal["causal", "window"] = "causal"
    t2t_backbone: str | None = None
    t2t_num_prototypes: int = 100
    t2t_prompt: bool = True
    llmps_lambda: float | int = 0.01
    emits_bars: bool = False
    bar_loss_weight: float | int = 0.1
    trained_through: str | None = None
    trained_on: str | None = None
    processor_digest: str | None = None
    auto_map: dict | None = None
    custom_pipelines: dict | None = None

    def __post_init__(self, **kwargs):
        for name, only in REMOVED.items():
            if (value := kwargs.pop(name, only)) != only:
                raise ValueError(f"{name}={value}: this field is gone, no published weights need it; leave it out")
        self.original_arithmetic = kwargs.pop("legacy", self.original_arithmetic)  # its name in version 0.1.0
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.shared_expert_intermediate_size is None:
            self.shared_expert_intermediate_size = self.n_shared_experts * self.moe_intermediate_size
        if self.auto_map is None:
            self.auto_map = dict(AUTO_MAP)
        if self.custom_pipelines is None:
            self.custom_pipelines = {
                "time-series-forecasting": {"impl": "pipeline_tsf_llm.TsfLlmPipeline", "pt": ["AutoModelForCausalLM"]}
            }
        if self.prediction_type == "classification" and self.id2label is None:
            self.id2label = dict(CLASS_LABELS)
            self.label2id = {label: i for i, label in CLASS_LABELS.items()}
        self.head_dim = self.qk_rope_head_dim  # what transformers' rotary functions read
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """transformers' own. A `prediction_type` of the call asks for that head, whichever class was saved."""
        if "prediction_type" in kwargs:
            config_dict = {**config_dict, "architectures": None}
        return super().from_dict({"horizons": None, **config_dict}, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """transformers' own, with the horizons also where they are the default: their absence means none."""
        return {**super().to_diff_dict(), "horizons": self.horizons and list(self.horizons)}

    @property
    def num_bins(self) -> int:
        """Return tokens: those of the vocabulary that are not special."""
        return self.vocab_size - 2

    @property
    def far_horizons(self) -> list[int]:
        """The horizons beyond the next token, which have heads of their own."""
        return [h for h in self.horizons or () if h > 1]

    def least_weights(self) -> int:
        """How many numbers the model has at least, without building it."""
        D, H, R = self.hidden_size, self.num_attention_heads, self.kv_lora_rank
        heads = H * (self.qk_nope_head_dim + self.v_head_dim)
        attention = R * (D + heads) + H * self.v_head_dim * D if self.attention_type == "mla" else 0
        shared = self.shared_expert_intermediate_size or 0
        experts = 3 * D * (self.n_routed_experts * self.moe_intermediate_size + shared)
        patches = 4 * self.t2t_num_layers * self.t2t_hidden_size**2 if self.use_t2t and not self.t2t_backbone else 0
        return self.num_hidden_layers * (attention + experts) + D * (self.vocab_size + self.num_features) + patches

    def validate_sizes(self):
        """Every size is at least 1, every probability lies in [0, 1), no weight of a loss is negative."""
        for name, kind in TsfLlmConfig.__annotations__.items():
            if kind in (int, int | None) and name not in NO_SIZES and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be 1 or more")
            if kind in (int, int | None) and (getattr(self, name) or 0) > (most := LARGEST.get(name, LARGEST_SIZE)):
                raise ValueError(f"{name}={getattr(self, name)}: at most {most:,}; lower it")
        if (weights := self.least_weights()) > MOST_WEIGHTS:
            raise ValueError(f"a model of {weights:,} weights wants {weights * 4 / 1e9:,.0f} GB: lower its sizes")
        dropouts = ("attention_dropout", "hidden_dropout", "input_dropout")
        shares = {**dict.fromkeys(dropouts, "probability"), "t2t_mask_ratio": "share"}
        for name, what in shares.items():
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: a {what} must lie in [0, 1)")
        for name, what in {
            "router_aux_loss_coef": "it",
            "llmps_lambda": "the loss",
            "bar_loss_weight": "the loss",
            "mean_loss_weight": "the loss",
        }.items():
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: must not be negative; 0 switches {what} off")

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

    def validate_original(self):
        """The original's habits go together: each has one meaning, and new models have none of them."""
        if self.original_arithmetic and (self.is_causal or self.attention_type != "mla"):
            raise ValueError(
                f"original_arithmetic=True, is_causal={self.is_causal}, attention_type='{self.attention_type}': "
                "the original has latent attention without a mask; set is_causal=False and attention_type='mla'"
            )
        if self.attention_softmax_axis != "keys" and not self.original_arithmetic:
            raise ValueError(
                f"attention_softmax_axis='{self.attention_softmax_axis}' needs original_arithmetic=True: "
                "new models attend over keys"
            )

    def validate_experts(self):
        """No token can use more experts than there are."""
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok={self.num_experts_per_tok} exceeds n_routed_experts={self.n_routed_experts}: "
                "lower the first or raise the second"
            )

    def validate_front_end(self):
        """Channels and heads divide evenly; patches move on; what is hidden can be restored."""
        self.validate_sizes()
        if self.mscnn_channels % 4:
            raise ValueError(
                f"mscnn_channels={self.mscnn_channels}: four kernels share them; use a multiple of 4, e.g. 64"
            )
        if self.t2t_hidden_size % self.t2t_num_heads or self.t2t_hidden_size % 2:
            raise ValueError(
                f"t2t_hidden_size={self.t2t_hidden_size}: use an even multiple of t2t_num_heads={self.t2t_num_heads}"
            )
        if not 0 <= self.t2t_patch_overlap < self.t2t_patch_size:
            raise ValueError(
                f"t2t_patch_overlap={self.t2t_patch_overlap}: must lie between 0 and "
                f"t2t_patch_size - 1 = {self.t2t_patch_size - 1}"
            )
        if self.t2t_reconstruct and self.t2t_mask_ratio == 0:
            raise ValueError("t2t_reconstruct=True restores hidden patches, but t2t_mask_ratio=0 hides none: raise it")

    def validate_quantiles(self):
        """Levels increase strictly inside (0, 1)."""
        levels = list(self.quantiles)
        if not levels or sorted(set(levels)) != levels or levels[0] <= 0 or levels[-1] >= 1:
            raise ValueError(
                f"quantiles={levels}: give strictly increasing levels between 0 and 1, e.g. [0.1, 0.5, 0.9]"
            )

    def validate_series(self):
        """The series form has a length to read, and a head for it; without the form nothing of it is set."""
        series = self.patch_length is not None
        if self.num_features < (0 if series else 1):
            raise ValueError(f"num_features={self.num_features}: must be {0 if series else 1} or more")
        for name in ("context_length", "num_seasons", "num_ahead_features", "static_cardinalities", "zero_inflated"):
            if getattr(self, name) and not series:
                raise ValueError(f"{name}={getattr(self, name)}: only the series form has it; set patch_length too")
        if self.patch_length is None:
            return
        length = self.context_length or 0
        if not 1 <= self.patch_length <= length <= LARGEST_SIZE or length % self.patch_length:
            raise ValueError(
                f"patch_length={self.patch_length}, context_length={self.context_length}: the series form reads "
                "context_length bars, a multiple of patch_length, which is 1 or more; give both, e.g. 24 and 504"
            )
        for name in ("num_seasons", "num_ahead_features"):
            if not 0 <= getattr(self, name) <= MOST_STEP_INPUTS:
                raise ValueError(f"{name}={getattr(self, name)}: must lie between 0 and {MOST_STEP_INPUTS:,}")
        sizes = list(self.static_cardinalities or ())
        if any(not 1 <= size <= LARGEST_SIZE for size in sizes):
            raise ValueError(f"static_cardinalities={sizes}: must be 1 or more each")
        if self.prediction_type == "classification" or self.use_mscnn or self.use_t2t:
            raise ValueError(
                f"patch_length={self.patch_length}: the series form answers numbers (prediction_type regression or "
                "quantile) and has no front end (use_mscnn, use_t2t); leave the other out"
            )
        if self.zero_inflated and self.prediction_type != "quantile":
            raise ValueError("zero_inflated=True gives zero a probability: set prediction_type='quantile'")

    def validate_horizons(self):
        """Steps increase strictly from 1 on."""
        steps = list(self.horizons or ())
        if self.horizons is not None and (not steps or sorted(set(steps)) != steps or steps[0] < 1):
            raise ValueError(f"horizons={steps}: give increasing steps of 1 or more, e.g. [1, 5, 20], or None")

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
