"""What the equity of a strategy says: growth, risk, and whether its Sharpe ratio is more than chance and search.

* The Sharpe ratio is that of bar returns over cash that earns nothing. It stands for a year in what is written, and
  per bar in the formulas of Bailey and Lopez de Prado.
* Its interval is the delta method of Ledoit and Wolf (2008), on the block bootstrap of every other interval here. Two
  strategies are compared on the same bars, so what moves both cancels.
* Whoever tries many strategies finds a good one by chance: the deflated ratio asks that the best of as many trials as
  were made, all without skill, would seldom look as good.
* What is undefined is None: an account that never moved has no Sharpe ratio.

Shapes: T closes, T - 1 bar returns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from .backtest import Accounts
from .significance import FEWEST_DATES, Interval, mean_interval

YEAR = np.timedelta64(1461 * 6, "h")  # 365.25 days
SHORTEST = 1 / 12  # years, below which a growth per year says nothing
SMALLEST_STD = 1e-12  # below it returns differ by rounding alone


def bars_per_year(times: np.ndarray) -> float:
    """Of closes at these times `[T]`.

    >>> round(bars_per_year(np.array(["2020-01-01", "2020-07-01", "2021-01-01"], dtype="datetime64[ns]")), 2)
    2.0
    """
    return float((len(times) - 1) / ((times[-1] - times[0]) / YEAR))


def sharpe(returns: np.ndarray) -> float | None:
    """Mean over standard deviation of bar returns `[T - 1]`, per bar; None where they do not differ."""
    std = returns.std() if len(returns) > 1 else 0.0
    return float(returns.mean() / std) if std > SMALLEST_STD else None


def sharpe_influence(returns: np.ndarray) -> np.ndarray | None:
    """One value per bar `[T - 1]`, whose mean is the Sharpe ratio and whose spread is that of its estimate.

    SR + z - SR / 2 (z^2 - 1) with z the standardised return: the delta method for a ratio of moments."""
    ratio = sharpe(returns)
    if ratio is None:
        return None
    z = (returns - returns.mean()) / returns.std()
    return ratio + z - ratio / 2 * (z**2 - 1)


def sharpe_interval(returns: np.ndarray, times: np.ndarray, seed: int = 0) -> Interval:
    """95 % interval of the Sharpe ratio per bar; `times` are those of the returns `[T - 1]`."""
    influence = sharpe_influence(returns)
    return None if influence is None else mean_interval(influence, times, horizon=1, seed=seed)


def sharpe_difference(
    returns: np.ndarray, others: np.ndarray, times: np.ndarray, seed: int = 0
) -> tuple[float | None, Interval]:
    """Sharpe ratio less that of the others on the same bars, per bar, and its 95 % interval."""
    ours, theirs = sharpe_influence(returns), sharpe_influence(others)
    if ours is None or theirs is None:
        return None, None
    return float((ours - theirs).mean()), mean_interval(ours - theirs, times, horizon=1, seed=seed)


def probabilistic_sharpe(returns: np.ndarray, benchmark: float = 0.0) -> float | None:
    """How sure it is that the true Sharpe ratio lies above a benchmark, both per bar (Bailey, Lopez de Prado 2012).

    Skew and fat tails widen the error of the estimate; bars are taken as independent."""
    ratio = sharpe(returns)
    if ratio is None or len(returns) < FEWEST_DATES:
        return None
    moments = float(stats.skew(returns)), float(stats.kurtosis(returns, fisher=False))
    return certainty(ratio, benchmark, len(returns), *moments)


def certainty(ratio: float, benchmark: float, size: int, skew: float, kurtosis: float) -> float | None:
    """That of `probabilistic_sharpe`, from the moments of `size` returns; a normal law has a kurtosis of 3."""
    spread = 1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2
    return float(stats.norm.cdf((ratio - benchmark) * np.sqrt((size - 1) / spread))) if spread > 0 else None


def expected_best(trials: Sequence[float]) -> float:
    """The highest Sharpe ratio that as many trials would show on average, had none of them skill.

    Bailey and Lopez de Prado (2014), from the number of trials and the variance of their ratios; zero for one trial.
    """
    return best_of(len(trials), float(np.var(trials, ddof=1)) if len(trials) > 1 else 0.0)


def best_of(number: int, variance: float) -> float:
    """Expected maximum of so many independent normal numbers of mean zero.

    >>> round(best_of(100, 1 / 2 / 250), 4)
    0.1132
    """
    if number < 2:
        return 0.0
    quantiles = stats.norm.ppf([1 - 1 / number, 1 - 1 / (number * np.e)])
    return float(np.sqrt(variance) * ((1 - np.euler_gamma) * quantiles[0] + np.euler_gamma * quantiles[1]))


def drawdown(equity: np.ndarray) -> np.ndarray:
    """How far below its highest close so far, `[..., T]`, zero or negative.

    >>> drawdown(np.array([1.0, 2.0, 1.5, 3.0])).tolist()
    [0.0, 0.0, -0.25, 0.0]
    """
    return equity / np.maximum.accumulate(equity, axis=-1) - 1


def performance(accounts: Accounts, which: int, seed: int = 0) -> dict[str, Any]:
    """Figures of one of the strategies; per year where the name says nothing else, shares as fractions of equity."""
    equity, returns, times = accounts.equity[which], accounts.returns[which], accounts.times
    yearly = bars_per_year(times)
    years, root = len(returns) / yearly, np.sqrt(yearly)
    ratio, interval = sharpe(returns), sharpe_interval(returns, times[1:], seed)
    held = accounts.exposure[which, 1:] > 0
    return {
        "total_return": float(equity[-1] - 1),
        "cagr": float(equity[-1] ** (1 / years) - 1) if years >= SHORTEST else None,
        "volatility": float(returns.std() * root),
        "sharpe": None if ratio is None else float(ratio * root),
        "sharpe_ci95": None if interval is None else [float(bound * root) for bound in interval],
        "probabilistic_sharpe": probabilistic_sharpe(returns),
        "max_drawdown": float(drawdown(equity).min()),
        "hit_rate": float((returns[held] > 0).mean()) if held.any() else None,  # of bars with a position
        "exposure": float(accounts.exposure[which, 1:].mean()),
        "net_exposure": float(accounts.net[which, 1:].mean()),
        "turnover": float(accounts.turnover[which].sum() / years),
        "costs": float(accounts.costs[which].sum() / years),
        "late_trades": int(accounts.late[which]),
        "stranded_positions": int(accounts.stranded[which]),
    }
