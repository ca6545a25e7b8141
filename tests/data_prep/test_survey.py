"""survey.py: facts of made-up files against what was planted, and horizons by step and length."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.survey import choose_horizon, lines, other_numbers, survey, usable


def series(values, freq="D", name="a", start="2020-01-01"):
    times = pd.date_range(start, periods=len(values), freq=freq)
    return pd.DataFrame({"timestamp": times, "series_id": name, "value": np.asarray(values, dtype=float)})


def waves(rows, season, noise=0.1):
    return np.sin(2 * np.pi * np.arange(rows) / season) + np.random.default_rng(0).normal(0, noise, rows)


def test_what_was_planted_is_told():
    gap = np.where((np.arange(400) >= 50) & (np.arange(400) < 90), np.nan, np.arange(400) % 7)
    parts = [
        series(gap, name="a"),
        series(np.full(400, 3.0), name="constant"),
        series(np.arange(200) % 7, name="dead"),
        series([1.0, 2.0, 0.0], name="new", start="2021-01-30"),
        series(np.arange(60) % 5, freq="W", name="weekly"),
    ]
    found = survey(pd.concat(parts, ignore_index=True), ["price"])
    assert (found.rows, found.series, found.lengths) == (1063, 5, (3, 200, 400))
    assert (found.step, found.seconds) == ("1 day", 86400.0)
    assert (found.constant, found.begun, found.ended, found.short, found.other_steps) == (1, 1, 1, 1, 1)
    assert (found.integer, found.nonnegative, found.longest_unknown) == (True, True, 40)
    assert found.unknown == pytest.approx(40 / 1063)
    values = pd.concat(parts)["value"].dropna()
    assert found.zeros == pytest.approx((values == 0).mean())
    assert found.covariates == ["price"]
    facts = found.facts()
    assert facts["series"] == (
        "1 of one value, 1 begun long after the others, 1 ended long before the others, 1 with fewer than 21 values, "
        "1 of another step"
    )
    assert "40 in a row at most" in facts["gaps"]
    assert len(lines(facts)) == len(facts)


@pytest.mark.parametrize(
    ("freq", "season", "words"),
    [("D", 7, "a week"), ("h", 24, "a day"), ("h", 168, "a week"), ("10min", 144, "a day"), ("MS", 12, "a year")],
)
def test_seasons_are_told_where_they_are(freq, season, words):
    found = survey(series(waves(6 * season if season > 20 else 200, season), freq))
    assert {"rows": season, "words": words} in [{k: one[k] for k in ("rows", "words")} for one in found.seasons]


def test_a_walk_has_no_season():
    walk = np.random.default_rng(1).normal(size=3000).cumsum()
    assert survey(series(walk, "h")).seasons == []
    assert survey(series(walk)).seasons == []


@pytest.mark.parametrize(
    ("freq", "rows", "horizon"),
    [
        ("D", 900, 28),
        ("D", 120, 10),
        ("h", 2000, 24),
        ("10min", 5000, 72),
        ("MS", 144, 12),
        ("W", 300, 13),
        ("YE", 60, 4),
        ("D", 5, 1),
    ],
)
def test_a_horizon_by_step_and_length(freq, rows, horizon):
    assert choose_horizon(survey(series(waves(rows, 7), freq))) == horizon


def test_columns_that_could_be_covariates(tmp_path):
    frame = series(waves(50, 7)).rename(columns={"series_id": "item", "value": "units"})
    frame = frame.assign(price=1.5, label="x", store=1)
    frame.to_csv(tmp_path / "a.csv", index=False)
    assert other_numbers(tmp_path / "a.csv", Columns(value="units", id="item")) == ["price", "store"]
    assert other_numbers(tmp_path / "a.csv", Columns(value="units", id="store,item")) == ["price"]
    assert other_numbers(tmp_path / "a.csv", Columns(value="price", id="item"), ["store"]) == ["units", "store"]


def test_no_value_at_all():
    with pytest.raises(ValueError, match="no value of these series is known"):
        survey(series([np.nan] * 30))


def test_series_that_no_command_can_use_are_left_out():
    parts = {name: series(waves(50, 7), name=name) for name in ("good", "endless", "huge", "twice", "empty")}
    parts["endless"].loc[5, "value"] = np.inf
    parts["huge"]["value"] *= 1e200
    parts["twice"].loc[5, "timestamp"] = parts["twice"].loc[4, "timestamp"]
    parts["empty"]["value"] = np.nan
    frame = pd.concat(parts.values(), ignore_index=True)
    left = usable(frame)
    assert [*left["series_id"].unique()] == ["good", "empty"]
    said = {name: why.split(": ", 1)[1].split(";")[0] for name, why in left.attrs["skipped"].items()}
    beyond = "value beyond 1e+150, whose square no number holds"
    assert said == {"endless": "infinite value", "huge": beyond, "twice": "timestamp is repeated"}
    assert survey(left).series == 2
    assert usable(parts["good"]) is parts["good"]
    with pytest.raises(ValueError, match="infinite value"):
        usable(frame, strict=True)
    with pytest.raises(ValueError, match="timestamp is repeated; keep one bar"):
        usable(parts["twice"])
