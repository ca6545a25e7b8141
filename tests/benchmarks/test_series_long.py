"""ETTh1 and the weather: files as they are published, scores as they are defined."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from tsf_llm.benchmarks import series_long
from tsf_llm.benchmarks.series_rivals import seasonal_naive

HORIZON = 6


@pytest.fixture(scope="module")
def series():
    return series_long.made_up()


def test_scores_are_those_of_their_definitions(series):
    """Beside the plain formulas over all outcomes at once."""
    points = np.random.default_rng(1).standard_normal((2, len(series.origins(2, horizon=HORIZON)), HORIZON))
    spread = np.linspace(-1, 1, 9)
    laws = [(one, one[..., None] + spread) for one in points]
    found = series_long.scores(series, HORIZON, lambda rows, column: laws[column])
    z, mean, deviation = series.standard()
    at = series.origins(2, horizon=HORIZON)[:, None] + np.arange(1, HORIZON + 1)
    outcome = np.moveaxis(z[at], 2, 0)
    raw = outcome * deviation[:, None, None] + mean[:, None, None]
    error = outcome - points
    below = (error[..., None] - spread) * deviation[:, None, None, None]
    pinball = np.where(below > 0, series_long.LEVELS, series_long.LEVELS - 1) * below
    train = series.values[:600]
    naive = np.abs(train[24:] - train[:-24]).mean(axis=0)
    expected = {
        "mse": (error**2).mean(),
        "mae": np.abs(error).mean(),
        "crps": 2 * pinball.mean() / np.abs(raw).mean(),
        "mase": np.mean([np.abs(error[c]).mean() * deviation[c] / naive[c] for c in range(2)]),
    }
    for name, value in expected.items():
        assert_allclose(np.mean(found[name]), value, err_msg=name)


def test_an_unknown_outcome_is_left_out(series):
    values = series.values.copy()
    values[900] = np.nan
    one = type(series)(series.times, values, series.names, series.targets, series.ends, series.season)
    law = series_long.with_errors(one, HORIZON, seasonal_naive(one, HORIZON))
    assert all(np.isfinite(losses).all() for losses in series_long.scores(one, HORIZON, law).values())
    alone = series_long.scores(one, 1, series_long.with_errors(one, 1, seasonal_naive(one, 1)))
    assert len(alone["mse"]) == 198  # of 200: neither its own outcome nor an origin


def test_the_law_of_a_model_of_points_is_its_errors_in_validation(series):
    """Errors that are the same at every origin leave a law of one point: the outcome itself."""
    z = series.standard()[0]
    law = series_long.with_errors(series, 2, lambda rows, column: z[rows[:, None] + [1, 2], column] - 0.5)
    rows = series.origins(2, horizon=2)
    points, quantiles = law(rows, 1)
    assert_allclose(points + 0.5, z[rows[:, None] + [1, 2], 1])
    assert_allclose(quantiles, np.repeat((points + 0.5)[..., None], 9, axis=2))


def test_etth1_is_read_as_published(tmp_path):
    times = pd.date_range("2016-07-01", periods=14500, freq="h")
    columns = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
    frame = pd.DataFrame(np.arange(14500 * 7.0).reshape(-1, 7), columns=columns)
    frame.insert(0, "date", times)
    frame.to_csv(tmp_path / "ETTh1.csv", index=False)
    one = series_long.read_etth1(tmp_path / "ETTh1.csv")
    assert one.values.shape == (14400, 7)
    assert one.names == tuple(columns)
    frame.iloc[:100].to_csv(tmp_path / "ETTh1.csv", index=False)
    with pytest.raises(ValueError, match="is not ETTh1: it has 100 rows"):
        series_long.read_etth1(tmp_path / "ETTh1.csv")


def test_the_weather_has_a_row_every_ten_minutes_and_no_sentinel(tmp_path):
    times = (
        pd.date_range("2020-01-01", periods=400, freq="10min")
        .delete(slice(100, 109))
        .append(pd.DatetimeIndex(["2020-01-02"]))
    )
    names = [series_long.TARGET, *series_long.BESIDE]
    frame = pd.DataFrame({name: np.arange(float(len(times))) for name in names}).assign(date=times)
    frame.loc[7, series_long.BESIDE[-1]] = series_long.SENTINEL
    frame.to_parquet(tmp_path / series_long.WEATHER_FILE)
    one = series_long.read_weather(tmp_path / series_long.WEATHER_FILE)
    assert one.values.shape == (400, 7)
    assert np.isnan(one.values[:, 0]).sum() == 9
    assert np.isnan(one.values[7, -1])
    assert one.ends == (280, 360, 400)
    frame.drop(columns=series_long.TARGET).to_parquet(tmp_path / series_long.WEATHER_FILE)
    with pytest.raises(ValueError, match="no column T"):
        series_long.read_weather(tmp_path / series_long.WEATHER_FILE)
