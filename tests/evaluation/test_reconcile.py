"""A track record, read and scored: what is written, and what a changed record is worth."""

import json
import sqlite3

import pytest

from tsf_llm.bars_tsf_llm import OHLCV
from tsf_llm.evaluation.reconcile import reconcile


def run(path, bars, out, kind=OHLCV, **options):
    return reconcile(path, bars, kind=kind, out=out, **options)


def test_a_record_that_was_written_anew_is_told_by_its_head(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-30:-20], horizon=1)
    head = run(path, bars, tmp_path / "out")["head"]
    log_forecasts(bars, times[-20:-15], horizon=1)
    assert run(path, bars, tmp_path / "out", noted=head)["sound"]
    path.unlink()
    log_forecasts(bars, times[-30:-15], horizon=1, width=0.001)
    found = run(path, bars, tmp_path / "out", noted=head)
    assert (found["sound"], found["counts"]["scored"], found["models"]) == (False, 0, [])
    assert "written anew" in (tmp_path / "out" / "track_record.html").read_text()


def test_a_second_run_writes_the_same_bytes(bars, times, log_forecasts, tmp_path):
    path, out = log_forecasts(bars, times[-30:-2]), tmp_path / "out"
    run(path, bars, out)
    first = [(out / name).read_bytes() for name in ("track_record.json", "track_record.html")]
    before = path.read_bytes()
    run(path, bars, out)
    assert [(out / name).read_bytes() for name in ("track_record.json", "track_record.html")] == first
    assert path.read_bytes() == before
    json.loads(first[0], parse_constant=pytest.fail)  # no NaN
    (out / "track_record.html").unlink()
    (out / ".tsf_llm.json").unlink()
    with pytest.raises(ValueError, match="was not written by this package"):
        run(path, bars, out)


def test_only_some_tickers(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-30:-2])
    found = run(path, bars[bars["ticker"] == "AAA"], tmp_path / "out", tickers=["AAA"])
    assert (found["counts"]["unmatched"], found["models"][0]["tickers"]) == (0, 1)
    with pytest.raises(ValueError, match="holds no forecast of CCC"):
        run(path, bars, tmp_path / "out", tickers=["CCC"])


def test_models_are_told_apart(bars, times, log_forecasts, tmp_path):
    log_forecasts(bars, times[-40:-20], horizon=1)
    path = log_forecasts(bars, times[-40:-20], horizon=1, width=0.2, model_digest="cc" * 16, model="wide")
    found = run(path, bars, tmp_path / "out")
    crps = {model["model"]: model["steps"]["1"]["rows"][0]["crps"] for model in found["models"]}
    assert crps["wide"] > 2 * crps["tiny"]


def test_a_changed_record_is_scored_up_to_the_change_alone(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-30:-2], horizon=1)
    connection = sqlite3.connect(path)
    connection.execute("DROP TRIGGER no_update")
    connection.execute("UPDATE forecasts SET p_up = 1 WHERE id = 21")
    connection.commit()
    found = run(path, bars, tmp_path / "out")
    assert (found["sound"], found["broken_at"], found["rows"], found["counts"]["scored"]) == (False, 21, 56, 20)
    assert "The record was changed: row 21" in (tmp_path / "out" / "track_record.html").read_text()
    connection.execute("UPDATE forecasts SET p_up = 1 WHERE id = 1")
    connection.commit()
    connection.close()
    assert run(path, bars, tmp_path / "out")["counts"]["scored"] == 0


def test_a_split_among_the_outcomes_is_told(bars, times, log_forecasts, tmp_path):
    path = log_forecasts(bars, times[-30:-20], horizon=1)
    name, prices = bars["ticker"].iloc[0], ["open", "high", "low", "close"]
    split = bars.copy()
    split.loc[(split["ticker"] == name) & (split["timestamp"] >= times[-25]), prices] /= 4
    assert [*run(path, split, tmp_path / "out")["jumps"]] == [name]
    assert f"{name}: among its outcomes, close moved by -7" in (tmp_path / "out" / "track_record.html").read_text()
    assert run(path, bars, tmp_path / "out")["jumps"] == {}
