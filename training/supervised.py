"""Supervised training from arguments to a scored folder: read, split, train, score, save, report."""

import time
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.utils import logging

from ..bars_tsf_llm import OHLCV
from ..common.errors import from_folder
from ..common.files import write_json
from ..common.provenance import provenance
from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.windows import WindowDataset, fence
from ..evaluation.classes import class_labels, class_report, predict_classes
from ..evaluation.plots import loss_curve
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..processing_tsf_llm import TsfLlmProcessor
from .arguments import DataArguments, ModelArguments, SftArguments
from .checkpoints import check_folder
from .continual import Anchor, OldWindows, ReplayDataset, load_or_measure_fisher, mean_loss
from .data import TrainingData
from .models import check_start, find_model, head_of
from .trainer import TsfLlmTrainer, make_trainer, train_and_save

logger = logging.get_logger(__name__)
UNTRAINED_ORIGINS = 1000  # that tell how bad a new model is before it has learned
FIXED = {
    *("num_features", "prediction_length", "horizons", "vocab_size", "pad_token_id", "bar_token_id"),
    *("context_length", "num_seasons", "num_ahead_features", "static_cardinalities"),
}


def train(
    data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments, data: TrainingData | None = None
) -> dict[str, Any]:
    """Reads, splits, trains, scores and saves; returns what `report.json` holds. `data` is what was read before."""
    started = time.perf_counter()
    check_folder(training_args.output_dir, data_args.data, data_args.market, model_args.replay_data)
    set_seed(training_args.seed)
    if model_args.start is not None:
        check_start(find_model(model_args.start), training_args.output_dir)
    form = model_args.series_form
    data = data or TrainingData.read(data_args, model_args.start, refit=model_args.refit_processor, series_form=form)
    model = load_or_make_model(data_args, model_args, data.processor)
    learned = model.config.trained_on
    data.mark(model)
    old = None
    if model_args.continue_from is not None:
        old = OldWindows.read(data, data_args, model_args, model_args.head)
        if learned and learned != model.config.trained_on:
            model.config.trained_on += f"; before that: {learned}"
    after = old.through if old is not None and old.shares_data else None
    train, valid = data.windows(model_args.head, seed=training_args.seed, after=after)

    report: dict[str, Any] = {
        **provenance("sft"),
        "head": model_args.head,
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        "windows": {"train": len(train), "valid": len(valid)},
        "augment": train.augment,
        "context_dropout": train.context_dropout,
        "sample_weights": data_args.sample_weights,
        "class_weights": training_args.class_weights,
        "precision": training_args.mixed_precision.replace("no", "fp32"),
        "matmul_gflops": training_args.matmul_gflops,
        "ema_decay": training_args.ema_decay,
        "seed": training_args.seed,
    }
    trainer, continual = continue_or_start(model, data, train, valid, old, model_args, training_args)
    if not trainer.is_world_process_zero():  # the first of several processes scores and writes for all
        report["valid_loss"] = train_and_save(trainer, training_args)[1]
        trainer.accelerator.wait_for_everyone()
        return report
    own_class = type(model)  # FSDP will put one of its own around it
    most = UNTRAINED_ORIGINS if model_args.start is None else None
    report["before"] = test_scores(data, model, train, training_args, most=most)["model"]
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    saved = own_class.from_pretrained(training_args.output_dir).to(training_args.device)
    if old is not None:
        report["continual"] = {**continual, "old_loss_after": mean_loss(saved, old.kept_back)}
    scores = test_scores(data, saved, train, training_args, most=None)
    report |= {"after": scores.pop("model"), "verdicts": scores.pop("verdicts", None), "baselines": scores}
    report["before_scored_on"] = scored_on(report["before"], report["after"])
    report |= {"expert_load": trainer.expert_load, "steps": trainer.state.global_step}
    report["seconds"] = round(time.perf_counter() - started, 1)
    write_json(report, Path(training_args.output_dir) / "report.json")
    loss_curve(history, Path(training_args.output_dir) / "loss.png")
    trainer.accelerator.wait_for_everyone()
    return report


