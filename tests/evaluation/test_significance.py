"""significance.py: intervals hold what they promise, pairing finds what they hide, verdicts say it in words."""

import doctest

import numpy as np
import pytest
from arch.bootstrap import MCS, CircularBlockBootstrap
from numpy.testing import assert_allclose
from scipy import stats
from statsmodels.tsa import stattools

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
    assert doctest.testmod(significance) == (0, 8)


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


def test_losses_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="loss 3 is not finite"):
        significance.paired_difference(np.ones(5), np.array([1, 1, 1, np.nan, 1]), np.arange(5), 1)


@pytest.mark.parametrize(("num_dates", "block"), [(37, 3), (40, 5), (583, 8)])
def test_the_draws_are_those_of_arch(num_dates, block):
    by_date = np.random.default_rng(13).exponential(size=(num_dates, 2))
    theirs = CircularBlockBootstrap(block, by_date, seed=5).apply(lambda drawn: drawn.sum(axis=0), 1000)
    assert_allclose(np.concatenate([*significance.resampled(by_date, block, seed=5)]), theirs)


def test_the_draws_do_not_depend_on_how_many_are_held_at_once(monkeypatch):
    by_date = np.random.default_rng(13).exponential(size=(100, 3))
    whole = np.concatenate([*significance.resampled(by_date, 4, seed=5)])
    monkeypatch.setattr(significance, "DRAWN_AT_ONCE", 7 * 3 * 25)
    assert_allclose(np.concatenate([*significance.resampled(by_date, 4, seed=5)]), whole)


def test_overlap_is_counted_in_dates():
    assert [significance.overlap(5, stride) for stride in (1, 2, 3, 5, 7)] == [5, 3, 2, 1, 1]


@pytest.mark.skipif(not hasattr(stattools, "diebold_mariano_test"), reason="statsmodels 0.15 has it")
def test_diebold_mariano_is_that_of_statsmodels_where_outcomes_do_not_overlap():
    rng = np.random.default_rng(14)
    outcome, a, b = rng.standard_normal((3, 120))
    theirs = stattools.diebold_mariano_test(outcome, 0.5 * a, b, lags=0, harvey_adj=True, horizon=1)
    difference = (outcome - 0.5 * a) ** 2 - (outcome - b) ** 2
    assert_allclose(significance.diebold_mariano(difference, np.arange(120), horizon=1), theirs.pvalue)


def test_diebold_mariano_is_the_published_sum_where_they_do():
    series, horizon, size = (
        0.3 + np.convolve(np.random.default_rng(15).standard_normal(204), np.ones(5), "valid"),
        5,
        200,
    )
    centred = series - series.mean()
    variance = sum(centred[abs(lag) :] @ centred[: size - abs(lag)] / size for lag in range(-4, 5))
    factor = np.sqrt((size + 1 - 2 * horizon + horizon * (horizon - 1) / size) / size)
    expected = 2 * stats.t.sf(abs(factor * series.mean() / np.sqrt(variance / size)), size / horizon - 1)
    found = significance.diebold_mariano(np.repeat(series, 3), np.repeat(np.arange(size), 3), horizon=horizon)
    assert_allclose(found, expected)


def test_a_date_counts_by_its_forecasts():
    values, dates = np.array([1.0, 2.0, 3.0, 8.0]), np.array([1, 0, 0, 2])
    by_date = significance.date_means(values, dates)
    assert_allclose(by_date.mean(), values.mean())
    assert_allclose(significance.date_means(values, np.array([0, 0, 1, 1])), [1.5, 5.5])
    tested = significance.diebold_mariano(
        np.tile(values, 9), np.concatenate([dates + 3 * i for i in range(9)]), horizon=1
    )
    assert 0 < tested < 0.01


@pytest.mark.parametrize(("size", "horizon", "persistence"), [(60, 1, 0), (60, 20, 0), (300, 5, 0.3), (400, 20, 0)])
def test_a_true_hypothesis_is_refused_as_seldom_as_it_says(size, horizon, persistence):
    """Losses of overlapping outcomes, shared by three tickers of a date."""
    rng, refused, better = np.random.default_rng(16), 0, 0
    for _ in range(300):
        steps = rng.standard_normal(size + horizon)
        for i in range(1, len(steps)):
            steps[i] += persistence * steps[i - 1]
        overlapping = np.convolve(steps, np.ones(horizon), "valid")[:size]
        difference = np.repeat(overlapping, 3) + 0.1 * rng.standard_normal(3 * size)
        found = significance.compare(
            1 + difference, np.ones(3 * size), np.repeat(np.arange(size), 3), "it", horizon=horizon
        )
        refused += found["dm_p"] < 0.05
        better += not found["verdict"].startswith("no edge")
    assert refused / 300 < 0.09
    assert better / 300 < 0.075


def test_persistent_differences_are_refused_by_the_interval():
    """The test alone would take them for an edge in 15 % of all samples."""
    rng, edges = np.random.default_rng(17), 0
    for _ in range(200):
        steps = rng.standard_normal(560)
        for i in range(1, 560):
            steps[i] += 0.3 * steps[i - 1]
        found = significance.compare(9 + steps, np.full(560, 9.0), np.arange(560), "it", horizon=1)
        edges += not found["verdict"].startswith("no edge")
    assert edges / 200 < 0.1


