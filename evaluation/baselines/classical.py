"""AutoETS, AutoTheta and AutoARIMA of one series: of log prices, or of values with their season.

* Model and parameters are chosen at each fence on no more than `HISTORY` values known there. From then on only the
  state is carried forward over the values known at each origin.
* They are statsforecast's where it is importable (it wants pandas below 3: the extra `statsforecast`). Elsewhere
  statsmodels' ETS, the additive form of least AICc, and its Theta stand in; AutoARIMA has no stand-in.
* ETS is additive throughout: logs need no other form, and values may be negative.
* The law is the forecast plus the errors of the same model, of the same number of steps, from the last `ERRORS` rows
  whose outcomes the fence knows, in units of sigma * sqrt(step): these models have no volatility of their own, and
  with a constant one no price would be served well.
* A missing value is its last known one.

Shapes: N values, k origins, P steps.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from scipy.signal import lfilter
from statsmodels.tools.sm_exceptions import ModelWarning
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel
from statsmodels.tsa.seasonal import seasonal_decompose

from ..distributions import Forecast, Residuals
from .knots import unit
from .panel import Panel, filled, moment

try:
    from statsforecast import models as statsforecast
except ImportError:  # it wants pandas below 3
    statsforecast = None

HISTORY = 1000  # values that a fit reads
ERRORS = 500  # most recent ones that make the law
FEWEST_ERRORS = 30
WARM_UP = 20  # values before the first error, beside two seasons

# Of a fitted model: (values [N] from the first that it was fitted on, rows [k], steps [P]) -> values ahead [k,P]. What
# it says from a row reads no later value.
Ahead = Callable[[np.ndarray, np.ndarray, Sequence[int]], np.ndarray]


def auto_ets(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """Of a panel of one series, as the others here. Raises ValueError where a fence knows too few values."""
    return _forecasts(panel, steps, "auto_ets", ets_statsmodels if statsforecast is None else ets_statsforecast)


def auto_theta(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """See `auto_ets`."""
    return _forecasts(panel, steps, "auto_theta", theta_statsmodels if statsforecast is None else theta_statsforecast)


def auto_arima(panel: Panel, steps: Sequence[int]) -> dict[int, Forecast]:
    """See `auto_ets`. Raises ImportError without statsforecast."""
    if statsforecast is None:
        raise ImportError("auto_arima needs statsforecast: pip install 'tsf-llm[statsforecast]', with pandas below 3")
    return _forecasts(panel, steps, "auto_arima", arima_statsforecast)


def _forecasts(
    panel: Panel, steps: Sequence[int], name: str, fit: Callable[[np.ndarray, int | None], Ahead]
) -> dict[int, Forecast]:
    (one,), (rows,) = panel.series, panel.rows
    values, longest = filled(one, panel.kind), max(steps)
    first, warm_up = int(np.isfinite(values).argmax()), WARM_UP + 2 * (panel.season or 0)
    point, which = np.empty((len(rows), len(steps))), np.empty(len(rows), dtype=int)
    laws: dict[int, list[np.ndarray]] = {step: [] for step in steps}
    for number, (fence, positions) in enumerate(panel.fences()):
        last = int(np.searchsorted(one.timestamp, fence, side="right")) - 1
        start = max(first, last + 1 - HISTORY)
        past = np.arange(max(start + warm_up, last + 1 - longest - ERRORS), last)
        past = past[np.isfinite(unit(one, past, 1))]
        if len(past) < longest + FEWEST_ERRORS:
            raise ValueError(
                f"{name}: series {one.ticker!r} has {last + 1 - first} values by {moment(fence)} and needs "
                f"{warm_up + longest + FEWEST_ERRORS}: start later or give earlier values"
            )
        asked, end = np.concatenate([past, rows[positions]]), int(rows[positions].max()) + 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (ModelWarning, UserWarning, RuntimeWarning))  # the errors judge a poor fit
            ahead = fit(values[start : last + 1], panel.season)
            change = ahead(values[start:end], asked - start, steps) - values[asked, None]
        for i, step in enumerate(steps):
            known = past[past + step <= last]
            error = values[known + step] - values[known] - change[: len(known), i]
            laws[step].append(np.sort(error / unit(one, known, step)))
        point[positions], which[positions] = change[len(past) :], number
    return {
        step: Residuals(location=point[:, i], scale=unit(one, rows, step), which=which, laws=laws[step])
        for i, step in enumerate(steps)
    }


def _carried(model: Any, values: np.ndarray, rows: np.ndarray, steps: Sequence[int]) -> np.ndarray:
    """statsforecast's way: the fitted model on the values up to each row, without fitting."""
    ahead = np.array([model.forward(values[: row + 1], max(steps))["mean"] for row in rows])
    return ahead[:, np.array(steps) - 1]


