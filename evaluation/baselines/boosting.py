"""LightGBM's quantiles of the return ahead, from the features that the processor has at the origin.

* One set of trees for all series and for each knot: quantile regression of outcomes in units of sigma * sqrt(step).
* Few leaves, many rows in each, half of the features and rows per tree: returns are noise for the most part. The
  number of trees is that of the least loss on the last year known at the fence, so noise leaves the plain law.
* Bounded and repeatable: no more than `MOST_ROWS` rows, drawn with the panel's seed; the same to the bit for any
  number of threads.
"""

from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np

from ..distributions import Forecast
from .knots import KNOTS, Outcomes, law, unit
from .panel import Panel

MOST_ROWS = 60_000
LAST_YEAR, LAST_SHARE = np.timedelta64(365, "D"), 0.2  # what the number of trees is chosen on: the shorter of them
TREES, PATIENCE = 300, 20
ROWS_PER_LEAF = 0.01  # of the rows
PARAMETERS = {
    "objective": "quantile",
    "learning_rate": 0.05,
    "num_leaves": 8,
    "max_bin": 63,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.5,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}


def lightgbm(panel: Panel, steps: Sequence[int], *, threads: int = 1) -> dict[int, Forecast]:
    """Of a panel of any number of series; refitted at each of its fences, for each step.

    Raises:
        ImportError: without the package.
        ValueError: where too few outcomes are known at a fence.
    """
    if find_spec("lightgbm") is None:
        raise ImportError("lightgbm is not installed: pip install 'tsf-llm[baselines]'")
    return {step: _at_step(panel, step, threads) for step in steps}


def _at_step(panel: Panel, step: int, threads: int) -> Forecast:
    pairs = list(zip(panel.series, panel.rows, strict=True))
    asked = np.concatenate([one.features[rows] for one, rows in pairs])
    outcomes = Outcomes.of(panel.series, step, panel.kind)
    knots = np.empty((len(asked), len(KNOTS)))
    for fence, positions in panel.fences():
        cut = outcomes.cut(fence, LAST_SHARE, LAST_YEAR)
        split = outcomes.split(fence, cut, np.random.default_rng(panel.seed), MOST_ROWS)
        known = [
            (outcomes.apply(panel.series, at, lambda one, rows: one.features[rows]), outcomes.value[at])
            for at in split
        ]
        knots[positions] = fit_predict(*known, asked[positions], panel.seed, threads)
    return law(knots, np.concatenate([unit(one, rows, step) for one, rows in pairs]))


def fit_predict(
    train: tuple[np.ndarray, np.ndarray],
    check: tuple[np.ndarray, np.ndarray],
    asked: np.ndarray,
    seed: int = 0,
    threads: int = 1,
) -> np.ndarray:
    """Quantiles `[n,Q]` of the targets at `KNOTS`, given features `[n,F]`; the pairs are features `[k,F]` and targets
    `[k]` to train on and to stop on."""
    import lightgbm as lgb

    leaf = max(20, int(ROWS_PER_LEAF * len(train[1])))
    parameters = {**PARAMETERS, "min_data_in_leaf": leaf, "seed": seed, "num_threads": threads}
    data = lgb.Dataset(*train, params=parameters, free_raw_data=False)
    last = lgb.Dataset(*check, reference=data, params=parameters, free_raw_data=False)
    columns = []
    for level in KNOTS:
        stop = lgb.early_stopping(PATIENCE, verbose=False)
        trees = lgb.train({**parameters, "alpha": level}, data, TREES, valid_sets=[last], callbacks=[stop])
        columns.append(trees.predict(asked, num_iteration=trees.best_iteration, num_threads=threads))
    return np.stack(columns, axis=1)
