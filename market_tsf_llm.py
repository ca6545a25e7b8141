"""The state of a market, an index or a whole universe of tickers, and what of it is known at a bar.

Design choices:

* A market is a table by time, made of its tickers' bars. Row s reads bars <= s only.
* A bar at t sees the market's last row at or before t, so a market may have other holidays than the ticker: on its
  holidays the level stands still, and after a ticker's holiday its change spans the days that the ticker missed.
* Time stamps are taken at their word: a row stamped t is known at t. A market that closes later on the same date, in
  another time zone, must be stamped with the next date.
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
    observed = [bars[bars["close"].notna()] for bars in tickers]
    table = pd.concat(
        [
            pd.DataFrame(
                {
                    "timestamp": bars["timestamp"],
                    "return": np.log(bars["close"]).diff(),
                    "range": np.log(bars["high"] / bars["low"]),
                }
            )
            for bars in observed
        ]
    )
    by_time = table.assign(abs_return=table["return"].abs()).groupby("timestamp")
    state = by_time[["abs_return", "range"]].mean()
    state["level"] = by_time["return"].mean().fillna(0.0).cumsum()  # only its changes mean anything
    spread = by_time["return"].std(ddof=0)
    state["dispersion"] = spread.where(by_time["return"].count() > 1)
    for name in STATES:
        for length in TRAILING:
            state[f"{name}_{length}"] = state[name].rolling(length).mean()
    return state[MARKET_COLUMNS].reset_index()


def as_of(state: pd.DataFrame, timestamps: pd.Series) -> pd.DataFrame:
    """The `MARKET_COLUMNS` at each of these times, on their index: the last row at or before it."""
    known_at = state["timestamp"].to_numpy()
    rows = np.searchsorted(known_at, timestamps.to_numpy(), side="right")  # one too far: 0 is none
    rows[STALE:] *= rows[STALE:] != rows[:-STALE]
    values = np.vstack((np.full(len(MARKET_COLUMNS), np.nan), state[MARKET_COLUMNS].to_numpy()))[rows]
    return pd.DataFrame(values, index=timestamps.index, columns=MARKET_COLUMNS)
