"""A record of forecasts that nobody can polish: one SQLite file that only grows, and is checked before it is scored.

Design choices:
* A row is one step of one forecast: when it was made, by what, of what, and its law. It is written when the forecast
  is made, and before anybody can know how it ends; a row for which that is not so says so (`late`).
* The file refuses changes and removals by triggers. Whoever takes these away is found by the chain: a row has the
  hash of all that stands in it and of the row before. Only the whole rest of the file can be written anew, and that
  shows in the last hash, the head: publish it now and then.
* The law is its quantile function at `GRID`, linear in between, of the cumulative log return (the difference, of a
  plain series). Its CRPS is exact; that of a causal model's own law differs by 0.03 % at most, 0.002 % on average.
* A forecast that was made before is kept, and marked with the first one: that counts, whatever the seed of the others.
* Writers of other threads and processes wait for each other. A batch is one transaction: all of it stands there or
  nothing. There are no files beside it, so that it can be copied.

Shapes: n rows, L levels.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import KINDS, Kind
from ..calendars_tsf_llm import bar_spacing
from ..common.files import check_folder
from ..processing_tsf_llm import FORECAST_QUANTILES, quantile_column
from .distributions import Piecewise, Samples

APPLICATION, SCHEMA = 0x54534C4D, 1  # "TSLM", and the version of the columns
WAIT = 120.0  # seconds for another writer
AT_ONCE = 4096  # rows in memory
END = 1e-9  # levels of the ends of the support, which the pipeline does not give at 0 and 1
TAIL = (END, 0.0005, 0.001, 0.0025)
GRID = (*TAIL, *(i / 200 for i in range(1, 200)), *(1 - level for level in TAIL[::-1]))
GRID_COLUMNS = [quantile_column(level) for level in GRID]
LEVELS = np.array([0.0, *GRID[1:-1], 1.0])  # of the law
BOUNDS = ("nonnegative", "integer")  # of the values of a plain series
NUMBER, QUANTILES = "number", "quantiles"  # laws: a single number, and a distribution
FACTS = {  # of all rows of a batch
    "version": "TEXT",
    "code": "TEXT",  # commit, where there is one
    "model": "TEXT NOT NULL",
    "model_digest": "TEXT NOT NULL",
    "processor_digest": "TEXT NOT NULL",
    "kind": "TEXT NOT NULL",  # and the bounds of the values, see `told_kind`
    "calibration": "TEXT NOT NULL",
    "seed": "INTEGER NOT NULL",
    "samples": "INTEGER NOT NULL",
    "market": "INTEGER NOT NULL",  # whether the model saw one
    "horizon": "INTEGER NOT NULL",
}
COLUMNS = {
    "id": "INTEGER PRIMARY KEY",
    "made_at": "TEXT NOT NULL",  # UTC
    **FACTS,
    "ticker": "TEXT NOT NULL",
    "origin": "TEXT NOT NULL",
    "last_close": "REAL NOT NULL",
    "step": "INTEGER NOT NULL",
    "target": "TEXT NOT NULL",
    "law": "TEXT NOT NULL",
    "p_up": "REAL",
    "late": "TEXT",  # why, where it is
    "repeats": "INTEGER",  # the row that says the same of the same, and came first
    "quantiles": "BLOB NOT NULL",  # float32, little-endian, [L], or [1] of a number
    "previous": "TEXT NOT NULL",
    "hash": "TEXT NOT NULL",
}
KEY = ("model_digest", "processor_digest", "ticker", "origin", "step")  # of what is the same forecast
REFUSE = "SELECT RAISE(ABORT, 'a track record only grows: nothing in it is changed or removed')"
FOLLOWS = (
    "NEW.id IS NOT COALESCE((SELECT MAX(id) FROM forecasts), 0) + 1 OR "
    "NEW.previous IS NOT COALESCE((SELECT hash FROM forecasts ORDER BY id DESC LIMIT 1), '')"
)
TABLES = {
    "forecasts": f"CREATE TABLE forecasts ({', '.join(f'{name} {kind}' for name, kind in COLUMNS.items())})",
    "same": f"CREATE INDEX same ON forecasts ({', '.join(KEY)})",
}
GUARDS = {
    "no_update": f"CREATE TRIGGER no_update BEFORE UPDATE ON forecasts BEGIN {REFUSE}; END",
    "no_delete": f"CREATE TRIGGER no_delete BEFORE DELETE ON forecasts BEGIN {REFUSE}; END",
    "in_order": f"CREATE TRIGGER in_order BEFORE INSERT ON forecasts WHEN {FOLLOWS} BEGIN {REFUSE}; END",
}
INSERT = f"INSERT INTO forecasts VALUES ({', '.join('?' * len(COLUMNS))})"


@dataclass(frozen=True)
class Appended:
    """What a batch added."""

    rows: int
    late: int
    repeated: int
    head: str  # the hash of the last row

    def __add__(self, later: "Appended") -> "Appended":
        counts = (getattr(self, name) + getattr(later, name) for name in ("rows", "late", "repeated"))
        return Appended(*counts, later.head)

    def __str__(self) -> str:
        marks = {"late": self.late, "logged before": self.repeated}
        told = "".join(f", {count} {name}" for name, count in marks.items() if count)
        return f"{self.rows} rows logged{told}; head of the chain {self.head}"


@dataclass
class Chain:
    """The rows as they are read, and the first thing about them that is not as it was written."""

    noted: str | None = None  # a head of before, which must be among the rows
    rows: int = 0
    head: str = ""
    made_at: str = ""
    broken_at: int | None = None  # rows from this id on cannot be trusted
    broken: str | None = None  # why
    backwards: int = 0  # rows whose clock was behind that of the row before

    @property
    def sound(self) -> bool:
        return self.broken is None

    def follow(self, row: tuple) -> bool:
        """Whether the row stands as it was written, behind others that do."""
        *content, previous, own = row
        number, made_at = content[0], content[1]
        if self.sound and (number != self.rows + 1 or previous != self.head):
            self._break(
                self.rows + 1, f"row {number} does not follow row {self.rows}: rows are missing or were replaced"
            )
        if self.sound and not _is_as_written(content, previous, own):
            self._break(number, f"row {number} is not as it was written")
        self.backwards += self.sound and made_at < self.made_at
        self.rows, self.head, self.made_at = self.rows + 1, own, made_at
        self.noted = None if own == self.noted else self.noted
        return self.sound

    def end(self, lost: list[str]) -> None:
        """After the last row: guards that are lost, and a head that was noted and did not come, break a sound one."""
        if self.sound and lost:
            self._break(self.rows + 1, f"its guard {lost[0]} was taken away")
        if self.sound and self.noted is not None:
            self._break(1, f"the head {self.noted:.12} that was noted is not in it, so it was written anew")

    def _break(self, number: int, why: str) -> None:
        self.broken_at, self.broken = number, why


class TrackRecord:
    """`TrackRecord(path).append(...)` writes a batch of forecasts; `chunks` reads them, in order, and checks them.

    Every call opens the file and closes it: threads and processes may share one. The first `append` makes it.

    Raises:
        ValueError: the path is no file, or one that something else wrote.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if self.path.exists() and not self.path.is_file():
            raise ValueError(f"{self.path} is no plain file: name one for the track record, as forecasts.sqlite")
        check_folder(self.path.parent)
        if self.path.exists() and self.path.stat().st_size:
            with self._opened("rw") as connection:
                self._check(connection)

    def append(self, frame: pd.DataFrame, bars: Mapping[str, pd.DataFrame], facts: Mapping[str, Any]) -> Appended:
        """Writes the rows of a forecast.

        Args:
            frame: what a pipeline answers when asked for the quantiles `asked_levels()`.
            bars: what it was made from, by ticker, as `split_tickers` gives them: they have the close at the origin,
                and tell whether later ones were known.
            facts: see `FACTS`.

        Raises:
            ValueError: a law without numbers, or a file that cannot be written.
        """
        kind = KINDS[kind_in(facts["kind"])]
        known = {name: _Known.of(bars[name], kind) for name in frame["ticker"].unique()}
        laws = _blobs(frame, kind, {name: one.closes for name, one in known.items()})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._opened("rwc") as connection:
            connection.execute("BEGIN IMMEDIATE")
            self._check(connection, make=True)
            made_at = utc_now()  # when it is this one's turn
            content = list(_contents(frame, laws, known, facts, made_at))
            added = _insert(connection, content)
            connection.execute("COMMIT")
        return added

    def chunks(self, chain: Chain) -> Iterator[pd.DataFrame]:
        """The rows that can be trusted, some at a time; `chain` learns what all of them are like.

        `quantiles` are arrays; origin, target and made_at are times.

        Raises:
            ValueError: there is no such file, or SQLite cannot read it.
        """
        self._check_there()
        with self._opened("rw") as connection:
            self._check(connection)
            lost = [name for name, sql in GUARDS.items() if _sql(connection, name) != sql]
            cursor = connection.execute("SELECT * FROM forecasts ORDER BY id")
            while rows := cursor.fetchmany(AT_ONCE):
                sound = [row for row in rows if chain.follow(row)]
                if sound:
                    yield _frame(sound)
            chain.end(lost)

    def kinds(self) -> list[str]:
        """Of the series that it is about."""
        self._check_there()
        with self._opened("rw") as connection:
            self._check(connection)
            found = connection.execute("SELECT DISTINCT kind FROM forecasts ORDER BY kind").fetchall()
        return sorted({kind_in(told) for (told,) in found} & {*KINDS})

    def _check_there(self) -> None:
        if not self.path.exists() or not self.path.stat().st_size:
            raise ValueError(f"{self.path} holds no forecast: tsf-llm forecast --log {self.path} writes them")

    @contextmanager
    def _opened(self, mode: str) -> Iterator[sqlite3.Connection]:
        """What SQLite has to say becomes one line."""
        try:
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            connection = sqlite3.connect(address, uri=True, timeout=WAIT, isolation_level=None)
            try:
                yield connection
            finally:
                connection.close()  # which takes back what was not committed
        except sqlite3.OperationalError as error:
            raise ValueError(f"{self.path}: {error}; check the file, its folder and the disk") from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self.path} is no track record, or a broken one ({error}): name another file"
            ) from error

    def _check(self, connection: sqlite3.Connection, *, make: bool = False) -> None:
        """Raises ValueError for a file of something else; an empty one can be made ours."""
        own, version = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if make and not (own or version or connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]):
            for sql in (*TABLES.values(), *GUARDS.values()):
                connection.execute(sql)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {SCHEMA}")
            return
        if own != APPLICATION:
            raise ValueError(f"{self.path} is a database of something else, not a track record: name another file")
        if version != SCHEMA or _sql(connection, "forecasts") != TABLES["forecasts"]:
            raise ValueError(
                f"{self.path} is a track record of another version ({version}): use the tsf-llm that wrote it"
            )
        if make and (lost := [name for name, sql in GUARDS.items() if _sql(connection, name) != sql]):
            raise ValueError(
                f"{self.path}: its guard {lost[0]} was taken away, so nothing is added; start a new record"
            )


