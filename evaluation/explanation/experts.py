"""Which experts answer in which regime, and whether that is more than chance.

Design choices:
* A window counts at its last position, from which the forecast is read: the share of the chosen slots of each expert.
* Regimes are of dates, known at the origin: terciles of volatility (each ticker against its own mean), trend (the sign
  of the mean return over the last bars), weekday. So the test permutes dates and never takes tickers of one date for
  independent.
* Volatility and trend last, and so may routing: their dates are permuted in ten blocks or so. The weekdays of daily
  bars do not.
* There are many experts and layers. The p-value of each is against the largest statistic of all (Westfall and Young
  1993, max-T), so that one at 5 % means one chance in twenty that any is found where there is nothing.

Shapes: n windows, D dates, L layers, E experts, K experts of a token, C = L x E columns.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from ...experts_tsf_llm import TsfLlmMoE
from ..significance import FEWEST_DATES, block_length
from .probe import Probe

PERMUTATIONS = 999
BLOCKS = 10
FEWEST_IN_REGIME = 3  # dates
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ORDER = ("calm", "middle", "wild", "down", "up", *WEEKDAYS)


def experts_by_regime(probe: Probe, seed: int = 0) -> dict[str, Any] | None:
    """Shares of the experts of each layer overall and in each regime, and a p-value of each; None without experts."""
    shares_LnE = routing(probe)
    if not shares_LnE:
        return None
    layers = list(shares_LnE)
    by_date, dates = _means(np.concatenate([*shares_LnE.values()], axis=1), probe.dates)
    experts = shares_LnE[layers[0]].shape[1]
    answer: dict[str, Any] = {"layers": layers, "shares": _layers(by_date.mean(axis=0), experts), "regimes": []}
    for name, labels in regimes(probe, dates).items():
        known = np.array([label is not None for label in labels])
        values, found = by_date[known], np.array([label for label in labels if label is not None])
        block = (
            1
            if name == "weekday" and _are_days(dates)
            else max(len(values) // BLOCKS, block_length(max(len(values), 1), 1))
        )
        p = adjusted_p(values, found, block=block, seed=seed)
        labels_there = sorted({*found.tolist()}, key=ORDER.index)
        means = {label: _layers(values[found == label].mean(axis=0), experts) for label in labels_there}
        count = {label: int((found == label).sum()) for label in means}
        adjusted = None if p is None else _layers(p, experts)
        answer["regimes"].append({"name": name, "dates": count, "shares": means, "p": adjusted})
    return answer


def _are_days(dates: np.ndarray) -> bool:
    """Whether each lies on a day of its own."""
    return len(np.unique(dates.astype("datetime64[D]"))) == len(dates)


def _layers(columns: np.ndarray, experts: int) -> list[list[float]]:
    return [[float(value) for value in row] for row in columns.reshape(-1, experts)]


@torch.inference_mode()
def routing(probe: Probe) -> dict[str, np.ndarray]:
    """Of each layer with experts: the share of the chosen slots of each expert at the last position, `[n,E]`."""
    blocks = {name: one for name, one in probe.pipe.model.named_modules() if isinstance(one, TsfLlmMoE)}
    shares: dict[str, list[np.ndarray]] = {name: [] for name in blocks}

    def watch(name: str):
        def keep(module: Any, inputs: Any, output: Any) -> None:
            logits_bE, _, index_bK = module.gate(inputs[0][:, -1])
            one_hot = torch.nn.functional.one_hot(index_bK, logits_bE.shape[-1])
            shares[name].append(one_hot.double().mean(dim=1).cpu().numpy())

        return keep

    hooks = [module.register_forward_hook(watch(name)) for name, module in blocks.items()]
    try:
        if blocks:
            probe.law()
    finally:
        for hook in hooks:
            hook.remove()
    numbers = {name: next(part for part in name.split(".") if part.isdecimal()) for name in blocks}
    return {f"layer {int(numbers[name]) + 1}": np.concatenate(parts) for name, parts in shares.items()}


def regimes(probe: Probe, dates: np.ndarray) -> dict[str, list[str | None]]:
    """The regime of each date, None where it is unknown."""
    sigma = np.maximum(probe.sigma, np.finfo(float).tiny)
    frame = pd.DataFrame({"ticker": probe.batch["ticker"], "date": probe.dates, "trend": probe.trend / sigma})
    frame["sigma"] = np.log(sigma)
    frame["sigma"] -= frame.groupby("ticker")["sigma"].transform("mean")
    means = frame.groupby("date")[["sigma", "trend"]].mean().reindex(dates)
    tercile = np.searchsorted(np.nanquantile(means["sigma"], [1 / 3, 2 / 3]), means["sigma"])
    weekday = pd.DatetimeIndex(dates).day_of_week
    return {
        "volatility": [("calm", "middle", "wild")[i] for i in tercile],
        "trend": [None if np.isnan(x) or x == 0 else "up" if x > 0 else "down" for x in means["trend"]],
        "weekday": [WEEKDAYS[i] for i in weekday],
    }


def _means(values: np.ndarray, dates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of values [n,C] of each date, `[D,C]`, and the dates."""
    unique, day = np.unique(dates, return_inverse=True)
    sums = np.zeros((len(unique), values.shape[1]))
    np.add.at(sums, day, values)
    return sums / np.bincount(day)[:, None], unique


def adjusted_p(values: np.ndarray, labels: np.ndarray, *, block: int, seed: int = 0) -> np.ndarray | None:
    """Of each column of values [D,C]: the p-value that its mean is the same whatever the label, adjusted for all.

    The statistic is the share of a column's variance that lies between labels. Labels are permuted in blocks of dates
    after a random turn. None where there are too few dates or labels, so that there is nothing to test.
    """
    names, which = np.unique(labels, return_inverse=True)
    if len(values) < FEWEST_DATES or len(names) < 2 or np.bincount(which).min() < FEWEST_IN_REGIME:
        return None
    centred = values - values.mean(axis=0)
    scale = centred.std(axis=0)
    standard = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 1e-12)
    one_hot = np.eye(len(names))[which]  # [D,G]
    generator = np.random.default_rng(seed)

    def between(rows: np.ndarray) -> np.ndarray:
        return ((rows.T @ standard) ** 2 / one_hot.sum(axis=0)[:, None]).sum(axis=0) / len(standard)

    observed, exceeded = between(one_hot), np.ones(values.shape[1])
    for _ in range(PERMUTATIONS):
        turned = np.roll(one_hot, generator.integers(len(one_hot)), axis=0)
        blocks = [turned[i : i + block] for i in range(0, len(turned), block)]
        permuted = np.concatenate([blocks[i] for i in generator.permutation(len(blocks))])
        exceeded += between(permuted).max() >= observed - 1e-12
    return exceeded / (PERMUTATIONS + 1)
