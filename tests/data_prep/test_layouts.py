"""How a CSV is written: each layout gives the bars of the plain one, or one line that says what was seen."""

import numpy as np
import pandas as pd
import pytest

from tsf_llm.bars_tsf_llm import split_tickers
from tsf_llm.columns_tsf_llm import given_bars
from tsf_llm.data_prep.clean import clean_bars
from tsf_llm.data_prep.sources import read_bars, read_raw, read_series

DAYS = [f"2024-01-{day:02d}" for day in range(2, 30)]
ROWS = [f"2024-01-{day:02d},{10 + day}.5,{12 + day},{9 + day},{11 + day}.25,{100 * day}" for day in range(2, 30)]
HEADER = "Date,Open,High,Low,Close,Volume"
PLAIN = "\n".join([HEADER, *ROWS]) + "\n"


def both(path):
    """As the strict and the lenient reader have it."""
    strict, (lenient, report) = read_bars(path), clean_bars(read_raw(path))
    pd.testing.assert_frame_equal(strict, lenient)
    assert report["rows_dropped"] == 0
    return strict


def quoted(text):
    return "\n".join(", ".join(f'"{cell}"' for cell in line.split(",")) for line in text.splitlines()) + "\n"


def with_cells(form):
    """Each number in another form."""
    return "\n".join([HEADER, *(",".join([row[:10], *map(form.format, row[11:].split(","))]) for row in ROWS)]) + "\n"


ONE_TICKER = {
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "utf-8 mark": "\ufeff" + PLAIN,
    "utf-16": PLAIN.encode("utf-16"),
    "utf-16 big": "\ufeff".encode("utf-16-be") + PLAIN.encode("utf-16-be"),
    "utf-16 without a mark": PLAIN.replace(",", "\t").encode("utf-16-le"),
    "latin-1 header": PLAIN.replace("Volume", "Volume,Börse").replace("\n2024", ",\n2024").encode("latin-1"),
    "cp1252 in a column that nobody reads": PLAIN.replace("\n", ",Société\n").encode("cp1252"),
    "address": "https://www.CryptoDataDownload.com\n" + PLAIN,
    "remarks": "# downloaded 2024-02-01\n# prices in USD, unadjusted\n" + PLAIN,
    "excel": "sep=;\n" + PLAIN.replace(",", ";"),
    "title": "Historical prices of ACME\n\n" + PLAIN,
    "title of a spreadsheet": "ACME Corp,,,,,\nCurrency: USD,,,,,\n,,,,,\n" + PLAIN,
    "blank lines": "\n\n" + PLAIN.replace("\n", "\n\n"),
    "windows": PLAIN.replace("\n", "\r\n"),
    "quoted": quoted(PLAIN),
    "blanks in names": PLAIN.replace("Open", " Open ").replace("Close", '"Close "'),
    "row numbers": "\n".join(f"{number},{line}" for number, line in enumerate(PLAIN.splitlines(), -1)).replace(
        "-1", "", 1
    ),
    "times without a name": PLAIN.replace("Date", ""),
    "separator at the end": PLAIN.replace("\n", ",\n"),
    "separator at the end of data": PLAIN.replace("\n", ",\n").replace("Volume,", "Volume"),
    "ISIN beside a company in cp1252": PLAIN.replace("\n", ",ACME,Société\n")
    .replace("ACME,Société", "isin,Company", 1)
    .encode("cp1252"),
    "money": with_cells("$ {}"),
    "money and marks between": with_cells("{}.00 €").replace(".5.00", ".50").replace(".25.00", ".25"),
    "capitals and brackets": PLAIN.replace(HEADER, "<DATE>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>"),
}


@pytest.mark.parametrize("text", ONE_TICKER.values(), ids=ONE_TICKER)
def test_a_layout_of_the_same_bars(write, text):
    bars = both(write(text, "ACME.csv"))
    pd.testing.assert_frame_equal(bars, read_bars(write(PLAIN, "plain/ACME.csv")))
    assert bars["volume"].sum() == 100 * sum(range(2, 30))
    assert bars["ticker"].unique().tolist() == ["ACME"]


@pytest.mark.parametrize("name", ["ACME.txt", "ACME.tsv", "ACME.csv.gz"])
def test_texts_of_vendors(write, name):
    import gzip

    text = PLAIN.replace(",", "\t").encode()
    path = write(gzip.compress(text) if name.endswith("gz") else text, name)
    assert both(path)["ticker"].unique().tolist() == ["ACME"]
    write("Read me first, then date the open question.", "readme.txt")
    assert len(read_bars(path.parent)) == len(ROWS)  # the readme is no table


