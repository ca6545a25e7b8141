"""Which column of a file is what a caller names, beside the usual names (`columns_tsf_llm`)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import LISTED, OHLCV, UNIVARIATE, named_columns
from ..cells_tsf_llm import NumberFormat, read_numbers, stripped
from ..columns_tsf_llm import (
    SERIES_ALIASES,
    Whole,
    check_columns,
    find_columns,
    find_key_of_all,
    key_texts,
    listed,
    plain_name,
)

COLUMNS = ["timestamp", OHLCV.id, *OHLCV.columns]
OF_SERIES = ["timestamp", UNIVARIATE.id, UNIVARIATE.value]
STATIC = "static "  # before the name of a column of texts among ours
Found = tuple[Mapping[str, Any], Sequence[str]]  # our name of a column -> the file's, and covariates


@dataclass(frozen=True)
class Columns:
    """The columns of a table, where their names are not among the usual; a value is of plain series alone.

    And how cells are written, where these do not tell: dates as `dmy`, `mdy` or `ymd`, and decimals with a `point` or
    a `comma`. Plain series may have `static` covariates, columns of texts with one value per series, in the table
    itself or in the one at `static_file`, which has a row per series. `resample` is the rule by which their rows
    become even, as `1h:mean`: see there.
    """

    value: str | None = None
    id: str | None = None
    time: str | None = None
    dates: str | None = None
    decimal: str | None = None
    static: tuple[str, ...] = ()
    static_file: str | None = None
    resample: str | None = None

    def of_bars(self) -> dict[str, str | None]:
        """Those that readers of bars take."""
        of_series = ("value", "static", "static_file", "resample")
        return {name: given for name, given in asdict(self).items() if name not in of_series}


USUAL = Columns()
PARTS = {  # of dates, the finest last, and how a date is written then
    "year": "2024",
    "quarter": "2024Q1",
    "month": "2024-01",
    "week": "2024-01-29, its Monday",
    "day": "2024-01-31",
}


def find_series(
    table: pd.DataFrame, where: str | Path, named: Columns, covariates: Sequence[str] = (), whole: Whole | None = None
) -> dict[str, str]:
    """The columns of a table of plain series: time, value and, if there is one, name; see `find_bars` for `whole`.

    Raises:
        ValueError: a column that is named is not there, or what to forecast cannot be told.
    """
    column = find_columns(table, SERIES_ALIASES, where)
    given = {"timestamp": named.time, "series_id": named.id, "value": named.value}
    column |= {ours: theirs for ours, theirs in given.items() if theirs is not None}
    check_columns(table, where, column.values())
    if "timestamp" not in column:
        raise ValueError(f"{where} has no column of times; found: {listed(table)}. Name it with --time.")
    _refuse_parts(table, where, column["timestamp"])
    if named.id is None:
        column |= find_key_of_all(table, column, where, UNIVARIATE.id, whole)
    if "value" not in column:
        table = table if whole is None else whole([*table.columns])
        used = {*column.values(), *named_columns(covariates, table.columns, column.values()), *parts_of(named.id)}
        numeric = [name for name in table.columns if name not in used and is_numeric(table[name])]
        if len(numeric) != 1:
            if not numeric:
                raise ValueError(f"{where} has no column of numbers; choose what to forecast with --value.")
            more = f" and {len(numeric) - LISTED} more" if len(numeric) > LISTED else ""
            raise ValueError(
                f"{where} has columns of numbers: {', '.join(map(str, numeric[:LISTED]))}{more}; choose what to "
                "forecast with --value, or '*' for each as a series of its own."
            )
        column["value"] = numeric[0]
    return column


def _refuse_parts(table: pd.DataFrame, where: str | Path, time: str) -> None:
    """Raises ValueError where the times are a part of dates, and another part is beside them."""
    cells = table[time]
    if plain_name(time) not in PARTS or not isinstance(cells, pd.Series):
        return
    beside = {plain_name(name): str(name) for name in table.columns}
    parts = [beside[part] for part in PARTS if part in beside]
    if len(parts) > 1 and not stripped(cells.head(20)).str.contains(r"\d{4}").any():
        written = next(PARTS[part] for part in reversed(PARTS) if part in beside)
        raise ValueError(
            f"{where} has the parts of its dates in columns {', '.join(parts)}; write each date in one column, such "
            f"as {written}, and name it with --time."
        )


def parts_of(id: str | None) -> list[str]:
    """The columns that an `--id` of several names."""
    return [] if id is None or "," not in id else [name.strip() for name in id.split(",")]


def join_names(table: pd.DataFrame, id: str | None) -> pd.DataFrame:
    """With a column for an `--id` of several columns: their texts, with a stroke between.

    Raises:
        ValueError: one of them is not there.
    """
    parts = parts_of(id)
    if not parts or id in table.columns:
        return table
    check_columns(table, "the table", parts)
    joined = key_texts(table[parts[0]])
    for name in parts[1:]:
        joined = joined + "/" + key_texts(table[name])
    _refuse_one_name_of_two(table[parts], joined)
    return table.assign(**{str(id): joined})


def _refuse_one_name_of_two(parts: pd.DataFrame, joined: pd.Series) -> None:
    """Raises ValueError where a stroke in the names makes one of different ones: a/b and c, a and b/c."""
    names = parts[joined.str.count("/") >= len(parts.columns)].apply(key_texts).drop_duplicates()
    texts = pd.Series(["/".join(one) for one in names.to_numpy()], dtype=object)
    if (twice := texts[texts.duplicated()]).size:
        raise ValueError(
            f"{twice.iloc[0]} is the name of two series in columns {', '.join(parts)}: replace the strokes in their "
            "names"
        )


def with_names(table: pd.DataFrame, id: str | None) -> pd.DataFrame:
    """A table with a row per series, its names in `series_id` where they are in the column, or columns, of `id`.

    Raises:
        ValueError: they are not, and nothing else names the series.
    """
    wanted = [] if id is None else [id] if id in table.columns else parts_of(id) or [id]
    if not {*wanted} <= {*table.columns} and not find_columns(table, {"id": SERIES_ALIASES[UNIVARIATE.id]}):
        check_columns(table, "the static table", wanted)
    if id in (None, UNIVARIATE.id) or not {*wanted} <= {*table.columns}:
        return table
    table = join_names(table, id)
    return table.drop(columns=UNIVARIATE.id, errors="ignore").rename(columns={id: UNIVARIATE.id})


def wide_values(
    table: pd.DataFrame, where: str | Path, named: Columns, covariates: Sequence[str] = ()
) -> list[str] | None:
    """The columns that are a series each, where the value is a pattern or several names; None where it is one column.

    Raises:
        ValueError: no column of numbers fits, or a column names the series as well.
    """
    given = named.value
    if given is None or given in table.columns or not ({*given} & {*"*?[,"}):
        return None
    column = find_columns(table, SERIES_ALIASES, where)
    used = {named.time or column.get("timestamp"), *named_columns(covariates, table.columns)}
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    chosen = named_columns(wanted, table.columns, used)
    check_columns(table, where, [name for name in chosen if name in wanted and not {*name} & {*"*?["}])
    chosen = [name for name in chosen if name in table.columns and is_numeric(table[name])]
    key = named.id or column.get("series_id")
    if key is not None and key not in chosen:
        raise ValueError(f"{where} has a column of names, '{key}': choose one column to forecast with --value.")
    if not chosen:
        raise ValueError(f"{where} has no column of numbers that fits --value {given}; found: {listed(table)}.")
    return chosen


def spread(frame: pd.DataFrame, values: Sequence[str], covariates: Sequence[str]) -> pd.DataFrame:
    """A column per series -> `timestamp, series_id, value`, all of one series first, and the covariates of all."""
    rows, times = len(frame), len(values)
    tall = {name: np.tile(frame[name].to_numpy(), times) for name in ("timestamp", *covariates)}
    tall[UNIVARIATE.id] = np.repeat(np.array([str(name) for name in values], dtype=object), rows)
    tall[UNIVARIATE.value] = frame[[*values]].to_numpy(dtype=float).ravel(order="F")
    return pd.DataFrame(tall)


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
        check_columns(table, where, chosen)
    return [name for name in chosen if name in table.columns]


def is_numeric(cells: pd.Series) -> bool:
    first = cells[cells.notna() & (cells.astype(str).str.strip() != "")].head(20)
    for decimal in ("point", "comma"):
        numbers, bad = read_numbers(first, NumberFormat(decimal, proven=True), scales=True, percent=True)
        if not bad.size and numbers.notna().any():
            return True
    return False


@dataclass
class SeriesColumns:
    """Which columns of one file are read: `named` ones, `covariates`, static ones `wanted` of it, and which of those
    `joined` from a table it has too. `find` tells the values of a `wide` file, and its `own` static ones."""

    path: Path
    named: Columns
    covariates: Sequence[str]
    wanted: Sequence[str]
    joined: Sequence[str]
    wide: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    def find(self, table: pd.DataFrame, whole: Whole | None) -> Found:
        """Raises ValueError for a column that is missing, or told twice."""
        if missing := [name for name in self.wanted if name not in table]:
            raise ValueError(
                f"{self.path} has no column '{missing[0]}', a static covariate; add it, or name a table with it with "
                "--static."
            )
        self.own = [*self.wanted, *(name for name in self.joined if name in table)]
        self.wide = wide_values(table, self.path, self.named, [*self.covariates, *self.own]) or []
        named = replace(self.named, value=self.wide[0]) if self.wide else self.named
        column = find_series(table, self.path, named, [*self.covariates, *self.own, *self.wide[1:]], whole)
        column |= {f"{STATIC}{name}": name for name in self.own}
        taken = [*column.values(), *self.wide]
        chosen = choose_covariates(table, self.path, self.covariates, taken=taken, ours=OF_SERIES)
        if twice := [name for name in chosen if name in (*self.own, *self.joined)]:
            raise ValueError(
                f"'{twice[0]}' is a covariate of the rows of {self.path}, and a static one; rename one of them."
            )
        return column, [*chosen, *self.wide[1:]]

    def below_one_another(self, frame: pd.DataFrame, chosen: Sequence[str], name: str) -> pd.DataFrame:
        """What was read of the file, a row per series and time; one without a column of names is called `name`."""
        chosen = [one for one in chosen if one not in self.wide]
        static = {f"{STATIC}{one}": one for one in self.own}
        if self.wide:
            frame = spread(frame.rename(columns={UNIVARIATE.value: self.wide[0]}), self.wide, [*chosen, *static])
        elif UNIVARIATE.id not in frame:
            frame[UNIVARIATE.id] = name
        return frame.rename(columns=static)[[*OF_SERIES, *chosen, *self.own]]
