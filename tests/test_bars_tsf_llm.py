"""Bars as they come in: no bad one passes in silence, a date is a day, and patterns stand for columns."""

import doctest
import warnings
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tsf_llm.bars_tsf_llm as module
from tsf_llm.bars_tsf_llm import OHLCV, check_bars, day_end, day_start, difference_scale, named_columns, split_tickers
from tsf_llm.data_prep.sources import read_bars
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        ("timestamp", ["2024-01-02", "2024-01-03 15:30", "2024-01-04T16:00"]),
        ("timestamp", ["31/12/2023", "01/02/2024", "13/02/2024"]),
        ("timestamp", ["11/02/2024", "12/02/2024", "13/02/2024"]),
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


def stamps(start: str, periods: int, freq: str) -> np.ndarray:
    return pd.date_range(start, periods=periods, freq=freq).to_numpy()


# Frames and dates


def test_a_bare_date_is_the_whole_day_and_a_timestamp_is_an_instant(small, make_bars):
    assert day_end("2020-06-30") == day_end(pd.Timestamp("2020-06-30").date()) == day_end(np.datetime64("2020-06-30"))
    assert day_end("2020-06-30") == pd.Timestamp("2020-07-01") - pd.Timedelta(1, "ns")
    for instant in (pd.Timestamp("2020-06-30"), pd.Timestamp("2020-06-30 15:30"), "2020-06-30 00:00"):
        assert day_end(instant) == pd.Timestamp(instant)
    assert day_end(pd.Timestamp("2020-06-30 09:00", tz="America/New_York")) == pd.Timestamp("2020-06-30 13:00")

    hourly = make_bars(600, freq="h")
    fitted = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly, through="2015-01-20")
    assert fitted.fitted_through == "2015-01-20"
    assert fitted(hourly, as_of="2015-01-20")["origin"] == [pd.Timestamp("2015-01-20 23:00")]
    assert fitted(hourly, as_of=pd.Timestamp("2015-01-20"))["origin"] == [pd.Timestamp("2015-01-20 00:00")]
    inside = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly[: 20 * 24])
    assert fitted.feature_extractor.center == inside.feature_extractor.center
    assert fitted.tokenizer.bin_edges == inside.tokenizer.bin_edges


INSTANT = pd.Timestamp("2024-02-10 16:00")


@pytest.mark.parametrize(
    "moment",
    [
        "2024-02-10T16",
        "2024-02-10 16",
        "2024-02-10T1600",
        "20240210T16",
        "20240210 1600",
        "202402101600",
        "20240210160000",
        "2024-02-10T16Z",
        "2024-02-10T16:00Z",
        "2024-02-11T01+09:00",
        "2024-02-10T11-0500",
        "2024-02-10 4pm",
        " 2024-02-10 16:00 ",
        "10 Feb 2024 16:00",
        np.str_("2024-02-10T16"),
        np.datetime64("2024-02-10T16"),
        np.datetime64("2024-02-10T16:00"),
        np.datetime64("2024-02-10T16:00", "ns"),
        datetime(2024, 2, 10, 16),
        datetime(2024, 2, 10, 18, tzinfo=timezone(timedelta(hours=2))),
        pd.Timestamp("2024-02-10 17:00", tz="Europe/Berlin"),
    ],
)
def test_a_moment_with_an_hour_is_an_instant(moment):
    assert day_start(moment) == day_end(moment) == INSTANT
    assert day_end(moment).tz is None


