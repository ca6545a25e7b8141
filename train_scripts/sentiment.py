r"""Fine-tunes a text classifier of financial sentiment: negative, neutral, positive.

    python -m tsf_llm.train_scripts.sentiment --config train_scripts/configs/debug_sentiment.yaml \
        --data labelled.csv --encoder FOLDER_OR_NAME --output_dir outputs/sentiment

`--data` is CSV or parquet with the columns text and label. `--encoder` is any encoder that
AutoModelForSequenceClassification loads, with its tokenizer.

Design choices:
- Three parts, stratified by label: training, validation (which picks the weights) and test (which only the report
  sees). Texts that are equal but for case and blanks are one text; with two labels they are refused.
- A training text that is nearly a validation or test text is left out, or these would test memory. `report.json` has
  the number.
- `--lora_r 8` trains low-rank adapters (peft) and merges them: what is saved is a classifier as any other.
- The loss weighs classes by the inverse of their share, so that rare ones count.
- Beside the scores stands what the commonest label of training would score. Intervals are bootstraps over test texts.

The output folder then holds the classifier (safetensors) with its tokenizer, and `report.json`. The classifier goes
into `data_prep/text.py --sentiment`.
"""

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    set_seed,
)

from ..common.files import write_json
from ..common.parser import option, parse_for, run
from ..common.provenance import provenance
from ..training.checkpoints import check_folder
from ..training.sentiment import (
    LABELS,
    SentimentArguments,
    WeightedTrainer,
    adapted,
    inverse_shares,
    predict,
    read_labelled,
    scores,
    split,
    tokenized,
    without_near_duplicates,
)
from ..training.trainer import resumable


@dataclass
class TextArguments:
    """Which texts, which encoder."""

    _argument_group_name = "text"

    data: str = option("", "CSV or parquet with the columns text and label")
    encoder: str = option("", "folder or name of a pretrained encoder")
    valid_share: float = option(0.1, "share of the texts for validation")
    test_share: float = option(0.2, "share of the texts for the report")
    max_tokens: int = option(128, "longest text; the rest is cut")
    split_seed: int | None = option(None, "of the three parts; by default that of the training")

    def __post_init__(self) -> None:
        for name in ("data", "encoder"):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing: {self.__dataclass_fields__[name].metadata['help']}")
        if not (self.valid_share > 0 and self.test_share > 0 and self.valid_share + self.test_share < 1):
            raise ValueError(f"valid_share={self.valid_share}, test_share={self.test_share}: leave some for training")


def main(text_args: TextArguments, training_args: SentimentArguments) -> dict[str, Any]:
    """Reads, splits, trains, scores and saves; returns what `report.json` holds."""
    return train(text_args, training_args)[0]


def train(text_args: TextArguments, training_args: SentimentArguments) -> tuple[dict[str, Any], pd.DataFrame]:
    """As `main`; and the test texts with their labels and guesses."""
    started = time.perf_counter()
    check_folder(training_args.output_dir, text_args.data, text_args.encoder)
    set_seed(training_args.seed)
    frame = read_labelled(text_args.data)
    split_seed = training_args.seed if text_args.split_seed is None else text_args.split_seed
    whole = split(frame, text_args.valid_share, text_args.test_share, split_seed)
    parts = without_near_duplicates(whole)
    tokenizer = AutoTokenizer.from_pretrained(text_args.encoder)
    model = AutoModelForSequenceClassification.from_pretrained(
        text_args.encoder,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
        ignore_mismatched_sizes=True,
        dtype=torch.float32,
    )
    model = adapted(model, training_args.lora_r) if training_args.lora_r else model
    max_tokens = min(text_args.max_tokens, getattr(model.config, "max_position_embeddings", text_args.max_tokens))
    tokens = {name: tokenized(part, tokenizer, max_tokens) for name, part in parts.items()}
    stops = training_args.early_stopping_patience and training_args.load_best_model_at_end
    trainer = WeightedTrainer(
        model=model,
        args=training_args,
        train_dataset=tokens["train"],
        eval_dataset=tokens["valid"],
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        weights=inverse_shares(parts["train"]["label"]) if training_args.class_weights == "balanced" else None,
        callbacks=[EarlyStoppingCallback(training_args.early_stopping_patience)] if stops else [],
    )
    with resumable(trainer, training_args) as checkpoint:
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.model = trainer.model.merge_and_unload() if training_args.lora_r else trainer.model
        trainer.save_model()
    (Path(training_args.output_dir) / "training_args.bin").unlink(missing_ok=True)  # a pickle; report.json says it all
    truth, guess = parts["test"]["label"].to_numpy(), predict(trainer, tokens["test"])
    commonest = parts["train"]["label"].mode()[0]
    report = {
        **provenance("sentiment"),
        "encoder": Path(text_args.encoder).name,
        "data": Path(text_args.data).name,
        "texts": {name: part["label"].value_counts().to_dict() for name, part in parts.items()},
        "near_duplicates_left_out": {name: len(whole[name]) - len(part) for name, part in parts.items()},
        "seed": training_args.seed,
        "lora_r": training_args.lora_r,
        "steps": trainer.state.global_step,
        "valid_loss": trainer.evaluate()["eval_loss"],
        "test": scores(truth, guess, seed=training_args.seed),
        "majority_baseline": {
            "label": commonest,
            **scores(truth, np.full(len(truth), commonest), seed=training_args.seed),
        },
        "seconds": round(time.perf_counter() - started, 1),
    }
    if trainer.is_world_process_zero():
        write_json(report, Path(training_args.output_dir) / "report.json")
    return report, parts["test"].assign(guess=guess)


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
