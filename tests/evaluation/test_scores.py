import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from tsf_llm.evaluation import scores as metrics
from tsf_llm.evaluation.distributions import Gaussian, Samples

NUM_DATES, NUM_TICKERS = 120, 5
DATES = np.repeat(np.arange("2020-01-01", "2020-04-30", dtype="datetime64[D]")[:NUM_DATES], NUM_TICKERS)


@pytest.fixture
def realised():
    return 0.02 * np.random.default_rng(0).standard_normal(len(DATES))


@pytest.fixture
def calibrated(realised):
    """Knows a part of the outcome and is right about how large the rest is."""
    rng = np.random.default_rng(1)
    known = 0.5 * realised + np.sqrt(0.1875) * 0.02 * rng.standard_normal(len(DATES))
    return Gaussian(mean=known, std=np.full(len(DATES), 0.02 * np.sqrt(0.5 * 0.5 + 0.1875)))


@pytest.fixture
def random_walk():
    return Gaussian(mean=np.zeros(len(DATES)), std=np.full(len(DATES), 0.02))


def score(forecast, realised, horizon=1, **kwargs):
    return metrics.score(forecast, realised, DATES, np.full(len(DATES), 0.015), horizon, **kwargs)


def brief(forecast, realised):
    return metrics.brief(forecast, realised, np.full(len(DATES), 0.015))


def test_score_agrees_with_definitions(calibrated, realised):
    row = score(calibrated, realised)
    error = realised - calibrated.mean
    assert_allclose(row["crps"], calibrated.crps(realised).mean())
    assert_allclose(row["mae"], np.abs(error).mean())
    assert_allclose(row["mase"], np.abs(error).mean() / 0.015)
    assert_allclose(row["rmse"], np.sqrt(np.mean(error**2)))
    assert_allclose(row["direction_accuracy"], np.mean(np.sign(calibrated.mean) == np.sign(realised)))
    assert_allclose(row["direction_base_rate"], np.mean(realised > 0))
    standardised = np.abs(error / calibrated.std)
    for level in (50, 80, 90):
        assert_allclose(row[f"coverage_{level}"], np.mean(standardised <= stats.norm.ppf(0.5 + level / 200)))
    assert (row["n"], row["num_dates"], row["horizon"]) == (len(DATES), NUM_DATES, 1)


def test_coverage_of_a_calibrated_gaussian_is_nominal():
    rng = np.random.default_rng(2)
    mean, std = rng.standard_normal(len(DATES)), rng.uniform(0.5, 2, len(DATES))
    row = score(Gaussian(mean, std), rng.normal(mean, std))
    for level in (50, 80, 90):
        assert abs(row[f"coverage_{level}"] - level / 100) < 0.06


def test_absolute_error_is_of_the_median_and_squared_error_of_the_mean():
    skewed = Samples(np.tile([0.0, 0.0, 0.0, 0.0, 1.0], (len(DATES), 1)))
    row = score(skewed, np.zeros(len(DATES)))
    assert row["mae"] == 0
    assert_allclose(row["rmse"], 0.2)


def test_mase_leaves_out_tickers_that_never_moved(random_walk, realised):
    scale = np.where(np.arange(len(DATES)) % 2, 0.015, 0.0)
    row = metrics.score(random_walk, realised, DATES, scale, 1)
    assert_allclose(row["mase"], np.abs(realised[1::2]).mean() / 0.015)
    assert metrics.score(random_walk, realised, DATES, np.zeros(len(DATES)), 1)["mase"] is None


def test_a_random_walk_has_no_direction_and_no_rank(random_walk, realised):
    row = score(random_walk, realised)
    assert row["direction_n"] == row["rank_ic_dates"] == 0
    for name in ("direction_accuracy", "direction_ci95", "rank_ic", "rank_ic_t"):
        assert row[name] is None


