"""verdict.py: the scores are those of an evaluation, the dates are the last ones, and it says what is unknown."""

import json
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.sources import read_bars
from tsf_llm.evaluation.baselines.run import cache_folder
from tsf_llm.evaluation.evaluate import evaluate_model
from tsf_llm.serving.loading import load_pipeline
from tsf_llm.serving.verdict import own_verdict
from tsf_llm.train_scripts import sft


@pytest.fixture(scope="module")
def pipe(model):
    return load_pipeline(model)


@pytest.fixture(scope="module")
def bars():
    return read_bars("sample", ["AAPL"]).tail(900).reset_index(drop=True)


@pytest.fixture(scope="module")
def found(pipe, bars):
    return own_verdict(pipe, bars, horizon=5, most=20)


def test_the_scores_are_those_of_an_evaluation(pipe, bars, found, tmp_path):
    names = [row["model"] for row in found.rows[1:]]
    assert names == ["random_walk", "garch_t", "har_range"]
    period = {"start": found.start, "end": found.end, "horizon": 5}
    report = evaluate_model(pipe, bars, **period, baselines=names, out=tmp_path)
    for row in found.rows:
        same = {key: report.rows[row["model"]][key] for key in ("crps", "coverage_80")}
        assert {key: row[key] for key in same} == pytest.approx(same, rel=1e-12)
    assert report.headline in found.sentence
    assert found.strongest == report.strongest


def test_the_dates_are_the_last_whose_outcome_is_known(bars, found):
    times = bars["timestamp"].to_numpy()[:-5][::-1][::5][:20]
    assert (found.start, found.end) == (str(times[-1])[:10], str(times[0])[:10])
    assert (found.n, found.dates, found.horizon) == (20, 20, 5)


def test_it_goes_into_json_and_leaves_nothing_on_the_disk(pipe, bars, monkeypatch, tmp_path):
    monkeypatch.setenv("TSF_LLM_CACHE", str(tmp_path))
    json.dumps(asdict(own_verdict(pipe, bars.tail(400), horizon=1, most=12)), allow_nan=False)
    assert cache_folder().parent == tmp_path
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("through", "unseen", "words"),
    [
        ("2012-06-29", True, "has not seen these dates"),
        ("2013-02-25", False, "has seen these dates"),  # too few later ones
        (None, None, "does not say which dates"),
    ],
)
def test_says_whether_the_model_has_seen_the_dates(pipe, bars, monkeypatch, through, unseen, words):
    monkeypatch.setattr(pipe.model.config, "trained_through", through)
    found = own_verdict(pipe, bars, horizon=2)
    assert found.out_of_sample is unseen
    assert words in found.sentence
    if unseen:
        assert found.start > through


def test_no_later_bar_is_read(pipe, bars):
    as_of = bars["timestamp"].iloc[-101]
    later = bars.assign(close=np.where(bars["timestamp"] > as_of, bars["high"], bars["close"]))
    options = {"horizon": 3, "most": 12, "as_of": as_of}
    assert own_verdict(pipe, bars, **options) == own_verdict(pipe, later, **options)
    assert own_verdict(pipe, bars, **options) == own_verdict(pipe, bars.iloc[:-100], **{**options, "as_of": None})


def test_few_bars_are_called_few(pipe, bars):
    some = own_verdict(pipe, bars.tail(90), horizon=20)
    assert some.finding == "too few dates"
    assert "too few dates" in some.sentence
    assert "too few bars to compare with garch_t, har_range" in some.sentence
    none = own_verdict(pipe, bars.tail(40), horizon=20)
    assert (none.finding, none.n, none.rows) == ("too few dates", 0, [])
    assert "Too few dates to say" in none.sentence


@pytest.mark.parametrize("none", [{"horizon": 0}, {"horizon": 5, "most": 0}])
def test_no_step_and_no_date_are_refused(pipe, bars, none):
    with pytest.raises(ValueError, match="needs 1 or more of both"):
        own_verdict(pipe, bars, **none)


def test_strong_baselines_go_before_more_dates(pipe, bars):
    found = own_verdict(pipe, bars.tail(500), horizon=5)
    assert not found.failed
    assert {"garch_t", "har_range"} <= {row["model"] for row in found.rows}


def test_one_that_cannot_be_scored_is_named(pipe, bars):
    new = read_bars("sample", ["MSFT"]).tail(25)
    found = own_verdict(pipe, pd.concat([bars, new]), horizon=5, most=12)
    assert [*found.skipped] == ["MSFT"]
    assert found.n == 12


def test_plain_series_have_their_own_baselines(loads, small_model, command_line, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    words = {"output_dir": folder, "data": loads, "value_column": "OT", "model_config": small_model, "n_bins": 32}
    words |= {"num_train_epochs": 1, "context_length": 32, "horizon": 4, "report_samples": 0, "disable_tqdm": True}
    sft.main(*sft.parse(command_line(**words)))
    table = pd.read_csv(loads)
    series = pd.DataFrame({"timestamp": pd.to_datetime(table["date"]), "series_id": "OT", "value": table["OT"]})
    found = own_verdict(load_pipeline(folder), series, horizon=4, most=12)
    assert {row["model"] for row in found.rows} >= {"model", "random_walk", "seasonal_naive"}
    assert "har_range" not in found.sentence
