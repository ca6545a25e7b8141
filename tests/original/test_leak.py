"""What the future inputs are worth: found on a random walk too, and gone without them."""

import numpy as np
import pytest

from tsf_llm.original.leak import RIDGE_PENALTY, measure_leak, ridge, scaled_scores


def by_name(results):
    return {row["model"]: row for row in results["rows"]}


def test_the_leak_is_all_there_is(results):
    rows = by_name(results)
    assert list(rows) == ["with_leak", "without_leak", "random_walk_with_leak"]
    for name in ("with_leak", "random_walk_with_leak"):
        assert rows[name]["mse"] < 0.6 * rows[name]["mse_constant_0"]
        assert rows[name]["direction_ci95"][0] > 0.7 > rows[name]["direction_base_rate"]
    without = rows["without_leak"]
    assert without["mse"] > without["mse_constant_0"]
    low, high = without["direction_ci95"]
    assert low < without["direction_base_rate"] < high


def test_the_target_follows_from_the_inputs(results):
    assert results["reconstruction"]["max_error"] < 1e-9
    assert results["reconstruction"]["n"] == 1068 - len(results["tickers"])  # the last target of each is unknown
    assert results["skipped"] == ["FB"]


@pytest.mark.parametrize(("horizon", "exact"), [(1, True), (5, True), (10, False)])
def test_other_targets_leak_too_where_an_input_looks_as_far(make_bars, horizon, exact):
    results = measure_leak(make_bars(700), horizon=horizon)
    error = results["reconstruction"]["max_error"]
    assert (error is not None and error < 1e-9) if exact else error is None


def test_scores_are_what_they_say():
    target = np.repeat([1.0, -1.0, 2.0, 0.5], 20)
    prediction = np.where(np.arange(80) < 60, 0.5 * target, -1.0)
    row = scaled_scores(prediction, target, np.arange(80))
    assert row["mse"] == pytest.approx(np.mean((prediction - target) ** 2))
    assert row["mse_constant_0"] == pytest.approx(np.mean([1, 1, 4, 0.25]))
    assert (row["direction_accuracy"], row["direction_base_rate"], row["n"]) == (0.75, 0.75, 80)
    assert row["direction_ci95"][0] < 0.75 < row["direction_ci95"][1]
    assert scaled_scores(target, target, np.arange(80))["direction_ci95"] is None


def test_ridge_is_the_closed_form():
    rng = np.random.default_rng(0)
    x, more = rng.normal(3, 2, (50, 4)), rng.normal(3, 2, (9, 4))
    y = x @ [1.0, 0, -2, 0.5] + rng.normal(size=50) + 7
    centred = x - x.mean(axis=0)
    weights = np.linalg.solve(centred.T @ centred + RIDGE_PENALTY * np.eye(4), centred.T @ (y - y.mean()))
    np.testing.assert_allclose(ridge(x, y, more), (more - x.mean(axis=0)) @ weights + y.mean())


def test_too_few_bars_are_refused(make_bars):
    with pytest.raises(ValueError, match="give more history"):
        measure_leak(make_bars(300))
    with pytest.raises(ValueError, match="horizon=4"):
        measure_leak(make_bars(700), horizon=4)
