"""Which checkpoints can be resumed from, and what becomes of those that were killed while being written.

Design choices:
* transformers writes a checkpoint file by file, `trainer_state.json` last. One without it, without its optimizer or
  with a torn file would resume from a wrong state or not at all, so it is passed over.
* What was killed while being written, that is all without a whole `trainer_state.json`, is removed by the next run.
  A checkpoint of weights alone (`save_only_model`) is finished, and stays.
* A run resumes only from a checkpoint of the same model, data, fences and features: they are compared by the config
  and processor beside the weights. A run that starts anew moves the checkpoints it finds out of the way.
* Final weights are written beside the output folder's files and moved when all of them are there, `config.json` last:
  without it nothing loads, so a half-written folder is not taken for a finished one.
"""

import errno
import json
import math
import os
import shutil
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..common.files import WRITTEN, adopt, check_apart, check_free, claim, has_keys

logger = logging.get_logger(__name__)
UNFINISHED, EARLIER = ".unfinished", "earlier"
UNCOMPARED = {"transformers_version", "architectures", "auto_map", "custom_pipelines", "use_cache", "dtype"}
UNCOMPARED |= {"eos_token", "eos_token_id"}  # trl wants one, nothing uses it; earlier versions had none
BY = "training"
OUTPUTS = (  # what a training may write, replace or remove in its folder
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json"),
    *("processor_config.json", "tokenizer*.json", "special_tokens_map.json", "vocab*", "merges.txt", "*_tsf_llm.py"),
    *("added_tokens.json", "spiece.model", "sentencepiece.bpe.model"),
    *("adapter/*", "fisher.safetensors", "report.json", "loss.png", "training_args.bin", ".gitignore"),
    *(f"{PREFIX_CHECKPOINT_DIR}-*", UNFINISHED, EARLIER),
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
NEEDED = {  # name of the part: patterns, of which one must be there; the later ones are those of FSDP and DeepSpeed
    "weights": ("*.safetensors", "pytorch_model*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "schedule": ("scheduler.pt",),
    "random state": ("rng_state*.pth",),
    "progress": ("trainer_state.json",),
}


def check_folder(output_dir: str | Path, *sources: Any) -> None:
    """Makes sure, before any work, that a training will replace and remove nothing but what a training wrote.

    `sources` are what is read. A folder without a manifest is of a training if it holds its report or a checkpoint.

    Raises:
        ValueError: a file of somebody else stands in the place of one of `OUTPUTS`, or a source does.
    """
    folder = Path(output_dir)
    check_apart(folder, *sources)
    has_checkpoint = any(has_keys(path / "trainer_state.json", ("global_step",)) for path in checkpoints(folder))
    if not (folder / WRITTEN).is_file() and (
        has_checkpoint or has_keys(folder / "report.json", ("version", "commit"))
    ):
        adopt(folder, OUTPUTS, by=BY)
    check_free(folder, OUTPUTS, by=BY)


def claim_folder(output_dir: str | Path) -> None:
    """The first thing that a training writes; raises ValueError as `check_folder` does."""
    check_folder(output_dir)
    claim(Path(output_dir), OUTPUTS, by=BY)


def missing_parts(checkpoint: str | Path) -> list[str]:
    """What a checkpoint lacks to be resumed from; nothing if it is complete."""
    folder = Path(checkpoint)
    files = {part: [path for one in patterns for path in folder.glob(one)] for part, patterns in NEEDED.items()}
    return [part for part, paths in files.items() if not paths or not all(map(_opens, paths))]


def _opens(path: Path) -> bool:
    """Whether a file is whole, as far as its format tells. Nothing is unpickled."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as tensors:
                tensors.keys()
        elif path.is_file():
            return zipfile.is_zipfile(path)  # torch's format; its table of contents comes last
        return True
    except (OSError, ValueError, SafetensorError):
        return False


def checkpoints(output_dir: str | Path) -> list[Path]:
    """All checkpoint folders, complete or not, first to last."""
    found = [path for path in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    numbered = [path for path in found if path.name.rpartition("-")[2].isdigit()]
    return sorted(numbered, key=step_of)


def step_of(checkpoint: Path) -> int:
    """Optimizer steps taken.

    >>> step_of(Path("outputs/checkpoint-120"))
    120
    """
    return int(checkpoint.name.rpartition("-")[2])


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The last checkpoint that can be resumed from, if there is one."""
    complete = (path for path in reversed(checkpoints(output_dir)) if not missing_parts(path))
    return next(map(str, complete), None)


def remove_unfinished(output_dir: str | Path) -> None:
    """Removes checkpoints that were killed while being written, and what was left of a final save."""
    for path in checkpoints(output_dir):
        if "progress" in missing_parts(path):
            logger.warning(f"{path} was not written to its end: removed")
            shutil.rmtree(path)
    shutil.rmtree(Path(output_dir) / UNFINISHED, ignore_errors=True)


def check_same_training(checkpoint: str | Path, model: PreTrainedModel, processor: Any) -> None:
    """Raises ValueError for a checkpoint of another model, data, fences, features or tokens, naming what differs."""
    with TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        processor.save_pretrained(folder)
        parts = ("config.json", "processor_config.json", "tokenizer_config.json")
        pairs = [(Path(checkpoint) / name, Path(folder) / name) for name in parts]
        pairs = [pair for pair in pairs if all(path.is_file() for path in pair)]
        both = [tuple(json.loads(path.read_text(encoding="utf-8")) for path in pair) for pair in pairs]
    differing = [name for saved, now in both for name in _differing(saved, now)]
    classes = {one.__name__ for one in type(model).__mro__}
    saved_class = next((saved.get("architectures") or [] for saved, _ in both), [])
    if not classes.issuperset(saved_class):
        differing = [f"the class of the model ({saved_class[0]})"]
    if differing:
        raise ValueError(
            f"{checkpoint} is of another training: {', '.join(differing[:8])} differ; give the settings that it was "
            "started with, or another --output_dir"
        )


def _differing(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Names of the fields that differ, nested ones with dots; fields that only one of them has do not count."""
    found = []
    for name in sorted((saved.keys() & now.keys()) - UNCOMPARED):
        if isinstance(saved[name], dict) and isinstance(now[name], dict):
            found += [f"{name}.{inner}" for inner in _differing(saved[name], now[name])]
        elif not _same(saved[name], now[name]):
            found.append(name)
    return found


def _same(one: Any, other: Any) -> bool:
    """Equal, numbers to what another machine may compute."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-12)
    return one == other


def set_aside(output_dir: str | Path) -> None:
    """Moves the checkpoints of an earlier run to `earlier/`: a later resume must not take them for this run's."""
    for path in checkpoints(output_dir):
        target = path.parent / EARLIER / path.name
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        logger.warning(
            f"{path} is of an earlier run, which --resume_from_checkpoint true would have continued: moved to {target}"
        )


def save_whole(trainer: Trainer) -> None:
    """Saves model and processor into the output folder, without the pickle that transformers adds."""
    target = Path(trainer.args.output_dir)
    unfinished = target / UNFINISHED
    trainer.save_model(str(unfinished))
    if not trainer.args.should_save:
        return
    (unfinished / "training_args.bin").unlink(missing_ok=True)  # report.json says it all
    files = [path for path in unfinished.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda one: one == unfinished / "config.json"):
        place = target / path.relative_to(unfinished)
        place.parent.mkdir(exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(unfinished)
    (target / "training_args.bin").unlink(missing_ok=True)  # written again by a push to the Hub


def is_failed_write(error: Exception) -> bool:
    """Whether a disk would not take a file. torch and safetensors have errors of their own for that."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return "inline_container" in str(error) if isinstance(error, RuntimeError) else isinstance(error, SafetensorError)
