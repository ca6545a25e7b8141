"""joint_ranking.py: laws are read between their levels, and what moves together is ranked better together."""

import numpy as np
import pandas as pd
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.evaluation.distributions import LEVELS
from tsf_llm.evaluation.every_bar import Outcomes
from tsf_llm.evaluation.joint_ranking import at_levels, joint_rps


def test_laws_are_read_between_their_levels():
    quantiles = np.stack([LEVELS, 10 * LEVELS])
    levels = np.array([[0.25, 0.255, 0.0], [0.5, 0.999, 0.01]])
    assert_allclose(at_levels(quantiles, levels), [[0.25, 0.255, 0.01], [5.0, 9.9, 0.1]])


def made(tickers=12, days=300, loading=0.95):
    """Tickers of unlike volatility that share a factor: their true laws, outcomes and loadings."""
    rng, sigma = np.random.default_rng(2), np.linspace(0.01, 0.06, tickers)
    moves = loading * rng.standard_normal(days) + np.sqrt(1 - loading**2) * rng.standard_normal((tickers, days))
    time = pd.date_range("2020-01-01", periods=days + 1, freq="B").to_numpy()
    ticker = np.repeat([f"T{k:02}" for k in range(tickers)], days)
    realised = (moves * sigma[:, None]).ravel()
    outcomes = Outcomes(1, [], ticker, np.tile(time[:-1], tickers), np.tile(time[1:], tickers), realised)
    return np.repeat(sigma, days)[:, None] * stats.norm.ppf(LEVELS), outcomes, np.full(len(ticker), loading)


def test_what_moves_together_is_ranked_better_together():
    quantiles, outcomes, loading = made()
    tied = joint_rps(quantiles, outcomes, loading)
    assert tied["joint"] < min(tied["independent"], 0.16)
    assert tied["dm_p"] < 0.05
    assert tied["days"] == 300
    apart = joint_rps(quantiles, outcomes, 0 * loading)
    assert apart == {"joint": tied["independent"], "independent": tied["independent"], "dm_p": None, "days": 300}


def test_the_order_of_tickers_does_not_matter_and_too_few_have_no_score():
    quantiles, outcomes, loading = made(days=40)
    order = np.random.default_rng(0).permutation(len(loading))
    parts = (outcomes.ticker, outcomes.origin, outcomes.due, outcomes.realised)
    shuffled = Outcomes(1, [], *(part[order] for part in parts))
    assert joint_rps(quantiles[order], shuffled, loading[order]) == joint_rps(quantiles, outcomes, loading)
    nothing = joint_rps(*made(tickers=9, days=40))
    assert nothing == {"joint": None, "independent": None, "dm_p": None, "days": 0}
