"""The sentiment classifier: its data, its parts, its scores, one short training and how it refuses."""

import json
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

from tsf_llm.data_prep.text import score_sentiment
from tsf_llm.train_scripts import sentiment
from tsf_llm.training.sentiment import LABELS

CUES = {"negative": ["loss", "falls"], "neutral": ["holds", "flat"], "positive": ["profit", "rises"]}
FILLERS = ["bank", "oil", "chip", "year", "the", "of", "a", "firm", "says", "new"]
OPTIONS = {"num_train_epochs": 8, "learning_rate": 5e-3, "logging_steps": 5, "disable_tqdm": True, "report_to": "none"}


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


def test_adapters_are_merged_into_a_classifier_as_any_other(train, tmp_path):
    report = train("lora", lora_r=4, learning_rate=1e-2)
    assert report["test"]["accuracy"] > 0.9
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "lora")
    good, bad = score_sentiment(["the bank rises", "the bank falls"], tmp_path / "lora")
    assert good > 0 > bad
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_a_seed_says_it_all(train):
    short = {"max_steps": 4, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    one, two, other = (train(str(i), seed=seed, **short) for i, seed in enumerate((1, 1, 2)))
    assert one["valid_loss"] == two["valid_loss"] != other["valid_loss"]


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
        (["--data", "x.csv", "--encoder", "y", "--lora_r", "-1"], "lora_r=-1: give a rank"),
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


def test_texts_grouped_by_length_keep_their_guesses(train):
    report = train("grouped", train_sampling_strategy="group_by_length")
    assert report["test"]["accuracy"] > 0.9
