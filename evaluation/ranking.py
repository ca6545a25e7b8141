"""Scores of several numbers at once: return quintiles across tickers, as in the M6 competition, and whole paths.

* On each date the tickers are ranked by what they returned. Rank 1 is the least; the lowest fifth of ranks is quintile
  1. Tickers that tie share the mean of the quintiles that they span.
* A forecast is five probabilities per ticker. Its score is the mean of the five squared differences of cumulative
  probability and outcome: 0 is certain and right, and a fifth everywhere gives 0.16.
* Forecasts of single tickers say nothing of how they move together. Their joint law is taken as independent, which
  puts too much weight on the middle for tickers that move more alike than others. `joint_ranking.py` ties them.

Shapes: n forecasts (tickers of all dates), A tickers of one date, K joint draws.
"""

from dataclasses import dataclass

import numpy as np

from .distributions import LEVELS

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
    count, size = columns.shape
    order = np.argsort(columns, axis=1)
    quintile = QUINTILES * np.arange(size) // size  # of ranks from 1 on
    ordered = columns.ravel().take(order + size * np.arange(count)[:, None])
    tied = ~(np.diff(ordered, axis=1) > 0).all(axis=1)
    places = order[~tied] * QUINTILES + quintile
    found = np.bincount(places.ravel(), minlength=size * QUINTILES).reshape(size, QUINTILES)
    return (found + _shared(ordered[tied], order[tied], quintile)) / count


def _shared(ordered: np.ndarray, order: np.ndarray, quintile: np.ndarray) -> np.ndarray:
    """Sums `[A,5]` over columns with ties, which are given in order `[K,A]`: tickers share what they span."""
    size, place = ordered.shape[1], np.broadcast_to(np.arange(ordered.shape[1]), ordered.shape)
    rises = np.diff(ordered, axis=1) > 0
    first = np.maximum.accumulate(np.where(np.pad(rises, ((0, 0), (1, 0))), place, 0), axis=1)
    end = np.where(np.pad(rises, ((0, 0), (0, 1))), place + 1, size)
    end = np.minimum.accumulate(end[:, ::-1], axis=1)[:, ::-1]
    below = np.concatenate([np.zeros((1, QUINTILES)), np.cumsum(np.eye(QUINTILES)[quintile], axis=0)])
    shares = (below[end] - below[first]) / (end - first)[..., None]
    return np.stack([np.bincount(order.ravel(), one.ravel(), size) for one in np.moveaxis(shares, -1, 0)], axis=1)


def ranked_probability_score(probability: np.ndarray, outcome: np.ndarray) -> np.ndarray:
    """Of five probabilities [A,5] per ticker and the `quintiles` [A,5] that came, `[A]`.

    >>> float(ranked_probability_score(np.full((1, 5), 0.2), np.eye(5)[[0]])[0].round(3))
    0.24
    """
    return (np.cumsum(probability - outcome, axis=1) ** 2).mean(axis=1)


@dataclass(frozen=True)
class Ranked:
    """Outcomes of some dates, and the draws that forecasts of them meet: the same for all forecasts.

    A joint draw takes a quantile of each ticker; all are taken equally often, those of each ticker in an order of its
    own. Dates with fewer than 10 tickers are left out.
    """

    rows: list[np.ndarray]  # of each date, those of its tickers [A]
    came: list[np.ndarray]  # of each date, the quintiles of its outcomes [A,5]
    picks: list[np.ndarray]  # of each date, which quantile a draw takes of each ticker, [K,A]

    @classmethod
    def of(cls, realised: np.ndarray, dates: np.ndarray, seed: int = 0, *, levels: int = len(LEVELS)) -> "Ranked":
        """Of outcomes [n]; the forecasts will have so many evenly spaced `levels`."""
        generator, each = np.random.default_rng(seed), np.arange(levels, dtype=np.min_scalar_type(levels))
        order = np.lexsort((realised, dates))  # whatever order they come in, they meet the same draws
        _, starts = np.unique(dates[order], return_index=True)
        rows = [mine for mine in np.split(order, starts[1:]) if len(mine) >= FEWEST_RANKED]
        tiles = (np.tile(each, (len(mine), -(-DRAWN // len(mine)))) for mine in rows)
        picks = [np.ascontiguousarray(generator.permuted(one, axis=1).T) for one in tiles]
        return cls(rows, [quintiles(realised[mine, None]) for mine in rows], picks)

    def rps(self, quantiles: np.ndarray) -> dict[str, float | int | None]:
        """Mean over dates of the score of forecasts given by quantiles [n,L], tickers taken as independent.

        `rps_dates` counts the dates."""
        scores, levels = [], quantiles.shape[1]
        for mine, came, picks in zip(self.rows, self.came, self.picks, strict=True):
            draws_KA = quantiles[mine].ravel().take(picks + levels * np.arange(len(mine)))
            scores.append(ranked_probability_score(quintiles(draws_KA.T), came).mean())
        return {"rps": float(np.mean(scores)) if scores else None, "rps_dates": len(scores)}


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
