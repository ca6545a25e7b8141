"""Arguments that the training scripts share. Each default lives here or in `TsfLlmConfig`, and nowhere else."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.utils import logging

from ..bars_tsf_llm import day_end
from ..common.parser import option
from ..data_prep.augment import parse_augmentations
from ..data_prep.columns import Columns
from ..data_prep.sampling_weights import parse_weights
from .checkpoints import last_complete_checkpoint, missing_parts
from .class_weights import parse_class_weights
from .precision import device_here, faster_in_bf16, has_bf16, in_words, matmul_speeds, several_processes

logger = logging.get_logger(__name__)
MOST_BINS = 65_536


@dataclass
class DataArguments:
    """Which bars, and where the fences stand."""

    _argument_group_name = "data"

    data: str = option("sample", "price file, folder, 'sample' for the embedded prices, or .npz")
    tickers: list[str] | None = option(None, "only these tickers")
    strict: bool = option(False, "refuse data of which one ticker cannot be used; by default it is skipped and named")
    value_column: str | None = option(None, "plain series: column to forecast; by default value, y or the only one")
    id_column: str | None = option(None, "column that names the tickers or the plain series, if it has no usual name")
    time_column: str | None = option(None, "column of times, if it has no usual name")
    dates: str | None = option(None, "order of numeric dates, where they do not tell: dmy, mdy or ymd")
    decimal: str | None = option(None, "decimal mark, where numbers do not tell: point or comma")
    resample: str | None = option(
        None, "plain series: even rows by sum, mean, last or nearest, of the usual step or as 1h:mean"
    )
    past_covariates: list[str] = option([], "further columns, each known up to its row: names, or patterns as text_*")
    known_covariates: list[str] = option([], "further columns that are known in advance: names, or patterns")
    static: str | None = option(None, "table of static covariates of plain series (series form): one row per series")
    static_covariates: list[str] = option(
        [], "columns with one value per series, as store; by default all of static's (series form)"
    )
    nonnegative: bool = option(False, "plain series: no value is below zero, and no forecast either")
    integer: bool = option(False, "plain series: all values are whole numbers, and so are forecasts")
    train_through: str | None = option(None, "last training date; by default after 80 percent of all bar times")
    valid_through: str | None = option(
        None, "last validation date; by default after 10 percent more; the rest is test"
    )
    through: str | None = option(None, "no bar after this date is read, of the market neither; by default all are")
    held_out: list[str] = option([], "tickers that are left out of everything, of the market too")
    horizon: int = option(5, "bars ahead")
    horizons: list[int] | None = option(
        None, "bars ahead whose law a causal LM names; by default 1, 5 and 20, of a plain series every one to horizon"
    )
    stride: int = option(8, "bars between the origins of neighbouring training windows")
    valid_stride: int | None = option(None, "the same between validation windows; by default as in training")
    context_length: int = option(128, "bars the model looks back")
    feature_groups: list[str] | None = option(None, "feature groups of docs/features.md; the default ones if none")
    market: list[str] | None = option(
        None,
        "price files of a universe or index (by default all tickers), of an implied-volatility index, or 'sample'",
    )
    calendar: str | None = option(None, "exchange that dates forecasts, as XNYS or 24/7; by default told by the bars")
    scaling: Literal["robust", "standard", "minmax"] = option("robust", "feature scaling")
    per_ticker: bool = option(False, "scale every ticker by itself")
    augment: list[str] = option(
        [], "random changes of training windows: jitter=, scale=, warp=, crop=, mixup= and a strength"
    )
    context_dropout: float = option(
        0.0, "share of training windows without the market, the implied-volatility index, or both"
    )
    sample_weights: str = option("none", "training windows to draw more often: none, volatility or recency:DAYS")
    bag_years: bool = option(
        False, "train on as many years, drawn with replacement by the seed, for an average of seeds"
    )
    n_bins: int = option(256, "return tokens of the causal LM")
    report_samples: int = option(128, "sampled paths per forecast in report.json")

    def __post_init__(self) -> None:
        if not self.data:
            raise ValueError("data is empty: name a price file, a folder, or 'sample' for the embedded prices")
        check_least(self, 1, "horizon", "stride", "valid_stride", "context_length")
        if self.horizons is not None and (
            min(self.horizons, default=0) != 1 or len({*self.horizons}) < len(self.horizons)
        ):
            raise ValueError(f"horizons={self.horizons}: give distinct steps from 1 on, as 1 5 20")
        if self.n_bins > MOST_BINS:
            raise ValueError(f"n_bins={self.n_bins}: use {MOST_BINS} at most; 64 to 1024 is usual")
        if self.report_samples < 0 or self.report_samples == 1:
            raise ValueError(f"report_samples={self.report_samples}: give 2 or more sampled paths, or 0 for no scores")
        check_dates(self, "train_through", "valid_through", "through")
        parse_augmentations(self.augment)
        if not 0 <= self.context_dropout < 1:
            raise ValueError(f"context_dropout={self.context_dropout}: a share must lie in [0, 1)")
        if parse_weights(self.sample_weights) and self.bag_years:
            raise ValueError(f"bag_years draws windows, and so does sample_weights={self.sample_weights}: give one")

    @property
    def columns(self) -> Columns:
        own = Columns(self.value_column, self.id_column, self.time_column, self.dates, self.decimal)
        return replace(own, static=tuple(self.static_covariates), static_file=self.static, resample=self.resample)


@dataclass
class ModelArguments:
    """A new model, or one to go on from."""

    _argument_group_name = "model"

    head: Literal["causal_lm", "regression", "quantile", "classification"] = option("causal_lm", "what to train")
    model_name_or_path: str | None = option(
        None, "fine-tune this folder or Hub model, with its own processor; else a new model"
    )
    refit_processor: bool = option(
        False, "with model_name_or_path: fit scalers and bins anew, for another market or frequency"
    )
    model_config: dict | str | None = option(
        None, "fields of TsfLlmConfig for a new model: a YAML mapping, or JSON on the command line"
    )

    continue_from: str | None = option(
        None, "go on from this finished folder with new data and keep what it knows: see replay and ewc"
    )
    replay: float = option(0.2, "with continue_from: share of old windows among those of an epoch; 0 for none")
    replay_data: str | None = option(
        None, "with continue_from: where old windows are; else in --data, up to the old training fence"
    )
    ewc: float = option(0.0, "with continue_from: weight of elastic weight consolidation: 100 to 1000 is usual")

    def __post_init__(self) -> None:
        self.model_config = model_fields(self.model_config)
        if self.continue_from is not None and self.model_name_or_path is not None:
            raise ValueError(
                "give continue_from, to go on and keep what was learned, or model_name_or_path, to fine-tune; not both"
            )
        if self.refit_processor and self.model_name_or_path is None:
            raise ValueError("refit_processor fits that of a finished model anew: name it with model_name_or_path")
        if self.continue_from is not None and not Path(self.continue_from).is_dir():
            raise ValueError(f"continue_from={self.continue_from}: no such folder; give one that a training finished")
        if self.continue_from is None and (self.ewc or self.replay_data is not None):
            raise ValueError("replay_data and ewc keep what an old model knows: name it with continue_from")
        if not 0 <= self.replay < 1 or not 0 <= self.ewc < float("inf"):
            raise ValueError(f"replay={self.replay}, ewc={self.ewc}: a share must lie in [0, 1), a weight in [0, inf)")

    @property
    def series_form(self) -> bool:
        """Whether a new model has the series form, whose processor tells of the steps ahead."""
        return bool(self.model_config and self.model_config.get("patch_length"))  # type: ignore[union-attr]

    @property
    def start(self) -> str | None:
        """The folder or Hub model to start from, with its own processor; None for a new model."""
        return self.continue_from or self.model_name_or_path


@dataclass
class Defaults:
    """What all trainings have in common; it goes before the arguments of transformers and trl."""

    lr_scheduler_type: str = option("cosine", "learning-rate schedule")
    save_total_limit: int | None = option(2, "checkpoints to keep")
    remove_unused_columns: bool | None = option(False, "windows come ready")
    dataloader_pin_memory: bool = option(torch.cuda.is_available(), "pin memory for a GPU")
    report_to: str | None = option("none", "none, tensorboard or trackio")
    seed: int = option(0, "seed of weights, order, pairs and sampled paths")

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc] (the arguments of transformers or trl come next)
        check_training(self)  # type: ignore[arg-type]

    def checkpoint_to_resume(self) -> str | None:
        """`--resume_from_checkpoint true` means the last complete one in `output_dir`, if there is one.

        Raises ValueError for a folder that is no complete checkpoint."""
        chosen = str(self.resume_from_checkpoint)
        if chosen in ("true", "True", "last"):
            return last_complete_checkpoint(self.output_dir)
        if chosen in ("None", "false", "False"):
            return None
        if missing := missing_parts(chosen):
            raise ValueError(
                f"resume_from_checkpoint={chosen}: no whole {', '.join(missing)} there; true picks the last complete "
                f"checkpoint of {Path(self.output_dir)}"
            )
        return chosen


@dataclass
class SftArguments(Defaults, TrainingArguments):
    """transformers' TrainingArguments with defaults for series of bars."""

    output_dir: str | None = option("outputs/sft", "where the model and report.json go")
    per_device_train_batch_size: int = option(64, "windows per step and device")
    per_device_eval_batch_size: int = option(128, "windows per validation step and device")
    num_train_epochs: float = option(20, "passes over the training windows")
    learning_rate: float = option(1e-3, "peak learning rate of AdamW")
    weight_decay: float = option(0.05, "weight decay of AdamW")
    warmup_steps: float = option(0.05, "steps of warm-up, or their share if below 1")
    logging_steps: float = option(10, "steps between log lines")
    eval_strategy: str = option("epoch", "when to validate")
    save_strategy: str = option("epoch", "when to save a checkpoint")
    load_best_model_at_end: bool = option(True, "keep the weights of the best validation loss")
    prediction_loss_only: bool = option(True, "validation needs no predictions")
    early_stopping_patience: int = option(4, "validations without a better loss before training stops; 0 for none")
    max_seconds: float = option(
        0, "keep training to about so long: the first steps tell how many of all there is time for; 0 for no limit"
    )
    ema_decay: float = option(0.0, "average the weights over the steps and keep the average: .98 is usual, 0 for none")
    bf16: bool | None = option(  # type: ignore[assignment] (None is False to transformers)
        None, "products in bfloat16; slow on CPUs without instructions for it"
    )
    probe_bf16: bool = option(False, "where bf16 is not given, time it first and use it where it is faster")
    dynamic_lr: bool = option(
        False,
        "follow the trend of the validation loss: the schedule's rate is cut when it rises and "
        "sometimes doubled when it stands still (callbacks.py has the formula)",
    )
    class_weights: str = option("none", "classification: none, balanced, or the weights of down, flat, up, as 2,1,2")
    logging_nan_inf_filter: bool = option(False, "hide NaN in the logged loss; here a NaN stops the training")
    restore_callback_states_from_checkpoint: bool = option(
        True, "a resumed run remembers how long it has been without a better loss"
    )

    def __post_init__(self) -> None:
        if self.fp16 and not torch.accelerator.is_available():
            raise ValueError("fp16=true needs a GPU; on a CPU use bf16=true, or leave both out for float32")
        self.matmul_gflops = self._choose_precision()
        if not torch.accelerator.is_available():
            self.use_cpu = self.use_cpu or bool(self.bf16)  # transformers wants to be told
        super().__post_init__()
        if self.early_stopping_patience < 0:
            raise ValueError(f"early_stopping_patience={self.early_stopping_patience}: give 1 or more, or 0 for none")
        check_least(self, 0, "max_seconds")
        if self.dynamic_lr and self.eval_strategy == "no":
            raise ValueError("dynamic_lr=true follows the validation loss: set eval_strategy to epoch or steps")
        parse_class_weights(self.class_weights)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay={self.ema_decay}: must lie in [0, 1); .98 to .999 is usual, 0 for no average")

    def _choose_precision(self) -> dict[str, float] | None:
        """Decides `bf16` where it is left to the probe; the probe's figures, None if nothing was timed."""
        device, asked = device_here(use_cpu=self.use_cpu), self.probe_bf16 and self.bf16 is None and not self.fp16
        if several_processes():
            self.bf16 = has_bf16(device) if asked else bool(self.bf16)
            return None
        if not asked and not self.bf16:
            self.bf16 = False
            return None
        speeds = matmul_speeds(device)
        if asked:
            self.bf16 = faster_in_bf16(speeds)
            logger.warning(f"{in_words(speeds)}: training in {'bf16' if self.bf16 else 'fp32'}")
        elif speeds["bf16"] < speeds["fp32"]:
            logger.warning(f"bf16=true is obeyed, but {in_words(speeds)}: leave it out")
        return speeds


