"""joint_ranking.py: one factor keeps each law, ties tickers as asked, and ranks what moves together better."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.evaluation.distributions import LEVELS
from tsf_llm.evaluation.every_bar import Outcomes
from tsf_llm.evaluation.joint_ranking import FEWEST, at_levels, factor_loadings, joint_rps, together


def test_loadings_are_correlations_with_the_mean_and_zero_for_what_stands_still():
    returns = np.random.default_rng(1).standard_normal((60, 8))
    returns[:, 3] = 0
    expected = [np.corrcoef(returns[:, k], returns.mean(axis=1))[0, 1] if k != 3 else 0 for k in range(8)]
    assert_allclose(factor_loadings(returns), expected)


def test_a_factor_ties_tickers_and_leaves_each_uniform():
    rng, loadings = np.random.default_rng(0), np.array([0.9, 0.5, 0.0])
    own = rng.random((3, 50_000))
    moved = together(own, loadings, rng.standard_normal(50_000))
    assert_allclose(moved[2], own[2])
    assert all(stats.kstest(one, "uniform").statistic < 0.01 for one in moved)
    correlation = np.corrcoef(stats.norm.ppf(moved))
    assert_allclose(correlation[0, 1:], [0.45, 0], atol=0.02)


def test_laws_are_read_between_their_levels():
    quantiles = np.stack([LEVELS, 10 * LEVELS])
    levels = np.array([[0.25, 0.255, 0.0], [0.5, 0.999, 0.01]])
    assert_allclose(at_levels(quantiles, levels), [[0.25, 0.255, 0.01], [5.0, 9.9, 0.1]])


def made(loading, tickers=12, days=400):
    """Tickers of unlike volatility that share a factor, and their true laws."""
    rng, sigma = np.random.default_rng(2), np.linspace(0.01, 0.06, tickers)
    moves = loading * rng.standard_normal(days) + np.sqrt(1 - loading**2) * rng.standard_normal((tickers, days))
    moves *= sigma[:, None]
    time = pd.date_range("2020-01-01", periods=days, freq="B").to_numpy()
    names = np.array([f"T{k:02}" for k in range(tickers)])
    series = [
        SimpleNamespace(ticker=name, log_return=one, timestamp=time) for name, one in zip(names, moves, strict=True)
    ]
    at = np.arange(FEWEST, days - 1)
    origin, ticker = np.tile(time[at], tickers), np.repeat(names, len(at))
    outcomes = Outcomes(1, [at] * tickers, ticker, origin, np.tile(time[at + 1], tickers), moves[:, at + 1].ravel())
    return np.repeat(sigma, len(at))[:, None] * stats.norm.ppf(LEVELS), outcomes, series


def test_what_moves_together_is_ranked_better_together():
    tied = joint_rps(*made(0.95))
    assert tied["joint"] < min(tied["independent"], 0.16)
    assert tied["dm_p"] < 0.05
    assert tied["days"] == 400 - FEWEST - 1


def test_the_order_of_tickers_does_not_matter_and_too_few_have_no_score():
    quantiles, outcomes, series = made(0.95, days=80)
    order = np.random.default_rng(0).permutation(len(outcomes.origin))
    parts = (outcomes.ticker, outcomes.origin, outcomes.due, outcomes.realised)
    shuffled = Outcomes(1, outcomes.rows, *(part[order] for part in parts))
    assert joint_rps(quantiles[order], shuffled, series) == joint_rps(quantiles, outcomes, series)
    nothing = joint_rps(*made(0.95, tickers=9, days=80))
    assert nothing == {"joint": None, "independent": None, "dm_p": None, "days": 0}


def test_no_loading_reads_the_future():
    quantiles, outcomes, series = made(0.95, days=80)
    last = outcomes.origin.min()
    first = outcomes.origin == last
    parts = (outcomes.ticker, outcomes.origin, outcomes.due, outcomes.realised)
    alone = Outcomes(1, outcomes.rows, *(part[first] for part in parts))
    other = [
        SimpleNamespace(
            ticker=one.ticker,
            timestamp=one.timestamp,
            log_return=np.where(one.timestamp > last, np.roll(one.log_return, k), one.log_return),
        )
        for k, one in enumerate(series)
    ]
    assert joint_rps(quantiles[first], alone, series) == joint_rps(quantiles[first], alone, other)
