"""Labelled texts of financial sentiment: read, split by label, weighed, and scored. `train_scripts/sentiment.py`.

Near-duplicates are texts of which the words and pairs of neighbouring words, any number being the same as any other,
are equal to at least `NEAR` (Jaccard). A text of training that says nearly what a test text says would tell its label.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from peft import LoraConfig, TaskType, get_peft_model
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import precision_recall_fscore_support
from sklearn.model_selection import train_test_split
from sklearn.utils.class_weight import compute_class_weight
from transformers import Trainer

from ..cells_tsf_llm import stripped
from ..columns_tsf_llm import find_columns, listed
from ..common.parser import option
from ..data_prep.tables import open_table
from .arguments import SftArguments
from .callbacks import show_one_bar

LABELS = ("negative", "neutral", "positive")
FEWEST = 10  # texts of each label, so that each part has some
REPETITIONS = 1000  # of the bootstrap
NEAR = 0.7  # share of common words and pairs from which on two texts are near-duplicates


@dataclass
class SentimentArguments(SftArguments):
    """The training arguments of the other scripts, with defaults for fine-tuning an encoder."""

    output_dir: str | None = option("outputs/sentiment", "where model and report.json go")
    per_device_train_batch_size: int = option(16, "texts per step and device")
    per_device_eval_batch_size: int = option(64, "texts per validation step and device")
    num_train_epochs: float = option(4, "passes over the training texts")
    learning_rate: float = option(5e-5, "peak learning rate of AdamW")
    weight_decay: float = option(0.01, "weight decay of AdamW")
    class_weights: str = option("balanced", "balanced: weigh classes by the inverse of their share; or none")
    early_stopping_patience: int = option(2, "validations without a better loss before training stops; 0 for none")
    lora_r: int = option(0, "rank of low-rank adapters, trained in place of the weights and merged; 0 trains all")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_r < 0:
            raise ValueError(f"lora_r={self.lora_r}: give a rank of 1 or more, or 0 to train all weights")
        if self.class_weights not in ("balanced", "none"):
            raise ValueError(f"class_weights={self.class_weights}: give balanced or none")


def adapted(model: Any, rank: int) -> Any:
    """The classifier with low-rank adapters in all of its Linear layers but the last, which is trained whole."""
    config = LoraConfig(task_type=TaskType.SEQ_CLS, r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    return get_peft_model(model, config)


def tokenized(frame: pd.DataFrame, tokenizer: Any, max_tokens: int) -> list[dict[str, Any]]:
    """Tokens and class of each text."""
    return [
        {**tokenizer(text, truncation=True, max_length=max_tokens), "labels": LABELS.index(label)}
        for text, label in zip(frame["text"], frame["label"], strict=True)
    ]


class WeightedTrainer(Trainer):
    """Trainer whose cross entropy weighs the classes; validation likewise."""

    loss_is_scaled_for_ga = False  # a mean per batch: the Trainer divides it by the accumulated batches

    def __init__(self, *args: Any, weights: torch.Tensor | None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        show_one_bar(self)
        self.weights = weights

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs["labels"]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"})
        weights = None if self.weights is None else self.weights.to(labels.device)
        loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, weight=weights)
        return (loss, outputs) if return_outputs else loss


def read_labelled(path: str | Path) -> pd.DataFrame:
    """CSV or parquet -> distinct `text, label`, labels in lower case.

    Raises:
        ValueError: names the file, the row and the remedy; so does FileNotFoundError for a path that does not exist.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; name a CSV or parquet file with the columns text and label.")
    raw = open_table(path)
    found = find_columns(raw, {"text": ["text"], "label": ["label"]})
    if missing := [name for name in ("text", "label") if name not in found]:
        raise ValueError(f"{path} has no column {' and no '.join(missing)}; found: {listed(raw)}. Rename its columns.")
    frame = pd.DataFrame({"text": stripped(raw[found["text"]]), "label": stripped(raw[found["label"]]).str.lower()})
    if (bad := np.flatnonzero(~frame["label"].isin(LABELS))).size:
        held = frame["label"].iloc[bad[0]]
        raise ValueError(f"{path}, row {bad[0] + 1}: label '{held}'; the labels are {', '.join(LABELS)}.")
    if (bad := np.flatnonzero(frame["text"] == "")).size:
        raise ValueError(f"{path}, row {bad[0] + 1}: the text is empty; drop the row.")
    same = frame["text"].str.lower().str.replace(r"\s+", " ", regex=True)
    if (bad := np.flatnonzero(frame.groupby(same)["label"].transform("nunique") > 1)).size:
        text = frame["text"].iloc[bad[0]][:60]
        raise ValueError(f"{path}, row {bad[0] + 1}: '{text}' has two labels; keep one of its rows.")
    frame = frame[~same.duplicated()].reset_index(drop=True)
    counts = frame["label"].value_counts().reindex(LABELS, fill_value=0)
    if counts.min() < FEWEST:
        raise ValueError(f"{path}: {counts.min()} distinct texts are {counts.idxmin()}; {FEWEST} of each are needed.")
    return frame


