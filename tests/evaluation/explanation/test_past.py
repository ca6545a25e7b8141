"""past.py: blocks cover the window once, hidden bars are not read, attention is the model's own."""

import numpy as np
import pytest
import torch

from tsf_llm.evaluation.explanation.past import attention, lag_blocks, past_bars
from tsf_llm.evaluation.explanation.probe import Probe


@pytest.mark.parametrize("length", [1, 2, 3, 16, 64, 100])
def test_blocks_cover_every_lag_once(length):
    lags = [lag for first, last in lag_blocks(length) for lag in range(first, last + 1)]
    assert lags == list(range(1, length + 1))


def test_every_block_has_a_loss_and_its_share_of_attention(probe):
    rows = past_bars(probe)
    assert [(row["first"], row["last"]) for row in rows] == lag_blocks(16)
    assert sum(row["attention"] for row in rows) == pytest.approx(1, abs=1e-4)
    assert any(row["increase"] != 0 for row in rows[1:])


def test_hidden_bars_are_not_read_and_the_others_keep_their_places(probe):
    mask = probe.batch["attention_mask"].clone()
    mask[:, 4:8] = 0
    noise = probe.batch["past_values"].clone()
    noise[:, 4:8] = torch.randn_like(noise[:, 4:8])
    np.testing.assert_allclose(probe.loss(noise, mask), probe.loss(None, mask), rtol=1e-6)
    assert not np.allclose(probe.loss(None, mask), probe.loss())


def test_attention_leaves_the_model_as_it_was(probe):
    before, loss = probe.pipe.model.config._attn_implementation, probe.loss()
    shares = attention(probe)
    assert shares.shape == (16,)
    assert (shares > 0).all()
    assert probe.pipe.model.config._attn_implementation == before
    assert (probe.loss() == loss).all()


def test_attention_of_patches_is_shared_by_their_bars(series_form, weekly_sales):
    pipe = series_form()
    probe = Probe.of(pipe, pipe.processor.encode(weekly_sales), start="2020-06-01", most=6, step=3)
    shares = attention(probe)
    assert shares.shape == (28,)
    assert shares.sum() == pytest.approx(1)
    assert all(len({*shares[i : i + 7].round(9)}) == 1 for i in range(0, 28, 7))
    rows = past_bars(probe)
    assert rows[-1]["last"] == 28
    assert sum(row["attention"] for row in rows) == pytest.approx(1)
    assert any(row["increase"] != 0 for row in rows)
