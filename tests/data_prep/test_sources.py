"""Files in, bars out: layouts, adjustment, order, and one clear error per kind of bad file."""

import gzip
import json
import os
import pickle
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.sources import COLUMNS, SAMPLE, SAMPLE_FILE, read_bars

HEADER = "date,ticker,open,high,low,close,volume\n"
ROWS = "2024-01-02,AAPL,10,12,9,11,100\n2024-01-03,AAPL,11,13,10,12,200\n"


@pytest.fixture
def write(tmp_path):
    """Write text to a file below `tmp_path` and return its path."""

    def _write(text, name="prices.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return _write


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


# Layouts


@pytest.mark.parametrize(
    "header",
    [
        "Date,Symbol,Open,High,Low,Close,Volume",
        "Datetime,TICKER,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "timestamp,ticker,1. open,2. high,3. low,4. close,6. volume",
        "\ufeffTime, Ticker , Open , High,Low,Close,Vol",
    ],
)
def test_column_names_of_common_layouts(write, header):
    expected = read_bars(write(HEADER + ROWS, "expected.csv"))
    pd.testing.assert_frame_equal(read_bars(write(header + "\n" + ROWS)), expected)


@pytest.mark.parametrize("name", ["Adj Close", "adj_close", "Adjusted Close", "5. adjusted close", "adjClose"])
def test_adjusted_close_under_its_common_names(write, name):
    path = write(f"Date,Open,High,Low,Close,{name},Volume\n2024-01-02,10,12,8,10,5,100\n")
    assert read_bars(path)[["open", "high", "low", "close", "volume"]].iloc[0].tolist() == [5, 6, 4, 5, 200]


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


def test_zoned_parquet_becomes_naive_utc(tmp_path, write):
    bars = read_bars(write(HEADER + ROWS))
    zoned = bars.assign(timestamp=bars["timestamp"].dt.tz_localize("America/New_York"))
    zoned.to_parquet(tmp_path / "zoned.parquet")
    times = read_bars(tmp_path / "zoned.parquet")["timestamp"]
    assert times.astype(str).tolist() == ["2024-01-02 05:00:00", "2024-01-03 05:00:00"]


@pytest.mark.parametrize("date", ["2024-01-31", "20240131", "01/31/2024", "Jan 31, 2024", "2024-01-31T00:00:00Z"])
def test_date_formats(write, date):
    path = write(f'date,ticker,open,high,low,close\n"{date}",A,1,2,1,2\n')
    assert read_bars(path)["timestamp"].iloc[0] == pd.Timestamp("2024-01-31")


def test_tickers_that_look_like_missing_values_or_numbers_stay(write):
    path = write(HEADER + "2024-01-02,NA,1,2,1,2,3\n2024-01-02,000001,1,2,1,2,3\n2024-01-02,TRUE,1,2,1,2,3\n")
    assert read_bars(path)["ticker"].tolist() == ["NA", "000001", "TRUE"]


# Vendors, each as it writes its files

VENDORS = {
    "yahoo": (
        "AAPL.csv",
        "Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-31,20,24,16,20,10,50\n",
    ),
    "alphavantage": (
        "AAPL.csv",
        "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
        "2024-01-31,20,24,16,20,10,50,0.0000,1.0\n",
    ),
    "alphavantage_json": (
        "AAPL.csv",
        "date,1. open,2. high,3. low,4. close,5. adjusted close,6. volume,7. dividend amount,8. split coefficient\n"
        "2024-01-31,20,24,16,20,10,50,0.0000,1.0\n",
    ),
    "tiingo": (
        "AAPL.csv",
        "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor\n"
        "2024-01-31T00:00:00.000Z,20,24,16,20,50,10,12,8,10,50,0.0,1.0\n",
    ),
    "stooq": (
        "aapl.us.csv",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "AAPL,D,20240131,000000,10,12,8,10,100,0\n",
    ),
    "polygon": (
        "2024-01-31.csv.gz",
        gzip.compress(
            b"ticker,volume,open,close,high,low,window_start,transactions\nAAPL,100,10,10,12,8,1706659200000000000,1\n"
        ),
    ),
    "polygon_json": ("day.csv", "T,v,vw,o,c,h,l,t,n\nAAPL,100,9.9,10,10,12,8,1706659200000,7\n"),
    "binance": (
        "AAPL-1d-2024-01.csv",
        "1706659200000,10,12,8,10,100,1706745599999,1000,7,50,500,0\n",
    ),
    "binance_microseconds": (
        "AAPL-1d-2024-01-31.csv",
        "1706659200000000,10,12,8,10,100,1706745599999999,1000,7,50,500,0\n",
    ),
    "binance_futures": (
        "AAPL-1h-2024-01.csv",
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
        "taker_buy_quote_volume,ignore\n1706659200000,10,12,8,10,100,1706745599999,1000,7,50,500,0\n",
    ),
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_layout_of_a_vendor(write, vendor):
    name, text = VENDORS[vendor]
    bars = read_bars(write(text, name))
    assert bars.to_numpy().tolist() == [[pd.Timestamp("2024-01-31"), "AAPL", 10, 12, 8, 10, 100]]


def test_time_of_day_beside_the_date(write):
    stooq = "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>\n20240131,093000,1,2,1,2\n20240131,093500,1,2,1,2\n"
    plain = "Date,Time,Open,High,Low,Close\n2024-01-31,09:30,1,2,1,2\n2024-01-31,09:35,1,2,1,2\n"
    expected = pd.to_datetime(["2024-01-31 09:30", "2024-01-31 09:35"]).tolist()
    for text in (stooq, plain):
        assert read_bars(write(text))["timestamp"].tolist() == expected
    with pytest.raises(ValueError, match="row 2: column 'Date' holds '2024-01-31 noon'"):
        read_bars(write(plain.replace("09:35", "noon")))


def test_months_of_one_ticker_join(write, tmp_path):
    row = "{}00000,10,12,8,10,100,1,1,1,1,1,0\n"
    write(row.format(17040672), "BTCUSDT-1d-2024-01.csv")
    write(row.format(17067456), "BTCUSDT-1d-2024-02.csv")
    bars = read_bars(tmp_path)
    assert bars["ticker"].tolist() == ["BTCUSDT", "BTCUSDT"]
    assert bars["timestamp"].dt.month.tolist() == [1, 2]


@pytest.mark.parametrize("bad", ["", "soon", "170665920000", "99999999999999999999"])
def test_bad_time_among_epochs(write, bad):
    path = write(f"open_time,open,high,low,close\n1706659200000,1,2,1,2\n{bad},1,2,1,2\n")
    with pytest.raises(ValueError, match=f"row 2: column 'open_time' holds '{bad}', which is not a date"):
        read_bars(path)


# Datasets


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A folder laid out like a dataset repository; `datasets` is offline, with an empty cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    repository = tmp_path / "prices"
    repository.mkdir()
    bars = read_bars(SAMPLE, ["FB", "IBM"])
    bars.to_parquet(repository / "train.parquet")
    return repository


def test_dataset_of_the_hub(hub):
    expected = read_bars(SAMPLE, ["FB", "IBM"])
    pd.testing.assert_frame_equal(read_bars(f"hf:{hub}"), expected)  # its only split
    pd.testing.assert_frame_equal(read_bars([f"hf:{hub}:train"], ["FB", "IBM"]), expected)
    assert len(read_bars(f"hf:{hub}:train[:10]")) == 10


class Hub(BaseHTTPRequestHandler):
    """What `load_dataset` asks of the Hub for org/prices, which holds data/train.parquet."""

    def do_GET(self):
        path = self.path.partition("?")[0]
        entry = {"path": "data/train.parquet", "type": "file", "size": len(self.server.content), "oid": "c" * 40}
        if path.endswith("/data/train.parquet"):
            self.answer(self.server.content)
        elif "/api/datasets/org/prices/tree/" in path:
            folder = {"path": "data", "type": "directory", "size": 0, "oid": "b" * 40}
            self.answer([entry] if path.endswith("/data") else [folder])
        elif path.startswith("/api/datasets/org/prices"):
            files = [{"rfilename": "data/train.parquet"}]
            self.answer({"id": "org/prices", "_id": "1", "sha": "a" * 40, "private": False, "siblings": files})
        else:
            self.answer({}, 404, {"X-Error-Code": "EntryNotFound" if "org/prices" in path else "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, content, status=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        etag = {"ETag": f'"{"c" * 40}"', "X-Repo-Commit": "a" * 40, "Content-Length": str(len(body))}
        self.send_response(status)
        for name, value in {**etag, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_dataset_over_http_then_offline(tmp_path):
    expected = read_bars(SAMPLE, ["FB"])
    expected.to_parquet(tmp_path / "train.parquet")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.content = (tmp_path / "train.parquet").read_bytes()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    script = (
        "import sys; from tsf_llm.data_prep.sources import read_bars; read_bars(sys.argv[1]).to_parquet(sys.argv[2])"
    )
    here = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "no_proxy": "127.0.0.1",
    }

    def read(name, **environment):
        words = [sys.executable, "-c", script, name, tmp_path / "read.parquet"]
        run = subprocess.run(words, env={**os.environ, **here, **environment}, capture_output=True, text=True)
        return run.stderr.splitlines()[-1] if run.returncode else pd.read_parquet(tmp_path / "read.parquet")

    try:
        pd.testing.assert_frame_equal(read("hf:org/prices:train", HF_HUB_OFFLINE="0"), expected)
        assert "hf:org/other cannot be read (Dataset 'org/other' doesn't exist" in read(
            "hf:org/other", HF_HUB_OFFLINE="0"
        )
    finally:
        server.shutdown()
        server.server_close()
    pd.testing.assert_frame_equal(read("hf:org/prices:train", HF_HUB_OFFLINE="1"), expected)


def test_several_splits_must_be_chosen_from(hub):
    read_bars(SAMPLE, ["AAPL"]).to_parquet(hub / "test.parquet")
    with pytest.raises(ValueError, match=r"has several splits; name one: hf:.*:train, hf:.*:test"):
        read_bars(f"hf:{hub}")
    assert read_bars(f"hf:{hub}:test")["ticker"].unique().tolist() == ["AAPL"]


def test_dataset_without_tickers_is_called_by_its_name(hub):
    read_bars(SAMPLE, ["FB"]).drop(columns="ticker").to_parquet(hub / "train.parquet")
    assert read_bars(f"hf:{hub}:train")["ticker"].unique().tolist() == ["prices"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:", "'hf:' names no dataset; write it as hf:org/name"),
        ("hf:nobody/nothing", "hf:nobody/nothing cannot be read .*check its name"),
        ("hf:{hub}:valid", 'cannot be read .*Unknown split "valid"'),
        ("hf:{hub}/nowhere", "nowhere cannot be read"),
    ],
)
def test_no_such_dataset(hub, name, message):
    with pytest.raises(ValueError, match=message):
        read_bars(name.format(hub=hub))


def test_dataset_with_a_script_is_refused_and_not_run(tmp_path, hub):
    ran = tmp_path / "ran"
    (tmp_path / "script").mkdir()
    (tmp_path / "script" / "script.py").write_text(f"open({str(ran)!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be read"):
        read_bars(f"hf:{tmp_path / 'script'}")
    assert not ran.exists()


def test_folder_of_save_to_disk(tmp_path):
    expected = read_bars(SAMPLE, ["FB"])
    data = datasets.Dataset.from_pandas(expected)
    data.with_format("torch").save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=data, test=data).save_to_disk(tmp_path / "two")
    for folder in ("one", "two/train"):
        pd.testing.assert_frame_equal(read_bars(tmp_path / folder), expected)
    with pytest.raises(ValueError, match=r"two has several splits; name one: .*two/train, .*two/test"):
        read_bars(tmp_path / "two")
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"")
    with pytest.raises(ValueError, match=r"one cannot be read .*write it again with save_to_disk"):
        read_bars(tmp_path / "one")


# Tickers from paths

BARE = "Date,Close,High,Low,Open,Volume\n2024-01-02,11,12,9,10,100\n"


@pytest.mark.parametrize(
    ("name", "ticker"),
    [
        ("AAPL.csv", "AAPL"),
        ("BRK_B.csv", "BRK_B"),
        ("AAPL_yahoo_20260118.csv", "AAPL"),
        ("BRK_B_yahoo_20260118.csv", "BRK_B"),
        ("AAPL/AAPL_yahoo_20260118.csv", "AAPL"),
        ("BRK-B/BRK-B_daily.csv", "BRK-B"),
        ("^GSPC/^GSPC.csv", "^GSPC"),
    ],
)
def test_ticker_from_the_path(write, name, ticker):
    assert read_bars(write(BARE, name))["ticker"].tolist() == [ticker]


def test_file_names_shared_by_several_folders_take_the_folder(write, tmp_path):
    write(BARE, "AAPL/daily.csv")
    write(BARE, "MSFT/daily.csv")
    assert read_bars(tmp_path)["ticker"].tolist() == ["AAPL", "MSFT"]


def test_folder_is_read_recursively_and_ignores_other_files(write, tmp_path):
    write(BARE, "raw/price_history/MSFT/MSFT_yahoo_20260118.csv")
    write(BARE, "raw/AAPL.csv")
    write("{}", "cleaning.json")
    write("", ".hidden.csv")
    assert read_bars(tmp_path)["ticker"].tolist() == ["AAPL", "MSFT"]


def test_list_of_files_keeps_its_order(write):
    files = [write(BARE, "MSFT.csv"), str(write(BARE, "AAPL.csv"))]
    assert read_bars(files)["ticker"].tolist() == ["MSFT", "AAPL"]


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


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv does not exist; name a file"):
        read_bars(tmp_path / "nowhere.csv")


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
        ("p.csv", b"\xff\xfe\x00\x01", "is not a comma-separated UTF-8 file"),
        ("p.csv", HEADER + ROWS + "2024-13-45,A,1,2,1,2,3\n", "row 3: column 'date' holds '2024-13-45'"),
        ("p.csv", HEADER + ROWS + ",A,1,2,1,2,3\n", "row 3: column 'date' holds ''"),
        ("p.csv", HEADER + "1704412800,A,1,2,1,2,3\n", "row 1: column 'date' holds '1704412800'"),
        ("p.csv", HEADER + ROWS + "2024-01-04,A,1,2,1,abc,3\n", "row 3: column 'close' holds 'abc'"),
        ("p.csv", HEADER + '2024-01-04,A,1,2,1,2,"1,000"\n', "row 1: column 'volume' holds '1,000'"),
        ("p.csv", HEADER + ROWS + "2024-01-04,,1,2,1,2,3\n", "row 3: column 'ticker' is empty"),
        ("p.csv.gz", b"not gzip", "p.csv.gz cannot be read"),
        ("p.csv.gz", gzip.compress((HEADER + ROWS * 50).encode(), mtime=0)[:-20], "p.csv.gz cannot be read"),
        ("p.parquet", b"not parquet", "p.parquet cannot be read"),
        ("p.parquet", b"", "p.parquet cannot be read"),
        ("p.pkl", pickle.dumps([]), "p.pkl is a pickle, which can run code"),
        ("p.xlsx", b"", "p.xlsx has an extension that is not read here; convert it to .csv or .csv.gz or .parquet"),
    ],
)
def test_bad_file(write, name, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_bars(write(content, name))
    assert name in str(caught.value)


def test_folder_without_price_files(tmp_path, write):
    write("{}", "notes.json")
    with pytest.raises(ValueError, match=r"holds no price files; expected \.csv, \.csv\.gz, \.parquet"):
        read_bars(tmp_path)


def test_empty_list():
    with pytest.raises(ValueError, match="list of price files is empty"):
        read_bars([])


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