def test_moves_of_zero_have_no_direction(calibrated, realised):
    still = np.arange(len(realised)) % 3 == 0
    row = score(calibrated, np.where(still, 0.0, realised))
    assert row["direction_n"] == np.sum(~still)
    assert_allclose(row["direction_accuracy"], np.mean(np.sign(calibrated.mean) == np.sign(realised), where=~still))
    assert_allclose(row["direction_base_rate"], np.mean(realised > 0, where=~still))


def test_direction_interval_is_within_zero_and_one_and_around_the_accuracy(calibrated, realised):
    row = score(calibrated, realised)
    low, high = row["direction_ci95"]
    assert 0.5 < low < row["direction_accuracy"] < high < 1
    always_right = Gaussian(realised, np.full(len(DATES), 0.01))
    assert score(always_right, realised)["direction_accuracy"] == 1
    assert score(always_right, realised)["direction_ci95"] is None


def test_rank_ic_is_the_mean_spearman_correlation_over_dates(calibrated, realised):
    rounded = Gaussian(np.round(calibrated.mean, 2), calibrated.std)  # with ties
    per_date = [
        stats.spearmanr(rounded.mean[rows], realised[rows]).statistic
        for rows in np.arange(len(DATES)).reshape(NUM_DATES, NUM_TICKERS)
        if np.ptp(rounded.mean[rows]) > 0
    ]
    row = score(rounded, realised)
    assert_allclose(metrics.rank_correlations(rounded.mean, realised, DATES), per_date)
    assert_allclose(row["rank_ic"], np.mean(per_date))
    assert row["rank_ic_dates"] == len(per_date)


def test_rank_ic_needs_three_tickers(calibrated, realised):
    pairs = np.flatnonzero(np.arange(len(DATES)) % NUM_TICKERS < 2)
    assert len(metrics.rank_correlations(calibrated.mean[pairs], realised[pairs], DATES[pairs])) == 0
    triples = np.flatnonzero(np.arange(len(DATES)) % NUM_TICKERS < 3)
    assert len(metrics.rank_correlations(calibrated.mean[triples], realised[triples], DATES[triples])) == NUM_DATES


def test_rows_may_come_in_any_order(calibrated, realised):
    order = np.random.default_rng(3).permutation(len(DATES))
    scale = np.full(len(DATES), 0.015)
    forecast = Gaussian(calibrated.mean[order], calibrated.std[order])
    shuffled = metrics.score(forecast, realised[order], DATES[order], scale, 1, square_scale=scale)
    for name, value in score(calibrated, realised, square_scale=scale).items():
        assert shuffled[name] is value is None or np.allclose(shuffled[name], value), name


def test_newey_west_t_is_the_textbook_sum():
    series = 0.1 + np.random.default_rng(4).standard_normal(200)
    horizon, size = 6, 200
    deviation = series - series.mean()
    variance = deviation @ deviation / size
    for lag in range(1, horizon):
        variance += 2 * (1 - lag / horizon) * (deviation[lag:] @ deviation[:-lag]) / size
    expected = series.mean() / np.sqrt(variance / (size - 1))
    assert_allclose(metrics.newey_west_t(series, horizon=horizon), expected)
    assert metrics.newey_west_t(series[:9], horizon=1) is None


def test_results_are_reproducible_and_serialisable(calibrated, random_walk, realised):
    samples = Samples(np.random.default_rng(10).normal(0, 0.02, (len(DATES), 64)))
    for forecast in (calibrated, random_walk, samples):
        row = score(forecast, realised, seed=3)
        assert json.loads(json.dumps(row, allow_nan=False)) == row
        assert row == score(forecast, realised, seed=3)
        assert row["crps_ci95"] != score(forecast, realised, seed=4)["crps_ci95"]


def test_pinball_and_interval_score_are_their_definitions(calibrated, realised):
    row = score(calibrated, realised)
    levels = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    error = realised[:, None] - stats.norm.ppf(levels, calibrated.mean[:, None], calibrated.std[:, None])
    assert_allclose(row["pinball"], np.maximum(levels * error, (levels - 1) * error).mean())
    low, high = (stats.norm.ppf(level, calibrated.mean, calibrated.std) for level in (0.1, 0.9))
    outside = np.maximum(low - realised, 0) + np.maximum(realised - high, 0)
    assert_allclose(row["interval_score_80"], np.mean(high - low + 10 * outside))


