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

import copy
import dataclasses
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune
from transformers.utils import logging

from ..common.errors import one_line_errors
from ..common.files import (
    WRITTEN,
    adopt,
    check_apart,
    check_free,
    check_ours,
    claim,
    has_keys,
    replace_folder,
    write_json,
    write_text,
)
from ..common.parser import Parser
from ..common.provenance import provenance
from ..evaluation.cost import Task, forecast_task, forward_task, last_windows, latencies, weight_bytes, weight_files
from ..modeling_tsf_llm import TsfLlmExperts, TsfLlmMLP
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from ..quantization_tsf_llm import int8_share, is_int8, to_int8
from ..training.arguments import DataArguments
from ..training.data import TrainingData
from ..training.models import Model, check_start, load_model
from .distill import Scores, against, distance, head_of, later_windows, read_for_teacher, score_returns

METHODS = ("int8", "prune", "narrow", "export")
BY = "compress"
OUTPUTS = ("compression.json", "export/model.pt2")  # beside the folders of the copies
MODEL_OUTPUTS = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("processor_config.json", "tokenizer_config.json", "*_tsf_llm.py"),
)
MANY = 32  # windows of a full batch
ORIGINAL = "original"


@dataclass
class CompressArguments:
    """The model, and what to make of it."""

    _argument_group_name = "compression"

    model: str = field(metadata={"help": "folder or Hub model, with its processor"})
    output_dir: str = field(default="compressed", metadata={"help": "where the copies and compression.json go"})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": " ".join(METHODS)})
    sparsity: list[float] = field(
        default_factory=lambda: [0.3, 0.5],
        metadata={"help": "shares of weights or units that prune and narrow remove"},
    )
    repeats: int = field(default=20, metadata={"help": "timed turns of each copy"})
    seed: int = field(default=0, metadata={"help": "of the sampled paths"})
    markdown: str | None = field(default=None, metadata={"help": "page to write the table into, between its markers"})
    marker: str = field(default="compression", metadata={"help": "name of the markers"})

    def __post_init__(self) -> None:
        if not self.methods or (unknown := sorted(set(self.methods) - set(METHODS))):
            raise ValueError(f"methods={' '.join(unknown) if self.methods else ''}: choose from {' '.join(METHODS)}")
        if not self.sparsity or not all(0 < share < 1 for share in self.sparsity):
            raise ValueError(f"sparsity={self.sparsity}: shares must lie between 0 and 1")
        if self.repeats < 1:
            raise ValueError(f"repeats={self.repeats}: give at least 1")


# --- copies --------------------------------------------------------------------------------------------------------


def decoder_weights(model: Model) -> list[tuple[nn.Module, str]]:
    """The matrices of the decoder: Linear layers and stacked experts. Routers are no Linear layers and stay whole."""
    names = {nn.Linear: ("weight",), TsfLlmExperts: ("gate_up_proj", "down_proj")}
    modules = [module for layer in model.model.layers for module in layer.modules()]
    return [(module, name) for module in modules for name in names.get(type(module), ())]


def pruned(model: Model, share: float) -> Model:
    """A copy whose smallest decoder weights, `share` of them over all layers together, are zero."""
    model = copy.deepcopy(model)
    weights = decoder_weights(model)
    prune.global_unstructured(weights, pruning_method=prune.L1Unstructured, amount=share)
    for module, name in weights:
        prune.remove(module, name)
    return model


def zero_share(model: Model) -> float:
    """Share of all weights that are zero."""
    return sum(int((p == 0).sum()) for p in model.parameters()) / sum(p.numel() for p in model.parameters())