def test_no_test_where_nothing_varies_or_dates_are_few():
    assert significance.diebold_mariano(np.zeros(50), np.arange(50), horizon=1) is None
    assert significance.diebold_mariano(np.full(50, 0.1) + 0.2, np.arange(50), horizon=1) is None
    assert significance.diebold_mariano(np.ones(1), np.arange(1), horizon=1) is None
    assert significance.diebold_mariano(np.random.default_rng(0).normal(size=39), np.arange(39), horizon=20) is None


def test_an_edge_needs_both_the_interval_and_the_test():
    clear = {"ci95": [-0.2, -0.1], "relative": -0.1, "relative_ci95": [-0.2, -0.1]}
    assert significance.verdict({**clear, "dm_p": 0.051}, "x") == (
        "no edge over x (CRPS -10.0 %, 95 % CI [-20.0 %, -10.0 %], DM p = 0.051)"
    )
    assert significance.verdict({**clear, "dm_p": 0.049}, "x").startswith("better than x")
    assert significance.verdict({**clear, "dm_p": None}, "x").startswith("better than x")
    assert significance.finding({"ci95": [-0.2, 0.1], "dm_p": 0.001}) == "no edge"
    assert significance.finding({"ci95": [0.2, 0.3], "dm_p": 0.001}, significance.GAIN) == "better"


def _answer(percent, low, high, dm_p=0.2):
    return {
        "difference": percent / 1000,
        "ci95": None if low is None else [low / 1000, high / 1000],
        "relative": percent / 100,
        "relative_ci95": None if low is None else [low / 100, high / 100],
        "dm_p": dm_p,
    }


def test_headline_names_the_strongest_first():
    har, garch = _answer(-0.4, -1.2, 0.4), _answer(-1.5, -2.4, -0.6, 0.0021)
    drift, few = _answer(-9, -12, -6, 1e-9), _answer(-2, None, None, None)
    told = significance.headline({"drift": drift, "garch_t": garch, "har_range": har}, "har_range")
    assert told == (
        "no edge over har_range (CRPS -0.4 %, 95 % CI [-1.2 %, +0.4 %], DM p = 0.200); "
        "better than garch_t by 1.5 % CRPS [0.6, 2.4], DM p = 0.002"
    )
    assert significance.headline({"drift": drift, "garch_t": garch}, "garch_t") == (
        "better than garch_t by 1.5 % CRPS [0.6, 2.4], DM p = 0.002"
    )
    worse = _answer(1.0, 0.3, 1.7, 0.01)
    assert (
        significance.headline({"drift": worse}, "drift") == "worse than drift by 1.0 % CRPS [0.3, 1.7], DM p = 0.010"
    )
    assert significance.headline({"drift": worse, "har": har}, "har").endswith("; better than no other baseline")
    assert significance.headline({"drift": drift, "har": few}, "har") == "too few dates to compare with har"


def _losses(rng, dates):
    day = rng.exponential(size=(len(np.unique(dates)), 1))
    spread = np.repeat(day, 3, axis=1).ravel()
    noise = {name: 0.05 * rng.standard_normal(len(dates)) for name in ("good", "equal", "bad")}
    return {name: spread + one + (0.05 if name == "bad" else 0) for name, one in noise.items()}


def test_the_confidence_set_is_that_of_arch_and_leaves_out_the_worse_model():
    dates = np.repeat(np.arange(200), 3)
    losses = _losses(np.random.default_rng(18), dates)
    found = significance.confidence_set(losses, dates, horizon=1, seed=2)
    assert [one["in_mcs"] for one in found.values()] == [True, True, False]
    by_date = np.column_stack([loss.reshape(200, 3).mean(axis=1) for loss in losses.values()])
    theirs = MCS(by_date, 0.10, reps=1000, block_size=6, bootstrap="circular", seed=2)
    theirs.compute()
    assert_allclose([one["mcs_p"] for one in found.values()], theirs.pvalues.sort_index()["Pvalue"])
    assert found == significance.confidence_set(losses, dates, horizon=1, seed=2)


def test_models_of_the_same_losses_share_a_place_in_the_confidence_set():
    dates = np.repeat(np.arange(200), 3)
    losses = _losses(np.random.default_rng(18), dates)
    alone = significance.confidence_set(losses, dates, horizon=1)
    doubled = significance.confidence_set({**losses, "copy": losses["good"] * 3 / 3}, dates, horizon=1)
    assert doubled == {**alone, "copy": alone["good"]}
    same = significance.confidence_set({"a": np.ones(600), "b": np.ones(600)}, dates, horizon=1)
    assert same == {name: {"mcs_p": 1.0, "in_mcs": True} for name in ("a", "b")}
    few = significance.confidence_set({"a": np.ones(9), "b": np.zeros(9)}, np.arange(9), horizon=1)
    assert few == {name: {"mcs_p": None, "in_mcs": None} for name in ("a", "b")}
    shifted = significance.confidence_set({"a": losses["good"], "b": losses["good"] + 1}, dates, horizon=1)
    assert shifted["a"] == {"mcs_p": 1.0, "in_mcs": True}
    assert shifted["b"]["in_mcs"] is False
