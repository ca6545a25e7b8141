"""`tsf-llm reconcile`: a track record read, scored beside what came, and written as JSON and a page.

`outcomes` says what is scored and how, `track_record_page` what people see of it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import OHLCV, PRICES, CheckedBars, Kind, split_tickers
from ..common.files import check_free, claim, write_json, write_text
from ..common.provenance import provenance
from ..feature_extraction_tsf_llm import EncodedSeries
from ..jumps_tsf_llm import jump_report
from .outcomes import Outcomes, findings, match
from .track_record import Chain, TrackRecord
from .track_record_page import page

BY = "reconcile"
FILES = ("track_record.json", "track_record.html")


def reconcile(
    path: Path,
    bars: pd.DataFrame,
    *,
    kind: Kind,
    out: Path,
    tickers: Sequence[str] | None = None,
    noted: str | None = None,
    num_proc: int = 1,
    strict: bool = False,
) -> dict[str, Any]:
    """Scores the record with the outcomes in the bars, writes `FILES` and returns the content of the first.

    With `tickers` their rows alone are looked at. `noted` is a head of before: a record without it is a new one, of
    which nothing is scored.

    Raises:
        ValueError: what is there is no record, an empty one, or nothing of it is about these bars' tickers.
    """
    check_free(out, FILES, by=BY)
    chain, panel = Chain(noted), split_tickers(bars, kind, strict=strict)
    series = {name: _series(name, frame, kind) for name, frame in panel.items()}
    outcomes = match(TrackRecord(path).chunks(chain), series, kind, tickers=tickers)
    if chain.broken_at == 1:
        outcomes = match([], series, kind)
    elif not len(outcomes.rows) and chain.sound:
        whose = f" of {', '.join(tickers)}" if tickers else ""
        raise ValueError(f"{path} holds no forecast{whose}: tsf-llm forecast --log {path} writes them")
    told = findings(outcomes, series, kind, num_proc=num_proc)
    results = {"log": path.name, "kind": kind.name, **_chain(chain), **told.content}
    results |= {"jumps": _jumps(outcomes, panel, kind), "skipped": dict(panel.skipped), **provenance(BY)}
    claim(out, FILES, by=BY)
    write_json(results, out / FILES[0])
    write_text(page(results, told.parts, kind), out / FILES[1])
    return results


def _chain(chain: Chain) -> dict[str, Any]:
    return {
        "rows": chain.rows,
        "head": chain.head,
        "sound": chain.sound,
        "broken": chain.broken,
        "broken_at": chain.broken_at,
        "clock_went_back": chain.backwards,
    }


def _jumps(outcomes: Outcomes, panel: CheckedBars, kind: Kind) -> dict[str, str]:
    """Of each ticker the jumps since its first origin, one of which may be a split: then an outcome is none."""
    first = outcomes.rows.groupby("ticker")["origin"].min()
    found = {}
    for name, origin in first[first.index.isin([*panel])].items():
        frame = panel[str(name)].reset_index(drop=True)
        if report := jump_report(frame, kind.value, since=int((frame["timestamp"] <= origin).sum())):
            found[str(name)] = report
    return found


def _series(name: str, frame: pd.DataFrame, kind: Kind) -> EncodedSeries:
    """Prices alone."""
    close, unknown = frame[kind.value].to_numpy(dtype=float), np.full(len(frame), np.nan)
    return EncodedSeries(
        ticker=name,
        timestamp=frame["timestamp"].to_numpy().astype("datetime64[ns]"),
        features=np.empty((len(frame), 0), np.float32),
        observed=np.isfinite(close),
        close=close,
        log_return=unknown,
        sigma=unknown,
        ohlc=frame[PRICES].to_numpy(dtype=float) if kind is OHLCV else None,
    )
