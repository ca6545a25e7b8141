"""transformers' Trainer with the one thing it lacks: the load-balancing loss in the log."""

from typing import Any

import torch
from transformers import Trainer


class TsfLlmTrainer(Trainer):
    """Logs `aux_loss` (1 = experts evenly used) beside `loss`, as `eval_aux_loss` in evaluation."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._aux_losses: dict[str, list[torch.Tensor]] = {"aux_loss": [], "eval_aux_loss": []}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        self._aux_losses["aux_loss" if model.training else "eval_aux_loss"].append(outputs["aux_loss"].detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        key = "eval_aux_loss" if any(name.startswith("eval_") for name in logs) else "aux_loss"
        if self._aux_losses[key]:
            mean = torch.stack(self._aux_losses[key]).mean()
            logs[key] = round(self.accelerator.gather(mean[None]).mean().item(), 4)
            self._aux_losses[key].clear()
        super().log(logs, start_time)
