"""Forecasts are dated by real sessions where the calendar is known, and by the rhythm of the past bars elsewhere."""

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tsf_llm import calendars_tsf_llm as calendars
from tsf_llm.calendars_tsf_llm import check_calendar, continue_rhythm, infer_calendar, next_timestamps, recent_times

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
    assert check_calendar("XNSE") == "XNSE"
    for name, close in {"xnys": "XNYS", "NYSE ": "NYSE", "XBMO": "XBOM", "HKEx": "HKEX", "mars": "XNYS"}.items():
        with pytest.raises(ValueError, match=rf"calendar='{name}': no such calendar; take .*{close}") as told:
            check_calendar(name)
        assert len(str(told.value)) < 140
    with pytest.raises(ValueError, match="no such calendar"):
        check_calendar(7)


def test_a_named_calendar_needs_the_library(monkeypatch):
    monkeypatch.setattr(calendars, "exchange_calendars", None)
    with pytest.raises(ValueError, match=r"not installed: pip install exchange_calendars$"):
        check_calendar("XNYS", needed=True)


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


@FEW
@given(horizon=st.integers(1, 40), freq=st.sampled_from(["B", "h", "5min", "W", "MS"]), rows=st.integers(25, 3000))
def test_next_timestamps_read_the_recent_bars_alone(sessions, horizon, freq, rows):
    past = sessions["XNYS"][-rows:].to_numpy() if freq == "B" else stamps("1999-01-01", rows, freq)
    assert next_timestamps(recent_times(past), horizon).equals(next_timestamps(past, horizon))


# --- months, weeks and other long steps


def last_sessions(sessions: pd.DatetimeIndex, freq: str, end: str = "last") -> pd.DatetimeIndex:
    grouped = sessions.to_series().groupby(sessions.to_period(freq))
    return pd.DatetimeIndex(getattr(grouped, end)())


LONG = {
    "month starts": ("MS", ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]),
    "month ends": ("ME", ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]),
    "workday month ends": ("BME", ["2024-01-31", "2024-02-29", "2024-03-29", "2024-04-30"]),
    "workday month starts": ("BMS", ["2024-01-01", "2024-02-01", "2024-03-01", "2024-04-01"]),
    "quarter starts": ("QS", ["2024-01-01", "2024-04-01", "2024-07-01", "2024-10-01"]),
    "quarter ends": ("QE", ["2024-03-31", "2024-06-30", "2024-09-30", "2024-12-31"]),
    "quarters from February": ("QE-FEB", ["2024-02-29", "2024-05-31", "2024-08-31", "2024-11-30"]),
    "workday quarter ends": ("BQE", ["2024-03-29", "2024-06-28", "2024-09-30", "2024-12-31"]),
    "year ends": ("YE", ["2024-12-31", "2025-12-31", "2026-12-31", "2027-12-31"]),
    "year starts": ("YS", ["2024-01-01", "2025-01-01", "2026-01-01", "2027-01-01"]),
    "two months": ("2ME", ["2024-02-29", "2024-04-30", "2024-06-30", "2024-08-31"]),
    "Fridays": ("W-FRI", ["2024-01-05", "2024-01-12", "2024-01-19", "2024-01-26"]),
    "Mondays": ("W-MON", ["2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22"]),
    "two weeks": ("2W-WED", None),
    "four weeks": ("28D", None),
    "three days": ("3D", None),
    "ten days": ("10D", None),
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("missing", [0, 0.2])
@pytest.mark.parametrize("hour", [0, 16])
def test_long_steps_keep_their_rhythm(name, missing, hour):
    freq, expected = LONG[name]
    known = pd.date_range(end="2023-12-31", periods=60, freq=freq) + pd.Timedelta(hours=hour)
    if known[-1] > pd.Timestamp("2024-01-01"):
        known = known[:-1]
    rng = np.random.default_rng(0)
    kept = rng.random(len(known)) >= missing
    kept[-1] = True
    ahead = next_timestamps(known[kept].to_numpy(), 4)
    after = pd.date_range(known[-1].normalize(), periods=5, freq=freq)[1:] + pd.Timedelta(hours=hour)
    assert ahead.equals(after.as_unit("ns"))
    if expected is not None:
        assert ahead.equals(pd.DatetimeIndex(expected).as_unit("ns") + pd.Timedelta(hours=hour))


@pytest.mark.parametrize("day", [15, 28, 30])
def test_months_by_their_day(day):
    months = pd.period_range("2015-01", "2023-12", freq="M")
    past = pd.DatetimeIndex(
        [month.start_time + pd.Timedelta(days=min(day, month.days_in_month) - 1) for month in months]
    )
    february = pd.Timestamp(2024, 2, min(day, 29))
    assert next_timestamps(past.to_numpy(), 3).tolist() == [
        pd.Timestamp(2024, 1, day), february, pd.Timestamp(2024, 3, day)
    ]  # fmt: skip
    moved = past + pd.to_timedelta(np.select([past.day_of_week == 5, past.day_of_week == 6], [2, 1], 0), unit="D")
    if day == 15:  # on week-ends the workday after
        assert next_timestamps(moved.to_numpy(), 6)[-1] == pd.Timestamp("2024-06-17")