def downloaded(tickers, order="price"):
    """What `yfinance.download` returns; the second ticker starts later, its days before hold nothing."""
    days = pd.date_range("2024-01-02", periods=40, name="Date")
    parts = {}
    for number, ticker in enumerate(tickers):
        close = 10.0 * (number + 1) + np.arange(40.0)
        frame = pd.DataFrame({"Close": close, "High": close + 1, "Low": close - 1, "Open": close}, index=days)
        frame["Volume"] = 1000.0 + number
        parts[ticker] = frame.iloc[5 * number :]
    frame = pd.concat(parts, axis=1, names=["Ticker", "Price"])
    return frame if order == "ticker" else frame.swaplevel(axis=1).sort_index(axis=1)


@pytest.mark.parametrize("order", ["price", "ticker"])
@pytest.mark.parametrize("tickers", [["ACME"], ["ACME", "BETA"], ["7203.T"], ["7203.T", "C"], ["1.L", "LOW"]])
@pytest.mark.parametrize("form", ["csv", "csv without names", "csv reset", "parquet", "parquet reset"])
def test_pairs_of_names(tmp_path, tickers, order, form):
    frame = downloaded(tickers, order)
    if form == "csv without names":
        frame.columns.names = [None, None]
    if form.endswith("reset"):
        frame = frame.reset_index()
    path = tmp_path / ("a.parquet" if form.startswith("parquet") else "a.csv")
    frame.to_parquet(path) if form.startswith("parquet") else frame.to_csv(path, index="reset" not in form)
    bars = both(path)
    assert {name: len(part) for name, part in bars.groupby("ticker")} == {t: 40 - 5 * i for i, t in enumerate(tickers)}
    last = bars.groupby("ticker", sort=False).tail(1)
    assert last["close"].tolist() == [10.0 * (number + 1) + 39 for number in range(len(tickers))]
    assert last["timestamp"].unique().tolist() == [pd.Timestamp("2024-02-10")]


@pytest.mark.parametrize("row", ["'1,008.50'", "'$1,008.50'", "1 008.50", "'1''008.50'", "NaN", "."])
def test_a_row_of_numbers_is_no_level_of_the_header(write, row):
    """However they are written: each would be a ticker of its own."""
    lines = [f"{day};X;{';'.join([row] * 4)};5".replace("''", "`").replace("'", "").replace("`", "'") for day in DAYS]
    bars = read_bars(write("\n".join(["Date;Ticker;Open;High;Low;Close;Volume", *lines]) + "\n"))
    assert bars["ticker"].tolist() == ["X"] * len(DAYS)
    assert bars["close"].fillna(1008.5).eq(1008.5).all()


def test_the_index_of_a_frame_of_pairs_without_its_name():
    frame = downloaded(["ACME"]).rename_axis(index=None).reset_index()
    assert split_tickers(given_bars(frame))["ACME"]["timestamp"].iloc[-1] == pd.Timestamp("2024-02-10")


def test_pieces_of_pairs_are_the_whole(tmp_path):
    from tsf_llm.data_prep.sources import iter_raw

    downloaded(["ACME", "BETA"]).to_csv(tmp_path / "a.csv")
    pieces = pd.concat(list(iter_raw(tmp_path / "a.csv", rows=7)))
    assert pieces.groupby("ticker").size().tolist() == [40, 35]


REFUSED = {
    "no header": ("\n".join(ROWS), r"has no header: its first line is '2024-01-02,12.5,.*Add a line .* as timestamp,"),
    "no header, semicolons": ("\n".join(ROWS).replace(",", ";"), "has no header: .* as timestamp;open"),
    "ticker in an unknown encoding": (
        PLAIN.replace("\n", ",Société\n").replace("Volume,Société", "Volume,Symbol").encode("latin-1"),
        "column 'Symbol' has letters in an unknown encoding; save it as UTF-8",
    ),
    "two closes": (PLAIN.replace("Volume", "Close"), "more than one column 'Close'; keep one of each"),
    "two closes in other letters": (PLAIN.replace("Volume", "close"), "columns 'Close', 'close' for close; keep one"),
    "blank": ("\n\n  \n", "is empty"),
    "other names": (
        PLAIN.replace(HEADER, "a,b,c,d,e,f"),
        "no column for timestamp, open, .*; found: a, b, c, d, e, f",
    ),
}


@pytest.mark.parametrize(("text", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_not_certain_is_refused_in_one_line(write, text, says):
    with pytest.raises(ValueError, match=says) as error:
        read_bars(write(text))
    assert "\n" not in str(error.value)


def test_a_series_with_separators_and_a_title(write):
    text = "Energy;;\nhour;;\ntime;load;station\n" + "".join(f"2024-01-02 {h:02d}:00;{h}.5;A\n" for h in range(24))
    series = read_series(write(text, "load.csv"), value="load")
    assert series["value"].tolist() == [h + 0.5 for h in range(24)]


def test_names_whose_letters_nobody_knows_are_not_cleaned_either(write):
    text = PLAIN.replace("\n", ",Société\n").replace("Volume,Société", "Volume,Company")
    for read in (read_bars, read_raw):
        with pytest.raises(ValueError, match="column 'Company' has letters in an unknown encoding; save it as UTF-8"):
            read(write(text.encode("cp1252")))
