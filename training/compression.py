"""Smaller copies of a model: int8, pruned, narrowed; and its program, exported. How large and how fast each is.

Each copy is saved, opened again, and only then measured: what is reported is what is on disk."""

import copy
import math
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from ..common.files import WRITTEN, adopt, check_apart, check_free, check_ours, has_keys, replace_folder
from ..evaluation.cost import Task, contest, forecast_task, forward_task, last_windows, weight_bytes, weights
from ..experts_tsf_llm import TsfLlmExperts, TsfLlmMLP
from ..pipeline_tsf_llm import SERIES_INPUTS, TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from ..products_tsf_llm import TsfLlmLinear
from ..quantization_tsf_llm import int8_share, to_int8
from .arguments import DataArguments
from .data import TrainingData
from .distillation import Scores, against
from .models import Model

METHODS = ("int8", "prune", "narrow", "export")
BY = "compress"
OUTPUTS = ("compression.json", "export/model.pt2")  # beside the folders of the copies
MODEL_OUTPUTS = (
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("processor_config.json", "tokenizer_config.json", "*_tsf_llm.py"),
)
MANY = 32  # windows of a full batch
ORIGINAL = "original"


def decoder_weights(model: Model) -> list[tuple[nn.Module, str]]:
    """The matrices of the decoder: Linear layers and stacked experts. Routers are no Linear layers and stay whole."""
    names = {TsfLlmLinear: ("weight",), TsfLlmExperts: ("gate_up_proj", "down_proj")}
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
    smaller.dates_itself = True  # fewer weights, but none that saw later dates
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


def copies(model: Model, methods: Sequence[str], sparsity: Sequence[float]) -> Iterator[tuple[str, Model]]:
    """Names of folders, and what goes into them."""
    if "int8" in methods:
        yield "int8", to_int8(model)
    for method, make in (("prune", pruned), ("narrow", narrowed)):
        if method in methods:
            for share in sparsity:
                yield f"{method}-{share:g}", make(model, share)


def check_folder(folder: Path, sparsity: Sequence[float], data_args: DataArguments) -> None:
    """Raises ValueError, before any work, if a file of somebody else stands where a copy will, or the report."""
    check_apart(folder, data_args.data, data_args.market)
    without_manifest = not (folder / WRITTEN).is_file() and has_keys(folder / "compression.json", ("rows", "repeats"))
    check_free(folder, OUTPUTS, by=BY, told_by=("compression.json", "rows", "repeats"))
    shares = [f"{method}-{share:g}" for method in ("prune", "narrow") for share in sparsity]
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


class Exportable(nn.Module):
    """Tensors in, one tensor out: a head's prediction, or a causal LM's next-step logits `[B,V]`."""

    def __init__(self, model: Model):
        super().__init__()
        self.model = copy.deepcopy(model).eval()
        self.model.set_experts_implementation("eager")  # in a graph, the grouped one would call transformers

    def forward(
        self,
        past_values: torch.Tensor,
        attention_mask: torch.Tensor,
        past_target: torch.Tensor | None = None,
        season_values: torch.Tensor | None = None,
        ahead_values: torch.Tensor | None = None,
        static_ids: torch.Tensor | None = None,
        zero_level: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if not self.model.can_generate():
            return self.model(
                past_values=past_values,
                attention_mask=attention_mask,
                use_cache=False,
                past_target=past_target,
                season_values=season_values,
                ahead_values=ahead_values,
                static_ids=static_ids,
                zero_level=zero_level,
            ).prediction
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


def zipped_bytes(model: str | Path) -> int:
    """Bytes of the weight files under zlib, as a zip archive or a compressed download has them."""
    return sum(len(zlib.compress(path.read_bytes())) for path in weights(model))


def speed(
    models: dict[str, Model], program: Path | None, data: TrainingData, repeats: int
) -> dict[str, dict[str, Any]]:
    """Milliseconds of a forward pass over one window, over many (per window), and of a whole forecast; all in turn."""
    pipes = {name: TsfLlmPipeline(model=model, processor=data.processor) for name, model in models.items()}
    one, many = (last_windows(pipes[ORIGINAL], data.series, count) for count in (1, MANY))
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
    timed = contest(tasks, repeats=repeats)
    return {name: {**result, "batch_ms": round(result["batch_ms"] / MANY, 3)} for name, result in timed.items()}


def model_inputs(batch: Any) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("past_values", "attention_mask", *SERIES_INPUTS) if name in batch}


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


def export_row(model: Model, data: TrainingData, program: Path) -> dict[str, Any]:
    """Exports for two windows, runs in another process on many, and compares with the model."""
    pipe = TsfLlmPipeline(model=model, processor=data.processor)
    two, many = (model_inputs(last_windows(pipe, data.series, count)) for count in (2, MANY))
    export(model, two, program)
    with torch.inference_mode():
        expected = forward_task(pipe, last_windows(pipe, data.series, MANY))()
    expected = expected.logits[:, -1] if model.can_generate() else expected.prediction
    error = (run_alone(program, many) - expected).abs().max()
    return {"parameters": model.num_parameters(), "bytes": program.stat().st_size, "max_error": float(error)}
