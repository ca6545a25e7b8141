"""Down, flat, up: how classes are weighted in training, and what a report says of them on later dates.

Design choices:
* Classes are those of `data_prep/windows.py`: the return to a step against `FLAT_SIGMAS` of its volatility.
* Beside the model stand "always the commonest class of training" for its decisions, and "always the training shares"
  for its probabilities. The verdicts are paired by origin, with block-bootstrap intervals over dates.

Shapes: n forecasts, P steps, 3 classes.
"""

from typing import Any

import numpy as np
import torch

from ..common.inference import batches, evaluating
from ..configuration_tsf_llm import CLASS_LABELS
from ..data_prep.windows import WindowDataset
from .significance import Figure, compare, mean_interval

NAMES = list(CLASS_LABELS.values())
UNKNOWN = -100
AT_ONCE = 256  # windows
SMALLEST_P = 1e-12  # of a probability, in its logarithm


def parse_class_weights(text: str) -> list[float] | str | None:
    """`none`, `balanced`, or the weights of down, flat, up.

    >>> parse_class_weights("2,1,2")
    [2.0, 1.0, 2.0]

    Raises:
        ValueError: for anything else.
    """
    if text in ("none", "balanced"):
        return None if text == "none" else text
    try:
        weights = [float(part) for part in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != len(NAMES) or not all(0 < weight < float("inf") for weight in weights):
        raise ValueError(
            f"class_weights={text!r}: give none, balanced, or three positive numbers for {', '.join(NAMES)}, as 2,1,2"
        )
    return weights


def class_labels(windows: WindowDataset) -> np.ndarray:
    """Labels of all windows, `[N,P]`, -100 where unknown."""
    parts = [batch["labels"] for batch in batches(windows, "cpu", AT_ONCE)]
    return torch.cat(parts).numpy()


def class_shares(labels: np.ndarray) -> np.ndarray:
    """Share of each class among the known labels.

    >>> class_shares(np.array([[0, 2], [2, -100]])).round(2).tolist()
    [0.33, 0.0, 0.67]
    """
    counts = np.bincount(labels[labels != UNKNOWN], minlength=len(NAMES))
    return counts / counts.sum()


def class_weights(rule: list[float] | str | None, labels: np.ndarray) -> torch.Tensor | None:
    """Weights of down, flat, up in the loss, of mean 1 over the known labels; None for none.

    `balanced` weighs a class by one over its share, so that all that occur count alike."""
    if rule is None:
        return None
    shares = class_shares(labels)
    raw = np.divide(1.0, shares, out=np.zeros(len(NAMES)), where=shares > 0) if rule == "balanced" else np.array(rule)
    return torch.tensor(raw / (raw * shares).sum(), dtype=torch.float32)


@torch.inference_mode()
def predict_classes(model: Any, windows: WindowDataset) -> np.ndarray:
    """Probabilities, float64 `[N,P,3]`."""
    names = ("past_values", "attention_mask")
    with evaluating(model):
        inputs = ({name: batch[name] for name in names} for batch in batches(windows, model.device, AT_ONCE))
        return torch.cat([model(**one).prediction.double().cpu() for one in inputs]).numpy()


def class_report(
    probabilities: np.ndarray, labels: np.ndarray, dates: np.ndarray, training_labels: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """Scores of the model and of both baselines at the last step, and verdicts.

    Args:
        probabilities: `[n,P,3]`.
        labels: what happened, `[n,P]`, -100 where unknown.
        dates: of the origins, `[n]`.
        training_labels: `[N,P]`; the baselines know these alone.
    """
    known = labels[:, -1] != UNKNOWN
    probabilities, labels, dates = probabilities[known], labels[known], dates[known]
    horizon, actual = labels.shape[1], labels[:, -1]
    if not len(actual):
        raise ValueError("no class is known after validation: give later bars or an earlier valid_through")
    shares = class_shares(training_labels[:, -1:])
    candidates = {
        "model": probabilities[:, -1],
        "majority_class": np.tile(np.eye(len(NAMES))[shares.argmax()], (len(actual), 1)),
        "training_shares": np.tile(shares, (len(actual), 1)),
    }
    rows = {name: class_scores(p, actual, dates, horizon=horizon, seed=seed) for name, p in candidates.items()}
    rows["majority_class"] |= {"log_loss": None, "log_loss_ci95": None}  # its certainty is infinitely wrong
    rows["model"]["accuracy_by_step"] = [
        float((probabilities[:, step].argmax(-1) == labels[:, step])[labels[:, step] != UNKNOWN].mean())
        for step in range(horizon)
    ]

    def verdict(name: str, loss: Any, words: str) -> str:
        losses = (loss(candidates[one]) for one in ("model", name))
        return compare(*losses, dates, name, horizon=horizon, seed=seed, figure=Figure(words, "+.4f"))["verdict"]

    def error(p: np.ndarray) -> np.ndarray:
        return (p.argmax(-1) != actual).astype(float)

    return {
        **rows,
        "verdicts": {
            "majority_class": verdict("majority_class", error, "error rate"),
            "training_shares": verdict("training_shares", lambda p: _log_loss(p, actual), "log loss"),
        },
    }


def class_scores(
    probabilities: np.ndarray, actual: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int = 0
) -> dict[str, Any]:
    """One row: accuracy, log loss and Brier score with their intervals, scores per class, and the confusion matrix.

    `confusion[i][j]` counts class i that was called j. What has no denominator (the precision of a class that is
    never called, say) is None."""
    called = probabilities.argmax(-1)
    right, log_loss = (called == actual).astype(float), _log_loss(probabilities, actual)
    confusion = np.zeros((len(NAMES), len(NAMES)), int)
    np.add.at(confusion, (actual, called), 1)
    per_class = {name: _class_row(confusion, i) for i, name in enumerate(NAMES)}
    defined = [row["f1"] for row in per_class.values() if row["f1"] is not None]
    interval = mean_interval(right, dates, horizon=horizon, seed=seed) if 0 < right.mean() < 1 else None
    return {
        "horizon": horizon,
        "n": len(actual),
        "num_dates": len(np.unique(dates)),
        "accuracy": float(right.mean()),
        "accuracy_ci95": [max(interval[0], 0.0), min(interval[1], 1.0)] if interval else None,
        "log_loss": float(log_loss.mean()),
        "log_loss_ci95": mean_interval(log_loss, dates, horizon=horizon, seed=seed),
        "brier": float(((probabilities - np.eye(len(NAMES))[actual]) ** 2).sum(-1).mean()),
        "macro_f1": float(np.mean(defined)) if defined else None,
        "per_class": per_class,
        "classes": NAMES,
        "confusion": confusion.tolist(),
    }


def _class_row(confusion: np.ndarray, i: int) -> dict[str, Any]:
    hits, called, support = int(confusion[i, i]), int(confusion[:, i].sum()), int(confusion[i].sum())
    return {
        "precision": hits / called if called else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (called + support) if called + support else None,
        "support": support,
    }


def _log_loss(probabilities: np.ndarray, actual: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(probabilities[np.arange(len(actual)), actual], SMALLEST_P))
