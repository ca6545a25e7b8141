"""utility.py: profits by hand, paired comparisons, and when it warns."""

import doctest

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation import profit as utility
from tsf_llm.evaluation.distributions import Gaussian, Samples, Scored
from tsf_llm.evaluation.significance import GAIN, compare
from tsf_llm.evaluation.walk_forward import WalkForward


def result(paths, realised, *, steps=1):
    """A walk-forward of one ticker whose forecast is the same at each step."""
    n = len(realised)
    baseline = Gaussian(mean=np.zeros(n), std=np.full(n, 0.02))
    return WalkForward(
        ticker=np.repeat("AAA", n),
        origin=pd.date_range("2020-01-01", periods=n, freq="D").to_numpy(),
        realised=np.repeat(np.asarray(realised)[:, None], steps, axis=1),
        scale=np.full((n, steps), 0.01),
        steps=[{"model": Scored.of(Samples(np.asarray(paths)), np.asarray(realised)), "random_walk": baseline}]
        * steps,
    )


@pytest.fixture
def outcomes():
    return np.random.default_rng(0).normal(0, 0.02, 60)


def knowing(outcomes, share, seed=1):
    """Paths of which a share has the sign of the outcome."""
    rng = np.random.default_rng(seed)
    right = np.sign(outcomes)[:, None] * np.abs(rng.normal(0.01, 0.01, (len(outcomes), 40)))
    wrong = rng.random((len(outcomes), 40)) > share
    return np.where(wrong, -right, right)


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(utility).failed == 0
    assert doctest.testmod(utility).attempted >= 3


def test_profit_of_a_forecast_by_hand():
    """Three of four paths up: half a unit long. 2 % up pay 1 %; in and out cost 10 bp of half a unit twice."""
    one = result([[0.1, 0.1, 0.1, -0.1]], [np.log(1.02)])
    assert utility.forecast_utility(one, cost_bp=10)[0] == pytest.approx(0.5 * 0.02 - 2 * 0.5 * 0.001)
    short = result([[-0.1, -0.1, -0.1, -0.1]], [np.log(1.02)])
    assert utility.forecast_utility(short, cost_bp=0)[0] == pytest.approx(-0.02)


def test_who_knows_earns_and_who_does_not_has_no_edge(outcomes):
    dates = result(knowing(outcomes, 0.5), outcomes).origin
    for share, words in ((0.9, "better than nothing"), (0.5, "no edge over nothing"), (0.1, "worse than nothing")):
        earned = utility.forecast_utility(result(knowing(outcomes, share), outcomes), cost_bp=1)
        found = compare(earned, np.zeros(60), dates, "nothing", horizon=1, figure=GAIN)
        assert found["verdict"].startswith(words)


def test_holders_are_what_they_say(outcomes):
    held = utility.holders(result(knowing(outcomes, 0.5), outcomes), cost_bp=5)
    np.testing.assert_allclose(held["always_long"], np.expm1(outcomes) - 2 * 5e-4)
    np.testing.assert_allclose(held["always_short"], -np.expm1(outcomes) - 2 * 5e-4)
    assert not held["nothing"].any()


def test_pairs_are_counted_with_ties_as_half():
    values = utility.pair_values(np.array([[-1.0, -2.0], [-3.0, -1.0], [-1.0, -1.0]]))
    assert values["pair_accuracy"].tolist() == [1.0, 0.0, 0.5]
    assert values["margin"].tolist() == [1.0, -2.0, 0.0]


def test_every_figure_has_its_interval(outcomes):
    row = utility.forecast_rows(result(knowing(outcomes, 0.7), outcomes, steps=2), cost_bp=5)["model"]
    for name in ("crps", "coverage_80", "utility"):
        low, high = row[f"{name}_ci95"]
        assert low < row[name] < high


def test_without_baselines_the_model_scores_the_same(outcomes):
    one = result(knowing(outcomes, 0.7), outcomes, steps=2)
    rows, alone = (utility.forecast_rows(some, cost_bp=5) for some in (one, utility.without_baselines(one)))
    assert list(rows) == ["model", "random_walk"]
    assert alone == {"model": rows["model"]}


def test_a_single_number_has_no_coverage_and_a_plain_series_no_utility(outcomes):
    row = utility.forecast_rows(result(np.repeat(outcomes[:, None], 2, axis=1), outcomes), cost_bp=None)["model"]
    assert row["coverage_80"] is row["coverage_80_ci95"] is row["utility"] is row["utility_ci95"] is None


def test_differences_are_after_minus_before_and_paired(outcomes):
    worse, better = (result(knowing(outcomes, share), outcomes) for share in (0.5, 0.8))
    values = [utility.forecast_values(one, cost_bp=5) for one in (worse, better)]
    difference = utility.differences(*values, worse.origin, horizon=1)
    assert difference["crps"]["difference"] < 0 < difference["utility"]["difference"]
    for name in ("crps", "utility"):
        assert difference[name]["verdict"].startswith("better than before")
    same = utility.differences(values[0], values[0], worse.origin, horizon=1)
    assert all(one["difference"] == 0 and one["verdict"].startswith("no edge over before") for one in same.values())


def test_warns_where_utility_rises_and_forecasts_get_worse():
    def difference(crps, profit):
        return {name: {"difference": by, "verdict": "..."} for name, by in (("crps", crps), ("utility", profit))}

    assert "utility rises while CRPS gets worse" in utility.warning(difference(0.01, 0.01))
    for crps, profit in ((-0.01, 0.01), (0.01, -0.01), (-0.01, -0.01), (0.0, 0.01)):
        assert utility.warning(difference(crps, profit)) is None
    assert utility.warning({"crps": {"difference": 1.0, "verdict": "..."}}) is None
