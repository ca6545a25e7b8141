"""newsvendor.py: the order is the one of least expected cost, and what makes no sense is refused."""

import numpy as np
import pytest

from tsf_llm.evaluation.newsvendor import critical_level, decision_cost, order_quantities

LEVELS = np.arange(1, 100) / 100


@pytest.mark.parametrize(("underage", "overage"), [(1.0, 1.0), (4.0, 1.0), (1.0, 9.0)])
def test_no_other_order_costs_less(underage, overage):
    demand = np.random.default_rng(0).gamma(2.0, 10.0, 20_000)
    costs = {"underage": underage, "overage": overage}
    [best] = order_quantities(np.quantile(demand, LEVELS)[None], LEVELS, **costs)
    tried = [decision_cost(np.full(len(demand), one), demand, **costs).mean() for one in np.arange(0, 80, 0.5)]
    assert decision_cost(np.full(len(demand), best), demand, **costs).mean() <= min(tried) + 0.005


def test_orders_are_whole_where_units_are_and_never_negative():
    quantiles = np.array([[-3.0, -1.0, 1.0], [1.0, 2.2, 3.0]])
    order = order_quantities(quantiles, np.array([0.25, 0.5, 0.75]), underage=1, overage=1, whole=True)
    assert order.tolist() == [0.0, 3.0]
    assert order_quantities(quantiles, np.array([0.25, 0.5, 0.75]), underage=99, overage=1).tolist() == [1.0, 3.0]


@pytest.mark.parametrize("costs", [{"underage": 0, "overage": 1}, {"underage": 1, "overage": float("nan")}])
def test_costs_are_above_zero(costs):
    with pytest.raises(ValueError, match="both must cost something"):
        critical_level(**costs)


def test_levels_go_with_quantiles():
    with pytest.raises(ValueError, match=r"give \[n,L\] at L increasing levels"):
        order_quantities(np.ones((2, 3)), np.array([0.5, 0.25, 0.75]), underage=1, overage=1)