def test_last_trading_days(sessions):
    past = sessions["XNYS"][sessions["XNYS"] <= "2023-12-31"]
    months, weeks = last_sessions(past, "M"), last_sessions(past[-1200:], "W-SUN")
    assert (weeks.day_of_week == 3).any()  # holidays
    assert next_timestamps(months.to_numpy(), 4).strftime("%m-%d").tolist() == ["01-31", "02-29", "03-29", "04-30"]
    assert next_timestamps(months.to_numpy(), 4, "XNYS")[2] == pd.Timestamp("2024-03-28")  # Good Friday
    fridays = pd.date_range("2024-01-05", periods=14, freq="W-FRI").as_unit("ns")
    for end in (None, -6):  # from a Friday, and from a Thursday before one that was closed
        assert next_timestamps(weeks[:end].to_numpy(), 3).day_of_week.tolist() == [4, 4, 4]
    assert next_timestamps(weeks.to_numpy(), 14).equals(fridays)
    assert next_timestamps(weeks.to_numpy(), 14, "XNYS")[12] == pd.Timestamp("2024-03-28")
    firsts = last_sessions(past[-1200:], "W-SUN", "first")
    assert next_timestamps(firsts.to_numpy(), 3).tolist() == [pd.Timestamp(f"2024-01-{day:02}") for day in (1, 8, 15)]
    assert next_timestamps(firsts.to_numpy(), 3, "XNYS").day.tolist() == [2, 8, 16]
    ends = pd.date_range("2018-01-31", periods=70, freq="ME").to_numpy()  # Saturdays among them: no sessions
    assert next_timestamps(ends, 4, "XNYS").equals(continue_rhythm(ends, 4))


@pytest.mark.parametrize("weekmask", ["Sun Mon Tue Wed Thu", "Mon Wed Fri", "Tue Thu", "Mon Tue Wed Thu Fri Sat"])
@pytest.mark.parametrize("missing", [0, 0.15])
def test_weekdays_are_those_of_the_past(weekmask, missing):
    days = pd.bdate_range("2023-01-01", periods=200, freq="C", weekmask=weekmask)
    kept = np.random.default_rng(1).random(190) >= missing
    kept[-1] = True
    assert next_timestamps(days[:190][kept].to_numpy(), 10).equals(days[190:].as_unit("ns"))


def test_a_special_session_on_a_saturday_makes_no_week():
    days = pd.bdate_range("2023-01-02", periods=200).append(pd.DatetimeIndex(["2023-06-03"])).sort_values()
    assert next_timestamps(days.to_numpy(), 5).day_of_week.max() == 4


# --- hours and minutes


def local_sessions(zone: str, start: str, end: str, hours: list[str], days: str = "Mon Tue Wed Thu Fri"):
    """UTC stamps of bars at these times of day in a zone."""
    dates = pd.bdate_range(start, end, freq="C", weekmask=days)
    stamps = pd.DatetimeIndex([day + pd.Timedelta(f"{hour}:00") for day in dates for hour in hours])
    return stamps.tz_localize(zone).tz_convert("UTC").tz_localize(None).as_unit("ns")


NEW_YORK = [f"{hour:02}:30" for hour in range(9, 16)]
SYDNEY = [f"{hour:02}:00" for hour in range(10, 16)]
HALF_HOURS = [f"{hour:02}:{minute}" for hour in range(9, 16) for minute in ("00", "30")]
LUNCH = [hour for hour in HALF_HOURS if not "11:30" <= hour < "12:30"][:-2]


@pytest.mark.parametrize(
    ("zone", "hours", "shift"),
    [
        ("America/New_York", NEW_YORK, "2024-03-08"),
        ("America/New_York", NEW_YORK, "2023-11-03"),
        ("Europe/Berlin", HALF_HOURS, "2024-03-29"),
        ("Europe/London", HALF_HOURS, "2023-10-27"),
        ("Australia/Sydney", SYDNEY, "2024-04-05"),
        ("Asia/Tokyo", LUNCH, "2024-03-08"),
        ("Asia/Hong_Kong", LUNCH, "2024-03-29"),
        ("Asia/Kolkata", [f"{hour:02}:15" for hour in range(9, 16)], "2024-03-08"),
        ("UTC", NEW_YORK, "2024-03-08"),  # an exchange's own time without its zone
    ],
)
@pytest.mark.parametrize("missing", [0, 0.1])
def test_sessions_keep_the_clock_of_their_zone(zone, hours, shift, missing):
    known = local_sessions(zone, "2023-01-02", "2024-06-28", hours)
    cut = int((known < pd.Timestamp(shift) + pd.Timedelta(days=1)).sum()) - 2
    kept = np.random.default_rng(2).random(cut) >= missing
    kept[-1] = True
    horizon = 5 * len(hours)
    assert next_timestamps(known[:cut][kept].to_numpy(), horizon).equals(known[cut : cut + horizon])


