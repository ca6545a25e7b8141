r"""One low-rank adapter per ticker on a frozen base model.

A small run on the embedded prices, in about a minute on two cores; the base is trained first:
    python -m tsf_llm.train_scripts.lora --config train_scripts/configs/debug_lora.yaml --output_dir outputs/lora

Adapters of two tickers for a finished model:
    python -m tsf_llm.train_scripts.lora --config train_scripts/configs/lora.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --tickers AAPL MSFT --output_dir outputs/adapters

One adapter for all series of a new store, on a model that other stores have trained (see docs/series.md):
    python -m tsf_llm.train_scripts.lora --config train_scripts/configs/lora.yaml --model_name_or_path outputs/stores \
        --data new_store.csv --horizon 28 --together new_store --output_dir outputs/adapters

Go on after a crash; finished adapters of the same settings are kept:
    python -m tsf_llm.train_scripts.lora --config ... --output_dir outputs/adapters --resume_from_checkpoint true

The output folder then holds the base with its processor (`from_pretrained` loads it), a folder per ticker with its
adapter and the processor that goes with it, and `report.json`: scores of the base (`before`) and of the adapters
(`after`) on the dates after validation, of all tickers together and of each, with paired differences. The fences are
the base's own unless others are given. Scores choose nothing here, every adapter is saved; `tsf-llm adapt` keeps one
only if it is better on the validation dates. docs/adapters.md shows how to load, swap, mix and merge them.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

from ..bars_tsf_llm import kind_of
from ..common.files import write_json
from ..common.parser import parse_for, run
from ..common.provenance import provenance
from ..training.adapters import (
    LoraArguments,
    check_adapter,
    check_tickers,
    folders_of,
    for_tickers,
    marked,
    pooled_scores,
    resumes,
    run_ticker,
)
from ..training.arguments import DataArguments, SftArguments
from ..training.checkpoints import check_folder, claim_folder
from ..training.data import TrainingData
from ..training.models import load_model, public_name
from ..training.starting_model import BaseArguments, base_model


def main(
    data_args: DataArguments, base_args: BaseArguments, lora_args: LoraArguments, training_args: SftArguments
) -> dict[str, Any]:
    """Trains, scores and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    resumes(training_args)  # refuses now what it would refuse after the base
    if lora_args.together is not None and data_args.per_ticker:
        raise ValueError(
            f"together={lora_args.together}: scalers of one ticker do not go with all; leave per_ticker out"
        )
    check_tickers(data_args)
    folder = Path(str(training_args.output_dir))
    check_folder(folder, data_args.data, data_args.market)
    everything = dataclasses.replace(data_args, tickers=None)
    name = base_model(base_args, everything, folder, seed=training_args.seed)
    base = load_model(name)
    data = TrainingData.read(everything, name, base.config).with_fences_of(base.config)
    tickers = data_args.tickers or list(data.bars[kind_of(data.bars).id].unique())
    whose = {ticker: [ticker] for ticker in tickers} if lora_args.together is None else {lora_args.together: tickers}
    folders = folders_of(list(whose), folder)
    for adapter in folders.values():
        check_adapter(adapter)
    parts = {name: for_tickers(data, those) for name, those in whose.items()}
    if training_args.should_save and Path(name).resolve() != folder.resolve():
        claim_folder(folder)
        base.save_pretrained(folder)
        data.processor.save_pretrained(folder)

    link = str(folder.resolve()) if Path(name).is_dir() else name  # peft wants a path that holds from any directory
    runs = {
        name: run_ticker(base, part, lora_args, training_args, ticker=name, folder=folders[name], link=link)
        for name, part in parts.items()
    }
    report: dict[str, Any] = {
        **provenance("lora"),
        "base_model": public_name(name),
        "parameters": base.num_parameters(),
        **data.provenance(marked(base.config, data)),
        "lora": dataclasses.asdict(lora_args),
        "per_ticker": data_args.per_ticker,
        "seed": training_args.seed,
        **pooled_scores(list(runs.values()), training_args.seed),
        "tickers": {ticker: run.report for ticker, run in runs.items()},
        "seconds": round(time.perf_counter() - started, 1),
    }
    if training_args.should_save:
        write_json(report, folder / "report.json")
    return report


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
