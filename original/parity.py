"""How far this package's numbers lie from those of the original SpaceExploreAI, fixture by fixture.

    python -m tsf_llm.original.parity tests/fixtures/original --write docs/original.md

Each fixture holds weights, inputs and outputs of the original code. Weights go through `convert`, the converted folder
through `from_pretrained`. Errors are the largest absolute difference over the largest absolute value, in float32.
"""

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from ..common.errors import one_line_errors
from ..common.pages import write_between
from ..common.tables import Table
from ..front_end_tsf_llm import Wavelet
from ..modeling_tsf_llm import TsfLlmForPrediction
from .convert import convert

MARKER = "parity"
RUNS = {  # what the fixture calls it -> (input, in words)
    "": ("in.x", "as it is"),
    "pos.": ("in.x", "given positions"),
    "x1.": ("in.x1", "another length"),
    "long.": ("in.x_long", "longer than the rotary table"),
}


def read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights under the original's names, and everything else."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
    return state, {name: value for name, value in tensors.items() if not name.startswith("state.")}


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """max |ours - theirs| / max |theirs|"""
    return ((ours.reshape(theirs.shape) - theirs).abs().max() / theirs.abs().max()).item()


def converted(state: dict[str, torch.Tensor]) -> TsfLlmForPrediction:
    """The weights written to a file, converted, and loaded from the folder that came out."""
    weights = {name: value.contiguous() for name, value in state.items() if "freqs_buffer" not in name}
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "original.safetensors"), Path(folder, "model")
        save_file(weights, source)
        convert(source, out)
        model = TsfLlmForPrediction.from_pretrained(out)
    model.config.max_position_embeddings = 32  # of these tiny models; no weight tells it
    return model


@torch.no_grad()
def model_errors(path: Path) -> dict[str, float]:
    """Errors of prediction and last hidden state, the larger, for each kind of input."""
    state, data = read(path)
    model, errors = converted(state).eval(), {}
    for run, (name, words) in RUNS.items():
        if f"out.{run}prediction" in data:
            out = model(data[name], position_ids=data["in.position_ids"] if run == "pos." else None)
            pairs = [(out.prediction, "prediction"), (out.last_hidden_state, "last_hidden_state")]
            errors[words] = max(relative_error(ours, data[f"out.{run}{key}"]) for ours, key in pairs)
    return errors


def training_error(path: Path) -> float:
    """Error of the loss of one training step; the tests compare every gradient."""
    state, data = read(path)
    loss = converted(state).train()(data["in.x"], labels=data["in.y"]).loss
    return relative_error(loss.detach()[None], data["out.loss"])


@torch.no_grad()
def wavelet_error(path: Path) -> float:
    """Larger error of the long-term and short-term parts over all lengths."""
    _, data = read(path)
    wavelet, errors = Wavelet(), []
    for length in (name.removesuffix(".long") for name in data if name.endswith(".long")):
        for part, name in zip(wavelet.split(data[f"{length}.x"]), ("long", "short"), strict=True):
            errors.append((part - data[f"{length}.{name}"]).abs().max().item())
    return max(errors)


def table(folder: Path) -> str:
    """Markdown: one row per family of fixtures."""
    worst: dict[tuple[str, str], float] = defaultdict(float)
    for path in sorted([*folder.glob("tiny_*.safetensors"), *folder.glob("train_*.safetensors")]):
        family, layout, norm = path.stem.split("_", 2)
        what = f"{'plain' if layout == 'standard' else layout} layout, {norm.rsplit('_q', 1)[0]}"
        errors = model_errors(path) if family == "tiny" else {"loss of a training step": training_error(path)}
        for words, error in errors.items():
            worst[what, words] = max(worst[what, words], error)
    for path in folder.glob("llmps_wavelet_*.safetensors"):
        worst["db4 wavelet, symmetric", "both parts (absolute)"] = wavelet_error(path)
    if not worst:
        raise ValueError(f"{folder} holds no fixtures (tiny_*.safetensors): name the folder that does")
    cells = [(what, words, f"{error:.0e}") for (what, words), error in worst.items()]
    return Table(("what", "input", "largest error"), cells).markdown()


def main() -> None:
    parser = argparse.ArgumentParser(prog="parity", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fixtures", type=Path, help="folder of fixtures, such as tests/fixtures/original")
    parser.add_argument("--write", type=Path, help="page to write the table into, between its markers")
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    text = table(arguments.fixtures)
    print(text)
    if arguments.write is not None:
        write_between(arguments.write, text, MARKER)


if __name__ == "__main__":
    with one_line_errors("parity"):
        main()
