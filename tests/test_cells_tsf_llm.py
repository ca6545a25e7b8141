"""Cells: one order of dates for a column, one decimal mark for a table, proven or asked for."""

import doctest

import numpy as np
import pandas as pd
import pytest

import tsf_llm.cells_tsf_llm as module
from tsf_llm.cells_tsf_llm import NumberFormat, TimeFormat, Unclear, clocks, read_numbers, read_times, repeated_hour

DAYS = pd.Series(pd.bdate_range("2023-01-02", periods=300))
MONTHS = pd.Series(pd.date_range("2004-01-01", periods=24, freq="MS"))


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


# Times


def test_a_day_that_is_no_month_tells_the_format_of_the_whole_column():
    days = pd.Series(pd.date_range("2023-01-02", periods=300))
    assert (read_times(days.dt.strftime("%d/%m/%Y"))[0] == days).all()
    assert (read_times(days.dt.strftime("%m/%d/%Y"))[0] == days).all()
    with pytest.raises(Unclear, match=r"'01/02/2023' is 2023-02-01 \(dmy\) or 2023-01-02 \(mdy\), and no cell"):
        read_times(days.dt.strftime("%m/%d/%Y")[:3])


def test_a_format_of_dates_reads_no_time_of_day():
    format = TimeFormat.of(pd.Series(["2024-01-02 00:00+09:00"]))
    times, bad = read_times(pd.Series(["2024-01-03 00:00+09:00", "2024-01-04 10:00+09:00"]), format)
    assert times[0] == pd.Timestamp("2024-01-03")
    assert bad.tolist() == [1]


def test_offsets_are_written_in_several_ways():
    days = [f"2024-07-31T00:00{end}" for end in (":00+00:00", ":00.0+0100", "-03", " -03:30")]
    assert (read_times(pd.Series(days))[0] == pd.Timestamp("2024-07-31")).all()


def test_the_time_of_reading_is_no_time():
    assert read_times(pd.Series(["2024-01-02", "now", "today"]))[1].tolist() == [1, 2]


def test_numbers_are_read_to_the_last_bit():
    exact = np.random.default_rng(0).normal(size=2000)
    assert (read_numbers(pd.Series([repr(float(one)) for one in exact]))[0] == exact).all()


