"""Arguments that the training scripts share. Each default lives here or in `TsfLlmConfig`, and nowhere else."""

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint
from trl import TrlParser

from ..data_prep.augment import parse_augmentations
from ..data_prep.weights import parse_weights


@dataclass
class DataArguments:
    """Which bars, and where the fences stand."""

    _argument_group_name = "data"

    data: str = field(
        default="sample", metadata={"help": "price file, folder, 'sample' for the embedded prices, or .npz"}
    )
    tickers: list[str] | None = field(default=None, metadata={"help": "only these tickers"})
    value_column: str | None = field(
        default=None, metadata={"help": "plain series: column to forecast; by default value, y or the only one"}
    )
    id_column: str | None = field(default=None, metadata={"help": "plain series: column that names them"})
    time_column: str | None = field(default=None, metadata={"help": "plain series: column of times"})
    past_covariates: list[str] = field(
        default_factory=list, metadata={"help": "plain series: further columns, each known up to its row"}
    )
    known_covariates: list[str] = field(
        default_factory=list, metadata={"help": "plain series: further columns that are known in advance"}
    )
    train_through: str | None = field(
        default=None, metadata={"help": "last training date; by default after 80 percent of all bar times"}
    )
    valid_through: str | None = field(
        default=None, metadata={"help": "last validation date; by default after another 10 percent; the rest is test"}
    )
    horizon: int = field(default=5, metadata={"help": "bars ahead"})
    stride: int = field(default=8, metadata={"help": "bars between the origins of neighbouring training windows"})
    context_length: int = field(default=128, metadata={"help": "bars the model looks back"})
    feature_groups: list[str] | None = field(
        default=None, metadata={"help": "feature groups of docs/features.md; those of the default features if none"}
    )
    market: str | None = field(
        default=None,
        metadata={"help": "price file of an index or universe that features read; all tickers of the data if none"},
    )
    calendar: str | None = field(
        default=None, metadata={"help": "exchange that dates forecasts, as XNYS or 24/7; by default told by the bars"}
    )
    scaling: Literal["robust", "standard", "minmax"] = field(default="robust", metadata={"help": "feature scaling"})
    per_ticker: bool = field(default=False, metadata={"help": "scale every ticker by itself"})
    augment: list[str] = field(
        default_factory=list,
        metadata={"help": "random changes of training windows: jitter=, scale=, warp=, crop=, mixup= and a strength"},
    )
    sample_weights: str = field(
        default="none", metadata={"help": "training windows to draw more often: none, volatility or recency:DAYS"}
    )
    n_bins: int = field(default=256, metadata={"help": "return tokens of the causal LM"})
    report_samples: int = field(default=128, metadata={"help": "sampled paths per forecast in report.json"})

    def __post_init__(self) -> None:
        parse_augmentations(self.augment)
        parse_weights(self.sample_weights)


@dataclass
class ModelArguments:
    """A new model, or one to go on from."""

    _argument_group_name = "model"

    head: Literal["causal_lm", "regression", "quantile", "classification"] = field(
        default="causal_lm", metadata={"help": "what to train"}
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "fine-tune this folder or Hub model, with its own processor; else a new model"}
    )
    model_config: dict | str | None = field(
        default=None,
        metadata={"help": "fields of TsfLlmConfig for a new model: a YAML mapping, or JSON on the command line"},
    )

    def __post_init__(self) -> None:
        if isinstance(self.model_config, str):
            self.model_config = json.loads(self.model_config)


@dataclass
class SftArguments(TrainingArguments):
    """transformers' TrainingArguments with defaults for series of bars."""

    output_dir: str | None = field(default="outputs/sft", metadata={"help": "where the model and report.json go"})
    per_device_train_batch_size: int = field(default=64, metadata={"help": "windows per step and device"})
    per_device_eval_batch_size: int = field(default=128, metadata={"help": "windows per validation step and device"})
    num_train_epochs: float = field(default=20, metadata={"help": "passes over the training windows"})
    learning_rate: float = field(default=1e-3, metadata={"help": "peak learning rate of AdamW"})
    weight_decay: float = field(default=0.05, metadata={"help": "weight decay of AdamW"})
    lr_scheduler_type: str = field(default="cosine", metadata={"help": "learning-rate schedule"})
    warmup_steps: float = field(default=0.05, metadata={"help": "steps of warm-up, or their share if below 1"})
    logging_steps: float = field(default=10, metadata={"help": "steps between log lines"})
    eval_strategy: str = field(default="epoch", metadata={"help": "when to validate"})
    save_strategy: str = field(default="epoch", metadata={"help": "when to save a checkpoint"})
    save_total_limit: int | None = field(default=2, metadata={"help": "checkpoints to keep"})
    load_best_model_at_end: bool = field(
        default=True, metadata={"help": "keep the weights of the best validation loss"}
    )
    prediction_loss_only: bool = field(default=True, metadata={"help": "validation needs no predictions"})
    remove_unused_columns: bool | None = field(default=False, metadata={"help": "windows come ready"})
    dataloader_pin_memory: bool = field(default=torch.cuda.is_available(), metadata={"help": "pin memory for a GPU"})
    report_to: str | None = field(default="none", metadata={"help": "none, tensorboard or trackio"})
    seed: int = field(default=0, metadata={"help": "seed of weights, order and sampled paths"})
    early_stopping_patience: int = field(
        default=4, metadata={"help": "validations without a better loss before training stops; 0 switches it off"}
    )

    def checkpoint_to_resume(self) -> str | None:
        """`--resume_from_checkpoint true` means the last one in `output_dir`, if there is one."""
        if self.resume_from_checkpoint in ("true", "True", "last"):
            return get_last_checkpoint(self.output_dir)
        return self.resume_from_checkpoint


class Parser(TrlParser):
    """TrlParser whose complaints are one line: the usage of some 150 options helps nobody."""

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")
