"""ranking.py: quintiles as the M6 competition ranks them, scores of single tickers and of paths."""

import doctest

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.evaluation import ranking
from tsf_llm.evaluation.distributions import Samples

LEVELS = np.arange(1, 100) / 100


def rps(quantiles, realised, dates):
    return ranking.Ranked.of(realised, dates).rps(quantiles)


def slow_rps(quantiles, realised, dates, seed=0):
    """Draw by draw, rank by rank."""
    generator, scores = np.random.default_rng(seed), []
    order = np.lexsort((realised, dates))
    for date in np.unique(dates):
        mine = order[dates[order] == date]
        draws = generator.permuted(np.tile(quantiles[mine], -(-ranking.DRAWN // len(mine))), axis=1)
        ours, came = slow_quintiles(draws), slow_quintiles(realised[mine, None])
        scores.append(((ours - came).cumsum(axis=1) ** 2).mean())
    return np.mean(scores)


def slow_quintiles(values):
    """By scipy's ranks: the mean share of each quintile in the ranks that a ticker spans."""
    size = len(values)
    share = np.eye(5)[5 * np.arange(size) // size]
    low, high = (stats.rankdata(values, one, axis=0).astype(int) for one in ("min", "max"))
    spans = [[share[a - 1 : b].mean(axis=0) for a, b in zip(*one, strict=True)] for one in zip(low, high, strict=True)]
    return np.array(spans).mean(axis=1)


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(ranking) == (0, 3)


@pytest.mark.parametrize("size", [10, 12, 100])
def test_every_quintile_has_its_fifth_and_the_least_return_is_in_the_first(size):
    values = np.random.default_rng(0).standard_normal((size, 1))
    found = ranking.quintiles(values)
    assert_allclose(found.sum(axis=1), 1)
    assert_allclose(found.sum(axis=0), np.bincount(5 * np.arange(size) // size))
    order = np.argsort(values[:, 0])
    assert found[order[0], 0] == found[order[-1], 4] == 1
    assert (np.diff(found[order].argmax(axis=1)) >= 0).all()


def test_tied_tickers_share_what_they_span():
    values = np.arange(10.0)
    values[1:3] = 1  # ranks 2 and 3: one of the first quintile, one of the second
    found = ranking.quintiles(values[:, None])
    assert_allclose(found[1:3], [[0.5, 0.5, 0, 0, 0]] * 2)
    assert_allclose(np.delete(found, [1, 2], axis=0), ranking.quintiles(np.arange(10.0)[:, None])[[0, *range(3, 10)]])
    assert_allclose(ranking.quintiles(np.zeros((10, 3))), 0.2)


def test_a_column_with_ties_changes_no_other():
    values = np.random.default_rng(1).standard_normal((20, 4))
    alone = [ranking.quintiles(values[:, [k]]) for k in range(4)]
    assert_allclose(ranking.quintiles(values), np.mean(alone, axis=0))
    values[:5, 2] = 0.3
    alone[2] = ranking.quintiles(values[:, [2]])
    assert_allclose(ranking.quintiles(values), np.mean(alone, axis=0))


def test_a_fifth_everywhere_scores_sixteen_hundredths():
    outcome = ranking.quintiles(np.random.default_rng(2).standard_normal((100, 1)))
    assert_allclose(ranking.ranked_probability_score(np.full((100, 5), 0.2), outcome).mean(), 0.16)
    assert_allclose(ranking.ranked_probability_score(outcome, outcome), 0)
    probability = np.array([[0.1, 0.2, 0.4, 0.2, 0.1]])  # cumulative .1 .3 .7 .9 1 against 0 0 1 1 1
    by_hand = (0.01 + 0.09 + 0.09 + 0.01 + 0) / 5
    assert_allclose(ranking.ranked_probability_score(probability, np.eye(5)[[2]]), by_hand)


def gaussians(size, num_dates, seed=0):
    """Quantiles of tickers of unlike volatility, [n,99], outcomes and dates; and mean and std of each ticker."""
    rng = np.random.default_rng(seed)
    std, mean = 0.02 * np.exp(0.4 * rng.standard_normal(size)), 0.003 * rng.standard_normal(size)
    quantiles = stats.norm.ppf(LEVELS, mean[:, None], std[:, None])
    realised = rng.normal(mean, std, (num_dates, size))
    return np.tile(quantiles, (num_dates, 1)), realised.ravel(), np.arange(num_dates).repeat(size), mean, std


@pytest.mark.parametrize("size", [12, 60])
def test_the_score_of_quantiles_is_that_of_endless_independent_draws(size):
    quantiles, realised, dates, mean, std = gaussians(size, 100)
    exact = ranking.quintiles(np.random.default_rng(5).normal(mean, std, (50_000, size)).T)
    outcomes = realised.reshape(100, size, 1)
    expected = np.mean([ranking.ranked_probability_score(exact, ranking.quintiles(one)) for one in outcomes])
    found = rps(quantiles, realised, dates)
    assert_allclose(found["rps"], expected, atol=3e-4)
    assert found["rps"] < 0.16
    assert found["rps_dates"] == 100


def test_a_point_mass_at_one_place_for_all_says_nothing():
    _, realised, dates, *_ = gaussians(20, 5)
    assert_allclose(rps(np.zeros((100, 99)), realised, dates)["rps"], 0.16)


def test_dates_with_few_tickers_are_left_out():
    quantiles, realised, dates, *_ = gaussians(10, 6)
    whole = np.ones(60, bool)
    whole[[3, 14]] = False  # dates 0 and 1 have nine tickers
    found = rps(quantiles[whole], realised[whole], dates[whole])
    assert found == rps(quantiles[20:], realised[20:], dates[20:])
    assert rps(quantiles[:9], realised[:9], dates[:9]) == {"rps": None, "rps_dates": 0}


@pytest.mark.parametrize("ties", [False, True])
def test_the_score_is_that_of_its_draws_one_by_one(ties):
    quantiles, realised, dates, *_ = gaussians(12, 3)
    quantiles = quantiles - quantiles[:, [49]] if ties else quantiles
    assert_allclose(rps(quantiles, realised, dates)["rps"], slow_rps(quantiles, realised, dates), rtol=1e-13)


def test_tickers_may_come_in_any_order():
    quantiles, realised, dates, *_ = gaussians(15, 8)
    order = np.random.default_rng(3).permutation(len(dates))
    shuffled = rps(quantiles[order], realised[order], dates[order])
    assert shuffled == rps(quantiles, realised, dates)


# Whole paths


def test_energy_score_of_one_step_is_the_crps():
    rng = np.random.default_rng(0)
    paths, realised = rng.normal(size=(20, 50, 1)), rng.normal(size=(20, 1))
    assert_allclose(ranking.energy_scores(paths, realised), Samples(paths[..., 0]).crps(realised[:, 0]))


def test_energy_score_prefers_steps_that_move_together_where_they_do():
    """The same marginals at every step: only the joint law tells them apart."""
    rng = np.random.default_rng(1)
    joint = rng.normal(size=(2000, 64, 3)).cumsum(axis=2)
    realised = rng.normal(size=(2000, 3)).cumsum(axis=1)
    loose = np.stack([rng.permuted(joint[..., p], axis=1) for p in range(3)], axis=-1)
    assert ranking.energy_scores(joint, realised).mean() < ranking.energy_scores(loose, realised).mean()
