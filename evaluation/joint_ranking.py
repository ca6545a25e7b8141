"""Whether tickers that move together are ranked better than tickers taken as independent: RPS of return quintiles.

Design choices:
* Both forecasts have the same laws of single tickers, and the same draws of their own: only one common factor differs.
* u = Phi(b z + sqrt(1 - b^2) e), with e of the ticker, z of the date, and b the correlation of the ticker's last 250
  returns with the mean of all, known at the origin. With 60, b is noise enough to lose what the factor gains.
* A law stands here by its 99 quantiles, linear between them; what lies beyond them ranks as the last one.

Shapes: n forecasts, A tickers of a date, K draws, W returns of the past, D dates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import path_uniforms
from .distributions import LEVELS
from .every_bar import Outcomes
from .ranking import FEWEST_RANKED, quintiles, ranked_probability_score
from .significance import diebold_mariano

WINDOW, FEWEST = 250, 60  # returns
DRAWS = 256
SMALLEST = 1e-9  # level


def factor_loadings(returns: np.ndarray) -> np.ndarray:
    """Correlation of each ticker's returns [W,A] with the mean of all, `[A]`; 0 for one that does not move."""
    centred = returns - returns.mean(axis=0)
    mean = centred.mean(axis=1)
    scale = np.sqrt((centred**2).sum(axis=0) * (mean @ mean))
    return np.divide(mean @ centred, scale, out=np.zeros(len(scale)), where=scale > 0).clip(-1, 1)


def together(uniforms: np.ndarray, loadings: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Independent uniform numbers [A,K], moved by one factor `common` [K] of standard normal ones: `[A,K]`."""
    return ndtr(loadings[:, None] * common + np.sqrt(1 - loadings[:, None] ** 2) * ndtri(uniforms))


def at_levels(quantiles: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Values [A,K] of laws given by quantiles [A,99] at `LEVELS`, at levels [A,K] of their own."""
    place = (uniforms * 100 - 1).clip(0, len(LEVELS) - 1)
    left = np.minimum(place.astype(int), len(LEVELS) - 2)
    low, high = (np.take_along_axis(quantiles, one, axis=1) for one in (left, left + 1))
    return low + (high - low) * (place - left)


def joint_rps(
    quantiles: np.ndarray, outcomes: Outcomes, series: Sequence[EncodedSeries], *, seed: int = 0
) -> dict[str, Any]:
    """Mean RPS over dates of joint and of independent draws from laws with quantiles [n,99], and the p-value of their
    difference; None where no date has enough tickers."""
    returns = pd.DataFrame({one.ticker: pd.Series(one.log_return, one.timestamp) for one in series}).sort_index()
    times, moves = returns.index.to_numpy(), returns.fillna(0.0)
    order = np.lexsort((outcomes.ticker, outcomes.origin))
    dates, starts = np.unique(outcomes.origin[order], return_index=True)
    scores, scored = [], []
    for date, mine in zip(dates, np.split(order, starts[1:]), strict=True):
        last = np.searchsorted(times, date, side="right")
        if len(mine) < FEWEST_RANKED or last < FEWEST:
            continue
        tickers = outcomes.ticker[mine].tolist()
        past, came = moves[tickers].to_numpy()[max(last - WINDOW, 0) : last], quintiles(outcomes.realised[mine, None])
        own, common = (_uniforms(names, date, seed) for names in (tickers, [""]))
        levels = (together(own, factor_loadings(past), ndtri(common)), own)
        draws = (at_levels(quantiles[mine], one) for one in levels)
        scores.append([ranked_probability_score(quintiles(one), came).mean() for one in draws])
        scored.append(date)
    if not scores:
        return {"joint": None, "independent": None, "dm_p": None, "days": 0}
    joint, independent = np.array(scores).T
    p = diebold_mariano(joint - independent, np.array(scored), horizon=outcomes.horizon)
    return {"joint": joint.mean().item(), "independent": independent.mean().item(), "dm_p": p, "days": len(scored)}


def _uniforms(names: Sequence[str], date: np.datetime64, seed: int) -> np.ndarray:
    """Those of the first step of paths from this date, `[A,K]`, strictly within 0 and 1."""
    drawn = path_uniforms(names, [pd.Timestamp(date)] * len(names), DRAWS, 1, seed)
    return drawn.numpy().reshape(len(names), DRAWS).clip(SMALLEST, 1 - SMALLEST)
