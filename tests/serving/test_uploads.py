"""uploads.py: what a small file would become is told before it is read."""

import gzip

import pandas as pd
import pytest

from tsf_llm.serving.uploads import TooLarge, Unreadable, check_size

ROWS, COLUMNS = 100, 8


def check(path, **bounds):
    check_size(path, **{"rows": ROWS, "columns": COLUMNS, **bounds})


@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz", "bars.parquet"])
def test_rows_columns_and_bytes_are_bounded(tmp_path, name):
    def written(rows, columns):
        frame = pd.DataFrame({f"c{i}": range(rows) for i in range(columns)})
        frame.to_parquet(tmp_path / name) if name.endswith("parquet") else frame.to_csv(tmp_path / name, index=False)
        return tmp_path / name

    check(written(ROWS, COLUMNS))
    with pytest.raises(TooLarge, match="more than 100 rows"):
        check(written(ROWS + 1, COLUMNS))
    with pytest.raises(ValueError, match="more than 8 columns"):
        check(written(ROWS, COLUMNS + 1))
    with pytest.raises(TooLarge, match="64 bytes"):
        check(written(ROWS, COLUMNS), unpacked=64)


def test_every_member_of_a_gzip_file_counts(tmp_path):
    path = tmp_path / "bars.csv.gz"
    path.write_bytes(gzip.compress(b"close\n1\n") + gzip.compress(b"1\n" * 200))
    with pytest.raises(TooLarge):
        check(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(Unreadable, match="no whole gzip file"):
        check(path, rows=10_000)


def test_a_long_text_that_many_rows_share_is_found(tmp_path):
    path = tmp_path / "bars.parquet"
    pd.DataFrame({"note": pd.Categorical(["x" * 2000] * 50)}).to_parquet(path)
    with pytest.raises(ValueError, match="a text of more than 1024 bytes"):
        check(path)
    path.write_bytes(b"PAR1 no")
    with pytest.raises(Unreadable, match="no parquet file"):
        check(path)
