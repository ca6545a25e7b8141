"""The words that decide: effects by hand, a page on which a text stays text, and refusals."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

from tsf_llm.data_prep.text import score_sentiment
from tsf_llm.evaluation.explanation import words
from tsf_llm.evaluation.explanation.words import Explained, page, word_effects

WORDS = ["profit", "loss", "bank", "oil", "the", "rises"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A tiny random classifier of sentiment."""
    folder = tmp_path_factory.mktemp("classifier")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    labels = {"id2label": dict(enumerate(["negative", "neutral", "positive"]))}
    config = BertConfig(vocab_size=len(vocabulary), initializer_range=0.5, **sizes, **labels)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_an_effect_is_what_is_lost_without_the_word(classifier):
    one, other = word_effects(["the bank  rises", "oil"], classifier)
    assert one.words == ["the", "bank", "rises"]
    whole, without = score_sentiment(["the bank rises", "the [MASK] rises"], classifier)
    assert one.score == whole
    assert one.effects[1] == whole - without
    assert np.abs(one.effects).max() > 0.01
    assert len(other.effects) == 1


def test_a_text_is_data_and_its_words_are_marked():
    bad = '<script>alert("x")</script>'
    text = page([Explained(0.5, [bad, "profit", "the"], np.array([-0.2, 0.4, 0.0]))], "<b>mine</b>", ["<i>"])
    assert bad not in text
    assert "&lt;script&gt;" in text
    assert "<b>mine" not in text
    assert "<i>" not in text
    marks = re.findall(r'<mark style="background:rgba\((.*?)\)" title="(.*?)">(.*?)</mark>', text)
    assert [mark[:2] for mark in marks] == [("255,127,14,0.38", "-0.200"), ("31,119,180,0.75", "+0.400")]
    assert marks[1][2] == "profit"


def test_the_command_writes_a_page(classifier, tmp_path):
    texts = pd.DataFrame({"Text": ["the bank rises", "", "oil"], "label": ["positive", "neutral", "negative"]})
    texts.to_csv(tmp_path / "x.csv", index=False)
    options = ["--classifier", str(classifier), "--texts", str(tmp_path / "x.csv"), "--out", str(tmp_path / "x.html")]
    explained = words.main([*options, "--most", "2"])
    assert [one.words for one in explained] == [["the", "bank", "rises"], []]
    text = (tmp_path / "x.html").read_text()
    assert "positive" in text
    assert "negative</p>" not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--texts": "nowhere.csv"}, "nowhere.csv does not exist"),
        ({"--out": "x.txt"}, ".html"),
        ({"--most": "0"}, "--most 0: give 1 or more"),
        ({"--texts": "other.csv"}, "has no column text; found: a, b"),
    ],
)
def test_refusals_are_one_line(change, message, classifier, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"text": ["oil"]}).to_csv("x.csv", index=False)
    pd.DataFrame({"a": ["oil"], "b": [1]}).to_csv("other.csv", index=False)
    options = {"--classifier": str(classifier), "--texts": "x.csv", "--out": "x.html"} | change
    with pytest.raises(SystemExit) as stop:
        words.main([word for pair in options.items() for word in pair])
    assert stop.value.code == 2
    [line] = [one for one in capsys.readouterr().err.splitlines() if one]
    assert message in line
