"""The laws of a causal model at every bar of a stretch of dates, scored by horizon. Cheap: each pass answers for many.

Design choices:
* Windows overlap by half, and the later half of each is scored: every bar once, with half a context at least.
* A horizon is scored where its outcome is known. CRPS is in log returns (differences), so that models with other bins
  or another volatility compare.
* Beside it stands a normal law with the volatility known at the bar, times the square root of the horizon: what is
  saved against it lets years of other volatility count alike.

Shapes: n windows, T bars, L later half, B bars scored.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..common.inference import evaluating
from ..feature_extraction_tsf_llm import EncodedSeries
from ..processing_tsf_llm import TsfLlmProcessor
from .distributions import Gaussian, Piecewise

AT_ONCE = 32  # windows


@torch.inference_mode()
def law_figures(
    model: Any, processor: TsfLlmProcessor, series: Sequence[EncodedSeries], *, start: Any, end: Any
) -> dict[int, dict[str, Any]]:
    """Of each horizon: `crps`, `saved` (share of the normal law's CRPS), `coverage_80`, and `n` outcomes on `days`.

    `series` must end with `end`, for outcomes are read as far as there are bars.

    Raises:
        ValueError: no outcome of a horizon lies between the dates.
    """
    horizons = [1, *model.config.far_horizons]
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {h: [] for h in horizons}
    with evaluating(model):
        for one in series:
            sigma = one.sigma if one.calm is None else one.calm
            rows = one.origins(start, end)
            for windows, bars in _windows(one, rows, processor.feature_extractor.context_length):
                for h, shares in zip(horizons, _shares(model, processor, windows), strict=True):
                    found = np.isin(bars, rows) & (bars + h < len(one.close))
                    at = bars[found]
                    outcome = processor.kind.change(one.close[at + h], one.close[at])
                    known = np.isfinite(outcome)
                    at, outcome, unit = at[known], outcome[known], sigma[at[known]] * np.sqrt(h)
                    law = Piecewise.of_bins(shares[found][known], processor.tokenizer.edges_of(h), unit)
                    normal = Gaussian(np.zeros(len(at)), unit).crps(outcome)
                    parts[h].append((one.timestamp[at], law.crps(outcome), normal, law.cdf(outcome)))
    if empty := [h for h, found in parts.items() if not sum(len(stamps) for stamps, *_ in found)]:
        raise ValueError(f"no outcome {empty[0]} bars ahead lies between {start} and {end}: give other dates")
    return {
        h: _figures(*(np.concatenate(columns) for columns in zip(*found, strict=True))) for h, found in parts.items()
    }


def _windows(one: EncodedSeries, rows: np.ndarray, length: int) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Some windows at a time, `[n,T]`, and the bars that are scored in them, `[n,L]`; -1 before the first."""
    half = (length + 1) // 2
    ends = np.arange(rows[-1], rows[0] - 1, -half) if len(rows) else rows
    for some in (ends[i : i + AT_ONCE] for i in range(0, len(ends), AT_ONCE)):
        bars = some[:, None] - np.arange(half)[::-1]
        yield one.windows(some, length), np.maximum(bars, -1)


def _shares(model: Any, processor: TsfLlmProcessor, windows: dict[str, np.ndarray]) -> Iterator[np.ndarray]:
    """Of each horizon: the bins' probabilities at the later half, float64 `[n,L,bins]`."""
    tokens, half = processor.tokenizer, (windows["attention_mask"].shape[1] + 1) // 2
    inputs = {name: torch.from_numpy(values).to(model.device) for name, values in windows.items()}
    inputs["input_ids"] = torch.full_like(inputs["attention_mask"], tokens.bar_token_id)
    answer = model(**inputs, use_cache=False)
    laws = () if answer.law_logits is None else answer.law_logits[:, -half:].unbind(-2)
    for logits in (answer.logits[:, -half:, : tokens.n_bins], *laws):
        yield logits.double().softmax(-1).cpu().numpy()


def _figures(stamps: np.ndarray, crps: np.ndarray, normal: np.ndarray, pit: np.ndarray) -> dict[str, Any]:
    return {
        "crps": float(crps.mean()),
        "saved": float(1 - crps.mean() / normal.mean()),
        "coverage_80": float(((pit >= 0.1) & (pit <= 0.9)).mean()),
        "n": len(crps),
        "days": len(np.unique(stamps)),
    }
