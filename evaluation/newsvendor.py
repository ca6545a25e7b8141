"""From forecast quantiles to how much to order: the newsvendor's decision, and what it costs.

* One order per item and day, of what is worthless afterwards. A unit that is missing costs `underage` (the margin that
  is lost), one that is left over costs `overage` (what it was bought for, less what it still brings).
* The expected cost is least at the quantile of level underage / (underage + overage) (Arrow, Harris, Marschak 1951):
  so the whole law is worth money, where a mean forecast knows one number.

Shapes: n decisions, L quantile levels.
"""

import numpy as np


def critical_level(*, underage: float, overage: float) -> float:
    """The level whose quantile is to be ordered.

    >>> critical_level(underage=9.0, overage=1.0)
    0.9

    Raises:
        ValueError: a cost that is not above zero.
    """
    if not (0 < underage < np.inf and 0 < overage < np.inf):
        raise ValueError(f"underage={underage}, overage={overage}: both must cost something, as 9 and 1")
    return underage / (underage + overage)


def order_quantities(
    quantiles: np.ndarray, levels: np.ndarray, *, underage: float, overage: float, whole: bool = False
) -> np.ndarray:
    """What to order `[n]`, from quantiles `[n,L]` of the demand at increasing levels `[L]`: never less than nothing.

    On a line between the levels, and no further than the outermost; `whole` units are rounded up, as half of one
    serves nobody.

    >>> order_quantities(np.array([[2.0, 4.0, 8.0]]), np.array([0.25, 0.5, 0.75]), underage=5.0, overage=3.0).tolist()
    [6.0]
    """
    quantiles, levels = np.asarray(quantiles, float), np.asarray(levels, float)
    if quantiles.ndim != 2 or levels.shape != quantiles.shape[1:] or (np.diff(levels) <= 0).any():
        raise ValueError(f"quantiles {quantiles.shape} at levels {levels.tolist()}: give [n,L] at L increasing levels")
    at = np.interp(critical_level(underage=underage, overage=overage), levels, np.arange(len(levels)))
    left = int(at)
    right = min(left + 1, len(levels) - 1)
    order = quantiles[:, left] * (1 - (at - left)) + quantiles[:, right] * (at - left)
    return np.maximum(np.ceil(order - 1e-9) if whole else order, 0.0)


def decision_cost(order: np.ndarray, demand: np.ndarray, *, underage: float, overage: float) -> np.ndarray:
    """What each order cost beside the demand that came, `[n]`.

    >>> decision_cost(np.array([5.0, 5.0]), np.array([7.0, 4.0]), underage=9.0, overage=1.0).tolist()
    [18.0, 1.0]
    """
    critical_level(underage=underage, overage=overage)
    missing = np.asarray(demand, float) - np.asarray(order, float)
    return np.where(missing > 0, underage * missing, -overage * missing)
