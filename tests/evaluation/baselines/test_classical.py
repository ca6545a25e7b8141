import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from statsmodels.tsa.exponential_smoothing.ets import ETSModel
from statsmodels.tsa.forecasting.theta import ThetaModel

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines import classical
from tsf_llm.evaluation.baselines.panel import Panel
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

SEASON, N = 7, 500
STEPS = [1, 5, 7, 9]


def values(seed: int = 0, season: float = 5.0, trend: float = 0.05) -> np.ndarray:
    time = np.arange(N)
    return (
        season * np.sin(2 * np.pi * time / SEASON) + trend * time + np.random.default_rng(seed).normal(size=N).cumsum()
    )


def panel(value: np.ndarray, season: int | None = None, rows=range(400, 490, 2)) -> Panel:
    one = EncodedSeries(
        ticker="A",
        timestamp=pd.date_range("2020-01-01", periods=N).to_numpy(),
        features=np.zeros((N, 1), np.float32),
        observed=np.isfinite(value),
        close=value,
        log_return=np.append(np.nan, np.diff(value)),
        sigma=np.ones(N),
    )
    return Panel([one], [np.array(rows)], UNIVARIATE, season)


def crps(laws, asked: Panel, step: int) -> float:
    (one,), (rows,) = asked.series, asked.rows
    return laws[step].crps(one.close[rows + step] - one.close[rows]).mean()


@pytest.fixture(params=["as it is", "statsmodels"])
def library(request, monkeypatch):
    """Of the environment, and where statsforecast is not there."""
    if request.param == "statsmodels":
        monkeypatch.setattr(classical, "statsforecast", None)


@pytest.mark.parametrize("baseline", [classical.auto_ets, classical.auto_theta])
def test_a_season_is_found(library, baseline):
    asked = panel(values(), SEASON)
    laws, plain = baseline(asked, [1, 9]), baseline(panel(values()), [1, 9])
    for step in (1, 9):
        assert crps(laws, asked, step) < 0.6 * crps(plain, asked, step)
    inside = laws[1].quantile([0.1, 0.9]).T
    outcome = asked.series[0].close[asked.rows[0] + 1] - asked.series[0].close[asked.rows[0]]
    assert 0.65 < ((inside[0] <= outcome) & (outcome <= inside[1])).mean() < 0.95


@pytest.mark.parametrize("baseline", [classical.auto_ets, classical.auto_theta])
def test_a_random_walk_gives_no_edge(library, baseline):
    asked = panel(values(3, season=0.0, trend=0.0), rows=range(200, 498))
    assert 0.95 < crps(baseline(asked, [1]), asked, 1) / 0.564 < 1.1


@pytest.mark.parametrize("season", [None, SEASON])
def test_ets_says_what_statsmodels_does(season):
    ahead = classical.ets_statsmodels(values()[:300], season)
    params, form = ahead.args
    assert ("seasonal" in form) == (season is not None)
    for row in (299, 420):
        own = ETSModel(values()[: row + 1], **form).smooth(params).forecast(max(STEPS))
        assert_allclose(ahead(values(), np.array([row]), STEPS)[0], own[np.array(STEPS) - 1], rtol=1e-9)


@pytest.mark.parametrize("season", [None, SEASON])
def test_theta_says_what_statsmodels_does(season):
    known = pd.Series(values()[:301])
    model = ThetaModel(known, period=season or 1, deseasonalize=season is not None, use_test=False, method="additive")
    own = model.fit().forecast(max(STEPS)).to_numpy()
    ahead = classical.theta_statsmodels(known.to_numpy(), season)(values(), np.array([300]), STEPS)
    assert_allclose(ahead[0], own[np.array(STEPS) - 1], rtol=1e-6)


@pytest.mark.parametrize("name", ["ets", "theta", "arima"])
def test_statsforecast_says_what_it_does_by_itself(name):
    models = pytest.importorskip("statsforecast.models", reason="statsforecast wants pandas below 3")
    known = values()[:300]
    fit = getattr(classical, f"{name}_statsforecast")(known, None)
    own = {
        "ets": models.AutoETS(1, model="AZN"),
        "theta": models.AutoTheta(1, decomposition_type="additive"),
        "arima": models.AutoARIMA(season_length=1, approximation=True, max_p=3, max_q=3, max_P=1, max_Q=1),
    }[name].fit(known)
    expected = own.predict(max(STEPS))["mean"][np.array(STEPS) - 1]
    assert_allclose(fit(values(), np.array([299]), STEPS)[0], expected, rtol=1e-6)


def test_arima_finds_a_pull_to_the_mean():
    pytest.importorskip("statsforecast", reason="statsforecast wants pandas below 3")
    value = np.random.default_rng(0).normal(size=N)
    asked = panel(value)
    assert (
        crps(classical.auto_arima(asked, [1]), asked, 1) < 1.15 * 0.564 < 1.3 * 0.564 < np.abs(np.diff(value)).mean()
    )


def test_a_missing_library_and_too_few_values_are_one_line(monkeypatch):
    with pytest.raises(ValueError, match=r"auto_ets: series 'A' has 41 values by .* needs 65: start later or give"):
        classical.auto_ets(panel(values(), 7, range(40, 50)), [1])
    monkeypatch.setattr(classical, "statsforecast", None)
    with pytest.raises(ImportError, match=r"auto_arima needs statsforecast: pip install 'tsf-llm\[statsforecast\]'"):
        classical.auto_arima(panel(values()), [1])
