"""Decoding from a shared context gives what the model gives on whole sequences, whichever way it goes."""

import pytest
import torch
from transformers import GenerationConfig
from transformers.cache_utils import DynamicCache

from tsf_llm import decoding_tsf_llm as decoding
from tsf_llm import modeling_tsf_llm as modeling
from tsf_llm import products_tsf_llm as products
from tsf_llm.decoding_tsf_llm import RepeatedContext, SharedContext, can_share, going_on
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM
from tsf_llm.quantization_tsf_llm import to_int8
from tsf_llm.versions_tsf_llm import CACHE

VARIANTS = {
    "mla": {},
    "mla with low-rank queries": {"q_lora_rank": 8},
    "gqa": {"attention_type": "gqa", "num_key_value_heads": 2},
    "mha": {"attention_type": "mha"},
    "batch norm": {"norm_type": "batch_norm"},
    "dynamic tanh": {"norm_type": "dynamic_tanh", "attention_type": "gqa", "num_key_value_heads": 1},
    "neighbours rotate": {"rope_interleaved": True},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale_all_dim": 1.0}},
    "weights of experts as they are": {"norm_topk_prob": False},
    "raw logits": {"router_weighting": "raw_logits"},
    "tied": {"tie_word_embeddings": True},
    "eager": {"attn_implementation": "eager"},
    "one expert": {"num_experts_per_tok": 1},
}
MASKS = {"all observed": [[1] * 6] * 3, "padding and gaps": [[1] * 6, [0, 0, 1, 1, 1, 1], [1, 0, 1, 0, 1, 0]]}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def model(request, tiny_model):
    model = tiny_model(TsfLlmForCausalLM, **request.param)
    for name, buffer in model.named_buffers():  # as if trained
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data.uniform_(0.5, 1.5)
    return model


def windows(tiny_batch, mask):
    batch = tiny_batch(tokens=0, rows=3)
    return {**batch, "attention_mask": torch.tensor(mask)}


def read(model, batch):
    return model(**batch, use_cache=True)[CACHE]


@torch.inference_mode()
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("paths", [1, 4])
def test_a_step_equals_the_whole_sequence(model, tiny_batch, close, monkeypatch, mask, paths):
    monkeypatch.setattr(decoding, "ROOM", 2)  # buffers grow on the way
    batch, tokens = windows(tiny_batch, mask), torch.randint(0, 18, (3 * paths, 5))
    shared = going_on(model, read(model, batch), batch["attention_mask"], paths=paths)
    assert type(shared) is SharedContext
    many = {name: value.repeat_interleave(paths, 0) for name, value in batch.items()}
    many["input_ids"] = torch.cat((many["input_ids"], tokens), dim=1)
    many["attention_mask"] = torch.cat((many["attention_mask"], torch.ones_like(tokens)), dim=1)
    whole = model(**many, use_cache=False).logits[:, -5:]
    repeated = RepeatedContext(model, read(model, batch), batch["attention_mask"], paths=paths)
    for step, column in enumerate(tokens.T):
        close(shared.logits(column), whole[:, step])
        close(repeated.logits(column), whole[:, step])


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("attention", ["mla", "mha"])
def test_other_types_of_numbers(tiny_model, tiny_batch, dtype, attention):
    model = tiny_model(attention_type=attention).to(dtype)
    model.set_experts_implementation("eager")
    batch, tokens = windows(tiny_batch, MASKS["padding and gaps"]), torch.randint(0, 18, (6,))
    one, other = (
        way(model, read(model, batch), batch["attention_mask"], paths=2).hidden(tokens)
        for way in (SharedContext, RepeatedContext)
    )
    assert one.dtype == dtype
    torch.testing.assert_close(one, other, rtol=0, atol={torch.float64: 1e-5}.get(dtype, 0.15))  # norms are float32


@torch.inference_mode()
def test_rows_are_their_own(tiny_model, tiny_batch, close):
    """A path depends on its context and tokens, not on its neighbours."""
    model, tokens = tiny_model(), torch.randint(0, 18, (12, 3))
    batch = windows(tiny_batch, MASKS["padding and gaps"])
    together = going_on(model, read(model, batch), batch["attention_mask"], paths=4)
    one = {name: value[1:2] for name, value in batch.items()}
    alone = going_on(model, read(model, one), one["attention_mask"], paths=1)
    for column in tokens.T:
        close(alone.logits(column[6:7]), together.logits(column)[6:7])


