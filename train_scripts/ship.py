r"""Puts a trained model, and a small one beside it, where a clone of this repository has them: its root and `mini/`.

    python -m tsf_llm.benchmarks.skill --models outputs/27m outputs/mini --data us_daily.parquet --json skill.json
    python -m tsf_llm.train_scripts.ship --model outputs/27m --mini outputs/mini --results skill.json

It copies weights, settings, processor, logs and results, and writes the head of README.md and README.zh.md from them.
Then commit, and `push --model .` puts all of it on the Hub.

Design choices:
* The weights at the root are stored in bfloat16 and computed with in float32 (`dtype` of their config): half the
  bytes, and no CPU must know bfloat16. Those of `mini/` stay float32.
* What was rounded is opened again and must say what the original says, on the embedded sample: see `TOLERANCE`.
* Everything is written and checked in a folder of its own first; then files take their places. Code is not copied: the
  root has it, and `mini/` uses that of the root.
"""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..common.files import write_json, write_text
from ..common.parser import option, parse_for, run
from ..common.reading import read_json, weight_files
from ..data_prep.sources import read_bars
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..publishing.checkout import MINI, is_checkout
from ..publishing.front_page import LARGE, RESULTS, front_pages, read_results
from ..training.models import ROOT, load_model, load_processor

SIZES = {"model": (26_000_000, 28_000_000), MINI: (100_000, 1_000_000)}  # parameters
TOLERANCE = (0.002, 0.02)  # of the distance of distribution functions (Kolmogorov's): mean, and 99 % of forecasts
ORIGINS = 40  # of each ticker of the sample, the last ones
BESIDE = ("trials.jsonl", "looks.jsonl")  # logs that go along
ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/[\w.+-]+)+/([\w.+-]+)")  # a path of this machine, and its last name


@dataclass(frozen=True)
class ShipArguments:
    """What is shipped, and where."""

    model: str = option(help="folder of the trained model, 27M parameters")
    mini: str | None = option(None, "folder of the small one, for mini/; by default that stays as it is")
    results: str | None = option(None, "what `benchmarks.skill` found of --model and --mini, in this order")
    root: str = option(str(ROOT), "the checkout")

    def __post_init__(self) -> None:
        if not is_checkout(Path(self.root)):
            raise ValueError(f"root={self.root} is no checkout of this repository: clone it")


def main(args: ShipArguments) -> None:
    """Ships what the command line asks for, of the sizes that this repository has."""
    ship(args, SIZES)


