"""Groups of features to choose by name: more averages and channels, crossings, candles, shapes, trends, dates.

Shapes: a function of a panel gives `[T,N]`, T bars of N tickers.
"""

from collections.abc import Callable

import numpy as np

from .panel_tsf_llm import Feature, Panel, shared
from .technical_tsf_llm import (
    EMA_MEMORY,
    FLAT,
    bollinger_position,
    by_day,
    distance,
    donchian_position,
    ema,
    highest,
    known,
    log_return,
    lowest,
    mean,
    moves,
    rises,
    streak,
    traded,
    true_range,
    volatility,
    volume_ratio,
)
from .volatility_tsf_llm import (
    by_length,
    garman_klass_variance,
    mean_root,
    overnight_move,
    rogers_satchell_variance,
    yang_zhang,
)
from .windows_tsf_llm import (
    change,
    lag,
    moving_cov,
    moving_deviation,
    moving_mean,
    moving_slope,
    moving_sum,
    moving_var,
)

DAY = np.timedelta64(1, "D")
MOST = 10  # bars of a streak that are counted


# --- averages and their crossings ----------


def _to_sma(panel: Panel, length: int) -> np.ndarray:
    return distance(panel, mean(panel, "close", length))


def _to_ema(panel: Panel, length: int) -> np.ndarray:
    return distance(panel, ema(panel, length))


def _cross(panel: Panel, fast: int, slow: int) -> np.ndarray:
    """1 where the fast mean came above the slow one at this bar, -1 where below, halves from or to the same."""
    ahead = np.log(mean(panel, "close", fast) / mean(panel, "close", slow))
    side = np.sign(np.where(np.abs(ahead) > FLAT, ahead, 0 * ahead))
    return change(side) / 2


# --- candles ----------


def _share_of_range(panel: Panel, part: np.ndarray, least: float = 0.0) -> np.ndarray:
    """From `least` to 1 by definition; an open or close outside its own bar's range would leave it."""
    span = panel.high - panel.low
    return np.clip(part / known(span, span > FLAT * panel.close), least, 1)


def _upper_shadow(panel: Panel) -> np.ndarray:
    return _share_of_range(panel, panel.high - np.maximum(panel.open, panel.close))


def _lower_shadow(panel: Panel) -> np.ndarray:
    return _share_of_range(panel, np.minimum(panel.open, panel.close) - panel.low)


def _body_share(panel: Panel) -> np.ndarray:
    return _share_of_range(panel, panel.close - panel.open, -1.0)


def _to_high(panel: Panel, length: int) -> np.ndarray:
    return distance(panel, highest(panel, "high", length))


def _to_low(panel: Panel, length: int) -> np.ndarray:
    return distance(panel, lowest(panel, "low", length))


# --- shape and momentum ----------


@shared
def _squares(panel: Panel, length: int) -> np.ndarray:
    """Mean over the window of the squared distance from its mean."""
    return moving_deviation(panel.close, length, np.square)


def _skew(panel: Panel, length: int) -> np.ndarray:
    """Without bias, as pandas."""
    cubes = moving_deviation(panel.close, length, lambda away: away * away * away)
    factor = np.sqrt(length * (length - 1)) / (length - 2)
    return known(factor * cubes / _squares(panel, length) ** 1.5, moves(panel, "close", "close", length))


def _kurtosis(panel: Panel, length: int) -> np.ndarray:
    """Excess over that of a normal law, without bias, as pandas."""
    fourth = moving_deviation(panel.close, length, lambda away: np.square(away * away))
    excess = (length + 1) * fourth / _squares(panel, length) ** 2 - 3 * (length - 1)
    factor = (length - 1) / ((length - 2) * (length - 3))
    return known(factor * excess, moves(panel, "close", "close", length))


def _up_streak(panel: Panel) -> np.ndarray:
    return np.maximum(streak(panel, MOST), 0)


def _down_streak(panel: Panel) -> np.ndarray:
    return np.maximum(-streak(panel, MOST), 0)


def _rate_of_change(panel: Panel, length: int) -> np.ndarray:
    return change(panel.close, length) / lag(panel.close, length)


def _acceleration(panel: Panel, length: int) -> np.ndarray:
    return change(log_return(panel, length), length)


# --- regime ----------


def _slope(panel: Panel, length: int) -> np.ndarray:
    """Rise of the least-squares line over its window, as a share of the close."""
    return moving_slope(panel.close, length) * length / panel.close


