"""A forecast depends on its own past alone, by whichever route it is computed: cached or not, padded or not, eager or
fused, fp32 or bf16. Losses and norms equal independent formulas, and everything that can learn does."""

import copy
import math
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    DeepseekV3Config,
    DynamicCache,
    GenerationConfig,
    Trainer,
    TrainingArguments,
)
from transformers.cache_utils import StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from tsf_llm.modeling_tsf_llm import (
    TsfLlmBatchNorm,
    TsfLlmDynamicTanh,
    TsfLlmForCausalLM,
    TsfLlmForPrediction,
    TsfLlmModel,
    increasing,
    load_balancing_loss,
)
from tsf_llm.versions_tsf_llm import CACHE

ATTENTION = {
    "mla": {},
    "mla with query rank": {"q_lora_rank": 8},
    "gqa": {"attention_type": "gqa", "num_key_value_heads": 2},
    "mha": {"attention_type": "mha"},
}
PREDICTION_TYPES = ["regression", "quantile", "classification"]
NORM_TYPES = ["rmsnorm", "batch_norm", "dynamic_tanh"]
ROPES = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn, deepseek": {"rope_type": "yarn", "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 0.7},
}


@pytest.fixture(params=ATTENTION.values(), ids=ATTENTION.keys())
def attention(request):
    return request.param


def bars_of(batch):
    """The part of a batch that a model without return tokens takes."""
    T = batch["past_values"].shape[1]
    return {"past_values": batch["past_values"], "attention_mask": batch["attention_mask"][:, :T]}


def labels_for(model, *, rows, seed=1):
    """Known labels `[B,P]` of a prediction model."""
    generator = torch.Generator().manual_seed(seed)
    P = model.config.prediction_length
    if model.config.prediction_type == "classification":
        return torch.randint(0, 3, (rows, P), generator=generator)
    return torch.randn(rows, P, generator=generator)


@torch.no_grad()
def stream(model, batch, sizes):
    """Logits of a sequence that one cache is fed in pieces of these sizes, and the cache."""
    cache, logits, start, T = DynamicCache(config=model.config), [], 0, batch["past_values"].shape[1]
    for size in sizes:
        stop = start + size
        out = model(
            input_ids=batch["input_ids"][:, start:stop],
            past_values=batch["past_values"][:, start:stop] if start < T else None,
            attention_mask=batch["attention_mask"][:, :stop],
            past_key_values=cache,
            use_cache=True,
        )
        logits, start = [*logits, out.logits], stop
    assert start == batch["input_ids"].shape[1]
    return torch.cat(logits, dim=1), cache


@torch.no_grad()
def observed_logits(model, batch):
    return model(**batch).logits[batch["attention_mask"].bool()]


# --- cache ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sizes",
    [[6, 1, 1, 1], [1] * 9, [2, 4, 3], [3, 1, 2, 2, 1], [1, 7, 1]],
    ids=["token by token", "bar by bar", "bars in chunks", "mixed", "bars and tokens in one chunk"],
)
def test_cached_equals_uncached(tiny_model, tiny_batch, close, attention, sizes):
    model, batch = tiny_model(**attention), tiny_batch()
    streamed, _ = stream(model, batch, sizes)
    close(streamed[batch["attention_mask"].bool()], observed_logits(model, batch))


