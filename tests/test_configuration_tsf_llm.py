"""The config refuses what no model can be built from, says what to do instead, and survives its own JSON."""

import dataclasses
import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError

from tsf_llm.configuration_tsf_llm import AUTO_MAP, CLASS_LABELS, TsfLlmConfig
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM

FROM_TRANSFORMERS = {  # keys of `to_dict` that the base class adds
    "_name_or_path",
    "architectures",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
    "transformers_version",
}
DERIVED = {"head_dim"}

WRONG_TYPES = {
    "num_features": "64",
    "hidden_size": 2.5,
    "num_hidden_layers": True,
    "attention_type": "flash",
    "num_key_value_heads": "2",
    "q_lora_rank": 1.5,
    "norm_topk_prob": 1,
    "router_aux_loss_coef": "0.01",
    "hidden_act": None,
    "norm_type": "layernorm",
    "rope_parameters": 10000.0,
    "attention_dropout": None,
    "use_cache": "yes",
    "prediction_type": "points",
    "quantiles": 0.5,
    "trained_through": 2018,
    "auto_map": "modeling_tsf_llm",
}

AT_LEAST_ONE = [
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
    "mscnn_channels",
    "mscnn_blocks",
    "t2t_patch_size",
    "t2t_hidden_size",
    "t2t_num_heads",
    "t2t_num_layers",
    "t2t_num_prototypes",
]

IMPOSSIBLE = [  # fields, what the message must name, and its remedy
    ({"attention_dropout": 1.0}, "attention_dropout=1.0", r"\[0, 1\)"),
    ({"hidden_dropout": -0.1}, "hidden_dropout=-0.1", r"\[0, 1\)"),
    ({"qk_rope_head_dim": 3}, "qk_rope_head_dim=3", "even number"),
    ({"qk_rope_head_dim": 0}, "qk_rope_head_dim=0", "even number"),
    ({"attention_type": "gqa", "num_key_value_heads": 3}, "num_key_value_heads=3", "divisor"),
    ({"attention_type": "mha", "num_key_value_heads": 2}, "num_key_value_heads=2", "set attention_type='gqa'"),
    ({"attention_type": "mla", "num_key_value_heads": 2}, "num_key_value_heads=2", "set attention_type='gqa'"),
    ({"attention_type": "gqa", "q_lora_rank": 8}, "q_lora_rank=8", "leave it out"),
    ({"q_lora_rank": 0}, "q_lora_rank=0", "leave it out"),
    ({"num_experts_per_tok": 9}, "num_experts_per_tok=9 exceeds n_routed_experts=8", "lower the first or raise"),
    ({"router_aux_loss_coef": -0.01}, "router_aux_loss_coef=-0.01", "0 switches it off"),
    ({"mscnn_channels": 6}, "mscnn_channels=6", "multiple of 4"),
    ({"t2t_hidden_size": 30}, "t2t_hidden_size=30", "multiple of t2t_num_heads=4"),
    ({"t2t_hidden_size": 9, "t2t_num_heads": 3}, "t2t_hidden_size=9", "even multiple"),
    ({"t2t_patch_overlap": 16}, "t2t_patch_overlap=16", "t2t_patch_size - 1 = 15"),
    ({"t2t_patch_overlap": -1}, "t2t_patch_overlap=-1", "between 0 and"),
    ({"t2t_mask_ratio": 1.0}, "t2t_mask_ratio=1.0", r"\[0, 1\)"),
    ({"t2t_reconstruct": True, "t2t_mask_ratio": 0}, "t2t_reconstruct=True", "raise it"),
    ({"llmps_lambda": -0.1}, "llmps_lambda=-0.1", "0 switches the loss off"),
    ({"quantiles": []}, r"quantiles=\[\]", "strictly increasing levels"),
    ({"quantiles": [0.5, 0.1]}, r"quantiles=\[0.5, 0.1\]", "strictly increasing levels"),
    ({"quantiles": [0.5, 0.5]}, r"quantiles=\[0.5, 0.5\]", "strictly increasing levels"),
    ({"quantiles": [0.0, 0.5]}, r"quantiles=\[0.0, 0.5\]", "between 0 and 1"),
    ({"quantiles": [0.5, 1.0]}, r"quantiles=\[0.5, 1.0\]", "between 0 and 1"),
    ({"pad_token_id": 258}, "pad_token_id=258", "vocabulary of 258"),
    ({"bar_token_id": -1}, "bar_token_id=-1", "vocabulary of 258"),
    ({"pad_token_id": 257}, "pad_token_id and bar_token_id are both 257", "must differ"),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES.items())
def test_wrong_type_names_the_field(name, value):
    with pytest.raises(StrictDataclassFieldValidationError, match=f"(?i){name}'(.|\n)*expected"):
        TsfLlmConfig(**{name: value})


def test_wrong_type_is_refused_after_construction_too():
    config = TsfLlmConfig()
    with pytest.raises(StrictDataclassFieldValidationError, match="hidden_size"):
        config.hidden_size = "256"


@pytest.mark.parametrize("name", AT_LEAST_ONE)
def test_sizes_are_at_least_one(name):
    with pytest.raises(StrictDataclassClassValidationError, match=f"{name}=0: must be 1 or more"):
        TsfLlmConfig(**{name: 0})


