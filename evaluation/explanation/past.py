"""Which past bars a forecast rests on: what is lost when they are hidden, beside what attention looks at.

Attention is where the last query looks, not what it makes of it; occlusion is what counts. A model in series form is
read at all its positions, which are patches: there it is where all queries look, and the bars of a patch share alike.

Shapes: n windows, T bars of each, H heads.
"""

from typing import Any

import numpy as np
import torch

from .importance import increase
from .probe import WINDOWS_AT_ONCE, Probe


def lag_blocks(length: int) -> list[tuple[int, int]]:
    """First and last lag of each block; lag 1 is the bar at the origin.

    >>> lag_blocks(10)
    [(1, 1), (2, 2), (3, 4), (5, 8), (9, 10)]
    """
    ends = [1]
    while ends[-1] < length:
        ends.append(min(2 * ends[-1], length))
    return [(first + 1, last) for first, last in zip([0, *ends], ends, strict=False)]


def past_bars(probe: Probe, seed: int = 0) -> list[dict[str, Any]]:
    """Of each block of lags: how much loss rises when its bars are hidden, and its share of the attention.

    The bar at the origin asks the question and cannot be hidden: its features are set to their training mean, zero.
    """
    values, mask = probe.batch["past_values"], probe.batch["attention_mask"]
    usual, looked, rows = probe.loss(), attention(probe), []
    length = mask.shape[1]
    for first, last in lag_blocks(length):
        block = slice(length - last, length - first + 1)
        hidden, without = mask.clone(), values.clone()
        hidden[:, block] = mask[:, block] if first == 1 else 0
        without[:, block] = 0
        changed = {"past_values": without, "attention_mask": hidden}
        if "past_target" in probe.inputs:
            changed["past_target"] = probe.batch["past_target"].clone()
            changed["past_target"][:, block] = 0
        row = {"first": first, "last": last, **increase(probe, usual, probe.loss(**changed), seed)}
        rows.append({**row, "attention": None if looked is None else float(looked[block].sum())})
    return rows


@torch.inference_mode()
def attention(probe: Probe) -> np.ndarray | None:
    """Mean share of the attention that each bar gets, `[T]`, over windows, layers and heads.

    None for a model that reads bars in a front end, or whose rows do not sum to one: shares of it say nothing.
    """
    model = probe.pipe.model
    before, total, patch = model.config._attn_implementation, 0.0, model.config.patch_length or 1
    model.set_attn_implementation("eager")
    try:
        for i in range(0, len(probe.outcome), WINDOWS_AT_ONCE):
            rows = slice(i, i + WINDOWS_AT_ONCE)
            inputs = {key: probe.batch[key][rows].to(model.device) for key in probe.inputs}
            layers = model(**inputs, output_attentions=True).attentions  # of each layer [b,H,T,T]
            T = inputs["attention_mask"].shape[1]
            if any(layer.shape[-1] != -(-T // patch) for layer in layers):
                return None
            queries = slice(-1, None) if patch == 1 else slice(None)
            looks = torch.stack([layer[:, :, queries].float().mean((1, 2)) for layer in layers]).mean(0).sum(0).cpu()
            total = total + (looks.repeat_interleave(patch) / patch)[-T:]
    finally:
        model.set_attn_implementation(before)
    shares = np.asarray(total) / len(probe.outcome)
    return shares if abs(shares.sum() - 1) < 1e-3 else None