def test_prediction_head_streams_new_bars(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(TsfLlmForPrediction, **attention), bars_of(tiny_batch())
    cache = model(
        past_values=batch["past_values"][:, :4], attention_mask=batch["attention_mask"][:, :4], use_cache=True
    )
    streamed = model(
        past_values=batch["past_values"][:, 4:],
        attention_mask=batch["attention_mask"],
        past_key_values=cache[CACHE],
        use_cache=True,
    )
    close(streamed.prediction, model(**batch).prediction)


def test_latent_cache_holds_the_latent_and_the_rotary_key_alone(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch()
    _, cache = stream(model, batch, [6, 1, 1, 1])
    assert type(cache) is DynamicCache
    assert len(cache.layers) == 2
    for layer in cache.layers:
        assert layer.keys.shape == (2, 1, 9, model.config.kv_lora_rank)
        assert layer.values.shape == (2, 1, 9, model.config.qk_rope_head_dim)


def test_absorbed_decoding_equals_expanded(tiny_model, tiny_batch, close):
    """The absorbed form never calls `kv_b_proj`; a subclass of Linear, as an adapter puts there, makes it expand."""

    class Counted(nn.Linear):
        calls = 0

        def forward(self, x):
            Counted.calls += 1
            return super().forward(x)

    model, batch, calls = tiny_model(), tiny_batch(), []
    model.model.layers[0].self_attn.kv_b_proj.register_forward_hook(lambda *_: calls.append(1))
    absorbed, _ = stream(model, batch, [6, 1, 1, 1])
    assert len(calls) == 1  # the prefill alone
    for layer in model.model.layers:
        layer.self_attn.kv_b_proj.__class__ = Counted
    expanded, _ = stream(model, batch, [6, 1, 1, 1])
    assert Counted.calls == 4 * 2
    close(expanded[batch["attention_mask"].bool()], absorbed[batch["attention_mask"].bool()])


def test_other_kernels_get_one_query_per_token(tiny_model, tiny_batch, close, attention):
    """Flash and flex attention read their masks that way: they decode in the expanded form."""
    model, batch, lengths = tiny_model(**attention), tiny_batch(), []

    def spy(module, query, *args, **kwargs):
        lengths.append(query.shape[2])
        return sdpa_attention_forward(module, query, *args, **kwargs)

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", sdpa_mask)
    wanted = observed_logits(model, batch)
    model.set_attn_implementation("spy")
    streamed, _ = stream(model, batch, [6, 1, 1, 1])
    assert lengths == [6, 6, 1, 1, 1, 1, 1, 1]
    close(streamed[batch["attention_mask"].bool()], wanted)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
@pytest.mark.parametrize("cls", [TsfLlmModel, TsfLlmForPrediction, TsfLlmForCausalLM])
def test_cache_is_taken_by_either_name(tiny_model, tiny_batch, close, cls, name):
    model, batch = tiny_model(cls), bars_of(tiny_batch())
    mask, field = batch["attention_mask"], "logits" if cls is not TsfLlmModel else "last_hidden_state"
    ids = {} if cls is TsfLlmForPrediction else {"input_ids": torch.full_like(mask, 19)}
    first, last = (
        {key: value[:, part] for key, value in (ids | {"past_values": batch["past_values"]}).items()}
        for part in (slice(0, 4), slice(4, None))
    )
    with torch.no_grad():
        cache = model(**first, attention_mask=mask[:, :4], use_cache=True)[CACHE]
        out = model(**last, attention_mask=mask, use_cache=True, **{name: cache})
        whole = model(**ids, **batch)
    assert out[CACHE] is cache
    assert cache.get_seq_length() == 6
    close(out[field][:, -1], whole[field][:, -1])


def test_generate_returns_the_cache(tiny_model, tiny_batch):
    out = tiny_model().generate(**tiny_batch(), max_new_tokens=2, do_sample=False, return_dict_in_generate=True)
    assert out[CACHE].get_seq_length() == 10


# --- attention by other means --------------------------------------------------------------------------------------

CAUSAL_MASK = torch.full((9, 9), -torch.inf).triu(1)[None, None]


@pytest.mark.parametrize("q_lora_rank", [None, 8])
@pytest.mark.parametrize("rope", [{"rope_type": "default"}, *ROPES.values()], ids=["default", *ROPES])
def test_latent_attention_equals_deepseek(tiny_model, close, q_lora_rank, rope):
    rope = {"rope_theta": 10000.0, **rope}
    model = tiny_model(q_lora_rank=q_lora_rank, rope_parameters=dict(rope), attn_implementation="eager").model
    names = ["hidden_size", "num_attention_heads", "num_key_value_heads", "kv_lora_rank", "q_lora_rank"]
    names += ["qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "max_position_embeddings"]
    same = {name: getattr(model.config, name) for name in names}
    config = DeepseekV3Config(**same, rope_parameters=dict(rope), rope_interleave=False, attn_implementation="eager")
    theirs = DeepseekV3Attention(config, layer_idx=0).eval()
    theirs.load_state_dict(model.layers[0].self_attn.state_dict())
    x, positions = torch.randn(2, 9, 32), torch.arange(9)[None] + 3
    ours = model.layers[0].self_attn(x, model.rotary_emb(x, positions), CAUSAL_MASK)[0]
    close(ours, theirs(x, DeepseekV3RotaryEmbedding(config)(x, positions), CAUSAL_MASK)[0])


@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_grouped_attention_equals_its_formula(tiny_model, close, key_value_heads):
    model = tiny_model(attention_type="gqa", num_key_value_heads=key_value_heads).model
    attention, x, positions = model.layers[0].self_attn, torch.randn(1, 9, 32), torch.arange(9)[None]
    q, k = (project(x[0]).view(9, -1, 12) for project in (attention.q_proj, attention.k_proj))
    v = attention.v_proj(x[0]).view(9, -1, 6)
    angle = torch.arange(9)[:, None] * 10000.0 ** (-torch.arange(0, 4, 2) / 4)

    def turned(vector, t):  # the last four numbers as two complex ones
        plane = torch.complex(vector[8:10], vector[10:12]) * torch.polar(torch.ones(2), angle[t])
        return torch.cat((vector[:8], plane.real, plane.imag))

    contexts = []
    for t in range(9):
        for head in range(4):
            group = head * key_value_heads // 4
            scores = torch.stack([turned(q[t, head], t) @ turned(k[s, group], s) for s in range(t + 1)]) / 12**0.5
            contexts.append(scores.softmax(0) @ v[: t + 1, group])
    expected = attention.o_proj(torch.cat(contexts).view(9, 24))
    close(attention(x, model.rotary_emb(x, positions), CAUSAL_MASK)[0][0], expected)


# --- independence of how it is computed ----------------------------------------------------------------------------


def test_eager_equals_sdpa(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention), tiny_batch()
    model.set_attn_implementation("sdpa")
    sdpa, (sdpa_cached, _) = observed_logits(model, batch), stream(model, batch, [6, 2, 1])
    model.set_attn_implementation("eager")
    eager, (eager_cached, _) = observed_logits(model, batch), stream(model, batch, [6, 2, 1])
    close(eager, sdpa)
    mask = batch["attention_mask"].bool()
    close(eager_cached[mask], sdpa_cached[mask])


def test_eager_attention_weights_are_causal_distributions(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention, attn_implementation="eager"), tiny_batch(padding=0)
    weights = model(**batch, output_attentions=True).attentions
    assert [w.shape for w in weights] == [(2, 4, 9, 9)] * 2
    for layer in weights:
        close(layer.sum(-1), torch.ones(2, 4, 9))
        assert (layer.triu(1) == 0).all()


def test_attention_weights_of_a_cached_step(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention, attn_implementation="eager"), tiny_batch()
    _, cache = stream(model, {key: value[:, :8] for key, value in batch.items()}, [6, 2])
    step = {"input_ids": batch["input_ids"][:, 8:], "attention_mask": batch["attention_mask"]}
    streamed = model(**step, past_key_values=cache, output_attentions=True).attentions
    whole = model(**batch, output_attentions=True).attentions
    close(streamed, tuple(weights[:, :, -1:] for weights in whole))


@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_left_padding_changes_nothing(tiny_model, tiny_batch, close, attention, norm_type):
    model, batch = tiny_model(norm_type=norm_type, **attention), tiny_batch(rows=1)
    garbage = 50 * torch.randn(1, 4, 5)
    padded = {
        "input_ids": F.pad(batch["input_ids"], (4, 0), value=19),
        "past_values": torch.cat((garbage, batch["past_values"]), dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (4, 0), value=0),
    }
    close(observed_logits(model, padded), observed_logits(model, batch))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_left_padding_changes_no_prediction(tiny_model, tiny_batch, close, kind):
    model, batch = tiny_model(TsfLlmForPrediction, prediction_type=kind), bars_of(tiny_batch(rows=1))
    padded = {
        "past_values": torch.cat((50 * torch.randn(1, 4, 5), batch["past_values"]), dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (4, 0), value=0),
    }
    close(model(**padded).prediction, model(**batch).prediction)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_a_row_does_not_depend_on_its_batch(tiny_model, tiny_batch, close, attention, norm_type):
    model, batch = tiny_model(norm_type=norm_type, **attention), tiny_batch(rows=5)
    together = model(**batch).logits
    for row in range(5):
        alone = model(**{key: value[row : row + 1] for key, value in batch.items()}).logits[0]
        mask = batch["attention_mask"][row].bool()
        close(together[row][mask], alone[mask])


@pytest.mark.parametrize("place", [2, 5, 7])
def test_causality(tiny_model, tiny_batch, close, attention, place):
    """Another bar (places 0 to 5) or another token (6 to 8) changes no earlier logits, and does change its own."""
    model, batch = tiny_model(**attention), tiny_batch(padding=0)
    other = {key: value.clone() for key, value in batch.items()}
    if place < 6:
        other["past_values"][:, place] += 1
    else:
        other["input_ids"][:, place] = (other["input_ids"][:, place] + 1) % 18
    before, after = model(**batch).logits, model(**other).logits
    close(after[:, :place], before[:, :place])
    assert ((after - before)[:, place:].abs().amax(-1) > 1e-3).all()


@pytest.mark.parametrize("mode", ["weights", "autocast"])
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_bf16_is_near_fp32(tiny_model, tiny_batch, attention, norm_type, mode):
    model, batch = tiny_model(norm_type=norm_type, initializer_range=0.1, **attention), tiny_batch()
    exact = observed_logits(model, batch)
    if mode == "weights":
        rough, streamed = observed_logits(model.bfloat16(), batch), stream(model, batch, [6, 2, 1])[0]
        assert rough.dtype == streamed.dtype == torch.bfloat16
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough, streamed = observed_logits(model, batch), stream(model, batch, [6, 2, 1])[0]
    for logits in (rough, streamed[batch["attention_mask"].bool()]):
        error = (logits.float() - exact).square().mean().sqrt() / exact.std()
        assert 0 < error < 0.05


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES.keys())
def test_rope_types_stay_consistent_within_and_beyond_the_trained_length(
    tiny_model, tiny_batch, close, attention, rope
):
    plain, model = tiny_model(**attention), tiny_model(rope_parameters={"rope_theta": 10000.0, **rope}, **attention)
    batch = tiny_batch(padding=0)
    if rope["rope_type"] == "dynamic":  # changes nothing until the sequence outgrows the training
        close(observed_logits(model, batch), observed_logits(plain, batch))
    else:
        assert (observed_logits(model, batch) - observed_logits(plain, batch)).abs().max() > 1e-4
    long = tiny_batch(bars=80, tokens=3, padding=0)
    assert observed_logits(model, long).isfinite().all()
    if rope["rope_type"] != "dynamic":  # which turns cached keys by an earlier base
        streamed, _ = stream(model, long, [70, 10, 1, 2])
        close(streamed[long["attention_mask"].bool()], observed_logits(model, long))


def test_positions_beyond_the_trained_length_run_cached_as_uncached(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention), tiny_batch(bars=100, tokens=3)
    streamed, _ = stream(model, batch, [90, 10, 1, 2])
    close(streamed[batch["attention_mask"].bool()], observed_logits(model, batch), atol=1e-4)


def test_rotary_scores_depend_on_distance_alone(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention), tiny_batch(padding=0)
    positions = torch.arange(9)[None]
    shifted = model(**batch, position_ids=positions + 20).logits
    close(shifted, model(**batch, position_ids=positions).logits, atol=1e-4)
    assert (model(**batch, position_ids=2 * positions).logits - shifted).abs().max() > 1e-3


# --- inputs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda b: {**b, "past_values": b["past_values"][..., :4]},
            "4 features, the model expects 5: use the processor",
        ),
        (lambda b: {**b, "past_values": b["past_values"][:, :5]}, "<bar> places.*give one place to each bar"),
        (lambda b: {**b, "past_values": None}, "<bar> places.*give one place to each bar"),
        (lambda b: {**b, "input_ids": b["input_ids"].clamp(max=17)}, "<bar> places.*give one place to each bar"),
        (lambda b: {"attention_mask": b["attention_mask"]}, "give past_values .* input_ids .* or inputs_embeds"),
    ],
    ids=["features", "too few bars", "no bars", "no places", "nothing"],
)
def test_wrong_inputs_are_refused(tiny_model, tiny_batch, change, message):
    with pytest.raises(ValueError, match=message):
        tiny_model()(**change(tiny_batch()))


