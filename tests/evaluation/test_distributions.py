import numpy as np
import pytest
import scoringrules
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.calibration_tsf_llm import Calibration
from tsf_llm.evaluation.distributions import (
    LEVELS,
    Gaussian,
    Moved,
    Piecewise,
    Quantiles,
    Residuals,
    Samples,
    Scored,
    StratifiedSamples,
)


@pytest.fixture
def gaussian():
    return Gaussian(mean=np.array([0.0, 0.01, -0.3]), std=np.array([1.0, 0.02, 0.5]))


@pytest.fixture
def samples():
    return Samples(np.random.default_rng(0).standard_normal((5, 40)) * 0.02)


def test_gaussian_crps_is_the_integral_of_its_definition(gaussian):
    y = np.array([0.4, -0.01, -0.3])
    grid = np.linspace(-8, 8, 800_001)
    for i, (mean, std) in enumerate(zip(gaussian.mean, gaussian.std, strict=True)):
        squares = (stats.norm.cdf(grid, mean, std) - (grid >= y[i])) ** 2
        assert_allclose(gaussian.crps(y)[i], np.trapezoid(squares, grid), atol=2e-5)


def test_gaussian_agrees_with_scipy(gaussian):
    levels, y = [0.05, 0.5, 0.9], np.array([0.1, 0.0, -1.0])
    for i, (mean, std) in enumerate(zip(gaussian.mean, gaussian.std, strict=True)):
        assert_allclose(gaussian.quantile(levels)[i], stats.norm.ppf(levels, mean, std))
        assert_allclose(gaussian.cdf(y)[i], stats.norm.cdf(y[i], mean, std))
        assert_allclose(gaussian.p_up[i], stats.norm.sf(0, mean, std))
    assert_allclose(gaussian.point, gaussian.mean)
    assert_allclose(gaussian.median, gaussian.quantile([0.5])[:, 0], atol=1e-15)


def test_gaussian_without_spread_is_a_point_mass():
    flat = Gaussian(mean=np.array([0.0, 0.1]), std=np.zeros(2))
    assert_allclose(flat.crps(np.array([0.03, 0.1])), [0.03, 0.0], atol=1e-11)
    assert_allclose(flat.p_up, [0.5, 1.0])
    assert_allclose(flat.quantile([0.1, 0.9]), [[0, 0], [0.1, 0.1]], atol=1e-11)


def test_samples_crps_is_the_fair_estimate(samples):
    y = np.array([0.0, 0.01, -0.02, 0.2, 0.005])
    pairs = np.abs(samples.values[:, :, None] - samples.values[:, None, :]).sum(axis=(1, 2))
    expected = np.abs(samples.values - y[:, None]).mean(axis=1) - pairs / (2 * 40 * 39)
    assert_allclose(samples.crps(y), expected)
    assert_allclose(samples.crps(y), scoringrules.crps_ensemble(y, samples.values, estimator="fair", backend="numpy"))


def test_samples_crps_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(1)
    y = rng.standard_normal(20_000)
    exact = Gaussian(np.zeros(20_000), np.ones(20_000)).crps(y).mean()
    few = Samples(rng.standard_normal((20_000, 4))).crps(y).mean()
    assert abs(few - exact) < 0.015  # the biased estimate would be 0.14 above