@pytest.mark.parametrize(
    "written",
    [
        *("%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%m-%d-%y", "%y/%m/%d", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p"),
        *("%Y%m%d", "%Y%m%d %H:%M:%S US/Eastern", "%Y%m%d%H", "%Y%m%d%H%M", "%Y.%m.%d %H:%M", "%d-%b-%y"),
        *(
            "%Y-%m-%d %H:%M:%S UTC",
            "%a, %d %b %Y",
            "%a %b %d, %Y",
            "%B %d, %Y",
            "%d %b %Y %H:%M:%S GMT+0100",
            "%Y%m%d %H%M%S",
        ),
    ],
)
def test_a_column_of_days_is_read_whole(written):
    times, bad = read_times(DAYS.dt.strftime(written))
    assert not bad.size
    assert (times == DAYS).all()
    times, _ = read_times(DAYS[::-1].dt.strftime(written))
    assert (times == DAYS[::-1]).all()


@pytest.mark.parametrize("written", ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%y", "%m/%d/%y", "%b %Y", "%m/%Y", "%d-%b-%y"])
def test_months_are_told_by_their_spacing(written):
    assert (read_times(MONTHS.dt.strftime(written))[0] == MONTHS).all()
    both = pd.concat([MONTHS, MONTHS], ignore_index=True)
    names = pd.Series(["a", "b"]).repeat(len(MONTHS)).reset_index(drop=True)
    cells = both.dt.strftime(written)
    assert (read_times(cells, TimeFormat.of(cells, series=names))[0] == both).all()


@pytest.mark.parametrize(
    "cells",
    [
        [f"{day:02}/01/2023" for day in range(2, 12)],
        [f"01/{month:02}/2023" for month in range(1, 13)],  # twelve months, or twelve days
        ["31/12/04", "31/12/05", "31/12/06", "31/12/07", "31/12/08", "31/12/09"],
        [f"03/04/2024 {hour:02}:00" for hour in range(24)],
    ],
)
def test_two_orders_that_fit_are_asked_about(cells):
    cells = pd.Series(cells, name="Date")
    with pytest.raises(Unclear, match=r"in column 'Date', '.*' is .* \(dmy\) or .*, and no cell of it tells which"):
        TimeFormat.of(cells)
    assert not read_times(cells, TimeFormat.of(cells, "dmy"))[1].size


def test_an_order_that_does_not_fit_and_more_than_one_are_refused():
    with pytest.raises(ValueError, match="column 'Date' is not written as mdy: '13/01/2023' cannot be read so"):
        TimeFormat.of(pd.Series(["02/01/2023", "13/01/2023"], name="Date"), "mdy")
    with pytest.raises(ValueError, match="dates='ydm': use one of dmy, mdy, ymd"):
        TimeFormat.of(pd.Series(["02/01/2023"]), "ydm")
    with pytest.raises(ValueError, match=r"more than one order \('13/01/2023' and '01/13/2023'\); write all in one"):
        TimeFormat.of(pd.Series(["01/13/2023", "13/01/2023", "14/01/2023"]))
    times, bad = read_times(pd.Series([*DAYS.dt.strftime("%d/%m/%Y"), "01/31/2023"]))
    assert bad.tolist() == [300]  # one of three hundred is a slip
    assert (times[:300] == DAYS).all()


def test_orders_that_say_the_same_need_no_proof():
    assert read_times(pd.Series(["5/5/2023", "6/6/2023"]))[0].dt.month.tolist() == [5, 6]


@pytest.mark.parametrize("first", ["1969-12-01", "1990-01-02", "2001-03-01", "2023-01-02"])
@pytest.mark.parametrize("unit", ["s", "ms"])
@pytest.mark.parametrize("dtype", [str, int, float, "text of floats"])
def test_times_since_1970(first, unit, dtype):
    days = pd.Series(pd.bdate_range(first, periods=3000))
    cells = days.astype(f"datetime64[{unit}]").astype("int64")
    cells = cells.astype(float).astype(str) if dtype == "text of floats" else cells.astype(dtype)
    assert (read_times(cells)[0] == days).all()


@pytest.mark.parametrize("factor", [1, 1000])
@pytest.mark.parametrize("slip", ["12", "73459584"])
def test_a_short_number_among_times_since_1970_is_a_slip(factor, slip):
    cells = (pd.Series(range(700_000_000, 700_000_000 + 40 * 86400, 86400)) * factor).astype(str)
    cells[7] = slip
    assert read_times(cells)[1].tolist() == [7]


def test_an_hour_that_comes_twice_in_a_zone_is_no_time():
    cells = pd.Series(["20231105 00:30:00 US/Eastern", "20231105 01:30:00 US/Eastern"])
    format = TimeFormat.of(cells)
    times, bad = read_times(cells, format)
    assert times[0] == pd.Timestamp("2023-11-05 04:30")
    assert bad.tolist() == [1]
    assert "daylight saving" in module.why_no_time(cells[1], format)


@pytest.mark.parametrize("cell", ["1600-01-03", "2999-12-31", "31/12/2999"])
def test_years_that_nanoseconds_do_not_hold(cell):
    cells = pd.Series([cell, "2024-01-03" if cell.startswith(cell[:4]) and "-" in cell else "13/01/2024"])
    format = TimeFormat.of(cells)
    assert read_times(cells, format)[1].tolist() == [0]
    assert module.why_no_time(cell, format) == "lies outside of the years 1678 to 2261; correct it"


@pytest.mark.parametrize(
    ("cells", "odd", "said"),
    [
        (["2024-01-01T10:00+01:00", "2024-01-02T10:00", "2024-01-03T10:00+01:00"], [1], "has no zone, and other"),
        (
            ["2024-01-01 10:00", "2024-01-02 10:00:00.5", "2024-01-03 10:00Z"],
            [2],
            "has a zone, and other times have none",
        ),
        (["13/1/2024 9:00 AM EST", "14/1/2024 9:00 PM", "15/1/2024 9:00 pm EST"], [1], "has no zone"),
        (["2024-01-01", "2024-01-02T10:00+01:00"], [], None),  # a date is a date
        (["13/1/2024 9:00 AM", "14/1/2024 9:00 p.m."], [], None),
    ],
)
def test_a_time_without_a_zone_among_zoned_ones_is_none(cells, odd, said):
    format = TimeFormat.of(pd.Series(cells))
    assert read_times(pd.Series(cells), format)[1].tolist() == odd
    assert all(said in module.why_no_time(cells[row], format) for row in odd)


def test_a_later_piece_is_zoned_as_the_first():
    zoned, bare = (pd.Series([f"2024-01-0{day}T10:00{zone}" for day in range(1, 5)]) for zone in ("+01:00", ""))
    for first, later in ((zoned, bare), (bare, zoned)):
        format = TimeFormat.of(first)
        assert read_times(first, format)[0].notna().all()
        assert read_times(later, format)[0].isna().all()


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_midnights_of_a_zone_are_dates_however_they_are_written(zone):
    zoned = DAYS.dt.tz_localize(zone)
    objects = pd.Series([*zoned], dtype=object)
    text = zoned.map(lambda time: time.isoformat(sep=" "))
    named = DAYS.dt.strftime(f"%d/%m/%Y %H:%M:%S {zone}")
    for cells in (zoned, objects, text, named, zoned.astype("datetime64[s, UTC]").dt.tz_convert(zone)):
        assert (read_times(cells)[0] == DAYS).all()
        assert (clocks(cells)[1].dt.hour != 0).all()


@pytest.mark.parametrize("minutes", [5, 30, 60])
def test_the_hour_that_daylight_saving_repeats(minutes):
    utc = pd.date_range("2023-10-28", "2023-10-31", freq=f"{minutes}min", tz="UTC")
    local = pd.Series(utc.tz_convert("Europe/Berlin").tz_localize(None))
    row = repeated_hour(local)
    assert row is not None
    assert local[row] == pd.Timestamp("2023-10-29 02:00")
    assert repeated_hour(pd.Series(utc.tz_localize(None))) is None
    assert repeated_hour(DAYS) is None


# Numbers


@pytest.mark.parametrize("odd", ["1_000", "\uff11\uff12", "inf", "1e999", "0x10", "True", "1 2"])
def test_what_python_alone_reads_is_no_number(odd):
    numbers, bad = read_numbers(pd.Series(["1.5", odd, "", " 2e3 "]))
    assert numbers[[0, 3]].tolist() == [1.5, 2000]
    assert bad.tolist() == ([] if np.isinf(numbers[1]) else [1])


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["982.95", "1,008.13"], [982.95, 1008.13]),
        (["100,3013", "5"], [100.3013, 5]),
        (["1.234,50", "509.042", "1e-05"], [1234.5, 509042, 1e-05]),
        (["$1,234.50", "-$3.5", "3.25 €"], [1234.5, -3.5, 3.25]),
        (["1 234,50", "1'234,50", "1\u00a0234,5"], [1234.5, 1234.5, 1234.5]),
        (["1 234,567", "982,125"], [1234.567, 982.125]),
        (["1'234.567", "982.125"], [1234.567, 982.125]),
        (["12,34,567.00"], [1234567]),
        (["1,234,567", "1,234"], [1234567, 1234]),
        (["1.234.567"], [1234567]),
        ([".", "-", "1.5", ""], [np.nan, np.nan, 1.5, np.nan]),
    ],
)
def test_marks_of_numbers(cells, numbers):
    cells = pd.Series(cells)
    read, bad = read_numbers(cells, NumberFormat.of([cells]))
    assert not bad.size
    np.testing.assert_array_equal(read, numbers)