def narrowed(model: Model, share: float) -> Model:
    """A copy whose experts, routed and shared, have lost the `share` of their inner units that weigh least.

    A unit weighs the product of the norms of its gate, up and down weights: it does nothing once one of them is zero.
    """
    config = copy.deepcopy(model.config)
    config.moe_intermediate_size = _rest(config.moe_intermediate_size, share)
    config.shared_expert_intermediate_size = _rest(config.shared_expert_intermediate_size, share)
    weights = model.state_dict()
    for name, module in model.named_modules():
        if isinstance(module, TsfLlmExperts):
            gate, up = module.gate_up_proj.detach().chunk(2, dim=1)  # [E,I,D] each
            down = module.down_proj.detach()  # [E,D,I]
            keep = _strongest(gate.norm(dim=2) * up.norm(dim=2) * down.norm(dim=1), config.moe_intermediate_size)
            gate, up = (one.take_along_dim(keep[:, :, None], dim=1) for one in (gate, up))
            weights[f"{name}.gate_up_proj"] = torch.cat((gate, up), dim=1)
            weights[f"{name}.down_proj"] = down.take_along_dim(keep[:, None, :], dim=2)
        elif isinstance(module, TsfLlmMLP):
            gate, up, down = (one.weight.detach() for one in (module.gate_proj, module.up_proj, module.down_proj))
            weight = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
            keep = _strongest(weight, config.shared_expert_intermediate_size)
            weights[f"{name}.gate_proj.weight"], weights[f"{name}.up_proj.weight"] = gate[keep], up[keep]
            weights[f"{name}.down_proj.weight"] = down[:, keep]
    smaller = type(model)(config)
    smaller.load_state_dict(weights)
    if model.can_generate():
        smaller.generation_config = copy.deepcopy(model.generation_config)  # training leaves another in the config
    return smaller.eval()


def _rest(size: int, share: float) -> int:
    """What is left of `size`, as a multiple of 8: grouped products want rows of whole 16 bytes.

    >>> _rest(352, 0.5), _rest(64, 0.3), _rest(16, 0.9)
    (176, 48, 8)
    """
    return min(size, max(8, 8 * math.ceil(size * (1 - share) / 8)))


