"""Forecasts are dated by real sessions where the calendar is known, and by the rhythm of the past bars elsewhere."""

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import calendars_tsf_llm as calendars
from tsf_llm.calendars_tsf_llm import check_calendar, continue_rhythm, infer_calendar, next_timestamps

FEW = settings(max_examples=15, deadline=None, derandomize=True)
SPAN = {"start": "2010-01-01", "end": "2024-12-31"}


@pytest.fixture(scope="module")
def sessions() -> dict[str, pd.DatetimeIndex]:
    return {name: exchange_calendars.get_calendar(name, **SPAN).sessions for name in ("XNYS", "XLON", "XTKS", "24/7")}


def intraday(name: str, start: str, end: str, period: str, *, closed: str, zone: str = "UTC") -> pd.DatetimeIndex:
    """The oracle: exchange_calendars' own intervals, by their start or end."""
    calendar = exchange_calendars.get_calendar(name, **SPAN)
    spans = calendar.trading_index(start, end, period, force_close=True, force_break_close=True)
    return (spans.left if closed == "left" else spans.right).tz_convert(zone).tz_localize(None)


@FEW
@given(name=st.sampled_from(["XNYS", "XLON", "XTKS", "24/7"]), row=st.integers(300, 2800), horizon=st.integers(1, 300))
def test_days_ahead_are_the_next_sessions(sessions, name, row, horizon):
    known = sessions[name]
    past = known[row - 30 : row].to_numpy()
    assert next_timestamps(past, horizon, name).equals(known[row : row + horizon])


@FEW
@given(row=st.integers(260, 3000), horizon=st.integers(1, 60))
def test_new_york_is_inferred_from_a_year_without_an_exception(sessions, row, horizon):
    known = sessions["XNYS"]
    past = known[row - 250 : row].to_numpy()
    assert infer_calendar(past) == "XNYS"
    assert next_timestamps(past, horizon).equals(known[row : row + horizon])


@pytest.mark.parametrize(
    ("last", "ahead"),
    [
        ("2019-11-27", ["2019-11-29", "2019-12-02"]),  # Thanksgiving
        ("2019-12-24", ["2019-12-26", "2019-12-27"]),  # Christmas
        ("2019-04-18", ["2019-04-22", "2019-04-23"]),  # Good Friday
        ("2018-12-04", ["2018-12-06", "2018-12-07"]),  # a day of mourning
    ],
)
def test_holidays_of_new_york(sessions, last, ahead):
    past = sessions["XNYS"][sessions["XNYS"] <= last][-260:].to_numpy()
    assert next_timestamps(past, 2).tolist() == [pd.Timestamp(day) for day in ahead]


def test_nothing_else_is_inferred(sessions):
    new_york = sessions["XNYS"][:300].to_numpy()
    assert infer_calendar(new_york[:249]) is None
    assert infer_calendar(np.delete(new_york, 200)) is None  # a bar is missing
    assert infer_calendar(new_york + np.timedelta64(16, "h")) is None
    assert infer_calendar(sessions["XLON"][:300].to_numpy()) is None
    assert infer_calendar(pd.bdate_range("2015-01-01", periods=400).to_numpy()) is None
    assert infer_calendar(pd.date_range("2015-01-01", periods=400).to_numpy()) is None
    every_weekday = pd.bdate_range("2018-12-01", periods=277)  # up to Christmas Eve, which it does not know
    assert next_timestamps(every_weekday.to_numpy(), 1)[0] == pd.Timestamp("2019-12-25")


@FEW
@given(
    name=st.sampled_from(["XNYS", "XLON", "XTKS", "24/7"]),
    period=st.sampled_from(["1h", "30min", "15min"]),
    closed=st.sampled_from(["left", "right"]),
    zone=st.sampled_from(["UTC", "local"]),
    cut=st.integers(30, 120),
    horizon=st.integers(1, 80),
)
def test_intraday_bars_ahead_are_those_of_the_sessions(name, period, closed, zone, cut, horizon):
    zone = zone if zone == "UTC" else str(exchange_calendars.get_calendar(name, **SPAN).tz)
    known = intraday(name, "2019-11-20", "2020-01-31", period, closed=closed, zone=zone)
    past = known[:cut].to_numpy()
    ahead = next_timestamps(past, horizon, name)
    expected = known[cut : cut + horizon]
    if known[:cut].normalize().nunique() > 1:  # within one session, starts and ends look the same
        assert ahead.equals(expected)
    assert len(ahead) == horizon
    assert ahead[0] > past[-1]


def test_intraday_bars_do_not_cross_the_close():
    past = intraday("XNYS", "2019-11-18", "2019-11-27", "1h", closed="left")
    ahead = next_timestamps(past.to_numpy(), 6, "XNYS")
    half_day = [pd.Timestamp(f"2019-11-29 {hour}:30") for hour in (14, 15, 16, 17)]  # closes at 18:00 UTC
    assert ahead.tolist() == [*half_day, pd.Timestamp("2019-12-02 14:30"), pd.Timestamp("2019-12-02 15:30")]


