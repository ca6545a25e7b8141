"""How tickers move together: one factor, and how much of each ticker it is.

Design choices:
* `b_i` is the loading of a ticker: its paths are driven by b Z + sqrt(1 - b^2) e, with one Z for all tickers and one e
  for each (`path_uniforms`). Two tickers then correlate by the product of their loadings, and each keeps its own law.
* Loadings come from the returns that were known: the mean correlation of a ticker with the others over the root of
  the mean correlation of all pairs. Of many tickers that is the correlation with their equal-weight mean; of few it
  leaves out that a ticker is itself a part of that mean, which would tie strangers together. Of two it is exact.
* A ticker that moves against the others, or that is alone, has the loading 0: it is independent.
* Bars are matched by their times: what lies between the times of the others, or is missing, counts as no common move.

Shapes: B origins, A tickers, T times, W bars of the window, O distinct times of origins.
"""

from collections.abc import Sequence

import numpy as np

from .feature_extraction_tsf_llm import EncodedSeries

WINDOW = 250  # times up to the origin; of 60 the noise loses what the factor gains in ranking single stocks
FEWEST = 20  # known returns among them
MOST = 0.95
AT_ONCE = 64  # times of origins: bounds memory, not results


def loadings(requests: Sequence[tuple[EncodedSeries, np.ndarray]]) -> np.ndarray:
    """The loading of each origin, `[B]` in [0, 0.95], in the order of `processor.batch`; it reads no later bar.

    The universe is the tickers of the requests: give all of them, however few origins are asked of each."""
    universe = {series.ticker: series for series, _ in requests}
    column = {ticker: k for k, ticker in enumerate(universe)}
    times = np.unique(np.concatenate([series.timestamp for series in universe.values()]))
    returns = np.full((WINDOW - 1 + len(times), len(universe)), np.nan)
    for series in universe.values():
        returns[WINDOW - 1 + np.searchsorted(times, series.timestamp), column[series.ticker]] = series.log_return
    windows_TAW = np.lib.stride_tricks.sliding_window_view(returns, WINDOW, axis=0)
    origins = np.concatenate([series.timestamp[rows] for series, rows in requests])
    asked, which = np.unique(origins, return_inverse=True)
    rows = np.searchsorted(times, asked)
    parts = [one_factor(windows_TAW[rows[i : i + AT_ONCE]]) for i in range(0, len(rows), AT_ONCE)]
    return np.concatenate(parts)[which, [column[series.ticker] for series, rows in requests for _ in rows]]


def one_factor(returns: np.ndarray) -> np.ndarray:
    """Loadings `[...,A]` from returns `[...,A,W]`, NaN where unknown; 0 where fewer than 20 are known or none moves.

    >>> steps = np.random.default_rng(0).standard_normal((3, 60))
    >>> pair = steps[:2] + 2 * steps[2]
    >>> float(one_factor(pair).prod().round(4)), float(np.corrcoef(pair)[0, 1].round(4))
    (0.7828, 0.7828)
    """
    known = np.isfinite(returns)
    count = known.sum(axis=-1, keepdims=True)
    mean = np.where(known, returns, 0.0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(known, returns - mean, 0.0)
    size = np.sqrt((centred**2).sum(axis=-1, keepdims=True))
    moves = (count >= FEWEST) & (size > 1e-12)
    unit = np.divide(centred, size, out=np.zeros_like(centred), where=moves)
    with_others = (unit * unit.sum(axis=-2, keepdims=True)).sum(axis=-1) - moves[..., 0]  # summed over the others
    others = np.maximum(moves.sum(axis=-2) - 1, 1)
    overall = with_others.sum(axis=-1, keepdims=True) / ((others + 1) * others)
    bond = np.where(overall > 0, overall, np.inf)  # without a common move all are independent
    return (with_others / others / np.sqrt(bond)).clip(0, MOST)


__all__ = ["loadings", "one_factor"]