@pytest.mark.parametrize(
    ("moment", "first", "after"),
    [
        ("2024-02-10", "2024-02-10", "2024-02-11"),
        ("20240210", "2024-02-10", "2024-02-11"),
        ("2024/02/10", "2024-02-10", "2024-02-11"),
        ("10 Feb 2024", "2024-02-10", "2024-02-11"),
        (date(2024, 2, 10), "2024-02-10", "2024-02-11"),
        (np.datetime64("2024-02-10"), "2024-02-10", "2024-02-11"),
        ("2024-02", "2024-02-01", "2024-03-01"),
        ("Feb 2024", "2024-02-01", "2024-03-01"),
        (np.datetime64("2024-02"), "2024-02-01", "2024-03-01"),
        (pd.Period("2024-02"), "2024-02-01", "2024-03-01"),
        (pd.Period("2024-02-10 16", "h"), "2024-02-10 16:00", "2024-02-10 17:00"),
        ("2024Q1", "2024-01-01", "2024-04-01"),
        ("2024", "2024-01-01", "2025-01-01"),
        (np.datetime64("2024"), "2024-01-01", "2025-01-01"),
    ],
)
def test_a_moment_without_an_hour_is_its_whole(moment, first, after):
    assert day_start(moment) == pd.Timestamp(first)
    assert day_end(moment) == pd.Timestamp(after) - pd.Timedelta(1, "ns")


@pytest.mark.parametrize(
    "moment",
    [
        *("now", "today", "yesterday", "soon", "", "may", "16:00", "T16", "10/02/2024", "13.02.2024", "24-02-10"),
        *("2024-02-30", "2024-13-01", "2024-W06", "202402", "1707580800", "1600-01-01", "9999-12-31"),
        *(20240210, np.int64(20240210), 1707580800.0, True, None, float("nan"), pd.NaT, pd.NA, [2024]),
        *(np.datetime64("NaT"), "2024-02-10T16:00 Mars"),
    ],
    ids=str,
)
def test_what_is_no_date_is_no_fence(moment):
    for read in (day_start, day_end):
        with pytest.raises(ValueError, match=r"is no date: write it as 2020-06-30, or as 2020-06-30T16:00"):
            read(moment)


def test_an_as_of_with_an_hour_reads_no_later_bar(make_bars):
    hourly = make_bars(600, freq="h", start="2024-01-20")
    fitted = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly, through="2024-02-10T16")
    for moment in ("2024-02-10T16", "2024-02-10 16", np.datetime64("2024-02-10T16"), "2024-02-10T16Z"):
        assert fitted(hourly, as_of=moment)["origin"] == [INSTANT]
    assert fitted.fitted_through == "2024-02-10 16:00:00"
    series = fitted.encode(hourly)[0]
    hours = pd.date_range(INSTANT, periods=3, freq="h")
    assert hours.equals(pd.DatetimeIndex(series.timestamp[series.origins("2024-02-10T16", "2024-02-10T18")]))
    with pytest.raises(ValueError, match=r"^20240210 is no date: write it as"):
        fitted(hourly, as_of=20240210)


@pytest.mark.parametrize(
    ("as_of", "origin"),
    [
        (pd.Timestamp("2024-02-14", tz="Asia/Tokyo"), "2024-02-14"),  # as yfinance stamps that day's bar
        (pd.Timestamp("2024-02-14", tz="America/New_York"), "2024-02-14"),
        ("2024-02-13T20:00-05:00", "2024-02-13"),  # past midnight in UTC: that day's bar is still to come
        ("2024-02-14T05:00+09:00", "2024-02-13"),  # not yet midnight in UTC, if that is what the dates are of
        ("2024-02-14T12:00Z", "2024-02-14"),
    ],
)
def test_bars_of_dates_are_known_as_of_a_zone(small, make_bars, as_of, origin):
    daily = make_bars(100, start="2023-11-01")
    assert small(daily, as_of=as_of)["origin"] == [pd.Timestamp(origin)]


def test_an_ungrouped_frame_a_list_and_shuffled_tickers_say_the_same(small, make_bars, assert_same_batch):
    first, second = make_bars(50, ticker="A"), make_bars(60, ticker="B", seed=1)
    joined = pd.concat([first, second]).sort_values(["timestamp", "ticker"], kind="stable")
    assert_same_batch(small(joined), small([first, second]))
    assert small([first.drop(columns="ticker"), second.drop(columns="ticker")])["ticker"] == ["series_0", "series_1"]
    nameless = small(first.drop(columns="ticker"))
    assert nameless["ticker"] == ["series"]
    assert torch.equal(nameless["past_values"], small(first)["past_values"])


