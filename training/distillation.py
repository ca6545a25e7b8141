"""Distillation: a small model learns from a large one's probabilities beside the true returns. Hinton et al. 2015.

The loss of a causal LM is, over the positions whose return is known,

    (1 - alpha) * cross-entropy(labels) + alpha * T^2 * KL(teacher at T || student at T) + the student's side losses

Design choices:
* The teacher is frozen and reads each batch as the student does, augmentation included. No logits are stored.
* But what context dropout hides from the student, the teacher sees: the mean of its laws over what is hidden is the
  best that can be said without it (Lopez-Paz et al. 2016, "Unifying distillation and privileged information").
* The divergence is over return tokens alone: `<pad>` and `<bar>` are never drawn, and temperature inflates them. The
  laws of far horizons are taught alike, each at the bars whose outcome is known.
* Heads are distilled too: classes as above, numbers and quantiles by the squared distance to the teacher's.
* Validation, which chooses the best weights, asks the labels alone: so the two students are chosen alike.
* The student trained alone starts from the same weights, sees the same batches for as many steps; early stopping is
  off. What differs is the teacher.
* The student forgets no date that its teacher has seen.

Shapes: B batch, S sequence, V vocabulary, n positions with a label.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import set_seed

from ..common.inference import batches, evaluating, is_known
from ..common.parser import option
from ..data_prep.windows import WindowDataset
from ..evaluation.cost import contest, forecast_task, forward_task, last_windows, weight_bytes
from ..evaluation.plots import loss_curve
from ..evaluation.walk_forward import WalkForward
from ..laws_tsf_llm import law_loss, law_weights
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..series_head_tsf_llm import series_loss
from .arguments import DataArguments, ModelArguments, SftArguments, model_fields
from .data import TrainingData
from .models import Model, head_of, load_model
from .supervised import FIXED, load_or_make_model, scored_on, test_scores
from .trainer import TsfLlmTrainer, make_trainer, train_and_save


@dataclass
class DistillArguments:
    """The student, and how much it listens."""

    _argument_group_name = "distillation"

    model_config: dict | str | None = option(None, "fields of TsfLlmConfig for a new student: a YAML mapping, or JSON")
    student_name_or_path: str | None = option(
        None, "student to go on from, as a pruned model, instead of model_config"
    )
    temperature: float = option(2.0, "T: above 1, small probabilities count for more")
    alpha: float = option(0.5, "share of the teacher: 0 for labels alone, 1 for the teacher alone")
    train_alone: bool = option(True, "train a second student without teacher, to compare")

    def __post_init__(self) -> None:
        self.model_config = model_fields(self.model_config)
        if self.model_config is None and self.student_name_or_path is None:
            raise ValueError("describe a new student by model_config, or name one by student_name_or_path")
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature={self.temperature}: must be above 0; 1 leaves probabilities as they are")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: the teacher's share must lie in [0, 1]")
        if fixed := sorted(set(self.model_config or {}) & {*FIXED, "prediction_type", "quantiles"}):
            raise ValueError(f"model_config sets {', '.join(fixed)}: these are the teacher's; leave them out")


class DistillationTrainer(TsfLlmTrainer):
    """Adds the teacher to the training loss, and `distill_loss`, its part before `alpha`, to the log.

    Args:
        teacher: a model of the same head, features and tokens. It is frozen.
        temperature: of both models' probabilities; numbers have none.
        alpha: the teacher's share; at 0 it is not asked.
    """

    def __init__(self, *args: Any, teacher: Model, temperature: float, alpha: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.temperature, self.alpha = temperature, alpha
        self._distill_losses: list[torch.Tensor] = []

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        whole = inputs.get("whole_values")
        inputs = {key: value for key, value in inputs.items() if key != "whole_values"}
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch)
        if model.training and self.alpha > 0:
            logits, labels = outputs["logits"], inputs["labels"]
            with torch.no_grad(), self.accelerator.autocast():
                seen = inputs if whole is None else {**inputs, "past_values": whole}
                answers = self.teacher(**{key: value for key, value in seen.items() if key != "labels"})
            # What series forms answer counts in the series' own units, as it does in their loss.
            weight = inputs.get("loss_weight", logits.new_ones(())).reshape(-1, *[1] * (logits.ndim - 1))
            soft_n = divergence(
                known(self.teacher, answers.logits * weight, labels),
                known(self.teacher, logits * weight, labels),
                kind=head_of(self.teacher),
                temperature=self.temperature,
            )
            if outputs.get("zero_logits") is not None:
                zeros = (known(self.teacher, one.zero_logits, labels) for one in (outputs, answers))
                soft_n = soft_n + zero_divergence(*zeros)
            self._distill_losses.append(soft_n.detach().mean())
            soft = soft_n.mean() if num_items_in_batch is None else soft_n.sum() / num_items_in_batch
            # The model's own loss holds its side losses too. They stay whole: labels alone give way to the teacher.
            change = soft - label_loss(self.teacher, outputs, inputs, num_items_in_batch)
            if (wanted := inputs.get("law_labels")) is not None and outputs.get("law_logits") is not None:
                total = is_known(labels[:, 1:]).sum() if num_items_in_batch is None else num_items_in_batch
                far = self.teacher.config.far_horizons
                laws = law_divergence(answers.law_logits, outputs["law_logits"], wanted, far, self.temperature)
                change = change + (laws - law_loss(outputs["law_logits"], wanted, far)) / total
            loss = loss + self.alpha * change * self._times_counted(num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _times_counted(self, num_items_in_batch: Any) -> int:
        """transformers multiplies a loss over all devices' labels by their number, for gradients are averaged."""
        shared = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return self.accelerator.num_processes if shared and self.args.average_tokens_across_devices else 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._distill_losses and "loss" in logs:
            mean = torch.stack(self._distill_losses).mean()
            logs["distill_loss"] = round(self.accelerator.gather(mean[None]).mean().item(), 5)
            self._distill_losses.clear()
        super().log(logs, start_time)


