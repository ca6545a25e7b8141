"""The laws of a causal model at every bar of a stretch of dates, scored by horizon. Cheap: each pass answers for many.

Design choices:
* Windows overlap by half, and the later half of each is scored: every bar once, with half a context at least.
* `window_logits` is how all of this room reads several bars from one window; `every_bar.py` does with fewer bars each.
* A horizon is scored where its outcome is known. CRPS is in log returns (differences), so that models with other bins
  or another volatility compare.
* Beside it stands a normal law with the volatility known at the bar, times the square root of the horizon: what is
  saved against it lets years of other volatility count alike.

Shapes: n bars scored, w windows, T bars of a window, S of them read, H far horizons.
"""

from collections.abc import Sequence
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
    horizons, half = [1, *model.config.far_horizons], (processor.feature_extractor.context_length + 1) // 2
    parts: dict[int, list[tuple[np.ndarray, ...]]] = {h: [] for h in horizons}
    with evaluating(model):
        for one in series:
            rows, sigma = one.origins(start, end), one.sigma if one.calm is None else one.calm
            if not len(rows):
                continue
            logits = window_logits(model, processor, one, rows, half)
            for h, mine in zip(horizons, logits.unbind(1), strict=True):
                at = rows[rows + h < len(one.close)]
                outcome = processor.kind.change(one.close[at + h], one.close[at])
                known = np.isfinite(outcome)
                shares = mine[: len(at)][known].double().softmax(-1).numpy()
                at, outcome, unit = at[known], outcome[known], sigma[at[known]] * np.sqrt(h)
                law = Piecewise.of_bins(shares, processor.tokenizer.edges_of(h), unit)
                normal = Gaussian(np.zeros(len(at)), unit).crps(outcome)
                parts[h].append((one.timestamp[at], law.crps(outcome), normal, law.cdf(outcome)))
    if empty := [h for h, found in parts.items() if not sum(len(stamps) for stamps, *_ in found)]:
        raise ValueError(f"no outcome {empty[0]} bars ahead lies between {start} and {end}: give other dates")
    return {
        h: _figures(*(np.concatenate(columns) for columns in zip(*found, strict=True))) for h, found in parts.items()
    }


@torch.inference_mode()
def window_logits(
    model: Any, processor: TsfLlmProcessor, one: EncodedSeries, rows: np.ndarray, per_window: int
) -> torch.Tensor:
    """Of the bins of the next bar and of the far horizons, at increasing `rows` of a series, `[n,1+H,bins]`, on the
    CPU. Windows end `per_window` bars apart, the last of them at the last row, and their last bars are read."""
    tokens, length = processor.tokenizer, processor.feature_extractor.context_length
    ends = np.arange(rows[-1], rows[0] - 1, -per_window)[::-1]
    parts = []
    for some in (ends[i : i + AT_ONCE] for i in range(0, len(ends), AT_ONCE)):
        inputs = {name: torch.from_numpy(it).to(model.device) for name, it in one.windows(some, length).items()}
        inputs["input_ids"] = torch.full_like(inputs["attention_mask"], tokens.bar_token_id)
        out = model(**inputs, use_cache=False, logits_to_keep=per_window)
        nearest = out.logits[..., None, : tokens.n_bins]  # [w,S,1,bins]
        parts.append((nearest if out.law_logits is None else torch.cat((nearest, out.law_logits), dim=2)).cpu())
    return torch.cat(parts).flatten(0, 1)[torch.from_numpy(rows - (ends[0] - per_window + 1))]


def _figures(stamps: np.ndarray, crps: np.ndarray, normal: np.ndarray, pit: np.ndarray) -> dict[str, Any]:
    return {
        "crps": float(crps.mean()),
        "saved": float(1 - crps.mean() / normal.mean()),
        "coverage_80": float(((pit >= 0.1) & (pit <= 0.9)).mean()),
        "n": len(crps),
        "days": len(np.unique(stamps)),
    }
