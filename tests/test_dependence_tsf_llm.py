"""How tickers move together: correlations by hand, strangers, gaps, and no bar after the origin."""

import doctest
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm import dependence_tsf_llm as dependence
from tsf_llm.dependence_tsf_llm import AT_ONCE, FEWEST, MOST, WINDOW, loadings, one_factor
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

DAYS = pd.bdate_range("2020-01-01", periods=400).to_numpy()


def encoded(ticker, returns, days=DAYS):
    """A series of which only times and returns matter."""
    ones = np.ones(len(days))
    return EncodedSeries(
        ticker=ticker,
        timestamp=days,
        features=np.zeros((len(days), 1), np.float32),
        observed=np.isfinite(returns),
        close=ones,
        log_return=returns,  # in units of a volatility of 1
        sigma=ones,
    )


@pytest.fixture(scope="module")
def market():
    """Returns of six tickers, `[T,6]`, that one factor moves by .9, .8, .7, .6, .5 and not at all."""
    rng, b = np.random.default_rng(0), np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.0])
    factor, own = rng.standard_normal((400, 1)), rng.standard_normal((400, 6))
    return np.linspace(0.01, 0.03, 6) * (b * factor + np.sqrt(1 - b**2) * own)


def test_the_formulas_in_the_docstrings():
    assert doctest.testmod(dependence) == (0, 3)


def test_it_finds_the_loadings_of_one_factor():
    rng, b = np.random.default_rng(1), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    returns = b * rng.standard_normal((200_000, 1)) + np.sqrt(1 - b**2) * rng.standard_normal((200_000, 5))
    assert_allclose(one_factor(returns.T), b, atol=0.07)  # exact where they are equal
    equal = 0.6 * rng.standard_normal((200_000, 1)) + 0.8 * rng.standard_normal((200_000, 5))
    assert_allclose(one_factor(equal.T), 0.6, atol=0.01)


def test_of_many_tickers_it_is_the_correlation_with_their_mean():
    rng, b = np.random.default_rng(2), np.linspace(0.2, 0.9, 300)
    returns = b * rng.standard_normal((60, 1)) + np.sqrt(1 - b**2) * rng.standard_normal((60, 300))
    expected = [np.corrcoef(one, returns.mean(axis=1))[0, 1] for one in returns.T]
    assert_allclose(one_factor(returns.T), np.clip(expected, 0, MOST), atol=0.03)


def test_strangers_stay_strangers():
    """A ticker is half of the mean of two; that alone is no dependence."""
    products = [one_factor(np.random.default_rng(seed).standard_normal((2, WINDOW))).prod() for seed in range(300)]
    assert np.mean(products) < 0.03  # of correlations whose standard error is .06, the negative ones cut
    assert one_factor(np.stack([np.arange(60.0) % 2, -(np.arange(60.0) % 2)])).tolist() == [0, 0]


def test_twins_are_held_below_one():
    twins = np.random.default_rng(3).standard_normal(60) * np.ones((2, 1))
    assert one_factor(twins).tolist() == [MOST, MOST]


@pytest.mark.parametrize(
    "returns",
    [
        np.ones((1, WINDOW)) * np.arange(WINDOW),  # alone
        np.full((2, WINDOW), np.nan),
        np.zeros((2, WINDOW)),
        np.where(np.arange(WINDOW) < FEWEST - 1, np.arange(WINDOW), np.nan) * np.ones((2, 1)),
    ],
)
def test_what_is_unknown_does_not_move_or_is_alone_has_none(returns):
    assert not one_factor(returns).any()


def test_gaps_are_left_out(market):
    returns = market[-WINDOW:].T.copy()
    whole = one_factor(returns)
    returns[5] = np.nan
    assert_array_equal(one_factor(returns)[:5], one_factor(returns[:5]))
    assert one_factor(returns)[5] == 0
    returns[5] = market[-WINDOW:, 5]
    returns[0, ::20] = np.nan
    assert_allclose(one_factor(returns), whole, atol=0.1)
    returns[0, : -3 * FEWEST] = np.nan  # known lately alone
    assert one_factor(returns)[0] == pytest.approx(whole[0], abs=0.15)


def test_origins_come_in_the_order_of_the_batch(market):
    series = [encoded(name, market[:, k]) for k, name in enumerate("ABCDEF")]
    requests = [(series[k], np.arange(100 + k, 390, 7)) for k in (3, 0, 5)]
    requests += [(one, np.array([399])) for one in series]
    found = iter(loadings(requests))
    for one, rows in requests:
        for row in rows:
            by_hand = one_factor(market[max(1, row - WINDOW + 1) : row + 1].T)[series.index(one)]
            assert next(found) == pytest.approx(by_hand, rel=1e-12)
    assert len(list(found)) == 0


def test_no_bar_after_the_origin_is_read(market):
    rows = np.arange(80, 300)
    before = loadings([(encoded(name, market[:, k]), rows) for k, name in enumerate("ABCDEF")])
    changed = market.copy()
    changed[300:] = np.random.default_rng(4).standard_normal((100, 6))
    after = loadings([(encoded(name, changed[:, k]), rows) for k, name in enumerate("ABCDEF")])
    cut = loadings([(encoded(name, market[:300, k], DAYS[:300]), rows) for k, name in enumerate("ABCDEF")])
    assert_array_equal(after, before)
    assert_array_equal(cut, before)
    changed[299] = 0.05 * np.arange(6)
    seen = loadings([(encoded(name, changed[:, k]), rows) for k, name in enumerate("ABCDEF")]).reshape(6, -1)
    assert (seen[:, -1] != before.reshape(6, -1)[:, -1]).any()


def test_a_wild_week_does_not_decide(market):
    """Returns are taken in units of the volatility known before, and cut."""
    rows, crash = np.array([399]), market.copy()
    crash[380:385] += 20.0
    calm, wild = (loadings([(encoded(n, one[:, k]), rows) for k, n in enumerate("ABCDEF")]) for one in (market, crash))
    assert calm[5] < 0.2
    assert wild[5] <= MOST
    sigma = np.where(np.arange(400) < 300, 5.0, 1.0)
    louder = [replace(encoded(n, market[:, k]), sigma=sigma) for k, n in enumerate("ABCDEF")]
    scaled = [replace(one, log_return=one.log_return * np.append(1.0, sigma[:-1])) for one in louder]
    assert_allclose(loadings([(one, rows) for one in scaled]), calm)


def test_other_origins_do_not_matter(market, monkeypatch):
    series = [encoded(name, market[:, k]) for k, name in enumerate("ABCDEF")]
    together = loadings([(one, np.arange(80, 400)) for one in series]).reshape(6, -1)
    assert_array_equal(loadings([(one, np.array([200])) for one in series]), together[:, 120])
    monkeypatch.setattr(dependence, "AT_ONCE", AT_ONCE // 10)
    assert_array_equal(loadings([(one, np.arange(80, 400)) for one in series]).reshape(6, -1), together)


def test_times_are_matched_whatever_the_calendar(market):
    """A ticker that lacks bars is placed by its times, not by its rows."""
    kept = np.arange(400) % 9 != 4
    other = replace(encoded("B", market[kept, 1], DAYS[kept]))
    found = loadings([(encoded("A", market[:, 0]), np.array([399])), (other, np.array([kept.sum() - 1]))])
    table = np.where(kept, market[:, 1], np.nan)
    assert_allclose(found, one_factor(np.stack([market[-WINDOW:, 0], table[-WINDOW:]])))
    assert found.prod() > 0.4