def test_samples_count_ties_half():
    tied = Samples(np.array([[-1.0, 0.0, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
    assert_allclose(tied.cdf(np.array([0.0, 1.0])), [0.5, 0.5])
    assert_allclose(tied.p_up, [0.5, 1.0])


def test_samples_summaries_agree_with_numpy(samples):
    assert_allclose(samples.point, np.mean(samples.values, axis=1))
    assert_allclose(samples.median, np.median(samples.values, axis=1))
    assert_allclose(samples.median, samples.quantile([0.5])[:, 0])
    assert_allclose(samples.p_up, np.mean(samples.values > 0, axis=1))


def test_quantiles_never_cross(samples, gaussian):
    levels = np.linspace(0.01, 0.99, 33)
    for forecast in (samples, gaussian):
        assert forecast.quantile(levels).shape == (len(forecast.point), 33)
        assert (np.diff(forecast.quantile(levels), axis=1) >= 0).all()


def test_interval_of_few_samples_covers_its_nominal_level():
    rng = np.random.default_rng(2)
    forecast, y = Samples(rng.standard_normal((40_000, 19))), rng.standard_normal(40_000)
    low, high = forecast.quantile([0.1, 0.9]).T
    assert abs(np.mean((low <= y) & (y <= high)) - 0.8) < 0.008


def test_pit_of_exchangeable_samples_is_uniform_and_seeded():
    rng = np.random.default_rng(3)
    forecast, y = Samples(rng.standard_normal((5_000, 7))), rng.standard_normal(5_000)
    assert stats.kstest(forecast.pit(y), "uniform").pvalue > 0.01
    assert stats.kstest(forecast.cdf(y), "uniform").pvalue < 0.01  # eight steps: not uniform without the spreading
    assert_allclose(forecast.pit(y, seed=4), forecast.pit(y, seed=4), rtol=0)
    assert not np.array_equal(forecast.pit(y, seed=4), forecast.pit(y, seed=5))


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((3, 1))])
def test_samples_without_a_spread_are_refused(values):
    with pytest.raises(ValueError, match=r"K >= 2"):
        Samples(values)


# Exact laws


@pytest.fixture
def piecewise():
    rng = np.random.default_rng(5)
    edges, unit = np.sort(rng.normal(size=13)), np.array([0.5, 1.0, 2.0, 0.01])
    return Piecewise.of_bins(rng.dirichlet(np.ones(12), size=4), edges, unit)


def test_bins_agree_with_samples_of_them(piecewise):
    rng, size = np.random.default_rng(6), 200_000
    for i, (values, shares) in enumerate(zip(piecewise.values, piecewise.shares, strict=True)):
        bins = rng.choice(12, size=size, p=shares)
        drawn = values[bins] + np.diff(values)[bins] * rng.random(size)
        assert_allclose(piecewise.point[i], drawn.mean(), atol=0.01 * np.ptp(values))
        assert_allclose(piecewise.variance[i], drawn.var(), rtol=0.02)
        assert_allclose(piecewise.p_up[i], (drawn > 0).mean(), atol=0.005)
        assert_allclose(piecewise.cdf(piecewise.quantile([0.1, 0.7])[:, 1])[i], 0.7, atol=1e-12)


def test_bins_are_uniform_under_their_own_law(piecewise):
    u = np.random.default_rng(7).random(4_000)
    law = Piecewise(np.repeat(piecewise.values[:1], 4_000, axis=0), np.repeat(piecewise.levels[:1], 4_000, axis=0))
    assert_allclose(law.pit(np.interp(u, piecewise.levels[0], piecewise.values[0])), u, atol=1e-9)


def test_residuals_are_a_scaled_empirical_law():
    rng = np.random.default_rng(8)
    laws, which, scale, y = (
        [rng.normal(size=50), rng.gumbel(size=31)],
        np.array([1, 0, 1]),
        np.array([0.1, 2.0, 1.0]),
        np.array([0.1, -1.0, 9.0]),
    )
    forecast = Residuals.of(scale, [np.append(law, np.nan) for law in laws], which)
    for i in range(3):
        sample = scale[i] * laws[which[i]][None]
        assert_allclose(forecast.crps(y)[i], scoringrules.crps_ensemble(y[i], sample[0], estimator="nrg"), rtol=1e-9)
        same = Samples(sample)
        for name in ("point", "median", "p_up"):
            assert_allclose(getattr(forecast, name)[i], getattr(same, name)[0], atol=1e-12)
        assert_allclose(forecast.quantile([0.05, 0.9])[i], same.quantile([0.05, 0.9])[0])
        assert_allclose(forecast.pit_cell(y)[0][i], same.pit_cell(y[[i]])[0][0])
    with pytest.raises(ValueError, match="a law of 1 residual"):
        Residuals.of(scale, [np.array([1.0, np.nan])], which * 0)


def test_a_grid_of_quantiles_scores_as_the_law_it_came_from():
    y = np.linspace(-3, 3, 601)
    exact = Gaussian(np.zeros(601), np.ones(601))
    grid = Quantiles(exact.quantile(LEVELS), LEVELS)
    weights = np.exp(-(y**2) / 2)
    assert abs((weights @ grid.crps(y)) / (weights @ exact.crps(y)) - 1) < 5e-4
    assert weights @ Samples(grid.values).crps(y) / (weights @ exact.crps(y)) < 0.995  # as samples they look too good
    assert_allclose(grid.quantile(LEVELS), grid.values)


def test_a_law_in_units_is_the_law_of_what_is_divided(gaussian, samples, piecewise):
    for law in (gaussian, samples, piecewise, Quantiles(samples.quantile(LEVELS), LEVELS)):
        unit = np.linspace(0.5, 3, len(law.point))
        y = np.linspace(-0.1, 0.1, len(unit))
        assert_allclose(law.divided(unit).crps(y / unit), law.crps(y) / unit, rtol=1e-9)
        assert_allclose(law.divided(unit).cdf(y / unit), law.cdf(y))


def test_scored_keeps_what_scores_ask_and_leaves_out_what_was_not_made(samples):
    y = np.linspace(-0.02, 0.02, 5)
    scored = Scored.joined([Scored.of(samples, y), Scored.missing(y)])
    assert scored.known.tolist() == [True] * 5 + [False] * 5
    kept = scored.take(scored.known)
    assert_allclose(kept.pit(y, seed=3), samples.pit(y, seed=3))
    assert_allclose(kept.quantile([0.05, 0.5]), samples.quantile([0.05, 0.5]))
    assert_allclose(kept.sign, np.sign(samples.values).mean(axis=1))
    with pytest.raises(AssertionError, match="other outcomes"):
        kept.crps(y + 1)


def test_a_moved_law_is_that_of_its_moved_samples(samples):
    y = np.array([0.0, 0.01, -0.02, 0.2, 0.005])
    calibration = Calibration([0.2], [1.4])
    expected = Samples(calibration(samples.values[..., None])[..., 0])
    moved = Moved.about_median(samples, 0.2, 1.4)
    assert_allclose(moved.quantile(LEVELS), expected.quantile(LEVELS))
    for name in ("point", "median", "variance", "p_up"):
        assert_allclose(getattr(moved, name), getattr(expected, name), err_msg=name)
    for name in ("crps", "cdf", "pit"):
        assert_allclose(getattr(moved, name)(y), getattr(expected, name)(y), err_msg=name)
    unit = np.array([1.0, 2.0, 0.5, 4.0, 0.1])
    assert_allclose(moved.divided(unit).crps(y / unit), moved.crps(y) / unit)


def test_a_moved_normal_law_is_normal(gaussian):
    y = np.array([0.4, -0.01, -0.3])
    half_width = stats.norm.ppf(0.9) * gaussian.std
    expected = Gaussian(gaussian.mean + 0.3 * half_width, 0.7 * gaussian.std)
    moved = Moved.about_median(gaussian, 0.3, 0.7)
    assert_allclose(moved.crps(y), expected.crps(y))
    assert_allclose(moved.p_up, expected.p_up)
    assert_allclose(moved.variance, expected.variance)


def test_stratified_samples_are_not_flattered():
    """Their evenness is no sharpness: the fair estimate would be below the score of the law itself."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal(20_000)
    levels = (np.arange(16) + rng.random((20_000, 16))) / 16
    values = stats.norm.ppf(levels)
    exact = Gaussian(np.zeros(20_000), np.ones(20_000)).crps(y).mean()
    stratified = StratifiedSamples(values)
    assert Samples(values).crps(y).mean() < 0.98 * exact
    assert exact < stratified.crps(y).mean() < 1.01 * exact
    assert isinstance(stratified.divided(np.full(20_000, 2.0)), StratifiedSamples)


def test_laws_of_parts_are_joined_in_order():
    rng, levels = np.random.default_rng(0), np.array([0.1, 0.5, 0.9])
    parts = [
        [Gaussian(rng.normal(size=n), rng.uniform(0.5, 1, n)) for n in (2, 3)],
        [Quantiles(np.sort(rng.normal(size=(n, 3)), axis=1), levels) for n in (2, 3)],
        [
            Residuals.of(rng.uniform(0.5, 1, n), [rng.normal(size=9), rng.normal(size=5)], np.arange(n) % 2, 0.1)
            for n in (2, 3)
        ],
    ]
    y = rng.normal(size=5)
    for each in parts:
        joined = type(each[0]).joined(each)
        for ask in (lambda law, y: law.crps(y), lambda law, y: law.cdf(y), lambda law, _: law.quantile([0.3, 0.8])):
            apart = np.concatenate([ask(one, part) for one, part in zip(each, (y[:2], y[2:]), strict=True)])
            np.testing.assert_array_equal(ask(joined, y), apart)


def test_the_closed_forms_are_those_of_scipy():
    law, known = Gaussian(np.array([0.1, -2.0]), np.array([0.5, 3.0])), stats.norm([0.1, -2.0], [0.5, 3.0])
    np.testing.assert_array_equal(law.quantile(LEVELS), known.ppf(LEVELS[:, None]).T)
    np.testing.assert_array_equal(law.cdf(np.array([0.3, 0.3])), known.cdf(0.3))
    np.testing.assert_array_equal(law.p_up, known.sf(0.0))
