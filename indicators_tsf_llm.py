"""The table of input features: what each one is, how it becomes scale-free, and their values for many tickers.

Design choices:

* A feature at bar t reads bars <= t only. Left out because they do not: Ichimoku's chikou span (`ICS_26`, the close 26
  bars later), `dpo`, `tos_stdevall`, `vp`.
* Prices and volumes enter only as ratios, log ratios or bounded oscillators, so one model serves every ticker.
  Levels that depend on where the history starts (`ad`, `obv`, `nvi`, `pvi`, `pvt`) are differenced or left out.
* No feature turns on the sign of a rounding error. `adx` and `mfi` compare differences of prices, where a tie is
  broken by the last bit and a change of currency changes the answer; `vortex` and `cmf` say the same smoothly.
* Memory is bounded: a value is a function of its own `reach` of bars, to the bit. So it does not matter where a
  computation starts, and the values of new bars cost those and what they reach.
* Tickers lie side by side in panels that stay in the cache; a number has the same bits alone and with others.
  Of a long history only what is `remembered`, exponential averages, is computed over all that it reaches; features are
  computed over the panel's tail.
* Unknown is NaN: too little history, a zero denominator, no volume. A flat window has no position inside itself.
* Groups in `SELECTABLE_GROUPS` are used only when they are asked for by name; the others are the default 64 features.
* The groups `market` and `implied` read `panel.market`, the state of a universe and of an implied-volatility index as
  of each bar (`market_tsf_llm`); without them they are unknown.
* A bar without its four prices is missing: its own features are NaN, and windows and lags run over observed bars,
  so that one gap does not blank a recursive average for ever after.

In formulas `x[-n]` is x n bars ago, `ta.f(n)` is `pandas_ta_classic.f` with length n, and the position of close in a
channel is (close - lower) / (upper - lower).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .bars_tsf_llm import OHLCV, PRICES, BarArrays, FeatureError, as_frame
from .market_tsf_llm import STALE, MarketTable, parts_of
from .more_indicators_tsf_llm import ROWS as MORE
from .own_features_tsf_llm import WARM_UP, IndicatorFrame, own_features
from .panel_tsf_llm import LONGEST, PANEL, Feature, Panel, alike, in_utc, wall_clock
from .reversal_tsf_llm import ROWS as REVERSAL
from .technical_tsf_llm import (
    EMA_MEMORY,
    KELTNER_MEMORY,
    KIJUN,
    MACD_MEMORY,
    MACD_SIGNAL_MEMORY,
    TENKAN,
    WILDER_MEMORY,
    aroon,
    bollinger_deviation,
    bollinger_position,
    by_day,
    cci,
    distance,
    donchian_position,
    efficiency,
    ema,
    fibonacci_distance,
    highest,
    keltner_position,
    log_range,
    log_return,
    macd,
    macd_signal,
    mean,
    middle,
    money_flow,
    parkinson,
    rsi,
    session_gap,
    signed_volume,
    span_a,
    span_b,
    stochastic_d,
    stochastic_k,
    streak,
    volatility,
    volume_ratio,
    volume_zscore,
    vortex,
    vwma,
    wilder_range,
)
from .volatility_tsf_llm import ROWS as VOLATILITY
from .windows_tsf_llm import lag

SELECTABLE_GROUPS = (  # not among the default features
    *("more_averages", "crossovers", "candles", "shape", "momentum", "regime", "estimators", "more_channels"),
    *("more_volume", "dates", "reversal", "market", "range", "leverage", "events", "implied", "moves"),
)
REACHES = (1120,)  # features that reach no further share a panel of their own
NEAR = (0, 30, 80, 300)  # and those of its tail that reach no further but for what is remembered


def _day_of_week(days: np.ndarray) -> np.ndarray:
    return 2 * np.pi * ((days.astype(np.int64) + 3) % 7) / 7  # 1970 began on a Thursday


def _month(days: np.ndarray) -> np.ndarray:
    return 2 * np.pi * (days.astype("datetime64[M]").astype(np.int64) % 12 + 1) / 12


def _quarter(days: np.ndarray) -> np.ndarray:
    return 2 * np.pi * (days.astype("datetime64[M]").astype(np.int64) % 12 // 3 + 1) / 4


def _sin(angle: Callable[[np.ndarray], np.ndarray]) -> Callable[[Panel], np.ndarray]:
    return lambda p: by_day(p, lambda days: np.sin(angle(days)))


def _cos(angle: Callable[[np.ndarray], np.ndarray]) -> Callable[[Panel], np.ndarray]:
    return lambda p: by_day(p, lambda days: np.cos(angle(days)))


_TABLE = (
    Feature("log_return_1", "returns", 1, "log(close / close[-1])", lambda p: log_return(p, 1)),
    Feature("log_return_2", "returns", 2, "log(close / close[-2])", lambda p: log_return(p, 2)),
    Feature("log_return_3", "returns", 3, "log(close / close[-3])", lambda p: log_return(p, 3)),
    Feature("log_return_5", "returns", 5, "log(close / close[-5])", lambda p: log_return(p, 5)),
    Feature("log_return_10", "returns", 10, "log(close / close[-10])", lambda p: log_return(p, 10)),
    Feature("log_return_21", "returns", 21, "log(close / close[-21])", lambda p: log_return(p, 21)),
    Feature("log_return_63", "returns", 63, "log(close / close[-63])", lambda p: log_return(p, 63)),
    Feature("gap", "bar", 1, "log(open / close[-1])", lambda p: np.log(p.open / lag(p.close, 1))),
    Feature("body", "bar", 0, "log(close / open)", lambda p: np.log(p.close / p.open)),
    Feature(
        "upper_wick", "bar", 0, "log(high / max(open, close))", lambda p: np.log(p.high / np.maximum(p.open, p.close))
    ),
    Feature(
        "lower_wick", "bar", 0, "log(min(open, close) / low)", lambda p: np.log(np.minimum(p.open, p.close) / p.low)
    ),
    Feature("range", "bar", 0, "log(high / low)", log_range),
    Feature("ema_5", "averages", 4, "log(close / ta.ema(5))", lambda p: distance(p, ema(p, 5)), EMA_MEMORY[5]),
    Feature("ema_10", "averages", 9, "log(close / ta.ema(10))", lambda p: distance(p, ema(p, 10)), EMA_MEMORY[10]),
    Feature("ema_20", "averages", 19, "log(close / ta.ema(20))", lambda p: distance(p, ema(p, 20)), EMA_MEMORY[20]),
    Feature("sma_50", "averages", 49, "log(close / ta.sma(50))", lambda p: distance(p, mean(p, "close", 50))),
    Feature("sma_200", "averages", 199, "log(close / ta.sma(200))", lambda p: distance(p, mean(p, "close", 200))),
    Feature("rsi_7", "oscillators", 7, "ta.rsi(7) / 100", lambda p: rsi(p, 7), WILDER_MEMORY[7]),
    Feature("rsi_14", "oscillators", 14, "ta.rsi(14) / 100", lambda p: rsi(p, 14), WILDER_MEMORY[14]),
    Feature("rsi_21", "oscillators", 21, "ta.rsi(21) / 100", lambda p: rsi(p, 21), WILDER_MEMORY[21]),
    Feature("stochastic_k", "oscillators", 17, "K of ta.stoch(14, 3, 3) / 100", stochastic_k),
    Feature("stochastic_d", "oscillators", 17, "D of ta.stoch(14, 3, 3) / 100", stochastic_d),
    Feature("cci_20", "oscillators", 19, "ta.cci(20) / 100", lambda p: cci(p, 20)),
    Feature("macd", "macd", 25, "ta.macd(12, 26, 9) / close", lambda p: macd(p) / p.close, MACD_MEMORY),
    Feature(
        "macd_signal", "macd", 33, "ema(9) of macd / close", lambda p: macd_signal(p) / p.close, MACD_SIGNAL_MEMORY
    ),
    Feature(
        "macd_histogram",
        "macd",
        33,
        "(macd - its signal) / close",
        lambda p: (macd(p) - macd_signal(p)) / p.close,
        MACD_SIGNAL_MEMORY,
    ),
    Feature(
        "bollinger_position",
        "channels",
        19,
        "position of close in ta.bbands(20, 2)",
        lambda p: bollinger_position(p, 20),
    ),
    Feature(
        "bollinger_width",
        "channels",
        19,
        "(upper - lower) / middle of ta.bbands(20, 2)",
        lambda p: 4 * bollinger_deviation(p, 20) / mean(p, "close", 20),
    ),
    Feature(
        "donchian_position", "channels", 19, "position of close in ta.donchian(20)", lambda p: donchian_position(p, 20)
    ),
    Feature(
        "keltner_position",
        "channels",
        20,
        "position of close in ta.kc(20, 2)",
        lambda p: keltner_position(p, 20),
        KELTNER_MEMORY,
    ),
    Feature(
        "fibonacci_position",
        "channels",
        62,
        "position of close in ta.donchian(63)",
        lambda p: donchian_position(p, 63),
    ),
    Feature(
        "fibonacci_distance",
        "channels",
        62,
        "from there to the nearest retracement level",
        lambda p: fibonacci_distance(p, 63),
    ),
    Feature(
        "ichimoku_tenkan",
        "ichimoku",
        51,
        "log(close / tenkan of ta.ichimoku)",
        lambda p: distance(p, middle(p, TENKAN)),
    ),
    Feature("ichimoku_kijun", "ichimoku", 51, "log(close / kijun)", lambda p: distance(p, middle(p, KIJUN))),
    Feature("ichimoku_span_a", "ichimoku", 51, "log(close / span A[-26])", lambda p: distance(p, span_a(p))),
    Feature("ichimoku_span_b", "ichimoku", 77, "log(close / span B[-26])", lambda p: distance(p, span_b(p))),
    Feature("atr_5", "volatility", 5, "ta.atr(5) / close", lambda p: wilder_range(p, 5) / p.close, WILDER_MEMORY[5]),
    Feature(
        "atr_14", "volatility", 14, "ta.atr(14) / close", lambda p: wilder_range(p, 14) / p.close, WILDER_MEMORY[14]
    ),
    Feature(
        "atr_21", "volatility", 21, "ta.atr(21) / close", lambda p: wilder_range(p, 21) / p.close, WILDER_MEMORY[21]
    ),
    Feature("volatility_5", "volatility", 5, "ta.hvol(5): std of log_return_1", lambda p: volatility(p, 5)),
    Feature("volatility_21", "volatility", 21, "ta.hvol(21): std of log_return_1", lambda p: volatility(p, 21)),
    Feature("volatility_63", "volatility", 63, "ta.hvol(63): std of log_return_1", lambda p: volatility(p, 63)),
    Feature(
        "volatility_ratio",
        "volatility",
        63,
        "volatility_5 / volatility_63",
        lambda p: volatility(p, 5) / volatility(p, 63),
    ),
    Feature("parkinson_21", "volatility", 20, "sqrt(mean range^2 / (4 log 2)), 21 bars", lambda p: parkinson(p, 21)),
    Feature(
        "obv_21", "volume", 21, "(ta.obv - ta.obv[-21]) / sum of volume over 21 bars", lambda p: signed_volume(p, 21)
    ),
    Feature("volume_change", "volume", 1, "log(volume / volume[-1])", lambda p: np.log(p.volume / lag(p.volume, 1))),
    Feature("volume_ratio_5", "volume", 4, "log(volume / ta.sma(5) of volume)", lambda p: volume_ratio(p, 5)),
    Feature("volume_ratio_63", "volume", 62, "log(volume / ta.sma(63) of volume)", lambda p: volume_ratio(p, 63)),
    Feature("volume_zscore_21", "volume", 20, "ta.zscore(21) of volume", lambda p: volume_zscore(p, 21)),
    Feature("cmf_20", "volume", 19, "ta.cmf(20)", lambda p: money_flow(p, 20)),
    Feature("vwma_20", "volume", 19, "log(close / ta.vwma(20))", lambda p: distance(p, vwma(p, 20))),
    Feature("vortex_14", "trend", 14, "(VI+ - VI-) / (VI+ + VI-) of ta.vortex(14)", lambda p: vortex(p, 14)),
    Feature("aroon_25", "trend", 25, "oscillator of ta.aroon(25) / 100", lambda p: aroon(p, 25)),
    Feature("efficiency_21", "trend", 21, "ta.er(21): net move / path", lambda p: efficiency(p, 21)),
    Feature("streak", "trend", 1, "signed run of up or down closes, at most 10, / 10", lambda p: streak(p, 10), 10),
    Feature(
        "drawdown_252",
        "trend",
        251,
        "log(close / max of close over 252 bars)",
        lambda p: distance(p, highest(p, "close", 252)),
    ),
    Feature("momentum_12_1", "trend", 252, "log(close[-21] / close[-252])", lambda p: lag(log_return(p, 231), 21)),
    Feature("day_of_week_sin", "calendar", 0, "sin(2 pi day of week / 7)", _sin(_day_of_week)),
    Feature("day_of_week_cos", "calendar", 0, "cos(2 pi day of week / 7)", _cos(_day_of_week)),
    Feature("month_sin", "calendar", 0, "sin(2 pi month / 12)", _sin(_month)),
    Feature("month_cos", "calendar", 0, "cos(2 pi month / 12)", _cos(_month)),
    Feature("quarter_sin", "calendar", 0, "sin(2 pi quarter / 4)", _sin(_quarter)),
    Feature("quarter_cos", "calendar", 0, "cos(2 pi quarter / 4)", _cos(_quarter)),
    Feature("session_gap", "calendar", 1, "days since the previous bar", session_gap),
    *MORE,
    *REVERSAL,
    *VOLATILITY,
)
FEATURES: dict[str, Feature] = {row.name: row for row in _TABLE}
BUILT_IN = frozenset(FEATURES)
READERS = {"universe": ("market", "reversal"), "implied": ("implied",)}  # groups that read a part of a market;
# those named first know nothing without it
FEATURE_GROUPS: tuple[str, ...] = tuple(  # the default ones
    dict.fromkeys(row.group for row in _TABLE if row.group not in SELECTABLE_GROUPS)
)


def feature(
    *, group: str, lookback: int, formula: str = "", name: str | None = None
) -> Callable[[Callable[[IndicatorFrame], pd.Series]], Callable[[IndicatorFrame], pd.Series]]:
    """Add a function of the bars to the table.

    ```python
    @feature(group="mine", lookback=1, formula="close / close[-1] - 1")
    def simple_return(bars):
        return bars.close / bars.close.shift(1) - 1
    ```

    The bars are those of a block and its warm-up, at least twice `lookback`, not the whole history: an all-time high,
    say, is that of the block.

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[IndicatorFrame], pd.Series]) -> Callable[[IndicatorFrame], pd.Series]:
        key = name or function.__name__
        if key in FEATURES:
            raise ValueError(f"a feature named {key!r} exists already; pass another name to @feature(name=...)")
        FEATURES[key] = Feature(key, group, lookback, formula, function, max(WARM_UP, 2 * lookback), own=True)
        return function

    return register


