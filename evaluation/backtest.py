"""Accounting: weights decided at the close of t, traded at the open of t + 1, with costs, by the bars alone.

Design choices:
* Everything is known when it is done. A trade at the open of t + 1 is sized by equity at that open; nothing looks at
  whether a ticker will have further bars. So later bars change no earlier equity, not by a bit.
* Between decisions weights drift with prices. A decision is on weights, so going back to the same weight is a trade.
* A ticker without an open at t + 1 is traded at its next open, unless a later decision comes first.
* A position whose ticker had no bar for `GONE` bars of the others is closed at its last known price, with costs, and
  counted; so is one that has no bar on the last day. Until then it stands in equity at that price.
* The last positions are closed at the close of the last bar. Whoever loses everything stays at zero.
* The loop is over dates, because weights drift; strategies and tickers go through it together.

Shapes: T bars, D decisions, N tickers, S strategies.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .profit import trading_cost

GONE = 10  # bars of the others without one of its own, after which a ticker counts as delisted


@dataclass(frozen=True)
class Prices:
    """Opens and closes of all tickers at all times that one of them has a bar, NaN where it has none."""

    times: np.ndarray  # [T] datetime64
    tickers: list[str]  # N
    open: np.ndarray  # [T,N]
    close: np.ndarray  # [T,N]

    @classmethod
    def of(cls, panel: Mapping[str, pd.DataFrame]) -> "Prices":
        """Of checked bars, one frame per ticker."""
        times = np.unique(np.concatenate([frame["timestamp"].to_numpy() for frame in panel.values()]))
        open_TN, close_TN = np.full((2, len(times), len(panel)), np.nan)
        for place, frame in enumerate(panel.values()):
            rows = np.searchsorted(times, frame["timestamp"].to_numpy())
            open_TN[rows, place], close_TN[rows, place] = frame["open"], frame["close"]
        return cls(times, list(panel), open_TN, close_TN)

    def part(self, first: int, last: int) -> "Prices":
        """The bars `first` to `last`, that one included."""
        return Prices(self.times[first : last + 1], self.tickers, *(p[first : last + 1] for p in self._both))

    @property
    def _both(self) -> tuple[np.ndarray, np.ndarray]:
        return self.open, self.close

    def growth(self) -> tuple[np.ndarray, np.ndarray]:
        """Factors from the last known close to each open, from each open to its close, `[T,N]`; 1 without a bar."""
        known = pd.DataFrame(self.close).ffill().shift().to_numpy()
        overnight, intraday = self.open / known, self.close / self.open
        return np.where(np.isnan(overnight), 1.0, overnight), np.where(np.isnan(intraday), 1.0, intraday)

    def missed(self) -> np.ndarray:
        """Bars since the last one of each ticker, `[T,N]`: 0 where it has one, from the first row if it has none."""
        row = np.arange(len(self.times))[:, None]
        seen = np.where(np.isfinite(self.close), row, -1)
        return row - np.maximum.accumulate(seen, axis=0)


@dataclass(frozen=True)
class Accounts:
    """What became of S strategies, at each close from the first decision on. Equity begins at 1."""

    times: np.ndarray  # [T]
    equity: np.ndarray  # [S,T]
    turnover: np.ndarray  # [S,T] sum of absolute trades over equity; getting in and out turns over 2
    costs: np.ndarray  # [S,T] of a bar's trades, over equity
    exposure: np.ndarray  # [S,T] sum of absolute positions over equity, before the last ones are closed
    net: np.ndarray  # [S,T] sum of positions over equity
    late: np.ndarray  # [S] trades at a later open than that of t + 1
    stranded: np.ndarray  # [S] positions closed at a last known price, without a bar

    @property
    def returns(self) -> np.ndarray:
        """Of each bar, `[S,T-1]`; zero for who has nothing left."""
        before = self.equity[:, :-1]
        return np.divide(self.equity[:, 1:], before, out=np.ones_like(before), where=before > 0) - 1


def trade(
    prices: Prices, decided: np.ndarray, weights: np.ndarray, cost_bp: float | np.ndarray, *, last: int
) -> Accounts:
    """Runs S strategies over the bars from the first decision to the row `last`, at whose close they end.

    Args:
        decided: rows of `prices` at whose closes is decided, ascending, `[D]`; each lies before `last`.
        weights: shares of equity, `[S,D,N]`; NaN leaves a position as it is.
        cost_bp: basis points of what is traded, one number or `[S]`.
    """
    first = int(decided[0])
    prices = prices.part(first, last)
    overnight, intraday = prices.growth()
    missed, is_open = prices.missed(), np.isfinite(prices.open)
    decision_at = {int(row) - first: k for k, row in enumerate(decided)}
    (S, _, N), T = weights.shape, len(prices.times)
    rate_S = np.broadcast_to(np.asarray(cost_bp, dtype=float), S)
    value_SN, cash_S = np.zeros((S, N)), np.ones(S)
    pending_SN, asked_SN = weights[:, 0].copy(), np.zeros((S, N), dtype=int)
    kept = {name: np.zeros((S, T)) for name in ("equity", "turnover", "costs", "exposure", "net")}
    late, stranded = np.zeros((2, S), dtype=int)
    kept["equity"][:, 0] = 1.0

    def book(trades_SN: np.ndarray, equity_S: np.ndarray, t: int) -> None:
        """Moves money between positions and cash; the cost comes out of cash."""
        nonlocal value_SN, cash_S
        traded_S = np.abs(trades_SN).sum(axis=1)
        paid_S = trading_cost(traded_S, rate_S)
        value_SN, cash_S = value_SN + trades_SN, cash_S - trades_SN.sum(axis=1) - paid_S
        kept["turnover"][:, t] += _share(traded_S, equity_S)
        kept["costs"][:, t] += _share(paid_S, equity_S)

    for t in range(1, T):
        value_SN = value_SN * overnight[t]
        equity_S = cash_S + value_SN.sum(axis=1)
        due_SN = is_open[t] & ~np.isnan(pending_SN)
        lost_SN = (missed[t] >= GONE) & (value_SN != 0)
        wanted_SN = np.where(due_SN, pending_SN * equity_S[:, None], np.where(lost_SN, 0.0, value_SN))
        late += (due_SN & (wanted_SN != value_SN) & (t > asked_SN + 1)).sum(axis=1)
        stranded += lost_SN.sum(axis=1)
        pending_SN = np.where(due_SN, np.nan, pending_SN)
        book(wanted_SN - value_SN, equity_S, t)
        value_SN = value_SN * intraday[t]
        equity_S = cash_S + value_SN.sum(axis=1)
        kept["exposure"][:, t] = _share(np.abs(value_SN).sum(axis=1), equity_S)
        kept["net"][:, t] = _share(value_SN.sum(axis=1), equity_S)
        if t == T - 1:
            stranded += ((missed[t] > 0) & (value_SN != 0)).sum(axis=1)
            book(-value_SN, equity_S, t)
            equity_S = cash_S
        ruined_S = equity_S <= 0
        value_SN, cash_S = np.where(ruined_S[:, None], 0.0, value_SN), np.where(ruined_S, 0.0, cash_S)
        kept["equity"][:, t] = np.where(ruined_S, 0.0, equity_S)
        if t in decision_at:
            new_SN = weights[:, decision_at[t]]
            pending_SN = np.where(np.isnan(new_SN), pending_SN, new_SN)
            asked_SN = np.where(np.isnan(new_SN), asked_SN, t)
    return Accounts(prices.times, **kept, late=late, stranded=stranded)


def _share(amount_S: np.ndarray, equity_S: np.ndarray) -> np.ndarray:
    """Over equity; zero where there is none left."""
    return np.divide(amount_S, equity_S, out=np.zeros_like(amount_S), where=equity_S > 0)


# --- who stands beside a strategy


def buy_and_hold(prices: Prices, decided: np.ndarray) -> np.ndarray:
    """The same share of each ticker that has a bar at the first decision, then never touched, `[D,N]`."""
    there = np.isfinite(prices.close[decided[0]])
    weights = np.full((len(decided), len(there)), np.nan)
    weights[0] = there / max(there.sum(), 1)
    return weights


def random_entries(weights: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The strategy's own weights `[D,N]`, from other dates and on other tickers, `[draws,D,N]`.

    Each draw moves all dates by one random number of decisions, in a circle, and gives each ticker's weights to a
    random other: exposure and changes of weights stay as they were, what was known is lost.
    """
    rng = np.random.default_rng(seed)
    D, N = weights.shape
    rows = (np.arange(D) + rng.integers(D, size=(draws, 1))) % D
    places = rng.permuted(np.tile(np.arange(N), (draws, 1)), axis=1)
    return weights[rows[:, :, None], places[:, None, :]]
