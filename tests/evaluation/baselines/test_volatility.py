"""GARCH, GJR and EWMA: planted parameters are recovered, bands cover, and nothing reads past its fence or origin."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.volatility import ewma, fit_garch, garch_t, gjr_garch_t

ROWS = [ewma, garch_t, gjr_garch_t]
TRUE = {"omega": 2e-6, "alpha": 0.08, "gamma": 0.0, "beta": 0.9}


def simulated(seed, n=3000, alpha=TRUE["alpha"], gamma=0.0):
    """Returns of a GARCH(1,1) with Student t errors of 6 degrees of freedom."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_t(6, n) * np.sqrt(4 / 6)
    returns, variance = np.empty(n), TRUE["omega"] / (1 - alpha - gamma / 2 - TRUE["beta"])
    for t in range(n):
        returns[t] = np.sqrt(variance) * noise[t]
        variance = TRUE["omega"] + (alpha + gamma * (returns[t] < 0)) * returns[t] ** 2 + TRUE["beta"] * variance
    return returns


@pytest.fixture(scope="module")
def close():
    return 50 * np.exp(np.append(0, simulated(0).cumsum()))


def test_planted_parameters_are_recovered():
    found = fit_garch(simulated(1, 8000), asymmetric=False)
    assert found.alpha == pytest.approx(TRUE["alpha"], abs=0.02)
    assert found.beta == pytest.approx(TRUE["beta"], abs=0.03)
    assert found.gamma == 0
    leaning = fit_garch(simulated(2, 8000, alpha=0.04, gamma=0.08), asymmetric=True)
    assert 0.04 < leaning.gamma < 0.12


def test_the_filter_is_the_recursion():
    returns = simulated(3, 400)
    model = fit_garch(returns, asymmetric=True)
    error = returns - model.mean
    variance = np.mean(error[:75] ** 2)
    for t in range(400):
        variance = model.omega + (model.alpha + model.gamma * (error[t] < 0)) * error[t] ** 2 + model.beta * variance
        assert model.variance(returns)[t] == pytest.approx(variance, rel=1e-9)


@pytest.mark.parametrize("baseline", ROWS)
@pytest.mark.parametrize("step", [1, 5])
def test_bands_cover_what_they_say(baseline, step, close, make_panel):
    origins = np.arange(1500, len(close) - step)
    forecast = baseline(make_panel(close, origins), [step])[step]
    outcome = np.log(close[origins + step] / close[origins])
    low, high = forecast.quantile([0.1, 0.9]).T
    assert abs(np.mean((low <= outcome) & (outcome <= high)) - 0.8) < (
        0.03 if step == 1 else 0.06
    )  # five steps overlap
    assert np.abs(np.corrcoef(forecast.variance, outcome**2)[0, 1]) > 0.1


@pytest.mark.parametrize("baseline", ROWS)
def test_nothing_is_read_past_an_origin(baseline, close, make_panel):
    """Two fences, origins beyond the bar from which on all is replaced: those up to it stay, to the bit."""
    origins = np.arange(700, 1400, 7)
    whole = baseline(make_panel(close, origins), [1, 5])
    for last in (700, 840, 959, 1001):  # the first fence, between, and about the second
        other = close.copy()
        other[last + 1 :] *= np.exp(np.random.default_rng(last).normal(0, 0.2, len(close) - last - 1).cumsum())
        changed = baseline(make_panel(other, origins), [1, 5])
        mine = origins <= last
        for step in (1, 5):
            for part in ("location", "scale"):
                assert_array_equal(getattr(changed[step], part)[mine], getattr(whole[step], part)[mine])
            levels = changed[step].quantile([0.05, 0.5])[mine]
            assert_array_equal(levels, whole[step].quantile([0.05, 0.5])[mine])
            assert not np.array_equal(changed[step].scale[~mine], whole[step].scale[~mine])


@pytest.mark.parametrize("baseline", ROWS)
def test_the_law_changes_yearly_and_only_then(baseline, close, make_panel):
    forecast = baseline(make_panel(close, np.arange(700, 1400)), [1])[1]
    assert len(forecast.laws) == 3
    assert (np.diff(forecast.which) >= 0).all()
    assert len(forecast.laws[0]) < len(forecast.laws[1])


@pytest.mark.parametrize("baseline", ROWS)
def test_a_missing_close_is_skipped(baseline, close, make_panel):
    gapped = close.copy()
    gapped[[300, 301]] = np.nan
    known = np.isfinite(gapped)
    origins = np.arange(700, 760)
    forecast = baseline(make_panel(gapped, origins), [2])[2]
    assert np.isfinite(forecast.scale).all()
    assert_allclose(forecast.scale, baseline(make_panel(gapped[known], origins - 2), [2])[2].scale)


def test_what_cannot_be_fitted_is_refused_by_name(close, make_panel):
    with pytest.raises(ValueError, match=r"AAA: 100 return\(s\) are known at .* and 250 are needed"):
        garch_t(make_panel(close, np.array([100])), [1])
    with pytest.raises(ValueError, match="AAA: no move is known at"):
        ewma(make_panel(np.full(400, 3.0), np.array([300])), [1])


def test_a_plain_series_is_about_differences(close, make_panel):
    forecast = ewma(make_panel(np.log(close) - 90, np.array([900]), UNIVARIATE), [1])
    assert_allclose(forecast[1].scale, ewma(make_panel(close, np.array([900])), [1])[1].scale, rtol=1e-6)