def _volume_correlation(panel: Panel, length: int) -> np.ndarray:
    squares = moving_var(panel.close, length) * moving_var(panel.volume, length)
    correlation = np.clip(moving_cov(panel.close, panel.volume, length) / np.sqrt(squares), -1, 1)
    return known(correlation, moves(panel, "close", "close", length) & moves(panel, "volume", "volume", length))


@shared
def _moving_volatility(panel: Panel, length: int) -> np.ndarray:
    """Unknown where nothing moves."""
    return known(volatility(panel, length), volatility(panel, length) > FLAT)


def _return_to_volatility(panel: Panel, length: int) -> np.ndarray:
    return log_return(panel, length) / (_moving_volatility(panel, length) * np.sqrt(length))


def _volatility_regime(panel: Panel) -> np.ndarray:
    return np.log(_moving_volatility(panel, 21) / moving_mean(volatility(panel, 21), 252))


# --- estimators, channels, volume ----------


def _garman_klass(panel: Panel) -> np.ndarray:
    return mean_root(garman_klass_variance(panel), 21)


def _rogers_satchell(panel: Panel) -> np.ndarray:
    return mean_root(rogers_satchell_variance(panel), 21)


def _overnight_volatility(panel: Panel) -> np.ndarray:
    return np.sqrt(moving_var(overnight_move(panel), 21))


def _true_range(panel: Panel) -> np.ndarray:
    return true_range(panel) / panel.close


def _channel_width(panel: Panel, length: int) -> np.ndarray:
    return np.log(highest(panel, "high", length) / lowest(panel, "low", length))


def _up_volume(panel: Panel, length: int) -> np.ndarray:
    rose = np.where(rises(panel) > 0, panel.volume, 0 * panel.volume)
    share = np.clip(moving_sum(rose, length) / moving_sum(panel.volume, length), 0, 1)
    return known(share, traded(panel, length))


# --- dates `datetime64[D]` ----------


def _day_of_month(days: np.ndarray) -> np.ndarray:
    """As an angle."""
    month = days.astype("datetime64[M]")
    first, after = month.astype("datetime64[D]"), (month + 1).astype("datetime64[D]")
    return 2 * np.pi * ((days - first) / DAY) / ((after - first) / DAY)


def _day_of_year(days: np.ndarray) -> np.ndarray:
    """As an angle."""
    return 2 * np.pi * ((days - days.astype("datetime64[Y]").astype("datetime64[D]")) / DAY) / 365.25


def _is_first(days: np.ndarray) -> np.ndarray:
    """Of its month."""
    return np.where(days == days.astype("datetime64[M]").astype("datetime64[D]"), 1.0, 0.0)


def _of_day(function: Callable[[np.ndarray], np.ndarray]) -> Callable[[Panel], np.ndarray]:
    return lambda panel: by_day(panel, function)


@shared
def _time_of_day(panel: Panel) -> np.ndarray:
    """As an angle."""
    return 2 * np.pi * ((panel.timestamp - panel.timestamp.astype("datetime64[D]")) / DAY)


