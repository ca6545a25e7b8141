"""transformers' Trainer with what it lacks: side losses and expert loads in the log, a stop at NaN. And one run of it.

Design choices:
* What is logged comes out of the forward pass that training makes anyway; nothing is computed twice.
* AdamW decays matrices. Norms, biases and other vectors are never decayed, whatever their names are.
* The loss of the model stays the model's. Class weights and EWC are terms of the training, added here.

Shapes: B batch, S sequence, N = B * S positions, L layers, E experts, K experts per token, P prediction steps.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ..common.inference import is_known
from ..data_prep.windows import WindowDataset, identity
from ..evaluation.classes import UNKNOWN, class_labels
from ..processing_tsf_llm import TsfLlmProcessor
from ..publishing.upload import HubCallback
from ..series_head_tsf_llm import observed_patches
from ..tokenization_tsf_llm import TsfLlmTokenizer
from .arguments import SftArguments
from .averaging import WeightAverage, check_average
from .callbacks import (
    DynamicLrCallback,
    EpochCallback,
    FiniteCallback,
    NonFiniteError,
    TimeLimitCallback,
    show_one_bar,
)
from .checkpoints import (
    check_same_training,
    claim_folder,
    is_failed_write,
    last_complete_checkpoint,
    remove_unfinished,
    save_whole,
    set_aside,
)
from .class_weights import class_weights, parse_class_weights
from .continual import Anchor, ReplayDataset

SIDE_LOSSES = ("aux_loss", "llmps_loss", "bar_loss")


class TsfLlmTrainer(Trainer):
    """Logs, beside `loss`, `aux_loss` (1 = experts evenly used), the front end's `llmps_loss`, the bar head's
    `bar_loss` and EWC's `ewc_loss`, if any; and `expert_load_min`, `expert_load_max`, the smallest and largest share
    of choices that fell on one expert of one layer (1 / E = even).

    `eval_loss` is the mean over all labels, whatever the batches and processes they came in; a mean of batch means
    counts a label more where its batch has few.

    In evaluation their names begin with `eval_`, and `eval_expert_load_<layer>_<expert>` are all shares; these are too
    many for a terminal and logged only where `report_to` names something that plots them.

    Args:
        class_weights: weights of down, flat, up in the loss of a classification head.
        anchor: what EWC adds to the training loss.
        ema_decay: of the weights' average, which is validated and saved in their place; 0 for none.
    """

    def __init__(
        self,
        *args: Any,
        class_weights: torch.Tensor | None = None,
        anchor: Anchor | None = None,
        ema_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        show_one_bar(self)
        self.label_names = ["labels"]  # transformers asks for all of `forward`; a model of tokens alone has no others
        self.average = WeightAverage(self.model, ema_decay) if ema_decay else None  # until training ends
        if self.average is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay averages whole tensors, which FSDP cuts up: leave it out, or use DDP")
            self.add_callback(self.average)
        self.class_weights, self.anchor = class_weights, anchor
        self._vectors = {name for name, p in self.model.named_parameters() if p.ndim < 2}
        self._side_losses: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._labels_seen: list[torch.Tensor] = []  # [sum of losses, number of labels] of each validation batch
        self._expert_counts: dict[str, torch.Tensor] = {}  # prefix of the log: [L,E]
        self.expert_load: list[list[float]] | None = None  # [L][E], as of the last evaluation

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """As ever; with `ema_decay` the model holds the average when it is over."""
        if self.average is not None:
            self.average.resumed_from = resume_from_checkpoint
        output = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        if self.average is not None:
            if self.state.best_model_checkpoint is None or not self.args.load_best_model_at_end:
                self.average.give()
            self.remove_callback(self.average)
            self.average = None
        return output

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with nullcontext() if self.average is None else self.average.in_place():
            return super().evaluate(*args, **kwargs)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As ever; with `ema_decay` the average, and beside it the weights that training goes on from."""
        if self.average is None:
            super().save_model(output_dir, _internal_call)
            return
        with self.average.in_place():
            super().save_model(output_dir, _internal_call)
        if self.args.should_save:
            self.average.save(output_dir or str(self.args.output_dir))

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """transformers goes by names, which do not tell that the front end's gate is a vector."""
        return [name for name in super().get_decay_parameter_names(model) if name not in self._vectors]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        mask, labels = inputs.get("attention_mask"), inputs.get("labels")
        inputs = {**inputs, "output_router_logits": True}
        number = num_items_in_batch if model.training else None  # a validation loss is the mean of its own batch
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=number)
        prefix = "" if model.training else "eval_"
        for name in SIDE_LOSSES:
            if outputs.get(name) is not None:
                self._side_losses[prefix + name].append(outputs[name].detach())
        if outputs.get("router_logits"):
            config = self.model.config
            if mask is not None and config.patch_length is not None:  # the decoder's positions are patches
                mask = observed_patches(config, mask)
            counts = expert_counts(outputs["router_logits"], config.num_experts_per_tok, mask)
            self._expert_counts[prefix] = self._expert_counts.get(prefix, 0) + counts
        if self.class_weights is not None:
            loss = loss + reweighted(outputs["logits"], labels, self.class_weights.to(loss.device))
        if model.training and self.anchor is not None:
            pull = self.anchor.penalty(self.model)
            self._side_losses["ewc_loss"].append(pull.detach())
            # Once per optimizer step: Trainer divides a head's loss by the accumulated batches, a causal LM's not.
            loss = loss + (pull / self.current_gradient_accumulation_steps if self.model_accepts_loss_kwargs else pull)
        if model.training and not torch.isfinite(loss):
            raise NonFiniteError("the loss", loss.item(), self.args, self.state)
        if not model.training:
            known = is_known(labels).sum()
            total = loss.detach().float() * known if known else torch.zeros_like(loss)  # none known: the mean is NaN
            self._labels_seen.append(torch.stack((total, known)))
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, *args: Any, **kwargs: Any) -> Any:
        """As ever, without the rows that only fill up the last batch of several processes."""
        state = self.accelerator.gradient_state
        if state.end_of_dataloader and state.remainder > 0:
            left = state.remainder - self.args.process_index * self.args.eval_batch_size
            inputs = {name: value[: max(left, 1)] for name, value in inputs.items()}
            if left < 1:  # none of these is new; a model wants one row, which counts for nothing
                unknown = float("nan") if inputs["labels"].is_floating_point() else UNKNOWN
                inputs["labels"] = torch.full_like(inputs["labels"], unknown)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self._labels_seen.clear()
        output = super().evaluation_loop(*args, **kwargs)
        total, number = self.accelerator.reduce(torch.stack(self._labels_seen).sum(dim=0)).tolist()
        output.metrics[next(name for name in output.metrics if name.endswith("_loss"))] = total / number
        return output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        prefix = "eval_" if any(name.startswith("eval_") for name in logs) else ""
        for key in (prefix + name for name in (*SIDE_LOSSES, "ewc_loss")):
            if self._side_losses[key]:
                mean = torch.stack(self._side_losses.pop(key)).mean()
                logs[key] = round(self.accelerator.gather(mean[None]).mean().item(), 4)
        if prefix in self._expert_counts:
            counts = self.accelerator.reduce(self._expert_counts.pop(prefix), "sum")
            load = counts / counts.sum(dim=-1, keepdim=True)
            logs[f"{prefix}expert_load_min"] = round(load.min().item(), 4)
            logs[f"{prefix}expert_load_max"] = round(load.max().item(), 4)
            if prefix:
                self.expert_load = [[round(share, 4) for share in layer] for layer in load.tolist()]
                table = enumerate(self.expert_load if self.args.report_to else [])
                logs |= {f"eval_expert_load_{i}_{e}": share for i, layer in table for e, share in enumerate(layer)}
        super().log(logs, start_time)


