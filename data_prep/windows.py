"""Windows of encoded bars, split by date.

Design choices:
* All bars of all tickers lie in flat arrays; a window is a row of indices, so a batch is one gather, no copy is kept.
* A split is a fence in time. A training window ends early enough that its last label lies before the fence; a
  validation label lies at least the embargo behind it. Context may reach back over a fence: the past is no secret.
* Augmentation, context dropout and weights draw by (seed, epoch, index): the same in one process or several, and after
  a resume.

Shapes: B windows, T bars, F features, P steps ahead, N bars of all tickers together.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from ..ahead_tsf_llm import Ahead, usual_deviation
from ..bars_tsf_llm import UNIVARIATE, Kind, day_end
from ..emission_tsf_llm import mean_volume, own_parts, parts_ahead
from ..feature_extraction_tsf_llm import EncodedSeries
from ..indicators_tsf_llm import FEATURES
from ..series_tsf_llm import series_table
from ..training_examples_tsf_llm import Head, bar_targets, head_labels, law_labels, token_labels
from . import augment as changes
from .sampling_weights import parse_weights, recency, resample, volatility

if TYPE_CHECKING:  # seconds to import, which those who encode without it are spared
    from ..processing_tsf_llm import TsfLlmProcessor

Objective = Head
LABELLED = ("past_target", "season_values", "zero_level")  # of the series form, in the unit of the labels
SHARES = (0.8, 0.1)  # of the bar times, for training and for validation


@dataclass(frozen=True)
class Split:
    """Fences in time: train <= `train_through` < validation <= `valid_through` < test."""

    train_through: pd.Timestamp
    valid_through: pd.Timestamp

    @classmethod
    def of(cls, bars: pd.DataFrame, train_through: Any = None, valid_through: Any = None) -> "Split":
        """The given dates, or those that leave `SHARES` of all bar times to training and validation.

        Raises:
            ValueError: if a part would be empty.
        """
        stamps = np.sort(bars["timestamp"].unique())
        ends = [stamps[min(int(share * len(stamps)), len(stamps) - 1)] for share in np.cumsum(SHARES)]
        split = cls(day_end(train_through or ends[0]), day_end(valid_through or ends[1]))
        if not pd.Timestamp(stamps[0]) < split.train_through < split.valid_through < pd.Timestamp(stamps[-1]):
            raise ValueError(
                f"train through {split.train_through}, validate through {split.valid_through}: dates must increase "
                f"and lie inside the data, {pd.Timestamp(stamps[0])} to {pd.Timestamp(stamps[-1])}"
            )
        return split


def fence(moment: pd.Timestamp) -> str:
    """The date of a fence that ends a day or stands on a daily bar; of one within a day the instant.

    >>> fence(pd.Timestamp("2020-06-30")), fence(pd.Timestamp("2020-06-30 12:00"))
    ('2020-06-30', '2020-06-30 12:00:00')
    """
    whole_day = moment in (moment.normalize(), day_end(moment.date()))
    return str(moment.date() if whole_day else moment)


class WindowDataset(Dataset):
    """Training examples of one stretch of time, batched by index (`__getitems__`): pass `collate_fn=identity`.

    Args:
        series: encoded tickers; the processor's bins and context length are used.
        after, through: labels lie in (after, through]; None for an open end.
        embargo: bars that must lie between `after` and the first label.
        horizon: steps ahead, `P`.
        stride: bars between the origins of neighbouring windows of a ticker.
        augment: strengths by name, see `augment.py`. For training only.
        context_dropout: share of windows without the market, the implied-volatility index or both: their features are
            zero, as those of a forecast that is given none. For training only.
        sample_weights: `none`, `volatility` or `recency:DAYS`, see `weights.py`. For training only: index i is then
            the i-th window drawn for the epoch.
        seed: of all three. `set_epoch` gives them new draws.

    A batch for `causal_lm` holds `input_ids`, `labels`, `attention_mask` `[B,T+P]`, `past_values [B,T,F]`; where the
    bins of far horizons are fitted, `law_labels [B,T,H]`; of market bars, `bar_targets [B,T+P,5]`. For the heads
    `labels` are `[B,P]` and masks `[B,T]`; of the series form there are also the inputs of `Ahead.examples`.
    """

    def __init__(
        self,
        processor: "TsfLlmProcessor",
        series: Sequence[EncodedSeries],
        *,
        objective: Objective,
        horizon: int,
        after: Any = None,
        through: Any = None,
        embargo: int = 0,
        stride: int = 1,
        augment: Mapping[str, float] | None = None,
        context_dropout: float = 0.0,
        sample_weights: str = "none",
        seed: int = 0,
    ):
        extractor = processor.feature_extractor
        if extractor.reach is not None:
            raise ValueError("the original has a target of its own: train its weights on its .npz sequences")
        extractor.check_head(None if objective == "causal_lm" else objective, horizon)
        self.objective, self.horizon, self.tokenizer = objective, horizon, processor.tokenizer
        self.context_length = extractor.context_length
        self._join(series)
        fences = [None if at is None else day_end(at, self.timestamp) for at in (after, through)]
        places = [labels_between(one.timestamp, *fences, embargo=embargo) for one in series]
        self._mark_labels(series, places, processor.kind)
        starts = np.cumsum([0, *(len(one.close) for one in series)])
        origins = [origins_of(one, place, horizon) for one, place in zip(series, places, strict=True)]
        origins = [rows[rows % stride == 0] + first for rows, first in zip(origins, starts, strict=False)]
        self.origins = np.concatenate(origins)
        self.ahead = None if extractor.ahead is None else Ahead.of(series, extractor)
        if self.ahead is not None:
            usual = [usual_deviation(one.close, slice(0, to.stop)) for one, to in zip(series, places, strict=True)]
            self.usual = np.repeat(usual, np.diff(starts))  # [N] deviation of the ticker's values

        self.augment, self.seed = dict(augment or {}), seed
        if self.ahead is not None and "warp" in self.augment:
            raise ValueError(
                "augment warp: the series form cannot be bent, its seasons would not fit; use mixup or crop"
            )
        self.steady = steady_columns(extractor.names, extractor.kind)
        self.context_dropout, self.contexts = context_dropout, context_columns(extractor.names)
        self.keeps_whole = False  # whether a batch has `whole_values` too, as they were before context dropout
        if context_dropout:
            check_context_dropout(context_dropout, extractor.names)
        self.weights = self._weights(sample_weights)
        self._draws = bool(self.augment or context_dropout or self.weights is not None)
        if self._draws:
            self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # workers that outlive an epoch see it too
            self._drawn: tuple[int, np.ndarray] | None = None  # epoch and its windows
            self._by_time = self.origins[np.argsort(self.timestamp[self.origins], kind="stable")]
            self._times = self.timestamp[self._by_time]

    def _join(self, series: Sequence[EncodedSeries]) -> None:
        """The bars of all tickers, one after the other: N in all."""
        sizes = [len(one.close) for one in series]
        first = np.repeat(np.cumsum([0, *sizes[:-1]]), sizes)
        self.start_of = first.astype(np.int64)  # [N] row of the ticker's first bar
        self.features = joined([one.features for one in series])
        self.observed = joined([one.observed for one in series])
        self.log_return = joined([one.log_return for one in series])
        self.sigma = joined([one.sigma for one in series])
        self.tokens = self.tokenizer.encode_returns(np.concatenate([one.standard_return() for one in series]))
        self.bars = all_bars(series) if self.objective == "causal_lm" else None
        self.timestamp = joined([one.timestamp for one in series])

    def _mark_labels(self, series: Sequence[EncodedSeries], places: Sequence[slice], kind: Kind) -> None:
        """Which bars may be labels, `is_label [N]`, and those of far horizons, `laws [N,H]`."""
        allowed = [np.zeros(len(one.close), bool) for one in series]
        for part, place in zip(allowed, places, strict=True):
            part[place] = True
        self.is_label = np.concatenate(allowed)
        self.laws: np.ndarray | None = None
        if self.objective == "causal_lm" and self.tokenizer.law_edges:
            parts = zip(series, allowed, strict=True)
            self.laws = np.concatenate([law_labels(one, self.tokenizer, kind, part) for one, part in parts])

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        origins = self.origins[self._windows(np.asarray(indices))]
        rows, mask = self._context(origins)
        ahead = origins[:, None] + np.arange(1, self.horizon + 1)  # [B,P]
        values, intact = np.where(mask[..., None], self.features[rows], np.float32(0)), mask
        batch = {}
        if self.ahead is not None:
            batch = self._examples(origins, mask)
            if self.augment:
                mask = intact = self._with_labels(batch, values, mask, origins, indices)
            values = np.concatenate((values, batch["past_target"][..., None]), axis=-1)  # is augmented as features are
        if self.augment:
            values, mask, intact = self._augmented(values, mask, origins, indices)
        if self.ahead is not None:
            values, batch["past_target"] = values[..., :-1], values[..., -1]
        if self.context_dropout:
            if self.keeps_whole:
                batch["whole_values"] = values.copy()
            self._drop_contexts(values, indices)
        batch["past_values"] = values
        if self.objective == "causal_lm":
            batch |= self._token_labels(rows, mask, intact, ahead)
        elif self.ahead is not None:
            batch["attention_mask"] = mask.astype(np.int64)
        else:
            batch |= self._head_labels(mask, ahead)
        return {key: torch.from_numpy(value) for key, value in batch.items()}

    def set_epoch(self, epoch: int) -> None:
        """New draws of augmentation, context dropout and weights; nothing where there are none."""
        if self._draws:
            self._epoch.fill_(epoch)

    def _weights(self, sample_weights: str) -> np.ndarray | None:
        rule = parse_weights(sample_weights)
        if rule is None or not len(self.origins):
            return None
        if rule[0] == "recency":
            return recency(self.timestamp[self.origins], rule[1])
        return volatility(self.sigma[self.origins], self.start_of[self.origins])

    def _windows(self, indices: np.ndarray) -> np.ndarray:
        """The windows at these places: themselves, or those that were drawn for the epoch."""
        if self.weights is None:
            return indices
        epoch = int(self._epoch)
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, resample(self.weights, seed=self.seed, epoch=epoch)
        return self._drawn[1][indices]

    def _context(self, origins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the bars up to each origin, and which of them are of its ticker and observed, `[B,T]`."""
        rows = origins[:, None] - np.arange(self.context_length)[::-1]
        inside = rows >= self.start_of[origins][:, None]
        rows = np.where(inside, rows, origins[:, None])
        return rows, inside & self.observed[rows]

    def _examples(self, origins: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        assert self.ahead is not None
        return self.ahead.examples(origins, mask, self.sigma[origins], self.usual[origins])

    def _rng(self, name: str, index: int) -> np.random.Generator:
        return changes.generator(name, seed=self.seed, epoch=int(self._epoch), index=int(index) % len(self))

    def _with_labels(
        self,
        batch: dict[str, np.ndarray],
        values: np.ndarray,
        mask: np.ndarray,
        origins: np.ndarray,
        indices: Sequence[int],
    ) -> np.ndarray:
        """Of the series form, in place: `mixup` with the window of another series at the same time, and `scale`, both
        of past, seasons and labels alike. The rows that are left observed, `[B,T]`."""
        names = [name for name in (*LABELLED, "labels") if name in batch]
        if strength := self.augment.get("mixup"):
            draws = [self._rng("mixup", index) for index in indices]
            others = np.array([self._beside(at, rng) for at, rng in zip(origins, draws, strict=True)])
            weight = np.array([rng.beta(strength + 1, strength) for rng in draws], np.float32)
            rows, seen = self._context(others)
            mask = mask & seen
            theirs = self._examples(others, mask)
            for name in (*names, "loss_weight"):
                batch[name] = changes.mixed(batch[name], theirs[name], weight)
            values[:] = changes.mixed(values, self.features[rows], weight) * mask[..., None]
            batch["past_target"] = batch["past_target"] * mask
        if strength := self.augment.get("scale"):
            factor = [np.exp(strength * self._rng("scale", index).standard_normal()) for index in indices]
            for name in names:
                batch[name] = changes.mixed(batch[name], np.float32(0), np.array(factor, np.float32))
        return mask

    def _beside(self, origin: int, rng: np.random.Generator) -> int:
        """The origin of a random window at the same time, perhaps this one."""
        first, end = (np.searchsorted(self._times, self.timestamp[origin], side) for side in ("left", "right"))
        return int(self._by_time[rng.integers(first, end)])

    def _augmented(
        self, values: np.ndarray, mask: np.ndarray, origins: np.ndarray, indices: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Changes `values` and `mask` in place; and the rows from which the next bar may be predicted, `[B,T]`."""
        moved, whole = np.zeros_like(mask), values[..., self.steady]
        for i, index in enumerate(indices):
            for name, strength in self.augment.items():
                rng = self._rng(name, index)
                if self.ahead is not None and name in ("mixup", "scale"):
                    continue  # see `_with_labels`
                if name == "mixup":
                    other, allowed = self._partner(origins[i], rng)
                    values[i] = changes.mixup(values[i], other, allowed & mask[i], strength, rng)
                elif name == "warp":
                    values[i], moved[i] = changes.warp(values[i], mask[i], strength, rng)
                elif name == "scale":
                    values[i] = changes.scale(values[i], strength, rng)
                elif name == "jitter":
                    values[i] = changes.jitter(values[i], mask[i], strength, rng)
                elif name == "crop":
                    mask[i] = changes.crop(mask[i], strength, rng)
        values[..., self.steady] = whole
        values[~mask] = 0
        return values, mask, mask & ~moved

    def _drop_contexts(self, values: np.ndarray, indices: Sequence[int]) -> None:
        """Zeroes the features of what each window goes without, in place."""
        for window, index in zip(values, indices, strict=True):
            place = {"seed": self.seed, "epoch": int(self._epoch), "index": int(index) % len(self)}
            for columns, is_dropped in zip(
                self.contexts, changes.dropped(self.context_dropout, len(self.contexts), **place), strict=True
            ):
                if is_dropped:
                    window[:, columns] = 0

    def _partner(self, origin: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Features of a random window that ends no later, and its observed rows that are no later than ours, `[T]`.

        A later window, of this ticker or of one that moves with it, would bring the returns that are to be predicted.
        """
        earlier = np.searchsorted(self._times, self.timestamp[origin], side="right")
        pair = np.stack([self._by_time[rng.integers(earlier)], origin])
        rows, mask = self._context(pair)
        return self.features[rows[0]], mask[0] & (self.timestamp[rows[0]] <= self.timestamp[rows[1]])

    def _token_labels(
        self, rows: np.ndarray, mask: np.ndarray, intact: np.ndarray, ahead: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Bars are labelled with their own token, known at the bar before; then come the tokens of the future."""
        usable = mask & self.is_label[rows]
        usable[:, 1:] &= intact[:, :-1]  # the bar before is the one that predicts
        usable[:, 0] = False
        bar_labels = np.where(usable, self.tokens[rows], -100)
        batch = token_labels(self.tokenizer, bar_labels, mask, self._returns(ahead))
        if self.laws is not None:
            batch["law_labels"] = np.where((mask & intact)[..., None], self.laws[rows], -100)
        if self.bars is not None:
            *bars, parts = self.bars
            batch |= bar_targets(parts[rows], usable, parts_ahead(*bars, self.sigma, ahead))
        return batch

    def _head_labels(self, mask: np.ndarray, ahead: np.ndarray) -> dict[str, np.ndarray]:
        labels = head_labels(self._returns(ahead), self.objective)
        return {"attention_mask": mask.astype(np.int64), "labels": labels}

    def _returns(self, ahead: np.ndarray) -> np.ndarray:
        """Log returns ahead in units of the origin's sigma, `[B,P]`."""
        return self.log_return[ahead] / self.sigma[ahead[:, 0] - 1][:, None]


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """All parts in a row: copied, unless they are pieces of one array that lie there in a row, as of `side_by_side`.

    >>> whole = np.arange(6)
    >>> joined([whole[:2], whole[2:]]) is whole, joined([whole[2:], whole[:2]]).tolist()
    (True, [2, 3, 4, 5, 0, 1])
    """
    whole = parts[0].base
    if whole is None or whole.dtype != parts[0].dtype or whole.shape[1:] != parts[0].shape[1:]:
        return np.concatenate(parts)
    ends = np.cumsum([part.nbytes for part in parts])
    places = whole.ctypes.data + np.array([0, *ends[:-1]])
    in_a_row = all(part.base is whole and part.ctypes.data == at for part, at in zip(parts, places, strict=True))
    return whole if in_a_row and ends[-1] == whole.nbytes else np.concatenate(parts)


def side_by_side(series: Iterable[EncodedSeries], rows: int) -> list[EncodedSeries]:
    """The same series, of so many rows together, as pieces of one array per field, which datasets of windows share.

    Of series that are read one after the other, one is in memory twice."""
    whole: dict[str, np.ndarray] = {}
    pieces, start = [], 0
    for one in series:
        end = start + len(one.close)
        own = {part.name: getattr(one, part.name) for part in fields(EncodedSeries) if part.name != "ticker"}
        for name, array in own.items():
            if array is not None:
                if name not in whole:
                    whole[name] = np.empty((rows, *array.shape[1:]), array.dtype)
                own[name] = whole[name][start:end]
                own[name][:] = array
        pieces.append(replace(one, **own))
        start = end
    assert start == rows
    return pieces


def labels_between(
    stamps: np.ndarray, after: pd.Timestamp | None, through: pd.Timestamp | None, *, embargo: int = 0
) -> slice:
    """The rows of a ticker that may be labels: in (after, through], the first `embargo` of them left out."""
    first = 0 if after is None else int(stamps.searchsorted(after.to_datetime64(), "right")) + embargo
    end = len(stamps) if through is None else int(stamps.searchsorted(through.to_datetime64(), "right"))
    return slice(first, max(first, end))


def origins_of(series: EncodedSeries, labels: slice, horizon: int) -> np.ndarray:
    """Rows of known volatility whose next `horizon` rows are all in `labels`."""
    first, end = max(labels.start - 1, 0), max(min(labels.stop, len(series.close)) - horizon, 0)
    return first + np.flatnonzero((series.observed & ~np.isnan(series.sigma))[first:end])


def all_bars(series: Sequence[EncodedSeries]) -> list[np.ndarray] | None:
    """Of all tickers: prices `[N,4]`, volumes and their means `[N]`, and the parts of each bar `[N,5]`; None for plain
    series."""
    made = [
        (one.ohlc, one.volume, mean_volume(one.volume), own_parts(one.ohlc, one.volume, one.sigma))
        for one in series
        if one.ohlc is not None and one.volume is not None
    ]
    return [np.concatenate(arrays) for arrays in zip(*made, strict=True)] if len(made) == len(series) else None


def context_columns(names: Sequence[str]) -> list[np.ndarray]:
    """Places of the features of each of the `CONTEXTS`, those without any left out."""
    groups = np.array([FEATURES[name].group if name in FEATURES else "" for name in names])
    places = [np.flatnonzero(groups == context) for context in changes.CONTEXTS]
    return [columns for columns in places if len(columns)]


def steady_columns(names: Sequence[str], kind: str) -> np.ndarray:
    """Places of the features of plain series that no augmentation changes: the time, and what is known in advance."""
    if kind != UNIVARIATE.name:
        return np.array([], int)
    table = series_table()
    steady = [name.startswith("known:") or (name in table and table[name].group == "calendar") for name in names]
    return np.flatnonzero(steady)


def check_context_dropout(share: float, names: Sequence[str]) -> None:
    """Raises ValueError where nothing can be hidden, or not as it is from a forecast without a market."""
    if not context_columns(names):
        raise ValueError(f"context_dropout={share}: no feature is of the groups market or implied; leave it out")
    if reads := [name for name in names if name in FEATURES and FEATURES[name].group == "reversal"]:
        raise ValueError(
            f"context_dropout={share}: {reads[-1]} reads the market, and is not zero without one: leave its group out"
        )


def identity(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The collator of a `WindowDataset`, whose batches come ready."""
    return batch
