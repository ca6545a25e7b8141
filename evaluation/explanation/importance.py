"""Which features a model's forecasts rest on: what it loses when one is another window's.

Design choices:
* Permutation (Breiman 2001): a column's whole history in a window is replaced by that of another scored window, so
  what the model sees is a history that there was, only not this one's.
* Correlated features stand in for one another, and each alone then seems worth nothing. Groups come first therefore:
  all columns of a group are taken from the same window.
* An increase of loss that is less than chance says nothing: intervals are over dates.

Shapes: n windows, T bars of each, F features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ...indicators_tsf_llm import FEATURES
from ...series_tsf_llm import series_table
from ..significance import mean_interval
from .probe import Probe

Columns = str | list[int]  # an input of the series form, or columns of `past_values`
INPUTS = {  # of the series form, as the page calls them
    "past_target": "past values",
    "season_values": "seasons ahead",
    "ahead_values": "known ahead",
    "static_ids": "static covariates",
}


def group_of(name: str, seasons: Sequence[int] = ()) -> str:
    """The group of a feature; covariates make one. Plain series may have these seasons.

    >>> group_of("rsi_14"), group_of("known:holiday+1"), group_of("season_7", [7])
    ('oscillators', 'covariates', 'seasons')
    """
    if name in FEATURES:
        return FEATURES[name].group
    if name.startswith(("past:", "known:")):
        return "covariates"
    table = series_table(seasons)
    return table[name].group if name in table else "series"


def groups_of(names: Sequence[str], seasons: Sequence[int] = ()) -> dict[str, list[int]]:
    """Columns of each group, in the table's order."""
    columns: dict[str, list[int]] = {}
    for column, name in enumerate(names):
        columns.setdefault(group_of(name, seasons), []).append(column)
    return columns


def parts_of(probe: Probe) -> dict[str, Columns]:
    """The inputs of the series form, and the groups of a model's features."""
    extractor = probe.pipe.processor.feature_extractor
    inputs = {told: name for name, told in INPUTS.items() if name in probe.inputs and probe.batch[name].numel()}
    return {**inputs, **groups_of(extractor.names, extractor.seasons or ())}


def permutation_importance(
    probe: Probe, *, repeats: int, seed: int = 0, features: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """`groups` and, if asked for, `features`, each from the most important on: how much loss rises when the columns
    are permuted."""
    names = list(probe.pipe.processor.feature_extractor.names)
    groups = parts_of(probe)
    member = {column: group for group, found in groups.items() for column in found if not isinstance(found, str)}
    columns: dict[tuple[str, str], Columns] = {("groups", name): found for name, found in groups.items()}
    columns |= {("features", name): [column] for column, name in enumerate(names if features else [])}
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(probe.outcome)) for _ in range(repeats)]
    usual, rows = probe.loss(), []
    for (what, name), which in tqdm(columns.items(), desc="features", unit="column", disable=None, leave=False):
        losses = np.mean([probe.loss(**changed(probe, which, order)) for order in orders], axis=0)
        row = {"name": name, **increase(probe, usual, losses, seed)}
        size = 1 if isinstance(which, str) else len(which)
        told = {"features": size} if what == "groups" else {"group": member[which[0]]}  # type: ignore[index]
        rows.append((what, {**row, **told}))
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


def changed(probe: Probe, part: Columns, order: np.ndarray) -> dict[str, torch.Tensor]:
    """The input that has this part, which is that of other windows."""
    if not isinstance(part, str):
        return {"past_values": permuted(probe, part, order)}
    others = probe.batch[part][torch.as_tensor(order)]
    return {part: others * probe.batch["attention_mask"] if part == "past_target" else others}


def without(probe: Probe, part: Columns) -> dict[str, torch.Tensor]:
    """The input that has this part, with zeros there: the training mean of a feature, the value at the origin, an
    unknown category."""
    name = part if isinstance(part, str) else "past_values"
    values = probe.batch[name].clone()
    values[..., slice(None) if isinstance(part, str) else part] = 0
    return {name: values}


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
    """Of each ticker's last bar: the forecast, and what it would be `without` a group."""
    groups: dict[str | None, Columns] = {None: [], **parts_of(last)}
    rows = []
    for name, columns in groups.items():
        low, median, high = last.law(**without(last, columns)).quantile([0.1, 0.5, 0.9]).T
        for i, (ticker, origin) in enumerate(zip(last.batch["ticker"], last.batch["origin"], strict=True)):
            row = {"ticker": ticker, "origin": str(origin), "without": name}
            rows.append({**row, "median": float(median[i]), "q10": float(low[i]), "q90": float(high[i])})
    return sorted(rows, key=lambda row: row["ticker"])
