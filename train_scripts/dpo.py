r"""Preference tuning with trl's `DPOTrainer`: of two price paths after the same bars, make the better one more likely.

A small run on the embedded prices: it trains a model, samples pairs from its training dates, tunes and compares:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/debug_dpo.yaml --output_dir outputs/debug_dpo

Your model, with pairs that the script builds itself, ranked by profit after costs; low-rank updates alone:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/dpo.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --utility pnl --cost_bp 5 --lora_r 8 --output_dir outputs/dpo

Pairs of your own: a folder or .parquet of `build_preferences`, or lines of prompt, chosen and rejected:
    python -m tsf_llm.train_scripts.dpo --config train_scripts/configs/dpo.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --preferences preferences --loss_type ipo --output_dir outputs/ipo

A regression head, whose numbers become a density (see `preferences.py`):
    python -m tsf_llm.train_scripts.dpo --model_name_or_path outputs/regression --data prices.parquet \
        --preferences pairs.jsonl --output_dir outputs/regression_dpo

The reference is a frozen copy of the base model; the base model itself with its adapter off (`--lora_r`); or numbers
computed beforehand (`--precompute_ref_log_probs`). The output folder holds the tuned model with its processor, with
`--lora_r` merged and the adapter alone in `adapter/`; the pairs in `preferences/`; and `report.json`.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from transformers import set_seed
from transformers.utils import logging
from trl import DPOConfig

from ..bars_tsf_llm import OHLCV
from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.provenance import provenance
from ..data_prep.windows import fence
from ..evaluation import profit as utility
from ..evaluation.plots import loss_curve
from ..evaluation.walk_forward import WalkForward
from ..modeling_tsf_llm import TsfLlmForPrediction
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..publishing.upload import HubCallback
from ..training.adapters import with_fences_of
from ..training.arguments import DataArguments, SftArguments, check_training
from ..training.callbacks import FiniteCallback
from ..training.data import TrainingData
from ..training.models import Model, digest, load_model
from ..training.preferences import (
    Noise,
    PreferenceCollator,
    Reader,
    RegressionDPOTrainer,
    SplitPairs,
    TsfLlmDPOTrainer,
    embargo_end,
    log_probs,
    lora_config,
    per_step,
    reference_copy,
    split_pairs,
)
from ..training.starting_model import BaseArguments, base_model
from ..training.trainer import leave_group, train_and_save
from .build_preferences import PairArguments, build_preferences

logger = logging.get_logger(__name__)
LOSSES = ("sigmoid", "ipo", "hinge")
NOISE_WINDOWS = 4096  # training windows whose residuals the noise is fitted to


@dataclass
class PreferenceArguments:
    """Which pairs."""

    _argument_group_name = "preferences"

    preferences: str | None = field(
        default=None,
        metadata={
            "help": "folder or .parquet of build_preferences, or a .jsonl; by default built from the base model"
        },
    )
    utility: str = field(default=PairArguments.utility, metadata={"help": "built pairs: crps, pnl or drawdown"})
    pair_samples: int = field(default=PairArguments.samples, metadata={"help": "built pairs: paths per origin"})
    pair_stride: int | None = field(
        default=None, metadata={"help": "built pairs: bars between training origins; by default the horizon"}
    )
    min_margin: float = field(default=PairArguments.min_margin, metadata={"help": "built pairs: least utility apart"})
    cost_bp: float = field(
        default=PairArguments.cost_bp,
        metadata={"help": "basis points per unit of turnover, in pairs and in the report"},
    )
    drawdown_weight: float = field(
        default=PairArguments.drawdown_weight, metadata={"help": "drawdown: its weight against the profit"}
    )

    def __post_init__(self) -> None:
        self.settings(horizon=1, seed=0)

    def settings(self, *, horizon: int, seed: int, **dates: Any) -> PairArguments:
        """What `build_preferences` takes. Raises a `ValueError` for values that cannot be."""
        return PairArguments(
            utility=self.utility,
            horizon=horizon,
            samples=self.pair_samples,
            stride=dates.pop("stride", None) or horizon,
            min_margin=self.min_margin,
            cost_bp=self.cost_bp,
            drawdown_weight=self.drawdown_weight,
            seed=seed,
            **dates,
        )


@dataclass
class DpoArguments(DPOConfig):
    """trl's DPOConfig with defaults for price paths."""

    output_dir: str | None = field(default="outputs/dpo", metadata={"help": "where the model and report.json go"})
    lora_r: int = field(default=0, metadata={"help": "rank of low-rank updates; 0 tunes all weights"})
    lora_alpha: float = field(default=16, metadata={"help": "the updates count lora_alpha / lora_r times"})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "pairs per step and device"})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "pairs per validation step and device"})
    num_train_epochs: float = field(default=1, metadata={"help": "passes over the training pairs"})
    learning_rate: float = field(default=1e-5, metadata={"help": "peak learning rate of AdamW"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning-rate schedule"})
    warmup_steps: float = field(default=0.1, metadata={"help": "steps of warm-up, or their share if below 1"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to validate"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints to keep"})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "keep the weights of the best loss on held-out pairs"}
    )
    prediction_loss_only: bool = field(default=True, metadata={"help": "validation needs no predictions"})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "the collator picks its columns"})
    max_length: int | None = field(default=None, metadata={"help": "windows are not cut"})
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "older name of activation_checkpointing: save memory, spend time"}
    )
    bf16: bool | None = field(default=False, metadata={"help": "bfloat16 autocast"})
    router_aux_loss_coef: float | None = field(
        default=0.0, metadata={"help": "weight of trl's load-balancing loss; 0 leaves the preference loss alone"}
    )
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available(), metadata={"help": "pin memory for a GPU"})
    report_to: str | None = field(default="none", metadata={"help": "none, tensorboard or trackio"})
    seed: int = field(default=0, metadata={"help": "seed of pairs, order and sampled paths"})

    checkpoint_to_resume = SftArguments.checkpoint_to_resume

    def __post_init__(self) -> None:
        super().__post_init__()
        check_training(self)
        if unknown := [name for name in self.loss_type if name not in LOSSES]:
            raise ValueError(f"loss_type={', '.join(unknown)}: choose of {', '.join(LOSSES)}")
        if self.beta <= 0:
            raise ValueError(f"beta={self.beta}: must be above 0")
        if self.lora_r < 0:
            raise ValueError(f"lora_r={self.lora_r}: must be 0, for all weights, or more")


