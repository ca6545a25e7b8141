r"""One low-rank adapter per ticker on a frozen base model.

A small run on the embedded prices, in about a minute on two cores; the base is trained first:
    python -m tsf_llm.train_scripts.lora --config train_scripts/configs/debug_lora.yaml --output_dir outputs/lora

Adapters of two tickers for a finished model:
    python -m tsf_llm.train_scripts.lora --config train_scripts/configs/lora.yaml --model_name_or_path outputs/27m \
        --data prices.parquet --tickers AAPL MSFT --output_dir outputs/adapters

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..bars_tsf_llm import kind_of
from ..common.errors import one_line_errors
from ..common.files import write_json
from ..common.parser import Parser
from ..common.provenance import provenance
from ..data_prep.prepare import is_prepared
from ..data_prep.sources import read_data
from ..evaluation.walk_forward import WalkForward, pool
from ..training.adapters import (
    LoraArguments,
    adapter_name,
    attach,
    compare,
    facts,
    for_ticker,
    marked,
    merged,
    naming,
    read_facts,
    read_for_base,
    resumes,
    same_run,
    save_adapter,
    score,
    train_adapter,
    with_fences_of,
    with_own_scalers,
)
from ..training.arguments import DataArguments, SftArguments
from ..training.data import TrainingData
from ..training.models import Model, load_model
from ..training.starting_model import BaseArguments, base_model
from ..training.trainer import leave_group

RESERVED = ("base", "checkpoints")  # what else lies in the output folder


@dataclass(frozen=True)
class TickerRun:
    """One ticker: its part of the report, and its test forecasts by the base and with the adapter, if asked for."""

    report: dict[str, Any]
    before: WalkForward | None
    after: WalkForward | None


def main(
    data_args: DataArguments, base_args: BaseArguments, lora_args: LoraArguments, training_args: SftArguments
) -> dict[str, Any]:
    """Trains, scores and saves; returns what `report.json` holds."""
    started = time.perf_counter()
    resumes(training_args)  # refuses now what it would refuse after the base
    check_tickers(data_args)
    folder = Path(str(training_args.output_dir))
    name = base_model(base_args, dataclasses.replace(data_args, tickers=None), folder, seed=training_args.seed)
    base = load_model(name)
    data = with_fences_of(read_for_base(data_args, name, base.config), base.config)
    tickers = data_args.tickers or list(data.bars[kind_of(data.bars).id].unique())
    folders = folders_of(tickers, folder)
    parts = {ticker: for_ticker(data, ticker) for ticker in tickers}
    if training_args.should_save and Path(name).resolve() != folder.resolve():
        base.save_pretrained(folder)
        data.processor.save_pretrained(folder)

    link = str(folder.resolve()) if Path(name).is_dir() else name  # peft wants a path that holds from any directory
    runs = {
        ticker: run_ticker(base, part, lora_args, training_args, ticker=ticker, folder=folders[ticker], link=link)
        for ticker, part in parts.items()
    }
    report: dict[str, Any] = {
        **provenance(),
        "base_model": Path(name).name if Path(name).is_dir() else name,
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


def check_tickers(data_args: DataArguments) -> None:
    """Refuses an unknown ticker before a base is trained for nothing; a prepared folder is asked later."""
    if data_args.tickers and not is_prepared(data_args.data):
        covariates = [*data_args.past_covariates, *data_args.known_covariates]
        read_data(data_args.data, data_args.tickers, columns=data_args.columns, covariates=covariates)


def folders_of(tickers: list[str], folder: Path) -> dict[str, Path]:
    """Where each ticker's adapter goes.

    Raises:
        ValueError: if two tickers, or a ticker and something else, want one folder.
    """
    names = [adapter_name(ticker) for ticker in tickers]
    taken = [name for name in names if names.count(name) > 1 or name in RESERVED]
    if taken:
        raise ValueError(
            f"tickers {tickers}: folder {taken[0]} is wanted twice; train these in separate output folders"
        )
    return {ticker: folder / name for ticker, name in zip(tickers, names, strict=True)}


def run_ticker(
    base: Model,
    data: TrainingData,
    lora_args: LoraArguments,
    training_args: SftArguments,
    *,
    ticker: str,
    folder: Path,
    link: str,
) -> TickerRun:
    """Scores the base, trains an adapter (or takes the finished one when resuming), scores it, saves it.

    Raises:
        ValueError: if the ticker has too few bars, naming it.
    """
    seed, scored = training_args.seed, data.args.report_samples > 0
    with naming(ticker):
        own = with_own_scalers(data, ticker) if data.args.per_ticker else data
        before = data.walk_forward(base, seed=seed) if scored else None
        about = facts(base, own, lora_args, training_args, ticker=ticker)
        if resumes(training_args) and same_run(folder, about):
            model, training = attach(base, folder), read_facts(folder)["training"]
        else:
            work = folder.parent / "checkpoints" / folder.name
            model, training = train_adapter(base, own, lora_args, training_args, about=about, work=work)
            if training_args.should_save:
                save_adapter(model, own.processor, folder, {**about, "training": training}, base_model=link)
    after = own.walk_forward(merged(model), seed=seed) if scored else None
    model.unload()  # the base is the base again
    return TickerRun({"folder": folder.name, **training, **scores(before, after, seed)}, before, after)


def scores(before: WalkForward | None, after: WalkForward | None, seed: int) -> dict[str, Any]:
    """The model's rows without and with the adapter, and their paired difference."""
    if before is None or after is None:
        return {"before": {}, "after": {}}
    rows = {"before": score(before, seed)["model"], "after": score(after, seed)["model"]}
    return {**rows, **compare(before, after, seed)}


def pooled_scores(runs: list[TickerRun], seed: int) -> dict[str, Any]:
    """All tickers together, beside the baselines."""
    befores = [run.before for run in runs if run.before is not None]
    afters = [run.after for run in runs if run.after is not None]
    if not befores:
        return scores(None, None, seed)
    before, after = pool(befores), pool(afters)
    baselines = {name: row for name, row in score(after, seed).items() if name != "model"}
    verdicts = {name: answer["verdict"] for name, answer in after.verdicts(seed).items()}
    return {**scores(before, after, seed), "baselines": baselines, "verdicts": verdicts}


def parse(
    arguments: list[str] | None = None,
) -> tuple[DataArguments, BaseArguments, LoraArguments, SftArguments]:
    groups = (DataArguments, BaseArguments, LoraArguments, SftArguments)
    return Parser(groups, prog="lora", description=__doc__).parse_args_and_config(arguments)


if __name__ == "__main__":
    with one_line_errors("lora"):
        main(*parse())
        leave_group()