def test_one_column_tells_the_mark_of_all():
    price, volume = pd.Series(["1.234,5", "980,25"]), pd.Series(["509.042", "1.250"])
    format = NumberFormat.of([volume, price])
    assert read_numbers(volume, format)[0].tolist() == [509042, 1250]


@pytest.mark.parametrize("cells", [["1,234"], ["1,234", "."], ["1.008"] * 12 + ["982"] * 12])
def test_marks_that_may_be_either_are_asked_about(cells):
    cells = pd.Series(cells, name="close")
    with pytest.raises(Unclear, match=r"in column 'close', '1.\d+' is .* or .*, and no cell tells which"):
        NumberFormat.of([cells])
    grouped = "point" if "," in cells[0] else "comma"
    whole = int(cells[0].replace(".", "").replace(",", ""))
    assert read_numbers(cells, NumberFormat.of([cells], grouped))[0][0] == whole


def test_a_point_alone_proves_no_decimal_mark():
    assert not NumberFormat.of([pd.Series([".", "12"])]).proven


def test_scales_and_percent_are_read_where_they_are_asked_for():
    volume = pd.Series(["1.5K", "2.3M", "1.2B", "700"])
    assert read_numbers(volume, scales=True)[0].tolist() == [1500, 2.3e6, 1.2e9, 700]
    assert read_numbers(volume)[1].tolist() == [0, 1, 2]
    change = pd.Series(["1.5%", "-2 %", ""])
    assert read_numbers(change, percent=True)[0].tolist()[:2] == [1.5, -2]
    assert read_numbers(change)[1].tolist() == [0, 1]
    assert read_numbers(pd.Series(["1.5%", "2"]), percent=True)[1].tolist() == [0]  # of two kinds


