"""Which features a model's forecasts rest on: what it loses when one is another window's.

Design choices:
* Permutation (Breiman 2001): a column's whole history in a window is replaced by that of another scored window, so
  what the model sees is a history that there was, only not this one's.
* Correlated features stand in for one another, and each alone then seems worth nothing. Groups come first therefore:
  all columns of a group are taken from the same window.
* An increase of loss that is less than chance says nothing: intervals are over dates.

Shapes: n windows, T bars of each, F features.
"""

from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...indicators_tsf_llm import FEATURES
from ..significance import mean_interval
from .probe import Probe


def group_of(name: str) -> str:
    """The group of a feature; covariates make one, and what is computed of plain series another.

    >>> group_of("rsi_14"), group_of("known:holiday+1"), group_of("lag_1")
    ('oscillators', 'covariates', 'series')
    """
    if name in FEATURES:
        return FEATURES[name].group
    return "covariates" if name.startswith(("past:", "known:")) else "series"


def groups_of(names: list[str]) -> dict[str, list[int]]:
    """Columns of each group, in the table's order."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(group_of(name), []).append(column)
    return columns


def permutation_importance(
    probe: Probe, *, repeats: int, seed: int = 0, features: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """`groups` and, if asked for, `features`, each from the most important on: how much loss rises when the columns
    are permuted."""
    names = list(probe.pipe.processor.feature_extractor.names)
    groups = groups_of(names)
    columns = {("groups", name): found for name, found in groups.items()}
    columns |= {("features", name): [column] for column, name in enumerate(names if features else [])}
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(probe.outcome)) for _ in range(repeats)]
    usual, rows = probe.loss(), []
    for (what, name), which in tqdm(columns.items(), desc="features", unit="column", disable=None, leave=False):
        losses = np.mean([probe.loss(permuted(probe, which, order)) for order in orders], axis=0)
        row = {"name": name, **increase(probe, usual, losses, seed)}
        rows.append((what, {**row, "features": len(which)} if what == "groups" else {**row, "group": group_of(name)}))
    return {
        key: sorted((row for what, row in rows if what == key), key=lambda row: -row["increase"])
        for key in ("groups", "features")
    }


def permuted(probe: Probe, columns: list[int], order: np.ndarray) -> torch.Tensor:
    """`past_values` whose columns are those of other windows; a missing bar stays missing."""
    values = probe.batch["past_values"].clone()
    seen = probe.batch["attention_mask"].to(values.dtype)[..., None]
    values[..., columns] = values[torch.as_tensor(order)][..., columns] * seen
    return values


def increase(probe: Probe, usual: np.ndarray, losses: np.ndarray, seed: int) -> dict[str, Any]:
    """How much the mean loss rises, in its units and in percent of the usual loss, with an interval over dates."""
    more = losses - usual
    interval = mean_interval(more, probe.dates, horizon=probe.horizon, seed=seed)
    percent = 100 / float(usual.mean())
    return {
        "increase": float(more.mean()),
        "percent": float(more.mean()) * percent,
        "percent_ci95": None if interval is None else [end * percent for end in interval],
    }


def last_forecasts(last: Probe) -> list[dict[str, Any]]:
    """Of each ticker's last bar: the forecast, and what it would be with a group at its training mean, zero."""
    groups, rows = groups_of(list(last.pipe.processor.feature_extractor.names)), []
    for name, columns in {None: [], **groups}.items():
        values = last.batch["past_values"].clone()
        values[..., columns] = 0
        low, median, high = last.law(values).quantile([0.1, 0.5, 0.9]).T
        for i, (ticker, origin) in enumerate(zip(last.batch["ticker"], last.batch["origin"], strict=True)):
            row = {"ticker": ticker, "origin": str(origin), "without": name}
            rows.append({**row, "median": float(median[i]), "q10": float(low[i]), "q90": float(high[i])})
    return sorted(rows, key=lambda row: row["ticker"])