def feature_names(groups: Sequence[str] | None = None) -> list[str]:
    """The features of these groups, in the order of the table; without groups all but the `SELECTABLE_GROUPS`.

    Raises:
        ValueError: no such group.
    """
    known = list(dict.fromkeys(row.group for row in FEATURES.values()))
    unknown = [group for group in groups or () if group not in known]
    if unknown:
        raise ValueError(f"unknown feature groups {unknown}; choose from {known}")
    chosen = [group for group in known if group not in SELECTABLE_GROUPS] if groups is None else groups
    return [row.name for row in FEATURES.values() if row.group in chosen]


def market_parts(names: Sequence[str]) -> list[str]:
    """The parts of a market that may change any of these features; a user's own may read all."""
    known = [FEATURES[name] for name in names if name in FEATURES]
    return [
        part
        for part, groups in READERS.items()
        if any(row.group in groups or row.name not in BUILT_IN for row in known)
    ]


# --- values ----------


def compute_features(
    bars: pd.DataFrame, names: Sequence[str], market: pd.DataFrame | None = None, *, start: int = 0
) -> pd.DataFrame:
    """The named features of one ticker as float64 [N, len(names)] on the index of `bars`, NaN where unknown.

    With `start`, only the rows from there on. As `features_of`.

    Raises:
        ValueError: no such feature, or one that raises or does not return a value per bar.
        ImportError: a feature needs pandas-ta-classic, which is not installed.
    """
    values, errors = features_of({"": bars}, names, markets={"": market}, starts={"": start})
    for error in errors.values():
        raise error
    return pd.DataFrame(values[""], index=bars.index[start:], columns=list(names))