def _strongest(weight: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the `count` largest along the last axis, in order."""
    return weight.topk(count, dim=-1).indices.sort(dim=-1).values


def copies(model: Model, args: CompressArguments) -> Iterator[tuple[str, Model]]:
    """Names of folders, and what goes into them."""
    if "int8" in args.methods:
        yield "int8", to_int8(model)
    for method, make in (("prune", pruned), ("narrow", narrowed)):
        if method in args.methods:
            for share in args.sparsity:
                yield f"{method}-{share:g}", make(model, share)


def check_folder(folder: Path, args: CompressArguments, data_args: DataArguments) -> None:
    """Raises ValueError, before any work, if a file of somebody else stands where a copy will, or the report."""
    check_apart(folder, data_args.data, data_args.market)
    without_manifest = not (folder / WRITTEN).is_file() and has_keys(folder / "compression.json", ("rows", "repeats"))
    check_free(folder, OUTPUTS, by=BY, told_by=("compression.json", "rows", "repeats"))
    shares = [f"{method}-{share:g}" for method in ("prune", "narrow") for share in args.sparsity]
    for copy_folder in (folder / name for name in ("int8", *shares)):
        if without_manifest and copy_folder.is_dir():
            adopt(copy_folder, MODEL_OUTPUTS, by=BY)
        check_ours(copy_folder, by=BY)


def save(model: Model, processor: TsfLlmProcessor, folder: Path) -> None:
    """The folder appears whole or not at all."""

    def write(unfinished: Path) -> None:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)

    replace_folder(folder, write, by=BY)


# --- export --------------------------------------------------------------------------------------------------------


class Exportable(nn.Module):
    """Tensors in, one tensor out: a head's prediction, or a causal LM's next-step logits `[B,V]`."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.model.set_experts_implementation("eager")  # in a graph, the grouped one would call transformers

    def forward(self, past_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        if not self.model.can_generate():
            return self.model(past_values=past_values, attention_mask=attention_mask, use_cache=False).prediction
        outputs = self.model.model(past_values=past_values, attention_mask=attention_mask, use_cache=False)
        return self.model.lm_head(outputs.last_hidden_state[:, -1])


@torch.no_grad()
def export(model: Model, inputs: dict[str, torch.Tensor], path: Path) -> None:
    """Writes the program for any number of windows of this length. The example is left out: it would be a pickle."""
    batch = torch.export.Dim("batch", min=1)
    shapes = {name: {0: batch} for name in inputs}
    program = torch.export.export(Exportable(model), (), kwargs=inputs, dynamic_shapes=shapes)
    program.example_inputs = None
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    torch.export.save(program, unfinished)
    unfinished.replace(path)


RUN_ALONE = """
import sys, torch
from safetensors.torch import load_file, save_file
program, given, answered = sys.argv[1:]
answer = torch.export.load(program).module()(**load_file(given))
assert not {"tsf_llm", "transformers"} & set(sys.modules)
save_file({"answer": answer.detach().contiguous()}, answered)
"""


def run_alone(program: Path, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the program answers in another process, which has neither this package nor transformers."""
    with tempfile.TemporaryDirectory() as folder:
        given, answered = (str(Path(folder) / name) for name in ("given.safetensors", "answered.safetensors"))
        save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, given)
        command = [sys.executable, "-c", RUN_ALONE, str(program.resolve()), given, answered]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} does not run by itself: {done.stderr}")
        return load_file(answered)["answer"]


# --- report --------------------------------------------------------------------------------------------------------


def zipped_bytes(model: str | Path) -> int:
    """Bytes of the weight files under zlib, as a zip archive or a compressed download has them."""
    return sum(len(zlib.compress(path.read_bytes())) for path in weight_files(model))


def speed(
    models: dict[str, Model], program: Path | None, data: TrainingData, repeats: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a forward pass over one window, over many (per window), and of a whole forecast; all in turn."""
    pipes = {name: TsfLlmPipeline(model=model, processor=data.processor) for name, model in models.items()}
    one, many = (last_windows(pipes[ORIGINAL], data.series(), count) for count in (1, MANY))
    options = {"horizon": data.args.horizon, "samples": data.args.report_samples or DataArguments.report_samples}
    tasks: dict[str, dict[str, Task]] = {
        "forward": {name: forward_task(pipe, one) for name, pipe in pipes.items()},
        "batch": {name: forward_task(pipe, many) for name, pipe in pipes.items()},
        "forecast": {name: forecast_task(pipe, one, **options) for name, pipe in pipes.items()},
    }
    if program is not None:
        loaded = torch.export.load(program).module()  # written by this run
        for measure, batch in (("forward", one), ("batch", many)):
            inputs = model_inputs(batch)
            tasks[measure]["export"] = torch.inference_mode()(lambda inputs=inputs: loaded(**inputs))
    measured = {measure: latencies(of_measure, repeats=repeats) for measure, of_measure in tasks.items()}
    for result in measured["batch"].values():
        result["ms"] = round(result["ms"] / MANY, 3)
    names = {name for result in measured.values() for name in result}
    return {
        name: {f"{m}_{key}": value for m, result in measured.items() for key, value in result.get(name, {}).items()}
        for name in names
    }


def model_inputs(batch: Any) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("past_values", "attention_mask")}


def row(name: str, model: Model, folder: str | Path, original: Scores, own: Scores, seed: int) -> dict[str, Any]:
    """Size and scores of one copy, and how its CRPS differs from the original's on the same outcomes."""
    scores = own.rows["model"]
    return {
        "model": name,
        "parameters": model.num_parameters(),
        "bytes": weight_bytes(folder),
        "zipped_bytes": zipped_bytes(folder),
        "int8_share": round(int8_share(model), 4),
        "zero_share": round(zero_share(model), 4),
        **{key: scores.get(key) for key in ("crps", "crps_ci95", "coverage_80")},
        "difference": None if name == ORIGINAL else against("the original", own, original, seed) or None,
    }


def main(data_args: DataArguments, args: CompressArguments) -> dict[str, Any]:
    """Makes, saves, opens, measures and tells; returns what `compression.json` holds."""
    check_start(args.model, args.output_dir)
    folder, original = Path(args.output_dir), load_model(args.model).eval()
    check_folder(folder, args, data_args)
    page = None if args.markdown is None else Path(args.markdown)
    if page is not None:
        filled(page.read_text(encoding="utf-8"), "", args.marker)  # before the work, not after it
    if is_int8(original):
        raise ValueError(f"{args.model} is int8 already: start from its float32 weights")
    if not original.can_generate():
        data_args = dataclasses.replace(data_args, horizon=original.config.prediction_length)
    logging.disable_progress_bar()  # of saving and loading
    data = read_for_teacher(data_args, args.model, original)
    test = later_windows(data, original)
    models, folders = {ORIGINAL: original}, {ORIGINAL: args.model}
    for name, made in copies(original, args):
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
        **provenance(),
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
        write_text(filled(page.read_text(encoding="utf-8"), markdown(report), args.marker), page)
    return report


def export_row(model: Model, data: TrainingData, program: Path) -> dict[str, Any]:
    """Exports for two windows, runs in another process on many, and compares with the model."""
    pipe = TsfLlmPipeline(model=model, processor=data.processor)
    two, many = (model_inputs(last_windows(pipe, data.series(), count)) for count in (2, MANY))
    export(model, two, program)
    with torch.inference_mode():
        expected = forward_task(pipe, last_windows(pipe, data.series(), MANY))()
    expected = expected.logits[:, -1] if model.can_generate() else expected.prediction
    error = (run_alone(program, many) - expected).abs().max()
    return {"parameters": model.num_parameters(), "bytes": program.stat().st_size, "max_error": float(error)}


HEADINGS = ("model", "parameters", "MB", "zipped MB", "one window", f"one of {MANY}", "forecast", "CRPS", "distance")


def cells(report: dict[str, Any]) -> list[list[str]]:
    """The rows as text, under `HEADINGS`; times in milliseconds, with the share of the original's time."""

    def size(one: dict[str, Any], key: str) -> str:
        return f"{one[key] / 1e6:.2f}" if key in one else "-"

    def time(one: dict[str, Any], measure: str) -> str:
        return f"{one[f'{measure}_ms']:.2f} ({one[f'{measure}_ratio']:.2f})" if f"{measure}_ms" in one else "-"

    return [
        [
            one["model"],
            f"{one['parameters']:,}",
            *(size(one, key) for key in ("bytes", "zipped_bytes")),
            *(time(one, measure) for measure in ("forward", "batch", "forecast")),
            f"{100 * one['crps']:.3f} %" if one.get("crps") is not None else "-",
            f"{one['distance']:.1e}" if one.get("distance") else "-",
        ]
        for one in report["rows"]
    ]


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
    seen = "after those that the model has seen" if report["out_of_sample"] else "some of which the model has seen"
    dates = f"{report['horizon']} bars ahead, on dates {seen}"
    scored = "Not scored" if report["rows"][0]["crps"] is None else f"CRPS of {dates}, seed {report['seed']}"
    return (
        f"{report['data']}. {scored}. Times: "
        f"median milliseconds of {report['repeats']} turns on a CPU, {report['threads']} thread(s), in brackets as a "
        f"share of the original's: a forward pass over one window, over one of {report['windows_per_batch']} at once, "
        f"and a whole forecast of {report['samples']} paths. Distance to the original's answers on later dates: "
        f"{'mean squared' if report['head'] in ('regression', 'quantile') else 'mean KL in nats'}."
    )


def show(report: dict[str, Any]) -> None:
    table = Table()
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right", no_wrap=True)
    for line in cells(report):
        table.add_row(*line)
    console = Console(width=max(Console().width, 120))
    console.print(table)
    console.print("\n".join(findings(report)), conditions(report), sep="\n", highlight=False)


def markdown(report: dict[str, Any]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *cells(report)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, "", conditions(report), "", *(f"* {line}" for line in findings(report))])


def filled(page: str, text: str, marker: str) -> str:
    """The page with `text` between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    start, end = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {start} ... {end}: add both markers")
    return f"{before}{start}\n{text}\n{end}{after}"


def parse(arguments: list[str] | None = None) -> tuple[DataArguments, CompressArguments]:
    return Parser((DataArguments, CompressArguments), prog="compress", description=__doc__).parse_args_and_config(
        arguments
    )


if __name__ == "__main__":
    with one_line_errors("compress"):
        main(*parse())
