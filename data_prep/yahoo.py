"""Prices from Yahoo Finance, through `yfinance`, as files that `read_bars` reads.

Design choices:
- Yahoo answers one ticker at a time. So a batch is a loop with one file per ticker, each written when it comes: a run
  that was killed goes on where it stopped.
- `yfinance` speaks the protocol and adjusts the prices. The session under it is ours: it spaces the requests, and an
  answer that is worth another try (429, 5xx, no JSON) becomes an exception. Without that, yfinance would take some of
  these for "no data" and answer the next try from its cache.
- The bar of a day that is not over is no bar: a download ends yesterday (UTC) at the latest. Nothing is filled.
- Adjusted prices change with every dividend, so a file is kept only while the same period is asked for; a new day
  replaces the file, never extends it.
- A file is on disk only when the manifest already describes it, and the one before it is gone by then: `read_bars`
  on the folder never meets one bar twice.
"""

import json
import re
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ..common.files import check_folder, write_csv, write_json
from .tables import EXTENSIONS

# No weeks or months: Yahoo adjusts these badly, and they are better made from days.
INTERVALS = ("1d", "1h", "30m", "15m", "5m", "2m", "1m")
LONGEST_WAIT = 120.0  # seconds; a longer Retry-After is cut to this, the number of tries ends the wait
GIVE_UP_AFTER = 3  # tickers in a row without an answer: the network or Yahoo is down, not the ticker


class Busy(ConnectionError):
    """Yahoo answered, but not yet with data; worth another try."""


class NoBars(Exception):
    """Yahoo has no such bars; another try would say the same."""


def download(
    tickers: str | Sequence[str],
    *,
    start: str | date,
    end: str | date | None = None,
    interval: str = "1d",
    out: str | Path = "data/raw",
    rate: float = 2.0,
    retries: int = 4,
    timeout: float = 20.0,
    renew: bool = False,
) -> dict[str, Any]:
    """Adjusted bars of each ticker T to `out/price_history/T/T_yahoo_yyyymmdd.csv`, described in `out/manifest.json`.

    `start` and `end` are days, both included. `rate` is in requests per second, `timeout` in seconds; a request that
    fails is tried again up to `retries` times, after 1, 2, 4, ... seconds and a random part of one. `renew` asks again
    for what an earlier run has brought.

    Returns `{"downloaded": [tickers], "kept": [tickers], "failed": {ticker: reason}}`; kept are those that an earlier
    run has brought.

    Raises ValueError for wrong input, a folder with price files that the manifest does not know, a missing yfinance.
    """
    names = valid_tickers(tickers)
    first, last = _period(start, end)
    if interval not in INTERVALS:
        raise ValueError(f"interval '{interval}' is unknown; choose one of {', '.join(INTERVALS)}")
    if not rate > 0 or not timeout > 0 or retries < 0:
        raise ValueError(f"rate {rate} and timeout {timeout} must be above 0, retries {retries} not below")
    out = Path(out).expanduser()
    check_folder(out)
    asked = {"source": "yahoo", "interval": interval, "start": str(first), "end": str(last)}
    manifest = read_manifest(out)
    for name in names:
        _clear_folder(out, name, manifest)
    fetch = _fetcher(first, last, interval, Pacer(rate), retries=retries, timeout=timeout, renew=renew)
    return _download_all(names, fetch, asked, manifest, out, renew=renew)


def _download_all(
    names: list[str],
    fetch: Callable[[str], pd.DataFrame],
    asked: dict[str, str],
    manifest: dict[str, Any],
    out: Path,
    *,
    renew: bool,
) -> dict[str, Any]:
    report: dict[str, Any] = {"downloaded": [], "kept": [], "failed": {}}
    silent = 0
    for name in tqdm(names, desc="Yahoo Finance", leave=False, disable=None):  # None: only on a terminal
        if not renew and _is_fresh(manifest["tickers"].get(name), asked, out):
            report["kept"].append(name)
            continue
        if silent == GIVE_UP_AFTER:
            report["failed"][name] = f"not tried: {silent} tickers in a row got no answer"
            continue
        try:
            bars = fetch(name)
        except NoBars as error:
            silent, report["failed"][name] = 0, _one_line(error)
        except OSError as error:  # the timeouts and refusals of curl_cffi are among these
            silent, report["failed"][name] = silent + 1, f"no answer: {_one_line(error)}"
        else:
            silent = 0
            _store(bars, name, asked, manifest, out)
            report["downloaded"].append(name)
    return report