@pytest.mark.parametrize(("fields", "named", "remedy"), IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_impossible_combination_names_field_and_remedy(fields, named, remedy):
    with pytest.raises(StrictDataclassClassValidationError, match=f"{named}.*{remedy}"):
        TsfLlmConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"router_aux_loss_coef": 0},
        {"attention_dropout": 0},
        {"quantiles": [0.5]},
        {"quantiles": (0.1, 0.9)},
        {"num_experts_per_tok": 8},
        {"attention_type": "gqa", "num_key_value_heads": 1},
        {"q_lora_rank": 8},
    ],
    ids=str,
)
def test_limits_are_allowed(fields):
    config = TsfLlmConfig(**fields)
    assert all(getattr(config, name) == value for name, value in fields.items())


def test_derived_values():
    config = TsfLlmConfig(num_attention_heads=8, shared_expert_intermediate_size=None, n_shared_experts=3)
    assert config.num_key_value_heads == 8
    assert config.shared_expert_intermediate_size == 3 * config.moe_intermediate_size
    assert config.head_dim == config.qk_rope_head_dim


@pytest.mark.parametrize(("alias", "name"), TsfLlmConfig.attribute_map.items())
def test_aliases_read_and_write_one_field(alias, name):
    config = TsfLlmConfig(**{alias: 6})
    assert getattr(config, alias) == getattr(config, name) == 6
    setattr(config, alias, 7)
    assert getattr(config, name) == 7
    assert alias not in config.to_dict()


def test_to_dict_holds_known_keys_alone():
    fields = {field.name for field in dataclasses.fields(TsfLlmConfig)}
    assert set(TsfLlmConfig().to_dict()) <= fields | FROM_TRANSFORMERS | DERIVED
    own = {name for name in TsfLlmConfig.__annotations__ if name not in TsfLlmConfig.attribute_map}
    assert own <= set(TsfLlmConfig().to_dict())


def test_round_trip_through_json(tmp_path):
    config = TsfLlmConfig(
        attention_type="gqa",
        num_key_value_heads=2,
        quantiles=(0.1, 0.5, 0.9),
        prediction_type="quantile",
        rope_parameters={"rope_type": "yarn", "rope_theta": 5000.0, "factor": 4.0},
        trained_through="2018-12-31",
        trained_on="the embedded sample",
    )
    config.save_pretrained(tmp_path)
    loaded = TsfLlmConfig.from_pretrained(tmp_path)
    as_json = [json.loads(c.to_json_string(use_diff=False)) for c in (config, loaded)]
    for each in as_json:
        each.pop("_name_or_path", None)
    assert as_json[0] == as_json[1]
    assert loaded.auto_map == AUTO_MAP
    assert (loaded.trained_through, loaded.num_key_value_heads) == ("2018-12-31", 2)


def test_auto_map_is_not_shared_between_configs():
    config, other = TsfLlmConfig(), TsfLlmConfig()
    assert config.auto_map == AUTO_MAP
    assert config.auto_map is not AUTO_MAP
    assert config.auto_map is not other.auto_map


def test_default_config_is_the_27m_shape():
    with torch.device("meta"):
        model = TsfLlmForCausalLM(TsfLlmConfig())
    parameters = sum(p.numel() for p in model.parameters())
    assert abs(parameters - 27e6) <= 1e6


def test_classification_names_its_classes():
    config = TsfLlmConfig(prediction_type="classification")
    assert config.id2label == CLASS_LABELS == {0: "down", 1: "flat", 2: "up"}
    assert config.label2id == {"down": 0, "flat": 1, "up": 2}
    assert config.num_labels == 3
    assert TsfLlmConfig.from_dict(config.to_dict()).id2label == CLASS_LABELS


REMOVED = {"attention_scale_factor": 1.0, "routed_scaling_factor": 1.0, "router_score_function": "softmax"}


@pytest.mark.parametrize(("name", "other"), list(zip(REMOVED, [1.3, 1.5, "sigmoid"], strict=True)))
def test_fields_of_older_configs_are_dropped_or_refused(name, other):
    config = TsfLlmConfig.from_dict({**TsfLlmConfig().to_dict(), **REMOVED})
    assert not hasattr(config, name)
    with pytest.raises(ValueError, match=f"{name}={other}.*leave it out"):
        TsfLlmConfig(**{**REMOVED, name: other})


def test_a_field_of_older_configs_goes_by_its_new_name():
    config = TsfLlmConfig(legacy=True, is_causal=False)
    assert config.original_arithmetic
    assert not hasattr(config, "legacy")
    assert not TsfLlmConfig(legacy=False).original_arithmetic


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_hidden_layers", 100_000), ("vocab_size", 10**12), ("n_routed_experts", 10**9), ("mscnn_blocks", 1000)],
)
def test_sizes_are_bounded_before_a_model_is_built(name, value):
    with pytest.raises(StrictDataclassClassValidationError, match="at most"):
        TsfLlmConfig(**{name: value})


def test_sizes_are_bounded_together():
    with pytest.raises(StrictDataclassClassValidationError, match=r"weights wants [0-9,]+ GB"):
        TsfLlmConfig(hidden_size=1_000_000, num_hidden_layers=100)


def test_a_model_has_at_least_as_many_weights_as_its_config_says(tiny_model):
    model = tiny_model()
    assert 0.5 * model.num_parameters() < model.config.least_weights() <= model.num_parameters()
