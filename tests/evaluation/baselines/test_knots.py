import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.evaluation.baselines.knots import KNOTS, Outcomes, law, spread_knots, usable
from tsf_llm.feature_extraction_tsf_llm import EncodedSeries

DAY = np.timedelta64(1, "D")
START = np.datetime64("2020-01-01")


def series(close, sigma=0.5):
    close = np.asarray(close, float)
    return EncodedSeries(
        ticker="A",
        timestamp=START + np.arange(len(close)) * DAY,
        features=np.zeros((len(close), 1), np.float32),
        observed=np.isfinite(close),
        close=close,
        log_return=np.zeros(len(close)),
        sigma=np.full(len(close), sigma),
    )


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(0)
    pair = [series(rng.normal(size=size).cumsum()) for size in (400, 300)]
    return pair, Outcomes.of(pair, 5, UNIVARIATE)


def test_a_normal_law_is_exact_and_crossed_knots_are_put_in_order():
    made = law(2 * stats.norm.ppf(KNOTS)[None, ::-1], np.array([3.0]))
    assert_allclose(made.quantile([0.02, 0.5, 0.8])[0], 6 * stats.norm.ppf([0.02, 0.5, 0.8]), atol=1e-12)
    assert (np.diff(spread_knots(np.random.default_rng(0).normal(size=(20, len(KNOTS))))) >= 0).all()


def test_rows_whose_outcome_is_missing_are_no_rows():
    one = series([1, 2, np.nan, 4, 5])
    assert_array_equal(usable(one, 1), [0, 3])


def test_outcomes_are_in_units_of_the_origin(outcomes):
    pair, known = outcomes
    expected = [(one.close[5:] - one.close[:-5]) / (0.5 * np.sqrt(5)) for one in pair]
    assert_allclose(known.value, np.concatenate(expected))
    assert (known.known - known.made == 5 * DAY).all()


def test_what_is_trained_on_is_known_before_what_is_checked_on_is_made(outcomes):
    _, known = outcomes
    fence = START + 350 * DAY
    cut = known.cut(fence, 0.2, 100 * DAY)
    train, check = known.split(fence, cut, np.random.default_rng(0), 10_000)
    assert known.known[train].max() <= cut < known.made[check].min()
    assert known.known[check].max() == fence
    assert known.cut(fence, 0.2, 10 * DAY) == fence - 10 * DAY
    few, _ = known.split(fence, cut, np.random.default_rng(0), 120)
    assert len(few) == 120
    assert set(few) < set(train)
    assert (np.diff(few) > 0).all()


def test_a_function_of_rows_is_asked_of_each_series_with_its_own(outcomes):
    pair, known = outcomes
    positions = np.array([0, 7, 394, 395, 500])
    got = known.apply(pair, positions, lambda one, rows: one.timestamp[rows])
    assert_array_equal(got, known.made[positions])


def test_too_little_is_refused_with_a_remedy(outcomes):
    _, known = outcomes
    with pytest.raises(ValueError, match=r"no outcome is known by .*give earlier bars"):
        known.cut(START, 0.2)
    with pytest.raises(ValueError, match=r"\d and .* outcomes known"):
        known.split(START + 300 * DAY, START + 10 * DAY, np.random.default_rng(0), 10_000)