# What is asked


def valid_tickers(tickers: str | Sequence[str]) -> list[str]:
    """Upper case, each once. A ticker becomes a folder: what could lead elsewhere is refused."""
    parts = tickers.split(",") if isinstance(tickers, str) else tickers
    names = list(dict.fromkeys(part.strip().upper() for part in parts if part.strip()))
    if not names:
        raise ValueError("no ticker given; name some, such as AAPL,MSFT")
    for name in names:
        if not re.fullmatch(r"[A-Z0-9^][A-Z0-9.^=&_-]{0,31}", name):
            raise ValueError(f"'{name}' is no ticker of Yahoo Finance, such as AAPL, BRK-B, ^GSPC, EURUSD=X, 0700.HK")
    return names


def _period(start: str | date, end: str | date | None) -> tuple[date, date]:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    first = _day(start, "start")
    last = yesterday if end is None else min(_day(end, "end"), yesterday)
    if first > last:
        raise ValueError(f"start {first} lies after {last}, the last day to download; choose an earlier start")
    return first, last


def _day(value: str | date, name: str) -> date:
    try:
        return date.fromisoformat(str(value))
    except ValueError as error:
        raise ValueError(f"{name} '{value}' is no day; write it like 2024-01-31") from error


# What is there


def read_manifest(out: Path) -> dict[str, Any]:
    """What was downloaded to a folder: its `tickers`, each with `file`, `last`, `downloaded_at` and what was asked."""
    path = out / "manifest.json"
    if not path.exists():
        return {"tickers": {}}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON; restore it, or choose another folder") from error
    if not _is_manifest(manifest):
        raise ValueError(f"{path} is no manifest of downloads; choose another folder")
    return manifest


def _is_manifest(content: Any) -> bool:
    """Whether it names only files that a download writes: these are replaced, so no other path may stand there."""
    tickers = content.get("tickers") if isinstance(content, dict) else None
    return isinstance(tickers, dict) and all(
        isinstance(entry, dict)
        and re.fullmatch(rf"price_history/{re.escape(t)}/{re.escape(t)}_yahoo_\d{{8}}\.csv", str(entry.get("file")))
        for t, entry in tickers.items()
    )


def _clear_folder(out: Path, name: str, manifest: dict[str, Any]) -> None:
    """Unfinished files go; finished ones of unknown origin stop the run, since their bars would be read twice."""
    folder = out / "price_history" / name
    known = manifest["tickers"].get(name, {}).get("file")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if re.fullmatch(rf"\.{re.escape(name)}_yahoo_\d{{8}}\.csv\.\d+", path.name):
            path.unlink()
        elif path.name.endswith(EXTENSIONS) and path.relative_to(out).as_posix() != known:
            raise ValueError(
                f"{path} is not in {out / 'manifest.json'}: beside a download its bars would be read twice; "
                "move it away, or choose another folder"
            )


def _is_fresh(entry: dict[str, Any] | None, asked: dict[str, str], out: Path) -> bool:
    return entry is not None and asked.items() <= entry.items() and (out / entry["file"]).is_file()


def _store(bars: pd.DataFrame, name: str, asked: dict[str, str], manifest: dict[str, Any], out: Path) -> None:
    """Old file, manifest, new file, in this order: see the design choices."""
    now = datetime.now(UTC)
    file = f"price_history/{name}/{name}_yahoo_{now:%Y%m%d}.csv"
    if name in manifest["tickers"]:
        (out / manifest["tickers"][name]["file"]).unlink(missing_ok=True)
    manifest["tickers"][name] = {
        **asked,
        "file": file,
        "adjusted": True,
        "rows": len(bars),
        "first": bars.iloc[0, 0],
        "last": bars.iloc[-1, 0],
        "downloaded_at": now.isoformat(timespec="seconds"),
    }
    write_json(manifest, out / "manifest.json")
    write_csv(bars, out / file)


def keep_newest(out: Path, most: int) -> None:
    """Removes the downloads that are oldest, so that `most` tickers are left."""
    manifest = read_manifest(out)
    entries = manifest["tickers"]
    for name in sorted(entries, key=lambda name: entries[name]["downloaded_at"])[: max(0, len(entries) - most)]:
        (out / entries.pop(name)["file"]).unlink(missing_ok=True)
        write_json(manifest, out / "manifest.json")


# What Yahoo says


