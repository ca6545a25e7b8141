"""The state of a market, an index or a whole universe of tickers, and what of it is known at a bar.

Design choices:

* A market is a table by time, made of its tickers' bars. Row s reads bars <= s only.
* A bar at t sees the market's last row at or before t, so a market may have other holidays than the ticker: on its
  holidays the level stands still, and after a ticker's holiday its change spans the days that the ticker missed.
* Time stamps are taken at their word: a row stamped t is known at t. A market that closes later on the same date, in
  another time zone, must be stamped with the next date.
* Tickers are added one by one to running moments, so a universe need not be in memory at once, and the state has the
  same bits whichever way its bars came.
* A market that has stopped is unknown, not constant: NaN once `STALE` bars saw no new row.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

STALE = 10  # bars of the ticker without a new row of the market
TRAILING = (5, 21)  # rows of the market in its trailing means
STATES = ("abs_return", "dispersion", "range")
MARKET_COLUMNS = ["level", *STATES, *(f"{name}_{n}" for name in STATES for n in TRAILING)]


def market_state(tickers: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Bars of the market's tickers -> its state by time: `timestamp` and the `MARKET_COLUMNS`, NaN where unknown.

    `level` is the running sum of the mean log return, `abs_return` the mean size of the tickers' log returns,
    `dispersion` their standard deviation across tickers (unknown for one), `range` the mean of log(high / low).

    >>> bars = pd.DataFrame({"timestamp": pd.date_range("2024-01-02", periods=2), "high": 1.0, "low": 1.0})
    >>> market_state([bars.assign(close=[1.0, 2.0]), bars.assign(close=[1.0, 0.5])])[["level", "abs_return"]].round(3)
       level  abs_return
    0    0.0         NaN
    1    0.0       0.693
    """
    moments = MarketMoments()
    for bars in tickers:
        moments.add(bars)
    return moments.state()


class MarketMoments:
    """What `market_state` needs of the tickers seen so far: counts, means and squares by time."""

    def __init__(self) -> None:
        self.table = pd.DataFrame(columns=["bars", "range", "returns", "mean", "squares", "abs_return"], dtype=float)
        self.table.index = pd.DatetimeIndex([], name="timestamp")

    def add(self, bars: pd.DataFrame) -> None:
        """One ticker's bars: sorted, each time once."""
        bars = bars[bars["close"].notna()]
        times = pd.DatetimeIndex(bars["timestamp"])
        if not times.isin(self.table.index).all():
            self.table = self.table.reindex(self.table.index.union(times), fill_value=0.0)
        rows = self.table.index.get_indexer(times)
        moved = np.log(bars["close"].to_numpy()[1:] / bars["close"].to_numpy()[:-1])
        table = {name: self.table[name].to_numpy(copy=True) for name in self.table}
        table["bars"][rows] += 1
        table["range"][rows] += np.log(bars["high"] / bars["low"]).to_numpy()
        rows = rows[1:]
        before = moved - table["mean"][rows]  # Welford's update: squares of what hardly differs do not cancel
        table["returns"][rows] += 1
        table["mean"][rows] += before / table["returns"][rows]
        table["squares"][rows] += before * (moved - table["mean"][rows])
        table["abs_return"][rows] += np.abs(moved)
        self.table = pd.DataFrame(table, index=self.table.index)

    def state(self) -> pd.DataFrame:
        """`market_state` of the tickers added."""
        sums = self.table
        known = sums["returns"].where(sums["returns"] > 0)
        state = pd.DataFrame(
            {
                "level": sums["mean"].cumsum(),  # only its changes mean anything
                "abs_return": sums["abs_return"] / known,
                "dispersion": np.sqrt(sums["squares"] / known).where(known > 1),
                "range": sums["range"] / sums["bars"],
            }
        )
        for name in STATES:
            for length in TRAILING:
                state[f"{name}_{length}"] = state[name].rolling(length).mean()
        return state[MARKET_COLUMNS].rename_axis("timestamp").reset_index()


def as_of(state: pd.DataFrame, timestamps: pd.Series) -> pd.DataFrame:
    """The `MARKET_COLUMNS` at each of these times, on their index: the last row at or before it."""
    known_at = state["timestamp"].to_numpy()
    rows = np.searchsorted(known_at, timestamps.to_numpy(), side="right")  # one too far: 0 is none
    rows[STALE:] *= rows[STALE:] != rows[:-STALE]
    values = np.vstack((np.full(len(MARKET_COLUMNS), np.nan), state[MARKET_COLUMNS].to_numpy()))[rows]
    return pd.DataFrame(values, index=timestamps.index, columns=MARKET_COLUMNS)
