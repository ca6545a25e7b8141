"""Reading for cleaning: bad cells stay, and say what they held."""

import gzip

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.raw import iter_raw, raw_columns, read_raw

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


def lines(stamps, prefix=""):
    return HEADER + prefix + "".join(f"{stamp},A,1,2,1,2,3\n" for stamp in stamps)


DAYS = pd.date_range("2024-01-13", periods=40)
PIECES = {
    "day first": lines(DAYS.strftime("%d/%m/%Y")),  # a piece that starts on 05/02 would read it as the 2nd of May
    "words": lines(DAYS.strftime("%b %d %Y"), prefix="Error: rate limit\n"),
    "epoch": lines(int(day.timestamp() * 1000) for day in DAYS),
    "crooked": lines(DAYS).replace("2024-02-09,A", "2024-02-09,A,9,9") + "\n2024-02-22,A,1,2,1,2,3\n",
    "no UTF-8": lines(DAYS).encode().replace(b"2024-02-09,A", b"2024-02-09,A\xff"),
}


@pytest.mark.parametrize("content", PIECES.values(), ids=PIECES)
def test_pieces_are_the_whole(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    whole = read_raw(tmp_path / "a.csv")
    good = whole[(whole["ticker"] == "A") & whole["timestamp"].notna()]
    assert good["timestamp"].isin([*DAYS, pd.Timestamp("2024-02-22")]).all()
    assert len(good) >= 39
    for rows in (1, 7, 40):
        pieces = list(iter_raw(tmp_path / "a.csv", rows=rows))
        assert max(map(len, pieces)) <= rows
        joined = pd.concat(pieces, ignore_index=True)
        assert joined["row"].tolist() == list(range(1, len(whole) + 1))
        pd.testing.assert_frame_equal(
            joined.sort_values("row").reset_index(drop=True), whole.sort_values("row").reset_index(drop=True)
        )


def test_remarks_of_the_vendor_are_not_ours(tmp_path, make_bars):
    make_bars(5).assign(note="ex dividend", row=np.nan, file="x").to_csv(tmp_path / "a.csv", index=False)
    raw = read_raw(tmp_path / "a.csv")
    assert raw["row"].tolist() == [1, 2, 3, 4, 5]
    assert raw["note"].tolist() == [""] * 5
    assert raw["file"].unique().tolist() == ["a.csv"]
    assert clean_bars(raw)[1]["bars"] == 5


@pytest.mark.parametrize("index", ["times", "numbers", "reversed"])
def test_pieces_of_parquet(tmp_path, make_bars, index):
    bars = make_bars(50)
    frame = {"times": bars.set_index("timestamp"), "numbers": bars, "reversed": bars.set_index(bars.index[::-1])}[
        index
    ]
    frame.to_parquet(tmp_path / "a.parquet")
    joined = pd.concat(iter_raw(tmp_path / "a.parquet", rows=8), ignore_index=True)
    pd.testing.assert_frame_equal(joined, read_raw(tmp_path / "a.parquet"))
    assert joined["close"].tolist() == bars["close"].tolist()
    assert joined["row"].tolist() == list(range(1, 51))


def test_pieces_of_a_saved_dataset(tmp_path, make_bars):
    Dataset.from_pandas(make_bars(50)).save_to_disk(tmp_path / "saved")
    pieces = list(iter_raw(tmp_path / "saved", rows=8))
    assert [len(one) for one in pieces] == [8] * 6 + [2]
    assert pd.concat(pieces)["close"].tolist() == make_bars(50)["close"].tolist()