def features_of(
    tickers: Mapping[str, pd.DataFrame | BarArrays],
    names: Sequence[str],
    *,
    markets: Mapping[str, pd.DataFrame | None],
    starts: Mapping[str, int],
) -> tuple[dict[str, np.ndarray], dict[str, FeatureError]]:
    """The named features of each ticker as float64 [N - start, len(names)], NaN where unknown, or what went wrong.

    Bars are sorted by time, with columns timestamp, open, high, low, close, volume; a market is what
    `market_tsf_llm.market_state` makes of the bars of an index or a universe. Only the rows from `start` on (default
    0) are computed. A number has the same bits alone and with others, from any start.

    Raises:
        ValueError: no such feature.
        ImportError: a feature needs pandas-ta-classic, which is not installed.
    """
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown features {unknown}; import the module that defines them with @feature")
    values = {t: np.full((len(names), len(bars) - starts.get(t, 0)), np.nan).T for t, bars in tickers.items()}
    errors: dict[str, FeatureError] = {}
    chosen = [FEATURES[name] for name in names]
    seen = [markets.get(ticker) for ticker in tickers]
    states = {id(state): state for state in seen if state is not None}  # most tickers share one
    told = {part for state in states.values() for part in parts_of(state)}
    untold = [groups[0] for part, groups in READERS.items() if part not in told]
    own = [i for i, feature in enumerate(chosen) if feature.own]
    ours = [i for i, feature in enumerate(chosen) if not feature.own and feature.group not in untold]
    tables = {key: MarketTable(state) for key, state in states.items()}
    longest = max((chosen[i].reach for i in ours), default=0)
    series = []
    with np.errstate(all="ignore"):  # a division by zero or the log of zero is an unknown, made NaN below
        for ticker, bars in tickers.items():
            state = markets.get(ticker)
            one = _Observed(bars, starts.get(ticker, 0), longest, values[ticker], tables.get(id(state)))
            series.append(one)
            try:
                if own and one.begin < len(one.rows):
                    of_frame = own_features(as_frame(bars), one.rows, state, [chosen[i] for i in own], one.begin)
                    one.put(one.begin, np.where(np.isfinite(of_frame), of_frame, np.nan).T, own)
            except FeatureError as error:
                errors[ticker] = error
        for places in _by(REACHES, lambda feature: feature.reach, ours, chosen):
            _compute(chosen, places, series)
    return {ticker: table for ticker, table in values.items() if ticker not in errors}, errors


