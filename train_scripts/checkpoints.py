"""Which checkpoints can be resumed from, and what becomes of those that were killed while being written.

Design choices:
* transformers writes a checkpoint file by file, `trainer_state.json` last. One without it, without its optimizer or
  with a torn file would resume from a wrong state or not at all, so it is passed over.
* What was killed while being written, that is all without a whole `trainer_state.json`, is removed by the next run.
  A checkpoint of weights alone (`save_only_model`) is finished, and stays.
* Final weights are written beside the output folder's files and moved when all of them are there, `config.json` last:
  without it nothing loads, so a half-written folder is not taken for a finished one.
"""

import errno
import json
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers import Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

logger = logging.get_logger(__name__)
UNFINISHED = ".unfinished"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
NEEDED = {  # name of the part: patterns, of which one must be there; the later ones are those of FSDP and DeepSpeed
    "weights": ("*.safetensors", "pytorch_model*"),
    "optimizer": ("optimizer.pt", "optimizer.bin", "optimizer_*", "global_step*"),
    "schedule": ("scheduler.pt",),
    "random state": ("rng_state*.pth",),
    "progress": ("trainer_state.json",),
}


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


def save_whole(trainer: Trainer) -> None:
    """Saves model and processor into the output folder, without the pickle that transformers adds."""
    target = Path(trainer.args.output_dir)
    unfinished = target / UNFINISHED
    trainer.save_model(str(unfinished))
    if not trainer.args.should_save:
        return
    (unfinished / "training_args.bin").unlink(missing_ok=True)  # report.json says it all
    for path in sorted(unfinished.iterdir(), key=lambda one: one.name == "config.json"):
        if path.is_dir():
            shutil.rmtree(target / path.name, ignore_errors=True)
        os.replace(path, target / path.name)
    unfinished.rmdir()
    (target / "training_args.bin").unlink(missing_ok=True)  # written again by a push to the Hub


def is_failed_write(error: Exception) -> bool:
    """Whether a disk would not take a file. torch and safetensors have errors of their own for that."""
    if isinstance(error, OSError):
        return error.errno in NO_ROOM
    return "inline_container" in str(error) if isinstance(error, RuntimeError) else isinstance(error, SafetensorError)
