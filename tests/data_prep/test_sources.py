"""Files in, bars or series out: one clear error per kind of bad file; for cleaning, cells that say what they held."""

import gzip
import pickle

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from tsf_llm.bars_tsf_llm import OHLCV, PRICES, UNIVARIATE, check_bars
from tsf_llm.data_prep import sources
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.columns import COLUMNS, Columns
from tsf_llm.data_prep.sources import iter_raw, raw_columns, read_bars, read_data, read_raw, read_series
from tsf_llm.data_prep.tables import SAMPLE, SAMPLE_FILE

HEADER = "date,ticker,open,high,low,close,volume\n"
ROWS = "2024-01-02,AAPL,10,12,9,11,100\n2024-01-03,AAPL,11,13,10,12,200\n"


# The embedded sample


def test_sample_has_the_documented_columns_and_types():
    bars = read_bars(SAMPLE)
    assert list(bars.columns) == COLUMNS
    assert bars["ticker"].unique().tolist() == ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    assert len(bars) == 12_154
    assert bars["timestamp"].dt.tz is None
    assert pd.api.types.is_datetime64_dtype(bars["timestamp"])
    assert all(isinstance(ticker, str) for ticker in bars["ticker"].unique())
    assert (bars.dtypes[["open", "high", "low", "close", "volume"]] == "float64").all()
    assert not bars.isna().any().any()


def test_sample_is_adjusted_for_splits():
    raw = pd.read_csv(SAMPLE_FILE).query("ticker == 'AAPL'").reset_index(drop=True)
    bars = read_bars(SAMPLE, ["AAPL"])
    np.testing.assert_allclose(bars["close"], raw["adj_close"], rtol=1e-12)
    assert raw["close"].pct_change().min() < -0.5  # the splits of 2000 and 2005
    worst = bars.loc[bars["close"].pct_change().idxmin()]
    assert worst["timestamp"] == pd.Timestamp("2000-09-29")  # a real fall, not a split
    np.testing.assert_allclose(bars["close"] * bars["volume"], raw["close"] * raw["volume"], rtol=1e-12)


def test_tickers_select():
    assert read_bars(SAMPLE, ["MSFT", "AAPL"])["ticker"].unique().tolist() == ["AAPL", "MSFT"]
    assert read_bars(SAMPLE, "FB")["ticker"].unique().tolist() == ["FB"]


def test_unknown_ticker_lists_the_known():
    with pytest.raises(ValueError, match="Unknown ticker TSLA; the data holds AAPL, FB, GOOG, IBM, MSFT"):
        read_bars(SAMPLE, ["AAPL", "TSLA"])


# Cells


def test_csv_gzip_and_parquet_give_the_same_bars(write, tmp_path):
    plain = read_bars(write(HEADER + ROWS))
    zipped = read_bars(write(gzip.compress((HEADER + ROWS).encode()), "prices.csv.gz"))
    plain.to_parquet(tmp_path / "prices.parquet")
    plain.set_index("timestamp").to_parquet(tmp_path / "indexed.parquet")
    plain.set_index("timestamp").rename_axis(None).to_parquet(tmp_path / "unnamed.parquet")
    pd.testing.assert_frame_equal(zipped, plain)
    for name in ["prices", "indexed", "unnamed"]:
        pd.testing.assert_frame_equal(read_bars(tmp_path / f"{name}.parquet"), plain)


def test_missing_volume_and_missing_cells_become_nan(write):
    bars = read_bars(write("date,ticker,open,high,low,close\n2024-01-02,A,1,2,,nan\n2024-01-03,A,1,2,N/A,1.5\n"))
    assert bars["volume"].isna().all()
    assert bars["low"].isna().all()
    assert bars["close"].isna().tolist() == [True, False]


def test_numbers_are_read_to_the_last_bit(write):
    close = np.random.default_rng(0).normal(50, 5, 100).tolist()  # pandas 2 misreads twelve of these
    days = pd.date_range("2024-01-01", periods=100).strftime("%Y-%m-%d")
    rows = [f"{day},A,{c!r},{c!r},{c!r},{c!r},1\n" for day, c in zip(days, close, strict=True)]
    assert read_bars(write(HEADER + "".join(rows)))["close"].tolist() == close