class Pacer:
    """Lets a request pass every `1 / rate` seconds, and none while Yahoo has asked to wait."""

    def __init__(self, rate: float) -> None:
        self.gap = 1 / rate
        self.free_at = time.monotonic()

    def wait(self) -> None:
        now = time.monotonic()
        if self.free_at > now:
            time.sleep(self.free_at - now)
        self.free_at = max(now, self.free_at) + self.gap

    def hold(self, retry_after: str | None) -> None:
        """`retry_after`: the header, seconds or a date; anything else is no wish."""
        try:
            seconds = float(retry_after or "")
        except ValueError:
            try:
                seconds = parsedate_to_datetime(retry_after or "").timestamp() - time.time()
            except ValueError:
                return
        self.free_at = max(self.free_at, time.monotonic() + min(seconds, LONGEST_WAIT))


def _fetcher(
    first: date, last: date, interval: str, pacer: Pacer, *, retries: int, timeout: float, renew: bool
) -> Callable[[str], pd.DataFrame]:
    """`fetch(ticker)` -> bars as they go to the file; raises NoBars, or OSError after the last try."""
    try:
        import tenacity
        import yfinance
        from curl_cffi import requests
        from yfinance.data import YfData
        from yfinance.exceptions import YFException
    except ModuleNotFoundError as error:
        raise ValueError(f"a download needs {error.name}: pip install 'tsf-llm[data]'") from error

    if renew:
        YfData.cache_get.cache_clear()  # it would answer as it did before

    class PacedSession(requests.Session):
        def request(self, method: Any, url: str, *args: Any, **kwargs: Any) -> Any:
            pacer.wait()
            response = super().request(method, url, *args, **kwargs)
            if "/v8/finance/chart/" in response.url:  # cookies and crumbs are left to yfinance
                _check(response, pacer)
            return response

    session = PacedSession(impersonate="chrome")

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(OSError),
        stop=tenacity.stop_after_attempt(retries + 1),
        wait=tenacity.wait_exponential_jitter(initial=1, max=60, jitter=1),
        sleep=lambda seconds: time.sleep(seconds),
        reraise=True,
    )
    def fetch(ticker: str) -> pd.DataFrame:
        day_after = last + timedelta(days=1)  # yfinance leaves the end out
        hidden, yfinance.config.debug.hide_exceptions = yfinance.config.debug.hide_exceptions, False
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # yfinance shows its own, from pandas, to users
                bars = yfinance.Ticker(ticker, session=session).history(
                    start=str(first),
                    end=str(day_after),
                    interval=interval,
                    auto_adjust=True,
                    actions=False,
                    timeout=timeout,
                )
        except (OSError, NoBars):
            raise
        except YFException as error:
            raise NoBars(str(error).removeprefix(f"${ticker}: ")) from error
        except Exception as error:  # yfinance trips over an odd answer in many ways; the other tickers go on
            raise NoBars(f"odd answer ({type(error).__name__}: {error})") from error
        finally:
            yfinance.config.debug.hide_exceptions = hidden
        return _as_written(bars, day_after, interval)

    return fetch


def _check(response: Any, pacer: Pacer) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        pacer.hold(response.headers.get("Retry-After"))
        raise Busy(f"Yahoo answered HTTP {status}")
    if status not in (200, 404):  # 401 and 403: yfinance fetches a new cookie; others carry Yahoo's reason
        return
    try:
        answer = response.json()
    except ValueError as error:
        raise Busy(f"Yahoo answered HTTP {status} without JSON") from error
    if status == 404:
        reason = ((answer.get("chart") or {}).get("error") or {}).get("description") or "not found"
        raise NoBars(f"unknown or delisted: {reason}")


def _as_written(bars: pd.DataFrame, day_after: date, interval: str) -> pd.DataFrame:
    """Days as the exchange dates them, shorter bars in UTC; columns Date, Open, High, Low, Close, Volume."""
    bars = bars[bars.index < pd.Timestamp(day_after, tz=bars.index.tz)]  # Yahoo may add the running bar
    if bars.empty:
        raise NoBars("no bars in this period")
    times = bars.index.strftime("%Y-%m-%d") if interval == "1d" else bars.index.tz_convert("UTC").astype(str)
    bars = bars[["Open", "High", "Low", "Close", "Volume"]].reset_index(drop=True)
    bars.insert(0, "Date" if interval == "1d" else "Datetime", times)
    return bars


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
