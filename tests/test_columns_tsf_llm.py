"""Which column is which, in files as in frames: the same bars whatever their names, or columns are named."""

import doctest

import datasets
import numpy as np
import pandas as pd
import pytest

import tsf_llm.columns_tsf_llm as module
from tsf_llm.bars_tsf_llm import PRICES, UNIVARIATE
from tsf_llm.columns_tsf_llm import adjust, as_bars, find_bars, given_bars, told_kind
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.sources import iter_raw, read_bars, read_raw, read_series
from tsf_llm.feature_extraction_tsf_llm import TsfLlmFeatureExtractor
from tsf_llm.processing_tsf_llm import TsfLlmProcessor
from tsf_llm.tokenization_tsf_llm import TsfLlmTokenizer


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


@pytest.fixture
def warned(monkeypatch):
    """The warnings of the matcher, each as often as it comes."""
    told = []
    monkeypatch.setattr(module.logger, "warning_once", told.append)
    return told


def downloaded(bars):
    """As `yfinance.download` returns it."""
    parts = {
        name: part.set_index("timestamp").drop(columns="ticker").rename(columns=str.capitalize).rename_axis("Date")
        for name, part in bars.groupby("ticker", sort=False)
    }
    return pd.concat(parts, axis=1, names=["Ticker", "Price"]).swaplevel(axis=1)


FORMS = {
    "ours": lambda bars: bars,
    "yahoo": lambda bars: bars.rename(columns=str.capitalize).rename(columns={"Timestamp": "Date"}),
    "index": lambda bars: bars.set_index("timestamp").rename_axis("Date"),
    "index without a name": lambda bars: bars.set_index("timestamp").rename_axis(None),
    "index and column": lambda bars: bars.set_index("timestamp", drop=False),
    "two levels of rows": lambda bars: bars.rename(columns={"ticker": "symbol"}).set_index(["symbol", "timestamp"]),
    "two levels of names": downloaded,
    "by ticker": lambda bars: downloaded(bars).swaplevel(axis=1),
    "tuples": lambda bars: downloaded(bars).pipe(lambda frame: frame.set_axis(map(str, frame.columns), axis=1)),
    "dataset": lambda bars: datasets.Dataset.from_pandas(bars, preserve_index=False),
    "dataset of yahoo": lambda bars: datasets.Dataset.from_pandas(FORMS["yahoo"](bars), preserve_index=False),
    "dataset as torch": lambda bars: datasets.Dataset.from_pandas(bars, preserve_index=False).with_format("torch"),
    "date and time": lambda bars: bars.assign(
        date=bars["timestamp"].dt.strftime("%Y-%m-%d"), time=bars["timestamp"].dt.strftime("%H:%M")
    ).drop(columns="timestamp"),
    "chinese": lambda bars: bars.set_axis(["日期", "股票代码", "开盘", "最高", "最低", "收盘", "成交量"], axis=1),
    "unused categories": lambda bars: bars.assign(ticker=pd.Categorical(bars["ticker"], ["ZZZ", "BBB", "AAA"])),
    "numbers": lambda bars: bars.assign(ticker=bars["ticker"].map({"AAA": 10107.0, "BBB": 10108.0})),
    "permno": lambda bars: bars.assign(permno=bars["ticker"].map({"AAA": 10107, "BBB": 10108})).drop(columns="ticker"),
    "name": lambda bars: bars.rename(columns={"ticker": "Name"}),
    "name beside it": lambda bars: bars.assign(name="Example Inc.", ISIN="US0000"),
}


def fitted(bars):
    extractor = TsfLlmFeatureExtractor(feature_groups=["returns"], context_length=40)
    return TsfLlmProcessor(extractor, TsfLlmTokenizer(n_bins=32)).fit(bars)


