"""Laws against scipy and plain sums, steps between horizons, and paths that agree with them."""

import numpy as np
import pytest
import torch
from scipy import stats

from tsf_llm.laws_tsf_llm import (
    PiecewiseLaw,
    check_edges,
    count_below,
    every_step,
    horizon_returns,
    law_loss,
    with_laws,
)


@pytest.fixture
def law(rng=None):
    rng = np.random.default_rng(0)
    return PiecewiseLaw.of_bins(
        rng.dirichlet(np.ones(9), size=3), np.sort(rng.normal(size=10)), np.array([1.0, 0.1, 7])
    )


def of_scipy(law, row):
    return stats.rv_histogram((law.shares[row], law.values[row]), density=False)


def test_it_is_the_distribution_of_its_bins(law):
    y = np.array([0.2, -0.01, 3.0])
    for row in range(3):
        known = of_scipy(law, row)
        np.testing.assert_allclose(law.cdf(y)[row], known.cdf(y[row]))
        np.testing.assert_allclose(law.quantile([0.01, 0.3, 0.99])[row], known.ppf([0.01, 0.3, 0.99]))
        np.testing.assert_allclose((law.point[row], law.variance[row]), (known.mean(), known.var()))
        fine = law.quantile((np.arange(20_000) + 0.5) / 20_000)[row]
        np.testing.assert_allclose(law.expectation(np.exp)[row], np.exp(fine).mean(), rtol=5e-3)
    np.testing.assert_allclose(law.p_up, 1 - law.cdf(np.zeros(3)))


@pytest.mark.parametrize("y", [-9.0, -0.3, 0.0, 0.4, 9.0])
def test_the_score_is_the_integral(law, y):
    x = np.linspace(-20, 20, 400_001)
    for row in range(3):
        below = of_scipy(law, row).cdf(x)
        integral = np.trapezoid((below - (x >= y)) ** 2, x)
        np.testing.assert_allclose(law.crps(np.full(3, y))[row], integral, atol=2e-4)


def test_levels_may_differ_by_row(law):
    levels = np.random.default_rng(1).uniform(size=(3, 5))
    whole = law.quantile(levels)
    np.testing.assert_array_equal(whole[1], law.quantile(levels[1])[1])


def test_a_level_is_placed_by_comparison_with_all_of_a_law(law):
    levels = np.concatenate((law.levels[:, 1:-1], np.random.default_rng(1).uniform(size=(3, 5))), axis=1)
    for equal, compared in ((False, np.less), (True, np.less_equal)):
        expected = compared(law.levels[:, None], levels[..., None]).sum(axis=-1)
        np.testing.assert_array_equal(count_below(law.levels, levels, equal=equal), expected)


def test_moved_is_a_calibration(law):
    low, middle, high = law.quantile([0.1, 0.5, 0.9]).T
    moved = law.moved(shift=0.5, spread=2.0).quantile([0.1, 0.5, 0.9]).T
    np.testing.assert_allclose(moved[1], middle + 0.25 * (high - low))
    np.testing.assert_allclose(moved[2] - moved[0], 2 * (high - low))


def test_parts_are_joined_and_units_divided(law):
    joined = PiecewiseLaw.joined([law, law.divided(np.full(3, 2.0))])
    np.testing.assert_allclose(joined.point, np.concatenate((law.point, law.point / 2)))


def test_a_gaussian_walk_is_interpolated_exactly():
    """The square root of the steps is its own scale: between horizons nothing may be off but the grid."""
    levels = np.linspace(0.001, 0.999, 999)
    grid = np.concatenate(([0], levels, [1]))

    def normal(steps):
        inside = stats.norm.ppf(levels) * np.sqrt(steps)
        return PiecewiseLaw(np.concatenate(([inside[0] - 1], inside, [inside[-1] + 1]))[None], grid[None])

    laws = every_step({1: normal(1), 5: normal(5), 20: normal(20)}, 20)
    assert len(laws) == 20
    for step, law in enumerate(laws, start=1):
        np.testing.assert_allclose(
            law.quantile([0.1, 0.5, 0.9])[0], stats.norm.ppf([0.1, 0.5, 0.9]) * step**0.5, atol=1e-9
        )


def test_steps_between_keep_the_order_of_levels(law):
    laws = every_step({1: law, 4: law.divided(np.full(3, 0.5))}, 3)
    assert len(laws) == 3
    for one in laws:
        assert (np.diff(one.values) >= 0).all()
        assert (np.diff(one.levels) >= 0).all()
        np.testing.assert_allclose(one.cdf(one.quantile([0.37])[:, 0]), 0.37)


def test_paths_keep_their_ranks_and_take_the_values_of_the_laws(law):
    rng = np.random.default_rng(2)
    paths, order = rng.integers(-2, 3, size=(3, 40, 4)).cumsum(axis=-1).astype(float), rng.uniform(size=(3, 40, 4))
    moved = with_laws(paths, [law, law.divided(np.full(3, 0.5))], order)
    for p, expected in enumerate((law, law.divided(np.full(3, 0.5)))):
        np.testing.assert_allclose(np.sort(moved[..., p], axis=1), expected.quantile(np.arange(1, 41) / 41))
        for row in range(3):
            ranked = np.lexsort((order[row, :, p], paths[row, :, p]))
            assert (np.diff(moved[row, ranked, p]) > 0).all()
    np.testing.assert_allclose(
        np.diff(moved[..., 1:], axis=-1)[..., 0], np.diff(paths[..., 1:], axis=-1)[..., 0], atol=1e-12
    )
    np.testing.assert_array_equal(with_laws(paths, [], order), paths)


def test_horizon_returns_read_to_the_horizon_and_no_further():
    additive, sigma = np.arange(6.0) ** 2, np.full(6, 2.0)
    returns = horizon_returns(additive, sigma, [1, 4, 9])
    np.testing.assert_allclose(returns[0], [1 / 2, 16 / 2 / 2, np.nan])
    assert np.isnan(returns[2:, 1]).all()
    assert horizon_returns(additive, sigma, []).shape == (6, 0)


def test_the_loss_is_that_of_the_known_bins_and_far_ones_count_less():
    logits, labels = torch.randn(2, 5, 2, 7), torch.randint(0, 7, (2, 3, 2))
    labels[0, 1, 0], labels[1, :, 1] = -100, -100
    each = [
        torch.nn.functional.cross_entropy(logits[:, :3, i].flatten(0, 1), labels[..., i].flatten(), reduction="sum")
        for i in range(2)
    ]
    torch.testing.assert_close(law_loss(logits, labels, [4, 25]), each[0] / 2 + each[1] / 5)


def test_edges_that_no_fit_wrote_are_refused():
    check_edges({"5": [0.0, 1.0]}, 2, lambda edges, count: len(edges) == count)
    for edges in ({"5": [0.0]}, {"x": [0.0, 1.0]}):
        with pytest.raises(ValueError, match="law_edges"):
            check_edges(edges, 2, lambda edges, count: len(edges) == count)
