"""The table of input features: what each one is, which pandas-ta-classic call makes it, how it becomes scale-free.

Design choices:

* A feature at bar t reads bars <= t only. Left out because they do not: Ichimoku's chikou span (`ICS_26`, the close 26
  bars later), `dpo`, `tos_stdevall`, `vp`.
* Prices and volumes enter only as ratios, log ratios or bounded oscillators, so one model serves every ticker.
  Levels that depend on where the history starts (`ad`, `obv`, `nvi`, `pvi`, `pvt`) are differenced or left out.
* No feature turns on the sign of a rounding error. `adx` and `mfi` compare differences of prices, where a tie is
  broken by the last bit and a change of currency changes the answer; `vortex` and `cmf` say the same smoothly.
* Unknown is NaN: too little history, a zero denominator, no volume. A flat window has no position inside itself.
* A bar without its four prices is missing: its own features are NaN, and windows and lags run over observed bars,
  so that one gap does not blank a recursive average for ever after.
* Values do not depend on whether TA-Lib is installed: every call says `talib=False`.

In formulas `x[-n]` is x n bars ago, `ta.f(n)` is `pandas_ta_classic.f` with length n, and the position of close in a
channel is (close - lower) / (upper - lower).
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

try:
    import pandas_ta_classic as ta
except ImportError:
    ta = None


PRICES = ["open", "high", "low", "close"]
FIBONACCI_LEVELS = np.array([0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0])
FLAT = 1e-9  # a window whose range is below this share of its price is rounding error, not movement


class IndicatorFrame(pd.DataFrame):
    """One ticker's observed bars: a DataFrame that computes each pandas-ta indicator once.

    ```python
    bars.close / bars["close"].shift(1)
    bars.indicator("rsi", length=14)
    bars.indicator("sma", close="volume", length=20)
    bars.indicator("macd", "MACDh_12_26_9", fast=12, slow=26, signal=9)
    ```
    """

    def __init__(self, bars: pd.DataFrame):
        super().__init__(bars)
        object.__setattr__(self, "_memo", {})  # past pandas, which takes a plain assignment for a new column

    def indicator(self, name: str, column: str | None = None, **params: Any) -> pd.Series:
        """`pandas_ta_classic.<name>` over these bars; `column` picks one of several results.

        The price and volume arguments are filled by name, or from another column on request (`close="volume"`).
        A frame shorter than the window gives NaN.

        Raises:
            ImportError: pandas-ta-classic is not installed.
        """
        key = (name, *sorted(params.items()))
        if key not in self._memo:
            self._memo[key] = self._compute(name, **params)
        result = self._memo[key]
        if result is None:
            return pd.Series(np.nan, index=self.index)
        return result if column is None else result[column]

    def _compute(self, name: str, **params: Any) -> pd.Series | pd.DataFrame | None:
        if ta is None:
            raise ImportError("the default features need pandas-ta-classic: pip install pandas-ta-classic")
        function = getattr(ta, name)
        wanted = [p for p in inspect.signature(function).parameters if p in ("high", "low", "close", "volume")]
        inputs = {p: self[params.pop(p, p)] for p in wanted}
        return function(**inputs, **params, talib=False)


@dataclass(frozen=True)
class Feature:
    """One row of the table. `lookback` is how many observed bars must precede the first value."""

    name: str
    group: str
    lookback: int
    formula: str
    compute: Callable[[IndicatorFrame], pd.Series]


def _moves(high: pd.Series, low: pd.Series, length: int) -> pd.Series:
    """True where the trailing window has a range at all.

    Asked of extremes, which are exact: a rolling sum or deviation of nothing keeps a residue of earlier bars.
    """
    top = high.rolling(length).max()
    return top - low.rolling(length).min() > FLAT * top


def _traded(bars: IndicatorFrame, length: int) -> pd.Series:
    """True where the trailing window has any volume."""
    return bars.volume.rolling(length).max() > 0


def _position(bars: IndicatorFrame, name: str, columns: str, **params: Any) -> pd.Series:
    """Close within a channel: 0 at the lower line, 1 at the upper, NaN where the two coincide.

    `columns` is the pandas-ta name of both lines, with `{}` where one says L and the other U.
    """
    lower, upper = (bars.indicator(name, columns.format(side), **params) for side in "LU")
    span = upper - lower
    return (bars.close - lower) / span.where(span > FLAT * bars.close)


def _distance(bars: IndicatorFrame, name: str, column: str | None = None, **params: Any) -> pd.Series:
    """log(close / indicator), for an indicator in units of price."""
    return np.log(bars.close / bars.indicator(name, column, **params))


def _log_return(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.indicator("log_return", length=length)


def _upper_wick(bars: IndicatorFrame) -> pd.Series:
    return np.log(bars.high / np.maximum(bars.open, bars.close))


def _lower_wick(bars: IndicatorFrame) -> pd.Series:
    return np.log(np.minimum(bars.open, bars.close) / bars.low)


def _rsi(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.indicator("rsi", length=length) / 100


def _stochastic(bars: IndicatorFrame, line: str, smoothed: int) -> pd.Series:
    """pandas-ta calls a flat market 0; it has no answer, nor have the bars whose average would include it.

    It returns neither line before it has both, so they share a lookback.
    """
    moves = _moves(bars.high, bars.low, 14).rolling(smoothed).min() > 0
    return (bars.indicator("stoch", f"STOCH{line}_14_3_3", k=14, d=3, smooth_k=3) / 100).where(moves)


def _cci(bars: IndicatorFrame, length: int) -> pd.Series:
    return (bars.indicator("cci", length=length) / 100).where(_moves(bars.high, bars.low, length))


def _macd(bars: IndicatorFrame, column: str) -> pd.Series:
    return bars.indicator("macd", column, fast=12, slow=26, signal=9) / bars.close


def _bollinger_position(bars: IndicatorFrame) -> pd.Series:
    return _position(bars, "bbands", "BB{}_20_2.0", length=20, std=2.0)


def _bollinger_width(bars: IndicatorFrame) -> pd.Series:
    return bars.indicator("bbands", "BBB_20_2.0", length=20, std=2.0) / 100


def _donchian(bars: IndicatorFrame, length: int) -> pd.Series:
    columns = f"DC{{}}_{length}_{length}"
    return _position(bars, "donchian", columns, lower_length=length, upper_length=length)


def _keltner_position(bars: IndicatorFrame) -> pd.Series:
    return _position(bars, "kc", "KC{}e_20_2.0", length=20, scalar=2.0)


def _fibonacci_distance(bars: IndicatorFrame) -> pd.Series:
    """Unsigned: the side of the nearest level would flip midway between two."""
    position = _donchian(bars, 63).to_numpy()
    return pd.Series(np.abs(position[:, None] - FIBONACCI_LEVELS).min(axis=1), bars.index)


def _ichimoku(bars: IndicatorFrame, column: str) -> pd.Series:
    """pandas-ta shifts the spans 26 bars forward: row t holds the cloud over bar t, made of bars <= t - 26.

    It returns no line at all before it has 52 bars, so no lookback is less than 51.
    """
    periods = {"tenkan": 9, "kijun": 26, "senkou": 52}
    return _distance(bars, "ichimoku", column, **periods, include_chikou=False, as_dataframe=True)


def _atr(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.indicator("atr", length=length) / bars.close


def _volatility(bars: IndicatorFrame, length: int) -> pd.Series:
    """Per bar, as a fraction: pandas-ta would report annual percent."""
    volatility = bars.indicator("hvol", length=length, annualization=1) / 100
    return volatility.where(_moves(bars.close, bars.close, length + 1), 0.0)


def _volatility_ratio(bars: IndicatorFrame) -> pd.Series:
    return _volatility(bars, 5) / _volatility(bars, 63)


def _parkinson(bars: IndicatorFrame, length: int) -> pd.Series:
    """Parkinson (1980), "The extreme value method for estimating the variance of the rate of return"."""
    return np.sqrt((np.log(bars.high / bars.low) ** 2).rolling(length).mean() / (4 * np.log(2)))


def _obv(bars: IndicatorFrame, length: int) -> pd.Series:
    """The level of OBV depends on where the history starts; its change over `length` bars does not."""
    volume = bars.volume.rolling(length).sum().where(_traded(bars, length))
    return bars.indicator("obv").diff(length) / volume


def _volume_ratio(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.volume / bars.indicator("sma", close="volume", length=length))


def _volume_zscore(bars: IndicatorFrame, length: int) -> pd.Series:
    zscore = bars.indicator("zscore", close="volume", length=length)
    return zscore.where(_moves(bars.volume, bars.volume, length))


def _cmf(bars: IndicatorFrame, length: int) -> pd.Series:
    """Within [-1, 1] by definition; a close outside its own bar's range would leave it."""
    return bars.indicator("cmf", length=length).clip(-1, 1).where(_traded(bars, length))


