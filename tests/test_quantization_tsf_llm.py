"""quantization_tsf_llm.py: close to float32, the same after saving, refused by loaders that do not know it."""

import doctest

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from tsf_llm import quantization_tsf_llm as int8
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from tsf_llm.products_tsf_llm import TsfLlmLinear
from tsf_llm.versions_tsf_llm import CACHE


def test_doctests():
    assert doctest.testmod(int8).failed == 0


def test_a_linear_layer_computes_as_by_hand():
    linear, x = nn.Linear(7, 5), torch.randn(2, 3, 7)
    own = int8.Int8Linear.like(linear)
    own.take(linear)
    whole_x, scale_x = int8.quantize(x, dim=-1)
    whole_w, scale_w = int8.quantize(linear.weight.detach(), dim=1)
    expected = F.linear(whole_x.float() * scale_x, whole_w.float() * scale_w, linear.bias)
    torch.testing.assert_close(own(x), expected)
    assert 1e-4 < (own(x) - linear(x)).abs().max() < 0.05
    assert own(torch.zeros(1, 7)).isfinite().all()


def test_no_position_depends_on_another():
    linear = nn.Linear(16, 8)
    own = int8.Int8Linear.like(linear)
    own.take(linear)
    x = torch.randn(6, 16)
    alone = own(x[:1])
    x[1:] *= 1000
    assert torch.equal(own(x)[:1], alone)


def test_experts_are_close_to_float32(tiny_model):
    experts = tiny_model().model.layers[0].mlp.experts
    own = int8.Int8Experts.like(experts)
    own.take(experts)
    x, index = torch.randn(9, 32), torch.randint(0, 3, (9, 2))  # the last expert is asked by none
    index[:, 1] = (index[:, 0] + 1) % 3
    weights = torch.rand(9, 2)
    expected = experts(x, index, weights)
    torch.testing.assert_close(
        own(x, index, weights), expected, atol=0.03 * float(expected.detach().abs().max()), rtol=0
    )
    assert torch.equal(own(x[3:4], index[3:4], weights[3:4])[0], own(x, index, weights)[3])


@pytest.mark.parametrize("attention", [{}, {"attention_type": "gqa", "num_key_value_heads": 2}, {"q_lora_rank": 8}])
def test_a_model_stays_close_and_comes_back_from_disk_to_the_bit(tiny_model, tiny_batch, tmp_path, attention):
    model, batch = tiny_model(**attention), tiny_batch()
    own = int8.to_int8(model)
    own.save_pretrained(tmp_path)
    again = TsfLlmForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected, answer = model(**batch).logits, own(**batch).logits
        assert torch.equal(again(**batch).logits, answer)
    correlation = torch.corrcoef(torch.stack((expected.flatten(), answer.flatten())))[0, 1]
    assert 0.98 < correlation < 1 - 1e-9  # routers may change their minds; but close, and not the same
    assert not int8.is_int8(model)
    assert int8.is_int8(again)
    saved = load_file(tmp_path / "model.safetensors")
    counts = [(tensor.numel(), tensor.dtype == torch.int8) for tensor in saved.values()]
    assert sum(n for n, whole in counts if whole) / sum(n for n, _ in counts) == pytest.approx(int8.int8_share(again))
    assert int8.int8_share(again) > 0.6


def test_a_forward_pass_needs_no_gradients_switched_off(tiny_model, tiny_batch):
    outputs = int8.to_int8(tiny_model())(**tiny_batch())
    assert outputs.logits.isfinite().all()


def test_decoding_still_reads_the_latent_cache_as_it_is(tiny_model, tiny_batch):
    """`kv_b_proj` stays a plain Linear layer, which absorbed decoding needs; cached equals uncached."""
    own, batch = int8.to_int8(tiny_model()), tiny_batch(padding=0)
    assert all(type(layer.self_attn.kv_b_proj) is TsfLlmLinear for layer in own.model.layers)
    with torch.no_grad():
        whole = own(**batch).logits[:, -1]
        first = own(**{key: value[:, :8] for key, value in batch.items() if key != "past_values"},
                    past_values=batch["past_values"], use_cache=True)  # fmt: skip
        last = own(input_ids=batch["input_ids"][:, 8:], attention_mask=batch["attention_mask"],
                   past_key_values=first[CACHE])  # fmt: skip
    correlation = torch.corrcoef(torch.stack((whole.flatten(), last.logits[:, -1].flatten())))[0, 1]
    assert correlation > 0.99


def test_heads_too(tiny_model, tiny_batch, tmp_path):
    model = tiny_model(TsfLlmForPrediction, prediction_type="quantile")
    int8.to_int8(model).save_pretrained(tmp_path)
    again = TsfLlmForPrediction.from_pretrained(tmp_path).eval()
    batch = {key: value for key, value in tiny_batch(tokens=0).items() if key != "input_ids"}
    with torch.no_grad():
        answer, expected = again(**batch).prediction, model(**batch).prediction
    assert (answer.diff(dim=-1) > 0).all()
    assert 0 < (answer - expected).abs().max() < 0.3 * expected.abs().max()


def test_no_loader_takes_whole_numbers_for_weights(tiny_model, tmp_path, monkeypatch):
    """Where the method is unknown, transformers stops at the shapes."""
    int8.to_int8(tiny_model()).save_pretrained(tmp_path)
    monkeypatch.delitem(int8.AUTO_QUANTIZATION_CONFIG_MAPPING, int8.METHOD)
    with pytest.raises(RuntimeError, match="mismatch"):
        TsfLlmForCausalLM.from_pretrained(tmp_path)


def test_the_code_of_several_folders_and_this_package_serve_one_process(tiny_model, tiny_batch, tmp_path):
    """Each model gets the layers of its own code, whichever was imported first."""
    own, batch = int8.to_int8(tiny_model()), tiny_batch()
    for name in ("a", "b"):
        own.save_pretrained(tmp_path / name)
        remote = AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=True).eval()
        layer = remote.model.layers[0].mlp.experts
        assert type(layer).__name__ == "Int8Experts"
        assert type(layer).__module__.rsplit(".", 1)[0] == type(remote).__module__.rsplit(".", 1)[0]
        assert type(remote) is not TsfLlmForCausalLM
        assert int8.is_int8(remote)
        with torch.no_grad():
            assert torch.equal(remote(**batch).logits, own(**batch).logits)


def test_int8_is_neither_made_twice_nor_made_while_loading_nor_trained(tiny_model, tmp_path):
    own = int8.to_int8(tiny_model())
    with pytest.raises(ValueError, match="already"):
        int8.to_int8(own)
    own.save_pretrained(tmp_path / "int8")
    tiny_model().save_pretrained(tmp_path / "float")
    with pytest.raises(ValueError, match="compress --methods int8"):
        TsfLlmForCausalLM.from_pretrained(tmp_path / "float", quantization_config=int8.Int8Config())
    again = TsfLlmForCausalLM.from_pretrained(tmp_path / "int8")
    with pytest.raises(ValueError, match="quantized"):
        Trainer(again, TrainingArguments(tmp_path / "out", report_to="none"))
