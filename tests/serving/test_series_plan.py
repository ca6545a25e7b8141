"""series_plan.py: plans by what a file is, their bounds, and files that allow none."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import UNIVARIATE
from tsf_llm.data_prep.survey import survey
from tsf_llm.serving import series_plan
from tsf_llm.serving.series_plan import first_series, part_of, plan_series


def panel(series=1, rows=600, values=None, freq="D"):
    times = pd.date_range("2020-01-01", periods=rows, freq=freq)
    names = [f"s{number:03d}" for number in range(series)]
    values = np.tile(np.arange(rows) % 7 + 1.5, series) if values is None else np.tile(values, series)
    return pd.DataFrame({"timestamp": np.tile(times, series), "series_id": np.repeat(names, rows), "value": values})


def plan(bars, horizon=None, head="quantile"):
    return plan_series(bars, survey(bars), "s000", horizon=horizon, head=head)


def test_settings_follow_from_the_values():
    sales = np.random.default_rng(0).poisson(0.5, 600).astype(float)
    found = plan(panel(values=sales))
    assert (found.horizon, found.config, found.zeros) == (28, "quickstart_series.yaml", True)
    assert found.options["nonnegative"]
    assert found.options["integer"]
    assert found.options["model_config"]["zero_inflated"] is True
    assert "tsb" in found.baselines(UNIVARIATE, 7)
    found = plan(panel(values=sales + 18.5))  # of summer: no value below zero, and no floor
    assert not found.options["nonnegative"]
    assert not found.options["integer"]
    assert found.options["model_config"]["zero_inflated"] is False
    assert "tsb" not in found.baselines(UNIVARIATE, 7)
    assert plan(panel(), head="causal_lm").config == "quickstart.yaml"
    assert plan(panel(), horizon=5).horizon == 5


def test_what_comes_after_training_chooses_no_setting():
    """Seasons and zeros of later rows; that values are whole and never below zero is a fact of the file."""
    sales = np.arange(600) % 7 + np.random.default_rng(0).poisson(0.5, 600) * 1.0
    later = sales.copy()
    later[-120:] = np.where(np.arange(120) % 28, 0.0, 30.0)
    sales[0] = later[0] = 0.0
    one, other = plan(panel(values=sales)), plan(panel(values=later))
    assert one.options == other.options
    assert one.zeros is other.zeros


def test_parts_are_learned_validated_and_tested_on():
    for rows, freq in ((40, "MS"), (60, "YE"), (144, "MS"), (300, "W"), (900, "D"), (5000, "h")):
        bars = panel(rows=rows, freq=freq)
        found = plan(bars)
        times = bars["timestamp"]
        train, valid = (pd.Timestamp(found.options[name]) for name in ("train_through", "valid_through"))
        assert (times <= train).sum() >= 21 + 2 * found.horizon
        assert ((times > train) & (times <= valid)).sum() >= 2 * found.horizon
        assert (times > valid).sum() >= found.horizon
        assert found.options["context_length"] % found.options["model_config"]["patch_length"] == 0


def test_a_file_that_is_too_short_or_never_changes():
    with pytest.raises(ValueError, match="12 rows are too few to learn 1 step"):
        plan(panel(rows=12))
    with pytest.raises(ValueError, match=r"600 rows are too few to learn 300 step.* or a shorter --horizon"):
        plan(panel(), horizon=300)
    with pytest.raises(ValueError, match="no series changes its value"):
        plan(panel(values=np.full(600, 7.0)))


def test_bounds_of_much_data(monkeypatch):
    monkeypatch.setattr(series_plan, "MOST_ROWS", 1000)
    monkeypatch.setattr(series_plan, "ROWS_OF_ONE", 100)
    part = part_of(panel(50, 200), "s020")
    assert part.groupby("series_id").size().eq(100).all()
    assert part["timestamp"].min() == panel(1, 200)["timestamp"][100]  # the last rows
    names = part["series_id"].unique().tolist()
    assert len(names) == 10
    assert "s020" in names
    assert names[0] == "s000"
    assert names[-1] == "s049"  # evenly over the file
    assert part_of(panel(50, 200), "s020", 3)["series_id"].nunique() == 3
    monkeypatch.undo()
    many = plan(panel(200, 400))
    assert many.scored < 40
    assert "garch_t" not in many.baselines(UNIVARIATE, 7)


def test_a_file_of_two_steps_is_planned_by_that_of_most():
    hours = panel(1, 300, freq="h").assign(series_id="hours")
    bars = pd.concat([hours, panel(2)], ignore_index=True)
    assert first_series(bars) == "s000"
    assert plan(bars).options == plan(panel(2)).options
    with pytest.raises(ValueError, match="hours: its rows come at another step than those of most"):
        plan_series(bars, survey(bars), "hours", horizon=None, head="quantile")


def test_the_series_that_is_drawn_goes_on():
    bars = panel(3)
    dead = bars[(bars["series_id"] != "s000") | (bars["timestamp"] < "2020-03-01")]
    assert first_series(dead) == "s001"
    still = dead.assign(value=dead["value"].where(dead["series_id"] != "s001", 1.0))
    assert first_series(still) == "s002"


def test_none_is_drawn_where_no_value_is_known():
    with pytest.raises(ValueError, match="no value of these series is known"):
        first_series(panel(2).assign(value=np.nan))


def test_few_windows_are_seen_often_and_validated_now_and_then():
    """144 months have 52 windows: an epoch of four steps says nothing, and 60 of them too little."""
    few, many = (plan(panel(rows=rows, freq=freq)).options for rows, freq in ((144, "MS"), (5000, "h")))
    assert few["num_train_epochs"] == 300
    assert [few[f"{what}_strategy"] for what in ("eval", "save")] == ["steps", "steps"]
    assert few["eval_steps"] == few["save_steps"] == 40
    assert few["early_stopping_patience"] == 10
    assert many["num_train_epochs"] < 60
    assert "eval_strategy" not in many