def test_the_frame_is_left_as_it_was(small, make_bars):
    bars = make_bars(60)
    bars.loc[30, "close"] = np.nan
    before = bars.copy(deep=True)
    small(bars, as_of="2015-03-10")
    pd.testing.assert_frame_equal(bars, before)


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC"])
def test_zoned_dates_stay_the_same_dates(small, make_bars, zone, assert_same_batch):
    bars = make_bars(150)
    zoned = bars.assign(timestamp=bars["timestamp"].dt.tz_localize(zone))
    assert_same_batch(small(zoned), small(bars))
    text = zoned.assign(timestamp=zoned["timestamp"].map(lambda stamp: stamp.isoformat()))  # offsets change in March
    assert_same_batch(small(text), small(bars))


def test_zoned_hours_turn_into_utc(make_bars, assert_same_batch):
    hourly = make_bars(600, freq="h")
    fitted = TsfLlmProcessor(TsfLlmFeatureExtractor(feature_groups=["returns"])).fit(hourly)
    zoned = hourly.assign(timestamp=hourly["timestamp"].dt.tz_localize("UTC").dt.tz_convert("America/New_York"))
    assert_same_batch(fitted(zoned), fitted(hourly))
    middle = zoned["timestamp"].iloc[300]
    assert fitted(zoned, as_of=middle)["origin"] == [hourly["timestamp"].iloc[300]]


# Bad input