@dataclass(frozen=True)
class _Known:
    """What the bars of a ticker tell of a forecast."""

    closes: pd.Series  # known ones, by time
    spacing: pd.Timedelta  # NaT of a single bar

    @classmethod
    def of(cls, bars: pd.DataFrame, kind: Kind) -> "_Known":
        closes = bars.set_index("timestamp")[kind.value].dropna()
        return cls(closes, pd.Timedelta(seconds=bar_spacing(bars["timestamp"].to_numpy())))

    def late(self, origin: pd.Timestamp, first: pd.Timestamp, made_at: pd.Timestamp) -> str | None:
        """Why a forecast whose first step has the time `first` was made too late to count.

        A bar may be stamped with its begin or its end, so that one is over when its time and a spacing are."""
        if self.closes.index[-1] > origin:
            return "later bars were there"
        spacing = first - origin if pd.isna(self.spacing) else self.spacing
        return "its first bar was over" if made_at > first + spacing else None


def utc_now() -> pd.Timestamp:
    """Without a zone."""
    return pd.Timestamp(datetime.now(UTC)).tz_localize(None)


def told_kind(kind: Kind, *, nonnegative: bool, integer: bool) -> str:
    """What a row says of its series.

    >>> told_kind(KINDS["univariate"], nonnegative=True, integer=False)
    'univariate nonnegative'
    """
    bounds = {"nonnegative": nonnegative, "integer": integer}
    return " ".join([kind.name, *(name for name in BOUNDS if bounds[name])])