ROWS: list[Feature] = [
    *by_length("more_averages", "sma", "log(close / ta.sma(N))", _to_sma, {5: 4, 10: 9, 20: 19}),
    *by_length("more_averages", "ema", "log(close / ta.ema(N))", _to_ema, {50: 49, 200: 199}, EMA_MEMORY),
    *by_length(
        *("crossovers", "cross_sma", "1, -1: close crossed ta.sma(N) up, down"),
        *(lambda panel, length: _cross(panel, 1, length), {20: 20, 50: 50}),
    ),
    Feature(
        *("cross_50_200", "crossovers", 200, "the same of ta.sma(50) and ta.sma(200)"),
        lambda panel: _cross(panel, 50, 200),
    ),
    Feature("upper_shadow", "candles", 0, "(high - max(open, close)) / (high - low)", _upper_shadow),
    Feature("lower_shadow", "candles", 0, "(min(open, close) - low) / (high - low)", _lower_shadow),
    Feature("body_share", "candles", 0, "(close - open) / (high - low)", _body_share),
    *by_length("candles", "price_position", "position of close in ta.donchian(N)", donchian_position, {5: 4, 10: 9}),
    *by_length("candles", "price_to_high", "log(close / max of high over N bars)", _to_high, {5: 4, 10: 9, 20: 19}),
    *by_length("candles", "price_to_low", "log(close / min of low over N bars)", _to_low, {5: 4, 10: 9, 20: 19}),
    *by_length("shape", "close_skew", "ta.skew(N) of close", _skew, {10: 9, 20: 19}),
    *by_length("shape", "close_kurtosis", "ta.kurtosis(N) of close", _kurtosis, {10: 9, 20: 19}),
    Feature("up_streak", "shape", 1, "run of rising closes, at most 10, / 10", _up_streak, MOST),
    Feature("down_streak", "shape", 1, "run of falling closes, at most 10, / 10", _down_streak, MOST),
    *by_length("momentum", "roc", "ta.roc(N) / 100", _rate_of_change, {10: 10, 20: 20, 50: 50}),
    *by_length(
        *("momentum", "acceleration", "log(close / close[-N]) less its value N bars ago", _acceleration),
        {10: 20, 21: 42},
    ),
    *by_length("regime", "trend_slope", "N * slope of ta.linreg(N) / close", _slope, {20: 19, 50: 49, 100: 99}),
    *by_length(
        "regime", "price_volume", "correlation of close and volume over N bars", _volume_correlation, {5: 4, 20: 19}
    ),
    *by_length(
        *("regime", "return_to_volatility", "log return / (std * sqrt(N)), N bars", _return_to_volatility),
        {10: 10, 30: 30},
    ),
    Feature("volatility_regime", "regime", 272, "log(volatility_21 / its mean over 252 bars)", _volatility_regime),
    *by_length("regime", "bollinger_position", "position of close in ta.bbands(N, 2)", bollinger_position, {50: 49}),
    Feature("garman_klass_21", "estimators", 20, "sqrt(mean(range^2 / 2 - (2 log 2 - 1) body^2))", _garman_klass),
    Feature(
        "rogers_satchell_21", "estimators", 20, "sqrt(mean(u(u - c) + d(d - c))), logs over open", _rogers_satchell
    ),
    *by_length("estimators", "yang_zhang", "Yang-Zhang volatility over N bars", yang_zhang, {21: 21}),
    Feature("overnight_volatility_21", "estimators", 21, "std of gap over 21 bars", _overnight_volatility),
    Feature("true_range", "estimators", 1, "ta.true_range / close", _true_range),
    *by_length(
        "more_channels", "donchian_position", "position of close in ta.donchian(N)", donchian_position, {55: 54}
    ),
    *by_length(
        *("more_channels", "channel_width", "log(max of high / min of low), N bars"),
        *(_channel_width, {20: 19, 55: 54}),
    ),
    *by_length("more_volume", "volume_ratio", "log(volume / ta.sma(N) of volume)", volume_ratio, {10: 9, 20: 19}),
    *by_length("more_volume", "up_volume", "share of N bars' volume on rising closes", _up_volume, {20: 20}),
    Feature(
        *("day_of_month_sin", "dates", 0, "sin(2 pi (day - 1) / days of its month)"),
        _of_day(lambda days: np.sin(_day_of_month(days))),
    ),
    Feature(
        *("day_of_month_cos", "dates", 0, "cos(2 pi (day - 1) / days of its month)"),
        _of_day(lambda days: np.cos(_day_of_month(days))),
    ),
    Feature(
        *("week_of_year_sin", "dates", 0, "sin(2 pi (day of year - 1) / 365.25)"),
        _of_day(lambda days: np.sin(_day_of_year(days))),
    ),
    Feature(
        *("week_of_year_cos", "dates", 0, "cos(2 pi (day of year - 1) / 365.25)"),
        _of_day(lambda days: np.cos(_day_of_year(days))),
    ),
    Feature(
        "time_of_day_sin",
        "dates",
        0,
        "sin(2 pi time since midnight / 24 h)",
        lambda panel: np.sin(_time_of_day(panel)),
    ),
    Feature(
        "time_of_day_cos",
        "dates",
        0,
        "cos(2 pi time since midnight / 24 h)",
        lambda panel: np.cos(_time_of_day(panel)),
    ),
    Feature("month_start", "dates", 0, "1 on the first day of a month", _of_day(_is_first)),
    Feature("month_end", "dates", 0, "1 on the last day of a month", _of_day(lambda days: _is_first(days + 1))),
]