def test_zoned_timestamps_become_naive_utc(write):
    path = write(HEADER + "2024-01-02 16:00:00-05:00,A,1,2,1,2,3\n2024-07-02 16:00:00-04:00,A,1,2,1,2,3\n")
    assert read_bars(path)["timestamp"].astype(str).tolist() == ["2024-01-02 21:00:00", "2024-07-02 20:00:00"]


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_midnights_of_a_zone_are_dates_and_other_times_become_utc(tmp_path, make_bars, zone, name):
    for freq in ("B", "h"):
        bars = make_bars(100, freq=freq)
        zoned = bars.assign(timestamp=bars["timestamp"].dt.tz_localize(zone))
        utc = bars["timestamp"] if freq == "B" else zoned["timestamp"].dt.tz_convert(None)
        zoned.to_parquet(tmp_path / name) if name.endswith("parquet") else zoned.to_csv(tmp_path / name, index=False)
        for read in (read_bars, read_raw):
            assert (read(tmp_path / name)["timestamp"] == utc).all()
        assert (check_bars(zoned, "AAA")["timestamp"] == utc).all()  # a frame is read as its file


def test_one_time_that_is_no_midnight_makes_none_a_date(write):
    times = ["2024-01-02 00:00:00+09:00", "2024-01-03 09:00:00+09:00"]
    bars = read_bars(write(HEADER + "".join(f"{time},A,1,2,1,2,3\n" for time in times)))
    assert bars["timestamp"].astype(str).tolist() == ["2024-01-01 15:00:00", "2024-01-03 00:00:00"]


@pytest.mark.parametrize("date", ["2024-01-31", "20240131", "01/31/2024", "Jan 31, 2024", "2024-01-31T00:00:00Z"])
def test_date_formats(write, date):
    path = write(f'date,ticker,open,high,low,close\n"{date}",A,1,2,1,2\n')
    assert read_bars(path)["timestamp"].iloc[0] == pd.Timestamp("2024-01-31")


def test_tickers_that_look_like_missing_values_or_numbers_stay(write):
    path = write(HEADER + "2024-01-02,NA,1,2,1,2,3\n2024-01-02,000001,1,2,1,2,3\n2024-01-02,TRUE,1,2,1,2,3\n")
    assert read_bars(path)["ticker"].tolist() == ["NA", "000001", "TRUE"]


@pytest.mark.parametrize("bad", ["", "soon", "170665920000", "99999999999999999999"])
def test_bad_time_among_epochs(write, bad):
    path = write(f"open_time,open,high,low,close\n1706659200000,1,2,1,2\n{bad},1,2,1,2\n")
    with pytest.raises(ValueError, match=f"row 2: column 'open_time' holds '{bad}', which is not a date"):
        read_bars(path)


# Adjustment


def test_partly_missing_adjusted_close_is_missing_not_raw(write):
    path = write(
        "date,ticker,open,high,low,close,adj_close,volume\n"
        "2024-01-02,A,10,12,8,10,5,100\n2024-01-03,A,10,12,8,10,,100\n"
        "2024-01-02,B,10,12,8,10,,100\n2024-01-03,B,10,12,8,10,nan,100\n"
    )
    bars = read_bars(path)
    assert bars["close"].tolist()[:1] == [5]
    assert bars.loc[1, ["open", "high", "low", "close", "volume"]].isna().all()
    assert bars.loc[bars["ticker"] == "B", "close"].tolist() == [10, 10]  # none at all: prices stay as they are
    assert bars.loc[bars["ticker"] == "B", "volume"].tolist() == [100, 100]


def test_adjustment_keeps_high_above_close(write):
    rng = np.random.default_rng(0)
    close, adjusted = rng.uniform(1, 100, 500), rng.uniform(1, 100, 500)
    days = pd.date_range("2020-01-01", periods=500)
    prices = dict.fromkeys(["open", "high", "low", "close"], close)
    bars = read_bars(write(pd.DataFrame({"date": days, **prices, "adj_close": adjusted}).to_csv(index=False), "A.csv"))
    assert (bars["high"] == bars["close"]).all()


