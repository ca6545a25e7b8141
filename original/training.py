"""Training a regression head on the original's published sequences: what `sft.py` does with `.npz` files.

Their inputs contain future returns. The log and `report.json` say so, and the report puts a constant 0 (the training
median) and a ridge regression on the last bar beside the model: what these two score is owed to no forecasting skill.
"""

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import set_seed
from transformers.utils import logging

from ..common.files import write_json
from ..common.inference import batches, evaluating
from ..common.provenance import provenance
from ..configuration_tsf_llm import TsfLlmConfig
from ..evaluation.plots import loss_curve
from ..modeling_tsf_llm import TsfLlmForPrediction
from ..original_features_tsf_llm import OriginalFeatureExtractor
from ..processing_tsf_llm import TsfLlmProcessor
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.checkpoints import check_folder
from ..training.models import check_start, find_model
from ..training.trainer import make_trainer, train_and_save
from .leak import ridge, scaled_scores
from .sequences import LEAK, SequenceDataset, read_sequences, split_sequences

logger = logging.get_logger(__name__)


def train_on_sequences(
    data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments
) -> dict[str, Any]:
    """Reads, splits, trains, scores and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    check_folder(training_args.output_dir, data_args.data)
    set_seed(training_args.seed)
    if model_args.start is not None:
        check_start(find_model(model_args.start), training_args.output_dir)
    if data_args.augment or data_args.context_dropout or data_args.sample_weights != "none":
        raise ValueError(
            "augment, context_dropout and sample_weights work on windows of bars: leave them out for .npz sequences"
        )
    if model_args.continue_from is not None:
        raise ValueError("continue_from works on windows of bars: use model_name_or_path for .npz sequences")
    logger.warning(LEAK)
    sequences = read_sequences(data_args.data)
    model, processor = load_or_make(model_args)
    train, valid, test = split_sequences(sequences)
    model.config.trained_on = f"{Path(data_args.data).name}: {', '.join(sequences)}; inputs contain future returns"
    trainer = make_trainer(model, processor, train=train, valid=valid, training_args=training_args)
    report: dict[str, Any] = {
        **provenance("sft"),
        "head": model_args.head,
        "parameters": model.num_parameters(),
        "data": model.config.trained_on,
        "leak": LEAK,
        "direction_about": "0, the training median of the scaled target, as the original counts it",
        "windows": {"train": len(train), "valid": len(valid), "test": len(test)},
        "seed": training_args.seed,
        "before": test_scores(predict(model, test), test),
    }
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    report["after"] = test_scores(predict(model, test), test)
    report["baselines"] = baselines(train, test)
    report |= {"steps": trainer.state.global_step, "seconds": round(time.perf_counter() - started, 1)}
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        loss_curve(history, Path(training_args.output_dir) / "loss.png")
    return report


def load_or_make(model_args: ModelArguments) -> tuple[TsfLlmForPrediction, TsfLlmProcessor]:
    """The model and its processor; a new processor is not fitted, for the scalers of the sequences are not published.

    Raises:
        ValueError: another head than `regression`, or a model for other inputs.
    """
    if model_args.head != "regression":
        raise ValueError(f"head={model_args.head!r}: .npz sequences have one number as target; use --head regression")
    name = model_args.model_name_or_path
    processor = TsfLlmProcessor(OriginalFeatureExtractor())
    if name is None:
        fields = {"prediction_type": "regression", "prediction_length": 1, **(model_args.model_config or {})}
        model = TsfLlmForPrediction(TsfLlmConfig(num_features=len(processor.feature_extractor.names), **fields))
    else:
        model = TsfLlmForPrediction.from_pretrained(name)
        with suppress(OSError):  # converted weights may come without a processor
            processor = TsfLlmProcessor.from_pretrained(name)
    config, extractor = model.config, processor.feature_extractor
    wanted = (len(extractor.names), 1, "regression")
    head = (config.num_features, config.prediction_length, config.prediction_type)
    if not isinstance(extractor, OriginalFeatureExtractor) or head != wanted:
        raise ValueError(
            f"{name}: .npz sequences are for the original's 64 inputs and one number; convert its weights"
        )
    return model, processor


@torch.inference_mode()
def predict(model: TsfLlmForPrediction, data: SequenceDataset) -> np.ndarray:
    """The model's scaled predictions, float64 `[N]`."""
    with evaluating(model):
        inputs = (batch["past_values"] for batch in batches(data, model.device, at_once=256))
        return torch.cat([model(past_values=values).prediction[:, 0] for values in inputs]).double().cpu().numpy()


def test_scores(prediction: np.ndarray, test: SequenceDataset) -> dict[str, Any]:
    """Scores on the later part."""
    return scaled_scores(prediction, test.y.double().numpy(), test.time)


def baselines(train: SequenceDataset, test: SequenceDataset) -> dict[str, dict[str, Any]]:
    """A constant 0, which is the training median and calls no direction, and ridge regression on the last bar."""
    last, target, ahead = (values.double().numpy() for values in (train.X[:, -1], train.y, test.X[:, -1]))
    constant = test_scores(np.zeros(len(test)), test)
    no_direction = {"direction_accuracy": None, "direction_ci95": None}
    return {"constant_0": {**constant, **no_direction}, "ridge": test_scores(ridge(last, target, ahead), test)}