@torch.inference_mode()
@pytest.mark.parametrize("attention", ["mla", "mha"])
def test_the_cache_gets_the_tokens_back(tiny_model, tiny_batch, close, attention):
    model = tiny_model(attention_type=attention)
    batch, tokens = windows(tiny_batch, MASKS["padding and gaps"]), torch.randint(0, 18, (3, 4))
    caches: list[DynamicCache] = [read(model, batch) for _ in range(2)]
    shared, repeated = (
        way(model, cache, batch["attention_mask"])
        for way, cache in zip((SharedContext, RepeatedContext), caches, strict=True)
    )
    for column in tokens.T:
        shared.hidden(column), repeated.hidden(column)
    assert caches[0].get_seq_length() == 6
    shared.write_back()
    for mine, theirs in zip(*(cache.layers for cache in caches), strict=True):
        close(mine.keys, theirs.keys)
        close(mine.values, theirs.values)


def test_only_plain_matrices_are_read(tiny_model, tiny_batch):
    assert can_share(tiny_model())
    assert not can_share(tiny_model().train())
    by_length = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert not can_share(tiny_model(rope_parameters=by_length))
    assert not can_share(to_int8(tiny_model()))
    adapted = tiny_model()
    adapted.model.layers[1].self_attn.kv_b_proj.__class__ = type("Adapter", (torch.nn.Linear,), {})
    assert not can_share(adapted)
    batch = windows(tiny_batch, MASKS["all observed"])
    with torch.inference_mode():
        named = going_on(tiny_model(), read(tiny_model(), batch), batch["attention_mask"], adapter_names=["a"] * 3)
    assert type(named) is RepeatedContext


def steered(model):
    model.model.layers[0].register_forward_hook(lambda module, args, output: -1.5 * output)


def fed_otherwise(model):
    model.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: (-args[0],))


def patched(model):
    layer, forward = model.model.layers[0], model.model.layers[0].forward
    layer.forward = lambda *args, **kwargs: -1.5 * forward(*args, **kwargs)


def of_another_class(model):
    class Opposite(TsfLlmForCausalLM):
        def forward(self, attention_mask=None, **kwargs):
            output = super().forward(attention_mask=attention_mask, **kwargs)
            return type(output)(**{**output, "logits": -output.logits})

    model.__class__ = Opposite


@pytest.mark.parametrize("change", [steered, fed_otherwise, patched, of_another_class])
def test_whoever_changes_an_answer_is_heard_at_every_token(tiny_model, tiny_batch, change):
    model, batch = tiny_model(initializer_range=0.5), tiny_batch(tokens=0)
    change(model)
    assert not can_share(model)
    found = model.generate(**batch, max_new_tokens=6, do_sample=False)
    assert torch.equal(found, model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=False))


def test_whoever_listens_everywhere_is_heard_at_every_token(tiny_model):
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not can_share(tiny_model())
    handle.remove()
    assert can_share(tiny_model())


def test_what_records_hidden_states_changes_nothing(tiny_model, tiny_batch):
    model = tiny_model()
    model(**tiny_batch(), output_hidden_states=True)
    assert any(module._forward_hooks for module in model.modules())
    assert can_share(model)


