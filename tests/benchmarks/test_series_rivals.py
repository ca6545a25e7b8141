"""The specialists: parts that do not overlap in outcomes, windows that end at their origin, nothing read ahead."""

import dataclasses

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from tsf_llm.benchmarks.series_long import made_up
from tsf_llm.benchmarks.series_rivals import NETWORKS, Series, Sizes, Windows, auto_ets, network, seasonal_naive

SMALL = Sizes(length=48, stride=4, batch=64, rate=1e-3, epochs=1)


@pytest.fixture(scope="module")
def series():
    return made_up()


def test_the_parts_of_etth1_have_as_many_windows_as_everywhere():
    one = Series(np.arange(14400), np.zeros((14400, 1)), ("x",), (0,), (8640, 11520, 14400), 24)
    assert [len(one.origins(part, horizon=96, length=336)) for part in range(3)] == [8209, 2785, 2785]
    assert one.origins(2, horizon=96, length=336)[[0, -1]].tolist() == [11519, 14303]


def test_an_unknown_value_is_the_last_before_it_as_an_input_and_unknown_as_an_outcome():
    values = np.array([[np.nan], [1.0], [np.nan], [3.0], [2.0], [2.0]])
    one = Series(np.arange(6), values, ("x",), (0,), (6, 6, 6), 1)
    assert_allclose(one.known()[:, 0], np.array([0, -1, -1, 1, 0, 0]) * np.sqrt(2), atol=1e-12)
    windows = Windows(one, 2, dataclasses.replace(SMALL, length=2))
    assert_array_equal(windows.outcomes(torch.tensor([[1, 0]])).isnan()[0].numpy(), [True, False])


def test_a_window_ends_at_its_origin_and_begins_with_its_target(series):
    sizes = dataclasses.replace(SMALL, length=12, every=6, all_columns=True)
    windows = Windows(dataclasses.replace(series, targets=(1,)), 3, sizes)
    known = series.known()
    read = windows.inputs(torch.tensor([[20, 1]]))[0].numpy()
    assert_allclose(read, known[[14, 20]][:, [1, 0]], rtol=1e-6)
    assert_allclose(windows.outcomes(torch.tensor([[20, 1]]))[0], known[21:24, 1], rtol=1e-6)


@pytest.mark.parametrize("name", ["seasonal naive", "AutoETS", *NETWORKS])
def test_no_forecast_reads_past_its_origin_nor_a_fit_past_its_part(name, series):
    """Where the test dates are other ones, forecasts up to them are the same to the last bit."""
    rows = series.origins(2, horizon=4)[:1]
    later = series.values.copy()
    later[rows[0] + 1 :] = 99.0

    def predict(values):
        one = dataclasses.replace(series, values=values)
        if name in NETWORKS:
            return network(NETWORKS[name][0], one, 4, SMALL, 0)[0](rows, 1)
        return (seasonal_naive if name == "seasonal naive" else auto_ets)(one, 4)(rows, 1)

    answer = predict(series.values)
    assert_array_equal(answer, predict(later))
    assert answer.shape == (1, 4)
    assert np.isfinite(answer).all()


def test_a_network_depends_on_its_seed_alone(series):
    rows = series.origins(2, horizon=4)[:3]
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, again, other = (network(NETWORKS["PatchTST"][0], series, 4, SMALL, seed)[0](rows, 0) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).all()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seasonal_naive_repeats_the_last_season():
    values = np.arange(100.0)[:, None] % 7
    one = Series(np.arange(100), values, ("x",), (0,), (60, 80, 100), 7)
    assert_allclose(seasonal_naive(one, 20)(np.array([70]), 0)[0], one.standard()[0][71:91, 0])