def known(model: Model, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Answers about known outcomes, float32 `[n]` or `[n,V]`; of a causal LM those about return tokens alone."""
    if model.can_generate():
        is_return = torch.ones(model.config.vocab_size, dtype=torch.bool, device=logits.device)
        is_return[[model.config.pad_token_id, model.config.bar_token_id]] = False
        return logits[:, :-1][is_known(labels[:, 1:])][:, is_return].float()
    return logits[is_known(labels.reshape(logits.shape[:2]))].float()


def divergence(teacher: torch.Tensor, student: torch.Tensor, *, kind: str, temperature: float = 1.0) -> torch.Tensor:
    """How far the student's answers are from the teacher's, `[n]`.

    `T^2 KL(teacher || student)` of the softmax at temperature `T`, whose gradients are of one size for all `T`; or
    the squared distance of numbers, mean over quantiles.
    """
    if kind in ("regression", "quantile"):
        return (student - teacher).square().flatten(1).mean(1) if student.ndim > 1 else (student - teacher).square()
    target, answer = ((one / temperature).log_softmax(-1) for one in (teacher, student))
    return F.kl_div(answer, target, reduction="none", log_target=True).sum(-1) * temperature**2


def law_divergence(
    teacher: torch.Tensor, student: torch.Tensor, labels: torch.Tensor, horizons: Sequence[int], temperature: float
) -> torch.Tensor:
    """`law_loss` with the teacher's bins for labels: the divergence where the outcome is known, summed."""
    T = labels.shape[1]
    each_BTH = divergence(teacher[:, :T].float(), student[:, :T].float(), kind="causal_lm", temperature=temperature)
    return ((each_BTH * is_known(labels)).sum(dim=(0, 1)) * law_weights(horizons, each_BTH)).sum()


def zero_divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the student's probability of zero with the teacher's, from log odds `[n]`."""
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")


def label_loss(model: Model, outputs: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any) -> torch.Tensor:
    """The model's own loss on labels, without side losses."""
    logits, labels = outputs["logits"], inputs["labels"]
    if model.config.patch_length is not None:
        told = {name: inputs.get(name) for name in ("zero_level", "loss_weight")}
        return series_loss(model.config, logits, labels, zero_logits=outputs.get("zero_logits"), **told)
    if not model.can_generate():
        return model.task_loss(logits, labels)
    counts = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
    return model.loss_function(logits=logits, labels=labels, vocab_size=model.config.vocab_size, **counts)


@torch.inference_mode()
def distance(teacher: Model, student: Model, windows: WindowDataset) -> float:
    """Mean divergence from the teacher at `T = 1` over all known outcomes of these windows."""
    parts = []
    with evaluating(student):
        for batch in batches(windows, student.device):
            labels = batch.pop("labels")
            # In float64: what a small divergence is made of cancels in float32, below zero at times.
            answers = [known(teacher, model(**batch).logits, labels).double() for model in (teacher, student)]
            parts.append(divergence(*answers, kind=head_of(teacher)))
    return float(torch.cat(parts).mean())


def make_student(args: DistillArguments, data: TrainingData, teacher: Model, *, seed: int) -> Model:
    """A new student with the teacher's inputs and outputs, or a given one that has them; the same for the same seed.

    Raises ValueError for a student of another head, other features or other tokens."""
    set_seed(seed)
    if args.student_name_or_path is not None:
        student = load_model(args.student_name_or_path)
        check_pair(student, teacher, args.student_name_or_path)
    else:
        fields = dict(args.model_config or {})  # type: ignore[arg-type]
        if head_of(teacher) == "quantile":
            fields["quantiles"] = teacher.config.quantiles
        student = load_or_make_model(
            data.args, ModelArguments(head=head_of(teacher), model_config=fields), data.processor
        )
    data.mark(student)
    return student


def check_pair(student: Model, teacher: Model, name: str) -> None:
    """Raises ValueError if two models speak of different things, naming what differs."""
    if head_of(student) != head_of(teacher):
        raise ValueError(
            f"{name} is a {head_of(student)} model, the teacher a {head_of(teacher)} one: give two of one head"
        )
    names = {
        "causal_lm": ("num_features", "vocab_size", "pad_token_id", "bar_token_id", "far_horizons"),
        "quantile": ("num_features", "prediction_length", "quantiles"),
    }.get(head_of(teacher), ("num_features", "prediction_length"))
    theirs = [(key, getattr(student.config, key), getattr(teacher.config, key)) for key in names]
    different = [f"{key} {own} against {other}" for key, own, other in theirs if _plain(own) != _plain(other)]
    if different:
        raise ValueError(f"{name} differs from the teacher in {', '.join(different)}: both need one processor")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def teach(
    student: Model,
    teacher: Model,
    data: TrainingData,
    args: DistillArguments,
    training_args: SftArguments,
    *,
    folder: Path,
    alone: bool = False,
) -> dict[str, Any]:
    """Trains the student into `folder`, `alone` from labels only; what the report says of it."""
    training_args = copy.copy(training_args)
    if alone and training_args.resume_from_checkpoint not in (None, "false", "False"):
        training_args.resume_from_checkpoint = "true"  # a checkpoint that was named is the distilled student's
    training_args.output_dir, training_args.early_stopping_patience = str(folder), 0
    set_seed(training_args.seed)
    train, valid = data.windows(head_of(teacher), seed=training_args.seed)
    train.keeps_whole = True
    trainer = make_trainer(
        student,
        data.processor,
        train=train,
        valid=valid,
        training_args=training_args,
        trainer_class=DistillationTrainer,
        teacher=teacher,
        temperature=args.temperature,
        alpha=0.0 if alone else args.alpha,
    )
    history, valid_loss = train_and_save(trainer, training_args)
    if trainer.is_world_process_zero():
        loss_curve(history, folder / "loss.png")
    told = {"steps": trainer.state.global_step, "valid_loss": valid_loss}
    return told if alone else {"windows": {"train": len(train), "valid": len(valid)}, **told}


@dataclass
class Scores:
    """One model on the dates after validation: rows by name (`model` is ours), and what they are made from."""

    rows: dict[str, Any]
    result: WalkForward | None  # classes have no return to score


def score(data: TrainingData, model: Model, training_args: SftArguments, *, most: int | None = None) -> Scores:
    """On all dates after validation; with `most`, the returns of the model alone from that many origins."""
    if data.args.report_samples and head_of(model) == "classification":
        train, _ = data.windows("classification", seed=training_args.seed)
        rows = test_scores(data, model, train, training_args, most=None)
        return Scores({name: row for name, row in rows.items() if name != "verdicts"}, None)
    return score_returns(data, model, training_args.seed, most)


def score_returns(data: TrainingData, model: Model, seed: int, most: int | None = None) -> Scores:
    """Scores of returns; none for classes, or where no samples are wanted."""
    if data.args.report_samples == 0 or head_of(model) == "classification":
        return Scores({"model": {}}, None)
    result = data.walk_forward(model, seed=seed, most=most)
    return Scores(result.by_name(seed), result)


def against(name: str, a: Scores, b: Scores, seed: int) -> dict[str, Any]:
    """CRPS of `a` minus that of `b`, called `name`, on the same outcomes at the last step, in numbers and words."""
    if a.result is None or b.result is None:
        return {}
    return a.result.against(b.result, name, seed)


def comparison(scores: dict[str, Scores], seed: int) -> dict[str, Any]:
    """`before`, `after`, one row per model and baseline, and paired differences of the distilled student."""
    student = scores["student"]
    baselines = [{**row, "model": name} for name, row in student.rows.items() if name != "model"]
    named = [{**one.rows["model"], "model": name} for name, one in scores.items() if name != "before"]
    others = {"teacher": "the teacher", "student_alone": "the student trained alone"}
    return {
        "before": scores["before"].rows["model"],
        "before_scored_on": scored_on(scores["before"].rows["model"], student.rows["model"]),
        "after": student.rows["model"],
        "rows": [*named, *baselines],
        "differences": {
            name: against(words, student, scores[name], seed) for name, words in others.items() if name in scores
        },
        "verdicts": None if student.result is None else student.result.words(seed),
    }


def costs(models: dict[str, Model], folders: dict[str, Any], data: TrainingData) -> dict[str, dict[str, Any]]:
    """Size of each model, and milliseconds of a forward pass and of a forecast for one window, all models in turn."""
    pipes = {name: TsfLlmPipeline(model=model, processor=data.processor) for name, model in models.items()}
    batch = last_windows(next(iter(pipes.values())), data.series, 1)
    options = {"horizon": data.args.horizon, "samples": data.args.report_samples or DataArguments.report_samples}
    forward = {name: forward_task(pipe, batch) for name, pipe in pipes.items()}
    whole = {name: forecast_task(pipe, batch, **options) for name, pipe in pipes.items()}
    timed = contest({"forward": forward, "forecast": whole}, repeats=10)
    sizes = {name: (model.num_parameters(), weight_bytes(folders[name])) for name, model in models.items()}
    return {name: {"parameters": size[0], "bytes": size[1], **timed[name]} for name, size in sizes.items()}


def later_windows(data: TrainingData, teacher: Model) -> WindowDataset:
    """Windows after validation, an embargo of one horizon behind it."""
    horizon = data.args.horizon
    return data.part(head_of(teacher), after=data.split.valid_through, embargo=horizon, stride=horizon)
