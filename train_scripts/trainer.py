"""transformers' Trainer with the one thing it lacks: the model's side losses in the log. And one run of it."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ..data_prep.windows import WindowDataset, identity
from ..processing_tsf_llm import TsfLlmProcessor
from .arguments import SftArguments

SIDE_LOSSES = ("aux_loss", "llmps_loss")


class TsfLlmTrainer(Trainer):
    """Logs `aux_loss` (1 = experts evenly used) and the front end's `llmps_loss`, if any, beside `loss`.

    In evaluation they are `eval_aux_loss` and `eval_llmps_loss`."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._side_losses: dict[str, list[torch.Tensor]] = defaultdict(list)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        prefix = "" if model.training else "eval_"
        for name in SIDE_LOSSES:
            if outputs.get(name) is not None:
                self._side_losses[prefix + name].append(outputs[name].detach())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        for key in (prefix + name for name in SIDE_LOSSES):
            if self._side_losses[key]:
                mean = torch.stack(self._side_losses.pop(key)).mean()
                logs[key] = round(self.accelerator.gather(mean[None]).mean().item(), 4)
        super().log(logs, start_time)


class EpochCallback(TrainerCallback):
    """Tells the windows their epoch. accelerate does so too, but not for the epoch in which a run resumes."""

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        train_dataloader.dataset.set_epoch(int(state.epoch))


def make_trainer(
    model: Any, processor: TsfLlmProcessor, *, train: Dataset, valid: Dataset, training_args: SftArguments
) -> TsfLlmTrainer:
    """A trainer for datasets whose batches come ready, with early stopping where it is asked for."""
    patience = training_args.early_stopping_patience
    stops = patience and training_args.load_best_model_at_end
    callbacks: list[TrainerCallback] = [EarlyStoppingCallback(patience)] if stops else []
    if isinstance(train, WindowDataset):
        callbacks.append(EpochCallback())
    return TsfLlmTrainer(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=identity,
        processing_class=processor,
        callbacks=callbacks,
    )


def train_and_save(trainer: TsfLlmTrainer, training_args: SftArguments) -> tuple[list[dict], float]:
    """Trains, keeps the best weights and saves them with the processor; the log and the validation loss."""
    trainer.train(resume_from_checkpoint=training_args.checkpoint_to_resume())
    history = list(trainer.state.log_history)  # without the evaluation of the best weights that follows
    valid_loss = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    (Path(training_args.output_dir) / "training_args.bin").unlink(missing_ok=True)  # a pickle; report.json says it all
    return history, valid_loss
