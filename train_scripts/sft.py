r"""Supervised training of TSF-LLM: a causal LM over return tokens, or a head that predicts all steps at once.

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

Classes instead of numbers: down, flat, up, the rare ones weighed as much as the common one:
    python -m tsf_llm.train_scripts.sft --config train_scripts/configs/debug_sft.yaml --head classification \
        --class_weights balanced --output_dir outputs/classes

Go on after a crash, from the last complete checkpoint; or fine-tune a finished model on other prices:
    python -m tsf_llm.train_scripts.sft --config ... --output_dir outputs/27m --resume_from_checkpoint true
    python -m tsf_llm.train_scripts.sft --model_name_or_path outputs/27m --data more.csv --output_dir outputs/more

Another market or frequency, as hourly bars: the shipped weights go on, scalers and bins are fitted on your bars:
    python -m tsf_llm.train_scripts.sft --model_name_or_path . --refit_processor true --data hourly.csv \
        --learning_rate 1e-4 --num_train_epochs 1 --output_dir outputs/hourly

New bars have come (`prices.parquet` has them at its end): learn them and keep what was learned before:
    python -m tsf_llm.train_scripts.sft --continue_from outputs/27m --data prices.parquet --replay 0.3 --ewc 1 \
        --train_through 2020-12-31 --valid_through 2021-06-30 --output_dir outputs/27m-2020

Watch it: losses, learning rate, balance and load of the experts:
    python -m tsf_llm.train_scripts.sft --config ... --report_to tensorboard --output_dir outputs/27m
    tensorboard --logdir outputs/27m

The original's published sequences, whose inputs contain future returns (docs/leak.md), on its converted weights:
    python -m tsf_llm.train_scripts.sft --data FOLDER_OF_NPZ --head regression --model_name_or_path converted

The output folder then holds the model with its processor (`from_pretrained` loads it), `report.json` with the scores
on dates after validation, before and after training, beside naive baselines, and `loss.png`.
docs/training.md says more.
"""

from functools import partial
from typing import Any

from ..common.parser import parse_for, run
from ..original.sequences import sequence_files
from ..original.training import train_on_sequences
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.supervised import train


def main(data_args: DataArguments, model_args: ModelArguments, training_args: SftArguments) -> dict[str, Any]:
    """Trains on prices, or on the original's sequences; returns what `report.json` holds."""
    run = train_on_sequences if sequence_files(data_args.data) else train
    return run(data_args, model_args, training_args)


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