def test_defective_close_is_left_to_be_reported(write):
    path = write(HEADER.replace("close", "close,adj_close") + "2024-01-02,A,10,12,8,0,5,100\n")
    assert read_bars(path)[["open", "high", "low", "close", "volume"]].iloc[0].tolist() == [10, 12, 8, 0, 100]


# Order


def test_rows_keep_file_order_and_tickers_their_first_appearance(write):
    path = write(
        HEADER + "2024-01-05,B,1,2,1,2,3\n2024-01-04,A,1,2,1,2,3\n2024-01-03,B,1,2,1,2,3\n2024-01-03,B,1,2,1,2,3\n"
    )
    bars = read_bars(path)
    assert bars["ticker"].tolist() == ["B", "B", "B", "A"]
    assert bars["timestamp"].dt.day.tolist() == [5, 3, 3, 4]  # unsorted and repeated rows stay
    assert bars.index.tolist() == [0, 1, 2, 3]


# Errors


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.csv", "", "p.csv is empty"),
        ("p.csv.gz", gzip.compress(b"", mtime=0), "p.csv.gz is empty"),
        ("p.csv", HEADER, "p.csv has no rows"),
        ("p.csv", "day,px\n2024-01-02,1\n", "no column for timestamp, open, high, low, close; found: day, px"),
        ("p.csv", HEADER.replace(",low", "") + ROWS, "is not a comma-separated"),
        ("p.csv", HEADER + "2024-01-02,A,1,2,1,2,3,4,5\n", "is not a comma-separated"),
        ("p.csv", HEADER + ROWS + "2024-01-04,A,1,2,1,2,3,4,5\n", "is not a comma-separated"),
        ("p.csv", b"\xff\xfe\x00\x01", "p.csv has no rows"),
        ("p.csv", HEADER + ROWS + "2024-13-45,A,1,2,1,2,3\n", "row 3: column 'date' holds '2024-13-45'"),
        ("p.csv", HEADER + ROWS + ",A,1,2,1,2,3\n", "row 3: column 'date' holds ''"),
        (
            "p.csv",
            HEADER + "170441280,A,1,2,1,2,3\n2024-01-04,A,1,2,1,2,3\n",
            "row 1: column 'date' holds '170441280'",
        ),
        ("p.csv", HEADER + ROWS + "2024-01-04,A,1,2,1,abc,3\n", "row 3: column 'close' holds 'abc'"),
        ("p.csv", HEADER + '2024-01-04,A,1,2,1,2,"1,000"\n', "'1,000' is 1000 or 1.000, .* --decimal point"),
        ("p.csv", HEADER + "02/01/2024,A,1,2,1,2,3\n", r"'02/01/2024' is 2024-01-02 \(dmy\) or .* --dates"),
        ("p.csv", HEADER + ROWS + "2024-01-04,,1,2,1,2,3\n", "row 3: column 'ticker' is empty"),
        ("p.csv.gz", b"not gzip", "p.csv.gz cannot be read"),
        ("p.csv.gz", gzip.compress((HEADER + ROWS * 50).encode(), mtime=0)[:-20], "p.csv.gz cannot be read"),
        ("p.parquet", b"not parquet", "p.parquet cannot be read"),
        ("p.parquet", b"", "p.parquet cannot be read"),
        ("p.pkl", pickle.dumps([]), "p.pkl is a pickle, which can run code"),
        ("p.xlsx", b"", "p.xlsx is a spreadsheet; save its sheet as CSV"),
    ],
)
def test_bad_file(write, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_bars(write(content, name), strict=True)
    assert name in str(caught.value)


def test_a_bad_file_or_ticker_is_skipped_with_its_row(tmp_path, caplog):
    (tmp_path / "a.csv").write_text(HEADER + ROWS + "2024-01-04,BAD,1,2,1,abc,3\n")
    (tmp_path / "notes.csv").write_text("day,remark\n1,hello\n")
    bars = read_bars(tmp_path)
    assert "BAD" not in set(bars["ticker"])
    assert len(bars) == 2
    assert list(bars.attrs["skipped"]) == ["BAD", "notes"]
    assert "a.csv, row 3: column 'close' holds 'abc'" in caplog.text
    assert "notes.csv has no column for timestamp" in caplog.text
    with pytest.raises(ValueError, match="row 3"):
        read_bars(tmp_path, strict=True)


@pytest.mark.parametrize("dtype", ["int64", "Int64"])
def test_numeric_dates_are_not_read_as_nanoseconds(tmp_path, dtype):
    frame = pd.DataFrame({"date": [20240102, 20240103], "open": 1.0, "high": 2.0, "low": 1.0, "close": 2.0})
    frame.astype({"date": dtype}).to_parquet(tmp_path / "A.parquet")
    assert read_bars(tmp_path / "A.parquet")["timestamp"].dt.day.tolist() == [2, 3]


def test_text_in_a_parquet_price_column(tmp_path):
    frame = pd.DataFrame({"date": ["2024-01-02"], "open": ["one"], "high": 2.0, "low": 1.0, "close": 2.0})
    frame.to_parquet(tmp_path / "A.parquet")
    with pytest.raises(ValueError, match="row 1: column 'open' holds 'one', which is not a number"):
        read_bars(tmp_path / "A.parquet")


# For cleaning


def test_raw_reading_keeps_bad_cells_and_notes_what_they_held(tmp_path):
    (tmp_path / "a.csv").write_text(
        HEADER + '2024-01-02,A,1,2,1,2.25,"1,00a"\nError: rate limit\n2024-01-04,A,1,2,1,n.d.,3\n'
    )
    raw = read_raw(tmp_path / "a.csv")
    assert raw["note"].tolist() == ["volume='1,00a'", "close='n.d.'", "timestamp='Error: rate limit'"]
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
    make_bars(5, ticker="CCC").assign(volume=0).to_csv(tmp_path / "CCC.csv", index=False)
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


# Plain series

TIMES = pd.date_range("2021-03-01", periods=4, freq="h")
WIDE = pd.DataFrame({"date": TIMES, "OT": [1.5, 0.0, -2.0, np.nan], "HUFL": [4, 5, 6, 7]})
LONG = pd.DataFrame({"ds": [*TIMES[:2], *TIMES[:2]], "unique_id": ["b", "b", "a", "a"], "y": [1, 2, 3, 4]})


PARTED = pd.DataFrame({"year": [1749, 1749], "month": [1, 2], "y": [58.0, 62.6]})


@pytest.fixture
def write_frame(tmp_path):
    """`write_frame(frame, name)` -> path of a CSV or parquet file."""

    def build(frame, name):
        path = tmp_path / name
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
        return path

    return build


@pytest.mark.parametrize("name", ["ett.csv", "ett.csv.gz", "ett.parquet"])
def test_a_column_of_a_wide_file(write_frame, name):
    frame = read_series(write_frame(WIDE, name), value="OT")
    assert list(frame) == ["timestamp", "series_id", "value"]
    assert frame["series_id"].unique().tolist() == ["OT"]
    np.testing.assert_array_equal(frame["value"], WIDE["OT"])
    assert (frame["timestamp"] == TIMES).all()


def test_a_long_file_with_usual_names(write_frame):
    path = write_frame(LONG, "sales.csv")
    frame = read_series(path)
    assert frame["series_id"].tolist() == ["b", "b", "a", "a"]
    assert frame["value"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert read_series(path, ["a"])["value"].tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match="Unknown series c; the data holds b, a"):
        read_series(path, ["c"])


def test_a_saved_dataset_of_series(tmp_path, write_frame):
    Dataset.from_pandas(LONG).save_to_disk(tmp_path / "saved")
    pd.testing.assert_frame_equal(read_data(tmp_path / "saved"), read_series(write_frame(LONG, "sales.csv")))


def test_the_only_column_of_numbers_needs_no_name(write_frame):
    frame = read_series(write_frame(WIDE[["date", "HUFL"]].assign(note="x"), "load.csv"))
    assert frame["series_id"].unique().tolist() == ["load"]
    assert frame["value"].tolist() == [4, 5, 6, 7]


def test_named_columns_and_covariates(write_frame):
    strange = WIDE.rename(columns={"date": "when"}).assign(site="x1", promo=[0, 1, 0, 1])
    frame = read_series(
        write_frame(strange, "s.csv"), value="OT", id="site", time="when", covariates=["promo", "HUFL"]
    )
    assert list(frame) == ["timestamp", "series_id", "value", "promo", "HUFL"]
    assert frame["series_id"].unique().tolist() == ["x1"]
    assert frame["promo"].tolist() == [0, 1, 0, 1]


def test_a_folder_of_files_names_series_by_file(write_frame, tmp_path):
    for name in ("north", "south"):
        write_frame(WIDE[["date", "HUFL"]], f"{name}.csv")
    assert read_series(tmp_path)["series_id"].unique().tolist() == ["north", "south"]


@pytest.mark.parametrize(
    ("frame", "options", "says"),
    [
        (WIDE, {}, "columns of numbers: OT, HUFL; choose what to forecast with --value"),
        (WIDE, {"value": "XX"}, "no column 'XX'; found: date, OT, HUFL"),
        (WIDE, {"value": "OT", "covariates": ["rain"]}, "no column 'rain'"),
        (WIDE.drop(columns="date"), {"value": "OT"}, "no column of times; .* --time"),
        (WIDE[["date"]].assign(note="x"), {}, "no column of numbers"),
        (WIDE.assign(OT="much"), {"value": "OT"}, "row 1: column 'OT' holds 'much', which is not a number"),
        (WIDE.assign(date="someday"), {"value": "OT"}, "row 1: .* is not a date"),
        (PARTED, {}, "parts of its dates in columns year, month; write each date in one column, such as 2024-01, and"),
        (PARTED.assign(day=1), {"value": "y"}, "in columns year, month, day; .* such as 2024-01-31, .* with --time"),
        (PARTED.assign(month=["Jan", "Feb"]), {"time": "month"}, "in columns year, month; .* such as 2024-01,"),
        (PARTED.rename(columns={"month": "Week"}), {}, "in columns year, Week; .* such as 2024-01-29, its Monday,"),
        (WIDE[:0], {"value": "OT"}, "no rows"),
    ],
)
def test_unusable_files_are_refused_with_a_remedy(write_frame, frame, options, says):
    with pytest.raises(ValueError, match=says):
        read_series(write_frame(frame, "file.csv"), **options)


def test_a_month_with_its_year_is_a_date_whatever_is_beside_it(write_frame):
    whole = PARTED.assign(month=["1749-01", "1749-02"])
    times = [pd.Timestamp("1749-01-01"), pd.Timestamp("1749-02-01")]
    assert read_series(write_frame(whole, "suns.csv"), value="y")["timestamp"].tolist() == times
    typed = whole.assign(month=pd.to_datetime(whole["month"]))
    assert read_series(write_frame(typed, "suns.parquet"), value="y")["timestamp"].tolist() == times
    assert read_series(write_frame(PARTED[["year", "y"]][:1], "suns.csv"))["timestamp"].tolist() == times[:1]


TWO = pd.DataFrame({"date": [*TIMES] * 2, "store": [1] * 8, "item": list("aaaabbbb"), "units": range(8)})
GOODS = pd.DataFrame({"item": ["a", "b"], "store": [1, 1], "kind": ["dry", "fresh"]})


def test_a_static_table_is_joined_by_keys_of_several_columns(write_frame):
    static, options = write_frame(GOODS, "goods.csv"), {"value": "units", "id": "store,item"}
    frame = read_series(write_frame(TWO, "s.csv"), static_file=static, **options)
    told = frame.groupby("series_id")[["store", "item", "kind"]].first()
    assert told.astype(str).to_numpy().tolist() == [["1", "a", "dry"], ["1", "b", "fresh"]]
    assert told.index.tolist() == ["1/a", "1/b"]
    joined = GOODS.assign(unique_id=["1/a", "1/b"])[["unique_id", "kind"]]
    again = read_series(write_frame(TWO, "s.csv"), static_file=write_frame(joined, "other.csv"), **options)
    assert again["kind"].tolist() == frame["kind"].tolist()


def test_a_static_table_and_a_file_with_the_same_column(write_frame):
    path, options = write_frame(TWO.assign(kind=["dry"] * 4 + ["fresh"] * 4), "s.csv"), {"value": "units"}
    options |= {"id": "store,item", "static": ["kind"]}
    same = read_series(path, static_file=write_frame(GOODS, "goods.csv"), **options)
    pd.testing.assert_frame_equal(same, read_series(path, **options))
    wrong = write_frame(GOODS.assign(kind=["dry", "frozen"]), "wrong.csv")
    told = "1/b: kind is fresh in its rows and frozen in the static table; correct one"
    assert read_series(path, static_file=wrong, **options).attrs["skipped"] == {"1/b": told}
    priced = write_frame(GOODS.assign(price=2.5), "priced.csv")
    path = write_frame(TWO.assign(price=1.5), "s.csv")
    frame = read_series(path, static_file=priced, **options | {"covariates": ["price"]})
    assert frame["price"].tolist() == [1.5] * 8
    with pytest.raises(ValueError, match=r"'price' is a covariate of the rows of .*, and a static one; rename one"):
        read_series(path, static_file=priced, **options | {"covariates": ["price"], "static": ["kind", "price"]})


def test_prices_are_told_from_series(write_frame, make_bars):
    prices, load = write_frame(make_bars(5), "prices.csv"), write_frame(WIDE, "load.parquet")
    assert list(read_data(prices)) == ["timestamp", "ticker", "open", "high", "low", "close", "volume"]
    assert "close" in read_data("sample")
    assert read_data(prices, columns=Columns(value="volume"), kind=UNIVARIATE)["series_id"].unique().tolist() == [
        "AAA"
    ]
    assert list(read_data(load, columns=Columns(value="OT"))) == ["timestamp", "series_id", "value"]
    with pytest.raises(ValueError, match="leave --value out"):
        read_data(prices, columns=Columns(value="close"), kind=OHLCV)
    with pytest.raises(ValueError, match="no column for"):
        read_data(write_frame(make_bars(5).drop(columns="high"), "half.csv"))


def test_an_unknown_ticker_is_told_from_near_ones(make_bars, tmp_path):
    many = pd.concat([make_bars(3, ticker=f"T{number:04d}") for number in range(60)])
    many.to_csv(tmp_path / "a.csv", index=False)
    for read in (read_bars, read_raw):
        with pytest.raises(ValueError, match=r"T0019 and 40 more\. Did you mean T0042\?$") as told:
            read(tmp_path / "a.csv", ["t0042"])
        assert len(str(told.value)) < 400
    with pytest.raises(ValueError, match=r"MSFT\. Did you mean AAPL\?"):
        read_bars(SAMPLE, ["APPL"])


# Cells of whole files


def written(tmp_path, frame, dates="%Y-%m-%d", **options):
    frame.assign(timestamp=frame["timestamp"].dt.strftime(dates)).to_csv(tmp_path / "AAA.csv", index=False, **options)
    return tmp_path / "AAA.csv"


def test_day_first_is_read_whole_and_cleaned_whole(tmp_path, make_bars):
    bars = make_bars(300)
    path = written(tmp_path, bars, "%d/%m/%Y")
    for frame in (read_bars(path), clean_bars(read_raw(path))[0]):
        assert (frame["timestamp"] == bars["timestamp"]).all()
        np.testing.assert_array_equal(frame["close"], bars["close"])
    with pytest.raises(ValueError, match="not written as mdy"):
        read_bars(path, dates="mdy")


def test_an_order_that_the_first_piece_does_not_tell_is_told_by_the_file(tmp_path, make_bars):
    bars = make_bars(60).assign(timestamp=pd.date_range("2023-02-01", periods=60))
    pieces = pd.concat(iter_raw(written(tmp_path, bars, "%d/%m/%Y"), rows=10), ignore_index=True)
    assert (pieces["timestamp"] == bars["timestamp"]).all()
    path = written(tmp_path, bars[:10], "%d/%m/%Y")
    with pytest.raises(ValueError, match=r"AAA.csv: in column 'timestamp', .* tells which; say it with --dates"):
        read_raw(path)
    assert (read_raw(path, dates="dmy")["timestamp"] == bars["timestamp"][:10]).all()
    assert (read_bars(path, dates="mdy")["timestamp"].dt.day == 2).all()


@pytest.mark.parametrize("rows", [10, 1000])
def test_marks_of_thousands_that_come_late_lose_no_bar(tmp_path, make_bars, rows):
    scaled = make_bars(60)
    scaled[PRICES] = (scaled[PRICES] * np.linspace(9, 11, 60)[:, None]).round()
    text = scaled.assign(**{name: scaled[name].map("{:,.2f}".format) for name in PRICES})
    raw = pd.concat(iter_raw(written(tmp_path, text), rows=rows), ignore_index=True)
    np.testing.assert_array_equal(raw[PRICES], scaled[PRICES])
    np.testing.assert_array_equal(read_bars(tmp_path / "AAA.csv")[PRICES], scaled[PRICES])


def test_a_large_share_that_cannot_be_read_is_not_cleaned(tmp_path, make_bars):
    bars = make_bars(100)
    bars["close"] = bars["close"].astype(object)
    bars.loc[::10, "close"] = "closed"
    with pytest.raises(ValueError, match=r"10% of column 'close' cannot be read, such as 'closed'; cleaning is not"):
        read_raw(written(tmp_path, bars))
    with pytest.raises(ValueError, match="10% of column 'close'"):
        clean_bars(bars)
    bars.loc[20:, "close"] = 1.0
    assert clean_bars(bars)[1]["rules"]["text"]["rows"] == 2  # isolated cells


def test_newest_first_is_turned_round(tmp_path, make_bars, small, assert_same_batch):
    bars = pd.concat([make_bars(60), make_bars(50, ticker="BBB", seed=1)], ignore_index=True)
    path = written(tmp_path, bars[::-1])
    read = read_bars(path)
    assert read["ticker"].unique().tolist() == ["BBB", "AAA"]
    for name in ("AAA", "BBB"):
        mine = bars[bars["ticker"] == name].reset_index(drop=True)
        assert (read[read["ticker"] == name]["timestamp"].to_numpy() == mine["timestamp"]).all()
    assert_same_batch(small(bars[::-1]), small(read))
    assert clean_bars(bars[::-1])[1]["rules"]["unordered"]["rows"] == 0


def test_an_hour_that_comes_twice_is_neither_read_nor_cleaned(make_bars, small):
    utc = pd.date_range("2023-11-04", periods=60, freq="h", tz="UTC")
    bars = make_bars(60).assign(timestamp=utc.tz_convert("America/New_York").tz_localize(None))
    for use in (small, clean_bars):
        with pytest.raises(
            ValueError, match=r"AAA, row .*daylight saving ends.*: give times in UTC or with their offset"
        ):
            use(bars)


def test_an_open_of_zero_is_refused_with_the_way_out(make_bars, small):
    bars = make_bars(60)
    bars.loc[:9, "open"] = 0.0
    with pytest.raises(ValueError, match=r"AAA, row 0, .* \(and 9 more\): open is 0, .*; start later, or mask"):
        small(bars)
    assert clean_bars(bars)[1]["missing_bars"] == 10


def test_cleaning_skips_a_file_of_several_that_is_no_table(tmp_path, make_bars):
    make_bars(40, ticker="GOOD").to_csv(tmp_path / "good.csv", index=False)
    half = pd.concat([make_bars(40, ticker="X"), make_bars(40, ticker="Y")]).astype({"timestamp": str})
    half.iloc[::3, half.columns.get_loc("timestamp")] = "??"
    half.to_csv(tmp_path / "half.csv", index=False)
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    raw = read_raw(tmp_path)
    assert set(raw["ticker"]) == {"GOOD"}  # nothing stays of what was skipped
    assert list(raw.attrs["skipped"]) == ["X", "Y", "notes"]
    assert "cannot be read, such as '??'" in raw.attrs["skipped"]["Y"]
    with pytest.raises(ValueError, match=r"half\.csv: 34% of column 'timestamp' cannot be read"):
        read_raw(tmp_path, strict=True)
    with pytest.raises(ValueError, match=r"notes\.csv has no column"):
        read_raw(tmp_path / "notes.csv")


def test_a_refusal_of_one_ticker_names_it_and_cleaning_where_it_helps(tmp_path, make_bars):
    bars = pd.concat([make_bars(40, ticker="GOOD"), make_bars(40, ticker="BAD")]).astype({"close": object})
    bars.iloc[50, bars.columns.get_loc("close")] = "oops"
    bars.to_csv(tmp_path / "a.csv", index=False)
    reason = read_bars(tmp_path / "a.csv").attrs["skipped"]["BAD"]
    assert reason.startswith(f"BAD: {tmp_path / 'a.csv'}, row 51: column 'close' holds 'oops'")
    assert reason.endswith("leave missing cells empty, as tsf-llm clean does.")
    assert len(clean_bars(read_raw(tmp_path / "a.csv"))[0]) == 80
    bars.assign(close="oops").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match=r"leave missing cells empty\.$"):
        read_bars(tmp_path / "a.csv")


