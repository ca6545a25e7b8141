"""The sentiment classifier: its data, its parts, its scores, one short training and how it refuses."""

import doctest
import json
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
)

from tsf_llm.data_prep.text import score_sentiment
from tsf_llm.train_scripts import sentiment
from tsf_llm.training.sentiment import LABELS, inverse_shares, read_labelled, scores, split

CUES = {"negative": ["loss", "falls"], "neutral": ["holds", "flat"], "positive": ["profit", "rises"]}
FILLERS = ["bank", "oil", "chip", "year", "the", "of", "a", "firm", "says", "new"]
OPTIONS = {
    "num_train_epochs": 8,
    "learning_rate": 5e-3,
    "logging_steps": 5,
    "disable_tqdm": True,
    "report_to": "none",
}


def labelled(n=240, seed=0):
    """Sentences whose one cue says their label."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(LABELS, n, p=[0.2, 0.5, 0.3])
    texts = [" ".join([*rng.choice(FILLERS, 7), rng.choice(CUES[label])]) for label in labels]
    return pd.DataFrame({"text": texts, "label": labels}).drop_duplicates("text")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A tiny random BERT without a classifier, and its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *FILLERS, *(cue for both in CUES.values() for cue in both)]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "initializer_range": 0.2,
    }
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def train(encoder, tmp_path):
    """`train(name, **options)` -> the report of a short training."""
    labelled().to_csv(tmp_path / "labelled.csv", index=False)

    def run(name, **options):
        chosen = {**OPTIONS, "data": tmp_path / "labelled.csv", "encoder": encoder, **options}
        flat = [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
        return sentiment.main(*sentiment.parse([*flat, "--output_dir", str(tmp_path / name)]))

    return run


def test_the_docstrings():
    assert doctest.testmod(sentiment).failed == 0


def test_it_learns_and_what_it_leaves_is_a_classifier_for_texts(train, tmp_path):
    report = train("out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(json.dumps(report))
    test, majority = report["test"], report["majority_baseline"]
    assert majority["label"] == "neutral"
    assert test["accuracy"] > 0.9 > 0.6 > majority["accuracy"]
    assert test["accuracy_ci95"][0] <= test["accuracy"] <= test["accuracy_ci95"][1]
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert not list((tmp_path / "out").glob("*.bin"))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert [model.config.id2label[i] for i in range(3)] == list(LABELS)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("the bank falls")["input_ids"]
    good, bad = score_sentiment(["the bank rises", "the bank falls"], tmp_path / "out")
    assert good > 0.5 > -0.5 > bad


def test_a_seed_says_it_all(train):
    short = {"max_steps": 4, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    one, two, other = (train(str(i), seed=seed, **short) for i, seed in enumerate((1, 1, 2)))
    assert one["valid_loss"] == two["valid_loss"] != other["valid_loss"]


def test_the_parts_are_disjoint_and_have_the_shares_of_the_whole(tmp_path):
    labelled().to_parquet(tmp_path / "x.parquet")
    frame = read_labelled(tmp_path / "x.parquet")
    parts = split(frame, 0.1, 0.2, seed=0)
    assert sorted(pd.concat(parts.values())["text"]) == sorted(frame["text"])
    for name, share in (("valid", 0.1), ("test", 0.2)):
        wanted = frame["label"].value_counts() * share
        assert (parts[name]["label"].value_counts() - wanted).abs().max() <= 0.5
    assert not split(frame, 0.1, 0.2, seed=1)["test"].equals(parts["test"])


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
    theirs = metrics.precision_recall_fscore_support(truth, guess, labels=list(LABELS))
    ours = np.array([list(found["classes"][name].values()) for name in LABELS]).T
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    error = np.sqrt(found["accuracy"] * (1 - found["accuracy"]) / 500)
    np.testing.assert_allclose(np.diff(found["accuracy_ci95"]), 2 * 1.96 * error, rtol=0.1)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "does not exist"),
        ({"sentence": ["oil"], "label": ["neutral"]}, "no column text; found: sentence, label"),
        ({"text": ["oil", "gas"], "label": ["neutral", "bullish"]}, "row 2: label 'bullish'"),
        ({"text": ["oil", " "], "label": ["neutral", "neutral"]}, "row 2: the text is empty"),
        ({"text": ["Oil up", "oil  up"], "label": ["neutral", "positive"]}, "row 1: 'Oil up' has two labels"),
        ({"text": ["oil", "Oil"], "label": ["neutral", "neutral"]}, "0 distinct texts are negative"),
    ],
)
def test_data_that_are_refused_in_one_line(rows, message, encoder, tmp_path, monkeypatch, capsys):
    path = tmp_path / "labelled.csv"
    if rows is not None:
        pd.DataFrame(rows).to_csv(path, index=False)
    words = ["--data", str(path), "--encoder", str(encoder), "--output_dir", str(tmp_path / "out")]
    assert message in refusal(words, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--data is missing"),
        (["--data", "x.csv"], "--encoder is missing"),
        (["--data", "x.csv", "--encoder", "y", "--test_share", "0.95"], "leave some for training"),
        (["--data", "x.csv", "--encoder", "y", "--labels", "2"], "--labels"),
        (["--data", "x.csv", "--encoder", "y", "--class_weights", "1,2,1"], "balanced or none"),
    ],
)
def test_arguments_that_are_refused_in_one_line(words, message, monkeypatch, capsys):
    assert message in refusal(words, monkeypatch, capsys)


def refusal(words, monkeypatch, capsys):
    """The one line of a run of the script that exits with code 2."""
    monkeypatch.setattr(sys, "argv", ["sentiment", *words])
    monkeypatch.delitem(sys.modules, "tsf_llm.train_scripts.sentiment")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("tsf_llm.train_scripts.sentiment", run_name="__main__")
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("sentiment: error:")
    assert "\n" not in error
    return error
