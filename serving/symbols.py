"""A symbol -> its recent daily bars, from Yahoo Finance, kept on disk.

Design choices:
* `data_prep/yahoo.py` downloads: adjusted prices, and no bar of a day that is not over in UTC. One download at a time,
  whoever shares the folder, threads and processes; what is on disk meanwhile answers at once.
* Nothing changes until the next bar is due, after midnight UTC. So bars up to yesterday's workday are fresh all day;
  where Yahoo had no such bar (a holiday, a delay) it is asked again after `ASK_AGAIN`.
* What could not be renewed is answered as it is, and says so: `as_of` is the last bar, `stale` why there is no later.
* A symbol that failed is not asked for again for a minute: typing errors are no load on others' machines.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..data_prep.sources import read_bars
from ..data_prep.yahoo import Busy, download, keep_newest, read_manifest, valid_tickers

YEARS = 5  # of bars
MOST = 32  # symbols at once
KEPT = 500  # symbols on disk
ASK_AGAIN = timedelta(minutes=15)
FORGET = 60.0  # seconds for which a failure is remembered
WAIT = 30.0  # seconds for the downloads of others
POLITE: dict[str, Any] = {"rate": 2.0, "retries": 1, "timeout": 10.0}  # requests per second, seconds


@dataclass(frozen=True)
class RecentBars:
    """The bars; of each symbol `as_of`, `fetched_at` (UTC) and, if so, `stale`; what is missing."""

    bars: pd.DataFrame
    symbols: dict[str, dict[str, str]]
    skipped: dict[str, str]


class Symbols:
    """`Symbols().recent("AAPL, MSFT")` -> `RecentBars`. One object serves many threads."""

    def __init__(self, folder: str | Path | None = None) -> None:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsf_llm" / "symbols"
        self.folder = usual if folder is None else Path(folder).expanduser()
        self._failed: dict[str, tuple[float, str]] = {}  # symbol -> when, and why

    def recent(self, symbols: str | Sequence[str]) -> RecentBars:
        """Bars of the last `YEARS` years of each symbol that Yahoo knows.

        Raises:
            Busy: Yahoo, or the network, did not answer, and nothing is on disk; or others are downloading.
            ValueError: no symbol, one that is none, too many, none that Yahoo knows, or a missing library.
        """
        names = valid_tickers(symbols)
        if len(names) > MOST:
            raise ValueError(f"{len(names)} symbols at once: ask for {MOST} or fewer")
        failed = self._renew(names)
        try:
            found = self._read(names)
        except FileNotFoundError:  # replaced at this moment
            with self._alone():
                found = self._read(names)
        skipped = {name: failed[name] for name in names if name not in found}
        if not found:
            raise _refusal(skipped)
        facts = {name: facts | _why_stale(failed.get(name)) for name, (_, facts) in found.items()}
        return RecentBars(pd.concat([bars for bars, _ in found.values()], ignore_index=True), facts, skipped)

    def _renew(self, names: list[str]) -> dict[str, str]:
        """Downloads what is not fresh; of each symbol that failed, now or within the last minute, why."""
        failed = self._lately_failed()
        if wanted := self._not_fresh(names, failed):
            with self._alone():
                failed = self._lately_failed()
                if wanted := self._not_fresh(wanted, failed):  # others may have brought them meanwhile
                    report = download(wanted, start=_first_day(), out=self.folder, renew=True, **POLITE)
                    keep_newest(self.folder, KEPT)
                    self._failed |= {name: (time.monotonic(), why) for name, why in report["failed"].items()}
        return {**failed, **self._lately_failed()}

    def _lately_failed(self) -> dict[str, str]:
        now = time.monotonic()
        self._failed = {name: one for name, one in self._failed.items() if now - one[0] < FORGET}
        return {name: why for name, (_, why) in self._failed.items()}

    def _not_fresh(self, names: list[str], failed: dict[str, str]) -> list[str]:
        entries = read_manifest(self.folder)["tickers"]
        return [name for name in names if name not in failed and not is_fresh(entries.get(name), datetime.now(UTC))]

    def _read(self, names: list[str]) -> dict[str, tuple[pd.DataFrame, dict[str, str]]]:
        entries = read_manifest(self.folder)["tickers"]
        found = {}
        for name in names:
            if (entry := entries.get(name)) is not None:
                bars = read_bars(self.folder / entry["file"]).assign(ticker=name)
                found[name] = bars, {"as_of": entry["last"], "fetched_at": entry["downloaded_at"]}
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            from filelock import FileLock, Timeout
        except ModuleNotFoundError as error:
            raise ValueError(f"a download needs {error.name}: pip install 'tsf-llm[data]'") from error
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=WAIT):
                yield
        except Timeout as error:
            raise Busy("other symbols are being downloaded: try again in a minute") from error


def is_fresh(entry: dict[str, Any] | None, now: datetime) -> bool:
    """Whether a download need not be repeated: it has the bar of the last workday that is over, or is minutes old.

    >>> sunday = datetime(2024, 1, 14, 12, tzinfo=UTC)
    >>> is_fresh({"last": "2024-01-12", "downloaded_at": "2024-01-13T00:10:00+00:00"}, sunday)
    True
    """
    if entry is None:
        return False
    due = np.busday_offset(now.date() - timedelta(days=1), 0, roll="backward")
    last = np.datetime64(str(entry["last"])[:10])
    return bool(last >= due) or now - datetime.fromisoformat(entry["downloaded_at"]) < ASK_AGAIN


def _first_day() -> date:
    return datetime.now(UTC).date() - timedelta(days=round(365.25 * YEARS))


def _why_stale(why: str | None) -> dict[str, str]:
    return {} if why is None else {"stale": f"not renewed: {why}"}


def _refusal(skipped: dict[str, str]) -> Exception:
    text = "; ".join(f"{name}: {why}" for name, why in skipped.items())
    silent = all(why.startswith(("no answer", "not tried")) for why in skipped.values())
    return Busy(f"no answer from Yahoo Finance ({text})") if silent else ValueError(f"no bars of {text}")
