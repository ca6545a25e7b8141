"""Regrouping by ticker on disk: the same bars and report as cleaning all at once, in bounded memory."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE
from tsf_llm.data_prep import sources, ticker_files
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.columns import Columns
from tsf_llm.data_prep.sources import read_bars, read_raw, read_series
from tsf_llm.data_prep.ticker_files import Spill, collect_bars, collect_groups, collect_series, read_groups
from tsf_llm.market_tsf_llm import market_state


@pytest.fixture
def folder(make_bars, tmp_path):
    """Files of several tickers by date, with defects, a row without a ticker, and columns that only one file has."""
    bars = pd.concat([make_bars(60, ticker=name, seed=i) for i, name in enumerate(["B", "A/1", "C"])])
    bars = bars.sort_values("timestamp", kind="stable", ignore_index=True)
    bars.loc[[5, 90], "close"] = [-1, np.nan]
    bars.loc[17, "ticker"] = ""
    files = tmp_path / "files"
    files.mkdir()
    bars.iloc[:100].to_csv(files / "1.csv", index=False)
    bars.iloc[100:].assign(source="other", split_coefficient=1.0).to_parquet(files / "2.parquet")
    (files / "3.csv").write_text("timestamp,ticker,open,high,low,close\n2015-05-01,D,x,2,1,2\n2015-05-02,D,1,2\n")
    return files


@pytest.mark.parametrize("rows", [7, 10_000])
def test_it_is_cleaning_all_at_once(folder, tmp_path, monkeypatch, rows):
    expected, report = clean_bars(read_raw(folder))
    monkeypatch.setattr(ticker_files, "BUFFER", 2 * rows)
    monkeypatch.setattr(ticker_files, "ROWS", rows)
    found = collect_bars(folder, tmp_path / "work", universe=True)
    assert found.report == report
    assert list(found.report["tickers"]) == list(report["tickers"])
    assert list(found.files) == ["B", "A/1", "C", "D"]  # of D one missing bar is left
    assert report["tickers"][""]["rules"]["no_ticker"]["rows"] == 1
    pd.testing.assert_frame_equal(
        pd.concat([pd.read_parquet(path) for path in found.files.values()], ignore_index=True), expected
    )
    np.testing.assert_array_equal(found.times, np.sort(expected["timestamp"].unique()))
    pd.testing.assert_frame_equal(
        found.moments.state(), market_state({name: expected[expected["ticker"] == name] for name in found.files})
    )


def test_memory_is_that_of_the_buffer(folder, tmp_path, monkeypatch):
    held = []
    write = Spill._write
    monkeypatch.setattr(Spill, "_write", lambda self: held.append(sum(map(len, self._buffer))) or write(self))
    monkeypatch.setattr(ticker_files, "BUFFER", 30)
    monkeypatch.setattr(ticker_files, "ROWS", 11)
    collect_bars(folder, tmp_path / "work")
    assert sum(held) == 182
    assert max(held) < 30 + 11


def test_a_choice_of_tickers(folder, tmp_path):
    assert list(collect_bars(folder, tmp_path / "one", ["C", "B"]).files) == ["B", "C"]
    with pytest.raises(ValueError, match="Unknown ticker Z; the data holds B, A/1, C"):
        collect_bars(folder, tmp_path / "two", ["Z"])
    with pytest.raises(ValueError, match="no bar is left of 2 rows"):
        collect_bars(folder, tmp_path / "three", ["D"])


def test_plain_series(tmp_path):
    stamps = pd.date_range("2024-01-01", periods=5, freq="h")
    frame = pd.DataFrame({"ds": [*stamps, *stamps], "unique_id": ["b"] * 5 + ["a"] * 5, "y": range(10), "x": 1.0})
    frame.to_csv(tmp_path / "y.csv", index=False)
    found = collect_series(tmp_path / "y.csv", tmp_path / "work", covariates=["x"])
    assert found.report is None
    assert list(found.files) == ["b", "a"]
    one = pd.read_parquet(found.files["a"])
    assert list(one) == ["timestamp", "series_id", "value", "x"]
    assert one["value"].tolist() == [5, 6, 7, 8, 9]


@pytest.fixture
def histories(tmp_path):
    """Prices of several tickers: one file by date that adjusts some of them, one newest first with a covariate."""
    days, rng = pd.bdate_range("2014-01-02", periods=40), np.random.default_rng(0)

    def bars(name, **more):
        close = 50 + rng.standard_normal(40).cumsum()
        prices = {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1e5}
        return pd.DataFrame({"timestamp": days, "ticker": name, **prices, **more})

    one = pd.concat([bars("A", adj_close=40.0), bars("B"), bars("C")]).sort_values(["timestamp", "ticker"])
    files = tmp_path / "files"
    files.mkdir()
    one.to_parquet(files / "1.parquet", index=False)
    bars("D", mood=0.5)[::-1].to_csv(files / "2.csv", index=False)
    later = bars("A")
    later.assign(timestamp=later["timestamp"] + pd.Timedelta(days=70)).to_csv(files / "3.csv", index=False)
    return files


@pytest.mark.parametrize("rows", [7, 10_000])
def test_groups_are_the_bars_that_are_read_at_once(histories, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(ticker_files, "BUFFER", 100)
    monkeypatch.setattr(ticker_files, "GROUP", 2)
    monkeypatch.setattr(sources, "ROWS", rows)
    (histories / "4.csv").write_text(
        "timestamp,ticker,open,high,low,close\n2015-05-01,E,x,2,1,2\n2015-05-01,F,1,2,1,1\n"
    )
    expected = read_bars(histories, covariates=["mood"], missing_ok=True)
    groups, skipped = collect_groups(histories, tmp_path / "work", kind=OHLCV, covariates=["mood"])
    assert skipped == expected.attrs["skipped"]
    assert [[*group.places] for group in groups] == [["A"], ["B", "C"], ["D", "F"]]  # A alone has 80 rows
    found = pd.concat([group.read() for group in groups], ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_like=True)
    pd.testing.assert_frame_equal(read_groups(tmp_path / "work")[2].read(), groups[2].read())


def test_groups_of_chosen_tickers_and_of_plain_series(histories, tmp_path):
    groups, _ = collect_groups(histories, tmp_path / "some", ["D", "B"], kind=OHLCV)
    assert [[*group.places] for group in groups] == [["B", "D"]]
    with pytest.raises(ValueError, match=r"Unknown ticker a; the data holds A, B, C, D\. Did you mean A\?"):
        collect_groups(histories, tmp_path / "none", ["a"], kind=OHLCV)
    with pytest.raises(ValueError, match="no column 'close' to choose"):
        collect_groups(histories, tmp_path / "value", kind=OHLCV, columns=Columns(value="close"))
    path = tmp_path / "load.csv"
    pd.DataFrame({"timestamp": pd.date_range("2021-01-01", periods=30), "value": np.arange(30.0)}).to_csv(path)
    groups, _ = collect_groups(path, tmp_path / "series", kind=UNIVARIATE)
    pd.testing.assert_frame_equal(groups[0].read(), read_series(path))
