"""Which column of a table is which: one matcher for the files of `data_prep` and for frames given to the processor.

Design choices:
* Names are facts in tables, best first, as `plain_name` writes them; docs/data.md says whose they are. In a frame a
  name of ours stands for itself, whatever else is there.
* Two columns that could be the same one of ours are refused. A volume in another currency is told by its numbers.
* A column such as `name` or `asset` names the series only where it does: where it tells rows of one time apart.
  Where times repeat and a column of an unknown name would explain it, that column is named and nothing is read.
* With an adjusted close all prices are adjusted, once: what is adjusted already stays as it is to the bit.

Shapes: N rows of a table.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from transformers.utils import logging

from .bars_tsf_llm import OHLCV, PRICES, UNIVARIATE, Bars, CheckedBars, Kind, kind_of, may_hold, tell_skipped
from .cells_tsf_llm import NumberFormat, read_numbers, stripped

logger = logging.get_logger(__name__)
Whole: TypeAlias = Callable[[list[Any]], pd.DataFrame]  # some columns of all pieces of a file
ALIASES = {
    "timestamp": (
        *("timestamp", "datetime", "date", "time", "tradedate", "opentime", "windowstart", "t", "tsevent"),
        *("datetimeutc", "timestamputc", "dateutc", "timeutc", "gmttime", "localtime", "tradingdate", "tradingday"),
        *("pricedate", "quotedate", "datadate", "dlycaldt", "snappedat", "unix", "unixtime", "unixtimestamp"),
        *("timeopen", "日期", "时间", "交易日期"),
    ),
    "ticker": (
        *("ticker", "symbol", "tic", "T", "tscode", "tickersymbol", "stocksymbol", "actsymbol", "ric", "isin"),
        *("cusip", "sedol", "figi", "permno", "gvkey", "股票代码", "代码"),
    ),
    "open": ("open", "openprice", "o", "openingprice", "pxopen", "openprc", "dlyopen", "prcod", "开盘", "开盘价"),
    "high": ("high", "highprice", "h", "highestprice", "pxhigh", "askhi", "dlyhigh", "prchd", "最高", "最高价"),
    "low": ("low", "lowprice", "l", "lowestprice", "pxlow", "bidlo", "dlylow", "prcld", "最低", "最低价"),
    "close": (
        *("close", "closeprice", "c", "closelast", "closingprice", "pxlast", "dlyclose", "prccd", "收盘", "收盘价"),
        *("last", "lastprice", "settle", "price", "prc"),
    ),
    "volume": (
        *("volume", "vol", "v", "pxvolume", "tradevolume", "tradedvolume", "tradingvolume", "totalvolume"),
        *("sharevolume", "volumeshares", "volumeinshares", "sharestraded", "noofshares", "totaltradedquantity"),
        *("tottrdqty", "cshtrd", "dlyvol", "volumefrom", "basevolume", "volumebase", "realvolume", "volumecontracts"),
        *("volumelots", "tickvolume", "tickvol", "成交量", "tradevol", "tradedquantity", "tradedqty", "quantity"),
        *("qty", "volumen", "volumetraded"),
    ),
    "adj_close": ("adjclose", "adjustedclose", "adjustedcloseprice", "closeadj", "closeadjusted", "adjcloseprice"),
}
# What only cleaning asks for.
RAW_ALIASES = {
    "split_coefficient": ("splitcoefficient", "splitfactor", "splitratio", "stocksplits"),
    "source": ("source", "vendor", "provider"),
}
SERIES_ALIASES = {
    "timestamp": (
        *(*ALIASES["timestamp"], "ds", "observationdate", "period", "datum", "fecha"),
        *("week", "month", "quarter", "year"),
    ),
    "series_id": ("seriesid", "uniqueid", "series", "itemid", "id", "ticker", "symbol", "tic", "T"),
    "value": ("value", "y", "target"),
}
# Names of series only where they tell rows of one time apart, or are one text in all rows.
PERHAPS_KEYS = (
    *("instrument", "instrumentid", "asset", "assetid", "security", "securityid", "secid", "sid", "underlying"),
    *("underlyingsymbol", "contract", "stock", "stockcode", "stockname", "coin", "coinid", "pair", "currencypair"),
    *("crypto", "market", "index", "etf", "fund", "code", "id", "item", "name", "securityname", "companyname"),
    *("company", "名称", "股票名称"),
)
NO_VOLUMES = re.compile(
    r"^volume(ma|sma|ema|avg|average|mean|change|chg|delta|ratio|rank|weighted.*|adj.*|osc.*|\d*)$"
)
TURNOVER = {"usd", "usdt", "usdc", "busd", "tusd", "fdusd", "dai", "eur", "gbp", "jpy", "krw", "cny", "inr", "try"}
REPEATED = 0.1  # share of rows whose time another row has too, from which on a column is looked for that explains it
SLIPS = 0.05  # share of empty cells that a column of names may have: those are refused, or cleaned
SAME = 1e-12  # an adjusted close this near to the close is the close
NO_NAMES = ("unnamed0", "index", "level0", "indexlevel0", "")  # of what was the index of a frame
DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?"
FRAME = "the frame"  # where a caller gave one
PROBE = 1000  # rows by which a currency is told


def plain_name(name: object) -> str:
    """Lower case, letters and digits only, no leading number; `T` stays, Polygon's ticker beside its time `t`.

    >>> plain_name("Adj Close"), plain_name("5. adjusted close"), plain_name("adj_close"), plain_name("<DATE>")
    ('adjclose', 'adjustedclose', 'adjclose', 'date')
    """
    if name == "T":
        return "T"
    return re.sub(r"[\W_]+", "", str(name).lower()).lstrip("0123456789")


def find_columns(
    table: pd.DataFrame, known: Mapping[str, Sequence[str]], where: str | Path = "the table"
) -> dict[str, Any]:
    """Our name -> the table's, for what is there under one of the `known` names.

    Raises:
        ValueError: two columns could be the same one.
    """
    places: dict[str, list[Any]] = {}
    for name in table.columns:
        places.setdefault(plain_name(name), []).append(name)
    found = {}
    for ours, aliases in known.items():
        if alias := next((alias for alias in aliases if alias in places), None):
            names = places[alias]
            if len(names) > 1:
                raise ValueError(f"{where} has {_several(names)} for {ours}; keep one of each.")
            found[ours] = names[0]
    return found


def _several(names: Sequence[Any]) -> str:
    if len(set(names)) == 1:
        return f"more than one column '{names[0]}'"
    return f"columns {', '.join(repr(str(name)) for name in names)}"


def listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))


def check_columns(table: pd.DataFrame, where: str | Path, wanted: Iterable[Any]) -> None:
    if missing := [name for name in wanted if name not in table.columns]:
        raise ValueError(f"{where} has no column {', '.join(map(repr, missing))}; found: {listed(table)}.")


def find_bars(
    table: pd.DataFrame,
    where: str | Path,
    known: Mapping[str, Sequence[str]] = ALIASES,
    *,
    id: str | None = None,
    time: str | None = None,
    whole: Whole | None = None,
) -> dict[str, Any]:
    """`find_columns` of a table of prices, `id` and `time` as they are named; its ticker may be one of `PERHAPS_KEYS`.

    Of a table that is read in pieces, this is the first, and `whole` gives some of its columns whole: one piece need
    not tell what names the series.

    Raises:
        ValueError: it has no time, or not all four prices; or it holds several series that nothing known tells apart.
    """
    column = find_columns(table, known, where)
    column |= {ours: theirs for ours, theirs in (("timestamp", time), ("ticker", id)) if theirs is not None}
    check_columns(table, where, column.values())
    column |= _unnamed_times(table) if "timestamp" not in column else {}
    if missing := [name for name in ["timestamp", *PRICES] if name not in column]:
        raise ValueError(
            f"{where} has no column for {', '.join(missing)}; found: {listed(table)}. "
            "Rename its columns to timestamp, [ticker,] open, high, low, close, [adj_close, volume]."
        )
    column |= _volume(table, column, where, whole)
    if id is None:
        column |= find_key_of_all(table, column, where, OHLCV.id, whole)
    return column


def _unnamed_times(table: pd.DataFrame) -> dict[str, Any]:
    """The index of a frame that was written without its name, where it holds dates and no numbers of rows."""
    for name in (name for name in table.columns if plain_name(name) in NO_NAMES):
        first = stripped(table[name].head(PROBE))
        if len(first) and first.str.fullmatch(DATE).all():
            return {"timestamp": name}
    return {}


# --- names of series -----------------------------------------------------------------------------------------------


def find_key(table: pd.DataFrame, column: Mapping[str, Any], where: str | Path, id: str) -> dict[str, Any]:
    """`{id: column}` where one of `PERHAPS_KEYS` names the series and no surer column does.

    Raises:
        ValueError: many times repeat, and a column of another name tells their rows apart.
    """
    if not all(isinstance(table[name], pd.Series) for name in column.values()):
        return {}  # two of one name: whoever reads them refuses
    times = _codes(table[column["timestamp"]])
    if id in column and times[times >= 0].is_unique:
        return {}
    rows = table[times.to_numpy() >= 0].reset_index(drop=True)
    times = times[times >= 0].reset_index(drop=True)
    if id in column:
        _refuse_unknown_key(rows, column, [times, _codes(rows[column[id]])], where, id)
        return {}
    places = {plain_name(name): name for name in reversed(table.columns) if name not in column.values()}
    for name in (places[key] for key in PERHAPS_KEYS if key in places):
        if isinstance(rows[name], pd.Series) and _names_series(rows[name], times):
            _refuse_unknown_key(rows, {**column, id: name}, [times, _codes(rows[name])], where, id)
            return {id: name}
    _refuse_unknown_key(rows, column, [times], where, id)
    return {}


def find_key_of_all(
    table: pd.DataFrame, column: Mapping[str, Any], where: str | Path, id: str, whole: Whole | None
) -> dict[str, Any]:
    """`find_key` of a table whose first piece this is: of all rows, unless nothing could name series, or only a column
    of an unknown name while no time repeats here. Whoever reads the pieces then calls `look_again` where one does.
    """
    if whole is None or id in column:
        return find_key(table, column, where, id)
    times = _codes(table[column["timestamp"]])
    perhaps = any(plain_name(name) in PERHAPS_KEYS for name in _free(table, column))
    return look_again(table, column, where, id, whole) if perhaps or not times[times >= 0].is_unique else {}


def look_again(
    table: pd.DataFrame, column: Mapping[str, Any], where: str | Path, id: str, whole: Whole
) -> dict[str, Any]:
    """`find_key` of all rows."""
    if not (free := _free(table, column)):
        return {}
    return find_key(whole([column["timestamp"], *free]), {"timestamp": column["timestamp"]}, where, id)


def _free(table: pd.DataFrame, column: Mapping[str, Any]) -> list[Any]:
    return [name for name in table.columns if name not in column.values() and _could_name(table[name])]


def _codes(cells: pd.Series) -> pd.Series:
    """A number for each distinct cell, -1 where it is empty."""
    try:
        codes, cell_of = pd.factorize(cells)
    except TypeError:  # a list, or the like, in a cell
        codes, cell_of = pd.factorize(stripped(cells))
    if pd.api.types.is_numeric_dtype(cell_of) or pd.api.types.is_datetime64_any_dtype(cell_of):
        return pd.Series(codes)
    empty = np.array([isinstance(cell, str) and not cell.strip() for cell in cell_of], dtype=bool)
    return pd.Series(np.where((codes < 0) | np.append(empty, True)[codes], -1, codes))


def _names_series(cells: pd.Series, times: pd.Series) -> bool:
    """Whether a column that may be a name is one: the same text in all rows, or it halves the repeated times."""
    keys = _codes(cells)
    if (keys < 0).mean() > SLIPS:
        return False
    distinct = keys[keys >= 0].nunique()
    if distinct == 1:
        return (keys >= 0).all() and not str(cells.iloc[0]).strip().replace(".", "").isdecimal()
    if distinct > max(len(keys) // 2, times.value_counts().max()):
        return False  # each row has one of its own
    left = pd.DataFrame({"time": times, "key": keys}).duplicated().sum()
    return bool(2 * left <= times.duplicated().sum())


def _refuse_unknown_key(
    rows: pd.DataFrame, column: Mapping[str, Any], known: Sequence[pd.Series], where: str | Path, id: str
) -> None:
    taken = pd.concat(known, axis=1, keys=range(len(known)))
    again = taken.duplicated(keep=False)
    if known[0].nunique() < 2 or again.mean() < REPEATED:
        return
    most = int(taken[again].value_counts().max())
    for name in rows.columns:
        cells = rows[name]
        if name in column.values() or not _could_name(cells):
            continue
        keys = _codes(cells)
        distinct = keys[keys >= 0].nunique()
        is_text = not pd.to_numeric(stripped(cells.head(PROBE)), errors="coerce").notna().any()
        if 2 <= distinct <= max(len(rows) // 2, most * is_text) and not taken.assign(key=keys).duplicated().any():
            seen = ", ".join(map(str, cells.drop_duplicates().head(3)))
            remedy = f"Name it with --id '{name}' (in Python id=), or rename it to {id}."
            if where == FRAME:
                remedy = f"Rename it to {id}, or give the pipeline id_column='{name}'."
            raise ValueError(
                f"{where}: times repeat, and column '{name}' ({seen}, ...) tells their rows apart: it seems to name "
                f"{distinct} series. {remedy}"
            )


def _could_name(cells: pd.Series | pd.DataFrame) -> bool:
    """Texts and whole numbers; a price or a share names nothing."""
    if isinstance(cells, pd.DataFrame):
        return False
    if pd.api.types.is_float_dtype(cells) or pd.api.types.is_bool_dtype(cells):
        return False
    if pd.api.types.is_integer_dtype(cells):
        return True
    first = stripped(cells.head(PROBE))
    first = first[first != ""]
    return len(first) > 0 and not (first.str.fullmatch(r"[-+]?[\d,]*[.,]\d+(e[-+]?\d+)?", case=False)).mean() > 0.5


def key_texts(cells: pd.Series) -> pd.Series:
    """Names of series as text, empty where missing: 10107 and 10107.0 are `10107`; of categories only the used."""
    if pd.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0).all():
        cells = cells.astype("Int64")
    try:
        return stripped(cells)
    except NotImplementedError as error:  # of pyarrow, for a struct
        raise ValueError(f"column '{cells.name}' holds more than texts; write one name per row.") from error


# --- volume --------------------------------------------------------------------------------------------------------


def _volume(
    table: pd.DataFrame, column: Mapping[str, Any], where: str | Path, whole: Whole | None = None
) -> dict[str, Any]:
    """`{"volume": column}`: the first under a known name that holds any trade, or else the base currency's of two.

    A table without any column of the kind has no volume, and nothing is said of it.
    """
    places = {plain_name(name): name for name in reversed(table.columns)}
    by_name = [places[alias] for alias in ALIASES["volume"] if alias in places]
    alike = [name for plain, name in reversed(places.items()) if _is_like_volume(plain) and name not in by_name]
    if by_name and (_rough_numbers(table[by_name[0]].head(PROBE)) > 0).any(axis=None):
        return {"volume": by_name[0]}  # without reading all of it
    if whole is not None and (by_name or alike):
        table = whole([*by_name, *alike, column["close"]])
    numbers = {name: _rough_numbers(table[name]) for name in [*by_name, *alike]}
    if traded := [name for name in by_name if (numbers[name] > 0).any()]:
        return {"volume": traded[0]}
    filled = [name for name in alike if (numbers[name] > 0).any()]
    if chosen := _of_the_base(filled, {**numbers, "close": _rough_numbers(table[column["close"]])}, table, column):
        return {"volume": chosen}
    if filled:
        seen = ", ".join(repr(str(name)) for name in filled)
        logger.warning_once(f"{where}: volume is masked, for none of {seen} is surely it; rename the one to 'volume'")
    elif by_name and len(table) and numbers[by_name[0]].isna().all():
        logger.warning_once(f"{where}: volume is masked, for column '{by_name[0]}' holds no number")
    return {"volume": by_name[0]} if by_name else {}


def _is_like_volume(plain: str) -> bool:
    return plain.startswith("volume") and not NO_VOLUMES.match(plain)


def _rough_numbers(cells: pd.Series | pd.DataFrame) -> pd.Series:
    """By the column alone, which is enough to compare magnitudes."""
    if isinstance(cells, pd.DataFrame):
        cells = cells.iloc[:, 0]
    if pd.api.types.is_numeric_dtype(cells):
        return cells.astype("float64")
    try:
        format = NumberFormat.of([cells])
    except ValueError:  # whoever reads the table asks
        format = NumberFormat(proven=True)
    return read_numbers(cells, format, scales=True)[0]


def _of_the_base(
    names: Sequence[Any], numbers: Mapping[Any, pd.Series], table: pd.DataFrame, column: Mapping[str, Any]
) -> Any:
    """Of volumes in several units the one that, times the price, is another; else the one in no money; else None."""
    if len(names) > 1:
        for base in names:
            money = numbers[base] * numbers["close"]
            if any(abs(np.log((numbers[name] / money).median())) < np.log(1.5) for name in names if name != base):
                return base
    units = {name: plain_name(name).removeprefix("volume") for name in names}
    shares = [name for name, unit in units.items() if unit not in TURNOVER and unit.isalpha()]
    if len(shares) == 1 and (len(names) > 1 or _is_unit(shares[0], units[shares[0]])):
        return shares[0]
    return None


def _is_unit(name: Any, unit: str) -> bool:
    """`Volume BTC` and `Volume (Shares)`, not `volumeprofile`."""
    return unit in {"shares", "contracts", "lots", "units", "traded", "base", "from"} or unit.upper() in str(name)


# --- prices --------------------------------------------------------------------------------------------------------


def adjust(bars: pd.DataFrame) -> None:
    """Multiply prices by `adj_close / close` and divide the volume by it, in place; a second time changes nothing.

    All four prices get the same factor, the close too: rounding then cannot lift the close above the high. A close
    that is not positive has no such factor; its row stays as it is for the processor to report.

    A ticker without any adjusted close keeps its prices. One with some gets NaN where its own is missing: raw prices
    between adjusted ones would look like jumps.
    """
    adj_close = bars["adj_close"].where(np.isfinite(bars["adj_close"]))
    is_known = adj_close.notna()
    if not is_known.any():
        return
    is_adjusted = is_known.groupby(bars["ticker"]).transform("any") if "ticker" in bars else is_known.any()
    ratio = (adj_close / bars["close"]).where(is_adjusted & ~(bars["close"] <= 0), 1.0)
    ratio = ratio.mask((ratio - 1).abs() <= SAME, 1.0)
    bars[PRICES] = bars[PRICES].mul(ratio, axis=0)
    bars["volume"] = bars["volume"] / ratio


# --- frames in memory ----------------------------------------------------------------------------------------------


def without_index(frame: pd.DataFrame) -> pd.DataFrame:
    """An index that holds times or names becomes columns, if no column has them; row numbers are nobody's."""
    index = frame.index
    if isinstance(index, pd.PeriodIndex):
        index = frame.index.to_timestamp()
    if isinstance(index, pd.DatetimeIndex):
        if {plain_name(name) for name in frame.columns} & {*SERIES_ALIASES["timestamp"]}:
            return frame
        index = index.rename(index.name or "timestamp")
    elif index.nlevels == 1 and index.name is None and pd.api.types.is_numeric_dtype(index):
        return frame
    taken = [name for name in index.names if name in frame.columns]
    return frame.set_axis(index).reset_index(allow_duplicates=True) if not taken else frame


