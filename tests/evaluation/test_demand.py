"""demand.py: scores beside the definitions of M5, written out, and what is known at an origin."""

import numpy as np
import pytest

from tsf_llm.evaluation.demand import WQL_LEVELS, Demand, DemandErrors, demand_verdicts
from tsf_llm.evaluation.distributions import Samples
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

STEPS, T = 4, 80
ROWS = np.array([40, 50, 60])
OFF = {"model": 1.0, "other": 2.0}


def series(seed: int, size: float) -> EncodedSeries:
    value = np.random.default_rng(seed).poisson(size, T).astype(float)
    value[:10] = 0.0  # not on sale yet
    times = np.arange(T).astype("datetime64[D]").astype("datetime64[ns]")
    unknown = np.full(T, np.nan)
    return EncodedSeries(str(seed), times, np.empty((T, 0), np.float32), np.ones(T, bool), value, unknown, unknown)


@pytest.fixture(scope="module")
def shop():
    """Three origins of a small and of a large series, with the samples of a forecast for each step."""
    both = [series(1, 0.7), series(2, 30.0)]
    demand = Demand.joined([Demand.of(one, ROWS) for one in both])
    outcome = np.concatenate([one.ahead(ROWS, STEPS) for one in both])
    samples = np.random.default_rng(3).poisson(np.repeat([0.9, 25.0], 3)[:, None, None], (6, STEPS, 400)).astype(float)
    return both, demand, outcome, samples, np.concatenate([one.timestamp[ROWS] for one in both])


def errors_of(shop) -> DemandErrors:
    _, demand, outcome, samples, dates = shop
    value, unit = demand.value[:, None], demand.unit[:, None]
    steps = [Samples((samples[:, p] - value) / unit) for p in range(STEPS)]
    return DemandErrors.of(steps, (outcome - value) / unit, demand, dates)


def test_rmsse_is_that_of_m5(shop):
    both, _, outcome, samples, _ = shop
    squares, weights = [], []
    for one in both:
        for row in ROWS:
            sold = one.close[np.flatnonzero(one.close)[0] : row + 1]
            squares.append(np.mean(np.diff(sold) ** 2))
            weights.append(one.close[row - 27 : row + 1].sum())
    rmsse = np.sqrt(((samples.mean(axis=2) - outcome) ** 2).mean(axis=1) / squares)
    weights = np.array(weights) / np.tile(np.array(weights)[:3] + np.array(weights)[3:], 2)
    row = errors_of(shop).row()
    assert row["rmsse_m5"] == pytest.approx(rmsse.mean())
    assert row["wrmsse"] == pytest.approx((rmsse * weights).sum() / 3)


def test_quantile_loss_bias_and_zeros_are_in_the_series_own_units(shop):
    _, _, outcome, samples, _ = shop
    loss = 0.0
    for level in WQL_LEVELS:
        error = outcome - np.quantile(samples, level, axis=2, method="weibull")
        loss += 2 * np.maximum(level * error, (level - 1) * error).sum() / outcome.sum() / len(WQL_LEVELS)
    row = errors_of(shop).row()
    assert row["wql"] == pytest.approx(loss)
    assert row["bias"] == pytest.approx((samples.mean(axis=2) - outcome).sum() / outcome.sum())
    assert row["zeros"] == (outcome == 0).mean() > 0
    assert row["zeros_forecast"] == pytest.approx((samples == 0).mean(), abs=0.01)


def test_what_is_known_at_an_origin_reads_no_later_value(shop):
    one = shop[0][0]
    later = series(1, 0.7)
    later.close[ROWS[0] + 1 :] = 99.5
    ours, theirs = (Demand.of(each, ROWS[:1]) for each in (one, later))
    for name in vars(ours):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert not Demand.of(later, ROWS[1:]).whole.any()


def test_a_series_that_never_moved_has_no_scale(shop):
    one = series(1, 0.7)
    one.close[:] = 0.0
    still = Demand.of(one, ROWS)
    assert (still.square == 0).all()
    unit = Demand(still.value, np.ones(3), still.square, still.sold, still.whole)
    row = DemandErrors.of([Samples(np.zeros((3, 2)))], np.ones((3, 1)), unit, one.timestamp[ROWS]).row()
    assert row["wrmsse"] is row["rmsse_m5"] is None
    assert row["wql"] == pytest.approx(1)


def test_a_zero_is_one_in_every_unit():
    rng, dates = np.random.default_rng(0), np.arange(500)
    value, unit = rng.poisson(5, 500).astype(float), rng.uniform(0.3, 3, 500)
    demand = Demand(value, unit, np.ones(500), np.ones(500), np.ones(500, bool))
    outcome = (np.arange(500) % 2 * 3.0 - value) / unit
    assert DemandErrors.of([Samples(np.zeros((500, 2)))], outcome[:, None], demand, dates).zeros == 0.5


def test_where_nothing_was_sold_there_is_no_loss_per_unit():
    demand = Demand(np.zeros(40), np.ones(40), np.ones(40), np.ones(40), np.ones(40, bool))
    made = (np.zeros(40)[:, None], demand, np.arange(40))
    errors = {name: DemandErrors.of([Samples(np.full((40, 2), more))], *made) for name, more in OFF.items()}
    row = errors["model"].row()
    assert row["wql"] is row["bias"] is None
    assert row["wrmsse"] == 1
    assert [*demand_verdicts(errors, np.arange(40), horizon=1)["other"]] == ["wrmsse"]


def test_an_edge_is_found_where_there_is_one():
    rng = np.random.default_rng(0)
    outcome, dates = rng.normal(size=(60, 1)), np.repeat(np.arange(30), 2)
    demand = Demand(np.zeros(60), np.ones(60), np.ones(60), np.ones(60), np.zeros(60, bool))
    errors = {
        name: DemandErrors.of([Samples(outcome + rng.normal(0, width, (60, 50)))], outcome, demand, dates)
        for name, width in (("model", 0.1), ("wide", 3.0))
    }
    found = demand_verdicts(errors, dates, horizon=1)
    assert list(found) == ["wide"]
    for figure, told in found["wide"].items():
        assert told["verdict"].startswith(f"better than wide ({'WRMSSE' if figure == 'wrmsse' else 'WQL'} -")
        assert told["dm_p"] < 0.001
        ours, theirs = (getattr(one, figure).mean() for one in errors.values())
        assert told["difference"] == pytest.approx(ours - theirs)
