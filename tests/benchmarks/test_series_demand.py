"""Demand: days of a shop as the rules say, totals, the same question for all models, and what orders cost."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import series_demand
from tsf_llm.benchmarks.series_demand import Asked, Shop, found, made_up, read_online, read_retail, with_totals
from tsf_llm.benchmarks.series_frame import Context
from tsf_llm.evaluation.distributions import Samples, Scored

HORIZON = 7


@pytest.fixture(scope="module")
def shop():
    frame = made_up(whole=0.5)
    return Shop(frame, "2020-10-31", "2020-12-15", 7, frame["series_id"].unique().tolist(), {})


@pytest.fixture(scope="module")
def asked(shop):
    return Asked.of(shop, HORIZON)


def test_closed_days_are_no_rows_and_returns_no_demand(tmp_path):
    days = pd.date_range("2011-01-03", periods=6)
    rows = [("a", days[0], 5.0, 2), ("a", days[3], 4.0, 1), ("a", days[4], -9.0, -3)]
    rows += [("b", days[1], 1.0, 1), ("b", days[3], 2.0, 2)]
    frame = pd.DataFrame(rows, columns=["series_id", "date", "revenue", "units"])
    frame.to_parquet(tmp_path / "days.parquet")
    read = read_online(tmp_path / "days.parquet", "units")
    a, b = (read[read["series_id"] == name].set_index("timestamp")["value"] for name in "ab")
    assert a.to_dict() == {days[0]: 2, days[1]: 0, days[3]: 1, days[4]: 0}  # closed on the third and the sixth
    assert b.to_dict() == {days[1]: 1, days[3]: 2, days[4]: 0}  # not on sale on the first
    frame.drop(columns="units").to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is not the days of the online shop: it has no column units"):
        read_online(tmp_path / "other.parquet", "units")


def test_totals_are_series_of_their_own(tmp_path):
    frame = made_up(whole=1.0)
    everything, hierarchy = with_totals(frame)
    assert everything["series_id"].unique().tolist() == hierarchy.names
    values = everything.pivot(index="timestamp", columns="series_id", values="value")[hierarchy.names].to_numpy().T
    assert hierarchy.incoherence(values.astype(float)) == 0
    labels = everything.groupby("series_id")[["store", "item"]].first()
    assert labels.loc["total"].tolist() == ["all", "all"]
    assert labels.loc["s1"].tolist() == ["s1", "all"]
    frame.drop(columns="store").to_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="is not the sales of stores and items: it has no column date"):
        read_retail(tmp_path / "other.parquet")


def test_a_test_of_earlier_years_reads_no_later_day(tmp_path, monkeypatch):
    frame = made_up(whole=1.0).rename(columns={"timestamp": "date", "value": "sales"})
    frame["date"] += pd.Timestamp("2016-06-01") - frame["date"].min()
    frame.to_parquet(tmp_path / series_demand.RETAIL_FILE)
    shops = {}
    monkeypatch.setattr(series_demand, "compared", lambda _, shop, horizon, task: shops.update({task: shop}) or [])
    context = Context("retail", tmp_path, tmp_path, (0,), False, None, print)
    assert list(series_demand.run_retail(context)) == []
    last = {task: shop.frame["timestamp"].max() for task, shop in shops.items()}
    assert list(last.values()) == [frame["date"].max(), pd.Timestamp("2016-12-31")]
    for task, (*fences, _) in series_demand.RETAIL_TESTS.items():
        assert [shops[task].train_through, shops[task].valid_through] == fences


def test_all_models_are_asked_the_same_and_no_later_value_is_known(shop, asked):
    assert asked.dates.min() >= np.datetime64(shop.test)
    assert len(np.unique(asked.dates)) * len(shop.scored) == len(asked.dates)
    gaps = np.diff(np.unique(asked.dates)).astype("timedelta64[D]").astype(int)
    assert (gaps == series_demand.STRIDE).all()
    first = asked.dates == asked.dates.min()
    later = shop.frame.copy()
    later.loc[later["timestamp"] > asked.dates.min(), "value"] += 50
    other = Asked.of(Shop(later, *("2020-10-31", "2020-12-15"), 7, shop.scored, {}), HORIZON)
    for name in vars(asked.demand):
        ours, theirs = (getattr(one.demand, name)[first] for one in (asked, other))
        np.testing.assert_array_equal(ours, theirs)
    assert (other.outcome[first] > asked.outcome[first]).all()


def test_scores_are_means_over_origins_and_orders_cost_what_they_miss(asked):
    rng = np.random.default_rng(0)
    unit, value = asked.demand.unit, asked.demand.value
    came = asked.outcome * unit[:, None] + value[:, None]
    steps = []
    for p in range(HORIZON):
        centre = came[:, [p]] + rng.normal(0, 2, (len(unit), 1))
        law = Samples((centre + rng.normal(0, 2, (len(unit), 99)) - value[:, None]) / unit[:, None])
        steps.append(Scored.of(law, asked.outcome[:, p]))
    told = found(steps, asked)
    assert told.overlap == 1
    assert len(told.losses["wrmsse"]) == len(np.unique(asked.dates))
    assert np.mean(told.losses["wrmsse"]) == pytest.approx(told.scores["wrmsse"])
    assert np.mean(told.losses["wql"]) == pytest.approx(told.scores["wql"])
    assert 0 < told.extra["zeros"] < 1
    one = told.extra["newsvendor"]["9 to 1"]
    order = np.stack([np.maximum(np.ceil(s.quantiles[:, 89] * unit + value - 1e-9), 0) for s in steps], axis=1)
    missing = came - order
    assert one["law"] == pytest.approx(np.where(missing > 0, 9 * missing, -missing).sum() / came.sum())
    assert one["law"] < one["mean"]
    assert one["served"] == pytest.approx(np.minimum(order, came).sum() / came.sum())


def test_a_baseline_that_fails_says_why(asked, monkeypatch):
    from tsf_llm.evaluation.baselines import lagged_boosting

    monkeypatch.setattr(lagged_boosting, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"lightgbm_lags: .*lightgbm is not installed"):
        series_demand.baseline(asked, "lightgbm_lags")
    assert series_demand.baseline(asked, "tsb").scores["wrmsse"] > 0