@pytest.mark.parametrize("form", FORMS)
def test_the_processor_reads_any_form(small, make_bars, assert_same_batch, form):
    bars = pd.concat([make_bars(120, ticker="AAA", seed=3), make_bars(120, ticker="BBB", seed=4)], ignore_index=True)
    given, fence = FORMS[form](bars), bars["timestamp"].iloc[99]
    if form in ("numbers", "permno"):
        bars["ticker"] = bars["ticker"].map({"AAA": "10107", "BBB": "10108"})
    for each in (given, [given]):
        assert_same_batch(small(each), small(bars))
        assert_same_batch(small(each, as_of=fence), small(bars, as_of=fence))
    assert fitted(given).to_json_string() == fitted(bars).to_json_string()
    assert small.audit(given)["tickers"] == 2


@pytest.mark.parametrize("form", ["yahoo", "name", "permno", "chinese"])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_files_and_frames_say_the_same(tmp_path, make_bars, form, suffix):
    bars = pd.concat([make_bars(60, ticker="AAA", seed=3), make_bars(80, ticker="BBB", seed=4)], ignore_index=True)
    frame = FORMS[form](bars)
    path = tmp_path / f"prices.{suffix}"
    frame.to_parquet(path) if suffix == "parquet" else frame.to_csv(path, index=False)
    read, given = read_bars(path), as_bars(frame)
    assert read["ticker"].tolist() == given["ticker"].tolist()
    np.testing.assert_array_equal(read[[*PRICES, "volume"]], given[[*PRICES, "volume"]])
    pd.testing.assert_frame_equal(clean_bars(read_raw(path))[0], read)
    pd.testing.assert_frame_equal(clean_bars(frame)[0], read)


# Names of series


def panel(make_bars, **columns):
    bars = pd.concat([make_bars(60, ticker="AAA", seed=3), make_bars(80, ticker="BBB", seed=4)], ignore_index=True)
    return bars.assign(
        **{name: bars["ticker"].map(dict(zip(("AAA", "BBB"), pair, strict=True))) for name, pair in columns.items()}
    )


@pytest.mark.parametrize(
    "key",
    [
        *("Name", "symbol", "ts_code", "code", "asset", "Instrument", "RIC", "isin", "CUSIP", "sid", "Stock", "coin"),
        *("Pair", "underlying", "security", "<TICKER>"),
    ],
)
def test_common_keys(tmp_path, make_bars, small, key):
    bars = panel(make_bars, **{key: ("600519.SH", "A-2")}).drop(columns="ticker")
    path = tmp_path / "prices.csv"
    bars.to_csv(path, index=False)
    for read in (read_bars(path), clean_bars(read_raw(path))[0], clean_bars(bars)[0], as_bars(bars)):
        assert read.groupby("ticker").size().to_dict() == {"600519.SH": 60, "A-2": 80}
    assert small(bars)["ticker"] == ["600519.SH", "A-2"]


@pytest.mark.parametrize("line", ["", "2024-01-02,1,2,1,2,9,X,2024-01-03,1,2,1,2,9,Y"])
def test_a_row_without_a_name_does_not_hide_the_key(tmp_path, make_bars, line):
    bars, path = panel(make_bars, Name=("X", "Y")).drop(columns="ticker"), tmp_path / "a.csv"
    lines = bars.to_csv(index=False).splitlines()
    lines[9] = line or lines[9].replace("X", "").replace("Y", "")
    path.write_text("\n".join(lines))
    kept, report = clean_bars(read_raw(path))
    assert sorted(kept.groupby("ticker").size()) == [60, 79] or sorted(kept.groupby("ticker").size()) == [59, 80]
    assert report["rules"]["no_ticker"]["rows"] == 1
    with pytest.raises(ValueError, match=r"column 'Name' is empty|not a comma-separated"):
        read_bars(path)


def test_a_key_in_pieces(tmp_path, make_bars):
    """Sorted by name, no piece repeats a time."""
    panel(make_bars, Name=("X", "Y")).drop(columns="ticker").to_csv(tmp_path / "a.csv", index=False)
    pieces = pd.concat(iter_raw(tmp_path / "a.csv", rows=20))
    assert pieces.groupby("ticker").size().to_dict() == {"X": 60, "Y": 80}
    panel(make_bars, leg=("X", "Y")).drop(columns="ticker").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="column 'leg'"):
        list(iter_raw(tmp_path / "a.csv", rows=20))


