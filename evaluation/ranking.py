"""Scores of several numbers at once: return quintiles across tickers, as in the M6 competition, and whole paths.

* On each date the tickers are ranked by what they returned. Rank 1 is the least; the lowest fifth of ranks is quintile
  1. Tickers that tie share the mean of the quintiles that they span.
* A forecast is five probabilities per ticker. Its score is the mean of the five squared differences of cumulative
  probability and outcome: 0 is certain and right, and a fifth everywhere gives 0.16.
* Forecasts of single tickers say nothing of how they move together. Their joint law is taken as independent, which
  puts too much weight on the middle for tickers that move more alike than others. Joint paths (`path_rps`) say it.

Shapes: n forecasts (tickers of all dates), A tickers of one date, K joint draws.
"""

import numpy as np
from scipy import stats

QUINTILES = 5
FEWEST_RANKED = 10  # tickers of a date: two for each quintile
SCORED_PATHS = 64  # whose distances are taken: the first, which are as good as any
DRAWN = 200  # quantiles of a level that a date draws: few tickers draw each several times


def quintiles(values: np.ndarray) -> np.ndarray:
    """Share of each quintile in the ranks of values [A,K] within each column, as the mean over columns, `[A,5]`.

    >>> quintiles(np.array([[0.3], [0.1], [0.2], [0.2], [0.9]])).tolist()[3:]
    [[0.0, 0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0]]
    """
    columns = np.ascontiguousarray(values.T)  # [K,A]
    size = columns.shape[1]
    order = np.argsort(columns, axis=1)
    quintile = QUINTILES * np.arange(size) // size  # of ranks from 1 on
    if (np.diff(np.take_along_axis(columns, order, axis=1), axis=1) > 0).all():
        counts = [np.bincount(order[:, quintile == one].ravel(), minlength=size) for one in range(QUINTILES)]
        return np.stack(counts, axis=1) / len(columns)
    below = np.concatenate([np.zeros((1, QUINTILES)), np.cumsum(np.eye(QUINTILES)[quintile], axis=0)])
    first, last = (stats.rankdata(columns, one, axis=1).astype(int) for one in ("min", "max"))
    return ((below[last] - below[first - 1]) / (last - first + 1)[..., None]).mean(axis=0)


def ranked_probability_score(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Of five probabilities [A,5] per ticker and the `quintiles` [A,5] that came, `[A]`.

    >>> float(ranked_probability_score(np.full((1, 5), 0.2), np.eye(5)[[0]])[0].round(3))
    0.24
    """
    return (np.cumsum(probability - outcome, axis=1) ** 2).mean(axis=1)


def rps(
    quantiles: np.ndarray, realised: np.ndarray, dates: np.ndarray, seed: int = 0
) -> dict[str, float | int | None]:
    """Mean over dates of the score of forecasts given by evenly spaced quantiles [n,L], tickers taken as independent.

    realised [n] are the outcomes. A joint draw takes a quantile of each ticker; all are taken equally often, those of
    each ticker in an order of its own. Dates with fewer than 10 tickers are left out: `rps_dates` counts the others.
    """
    generator, scores = np.random.default_rng(seed), []
    order = np.lexsort((realised, dates))  # whatever order they come in, they meet the same draws
    _, starts = np.unique(dates[order], return_index=True)
    for mine in np.split(order, starts[1:]):
        if len(mine) >= FEWEST_RANKED:
            draws = generator.permuted(np.tile(quantiles[mine], -(-DRAWN // len(mine))), axis=1)
            scores.append(ranked_probability_score(quintiles(draws), quintiles(realised[mine, None])).mean())
    return {"rps": float(np.mean(scores)) if scores else None, "rps_dates": len(scores)}


def path_rps(
    paths: np.ndarray, realised: np.ndarray, dates: np.ndarray, *, joint: bool, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The score of one step of sampled paths [n,K] beside what happened [n]: dates with 10 tickers or more, and the
    mean of each.

    If `joint`, path k of a ticker goes with path k of the others of its date. If not, each ticker's are shuffled: the
    same laws, taken as independent, so that the difference of both is what the joint law is worth.
    """
    if not joint:
        paths = np.random.default_rng(seed).permuted(paths, axis=1)
    found, which = np.unique(dates, return_inverse=True)
    rows = [np.flatnonzero(which == k) for k in range(len(found))]
    kept = [k for k, mine in enumerate(rows) if len(mine) >= FEWEST_RANKED]
    scores = [
        ranked_probability_score(quintiles(paths[rows[k]]), quintiles(realised[rows[k], None])).mean() for k in kept
    ]
    return found[kept], np.array(scores)


def energy_scores(paths: np.ndarray, realised: np.ndarray) -> np.ndarray:
    """E|X - y| - E|X - X'| / 2 of paths [n,K,P] beside what happened [n,P], over all steps at once, `[n]`.

    The unbiased estimate of Gneiting and Raftery (2007, equation 22); with one step it is the CRPS of `Samples`.

    >>> energy_scores(np.array([[[0.0, 0.0], [3.0, 4.0]]]), np.array([[0.0, 0.0]])).tolist()
    [0.0]
    """
    paths = paths[:, :SCORED_PATHS]
    count = paths.shape[1]
    apart = np.linalg.norm(paths[:, :, None] - paths[:, None], axis=-1).sum(axis=(1, 2)) / (count * (count - 1))
    return np.linalg.norm(paths - realised[:, None], axis=-1).mean(axis=1) - apart / 2
