"""reading.py: good files are read and leave nothing behind, bad ones are refused in one sentence with the remedy."""

import gzip
import tempfile

import numpy as np
import pandas as pd
import pytest

from tsf_llm.serving.page import answers, reading
from tsf_llm.serving.page.reading import Refusal, Upload

BAD = {
    "empty.csv": "bad_empty",
    "head.csv": "bad_empty",
    "page.csv": "bad_empty",
    "people.csv": "bad_columns",
    "closes.csv": "bad_columns",
    "loads.csv": "bad_columns",
    "binary.csv": "bad_binary",
    "broken.parquet": "bad_binary",
    "broken.csv.gz": "bad_binary",
    "table.xlsx": "bad_type",
    "model.pkl": "bad_type",
    "report.pdf": "bad_type",
    "noname": "bad_type",
    "word.csv": "bad_cell",
    "twice.csv": "bad_order",
    "mixed.csv": "bad_order",
    "negative.csv": "bad_prices",
    "crossed.csv": "bad_bars",
    "short.csv": "bad_short",
    "hourly.csv": "bad_frequency",
    "time.csv": "bad_time",
}


@pytest.fixture(scope="module")
def bars(prices):
    return prices(60)


@pytest.fixture(scope="module")
def contents(bars, prices, csv):
    """Of the bad files, by name."""
    close, hours = bars["Close"], pd.date_range("2020-01-01", periods=60, freq="h").astype(str)
    return {
        "empty.csv": b"",
        "head.csv": b"Date,Open,High,Low,Close,Volume\n",
        "page.csv": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "people.csv": b"name,age\nAda,36\nAlan,41\n",
        "closes.csv": csv(bars[["Date", "Close"]]),
        "loads.csv": csv(bars[["Date", "Close"]].rename(columns={"Close": "load"})),
        "binary.csv": bytes(range(256)) * 50,
        "broken.parquet": b"PAR1" + bytes(200),
        "broken.csv.gz": gzip.compress(csv(bars))[:200],
        "table.xlsx": b"PK\x03\x04" + bytes(200),
        "model.pkl": b"\x80\x04.",
        "report.pdf": b"%PDF-1.7",
        "noname": csv(bars),
        "word.csv": csv(bars.assign(Close=["abc", *map(str, close[1:])])),
        "twice.csv": csv(pd.concat([bars, bars.tail(1)])),
        "mixed.csv": csv(pd.concat([bars, bars.iloc[[3]]])),
        "negative.csv": csv(bars.assign(Close=-close)),
        "crossed.csv": csv(bars.assign(High=bars["Low"], Low=bars["High"])),
        "short.csv": csv(prices(12)),
        "hourly.csv": csv(bars.assign(Date=hours)),
        "time.csv": csv(bars.assign(Date=["some day", *bars["Date"][1:]])),
    }


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_one_sentence_with_the_remedy(name, contents, pipe):
    def forecast():
        held = answers.Prices(Upload(name, contents[name]).bars())
        return answers.forecast(pipe, held, held.tickers[0], horizon=5)

    with pytest.raises(Refusal) as refused:
        forecast()
    assert refused.value.key == BAD[name]
    for language in ("en", "zh"):
        said = refused.value.said(language)
        assert tempfile.gettempdir() not in said
        assert "\n" not in said
        assert "Error" not in said


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".tsv"])
def test_a_good_file_is_read(suffix, bars, tmp_path):
    path = tmp_path / f"AAPL{suffix}"
    frame = bars.assign(Date=pd.to_datetime(bars["Date"]))
    if suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    found = Upload(path.name, path.read_bytes()).bars()
    assert list(found["ticker"].unique()) == ["AAPL"]
    np.testing.assert_allclose(found["close"], bars["Close"])


def test_what_is_taken_leaves_the_disk(bars, csv, tmp_path):
    (tmp_path / "hash").mkdir()
    path = tmp_path / "hash" / "x.csv"
    path.write_bytes(csv(bars))
    upload = Upload.take(path, "../x.csv")
    assert upload.name == "x.csv"
    assert list(tmp_path.iterdir()) == []


def test_too_much_is_refused_before_it_is_read(bars, csv, tmp_path, monkeypatch):
    path = tmp_path / "x.csv"
    monkeypatch.setattr(reading, "MOST_BYTES", 1000)
    path.write_bytes(csv(bars))
    with pytest.raises(Refusal, match="too large"):
        Upload.take(path, "x.csv")
    assert not path.exists()
    with pytest.raises(Refusal, match="too large"):
        Upload("bomb.csv.gz", gzip.compress(b"0" * 20_000)).bars()


def test_too_many_rows_are_refused(bars, csv, monkeypatch, tmp_path):
    monkeypatch.setattr(reading, "MOST_ROWS", 20)
    bars.to_parquet(tmp_path / "x.parquet")
    for name, content in {"x.csv": csv(bars), "x.parquet": (tmp_path / "x.parquet").read_bytes()}.items():
        with pytest.raises(Refusal, match="too large"):
            Upload(name, content).bars()


def test_dates_that_can_be_read_in_two_ways_are_asked_about(prices, csv):
    dates = [f"{day:02d}/12/2020" for day in range(1, 13)]
    upload = Upload("x.csv", csv(prices(12).assign(Date=dates)))
    with pytest.raises(Refusal) as refused:
        upload.bars()
    assert refused.value.key == "bad_dates"
    assert upload.bars("dmy")["timestamp"].iloc[-1] == pd.Timestamp("2020-12-12")
    assert upload.bars("mdy")["timestamp"].iloc[-1] == pd.Timestamp("2020-12-12")
    assert upload.bars("mdy")["timestamp"].iloc[0] == pd.Timestamp("2020-01-12")


def test_one_bad_ticker_leaves_the_others(prices, csv):
    frame = prices(60, tickers=("GOOD", "BAD")).astype({"Close": object})
    frame.loc[70, "Close"] = "abc"
    bars = Upload("two.csv", csv(frame)).bars()
    assert list(bars["ticker"].unique()) == ["GOOD"]
    assert bars.attrs["skipped"]["BAD"].key == "bad_cell"


def test_an_unknown_message_is_told_without_folders():
    refused = reading.refusal_of(ValueError("/tmp/secret/x.csv does something new"), "x.csv")
    assert refused.key == "bad_other"
    assert "secret" not in str(refused)
