"""Which column is which, whatever its name."""

import doctest
import gzip

import pandas as pd
import pytest

import tsf_llm.data_prep.columns as module
from tsf_llm.data_prep.sources import read_bars

HEADER = "date,ticker,open,high,low,close,volume\n"
ROWS = "2024-01-02,AAPL,10,12,9,11,100\n2024-01-03,AAPL,11,13,10,12,200\n"


def test_the_docstrings():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    "header",
    [
        "Date,Symbol,Open,High,Low,Close,Volume",
        "Datetime,TICKER,OPEN,HIGH,LOW,CLOSE,VOLUME",
        "timestamp,ticker,1. open,2. high,3. low,4. close,6. volume",
        "\ufeffTime, Ticker , Open , High,Low,Close,Vol",
    ],
)
def test_column_names_of_common_layouts(write, header):
    expected = read_bars(write(HEADER + ROWS, "expected.csv"))
    pd.testing.assert_frame_equal(read_bars(write(header + "\n" + ROWS)), expected)


@pytest.mark.parametrize("name", ["Adj Close", "adj_close", "Adjusted Close", "5. adjusted close", "adjClose"])
def test_adjusted_close_under_its_common_names(write, name):
    path = write(f"Date,Open,High,Low,Close,{name},Volume\n2024-01-02,10,12,8,10,5,100\n")
    assert read_bars(path)[["open", "high", "low", "close", "volume"]].iloc[0].tolist() == [5, 6, 4, 5, 200]


# Vendors, each as it writes its files

VENDORS = {
    "yfinance": (
        "prices.csv",
        "Price,Close,High,Low,Open,Volume\nTicker,AAPL,AAPL,AAPL,AAPL,AAPL\nDate,,,,,\n2024-01-31,10,12,8,10,100\n",
    ),
    "metatrader": (
        "AAPL.csv",
        "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
        "2024.01.31\t00:00:00\t10\t12\t8\t10\t100\t0\t5\n",
    ),
    "cryptodatadownload": (
        "prices.csv",
        "https://www.CryptoDataDownload.com\nunix,date,symbol,open,high,low,close,Volume BTC,Volume USDT\n"
        "1706659200000,2024-01-31,AAPL,10,12,8,10,100,1000\n",
    ),
    "cryptocompare": ("AAPL.csv", "time,high,low,open,volumefrom,volumeto,close\n2024-01-31,12,8,10,100,1000,10\n"),
    "nasdaq": ("AAPL.csv", "Date,Close/Last,Volume,Open,High,Low\n2024-01-31,10,100,10,12,8\n"),
    "investing": ("AAPL.csv", '"Date","Price","Open","High","Low","Vol.","Change %"\n2024-01-31,10,10,12,8,100,1%\n'),
    "bloomberg": ("AAPL.csv", "Date,PX_OPEN,PX_HIGH,PX_LOW,PX_LAST,PX_VOLUME\n2024-01-31,10,12,8,10,100\n"),
    "crsp": ("a.csv", "PERMNO,date,BIDLO,ASKHI,PRC,VOL,OPENPRC,TICKER\n10107,2024-01-31,8,12,10,100,10,AAPL\n"),
    "compustat": ("a.csv", "gvkey,datadate,tic,prcod,prchd,prcld,prccd,cshtrd\n1690,2024-01-31,AAPL,10,12,8,10,100\n"),
    "tushare": ("a.csv", "ts_code,trade_date,open,high,low,close,vol,amount\nAAPL,20240131,10,12,8,10,100,5\n"),
    "akshare": ("a.csv", "日期,股票代码,开盘,收盘,最高,最低,成交量,成交额\n2024-01-31,AAPL,10,10,12,8,100,1000\n"),
    "finam": (
        "a.txt",
        "<TICKER>;<PER>;<DATE>;<TIME>;<OPEN>;<HIGH>;<LOW>;<CLOSE>;<VOL>\nAAPL;D;20240131;000000;10;12;8;10;100\n",
    ),
    "yahoo": ("AAPL.csv", "Date,Open,High,Low,Close,Adj Close,Volume\n2024-01-31,20,24,16,20,10,50\n"),
    "alphavantage": (
        "AAPL.csv",
        "timestamp,open,high,low,close,adjusted_close,volume,dividend_amount,split_coefficient\n"
        "2024-01-31,20,24,16,20,10,50,0.0000,1.0\n",
    ),
    "alphavantage_json": (
        "AAPL.csv",
        "date,1. open,2. high,3. low,4. close,5. adjusted close,6. volume,7. dividend amount,8. split coefficient\n"
        "2024-01-31,20,24,16,20,10,50,0.0000,1.0\n",
    ),
    "tiingo": (
        "AAPL.csv",
        "date,close,high,low,open,volume,adjClose,adjHigh,adjLow,adjOpen,adjVolume,divCash,splitFactor\n"
        "2024-01-31T00:00:00.000Z,20,24,16,20,50,10,12,8,10,50,0.0,1.0\n",
    ),
    "stooq": (
        "aapl.us.csv",
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "AAPL,D,20240131,000000,10,12,8,10,100,0\n",
    ),
    "polygon": (
        "2024-01-31.csv.gz",
        gzip.compress(
            b"ticker,volume,open,close,high,low,window_start,transactions\nAAPL,100,10,10,12,8,1706659200000000000,1\n"
        ),
    ),
    "polygon_json": ("day.csv", "T,v,vw,o,c,h,l,t,n\nAAPL,100,9.9,10,10,12,8,1706659200000,7\n"),
    "binance": ("AAPL-1d-2024-01.csv", "1706659200000,10,12,8,10,100,1706745599999,1000,7,50,500,0\n"),
    "binance_microseconds": (
        "AAPL-1d-2024-01-31.csv",
        "1706659200000000,10,12,8,10,100,1706745599999999,1000,7,50,500,0\n",
    ),
    "binance_futures": (
        "AAPL-1h-2024-01.csv",
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,"
        "taker_buy_quote_volume,ignore\n1706659200000,10,12,8,10,100,1706745599999,1000,7,50,500,0\n",
    ),
}


@pytest.mark.parametrize("vendor", VENDORS)
def test_layout_of_a_vendor(write, vendor):
    name, text = VENDORS[vendor]
    bars = read_bars(write(text, name))
    assert bars.to_numpy().tolist() == [[pd.Timestamp("2024-01-31"), "AAPL", 10, 12, 8, 10, 100]]


def test_time_of_day_beside_the_date(write):
    stooq = "<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>\n20240131,093000,1,2,1,2\n20240131,093500,1,2,1,2\n"
    plain = "Date,Time,Open,High,Low,Close\n2024-01-31,09:30,1,2,1,2\n2024-01-31,09:35,1,2,1,2\n"
    expected = pd.to_datetime(["2024-01-31 09:30", "2024-01-31 09:35"]).tolist()
    for text in (stooq, plain):
        assert read_bars(write(text))["timestamp"].tolist() == expected
    with pytest.raises(ValueError, match="row 2: column 'Date' holds '2024-01-31 noon'"):
        read_bars(write(plain.replace("09:35", "noon")))


def test_a_joined_name_is_that_of_one_series():
    table = pd.DataFrame({"store": ["a/b", "a", "a"], "item": ["c", "b/c", "c"]})
    with pytest.raises(
        ValueError, match="a/b/c is the name of two series in columns store, item: replace the strokes"
    ):
        module.join_names(table, "store,item")
    assert module.join_names(table.iloc[[0, 0, 2]], "store,item")["store,item"].tolist() == ["a/b/c", "a/b/c", "a/c"]
