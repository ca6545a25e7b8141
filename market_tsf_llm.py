"""What is known of a market at a bar: an index or a whole universe of tickers, and an implied-volatility index.

Design choices:

* A market is a table by time, made of its tickers' bars. Row s reads bars <= s only.
* An implied-volatility index is told by its name (`VIX`, `^VXN`, `vix_daily`); it is a price of fear, not of a
  company, so it never enters the universe's moments.
* A bar at t sees the last row at or before t, of either part, so a market may have other holidays than the ticker: on
  its holidays the level stands still, and after a ticker's holiday its change spans the days that the ticker missed.
* Time stamps are taken at their word: a row stamped t is known at t. A market that closes later on the same date, in
  another time zone, must be stamped with the next date.
* Tickers are added one by one to running moments, so a universe need not be in memory at once, and the state has the
  same bits whichever way its bars came.
* A market that has stopped is unknown, not constant: NaN once `STALE` bars saw no new row.
* Nobody is a market alone: rows that one ticker makes are hidden from it, and two have no dispersion.
"""

import re
import zlib
from collections.abc import Mapping

import numpy as np
import pandas as pd
from transformers.utils import logging

logger = logging.get_logger(__name__)
STALE = 10  # bars of the ticker without a new row of the market
TRAILING = (5, 21)  # rows of the market in its trailing means
STATES = ("abs_return", "dispersion", "range")
MARKET_COLUMNS = ["level", *STATES, *(f"{name}_{n}" for name in STATES for n in TRAILING)]
LONE = "lone"  # further column of a state: CRC-32 of the name of the only ticker with a bar, NaN where there are more
SUMS = ("bars", "range", "returns", "mean", "squares", "abs_return", LONE)  # over tickers, by time
LEAST_DISPERSED = 3  # tickers
IMPLIED_MEANS = (21, 63)  # rows
IMPLIED_COLUMNS = ["implied", *(f"implied_{n}" for n in IMPLIED_MEANS)]
COLUMNS = [*MARKET_COLUMNS, *IMPLIED_COLUMNS]
PARTS = {"universe": MARKET_COLUMNS, "implied": IMPLIED_COLUMNS}
IMPLIED_NAMES = (  # of several the first is taken
    *("VIX", "VIX9D", "VIX3M", "VIX6M", "VXV", "VXO", "VXN", "RVX", "VXD"),
    *("VSTOXX", "V2TX", "V2X", "VDAX", "V1X", "VFTSE", "INDIAVIX", "INDIA VIX", "VHSI", "VNKY", "JNIV", "VXEEM"),
    *("OVX", "GVZ"),
)
_IMPLIED = re.compile(rf"[\^.$]?({'|'.join(IMPLIED_NAMES)})(?=$|[_\- ])", re.IGNORECASE)


def implied_index(name: str) -> str | None:
    """Which of the `IMPLIED_NAMES` a ticker, or a file without a column of tickers, begins with.

    >>> implied_index("^VIX"), implied_index("vix_daily"), implied_index("VXX"), implied_index("RVX.TO")
    ('VIX', 'VIX', None, None)
    """
    found = _IMPLIED.match(name.strip())
    return None if found is None else found[1].upper()


def market_state(tickers: Mapping[str, pd.DataFrame], *, as_before: bool = False) -> pd.DataFrame:
    """Bars of the market's tickers -> its state by time: `timestamp` and the `MARKET_COLUMNS`, NaN where unknown.

    `level` is the running sum of the mean log return, `abs_return` the mean size of the tickers' log returns,
    `dispersion` their standard deviation across tickers (unknown for one or two), `range` the mean of
    log(high / low). With an implied-volatility index, further columns: `implied` is the log of its close, and
    `implied_21`, `implied_63` that of its mean. `as_before` gives what folders were fitted with that did not know such
    an index: every ticker is of the universe, a lone one too, and two have a dispersion.

    >>> bars = pd.DataFrame({"timestamp": pd.date_range("2024-01-02", periods=2), "high": 1.0, "low": 1.0})
    >>> pair = {"UP": bars.assign(close=[1.0, 2.0]), "DOWN": bars.assign(close=[1.0, 0.5])}
    >>> market_state(pair)[["level", "abs_return"]].round(3)
       level  abs_return
    0    0.0         NaN
    1    0.0       0.693
    """
    moments = MarketMoments(as_before=as_before)
    for name, bars in tickers.items():
        moments.add(name, bars)
    return moments.state()