def join_time_of_day(table: pd.DataFrame) -> pd.DataFrame:
    """A date and the time of day beside it become one column, as Stooq's 20240131 and 153000, or 15:30."""
    found = {plain_name(name): name for name in reversed(table.columns)}
    if {"date", "time", "timestamp", "datetime"} & {*found} != {"date", "time"}:
        return table
    days, clock = table[found["date"]].astype(str), table[found["time"]].astype(str)
    clock = clock.str.replace(r"^(\d\d)(\d\d)(\d\d)$", r"\1:\2:\3", regex=True)
    return table.assign(**{found["date"]: days.str.cat(clock, sep=" ")})


def stacked(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame with a pair of names per column, as `yfinance.download` returns it, with one row per time and ticker.

    Rows of a ticker without any cell are those of other tickers' times. Other frames are returned as they are.

    Raises:
        ValueError: neither level holds the four prices.
    """
    frame = _with_pairs(frame)
    if not isinstance(frame.columns, pd.MultiIndex):
        return frame
    alone = {name: part for name in frame.columns for part in name if part and "".join(map(str, name)) == part}
    times = [name for name, part in alone.items() if plain_name(part) in SERIES_ALIASES["timestamp"]]
    times = times or [name for name in alone if pd.api.types.is_datetime64_any_dtype(frame[name])]
    if times:  # of a frame whose index became a column
        frame = frame.set_index(times[0]).rename_axis("timestamp")
    levels = [frame.columns.get_level_values(i) for i in range(frame.columns.nlevels)]
    prices = [i for i, names in enumerate(levels) if count_prices(names) == 4]
    if len(prices) != 1 or len(levels) != 2:
        found = ", ".join(" ".join(map(str, name)) for name in frame.columns[:6])
        raise ValueError(
            f"the frame has {len(levels)} levels of column names, and not one of them has open, high, low and close; "
            f"found: {found}. Give one row per time and ticker."
        )
    level, parts = 1 - prices[0], []
    for ticker in levels[level].unique():
        part = frame.xs(ticker, axis=1, level=level)
        has_cells = ((part != "") & part.notna()).any(axis=1)
        parts.append(part[has_cells].assign(ticker=str(ticker)).rename_axis(columns=None))
    return pd.concat(parts)


def _with_pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Pairs of names that a format without pairs holds as text: `('Close', 'ACME')`."""
    pairs = [re.fullmatch(r"\('(.+)', '(.*)'\)", str(name)) for name in frame.columns]
    if isinstance(frame.columns, pd.MultiIndex) or sum(map(bool, pairs)) < 4:
        return frame
    names = [pair.groups() if pair else (name, "") for pair, name in zip(pairs, frame.columns, strict=True)]
    return frame.set_axis(pd.MultiIndex.from_tuples(names), axis=1)


def count_prices(names: Iterable[Any]) -> int:
    """How many of the four prices are among the names of columns."""
    plain = {plain_name(name) for name in names}
    return sum(not plain.isdisjoint(ALIASES[name]) for name in PRICES)


def given_bars(bars: Any, kind: Kind | None = None, covariates: Sequence[str] = ()) -> Bars:
    """Whatever a caller calls bars, as frames with our names of columns: `as_bars` of each.

    Text, numbers and times stay as they are for `check_bars` to read.

    Raises:
        ValueError: names the columns between which it cannot choose.
    """
    if isinstance(bars, CheckedBars):
        return bars
    if isinstance(bars, list | tuple | Iterator):
        return [as_bars(frame, kind, covariates) for frame in bars]
    frame = as_bars(bars, kind, covariates)
    return frame if isinstance(frame, pd.DataFrame) else [frame]


def as_bars(frame: Any, kind: Kind | None = None, covariates: Sequence[str] = ()) -> Any:
    """A frame, or a `datasets.Dataset`, with our names of columns, its prices adjusted; ours stay as they are.

    What is no table is returned for `split_tickers` to refuse.
    """
    frame = as_frame(frame)
    if not isinstance(frame, pd.DataFrame):
        return frame
    frame = join_time_of_day(frame)
    kind = kind or told_kind(frame)
    column = _ours(frame, kind, covariates)
    frame = frame.rename(columns={theirs: ours for ours, theirs in column.items() if theirs != ours})
    if kind is not OHLCV or not set(PRICES) <= {*frame.columns}:
        return _with_key(frame, kind.id)
    if "volume" not in frame:
        frame = frame.assign(volume=np.nan)
    return _adjusted(_with_key(frame, kind.id))


def as_frame(table: Any) -> Any:
    """A frame with one level of names and all it knows in columns, out of one or what `to_pandas` turns into one."""
    if not isinstance(table, pd.DataFrame):
        if not callable(getattr(table, "to_pandas", None)):
            return table
        frame = table.to_pandas()
        is_one = isinstance(frame, pd.DataFrame)  # datasets below 5 gives a generator of a streamed table
        table = frame if is_one else pd.concat(table.to_pandas(batched=True), ignore_index=True)
    return without_index(stacked(table))


def told_kind(frame: pd.DataFrame) -> Kind:
    """As `kind_of`, by any of the known names: a plain series has a value and at most one column of prices."""
    if kind_of(frame) is UNIVARIATE:
        return UNIVARIATE
    has_value = not {plain_name(name) for name in frame.columns}.isdisjoint(SERIES_ALIASES["value"])
    return UNIVARIATE if has_value and count_prices(frame.columns) < 2 else OHLCV


def _ours(frame: pd.DataFrame, kind: Kind, covariates: Sequence[str]) -> dict[str, Any]:
    """Our name -> the frame's; columns that are ours by name, or covariates, stand for themselves."""
    known = ALIASES if kind is OHLCV else SERIES_ALIASES
    covariates = [name for name in covariates if name in frame.columns]
    own = {name: name for name in known if name in frame.columns}
    rest = frame.loc[:, [name not in {*own, *covariates} for name in frame.columns]]
    found = find_columns(rest, {name: aliases for name, aliases in known.items() if name not in own}, FRAME)
    column = own | found
    column |= _unnamed_times(rest) if "timestamp" not in column else {}
    if kind is OHLCV and "volume" not in own and "close" in column:
        column.pop("volume", None)
        column |= _volume(rest.assign(close=frame[column["close"]]), {"close": "close"}, FRAME)
    if kind is UNIVARIATE and "value" not in column:
        taken = {*column.values(), *covariates}
        free = [name for name in frame.columns if name not in taken and isinstance(frame[name], pd.Series)]
        numeric = [name for name in free if pd.api.types.is_numeric_dtype(frame[name])]
        column |= {"value": numeric[0]} if len(numeric) == 1 else {}
    if "timestamp" in column:
        column |= find_key(frame, column | dict(zip(covariates, covariates, strict=True)), FRAME, kind.id)
    return column


def _with_key(frame: pd.DataFrame, id: str) -> pd.DataFrame:
    """Names as text, and none missing."""
    if id not in frame or not isinstance(frame[id], pd.Series):
        return frame
    names = key_texts(frame[id])
    if (empty := (names == "").to_numpy()).any():
        raise ValueError(f"row {empty.argmax()}: {id} is empty; give every row its {id}")
    return frame.assign(**{id: names})


# --- static covariates -----------------------------------------------------------------------------------------------


def with_static_of(tickers: CheckedBars, bars: Bars, names: Sequence[str]) -> CheckedBars:
    """Checked bars with the static covariates that their series have in `bars`: a series that has two is skipped.

    `series_id` is the name of the series itself.

    Raises:
        ValueError: there is no such column.
    """
    if not names:
        return tickers
    frames = [bars] if isinstance(bars, pd.DataFrame) else list(bars)
    for number, frame in enumerate(frames):
        lone = "series" if len(frames) == 1 else f"series_{number}"
        ids = frame[UNIVARIATE.id].astype(str) if UNIVARIATE.id in frame else pd.Series(lone, frame.index)
        told = {one: dict.fromkeys(names, "") for one in ids.unique()}
        for name in names:
            cells = ids if name == UNIVARIATE.id else frame.get(name)
            if not isinstance(cells, pd.Series):
                raise ValueError(
                    f"the data has no one column '{name}', a static covariate of this model: add it, or name a table "
                    "with it (--static FILE; in Python join_static)"
                )
            pairs = pd.DataFrame({"id": ids.to_numpy(), "cell": cells.to_numpy()}).drop_duplicates()
            pairs["cell"] = key_texts(pairs["cell"])
            for one, cell in pairs[pairs["cell"] != ""].itertuples(index=False):
                if told[one][name] not in ("", cell):
                    tickers.skip(
                        one,
                        f"{one}: static covariate '{name}' is {told[one][name]} and {cell}; give one value per series",
                    )
                told[one][name] = cell
        tickers.static.update(told)
    return tickers.settle()


def join_static(
    bars: pd.DataFrame, table: pd.DataFrame, names: Sequence[str] | None = None, *, strict: bool = False
) -> pd.DataFrame:
    """Plain series with static covariates out of a table with one row per series: those named, by default all.

    What the series have themselves stays. Series of which that is another value than the table's, and those without a
    row in it, are left out: a warning names them, and so does `attrs["skipped"]`.

    Raises:
        ValueError: the table has no column of names, a series twice, not these columns, or one of times or values; or
            no series of the bars, or, if `strict`, not all.
    """
    id = find_columns(table, {UNIVARIATE.id: SERIES_ALIASES[UNIVARIATE.id]}, "the static table").get(UNIVARIATE.id)
    if id is None:
        raise ValueError(f"the static table has no column {UNIVARIATE.id}; found: {listed(table)}.")
    names = [name for name in (names or table.columns) if name not in (id, UNIVARIATE.id)]
    check_columns(table, "the static table", names)
    if taken := [name for name in names if name in ("timestamp", UNIVARIATE.value)]:
        raise ValueError(f"the static table has a column '{taken[0]}', as series have; rename it, or leave it out.")
    ids = key_texts(table[id])
    if (again := ids[ids.duplicated()]).size:
        raise ValueError(f"the static table has two rows for {again.iloc[0]}; keep one.")
    rows = table[names].set_axis(ids)
    known = bars[UNIVARIATE.id].isin(rows.index)
    missing = bars.loc[~known, UNIVARIATE.id].unique()
    told = {name: f"{name}: the static table has no row for it; add one" for name in missing}
    texts = {name: bars[UNIVARIATE.id].map(key_texts(rows[name])).fillna("") for name in names}
    own = {name: key_texts(bars[name]) for name in names if name in bars}
    for name, cells in own.items():
        pairs = pd.DataFrame({"id": bars[UNIVARIATE.id], "own": cells, "table": texts[name]})
        differ = pairs[(cells != "") & (texts[name] != "") & (cells != texts[name])].drop_duplicates("id")
        for one, here, there in differ.itertuples(index=False):
            told.setdefault(one, f"{one}: {name} is {here} in its rows and {there} in the static table; correct one")
    known &= ~bars[UNIVARIATE.id].isin(told)
    if told and (strict or not known.any()):
        more = f" (and {len(told) - 1} more)" if len(told) > 1 else ""
        raise ValueError(f"{next(iter(told.values()))}{more}.")
    tell_skipped([*told.values()])
    skipped = {**bars.attrs.get("skipped", {}), **told}
    joined = {name: bars[UNIVARIATE.id].map(rows[name]) for name in names if name not in own}
    filled = {name: cells.where(cells != "", texts[name]) for name, cells in own.items() if (cells == "").any()}
    bars = bars.assign(**joined, **filled)[known].reset_index(drop=True)
    bars.attrs["skipped"] = skipped
    return bars


def _adjusted(frame: pd.DataFrame) -> pd.DataFrame:
    """With adjusted prices, where there is an adjusted close and all numbers can be read; else as it is."""
    if "adj_close" not in frame or not frame.columns.is_unique:
        return frame
    numbers = {}
    columns = [*PRICES, "volume", "adj_close"]
    try:
        format = NumberFormat.of(frame[name] for name in columns)
    except ValueError:
        return frame  # `check_bars` says it of all numbers
    for name in columns:
        numbers[name], bad = read_numbers(frame[name], format, **may_hold(name, OHLCV))
        if bad.size and name != "adj_close":
            return frame  # `check_bars` names the cell
        if bad.size:
            held = frame[name].iloc[bad[0]]
            raise ValueError(f"row {bad[0]}: {name} is {held!r}, not a number; correct it or leave it empty")
    frame = frame.assign(**numbers)
    adjust(frame)
    return frame


__all__ = ["given_bars"]
