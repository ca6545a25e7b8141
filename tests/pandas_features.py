"""The oracle of the built-in features: each as a function of one ticker's `IndicatorFrame`, by pandas and
pandas-ta-classic. A first value is what the table's lookback says, not what is said here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from tsf_llm.bars_tsf_llm import MIN_BARS, OHLCV, SIGMA_CAP
from tsf_llm.own_features_tsf_llm import IndicatorFrame

FIBONACCI_LEVELS = np.array([0.0, 0.236, 0.382, 0.5, 0.618, 0.786, 1.0])
FLAT = 1e-9  # a window whose range is below this share of its price is rounding error, not movement
PIVOT = 5  # bars on either side that a pivot must undercut; the later ones confirm it
PIVOT_REACH = 63  # most bars between two pivots that are compared, and bars that make a support or resistance
YEAR = 252  # trading days, over which an implied-volatility index is quoted
QUARTER = (59, 65)  # bars ago: 63 bars before the next one, and three on either side


def mean_root(variance: pd.Series, length: int) -> pd.Series:
    """Square root of a trailing mean; a sum of nothing may keep a negative residue of earlier bars."""
    return np.sqrt(variance.rolling(length).mean().clip(lower=0))


def garman_klass_variance(bars: IndicatorFrame) -> pd.Series:
    """Garman and Klass (1980), "On the estimation of security price volatilities from historical data"."""
    return np.log(bars.high / bars.low) ** 2 / 2 - (2 * np.log(2) - 1) * np.log(bars.close / bars.open) ** 2


def rogers_satchell_variance(bars: IndicatorFrame) -> pd.Series:
    """Rogers and Satchell (1991), "Estimating variance from high, low and closing prices"."""
    up, down = (np.log(extreme / bars.open) for extreme in (bars.high, bars.low))
    body = np.log(bars.close / bars.open)
    return up * (up - body) + down * (down - body)


def overnight_move(bars: IndicatorFrame) -> pd.Series:
    return np.log(bars.open / bars.close.shift(1))


def yang_zhang(bars: IndicatorFrame, length: int) -> pd.Series:
    """Yang and Zhang (2000), "Drift-independent volatility estimation based on high, low, open, and close prices"."""
    overnight = overnight_move(bars).rolling(length).var()
    inside = np.log(bars.close / bars.open).rolling(length).var()
    within = rogers_satchell_variance(bars).rolling(length).mean()
    k = 0.34 / (1.34 + (length + 1) / (length - 1))
    return np.sqrt((overnight + k * inside + (1 - k) * within).clip(lower=0))


# --- in units of the usual move ----------


def _usual_move(bars: IndicatorFrame) -> pd.Series:
    """Volatility per bar as the processor's defaults measure it."""
    returns = np.log(bars.close / bars.close.shift(1)).to_numpy()
    return pd.Series(OHLCV.volatility(returns, OHLCV.sigma_decay, OHLCV.sigma_floor, SIGMA_CAP), bars.index)


def _whole_variance(bars: IndicatorFrame) -> pd.Series:
    return overnight_move(bars) ** 2 + garman_klass_variance(bars)


def _overnight_variance(bars: IndicatorFrame) -> pd.Series:
    return overnight_move(bars) ** 2


def _log_ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    return np.log(part.where(part > FLAT) / whole)


def _in_usual_moves(bars: IndicatorFrame, variance: Callable[[IndicatorFrame], pd.Series], length: int) -> pd.Series:
    return _log_ratio(mean_root(bars.once(variance), length), bars.once(_usual_move))


def _fall(bars: IndicatorFrame, length: int) -> pd.Series:
    """Of falls alone: volatility answers to them more than to rises (Corsi and Reno 2012, "Leverage HAR")."""
    fall = (-np.log(bars.close / bars.close.shift(length))).clip(lower=0)
    return fall / (bars.once(_usual_move) * np.sqrt(length))


def _quarter_ago_move(bars: IndicatorFrame) -> pd.Series:
    """The largest bar of those that lie about as far behind the next one as a company's last quarterly report."""
    first, last = QUARTER
    largest = bars.once(_whole_variance).shift(first).rolling(last - first + 1).max()
    return _log_ratio(np.sqrt(largest.clip(lower=0)), mean_root(bars.once(_whole_variance), 63))


# --- an implied-volatility index ----------


def _implied_to_own(bars: IndicatorFrame, length: int) -> pd.Series:
    """Annual points, as 17.5, per bar, over the ticker's own volatility."""
    own = mean_root(bars.once(_whole_variance), length)
    return bars.market["implied"] - np.log(100 * np.sqrt(YEAR)) - np.log(own.where(own > FLAT))


