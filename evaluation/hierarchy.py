"""Totals that add up: a summing matrix from labels, and forecasts of all levels reconciled by `hierarchicalforecast`.

* Levels are groups of the bottom series by their labels: `()` is the total, `("store",)` one series per store. All
  levels stand above the bottom one, the series themselves.
* `bottom_up` adds the bottom forecasts and throws the others away. `mint` (MinT, Wickramasuriya, Athanasopoulos and
  Hyndman 2019) weighs all by the covariance of their errors on earlier dates, shrunk; `wls` by their variances alone.
* Means are reconciled. With a deviation of each forecast there are quantiles too, of the normal law of what is
  reconciled: they are those of sums, which quantiles of the parts do not add up to.
* The library (Apache 2.0) is an extra: `pip install 'tsf-llm[hierarchy]'`.

Shapes: A series of all levels, the n bottom ones last; k forecasts (steps, origins) of each; E errors; Q levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
import pandas as pd

METHODS = ("bottom_up", "wls", "mint")
Method = Literal["bottom_up", "wls", "mint"]
FEWEST_ERRORS = 10


@dataclass(frozen=True)
class Hierarchy:
    """Which bottom series each series of all levels is the sum of."""

    names: list[str]  # [A]
    level: np.ndarray  # [A] the level of each, as `store/item`; `total`, and `series` of the bottom
    sums: np.ndarray  # float64 [A,n] of zeros and ones

    @classmethod
    def of(cls, labels: pd.DataFrame, levels: Sequence[Sequence[str]]) -> "Hierarchy":
        """Of the labels of each bottom series (its index) and the columns that make each level.

        >>> shops = pd.DataFrame({"store": ["s1", "s1", "s2"]}, index=["a", "b", "c"])
        >>> Hierarchy.of(shops, [(), ("store",)]).names
        ['total', 's1', 's2', 'a', 'b', 'c']
        """
        if missing := {name for level in levels for name in level} - {*labels}:
            raise ValueError(f"levels name {sorted(missing)}: the labels are {', '.join(map(str, labels))}")
        names, of, rows = list[str](), list[str](), []
        for level in levels:
            keys = labels[list(level)].astype(str).agg("/".join, axis=1) if level else pd.Series("total", labels.index)
            for key in keys.unique():
                names.append(key)
                of.append("/".join(level) or "total")
                rows.append((keys == key).to_numpy(float))
        names += labels.index.astype(str).tolist()
        of += ["series"] * len(labels)
        return cls(names, np.array(of), np.concatenate([np.array(rows).reshape(-1, len(labels)), np.eye(len(labels))]))

    def added(self, bottom: np.ndarray) -> np.ndarray:
        """Values of the bottom `[n,k]` summed at all levels `[A,k]`."""
        return self.sums @ bottom

    def incoherence(self, values: np.ndarray) -> float:
        """How far values `[A,k]` are from the sums of their bottom: mean absolute gap over the mean value above it."""
        upper = self.level != "series"
        gap = np.abs(values - self.added(values[-self.sums.shape[1] :]))[upper]
        return float(gap.mean() / np.abs(values[upper]).mean())


def reconciled(
    hierarchy: Hierarchy,
    forecasts: np.ndarray,
    method: Method,
    *,
    errors: np.ndarray | None = None,
    deviation: np.ndarray | None = None,
    levels: Sequence[int] = (80,),
) -> Mapping[str, np.ndarray]:
    """`mean` `[A,k]` that adds up, from `forecasts` `[A,k]`; where the `deviation` `[A,k]` of each is given, `low`
    and `high` `[A,k,Q]` too, the ends of the central intervals of so many percent.

    `errors` `[A,E]` are outcomes less such forecasts on earlier dates, which `wls` and `mint` weigh by.

    Raises:
        ImportError: without the library.
        ValueError: shapes that do not go together, or too few errors.
    """
    if find_spec("hierarchicalforecast") is None:
        raise ImportError("hierarchicalforecast is not installed: pip install 'tsf-llm[hierarchy]'")
    from hierarchicalforecast.methods import BottomUp, MinTrace

    if method not in METHODS:
        raise ValueError(f"method={method!r}: choose of {', '.join(METHODS)}")
    total = len(hierarchy.names)
    if any(one is not None and len(one) != total for one in (forecasts, errors, deviation)):
        raise ValueError(f"forecasts, errors and deviations must have a row for each of the {total} series")
    if method != "bottom_up" and (errors is None or errors.shape[1] < FEWEST_ERRORS):
        raise ValueError(f"{method} weighs by errors on earlier dates: give {FEWEST_ERRORS} or more of each series")
    made = BottomUp() if method == "bottom_up" else MinTrace("mint_shrink" if method == "mint" else "wls_var")
    past = {} if errors is None else {"y_insample": errors, "y_hat_insample": np.zeros_like(errors)}
    law = {} if deviation is None else {"sigmah": deviation, "level": [*levels], "intervals_method": "normality"}
    if method == "bottom_up":
        past |= {"tags": {"series": np.flatnonzero(hierarchy.level == "series")}}
    found = made.fit_predict(S=hierarchy.sums, y_hat=forecasts, **past, **law)
    told = {"mean": np.asarray(found["mean"])}
    if deviation is not None:
        ends = np.asarray(found["quantiles"])
        told |= {"low": ends[..., : len(levels)][..., ::-1], "high": ends[..., len(levels) :]}
    return told
