"""Augmentation: nothing comes from later rows, labels stay right or go, and draws reproduce."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from tsf_llm.data_prep.augment import AUGMENTATIONS, crop, generator, jitter, mixup, parse_augmentations, scale, warp
from tsf_llm.data_prep.windows import WindowDataset, identity
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer

T, F, HORIZON = 24, 3, 3
FENCE = "2016-01-29"
ALL = {"mixup": 0.4, "warp": 0.9, "scale": 0.1, "jitter": 0.05, "crop": 0.5}


@pytest.fixture(scope="module")
def bars(make_bars):
    return pd.concat([make_bars(300, ticker="AAA", seed=1), make_bars(250, ticker="BBB", seed=2, start="2015-02-02")])


@pytest.fixture(scope="module")
def processor(bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns", "bar"], context_length=T)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars, through=FENCE)


@pytest.fixture(scope="module")
def windows(processor, bars):
    """`windows(augment, ...)` -> training windows."""

    def build(augment=None, objective="causal_lm", frame=bars, **options):
        series = processor.feature_extractor.encode(frame)
        return WindowDataset(
            processor, series, objective=objective, horizon=HORIZON, through=FENCE, augment=augment, **options
        )

    return build


def everything(data):
    return data.__getitems__(np.arange(len(data)))


def window(seed):
    """Values and mask: two padded rows, one missing bar."""
    values = np.random.default_rng(seed).normal(size=(T, F)).astype(np.float32)
    mask = np.ones(T, bool)
    mask[[0, 1, 9]] = False
    return np.where(mask[:, None], values, np.float32(0)), mask


CHANGES = {
    "mixup": lambda x, mask, rng: mixup(x, window(99)[0], mask, 0.4, rng),
    "warp": lambda x, mask, rng: warp(x, mask, 0.9, rng)[0],
    "scale": lambda x, mask, rng: scale(x, 0.1, rng),
    "jitter": lambda x, mask, rng: jitter(x, mask, 0.1, rng),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("seed", range(8))
def test_a_changed_row_knows_no_later_row(name, seed):
    x, mask = window(seed)
    before = CHANGES[name](x, mask, generator(name, seed=seed, epoch=0, index=0))
    assert not np.array_equal(before, x)
    assert (before[~mask] == 0).all()
    for t in (3, 10, T - 2):
        other = x.copy()
        other[t + 1 :] += 5
        after = CHANGES[name](other, mask, generator(name, seed=seed, epoch=0, index=0))
        np.testing.assert_array_equal(after[: t + 1], before[: t + 1])
        assert not np.array_equal(after, before)


@pytest.mark.parametrize("seed", range(20))
def test_a_warp_never_runs_backwards_and_leaves_the_last_row(seed):
    mask = np.ones(T, bool)
    clock = np.arange(T, dtype=np.float32)[:, None]
    warped, moved = warp(clock, mask, 0.95, np.random.default_rng(seed))
    delay = (clock - warped)[:, 0]
    assert (np.diff(warped[:, 0]) > 0).all()
    assert delay.min() >= 0
    assert delay[-1] == 0
    np.testing.assert_array_equal(moved, delay > 0)
    assert 0 < moved.sum() < T


def test_crop_drops_the_oldest_and_keeps_the_last():
    _, mask = window(0)
    kept = [crop(mask, 0.99, np.random.default_rng(seed)) for seed in range(200)]
    for one in kept:
        first = one.argmax()
        np.testing.assert_array_equal(one[first:], mask[first:])
        assert one[-1]
    assert len({one.sum() for one in kept}) > 15
    assert min(crop(mask, 0.25, np.random.default_rng(seed)).sum() for seed in range(200)) >= 0.75 * (mask.sum() - 1)


def test_mixup_equals_mixed_losses_in_expectation():
    """Mixed features under both labels, weighed, against one label: any loss, here a pinball of a linear forecast."""
    a, draws = 0.4, 200_000
    rng = np.random.default_rng(0)
    (x, y), (x2, y2) = (np.array([1.0, -2.0]), 0.3), (np.array([0.5, 1.5]), -1.0)

    def loss(mixed, label):
        error = label - (mixed @ np.array([0.7, 0.2]) + 0.1 * mixed[..., 0] ** 2)
        return np.maximum(0.9 * error, -0.1 * error)

    w = rng.beta(a, a, draws)[:, None]
    mixed = w * x + (1 - w) * x2
    pair = (w[:, 0] * loss(mixed, y) + (1 - w[:, 0]) * loss(mixed, y2)).mean()
    v = rng.beta(a + 1, a, draws)[:, None]
    ours = (loss(v * x + (1 - v) * x2, y).mean() + loss(v * x2 + (1 - v) * x, y2).mean()) / 2
    assert ours == pytest.approx(pair, rel=0.01)


def test_no_augmented_row_of_the_data_knows_a_later_bar(windows, bars):
    """Prices after a day change, within the training dates: rows up to it stay, mixed-in windows included."""
    day = pd.Timestamp("2015-10-15")
    other, after = bars.copy(), (bars["timestamp"] > day).to_numpy()
    noise = np.exp(np.random.default_rng(0).normal(0, 0.05, after.sum()))
    for column in ("open", "high", "low", "close"):
        other.loc[after, column] *= noise
    ours, theirs = windows(ALL), windows(ALL, frame=other)
    np.testing.assert_array_equal(ours.origins, theirs.origins)
    rows, inside = ours._context(ours.origins)
    past = inside & (ours.timestamp[rows] <= day)
    a, b = everything(ours)["past_values"].numpy(), everything(theirs)["past_values"].numpy()
    np.testing.assert_array_equal(a[past], b[past])
    assert (a[inside & ~past] != b[inside & ~past]).mean() > 0.5


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_labels_stay_or_go(windows, name):
    plain, changed = everything(windows()), everything(windows({name: ALL[name]}))
    assert not torch.equal(plain["past_values"], changed["past_values"])
    assert torch.equal(plain["input_ids"], changed["input_ids"])
    assert torch.equal(plain["labels"][:, T:], changed["labels"][:, T:])
    before, after = plain["labels"][:, :T], changed["labels"][:, :T]
    assert ((after == before) | (after == -100)).all()
    lost = (after != before).any()
    assert lost == (name in ("warp", "crop"))
    if name == "warp":  # a bar is only predicted from a row that shows its own bar
        still = (after[:, 1:] != -100).numpy()
        same = (plain["past_values"] == changed["past_values"]).all(-1)[:, :-1].numpy()
        assert same[still].all()
    if name == "crop":
        seen = changed["attention_mask"][:, :T]
        assert (after[:, 1:][seen[:, :-1] == 0] == -100).all()
        assert (changed["past_values"][seen == 0] == 0).all()


@pytest.mark.parametrize("objective", ["regression", "quantile", "classification"])
def test_labels_of_heads_stay(windows, objective):
    plain, changed = everything(windows(None, objective)), everything(windows(ALL, objective))
    torch.testing.assert_close(plain["labels"], changed["labels"], rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(plain["past_values"], changed["past_values"])


def test_draws_depend_on_seed_epoch_and_index_alone(windows):
    data = windows(ALL)
    batch = data.__getitems__([3, 11, 5])
    for row, index in enumerate([3, 11, 5]):
        assert torch.equal(batch["past_values"][row], data[index]["past_values"])
    first = everything(data)["past_values"]
    data.set_epoch(1)
    assert not torch.equal(everything(data)["past_values"], first)
    data.set_epoch(0)
    assert torch.equal(everything(data)["past_values"], first)
    assert not torch.equal(everything(windows(ALL, seed=1))["past_values"], first)


def test_one_augmentation_changes_no_draw_of_another(windows):
    both, alone = everything(windows({"jitter": 0.1, "crop": 0.5})), everything(windows({"jitter": 0.1}))
    seen = both["attention_mask"][:, :T] == 1
    assert torch.equal(both["past_values"][seen], alone["past_values"][seen])


def test_workers_that_outlive_an_epoch_draw_the_same(windows):
    options = {"augment": ALL, "sample_weights": "recency:100", "stride": 4}
    data, alone = windows(**options), windows(**options)
    loader = DataLoader(data, 16, collate_fn=identity, num_workers=2, persistent_workers=True)
    for epoch in range(2):
        data.set_epoch(epoch)
        alone.set_epoch(epoch)
        got = torch.cat([batch["past_values"] for batch in loader])
        assert torch.equal(got, everything(alone)["past_values"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["blur=1"], "no 'blur'.*jitter"),
        (["jitter"], "has no number.*jitter=0.1"),
        (["crop=1"], "below 1.0"),
        (["scale=-1"], "above 0"),
        (["jitter=nan"], "above 0"),
        (["crop=0.1", "crop=0.2"], "twice"),
    ],
)
def test_bad_words_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        parse_augmentations(words)
