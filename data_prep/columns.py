"""Which column of a table is which: the names in use elsewhere, and those that a caller gives."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..bars_tsf_llm import OHLCV, PRICES, named_columns

COLUMNS = ["timestamp", OHLCV.id, *OHLCV.columns]

# Names in use elsewhere, as `plain_name` writes them, best first. docs/data.md says whose they are.
ALIASES = {
    "timestamp": ("timestamp", "datetime", "date", "time", "tradedate", "opentime", "windowstart", "t"),
    "ticker": ("ticker", "symbol", "tic", "T"),
    "open": ("open", "openprice", "o"),
    "high": ("high", "highprice", "h"),
    "low": ("low", "lowprice", "l"),
    "close": ("close", "closeprice", "c"),
    "volume": ("volume", "vol", "v"),
    "adj_close": ("adjclose", "adjustedclose", "adjustedcloseprice", "closeadj"),
}
# What only cleaning asks for.
RAW_ALIASES = {
    "split_coefficient": ("splitcoefficient", "splitfactor", "splitratio", "stocksplits"),
    "source": ("source", "vendor", "provider"),
}
SERIES_ALIASES = {
    "timestamp": (*ALIASES["timestamp"], "ds"),
    "series_id": ("seriesid", "uniqueid", "series", "itemid", "id", *ALIASES["ticker"]),
    "value": ("value", "y", "target"),
}


@dataclass(frozen=True)
class Columns:
    """The columns of a table of plain series, where their names are not among the usual."""

    value: str | None = None
    id: str | None = None
    time: str | None = None


USUAL = Columns()


def plain_name(name: object) -> str:
    """Lower case, letters and digits only, no leading number; `T` stays, Polygon's ticker beside its time `t`.

    >>> plain_name("Adj Close"), plain_name("5. adjusted close"), plain_name("adj_close"), plain_name("<DATE>")
    ('adjclose', 'adjustedclose', 'adjclose', 'date')
    """
    if name == "T":
        return "T"
    return re.sub(r"[\W_]+", "", str(name).lower()).lstrip("0123456789")


def find_columns(table: pd.DataFrame, known: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Our name -> the table's, for what is there under one of the `known` names."""
    found = {plain_name(name): name for name in reversed(table.columns)}
    return {
        ours: next(found[alias] for alias in aliases if alias in found)
        for ours, aliases in known.items()
        if not found.keys().isdisjoint(aliases)
    }


def find_bars(table: pd.DataFrame, where: str | Path, known: Mapping[str, Sequence[str]] = ALIASES) -> dict[str, str]:
    """`find_columns` of a table of prices.

    Raises:
        ValueError: it has no time, or not all four prices.
    """
    column = find_columns(table, known)
    if missing := [name for name in ["timestamp", *PRICES] if name not in column]:
        raise ValueError(
            f"{where} has no column for {', '.join(missing)}; found: {listed(table)}. "
            "Rename its columns to timestamp, [ticker,] open, high, low, close, [adj_close, volume]."
        )
    return column


def find_series(
    table: pd.DataFrame, where: str | Path, named: Columns, covariates: Sequence[str] = ()
) -> dict[str, str]:
    """The columns of a table of plain series: time, value and, if there is one, name.

    Raises:
        ValueError: a column that is named is not there, or what to forecast cannot be told.
    """
    column = find_columns(table, SERIES_ALIASES)
    given = {"timestamp": named.time, "series_id": named.id, "value": named.value}
    column |= {ours: theirs for ours, theirs in given.items() if theirs is not None}
    _check_columns(table, where, column.values())
    if "timestamp" not in column:
        raise ValueError(f"{where} has no column of times; found: {listed(table)}. Name it with --time.")
    if "value" not in column:
        used = {*column.values(), *named_columns(covariates, table.columns, column.values())}
        numeric = [name for name in table.columns if name not in used and _is_numeric(table[name])]
        if len(numeric) != 1:
            found = f"columns of numbers: {', '.join(map(str, numeric))}" if numeric else "no column of numbers"
            raise ValueError(f"{where} has {found}; choose what to forecast with --value.")
        column["value"] = numeric[0]
    return column


def choose_covariates(
    table: pd.DataFrame,
    where: str | Path,
    wanted: Sequence[str],
    *,
    taken: Iterable[str],
    ours: Sequence[str] = (),
    missing_ok: bool = False,
) -> list[str]:
    """The columns that these names and patterns ask for; patterns pass over those that are `taken` or named as `ours`.

    Raises:
        ValueError: one is named as a column of `ours`, or is not there.
    """
    chosen = named_columns(wanted, table.columns, [*taken, *ours])
    if own := [name for name in chosen if name in ours]:
        raise ValueError(f"{own} cannot be covariates: bars have a column of this name; rename it in {where}.")
    if not missing_ok:
        _check_columns(table, where, chosen)
    return [name for name in chosen if name in table.columns]


def join_time_of_day(table: pd.DataFrame) -> pd.DataFrame:
    """A date and the time of day beside it become one column, as Stooq's 20240131 and 153000, or 15:30."""
    found = find_columns(table, {name: [name] for name in ("date", "time", "timestamp", "datetime")})
    if found.keys() != {"date", "time"}:
        return table
    days, clock = table[found["date"]].astype(str), table[found["time"]].astype(str)
    clock = clock.str.replace(r"^(\d\d)(\d\d)(\d\d)$", r"\1:\2:\3", regex=True)
    return table.assign(**{found["date"]: days.str.cat(clock, sep=" ")})


def listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table.columns))


def _check_columns(table: pd.DataFrame, where: str | Path, wanted: Iterable[str]) -> None:
    if missing := [name for name in wanted if name not in table.columns]:
        raise ValueError(f"{where} has no column {', '.join(map(repr, missing))}; found: {listed(table)}.")


def _is_numeric(cells: pd.Series) -> bool:
    first = cells[cells.notna() & (cells.astype(str).str.strip() != "")].head(20)
    return len(first) > 0 and bool(pd.to_numeric(first, errors="coerce").notna().all())