@torch.no_grad()
def expert_counts(router_logits: tuple[torch.Tensor, ...], top_k: int, mask: torch.Tensor | None) -> torch.Tensor:
    """How often each expert was chosen by an observed position, `[L,E]`, from router logits `[N,E]` per layer."""
    logits_LNE = torch.stack([layer.float() for layer in router_logits])
    if mask is not None:
        logits_LNE = logits_LNE[:, mask.reshape(-1).bool()]
    chosen_LNK = logits_LNE.topk(top_k, dim=-1).indices
    return F.one_hot(chosen_LNK, logits_LNE.shape[-1]).sum(dim=(1, 2)).float()


def reweighted(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """What class weights add to the mean cross-entropy of `logits [B,P,3]`, `labels [B,P]`.

    Each position counts by its class's weight over the number of known labels, whichever classes are in the batch, so
    that batches may be accumulated."""
    flat = labels.reshape(-1).long()
    known = flat != UNKNOWN
    losses = F.cross_entropy(logits.flatten(0, 1)[known], flat[known], reduction="none")
    return ((weights[flat[known]] - 1) * losses).mean()


def make_trainer(
    model: Any,
    processor: TsfLlmProcessor,
    *,
    train: Dataset,
    valid: Dataset,
    training_args: SftArguments,
    anchor: Anchor | None = None,
    trainer_class: type[TsfLlmTrainer] = TsfLlmTrainer,
    **options: Any,
) -> TsfLlmTrainer:
    """A trainer for datasets whose batches come ready, with early stopping where it is asked for.

    `options` are further ones of `trainer_class`.

    Raises:
        ValueError: for class weights without classes, EWC with FSDP, or a limit of time for several processes.
    """
    if training_args.max_seconds and training_args.world_size > 1:
        raise ValueError("max_seconds asks one clock, and several processes have one each: give max_steps")
    patience = training_args.early_stopping_patience
    stops = patience and training_args.load_best_model_at_end
    callbacks: list[TrainerCallback] = [EarlyStoppingCallback(patience)] if stops else []
    if isinstance(train, WindowDataset | ReplayDataset):
        callbacks.append(EpochCallback())
    if training_args.dynamic_lr:
        callbacks.append(DynamicLrCallback())
    if training_args.max_seconds:
        callbacks.append(TimeLimitCallback(training_args.max_seconds))
    trainer = trainer_class(
        model=model,
        args=training_args,
        train_dataset=train,
        eval_dataset=valid,
        data_collator=identity,
        processing_class=processor,
        callbacks=[*callbacks, FiniteCallback(), HubCallback()],
        class_weights=_class_weights(train, training_args.class_weights),
        anchor=anchor,
        ema_decay=training_args.ema_decay,
        **options,
    )
    if anchor is not None and trainer.is_fsdp_enabled:
        raise ValueError("ewc compares whole tensors, which FSDP cuts up: leave ewc out, or use one process or DDP")
    return trainer


def _class_weights(train: Dataset, text: str) -> torch.Tensor | None:
    rule = parse_class_weights(text)
    if rule is None:
        return None
    new = train.new if isinstance(train, ReplayDataset) else train
    if not isinstance(new, WindowDataset) or new.objective != "classification":
        raise ValueError(f"class_weights={text} weighs classes: add --head classification, or leave it out")
    return class_weights(rule, class_labels(new))


def train_and_save(trainer: TsfLlmTrainer, training_args: SftArguments) -> tuple[list[dict], float]:
    """Trains, keeps the best weights and saves them with the processor; the log and the validation loss.

    Raises what `resumable` does."""
    with resumable(trainer, training_args) as checkpoint:
        trainer.train(resume_from_checkpoint=checkpoint)
        history = list(trainer.state.log_history)  # without the evaluation of the best weights that follows
        valid_loss = trainer.evaluate()["eval_loss"]
        save_whole(trainer)
        trainer.accelerator.wait_for_everyone()  # others may load what the first process has written
    return history, valid_loss


@contextmanager
def resumable(trainer: Trainer, training_args: Any) -> Iterator[str | None]:
    """The checkpoint to train from, if any. A training that fails to write, or is stopped, says how to go on.

    Raises:
        ValueError: for a checkpoint of another training.
        OSError: if a file could not be written. No half-written checkpoint is left then.
    """
    checkpoint, folder = training_args.checkpoint_to_resume(), training_args.output_dir
    own = isinstance(trainer.processing_class, TsfLlmProcessor | TsfLlmTokenizer)  # GRPO knows the tokenizer alone
    if checkpoint is not None and own:
        check_same_training(checkpoint, trainer.accelerator.unwrap_model(trainer.model), trainer.processing_class)
        check_average(checkpoint, getattr(training_args, "ema_decay", 0.0))
    if trainer.is_world_process_zero():
        claim_folder(folder)
        remove_unfinished(folder)
        if checkpoint is None or Path(checkpoint).resolve().parent != Path(folder).resolve():
            set_aside(folder)
    try:
        yield checkpoint
    except KeyboardInterrupt as stop:
        raise type(stop)(_way_on(folder)) from stop
    except (OSError, RuntimeError, SafetensorError) as error:
        if not is_failed_write(error):
            raise
        remove_unfinished(folder)
        raise OSError(f"could not write to {folder} ({error}): make room there, then {_way_on(folder)}") from error


def _way_on(folder: str) -> str:
    kept = last_complete_checkpoint(folder)
    return (
        f"go on from {kept} with --resume_from_checkpoint true" if kept else "start again, there is no checkpoint yet"
    )
