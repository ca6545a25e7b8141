"""One evaluation: `results.json` and its plots."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import day_end
from ..calendars_tsf_llm import check_calendar, next_timestamps
from ..common.files import check_free, claim, write_json
from ..common.provenance import provenance
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from .plots import pit_histogram, score_bars
from .report import Report
from .walk_forward import WalkForward, walk_forward

BY = "evaluate"
FILES = ("results.json", "scores.png", "pit.png")


def evaluate_model(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    *,
    start: Any,
    end: Any,
    horizon: int,
    out: Path,
    stride: int | None = None,
    samples: int = 256,
    seed: int = 0,
    market: pd.DataFrame | None = None,
    calendar: str | None = None,
    strict: bool = False,
) -> Report:
    """Walks forward over [start, end], writes `results.json`, `scores.png` and `pit.png`, and returns what it found.

    Tickers that cannot be scored are skipped: `skipped` names them and the reason; with `strict` they are refused.
    `out_of_sample` is false when the model has seen prices of the period, and null when it does not say. With a
    `calendar`, by default the processor's own, `on_calendar` is the share of scored steps that came when it says."""
    calendar = check_calendar(calendar, needed=True) or pipe.processor.feature_extractor.calendar
    check_free(out, FILES, by=BY, told_by=("results.json", "rows", "verdicts", "out_of_sample"))
    panel = pipe.processor.feature_extractor.check_known(bars, strict=strict)
    series = pipe.processor.encode(panel, market=market)
    result = walk_forward(
        pipe, series, start=start, end=end, horizon=horizon, stride=stride, samples=samples, seed=seed
    )
    scored = set(result.ticker.tolist())
    for one in series:
        if one.ticker not in scored:
            panel.skip(
                one.ticker, f"{one.ticker}: no forecast of {horizon} step(s) from {start} to {end} can be scored"
            )
    panel.settle()
    cutoff = pipe.model.config.trained_through
    first = pd.Timestamp(result.origin.min())
    period = {"start": str(first.date()), "end": str(pd.Timestamp(result.origin.max()).date())}
    results = {
        "rows": result.rows(seed),
        "verdicts": result.verdicts(seed),
        **period,
        "horizon": horizon,
        "stride": stride or horizon,
        "tickers": sorted(scored),
        "skipped": panel.skipped,
        "samples": samples,
        "seed": seed,
        "trained_through": cutoff,
        "out_of_sample": None if cutoff is None else bool(first > day_end(cutoff)),
        **provenance(BY),
    }
    if calendar is not None:
        results |= {"calendar": calendar, "on_calendar": _on_calendar(series, result, horizon, calendar)}
    claim(out, FILES, by=BY)
    write_json(results, out / "results.json")
    note = f"{len(results['tickers'])} ticker(s), origins {period['start']} to {period['end']}, {horizon} bar(s) ahead"
    kind = pipe.processor.feature_extractor.series_kind
    score_bars(results["rows"], out / "scores.png", highlight="model", note=note, kind=kind)
    pit_histogram(result.pit(), out / "pit.png", name="model", note=note)
    return Report.of(results)


def _on_calendar(series: Sequence[EncodedSeries], result: WalkForward, horizon: int, calendar: str) -> float:
    """The share of the scored steps whose bar has the time that a forecast would have given them."""
    hits = []
    for one in series:
        for row in np.searchsorted(one.timestamp, result.origin[result.ticker == one.ticker]):
            due = next_timestamps(one.timestamp[: row + 1], horizon, calendar)
            hits.append((one.timestamp[row + 1 : row + 1 + horizon] == due.to_numpy()).mean())
    return round(float(np.mean(hits)), 4)
