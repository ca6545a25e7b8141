"""Windows of encoded bars, split by date.

Design choices:
* All bars of all tickers lie in flat arrays; a window is a row of indices, so a batch is one gather, no copy is kept.
* A split is a fence in time. A training window ends early enough that its last label lies before the fence; a
  validation label lies at least the embargo behind it. Context may reach back over a fence: the past is no secret.

Shapes: B windows, T bars, F features, P steps ahead, N bars of all tickers together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from ..processing_tsf_llm import EncodedSeries, TsfLlmProcessor, day_end

Objective = Literal["causal_lm", "regression", "quantile", "classification"]
FLAT_SIGMAS = 0.43  # |z| below this is "flat": about a third of a normal distribution


@dataclass(frozen=True)
class Split:
    """Fences in time: train <= `train_through` < validation <= `valid_through` < test."""

    train_through: pd.Timestamp
    valid_through: pd.Timestamp

    @classmethod
    def of(
        cls,
        bars: pd.DataFrame,
        train_through: Any = None,
        valid_through: Any = None,
        shares: tuple[float, float] = (0.8, 0.1),
    ) -> "Split":
        """The given dates, or those that leave `shares` of all bar times to training and validation.

        Raises:
            ValueError: if a part would be empty.
        """
        stamps = np.sort(bars["timestamp"].unique())
        ends = [stamps[min(int(sum(shares[: i + 1]) * len(stamps)), len(stamps) - 1)] for i in range(2)]
        split = cls(
            *(day_end(given or default) for given, default in zip((train_through, valid_through), ends, strict=True))
        )
        if not pd.Timestamp(stamps[0]) < split.train_through < split.valid_through < pd.Timestamp(stamps[-1]):
            raise ValueError(
                f"train through {split.train_through}, validate through {split.valid_through}: dates must increase "
                f"and lie inside the data, {pd.Timestamp(stamps[0])} to {pd.Timestamp(stamps[-1])}"
            )
        return split


class WindowDataset(Dataset):
    """Training examples of one stretch of time, batched by index (`__getitems__`): pass `collate_fn=identity`.

    Args:
        series: encoded tickers; the processor's bins and context length are used.
        after, through: labels lie in (after, through]; None for an open end.
        embargo: bars that must lie between `after` and the first label.
        horizon: steps ahead, `P`.
        stride: bars between the origins of neighbouring windows of a ticker.

    A batch for `causal_lm` holds `input_ids`, `labels`, `attention_mask` `[B,T+P]` and `past_values [B,T,F]`;
    for the heads `labels` are `[B,P]` and masks `[B,T]`.
    """

    def __init__(
        self,
        processor: TsfLlmProcessor,
        series: Sequence[EncodedSeries],
        *,
        objective: Objective,
        horizon: int,
        after: Any = None,
        through: Any = None,
        embargo: int = 0,
        stride: int = 1,
    ):
        if processor.feature_extractor.is_seed:
            raise ValueError(
                "feature_set='seed64' has targets of its own: train its weights on the original's .npz sequences"
            )
        self.objective, self.horizon, self.tokenizer = objective, horizon, processor.tokenizer
        self.context_length = processor.feature_extractor.context_length
        sizes = [len(one.close) for one in series]
        first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        self.start_of = first.astype(np.int64)  # [N] row of the ticker's first bar
        self.end_of = first + np.repeat(sizes, sizes)
        self.features = np.concatenate([one.features for one in series])
        self.observed = np.concatenate([one.observed for one in series])
        self.log_return = np.concatenate([one.log_return for one in series])
        self.sigma = np.concatenate([one.sigma for one in series])
        self.tokens = self.tokenizer.encode_returns(np.concatenate([one.standard_return() for one in series]))
        stamps = np.concatenate([one.timestamp for one in series])
        rows = np.arange(len(stamps))
        allowed = np.ones(len(stamps), bool)
        if after is not None:
            passed = (stamps > day_end(after).to_datetime64()).astype(int)
            bars_since = np.cumsum(passed) - (np.cumsum(passed) - passed)[self.start_of]
            allowed &= (passed > 0) & (bars_since > embargo)
        if through is not None:
            allowed &= stamps <= day_end(through).to_datetime64()
        self.is_label = allowed
        last = rows + horizon  # the last label's row
        usable = self.observed & ~np.isnan(self.sigma) & (last < self.end_of)
        usable[usable] &= allowed[last[usable]] & allowed[rows[usable] + 1]
        candidates = rows[usable]
        self.origins = candidates[(candidates - self.start_of[candidates]) % stride == 0]

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        origins = self.origins[np.asarray(indices)]
        rows = origins[:, None] - np.arange(self.context_length)[::-1]  # [B,T]
        inside = rows >= self.start_of[origins][:, None]
        rows = np.where(inside, rows, origins[:, None])
        mask = inside & self.observed[rows]
        ahead = origins[:, None] + np.arange(1, self.horizon + 1)  # [B,P]
        batch = {"past_values": np.where(mask[..., None], self.features[rows], np.float32(0))}
        batch |= (
            self._token_labels(rows, mask, ahead) if self.objective == "causal_lm" else self._head_labels(mask, ahead)
        )
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def _token_labels(self, rows: np.ndarray, mask: np.ndarray, ahead: np.ndarray) -> dict[str, np.ndarray]:
        """Bars are labelled with their own token, known at the bar before; then come the tokens of the future."""
        usable = mask & self.is_label[rows]
        usable[:, 1:] &= mask[:, :-1]  # the bar before is the one that predicts
        usable[:, 0] = False
        bar_labels = np.where(usable, self.tokens[rows], -100)
        future = self.tokenizer.encode_returns(self.log_return[ahead] / self.sigma[ahead[:, 0] - 1][:, None])
        known = np.logical_and.accumulate(future >= 0, axis=1)  # a path ends at its first unknown return
        pad, bar = self.tokenizer.pad_token_id, self.tokenizer.bar_token_id
        return {
            "input_ids": np.concatenate((np.full(rows.shape, bar), np.where(known, future, pad)), axis=1),
            "attention_mask": np.concatenate((mask, known), axis=1).astype(np.int64),
            "labels": np.concatenate((bar_labels, np.where(known, future, -100)), axis=1),
        }

    def _head_labels(self, mask: np.ndarray, ahead: np.ndarray) -> dict[str, np.ndarray]:
        """Cumulative returns in units of the origin's sigma, NaN once a return is unknown; or their classes."""
        cumulative = np.cumsum(self.log_return[ahead] / self.sigma[ahead[:, 0] - 1][:, None], axis=1)
        labels = cumulative.astype(np.float32)
        if self.objective == "classification":
            threshold = FLAT_SIGMAS * np.sqrt(np.arange(1, self.horizon + 1))
            classes = 1 + (cumulative > threshold).astype(np.int64) - (cumulative < -threshold)
            labels = np.where(np.isnan(cumulative), -100, classes)
        return {"attention_mask": mask.astype(np.int64), "labels": labels}


def identity(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of a `WindowDataset`, whose batches come ready."""
    return batch
