"""Return tokens: bins of standardised returns, and what a trainer asks of a tokenizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

FEW = settings(max_examples=6, deadline=None, derandomize=True)


def heavy_tails(seed: int, n: int = 5000) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(4, n)


def assert_valid(edges: list[float]) -> None:
    assert (np.diff(edges) > 0).all()
    assert np.isfinite(edges).all()
    assert 0.0 in edges[1:-1]


def test_the_default_vocabulary():
    tokenizer = TsfLlmTokenizer().fit(heavy_tails(0))
    assert (len(tokenizer.bin_edges), len(tokenizer.bin_centers)) == (257, 256)
    assert len(tokenizer) == tokenizer.vocab_size == len(tokenizer.get_vocab()) == 258
    assert sorted(tokenizer.get_vocab().values()) == list(range(258))
    assert (tokenizer.pad_token_id, tokenizer.bar_token_id) == (256, 257)
    assert tokenizer.convert_ids_to_tokens([0, 255, 256, 257]) == ["r0", "r255", "<pad>", "<bar>"]
    assert tokenizer.convert_tokens_to_ids(["r0", "r255", "<pad>", "<bar>"]) == [0, 255, 256, 257]
    assert tokenizer.padding_side == "left"


@FEW
@given(seed=st.integers(0, 10_000), n_bins=st.sampled_from([32, 64, 256]))
def test_round_trip_is_within_half_a_bin(seed, n_bins):
    tokenizer = TsfLlmTokenizer(n_bins).fit(heavy_tails(seed))
    edges = np.array(tokenizer.bin_edges)
    assert_valid(tokenizer.bin_edges)
    values = np.random.default_rng(seed + 1).uniform(edges[0], edges[-1], 3000)
    ids = tokenizer.encode_returns(values)
    assert ((edges[ids] <= values) & (values <= edges[ids + 1])).all()
    assert (np.abs(tokenizer.decode_returns(ids) - values) <= np.diff(edges)[ids] / 2 * (1 + 1e-9)).all()
    assert np.array_equal(tokenizer.encode_returns(tokenizer.bin_centers), np.arange(n_bins))


def test_signs_survive_the_tokens():
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    values = np.array([-4.0, -1e-7, 0.0, 1e-7, 4.0])
    assert np.sign(tokenizer.decode_returns(tokenizer.encode_returns(values))).tolist() == [-1, -1, 1, 1, 1]


def test_outside_clips_and_unknown_is_ignored():
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    values = np.array([-1e9, -np.inf, 1e9, np.inf, np.nan])
    assert tokenizer.encode_returns(values).tolist() == [0, 0, 31, 31, -100]
    assert tokenizer.encode_returns(values, unknown=tokenizer.pad_token_id)[-1] == 32
    assert tokenizer.encode_returns(values).dtype == np.int64
    assert np.isnan(tokenizer.decode_returns(np.array([32, 33, -100]))).all()


@pytest.mark.parametrize(
    "values",
    [
        np.where(np.arange(2000) % 3 > 0, 0.0, heavy_tails(0, 2000)),  # mostly zero
        np.round(heavy_tails(1, 2000) * 2) / 2,  # a coarse grid
        np.zeros(500),
        np.full(500, 0.7),
        np.abs(heavy_tails(2, 2000)) + 0.1,  # only up
        -np.abs(heavy_tails(2, 2000)) - 0.1,  # only down
        np.append(np.zeros(999), 1e-12),
    ],
    ids=["zeros", "grid", "all zero", "one value", "only up", "only down", "almost nothing"],
)
def test_ties_and_one_sided_returns_still_give_bins(values):
    tokenizer = TsfLlmTokenizer().fit(values)
    assert_valid(tokenizer.bin_edges)
    ids = tokenizer.encode_returns(values)
    edges = np.array(tokenizer.bin_edges)
    assert ((edges[ids] <= values + 1e-6) & (values - 1e-6 <= edges[ids + 1])).all()


def test_body_bins_share_the_data_and_tails_hold_the_rest():
    values = heavy_tails(3, 200_000)
    counts = np.bincount(TsfLlmTokenizer().fit(values).encode_returns(values), minlength=256) / len(values)
    body, tails = counts[8:-8], (counts[:8].sum(), counts[-8:].sum())
    expected = np.full(240, 0.99 / 240)
    moved = np.abs(np.cumsum(body - expected))  # the edge that was put at zero moves data between two neighbours
    assert (np.abs(body - expected) > 0.05 / 240).sum() <= 2
    assert moved.max() < 1 / 240
    np.testing.assert_allclose(tails, 0.005, rtol=0.05)
    widths = np.diff(TsfLlmTokenizer().fit(values).bin_edges)
    assert (np.diff(widths[-8:]) > 0).all()
    assert (np.diff(widths[:8]) < 0).all()


@pytest.mark.parametrize("jump", [-150.0, 6000.0])
def test_a_jump_falls_into_the_outer_bin_and_does_not_widen_it(jump):
    values = heavy_tails(4, 50_000).clip(-20, 20)
    usual, jumped = (TsfLlmTokenizer().fit(each).fitted_edges for each in (values, np.append(values, [jump] * 3)))
    np.testing.assert_allclose(usual[[0, -1]], [values.min(), values.max()], rtol=1e-6)  # what was seen is the bound
    assert np.abs(jumped[[0, -1]]).max() <= 10 * np.abs(usual[[8, -9]]).max() * 1.01
    np.testing.assert_allclose(jumped[8:-8], usual[8:-8], atol=0.05)
    assert TsfLlmTokenizer().fit(np.append(values, jump)).encode_returns(np.array([jump]))[0] in (0, 255)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: TsfLlmTokenizer(33), "n_bins=33: use an even number"),
        (lambda: TsfLlmTokenizer(16), "at least 32"),
        (lambda: TsfLlmTokenizer(32, [1.0, 0.0]), "33 increasing numbers, got "),
        (lambda: TsfLlmTokenizer(32, [0.0] * 33), "33 increasing numbers"),
        (lambda: TsfLlmTokenizer(32).bin_centers, "not fitted"),
        (lambda: TsfLlmTokenizer(32).encode_returns(np.zeros(1)), "not fitted"),
        (lambda: TsfLlmTokenizer().fit(np.append(np.zeros(255), np.nan)), "255 returns for 256 bins"),
    ],
)
def test_tokenizer_refuses(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_the_tokenizer_does_what_trainers_ask(tmp_path):
    tokenizer = TsfLlmTokenizer(32).fit(heavy_tails(0))
    padded = tokenizer.pad([{"input_ids": [33, 33, 4]}, {"input_ids": [33]}], return_tensors="pt")
    assert padded["input_ids"].tolist() == [[33, 33, 4], [32, 32, 33]]
    assert padded["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert tokenizer("r3 r31")["input_ids"] == [3, 31]
    assert tokenizer.decode([3, 33, 31], skip_special_tokens=True).split() == ["r3", "r31"]
    tokenizer.save_pretrained(tmp_path)
    loaded = TsfLlmTokenizer.from_pretrained(tmp_path)
    assert loaded.bin_edges == tokenizer.bin_edges
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.padding_side == "left"