def split(frame: pd.DataFrame, valid_share: float, test_share: float, seed: int) -> dict[str, pd.DataFrame]:
    """`train`, `valid` and `test` with the same shares of labels, one text at least of each label in each part."""

    def apart(some: pd.DataFrame, share: float) -> list[pd.DataFrame]:
        return train_test_split(some, test_size=share, stratify=some["label"], random_state=seed)

    rest, test = apart(frame, test_share)
    train, valid = apart(rest, valid_share / (1 - test_share))
    for name, part in (("training", train), ("validation", valid), ("test", test)):
        if missing := sorted(set(LABELS) - set(part["label"])):
            raise ValueError(f"no {missing[0]} text is left for {name}: choose other shares or take more texts")
    parts = {"train": train, "valid": valid, "test": test}
    return {name: part.sort_index().reset_index(drop=True) for name, part in parts.items()}


def without_near_duplicates(parts: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Training without what is nearly in validation or test, validation without what is nearly in test."""
    valid = parts["valid"][~near(parts["valid"]["text"], parts["test"]["text"])]
    later = pd.concat([valid["text"], parts["test"]["text"]])
    train = parts["train"][~near(parts["train"]["text"], later)]
    return {"train": train.reset_index(drop=True), "valid": valid.reset_index(drop=True), "test": parts["test"]}


def near(texts: Sequence[str], others: Sequence[str]) -> np.ndarray:
    """Which of the texts `[N]` are near-duplicates of one of the others.

    >>> near(["Profit rose to EUR 4.1 mn", "Sales fell"], ["profit rose to EUR 13.1 mn", "Profit fell to EUR 1 mn"])
    array([ True, False])
    """
    clean = [re.sub(r"\d+", "0", text.lower()) for text in (*texts, *others)]
    counts = CountVectorizer(binary=True, token_pattern=r"\w+", ngram_range=(1, 2), dtype=np.int32).fit_transform(
        clean
    )
    size = np.asarray(counts.sum(axis=1)).ravel()
    common = (counts[: len(texts)] @ counts[len(texts) :].T).tocoo()
    either = size[common.row] + size[len(texts) + common.col] - common.data
    return np.isin(np.arange(len(texts)), common.row[common.data >= NEAR * either])


def inverse_shares(labels: pd.Series) -> torch.Tensor:
    """Weights per class whose mean over the texts is 1, float32 `[3]`.

    >>> inverse_shares(pd.Series(["negative", "neutral", "neutral", "positive"])).tolist()[:2]
    [1.3333333730697632, 0.6666666865348816]
    """
    weights = compute_class_weight("balanced", classes=np.array(LABELS), y=labels)
    return torch.tensor(weights, dtype=torch.float32)


def predict(trainer: Trainer, texts: list[dict[str, Any]]) -> np.ndarray:
    """The label of each text, `[N]`, in their order: a trainer that groups by length would change it here too."""
    trainer.args.prediction_loss_only, trainer.args.train_sampling_strategy = False, "random"
    return np.array(LABELS)[trainer.predict(texts).predictions.argmax(-1)]


def scores(truth: np.ndarray, guess: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Accuracy and macro F1 with 95 % intervals, precision, recall and F1 per class, and the confusion matrix.

    A class that is never guessed has precision 0; one that never occurs has recall 0.
    """
    counts, rng = confusion(truth, guess), np.random.default_rng(seed)
    drawn = (rng.integers(0, len(truth), len(truth)) for _ in range(REPETITIONS))
    again = [summary(confusion(truth[rows], guess[rows])) for rows in drawn]
    found: dict[str, Any] = {"texts": len(truth)}
    for name, value in summary(counts).items():
        found[name] = round(value, 4)
        found[f"{name}_ci95"] = np.quantile([one[name] for one in again], (0.025, 0.975)).round(4).tolist()
    per_class = precision_recall_fscore_support(truth, guess, labels=LABELS, zero_division=0)
    precision, recall, f1, texts = (part.round(4).tolist() for part in per_class)
    found["classes"] = {
        name: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "texts": texts[i]}
        for i, name in enumerate(LABELS)
    }
    return {**found, "confusion": {"rows": "truth", "columns": list(LABELS), "counts": counts.tolist()}}


def confusion(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """`[3,3]`: truth by guess. scikit-learn's checks would make the bootstrap forty times as slow."""
    i, j = (np.searchsorted(LABELS, values) for values in (truth, guess))  # LABELS are sorted
    return np.bincount(len(LABELS) * i + j, minlength=len(LABELS) ** 2).reshape(len(LABELS), len(LABELS))


def summary(counts: np.ndarray) -> dict[str, float]:
    hits, f1_parts = np.diag(counts), counts.sum(axis=0) + counts.sum(axis=1)
    return {
        "accuracy": float(hits.sum() / counts.sum()),
        "macro_f1": float((2 * hits / np.maximum(f1_parts, 1)).mean()),
    }
