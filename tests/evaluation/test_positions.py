"""positions.py: what each rule holds; nothing is borrowed; the weights of a date depend on that date alone."""

import numpy as np
import pytest

from tsf_llm.evaluation.positions import (
    KELLY_CAP,
    RULES,
    THRESHOLDS,
    Outlook,
    kelly,
    long_short,
    possible_rules,
    sign,
    threshold,
)


def law(D=6, N=30, seed=0, unknown=0.2) -> Outlook:
    """Of random forecasts, some of them missing."""
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(0, 0.01, (D, N)), rng.uniform(0.005, 0.03, (D, N))
    mean[rng.uniform(size=(D, N)) < unknown] = np.nan
    std[np.isnan(mean)] = np.nan
    p_up = np.where(np.isnan(mean), np.nan, 0.5 + np.clip(mean, -0.02, 0.02) * 10)
    return Outlook(p_up, mean, std, mean[..., None] + std[..., None] * np.array([-0.1257, 0.1257]))


def at(one: Outlook, date: int) -> Outlook:
    parts = (one.p_up, one.mean, one.std, one.quantiles)
    return Outlook(*(part[[date]] for part in parts))


@pytest.mark.parametrize("rule", RULES)
def test_nothing_is_borrowed_and_what_is_not_forecast_is_not_held(rule):
    forecast = law()
    weights = RULES[rule](forecast)
    assert np.isfinite(weights).all()
    assert (np.abs(weights).sum(axis=1) <= 1 + 1e-12).all()
    assert (weights[np.isnan(forecast.p_up)] == 0).all()
    assert (weights != 0).any()


@pytest.mark.parametrize("rule", RULES)
def test_a_date_depends_on_no_other(rule):
    forecast = law()
    for date in range(6):
        assert np.array_equal(RULES[rule](at(forecast, date))[0], RULES[rule](forecast)[date])


@pytest.mark.parametrize("rule", RULES)
def test_a_date_without_a_forecast_holds_nothing(rule):
    assert not RULES[rule](law(unknown=1.1)).any()


def test_sign_shares_equity_among_the_tickers_that_are_forecast():
    weights = sign(Outlook(np.array([[0.9, 0.1, np.nan, 0.5]])))
    assert weights.tolist() == [[1 / 3, -1 / 3, 0, 0]]


def test_threshold_wants_both_quantiles_on_one_side():
    quantiles = np.array([[[0.01, 0.02], [-0.02, -0.01], [-0.01, 0.01], [0.0, 0.01]]])
    assert threshold(Outlook(np.full((1, 4), 0.5), quantiles=quantiles)).tolist() == [[0.25, -0.25, 0, 0]]
    assert THRESHOLDS[0] < 0.5 < THRESHOLDS[1]


def test_kelly_is_the_mean_of_the_simple_return_over_its_variance_and_is_capped():
    weights = kelly(Outlook(np.full((1, 2), 0.5), np.array([[0.0, 0.5]]), np.array([[1.0, 0.1]])))
    assert weights.tolist() == [[0.5 / 2, KELLY_CAP / 2]]


def test_kelly_does_not_bet_on_what_cannot_move():
    assert kelly(Outlook(np.array([[1.0]]), np.array([[0.1]]), np.zeros((1, 1)))).tolist() == [[0.0]]


@pytest.mark.parametrize(("count", "size"), [(2, 1), (4, 1), (10, 2), (19, 3), (20, 2), (40, 4)])
def test_long_short_takes_deciles_of_many_and_quintiles_of_few(count, size):
    score = np.random.default_rng(1).permutation(count) / count
    weights = long_short(Outlook(np.full((1, count), 0.5), score[None]))[0]
    best = np.argsort(score)
    assert np.allclose(weights[best[-size:]], 0.5 / size)
    assert np.allclose(weights[best[:size]], -0.5 / size)
    assert (weights != 0).sum() == 2 * size


def test_long_short_holds_nothing_that_it_cannot_rank():
    assert not long_short(Outlook(np.array([[0.7]]))).any()
    assert not long_short(Outlook(np.full((1, 8), 0.6))).any()


def test_a_rule_is_possible_where_the_model_tells_enough():
    p_up = np.full((1, 2), 0.5)
    assert possible_rules(law()) == list(RULES)
    assert possible_rules(Outlook(p_up)) == ["sign", "long-short"]
    assert possible_rules(Outlook(p_up, mean=p_up)) == ["sign", "long-short"]
