"""Whether tickers that move together are ranked better than tickers taken as independent: RPS of return quintiles.

Design choices:
* Both forecasts have the same laws of single tickers, and the same draws of their own: only the common factor of joint
  paths differs (`dependence_tsf_llm.loadings`, `path_uniforms`).
* A law stands here by its 99 quantiles, linear between them; what lies beyond them ranks as the last one.

Shapes: n forecasts, A tickers of a date, K draws.
"""

from typing import Any

import numpy as np
import pandas as pd

from ..pipeline_tsf_llm import path_uniforms
from .distributions import LEVELS
from .every_bar import Outcomes
from .ranking import FEWEST_RANKED, quintiles, ranked_probability_score
from .significance import diebold_mariano

DRAWS = 256


def at_levels(quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Values [A,K] of laws given by quantiles [A,99] at `LEVELS`, at levels [A,K] of their own."""
    place = (levels * 100 - 1).clip(0, len(LEVELS) - 1)
    left = np.minimum(place.astype(int), len(LEVELS) - 2)
    low, high = (np.take_along_axis(quantiles, one, axis=1) for one in (left, left + 1))
    return low + (high - low) * (place - left)


def joint_rps(quantiles: np.ndarray, outcomes: Outcomes, loading: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Mean RPS over dates of joint and of independent draws from laws with quantiles [n,99], and the p-value of their
    difference; None where no date has enough tickers. `loading` [n] is that of each ticker at its origin."""
    order = np.lexsort((outcomes.ticker, outcomes.origin))
    dates, starts = np.unique(outcomes.origin[order], return_index=True)
    scores, scored = [], []
    for date, mine in zip(dates, np.split(order, starts[1:]), strict=True):
        if len(mine) < FEWEST_RANKED:
            continue
        came = quintiles(outcomes.realised[mine, None])
        of_whom = (outcomes.ticker[mine].tolist(), [pd.Timestamp(date)] * len(mine), DRAWS, 1, seed)
        levels = (path_uniforms(*of_whom, one).numpy().reshape(len(mine), DRAWS) for one in (loading[mine], None))
        draws = (at_levels(quantiles[mine], one) for one in levels)
        scores.append([ranked_probability_score(quintiles(one), came).mean() for one in draws])
        scored.append(date)
    if not scores:
        return {"joint": None, "independent": None, "dm_p": None, "days": 0}
    joint, independent = np.array(scores).T
    p = diebold_mariano(joint - independent, np.array(scored), horizon=outcomes.horizon)
    return {"joint": joint.mean().item(), "independent": independent.mean().item(), "dm_p": p, "days": len(scored)}
