"""The original's sequence files, as published in NEOAI/Stocks: `{T}_train_sequences.npz`, one per ticker.

Each holds `X` float64 [N,32,64] and `y` float64 [N], windows in order of time, one bar apart, both scaled already; the
scalers are not published. **`X` contains future returns** (see `original_features_tsf_llm`): a score on these files
says how well the leak was found, not how well anything was forecast.

Shapes: N sequences of a file, B sequences of a batch, T = 32 bars, F = 64 features.
"""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..original_features_tsf_llm import ORIGINAL_LENGTH, future_columns, original_feature_names

SUFFIX = "_sequences.npz"
LARGEST = 1e5  # in interquartile ranges; a raw volume lies far above
LEAK = (
    f"The inputs of these sequences contain future returns ({', '.join(future_columns())} or alike), from which the "
    "target follows exactly. Scores on them are no measure of forecasting skill."
)


def sequence_files(source: str | Path) -> list[Path]:
    """The file itself, or the `*_sequences.npz` of a folder, by name; empty if there is none."""
    path = Path(source)
    if path.is_dir():
        return sorted(path.rglob(f"*{SUFFIX}"))
    return [path] if path.suffix == ".npz" else []


def read_sequences(source: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`{name: (X float32 [N,32,64], y float32 [N])}` of a file or a folder, named as in `AAPL_train`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of another layout, with what is wrong and what is expected.
    """
    files = sequence_files(source)
    if not files:
        raise FileNotFoundError(f"{source} is no .npz file and holds no *{SUFFIX} files")
    names = [path.name.removesuffix(SUFFIX).removesuffix(".npz") for path in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{source} holds {twice} more than once: keep one file of each")
    return {name: _read_file(path) for name, path in zip(names, files, strict=True)}


def _read_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; name a .npz file or a folder of them")
    try:
        with np.load(path, allow_pickle=False) as arrays:  # an object array could run code: refused
            found = {name: arrays[name] for name in ("X", "y")}
    except KeyError as error:
        raise ValueError(f"{path} has no array {error}: expected X [N,{ORIGINAL_LENGTH},64] and y [N]") from error
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no readable .npz of plain numbers ({error}); download it again") from error
    _check(found["X"], found["y"], path)
    return found["X"].astype(np.float32), found["y"].astype(np.float32)


def _check(X: np.ndarray, y: np.ndarray, path: Path) -> None:
    shape = (ORIGINAL_LENGTH, len(original_feature_names()))
    if X.ndim != 3 or X.shape[1:] != shape or y.shape != X.shape[:1] or not len(y):
        raise ValueError(f"{path}: X is {X.shape} and y {y.shape}, expected [N,{shape[0]},{shape[1]}] and [N]")
    for name, values in (("X", X), ("y", y)):
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"{path}: {name} is {values.dtype}, expected floating-point numbers")
        bad = ~np.isfinite(values)
        if bad.any():
            raise ValueError(f"{path}: {name} holds {bad.sum()} values that are not finite; drop these sequences")
        largest = float(np.abs(values).max())
        if largest > LARGEST:
            raise ValueError(f"{path}: {name} reaches {largest:.3g}; scale it by median and interquartile range first")


class SequenceDataset(Dataset):
    """Sequences for a regression head, batched by index like `WindowDataset`: pass `collate_fn=identity`.

    A batch holds `past_values [B,T,F]`, `attention_mask [B,T]` (all ones) and `labels [B,1]`.

    Args:
        X, y: windows [N,T,F] and targets [N].
        time: place in time of each window, [N]; equal for windows of one date.
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, time: np.ndarray):
        self.X, self.y, self.time = torch.from_numpy(X), torch.from_numpy(y), time

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = torch.as_tensor(indices)
        past = self.X[rows]
        mask = torch.ones(past.shape[:2], dtype=torch.int64)
        return {"past_values": past, "attention_mask": mask, "labels": self.y[rows, None]}


def split_sequences(
    sequences: dict[str, tuple[np.ndarray, np.ndarray]], shares: tuple[float, float] = (0.8, 0.1)
) -> list[SequenceDataset]:
    """Training, validation and test, each later than the one before, file by file.

    Between two parts one window's length of sequences is left out, so that no bar is an input of both. The files hold
    no dates; `time` counts back from the end of each file, for files of one download end on one date.

    Raises:
        ValueError: a file is too short for three parts.
    """
    parts: list[list[tuple[np.ndarray, ...]]] = [[], [], []]
    for name, (X, y) in sequences.items():
        ends = [int(shares[0] * len(y)), int(sum(shares) * len(y)), len(y)]
        starts = [0, ends[0] + ORIGINAL_LENGTH, ends[1] + ORIGINAL_LENGTH]
        if any(start >= end for start, end in zip(starts, ends, strict=True)):
            raise ValueError(f"{name}: {len(y)} sequences are too few for three parts {ORIGINAL_LENGTH} bars apart")
        for part, start, end in zip(parts, starts, ends, strict=True):
            part.append((X[start:end], y[start:end], np.arange(start, end) - len(y)))
    return [SequenceDataset(*(np.concatenate(arrays) for arrays in zip(*part, strict=True))) for part in parts]