# --- in pieces ---


@pytest.mark.parametrize("file", ["a.csv", "a.parquet"])
def test_a_file_is_read_in_pieces_to_the_bits_of_the_whole(tmp_path, make_bars, monkeypatch, file):
    write = "to_csv" if file == "a.csv" else "to_parquet"
    bars = pd.concat([make_bars(60, ticker=name, seed=i).assign(adj_close=9.0, y=1.5) for i, name in enumerate("AB")])
    bars.loc[bars.index[::7], ["close", "volume"]] = np.nan
    getattr(bars, write)(tmp_path / file, index=False)
    whole = read_bars(tmp_path / file, covariates=["y"])
    series = read_series(tmp_path / file, value="close", covariates=["y"])
    monkeypatch.setattr(sources, "ROWS", 7)
    monkeypatch.setattr(sources, "open_table", None)
    pd.testing.assert_frame_equal(read_bars(tmp_path / file, covariates=["y"]), whole, check_exact=True)
    read = read_series(tmp_path / file, value="close", covariates=["y"])
    pd.testing.assert_frame_equal(read, series, check_exact=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda bars: bars.assign(close=["1e3"] * 90 + ["12 000 000,5"] * 10),
        lambda bars: bars.assign(timestamp=bars["timestamp"].where(bars.index < 50, "bad")),
        lambda bars: bars.assign(timestamp=bars["timestamp"].where(bars.index < 50, bars["timestamp"].str[:7])),
        lambda bars: bars.assign(y=["5%"] * 49 + ["0.05"] * 51),
        lambda bars: bars.assign(y=["5%"] * 50 + ["x"] * 50),
        lambda bars: bars.assign(
            leg=["p", "q"] * 50, timestamp=bars["timestamp"].iloc[np.arange(100) // 2].to_numpy()
        ),
        lambda bars: pd.concat([bars.assign(leg="p"), bars.assign(leg="q")]),
        lambda bars: bars.assign(timestamp=pd.to_datetime(bars["timestamp"]).dt.strftime("%d/%m/%Y")),
        lambda bars: bars.assign(timestamp=bars["timestamp"] + "T00:00:00+09:00"),
        lambda bars: bars.assign(timestamp=[*(bars["timestamp"] + "T00:00:00+09:00")[:-1], "2030-01-01T10:00+09:00"]),
        lambda bars: bars.assign(ticker=["A"] * 60 + ["B"] * 40, open=["1"] * 55 + ["x"] * 45),
        lambda bars: bars.assign(volume=0, **{"real volume": [0] * 80 + [5] * 20}),
    ],
)
def test_what_the_first_piece_does_not_tell_is_as_of_the_whole(tmp_path, make_bars, monkeypatch, change):
    bars = make_bars(100).drop(columns="ticker").assign(y="1")
    change(bars.assign(timestamp=bars["timestamp"].dt.strftime("%Y-%m-%d"))).to_csv(tmp_path / "a.csv", index=False)

    def read() -> object:
        try:
            return read_bars(tmp_path / "a.csv", covariates=["y"]).to_csv()
        except ValueError as error:
            return str(error)

    whole = read()
    monkeypatch.setattr(sources, "ROWS", 7)
    assert read() == whole