class MarketMoments:
    """What `market_state` needs of the tickers seen so far: counts, means and squares by time, and implied indices."""

    def __init__(self, *, as_before: bool = False) -> None:
        self.times = np.array([], dtype="datetime64[ns]")
        self.sums = np.zeros((len(SUMS), 0))
        self.implied: dict[str, pd.DataFrame] = {}  # by the name that told it
        self.as_before = as_before

    @property
    def table(self) -> pd.DataFrame:
        """The `SUMS` by time."""
        return pd.DataFrame(self.sums.T.copy(), pd.DatetimeIndex(self.times, name="timestamp"), list(SUMS))

    @table.setter
    def table(self, table: pd.DataFrame) -> None:
        self.times, self.sums = table.index.to_numpy(dtype="datetime64[ns]"), table[list(SUMS)].to_numpy().T.copy()

    def add(self, name: str, bars: pd.DataFrame) -> None:
        """One ticker's bars: sorted, each time once."""
        bars = bars[bars["close"].notna()]
        if not self.as_before and implied_index(name) is not None:
            self.implied[name] = bars[["timestamp", "close"]]
            return
        rows = self._rows(bars["timestamp"].to_numpy(dtype="datetime64[ns]"))
        close = bars["close"].to_numpy()
        moved = np.log(close[1:] / close[:-1])
        count, span, returns, mean, squares, sizes, lone = self.sums
        count[rows] += 1
        span[rows] += np.log(bars["high"].to_numpy() / bars["low"].to_numpy())
        lone[rows] = _code(name)
        rows = rows[1:]
        before = moved - mean[rows]  # Welford's update: squares of what hardly differs do not cancel
        returns[rows] += 1
        mean[rows] += before / returns[rows]
        squares[rows] += before * (moved - mean[rows])
        sizes[rows] += np.abs(moved)

    def _rows(self, times: np.ndarray) -> np.ndarray:
        """Where these times lie, new ones too."""
        known = np.searchsorted(self.times, times)
        if (known == len(self.times)).any() or (self.times[known] != times).any():
            both = np.union1d(self.times, times)
            sums = np.zeros((len(SUMS), len(both)))
            sums[:, np.searchsorted(both, self.times)] = self.sums
            self.times, self.sums = both, sums
        return np.searchsorted(self.times, times)

    def state(self) -> pd.DataFrame:
        """`market_state` of the tickers added."""
        sums = self.table
        known = sums["returns"].where(sums["returns"] > 0)
        least = 2 if self.as_before else LEAST_DISPERSED
        state = pd.DataFrame(
            {
                "level": sums["mean"].cumsum(),  # only its changes mean anything
                "abs_return": sums["abs_return"] / known,
                "dispersion": np.sqrt(sums["squares"] / known).where(known >= least),
                "range": sums["range"] / sums["bars"],
            }
        )
        for name in STATES:
            for length in TRAILING:
                state[f"{name}_{length}"] = state[name].rolling(length).mean()
        state = state[MARKET_COLUMNS]
        if not self.as_before:
            state[LONE] = sums[LONE].where(sums["bars"] == 1)
        if self.implied:
            state = state.join(self._implied_state(), how="outer")
        return state.rename_axis("timestamp").reset_index()

    def _implied_state(self) -> pd.DataFrame:
        order = {name: IMPLIED_NAMES.index(implied_index(name) or "") for name in self.implied}
        first, *others = sorted(order, key=lambda name: (order[name], name))
        if others:
            logger.warning_once(f"several implied-volatility indices: {first} is read, {', '.join(others)} left out")
        close = self.implied[first].set_index("timestamp")["close"]
        means = {f"implied_{n}": np.log(close.rolling(n).mean()) for n in IMPLIED_MEANS}
        return pd.DataFrame({"implied": np.log(close), **means})[IMPLIED_COLUMNS]


def _code(name: str) -> float:
    """A number for a name: a state holds numbers and times alone."""
    return float(zlib.crc32(name.encode()))


def beside(state: pd.DataFrame, ticker: str) -> pd.DataFrame:
    """The state without the rows of the universe that this ticker alone makes: they would be its own bars again."""
    if LONE not in state or not (own := state[LONE].to_numpy() == _code(ticker)).any():
        return state
    return state.assign(**{name: state[name].mask(own) for name in MARKET_COLUMNS})


def parts_of(state: pd.DataFrame | None) -> list[str]:
    """Which of the `PARTS` a state knows."""
    if state is None:
        return []
    return [part for part, (first, *_) in PARTS.items() if first in state and state[first].notna().any()]


class MarketTable:
    """A state, ready to be asked what is known of it at many times."""

    def __init__(self, state: pd.DataFrame):
        self.parts = []  # columns, times, and values below a row of NaN
        for columns in PARTS.values():
            known = state[state[columns[0]].notna()] if columns[0] in state else state.reindex(columns=COLUMNS)[:0]
            times = known["timestamp"] if len(known) else pd.Series([], dtype="datetime64[ns]")
            values = np.vstack((np.full(len(columns), np.nan), known[columns].to_numpy(dtype=float)))
            self.parts.append((columns, times.to_numpy(dtype="datetime64[ns]"), values))
        self._times = np.array([], dtype="datetime64[ns]")
        self._seen = self._as_of(self._times)

    def as_of(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """The columns of all `PARTS` at each of a ticker's times: the last row at or before it, part by part."""
        if not np.array_equal(times, self._times):  # of the tickers of one exchange most have the same
            self._times, self._seen = times, self._as_of(times)
        return self._seen

    def _as_of(self, times: np.ndarray) -> dict[str, np.ndarray]:
        seen: dict[str, np.ndarray] = {}
        for columns, known, values in self.parts:
            rows = np.searchsorted(known, times, side="right")  # one too far: 0 is none
            rows[STALE:] *= rows[STALE:] != rows[:-STALE]
            seen.update(zip(columns, np.ascontiguousarray(values[rows].T), strict=True))
        return seen


def as_of(state: pd.DataFrame, timestamps: pd.Series) -> pd.DataFrame:
    """`MarketTable.as_of`, on the index of the times."""
    return pd.DataFrame(
        MarketTable(state).as_of(timestamps.to_numpy(dtype="datetime64[ns]")), index=timestamps.index, columns=COLUMNS
    )
