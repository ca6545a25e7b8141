"""resample.py: rules against pandas, what a cut file may change, and files whose rows cannot be counted."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.data_prep.resample import Gaps, Rule, Step, absent_rows, resample, uneven_series
from tsf_llm.data_prep.sources import read_series
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor

EVENTS = 3000


def series(times, values, name="a", **more):
    return pd.DataFrame({"timestamp": pd.DatetimeIndex(times), "series_id": name, "value": values, **more})


@pytest.fixture(scope="module")
def events():
    """Sales at any second of two years, of two series; the second begins late and ends early."""
    rng = np.random.default_rng(0)
    start = pd.Timestamp("2020-01-15 07:30")
    times = (start + pd.to_timedelta(np.sort(rng.uniform(0, 700 * 86400, EVENTS)), unit="s")).floor("s")
    first = series(times, rng.poisson(3, EVENTS).astype(float), price=rng.normal(size=EVENTS))
    second = series(times[1000:2000], rng.normal(size=1000), "b", price=1.0)
    return pd.concat([first, second], ignore_index=True)


@pytest.mark.parametrize(
    ("rule", "freq", "how"),
    [
        ("1d:sum", "D", "sum"),
        ("6h:mean", "6h", "mean"),
        ("1w:sum", "W-MON", "sum"),
        ("month:last", "MS", "last"),
        ("quarter:mean", "QS", "mean"),
        ("3d:last", "3D", "last"),
    ],
)
def test_rules_agree_with_pandas(events, rule, freq, how):
    one = events[events["series_id"] == "a"]
    options = {"label": "left", "closed": "left"} | ({"origin": "epoch"} if freq in ("6h", "3D") else {})
    expected = getattr(one.set_index("timestamp")["value"].resample(freq, **options), how)()
    found = resample(one, rule).set_index("timestamp")["value"]
    expected = expected.iloc[1 if how == "sum" else 0 : -1]  # a sum that began before the file; and what is not over
    np.testing.assert_array_equal(found.index, expected.index)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_cut_file_has_the_same_rows_and_fewer(events):
    for rule in ("1d:sum", "12h:mean", "1d:last", "month:sum", "6h:nearest"):
        whole = resample(events, rule).set_index(["series_id", "timestamp"])
        for row in (700, 1500, 2400):
            before = events["timestamp"] <= events["timestamp"].iloc[row]
            part = resample(events[before], rule).set_index(["series_id", "timestamp"])
            pd.testing.assert_frame_equal(part, whole.loc[part.index], check_exact=True)
            assert len(part) < len(whole)


def test_order_and_other_series_do_not_matter(events):
    whole = resample(events, "1d:mean")
    shuffled = resample(events.sample(frac=1, random_state=1), "1d:mean")
    order = ["series_id", "timestamp"]
    pd.testing.assert_frame_equal(whole, shuffled.sort_values(order, ignore_index=True))
    alone = resample(events[events["series_id"] == "b"], "1d:mean")
    beside = whole[whole["series_id"] == "b"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, beside.head(len(alone)))  # alone its last day may not be over


def test_what_is_empty():
    days = ["2024-01-01", "2024-01-02", "2024-01-04", "2024-01-05"]
    sold = pd.concat([series(days, [2.0, np.nan, 3.0, 1.0]), series(days[:2], [5.0, 1.0], "b")])
    found = resample(sold, "1d:sum").groupby("series_id")["value"].apply(list)
    np.testing.assert_array_equal(found["a"], [2, np.nan, 0, 3, 1])  # unknown stays so, absent is nothing sold
    np.testing.assert_array_equal(found["b"], [5, 1, 0, 0, 0])  # to the end of the file
    found = resample(sold, "last").groupby("series_id")["value"].apply(list)
    np.testing.assert_array_equal(found["a"], [2, np.nan, np.nan, 3, 1])
    np.testing.assert_array_equal(found["b"], [5, 1])


def test_rows_to_come_keep_their_covariates():
    days = pd.date_range("2024-01-01", periods=6)
    frame = series(days, [1.0, 2, 3, 4, np.nan, np.nan], promo=[0.0, 1, 0, 1, 1, 0])
    pd.testing.assert_frame_equal(resample(frame, "sum"), frame, check_dtype=False)
    found = resample(frame, "2d:sum")
    assert found["promo"].tolist() == [0.5, 1.0, 0.0]
    np.testing.assert_array_equal(found["value"], [5, np.nan, np.nan])  # the first two days began before the file


def test_nearest_is_a_reading_of_the_moment():
    times = pd.date_range("2024-01-01", periods=200, freq="10min")
    shaken = times + pd.to_timedelta(np.random.default_rng(0).uniform(-200, 200, 200).round(), unit="s")
    found = resample(series(shaken, np.arange(200.0)), "nearest")
    assert found["timestamp"].tolist() == times[: len(found)].tolist()
    assert found["value"].tolist() == np.arange(len(found)).tolist()


def test_an_hour_that_comes_twice_and_one_that_does_not():
    utc = pd.date_range("2021-03-27", "2021-11-02", freq="h", tz="UTC")
    local = utc.tz_convert("Europe/Berlin").tz_localize(None)
    found = resample(series(local, np.arange(len(local), dtype=float)), "1h:mean").set_index("timestamp")["value"]
    assert np.isnan(found["2021-03-28 02:00"])
    twice = np.flatnonzero(local == pd.Timestamp("2021-10-31 02:00"))
    assert found["2021-10-31 02:00"] == twice.mean()
    assert found.isna().sum() == 1


@pytest.mark.parametrize("text", ["", "mode", "0h:sum", "1y:sum", "sum:1h", "month:nearest", "-1h:sum"])
def test_what_is_no_rule_is_refused(text):
    with pytest.raises(ValueError, match="--resample"):
        Rule.read(text)


def test_rules_that_do_not_suit_a_file():
    days = series(pd.date_range("2024-01-01", periods=40), np.arange(40.0))
    with pytest.raises(ValueError, match="most steps would be empty: give a longer step"):
        resample(days, "1h:mean")
    with pytest.raises(ValueError, match="no step of 1 year is over"):
        resample(days, "year:mean")
    with pytest.raises(ValueError, match="the time of a row is empty"):
        resample(days.assign(timestamp=pd.NaT), "sum")
    far = days.assign(timestamp=days["timestamp"].where(days.index > 0, pd.Timestamp("1969-01-01")))
    with pytest.raises(ValueError, match=r"would make [\d,]+ rows: give a longer step"):
        resample(far, "1s:sum")


def test_steps_by_their_numbers():
    times = pd.to_datetime(["2024-01-07 23:59", "2024-01-08 00:00", "2024-02-29 12:00"]).to_numpy("datetime64[ns]")
    for step, starts in {
        Step(1, "w"): ["2024-01-01", "2024-01-08", "2024-02-26"],
        Step(1, "month"): ["2024-01-01", "2024-01-01", "2024-02-01"],
        Step(1, "quarter"): ["2024-01-01", "2024-01-01", "2024-01-01"],
        Step(15, "min"): ["2024-01-07 23:45", "2024-01-08", "2024-02-29 12:00"],
    }.items():
        assert (
            step.starts(step.places(times)).tolist()
            == pd.to_datetime(starts, format="mixed").to_numpy("datetime64[ns]").tolist()
        )
        assert Step.near(step.seconds) == step


EVEN = {
    "seconds": "s",
    "hours": "h",
    "days": "D",
    "workdays": "B",
    "weeks": "W",
    "month starts": "MS",
    "month ends": "ME",
    "quarters": "QE",
    "years": "YE",
}


@pytest.mark.parametrize("freq", EVEN.values(), ids=EVEN)
def test_even_times_are_taken_as_they_are(freq):
    frame = series(pd.date_range("2001-01-31", periods=120, freq=freq), 1.0)
    gaps = Gaps.of(frame)
    assert uneven_series(frame, gaps) == {}
    assert absent_rows(gaps, frame["timestamp"]) is None


def test_sessions_are_not_missed_and_absent_rows_are():
    days = pd.date_range("2024-01-01", periods=100, freq="B")
    hours = pd.DatetimeIndex([day + pd.Timedelta(hours=9.5 + hour) for day in days for hour in range(7)])
    frame = series(hours, 1.0)
    assert absent_rows(Gaps.of(frame), frame["timestamp"]) is None
    few = frame[np.random.default_rng(0).random(len(frame)) < 0.75]
    assert "2% of the rows" in absent_rows(Gaps.of(few), few["timestamp"]).replace("5%", "2%").replace("6%", "2%")


def test_uneven_times_are_refused_with_a_rule_that_helps(tmp_path, events, warnings_of):
    good = series(pd.date_range("2020-01-01", periods=300), np.arange(300.0) % 7, "good")
    sparse = series(good["timestamp"][np.random.default_rng(1).random(300) < 0.3], 1.0, "sparse")
    path = tmp_path / "events.csv"
    events[events["series_id"] == "a"].to_csv(path, index=False)
    with pytest.raises(
        ValueError, match=r"a: the times are uneven \(\d+% of [\d,]+ gaps .* --resample 12h:mean"
    ) as error:
        read_series(path, value="value")
    rule = str(error.value).split("--resample ")[1].split(" ")[0]
    even = read_series(path, value="value", resample=rule)
    assert even["timestamp"].diff().dropna().unique().tolist() == [pd.Timedelta("12h")]
    assert even["value"].notna().mean() > 0.8

    pd.concat([good, sparse]).to_csv(tmp_path / "sparse.csv", index=False)
    [told] = warnings_of(lambda: read_series(tmp_path / "sparse.csv"))
    assert "sparse: 68% of its rows are not there, of one every 1 day" in told
    assert "--resample 1d:sum" in told
    frame = read_series(tmp_path / "sparse.csv")
    assert frame["series_id"].unique().tolist() == ["good"]
    assert [*frame.attrs["skipped"]] == ["sparse"]
    even = read_series(tmp_path / "sparse.csv", resample="1d:sum")
    assert even.groupby("series_id")["value"].sum()["sparse"] == len(sparse)
    assert even.groupby("series_id").size()["sparse"] >= 290


@pytest.mark.parametrize(
    ("rule", "as_of", "last"),
    [
        ("1d:sum", "2021-05-10T12:00", "2021-05-09"),  # of the 10th a half is known
        ("1d:sum", "2021-05-10", "2021-05-10"),
        ("month:mean", "2021-05-10", "2021-04-01"),
        ("month:mean", "2021-05-31", "2021-05-01"),
        ("1d:nearest", "2021-05-10T12:00", "2021-05-10"),
        ("1d:nearest", "2021-05-10T11:00", "2021-05-09"),
    ],
)
def test_a_row_is_known_when_its_step_is_over(rule, as_of, last):
    times = pd.date_range("2018-01-01", "2021-12-01", freq="6h")
    even = resample(series(times, np.sin(np.arange(len(times)))), rule)
    extractor = TsfLlmFeatureExtractor(kind="univariate", context_length=8).fit(even, "2020-12-31")
    (one,) = extractor.encode(even, as_of)
    assert one.timestamp[-1] == pd.Timestamp(last)


def test_days_without_sales_before_a_day_that_is_not_over_are_zeros():
    times = ["2021-01-01 09:00", "2021-01-01 17:30", "2021-01-02 08:00", "2021-01-06 12:00"]
    even = resample(series(times, [1.0, 2.0, 3.0, 4.0]), "1d:sum")
    assert even["value"].tolist() == [3.0, 0.0, 0.0, 0.0]  # from the 2nd to the 5th


def test_few_rows_become_no_millions():
    few = series(pd.date_range("2000-01-01", periods=40, freq="200D"), 1.0)
    with pytest.raises(ValueError, match=r"--resample 1min:sum would make 11,\d{3},\d{3} rows: give a longer step"):
        resample(few, "1min:sum")