class _Observed:
    """One ticker's observed bars from the first on that is read, and the table `[N - start, F]` of its features."""

    def __init__(
        self, bars: pd.DataFrame | BarArrays, start: int, reach: int, table: np.ndarray, market: MarketTable | None
    ) -> None:
        prices = [np.asarray(bars[name], dtype=float) for name in OHLCV.columns]
        observed = np.logical_and.reduce([np.isfinite(price) for price in prices[: len(PRICES)]])
        self.rows = np.flatnonzero(observed)
        self.begin = int(np.count_nonzero(observed[:start]))  # of the observed bars, the first that is wanted
        self.start, self.table = start, table
        self.first = max(0, self.begin - reach)  # the first that is read
        read = _together(self.rows[self.first :])
        before = min(self.first, STALE)  # bars that tell a stale market
        seen = _together(self.rows[self.first - before :])
        self.columns = dict(zip(OHLCV.columns, (price[read] for price in prices), strict=True))
        self.columns["timestamp"] = wall_clock(bars["timestamp"])[read]
        if market is not None:
            then = market.as_of(in_utc(bars["timestamp"])[seen])
            self.columns.update({name: column[before:] for name, column in then.items()})

    def put(self, begin: int, values: np.ndarray, places: list[int]) -> None:
        """Values `[len(places), bars]` of the observed bars from `begin` on."""
        rows = _together(self.rows[begin : begin + values.shape[1]] - self.start)
        if isinstance(rows, slice):
            self.table.T[places, rows] = values
        else:
            self.table.T[np.array(places)[:, None], rows] = values