def main(
    data_args: DataArguments,
    base_args: BaseArguments,
    preference_args: PreferenceArguments,
    training_args: DpoArguments,
) -> dict[str, Any]:
    """Reads or builds pairs, tunes, compares and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    set_seed(training_args.seed)
    base = base_model(base_args, data_args, training_args.output_dir, seed=training_args.seed)
    model = tunable(load_model(base), base)
    data = with_fences_of(TrainingData.read(data_args, base), model.config)
    check_horizon(data, model, base)
    with training_args.main_process_first(local=False, desc="preference pairs"):
        pairs, test = read_or_build(data, model, preference_args, training_args)
    noise = None if model.can_generate() else fit_noise(data, model, pairs)
    held = data.processor.feature_extractor.series_kind is OHLCV
    cost_bp = preference_args.cost_bp if held else None
    judge = Judge(data, pairs.valid if test is None else test, noise, cost_bp, training_args.seed)
    before = judge(model)
    data.mark(model.config)
    report: dict[str, Any] = {
        **provenance(),
        "base_model": Path(base).name if Path(base).is_dir() else base,
        "head": "causal_lm" if model.can_generate() else model.config.prediction_type,
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        **how(training_args, noise),
        "pairs": describe(pairs, test, preference_args),
    }
    trainer = make_trainer(model, data, pairs, training_args, noise)
    report["trained_parameters"] = trainer.get_num_trainable_parameters()
    history, report["valid_loss"] = train_and_save(trainer, training_args)
    trainer.accelerator.wait_for_everyone()  # for the folder, which the main process writes
    report["valid_reward_accuracy"] = trainer.state.log_history[-1]["eval_rewards/accuracies"]
    report |= judge.report(before, judge(type(model).from_pretrained(training_args.output_dir).to(model.device)))
    report |= {"seed": training_args.seed, "steps": trainer.state.global_step}
    report["seconds"] = round(time.perf_counter() - started, 1)
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
        loss_curve(history, Path(training_args.output_dir) / "loss.png")
        print_findings(report)
    return report


def tunable(model: Model, name: str) -> Model:
    """The model, if pairs can tune it.

    Raises:
        ValueError: a head that gives neither paths nor one number per step.
    """
    if not model.can_generate() and model.config.prediction_type != "regression":
        raise ValueError(
            f"{name} has a {model.config.prediction_type} head: pairs tune a causal LM or a regression head"
        )
    return model


def check_horizon(data: TrainingData, model: Model, name: str) -> None:
    """Raises a `ValueError` where a regression head answers for another number of bars than `horizon`."""
    horizon = data.args.horizon
    reach = data.processor.feature_extractor.reach or model.config.prediction_length
    if not model.can_generate() and horizon != reach:
        raise ValueError(f"horizon={horizon}, but {name} answers for {reach} bar(s): give that horizon")


# --- pairs ---------------------------------------------------------------------------------------------------------


def read_or_build(
    data: TrainingData, model: Any, preference_args: PreferenceArguments, training_args: DpoArguments
) -> tuple[SplitPairs, Dataset | None]:
    """Pairs to train on and to choose by; and pairs of the dates behind both, for the report, if paths are sampled."""
    folder, horizon = Path(training_args.output_dir) / "preferences", data.args.horizon
    reader, split = Reader(model, data.processor, folder / "cache"), data.split
    given = preference_args.preferences
    if not model.can_generate():
        if given is None:
            raise ValueError("a regression head samples no paths: give preferences, a .jsonl or those of a causal LM")
        return _given(reader, data, given), None

    def built(name: str, last: pd.Timestamp, **dates: Any) -> Dataset:
        settings = preference_args.settings(horizon=horizon, seed=training_args.seed, through=fence(last), **dates)
        progress = not training_args.disable_tqdm
        return reader.read(build(data, model, folder / name, settings, progress=progress))

    if given is None:
        train = built("train", split.train_through, stride=preference_args.pair_stride)
        start = embargo_end(data.bars, split.train_through, horizon)
        pairs = SplitPairs(train, built("valid", split.valid_through, start=str(start)), {}, dated=True)
    else:
        pairs = _given(reader, data, given)
    start = split.valid_through + pd.Timedelta(1, "ns")
    return pairs, built("test", data.bars["timestamp"].max(), start=str(start))


def _given(reader: Reader, data: TrainingData, source: str) -> SplitPairs:
    pairs = reader.read(source)
    split = split_pairs(pairs, data.bars, data.split, len(pairs[0]["chosen"]))
    if sum(split.counts.values()):
        logger.warning(
            f"{source}: {split.counts['after_fence']} pair(s) lie behind the dates of training and validation, "
            f"{split.counts['embargo']} within the embargo between these two; they are left out"
        )
    if not split.dated:
        logger.warning(f"{source} has no dates: whether its pairs lie before the dates of the report is up to you")
    return split


def build(data: TrainingData, model: Any, folder: Path, settings: PairArguments, *, progress: bool = True) -> Path:
    """Pairs of `settings` in `folder`; finished ones of the same model, bars and settings are used again."""
    made_of = {"settings": asdict(settings), **fingerprints(data, model)}
    note = folder / "made_of.json"
    if note.is_file() and json.loads(note.read_text()) == made_of:
        logger.warning(f"{folder} is finished and used as it is")
        return folder
    note.unlink(missing_ok=True)
    pipe = TsfLlmPipeline(model=model, processor=data.processor, device=model.device)
    build_preferences(pipe, data.bars, folder, settings, market=data.market, fence=settings.through, progress=progress)
    write_json(made_of, note)
    return folder


def fingerprints(data: TrainingData, model: Any) -> dict[str, str]:
    """Digests of the weights, the processor and the bars."""
    processor = data.processor.feature_extractor.to_json_string() + json.dumps(data.processor.tokenizer.bin_edges)
    tables = [table for table in (data.bars, data.market) if table is not None]
    bars = b"".join(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes() for table in tables)
    return {
        "weights": digest(model),
        "processor": hashlib.sha256(processor.encode()).hexdigest(),
        "bars": hashlib.sha256(bars).hexdigest(),
    }


def fit_noise(data: TrainingData, model: TsfLlmForPrediction, pairs: SplitPairs) -> Noise:
    """Fitted to the base model's residuals per step on training windows.

    The original's weights have inputs and targets of their own, of which there are no windows: theirs are residuals of
    the chosen paths of training pairs."""
    if data.processor.feature_extractor.reach is not None:
        collate = PreferenceCollator(data.processor.tokenizer.bar_token_id, numbers=True)
        rows = np.arange(min(len(pairs.train), NOISE_WINDOWS))
        parts = (collate([pairs.train[int(i)] for i in some]) for some in np.split(rows, rows[256::256]))
        batches: Any = ((_first_half(part), _first_half(part)["steps"].cumsum(dim=1)) for part in parts)
    else:
        windows, _ = data.windows("regression")
        rows = np.linspace(0, len(windows) - 1, min(len(windows), NOISE_WINDOWS)).astype(int)
        parts = (windows.__getitems__(some) for some in np.split(rows, rows[256::256]))
        batches = ((part, part["labels"]) for part in parts)
    residuals = []
    with torch.inference_mode():
        for batch, outcome in batches:
            T = batch["past_values"].shape[1]
            inputs = {"past_values": batch["past_values"], "attention_mask": batch["attention_mask"][:, :T]}
            answer = model(**{name: values.to(model.device) for name, values in inputs.items()})
            residuals.append(per_step(outcome - answer.prediction.cpu()).numpy().ravel())
    return Noise.fit(np.concatenate(residuals))


def _first_half(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The chosen rows."""
    return {name: values.chunk(2)[0] for name, values in batch.items()}