def ship(args: ShipArguments, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Stages both models, checks them, puts them in place, and writes the front pages.

    Raises:
        ValueError: a model of another size, without its dates, that does not fit its processor, or that says something
            else once it is rounded. Nothing is changed then.
    """
    root = Path(args.root)
    sources = {"model": args.model} | ({MINI: args.mini} if args.mini else {})
    with tempfile.TemporaryDirectory(dir=root, prefix=".ship.") as temporary:
        for name, source in sources.items():
            told = stage(Path(source), Path(temporary) / name, half=name == "model", between=sizes[name])
            print(f"{name}: {told}")
        small = Path(temporary) / MINI if args.mini else root / MINI
        folders = {LARGE: Path(temporary) / "model"} | ({MINI: small} if small.is_dir() else {})
        results = read_results(Path(args.results), folders) if args.results else None
        pages = front_pages(root, folders, results)
        for name in sources:
            place(Path(temporary) / name, root / ("" if name == "model" else name))
    for name, page in pages.items():
        write_text(page, root / name)
    (root / RESULTS).unlink(missing_ok=True)  # of the weights that were there
    if results is not None:
        write_json(without_paths(results), root / RESULTS)


def opened(folder: Path) -> TsfLlmPipeline:
    return TsfLlmPipeline(model=load_model(str(folder)), processor=load_processor(str(folder)))


def stage(source: Path, target: Path, *, half: bool, between: tuple[int, int]) -> str:
    """Writes the folder of a model as it is shipped, without code, and returns what it is, in words."""
    if not source.is_dir():
        raise ValueError(f"{source} is no folder: name one that training wrote")
    pipe = opened(source)
    model, processor = pipe.model, pipe.processor
    parameters = model.num_parameters()
    if not between[0] <= parameters <= between[1]:
        raise ValueError(f"{source} has {parameters:,} parameters: {between[0]:,} to {between[1]:,} are shipped here")
    if not model.can_generate() or model.config.trained_through is None or processor.fitted_through is None:
        raise ValueError(f"{source} is no causal LM that records trained_through and fitted_through: train it here")
    for part in (model, processor):
        part.save_pretrained(target)
    for path in target.glob("*.py"):
        path.unlink()
    for path in target.glob("*.json"):
        write_json(without_paths(read_json(path)), path)
    for name in BESIDE:
        if (source / name).is_file():
            lines = (source / name).read_text(encoding="utf-8").splitlines()
            told = [json.dumps(without_paths(json.loads(line))) for line in lines]
            write_text("".join(f"{line}\n" for line in told), target / name)
    for path in weight_files(target).values():
        path.chmod(0o644)
    if half:
        round_weights(target)
    apart = distance(pipe, opened(target))
    mean, most = float(apart.mean()), float(apart.quantile(0.99))
    if mean > TOLERANCE[0] or most > TOLERANCE[1]:
        raise ValueError(
            f"{source}: once stored, its distributions differ by {mean:.4f} on average and {most:.4f} in one of 100; "
            f"{TOLERANCE[0]} and {TOLERANCE[1]} are allowed: train it again, in bfloat16 at the end"
        )
    size = sum(path.stat().st_size for path in weight_files(target).values())
    told = f"by {mean:.5f} on average, {most:.5f} in one of 100, {apart.max():.5f} at most"
    return f"{parameters:,} parameters, {size / 1e6:.1f} MB; stored and opened again, its distributions differ {told}"


def round_weights(folder: Path) -> None:
    """The weights of a folder in bfloat16; whole numbers stay. `dtype` of the config says that float32 computes."""
    for path in weight_files(folder).values():
        weights = {
            name: weight.bfloat16() if weight.is_floating_point() else weight
            for name, weight in load_file(path).items()
        }
        save_file(weights, path, metadata={"format": "pt"})
        path.chmod(0o644)
    config = read_json(folder / "config.json")
    write_json(config | {"dtype": "float32"}, folder / "config.json")


def distance(one: TsfLlmPipeline, other: TsfLlmPipeline) -> torch.Tensor:
    """How far the distribution functions of two models lie apart, for each law of each forecast of the sample."""
    series = one.processor.encode(read_bars("sample"))
    batch = one.processor.batch([(each, each.origins()[-ORIGINS:]) for each in series])
    inputs = {name: batch[name] for name in ("input_ids", "past_values", "attention_mask")}
    laws = zip(_laws(one.model, inputs), _laws(other.model, inputs), strict=True)
    return torch.cat([(a - b).abs().amax(-1).flatten() for a, b in laws])


@torch.inference_mode()
def _laws(model: Any, inputs: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Distribution functions over the bins at the last bar: of the next return `[B,V]`, of the horizons `[B,H,n]`."""
    outputs = model(**inputs)
    logits = [one for one in (outputs.logits, outputs.get("law_logits")) if one is not None]
    return [one[:, -1].float().softmax(-1).cumsum(-1) for one in logits]


def without_paths(content: Any) -> Any:
    """The same JSON, with every absolute path in its texts cut down to the last name.

    >>> without_paths({"a": ["/home/me/prices.csv: AAPL", 1]})
    {'a': ['prices.csv: AAPL', 1]}
    """
    return json.loads(ABSOLUTE.sub(r"\1", json.dumps(content)))


def place(staged: Path, target: Path) -> None:
    """Every staged file takes its place; settings first, weights last. Shards of an earlier one are removed."""
    target.mkdir(exist_ok=True)
    files = sorted(staged.iterdir(), key=lambda path: (path.suffix == ".safetensors", path.name))
    for path in files:
        path.replace(target / path.name)
    for path in target.glob("model*.safetensors*"):
        if path.name not in {one.name for one in files}:
            path.unlink()


parse = partial(parse_for, main)

if __name__ == "__main__":
    run(main)
