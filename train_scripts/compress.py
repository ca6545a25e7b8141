"""Smaller and faster copies of a trained model, each measured against it: int8, pruned, narrowed, exported.

    python -m tsf_llm.train_scripts.compress --model outputs/5m --data prices.parquet --output_dir compressed
    python -m tsf_llm.train_scripts.compress --model outputs/5m --data prices.parquet --methods int8 export
    python -m tsf_llm.train_scripts.compress --model outputs/5m --methods prune narrow --sparsity 0.3 0.5 0.7

* `int8`: whole-number products for CPUs (`int8.py`); `int8/` opens with `load_pipeline` and `from_pretrained`.
* `prune`: the smallest weights of the decoder are set to zero, over all layers together (`torch.nn.utils.prune`).
  Zeros take as long as other numbers and as many bytes, until the file is zipped.
* `narrow`: every expert loses its weakest inner units, so matrices become smaller. What is left is an ordinary model.
* `export`: `torch.export` to `export/model.pt2`, any number of windows, which runs without this package and without
  transformers. A head gives its prediction, a causal LM the logits of the next step.

Design choices:
* Each copy is saved, opened again, and only then measured: what is reported is what is on disk.
* Scores are on the dates after those that the model has seen, where the data has them (`out_of_sample` tells).
* Whether a copy forecasts worse is a paired difference of CRPS on the same outcomes, with its interval.
* All copies are timed in turn in one run, see `evaluation/cost.py`.

The output folder holds a folder per copy and `compression.json`; `--markdown FILE` writes the table into a page,
between <!-- compression --> and <!-- /compression -->, or between the markers of another `--marker`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

from ..common.files import claim, write_json
from ..common.pages import fill, write_between
from ..common.parser import option, parse_for, run
from ..common.provenance import provenance
from ..common.tables import Columns, Row, Table, number
from ..quantization_tsf_llm import is_int8
from ..training.arguments import DataArguments
from ..training.compression import (
    BY,
    MANY,
    METHODS,
    ORIGINAL,
    OUTPUTS,
    check_folder,
    copies,
    export_row,
    row,
    save,
    speed,
)
from ..training.data import TrainingData
from ..training.distillation import distance, later_windows, score_returns
from ..training.models import check_start, head_of, load_model


@dataclass
class CompressArguments:
    """The model, and what to make of it."""

    _argument_group_name = "compression"

    model: str = option(help="folder or Hub model, with its processor")
    output_dir: str = option("compressed", "where the copies and compression.json go")
    methods: list[str] = option(list(METHODS), " ".join(METHODS))
    sparsity: list[float] = option([0.3, 0.5], "shares of weights or units that prune and narrow remove")
    repeats: int = option(20, "timed turns of each copy")
    seed: int = option(0, "of the sampled paths")
    markdown: str | None = option(None, "page to write the table into, between its markers")
    marker: str = option("compression", "name of the markers")

    def __post_init__(self) -> None:
        if not self.methods or (unknown := sorted(set(self.methods) - set(METHODS))):
            raise ValueError(f"methods={' '.join(unknown) if self.methods else ''}: choose from {' '.join(METHODS)}")
        if not self.sparsity or not all(0 < share < 1 for share in self.sparsity):
            raise ValueError(f"sparsity={self.sparsity}: shares must lie between 0 and 1")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats}: give at least 1")


# --- report --------------------------------------------------------------------------------------------------------


def main(data_args: DataArguments, args: CompressArguments) -> dict[str, Any]:
    """Makes, saves, opens, measures and tells; returns what `compression.json` holds."""
    check_start(args.model, args.output_dir)
    folder, original = Path(args.output_dir), load_model(args.model).eval()
    check_folder(folder, args.sparsity, data_args)
    page = None if args.markdown is None else Path(args.markdown)
    if page is not None:
        fill(page.read_text(encoding="utf-8"), "", args.marker)  # before the work, not after it
    if is_int8(original):
        raise ValueError(f"{args.model} is int8 already: start from its float32 weights")
    if not original.can_generate():
        data_args = dataclasses.replace(data_args, horizon=original.config.prediction_length)
    logging.disable_progress_bar()  # of saving and loading
    data = TrainingData.read(data_args, args.model, original.config).with_fences_of(original.config)
    test = later_windows(data, original)
    models, folders = {ORIGINAL: original}, {ORIGINAL: args.model}
    for name, made in copies(original, args.methods, args.sparsity):
        folders[name] = str(folder / name)
        if Path(args.model).resolve() == (folder / name).resolve():
            raise ValueError(f"{args.model} would be overwritten by its own copy: choose another output_dir")
        save(made, data.processor, folder / name)
        models[name] = load_model(folders[name]).eval()
    scores = {name: score_returns(data, model, args.seed) for name, model in models.items()}
    rows = {
        name: {
            **row(name, model, folders[name], scores[ORIGINAL], scores[name], args.seed),
            "distance": distance(original, model, test),
        }
        for name, model in models.items()
    }
    program = None
    if "export" in args.methods:
        program = folder / "export" / "model.pt2"
        claim(folder, OUTPUTS, by=BY)
        rows["export"] = {"model": "export", **export_row(original, data, program)}
    timed = speed(models, program, data, args.repeats)
    report = {
        **provenance("compress"),
        "head": head_of(original),
        "horizon": data.args.horizon,
        **data.provenance(original.config),
        "data": data.describe(),
        "seed": args.seed,
        "repeats": args.repeats,
        "threads": torch.get_num_threads(),
        "windows_per_batch": MANY,
        "samples": data.args.report_samples or DataArguments.report_samples,
        "rows": [{**one, **timed[name]} for name, one in rows.items()],
    }
    claim(folder, OUTPUTS, by=BY)
    write_json(report, folder / "compression.json")
    show(report)
    if page is not None:
        write_between(page, markdown(report), args.marker)
    return report


def milliseconds(measure: str) -> Callable[[Row], str]:
    """A time, with its share of the original's."""
    key = f"{measure}_ms"
    return lambda row: f"{row[key]:.2f} ({row[f'{measure}_ratio']:.2f})" if key in row else "-"