def describe(pairs: SplitPairs, test: Dataset | None, preference_args: PreferenceArguments) -> dict[str, Any]:
    """The lines of the report about pairs."""
    given = preference_args.preferences
    return {
        "source": "built from the base model" if given is None else Path(given).name,
        "utility": preference_args.utility,
        "cost_bp": preference_args.cost_bp,
        "train": len(pairs.train),
        "valid": len(pairs.valid),
        "test": None if test is None else len(test),
        "judged_by": "held-out pairs" if test is None else "pairs of the base model on the dates after validation",
        "left_out": pairs.counts,
        "dated": pairs.dated,
    }


# --- training ------------------------------------------------------------------------------------------------------


def how(training_args: DpoArguments, noise: Noise | None) -> dict[str, Any]:
    """The lines of the report about the loss."""
    full = "frozen copy" if not training_args.lora_r else "adapter off"
    return {
        "loss_type": training_args.loss_type,
        "beta": training_args.beta,
        "reference": "precomputed" if training_args.precompute_ref_log_probs else full,
        "lora_r": training_args.lora_r,
        "noise": None if noise is None else asdict(noise),
    }


def make_trainer(
    model: Any, data: TrainingData, pairs: SplitPairs, training_args: DpoArguments, noise: Noise | None = None
) -> TsfLlmDPOTrainer:
    """trl's trainer. Without a reference it would load one from the model's folder, whatever the weights here are."""
    own_reference = not training_args.lora_r and not training_args.precompute_ref_log_probs
    options: dict[str, Any] = {
        "model": model,
        "ref_model": reference_copy(model) if own_reference else None,
        "args": training_args,
        "train_dataset": pairs.train,
        "eval_dataset": pairs.valid,
        "data_collator": PreferenceCollator(data.processor.tokenizer.bar_token_id, numbers=noise is not None),
        "processing_class": data.processor,
        "peft_config": lora_config(training_args.lora_r, training_args.lora_alpha) if training_args.lora_r else None,
        "callbacks": [FiniteCallback(), HubCallback()],
    }
    return TsfLlmDPOTrainer(**options) if noise is None else RegressionDPOTrainer(**options, noise=noise)


