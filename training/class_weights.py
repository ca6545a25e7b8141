"""How down, flat and up are weighted in the loss."""

import numpy as np
import torch

from ..evaluation.classes import NAMES, class_shares


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


def class_weights(rule: list[float] | str | None, labels: np.ndarray) -> torch.Tensor | None:
    """Weights of down, flat, up in the loss, of mean 1 over the known labels; None for none.

    `balanced` weighs a class by one over its share, so that all that occur count alike."""
    if rule is None:
        return None
    shares = class_shares(labels)
    raw = np.divide(1.0, shares, out=np.zeros(len(NAMES)), where=shares > 0) if rule == "balanced" else np.array(rule)
    return torch.tensor(raw / (raw * shares).sum(), dtype=torch.float32)