def test_places_are_counted_in_each_row(tiny_model, tiny_batch):
    """One row with a place too many beside one with a place too few would shift bars from row to row."""
    batch = tiny_batch(padding=0)
    batch["input_ids"][0, 6], batch["input_ids"][1, 5] = 19, 3
    with pytest.raises(ValueError, match="<bar> places"):
        tiny_model()(**batch)


def test_bars_alone_need_no_ids(tiny_model, tiny_batch, close):
    model, batch = tiny_model(), tiny_batch(tokens=0)
    close(model(**bars_of(batch)).logits, model(**batch).logits)


def test_bars_fill_their_places_in_order(tiny_model, tiny_batch, close):
    model, batch = tiny_model(), tiny_batch(padding=0)
    embeds = model.model.embed(batch["past_values"], batch["input_ids"])
    close(embeds[:, :6], model.model.input_projection(batch["past_values"]))
    close(embeds[:, 6:], model.model.embed_tokens(batch["input_ids"][:, 6:]))
    close(model(inputs_embeds=embeds).logits, model(**batch).logits)


def test_prediction_model_takes_embedded_bars(tiny_model, tiny_batch, close):
    model, batch = tiny_model(TsfLlmForPrediction), bars_of(tiny_batch())
    embeds = model.get_input_embeddings()(batch["past_values"])
    embedded = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
    close(embedded.prediction, model(**batch).prediction)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_empty_places_of_a_static_cache_are_not_seen(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(attn_implementation=attention), tiny_batch(padding=0)
    cache = StaticCache(config=model.config, max_cache_len=20)
    kept = model(**batch, use_cache=True, logits_to_keep=1, **{CACHE: cache}).logits
    close(kept, model(**batch).logits[:, -1:])


def test_logits_to_keep(tiny_model, tiny_batch, close):
    model, batch = tiny_model(), tiny_batch()
    close(model(**batch, logits_to_keep=2).logits, model(**batch).logits[:, -2:])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["mla", "gqa", "mha"])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("last", [1, 2, 4])