def load_or_make_model(
    data_args: DataArguments, model_args: ModelArguments, processor: TsfLlmProcessor
) -> TsfLlmForCausalLM | TsfLlmForPrediction:
    """The model of `head`, new or from a folder; sizes that the processor fixes come from the processor."""
    model_class = TsfLlmForCausalLM if model_args.head == "causal_lm" else TsfLlmForPrediction
    if model_args.start is not None:
        check_match(TsfLlmConfig.from_pretrained(model_args.start), data_args, model_args, processor)
        return from_folder(model_class, model_args.start)
    fields = dict(model_args.model_config or {})
    unknown = sorted(set(fields) - set(TsfLlmConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(f"model_config has no field {unknown}: the fields are those of TsfLlmConfig")
    if given := sorted(FIXED & set(fields)):
        raise ValueError(f"model_config sets {', '.join(given)}: data, horizon and n_bins fix these; leave them out")
    for name in ("hidden_size", "moe_intermediate_size"):
        if isinstance(fields.get(name), int) and fields[name] % 4:
            raise ValueError(
                f"model_config: {name}={fields[name]}: the experts' products want a multiple of 4, of 8 in bf16"
            )
    if fields.get("zero_inflated") and not processor.feature_extractor.nonnegative:
        raise ValueError(
            "model_config: zero_inflated=true is of series that are never below zero: add --nonnegative true"
        )
    if model_args.head != "causal_lm":
        fields["prediction_type"] = model_args.head
    elif processor.kind is OHLCV:
        fields.setdefault("emits_bars", True)
    config = TsfLlmConfig(
        num_features=len(processor.feature_extractor.names),
        prediction_length=data_args.horizon,
        horizons=processor.tokenizer.horizons if model_args.head == "causal_lm" else None,
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
        bar_token_id=processor.tokenizer.bar_token_id,
        **processor.feature_extractor.series_fields(),
        **fields,
    )
    return model_class(config)


def check_match(
    config: TsfLlmConfig, data_args: DataArguments, model_args: ModelArguments, processor: TsfLlmProcessor
) -> None:
    """Raises ValueError if a folder's model has another head or horizon, or a processor of another model beside it."""
    name, head = model_args.start, model_args.head
    saved = "causal_lm" if "TsfLlmForCausalLM" in (config.architectures or ()) else config.prediction_type
    if config.architectures and saved != head:
        raise ValueError(f"{name} is a {saved} model, not {head}: add --head {saved}, or train a new model")
    given = model_args.model_config or {}
    if changed := [key for key, value in given.items() if getattr(config, key, None) != value]:
        logger.warning(f"{name} has its own config; from model_config this is left out: {', '.join(changed)}")
    if head != "causal_lm" and config.prediction_length != data_args.horizon:
        raise ValueError(
            f"{name} predicts {config.prediction_length} step(s), not {data_args.horizon}: "
            f"add --horizon {config.prediction_length}, or train a new model"
        )
    features, tokens = len(processor.feature_extractor.names), len(processor.tokenizer)
    if features != config.num_features or (head == "causal_lm" and tokens != config.vocab_size):
        raise ValueError(
            f"{name}: its processor gives {features} features and {tokens} tokens, its model wants "
            f"{config.num_features} and {config.vocab_size}; model and processor are of different trainings"
        )


def continue_or_start(
    model: TsfLlmForCausalLM | TsfLlmForPrediction,
    data: TrainingData,
    train: WindowDataset,
    valid: WindowDataset,
    old: OldWindows | None,
    model_args: ModelArguments,
    training_args: SftArguments,
) -> tuple[TsfLlmTrainer, dict[str, Any]]:
    """The trainer, with replay and EWC where there are old windows; and what the report says of these."""
    make = partial(make_trainer, model, data.processor, valid=valid, training_args=training_args)
    if old is None:
        return make(train=train), {}
    model.to(training_args.device)
    told: dict[str, Any] = {"old_through": fence(old.through), "replay": model_args.replay, "ewc": model_args.ewc}
    told["old_loss_before"] = mean_loss(model, old.kept_back)
    mixed = ReplayDataset(train, old.replayed, share=model_args.replay, seed=training_args.seed)
    anchor = None
    if model_args.ewc:
        resumed = training_args.checkpoint_to_resume() is not None
        options = {"resumed": resumed, "seed": training_args.seed, "progress": not training_args.disable_tqdm}
        fisher = load_or_measure_fisher(model, old, training_args.output_dir, **options)
        anchor = Anchor.at(model, fisher, model_args.ewc)
    told |= {"replayed_per_epoch": mixed.num_replayed if model_args.replay else 0, "kept_back": len(old.kept_back)}
    return make(train=mixed if model_args.replay else train, anchor=anchor), told


def scored_on(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """How many of the later dates' origins the row before training is of; None where neither is of returns.

    >>> scored_on({"n": 950}, {"n": 9440})
    '950 of 9440 origins'
    """
    return f"{before['n']} of {after['n']} origins" if "n" in before and "n" in after else None


def test_scores(
    data: TrainingData, model: Any, train: WindowDataset, training_args: SftArguments, *, most: int | None
) -> dict[str, Any]:
    """A row per model and baseline, by name, on the dates after validation, of classes or of a walk forward; and
    `verdicts`. With `most`, the walk forward of the model alone from that many origins, which its row counts."""
    if data.args.report_samples == 0:
        return {"model": {}}
    if head_of(model) != "classification":
        result = data.walk_forward(model, seed=training_args.seed, most=most)
        return {**result.by_name(training_args.seed), "verdicts": result.words()}
    test = data.part("classification", after=data.split.valid_through, stride=data.args.horizon)
    if not len(test):
        raise ValueError("no window fits after validation: move the fences or give more history")
    dates, labels = test.timestamp[test.origins], class_labels(test)
    return class_report(predict_classes(model, test), labels, dates, class_labels(train), seed=training_args.seed)
