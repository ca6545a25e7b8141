"""Rules: the forecast law known at the close of t -> the weights to hold from the open of t + 1.

Design choices:
* A rule is a pure function of what was forecast at t. It reads no price, no other date and no position.
* Weights are shares of equity; their absolute values sum to at most 1 at each date, so nothing is borrowed. Tickers
  without a forecast at a date have no say: their weight is zero.
* The law is that of the log return to the horizon. Kelly takes simple returns, whose mean is mean + variance / 2.

Shapes: D dates, N tickers, L quantile levels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

THRESHOLDS = (0.45, 0.55)  # a threshold position needs a chance of 55 % at least that the price goes its way
KELLY_CAP = 1.0  # most of a ticker's share of equity: half a Kelly bet of the usual daily forecast is far beyond it


@dataclass(frozen=True)
class Outlook:
    """What is forecast of each ticker's log return, NaN where nothing is.

    What a model does not tell is None: classes have no moments, a single number has no spread."""

    p_up: np.ndarray  # [D,N]
    mean: np.ndarray | None = None  # [D,N]
    std: np.ndarray | None = None  # [D,N]
    quantiles: np.ndarray | None = None  # [D,N,L] at `THRESHOLDS`


def sign(law: Outlook) -> np.ndarray:
    """Long where a rise is likelier than a fall, short where it is less likely; the same share of equity each.

    >>> sign(Outlook(p_up=np.array([[0.6, 0.3, 0.5, np.nan]]))).round(2).tolist()
    [[0.33, -0.33, 0.0, 0.0]]
    """
    return _shared(np.sign(law.p_up - 0.5))


def threshold(law: Outlook) -> np.ndarray:
    """Long where even the lower quantile of `THRESHOLDS` is above zero, short where even the upper one is below it.

    >>> threshold(Outlook(p_up=np.full((1, 2), 0.5), quantiles=np.array([[[0.1, 0.2], [-0.1, 0.1]]]))).tolist()
    [[0.5, 0.0]]
    """
    assert law.quantiles is not None
    low, high = law.quantiles[..., 0], law.quantiles[..., -1]
    return _shared(np.where(np.isnan(low), np.nan, 1.0 * (low > 0) - 1.0 * (high < 0)))


def kelly(law: Outlook) -> np.ndarray:
    """Mean over variance of the simple return (Kelly 1956, in Thorp's continuous form), cut at `KELLY_CAP`.

    >>> kelly(Outlook(p_up=np.full((1, 2), 0.5), mean=np.array([[0.0, -0.9]]), std=np.ones((1, 2)))).round(2).tolist()
    [[0.25, -0.2]]
    """
    assert law.mean is not None
    assert law.std is not None
    variance = law.std**2
    known = np.where(variance > 0, variance, np.nan)  # a price that cannot move is no bet
    bet = np.clip((law.mean + variance / 2) / known, -KELLY_CAP, KELLY_CAP)
    return _shared(np.where(np.isnan(bet) & ~np.isnan(law.mean), 0.0, bet))


def long_short(law: Outlook) -> np.ndarray:
    """Half of equity long in the top decile of expected returns, half short in the bottom one.

    Below 20 tickers they are quintiles, below 5 the best and the worst one. Tickers that tie across the edge of a
    group are left out; where a leg is empty, or there is one ticker alone, nothing is held.

    >>> long_short(Outlook(p_up=np.full((1, 4), 0.5), mean=np.array([[0.3, 0.1, np.nan, 0.2]]))).tolist()
    [[0.5, -0.5, 0.0, 0.0]]
    """
    score = law.p_up if law.mean is None else law.mean
    rank = stats.rankdata(score, axis=1, nan_policy="omit")
    count = np.isfinite(score).sum(axis=1, keepdims=True)
    size = np.maximum(1, count // np.where(count >= 20, 10, 5))
    top, bottom = rank >= count - size + 1, rank <= size
    tops, bottoms = (leg.sum(axis=1, keepdims=True) for leg in (top, bottom))
    both = (tops > 0) & (bottoms > 0) & (count > 1)
    return np.where(both, 0.5 * top / np.maximum(tops, 1) - 0.5 * bottom / np.maximum(bottoms, 1), 0.0)


def _shared(bets: np.ndarray) -> np.ndarray:
    """Bets in [-1, 1], NaN where there is no forecast -> weights: each ticker of a date has the same share."""
    count = np.isfinite(bets).sum(axis=1, keepdims=True)
    return np.nan_to_num(bets) / np.maximum(count, 1)


RULES: dict[str, Callable[[Outlook], np.ndarray]] = {
    "sign": sign,
    "threshold": threshold,
    "kelly": kelly,
    "long-short": long_short,
}
NEEDS = {"sign": (), "threshold": ("quantiles",), "kelly": ("mean", "std"), "long-short": ()}  # of a `Outlook`


def possible_rules(law: Outlook) -> list[str]:
    """The rules that such a law is enough for."""
    return [name for name in RULES if all(getattr(law, part) is not None for part in NEEDS[name])]