def spoiled(row: int, column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def breaker(bars: pd.DataFrame) -> pd.DataFrame:
        bars[column] = bars[column].astype(object)
        bars.loc[row, column] = value
        return bars

    return breaker


BAD_INPUT = {
    "missing column": (lambda b: b.drop(columns=["high", "volume"]), r"AAA: column.*'high', 'volume'. missing.*add"),
    "column twice": (lambda b: pd.concat([b, b[["close"]]], axis=1), r"AAA: column.*'close'. appear more than once"),
    "unsorted": (lambda b: b.iloc[[*range(30), 31, 30, *range(32, 60)]], "AAA, row 31, .*backwards; sort"),
    "repeated": (lambda b: b.iloc[[*range(30), 29, *range(30, 60)]], "AAA, row 30, .*repeated; keep one"),
    "text price": (spoiled(7, "open", "12,5"), "AAA, row 7: open is '12,5', not a number; correct"),
    "text volume": (spoiled(8, "volume", "many"), "AAA, row 8: volume is 'many', not a number; correct"),
    "high below low": (spoiled(9, "high", 0.5), "AAA, row 9, 2015-01-14.*high is below low; mask the bar with NaN"),
    "zero price": (spoiled(10, "low", 0.0), "AAA, row 10, .*price <= 0; mask it with NaN"),
    "negative price": (spoiled(10, "close", -3.0), "AAA, row 10, .*price <= 0; mask it with NaN"),
    "infinite price": (spoiled(11, "close", np.inf), "AAA, row 11, .*infinite value; replace"),
    "infinite volume": (spoiled(11, "volume", -np.inf), "AAA, row 11, .*infinite value; replace"),
    "negative volume": (spoiled(12, "volume", -1.0), "AAA, row 12, .*negative volume; mask"),
    "several": (lambda b: b.assign(volume=-1.0), r"AAA, row 0, .*\(and 59 more\): negative volume"),
    "no time": (spoiled(13, "timestamp", pd.NaT), "AAA, row 13, .*timestamp is empty; drop"),
    "text time": (spoiled(14, "timestamp", "yesterday"), "AAA, row 14: timestamp 'yesterday' is not a date; write"),
    "numeric time": (lambda b: b.assign(timestamp=range(60)), r"AAA: timestamp is a number \(0\): convert it"),
    "too few": (lambda b: b.iloc[:20], "AAA: 20 observed bars, at least 21 are needed: give more history"),
    "too few observed": (lambda b: b.assign(close=[np.nan] * 40 + [5.0] * 20, low=1.0), "AAA: 20 observed bars"),
    "other frequency": (
        lambda b: b.assign(timestamp=stamps("2020-01-01", 60, "h")),
        "AAA: a bar every 0 days 01:00:00, the processor was fitted on 1 days 00:00:00: resample",
    ),
    "weekly": (
        lambda b: b.assign(timestamp=pd.date_range("2020-01-01", periods=60, freq="W")),
        "AAA: a bar every 7 day",
    ),
    "no rows": (lambda b: b.iloc[:0], "no rows: load"),
    "no rows, no ticker": (lambda b: b.iloc[:0].drop(columns="ticker"), "series: 0 observed bars.*more history"),
    "no frames": (lambda b: [], "no bars were given: pass a DataFrame"),
    "no frame": (lambda b: [b.to_numpy()], "bars must be DataFrames, got ndarray: build one"),
    "same ticker twice": (lambda b: [b, b], "AAA: given in more than one frame; join"),
}


@pytest.mark.parametrize(("breaker", "words"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_bars_are_refused_by_name(small, make_bars, breaker, words):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=words):
            small(breaker(make_bars(60)))


def test_the_bad_ticker_is_the_one_named(small, make_bars):
    bars = pd.concat([make_bars(60, ticker="GOOD"), spoiled(5, "close", "x")(make_bars(60, ticker="BAD"))])
    with pytest.raises(ValueError, match=r"^BAD, row 5: close is 'x'"):
        small(bars, strict=True)


@pytest.mark.parametrize("cell", ["x", 0.0, -1.0, np.inf])
def test_a_bad_ticker_is_skipped_and_the_others_answer(small, make_bars, caplog, cell):
    bad = spoiled(5, "close", cell)(make_bars(60, ticker="BAD"))
    batch = small(pd.concat([make_bars(60, ticker="GOOD"), bad, make_bars(10, ticker="IPO")]))
    assert batch["ticker"] == ["GOOD"]
    assert list(batch["skipped"]) == ["BAD", "IPO"]
    assert "skipped BAD, row 5" in caplog.text
    assert "skipped IPO: 10 observed bars" in caplog.text


def test_of_bad_tickers_alone_the_first_reasons_are_told(small, make_bars):
    with pytest.raises(ValueError, match=r"T0: 10 observed.*T2: 10 observed.* more history .*and 2 more"):
        small([make_bars(10, ticker=f"T{i}") for i in range(5)])


def test_many_skipped_are_counted(small, make_bars, caplog):
    batch = small([make_bars(60, ticker="GOOD"), *(make_bars(5, ticker=f"T{i}") for i in range(30))])
    assert len(batch["skipped"]) == 30
    assert caplog.text.count("skipped T") == 20
    assert "skipped 10 more" in caplog.text


def test_unused_categories_are_no_tickers(small, make_bars):
    bars = make_bars(60, ticker="GOOD")
    bars["ticker"] = pd.Categorical(bars["ticker"], categories=["GOOD", "GONE"])
    batch = small(bars)
    assert (batch["ticker"], batch["skipped"]) == (["GOOD"], {})


# Kinds and columns


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["b", "a"], ["b", "a"]),
        (["t_*", "t_1"], ["t_0", "t_1"]),
        (["t_1", "t_?"], ["t_1", "t_0"]),
        (["*"], ["a", "t_0", "t_1"]),  # b is taken, unless it is called by its name
        (["b*", "x", "x_*"], ["b*", "x", "x_*"]),
        (["T_*"], ["T_*"]),
        ([], []),
    ],
)
def test_names_and_patterns(wanted, chosen):
    assert named_columns(wanted, ["a", "b", "t_0", "t_1"], taken=["b"]) == chosen


