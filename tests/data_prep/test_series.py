"""Files of plain series: both shapes, the usual names, and a clear word where a choice is needed."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import OHLCV, UNIVARIATE
from tsf_llm.data_prep.series import read_data, read_series

TIMES = pd.date_range("2021-03-01", periods=4, freq="h")
WIDE = pd.DataFrame({"date": TIMES, "OT": [1.5, 0.0, -2.0, np.nan], "HUFL": [4, 5, 6, 7]})
LONG = pd.DataFrame({"ds": [*TIMES[:2], *TIMES[:2]], "unique_id": ["b", "b", "a", "a"], "y": [1, 2, 3, 4]})


@pytest.fixture
def write(tmp_path):
    """`write(frame, name)` -> path of a CSV or parquet file."""

    def build(frame, name):
        path = tmp_path / name
        frame.to_parquet(path) if name.endswith("parquet") else frame.to_csv(path, index=False)
        return path

    return build


@pytest.mark.parametrize("name", ["ett.csv", "ett.csv.gz", "ett.parquet"])
def test_a_column_of_a_wide_file(write, name):
    frame = read_series(write(WIDE, name), value="OT")
    assert list(frame) == ["timestamp", "series_id", "value"]
    assert frame["series_id"].unique().tolist() == ["OT"]
    np.testing.assert_array_equal(frame["value"], WIDE["OT"])
    assert (frame["timestamp"] == TIMES).all()


def test_a_long_file_with_usual_names(write):
    path = write(LONG, "sales.csv")
    frame = read_series(path)
    assert frame["series_id"].tolist() == ["b", "b", "a", "a"]
    assert frame["value"].tolist() == [1.0, 2.0, 3.0, 4.0]
    assert read_series(path, ["a"])["value"].tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match="Unknown series c; the data holds b, a"):
        read_series(path, ["c"])


def test_the_only_column_of_numbers_needs_no_name(write):
    frame = read_series(write(WIDE[["date", "HUFL"]].assign(note="x"), "load.csv"))
    assert frame["series_id"].unique().tolist() == ["load"]
    assert frame["value"].tolist() == [4, 5, 6, 7]


def test_named_columns_and_covariates(write):
    strange = WIDE.rename(columns={"date": "when"}).assign(site="x1", promo=[0, 1, 0, 1])
    frame = read_series(write(strange, "s.csv"), value="OT", id="site", time="when", covariates=["promo", "HUFL"])
    assert list(frame) == ["timestamp", "series_id", "value", "promo", "HUFL"]
    assert frame["series_id"].unique().tolist() == ["x1"]
    assert frame["promo"].tolist() == [0, 1, 0, 1]


def test_a_folder_of_files_names_series_by_file(write, tmp_path):
    for name in ("north", "south"):
        write(WIDE[["date", "HUFL"]], f"{name}.csv")
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
        (WIDE[:0], {"value": "OT"}, "no rows"),
    ],
)
def test_unusable_files_are_refused_with_a_remedy(write, frame, options, says):
    with pytest.raises(ValueError, match=says):
        read_series(write(frame, "file.csv"), **options)


def test_prices_are_told_from_series(write, make_bars):
    prices, load = write(make_bars(5), "prices.csv"), write(WIDE, "load.parquet")
    assert list(read_data(prices)) == ["timestamp", "ticker", "open", "high", "low", "close", "volume"]
    assert "close" in read_data("sample")
    assert read_data(prices, value="volume", kind=UNIVARIATE)["series_id"].unique().tolist() == ["AAA"]
    assert list(read_data(load, value="OT")) == ["timestamp", "series_id", "value"]
    with pytest.raises(ValueError, match="leave --value out"):
        read_data(prices, value="close", kind=OHLCV)
    with pytest.raises(ValueError, match="no column for"):
        read_data(write(make_bars(5).drop(columns="high"), "half.csv"))
