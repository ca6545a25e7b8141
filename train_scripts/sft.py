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

import pandas as pd
from transformers import set_seed

from ..configuration_tsf_llm import TsfLlmConfig
from ..data_prep.augment import parse_augmentations
from ..data_prep.errors import one_line_errors
from ..data_prep.files import write_json
from ..data_prep.npz import sequence_files
from ..data_prep.prepare import Prepared, is_prepared, load_prepared
from ..data_prep.series import read_data
from ..data_prep.sources import read_bars
from ..data_prep.windows import Split, WindowDataset
from ..evaluation.plots import loss_curve
from ..evaluation.walk_forward import provenance, walk_forward
from ..modeling_tsf_llm import TsfLlmForCausalLM, TsfLlmForPrediction
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor, TsfLlmProcessor, TsfLlmTokenizer, day_end
from ..series_tsf_llm import kind_of
from .arguments import DataArguments, ModelArguments, Parser, SftArguments
from .sequences import train_on_sequences
from .trainer import make_trainer, train_and_save


def main(data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments) -> dict[str, Any]:
    """Reads, splits, trains, scores and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    set_seed(training_args.seed)
    if sequence_files(data_args.data):
        return train_on_sequences(data_args, model_args, training_args)
    prepared = load_prepared(data_args.data) if is_prepared(data_args.data) else None
    bars, split = read_and_split(data_args) if prepared is None else stored_bars(prepared, data_args)
    stored = prepared if model_args.model_name_or_path is None else None  # a model brings its own scalers
    processor = stored.processor if stored else load_or_fit_processor(data_args, model_args, bars, split)
    model = load_or_make_model(data_args, model_args, processor)
    model.config.trained_through = last_seen(model.config.trained_through, split)
    model.config.trained_on = describe(data_args.data, bars)
    market = market_bars(data_args, processor.feature_extractor, bars)
    series = stored.series() if stored else processor.feature_extractor.encode(bars, market=market)
    train, valid = windows(processor, series, split, data_args, model_args.head, seed=training_args.seed)

    report: dict[str, Any] = {
        **provenance(),
        "head": model_args.head,
        "parameters": model.num_parameters(),
        "data": model.config.trained_on,
        "train_through": fence(split.train_through),
        "valid_through": fence(split.valid_through),
        "trained_through": model.config.trained_through,
        "out_of_sample": model.config.trained_through == fence(split.valid_through),
        "windows": {"train": len(train), "valid": len(valid)},
        "augment": train.augment,
        "sample_weights": data_args.sample_weights,
        "seed": training_args.seed,
    }
    trainer = make_trainer(model, processor, train=train, valid=valid, training_args=training_args)
    report["before"] = test_scores(model, processor, bars, split, data_args, training_args, market)["model"]
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    scores = test_scores(model, processor, bars, split, data_args, training_args, market)
    report |= {"after": scores.pop("model"), "verdicts": scores.pop("verdicts", None), "baselines": scores}
    report |= {"steps": trainer.state.global_step, "seconds": round(time.perf_counter() - started, 1)}
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        loss_curve(history, Path(training_args.output_dir) / "loss.png")
    return report


def read_and_split(data_args: DataArguments) -> tuple[pd.DataFrame, Split]:
    bars = read_data(
        data_args.data,
        data_args.tickers,
        value=data_args.value_column,
        id=data_args.id_column,
        time=data_args.time_column,
        covariates=[*data_args.past_covariates, *data_args.known_covariates],
    )
    return bars, Split.of(bars, data_args.train_through, data_args.valid_through)


def stored_bars(prepared: Prepared, data_args: DataArguments) -> tuple[pd.DataFrame, Split]:
    """Bars and fences of a prepared folder. Others would need another fit, so they are refused."""
    fixed = ["tickers", "train_through", "valid_through", "market"]
    if given := [name for name in fixed if getattr(data_args, name)]:
        raise ValueError(f"{prepared.folder} is prepared, so {', '.join(given)} cannot be chosen: prepare it again")
    return prepared.bars(), prepared.split


def load_or_fit_processor(
    data_args: DataArguments, model_args: ModelArguments, bars: pd.DataFrame, split: Split
) -> TsfLlmProcessor:
    """A model to go on from brings its processor; a new one is fitted on the training dates alone."""
    if model_args.model_name_or_path is not None:
        return TsfLlmProcessor.from_pretrained(model_args.model_name_or_path)
    features = TsfLlmFeatureExtractor(
        feature_groups=data_args.feature_groups,
        scaling=data_args.scaling,
        per_ticker=data_args.per_ticker,
        context_length=data_args.context_length,
        calendar=data_args.calendar,
        kind=kind_of(bars).name,
        past_covariates=data_args.past_covariates,
        known_covariates=data_args.known_covariates,
    )
    processor = TsfLlmProcessor(features, TsfLlmTokenizer(n_bins=data_args.n_bins))
    return processor.fit(bars, through=split.train_through, market=market_bars(data_args, features, bars))


def market_bars(data_args: DataArguments, features: TsfLlmFeatureExtractor, bars: pd.DataFrame) -> pd.DataFrame | None:
    """The prices of `market`; or, where the group of that name was chosen, the whole universe of the data."""
    if data_args.market is not None:
        return read_bars(data_args.market)
    chosen = "market" in (features.feature_groups or ()) or features.fitted_with_market
    return bars if chosen and features.reads_market else None


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


def windows(
    processor: TsfLlmProcessor,
    series: list[EncodedSeries],
    split: Split,
    data_args: DataArguments,
    head: str,
    *,
    seed: int = 0,
) -> tuple[WindowDataset, WindowDataset]:
    """Training and validation windows, an embargo of one horizon between their labels; only training is augmented."""
    common = {"objective": head, "horizon": data_args.horizon, "stride": data_args.stride}
    train = WindowDataset(
        processor,
        series,
        through=split.train_through,
        augment=parse_augmentations(data_args.augment),
        sample_weights=data_args.sample_weights,
        seed=seed,
        **common,
    )
    valid = WindowDataset(
        processor, series, after=split.train_through, through=split.valid_through, embargo=data_args.horizon, **common
    )
    for name, part in (("training", train), ("validation", valid)):
        if len(part) == 0:
            raise ValueError(
                f"no {name} window of {data_args.horizon} steps fits: move the fences or give more history"
            )
    return train, valid


def test_scores(
    model: Any,
    processor: TsfLlmProcessor,
    bars: pd.DataFrame,
    split: Split,
    data_args: DataArguments,
    training_args: SftArguments,
    market: pd.DataFrame | None,
) -> dict[str, Any]:
    """One row per model and baseline, by name, on the dates after validation; `verdicts` beside them."""
    if data_args.report_samples == 0 or model.config.prediction_type == "classification":
        return {"model": {}}
    training = model.training
    result = walk_forward(
        TsfLlmPipeline(model=model, processor=processor, device=model.device),
        bars,
        start=split.valid_through + pd.Timedelta(1, "ns"),
        end=bars["timestamp"].max(),
        horizon=data_args.horizon,
        samples=data_args.report_samples,
        seed=training_args.seed,
        market=market,
    )
    model.train(training)
    rows = {row["model"]: row for row in result.rows(seed=training_args.seed)}
    return {**rows, "verdicts": {name: one["verdict"] for name, one in result.verdicts().items()}}


def last_seen(before: str | None, split: Split) -> str:
    """The later of what a model to go on from has seen and what it will see now: weights forget no date."""
    now = fence(split.valid_through)
    return now if before is None or day_end(before) <= day_end(now) else before


def fence(moment: pd.Timestamp) -> str:
    """The date of a fence that ends a day or stands on a daily bar; of one within a day the instant.

    >>> fence(pd.Timestamp("2020-06-30")), fence(pd.Timestamp("2020-06-30 12:00"))
    ('2020-06-30', '2020-06-30 12:00:00')
    """
    whole_day = moment in (moment.normalize(), day_end(moment.date()))
    return str(moment.date() if whole_day else moment)


def describe(data: str, bars: pd.DataFrame) -> str:
    """What the weights were trained on, in words, without a path of this machine."""
    tickers = list(bars[kind_of(bars).id].unique())
    listed = ", ".join(tickers[:8]) + (f" and {len(tickers) - 8} more" if len(tickers) > 8 else "")
    return f"{Path(data).name}: {listed}, from {bars['timestamp'].min().date()}"


def parse(arguments: list[str] | None = None) -> tuple[DataArguments, ModelArguments, SftArguments]:
    parser = Parser((DataArguments, ModelArguments, SftArguments), prog="sft", description=__doc__)
    return parser.parse_args_and_config(arguments)


if __name__ == "__main__":
    with one_line_errors("sft"):
        main(*parse())
