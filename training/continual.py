"""Continual training: going on with new data from a finished model without losing what it learned from old data.

Two ways, alone or together:
* Replay: a share of the windows of each epoch are old ones, drawn anew each time (Rolnick et al. 2019).
* EWC, elastic weight consolidation (Kirkpatrick et al. 2017): weights that mattered for old windows move less. The
  loss gains `ewc / 2 * sum_i F_i (w_i - w0_i)^2`, with `w0` the weights to go on from and `F` the diagonal of the
  empirical Fisher information on old windows.

Design choices:
* Old windows end at the old training fence, which the old folder's report tells, and never behind the new one. They
  come from `replay_data`; without it `data` holds both, and its new windows begin behind the old fence.
* The last tenth of the old stretch is neither replayed nor part of `F`. The loss there, before and after, is what the
  report says of forgetting. The old model was trained on it: it measures memory, and is no test.
* `F` is scaled so that `ewc=1` is the Laplace approximation in which all old windows weigh as much as all new ones.
  It holds close to `w0` alone; to be felt further off the weight must be far larger, hundreds in our trials.

Shapes: N windows.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..bars_tsf_llm import day_end
from ..common.files import replace_file
from ..common.inference import batches, evaluating, is_known
from ..data_prep.windows import Objective, WindowDataset, fence
from ..processing_tsf_llm import TsfLlmProcessor
from .arguments import DataArguments, ModelArguments
from .checkpoints import claim_folder
from .data import TrainingData

KEPT_BACK = 0.1  # share of the old stretch, its end, that measures forgetting
FISHER_WINDOWS = 256
FISHER_FILE = "fisher.safetensors"
AT_ONCE = 128  # windows of a loss


@dataclass(frozen=True)
class OldWindows:
    """What a model has learned from: windows to replay, and later ones that tell how much of it is left."""

    through: pd.Timestamp  # the old training fence, or the new one where that is earlier
    replayed: WindowDataset
    kept_back: WindowDataset
    shares_data: bool  # whether they come from the same data as the new windows

    @classmethod
    def read(
        cls, data: TrainingData, data_args: DataArguments, model_args: ModelArguments, objective: Objective
    ) -> "OldWindows":
        """Raises ValueError if there are none."""
        assert model_args.continue_from is not None
        through = min(old_fence(model_args.continue_from, data.processor), data.split.train_through)
        old = data
        if model_args.replay_data is not None:
            own = {"tickers": None, "train_through": None, "valid_through": None}
            old = TrainingData.read(replace(data_args, data=model_args.replay_data, **own), model_args.continue_from)
        times = np.unique(np.concatenate([series.timestamp for series in old.series]))
        times = times[times <= through.to_datetime64()]
        if not len(times):
            raise ValueError(
                f"no old bar up to {fence(through)}, the training fence of {model_args.continue_from}: name the old "
                "prices with replay_data"
            )
        middle = pd.Timestamp(times[int((1 - KEPT_BACK) * len(times))])
        parts = (
            old.part(objective, through=middle),
            old.part(objective, after=middle, through=through, embargo=data_args.horizon),
        )
        if not all(map(len, parts)):
            raise ValueError(f"too few old windows up to {fence(through)} to replay some and keep some back")
        return cls(through, *parts, shares_data=old is data)


def old_fence(folder: str, processor: TsfLlmProcessor) -> pd.Timestamp:
    """The training fence of a finished folder: its report's, or without one that of its scalers.

    Raises ValueError if nothing tells it."""
    report = Path(folder) / "report.json"
    told = json.loads(report.read_text(encoding="utf-8")).get("train_through") if report.is_file() else None
    told = told or processor.fitted_through
    if told is None:
        raise ValueError(f"continue_from={folder}: nothing there tells its training fence; give a finished folder")
    return day_end(told)


class ReplayDataset(Dataset):
    """All new windows and, as `share` of the whole, old ones: others in each epoch, the same for the same seed."""

    def __init__(self, new: WindowDataset, old: WindowDataset, *, share: float, seed: int = 0):
        self.new, self.old, self.seed = new, old, seed
        self.num_replayed = max(1, round(len(new) * share / (1 - share)))
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it too
        self._drawn: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.new) + self.num_replayed

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        new = [i for i in indices if i < len(self.new)]
        old = [self.replayed()[i - len(self.new)] for i in indices if i >= len(self.new)]
        parts = [data.__getitems__(chosen) for data, chosen in ((self.new, new), (self.old, old)) if len(chosen)]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    def set_epoch(self, epoch: int) -> None:
        """Another draw of old windows."""
        self._epoch.fill_(epoch)
        self.new.set_epoch(epoch)

    def replayed(self) -> np.ndarray:
        """Indices of this epoch's old windows; none twice while there are enough."""
        epoch = int(self._epoch)
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            rounds = -(-self.num_replayed // len(self.old))
            order = np.concatenate([rng.permutation(len(self.old)) for _ in range(rounds)])
            self._drawn = epoch, order[: self.num_replayed]
        return self._drawn[1]


@dataclass(frozen=True)
class Anchor:
    """EWC's pull towards the weights that training started from."""

    weight: float
    fisher: dict[str, torch.Tensor]
    start: dict[str, torch.Tensor]

    @classmethod
    def at(cls, model: torch.nn.Module, fisher: dict[str, torch.Tensor], weight: float) -> "Anchor":
        """Anchored at the model's present weights."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        return cls(
            weight,
            {name: fisher[name].to(p.device) for name, p in trained.items()},
            {name: p.detach().clone() for name, p in trained.items()},
        )

    def penalty(self, model: torch.nn.Module) -> torch.Tensor:
        """`weight / 2 * sum_i F_i (w_i - w0_i)^2`."""
        weights = dict(model.named_parameters())
        terms = [(f * (weights[name] - self.start[name]).square()).sum() for name, f in self.fisher.items()]
        return self.weight / 2 * torch.stack(terms).sum()


def diagonal_fisher(
    model: Any, windows: WindowDataset, *, limit: int = FISHER_WINDOWS, seed: int = 0, progress: bool = True
) -> dict[str, torch.Tensor]:
    """Mean over windows of `n (d loss / d w)^2`, where a window's loss is the mean over its n known labels.

    `(n d loss / d w)^2` is a window's empirical Fisher information; over n it is the curvature of the mean, which is
    what is trained. At most `limit` windows, drawn by `seed`, go in one by one."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    fisher = {name: torch.zeros_like(p) for name, p in trained.items()}
    chosen = np.random.default_rng(seed).permutation(len(windows))[:limit]
    with evaluating(model):
        for index in tqdm(chosen, desc="Fisher information", unit="window", disable=not progress, leave=False):
            batch = {key: value.to(model.device) for key, value in windows.__getitems__([int(index)]).items()}
            gradients = torch.autograd.grad(model(**batch).loss, list(trained.values()), allow_unused=True)
            for name, gradient in zip(trained, gradients, strict=True):
                if gradient is not None:
                    fisher[name] += int(is_known(batch["labels"]).sum()) * gradient.square() / len(chosen)
    return fisher


def load_or_measure_fisher(
    model: Any, old: OldWindows, output_dir: str | Path, *, resumed: bool, seed: int = 0, progress: bool = True
) -> dict[str, torch.Tensor]:
    """The diagonal Fisher information, kept in `output_dir`; a resumed run reads it again."""
    path = Path(output_dir) / FISHER_FILE
    if resumed and path.is_file():
        return load_file(path)
    fisher = diagonal_fisher(model, old.replayed, seed=seed, progress=progress)
    claim_folder(output_dir)
    tensors = {name: value.cpu().contiguous() for name, value in fisher.items()}
    replace_file(path, lambda unfinished: save_file(tensors, unfinished))  # every process of a node writes the same
    return fisher


@torch.inference_mode()
def mean_loss(model: Any, windows: WindowDataset) -> float:
    """The task's loss over all windows, without dropout and side losses."""
    with evaluating(model):
        parts = [float(model(**one).loss) * len(one["labels"]) for one in batches(windows, model.device, AT_ONCE)]
    return sum(parts) / len(windows)