def ets_statsforecast(values: np.ndarray, season: int | None) -> Ahead:
    forms = ["AZN", "AZA"] if season else ["AZN"]
    fits = [statsforecast.AutoETS(season or 1, model=form).fit(values) for form in forms]
    return partial(_carried, min(fits, key=lambda fit: fit.model_["aicc"]))


def theta_statsforecast(values: np.ndarray, season: int | None) -> Ahead:
    return partial(_carried, statsforecast.AutoTheta(season or 1, decomposition_type="additive").fit(values))


def arima_statsforecast(values: np.ndarray, season: int | None) -> Ahead:
    model = statsforecast.AutoARIMA(season_length=season or 1, approximation=True, max_p=3, max_q=3, max_P=1, max_Q=1)
    return partial(_carried, model.fit(values))


def ets_statsmodels(values: np.ndarray, season: int | None) -> Ahead:
    """The additive form of least AICc: with and without trend, damping and season."""
    trends: list[dict[str, Any]] = [{}, {"trend": "add"}, {"trend": "add", "damped_trend": True}]
    seasons: list[dict[str, Any]] = [{}, *([{"seasonal": "add", "seasonal_periods": season}] if season else [])]
    forms = [{**trend, **cycle} for trend, cycle in product(trends, seasons)]
    fits = [(ETSModel(values, **form).fit(disp=False), form) for form in forms]
    best, form = min(fits, key=lambda fit: fit[0].aicc)
    return partial(_ets_ahead, best.params, form)


def _ets_ahead(
    params: np.ndarray, form: dict[str, Any], values: np.ndarray, rows: np.ndarray, steps: Sequence[int]
) -> np.ndarray:
    """level + (phi + ... + phi^h) * trend + the season's last known part."""
    states, cycle = ETSModel(values, **form).smooth(params), form.get("seasonal_periods", 0)
    columns = []
    for step in steps:
        part = states.level[rows]
        if "trend" in form:
            damping = states.damping_trend if form.get("damped_trend") else 1.0
            part = part + states.slope[rows] * np.sum(damping ** np.arange(1, step + 1))
        if cycle:
            part = part + states.season[rows - cycle + 1 + (step - 1) % cycle]
        columns.append(part)
    return np.stack(columns, axis=1)


def theta_statsmodels(values: np.ndarray, season: int | None) -> Ahead:
    """Theta 2 of the values less their season, which is taken out where the values have two of them."""
    cycle = season if season and len(values) >= 2 * season else 1
    seasonal = seasonal_decompose(values, period=cycle).seasonal if cycle > 1 else np.zeros(len(values))
    fitted = ThetaModel(values - seasonal, deseasonalize=False).fit()
    return partial(_theta_ahead, *fitted.params, seasonal[:cycle])


def _theta_ahead(
    slope: float, alpha: float, seasonal: np.ndarray, values: np.ndarray, rows: np.ndarray, steps: Sequence[int]
) -> np.ndarray:
    """Simple exponential smoothing plus half of the trend (Assimakopoulos and Nikolopoulos 2000, as Hyndman and
    Billah 2003 write it)."""
    at = np.arange(len(values) + max(steps))
    adjusted = values - seasonal[at[: len(values)] % len(seasonal)]
    level = lfilter([alpha], [1, alpha - 1], adjusted, zi=[(1 - alpha) * adjusted[0]])[0][rows]
    past = (1 - (1 - alpha) ** (rows + 1)) / alpha
    trend = [slope / 2 * (step - 1 + past) for step in steps]
    season = [seasonal[(rows + step) % len(seasonal)] for step in steps]
    return level[:, None] + np.stack(trend, axis=1) + np.stack(season, axis=1)
