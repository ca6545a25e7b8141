"""Random price files beside their truth: random walks of a few tickers, written in one of the ways that vendors have.

`write_prices(rng, folder)` gives a `PriceFile`: where it lies, the bars it tells, what was done to it, and whether it
can be misunderstood. The tables below are the ways of writing; a new one is a row there.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

PRICES = ["open", "high", "low", "close"]
STARTS = ("2019-01-02", "1999-11-30", "2023-12-27", "2007-03-01", "1985-06-14")
FREQUENCIES = {"B": 0.55, "h": 0.2, "W-FRI": 0.1, "MS": 0.1, "ME": 0.05}

# --- how a date is written: strftime of a day, and what order of numbers it shows -----------------------------------

DAYS: dict[str, tuple[str, ...]] = {
    "iso": ("%Y-%m-%d",),
    "compact": ("%Y%m%d",),
    "dmy": ("%d/%m/%Y", "%d.%m.%Y", "%d-%m-%Y", "%-d/%-m/%Y", "%-d.%-m.%Y"),
    "mdy": ("%m/%d/%Y", "%m-%d-%Y", "%-m/%-d/%Y"),
    "ymd": ("%Y/%m/%d", "%Y.%m.%d", "%Y/%-m/%-d"),
    "short dmy": ("%d/%m/%y", "%d.%m.%y", "%-d/%-m/%y"),
    "short mdy": ("%m/%d/%y", "%-m/%-d/%y", "%m-%d-%y"),
    "named": (
        *("%d %b %Y", "%d-%b-%Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%y", "%a, %d %b %Y", "%a %b %-d, %Y", "%d %B %Y"),
        "%Y-%b-%d",
    ),
}
CLOCKS = (" %H:%M", " %H:%M:%S", "T%H:%M:%S", " %I:%M %p", " %-I:%M:%S %p", " %H:%M:%S.000", "  %H:%M", ", %H:%M")
ZONES = ("+09:00", "-05:00", "+0530", "+00", "Z", "+00:00")
OTHERS = ("epoch s", "epoch ms", "iso zone", "zoned midnights")

HEADERS: dict[str, tuple[str, ...]] = {  # time, open, high, low, close, volume
    "plain": ("timestamp", "open", "high", "low", "close", "volume"),
    "Yahoo": ("Date", "Open", "High", "Low", "Close", "Volume"),
    "capitals": ("DATE", "OPEN", "HIGH", "LOW", "CLOSE", "VOL"),
    "MetaTrader": ("<DATE>", "<OPEN>", "<HIGH>", "<LOW>", "<CLOSE>", "<TICKVOL>"),
    "Alpha Vantage": ("timestamp", "1. open", "2. high", "3. low", "4. close", "5. volume"),
    "Polygon": ("t", "o", "h", "l", "c", "v"),
    "Investing": ("Date", "Open", "High", "Low", "Price", "Vol."),
    "Nasdaq": ("Date", "Open", "High", "Low", "Close/Last", "Volume"),
    "Tushare": ("trade_date", "open", "high", "low", "close", "vol"),
    "Binance": ("Open time", "Open", "High", "Low", "Close", "Volume"),
    "India": ("Date", "Open Price", "High Price", "Low Price", "Close Price", "Total Traded Quantity"),
    "China": ("日期", "开盘", "最高", "最低", "收盘", "成交量"),
    "blanks": (" Date ", " Open", "High ", " Low ", " Close", " Volume "),
    "units": ("date", "open", "high", "low", "close", "Volume (Shares)"),
}
KEYS = ("ticker", "Ticker", "Symbol", "SYMBOL", "Name", "ts_code", "code", "asset", "Stock", "isin", "<TICKER>")
SURE_KEYS = (*KEYS[:4], "ts_code", "isin", "<TICKER>", "T")
UNKNOWN_KEYS = ("wkn", "papier", "Emittent", "what")
NAMES = ("ACME", "BRK.B", "005930", "NA", "600000.SH", "^GSPC", "BTC-USD", "000001", "TRUE", "A", "eurusd", "7203.T")
COMPANY = " Société"  # behind a name of the column `Company`, which names the series where nothing else does
NUMBERS = ("plain", "thousands", "comma", "comma and points", "money", "blanks between", "three digits")
MISSING = ("", "-", "NaN", "N/A", "null", ".", "--", "nan", "#N/A", "None")
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252")
TITLES = (
    "https://www.CryptoDataDownload.com",
    "# made on 2024-01-31, all rights reserved",
    "Prices of ACME and friends",
    "Historical data; source: the exchange",
    '"Adjusted, in EUR"',
    "",
)


@dataclass
class PriceFile:
    """A file, and what is right.

    Args:
        truth: its bars, `timestamp, ticker, close` sorted by ticker and time, close NaN where missing.
        said: how it is written.
        sure: no honest reader can misunderstand it, so it must be read.
        damaged: (ticker, time) of the rows that were spoiled.
        lost: spoiled rows, of which nobody can tell time or ticker.
    """

    path: Path
    truth: pd.DataFrame
    said: dict[str, Any] = field(default_factory=dict)
    sure: bool = True
    rows: int = 0
    damaged: list[tuple[str, pd.Timestamp]] = field(default_factory=list)
    spoiled: str = ""


class Writer:
    """Draws one file; each method decides one thing, and notes in `said` what it drew."""

    def __init__(self, rng: np.random.Generator, folder: Path):
        self.rng, self.folder = rng, folder
        self.said: dict[str, Any] = {}
        self.unsure: list[str] = []

    def pick(self, choices: Any) -> Any:
        choices = list(choices)
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    # --- the truth ---

    def walks(self) -> pd.DataFrame:
        self.freq = str(self.rng.choice([*FREQUENCIES], p=[*FREQUENCIES.values()]))
        names = list(self.rng.permutation(NAMES)[: self.pick((1, 1, 2, 3, 4))])
        start = pd.Timestamp(self.pick(STARTS))
        return pd.concat([self.walk(str(name), start) for name in names], ignore_index=True)

    def walk(self, name: str, start: pd.Timestamp) -> pd.DataFrame:
        count = int(self.rng.integers(30, 151))
        later = pd.Timedelta(int(self.rng.integers(0, 9)), "h" if self.freq == "h" else "D")
        times = pd.date_range(start + later, periods=count, freq=self.freq)
        if self.freq != "h" or self.chance(0.5):
            times = times[self.rng.random(count) > 0.04]
        level = float(self.pick((1.5, 12, 95, 980, 4_300, 41_000)))
        digits = 4 if level < 5 else 2
        close = level * np.exp(np.cumsum(self.rng.normal(0, 0.015, len(times))))
        open_ = np.append(close[:1], close[:-1]) * np.exp(self.rng.normal(0, 0.003, len(times)))
        high = np.maximum(open_, close) * np.exp(np.abs(self.rng.normal(0, 0.005, len(times))))
        low = np.minimum(open_, close) * np.exp(-np.abs(self.rng.normal(0, 0.005, len(times))))
        prices = {one: values.round(digits) for one, values in zip(PRICES, (open_, high, low, close), strict=True)}
        volume = self.rng.integers(1_000, 9_000_000, len(times))
        return pd.DataFrame({"timestamp": times, "ticker": name, **prices, "volume": volume, "digits": digits})

    # --- cells ---

    def times(self, bars: pd.DataFrame) -> list[str]:
        intraday = self.freq == "h"
        style = self.pick([*DAYS, *OTHERS, "iso", "dmy"])
        stamps = bars["timestamp"]
        if style in ("epoch s", "epoch ms"):
            self.said["dates"] = style
            seconds = stamps.astype("datetime64[s]").astype("int64")
            return [str(one * (1000 if style == "epoch ms" else 1)) for one in seconds]
        if style in ("iso zone", "zoned midnights"):
            zone, clock = self.pick(ZONES), self.pick(("T%H:%M:%S", " %H:%M:%S", "T%H:%M:%S.000000"))
            self.said["dates"] = f"{style} {zone} {clock}"
            minutes = 0 if zone in ("Z", "+00") else int(zone[:3]) * 60 + int(zone[:1] + zone[-2:])
            local = stamps + pd.Timedelta(minutes=minutes if intraday else 0)  # of days, midnights there
            return [one.strftime(f"%Y-%m-%d{clock}") + zone for one in local]
        format = self.pick(DAYS[style])
        clock = self.pick(CLOCKS) if intraday or self.chance(0.1) else ""
        clock = clock.replace(",", "") if style == "named" and "," in format else clock
        self.said["dates"] = format + clock
        self._doubt_dates(style, stamps)
        return [one.strftime(format + clock) for one in stamps]

    def _doubt_dates(self, style: str, stamps: pd.Series) -> None:
        if style in ("iso", "compact", "ymd", "named"):
            return
        days = stamps.dt.normalize().drop_duplicates()
        if not (days.dt.day > 12).any():
            self.unsure.append("no day above 12")
        if style.startswith("short"):
            self.unsure.append("two-digit years")

    def number(self, value: float, digits: int, style: str) -> str:
        if np.isnan(value):
            return self.missing
        text = f"{value:.{digits}f}"
        if style == "three digits":
            text = f"{value:.3f}"
        if style == "thousands":
            text = f"{value:,.{digits}f}"
        elif style == "comma":
            text = text.replace(".", ",")
        elif style == "comma and points":
            text = f"{value:,.{digits}f}".translate(str.maketrans(",.", ".,"))
        elif style == "money":
            text = f"${value:,.{digits}f}"
        elif style == "blanks between":
            text = f"{value:,.{digits}f}".replace(",", " ")
        return text

    def volume(self, value: float, style: str) -> str:
        scaled = {"K": 1e3, "M": 1e6}.get(style)
        if scaled:
            return f"{value / scaled:.2f}{style}".replace(".", "," if "comma" in self.said["numbers"] else ".")
        if style == "grouped":
            mark = {"comma": ".", "comma and points": ".", "blanks between": " "}.get(self.said["numbers"], ",")
            return f"{int(value):,}".replace(",", mark)
        return f"{int(value)}" if style == "whole" else f"{int(value)}.0"

    def numbers(self, bars: pd.DataFrame) -> dict[str, list[str]]:
        style = self.said["numbers"]
        cells = {
            one: [self.number(v, d, style) for v, d in zip(bars[one], bars["digits"], strict=True)] for one in PRICES
        }
        volume = self.pick(("whole", "whole", "whole", "none", "grouped", "K", "M", "point"))
        volume = "whole" if volume == "point" and "comma" in style else volume
        self.said["volume"] = volume
        if volume != "none":
            cells["volume"] = [self.volume(v, volume) for v in bars["volume"]]
        if style == "three digits" and volume == "grouped":
            self.unsure.append("1.234 beside 1,234")
        return cells

    # --- tables ---

    def table(self, bars: pd.DataFrame) -> pd.DataFrame:
        header = self.pick(HEADERS)
        self.said["header"] = header
        names = dict(zip(("timestamp", *PRICES, "volume"), HEADERS[header], strict=True))
        cells = {"timestamp": self.times(bars), **self.numbers(bars)}
        table = pd.DataFrame({names[one]: values for one, values in cells.items()}, index=bars.index)
        many = bars["ticker"].nunique() > 1
        if many or self.chance(0.6):
            key = self.pick(KEYS) if self.chance(0.9) else self.pick(UNKNOWN_KEYS)
            key = "T" if header == "Polygon" and key == "Ticker" else key
            self.said["key"] = key
            table.insert(0, key, bars["ticker"])
            if key in UNKNOWN_KEYS:
                self.unsure.append("unknown key")
        self.named = self.said.get("key") in (*KEYS, "T")
        for name, values in self.extras(bars):
            table[name] = values
        if self.chance(0.4):
            table = table[list(self.rng.permutation(table.columns))]
        return table

    def extras(self, bars: pd.DataFrame) -> list[tuple[str, list[str]]]:
        close, count = bars["close"], len(bars)
        decimal = "," if "comma" in self.said["numbers"] else "."
        makers: dict[str, Callable[[], Any]] = {
            "Change %": lambda: [f"{one:+.2f}%".replace(".", decimal) for one in self.rng.normal(0, 1, count)],
            "VWAP": lambda: [f"{one:.2f}".replace(".", decimal) for one in close.fillna(1) * 1.001],
            "Dividends": lambda: [f"0{decimal}0"] * count,
            "Stock Splits": lambda: [f"0{decimal}0"] * count,
            "Trades": lambda: [str(one) for one in self.rng.integers(1, 9_000, count)],
            "OpenInt": lambda: ["0"] * count,
            "Remark": lambda: [self.pick(("", "ex, dividend", 'the "late" one', "a; b", "x")) for _ in range(count)],
            "Company": lambda: [one + COMPANY for one in bars["ticker"]],
            "Unnamed: 0": lambda: [str(i) for i in range(count)],
            "Period": lambda: ["D"] * count,
            "Currency": lambda: ["USD"] * count,
            "is_open": lambda: [str(bool(one)) for one in self.rng.integers(0, 2, count)],
            "rank": lambda: [str(one) for one in self.rng.integers(1, 5, count)],
        }
        chosen = self.rng.permutation([*makers])[: self.pick((0, 0, 1, 2, 4))].tolist()
        self.said["extras"] = chosen
        return [(name, makers[name]()) for name in chosen]

    def ordered(self, bars: pd.DataFrame) -> pd.DataFrame:
        how = self.pick(("by ticker", "by time", "newest first", "newest first of each"))
        self.said["rows"] = how
        if how == "by ticker":
            return bars
        if how == "newest first of each":
            return pd.concat([part[::-1] for _, part in bars.groupby("ticker", sort=False)])
        return bars.sort_values("timestamp", ascending=how == "by time", kind="stable")

    # --- files ---

    def write(self) -> PriceFile:
        bars = self.walks()
        if self.chance(0.3):  # of some rows nothing is known
            bars.loc[self.rng.random(len(bars)) < 0.03, PRICES] = np.nan
        self.said["numbers"] = self.pick(NUMBERS) if self.chance(0.6) else "plain"
        self.missing = self.pick(MISSING)
        if self.said["numbers"] == "three digits":
            bars[PRICES] = bars[PRICES].round(3)
        bars = self.ordered(bars).reset_index(drop=True)
        table = self.table(bars)
        file = PriceFile(self.folder / self.stem(bars), bars, self.said, rows=len(bars))
        if self.chance(0.3):
            self.spoil(file, table, bars)
        self.to_file(file, table, bars)
        file.sure = not self.unsure and not file.spoiled
        self.said["unsure"] = self.unsure
        file.truth = bars[["timestamp", "ticker", "close"]].sort_values(["ticker", "timestamp"]).reset_index(drop=True)
        return file

    def stem(self, bars: pd.DataFrame) -> str:
        return "prices" if bars["ticker"].nunique() > 1 else bars["ticker"].iloc[0]

    def to_file(self, file: PriceFile, table: pd.DataFrame, bars: pd.DataFrame) -> None:
        if not file.spoiled and self.chance(0.15):
            return self.to_parquet(file, table, bars)
        separator = self.pick(",,,;\t|")
        ending, quoted = self.pick(("\n", "\n", "\r\n")), self.pick((0, 0, 1))
        text = table.to_csv(index=False, sep=separator, lineterminator=ending, quoting=quoted)
        lines = text.split(ending)
        if "torn" in file.spoiled:
            self.tear(file, lines, separator, quoted, bars)
        titles = [self.pick(TITLES) for _ in range(self.pick((0, 0, 0, 1, 2)))]
        if self.chance(0.05):
            titles = [f"sep={separator}"]
        self.said |= {"separator": separator, "quoted": quoted, "titles": titles}
        text = ending.join([*titles, *lines])
        encoding = self.pick(ENCODINGS)
        if not all(ord(one) < 256 for one in text) and encoding in ("latin-1", "cp1252"):
            encoding = "utf-8"
        self.said["encoding"] = encoding
        is_key = "Company" in self.said["extras"] and self.said.get("key") not in SURE_KEYS
        if encoding in ("latin-1", "cp1252") and is_key:
            self.unsure.append("names in an unknown encoding")
        raw = text.encode(encoding)
        packed = self.chance(0.15)
        file.path = file.path.with_name(file.path.name + (".csv.gz" if packed else ".csv"))
        file.path.write_bytes(gzip.compress(raw) if packed else raw)
        return None

    def to_parquet(self, file: PriceFile, table: pd.DataFrame, bars: pd.DataFrame) -> None:
        """Typed: the times are times, the numbers numbers."""
        kept = [one for one in table.columns if one in self.said["extras"] or one == self.said.get("key")]
        header = dict(zip(("timestamp", *PRICES, "volume"), HEADERS[self.said["header"]], strict=True))
        typed = table[kept].assign(**{header[one]: bars[one] for one in (*PRICES, "volume")})
        unit = self.pick(("s", "ms", "us", "ns"))
        times = bars["timestamp"].astype(f"datetime64[{unit}]")
        how = self.pick(("naive", "zone", "date", "text", "index"))
        if how == "zone":
            zone = self.pick(("Asia/Tokyo", "America/New_York", "UTC", "Asia/Kolkata"))
            utc = times.dt.tz_localize("UTC")
            times = utc.dt.tz_convert(zone) if self.freq == "h" else times.dt.tz_localize(zone)
            self.said["zone"] = zone
        elif how == "date" and self.freq != "h":
            times = times.dt.date
        elif how == "text":
            times = times.astype(str)
        typed[header["timestamp"]] = times
        if "key" in self.said and self.chance(0.4):
            typed[self.said["key"]] = typed[self.said["key"]].astype("category")
        if how == "index":
            typed = typed.set_index(header["timestamp"])
        self.unsure = [one for one in self.unsure if one == "unknown key"]
        self.said |= {"parquet": how, "unit": unit}
        file.path = file.path.with_name(file.path.name + ".parquet")
        typed.to_parquet(file.path)

    # --- damage ---

    def spoil(self, file: PriceFile, table: pd.DataFrame, bars: pd.DataFrame) -> None:
        header = dict(zip(("timestamp", *PRICES, "volume"), HEADERS[self.said["header"]], strict=True))
        how = self.pick(("number", "number", "date", "torn", "long torn", "zero", "text in volume", "key"))
        row = int(self.rng.integers(len(table)))
        file.spoiled = how
        file.damaged = [(bars["ticker"].iloc[row], bars["timestamp"].iloc[row])]
        self.row = row
        if how == "number":
            column = self.pick(PRICES)
            table.loc[row, header[column]] = self.pick(("#REF!", "1O1.5", "error", "12..5", "1,2,3", "=A1", "∞"))
        elif how == "date":
            table.loc[row, header["timestamp"]] = self.pick(("#REF!", "2024-13-45", "total", "99/99/9999", "12"))
        elif how == "zero":
            table.loc[row, header[self.pick(PRICES)]] = "0"
        elif how == "text in volume" and header["volume"] in table:
            table.loc[row, header["volume"]] = "many"
        elif how == "key" and "key" in self.said:
            table.loc[row, self.said["key"]] = ""
        self.said["spoiled"] = f"{how} in row {row + 1}"

    def tear(self, file: PriceFile, lines: list[str], separator: str, quoted: int, bars: pd.DataFrame) -> None:
        """A line that stops, or goes on with the next: at a border of cells, for nobody can tell 12 from 123."""
        at = self.row + 1
        if quoted or '"' in lines[at] or at + 1 >= len(lines) - 1:
            file.spoiled, file.damaged = "", []
            return
        cells = lines[at].split(separator)
        cut = int(self.rng.integers(1, len(cells)))
        if file.spoiled == "torn":
            lines[at] = separator.join(cells[:cut])
        else:
            lines[at : at + 2] = [separator.join(cells[:cut]) + separator + lines[at + 1]]
            file.rows -= 1
            file.damaged.append((bars["ticker"].iloc[self.row + 1], bars["timestamp"].iloc[self.row + 1]))


def write_prices(rng: np.random.Generator, folder: Path) -> PriceFile:
    return Writer(rng, folder).write()