def _implied_change(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.market["implied"].diff(length)


def _implied_to_mean(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.market["implied"] - bars.market[f"implied_{length}"]


# --- the market in the ticker's usual moves, and its own moves so ----------


def _market_to_own(bars: IndicatorFrame, name: str, length: int) -> pd.Series:
    column = name if length == 1 else f"{name}_{length}"
    return _log_ratio(bars.market[column], bars.once(_usual_move))


def _market_move(bars: IndicatorFrame, length: int) -> pd.Series:
    return bars.market["level"].diff(length) / (bars.once(_usual_move) * np.sqrt(length))


def _move(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.close / bars.close.shift(length)) / (bars.once(_usual_move) * np.sqrt(length))


Row = tuple[str, str, int, str, Callable[[IndicatorFrame], pd.Series]]  # name, group, lookback, formula, function


def _rows(
    group: str, name: str, formula: str, function: Callable[..., pd.Series], lookbacks: dict[int, int]
) -> list[Row]:
    """One row per length of a window, N in the formula, and how many bars must come before its first value."""

    def of_length(n: int) -> Callable[[IndicatorFrame], pd.Series]:
        return lambda bars: function(bars, n)

    return [
        (f"{name}_{n}", group, lookback, formula.replace("N", str(n)), of_length(n))
        for n, lookback in lookbacks.items()
    ]


def _of_moves(*lengths: int) -> dict[int, int]:
    """Lookbacks where the usual move is known and the window full."""
    return {n: max(n, MIN_BARS - 1) for n in lengths}


_RANGE = "log(sqrt(mean gap^2 + Garman-Klass) / usual move), N bars"
ROWS: list[Row] = [
    *_rows(
        *("range", "range_volatility", _RANGE),
        lambda bars, n: _in_usual_moves(bars, _whole_variance, n),
        _of_moves(1, 3, 5, 10, 21, 63, 252),
    ),
    *_rows(
        *("range", "inside_volatility", "log(Rogers-Satchell / usual move), N bars"),
        lambda bars, n: _in_usual_moves(bars, rogers_satchell_variance, n),
        _of_moves(5, 21),
    ),
    *_rows(
        *("range", "night_volatility", "log(sqrt(mean gap^2) / usual move), N bars"),
        lambda bars, n: _in_usual_moves(bars, _overnight_variance, n),
        _of_moves(5, 21, 63),
    ),
    *_rows("leverage", "fall", "max(0, -log return of N bars) / (usual move * sqrt(N))", _fall, _of_moves(1, 5, 21)),
    (
        *("quarter_ago_move", "events", QUARTER[1] + 1),
        "log(largest sqrt(gap^2 + Garman-Klass) 59 to 65 bars ago / that of 63 bars)",
        _quarter_ago_move,
    ),
    *_rows(
        *("implied", "implied_to_own", "log(implied per bar / sqrt(mean gap^2 + Garman-Klass)), N bars"),
        _implied_to_own,
        {21: 21, 63: 63},
    ),
    *_rows("implied", "implied_change", "log(implied / implied[-N])", _implied_change, {1: 10, 5: 10}),
    *_rows(
        "implied", "implied_to_mean", "log(implied / its mean over N of its bars)", _implied_to_mean, {21: 20, 63: 62}
    ),
    *_rows(
        "moves", "move", "log return of N bars / (usual move * sqrt(N))", _move, _of_moves(1, 2, 3, 5, 10, 21, 63, 252)
    ),
    *_rows(
        *("market", "market_range_to_own", "log(market_range_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "range", n),
        _of_moves(1, 5, 21),
    ),
    *_rows(
        *("market", "market_moves_to_own", "log(market_abs_return_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "abs_return", n),
        _of_moves(1, 5, 21),
    ),
    *_rows(
        *("market", "dispersion_to_own", "log(market_dispersion_N / usual move)"),
        lambda bars, n: _market_to_own(bars, "dispersion", n),
        _of_moves(1, 21),
    ),
    *_rows(
        *("market", "market_move", "log return of the market over N bars / (usual move * sqrt(N))"),
        _market_move,
        _of_moves(1, 5, 21),
    ),
]


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


# --- groups to choose by name ----------


def _crossing(ahead: pd.Series) -> pd.Series:
    """1 where a difference turned positive at this bar, -1 where it turned negative, halves from or to zero."""
    side = np.sign(ahead.where(ahead.abs() > FLAT, ahead * 0))
    return (side - side.shift(1)) / 2


def _cross(bars: IndicatorFrame, fast: int, slow: int) -> pd.Series:
    return _crossing(np.log(bars.indicator("sma", length=fast) / bars.indicator("sma", length=slow)))


def _share_of_range(bars: IndicatorFrame, part: pd.Series) -> pd.Series:
    span = bars.high - bars.low
    return part / span.where(span > FLAT * bars.close)


def _upper_shadow(bars: IndicatorFrame) -> pd.Series:
    return _share_of_range(bars, bars.high - np.maximum(bars.open, bars.close)).clip(0, 1)


def _lower_shadow(bars: IndicatorFrame) -> pd.Series:
    return _share_of_range(bars, np.minimum(bars.open, bars.close) - bars.low).clip(0, 1)


def _body_share(bars: IndicatorFrame) -> pd.Series:
    """Within [-1, 1] by definition; an open or close outside its own bar's range would leave it."""
    return _share_of_range(bars, bars.close - bars.open).clip(-1, 1)


def _to_high(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.close / bars.high.rolling(length).max())


def _to_low(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.close / bars.low.rolling(length).min())


def _close_moment(bars: IndicatorFrame, name: str, length: int) -> pd.Series:
    return bars.indicator(name, length=length).where(_moves(bars.close, bars.close, length))


def _acceleration(bars: IndicatorFrame, length: int) -> pd.Series:
    change = _log_return(bars, length)
    return change - change.shift(length)


def _slope(bars: IndicatorFrame, length: int) -> pd.Series:
    """Rise of the least-squares line over its window, as a share of the close."""
    return bars.indicator("linreg", length=length, slope=True) * length / bars.close


def _volume_correlation(bars: IndicatorFrame, length: int) -> pd.Series:
    """Of each window by itself: running sums lose a cent of movement in a price of hundreds."""
    both = np.lib.stride_tricks.sliding_window_view(bars[["close", "volume"]].to_numpy(), length, axis=0)
    close, volume = (both - both.mean(axis=-1, keepdims=True)).swapaxes(0, 1)
    values = (close * volume).sum(-1) / np.sqrt((close**2).sum(-1) * (volume**2).sum(-1))
    correlation = pd.Series(values, bars.index[length - 1 :]).reindex(bars.index).clip(-1, 1)
    return correlation.where(_moves(bars.close, bars.close, length) & _moves(bars.volume, bars.volume, length))


def _return_to_volatility(bars: IndicatorFrame, length: int) -> pd.Series:
    volatility = _volatility(bars, length)
    return _log_return(bars, length) / (volatility.where(volatility > FLAT) * np.sqrt(length))


def _volatility_regime(bars: IndicatorFrame) -> pd.Series:
    volatility = _volatility(bars, 21)
    usual = volatility.rolling(252).mean()
    return np.log(volatility.where(volatility > FLAT) / usual)


def _overnight(bars: IndicatorFrame) -> pd.Series:
    return np.sqrt(overnight_move(bars).rolling(21).var().clip(lower=0))


def _channel_width(bars: IndicatorFrame, length: int) -> pd.Series:
    return np.log(bars.high.rolling(length).max() / bars.low.rolling(length).min())


def _bollinger_50(bars: IndicatorFrame) -> pd.Series:
    return _position(bars, "bbands", "BB{}_50_2.0", length=50, std=2.0)


def _up_volume(bars: IndicatorFrame, length: int) -> pd.Series:
    rose = bars.volume.where(bars.close > bars.close.shift(1), bars.volume * 0)
    return (rose.rolling(length).sum() / bars.volume.rolling(length).sum()).clip(0, 1).where(_traded(bars, length))


def _day_of_month(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * (bars.timestamp.dt.day - 1) / bars.timestamp.dt.days_in_month


def _week_of_year(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * (bars.timestamp.dt.day_of_year - 1) / 365.25


def _time_of_day(bars: IndicatorFrame) -> pd.Series:
    return 2 * np.pi * (bars.timestamp - bars.timestamp.dt.normalize()) / pd.Timedelta(days=1)


# --- reversals: a pivot low (side 1, the market may turn up) or high (side -1) and what speaks for it ----------


def _extreme(bars: IndicatorFrame, side: int) -> pd.Series:
    """Lows, or highs upside down, so that a pivot is a minimum on either side."""
    return bars.low if side > 0 else -bars.high


def _pivot(bars: IndicatorFrame, side: int) -> pd.Series:
    """True at the bar that confirms a pivot: `PIVOT` bars ago was lower than the `PIVOT` bars before and since."""
    extreme = _extreme(bars, side)
    pivot = extreme.shift(PIVOT)
    return (pivot < extreme.shift(PIVOT + 1).rolling(PIVOT).min()) & (pivot < extreme.rolling(PIVOT).min())


def _held(bars: IndicatorFrame, side: int, points: pd.Series) -> pd.Series:
    """Points given when a pivot was confirmed stand for `PIVOT` more bars; without a pivot there are none."""
    return points.where(_pivot(bars, side)).ffill(limit=PIVOT).fillna(0.0)


def _divergence(bars: IndicatorFrame, side: int) -> pd.Series:
    """A lower low with a higher RSI, MACD, stochastic than at the pivot before: a third of 4 points for each.

    Full points for 20 of RSI, 1 ATR of MACD, 40 of the stochastic, in proportion below: no rounding error decides.
    """
    pivot = _pivot(bars, side)

    def at_pivots(values: pd.Series) -> tuple[pd.Series, pd.Series]:
        now = values.shift(PIVOT)
        return now, now[pivot].shift(1).reindex(values.index)

    (now, before), (row, row_before) = (at_pivots(v) for v in (_extreme(bars, side), pd.Series(range(len(bars)))))
    atr = bars.indicator("atr", length=14)
    macd = bars.indicator("macd", "MACD_12_26_9", fast=12, slow=26, signal=9) / atr.where(atr > FLAT * bars.close)
    points = pd.Series(0.0, index=bars.index)
    for oscillator, full in ((_rsi(bars, 14), 0.2), (macd, 1.0), (_stochastic(bars, "k", 3), 0.4)):
        value, value_before = at_pivots(oscillator)
        points += (side * (value - value_before) / full).clip(0, 1).fillna(0.0) * 4 / 3
    return _held(bars, side, points.where((now < before) & (row - row_before <= PIVOT_REACH), 0.0))


def _surge(bars: IndicatorFrame, side: int) -> pd.Series:
    """Up to 4 points for 4 times the usual volume (20 bars) in the 5 bars around the pivot."""
    ratio = bars.volume.rolling(5).max().shift(PIVOT - 2) / bars.volume.rolling(20).mean().shift(PIVOT + 3)
    return _held(bars, side, (ratio - 1).clip(0, 3) * 4 / 3).where(_traded(bars, 20 + 2 * PIVOT + 3))


def _level(bars: IndicatorFrame, side: int) -> pd.Series:
    """Up to 3 points for a pivot at the support (resistance) of the bars before it, none from 1 ATR away."""
    extreme, atr = _extreme(bars, side), bars.indicator("atr", length=14).shift(PIVOT)
    away = (extreme.shift(PIVOT) - extreme.rolling(PIVOT_REACH).min().shift(2 * PIVOT + 1)).abs()
    return _held(bars, side, 3 * (1 - away / atr.where(atr > FLAT * bars.close)).clip(0, 1))


def _strength(bars: IndicatorFrame, side: int) -> pd.Series:
    """Up to 3 points for outdoing the market since the pivot by 2 standard deviations."""
    ahead = _ahead_of_market(bars)
    usual = ahead.diff().rolling(21).std()
    points = 1.5 * (side * ahead.diff(PIVOT) / (usual.where(usual > FLAT) * np.sqrt(PIVOT))).clip(0, 2)
    return _held(bars, side, points).where(ahead.notna())


def _reversal_score(bars: IndicatorFrame, side: int) -> pd.Series:
    """All 14 points; what is unknown (no volume, no market) is no evidence and adds none."""
    parts = (_divergence, _surge, _strength, _level)
    return sum((part(bars, side).fillna(0.0) for part in parts), start=pd.Series(0.0, index=bars.index)) / 14


# --- the market as of each bar ----------


def _ahead_of_market(bars: IndicatorFrame) -> pd.Series:
    """Log price relative to the market; only its changes mean anything."""
    return np.log(bars.close) - bars.market["level"]


def _market_beta(bars: IndicatorFrame, length: int) -> pd.Series:
    returns, market = _log_return(bars, 1), bars.market["level"].diff()
    return returns.rolling(length).cov(market) / market.rolling(length).var().where(_varies(market, length))


def _market_correlation(bars: IndicatorFrame, length: int) -> pd.Series:
    returns, market = _log_return(bars, 1), bars.market["level"].diff()
    known = _varies(returns, length) & _varies(market, length)
    return returns.rolling(length).corr(market).clip(-1, 1).where(known)


def _varies(returns: pd.Series, length: int) -> pd.Series:
    return returns.rolling(length).max() - returns.rolling(length).min() > FLAT


def _market_column(name: str) -> Callable[[IndicatorFrame], pd.Series]:
    return lambda bars: bars.market[name]


TABLE = (
    ("log_return_1", "returns", 1, "log(close / close[-1])", lambda b: _log_return(b, 1)),
    ("log_return_2", "returns", 2, "log(close / close[-2])", lambda b: _log_return(b, 2)),
    ("log_return_3", "returns", 3, "log(close / close[-3])", lambda b: _log_return(b, 3)),
    ("log_return_5", "returns", 5, "log(close / close[-5])", lambda b: _log_return(b, 5)),
    ("log_return_10", "returns", 10, "log(close / close[-10])", lambda b: _log_return(b, 10)),
    ("log_return_21", "returns", 21, "log(close / close[-21])", lambda b: _log_return(b, 21)),
    ("log_return_63", "returns", 63, "log(close / close[-63])", lambda b: _log_return(b, 63)),
    ("gap", "bar", 1, "log(open / close[-1])", lambda b: np.log(b.open / b.close.shift(1))),
    ("body", "bar", 0, "log(close / open)", lambda b: np.log(b.close / b.open)),
    ("upper_wick", "bar", 0, "log(high / max(open, close))", _upper_wick),
    ("lower_wick", "bar", 0, "log(min(open, close) / low)", _lower_wick),
    ("range", "bar", 0, "log(high / low)", lambda b: np.log(b.high / b.low)),
    ("ema_5", "averages", 4, "log(close / ta.ema(5))", lambda b: _distance(b, "ema", length=5)),
    ("ema_10", "averages", 9, "log(close / ta.ema(10))", lambda b: _distance(b, "ema", length=10)),
    ("ema_20", "averages", 19, "log(close / ta.ema(20))", lambda b: _distance(b, "ema", length=20)),
    ("sma_50", "averages", 49, "log(close / ta.sma(50))", lambda b: _distance(b, "sma", length=50)),
    ("sma_200", "averages", 199, "log(close / ta.sma(200))", lambda b: _distance(b, "sma", length=200)),
    ("rsi_7", "oscillators", 7, "ta.rsi(7) / 100", lambda b: _rsi(b, 7)),
    ("rsi_14", "oscillators", 14, "ta.rsi(14) / 100", lambda b: _rsi(b, 14)),
    ("rsi_21", "oscillators", 21, "ta.rsi(21) / 100", lambda b: _rsi(b, 21)),
    ("stochastic_k", "oscillators", 17, "K of ta.stoch(14, 3, 3) / 100", lambda b: _stochastic(b, "k", 3)),
    ("stochastic_d", "oscillators", 17, "D of ta.stoch(14, 3, 3) / 100", lambda b: _stochastic(b, "d", 5)),
    ("cci_20", "oscillators", 19, "ta.cci(20) / 100", lambda b: _cci(b, 20)),
    ("macd", "macd", 25, "ta.macd(12, 26, 9) / close", lambda b: _macd(b, "MACD_12_26_9")),
    ("macd_signal", "macd", 33, "ema(9) of macd / close", lambda b: _macd(b, "MACDs_12_26_9")),
    ("macd_histogram", "macd", 33, "(macd - its signal) / close", lambda b: _macd(b, "MACDh_12_26_9")),
    ("bollinger_position", "channels", 19, "position of close in ta.bbands(20, 2)", _bollinger_position),
    ("bollinger_width", "channels", 19, "(upper - lower) / middle of ta.bbands(20, 2)", _bollinger_width),
    ("donchian_position", "channels", 19, "position of close in ta.donchian(20)", lambda b: _donchian(b, 20)),
    ("keltner_position", "channels", 20, "position of close in ta.kc(20, 2)", _keltner_position),
    ("fibonacci_position", "channels", 62, "position of close in ta.donchian(63)", lambda b: _donchian(b, 63)),
    ("fibonacci_distance", "channels", 62, "from there to the nearest retracement level", _fibonacci_distance),
    ("ichimoku_tenkan", "ichimoku", 51, "log(close / tenkan of ta.ichimoku)", lambda b: _ichimoku(b, "ITS_9")),
    ("ichimoku_kijun", "ichimoku", 51, "log(close / kijun)", lambda b: _ichimoku(b, "IKS_26")),
    ("ichimoku_span_a", "ichimoku", 51, "log(close / span A[-26])", lambda b: _ichimoku(b, "ISA_9")),
    ("ichimoku_span_b", "ichimoku", 77, "log(close / span B[-26])", lambda b: _ichimoku(b, "ISB_26")),
    ("atr_5", "volatility", 5, "ta.atr(5) / close", lambda b: _atr(b, 5)),
    ("atr_14", "volatility", 14, "ta.atr(14) / close", lambda b: _atr(b, 14)),
    ("atr_21", "volatility", 21, "ta.atr(21) / close", lambda b: _atr(b, 21)),
    ("volatility_5", "volatility", 5, "ta.hvol(5): std of log_return_1", lambda b: _volatility(b, 5)),
    ("volatility_21", "volatility", 21, "ta.hvol(21): std of log_return_1", lambda b: _volatility(b, 21)),
    ("volatility_63", "volatility", 63, "ta.hvol(63): std of log_return_1", lambda b: _volatility(b, 63)),
    ("volatility_ratio", "volatility", 63, "volatility_5 / volatility_63", _volatility_ratio),
    ("parkinson_21", "volatility", 20, "sqrt(mean range^2 / (4 log 2)), 21 bars", lambda b: _parkinson(b, 21)),
    ("obv_21", "volume", 21, "(ta.obv - ta.obv[-21]) / sum of volume over 21 bars", lambda b: _obv(b, 21)),
    ("volume_change", "volume", 1, "log(volume / volume[-1])", lambda b: np.log(b.volume / b.volume.shift(1))),
    ("volume_ratio_5", "volume", 4, "log(volume / ta.sma(5) of volume)", lambda b: _volume_ratio(b, 5)),
    ("volume_ratio_63", "volume", 62, "log(volume / ta.sma(63) of volume)", lambda b: _volume_ratio(b, 63)),
    ("volume_zscore_21", "volume", 20, "ta.zscore(21) of volume", lambda b: _volume_zscore(b, 21)),
    ("cmf_20", "volume", 19, "ta.cmf(20)", lambda b: _cmf(b, 20)),
    ("vwma_20", "volume", 19, "log(close / ta.vwma(20))", lambda b: _vwma(b, 20)),
    ("vortex_14", "trend", 14, "(VI+ - VI-) / (VI+ + VI-) of ta.vortex(14)", lambda b: _vortex(b, 14)),
    ("aroon_25", "trend", 25, "oscillator of ta.aroon(25) / 100", lambda b: _aroon(b, 25)),
    ("efficiency_21", "trend", 21, "ta.er(21): net move / path", lambda b: _efficiency(b, 21)),
    ("streak", "trend", 1, "signed run of up or down closes, at most 10, / 10", lambda b: _streak(b, 10)),
    ("drawdown_252", "trend", 251, "log(close / max of close over 252 bars)", lambda b: _drawdown(b, 252)),
    ("momentum_12_1", "trend", 252, "log(close[-21] / close[-252])", lambda b: _log_return(b, 231).shift(21)),
    ("day_of_week_sin", "calendar", 0, "sin(2 pi day of week / 7)", lambda b: np.sin(_day_of_week(b))),
    ("day_of_week_cos", "calendar", 0, "cos(2 pi day of week / 7)", lambda b: np.cos(_day_of_week(b))),
    ("month_sin", "calendar", 0, "sin(2 pi month / 12)", lambda b: np.sin(_month(b))),
    ("month_cos", "calendar", 0, "cos(2 pi month / 12)", lambda b: np.cos(_month(b))),
    ("quarter_sin", "calendar", 0, "sin(2 pi quarter / 4)", lambda b: np.sin(_quarter(b))),
    ("quarter_cos", "calendar", 0, "cos(2 pi quarter / 4)", lambda b: np.cos(_quarter(b))),
    ("session_gap", "calendar", 1, "days since the previous bar", _session_gap),
    ("sma_5", "more_averages", 4, "log(close / ta.sma(5))", lambda b: _distance(b, "sma", length=5)),
    ("sma_10", "more_averages", 9, "log(close / ta.sma(10))", lambda b: _distance(b, "sma", length=10)),
    ("sma_20", "more_averages", 19, "log(close / ta.sma(20))", lambda b: _distance(b, "sma", length=20)),
    ("ema_50", "more_averages", 49, "log(close / ta.ema(50))", lambda b: _distance(b, "ema", length=50)),
    ("ema_200", "more_averages", 199, "log(close / ta.ema(200))", lambda b: _distance(b, "ema", length=200)),
    ("cross_sma_20", "crossovers", 20, "1, -1: close crossed ta.sma(20) up, down", lambda b: _cross(b, 1, 20)),
    ("cross_sma_50", "crossovers", 50, "1, -1: close crossed ta.sma(50) up, down", lambda b: _cross(b, 1, 50)),
    ("cross_50_200", "crossovers", 200, "the same of ta.sma(50) and ta.sma(200)", lambda b: _cross(b, 50, 200)),
    ("upper_shadow", "candles", 0, "(high - max(open, close)) / (high - low)", _upper_shadow),
    ("lower_shadow", "candles", 0, "(min(open, close) - low) / (high - low)", _lower_shadow),
    ("body_share", "candles", 0, "(close - open) / (high - low)", _body_share),
    ("price_position_5", "candles", 4, "position of close in ta.donchian(5)", lambda b: _donchian(b, 5)),
    ("price_position_10", "candles", 9, "position of close in ta.donchian(10)", lambda b: _donchian(b, 10)),
    ("price_to_high_5", "candles", 4, "log(close / max of high over 5 bars)", lambda b: _to_high(b, 5)),
    ("price_to_high_10", "candles", 9, "log(close / max of high over 10 bars)", lambda b: _to_high(b, 10)),
    ("price_to_high_20", "candles", 19, "log(close / max of high over 20 bars)", lambda b: _to_high(b, 20)),
    ("price_to_low_5", "candles", 4, "log(close / min of low over 5 bars)", lambda b: _to_low(b, 5)),
    ("price_to_low_10", "candles", 9, "log(close / min of low over 10 bars)", lambda b: _to_low(b, 10)),
    ("price_to_low_20", "candles", 19, "log(close / min of low over 20 bars)", lambda b: _to_low(b, 20)),
    ("close_skew_10", "shape", 9, "ta.skew(10) of close", lambda b: _close_moment(b, "skew", 10)),
    ("close_skew_20", "shape", 19, "ta.skew(20) of close", lambda b: _close_moment(b, "skew", 20)),
    ("close_kurtosis_10", "shape", 9, "ta.kurtosis(10) of close", lambda b: _close_moment(b, "kurtosis", 10)),
    ("close_kurtosis_20", "shape", 19, "ta.kurtosis(20) of close", lambda b: _close_moment(b, "kurtosis", 20)),
    ("up_streak", "shape", 1, "run of rising closes, at most 10, / 10", lambda b: _streak(b, 10).clip(lower=0)),
    ("down_streak", "shape", 1, "run of falling closes, at most 10, / 10", lambda b: -_streak(b, 10).clip(upper=0)),
    ("roc_10", "momentum", 10, "ta.roc(10) / 100", lambda b: b.indicator("roc", length=10) / 100),
    ("roc_20", "momentum", 20, "ta.roc(20) / 100", lambda b: b.indicator("roc", length=20) / 100),
    ("roc_50", "momentum", 50, "ta.roc(50) / 100", lambda b: b.indicator("roc", length=50) / 100),
    (
        "acceleration_10",
        "momentum",
        20,
        "log(close / close[-10]) less its value 10 bars ago",
        lambda b: _acceleration(b, 10),
    ),
    (
        "acceleration_21",
        "momentum",
        42,
        "log(close / close[-21]) less its value 21 bars ago",
        lambda b: _acceleration(b, 21),
    ),
    ("trend_slope_20", "regime", 19, "20 * slope of ta.linreg(20) / close", lambda b: _slope(b, 20)),
    ("trend_slope_50", "regime", 49, "50 * slope of ta.linreg(50) / close", lambda b: _slope(b, 50)),
    ("trend_slope_100", "regime", 99, "100 * slope of ta.linreg(100) / close", lambda b: _slope(b, 100)),
    (
        "price_volume_5",
        "regime",
        4,
        "correlation of close and volume over 5 bars",
        lambda b: _volume_correlation(b, 5),
    ),
    (
        "price_volume_20",
        "regime",
        19,
        "correlation of close and volume over 20 bars",
        lambda b: _volume_correlation(b, 20),
    ),
    (
        "return_to_volatility_10",
        "regime",
        10,
        "log return / (std * sqrt(10)), 10 bars",
        lambda b: _return_to_volatility(b, 10),
    ),
    (
        "return_to_volatility_30",
        "regime",
        30,
        "log return / (std * sqrt(30)), 30 bars",
        lambda b: _return_to_volatility(b, 30),
    ),
    ("volatility_regime", "regime", 272, "log(volatility_21 / its mean over 252 bars)", _volatility_regime),
    ("bollinger_position_50", "regime", 49, "position of close in ta.bbands(50, 2)", _bollinger_50),
    (
        "garman_klass_21",
        "estimators",
        20,
        "sqrt(mean(range^2 / 2 - (2 log 2 - 1) body^2))",
        lambda b: mean_root(garman_klass_variance(b), 21),
    ),
    (
        "rogers_satchell_21",
        "estimators",
        20,
        "sqrt(mean(u(u - c) + d(d - c))), logs over open",
        lambda b: mean_root(rogers_satchell_variance(b), 21),
    ),
    ("yang_zhang_21", "estimators", 21, "Yang-Zhang volatility over 21 bars", lambda b: yang_zhang(b, 21)),
    ("overnight_volatility_21", "estimators", 21, "std of gap over 21 bars", _overnight),
    ("true_range", "estimators", 1, "ta.true_range / close", lambda b: b.indicator("true_range") / b.close),
    ("donchian_position_55", "more_channels", 54, "position of close in ta.donchian(55)", lambda b: _donchian(b, 55)),
    (
        "channel_width_20",
        "more_channels",
        19,
        "log(max of high / min of low), 20 bars",
        lambda b: _channel_width(b, 20),
    ),
    (
        "channel_width_55",
        "more_channels",
        54,
        "log(max of high / min of low), 55 bars",
        lambda b: _channel_width(b, 55),
    ),
    ("volume_ratio_10", "more_volume", 9, "log(volume / ta.sma(10) of volume)", lambda b: _volume_ratio(b, 10)),
    ("volume_ratio_20", "more_volume", 19, "log(volume / ta.sma(20) of volume)", lambda b: _volume_ratio(b, 20)),
    ("up_volume_20", "more_volume", 20, "share of 20 bars' volume on rising closes", lambda b: _up_volume(b, 20)),
    ("day_of_month_sin", "dates", 0, "sin(2 pi (day - 1) / days of its month)", lambda b: np.sin(_day_of_month(b))),
    ("day_of_month_cos", "dates", 0, "cos(2 pi (day - 1) / days of its month)", lambda b: np.cos(_day_of_month(b))),
    ("week_of_year_sin", "dates", 0, "sin(2 pi (day of year - 1) / 365.25)", lambda b: np.sin(_week_of_year(b))),
    ("week_of_year_cos", "dates", 0, "cos(2 pi (day of year - 1) / 365.25)", lambda b: np.cos(_week_of_year(b))),
    ("time_of_day_sin", "dates", 0, "sin(2 pi time since midnight / 24 h)", lambda b: np.sin(_time_of_day(b))),
    ("time_of_day_cos", "dates", 0, "cos(2 pi time since midnight / 24 h)", lambda b: np.cos(_time_of_day(b))),
    ("month_start", "dates", 0, "1 on the first day of a month", lambda b: b.timestamp.dt.is_month_start * 1.0),
    ("month_end", "dates", 0, "1 on the last day of a month", lambda b: b.timestamp.dt.is_month_end * 1.0),
    (
        "reversal_up_divergence",
        "reversal",
        106,
        "0-1: divergence of RSI, MACD, stochastic",
        lambda b: _divergence(b, 1) / 4,
    ),
    ("reversal_up_volume", "reversal", 32, "0-1: volume around the pivot", lambda b: _surge(b, 1) / 4),
    ("reversal_up_level", "reversal", 78, "0-1: pivot at support or resistance", lambda b: _level(b, 1) / 3),
    (
        "reversal_up_score",
        "reversal",
        106,
        "all of it and the strength, of 14 points",
        lambda b: _reversal_score(b, 1),
    ),
    (
        "reversal_down_divergence",
        "reversal",
        106,
        "0-1: divergence of RSI, MACD, stochastic",
        lambda b: _divergence(b, -1) / 4,
    ),
    ("reversal_down_volume", "reversal", 32, "0-1: volume around the pivot", lambda b: _surge(b, -1) / 4),
    ("reversal_down_level", "reversal", 78, "0-1: pivot at support or resistance", lambda b: _level(b, -1) / 3),
    (
        "reversal_down_score",
        "reversal",
        106,
        "all of it and the strength, of 14 points",
        lambda b: _reversal_score(b, -1),
    ),
    ("reversal_up_strength", "market", 26, "0-1: ahead of the market since the pivot", lambda b: _strength(b, 1) / 3),
    (
        "reversal_down_strength",
        "market",
        26,
        "0-1: ahead of the market since the pivot",
        lambda b: _strength(b, -1) / 3,
    ),
    ("market_return_1", "market", 10, "log return of the market over 1 bars", lambda b: b.market["level"].diff(1)),
    ("market_return_5", "market", 10, "log return of the market over 5 bars", lambda b: b.market["level"].diff(5)),
    ("market_return_21", "market", 21, "log return of the market over 21 bars", lambda b: b.market["level"].diff(21)),
    ("relative_return_1", "market", 10, "log_return_1 - market_return_1", lambda b: _ahead_of_market(b).diff(1)),
    ("relative_return_5", "market", 10, "log_return_5 - market_return_5", lambda b: _ahead_of_market(b).diff(5)),
    ("relative_return_21", "market", 21, "log_return_21 - market_return_21", lambda b: _ahead_of_market(b).diff(21)),
    ("relative_return_63", "market", 63, "log_return_63 - market_return_63", lambda b: _ahead_of_market(b).diff(63)),
    ("market_beta_63", "market", 63, "cov(own, market) / var(market), 63 returns", lambda b: _market_beta(b, 63)),
    ("market_correlation_63", "market", 63, "corr(own, market), 63 returns", lambda b: _market_correlation(b, 63)),
    ("market_abs_return", "market", 10, "mean |log return| of its tickers", _market_column("abs_return")),
    (
        "market_abs_return_5",
        "market",
        10,
        "mean of market_abs_return over 5 market bars",
        _market_column("abs_return_5"),
    ),
    (
        "market_abs_return_21",
        "market",
        21,
        "mean of market_abs_return over 21 market bars",
        _market_column("abs_return_21"),
    ),
    ("market_dispersion", "market", 10, "std of log returns across its tickers", _market_column("dispersion")),
    (
        "market_dispersion_5",
        "market",
        10,
        "mean of market_dispersion over 5 market bars",
        _market_column("dispersion_5"),
    ),
    (
        "market_dispersion_21",
        "market",
        21,
        "mean of market_dispersion over 21 market bars",
        _market_column("dispersion_21"),
    ),
    ("market_range", "market", 10, "mean log(high / low) of its tickers", _market_column("range")),
    ("market_range_5", "market", 10, "mean of market_range over 5 market bars", _market_column("range_5")),
    ("market_range_21", "market", 21, "mean of market_range over 21 market bars", _market_column("range_21")),
    *ROWS,
)
