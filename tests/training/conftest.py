"""Adapters of the tiny model."""

import pytest
import torch
from peft import get_peft_model

from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.training.adapters import LoraArguments, lora_config


@pytest.fixture
def make_adapter(tiny_model, tmp_path):
    """`make_adapter(name, seed=, args=, **overrides)` -> the folder of a random adapter of the tiny model."""

    def build(name, *, seed=1, args=None, cls=TsfLlmForCausalLM, **overrides):
        base = tiny_model(cls, **overrides)
        config = lora_config(base, args or LoraArguments(r=2))
        torch.manual_seed(seed)
        config.init_lora_weights = False  # random B, so that the adapter does something
        model = get_peft_model(base, config)
        model.save_pretrained(tmp_path / name, save_embedding_layers=False)
        return tmp_path / name

    return build