@pytest.mark.parametrize("values", [("X", "Y"), (3, 4)])
def test_a_column_of_an_unknown_name_that_tells_rows_apart(tmp_path, make_bars, small, values):
    bars = panel(make_bars, leg=values).drop(columns="ticker")
    path = tmp_path / "prices.csv"
    bars.to_csv(path, index=False)
    says = r"times repeat, and column 'leg' \(., ., ...\) tells their rows apart: it seems to name 2 series"
    for read in (lambda: read_bars(path), lambda: read_raw(path), lambda: small(bars), lambda: clean_bars(bars)):
        with pytest.raises(ValueError, match=says):
            read()
    named = read_bars(path, id="leg")  # the way out
    assert named.groupby("ticker").size().tolist() == [60, 80]
    pd.testing.assert_frame_equal(clean_bars(read_raw(path, id="leg"))[0], named)


def test_a_second_key_inside_of_tickers(make_bars, small):
    bars = panel(make_bars, ticker=("ES", "ES"), contract=("ESH4", "ESM4"))
    with pytest.raises(ValueError, match=r"column 'contract' \(ESH4, ESM4, ...\)"):
        small(bars)


NO_KEYS = {
    "a row number": {"id": range(60)},
    "flags": {"code": ["a", "b"] * 30},
    "numbers of one value": {"stock": 5},
    "a remark in some rows": {"name": ["x", ""] * 30},
    "a name beside the ticker": {"name": ["x", "y"] * 30, "symbol": "AAA"},
}


@pytest.mark.parametrize("columns", NO_KEYS.values(), ids=NO_KEYS)
def test_what_is_no_key(tmp_path, make_bars, columns):
    bars = make_bars(60).drop(columns="ticker").assign(**columns)
    bars.to_csv(tmp_path / "AAA.csv", index=False)
    if "code" in columns:  # each time has one row: it may be a key of rows that take turns, or none
        bars = pd.concat([bars, bars]).sort_values("timestamp")
    assert read_bars(tmp_path / "AAA.csv")["ticker"].nunique() in ((1, 2) if "code" in columns else (1,))


def test_a_defect_is_not_a_key(make_bars):
    """A few repeated rows are for cleaning, even where a column happens to tell them apart."""
    bars = make_bars(60).assign(source=["a", "b"] * 30)
    bars = pd.concat([bars, bars.iloc[[5]].assign(source="a")], ignore_index=True)
    assert clean_bars(bars)[1]["rules"]["repeated"]["rows"] == 1


def test_an_empty_name_is_refused(make_bars, small):
    bars = panel(make_bars)
    bars["ticker"] = bars["ticker"].where(bars.index != 7)
    with pytest.raises(ValueError, match="row 7: ticker is empty; give every row its ticker"):
        small(bars)


def test_series_by_an_unknown_name(tmp_path):
    days = pd.date_range("2024-01-01", periods=30)
    wide = pd.concat([pd.DataFrame({"ds": days, "y": n + np.arange(30.0), "store": f"S{n}"}) for n in (1, 2)])
    wide.to_csv(tmp_path / "sales.csv", index=False)
    with pytest.raises(ValueError, match=r"column 'store' \(S1, S2, ...\) .* --id 'store'"):
        read_series(tmp_path / "sales.csv")
    assert read_series(tmp_path / "sales.csv", id="store")["series_id"].unique().tolist() == ["S1", "S2"]
    with pytest.raises(ValueError, match="column 'store'"):
        as_bars(wide)
    assert told_kind(wide) is UNIVARIATE
    load = wide[wide["store"] == "S1"].rename(columns={"y": "OT"})
    assert as_bars(load, UNIVARIATE)["value"].tolist() == load["OT"].tolist()  # the only column of numbers
    assert "value" not in as_bars(load.assign(HUFL=1.0), UNIVARIATE)
    assert "value" in as_bars(load.assign(HUFL=1.0), UNIVARIATE, ["HUFL"])
    given = as_bars(wide.rename(columns={"store": "item"}))
    assert list(given) == ["timestamp", "value", "series_id"]