def test_squares_are_scaled_and_compared_with_zero(calibrated, realised):
    square = (realised - calibrated.mean) ** 2
    scale = np.where(np.arange(len(DATES)) % 2, 0.0004, 0.0)
    row = score(calibrated, realised, square_scale=scale)
    assert_allclose(row["rmsse"], np.sqrt(np.mean(square[1::2]) / 0.0004))
    assert_allclose(row["r2_oos"], 1 - square.sum() / (realised**2).sum())
    assert score(calibrated, realised)["rmsse"] is None
    assert score(calibrated, np.zeros(len(DATES)))["r2_oos"] is None


def test_variance_is_scored_against_squared_returns():
    rng = np.random.default_rng(20)
    std = rng.uniform(0.01, 0.03, len(DATES))
    realised = rng.normal(0, std)
    right, wrong = (score(Gaussian(0 * std, s), realised) for s in (std, np.full(len(DATES), std.mean())))
    assert_allclose(right["qlike"], np.mean(2 * np.log(std) + (realised / std) ** 2))
    square = realised**2
    assert_allclose(right["r2_variance"], 1 - np.sum((square - std**2) ** 2) / np.sum((square - square.mean()) ** 2))
    assert right["qlike"] < wrong["qlike"]
    assert right["r2_variance"] > wrong["r2_variance"]
    assert score(Gaussian(0 * std, np.where(np.arange(len(DATES)) == 3, 0, std)), realised)["qlike"] is None


def test_one_number_has_no_interval_and_no_variance(realised):
    row = score(Samples(np.repeat(realised[:, None] / 2, 2, axis=1)), realised)
    names = ("coverage_80", "interval_score_80", "pit_ks", "pit_ks_p", "qlike", "r2_variance")
    assert [row[name] for name in names] == [None] * 6
    assert row["pinball"] > 0
    assert brief(Samples(np.repeat(realised[:, None] / 2, 2, axis=1)), realised)["coverage_80"] is None


def test_a_brief_score_says_what_the_whole_one_says(calibrated, realised):
    row = score(calibrated, realised)
    for name, value in brief(calibrated, realised).items():
        assert row[name] == value


def test_the_pit_is_tested_with_tickers_of_a_date_as_one():
    """A shock that all tickers share makes their PITs alike: the usual test rejects what is right, ours does not."""
    rng, rejected, usual = np.random.default_rng(21), 0, 0
    for trial in range(60):
        common = rng.standard_normal(NUM_DATES).repeat(NUM_TICKERS)
        pit = stats.norm.cdf(0.9 * common + np.sqrt(0.19) * rng.standard_normal(len(DATES)))
        rejected += metrics.pit_test(pit, DATES, horizon=1, seed=trial) < 0.1
        usual += stats.kstest(pit, "uniform").pvalue < 0.1
    assert rejected <= 14 < usual
    assert metrics.pit_test(rng.uniform(size=len(DATES)) ** 1.5, DATES, horizon=1) < 0.01
    assert metrics.pit_test(pit[:45], DATES[:45], horizon=1) is None


def test_the_pit_distance_is_that_of_kolmogorov_and_smirnov(calibrated, realised):
    expected = stats.kstest(calibrated.cdf(realised), "uniform").statistic
    assert_allclose(score(calibrated, realised)["pit_ks"], expected)


def test_wilson_interval_of_directions(calibrated, realised):
    row = score(calibrated, realised)
    n, share, z = row["direction_n"], row["direction_accuracy"], stats.norm.ppf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert_allclose(row["direction_wilson95"], [centre - half, centre + half])