def test_a_column_that_looks_like_a_pattern_is_itself():
    assert named_columns(["a[1]", "*"], ["a1", "a[1]", "*"]) == ["a[1]", "*"]


def test_noise_for_the_audit_moves_covariates_that_are_zero():
    bars = pd.DataFrame(4.0, index=range(50), columns=OHLCV.columns).assign(flag=0.0)
    other = OHLCV.noise(bars, np.random.default_rng(0))
    assert (other["flag"] != 0).all()
    np.testing.assert_allclose(other["high"], other["low"])  # still a bar


def test_the_scale_of_differences_has_a_relative_floor():
    values = np.concatenate([np.random.default_rng(0).normal(0, 3, 200), np.zeros(2000)])
    d = np.diff(values, prepend=np.nan)
    scale = difference_scale(d, 0.9, 0.1)
    assert np.isnan(scale[:20]).all()
    assert scale[-1] == pytest.approx(0.1 * np.sqrt(np.nanmean(d**2)))
    assert np.isnan(difference_scale(np.zeros(50), 0.9, 0.1)).all()  # a value that never changed has no scale


ODD = {
    "newest first": lambda bars: bars.iloc[::-1],
    "a gap": lambda bars: bars.assign(close=bars["close"].where(bars.index != 5)),
    "whole numbers": lambda bars: bars.assign(**(bars[OHLCV.columns] * 100).round().astype(int)),
    "no volume": lambda bars: bars.assign(volume=np.nan),
    "repeated": lambda bars: bars.iloc[[0, 1, 1, *range(2, len(bars))]],
    "negative": lambda bars: bars.assign(low=-bars["low"]),
    "high below low": lambda bars: bars.assign(high=bars["low"] / 2),
    "infinite": lambda bars: bars.assign(volume=np.inf),
    "no date": lambda bars: bars.assign(timestamp=bars["timestamp"].where(bars.index != 3)),
    "one bar": lambda bars: bars.iloc[:1],
}


@pytest.mark.parametrize("zone", [None, "Asia/Tokyo"])
def test_tickers_of_one_frame_are_checked_as_each_alone(make_bars, zone):
    parts = [change(make_bars(30, ticker=name, seed=seed)) for seed, (name, change) in enumerate(ODD.items())]
    frame = pd.concat([one.iloc[a : a + 10] for a in range(0, 40, 10) for one in parts])  # interleaved
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(zone)
    alone, reasons = {}, {}
    for name, part in frame.groupby("ticker", sort=False):
        try:
            alone[name] = check_bars(part, name)
        except ValueError as error:
            reasons[name] = str(error)
    together = split_tickers(frame)
    assert list(together) == [name for name in ODD if name in alone]
    assert together.skipped == reasons
    assert {*reasons} == {"repeated", "negative", "high below low", "infinite", "no date"}
    for name, bars in alone.items():
        pd.testing.assert_frame_equal(together[name], bars)


def test_two_names_that_read_the_same_are_not_joined(make_bars):
    frame = pd.concat([make_bars(30).assign(ticker=1), make_bars(30, seed=1).assign(ticker="1")])
    with pytest.raises(ValueError, match="1: given in more than one frame"):
        split_tickers(frame)


@pytest.mark.parametrize("bad", [False, True])
def test_an_index_may_have_the_name_of_a_column(make_bars, bad):
    wrong = make_bars(30).assign(ticker="BAD", close=-1.0 if bad else 1.0, low=0.5)
    frame = pd.concat([make_bars(30).assign(ticker="GOOD"), wrong]).set_index("ticker", drop=False)
    assert list(split_tickers(frame)) == (["GOOD"] if bad else ["GOOD", "BAD"])


def test_the_time_is_no_covariate(make_bars):
    with pytest.raises(ValueError, match=r"\['timestamp'\] appear more than once"):
        split_tickers(make_bars(30), covariates=["timestamp"])
