import gzip

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.serving.http import tables
from tsf_llm.serving.http.bodies import MAX_BARS, MAX_COLUMNS, ForecastRequest, Hints
from tsf_llm.serving.http.tables import plain_file_name, sent_tables, uploaded

LONG = pa.DictionaryArray.from_arrays(pa.array(np.zeros(90_000, np.int32)), pa.array(["x" * 1_000_000]))


def read(content, name="AAPL.csv", **asked):
    return uploaded(content, name, Hints(**asked), TsfLlmProcessor())


def parquet(tmp_path, table, **options):
    pq.write_table(table, tmp_path / "x.parquet", **options)
    return (tmp_path / "x.parquet").read_bytes()


def test_columns_of_records_are_bounded_together():
    asked = ForecastRequest(bars=[{f"c{i}": 1} for i in range(50)] + [{f"d{i}": 1} for i in range(50)])
    with pytest.raises(ValueError, match=f"have 100 columns: give at most {MAX_COLUMNS}"):
        sent_tables(asked, TsfLlmProcessor())


def test_hints_of_how_cells_are_written():
    bars = {"Date": ["01/02/2024", "02/02/2024"], "close": ["1.234,5", "1,5"], "symbol": ["1,5", "1,5"]}
    frame = sent_tables(ForecastRequest(bars=bars, dates="dmy", decimal="comma"), TsfLlmProcessor())["bars"]
    assert frame["Date"].dt.month.tolist() == [2, 2]
    assert frame["close"].tolist() == [1234.5, 1.5]
    assert frame["symbol"].tolist() == ["1,5", "1,5"]


@pytest.mark.parametrize("name", ["AAPL.csv", "AAPL.csv.gz", "AAPL.parquet"])
def test_files(bars, tmp_path, name):
    write = bars.drop(columns="ticker").to_parquet if name.endswith("parquet") else bars.drop(columns="ticker").to_csv
    write(tmp_path / name, index=False)
    frame = read((tmp_path / name).read_bytes(), name)
    assert set(frame["ticker"]) == {"AAPL"}
    np.testing.assert_array_equal(frame["close"], bars["close"])


def test_names_are_no_paths():
    assert plain_file_name("/etc/passwd") == "passwd"
    assert plain_file_name("..") == "file"
    assert plain_file_name("\u202e\x00" + "x" * 500 + ".csv").endswith(".csv")


REFUSED = [
    (b"", "AAPL.csv", "AAPL.csv"),
    (b"\x80\x04.", "model.pkl", "is a pickle"),
    (b"a,b\n1,2\n", "AAPL.csv", "no column for timestamp"),
    (b"PAR1", "AAPL.parquet", "is no parquet file"),
    (b"\x1f\x8b\x08rest", "AAPL.csv.gz", "AAPL.csv.gz"),
    (b"x" * 100, "AAPL.zip", "is an archive"),
    (b"x" * 100, "hf:org/name", "extension"),
    (gzip.compress(b"0" * 70_000_000), "AAPL.csv.gz", "send less"),
    (gzip.compress(b"a\n") + gzip.compress(b"0" * 70_000_000), "AAPL.csv.gz", "send less"),
    (gzip.compress(b"a" * 1000)[:-5], "AAPL.csv.gz", "no whole gzip file"),
    (b"1\n" * (MAX_BARS + 3), "AAPL.csv", "send less"),
    (b"a," * 10_000, "AAPL.csv", f"more than {MAX_COLUMNS} columns"),
]


@pytest.mark.parametrize(("content", "name", "message"), REFUSED, ids=range(len(REFUSED)))  # gzip writes the time
def test_files_that_are_refused(content, name, message):
    with pytest.raises(ValueError, match=message) as error:
        read(content, name)
    assert "/" not in str(error.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"close": pa.array(np.zeros(MAX_BARS + 1))}), "send less"),
        (pa.table({f"c{i}": [1.0] for i in range(MAX_COLUMNS + 1)}), "send less"),
        (pa.table({"close": [[1.0], [2.0]]}), "no numbers, times or texts"),
        (pa.table({"close": pa.array([{"a": 1.0}])}), "no numbers, times or texts"),
        (pa.table({"close": ["x" * 100_000] * 500}), "a text of more than"),
        (pa.table({"close": pa.array(["x" * 100_000], pa.large_string())}), "a text of more than"),
        (pa.table({"close": LONG}), "a text of more than"),
    ],
)
def test_parquet_that_holds_too_much(tmp_path, table, message):
    with pytest.raises(ValueError, match=message):
        read(parquet(tmp_path, table), "AAPL.parquet")


def test_nothing_stays_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(tables.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match="no column"):
        read(pd.DataFrame({"a": [1]}).to_csv().encode())
    assert not list(tmp_path.iterdir())
