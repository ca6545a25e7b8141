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


def test_own_data(tmp_path, make_bars):
    bars = [make_bars(60, ticker=name) for name in "ABC"]
    pd.concat(bars).to_csv(tmp_path / "prices.csv", index=False)
    paths = data_speed.write_tickers(tmp_path / "out", str(tmp_path / "prices.csv"), 2, bars=0)
    assert [clean_bars(pd.read_parquet(path))[0]["ticker"].iloc[0] for path in paths] == ["A", "B"]


@pytest.mark.slow
def test_quick_run_writes_its_json(tmp_path):
    assert data_speed.main(["--quick", "--json", str(tmp_path / "speed.json")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert [(row["contestant"], row["tickers"], row["processes"]) for row in rows] == [
        (data_speed.OURS, 1, 1),
        (data_speed.OURS, 3, 1),
        (data_speed.OURS, 3, 2),
        (data_speed.PEER, 3, 1),
    ]
    assert all(row["bars"] == 300 * row["tickers"] for row in rows)
    assert all(row[name] > 0 for row in rows for name in data_speed.SPEEDS)


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