def test_bars_that_the_calendar_does_not_explain_follow_their_rhythm():
    on_the_hour = pd.date_range("2019-11-20", periods=100, freq="h").to_numpy()
    assert next_timestamps(on_the_hour, 5, "XNYS").equals(continue_rhythm(on_the_hour, 5))
    weeks = pd.date_range("2019-01-06", periods=40, freq="W").to_numpy()
    assert next_timestamps(weeks, 5, "XNYS").equals(continue_rhythm(weeks, 5))
    before_its_time = pd.bdate_range("1950-01-02", periods=40).to_numpy()
    assert next_timestamps(before_its_time, 5, "XTKS").equals(continue_rhythm(before_its_time, 5))


def test_the_time_of_day_stays(sessions):
    past = sessions["XNYS"][:300].to_numpy() + np.timedelta64(21, "h")
    ahead = next_timestamps(past, 3, "XNYS")
    assert ahead.equals(sessions["XNYS"][300:303] + pd.Timedelta(hours=21))


def test_without_the_library_the_rhythm_stays(sessions, monkeypatch):
    monkeypatch.setattr(calendars, "exchange_calendars", None)
    past = sessions["XNYS"][sessions["XNYS"] <= "2019-12-24"].to_numpy()
    assert check_calendar("XNYS") == "XNYS"
    for name in (None, "XNYS"):
        assert next_timestamps(past, 2, name).tolist() == [pd.Timestamp("2019-12-25"), pd.Timestamp("2019-12-26")]


@pytest.mark.parametrize("start", ["1700-01-01", "1930-01-02", "2255-01-01"])
def test_years_whose_holidays_the_library_does_not_know_prove_nothing(start):
    past = pd.bdate_range(start, periods=260).to_numpy()
    assert infer_calendar(past) is None
    assert next_timestamps(past, 3).equals(continue_rhythm(past, 3))


def test_a_calendar_that_cannot_be_computed_is_refused(monkeypatch):
    def broken(name):
        raise NotImplementedError("implemented by subclasses")

    monkeypatch.setattr(calendars, "_calendar", broken)
    with pytest.raises(ValueError, match=r"calendar='XLON': .* cannot compute it .*use another, or none"):
        check_calendar("XLON")


def test_an_unknown_calendar_is_refused():
    assert check_calendar(None) is None
    assert check_calendar("24/7") == "24/7"
    with pytest.raises(ValueError, match=r"calendar='XMARS': no such calendar; choose one of .*XNYS"):
        check_calendar("XMARS")


def stamps(start: str, periods: int, freq: str) -> np.ndarray:
    return pd.date_range(start, periods=periods, freq=freq).to_numpy()


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        (stamps("2024-01-01", 40, "B"), ["2024-02-26", "2024-02-27", "2024-02-28"]),  # from a Friday
        (stamps("2024-01-01", 40, "D"), ["2024-02-10", "2024-02-11", "2024-02-12"]),  # seven days a week
        (stamps("2024-01-01", 54, "h"), ["2024-01-03 06:00", "2024-01-03 07:00", "2024-01-03 08:00"]),
        (stamps("2024-01-01", 24 * 5, "h"), ["2024-01-08 00:00", "2024-01-08 01:00", "2024-01-08 02:00"]),
        (stamps("2024-01-01", 24 * 7, "h"), ["2024-01-08 00:00", "2024-01-08 01:00", "2024-01-08 02:00"]),
        (stamps("2024-01-07", 10, "W"), ["2024-03-17", "2024-03-24", "2024-03-31"]),
        (stamps("2024-01-05 09:30", 60, "min"), ["2024-01-05 10:30", "2024-01-05 10:31", "2024-01-05 10:32"]),
    ],
    ids=["weekdays", "every day", "hours", "hours of weekdays", "hours of every day", "weeks", "minutes"],
)
def test_next_timestamps(past, expected):
    assert next_timestamps(past, 3).tolist() == pd.DatetimeIndex(expected).tolist()


def test_next_timestamps_skip_the_night():
    days = pd.bdate_range("2024-01-01", periods=10)
    past = pd.DatetimeIndex([day + pd.Timedelta(hours=h, minutes=30) for day in days for h in range(9, 16)])
    ahead = next_timestamps(past.to_numpy(), 16)
    monday = [pd.Timestamp("2024-01-15") + pd.Timedelta(hours=h, minutes=30) for h in range(9, 16)]
    assert ahead[:7].tolist() == monday
    assert len(ahead) == 16
    assert ahead[-1] == pd.Timestamp("2024-01-17 10:30")
    half = next_timestamps(past.to_numpy()[:-3], 4)
    assert half.tolist() == [pd.Timestamp(f"2024-01-12 {h}:30") for h in (13, 14, 15)] + monday[:1]


@FEW
@given(horizon=st.integers(1, 300), freq=st.sampled_from(["B", "D", "h", "30min", "W"]), rows=st.integers(25, 256))
def test_next_timestamps_are_as_many_as_asked(horizon, freq, rows):
    past = stamps("2024-01-01", rows, freq)
    ahead = next_timestamps(past, horizon)
    assert len(ahead) == horizon
    assert ahead[0] > past[-1]
    assert ahead.is_monotonic_increasing
    assert ahead.is_unique