def test_the_clock_is_known_right_after_it_was_changed():
    known = local_sessions("America/New_York", "2024-01-02", "2024-06-28", NEW_YORK)
    cut = int((known < "2024-03-12").sum())
    assert next_timestamps(known[:cut].to_numpy(), 14).equals(known[cut : cut + 14])


def test_minutes_of_a_session():
    minutes = pd.date_range("09:30", "15:59", freq="min").strftime("%H:%M").tolist()
    known = local_sessions("America/New_York", "2023-09-01", "2023-12-01", minutes)
    cut = int((known < "2023-11-03 19:00").sum())
    assert next_timestamps(known[: cut + 400].to_numpy(), 800).equals(known[cut + 400 : cut + 1200])
    thin = np.random.default_rng(3).random(cut) < 0.7
    thin[-1] = True
    assert next_timestamps(known[:cut][thin].to_numpy(), 60).equals(known[cut : cut + 60])


def test_a_market_from_sunday_evening_to_friday_afternoon():
    hours = pd.date_range("2023-06-04", "2024-06-28", freq="h", tz="America/New_York")
    weekday, hour = hours.day_of_week, hours.hour
    is_open = ((weekday < 4) | ((weekday == 4) & (hour < 17)) | ((weekday == 6) & (hour >= 17))).astype(bool)
    known = hours[is_open].tz_convert("UTC").tz_localize(None).as_unit("ns")
    for end in ("2024-03-08 12:00", "2024-05-17 15:00", "2023-11-10 18:00"):
        cut = int((known < end).sum())
        assert next_timestamps(known[:cut].to_numpy(), 130).equals(known[cut : cut + 130])


@pytest.mark.parametrize("freq", ["min", "5min", "h", "2h", "4h", "5h", "7h", "8h", "12h", "16h"])
@pytest.mark.parametrize("missing", [0, 0.1])
def test_bars_around_the_clock_have_no_zone(freq, missing):
    known = pd.date_range("2023-08-01", periods=2000, freq=freq)
    kept = np.random.default_rng(4).random(1900) >= missing
    kept[-1] = True
    ahead = next_timestamps(known[:1900][kept].to_numpy(), 50)
    assert ahead.equals(known[1900:1950].as_unit("ns"))


def test_daily_bars_stamped_at_the_close_keep_its_clock():
    known = local_sessions("America/New_York", "2023-01-02", "2024-06-28", ["16:00"])
    cut = int((known < "2024-03-09").sum())
    assert next_timestamps(known[:cut].to_numpy(), 20).equals(known[cut : cut + 20])


# --- named calendars


@pytest.mark.parametrize(
    ("name", "last", "ahead"),
    [
        ("XBOM", "2024-01-25", ["2024-01-29", "2024-01-30"]),  # Republic Day
        ("XNSE", "2024-08-14", ["2024-08-16", "2024-08-19"]),  # Independence Day
        ("XHKG", "2024-02-09", ["2024-02-14", "2024-02-15"]),  # Lunar New Year
        ("XHKG", "2024-03-28", ["2024-04-02", "2024-04-03"]),  # Easter
        ("XPHS", "2024-06-11", ["2024-06-13", "2024-06-14"]),  # Independence Day
        ("XPHS", "2024-03-27", ["2024-04-01", "2024-04-02"]),  # Maundy Thursday, Good Friday
    ],
)
def test_holidays_of_a_named_calendar(name, last, ahead):
    past = pd.bdate_range(end=last, periods=60).to_numpy()
    assert next_timestamps(past, 2, name).tolist() == [pd.Timestamp(day) for day in ahead]


def test_a_named_calendar_bears_missing_bars():
    known = intraday("XHKG", "2023-11-01", "2024-03-28", "30min", closed="left")
    kept = np.random.default_rng(5).random(len(known) - 40) >= 0.25
    kept[-1] = True
    assert next_timestamps(known[:-40][kept].to_numpy(), 40, "XHKG").equals(known[-40:].as_unit("ns"))


def test_beyond_the_years_of_a_calendar_the_rhythm_goes_on(caplog):
    last = exchange_calendars.get_calendar("XBOM").bound_max()
    calendars.logger.warning_once.cache_clear()
    past = pd.bdate_range(end=last - pd.Timedelta(days=6), periods=60)
    ahead = next_timestamps(past.to_numpy(), 10, "XBOM")
    assert len(ahead) == 10
    assert ahead.is_monotonic_increasing
    assert ahead[-1] > last
    assert f"known up to {last.date()}" in caplog.text


@pytest.mark.parametrize("freq", ["B", "h"])
def test_a_bar_that_comes_after_more_than_a_year_goes_on(freq):
    past = pd.date_range("2019-01-02 10:00", periods=300, freq=freq).append(pd.DatetimeIndex(["2022-06-01 10:00"]))
    ahead = next_timestamps(past.to_numpy(), 3)
    assert len(ahead) == 3
    assert past[-1] < ahead[0]
    assert ahead.is_monotonic_increasing
