"""The data benchmark measures what it says; how long anything takes is never asserted."""

import json

import numpy as np
import pandas as pd
import pytest

from tsf_llm.benchmarks import data_speed
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.sources import read_bars


@pytest.fixture(scope="module")
def days():
    return data_speed.real_days(read_bars("sample"))


def test_synthetic_tickers_are_strung_together_from_real_days(days):
    one = data_speed.synthetic_ticker(days, 7, 300)
    pd.testing.assert_frame_equal(one, data_speed.synthetic_ticker(days, 7, 300))
    assert not one["close"].equals(data_speed.synthetic_ticker(days, 8, 300)["close"])
    _, report = clean_bars(one)
    assert report["bars"] == 300
    assert report["rules"]["high_low"]["rows"] == report["rules"]["high_low_far"]["rows"] == 0
    candles = np.log(one["close"] / one["open"]).to_numpy()
    gaps = np.log(one["open"] / one["close"].shift()).to_numpy()[1:]
    drawn = np.stack([gaps, candles[1:]], axis=1)
    distance = np.abs(drawn[:, None] - days[None, :, [0, 3]]).sum(-1).min(1)
    np.testing.assert_allclose(distance, 0, atol=1e-9)


@pytest.mark.parametrize(("contestant", "least"), [(data_speed.OURS, 64), (data_speed.PEER, 100)])
def test_work_counts_all_bars_but_the_warm_up(tmp_path, contestant, least):
    paths = data_speed.write_tickers(tmp_path, None, 2, 120)
    part = data_speed.work(contestant, paths)
    assert part["bars"] == 240
    assert part["columns"] >= least
    assert min(part[name] for name in ("read", "clean", "features", "features_cpu", "peak_mb")) > 0


def test_own_data_comes_first_and_made_tickers_fill_up(tmp_path, make_bars):
    bars = [make_bars(60, ticker=name) for name in "ABC"]
    pd.concat(bars).to_csv(tmp_path / "prices.csv", index=False)
    paths = data_speed.write_tickers(tmp_path / "out", str(tmp_path / "prices.csv"), 5, bars=50)
    cleaned = [clean_bars(pd.read_parquet(path))[0] for path in paths]
    assert [one["ticker"].iloc[0] for one in cleaned] == ["A", "B", "C", "T00003", "T00004"]
    assert [len(one) for one in cleaned] == [50] * 5
    assert cleaned[0]["close"].tolist() == bars[0]["close"].tail(50).tolist()


def test_prepare_is_measured_with_what_it_encoded(tmp_path):
    paths = data_speed.write_tickers(tmp_path, None, 2, 400)
    sources = data_speed.write_sources(tmp_path / "sources", paths)
    together = pd.read_parquet(sources["together"])
    assert len(together) == 800
    assert together["timestamp"].is_monotonic_increasing
    first = data_speed.prepare_once(sources["before"], tmp_path / "out", 1)
    assert first["rows"] == first["rows_encoded"] == 798
    again = data_speed.prepare_once(paths, tmp_path / "out", 1)
    assert (again["rows"], again["rows_encoded"]) == (800, 2)
    assert min(again[name] for name in ("seconds", "cpu_seconds", "imports_mb", "peak_mb")) > 0


def test_training_is_measured_until_its_first_step_and_between_steps(tmp_path):
    data_speed.prepare_once(data_speed.write_tickers(tmp_path, None, 1, 400), tmp_path / "out", 1)
    told = data_speed.train_once(tmp_path / "out", tmp_path / "trained", "debug_sft", 3)
    assert told["bars"] == 400
    assert 0 < told["wait_share"] < 1
    assert 0 < told["wait_cpu_ms"] < told["step_cpu_ms"] < told["start_cpu_seconds"] * 1e3


@pytest.mark.slow
def test_quick_run_writes_its_json(tmp_path):
    assert data_speed.main(["--quick", "--json", str(tmp_path / "speed.json")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    results = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    assert [(row["contestant"], row["tickers"], row["processes"]) for row in results["rows"]] == [
        (data_speed.OURS, 1, 1),
        (data_speed.OURS, 3, 1),
        (data_speed.OURS, 3, 2),
        (data_speed.PEER, 3, 1),
    ]
    assert all(row["bars"] == 400 * row["tickers"] for row in results["rows"])
    assert all(row[name] > 0 for row in results["rows"] for name in data_speed.SPEEDS)
    assert [(row["what"], row["tickers"], row["processes"]) for row in results["prepare"]] == [
        ("a file per ticker", 1, 1),
        ("a file per ticker", 3, 1),
        ("one more day", 3, 1),
        ("a file per ticker", 3, 2),
        ("one file by date", 1, 1),
        ("one file by date", 3, 1),
    ]
    assert [row["worker_cpu_seconds"] > 0 for row in results["prepare"]] == [False, False, False, True, False, False]
    assert [row["config"] for row in results["training"]] == ["debug_sft"]


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--tickers", "0"], "at least 1"), (["--data", "nowhere"], "no such file"), (["--json", "."], "give a file")],
)
def test_bad_arguments_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit) as end:
        data_speed.main(words)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
