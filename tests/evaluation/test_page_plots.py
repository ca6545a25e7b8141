"""page_plots.py: what is drawn, and that nothing is drawn of nothing."""

import io

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.evaluation import page_plots


def names(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def drawn(figure):
    """Renders: a name that matplotlib takes for mathematics would fail here."""
    figure.savefig(io.BytesIO(), format="png")
    return figure


def test_nothing_is_drawn_of_nothing():
    assert page_plots.scores([], OHLCV) is None
    assert page_plots.coverage({"model": {}, "one_number": {"coverage_80": None}}) is None
    assert page_plots.pit(np.array([])) is None
    assert page_plots.cumulative(pd.Series(dtype=float), OHLCV) is None
    assert page_plots.skills({}) is None


@pytest.mark.parametrize("told", [{}, {"before": {"coverage_80": 0.7}}, {"after": {"coverage_80": 0.7}}])
def test_calibration_needs_both_sides(told):
    assert page_plots.calibration(told) is None


def test_rows_stand_from_the_best_to_the_worst():
    rows = [
        {"model": "worse", "crps": 0.03, "crps_ci95": [0.02, 0.04], "horizon": 1, "n": 9},
        {"model": "model", "crps": 0.02, "crps_ci95": None, "horizon": 1, "n": 9},
    ]
    assert names(drawn(page_plots.scores(rows, OHLCV))) == ["worse", "model"]  # from below


def test_coverage_leaves_out_rows_without_bands():
    rows = {"model": {"coverage_50": 0.4, "coverage_80": 0.7, "coverage_90": 0.9}, "number": {"coverage_80": None}}
    figure = drawn(page_plots.coverage(rows))
    assert names(figure) == ["model"]
    assert sorted(dots.get_offsets()[0][0] for dots in figure.axes[0].collections) == pytest.approx([40, 70, 90])


def test_the_running_sum_ends_at_the_sum():
    by_date = pd.Series([0.01, -0.03, 0.01], pd.bdate_range("2020-01-01", periods=3))
    line = drawn(page_plots.cumulative(by_date, OHLCV)).axes[0].lines[-1]
    np.testing.assert_allclose(line.get_ydata(), OHLCV.score_factor * np.array([0.01, -0.02, -0.01]))


def test_names_are_no_mathematics():
    figure = drawn(page_plots.skills({"$a_{": 1.0, "b^$": -1.0}))
    assert names(figure) == ["$a_{", "b^$"]


def test_many_groups_are_ordered_and_cut_in_the_middle():
    figure = drawn(page_plots.skills({f"T{i}": float(i) for i in range(100)}))
    assert names(figure) == [f"T{i}" for i in [*range(99, 74, -1), *range(24, -1, -1)]]


def test_calibration_shows_before_and_after():
    told = {"before": {"coverage_80": 0.7, "coverage_50": 0.4}, "after": {"coverage_80": 0.8, "coverage_50": 0.5}}
    figure = drawn(page_plots.calibration(told))
    assert names(figure) == ["50 % band", "80 % band"]
    assert [float(dots.get_offsets()[0][0]) for dots in figure.axes[0].collections] == pytest.approx([40, 50, 70, 80])