def test_numbers_of_two_kinds_are_refused():
    with pytest.raises(ValueError, match="column 'close' writes numbers as '1,5', others otherwise"):
        NumberFormat.of([pd.Series(["1,5", "1.5"], name="close")])


@pytest.mark.parametrize(
    "cells",
    [
        ["2024-01-31", "2024-02-01"],
        ["2024-01-31 10:00:00", "", None, "2024-02-01 00:00:00.123456"],
        ["", "2024-01-31T10:00:00+09:00", "2024-02-01T00:00:00+09:00"],
        ["2024-01-31T00:00:00+09:00", "2024-02-01T00:00:00+09:00"],
        ["2024-03-30T00:00:00+01:00", "2024-04-01T00:00:00+02:00"],
        ["2024-03-30T00:00:00+0100", "2024-04-01T10:00:00+0200", "2024-04-01T10:00:00-0330"],
        ["2024-03-30T00:00:00Z", "2024-04-01T00:00:00Z"],
        ["2024-03-30T00:00:00+01:00", "2024-04-01T00:00:00"],
        ["2024-03-30T00:00:00+01:00", "2024-04-01T00:00:00Z", "2024-04-01"],
        ["2024-03-30T00:00:00+01:00", "2024-04-01T00:00:00+02:00", ""],
        ["2024-01-31", "20240201"],
        ["2024-01-31", "1704067200000", "1704067260000"],
        ["2024-01-31", "now", "today", "nat", "nan"],
        ["2024-01-31", "0001-01-01", "1600-01-01", "9999-12-31"],
        ["2024-01-31", "31/01/2024"],
        ["2024-01-31", "2024-02"],
        ["2024-01-31", " 2024-02-01 ", "  "],
        ["2024-01-31", "2024-W05-3", "2024-02-30"],
        ["2024-01-31T10:00:00.123456789", "2024-01-31"],
        [],
    ],
)
@pytest.mark.parametrize("dtype", [None, object])
def test_iso_read_at_once_is_as_cell_by_cell(monkeypatch, cells, dtype):
    def read() -> object:
        column = pd.Series(
            cells, dtype=dtype or ("str" if cells else object), name="date", index=range(5, 5 + len(cells))
        )
        try:
            format = TimeFormat.of(column)
            return format, *read_times(column, format)
        except ValueError as error:
            return str(error)

    fast = read()
    monkeypatch.setattr(module, "_iso_at_once", lambda cells: None)
    slow = read()
    if isinstance(slow, str):
        assert fast == slow
    else:
        assert fast[0] == slow[0]
        pd.testing.assert_series_equal(fast[1], slow[1])
        assert fast[2].tolist() == slow[2].tolist()
