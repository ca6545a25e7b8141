"""intermittent.py: the recursions written out, statsforecast's numbers, and laws that keep zero where it is."""

import numpy as np
import pytest

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.intermittent import GRID, croston, croston_levels, tsb, tsb_levels
from tsf_llm.evaluation.baselines.panel import Panel

N = 400


def demand(share: float = 0.3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.binomial(1, share, N) * (1.0 + rng.poisson(3.0, N))


def panel(make_series, value, rows=(380, 390)) -> Panel:
    return Panel([make_series(value, UNIVARIATE)], [np.array(rows)], UNIVARIATE)


def test_levels_are_the_recursions_written_out():
    value = demand()
    first = int(value.argmax() if value[0] else np.flatnonzero(value)[0])
    for g, alpha in enumerate(GRID):
        size, between, share, since = value[first], first + 1.0, 1.0, 0
        for row in range(first + 1, N):
            since += 1
            share += alpha * ((value[row] > 0) - share)
            if value[row]:
                size += alpha * (value[row] - size)
                between += alpha * (since - between)
                since = 0
        assert croston_levels(value)[-1, g] == pytest.approx(size / between)
        assert tsb_levels(value)[-1, g * len(GRID) + g] == pytest.approx(size * share)


def test_statsforecast_says_the_same():
    models = pytest.importorskip("statsforecast.models")
    value = demand()
    theirs = models.TSB(0.1, 0.2).forecast(y=value, h=1)["mean"][0]  # of sizes, of shares
    assert tsb_levels(value)[-1, 2 * len(GRID) + 1] == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("baseline", [croston, tsb])
def test_zero_keeps_its_probability(make_series, baseline):
    value = demand(0.3)
    rows = np.arange(300, 390)
    law = baseline(panel(make_series, value, rows), [1, 7])[7]
    quantiles = law.quantile(np.arange(1, 100) / 100) + value[rows][:, None]
    assert (quantiles > -1e-9).all()
    assert 0.6 < (np.abs(quantiles) < 1e-9).mean() < 0.8
    assert (law.point + value[rows]).mean() == pytest.approx(value[:300].mean(), rel=0.25)


def test_tsb_forgets_what_is_no_longer_sold(make_series):
    value = demand()
    value[250:] = 0.0
    asked = panel(make_series, value)
    ours, theirs = (baseline(asked, [1])[1].point[0] for baseline in (tsb, croston))
    assert ours < 0.05 < theirs + 0.05


def test_a_sale_after_a_long_silence_is_no_multiple_without_bound(make_series):
    value = demand()
    value[100:250] = 0.0
    law = tsb(panel(make_series, value), [1])[1]
    assert (law.quantile(np.array([0.999])) + value[[380, 390], None] < 20 * value.max()).all()
    assert (law.point + value[[380, 390]] < value.max()).all()


@pytest.mark.parametrize("baseline", [croston, tsb])
def test_what_is_no_demand_is_refused(make_series, baseline):
    value = demand()
    value[200] = -3
    with pytest.raises(ValueError, match=r"series 'AAA' is -3 at 2015.*demand is never below 0"):
        baseline(panel(make_series, value), [1])
    with pytest.raises(ValueError, match=r"has 0 values .* since its first sale and needs 31"):
        baseline(panel(make_series, np.zeros(N)), [1])
