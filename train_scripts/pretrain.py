r"""A model to ship, from files to folder: seeds, their average as a teacher, one student, a log of all that was tried.

The small model, on your own daily prices; of a ticker in two files the first one counts:
    python -m tsf_llm.train_scripts.pretrain --config train_scripts/configs/pretrain_mini.yaml \
        --data prices.parquet more.parquet --through 2018-12-31 --held_out GILD HON --output_dir outputs/mini
    make pretrain DATA="prices.parquet more.parquet" CONFIG=pretrain_mini OUT=outputs/mini

No bar after `--through` and none of the tickers of `--held_out` is seen by anything: they are left to score the model
on. The last year up to `--through` is for validation. The same command goes on where it was stopped.

Compare recipes, before you choose one: train to the end of the year before each of these, and score that year:
    ... --years 2010 2012 2014 2016 2018 --output_dir outputs/recipe-a

The output folder holds the model (the student; without context dropout the best seed if its validation loss is less),
`report.json`, and `trials.jsonl` with a line for every run; in `runs/` lie the seeds and the student. With `--years`
it holds `walk_forward.json` and the log. docs/training.md says more.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from transformers.utils import PROCESSOR_NAME

from ..common.files import check_apart, check_free, claim, write_json
from ..common.parser import parse_for, run
from ..common.provenance import provenance
from ..common.reading import read_json
from ..common.tables import Table, number
from ..evaluation.calibration import calibrate
from ..evaluation.trials import NAME
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..training.arguments import ModelArguments, SftArguments
from ..training.checkpoints import check_folder
from ..training.data import TrainingData, files_of
from ..training.models import load_model
from ..training.pretraining import BY, PretrainArguments, PretrainData, Pretraining, Run, fingerprint, publish

WALK = "walk_forward.json"


def main(
    data_args: PretrainData, model_args: ModelArguments, args: PretrainArguments, training_args: SftArguments
) -> dict[str, Any]:
    """Compares a recipe over years, or trains a model to ship; returns what the report holds."""
    if model_args.head != "causal_lm" or model_args.start is not None:
        raise ValueError("pretraining makes new causal models: leave head, model_name_or_path and continue_from out")
    folder = Path(str(training_args.output_dir))
    check_apart(folder, data_args.data, data_args.market)
    check_free(folder, [WALK], by=BY)
    check_folder(folder, *data_args.data, data_args.market)
    return (compare_years if args.years else ship)(data_args, model_args, args, training_args, folder)


def ship(
    data_args: PretrainData,
    model_args: ModelArguments,
    args: PretrainArguments,
    training_args: SftArguments,
    folder: Path,
) -> dict[str, Any]:
    """Seeds, ensemble, student; the better one goes into `folder`."""
    started, log = time.perf_counter(), Path(args.trials_log or folder / NAME)
    data = TrainingData.read(data_args.up_to(str(data_args.through)))
    work = Pretraining(data, model_args, args, training_args, folder / "runs", log)
    seeds = work.seeds()
    ensemble = work.score_ensemble(seeds)
    runs = [work.student(seeds), *seeds]
    able = runs[:1] if data_args.context_dropout else runs  # no seed ever went without its market
    kept = min(able, key=lambda one: one.valid_loss)
    publish(kept, folder)
    model = load_model(folder)
    report: dict[str, Any] = {
        **provenance(BY),
        "head": "causal_lm",
        "parameters": model.num_parameters(),
        **data.provenance(model.config),
        "files": [Path(one).name for one in files_of(data_args)],
        "fingerprint": fingerprint(data),
        "held_out": data_args.held_out,
        "kept": kept.what if kept.what == "student" else f"{kept.what} {kept.seed}",
        "valid_loss": kept.valid_loss,
        "validation": [runs[0].row(), ensemble, *(one.row() for one in seeds)],
        "calibration": _calibrated(folder, data, training_args) if args.calibrate else None,
        "trials": len(log.read_bytes().splitlines()),
        "precision": training_args.mixed_precision.replace("no", "fp32"),
        "matmul_gflops": training_args.matmul_gflops,
        "before": {},
        "after": {},
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_json(report, folder / "report.json")
    _print([_labelled(runs[0]), {"name": "average of seeds", **ensemble}, *map(_labelled, seeds)])
    Console(highlight=False).print(f"Kept: {report['kept']}, in {folder}; {report['trials']} trials in {log}")
    return report


def _calibrated(folder: Path, data: TrainingData, training_args: SftArguments) -> dict[str, Any]:
    """Stores a calibration with the processor, or why there is none; see `tsf-llm calibrate`."""
    model = load_model(folder).to(training_args.device)  # type: ignore[arg-type]
    pipe = TsfLlmPipeline(model=model, processor=data.processor, device=model.device)
    dates = {"start": data.split.train_through + pd.Timedelta(1, "ns"), "end": data.split.valid_through}
    state = calibrate(pipe, data.series, **dates, horizon=data.args.horizon, seed=training_args.seed)
    write_json(read_json(folder / PROCESSOR_NAME) | {"calibration": state}, folder / PROCESSOR_NAME)
    return state


def compare_years(
    data_args: PretrainData,
    model_args: ModelArguments,
    args: PretrainArguments,
    training_args: SftArguments,
    folder: Path,
) -> dict[str, Any]:
    """The recipe on several years, each scored by models that ended before it."""
    assert args.years
    log = Path(args.trials_log or folder / NAME)
    if data_args.train_through is not None or len({*args.years}) < len(args.years):
        raise ValueError("years fix the fences: give each once, and leave train_through out")
    if late := [year for year in args.years if pd.Timestamp(f"{year}-12-31") > pd.Timestamp(data_args.through)]:
        raise ValueError(
            f"years={late[0]}: ends after through={data_args.through}, which nothing may see: leave it out"
        )
    rows: list[dict[str, Any]] = []
    for year in args.years:
        data = TrainingData.read(data_args.up_to(f"{year}-12-31"))
        work = Pretraining(data, model_args, args, training_args, folder / "runs" / str(year), log)
        seeds = work.seeds()
        rows += [{"year": year, **one} for one in (work.score_ensemble(seeds), *(run.row() for run in seeds))]
    report = {**provenance(BY), "years": args.years, "seeds": args.seeds, "mean": _means(rows), "rows": rows}
    claim(folder, [WALK], by=BY)
    write_json(report, folder / WALK)
    _print([{"name": name, "figures": figures} for name, figures in report["mean"].items()])
    return report


def _means(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean figures of each horizon over the years, of single seeds and of their averages."""
    names = {"seed": "one seed", "far seed": "one far seed", "ensemble": "average of seeds"}
    names = {what: name for what, name in names.items() if any(row["what"] == what for row in rows)}
    return {
        name: {
            h: {
                key: float(np.mean([row["figures"][h][key] for row in rows if row["what"] == what]))
                for key in ("crps", "saved", "coverage_80")
            }
            for h in rows[0]["figures"]
        }
        for what, name in names.items()
    }


def _labelled(run: Run) -> dict[str, Any]:
    return {"name": run.what if run.what == "student" else f"{run.what} {run.seed}", **run.row()}


def _print(rows: list[dict[str, Any]]) -> None:
    """Per cent of CRPS saved against a normal law, by horizon."""
    columns = {"CRPS saved": lambda row: row["name"]}
    for h in rows[0]["figures"]:
        columns[f"{h} ahead"] = lambda row, h=h: number(row["figures"][h]["saved"], ".2f", 100) + " %"
    if "valid_loss" in rows[0]:
        columns["loss"] = lambda row: number(row.get("valid_loss"), ".4f")
    Console(highlight=False).print(Table.of(rows, columns).terminal())


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