def kind_in(told: str) -> str:
    """The name of the kind."""
    return told.split()[0]


def bounds_in(told: Iterable[str]) -> dict[str, bool]:
    """The bounds that all of these rows tell of."""
    words = [one.split()[1:] for one in told]
    return {name: bool(words) and all(name in one for one in words) for name in BOUNDS}


def asked_levels(shown: Sequence[float] = FORECAST_QUANTILES) -> list[float]:
    """What to ask a pipeline for, so that its answer can be logged: those to show first."""
    return [*shown, *(level for level in GRID if quantile_column(level) not in {*map(quantile_column, shown)})]


def shown(frame: pd.DataFrame, levels: Sequence[float] = FORECAST_QUANTILES) -> pd.DataFrame:
    """The answer to `asked_levels` as if only these had been asked for."""
    kept = {*map(quantile_column, levels)}
    return frame.drop(columns=[name for name in GRID_COLUMNS if name not in kept])


def law_of(quantiles: np.ndarray) -> Samples | Piecewise:
    """Laws from their rows `[n,L]`; a single number `[n,1]` stands twice."""
    if quantiles.shape[1] == 1:
        return Samples(np.repeat(quantiles, 2, axis=1))
    return Piecewise(quantiles, np.broadcast_to(LEVELS, quantiles.shape))


