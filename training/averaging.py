"""An exponential moving average of the weights, which is validated and saved instead of them.

Design choices:
* The average is torch's `AveragedModel`. After n steps its decay is `min(decay, (1 + n) / (10 + n))`, so that a short
  run does not keep its random start (as TensorFlow's `ExponentialMovingAverage` has it).
* A checkpoint's `model.safetensors` is the average: it loads as it is and is what the best checkpoint was chosen by.
  The weights that training goes on from lie beside it, so a resumed run is exact.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback

UNAVERAGED = "unaveraged.safetensors"


class WeightAverage(TrainerCallback):
    """Follows a model through its steps.

    Args:
        model: the one that is trained, on its device.
        decay: share of the old average in the new one, in (0, 1).
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        def average(averaged: Any, weights: Any, steps: Any) -> None:
            get_ema_multi_avg_fn(min(decay, (1 + int(steps)) / (10 + int(steps))))(averaged, weights, steps)

        self.model, self.averaged = model, AveragedModel(model, multi_avg_fn=average)
        self.resumed_from: str | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Trainer has loaded the average where it goes on from a checkpoint."""
        if self.resumed_from is not None:
            _copy(self.model, self.averaged.module)
            self.averaged.n_averaged.fill_(state.global_step)
            weights = load_file(Path(self.resumed_from) / UNAVERAGED)
            with torch.no_grad():
                for name, parameter in _trained(self.model).items():
                    parameter.copy_(weights[name])

    def on_optimizer_step(self, args, state, control, **kwargs):
        self.averaged.update_parameters(self.model)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model holds the average."""
        kept = {name: parameter.detach().clone() for name, parameter in _trained(self.model).items()}
        self.give()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in _trained(self.model).items():
                    parameter.copy_(kept[name])

    def give(self) -> None:
        """The model takes the average."""
        if self.averaged.n_averaged:
            _copy(self.averaged.module, self.model)

    def save(self, checkpoint: str | Path) -> None:
        """Writes the weights that training goes on from beside the average."""
        weights = {name: parameter.detach().contiguous() for name, parameter in _trained(self.model).items()}
        save_file(weights, Path(checkpoint) / UNAVERAGED)


def check_average(checkpoint: str | Path, decay: float) -> None:
    """Raises ValueError for a checkpoint of a training that averages if this one does not, or the other way round."""
    averages = (Path(checkpoint) / UNAVERAGED).is_file()
    if averages != bool(decay):
        had = "averages its weights" if averages else "does not average its weights"
        raise ValueError(
            f"{checkpoint} is of a training that {had}, and ema_decay={decay:g}: give the settings that it was "
            "started with, or another --output_dir"
        )


def _trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _copy(source: torch.nn.Module, target: torch.nn.Module) -> None:
    for name, parameter in _trained(target).items():
        parameter.copy_(source.get_parameter(name))
