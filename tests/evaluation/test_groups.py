"""groups.py: every forecast is in one group of each kind, means are those of the group, the crash is told apart."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from tsf_llm.evaluation.distributions import Gaussian
from tsf_llm.evaluation.groups import groups
from tsf_llm.evaluation.walk_forward import WalkForward

CALENDAR = pd.bdate_range("2019-10-01", "2020-12-31")
DAYS = CALENDAR.to_numpy()
N = 2 * len(DAYS)


@pytest.fixture
def walk():
    """Two tickers, one ten times as volatile; a model that knows both, and a baseline that is too wide."""
    rng = np.random.default_rng(0)
    ticker, origin = np.repeat(["AAA", "BBB"], len(DAYS)), np.tile(DAYS, 2)
    sigma = np.where(ticker == "AAA", 0.01, 0.1) * rng.uniform(0.5, 2, N)
    realised = rng.normal(0, sigma)
    models = {"model": Gaussian(np.zeros(N), sigma), "wide": Gaussian(np.zeros(N), 3 * sigma)}
    due = origin + np.timedelta64(1, "D")
    return WalkForward(ticker, origin, realised[:, None], np.ones((N, 1)), steps=[models], sigma=sigma, due=due)


def test_means_and_skill_are_those_of_the_group(walk):
    found = groups(walk)
    assert [*found] == ["ticker", "year", "volatility", "period"]
    for name in ("AAA", "BBB"):
        row, mine = found["ticker"][name], walk.ticker == name
        ours, theirs = (walk.crps(model)[mine].mean() for model in ("model", "wide"))
        assert_allclose([row["model"], row["wide"], row["skill"]["wide"]], [ours, theirs, 1 - ours / theirs])
        assert (row["n"], row["dates"]) == (len(DAYS), len(DAYS))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [*found["year"]] == ["2019", "2020"]
    assert found["year"]["2019"]["dates"] == (CALENDAR.year == 2019).sum()
    for table in found.values():
        assert sum(row["n"] for row in table.values()) == N
        assert_allclose(sum(row["n"] * row["model"] for row in table.values()), walk.crps().sum())


def test_each_ticker_is_in_each_third_of_its_own_volatility(walk):
    found = groups(walk)["volatility"]
    assert [*found] == ["low", "middle", "high"]
    assert max(row["n"] for row in found.values()) - min(row["n"] for row in found.values()) <= 2
    calm = replace(walk, sigma=np.where(walk.ticker == "AAA", walk.sigma, 0.1))  # one that never changes
    assert groups(calm)["volatility"]["middle"]["n"] > N / 2
    assert "volatility" not in groups(replace(walk, sigma=None))


def test_volatility_alone_decides_the_third_and_not_the_outcome(walk):
    other = replace(walk, realised=walk.realised[::-1], steps=[{"model": walk.steps[0]["model"]}])
    counts = [{name: row["n"] for name, row in groups(one)["volatility"].items()} for one in (walk, other)]
    assert counts[0] == counts[1]


def test_the_crash_takes_in_outcomes_that_fall_into_it(walk):
    found = groups(walk)["period"]
    assert [*found] == ["crash of 2020", "without the crash of 2020"]
    days = pd.bdate_range("2020-02-19", "2020-05-31")  # what is forecast on 19 February is due on the 20th
    assert found["crash of 2020"]["dates"] == len(days)


@pytest.mark.parametrize(("start", "end"), [("2019-10-01", "2020-02-14"), ("2020-03-01", "2020-05-29")])
def test_a_window_outside_or_inside_the_crash_is_not_divided(walk, start, end):
    mine = (walk.origin >= np.datetime64(start)) & (walk.origin <= np.datetime64(end))
    parts = {name: getattr(walk, name)[mine] for name in ("ticker", "origin", "realised", "scale", "sigma", "due")}
    model = walk.steps[0]["model"]
    part = WalkForward(**parts, steps=[{"model": Gaussian(model.mean[mine], model.std[mine])}])
    found = groups(part)
    assert [*found] == ["ticker", "year", "volatility"]
    assert found["ticker"]["AAA"]["skill"] == {}