def check_training(args: TrainingArguments) -> None:
    """Raises ValueError for what transformers takes and then trains nothing with, or stops at halfway."""
    if not args.output_dir:
        raise ValueError("output_dir is empty: name the folder that the model and report.json go to")
    if not 0 < args.learning_rate < float("inf"):
        raise ValueError(f"learning_rate={args.learning_rate}: must be above 0; 1e-3 to 1e-4 is usual")
    check_least(args, 1, "per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps")
    check_least(args, 0, "weight_decay", "max_grad_norm", "warmup_steps")
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"seed={args.seed}: must lie from 0 to {2**32 - 1}")
    if args.max_steps < 1 and args.max_steps != -1:
        raise ValueError(f"max_steps={args.max_steps}: must be 1 or more, or -1 for num_train_epochs")
    if args.max_steps == -1 and not 0 < args.num_train_epochs < float("inf"):
        raise ValueError(f"num_train_epochs={args.num_train_epochs}: must be above 0; a share of one is allowed")
    if args.save_total_limit is not None and args.save_total_limit < 1:
        raise ValueError(f"save_total_limit={args.save_total_limit}: must be 1 or more; leave it out to keep all")
    if missing := sorted(set(args.report_to) - set(get_available_reporting_integrations())):
        raise ValueError(
            f"report_to={', '.join(missing)}: not installed; pip install 'tsf-llm[train]' has tensorboard and trackio"
        )


def model_fields(given: dict | str | None) -> dict | None:
    """`model_config` as a mapping, whether it came from YAML or as JSON on a command line.

    Raises ValueError if it is neither."""
    fields = given
    if isinstance(given, str):
        try:
            fields = json.loads(given)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"model_config={given!r} is no JSON ({error}): write it as '{{\"hidden_size\": 64}}'"
            ) from None
    if fields is not None and not isinstance(fields, dict):
        raise ValueError(f"model_config={given!r}: must be a mapping of fields of TsfLlmConfig, as hidden_size: 64")
    return fields


def check_least(args: Any, least: int, *names: str) -> None:
    """Raises ValueError for a number that is less, or not finite; None is none."""
    for name in names:
        value = getattr(args, name)
        if value is not None and not least <= value < float("inf"):
            raise ValueError(f"{name}={value}: must be {least} or more")


def check_dates(args: Any, *names: str) -> None:
    """Raises ValueError for what is neither a date nor None."""
    for name in names:
        try:
            day_end(getattr(args, name) or "2000-01-01")
        except ValueError:
            raise ValueError(f"{name}={getattr(args, name)}: no date; write it as 2019-12-31") from None
