"""Cells of a column are read as a whole, in a frame as in a file."""

import doctest

import numpy as np
import pandas as pd
import pytest

import tsf_llm.bars_tsf_llm as module
from tsf_llm.bars_tsf_llm import TimeFormat, check_bars, read_numbers, read_times
from tsf_llm.data_prep.sources import read_bars


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("timestamp", ["2024-01-02", "2024-01-03 15:30", "2024-01-04T16:00"]),
        ("timestamp", ["31/12/2023", "01/02/2024", "13/02/2024"]),
        ("timestamp", ["2024-01-02T00:00:00+09:00", "2024-01-03T00:00:00+09:00", "2024-01-04T00:00:00+09:00"]),
        ("timestamp", ["1704153600000", "1704240000000", "1704326400000"]),
        ("volume", ["1", " 2 ", "3e3"]),
        ("volume", ["n/a", "-", ""]),
    ],
)
def test_a_frame_of_text_is_read_as_its_file(tmp_path, column, cells):
    frame = pd.DataFrame({"timestamp": ["2024-01-02", "2024-01-03", "2024-01-04"], "volume": "1"}).assign(
        **{column: cells, **dict.fromkeys(["open", "high", "low", "close"], "1.5")}
    )
    frame.to_csv(tmp_path / "A.csv", index=False)
    file, bars = read_bars(tmp_path / "A.csv"), check_bars(frame, "A")
    for name in ("timestamp", "close", "volume"):
        pd.testing.assert_series_equal(file[name], bars[name], check_dtype=False)


def test_a_format_of_dates_reads_no_time_of_day():
    format = TimeFormat.of(pd.Series(["2024-01-02 00:00+09:00"]))
    times, bad = read_times(pd.Series(["2024-01-03 00:00+09:00", "2024-01-04 10:00+09:00"]), format)
    assert times[0] == pd.Timestamp("2024-01-03")
    assert bad.tolist() == [1]


def test_offsets_are_written_in_several_ways():
    cells = [
        "2024-01-31 00:00:00+00:00",
        "2024-07-31T00:00:00+0100",
        "2024-07-31 00:00-03",
        "2024-07-31 00:00:00.0-03:30",
    ]
    assert read_times(pd.Series(cells))[0].dt.strftime("%m-%d %H:%M").tolist() == ["01-31 00:00"] + ["07-31 00:00"] * 3


def test_the_time_of_reading_is_no_time():
    assert read_times(pd.Series(["2024-01-02", "now", "today"]))[1].tolist() == [1, 2]


def test_numbers_are_read_to_the_last_bit():
    exact = np.random.default_rng(0).normal(size=2000)
    assert (read_numbers(pd.Series([repr(float(one)) for one in exact]))[0] == exact).all()
