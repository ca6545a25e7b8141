"""What is too narrow, too wide or shifted is mended on later dates; a row depends on no other; states are checked."""

import json
from statistics import NormalDist

import numpy as np
import pytest

from tsf_llm.calibration_tsf_llm import AdaptiveSpread, Calibration, check_state, fit, stored

LEVELS = np.arange(1, 100) / 100
NORMAL = np.array([NormalDist().inv_cdf(level) for level in LEVELS])


def world(seed, *, spread=1.0, shift=0.0, days=400, tickers=8):
    """Laws `[n,99,1]` whose width and place are wrong by these, outcomes `[n,1]` and days `[n]`."""
    rng = np.random.default_rng(seed)
    sigma = np.repeat(0.01 * np.exp(rng.normal(0, 0.3, days)), tickers)
    laws = sigma[:, None] * (shift + spread * NORMAL)
    outcomes = sigma * rng.standard_normal(days * tickers)
    return laws[..., None], outcomes[:, None], np.repeat(np.arange(days), tickers)


def coverage_80(laws, outcomes):
    return ((laws[:, 9] <= outcomes) & (outcomes <= laws[:, 89])).mean()


@pytest.mark.parametrize(("spread", "shift"), [(0.7, 0.0), (1.5, 0.0), (1.0, 0.4)])
def test_a_wrong_law_is_mended_on_later_dates(spread, shift):
    laws, outcomes, days = world(3, spread=spread, shift=shift)
    early, late = days < 200, days >= 200
    fitted = fit(laws[early], outcomes[early], days[early])
    assert abs(coverage_80(laws[late], outcomes[late]) - 0.8) > 0.03
    assert abs(coverage_80(fitted(laws[late]), outcomes[late]) - 0.8) < 0.03
    assert fitted.shift[0] == pytest.approx(-shift / NORMAL[89], abs=0.06)
    assert fitted.spread[0] == pytest.approx(1 / spread, rel=0.08)


def test_a_right_law_is_hardly_touched():
    fits = [fit(*world(seed)) for seed in range(10)]
    assert sum(one.changes_nothing for one in fits) >= 5
    assert all(abs(one.shift[0]) < 0.06 and abs(one.spread[0] - 1) < 0.06 for one in fits)


def test_a_row_depends_on_no_other_and_paths_keep_their_order():
    values = np.random.default_rng(0).normal(0, 0.02, (5, 40, 3)).cumsum(axis=2)
    calibrated = Calibration([0.1, -0.2], [1.3, 0.8])(values)
    for row in range(5):
        np.testing.assert_array_equal(Calibration([0.1, -0.2], [1.3, 0.8])(values[row : row + 1])[0], calibrated[row])
    np.testing.assert_array_equal(calibrated.argsort(axis=1), values.argsort(axis=1))
    np.testing.assert_array_equal(calibrated[..., 2], values[..., 2])  # no such step was fitted


def test_too_few_dates_are_refused():
    laws, outcomes, days = world(0, days=60)
    with pytest.raises(ValueError, match="60 dates, and a calibration needs 80"):
        fit(laws, outcomes, days, overlap=5)


KEPT = {"kept": True, "shift": [0.0], "spread": [1.1], "through": "2019-02-28"}


@pytest.mark.parametrize(
    "broken",
    [
        {},
        {"kept": 1},
        {"kept": False, "reason": 1},
        KEPT | {"shift": None},
        KEPT | {"shift": [True]},
        KEPT | {"spread": [float("nan")]},
        KEPT | {"spread": [0.0]},
        KEPT | {"spread": [1.0, 1.0]},
        KEPT | {"through": "soon"},
        KEPT | {"through": 5},
    ],
)
def test_a_state_that_no_fit_wrote_is_refused(broken):
    with pytest.raises(ValueError, match=r"^calibration: .*out of processor_config.json$"):
        check_state(broken)


def test_only_what_was_kept_is_used():
    check_state(KEPT)
    check_state({"kept": False, "reason": "no better on later dates"})
    assert stored(KEPT) == Calibration([0.0], [1.1])
    assert stored({"kept": False}) is None
    assert stored(None) is None


def test_the_adaptive_spread_covers_its_share_under_drift():
    rng, tracker, inside = np.random.default_rng(1), AdaptiveSpread(), []
    low, middle, high = ([value] * 5 for value in (NORMAL[9], 0.0, NORMAL[89]))
    for t in range(4000):
        outcome = 3 ** (t / 4000) * rng.standard_normal(5)
        ends = tracker.interval(low, middle, high)
        inside.append(((ends[0] <= outcome) & (outcome <= ends[1])).mean())
        tracker.update(low, middle, high, outcome)
    assert np.mean(inside) == pytest.approx(0.8, abs=0.01)
    assert np.mean(inside[-500:]) == pytest.approx(0.8, abs=0.03)
    assert AdaptiveSpread.from_dict(json.loads(json.dumps(tracker.to_dict()))) == tracker


def test_the_adaptive_spread_is_bounded_and_ignores_the_unknown():
    tracker = AdaptiveSpread(rate=1.0)
    before = tracker.update([-1.0], [0.0], [1.0], [np.nan])
    assert before == 1.0
    for _ in range(50):
        tracker.update([-1.0], [0.0], [1.0], [1e9])
    assert tracker.spread == 4.0


@pytest.mark.parametrize("broken", [{}, {"coverage": 0.8, "rate": 0.05, "spread": float("nan")}, None])
def test_an_adaptive_state_that_nobody_wrote_is_refused(broken):
    with pytest.raises(ValueError, match=r"adaptive spread|AdaptiveSpread"):
        AdaptiveSpread.from_dict(broken)
