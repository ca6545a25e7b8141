"""Training examples: windows of encoded bars with their labels, for any trainer.

Design choices:
* The label of a bar is its own return token, known at the bar before; then come the tokens of the future. A head's
  labels are cumulative returns in units of the origin's sigma, or their classes.
* At every bar the bins of the cumulative returns from there to the far horizons are labels too: dense, for they cost
  no further pass. Market bars also bring what each is made of, for a model with a head for it; others let it pass.
* Windows of the series form are cut when they are read: its contexts and horizons are long, and copies of them all
  would take gigabytes.
* A `datasets.Dataset` holds the others ready: equal shapes, the names of the model's arguments, nothing to collate.

Shapes: B windows, T bars, F features, P steps ahead, H far horizons, N bars of one series.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch

from .ahead_tsf_llm import Ahead, usual_deviation
from .bars_tsf_llm import Kind, day_end
from .emission_tsf_llm import mean_volume, own_parts, parts_ahead
from .feature_extraction_tsf_llm import EncodedSeries, TsfLlmFeatureExtractor
from .laws_tsf_llm import horizon_returns
from .tokenization_tsf_llm import TsfLlmTokenizer

Head = Literal["causal_lm", "regression", "quantile", "classification"]
HEADS = get_args(Head)
FLAT_SIGMAS = 0.43  # |z| below this is "flat": about a third of a normal distribution


def token_labels(
    tokenizer: TsfLlmTokenizer, bar_labels: np.ndarray, mask: np.ndarray, ahead: np.ndarray
) -> dict[str, np.ndarray]:
    """`input_ids`, `attention_mask`, `labels` `[B,T+P]` from labels and mask of bars `[B,T]` and standardised returns
    ahead `[B,P]`."""
    future = tokenizer.encode_returns(ahead)
    known = np.logical_and.accumulate(future >= 0, axis=1)  # a path ends at its first unknown return
    places = np.full(mask.shape, tokenizer.bar_token_id)
    return {
        "input_ids": np.concatenate((places, np.where(known, future, tokenizer.pad_token_id)), axis=1),
        "attention_mask": np.concatenate((mask, known), axis=1).astype(np.int64),
        "labels": np.concatenate((bar_labels, np.where(known, future, -100)), axis=1),
    }


def bar_targets(parts: np.ndarray, usable: np.ndarray, ahead: np.ndarray) -> dict[str, np.ndarray]:
    """`bar_targets` `[B,T+P,5]` from the parts of bars `[B,T,5]`, which of them may be predicted `[B,T]`, and the
    parts of bars ahead `[B,P,5]`."""
    known = np.logical_and.accumulate(np.isfinite(ahead[..., 0]), axis=1)
    both = [np.where(mask[..., None], values, np.nan) for mask, values in ((usable, parts), (known, ahead))]
    return {"bar_targets": np.concatenate(both, axis=1).astype(np.float32)}


def law_labels(
    series: EncodedSeries, tokenizer: TsfLlmTokenizer, kind: Kind, is_label: np.ndarray | None = None
) -> np.ndarray:
    """Bins of the cumulative return from each bar to each far horizon, int64 `[N,H]`; -100 where an end is unknown or
    a bar behind it is not among those that may be labels (`[N]`)."""
    horizons = tokenizer.horizons[1:]
    returns_NH = horizon_returns(kind.additive(series.close), series.sigma, horizons)
    is_label = np.ones(len(series.close), bool) if is_label is None else is_label
    first = np.append(is_label[1:], False)
    columns = []
    for i, h in enumerate(horizons):
        allowed = first & np.append(is_label[h:], np.zeros(min(h, len(first)), bool))[: len(first)]
        columns.append(np.where(allowed, tokenizer.encode_returns(returns_NH[:, i], horizon=h), -100))
    return np.stack(columns, axis=1) if columns else np.empty((len(first), 0), np.int64)


def head_labels(ahead: np.ndarray, head: Head) -> np.ndarray:
    """Cumulative standardised returns `[B,P]`, NaN once a return is unknown; or their classes, -100 where unknown."""
    cumulative = np.cumsum(ahead, axis=1)
    if head != "classification":
        return cumulative.astype(np.float32)
    threshold = FLAT_SIGMAS * np.sqrt(np.arange(1, ahead.shape[1] + 1))
    classes = 1 + (cumulative > threshold).astype(np.int64) - (cumulative < -threshold)
    return np.where(np.isnan(cumulative), -100, classes)


def examples(
    series: EncodedSeries,
    tokenizer: TsfLlmTokenizer,
    *,
    context_length: int,
    horizon: int,
    stride: int,
    head: Head,
    kind: Kind,
    after: Any = None,
) -> dict[str, np.ndarray] | None:
    """All windows of one ticker whose labels lie behind `after`; None if there is none."""
    is_label = np.ones(len(series.close), bool)
    if after is not None:
        is_label = series.timestamp > day_end(after).to_datetime64()
    origins = series.origins()
    origins = origins[origins + horizon < len(is_label)]
    origins = origins[is_label[origins + 1]]
    origins = origins[origins % stride == stride - 1]
    if not len(origins):
        return None
    window = series.windows(origins, context_length)
    rows = origins[:, None] + np.arange(1, horizon + 1)
    ahead = series.log_return[rows] / series.sigma[origins][:, None]
    if head != "causal_lm":
        return {**window, "labels": head_labels(ahead, head)}
    context = origins[:, None] - np.arange(context_length)[::-1]
    usable = (window["attention_mask"] > 0) & is_label[np.maximum(context, 0)]
    usable[:, 1:] &= window["attention_mask"][:, :-1] > 0  # the bar before is the one that predicts
    usable[:, 0] = False
    tokens = tokenizer.encode_returns(series.standard_return())[np.maximum(context, 0)]
    labels = np.where(usable, tokens, -100)
    told = {**window, **token_labels(tokenizer, labels, window["attention_mask"], ahead)}
    if tokenizer.law_edges:
        laws = law_labels(series, tokenizer, kind, is_label)[np.maximum(context, 0)]
        told["law_labels"] = np.where(window["attention_mask"][..., None] > 0, laws, -100)
    if series.ohlc is not None and series.volume is not None:
        bars, sigma = (series.ohlc, series.volume), series.sigma
        parts = own_parts(*bars, sigma)[np.maximum(context, 0)]
        told |= bar_targets(parts, usable, parts_ahead(*bars, mean_volume(series.volume), sigma, rows))
    return told


def lazy_dataset(
    series: Sequence[EncodedSeries], extractor: TsfLlmFeatureExtractor, *, stride: int, after: Any, through: Any
) -> Any:
    """A `datasets.Dataset` of the windows of a model in series form, cut when they are read; it holds their places, in
    the column `labels`, which `Trainer` keeps.

    Raises:
        ImportError: datasets is not installed.
        ValueError: no window has its labels in (after, through].
    """
    try:
        from datasets import Dataset
    except ImportError as error:
        raise ImportError("training_dataset makes a datasets.Dataset: pip install datasets") from error
    length, horizon = extractor.context_length, extractor.steps_ahead
    assert horizon is not None
    first = np.cumsum([0, *(len(one.close) for one in series)])
    origins = []
    for one, start in zip(series, first, strict=False):
        rows = one.origins()
        rows = rows[(rows + horizon < len(one.close)) & (rows % stride == stride - 1)]
        if after is not None:
            rows = rows[one.timestamp[rows + 1] > day_end(after).to_datetime64()]
        origins.append(rows + start)
    if not any(map(len, origins)):
        raise ValueError(
            f"no window of {horizon} step(s) has its labels in (after={after}, through={through}]: move the dates or "
            "give more history"
        )
    ahead, places = Ahead.of(series, extractor), np.concatenate(origins)
    features, observed, sigma = (
        np.concatenate([getattr(one, name) for one in series]) for name in ("features", "observed", "sigma")
    )
    usual = np.repeat([usual_deviation(one.close, slice(None)) for one in series], np.diff(first))

    def cut(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        rows = places[np.asarray(batch["labels"])]
        context = rows[:, None] - np.arange(length)[::-1]
        mask = (context >= ahead.steps.start[rows, None]) & observed[np.maximum(context, 0)]
        values = np.where(mask[..., None], features[np.maximum(context, 0)], np.float32(0))
        window = {"past_values": values, "attention_mask": mask.astype(np.int64)}
        told = ahead.examples(rows, mask, sigma[rows], usual[rows])
        return {name: torch.from_numpy(array) for name, array in {**window, **told}.items()}

    return Dataset.from_dict({"labels": np.arange(len(places))}).with_transform(cut)


def dataset_of(parts: Sequence[dict[str, np.ndarray]]) -> Any:
    """A `datasets.Dataset` of examples, in torch's format.

    Raises:
        ImportError: datasets is not installed.
    """
    try:
        from datasets import Array2D, Dataset, Features, Value
        from datasets import Sequence as ListOf
    except ImportError as error:
        raise ImportError("training_dataset makes a datasets.Dataset: pip install datasets") from error
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    kinds = {
        name: Array2D(array.shape[1:], str(array.dtype)) if array.ndim == 3 else ListOf(Value(str(array.dtype)))
        for name, array in arrays.items()
    }
    return Dataset.from_dict(arrays, features=Features(kinds)).with_format("torch")


__all__ = ["examples"]
