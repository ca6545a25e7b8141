"""Down, flat, up: what a report says of these classes on later dates.

Design choices:
* Classes are those of `training_examples_tsf_llm.py`: the return to a step against `FLAT_SIGMAS` of its volatility.
* Beside the model stand "always the commonest class of training" for its decisions, and "always the training shares"
  for its probabilities. The verdicts are paired by origin, with block-bootstrap intervals over dates.

Shapes: n forecasts, P steps, 3 classes.
"""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from ..common.inference import batches, evaluating
from ..configuration_tsf_llm import CLASS_LABELS
from ..data_prep.windows import WindowDataset
from .significance import Figure, Interval, block_length, compare, enough_dates, mean_interval, resampled, sums_by_date

NAMES = list(CLASS_LABELS.values())
CLASS_SCORES = ("precision", "recall", "f1", "support")
UNKNOWN = -100
AT_ONCE = 256  # windows
SMALLEST_P = 1e-12  # of a probability, in its logarithm


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
    classes: dict[str, Any] = {"labels": range(len(NAMES))}
    by_class = zip(*precision_recall_fscore_support(actual, called, **classes, zero_division=np.nan), strict=True)
    per_class = {
        name: {key: None if np.isnan(value) else value.item() for key, value in zip(CLASS_SCORES, values, strict=True)}
        for name, values in zip(NAMES, by_class, strict=True)
    }
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
        "confusion": confusion_matrix(actual, called, **classes).tolist(),
    }


def _log_loss(probabilities: np.ndarray, actual: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(probabilities[np.arange(len(actual)), actual], SMALLEST_P))


def matthews(counts: np.ndarray) -> np.ndarray:
    """Matthews' correlation of two classes from `[..., 4]` counts: true and false negatives, false and true positives.

    Zero where a class never occurs or is never called, as scikit-learn has it.

    >>> matthews(np.array([[6, 1, 2, 3], [5, 5, 0, 0]])).round(4).tolist()
    [0.4781, 0.0]
    """
    tn, fn, fp, tp = np.moveaxis(np.asarray(counts, float), -1, 0)
    root = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return np.divide(tp * tn - fp * fn, root, out=np.zeros_like(root), where=root > 0)


def matthews_with_interval(
    actual: np.ndarray, called: np.ndarray, dates: np.ndarray, *, horizon: int, seed: int = 0
) -> tuple[float, Interval]:
    """Matthews' correlation of classes 0 and 1 `[n]`, and the 95 % quantiles of a block bootstrap over dates."""
    kinds = np.eye(4)[2 * called + actual]
    by_date = sums_by_date(kinds, dates)[:, :4]
    value = float(matthews(by_date.sum(axis=0)))
    if not enough_dates(len(by_date), horizon):
        return value, None
    draws = resampled(by_date, block_length(len(by_date), horizon), seed=seed)
    again = np.concatenate([matthews(sums.round()) for sums in draws])
    return value, np.quantile(again, (0.025, 0.975)).tolist()
