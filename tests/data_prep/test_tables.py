"""Files and datasets as they stand, and the ticker in a path."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsf_llm.data_prep.sources import read_bars, read_raw
from tsf_llm.data_prep.tables import SAMPLE, open_table

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


@pytest.mark.parametrize("name", ["dataset_info.json", "state.json"])
@pytest.mark.parametrize("text", ["[]", "null", "{", '{"features": 3}', '{"_data_files": 3}', "[" * 100_000])
def test_a_broken_folder_of_save_to_disk_is_one_line(tmp_path, name, text):
    datasets.Dataset.from_dict({"close": [1.0, 2.0]}).save_to_disk(tmp_path / "data")
    (tmp_path / "data" / name).write_text(text)
    if (name, text) == ("dataset_info.json", '{"_data_files": 3}'):
        assert open_table(tmp_path / "data")["close"].tolist() == [1.0, 2.0]  # it does not say where the rows are
        return
    with pytest.raises(
        ValueError, match=r"data (cannot be read|holds something of another shape).*save_to_disk"
    ) as found:
        open_table(tmp_path / "data")
    assert "\n" not in str(found.value)


def test_a_dictionary_of_no_datasets_is_refused(tmp_path):
    for text in ("{}", '{"splits": []}', '{"splits": 3}'):
        (tmp_path / "dataset_dict.json").write_text(text)
        with pytest.raises(ValueError, match="write it again with save_to_disk"):
            open_table(tmp_path)


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


def test_months_of_one_ticker_join(write, tmp_path):
    row = "{}00000,10,12,8,10,100,1,1,1,1,1,0\n"
    write(row.format(17040672), "BTCUSDT-1d-2024-01.csv")
    write(row.format(17067456), "BTCUSDT-1d-2024-02.csv")
    bars = read_bars(tmp_path)
    assert bars["ticker"].tolist() == ["BTCUSDT", "BTCUSDT"]
    assert bars["timestamp"].dt.month.tolist() == [1, 2]


# Errors


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv does not exist; name a file"):
        read_bars(tmp_path / "nowhere.csv")


def test_folder_without_price_files(tmp_path, write):
    write("{}", "notes.json")
    with pytest.raises(ValueError, match=r"holds no price files; expected \.csv, \.csv\.gz, \.parquet"):
        read_bars(tmp_path)


def test_empty_list():
    with pytest.raises(ValueError, match="list of price files is empty"):
        read_bars([])


def test_the_same_ticker_in_two_files(write, tmp_path):
    """Two vendors of one time are refused; pieces that follow one another join."""
    days = [f"2024-01-{day:02d},1,2,1,2,3\n" for day in range(1, 21)]
    first = write("Date,Open,High,Low,Close,Volume\n" + "".join(days[:12]), "yahoo/AAPL.csv")
    second = write("Date,Open,High,Low,Close,Volume\n" + "".join(days[10:]), "stooq/AAPL.csv")
    for read in (read_bars, read_raw):
        with pytest.raises(
            ValueError, match=r"AAPL is in .*AAPL.csv and in .*AAPL.csv, and both have rows from"
        ) as told:
            read([first, second])
        assert str(first) in str(told.value)
        assert str(second) in str(told.value)
    second.write_text("Date,Open,High,Low,Close,Volume\n" + "".join(days[12:]))
    assert len(read_bars([first, second])) == len(read_raw([first, second])) == 20


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("prices.zip", "is an archive; unpack it and name the .csv"),
        ("prices.xlsx", "is a spreadsheet; save its sheet as CSV"),
        ("prices.json", "has an extension that is not read here; convert it"),
    ],
)
def test_other_kinds_of_files(write, name, says):
    with pytest.raises(ValueError, match=says):
        read_bars(write("x", name))


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path, write):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty.csv").mkdir()
    (tmp_path / "gone.csv").symlink_to("nowhere")
    for name, says in {
        "pipe": "is a pipe, a socket or a device",
        "empty.csv": "holds no price files",
        "gone.csv": "gone.csv is a link to nowhere, which does not exist",
        ".": "gone.csv is a link to nowhere",
        "~nosuchuser/prices": "no such user on this machine",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=says):
            read_bars(name if name.startswith("~") else tmp_path / name)
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        read_bars("/dev/zero")
    (tmp_path / "gone.csv").unlink()
    os.mkfifo(tmp_path / "AAPL.csv")
    with pytest.raises(ValueError, match=r"AAPL.csv is a pipe"):
        read_bars(tmp_path)


def test_the_search_of_a_folder_has_an_end(write, tmp_path, monkeypatch):
    monkeypatch.setattr("tsf_llm.data_prep.tables.MOST_ENTRIES", 20)
    write(BARE, "0/AAPL.csv")
    for number in range(25):
        write("x", f"files/{number}.log")
    with pytest.raises(ValueError, match=r"holds more than 20 files and folders, . of them price files so far"):
        read_bars(tmp_path)


# Odd parquet


def odd(bars, **columns):
    table = pa.Table.from_pandas(bars, preserve_index=False)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.append_column(name, values) if at < 0 else table.set_column(at, name, values)
    return table


def of(kind):
    return lambda bars: odd(bars, close=pa.array(bars["close"]).cast(kind))


def described(text):
    return lambda bars: odd(bars).replace_schema_metadata({"pandas": text})


ODD = {
    "decimal": of(pa.decimal128(20, 6)),
    "half": of(pa.float16()),
    "text": of(pa.string()),
    "unused categories": lambda bars: odd(
        bars, ticker=pa.DictionaryArray.from_arrays(pa.array([1] * len(bars), pa.int32()), pa.array(["Z", "AAA", "Q"]))
    ),
    "lists beside": lambda bars: odd(bars, tags=pa.array([["x"]] * len(bars))),
    "structs beside": lambda bars: odd(bars, name=pa.array([{"a": 1}] * len(bars))),
    "no JSON": described("{not json"),
    "no text": described(b"\xff\xfe"),
    "a list": described("[]"),
    "no keys": described("{}"),
    "an index that is not there": described('{"index_columns": ["no"], "columns": [], "column_indexes": []}'),
    "numbers for lists": described('{"index_columns": 3, "columns": 7, "column_indexes": {}}'),
    "two of a name that nobody reads": lambda bars: pa.Table.from_arrays(
        [*odd(bars).columns, odd(bars)["open"], odd(bars)["open"]], names=[*bars.columns, "x", "x"]
    ),
}


@pytest.mark.parametrize("build", ODD.values(), ids=ODD)
def test_odd_parquet_is_read(tmp_path, make_bars, build):
    bars = make_bars(30)
    pq.write_table(build(bars), tmp_path / "AAA.parquet")
    read = read_bars(tmp_path / "AAA.parquet")
    assert read["ticker"].unique().tolist() == ["AAA"]
    np.testing.assert_allclose(read["close"], bars["close"], rtol=1e-3)
    assert len(read_raw(tmp_path / "AAA.parquet")) == 30


@pytest.mark.parametrize(
    ("column", "values", "says"),
    [
        ("close", [{"a": 1.0}], "column 'close' holds struct<a: double> in a cell; write one number"),
        ("ticker", [["A"]], r"column 'ticker' holds list<.*> in a cell"),
        ("Close", [1.0], "columns 'close', 'Close' for close; keep one of each"),
    ],
)
def test_parquet_that_cannot_be_told(tmp_path, make_bars, column, values, says):
    pq.write_table(odd(make_bars(30), **{column: pa.array(values * 30)}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=says):
        read_bars(tmp_path / "a.parquet")


def test_parquet_without_row_groups(tmp_path, make_bars):
    with pq.ParquetWriter(tmp_path / "a.parquet", odd(make_bars(3)).schema):
        pass
    with pytest.raises(ValueError, match="has no rows"):
        read_bars(tmp_path / "a.parquet")
