"""ranking.py: quintiles as the M6 competition ranks them, scores of single tickers and of paths."""

import doctest

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.evaluation import ranking
from tsf_llm.evaluation.distributions import Samples

LEVELS = np.arange(1, 100) / 100


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
    found = ranking.rps(quantiles, realised, dates)
    assert_allclose(found["rps"], expected, atol=3e-4)
    assert found["rps"] < 0.16
    assert found["rps_dates"] == 100


def test_a_point_mass_at_one_place_for_all_says_nothing():
    _, realised, dates, *_ = gaussians(20, 5)
    assert_allclose(ranking.rps(np.zeros((100, 99)), realised, dates)["rps"], 0.16)


def test_dates_with_few_tickers_are_left_out():
    quantiles, realised, dates, *_ = gaussians(10, 6)
    whole = np.ones(60, bool)
    whole[[3, 14]] = False  # dates 0 and 1 have nine tickers
    found = ranking.rps(quantiles[whole], realised[whole], dates[whole])
    assert found == ranking.rps(quantiles[20:], realised[20:], dates[20:])
    assert ranking.rps(quantiles[:9], realised[:9], dates[:9]) == {"rps": None, "rps_dates": 0}


def test_tickers_may_come_in_any_order():
    quantiles, realised, dates, *_ = gaussians(15, 8)
    order = np.random.default_rng(3).permutation(len(dates))
    shuffled = ranking.rps(quantiles[order], realised[order], dates[order])
    assert shuffled == ranking.rps(quantiles, realised, dates)


# Joint paths


def one_factor_world(num_dates, size=20, num_paths=200, seed=0):
    """Paths and outcomes of tickers of unlike loadings, which move together in both: [n,K], [n], [n]."""
    rng, b = np.random.default_rng(seed), np.linspace(0.1, 0.95, size)[:, None]

    def draw():
        return b * rng.standard_normal((1, num_paths)) + np.sqrt(1 - b**2) * rng.standard_normal((size, num_paths))

    paths = np.concatenate([draw() for _ in range(num_dates)])
    realised = np.concatenate([draw()[:, 0] for _ in range(num_dates)])
    return paths, realised, np.arange(num_dates).repeat(size)


def test_joint_paths_score_better_where_tickers_move_together():
    world = one_factor_world(300)
    days, joint = ranking.path_rps(*world, joint=True)
    _, loose = ranking.path_rps(*world, joint=False)
    assert days.tolist() == list(range(300))
    difference = joint - loose
    assert difference.mean() / (difference.std() / np.sqrt(300)) < -3
    assert 0.14 < joint.mean() < loose.mean() < 0.161


def test_the_score_of_a_date_is_by_hand_whatever_the_order():
    paths, realised, dates = one_factor_world(3)
    keep = np.ones(60, bool)
    keep[:11] = False  # the first date has nine tickers
    order = np.random.default_rng(1).permutation(np.flatnonzero(keep))
    days, scores = ranking.path_rps(paths[order], realised[order], dates[order], joint=True)
    assert days.tolist() == [1, 2]
    for k, score in zip(days, scores, strict=True):
        mine = dates == k
        expected = ranking.ranked_probability_score(
            ranking.quintiles(paths[mine]), ranking.quintiles(realised[mine, None])
        )
        assert_allclose(score, expected.mean())
    assert ranking.path_rps(paths[:9], realised[:9], dates[:9], joint=True)[1].shape == (0,)


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
