"""preparation.py: what `clean` and `prepare` print and write."""

import json

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from tsf_llm.data_prep.prepare import load_prepared
from tsf_llm.serving import preparation


@pytest.fixture
def prices(make_bars, tmp_path):
    """Three tickers with odd names and some defects, and one that is too short."""
    bars = [make_bars(220, ticker=name, seed=i) for i, name in enumerate(["^AAA", "BRK/B", ".INX"])]
    bars[0].loc[50, "close"] = np.nan
    bars[1].loc[60, "high"] = -1
    path = tmp_path / "prices.csv"
    pd.concat([*bars, make_bars(10, ticker="NEW")]).to_csv(path, index=False)
    return path


@pytest.fixture
def stocks(make_bars, tmp_path):
    """Three tickers of one length, and an index."""
    pd.concat([make_bars(260, ticker=name, seed=i) for i, name in enumerate("ABC")]).to_csv(tmp_path / "stocks.csv")
    make_bars(260, ticker="INDEX", seed=9).to_csv(tmp_path / "index.csv")
    return tmp_path


@pytest.fixture
def daily_loads(tmp_path):
    """Two hourly series with a daily cycle, a gap and a covariate."""
    path = tmp_path / "loads.csv"
    rng, hours = np.random.default_rng(0), np.arange(400)
    parts = []
    for name in "xy":
        value = np.sin(2 * np.pi * hours / 24) + rng.normal(0, 0.2, 400)
        stamps = pd.date_range("2024-01-01", periods=400, freq="h")
        parts.append(pd.DataFrame({"date": stamps, "id": name, "load": value, "heat": rng.normal(0, 1, 400)}))
    parts[0].loc[70, "load"] = np.nan
    pd.concat(parts).to_csv(path, index=False)
    return path


def test_prepare_command(run, prices, tmp_path):
    code, text, _ = run("prepare", "--data", prices, "--out", tmp_path / "set", "--horizon", 2, "--bins", 32)
    assert code == 0
    assert "3 tickers, 64 features" in text
    assert "skipped NEW" in text
    assert load_prepared(tmp_path / "set").info["horizon"] == 2


def test_prepare_command_for_plain_series_and_markets(run, daily_loads, stocks, tmp_path):
    words = ["--value", "load", "--past-covariates", "heat", "--bins", 32]
    code, text, _ = run("prepare", "--data", daily_loads, "--out", tmp_path / "series", *words)
    assert code == 0
    assert "computed 800 of 800 rows; tickers encoded 2, extended 0, kept 0" in text
    assert load_prepared(tmp_path / "series").processor.feature_extractor.past_covariates == ["heat"]
    words = ["--groups", "returns,market", "--market", stocks / "index.csv", "--bins", 32]
    code, text, _ = run("prepare", "--data", stocks / "stocks.csv", "--out", tmp_path / "stocks", *words)
    assert code == 0
    assert load_prepared(tmp_path / "stocks").market() is not None


def test_clean_command(run, prices, tmp_path):
    out = tmp_path / "deep" / "clean.parquet"
    code, text, _ = run("clean", "--data", prices, "--out", out)
    assert code == 0
    assert "670 rows = 668 bars + 2 missing bars + 0 dropped rows" in text
    assert len(pd.read_parquet(out)) == 670
    assert json.loads(out.with_name("cleaning.json").read_text())["rules"]["missing"]["rows"] == 1
    code, _, error = run("clean", "--data", prices, "--out", tmp_path / "clean.csv")
    assert code == 2
    assert "must end in .parquet" in error


def test_a_report_of_something_else_is_not_replaced(prices, tmp_path):
    (tmp_path / "cleaning.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="is no report of cleaning"):
        preparation.clean(str(prices), tmp_path / "clean.parquet")
    assert not (tmp_path / "clean.parquet").exists()


def test_a_rule_names_the_tickers_that_have_most_of_it(capsys, monkeypatch):
    monkeypatch.setattr(preparation, "Console", lambda: Console(width=100))
    rows = {"A": 1, "B": 9, "": 2, "D": 3, "E": 4, "F": 5}
    rule = {"policy": "missing", "rows": 24, "tickers": 6}
    tickers = {name: {"rules": {"missing": {"rows": count}}} for name, count in rows.items()}
    rules = {"missing": rule, "duplicate": {**rule, "rows": 0}}
    report = {"rules": rules, "tickers": tickers, "rows_in": 1000, "bars": 970, "missing_bars": 24, "rows_dropped": 6}
    preparation.print_cleaning(report)
    told = " ".join(capsys.readouterr().out.split())
    assert "missing missing 24 6 B 9, F 5, E 4, D 3, (none) 2 ..." in told
    assert "duplicate" not in told
    assert told.endswith("1,000 rows = 970 bars + 24 missing bars + 6 dropped rows")


def test_clean_and_describe_skip_a_bad_file(run, make_bars, tmp_path):
    (tmp_path / "raw").mkdir()
    make_bars(60, ticker="A").to_csv(tmp_path / "raw" / "A.csv", index=False)
    (tmp_path / "raw" / "B.csv").write_text("no,table\n1,2\n")
    for command, out, report in (("clean", "a.parquet", "cleaning.json"), ("describe", "seen", "seen/describe.json")):
        code, _, _ = run(command, "--data", tmp_path / "raw", "--out", tmp_path / out)
        assert code == 0
        written = json.loads((tmp_path / report).read_text())
        assert "B.csv has no column for" in written["skipped"]["B"]
        assert list(written["tickers"]) == ["A"]
        code, _, error = run(command, "--data", tmp_path / "raw", "--out", tmp_path / out, "--strict")
        assert code == 2
        assert "B.csv has no column for" in error


def test_an_hour_that_comes_twice_stops_no_other_ticker(run, make_bars, tmp_path):
    hours = pd.date_range("2024-10-20", periods=500, freq="h", tz="Europe/Berlin").tz_localize(None)
    bars = make_bars(500, ticker="BAD").assign(timestamp=hours)
    good = make_bars(500, ticker="GOOD").assign(timestamp=pd.date_range("2024-10-20", periods=500, freq="h"))
    pd.concat([bars, good]).to_csv(tmp_path / "a.csv", index=False)
    words = ["--groups", "returns", "--context-length", 16, "--bins", 32]
    written = {"clean": "a/a.parquet", "describe": "seen", "prepare": "set"}
    reports = {"clean": "a/cleaning.json", "describe": "seen/describe.json", "prepare": "set/dataset.json"}
    for command, out in written.items():
        more = words if command == "prepare" else []
        code, _, error = run(command, "--data", tmp_path / "a.csv", "--out", tmp_path / out, *more)
        assert code == 0, error
        report = json.loads((tmp_path / reports[command]).read_text())
        assert list(report["tickers"]) == ["GOOD"]
        assert "an hour comes twice" in report["skipped"]["BAD"]
        code, _, error = run(command, "--data", tmp_path / "a.csv", "--out", tmp_path / out, "--strict", *more)
        assert code == 2
        assert "BAD, row 172: the clock goes back there" in error
