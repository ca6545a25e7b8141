"""Our model in `series`: trained by `sft`'s own way, its law at every origin, and nothing read behind it."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.benchmarks.series_long import made_up
from tsf_llm.benchmarks.series_ours import LEVELS, QUICK, at_levels, ours


@pytest.fixture(scope="module")
def series():
    return made_up()


@pytest.fixture(scope="module")
def law(series):
    return ours(series, 4, 0, **QUICK)


def test_it_answers_for_every_origin_with_quantiles_that_increase(series, law):
    law, parameters, note = law
    rows = series.origins(2, horizon=4)
    points, quantiles = law(rows, 1)
    assert points.shape == (len(rows), 4)
    assert quantiles.shape == (len(rows), 4, 9)
    assert (np.diff(quantiles) >= 0).all()
    assert ((quantiles[..., 0] <= points) & (points <= quantiles[..., -1])).mean() > 0.99
    assert parameters > 0
    assert "ended by the end of its schedule" in note


def test_no_value_of_the_test_part_changes_a_forecast_before_it(series, law):
    rows = series.origins(2, horizon=4)[:20]
    values = series.values.copy()
    values[rows[10] + 1 :] += 50
    other = ours(dataclasses.replace(series, values=values), 4, 0, **QUICK)[0]
    for mine, theirs in zip(law[0](rows, 0), other(rows, 0), strict=True):
        assert_array_equal(mine[:11], theirs[:11])
        assert (mine[11:] != theirs[11:]).any()


def test_levels_are_those_of_the_law():
    own = np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    assert_allclose(at_levels(own[None, None], own)[0, 0], LEVELS)