def _together(rows: np.ndarray) -> np.ndarray | slice:
    """Ascending rows, as a slice where they have no gap: what that takes need not be copied."""
    return slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows


@dataclass
class _Piece:
    """The observed bars `begin` to `end` of a ticker, for which those from `head` on are read."""

    of: _Observed
    head: int
    begin: int
    end: int

    def columns(self) -> dict[str, np.ndarray]:
        part = slice(self.head - self.of.first, self.end - self.of.first)
        return {name: column[part] for name, column in self.of.columns.items()}


def _by(
    edges: Sequence[int], reach: Callable[[Feature], int], places: list[int], chosen: Sequence[Feature]
) -> list[list[int]]:
    """Features between two edges of their reach; what reaches further than most would make long panels for all."""
    of = [bisect_left(edges, reach(chosen[i])) for i in places]
    parts = [[i for i, edge in zip(places, of, strict=True) if edge == k] for k in range(len(edges) + 1)]
    return [part for part in parts if part]


def _compute(chosen: Sequence[Feature], places: list[int], series: Sequence[_Observed]) -> None:
    reach, lookbacks = max(chosen[i].reach for i in places), np.array([chosen[i].lookback for i in places])
    pieces = [
        _Piece(one, max(0, begin - reach), begin, min(begin + LONGEST, len(one.rows)))
        for one in series
        for begin in range(one.begin, len(one.rows), LONGEST)
    ]
    history = sum(2 * piece.begin - piece.head - piece.end for piece in pieces) > 0  # most of what is read
    for together in alike([piece.end - piece.head for piece in pieces], 4 * PANEL if history else PANEL):
        part = [pieces[place] for place in together]
        panel = Panel([piece.columns() for piece in part])
        first = min(piece.begin - piece.head for piece in part)
        values = np.empty((len(part), len(places), len(panel.close) - first))
        for i, column in _columns(panel, first, chosen, places):
            values[:, i] = (column + 0 * column).T  # what is infinite is unknown
        for known, piece in zip(values, part, strict=True):
            known = known[:, piece.begin - piece.head - first : piece.end - piece.head - first]
            if piece.begin < lookbacks.max():
                known[np.arange(piece.begin, piece.end) < lookbacks[:, None]] = np.nan
            piece.of.put(piece.begin, known, places)


def _columns(
    panel: Panel, first: int, chosen: Sequence[Feature], places: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Each feature's place among `places`, and its values from row `first` on."""
    for part in _by(NEAR, lambda feature: feature.near, places, chosen):
        head = max(0, first - max(chosen[i].near for i in part))
        tail = panel.tail(head) if head else panel
        for i in part:
            yield places.index(i), chosen[i].compute(tail)[first - head :]