# Ambiguity


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"Close": 1.0, "CLOSE": 2.0}, "columns 'Close', 'CLOSE' for close"),
        ({"Date": 1, "date": 2}, "columns 'Date', 'date'"),
    ],
)
def test_two_columns_that_could_be_one(make_bars, columns, says):
    bars = make_bars(30).assign(**columns).drop(columns="close" if "Close" in columns else "timestamp")
    with pytest.raises(ValueError, match=f"the frame has {says}"):
        as_bars(bars)


def test_a_name_of_ours_stands_for_itself(make_bars):
    bars = make_bars(30).assign(Close=1.0, Date="x", v=2.0)
    pd.testing.assert_frame_equal(as_bars(bars), bars)


# Volume

VOLUMES = {
    "base beside quote": ({"Volume BTC": 2.0, "Volume USDT": 100.0}, "Volume BTC"),
    "quote first": ({"Volume USD": 100.0, "Volume ETH": 2.0}, "Volume ETH"),
    "in another coin": ({"Volume ETH": 100.0, "Volume BTC": 7.0}, None),
    "ticks beside zeros": ({"<TICKVOL>": 9.0, "<VOL>": 0.0}, "<TICKVOL>"),
    "real beside ticks": ({"<TICKVOL>": 9.0, "<VOL>": 5.0}, "<VOL>"),
    "shares": ({"Volume (Shares)": 5.0}, "Volume (Shares)"),
    "short": ({"Vol.": 5.0}, "Vol."),
    "of trades": ({"Trade Vol": 5.0}, "Trade Vol"),
    "quantity": ({"Qty": 5.0}, "Qty"),
    "ticks": ({"tick_volume": 5.0, "spread": 1}, "tick_volume"),
    "money": ({"turnover": 5.0}, None),
    "compare": ({"volumefrom": 5.0, "volumeto": 250.0}, "volumefrom"),
    "an average": ({"Volume MA": 5.0, "Volume": 4.0}, "Volume"),
    "zeros of an index": ({"Volume": 0.0, "Volume MA": 1.0}, "Volume"),
}


@pytest.mark.parametrize(("columns", "chosen"), VOLUMES.values(), ids=VOLUMES)
def test_which_volume(tmp_path, make_bars, small, warned, columns, chosen):
    bars = make_bars(60).drop(columns="volume").assign(**columns)
    if "Volume USDT" in bars:
        bars["Volume USDT"] = bars["Volume BTC"] * bars["close"]
    bars.to_csv(tmp_path / "AAA.csv", index=False)
    for read in (read_bars(tmp_path / "AAA.csv"), read_raw(tmp_path / "AAA.csv"), as_bars(bars)):
        if chosen is None:
            assert read["volume"].isna().all()
        else:
            assert read["volume"].tolist() == bars[chosen].tolist()
    if chosen is None and "turnover" not in columns:
        assert all("'Volume ETH', 'Volume BTC'" in line for line in warned)
        assert len(warned) == 3
    else:
        assert warned == []


def test_an_empty_volume_is_told_and_a_table_without_any_is_not(tmp_path, make_bars, warned):
    make_bars(30).assign(volume=np.nan).to_csv(tmp_path / "AAA.csv", index=False)
    read_bars(tmp_path / "AAA.csv")
    assert len(warned) == 1
    assert "AAA.csv" in warned[0]
    assert "'volume'" in warned[0]
    make_bars(30).drop(columns="volume").to_csv(tmp_path / "AAA.csv", index=False)
    assert read_bars(tmp_path / "AAA.csv")["volume"].isna().all()
    assert len(warned) == 1