def test_the_last_layer_computes_no_more_than_is_wanted(tiny_model, tiny_batch, close, attention, kind, padding, last):
    model = tiny_model(attention_type=kind, norm_type="batch_norm", attn_implementation=attention)
    batch, widths = tiny_batch(padding=padding), []
    model.model.layers[-1].mlp.register_forward_hook(lambda _, inputs, out: widths.append(out.shape[1]))
    whole, trimmed = model.model(**batch), model.model(**batch, last=last)
    close(trimmed.last_hidden_state, whole.last_hidden_state[:, -last:])
    one_mask = padding or attention == "eager"  # sdpa has a mask of its own where nothing is padded
    assert widths == [9, last if last == 1 or one_mask else 9]


def test_a_trimmed_prefill_leaves_the_whole_cache(tiny_model, tiny_batch, close):
    model, batch, token = tiny_model(), tiny_batch(padding=0), torch.tensor([[3], [4]])
    caches = [model(**batch, use_cache=True, logits_to_keep=keep)[CACHE] for keep in (0, 1)]
    whole, trimmed = (model(input_ids=token, **{CACHE: cache}).logits for cache in caches)
    close(trimmed, whole)


def test_what_is_shown_is_shown_of_every_position(tiny_model, tiny_batch):
    shown = tiny_model()(**tiny_batch(), logits_to_keep=1, output_hidden_states=True, output_router_logits=True)
    assert {one.shape[1] for one in shown.hidden_states} == {9}
    assert len({one.shape for one in shown.router_logits}) == 1


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_prediction_output_shapes(tiny_model, tiny_batch, close, kind):
    model = tiny_model(TsfLlmForPrediction, prediction_type=kind, quantiles=[0.1, 0.5, 0.6, 0.9])
    out = model(**bars_of(tiny_batch()), labels=labels_for(model, rows=2), use_cache=True, output_hidden_states=True)
    last = {"regression": (), "quantile": (4,), "classification": (3,)}[kind]
    assert out.prediction.shape == out.logits.shape == (2, 3, *last)
    assert out.loss.shape == out.aux_loss.shape == ()
    assert out.last_hidden_state.shape == (2, 6, 32)
    assert len(out.hidden_states) == 3
    assert out[CACHE].get_seq_length() == 6
    if kind == "classification":
        close(out.prediction, out.logits.softmax(-1))


def test_router_logits_come_on_request_alone(tiny_model, tiny_batch):
    batch = tiny_batch()
    assert tiny_model()(**batch, labels=batch["input_ids"].clamp(max=17)).router_logits is None
    for out in (tiny_model()(**batch, output_router_logits=True), tiny_model(output_router_logits=True)(**batch)):
        assert [layer.shape for layer in out.router_logits] == [(2 * 9, 4)] * 2


# --- losses --------------------------------------------------------------------------------------------------------


def test_regression_loss_formula(tiny_model, tiny_batch):
    model = tiny_model(TsfLlmForPrediction)
    labels = labels_for(model, rows=2)
    labels[0, 1] = math.nan
    out = model(**bars_of(tiny_batch()), labels=labels)
    expected = np.nanmean((out.prediction.detach().numpy() - labels.numpy()) ** 2)
    np.testing.assert_allclose(out.loss.item(), expected, rtol=1e-5)


def test_quantile_loss_is_twice_the_mean_pinball(tiny_model, tiny_batch):
    levels = [0.1, 0.5, 0.8]
    model = tiny_model(TsfLlmForPrediction, prediction_type="quantile", quantiles=levels)
    labels = labels_for(model, rows=2)
    labels[1, 0] = math.nan
    out = model(**bars_of(tiny_batch()), labels=labels)
    error = labels.numpy()[..., None] - out.prediction.detach().numpy()
    pinball = np.where(error >= 0, np.array(levels) * error, (np.array(levels) - 1) * error)
    np.testing.assert_allclose(out.loss.item(), 2 * np.nanmean(pinball), rtol=1e-5)


def test_classification_loss_formula(tiny_model, tiny_batch):
    model = tiny_model(TsfLlmForPrediction, prediction_type="classification")
    labels = torch.tensor([[0, -100, 2], [1, 1, -100]])
    out = model(**bars_of(tiny_batch()), labels=labels)
    chosen = [out.prediction[b, p, labels[b, p]].item() for b, p in [(0, 0), (0, 2), (1, 0), (1, 1)]]
    np.testing.assert_allclose(out.loss.item(), -np.mean(np.log(chosen)), rtol=1e-5)


