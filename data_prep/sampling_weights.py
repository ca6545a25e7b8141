"""How often a training window is drawn.

Design choices:
* Weights choose windows, they do not weigh losses: the loss stays the plain mean that validation reports, a window of
  little weight costs little time, and the side losses of the experts see the same mix as the loss.
* Systematic resampling: a window of weight w is drawn w times in an epoch on average, and never one time more or
  less than that. An epoch has as many windows as without weights.
"""

import numpy as np
import pandas as pd

FAR_FROM_USUAL = 4.0  # a turbulent window counts at most this much more than its ticker's median, a calm one less


def parse_weights(text: str) -> tuple[str, float] | None:
    """The rule and its number, None for no weights.

    >>> parse_weights("recency:365"), parse_weights("none")
    (('recency', 365.0), None)

    Raises:
        ValueError: for an unknown rule, or a half-life that is no positive number of days.
    """
    name, _, number = text.partition(":")
    if text in ("none", "volatility"):
        return None if text == "none" else (text, 0.0)
    if name != "recency":
        raise ValueError(f"sample_weights={text!r} is unknown: choose none, volatility or recency:DAYS")
    try:
        days = float(number)
    except ValueError:
        days = -1.0
    if not 0 < days < np.inf:
        raise ValueError(f"sample_weights={text!r} needs a half-life in days, as in recency:365")
    return name, days


def recency(timestamp: np.ndarray, half_life: float) -> np.ndarray:
    """`0.5 ** (age / half_life)`, ages in days before the newest window.

    >>> recency(np.array(["2020-01-01", "2020-01-03"], "datetime64[ns]"), 2.0)
    array([0.5, 1. ])
    """
    return 0.5 ** ((timestamp.max() - timestamp) / np.timedelta64(1, "D") / half_life)


def volatility(sigma: np.ndarray, ticker: np.ndarray) -> np.ndarray:
    """Each window's volatility over the median of its ticker, from 1/4 to 4: turbulent markets are rare.

    >>> volatility(np.array([0.01, 0.02, 0.03]), np.zeros(3))
    array([0.5, 1. , 1.5])
    """
    usual = pd.Series(sigma).groupby(ticker).transform("median").to_numpy()
    return np.clip(sigma / usual, 1 / FAR_FROM_USUAL, FAR_FROM_USUAL)


def resample(weights: np.ndarray, *, seed: int, epoch: int) -> np.ndarray:
    """As many windows as there are weights, in order.

    >>> resample(np.array([1.0, 3.0, 0.0, 0.0]), seed=0, epoch=0)
    array([0, 1, 1, 1])
    """
    places = np.arange(len(weights)) + np.random.default_rng([seed, epoch]).uniform()
    cumulative = np.cumsum(weights)
    drawn = np.searchsorted(cumulative, places * (cumulative[-1] / len(weights)), side="right")
    return np.minimum(drawn, len(weights) - 1)  # the last place may be rounded up to the end