def _vwma(bars: IndicatorFrame, length: int) -> pd.Series:
    return _distance(bars, "vwma", length=length).where(_traded(bars, length))


def _vortex(bars: IndicatorFrame, length: int) -> pd.Series:
    up, down = (bars.indicator("vortex", f"VTX{side}_{length}", length=length) for side in "PM")
    return ((up - down) / (up + down)).where(bars.indicator("true_range").rolling(length).max() > FLAT * bars.close)


def _aroon(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.indicator("aroon", f"AROONOSC_{length}", length=length) / 100


def _efficiency(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.indicator("er", length=length).where(_moves(bars.close, bars.close, length + 1))


def _streak(bars: IndicatorFrame, most: int) -> pd.Series:
    direction = np.sign(bars.close.diff())
    run = direction.groupby((direction != direction.shift(1)).cumsum()).cumcount() + 1
    return direction * run.clip(upper=most) / most


def _drawdown(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.close / bars.close.rolling(length).max())


def _day_of_week(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * bars.timestamp.dt.day_of_week / 7


def _month(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * bars.timestamp.dt.month / 12


def _quarter(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * bars.timestamp.dt.quarter / 4


def _session_gap(bars: IndicatorFrame) -> pd.Series:
    return bars.timestamp.diff() / pd.Timedelta(days=1)


_TABLE = (
    Feature("log_return_1", "returns", 1, "log(close / close[-1])", lambda b: _log_return(b, 1)),
    Feature("log_return_2", "returns", 2, "log(close / close[-2])", lambda b: _log_return(b, 2)),
    Feature("log_return_3", "returns", 3, "log(close / close[-3])", lambda b: _log_return(b, 3)),
    Feature("log_return_5", "returns", 5, "log(close / close[-5])", lambda b: _log_return(b, 5)),
    Feature("log_return_10", "returns", 10, "log(close / close[-10])", lambda b: _log_return(b, 10)),
    Feature("log_return_21", "returns", 21, "log(close / close[-21])", lambda b: _log_return(b, 21)),
    Feature("log_return_63", "returns", 63, "log(close / close[-63])", lambda b: _log_return(b, 63)),
    Feature("gap", "bar", 1, "log(open / close[-1])", lambda b: np.log(b.open / b.close.shift(1))),
    Feature("body", "bar", 0, "log(close / open)", lambda b: np.log(b.close / b.open)),
    Feature("upper_wick", "bar", 0, "log(high / max(open, close))", _upper_wick),
    Feature("lower_wick", "bar", 0, "log(min(open, close) / low)", _lower_wick),
    Feature("range", "bar", 0, "log(high / low)", lambda b: np.log(b.high / b.low)),
    Feature("ema_5", "averages", 4, "log(close / ta.ema(5))", lambda b: _distance(b, "ema", length=5)),
    Feature("ema_10", "averages", 9, "log(close / ta.ema(10))", lambda b: _distance(b, "ema", length=10)),
    Feature("ema_20", "averages", 19, "log(close / ta.ema(20))", lambda b: _distance(b, "ema", length=20)),
    Feature("sma_50", "averages", 49, "log(close / ta.sma(50))", lambda b: _distance(b, "sma", length=50)),
    Feature("sma_200", "averages", 199, "log(close / ta.sma(200))", lambda b: _distance(b, "sma", length=200)),
    Feature("rsi_7", "oscillators", 7, "ta.rsi(7) / 100", lambda b: _rsi(b, 7)),
    Feature("rsi_14", "oscillators", 14, "ta.rsi(14) / 100", lambda b: _rsi(b, 14)),
    Feature("rsi_21", "oscillators", 21, "ta.rsi(21) / 100", lambda b: _rsi(b, 21)),
    Feature("stochastic_k", "oscillators", 17, "K of ta.stoch(14, 3, 3) / 100", lambda b: _stochastic(b, "k", 3)),
    Feature("stochastic_d", "oscillators", 17, "D of ta.stoch(14, 3, 3) / 100", lambda b: _stochastic(b, "d", 5)),
    Feature("cci_20", "oscillators", 19, "ta.cci(20) / 100", lambda b: _cci(b, 20)),
    Feature("macd", "macd", 25, "ta.macd(12, 26, 9) / close", lambda b: _macd(b, "MACD_12_26_9")),
    Feature("macd_signal", "macd", 33, "ema(9) of macd / close", lambda b: _macd(b, "MACDs_12_26_9")),
    Feature("macd_histogram", "macd", 33, "(macd - its signal) / close", lambda b: _macd(b, "MACDh_12_26_9")),
    Feature("bollinger_position", "channels", 19, "position of close in ta.bbands(20, 2)", _bollinger_position),
    Feature("bollinger_width", "channels", 19, "(upper - lower) / middle of ta.bbands(20, 2)", _bollinger_width),
    Feature("donchian_position", "channels", 19, "position of close in ta.donchian(20)", lambda b: _donchian(b, 20)),
    Feature("keltner_position", "channels", 20, "position of close in ta.kc(20, 2)", _keltner_position),
    Feature("fibonacci_position", "channels", 62, "position of close in ta.donchian(63)", lambda b: _donchian(b, 63)),
    Feature("fibonacci_distance", "channels", 62, "from there to the nearest retracement level", _fibonacci_distance),
    Feature("ichimoku_tenkan", "ichimoku", 51, "log(close / tenkan of ta.ichimoku)", lambda b: _ichimoku(b, "ITS_9")),
    Feature("ichimoku_kijun", "ichimoku", 51, "log(close / kijun)", lambda b: _ichimoku(b, "IKS_26")),
    Feature("ichimoku_span_a", "ichimoku", 51, "log(close / span A[-26])", lambda b: _ichimoku(b, "ISA_9")),
    Feature("ichimoku_span_b", "ichimoku", 77, "log(close / span B[-26])", lambda b: _ichimoku(b, "ISB_26")),
    Feature("atr_5", "volatility", 5, "ta.atr(5) / close", lambda b: _atr(b, 5)),
    Feature("atr_14", "volatility", 14, "ta.atr(14) / close", lambda b: _atr(b, 14)),
    Feature("atr_21", "volatility", 21, "ta.atr(21) / close", lambda b: _atr(b, 21)),
    Feature("volatility_5", "volatility", 5, "ta.hvol(5): std of log_return_1", lambda b: _volatility(b, 5)),
    Feature("volatility_21", "volatility", 21, "ta.hvol(21): std of log_return_1", lambda b: _volatility(b, 21)),
    Feature("volatility_63", "volatility", 63, "ta.hvol(63): std of log_return_1", lambda b: _volatility(b, 63)),
    Feature("volatility_ratio", "volatility", 63, "volatility_5 / volatility_63", _volatility_ratio),
    Feature("parkinson_21", "volatility", 20, "sqrt(mean range^2 / (4 log 2)), 21 bars", lambda b: _parkinson(b, 21)),
    Feature("obv_21", "volume", 21, "(ta.obv - ta.obv[-21]) / sum of volume over 21 bars", lambda b: _obv(b, 21)),
    Feature("volume_change", "volume", 1, "log(volume / volume[-1])", lambda b: np.log(b.volume / b.volume.shift(1))),
    Feature("volume_ratio_5", "volume", 4, "log(volume / ta.sma(5) of volume)", lambda b: _volume_ratio(b, 5)),
    Feature("volume_ratio_63", "volume", 62, "log(volume / ta.sma(63) of volume)", lambda b: _volume_ratio(b, 63)),
    Feature("volume_zscore_21", "volume", 20, "ta.zscore(21) of volume", lambda b: _volume_zscore(b, 21)),
    Feature("cmf_20", "volume", 19, "ta.cmf(20)", lambda b: _cmf(b, 20)),
    Feature("vwma_20", "volume", 19, "log(close / ta.vwma(20))", lambda b: _vwma(b, 20)),
    Feature("vortex_14", "trend", 14, "(VI+ - VI-) / (VI+ + VI-) of ta.vortex(14)", lambda b: _vortex(b, 14)),
    Feature("aroon_25", "trend", 25, "oscillator of ta.aroon(25) / 100", lambda b: _aroon(b, 25)),
    Feature("efficiency_21", "trend", 21, "ta.er(21): net move / path", lambda b: _efficiency(b, 21)),
    Feature("streak", "trend", 1, "signed run of up or down closes, at most 10, / 10", lambda b: _streak(b, 10)),
    Feature("drawdown_252", "trend", 251, "log(close / max of close over 252 bars)", lambda b: _drawdown(b, 252)),
    Feature("momentum_12_1", "trend", 252, "log(close[-21] / close[-252])", lambda b: _log_return(b, 231).shift(21)),
    Feature("day_of_week_sin", "calendar", 0, "sin(2 pi day of week / 7)", lambda b: np.sin(_day_of_week(b))),
    Feature("day_of_week_cos", "calendar", 0, "cos(2 pi day of week / 7)", lambda b: np.cos(_day_of_week(b))),
    Feature("month_sin", "calendar", 0, "sin(2 pi month / 12)", lambda b: np.sin(_month(b))),
    Feature("month_cos", "calendar", 0, "cos(2 pi month / 12)", lambda b: np.cos(_month(b))),
    Feature("quarter_sin", "calendar", 0, "sin(2 pi quarter / 4)", lambda b: np.sin(_quarter(b))),
    Feature("quarter_cos", "calendar", 0, "cos(2 pi quarter / 4)", lambda b: np.cos(_quarter(b))),
    Feature("session_gap", "calendar", 1, "days since the previous bar", _session_gap),
)
FEATURES: dict[str, Feature] = {row.name: row for row in _TABLE}
FEATURE_GROUPS: tuple[str, ...] = tuple(dict.fromkeys(row.group for row in _TABLE))


def feature(
    *, group: str, lookback: int, formula: str = "", name: str | None = None
) -> Callable[[Callable[[IndicatorFrame], pd.Series]], Callable[[IndicatorFrame], pd.Series]]:
    """Add a function of the bars to the table.

    ```python
    @feature(group="mine", lookback=1, formula="close / close[-1] - 1")
    def simple_return(bars):
        return bars.close / bars.close.shift(1) - 1
    ```

    Raises:
        ValueError: the name is taken.
    """

    def register(function: Callable[[IndicatorFrame], pd.Series]) -> Callable[[IndicatorFrame], pd.Series]:
        key = name or function.__name__
        if key in FEATURES:
            raise ValueError(f"a feature named {key!r} exists already; pass another name to @feature(name=...)")
        FEATURES[key] = Feature(key, group, lookback, formula, function)
        return function

    return register


def feature_names(groups: Sequence[str] | None = None) -> list[str]:
    """The features of these groups, or all of them, in the order of the table.

    Raises:
        ValueError: no such group.
    """
    known = list(dict.fromkeys(row.group for row in FEATURES.values()))
    unknown = [group for group in groups or () if group not in known]
    if unknown:
        raise ValueError(f"unknown feature groups {unknown}; choose from {known}")
    return [row.name for row in FEATURES.values() if groups is None or row.group in groups]


def compute_features(bars: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The named features of one ticker as float64 [N, len(names)] on the index of `bars`, NaN where unknown.

    `bars` is sorted by time, with columns timestamp, open, high, low, close, volume.

    Raises:
        ValueError: no such feature, or one that does not return a value per bar.
        ImportError: a feature needs pandas-ta-classic, which is not installed.
    """
    unknown = [name for name in names if name not in FEATURES]
    if unknown:
        raise ValueError(f"unknown features {unknown}; import the module that defines them with @feature")
    observed = np.isfinite(bars[PRICES].to_numpy(dtype=float)).all(axis=1)
    present = bars[observed].reset_index(drop=True).astype(dict.fromkeys([*PRICES, "volume"], float))
    frame = IndicatorFrame(present)
    values = np.full((len(bars), len(names)), np.nan)
    with np.errstate(all="ignore"):  # a division by zero or the log of zero is an unknown, made NaN below
        for column, name in enumerate(names):
            values[observed, column] = _evaluate(FEATURES[name], frame)
    return pd.DataFrame(np.where(np.isfinite(values), values, np.nan), index=bars.index, columns=list(names))


def _evaluate(row: Feature, frame: IndicatorFrame) -> np.ndarray:
    """One column, NaN for the first `lookback` bars: values before a window is full depend on where history starts."""
    if len(frame) <= row.lookback:
        return np.full(len(frame), np.nan)
    values = np.array(row.compute(frame), dtype=float)
    if values.shape != (len(frame),):
        raise ValueError(f"feature {row.name!r} returned shape {values.shape}, not one value per bar: {(len(frame),)}")
    values[: row.lookback] = np.nan
    return values
