"""A model that is asked and not trained: its mode, and windows in batches on its device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Within, the model answers as in a forecast: no dropout, no side losses. Its mode is then what it was."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def batches(windows: Any, device: Any, at_once: int = 128) -> Iterator[dict[str, torch.Tensor]]:
    """All windows of a dataset whose batches come ready, in order."""
    for start in range(0, len(windows), at_once):
        batch = windows.__getitems__(range(start, min(start + at_once, len(windows))))
        yield {name: values.to(device) for name, values in batch.items()}