COLUMNS: Columns = {
    "model": lambda row: row["model"],
    "parameters": lambda row: f"{row['parameters']:,}",
    "MB": lambda row: number(row.get("bytes"), ".2f", 1e-6),
    "zipped MB": lambda row: number(row.get("zipped_bytes"), ".2f", 1e-6),
    "one window": milliseconds("forward"),
    f"one of {MANY}": milliseconds("batch"),
    "forecast": milliseconds("forecast"),
    "CRPS": lambda row: "-" if row.get("crps") is None else f"{100 * row['crps']:.3f} %",
    "distance": lambda row: number(row.get("distance") or None, ".1e"),
}


def findings(report: dict[str, Any]) -> list[str]:
    """What each copy is, in words."""
    lines = []
    for one in report["rows"][1:]:
        if "max_error" in one:
            lines.append(f"export: by itself it answers as the original does, to {one['max_error']:.1e}")
            continue
        made = f"{100 * one['parameters'] / report['rows'][0]['parameters']:.0f} % of the parameters"
        if one["int8_share"]:
            made = f"{100 * one['int8_share']:.0f} % of the weights are int8"
        elif one["model"].startswith("prune"):
            made = f"{100 * one['zero_share']:.0f} % of the weights are zero"
        told = (one["difference"] or {}).get("verdict", "not scored")
        lines.append(f"{one['model']} ({made}): {told}")
    return lines


def conditions(report: dict[str, Any]) -> str:
    """What the figures hold for."""
    seen = {True: "after those that the model has seen", False: "some of which the model has seen"}
    unknown = "of which it is unknown whether the model has seen them"
    dates = f"{report['horizon']} bars ahead, on dates {seen.get(report['out_of_sample'], unknown)}"
    scored = "Not scored" if report["rows"][0]["crps"] is None else f"CRPS of {dates}, seed {report['seed']}"
    return (
        f"{report['data']}. {scored}. Times: "
        f"median milliseconds of {report['repeats']} turns on a CPU, {report['threads']} thread(s), in brackets as a "
        f"share of the original's: a forward pass over one window, over one of {report['windows_per_batch']} at once, "
        f"and a whole forecast of {report['samples']} paths. Distance to the original's answers on later dates: "
        f"{'mean squared' if report['head'] in ('regression', 'quantile') else 'mean KL in nats'}."
    )


def show(report: dict[str, Any]) -> None:
    console = Console(width=max(Console().width, 120))
    console.print(Table.of(report["rows"], COLUMNS).terminal())
    console.print("\n".join(findings(report)), conditions(report), sep="\n", highlight=False)


def markdown(report: dict[str, Any]) -> str:
    table = Table.of(report["rows"], COLUMNS).markdown()
    return "\n".join([table, "", conditions(report), "", *(f"* {line}" for line in findings(report))])


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