def digest_of(content: list | tuple, previous: str) -> str:
    """The hash of a row, from its columns up to `quantiles` and the hash of the row before."""
    *texts, quantiles = content
    told = json.dumps([*texts, previous], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(told.encode() + b"\n" + quantiles).hexdigest()


def _is_as_written(content: list, previous: str, own: str) -> bool:
    try:
        return own == digest_of(content, previous)
    except (TypeError, ValueError, UnicodeError):  # values of other types than ours
        return False


def _blobs(frame: pd.DataFrame, kind: Kind, closes: Mapping[str, pd.Series]) -> list[bytes]:
    """The law of each row."""
    last = np.array([closes[name].get(at, np.nan) for name, at in zip(frame["ticker"], frame["origin"], strict=True)])
    levels = frame[GRID_COLUMNS].to_numpy(dtype=float)
    numbers = np.isnan(levels).all(axis=1)
    with np.errstate(all="ignore"):
        values = kind.change(levels, last[:, None])
        point = kind.change(frame["mean"].to_numpy(dtype=float), last)
        values[numbers] = point[numbers, None]
        kept = values.astype("<f4")
        exact = np.isfinite(kept).all(axis=1) & np.isclose(kept, values, rtol=1e-6, atol=0).all(axis=1)
    if not exact.all():
        row = frame.iloc[int(np.flatnonzero(~exact)[0])]
        raise ValueError(
            f"{row['ticker']}: its forecast from {row['origin']} has no law that can be logged (no number, or one too "
            "large or too small): leave the ticker out"
        )
    return [one[:1].tobytes() if number else one.tobytes() for one, number in zip(kept, numbers, strict=True)]


def _contents(
    frame: pd.DataFrame, laws: list[bytes], known: Mapping[str, _Known], facts: Mapping[str, Any], now: pd.Timestamp
) -> Iterator[dict[str, Any]]:
    """Each row, but for its place in the chain."""
    shared = {name: facts[name] for name in FACTS}
    first = frame.groupby(["ticker", "origin"], sort=False)["timestamp"].transform("min")
    named = frame[["ticker", "origin", "step", "timestamp", "p_up"]].itertuples(index=False)
    columns = zip(named, first, laws, strict=True)
    for row, begins, quantiles in columns:
        of = known[row.ticker]
        yield {
            "made_at": now.isoformat(timespec="milliseconds"),
            **shared,
            "ticker": row.ticker,
            "origin": row.origin.isoformat(),
            "last_close": float(of.closes[row.origin]),
            "step": int(row.step),
            "target": row.timestamp.isoformat(),
            "law": NUMBER if len(quantiles) == 4 else QUANTILES,
            "p_up": None if pd.isna(row.p_up) else float(row.p_up),
            "late": of.late(row.origin, begins, now),
            "quantiles": quantiles,
        }


def _insert(connection: sqlite3.Connection, contents: list[dict[str, Any]]) -> Appended:
    same = f"SELECT MIN(id) FROM forecasts WHERE {' AND '.join(f'{name} = ?' for name in KEY)}"
    last = connection.execute("SELECT id, hash FROM forecasts ORDER BY id DESC LIMIT 1").fetchone() or (0, "")
    (number, previous), rows = last, []
    for content in contents:
        [repeats] = connection.execute(same, [content[name] for name in KEY]).fetchone()
        number += 1
        content |= {"id": number, "repeats": repeats}
        values = [content[name] for name in [*COLUMNS][:-2]]
        own = digest_of(values, previous)
        rows.append([*values, previous, own])
        previous = own
    connection.executemany(INSERT, rows)
    counts = {mark: sum(content[mark] is not None for content in contents) for mark in ("late", "repeats")}
    return Appended(len(rows), counts["late"], counts["repeats"], previous)


def _sql(connection: sqlite3.Connection, name: str) -> str | None:
    found = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", [name]).fetchone()
    return found and found[0]


def _frame(rows: list[tuple]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[*COLUMNS])
    for name in ("made_at", "origin", "target"):
        frame[name] = pd.to_datetime(frame[name], format="ISO8601").astype("datetime64[ns]")
    frame["quantiles"] = [np.frombuffer(one, "<f4").astype(float) for one in frame["quantiles"]]
    return frame
