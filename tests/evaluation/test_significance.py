"""significance.py: intervals hold what they promise, pairing finds what they hide, verdicts say it in words."""

import doctest

import numpy as np
import pytest
from numpy.testing import assert_allclose

from tsf_llm.evaluation import significance


def test_interval_contains_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(5)
    dates = np.repeat(np.arange(60), 2)
    hits = 0
    for seed in range(60):
        low, high = significance.mean_interval(rng.standard_normal(120), dates, horizon=1, seed=seed)
        hits += low < 0 < high
    assert 51 <= hits <= 60


def test_interval_width_agrees_with_the_closed_form_when_independent():
    values = np.random.default_rng(6).standard_normal(2_000)
    low, high = significance.mean_interval(values, np.arange(2_000), horizon=1)
    assert_allclose(high - low, 2 * 1.96 * values.std() / np.sqrt(2_000), rtol=0.15)


def test_interval_knows_that_tickers_of_a_date_move_together():
    values = np.random.default_rng(7).standard_normal(200)
    alone = significance.mean_interval(values, np.arange(200), horizon=1)
    copied = significance.mean_interval(np.repeat(values, 10), np.repeat(np.arange(200), 10), horizon=1)
    assert_allclose(copied, alone)


def test_interval_knows_that_overlapping_returns_are_not_independent():
    overlapping = np.convolve(np.random.default_rng(8).standard_normal(1_009), np.ones(10), "valid")
    dates = np.arange(1_000)
    honest = np.ptp(significance.mean_interval(overlapping, dates, horizon=10))
    naive = 2 * 1.96 * overlapping.std() / np.sqrt(1_000)
    assert 2 < honest / naive < 4.5  # sqrt(10) in the limit


@pytest.mark.parametrize(("horizon", "fewest"), [(1, 10), (20, 40)])
def test_too_few_dates_give_no_interval(horizon, fewest):
    values = np.random.default_rng(9).standard_normal(fewest)
    assert significance.mean_interval(values, np.arange(fewest), horizon=horizon) is not None
    assert significance.mean_interval(values[1:], np.arange(fewest - 1), horizon=horizon) is None


def test_verdict_on_equal_better_and_worse_models():
    rng = np.random.default_rng(11)
    dates = np.repeat(np.arange(120), 5)
    baseline = rng.exponential(0.01, len(dates))
    model, noise = 0.9 * baseline, 0.01 * rng.standard_normal(len(dates))
    for losses, expected in (
        ((model, model), "no edge over random_walk (CRPS +0.0 %, 95 % CI [+0.0 %, +0.0 %])"),
        ((baseline + noise, baseline), "no edge over random_walk"),
        ((model, baseline), "better than random_walk (CRPS -"),
        ((baseline, model), "worse than random_walk (CRPS +"),
        ((model[:20], baseline[:20]), "too few dates to compare with random_walk"),
    ):
        found = significance.compare(*losses, dates[: len(losses[0])], "random_walk", horizon=1)
        assert found.pop("verdict").startswith(expected)
        assert found == significance.paired_difference(*losses, dates[: len(losses[0])], 1)


def test_verdict_says_what_was_compared_and_which_way_is_better():
    losses = np.ones(60) + np.arange(60) % 2, np.ones(60), np.arange(60)
    gain = significance.compare(*losses, "nothing", horizon=1, figure=significance.GAIN)["verdict"]
    assert gain.startswith("better than nothing (+0.5, 95 % CI [+")
    error = significance.Figure("error rate", "+.4f")
    told = significance.compare(*losses, "guesses", horizon=1, figure=error)["verdict"]
    assert told.startswith("worse than guesses (error rate +0.5000, 95 % CI [+")
    assert significance.verdict({"difference": 1.0, "ci95": None}, "before", error) == (
        "too few dates to compare with before"
    )


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(significance) == (0, 2)


def test_paired_difference_sees_what_the_separate_intervals_hide():
    rng = np.random.default_rng(12)
    baseline = rng.exponential(1.0, 400)
    model = 0.98 * baseline
    difference = significance.paired_difference(model, baseline, np.arange(400), 1)
    assert_allclose(difference["difference"], -0.02 * baseline.mean())
    assert_allclose(difference["relative"], -0.02)
    assert difference["ci95"][1] < 0
    assert_allclose(np.array(difference["relative_ci95"]) * baseline.mean(), difference["ci95"])
    model_interval = significance.mean_interval(model, np.arange(400), horizon=1)
    assert model_interval[0] < baseline.mean() < model_interval[1]


def test_losses_that_are_not_paired_are_refused():
    with pytest.raises(ValueError, match="pair them first"):
        significance.paired_difference(np.ones(5), np.ones(4), np.arange(5), 1)