# --- the report ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judge:
    """Forecasts and pairs on which models are compared."""

    data: TrainingData
    pairs: Dataset
    noise: Noise | None
    cost_bp: float | None  # None for a series that nobody holds
    seed: int

    def __call__(self, model: Any) -> tuple[WalkForward, np.ndarray]:
        """The model's forecasts of the dates after validation, and how it scores each pair, `[N,2]`."""
        collate = PreferenceCollator(self.data.processor.tokenizer.bar_token_id, numbers=self.noise is not None)
        forecasts = self.data.walk_forward(model, seed=self.seed)
        return forecasts, log_probs(model, self.pairs, collate, self.noise)

    @property
    def pair_dates(self) -> np.ndarray:
        """Origins of the pairs; of undated ones their order stands for time."""
        if "origin" not in self.pairs.column_names:
            return np.arange(len(self.pairs))
        return pd.DatetimeIndex(self.pairs["origin"][:]).to_numpy()

    def report(self, before: tuple[WalkForward, np.ndarray], after: tuple[WalkForward, np.ndarray]) -> dict[str, Any]:
        """`before` and `after`, their paired differences, the baselines, and what it all says."""
        when = {"horizon": self.data.args.horizon, "seed": self.seed}
        (first, scores_before), (last, scores_after) = before, after
        pairs = [utility.pair_values(scores) for scores in (scores_before, scores_after)]
        values = [utility.forecast_values(forecasts, self.cost_bp) for forecasts in (first, last)]
        old = utility.forecast_rows(utility.without_baselines(first), self.cost_bp, self.seed)["model"]
        rows = utility.forecast_rows(last, self.cost_bp, self.seed)
        new = rows.pop("model")
        for row, own in zip((old, new), pairs, strict=True):
            row |= utility.summary(own, self.pair_dates, **when)
        difference = utility.compare(*values, last.origin, **when) | utility.compare(*pairs, self.pair_dates, **when)
        verdicts = {name: one["verdict"] for name, one in last.verdicts(seed=self.seed).items()}
        if values[1]["utility"] is not None:
            assert self.cost_bp is not None
            for name, held in utility.holders(last, self.cost_bp).items():
                verdicts[f"utility_against_{name}"] = utility.against(
                    values[1]["utility"], held, last.origin, name.replace("_", " "), **when
                )
                rows[name] = utility.summary({"utility": held}, last.origin, **when)
        return {
            "before": old,
            "after": new,
            "difference": difference,
            "verdicts": verdicts,
            "baselines": rows,
            "warning": utility.warning(difference),
        }


def print_findings(report: dict[str, Any]) -> None:
    """What was found, a line each, and the warning."""
    for name, one in report["difference"].items():
        figures = [report[part][name] for part in ("before", "after")]
        print(f"{name}: {figures[0]:.5g} -> {figures[1]:.5g}; {one['verdict']}")
    if "utility_against_nothing" in report["verdicts"]:
        print(f"utility after costs: {report['verdicts']['utility_against_nothing']}")
    if report["warning"]:
        print(f"warning: {report['warning']}")


def parse(
    arguments: list[str] | None = None,
) -> tuple[DataArguments, BaseArguments, PreferenceArguments, DpoArguments]:
    types = (DataArguments, BaseArguments, PreferenceArguments, DpoArguments)
    return Parser(types, prog="dpo", description=__doc__).parse_args_and_config(arguments)


if __name__ == "__main__":
    with one_line_errors("dpo"):
        main(*parse())
        leave_group()
