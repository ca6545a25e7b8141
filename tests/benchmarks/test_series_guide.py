"""The guide's list: what is known of a new store, and that a store's rows come from its own folder."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import series_guide as guide
from tsf_llm.benchmarks.series_frame import Context, Found, Row
from tsf_llm.evaluation.demand import Demand
from tsf_llm.evaluation.walk_forward import WalkForward


@pytest.fixture
def store(tmp_path):
    context = Context("guide", tmp_path, None, (0,), quick=True, models=None, say=print)
    return guide.Store(context, guide.QUICK)


def test_nothing_of_a_new_store_is_older_than_its_history(store):
    others, own = (pd.read_parquet(store.data(history).data) for history in (None, 60))
    assert not {*others["series_id"]} & {*own["series_id"]}
    assert own["series_id"].str.startswith(f"s{guide.NEW_STORE}_").all()
    fence = pd.Timestamp(guide.QUICK.train_through)
    assert own["timestamp"].min() == fence - pd.Timedelta(59, "D")
    assert own["timestamp"].max() == others["timestamp"].max()
    assert "store" not in others  # the new one could not be known by it


def test_losses_are_means_of_a_date_and_scores_of_all():
    class Steps:
        def __init__(self, point):
            self.point = point

        def quantile(self, levels):
            return self.point[:, None] + np.zeros(len(levels))

    dates = np.array(["2020-01-01", "2020-01-02"] * 2, "datetime64[ns]")
    ones = np.ones(4)
    demand = Demand(value=10 * ones, unit=ones, square=ones, sold=ones, whole=ones > 0)
    result = WalkForward(
        ticker=np.array(["a", "a", "b", "b"]),
        origin=dates,
        realised=np.array([[0.0], [1.0], [0.0], [3.0]]),
        scale=ones[:, None],
        stride=7,
        square_scale=ones,
        sigma=ones,
        due=dates,
        demand=demand,
    )
    result.steps.append({"model": Steps(np.zeros(4))})
    found = guide.found(result)
    assert found.losses["wql"][0] == 0
    assert found.losses["wql"][1] > 0
    assert np.mean(found.losses["wql"]) == pytest.approx(found.scores["wql"])
    assert np.mean(found.losses["wrmsse"]) == pytest.approx(found.scores["wrmsse"])
    assert found.scores["bias"] < 0


def test_what_a_model_rests_on_is_told_in_tables():
    groups = [{"name": "past values", "percent": 12.34, "percent_ci95": [10.0, 15.0]}]
    past = [{"first": 1, "last": 2, "percent": 3.0, "percent_ci95": None, "attention": 0.5}]
    extra = {"groups": groups, "past_bars": past, "windows": 8, "dates": 4, "horizon": 28}
    row = Row("guide", guide.ORIGINAL, "smaller copies", 0, 1.0, Found(extra=extra), {}, {})
    told = guide.rests_on([row])
    assert "| past values | +12.3 % [+10.0, +15.0] |" in told
    assert "| 1 to 2 | +3.0 % | 25.00% |" in told
    assert guide.rests_on([]) == ""
