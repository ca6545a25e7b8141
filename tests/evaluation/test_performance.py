"""performance.py: figures by hand, the published example of the deflated ratio, intervals that cover."""

import json

import numpy as np
import pytest

from tsf_llm.evaluation.backtest import Accounts
from tsf_llm.evaluation.performance import (
    bars_per_year,
    best_of,
    certainty,
    drawdown,
    expected_best,
    performance,
    probabilistic_sharpe,
    sharpe,
    sharpe_difference,
    sharpe_influence,
    sharpe_interval,
)


def days(count):
    return np.datetime64("2020-01-01", "ns") + np.arange(count).astype("timedelta64[D]")


def accounts(equity) -> Accounts:
    equity = np.array([equity], dtype=float)
    others = {name: np.zeros_like(equity) for name in ("turnover", "costs", "exposure", "net")}
    others["exposure"][:, 1:] = 0.5
    others["turnover"][:, 1] = 2.0
    return Accounts(days(equity.shape[1]), equity, **others, late=np.array([1]), stranded=np.array([2]))


def test_the_example_of_bailey_and_lopez_de_prado():
    """Their section on a numerical example: 100 trials, a yearly ratio of 2.5 in five years of 250 days."""
    benchmark = best_of(100, 1 / 2 / 250)
    assert benchmark == pytest.approx(0.1132, abs=5e-5)
    deflated = certainty(2.5 / np.sqrt(250), benchmark, 1250, skew=-3, kurtosis=10)
    assert deflated == pytest.approx(0.9004, abs=5e-5)
    fewer = certainty(2.5 / np.sqrt(250), best_of(46, 1 / 2 / 250), 1250, skew=-3, kurtosis=10)
    assert fewer == pytest.approx(0.9505, abs=5e-4)


def test_more_trials_ask_for_more():
    ratios = np.random.default_rng(0).normal(0, 0.05, 40)
    assert expected_best([0.1]) == expected_best([]) == 0
    assert 0 < expected_best(ratios[:5]) < expected_best([*ratios, *ratios])
    best = np.random.default_rng(1).normal(0, 0.05, (20_000, 40)).max(axis=1).mean()
    assert best_of(40, 0.05**2) == pytest.approx(best, rel=0.02)


def test_figures_by_hand():
    row = performance(accounts([1, 1.1, 0.99, 1.188]), 0)
    yearly = 365.25
    returns = np.array([0.1, -0.1, 0.2])
    assert row["total_return"] == pytest.approx(0.188)
    assert row["cagr"] is None  # of three days
    longer = performance(accounts([1.0] * 100 + [1.1]), 0)
    assert longer["cagr"] == pytest.approx(1.1 ** (yearly / 100) - 1)
    assert row["volatility"] == pytest.approx(returns.std() * np.sqrt(yearly))
    assert row["sharpe"] == pytest.approx(returns.mean() / returns.std() * np.sqrt(yearly))
    assert row["max_drawdown"] == pytest.approx(-0.1)
    assert row["hit_rate"] == pytest.approx(2 / 3)
    assert (row["exposure"], row["late_trades"], row["stranded_positions"]) == (0.5, 1, 2)
    assert row["turnover"] == pytest.approx(2 * yearly / 3)
    assert row["sharpe_ci95"] is row["probabilistic_sharpe"] is None  # too few bars
    assert bars_per_year(days(3)) == pytest.approx(365.25)


def test_what_never_moved_has_no_ratio():
    row = performance(accounts([1.0] * 30), 0)
    assert row["sharpe"] is row["sharpe_ci95"] is row["probabilistic_sharpe"] is None
    assert (row["total_return"], row["max_drawdown"], row["volatility"]) == (0, 0, 0)
    json.dumps(row, allow_nan=False)
    still = np.full(30, 0.001)
    assert sharpe(still) is sharpe_influence(still) is None
    assert sharpe_difference(still, np.random.default_rng(0).normal(size=30), days(30)) == (None, None)


def test_who_lost_everything_has_figures_too():
    json.dumps(row := performance(accounts([1.0, 0.5, *[0.0] * 40]), 0), allow_nan=False)
    assert (row["total_return"], row["cagr"], row["max_drawdown"]) == (-1, -1, -1)


def test_the_influence_has_the_ratio_for_its_mean_and_its_error_for_its_spread():
    returns = np.random.default_rng(2).normal(0.1, 1, 100_000)
    influence, ratio = sharpe_influence(returns), sharpe(returns)
    assert influence.mean() == pytest.approx(ratio, abs=1e-12)
    assert influence.var() == pytest.approx(1 + ratio**2 / 2, rel=0.02)  # Lo (2002), normal returns


def test_the_interval_covers_the_true_ratio():
    rng, hits = np.random.default_rng(3), 0
    for _ in range(200):
        low, high = sharpe_interval(rng.normal(0.1, 1, 250), days(250))
        hits += low <= 0.1 <= high
    assert 180 <= hits <= 199


def test_a_paired_difference_sees_what_single_intervals_hide():
    rng = np.random.default_rng(4)
    market = rng.normal(0.03, 1, 1000)
    better = market + rng.normal(0.05, 0.1, 1000)
    difference, [low, high] = sharpe_difference(better, market, days(1000))
    assert difference == pytest.approx(sharpe(better) - sharpe(market), abs=1e-12)
    assert 0 < low < difference < high
    first, second = sharpe_interval(better, days(1000)), sharpe_interval(market, days(1000))
    assert first[0] < second[1]  # they overlap
    assert sharpe_difference(market, market, days(1000)) == (0.0, [0.0, 0.0])


def test_the_probabilistic_ratio_is_uniform_without_skill():
    rng = np.random.default_rng(5)
    found = [probabilistic_sharpe(rng.normal(0, 1, 250)) for _ in range(500)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)
    assert np.mean(np.array(found) > 0.95) == pytest.approx(0.05, abs=0.03)


def test_drawdown_of_several():
    assert drawdown(np.array([[1.0, 0.5, 1.0], [1.0, 2.0, 1.0]])).tolist() == [[0, -0.5, 0], [0, 0, -0.5]]
