"""One evaluation: `results.json` and its plots."""

from pathlib import Path
from typing import Any

import pandas as pd

from ..bars_tsf_llm import day_end
from ..common.files import check_free, claim, write_json
from ..common.provenance import provenance
from ..pipeline_tsf_llm import TsfLlmPipeline
from .plots import pit_histogram, score_bars
from .report import Report
from .walk_forward import walk_forward

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
    strict: bool = False,
) -> Report:
    """Walks forward over [start, end], writes `results.json`, `scores.png` and `pit.png`, and returns what it found.

    Tickers that cannot be scored are skipped: `skipped` names them and the reason; with `strict` they are refused.
    `out_of_sample` is false when the model has seen prices of the period, and null when it does not say."""
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
    claim(out, FILES, by=BY)
    write_json(results, out / "results.json")
    note = f"{len(results['tickers'])} ticker(s), origins {period['start']} to {period['end']}, {horizon} bar(s) ahead"
    kind = pipe.processor.feature_extractor.series_kind
    score_bars(results["rows"], out / "scores.png", highlight="model", note=note, kind=kind)
    pit_histogram(result.pit(), out / "pit.png", name="model", note=note)
    return Report.of(results)
