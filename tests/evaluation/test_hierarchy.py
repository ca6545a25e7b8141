"""hierarchy.py: sums are what the labels say, reconciled forecasts add up and are better than their parts."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.evaluation import hierarchy as module
from tsf_llm.evaluation.hierarchy import METHODS, Hierarchy, reconciled

LABELS = pd.DataFrame({"store": ["s1", "s1", "s2", "s2"], "item": ["x", "y", "x", "y"]}, index=["a", "b", "c", "d"])
LEVELS = [(), ("store",), ("item",)]


@pytest.fixture
def shop():
    """A hierarchy, what came [9,200], forecasts of it with errors of one size at all levels, and earlier errors."""
    made, rng = Hierarchy.of(LABELS, LEVELS), np.random.default_rng(0)
    outcome = made.added(rng.normal(10, 2, (4, 200)))
    return made, outcome, outcome + rng.normal(0, 0.5, outcome.shape), rng.normal(0, 0.5, (9, 100))


def test_sums_are_those_of_the_labels():
    made = Hierarchy.of(LABELS, [*LEVELS, ("store", "item")])
    assert made.names == ["total", "s1", "s2", "x", "y", "s1/x", "s1/y", "s2/x", "s2/y", "a", "b", "c", "d"]
    assert made.added(np.array([[1.0], [2.0], [4.0], [8.0]]))[:5, 0].tolist() == [15, 3, 12, 5, 10]
    with pytest.raises(ValueError, match=r"levels name \['shop'\]: the labels are store, item"):
        Hierarchy.of(LABELS, [("shop",)])


@pytest.mark.parametrize("method", METHODS)
def test_reconciled_forecasts_add_up(shop, method):
    pytest.importorskip("hierarchicalforecast")
    made, outcome, forecasts, errors = shop
    assert made.incoherence(forecasts) > 0.01
    told = reconciled(made, forecasts, method, errors=errors, deviation=np.full(outcome.shape, 0.5), levels=(50, 80))
    assert made.incoherence(told["mean"]) < 1e-12
    assert (told["low"] < told["mean"][..., None]).all()
    assert (told["high"] > told["mean"][..., None]).all()
    assert (told["low"][..., 1] < told["low"][..., 0]).all()
    inside = (told["low"] <= outcome[..., None]) & (outcome[..., None] <= told["high"])
    np.testing.assert_allclose(inside.mean(axis=(0, 1)), [0.5, 0.8], atol=0.05)


def test_levels_help_one_another(shop):
    pytest.importorskip("hierarchicalforecast")
    made, outcome, forecasts, errors = shop
    square = {
        method: ((reconciled(made, forecasts, method, errors=errors)["mean"] - outcome) ** 2).mean()
        for method in METHODS
    }
    assert square["mint"] < 0.6 * ((forecasts - outcome) ** 2).mean() < square["bottom_up"]
    np.testing.assert_allclose(reconciled(made, forecasts, "bottom_up")["mean"], made.added(forecasts[-4:]), rtol=1e-9)


def test_what_cannot_be_reconciled_is_one_line(shop, monkeypatch):
    made, _, forecasts, _ = shop
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tsf-llm\[hierarchy\]'"):
        reconciled(made, forecasts, "mint")
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    pytest.importorskip("hierarchicalforecast")
    with pytest.raises(ValueError, match="must have a row for each of the 9 series"):
        reconciled(made, forecasts[1:], "bottom_up")
    with pytest.raises(ValueError, match="mint weighs by errors on earlier dates: give 10 or more"):
        reconciled(made, forecasts, "mint")
    with pytest.raises(ValueError, match="method='top_down': choose of bottom_up, wls, mint"):
        reconciled(made, forecasts, "top_down")