def test_autocast_is_left_to_the_model(tiny_model, tiny_batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not can_share(tiny_model())
        assert tiny_model().generate(**tiny_batch(tokens=0), max_new_tokens=3).shape == (2, 9)


@torch.inference_mode()
def test_other_experts_and_layers_are_called(tiny_model, tiny_batch, close):
    """Where an adapter or whole numbers take the place of a feed-forward part."""
    model, calls = tiny_model(), []
    batch, tokens = windows(tiny_batch, MASKS["all observed"]), torch.randint(0, 18, (6,))
    wanted = going_on(model, read(model, batch), batch["attention_mask"], paths=2).logits(tokens)
    mlp = model.model.layers[0].mlp
    for part in (mlp.experts, mlp.shared_experts.up_proj):
        kind = type(part)
        counted = {"forward": lambda self, *args, kind=kind: calls.append(1) or kind.forward(self, *args)}
        part.__class__ = type("Adapter", (kind,), counted)
    context = going_on(model, read(model, batch), batch["attention_mask"], paths=2)
    assert type(context) is SharedContext
    calls.clear()
    close(context.logits(tokens), wanted)
    assert len(calls) == 2


# --- generate --------------------------------------------------------------------------------------------------------

ASKED = {
    "greedy": {"do_sample": False},
    "sampled": {"do_sample": True},
    "tempered": {"do_sample": True, "temperature": 0.7, "top_k": 5},
    "ends early": {"do_sample": True, "eos_token_id": [0, 1, 2, 3, 4, 5]},
    "several of each": {"do_sample": True, "num_return_sequences": 3},
    "another config": {"generation_config": GenerationConfig(do_sample=False, pad_token_id=18)},
}


@pytest.fixture
def loops(monkeypatch):
    """How often each loop ran: `loops["lean"]`, `loops["theirs"]`; and `loops["off"]()` leaves theirs alone."""
    found = {"lean": 0, "theirs": 0}

    def counted(*args, **kwargs):
        tokens = decoding.sample_lean(*args, **kwargs)
        found["theirs" if tokens is None else "lean"] += 1
        return tokens

    monkeypatch.setattr(modeling, "sample_lean", counted)
    found["off"] = lambda: monkeypatch.setattr(modeling, "sample_lean", lambda *args, **kwargs: None)
    return found


@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_generate_gives_the_tokens_of_transformers_loop(tiny_model, tiny_batch, loops, mask, asked):
    check_generate(tiny_model(), {**windows(tiny_batch, mask), "max_new_tokens": 6, **asked}, loops)


def test_every_variant_generates_so(model, tiny_batch, loops):
    batch = windows(tiny_batch, MASKS["padding and gaps"])
    check_generate(model, {**batch, "max_new_tokens": 4, "do_sample": True}, loops)


def check_generate(model, batch, loops):
    torch.manual_seed(3)
    lean, state = model.generate(**batch), torch.random.get_rng_state()
    assert loops["lean"] == 1
    loops["off"]()
    torch.manual_seed(3)
    assert torch.equal(model.generate(**batch), lean)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_cache_that_is_handed_in_is_filled(tiny_model, tiny_batch, loops, close):
    model, caches = tiny_model(), [DynamicCache(), DynamicCache()]
    batch = windows(tiny_batch, MASKS["padding and gaps"])
    for cache in caches:
        model.generate(**batch, max_new_tokens=4, do_sample=False, **{CACHE: cache})
        loops["off"]()
    assert loops["lean"] == 1
    assert caches[0].get_seq_length() == caches[1].get_seq_length() == 9
    for mine, theirs in zip(*(cache.layers for cache in caches), strict=True):
        close(mine.keys, theirs.keys)
        close(mine.values, theirs.values)


@pytest.mark.parametrize(
    "asked",
    [{"return_dict_in_generate": True}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 2}],
    ids=lambda asked: next(iter(asked)),
)
def test_whatever_else_is_asked_is_left_to_transformers(tiny_model, tiny_batch, loops, asked):
    tiny_model().generate(**tiny_batch(tokens=0), max_new_tokens=2, do_sample=False, **asked)
    assert loops["lean"] == 0


# --- parts -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize("wins", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 40])
def test_experts_equal_the_reference(tiny_model, close, monkeypatch, tokens, wins):
    monkeypatch.setattr(products, "onednn_wins", lambda: wins and torch.backends.mkldnn.is_available())
    for place, name in ((products, "SMALLEST"), (products, "FROM_MEMORY"), (decoding, "WORTH_SORTING")):
        monkeypatch.setattr(place, name, 1)
    mlp = tiny_model().model.layers[0].mlp
    x = torch.randn(tokens, 32)
    _, weights, index = mlp.gate(x)
    mlp.experts.config._experts_implementation = "eager"
    close(decoding.experts_of(mlp.experts)(x, index, weights), mlp.experts(x, index, weights))


@torch.inference_mode()
@pytest.mark.parametrize("scale", [0.0, 1e-4, 1.0, 1e4])
def test_the_norm_equals_its_module(tiny_model, scale):
    norm = tiny_model().model.norm
    norm.weight.data.uniform_(0.5, 1.5)
    x = scale * torch.randn(7, 32)
    torch.testing.assert_close(decoding.norm_of(norm)(x), norm(x), rtol=1e-5, atol=1e-7)
