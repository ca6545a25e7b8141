"""sentiment.py: the parts, the weights of classes, and the scores."""

import doctest
import itertools

import numpy as np
import pandas as pd
import pytest

from tsf_llm.training import sentiment
from tsf_llm.training.sentiment import (
    LABELS,
    inverse_shares,
    near,
    read_labelled,
    scores,
    split,
    without_near_duplicates,
)

CUES = {"negative": ["loss", "falls"], "neutral": ["holds", "flat"], "positive": ["profit", "rises"]}
FILLERS = ["bank", "oil", "chip", "year", "the", "of", "a", "firm", "says", "new"]


def labelled(n=240, seed=0):
    """Sentences whose one cue says their label."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(LABELS, n, p=[0.2, 0.5, 0.3])
    texts = [" ".join([*rng.choice(FILLERS, 7), rng.choice(CUES[label])]) for label in labels]
    return pd.DataFrame({"text": texts, "label": labels}).drop_duplicates("text")


def test_the_docstrings():
    assert doctest.testmod(sentiment).failed == 0


def test_the_parts_are_disjoint_and_have_the_shares_of_the_whole(tmp_path):
    labelled().to_parquet(tmp_path / "x.parquet")
    frame = read_labelled(tmp_path / "x.parquet")
    parts = split(frame, 0.1, 0.2, seed=0)
    assert sorted(pd.concat(parts.values())["text"]) == sorted(frame["text"])
    for name, share in (("valid", 0.1), ("test", 0.2)):
        wanted = frame["label"].value_counts() * share
        assert (parts[name]["label"].value_counts() - wanted).abs().max() <= 0.5
    assert not split(frame, 0.1, 0.2, seed=1)["test"].equals(parts["test"])


def test_a_part_without_a_label_is_refused():
    frame = pd.DataFrame({"text": range(100), "label": ["negative"] * 6 + ["neutral"] * 54 + ["positive"] * 40})
    with pytest.raises(ValueError, match="no negative text is left for validation: choose other shares"):
        split(frame, 0.05, 0.2, seed=0)


def test_near_duplicates_stay_on_one_side():
    parts = {
        "train": ["The profit rose to EUR 4 mn in 2007", "Oil is new", "It cut 300 jobs in its Turku factory"],
        "valid": ["it cut 12 jobs in its turku factory .", "Nothing is known"],
        "test": ["The profit rose to EUR 13.5 mn in 2008", "A bank opens"],
    }
    left = without_near_duplicates({name: pd.DataFrame({"text": texts}) for name, texts in parts.items()})
    assert left["train"]["text"].tolist() == ["Oil is new"]
    assert left["valid"]["text"].tolist() == parts["valid"]
    assert left["test"]["text"].tolist() == parts["test"]


def test_near_by_the_slow_way():
    texts = labelled()["text"].tolist()

    def parts_of(text):
        words = text.split()
        return {*words, *itertools.pairwise(words)}

    def jaccard(a, b):
        return len(parts_of(a) & parts_of(b)) / len(parts_of(a) | parts_of(b))

    texts[:20] = [f"{text} {text.split()[-1]}" for text in texts[-20:]]
    wanted = [max(jaccard(one, other) for other in texts[100:]) >= sentiment.NEAR for one in texts[:100]]
    assert near(texts[:100], texts[100:]).tolist() == wanted
    assert 5 < sum(wanted) < 100


def test_weights_make_every_class_count_alike():
    labels = labelled()["label"]
    counts = labels.value_counts().reindex(LABELS).to_numpy()
    total = inverse_shares(labels).numpy() * counts
    np.testing.assert_allclose(total, total[0], rtol=1e-6)


def test_scores_by_hand():
    truth = np.array(["negative", "negative", "neutral", "neutral", "neutral", "positive"])
    guess = np.array(["negative", "neutral", "neutral", "neutral", "positive", "neutral"])
    found = scores(truth, guess)
    assert found["confusion"]["counts"] == [[1, 1, 0], [0, 2, 1], [0, 1, 0]]
    assert found["accuracy"] == 0.5
    assert found["classes"]["negative"] == {"precision": 1.0, "recall": 0.5, "f1": 0.6667, "texts": 2}
    assert found["classes"]["neutral"] == {"precision": 0.5, "recall": 0.6667, "f1": 0.5714, "texts": 3}
    assert found["classes"]["positive"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "texts": 1}
    assert found["macro_f1"] == pytest.approx((2 / 3 + 4 / 7) / 3, abs=1e-4)


def test_scores_agree_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    truth, guess = rng.choice(LABELS, (2, 500), p=[0.1, 0.6, 0.3])
    found = scores(truth, guess)
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, guess, average="macro"), abs=1e-4)
    assert found["confusion"]["counts"] == metrics.confusion_matrix(truth, guess, labels=LABELS).tolist()
    error = np.sqrt(found["accuracy"] * (1 - found["accuracy"]) / 500)
    np.testing.assert_allclose(np.diff(found["accuracy_ci95"]), 2 * 1.96 * error, rtol=0.1)
