"""Reading for cleaning: bad cells stay, and say what they held."""

import gzip

import pandas as pd
import pytest

from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.raw import raw_columns, read_raw

HEADER = "date,ticker,open,high,low,close,volume\n"


def test_raw_reading_keeps_bad_cells_and_notes_what_they_held(tmp_path):
    (tmp_path / "a.csv").write_text(
        HEADER + '2024-01-02,A,1,2,1,2,"1,000"\nError: rate limit\n2024-01-04,A,1,2,1,$2,3\n'
    )
    raw = read_raw(tmp_path / "a.csv")
    assert raw["note"].tolist() == ["volume='1,000'", "close='$2'", "timestamp='Error: rate limit'"]
    assert raw["row"].tolist() == [1, 3, 2]
    assert raw["ticker"].tolist() == ["A", "A", ""]
    assert raw["file"].unique().tolist() == ["a.csv"]
    pd.testing.assert_frame_equal(raw_columns(raw), raw[list(raw_columns(raw))])  # again: nothing changes


def test_lines_with_too_many_cells_are_bad_rows_not_the_end(tmp_path):
    text = HEADER + "2024-01-02,A,1,2,1,2,3\n2024-01-03,A,1,2,1,2,3,4,5\n2024-01-04,A,1,2,1,2,3\n"
    for name, content in (("a.csv", text.encode()), ("b.csv.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        raw = read_raw(tmp_path / name)
        assert raw["note"].str.contains("2024-01-03,A,1,2,1,2,3,4,5").tolist() == [False, False, True]
        frame, report = clean_bars(raw)
        assert len(frame) == 2
        assert report["rows_dropped"] == 1


def test_several_files_say_which(tmp_path, make_bars):
    for name in ("AAA", "BBB"):
        make_bars(5).drop(columns="ticker").assign(open=-1).to_csv(tmp_path / f"{name}.csv", index=False)
    with pytest.raises(ValueError, match="no bar is left of 10 rows"):
        clean_bars(read_raw(tmp_path))
    make_bars(5).assign(volume=0).to_csv(tmp_path / "CCC.csv", index=False)
    report = clean_bars(read_raw(tmp_path))[1]
    assert report["tickers"]["BBB"]["rules"]["non_positive"]["examples"][0]["file"] == "BBB.csv"


def test_columns_that_only_cleaning_asks_for(tmp_path):
    columns = "Date,Open,High,Low,Close,Adj Close,Volume,Stock Splits,Vendor\n"
    (tmp_path / "AAPL.csv").write_text(columns + "2024-01-02,1,2,1,2,1,3,2.0,yahoo\n")
    raw = read_raw(tmp_path / "AAPL.csv").iloc[0]
    assert raw[["ticker", "close", "adj_close", "split_coefficient", "source"]].tolist() == ["AAPL", 2, 1, 2, "yahoo"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", HEADER.encode(), "has no rows"),
        ("a.csv", b"day,px\n2024-01-02,1\n", "no column for timestamp"),
        ("a.parquet", b"not parquet", "cannot be read"),
        ("a.csv.gz", b"not gzip", "cannot be read"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_raw(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_raw(tmp_path / "nowhere.csv")
