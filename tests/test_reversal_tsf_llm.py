"""Values beside pandas: `test_indicators_tsf_llm.py`."""

import numpy as np
import pytest

from tsf_llm.panel_tsf_llm import Panel
from tsf_llm.reversal_tsf_llm import PIVOT, _held, _pivot


@pytest.fixture
def panel(make_bars, columns_of) -> Panel:
    return Panel([columns_of(make_bars(n, seed=n)) for n in (900, 500)])


@pytest.mark.parametrize("side", [1, -1])
def test_a_pivot_is_below_all_around_it_and_no_two_are_near(panel, side):
    extreme = panel.low if side > 0 else -panel.high
    found = np.argwhere(_pivot(panel, side))
    by_hand = [
        [row, ticker]
        for row in range(2 * PIVOT, 900)
        for ticker in range(2)
        if (around := extreme[row - 2 * PIVOT : row + 1, ticker]).argmin() == PIVOT and not np.isnan(around).any()
    ]
    assert found.tolist() == by_hand
    assert len(found) > 50
    for ticker in range(2):
        assert (np.diff(found[found[:, 1] == ticker, 0]) > PIVOT).all()


def test_points_stand_for_a_while(panel):
    row, ticker = np.argwhere(_pivot(panel, 1))[10]
    points = np.full(panel.shape, np.nan)
    points[row, ticker] = 2.5
    held = _held(panel, 1, points)[2 * PIVOT :]
    assert (held[row - 2 * PIVOT : row - PIVOT + 1, ticker] == 2.5).all()
    assert held.sum() == (PIVOT + 1) * 2.5
    assert not _held(panel, -1, points)[2 * PIVOT :].any()