def test_causal_loss_is_cross_entropy_shifted_by_one(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch()
    labels = torch.randint(0, 18, batch["input_ids"].shape, generator=torch.Generator().manual_seed(3))
    labels[0, :3] = -100
    out = model(**batch, labels=labels)
    log_probs = out.logits.log_softmax(-1).detach().numpy()
    picked = [log_probs[b, t, labels[b, t + 1]] for b in range(2) for t in range(8) if labels[b, t + 1] != -100]
    assert len(picked) == 2 * 8 - 2
    np.testing.assert_allclose(out.loss.item(), -np.mean(picked), rtol=1e-5)
    summed = model(**batch, labels=labels, num_items_in_batch=torch.tensor(50)).loss.item()
    np.testing.assert_allclose(summed, -np.sum(picked) / 50, rtol=1e-5)


@pytest.mark.parametrize("cls", [TsfLlmForCausalLM, TsfLlmForPrediction])
def test_aux_loss_is_charged_in_training_alone(tiny_model, tiny_batch, close, cls):
    model = tiny_model(cls, router_aux_loss_coef=0.5)
    batch = tiny_batch() if cls is TsfLlmForCausalLM else bars_of(tiny_batch())
    labels = batch["input_ids"].clamp(max=17) if cls is TsfLlmForCausalLM else labels_for(model, rows=2)
    evaluated, trained = model.eval()(**batch, labels=labels), model.train()(**batch, labels=labels)
    close(trained.aux_loss, evaluated.aux_loss)
    close(trained.loss, evaluated.loss + 0.5 * evaluated.aux_loss)
    routers = model(**batch, output_router_logits=True).router_logits
    close(trained.aux_loss, load_balancing_loss(routers, 2, batch["attention_mask"]))
    assert model(**batch).aux_loss is None
    assert model(**batch, output_router_logits=True).aux_loss is None


def test_loss_of_a_cached_continuation_counts_the_new_tokens(tiny_model, tiny_batch, close):
    model, batch = tiny_model(), tiny_batch()
    cache = model(**{key: value[:, :6] for key, value in batch.items()}, use_cache=True)[CACHE]
    ids = batch["input_ids"][:, 6:]
    out = model(input_ids=ids, attention_mask=batch["attention_mask"], past_key_values=cache, labels=ids)
    logits = model(**batch).logits[:, 6:-1]
    close(out.loss, F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    assert out.aux_loss > 0


def test_no_aux_loss_while_generating_in_train_mode(tiny_model, tiny_batch):
    model, batch, outputs = tiny_model().train(), tiny_batch(tokens=0), []
    model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape == (2, 9)
    assert len(outputs) == 3
    assert all(out.aux_loss is None and out.loss is None for out in outputs)


# --- quantiles and norms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1, 100, 1e6])
def test_quantiles_never_cross_whatever_the_weights(tiny_model, tiny_batch, scale):
    model = tiny_model(TsfLlmForPrediction, prediction_type="quantile")
    nn.init.normal_(model.head.weight, std=scale, generator=torch.Generator().manual_seed(0))
    assert (model(**bars_of(tiny_batch())).prediction.diff(dim=-1) >= 0).all()


def test_increasing_is_strict_and_takes_any_start(close):
    raw = torch.tensor([[-3.0, -5.0, 0.0, 2.0]])
    expected = -3 + np.cumsum([0, *np.log1p(np.exp([-5.0, 0.0, 2.0]))])
    close(increasing(raw), torch.tensor(expected, dtype=torch.float32)[None])
    assert (increasing(torch.linspace(-5, 5, 90).view(10, 9)).diff(dim=-1) > 0).all()


def test_padding_changes_nothing_in_batch_norm_training(tiny_model, tiny_batch, close):
    batch, results = tiny_batch(), []
    labels = batch["input_ids"].clamp(max=17)
    labels[1, :3] = -100  # the third bar is the first observed one: no bar before it could name its return
    for garbage in (0.0, 100.0):
        model = tiny_model(norm_type="batch_norm").train()
        batch["past_values"][1, :2] = garbage
        out = model(**batch, labels=labels)
        results.append((out.loss.detach(), dict(model.named_buffers())))
    close(results[1], results[0])


# --- training ------------------------------------------------------------------------------------------------------


def assert_one_step_changes_everything(model, **inputs):
    """Plain gradient descent, which moves nothing without a gradient; of every expert each matrix must move."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(**inputs).loss.backward()
    optimizer.step()
    for name, p in model.named_parameters():
        changed = p.detach() != before[name]
        assert changed.any(), name
        if ".experts." in name:
            assert changed.flatten(1).any(1).all(), name


@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_one_step_changes_every_parameter_of_the_language_model(tiny_model, tiny_batch, attention, norm_type):
    batch = tiny_batch(rows=8, bars=10)
    assert_one_step_changes_everything(
        tiny_model(norm_type=norm_type, **attention), **batch, labels=batch["input_ids"].clamp(max=17)
    )


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_one_step_changes_every_parameter_of_the_prediction_model(tiny_model, tiny_batch, attention, norm_type, kind):
    model = tiny_model(TsfLlmForPrediction, prediction_type=kind, norm_type=norm_type, **attention)
    assert_one_step_changes_everything(
        model, **bars_of(tiny_batch(rows=16, bars=10)), labels=labels_for(model, rows=16)
    )


def test_routers_learn_from_the_task_itself(tiny_model, tiny_batch):
    batch = tiny_batch(rows=8, bars=10)
    assert_one_step_changes_everything(
        tiny_model(router_aux_loss_coef=0.0), **batch, labels=batch["input_ids"].clamp(max=17)
    )


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("cls", [TsfLlmForCausalLM, TsfLlmForPrediction])
def test_activation_checkpointing_changes_nothing(
    tiny_model, tiny_batch, checkpoint_activations, close, attention, norm_type, cls
):
    batch = tiny_batch() if cls is TsfLlmForCausalLM else bars_of(tiny_batch())
    results = []
    for checkpointing in (False, True):
        model = tiny_model(cls, norm_type=norm_type, router_aux_loss_coef=10.0, **attention).train()
        if checkpointing:
            checkpoint_activations(model)
            assert all(layer.gradient_checkpointing for layer in model.model.layers)
        labels = batch["input_ids"].clamp(max=17) if cls is TsfLlmForCausalLM else labels_for(model, rows=2)
        out = model(**batch, labels=labels)
        out.loss.backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        results.append((out.loss.detach(), out.aux_loss.detach(), gradients))
    close(results[1], results[0])


@pytest.mark.parametrize("dropout", ["attention_dropout", "hidden_dropout"])
def test_dropout_acts_in_training_alone(tiny_model, tiny_batch, attention, dropout):
    batch = tiny_batch()
    plain, model = tiny_model(**attention), tiny_model(**{dropout: 0.3}, **attention)
    assert torch.equal(model(**batch).logits, plain(**batch).logits)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("mode", ["weights", "autocast"])
@pytest.mark.parametrize("norm_type", NORM_TYPES)
def test_bf16_trains(tiny_model, tiny_batch, norm_type, mode):
    batch = tiny_batch(rows=4)
    model = tiny_model(norm_type=norm_type).train()
    exact = model(**batch, labels=batch["input_ids"].clamp(max=17)).loss.item()
    if mode == "weights":
        loss = model.bfloat16()(**batch, labels=batch["input_ids"].clamp(max=17)).loss
    else:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**batch, labels=batch["input_ids"].clamp(max=17)).loss
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.05)
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in model.parameters())


def test_loss_kwargs_are_declared_to_trainer():
    assert TsfLlmForPrediction.accepts_loss_kwargs is False  # its losses are means
    assert getattr(TsfLlmForCausalLM, "accepts_loss_kwargs", True)  # its loss takes num_items_in_batch


@pytest.mark.parametrize("cls", [TsfLlmForCausalLM, TsfLlmForPrediction])
def test_gradient_accumulation_changes_nothing(tiny_model, tiny_batch, close, tmp_path, cls):
    """One step of Trainer on four equal windows at once, or in two turns; equal, so that both see the same balance."""
    window = {key: value[0] for key, value in tiny_batch().items()}
    if cls is TsfLlmForPrediction:
        window = {"past_values": window["past_values"], "labels": torch.tensor([1.0, -1.0, 0.5])}
    else:
        window["labels"] = window["input_ids"].clamp(max=17)
    trained = []
    for rows, turns in ((4, 1), (2, 2)):
        model = tiny_model(cls, router_aux_loss_coef=1.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=turns,
            optim="sgd",
            learning_rate=0.1,
            max_grad_norm=0,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        trainer = Trainer(model, arguments, train_dataset=[window] * 4)
        trainer.train()
        trained.append((torch.tensor(trainer.state.log_history[0]["loss"]), model.state_dict()))
    close(trained[1], trained[0], atol=1e-4, rtol=1e-4)  # the log rounds to four digits
    untrained = tiny_model(cls).state_dict()
    assert all((trained[0][1][name] != untrained[name]).any() for name in untrained)


# --- generation ----------------------------------------------------------------------------------------------------


def test_greedy_generation_cached_equals_uncached(tiny_model, tiny_batch, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)
    cached, uncached = (model.generate(**batch, max_new_tokens=6, do_sample=False, use_cache=c) for c in (True, False))
    assert cached.shape == (2, 12)
    assert torch.equal(cached, uncached)


def test_generation_continues_return_tokens(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch(tokens=2)
    ids = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(ids[:, :8], batch["input_ids"])
    step = {**batch, "input_ids": ids[:, :-1], "attention_mask": F.pad(batch["attention_mask"], (0, 3), value=1)}
    scores = model(**step).logits[:, -1].index_fill(1, torch.tensor([18, 19]), -torch.inf)
    assert torch.equal(scores.argmax(-1), ids[:, -1])


def test_generation_continues_a_cache_of_bars(tiny_model, tiny_batch, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)
    wanted = model.generate(**batch, max_new_tokens=4, do_sample=False)
    for seen in (4, 5):
        cache = model(**{key: value[:, :seen] for key, value in batch.items()}, use_cache=True)[CACHE]
        assert torch.equal(model.generate(**batch, **{CACHE: cache}, max_new_tokens=4, do_sample=False), wanted)


def test_sampling_is_reproducible_and_gives_many_paths(tiny_model, tiny_batch, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(**batch, max_new_tokens=5, do_sample=True, num_return_sequences=7)

    first, again, other = sample(1), sample(1), sample(2)
    assert first.shape == (14, 11)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({tuple(path) for path in first[:7].tolist()}) > 1


def test_beam_search_sorts_its_beams(tiny_model, tiny_batch, close, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)
    out = model.generate(
        **batch,
        max_new_tokens=4,
        num_beams=3,
        num_return_sequences=3,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = out.sequences_scores.view(2, 3)
    assert (scores.diff(dim=1) <= 0).all()
    ids, T = out.sequences, 6
    wide = {key: value.repeat_interleave(3, 0) for key, value in batch.items()}
    wide |= {"input_ids": ids[:, :-1], "attention_mask": F.pad(wide["attention_mask"], (0, 3), value=1)}
    totals = model(**wide).logits[:, T - 1 :].log_softmax(-1).gather(2, ids[:, T:, None]).sum((1, 2)).view(2, 3)
    close(scores, totals / 4)  # length penalty 1: the mean per token


def test_left_padded_batch_generates_as_alone(tiny_model, tiny_batch, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)
    together = model.generate(**batch, max_new_tokens=5, do_sample=False)
    for row in range(2):
        n = int(batch["attention_mask"][row].sum())
        alone = {key: value[row : row + 1, -n:] for key, value in batch.items()}
        assert torch.equal(model.generate(**alone, max_new_tokens=5, do_sample=False)[0, n:], together[row, 6:])


def test_special_tokens_are_never_generated(tiny_model, tiny_batch, tmp_path):
    model, batch = tiny_model(), tiny_batch(tokens=0)
    nn.init.zeros_(model.lm_head.weight)  # every token as likely as the other
    model.save_pretrained(tmp_path)
    for each in (model, TsfLlmForCausalLM.from_pretrained(tmp_path)):
        torch.manual_seed(0)
        drawn = each.generate(**batch, max_new_tokens=20, do_sample=True, num_return_sequences=20, top_k=0)[:, 6:]
        assert set(drawn.unique().tolist()) == set(range(18))


def test_static_cache_generates_the_same(tiny_model, tiny_batch, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=0)
    wanted = model.generate(**batch, max_new_tokens=5, do_sample=False)
    static = model.generate(
        **batch, max_new_tokens=5, do_sample=False, cache_implementation="static", disable_compile=True
    )
    assert torch.equal(static, wanted)


def test_fields_for_decode_pass_through_generate(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch(tokens=0)
    extras = {
        "scale": torch.ones(2),
        "last_close": torch.ones(2),
        "ticker": ["A", "B"],
        "origin": [1, 2],
        "bar_times": [[], []],
        "skipped": {"C": "C: 10 bars, at least 31 are needed"},
    }
    wanted = model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert torch.equal(model.generate(**batch, **extras, max_new_tokens=3, do_sample=False), wanted)
    with pytest.raises(ValueError, match="past_valuse"):
        model.generate(**batch, past_valuse=batch["past_values"], max_new_tokens=1)


# --- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("cls", [TsfLlmModel, TsfLlmForPrediction, TsfLlmForCausalLM])
def test_saved_and_loaded_to_the_same_bits(tiny_model, tiny_batch, tmp_path, cls, norm_type, dtype):
    model, batch = tiny_model(cls, norm_type=norm_type).to(dtype), bars_of(tiny_batch())
    for buffer in model.buffers():
        if buffer.numel() == 32:  # running statistics
            buffer.uniform_(0.5, 1.5)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path, dtype=dtype)
    assert not loaded.training
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), atol=0, rtol=0)
    torch.testing.assert_close(loaded(**batch)[0], model(**batch)[0], atol=0, rtol=0)


def test_heads_exchange_their_decoder(tiny_model, tiny_batch, tmp_path):
    language_model, batch = tiny_model(), bars_of(tiny_batch())
    language_model.save_pretrained(tmp_path)
    for cls in (TsfLlmModel, TsfLlmForPrediction):
        loaded = cls.from_pretrained(tmp_path, prediction_type="regression")
        assert torch.equal(loaded(**batch).last_hidden_state, language_model.model(**batch).last_hidden_state)


@pytest.mark.parametrize("norm_type", ["batch_norm", "dynamic_tanh"])
def test_norms_that_the_weights_lack_start_afresh(tiny_model, tiny_batch, tmp_path, norm_type):
    tiny_model().save_pretrained(tmp_path)
    loaded = TsfLlmForCausalLM.from_pretrained(tmp_path, norm_type=norm_type)
    fresh = (TsfLlmBatchNorm if norm_type == "batch_norm" else TsfLlmDynamicTanh)(32, loaded.config.norm_eps)
    for norm in (loaded.model.norm, loaded.model.layers[1].input_layernorm):
        torch.testing.assert_close(dict(norm.state_dict()), dict(fresh.state_dict()), atol=0, rtol=0)


# --- what a first user does ----------------------------------------------------------------------------------------


def test_generate_samples_the_usual_steps_of_a_saved_folder(tiny_model, tiny_batch, tmp_path):
    """Of the whole distribution: transformers keeps the 50 likeliest tokens by default, which cuts the tails."""
    tiny_model().save_pretrained(tmp_path)
    model, batch = TsfLlmForCausalLM.from_pretrained(tmp_path), tiny_batch(tokens=0)
    assert (model.generation_config.do_sample, model.generation_config.top_k) == (True, 0)
    drawn = model.generate(**batch, num_return_sequences=50)[:, 6:]
    assert drawn.shape == (100, 3)
    assert drawn.max() < 18
    assert len(drawn.unique()) > 5
    assert model.generate(**batch, max_new_tokens=2).shape == (2, 8)
    assert model.generate(**batch, max_length=11).shape == (2, 11)


@pytest.mark.parametrize("size", [1, 4, 5, 6, 100])
def test_chunked_prefill_changes_nothing(tiny_model, tiny_batch, size, attention):
    model, batch = tiny_model(**attention), tiny_batch(tokens=2)
    wanted = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False, prefill_chunk_size=size), wanted)


def test_other_ways_of_decoding(tiny_model, tiny_batch):
    model, batch = tiny_model(), tiny_batch(tokens=0, rows=1)
    greedy = model.generate(**batch, max_new_tokens=4, do_sample=False)
    helper = {"assistant_model": tiny_model(seed=1)}
    for options in (helper, {"prompt_lookup_num_tokens": 2}, {"use_cache": False}):
        assert torch.equal(model.generate(**batch, max_new_tokens=4, do_sample=False, **options), greedy)
    beams = model.generate(**batch, max_new_tokens=4, num_beams=3, do_sample=False)
    assert beams.shape == greedy.shape
    assert beams[:, 6:].max() < 18
    for name, value in {"guidance_scale": 2.0, "assistant_early_exit": 1}.items():
        with pytest.raises(ValueError, match=f"{name}={value}: this model cannot"):
            model.generate(**batch, max_new_tokens=4, **{name: value})
        with pytest.raises(ValueError, match=f"{name}={value}: this model cannot"):
            model.generate(**batch, generation_config=GenerationConfig(max_new_tokens=4, **{name: value}))


@pytest.mark.parametrize("special", [18, 19], ids=["pad", "bar"])
def test_labels_that_are_no_returns_are_refused(tiny_model, tiny_batch, special):
    model, batch = tiny_model(), tiny_batch()
    labels = batch["input_ids"].clamp(max=17)
    assert model(**batch, labels=labels).loss > 0
    labels[0, 1] = special
    with pytest.raises(ValueError, match="1 labels are <bar> or <pad>"):
        model(**batch, labels=labels)


def test_a_head_in_the_place_of_another_is_refused(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path / "lm")
    tiny_model(TsfLlmForPrediction).save_pretrained(tmp_path / "head")
    with pytest.raises(ValueError, match=r"lm holds a TsfLlmForCausalLM, .* or give prediction_type in the call"):
        TsfLlmForPrediction.from_pretrained(tmp_path / "lm")
    with pytest.raises(ValueError, match=r"head holds a TsfLlmForPrediction, .* its own class$"):
        TsfLlmForCausalLM.from_pretrained(tmp_path / "head")
    new = TsfLlmForPrediction.from_pretrained(tmp_path / "lm", prediction_type="quantile")
    assert new.config.prediction_type == "quantile"
    new.save_pretrained(tmp_path / "new")
    assert TsfLlmForPrediction.from_pretrained(tmp_path / "new").head.out_features == new.head.out_features
    assert TsfLlmForCausalLM.from_pretrained(tmp_path / "lm", output_loading_info=True)[1]["missing_keys"] == set()


def step_in_eval_mode(model, batch):
    model.eval()(**batch, labels=batch["input_ids"].clamp(max=17)).loss.backward()


def step_compiled(model, batch):
    compiled = torch.compile(model, backend="eager").train()
    compiled(**batch, labels=batch["input_ids"].clamp(max=17)).loss.backward()


def step_of(part):
    """One step of a loop in evaluation mode that trains a part alone."""

    def step(model, batch):
        model.requires_grad_(False)
        part(model).requires_grad_(True)
        step_in_eval_mode(model, batch)

    return step


def merge_adapter(model, batch):
    with TemporaryDirectory() as folder:
        get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=["o_proj"])).save_pretrained(folder)
        PeftModel.from_pretrained(model, folder).merge_and_unload()


CHANGES = {
    "train": lambda model, batch: model.train(),
    "base model": lambda model, batch: model.model.train(),
    "eval mode": step_in_eval_mode,
    "last layer": step_of(lambda model: model.model.layers[-1]),
    "head": step_of(lambda model: model.lm_head),
    "adapter": merge_adapter,
    "compiled": step_compiled,
    "state": lambda model, batch: model.load_state_dict(model.state_dict()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_weights_that_change_lose_their_date(tiny_model, tiny_batch, tmp_path, change):
    tiny_model(trained_through="2020-06-30").save_pretrained(tmp_path / "before")
    model = TsfLlmForCausalLM.from_pretrained(tmp_path / "before")
    change(model, tiny_batch())
    model.save_pretrained(tmp_path / "after")
    assert TsfLlmForCausalLM.from_pretrained(tmp_path / "after").config.trained_through is None


KEPT = {
    "as it is": lambda model, batch: model,
    "half": lambda model, batch: model.half(),
    "forward": lambda model, batch: model(**batch, labels=batch["input_ids"].clamp(max=17)) and model,
    "copied": lambda model, batch: copy.deepcopy(model),
}


@pytest.mark.parametrize("use", KEPT.values(), ids=KEPT.keys())
def test_weights_that_do_not_change_keep_their_date(tiny_model, tiny_batch, tmp_path, use):
    model = use(tiny_model(trained_through="2020-06-30"), tiny_batch())
    model.save_pretrained(tmp_path)
    assert TsfLlmForCausalLM.from_pretrained(tmp_path).config.trained_through == "2020-06-30"


# --- adapters ------------------------------------------------------------------------------------------------------


@pytest.fixture
def adapted(tiny_model, attention):
    """A model with random LoRA adapters on every Linear, `kv_b_proj` included."""
    model = tiny_model(**attention)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=2, lora_alpha=8, target_modules=names, init_lora_weights=False)).eval()


def test_adapter_cached_equals_uncached(adapted, tiny_batch, close):
    batch = tiny_batch()
    mask, uncached = batch["attention_mask"].bool(), observed_logits(adapted, batch)
    with adapted.disable_adapter():
        assert (observed_logits(adapted, batch) - uncached).abs().max() > 0.01
    streamed, _ = stream(adapted, batch, [6, 1, 1, 1])
    close(streamed[mask], uncached)
    prompt = {key: value[:, :6] for key, value in batch.items()}
    paths = [adapted.generate(**prompt, max_new_tokens=5, do_sample=False, use_cache=c) for c in (True, False)]
    assert torch.equal(*paths)


def test_merged_adapter_equals_unmerged(adapted, tiny_batch, close):
    batch = tiny_batch()
    mask, unmerged = batch["attention_mask"].bool(), observed_logits(adapted, batch)
    merged = adapted.merge_and_unload()
    assert isinstance(merged, TsfLlmForCausalLM)
    close(observed_logits(merged, batch), unmerged, atol=1e-4)
    close(stream(merged, batch, [6, 1, 1, 1])[0][mask], unmerged, atol=1e-4)
