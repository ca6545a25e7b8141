"""Levels on hand-made paths, exact; and the reflection principle against walks of small steps."""

import numpy as np
import pytest

from tsf_llm.emission_tsf_llm import BarPaths
from tsf_llm.evaluation.barriers import NEITHER, STOP, TARGET, first_of, max_drawdown, touched, walk_touches


def paths(*rows, last_close=100.0):
    """One forecast; each path is a list of bars (open, high, low, close)."""
    bars = np.array(rows, dtype=float)[None]
    columns = np.moveaxis(bars, -1, 0)
    return BarPaths(*columns, np.zeros(columns[0].shape), np.array([last_close]))


RISES = [(100, 104, 99, 103), (103, 108, 102, 107)]
FALLS = [(100, 101, 96, 97), (97, 98, 92, 93)]
BOTH = [(100, 106, 94, 101), (101, 102, 100, 101)]
JUMPS = [(100, 101, 99, 100), (107, 109, 106, 108)]


def test_touched():
    bars = paths(RISES, FALLS, BOTH, JUMPS)
    assert touched(bars, 105).tolist() == [[True, False, True, False]]  # the last one jumps over it
    assert touched(bars, 109).tolist() == [[False, False, False, True]]
    assert touched(bars, 92).tolist() == [[False, True, False, False]]
    assert touched(bars, 100).all()


def test_each_forecast_may_have_its_own_level():
    one, other = paths(RISES), paths(FALLS)
    names = ("open", "high", "low", "close", "volume", "last_close")
    both = BarPaths(*(np.concatenate((getattr(one, name), getattr(other, name))) for name in names))
    assert touched(both, np.array([108.0, 108.0])).tolist() == [[True], [False]]


def test_stop_and_target():
    bars = paths(RISES, FALLS, BOTH, JUMPS)
    assert first_of(bars, stop=95, target=105).tolist() == [[TARGET, STOP, STOP, TARGET]]  # passed is reached
    assert first_of(bars, stop=105, target=95).tolist() == [[STOP, TARGET, STOP, STOP]]  # of a short position
    assert first_of(bars, stop=90, target=120).tolist() == [[NEITHER] * 4]
    assert first_of(bars, stop=94, target=108).tolist() == [[TARGET, STOP, STOP, TARGET]]
    for stop, target in ((101, 105), (90, 95), (100, 105)):
        with pytest.raises(ValueError, match="do not enclose the last close, 100: move one"):
            first_of(bars, stop=stop, target=target)


def test_max_drawdown():
    wanted = [
        1 - 102 / 104,  # from the first high to the second low; within a bar only high to close is certain
        1 - 92 / 101,
        max(1 - 94 / 100, 1 - 100 / 106),
        1 - 99 / 100,
    ]
    np.testing.assert_allclose(max_drawdown(paths(RISES, FALLS, BOTH, JUMPS))[0], wanted)
    assert max_drawdown(paths([(100, 110, 100, 102)])) == pytest.approx(1 - 102 / 110)  # it closes after its high
    assert max_drawdown(paths([(120, 120, 90, 119)])) == pytest.approx(1 - 90 / 120)  # it opens before its low
    assert max_drawdown(paths([(101, 105, 101, 105), (106, 108, 106, 108)])) == 0


def test_the_reflection_principle_is_that_of_a_walk_of_small_steps():
    rng = np.random.default_rng(0)
    steps = rng.normal(0, 1 / np.sqrt(2000), (4000, 2000)).astype(np.float32)
    highest = np.maximum.accumulate(steps.cumsum(axis=1), axis=1)[:, -1]
    for distance in (0.3, 1.0, 1.7):
        assert walk_touches(np.array([distance]), np.array([1.0])) == pytest.approx(
            (highest >= distance).mean(), abs=0.03
        )
