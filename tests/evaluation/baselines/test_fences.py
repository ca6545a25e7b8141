"""What every fitted baseline promises: a forecast reads nothing after its origin, a fit nothing after its fence."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy.signal import lfilter

from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE
from tsf_llm.evaluation.baselines import boosting, classical, lagged_boosting, networks
from tsf_llm.evaluation.baselines.catalogue import CATALOGUE, NEVER
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.evaluation.distributions import LEVELS
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

FITTED = [one for one in CATALOGUE if one.refit != NEVER]
FIRST, EVERY, LAST = 340, 15, 700  # rows of the origins; the second fence lies a year after the first
ROWS = np.arange(FIRST, LAST, EVERY)
STEPS = [1, 3]
SMALL = networks.Sizes(length=24, width=8, batch=64, epochs=2)


def series(seed: int, kind) -> EncodedSeries:
    """Business days of moves that features and earlier moves tell in part, and that calm down and liven up."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((LAST + 10, 3)).astype(np.float32)
    moves = 0.01 * np.exp(0.5 * np.sin(np.arange(LAST + 10) / 40)) * rng.standard_normal(LAST + 10)
    moves[1:] += 0.004 * features[:-1, 0]
    moves = lfilter([1], [1, -0.6], moves)
    value = 4 + np.cumsum(moves)
    opened, spread = value + 0.003 * rng.standard_normal(len(value)), 0.006 * rng.random(len(value))
    bars = np.stack([opened, np.maximum(opened, value) + spread, np.minimum(opened, value) - spread, value], axis=1)
    close, prices = (np.exp(value), np.exp(bars)) if kind is OHLCV else (value, None)
    return EncodedSeries(
        ticker=f"S{seed}",
        timestamp=pd.bdate_range("2015-01-05", periods=len(value)).to_numpy(),
        features=features,
        observed=np.ones(len(value), bool),
        close=close,
        log_return=moves,
        sigma=0.01 + 0.002 * rng.random(len(value)),
        ohlc=prices,
    )


def other_after(one: EncodedSeries, seed: int, time: np.datetime64, kind) -> EncodedSeries:
    """Another series from the first bar after a time on."""
    noise, later = series(seed, kind), one.timestamp > time
    names = [name for name, value in vars(one).items() if isinstance(value, np.ndarray) and name != "timestamp"]
    parts = {name: getattr(one, name).copy() for name in names}
    for name, part in parts.items():
        part[later] = getattr(noise, name)[later]
    return replace(one, **parts)


@pytest.fixture(params=[one.name for one in FITTED])
def asked(request, monkeypatch):
    """A small version of a baseline, and what it is asked: one series, four where it is fitted on all of them."""
    [one] = [one for one in FITTED if one.name == request.param]
    if one.name in ("lightgbm", "lightgbm_lags", "auto_arima"):
        pytest.importorskip(one.package)
    monkeypatch.setattr(boosting, "TREES", 10)
    monkeypatch.setattr(lagged_boosting, "TREES", 10)
    monkeypatch.setattr(classical, "HISTORY", 150)
    forecast = one.forecast
    if build := {"dlinear": networks.DLinear, "patchtst": networks.PatchTST, "lstm": networks.Lstm}.get(one.name):
        forecast = partial(networks.network_forecasts, build=build, sizes=SMALL)
    kind, count = UNIVARIATE if one.plain_only else OHLCV, 4 if one.pooled else 1
    return forecast, Panel([series(i, kind) for i in range(count)], [ROWS] * count, kind)


def changed_after(panel: Panel, time: np.datetime64) -> Panel:
    return replace(panel, series=[other_after(one, 10 + i, time, panel.kind) for i, one in enumerate(panel.series)])


def quantiles(forecast, panel: Panel, until: np.datetime64) -> np.ndarray:
    """Of the forecasts up to a time."""
    laws = forecast(panel, STEPS)
    return np.stack([laws[step].quantile(LEVELS)[panel.origin <= until] for step in STEPS])


def test_no_forecast_reads_a_later_bar(asked):
    """Nothing changes up to a time if all bars after it do, and the origins and the fence among them."""
    forecast, panel = asked
    (first, _), (second, serves) = panel.fences()
    between = panel.series[0].timestamp[ROWS[7]]
    assert first < between < second <= panel.origin[serves].min()
    whole = quantiles(forecast, panel, panel.origin.max())
    assert np.isfinite(whole).all()
    for time in (first, between, second, panel.origin[serves].min()):
        assert_array_equal(quantiles(forecast, changed_after(panel, time), time), whole[:, panel.origin <= time])


def test_a_fit_past_its_fence_would_be_noticed(asked, monkeypatch):
    """The test above fails for one that reads a quarter past its fence."""
    forecast, panel = asked
    honest = Panel.fences
    late = np.timedelta64(90, "D")  # of a week, validation alone would learn
    monkeypatch.setattr(Panel, "fences", lambda self: [(time + late, rows) for time, rows in honest(self)])
    (first, _), *_ = honest(panel)
    whole = quantiles(forecast, panel, first)
    assert (quantiles(forecast, changed_after(panel, first), first) != whole).any()