def test_pesaran_timmermann_is_the_published_statistic_where_moves_are_independent():
    rng = np.random.default_rng(22)
    up = rng.random(4_000) < 0.6
    called = np.where(rng.random(4_000) < 0.04, up, rng.random(4_000) < 0.7)
    x, y, n = called.mean(), up.mean(), len(up)
    by_chance = x * y + (1 - x) * (1 - y)
    variance = by_chance * (1 - by_chance) / n - (
        (2 * y - 1) ** 2 * x * (1 - x) / n + (2 * x - 1) ** 2 * y * (1 - y) / n + 4 * x * y * (1 - x) * (1 - y) / n**2
    )
    published = stats.norm.sf((np.mean(called == up) - by_chance) / np.sqrt(variance))
    assert 0.001 < published < 0.2
    ours = metrics.pesaran_timmermann(called, up, np.arange(n), horizon=1)
    assert_allclose(stats.norm.isf(ours), stats.norm.isf(published), rtol=0.03)
    assert_allclose(metrics.pesaran_timmermann(~called, up, np.arange(n), horizon=1), 1 - ours)


def test_pesaran_timmermann_needs_both_calls_and_counts_a_date_once(realised):
    up = realised > 0
    assert metrics.pesaran_timmermann(np.ones(len(up)), up, DATES, horizon=1) is None
    assert metrics.pesaran_timmermann(up[:0], up[:0], DATES[:0], horizon=1) is None
    a, b = (np.random.default_rng(seed).random(60) < 0.5 for seed in (1, 2))
    once = metrics.pesaran_timmermann(a, b, np.arange(60), horizon=1)
    copied = metrics.pesaran_timmermann(a.repeat(9), b.repeat(9), np.arange(60).repeat(9), horizon=1)
    assert_allclose(copied, once)


def test_ic_is_the_mean_pearson_correlation_over_dates(calibrated, realised):
    shape = (NUM_DATES, NUM_TICKERS)
    per_date = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(calibrated.mean.reshape(shape), realised.reshape(shape), strict=True)
    ]
    row = score(calibrated, realised)
    assert_allclose(row["ic"], np.mean(per_date))
    assert_allclose(row["ic_t"], metrics.newey_west_t(np.array(per_date), horizon=1))
    same = Gaussian(np.repeat(np.random.default_rng(0).random(NUM_DATES), NUM_TICKERS), calibrated.std)
    assert score(same, realised)["ic"] is None


def test_outcomes_that_do_not_overlap_are_independent_whatever_the_horizon(calibrated, realised):
    row = score(calibrated, realised, horizon=20, stride=20)
    assert {**row, "horizon": 1} == score(calibrated, realised)
    assert score(calibrated, realised, horizon=20)["crps_ci95"] != row["crps_ci95"]


def test_ranks_across_tickers_need_ten_of_them(calibrated, realised):
    row = score(calibrated, realised)
    assert (row["rps"], row["rps_dates"]) == (None, 0)
    weeks = np.repeat(np.arange(NUM_DATES // 4), 4 * NUM_TICKERS)
    row = metrics.score(calibrated, realised, weeks, np.full(len(DATES), 0.015), 1)
    assert row["rps"] < 0.16
    assert row["rps_dates"] == NUM_DATES // 4


def test_skill_is_the_share_of_crps_saved(calibrated, random_walk, realised):
    model, baseline = score(calibrated, realised), score(random_walk, realised)
    assert_allclose(metrics.skill(model, baseline), 1 - model["crps"] / baseline["crps"])
    assert metrics.skill(model, baseline) > 0
    assert metrics.skill(model, {"crps": 0.0}) is None


def test_unusable_input_is_refused_with_a_remedy(random_walk, realised):
    with pytest.raises(ValueError, match="have \\[600, 599, 600, 600\\] entries"):
        score(random_walk, realised[1:])
    unknown = realised.copy()
    unknown[7] = np.nan
    with pytest.raises(ValueError, match="outcome 7 is not finite: score only origins whose outcome is known"):
        score(random_walk, unknown)
