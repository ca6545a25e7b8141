"""Contestants have the shapes that they claim, and all answer to the same bars."""

import importlib.util

import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from tsf_llm.benchmarks import contest, peers
from tsf_llm.benchmarks.peers import BOLT, CHRONOS2, DEEPSEEK, LLAMA, MAKERS, MIXTRAL, OURS, Field
from tsf_llm.benchmarks.rounds import operations

QUICK = Field(model="mini", quick=True)
FULL = Field()


@pytest.fixture(scope="module")
def bars():
    return contest.made_bars(2, peers.HISTORY)


def made(name, field=QUICK):
    if why := peers.absent(name):
        pytest.skip(why)
    return peers.contestant(name, field)


@pytest.mark.parametrize("name", MAKERS)
def test_a_contestant_reads_learns_and_forecasts(name, bars):
    one = made(name)
    inputs, options = one.read(2, peers.WINDOW), {"use_cache": False} if one.generates else {}
    if name != peers.INT8:
        loss = one.model.train()(**inputs, **one.learn(inputs), **options).loss
        loss.backward()
        assert loss.isfinite()
    if one.generates:
        assert one.model.generation_config.use_cache is not False
        assert one.model.config.use_cache
    frame = one.frame(bars)
    assert frame["ticker"].tolist() == [name for name in ("T00000", "T00001") for _ in range(peers.HORIZON)]
    dates = pd.bdate_range(bars["timestamp"].max(), periods=peers.HORIZON + 1)[1:]
    assert frame["timestamp"].tolist() == [*dates, *dates]
    if name != peers.PATCHTST:  # which names one number
        assert frame[["q10", "q50", "q90"]].notna().all(axis=None)
        assert (frame["q10"] <= frame["q90"]).all() or name in (peers.TIMESFM, BOLT, CHRONOS2)  # of random weights


@pytest.mark.parametrize("name", [DEEPSEEK, MIXTRAL, LLAMA])
def test_language_models_are_as_large_as_ours(name):
    ours = peers.network("shipped", FULL).num_parameters()
    assert made(name, FULL).model.num_parameters() == pytest.approx(ours, rel=0.01)


@pytest.mark.skipif(importlib.util.find_spec("chronos") is None, reason="pip install chronos-forecasting")
@pytest.mark.parametrize(("name", "millions"), [(BOLT, 48), (CHRONOS2, 28)])
def test_chronos_has_its_published_size(name, millions):
    assert round(made(name, FULL).model.num_parameters() / 1e6) == millions


@pytest.fixture(scope="module")
def pair():
    ours = peers.network("mini", QUICK).eval()
    return ours, peers.deepseek_of(ours).eval()


def test_deepseek_attends_as_we_do(pair):
    """Same weights, same numbers: the two differ in nothing that would make one of them do more."""
    ours, peer = pair
    x_BSD = torch.randn(2, 6, ours.config.hidden_size)
    for mine, theirs in zip(ours.model.layers, peer.model.layers, strict=True):
        positions = torch.arange(6)[None]
        contexts = [
            layer.self_attn(x_BSD, position_embeddings=model.model.rotary_emb(x_BSD, positions), attention_mask=None)[
                0
            ]
            for layer, model in ((mine, ours), (theirs, peer))
        ]
        assert_close(contexts[0], contexts[1])


def test_deepseek_chooses_the_experts_that_we_choose(pair):
    ours, peer = pair
    x_ND = torch.randn(12, ours.config.hidden_size)
    for mine, theirs in zip(ours.model.layers, peer.model.layers, strict=True):
        assert_close(mine.mlp.gate(x_ND)[2].sort().values, theirs.mlp.gate(x_ND)[2].sort().values)


@pytest.mark.parametrize("name", [OURS, DEEPSEEK, MIXTRAL, LLAMA])
def test_what_is_counted_is_what_the_weights_say(name):
    """Twice the weights that a token passes, and attention."""
    one = made(name)
    config, tokens = one.model.config, 2 * peers.WINDOW
    experts = sum(p.numel() for key, p in one.model.named_parameters() if ".experts." in key)
    share = config.num_experts_per_tok / peers.network("mini", QUICK).config.n_routed_experts if experts else 0
    dense = sum(p.numel() for key, p in one.model.named_parameters() if p.ndim == 2 and ".experts." not in key)
    embedded = config.vocab_size * config.hidden_size  # looked up
    per_token = dense - embedded + share * experts
    if name in (OURS, DEEPSEEK):
        heads = config.num_attention_heads * (config.qk_nope_head_dim + config.qk_rope_head_dim + config.v_head_dim)
    else:
        heads = 2 * config.hidden_size
    wanted = 2 * tokens * (per_token + config.num_hidden_layers * heads * peers.WINDOW)  # all pairs
    counted = operations(contest.forward(one, contest.TINY))
    assert counted == pytest.approx(wanted, rel=0.01)
    assert operations(contest.train(one, contest.TINY)) == pytest.approx(3 * wanted, rel=0.12)


def test_who_is_not_there_says_why(monkeypatch):
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert peers.absent(BOLT) == "pip install chronos-forecasting"
    monkeypatch.setattr(peers, "cpu_flags", lambda: ["avx2"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no bf16" in peers.absent(peers.BF16)
    assert peers.absent(OURS) is None