@pytest.mark.parametrize("volume", ["28 114 920", "28'114'920", "1.5M"])
def test_a_volume_with_marks_is_read_and_nothing_is_said(tmp_path, make_bars, warned, volume):
    make_bars(30).assign(volume=volume).to_csv(tmp_path / "AAA.csv", index=False, sep=";")
    assert read_bars(tmp_path / "AAA.csv")["volume"].eq(1.5e6 if volume == "1.5M" else 28114920).all()
    assert warned == []


def test_an_index_without_a_name_is_the_time_on_both_routes(tmp_path, make_bars):
    make_bars(60).set_index("timestamp").rename_axis(None).to_csv(tmp_path / "AAA.csv")
    frame = pd.read_csv(tmp_path / "AAA.csv")
    assert "Unnamed: 0" in frame
    days = [as_bars(frame)["timestamp"], read_bars(tmp_path / "AAA.csv")["timestamp"]]
    assert pd.to_datetime(days[0]).tolist() == days[1].tolist()


# Adjusted prices


def split_bars(make_bars):
    """Raw prices with a split of 10 for 1 in the middle, and what it was adjusted to."""
    bars = make_bars(200, seed=5)
    factor = np.where(np.arange(200) < 100, 10.0, 1.0)
    raw = bars.assign(**{name: bars[name] * factor for name in PRICES}, volume=bars["volume"] / factor)
    return raw.assign(adj_close=bars["close"]), bars


@pytest.mark.parametrize("name", ["adj_close", "Adj Close", "adjClose", "5. adjusted close"])
def test_an_adjusted_close_counts_on_both_routes(tmp_path, make_bars, small, name):
    raw, adjusted = split_bars(make_bars)
    raw = raw.rename(columns={"adj_close": name})
    raw.to_csv(tmp_path / "AAA.csv", index=False)
    from_file, from_frame = small(read_bars(tmp_path / "AAA.csv")), small(raw)
    np.testing.assert_allclose(from_frame["scale"], from_file["scale"], rtol=1e-12)
    np.testing.assert_allclose(from_frame["scale"], small(adjusted)["scale"], rtol=1e-9)
    np.testing.assert_allclose(from_frame["past_values"], from_file["past_values"], atol=1e-6)
    edges = [fitted(one).tokenizer.bin_edges for one in (raw, adjusted)]
    np.testing.assert_allclose(*edges, rtol=1e-9)


def test_adjusting_twice_changes_no_bit(make_bars):
    raw, adjusted = split_bars(make_bars)
    once = as_bars(raw)
    np.testing.assert_allclose(once[PRICES], adjusted[PRICES], rtol=1e-12)
    pd.testing.assert_frame_equal(as_bars(once), once)
    twice = once.copy()
    adjust(twice)
    pd.testing.assert_frame_equal(twice, once)


def test_text_beside_an_adjusted_close_is_named(make_bars, small):
    raw = split_bars(make_bars)[0].astype({"close": object, "adj_close": object})
    raw.loc[7, "close"] = "x"
    with pytest.raises(ValueError, match="AAA, row 7: close is 'x', not a number"):
        small(raw)
    raw.loc[7, "close"] = 1.0
    raw.loc[8, "adj_close"] = "y"
    with pytest.raises(ValueError, match="row 8: adj_close is 'y', not a number"):
        small(raw)


def test_what_is_no_table_is_left_to_the_check(make_bars, small):
    assert given_bars([3, None]) == [3, None]
    assert given_bars(None) == [None]
    with pytest.raises(ValueError, match="bars must be DataFrames, got dict"):
        small({"train": make_bars(60)})
    with pytest.raises(ValueError, match="2 levels of column names"):
        as_bars(pd.DataFrame(np.zeros((2, 2)), columns=pd.MultiIndex.from_tuples([("a", "x"), ("b", "x")])))


def test_bars_of_other_names_have_no_time(make_bars):
    with pytest.raises(ValueError, match=r"no column for timestamp; found: open, .*Rename its columns to timestamp"):
        find_bars(make_bars(3)[PRICES], "a.csv")
