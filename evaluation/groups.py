"""Where a model is better and where not: CRPS by ticker, by year, by volatility, with and without the crash of 2020.

* A group is chosen by what is known at the origin, but for the crash, which also takes in outcomes that fall into it.
* Volatility is that of the ticker at the origin beside the ticker's own at its other origins of the window, in thirds:
  so each ticker is in each third, and "high" is a time and not a kind of ticker. The thirds are those of the window,
  later dates included: no forecast reads them, and cut points of the past would leave one group empty in a year that
  is all calm.
"""

from typing import Any

import numpy as np
import pandas as pd

from .scores import skill
from .walk_forward import WalkForward

THIRDS = ("low", "middle", "high")
CRASH = (np.datetime64("2020-02-20"), np.datetime64("2020-06-01"))  # from, until before


def groups(walk: WalkForward) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each way to divide the forecasts, by the name of the group: mean CRPS at the last step under each model's
    name, `n` and `dates` of the group, and `skill` of the model against each baseline.
    """
    losses = pd.DataFrame({name: walk.crps(name) for name in walk.steps[-1]})
    return {by: _table(losses, labels, walk.origin) for by, labels in _labels(walk).items()}


def _labels(walk: WalkForward) -> dict[str, pd.Categorical]:
    """The group of each forecast, `[n]`, by the ways that divide them."""
    labels = {"ticker": walk.ticker, "year": pd.DatetimeIndex(walk.origin).year.astype(str)}
    if walk.sigma is not None:
        own = pd.Series(walk.sigma).groupby(walk.ticker)
        third = np.ceil(3 * own.rank() / own.transform("count")) - 1
        labels["volatility"] = pd.Categorical.from_codes(third.fillna(-1).astype(int), THIRDS)
    until = walk.origin if walk.due is None else walk.due
    crash = (walk.origin < CRASH[1]) & (until >= CRASH[0])
    if crash.any() and not crash.all():
        labels["period"] = np.where(crash, "crash of 2020", "without the crash of 2020")
    return {by: pd.Categorical(names) for by, names in labels.items()}


def _table(losses: pd.DataFrame, labels: pd.Categorical, origin: np.ndarray) -> dict[str, dict[str, Any]]:
    means = losses.groupby(labels, observed=True).mean()
    counts = pd.Series(origin).groupby(labels, observed=True).agg(["size", "nunique"])
    return {
        str(name): {
            **(row := {model: float(mean) for model, mean in means.loc[name].items()}),
            "n": int(n),
            "dates": int(dates),
            "skill": {other: skill({"crps": row["model"]}, {"crps": row[other]}) for other in means.columns[1:]},
        }
        for name, n, dates in counts.itertuples()
    }
