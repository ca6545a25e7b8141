"""Supervised training of TSF-LLM: a causal LM over return tokens, or a head that predicts all steps at once.

A small run on the embedded prices, in about a minute on two cores:
    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/debug_sft.yaml --output_dir outputs/debug

The 27M model on your own prices (CSV or parquet: timestamp, ticker, open, high, low, close, volume):
    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/27m.yaml --data prices.parquet \
        --train_through 2018-12-31 --valid_through 2019-12-31 --output_dir outputs/27m

Any other series (CSV or parquet: timestamp, [series_id,] value; see docs/data.md), 72 steps ahead:
    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/quickstart.yaml --data load.csv \
        --value_column OT --head quantile --horizon 72 --output_dir outputs/load

A folder that `tsf-llm prepare` wrote, with its own dates, scalers and bins:
    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/27m.yaml --data dataset --output_dir outputs/27m

Go on after a crash, or fine-tune a finished model on other prices:
    python -m tsf_llm.train_scripts.sft --config ... --output_dir outputs/27m --resume_from_checkpoint true
    python -m tsf_llm.train_scripts.sft --model_name_or_path outputs/27m --data more.csv --output_dir outputs/more

The original's published sequences, whose inputs contain future returns (docs/leak.md), on its converted weights:
    python -m tsf_llm.train_scripts.sft --data FOLDER_OF_NPZ --head regression --model_name_or_path converted

The output folder then holds the model with its processor (`from_pretrained` loads it), `report.json` with the scores
on dates after validation, before and after training, beside naive baselines, and `loss.png`.
"""

import time
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.errors import one_line_errors
from ..data_prep.files import write_json
from ..data_prep.npz import sequence_files
from ..evaluation.plots import loss_curve
from ..evaluation.walk_forward import provenance
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..processing_tsf_llm import TsfLlmProcessor
from .arguments import DataArguments, ModelArguments, Parser, SftArguments
from .data import TrainingData
from .sequences import train_on_sequences
from .trainer import make_trainer, train_and_save


def main(data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments) -> dict[str, Any]:
    """Reads, splits, trains, scores and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    set_seed(training_args.seed)
    if sequence_files(data_args.data):
        return train_on_sequences(data_args, model_args, training_args)
    data = TrainingData.read(data_args, model_args.model_name_or_path)
    model = load_or_make_model(data_args, model_args, data.processor)
    data.mark(model.config)
    train, valid = data.windows(model_args.head, seed=training_args.seed)

    report: dict[str, Any] = {
        **provenance(),
        "head": model_args.head,
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        "windows": {"train": len(train), "valid": len(valid)},
        "augment": train.augment,
        "sample_weights": data_args.sample_weights,
        "seed": training_args.seed,
    }
    trainer = make_trainer(model, data.processor, train=train, valid=valid, training_args=training_args)
    report["before"] = test_scores(data, model, training_args)["model"]
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    scores = test_scores(data, model, training_args)
    report |= {"after": scores.pop("model"), "verdicts": scores.pop("verdicts", None), "baselines": scores}
    report |= {"steps": trainer.state.global_step, "seconds": round(time.perf_counter() - started, 1)}
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        loss_curve(history, Path(training_args.output_dir) / "loss.png")
    return report


def load_or_make_model(
    data_args: DataArguments, model_args: ModelArguments, processor: TsfLlmProcessor
) -> TsfLlmForCausalLM | TsfLlmForPrediction:
    """The model of `head`, new or from a folder; sizes that the processor fixes come from the processor."""
    model_class = TsfLlmForCausalLM if model_args.head == "causal_lm" else TsfLlmForPrediction
    if model_args.model_name_or_path is not None:
        return model_class.from_pretrained(model_args.model_name_or_path)
    fields = dict(model_args.model_config or {})
    unknown = sorted(set(fields) - set(TsfLlmConfig.__dataclass_fields__))
    if unknown:
        raise ValueError(f"model_config has no field {unknown}: the fields are those of TsfLlmConfig")
    if model_args.head != "causal_lm":
        fields["prediction_type"] = model_args.head
    config = TsfLlmConfig(
        num_features=len(processor.feature_extractor.names),
        prediction_length=data_args.horizon,
        vocab_size=len(processor.tokenizer),
        pad_token_id=processor.tokenizer.pad_token_id,
        bar_token_id=processor.tokenizer.bar_token_id,
        **fields,
    )
    return model_class(config)


def test_scores(data: TrainingData, model: Any, training_args: SftArguments) -> dict[str, Any]:
    """Scores on the dates after validation; classes have none yet."""
    if model.config.prediction_type == "classification":
        return {"model": {}}
    return data.test_scores(model, seed=training_args.seed)


def parse(arguments: list[str] | None = None) -> tuple[DataArguments, ModelArguments, SftArguments]:
    parser = Parser((DataArguments, ModelArguments, SftArguments), prog="sft", description=__doc__)
    return parser.parse_args_and_config(arguments)


if __name__ == "__main__":
    with one_line_errors("sft"):
        main(*parse())
