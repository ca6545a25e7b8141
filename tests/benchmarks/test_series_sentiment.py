"""`series`, sentiment: one split for all, what near-duplicates are worth, and the data as they are published."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import series_page, series_sentiment
from tsf_llm.benchmarks.series_frame import Context
from tsf_llm.benchmarks.series_sentiment import COUNTED, FULL, LEAKY, PROBED, SENTIMENT, TASK, made_up


@pytest.fixture
def context(tmp_path):
    def make(**changes):
        told = {"section": "sentiment", "out": tmp_path / "out", "data": None, "seeds": (0,), "quick": True}
        (tmp_path / "out").mkdir(exist_ok=True)
        return Context(**{**told, "models": None, "say": lambda line: None, **changes})

    return make


def test_rows_their_page_and_that_they_are_kept(context, monkeypatch):
    """But for fine-tuning, which the quick run of all sections does."""
    monkeypatch.setattr(series_sentiment, "fine_tuned", lambda *_: np.full(60, "neutral"))
    rows = list(SENTIMENT.run(context()))
    score = {row.model: row.found.scores["accuracy"] for row in rows if row.task == TASK}
    assert score["majority class"] == score[FULL] < 0.6 < 0.8 < min(score[COUNTED], score[PROBED])
    assert [row.model for row in rows if row.task == LEAKY] == [COUNTED, PROBED]
    assert {len(row.found.losses["accuracy"]) for row in rows} == {60}
    monkeypatch.setattr(series_sentiment, "read", None)  # nothing is computed again
    stored = list(SENTIMENT.run(context(models=())))
    assert [row.found for row in stored] == [row.found for row in rows]
    text = series_page.block(SENTIMENT, stored)
    assert f"| {FULL} |" in text
    assert "near-duplicates of a later part" in text


def test_near_duplicates_left_in_training_help_those_texts_alone(context):
    frame = made_up(200)
    twins = frame.assign(text=frame["text"] + " again")
    whole = {"train": pd.concat([frame[:80], twins[150:]]), "valid": frame[80:150], "test": frame[150:]}
    parts = series_sentiment.without_near_duplicates(whole)
    found = series_sentiment.found(whole, parts, whole["test"]["label"].to_numpy())
    assert found.extra["with_twin"] == 50
    assert found.extra["left_out"]["train"] >= 50
    assert found.scores == {"macro_f1": 1.0, "accuracy": 1.0}


def test_sentences_with_two_labels_are_left_out(context, tmp_path):
    frame = pd.concat([made_up(150), pd.DataFrame({"text": ["Oil  up", "oil up"], "label": ["neutral", "positive"]})])
    frame.to_parquet(tmp_path / "financial_phrasebank.parquet")
    path = series_sentiment.read(context(data=tmp_path, quick=False), tmp_path)
    kept = series_sentiment.read_labelled(path)
    assert len(kept) == made_up(150)["text"].nunique()
