"""Cleaning: each rule on a planted defect, what was known then, conservation, and any input at all."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tsf_llm.data_prep.clean as module
from tsf_llm.bars_tsf_llm import PRICES, check_bars
from tsf_llm.data_prep.clean import RULES, clean_bars, policy_table
from tsf_llm.data_prep.columns import COLUMNS
from tsf_llm.data_prep.sources import read_bars, read_raw

DOCS = Path(module.__file__).parents[1] / "docs" / "data.md"


def counts(report):
    return {name: found["rows"] for name, found in report["rules"].items() if found["rows"]}


def assert_conserved(raw, frame, report):
    json.dumps(report, allow_nan=False)
    for one in [report, *report["tickers"].values()]:
        assert one["rows_in"] == one["bars"] + one["missing_bars"] + one["rows_dropped"]
    assert report["rows_in"] == len(raw)
    assert len(frame) == report["bars"] + report["missing_bars"]
    assert frame["close"].notna().sum() == report["bars"]
    for ticker, part in frame.groupby("ticker", sort=False):
        checked = check_bars(part, ticker).astype({"timestamp": "datetime64[us]"})
        pd.testing.assert_frame_equal(checked, part[checked.columns].reset_index(drop=True))


def clean(raw):
    frame, report = clean_bars(raw)
    assert_conserved(raw, frame, report)
    return frame, report


# One planted defect per rule


def test_clean_bars_stay_as_they_are(make_bars):
    bars = pd.concat([make_bars(60), make_bars(50, ticker="BBB", seed=1)], ignore_index=True)
    frame, report = clean(bars)
    assert counts(report) == {}
    pd.testing.assert_frame_equal(frame, bars.astype({"timestamp": "datetime64[us]"}))


def test_rows_without_ticker_or_time_are_dropped(make_bars):
    bars = make_bars(30).astype({"timestamp": object})
    bars.loc[3, "ticker"], bars.loc[5, "timestamp"], bars.loc[6, "timestamp"] = "", "soon", None
    frame, report = clean(bars)
    assert counts(report) == {"no_ticker": 1, "no_timestamp": 2}
    assert report["tickers"][""]["rows_dropped"] == 1
    examples = report["tickers"]["AAA"]["rules"]["no_timestamp"]["examples"]
    assert examples[0] == {"row": 6, "timestamp": None, "detail": "timestamp='soon'"}
    assert len(frame) == 27


def test_of_repeated_rows_the_first_good_one_stays(make_bars):
    bars = make_bars(20)
    twin, other, broken = bars.loc[[4]], bars.loc[[7]].assign(close=bars.loc[7, "open"]), bars.loc[[9]].assign(open=-1)
    raw = pd.concat([bars.loc[:8], broken, bars.loc[9:], twin, other], ignore_index=True)
    frame, report = clean(raw)
    assert counts(report) == {"repeated": 1, "conflicting": 2, "unordered": 2}
    pd.testing.assert_frame_equal(frame[PRICES], bars[PRICES])


def test_unordered_rows_are_sorted(make_bars):
    bars = make_bars(20)
    frame, report = clean(bars.iloc[[*range(5), 6, 5, *range(7, 20)]])
    assert counts(report) == {"unordered": 1}
    pd.testing.assert_frame_equal(frame[PRICES], bars[PRICES])


def test_bad_prices_become_a_missing_bar(make_bars):
    bars = make_bars(20).astype({"close": object})
    bars.loc[2, "close"], bars.loc[3, "close"], bars.loc[4, "close"] = "#REF!", np.nan, 0.0
    bars.loc[5, "open"], bars.loc[6, "high"] = -3.0, np.inf
    frame, report = clean(bars)
    assert counts(report) == {"text": 1, "missing": 2, "non_positive": 2}
    assert report["tickers"]["AAA"]["rules"]["text"]["examples"][0]["detail"] == "close='#REF!'"
    assert frame.loc[2:6, COLUMNS[2:]].isna().all(axis=None)
    assert len(frame) == 20


def test_high_and_low_are_widened_a_little_and_masked_beyond(make_bars):
    bars = make_bars(20)
    bars.loc[4, "high"] = bars.loc[4, ["open", "close"]].max() * 0.99
    bars.loc[6, ["high", "low"]] = bars.loc[6, ["low", "high"]].to_numpy(copy=True)
    bars.loc[9, "low"] = bars.loc[9, "close"] * 2
    bars.loc[10, "close"] = bars.loc[10, "close"] * 10
    frame, report = clean(bars)
    assert counts(report) == {"high_low": 2, "high_low_far": 2}
    assert (frame["high"].dropna() >= frame[["open", "close"]].dropna().max(axis=1)).all()
    assert frame.loc[[9, 10], "close"].isna().all()
    assert frame.loc[6, "high"] == bars.loc[6, "low"]


def test_volume(make_bars):
    bars = make_bars(20)
    bars.loc[3, "volume"], bars.loc[4, "volume"], bars.loc[5, "volume"], bars.loc[6, "volume"] = -1, np.inf, 0, np.nan
    frame, report = clean(bars)
    assert counts(report) == {"bad_volume": 2, "no_volume": 2}
    assert frame["volume"].isna().tolist() == [i in (3, 4, 6) for i in range(20)]
    assert frame["close"].notna().all()


def split(bars, row, ratio):
    bars = bars.copy()
    bars.loc[row:, PRICES] /= ratio
    bars.loc[row:, "volume"] *= ratio
    return bars


def test_a_known_split_is_taken_out_of_earlier_prices(make_bars):
    bars = make_bars(60)
    raw = split(split(bars, 20, 2), 40, 0.1)
    raw["split_coefficient"] = 1.0
    raw.loc[[20, 40], "split_coefficient"] = 2, 0.1
    frame, report = clean(raw)
    assert counts(report) == {"split": 2}
    factor = frame["close"] / bars["close"]
    np.testing.assert_allclose(factor, 1 / (2 * 0.1), rtol=1e-12)  # the last price stays as traded
    np.testing.assert_allclose(frame["close"] * frame["volume"], bars["close"] * bars["volume"], rtol=1e-9)
    adjusted, report = clean(bars.assign(split_coefficient=raw["split_coefficient"]))
    assert counts(report) == {}  # the source adjusted already
    pd.testing.assert_frame_equal(adjusted[PRICES], bars[PRICES])


def test_a_split_across_a_missing_bar_is_found(make_bars):
    raw = split(make_bars(60), 20, 3).assign(split_coefficient=0.0)  # some vendors write 0 for none
    raw.loc[20, "split_coefficient"], raw.loc[20, "close"] = 3.0, np.nan
    frame, report = clean(raw)
    assert counts(report) == {"split": 1, "missing": 1}
    assert frame["close"].pct_change(fill_method=None).abs().max() < 0.1


def with_splits(bars, coefficients, *, adjusted):
    """The bars beside a column of splits; as traded, or as a vendor adjusts them."""
    raw = bars.copy()
    for row, coefficient in coefficients.items():
        raw = raw if adjusted else split(raw, row, coefficient)
    raw["Stock Splits"] = pd.Series(coefficients).reindex(raw.index, fill_value=0.0)
    return raw


@pytest.mark.parametrize(
    "coefficients",
    [
        {150: 2.0},
        {40: 10.0},
        {299: 1.5},
        {200: 0.1},
        {50: 2.0, 120: 1.05, 250: 1.1},
        dict.fromkeys(range(20, 300, 20), 1.05),
    ],
    ids=["2:1", "10:1", "last bar", "reverse", "one proves the small ones", "small ones together"],
)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_series_proves_whether_splits_are_in_the_prices(make_bars, coefficients, seed):
    bars = make_bars(300, seed=seed)
    usual = np.diff(np.log(bars["close"]))
    adjusted, report = clean(with_splits(bars, coefficients, adjusted=True))
    assert counts(report) == {}
    pd.testing.assert_frame_equal(adjusted[PRICES], bars[PRICES])
    frame, report = clean(with_splits(bars, coefficients, adjusted=False))
    assert counts(report)["split"] == len(coefficients)
    np.testing.assert_allclose(np.diff(np.log(frame["close"])), usual, atol=1e-12)


def test_one_unusual_day_proves_no_split(make_bars):
    """A share dividend of 10 % in adjusted prices, on a day that fell by 5.5 % of its own."""
    bars = make_bars(300, start="2023-01-02")
    bars.loc[200:, PRICES] *= np.exp(-0.055) * bars["close"][199] / bars["close"][200]
    frame, report = clean(with_splits(bars, {200: 1.1}, adjusted=True))
    assert counts(report) == {"split_unproven": 1}
    assert report["rules"]["split_unproven"]["policy"] == "keep"
    [example] = report["tickers"]["AAA"]["rules"]["split_unproven"]["examples"]
    assert example["detail"] == "coefficient 1.1, close moved by -5.4%"
    np.testing.assert_allclose(np.log(frame["close"][200] / frame["close"][199]), -0.055)
    pd.testing.assert_frame_equal(frame[PRICES], bars[PRICES])
    assert counts(clean(bars.assign(split_coefficient=1.0))[1]) == {}
    assert counts(clean(bars.assign(split_coefficient=np.nan))[1]) == {}


def test_splits_that_disagree_go_their_own_way_and_small_ones_stay(make_bars):
    """A file that was adjusted up to some day, and goes on as traded."""
    bars = make_bars(300)
    raw = split(bars, 200, 4).assign(split_coefficient=1.0)
    raw.loc[[60, 120, 200], "split_coefficient"] = 2.0, 1.02, 4.0
    frame, report = clean(raw)
    assert counts(report) == {"split": 1, "split_unproven": 1}
    np.testing.assert_allclose(np.diff(np.log(frame["close"])), np.diff(np.log(bars["close"])), atol=1e-12)


def test_a_factor_that_moved_without_its_split_is_reported(make_bars):
    """True errors of a vendor: the adjusted close jumps by a split that the close never made."""
    bars = make_bars(300)
    raw = bars.assign(split_coefficient=1.0, adj_close=bars["close"])
    raw.loc[150, "split_coefficient"] = 1.5
    raw.loc[:149, "adj_close"] /= 1.5
    frame, report = clean(raw)
    assert counts(report) == {"jump": 1, "split_suspected": 1, "split_unproven": 1}
    np.testing.assert_allclose(frame["close"], raw["adj_close"])
    unmoved = bars.assign(split_coefficient=raw["split_coefficient"], adj_close=split(bars, 150, 1.5)["close"])
    unmoved[PRICES] = split(bars, 150, 1.5)[PRICES]  # adjusted for dividends alone: the jump is in both
    assert counts(clean(unmoved)[1]) == {"split": 1}


def test_each_ticker_proves_its_own_splits(make_bars):
    raw = [with_splits(make_bars(200, ticker=name), {80: 3.0}, adjusted=name == "A") for name in "AB"]
    frame, report = clean(pd.concat(raw))
    assert {name: list(one["rules"]) for name, one in report["tickers"].items()} == {"A": [], "B": ["split"]}
    a, b = (np.diff(np.log(frame["close"][frame["ticker"] == name])) for name in "AB")
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_a_split_nobody_wrote_down_is_reported_only(make_bars):
    raw = split(make_bars(60).assign(volume=1e6), 30, 2)
    raw.loc[30, "open"] = raw.loc[29, "close"] / 2
    raw["high"] = raw[PRICES].max(axis=1)
    raw["low"] = raw[PRICES].min(axis=1)
    frame, report = clean(raw)
    assert counts(report) == {"split_suspected": 1, "jump": 1}
    assert frame["close"].equals(raw["close"])
    crash = raw.copy()
    crash.loc[30, "volume"] *= 20
    assert counts(clean(crash)[1]) == {"jump": 1}


def test_an_adjusted_close_is_used_as_read_bars_uses_it(make_bars, tmp_path):
    raw = split(make_bars(60), 30, 2)
    raw["adj_close"] = make_bars(60)["close"] / 2
    raw["split_coefficient"] = np.where(raw.index == 30, 2.0, 1.0)
    raw.to_csv(tmp_path / "a.csv", index=False)
    frame, report = clean(read_raw(tmp_path / "a.csv"))
    assert counts(report) == {}
    pd.testing.assert_frame_equal(frame, read_bars(tmp_path / "a.csv"))


def test_jumps_spikes_stale_and_flat_bars_are_kept_and_named(make_bars):
    bars = make_bars(80)
    bars.loc[20, PRICES] *= 3
    bars.loc[40:46, PRICES] = bars.loc[40, PRICES].to_numpy()
    bars.loc[60, PRICES] = bars.loc[60, "close"]
    frame, report = clean(bars)
    assert counts(report) == {"jump": 2, "spike": 1, "stale": 7, "flat": 1} | (
        {"split_suspected": n} if (n := counts(report).get("split_suspected")) else {}
    )
    assert report["tickers"]["AAA"]["rules"]["spike"]["examples"][0]["row"] == 21
    assert frame["close"].equals(bars["close"])


@pytest.mark.parametrize("by", ["column", "decimals"])
def test_a_switch_of_source_is_named_where_the_level_jumps(make_bars, by):
    bars = make_bars(120)
    bars.loc[60:, PRICES] *= 1.2
    if by == "column":
        bars["source"] = np.where(bars.index < 60, "yahoo", "stooq")
    else:
        bars.loc[:59, PRICES] = bars.loc[:59, PRICES].round(2)
    _, report = clean(bars)
    assert counts(report).get("source_switch") == 1
    assert report["tickers"]["AAA"]["rules"]["source_switch"]["examples"][0]["row"] == 61
    quiet = bars.assign(**{name: bars[name].where(bars.index < 60, bars[name] / 1.2) for name in PRICES})
    assert "source_switch" not in counts(clean(quiet)[1])


def test_nothing_left_says_why():
    bars = pd.DataFrame({"date": ["2020-01-01", "x"], "open": ["1", "#N/A!"], "high": 1.0, "low": 1.0, "close": -1.0})
    with pytest.raises(ValueError, match=r"no bar is left of 2 rows: 1 no_timestamp \(first row 2 .* 1 non_positive"):
        clean_bars(bars)
    with pytest.raises(ValueError, match="the table is empty"):
        clean_bars(bars.iloc[:0])
    with pytest.raises(ValueError, match="no column for timestamp, open"):
        clean_bars(pd.DataFrame())
    with pytest.raises(ValueError, match="must be a DataFrame"):
        clean_bars([1])


# What was known then


def damage(bars, rng):
    """Every repairable defect at once, at random rows."""
    bars = split(bars, 70, 2).assign(split_coefficient=1.0)
    bars.loc[70, "split_coefficient"] = 2.0
    rows = rng.permutation(np.setdiff1d(np.arange(len(bars)), [69, 70]))
    bars.loc[rows[:3], "close"] = np.nan
    bars.loc[rows[3:6], "low"] = 0
    bars.loc[rows[6:9], "high"] *= 0.97
    bars.loc[rows[9:12], "low"] *= 3
    bars.loc[rows[12:15], "volume"] = [-1, 0, np.inf]
    twins = bars.loc[rows[15:18]].assign(open=[1.0, 2.0, np.nan])
    bars = pd.concat([bars, twins, bars.loc[rows[18:20]]])
    return bars.iloc[rng.permutation(len(bars))]


def test_cleaning_twice_changes_nothing_more(make_bars):
    once, report = clean(damage(make_bars(120), np.random.default_rng(0)))
    twice, again = clean(once)
    pd.testing.assert_frame_equal(twice, once)
    assert again["rules"]["missing"]["rows"] == report["missing_bars"] == again["missing_bars"]
    assert again["rows_dropped"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_cleaning_a_past_gives_the_past_of_the_cleaned(make_bars, seed):
    rng = np.random.default_rng(seed)
    bars = damage(make_bars(120, seed=seed), rng)
    whole, report = clean(bars)
    assert report["rules"]["split"]["rows"] == 1
    for until in rng.choice(whole["timestamp"].iloc[5:], 12, replace=False):
        part, _ = clean(bars[bars["timestamp"] <= until])
        past = whole[whole["timestamp"] <= until]
        assert part["timestamp"].tolist() == past["timestamp"].tolist()
        factor = (part["close"] / past["close"]).dropna()
        assert factor.round(12).isin([1.0, 2.0]).all()
        assert factor.nunique() <= 1 or np.ptp(factor) < 1e-12
        constant = factor.iloc[0] if len(factor) else 1.0
        np.testing.assert_allclose(part[PRICES], past[PRICES] * constant, rtol=1e-12)
        np.testing.assert_allclose(part["volume"], past["volume"] / constant, rtol=1e-12)


# Any input at all

HEADER = "date,ticker,open,high,low,close,volume\n"
FUZZ = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
NUMBERS = st.floats(width=64) | st.sampled_from([0.0, -1.0, 1.0, 100.0, 1e308, 5e-324, np.nan, np.inf])


def clean_or_refuse(raw):
    try:
        frame, report = clean_bars(raw)
    except ValueError:
        return
    assert_conserved(raw, frame, report)


@FUZZ
@given(
    values=hnp.arrays(float, st.tuples(st.integers(0, 12), st.just(7)), elements=NUMBERS),
    days=st.lists(st.integers(0, 8), min_size=12, max_size=12),
)
def test_any_floats(values, days):
    frame = pd.DataFrame(values, columns=[*PRICES, "volume", "adj_close", "split_coefficient"])
    frame["timestamp"] = pd.Timestamp("2020-01-01") + pd.to_timedelta(days[: len(frame)], "D")
    clean_or_refuse(frame)
    clean_or_refuse(frame.drop(columns=["adj_close", "split_coefficient"]))
    clean_or_refuse(frame.drop(columns="adj_close").assign(**frame[PRICES].abs()))


@FUZZ
@given(
    st.lists(
        st.lists(
            st.text(max_size=12) | st.sampled_from(["2024-01-02", "1", "2.5", "nan", "1e999", "AAA"]), max_size=8
        ),
        max_size=8,
    )
)
def test_any_csv_text(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    path.write_text(HEADER + "\n".join(",".join(row) for row in rows), encoding="utf-8", errors="replace")
    try:
        raw = read_raw(path)
    except ValueError:
        return
    clean_or_refuse(raw)


@FUZZ
@given(st.binary(max_size=200), st.sampled_from(["csv", "csv.gz", "parquet"]), st.booleans())
def test_any_bytes(tmp_path_factory, content, extension, headed):
    path = tmp_path_factory.mktemp("fuzz") / f"a.{extension}"
    path.write_bytes((HEADER.encode() if headed and extension == "csv" else b"") + content)
    try:
        raw = read_raw(path)
    except ValueError:
        return
    clean_or_refuse(raw)


@FUZZ
@given(
    st.lists(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text(max_size=5)
        | st.floats()
        | st.binary(max_size=3)
        | st.datetimes()
        | st.lists(st.integers(), max_size=2),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 6),
)
def test_any_objects_in_any_column(make_bars, values, column):
    bars = make_bars(6).head(len(values)).astype(object)
    bars.isetitem(column, pd.Series(values, dtype=object))
    clean_or_refuse(bars)


@pytest.mark.parametrize("dtype", ["bool", "complex", "datetime64[ns]", "timedelta64[ns]", "category", "Int64"])
def test_any_dtype(make_bars, dtype):
    bars = make_bars(6)
    bars["close"] = pd.Series([1, 2, 3, 1, 2, 3]).astype(dtype)
    clean_or_refuse(bars)
    bars["timestamp"] = bars["close"]
    clean_or_refuse(bars)


def test_a_column_given_twice_is_refused(make_bars):
    bars = make_bars(6)
    with pytest.raises(ValueError, match="more than one column 'close'"):
        clean_bars(pd.concat([bars, bars[["close"]]], axis=1))


# The policy


def test_every_rule_has_a_policy_and_a_reason():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.looks_for and rule.why for rule in RULES)


def test_the_page_has_the_table_of_the_code():
    page = DOCS.read_text(encoding="utf-8")
    assert page.split("<!-- cleaning-rules -->\n")[1].split("\n<!-- /cleaning-rules -->")[0] == policy_table()
