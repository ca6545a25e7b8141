"""One evaluation: `results.json`, its plots, and the page that explains them."""

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
from .baselines.catalogue import choose
from .groups import groups
from .page import write_page
from .plots import pit_histogram, score_bars
from .report import Report
from .significance import confidence_set, headline
from .walk_forward import WalkForward, walk_forward

BY = "evaluate"
FILES = ("results.json", "report.html", "scores.png", "pit.png")


def evaluate_model(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    *,
    start: Any,
    end: Any,
    horizon: int | Sequence[int],
    out: Path,
    stride: int | None = None,
    samples: int = 256,
    seed: int = 0,
    baselines: str | Sequence[str] = "standard",
    calibration: str = "auto",
    num_proc: int = 1,
    market: pd.DataFrame | None = None,
    calendar: str | None = None,
    strict: bool = False,
) -> Report:
    """Walks forward over [start, end], writes `results.json`, `report.html` and plots, and returns what it found.

    Each of several horizons has origins of its own, `stride` bars apart, by default as many as it has steps. Tickers
    that cannot be scored are skipped: `skipped` names them and the reason; with `strict` they are refused.
    `out_of_sample` is false when the model has seen prices of the period, and null when it does not say. With a
    `calendar`, by default the processor's own, `on_calendar` is the share of scored steps that came when it says."""
    calendar = check_calendar(calendar, needed=True) or pipe.processor.feature_extractor.calendar
    horizons = [horizon] if isinstance(horizon, int) else [*dict.fromkeys(horizon)]
    extractor = pipe.processor.feature_extractor
    choose(baselines, extractor.series_kind, next(iter(extractor.seasons or ()), None))  # refuses before the work
    check_free(out, FILES, by=BY, told_by=("results.json", "rows", "verdicts", "out_of_sample"))
    panel = extractor.check_known(bars, strict=strict)
    series = pipe.processor.encode(panel, market=market)
    options = {"stride": stride, "samples": samples, "seed": seed, "baselines": baselines, "num_proc": num_proc}
    options["calibration"] = calibration
    walks = {h: walk_forward(pipe, series, start=start, end=end, horizon=h, **options) for h in horizons}
    scored = set(np.concatenate([walk.ticker for walk in walks.values()]).tolist())
    for one in series:
        if one.ticker not in scored:
            panel.skip(
                one.ticker, f"{one.ticker}: no forecast of {min(horizons)} step(s) from {start} to {end} can be scored"
            )
    panel.settle()
    cutoff = pipe.model.config.trained_through
    first = pd.Timestamp(min(walk.origin.min() for walk in walks.values()))
    last = pd.Timestamp(max(walk.origin.max() for walk in walks.values()))
    found = {h: {"stride": stride or h, **_found(walk, seed)} for h, walk in walks.items()}
    results = {
        "rows": [row for walk in walks.values() for row in walk.rows(seed)],
        **found[horizons[0]],
        "horizons": {str(h): one for h, one in found.items()},
        "start": str(first.date()),
        "end": str(last.date()),
        "horizon": horizons[0],
        "refits": {name: words for walk in walks.values() for name, words in walk.refits.items()},
        "failed": {name: words for h in reversed(horizons) for name, words in walks[h].failed.items()},
        "tickers": sorted(scored),
        "skipped": panel.skipped,
        "samples": samples,
        "seed": seed,
        "trained_through": cutoff,
        "out_of_sample": None if cutoff is None else bool(first > day_end(cutoff)),
        **provenance(BY),
    }
    if calendar is not None:
        on_calendar = _on_calendar(series, walks[horizons[0]], horizons[0], calendar)
        results |= {"calendar": calendar, "on_calendar": on_calendar}
    claim(out, FILES, by=BY)
    write_json(results, out / "results.json")
    steps = ", ".join(map(str, horizons))
    note = f"{len(scored)} ticker(s), origins {results['start']} to {results['end']}, {steps} bar(s) ahead"
    kind = extractor.series_kind
    score_bars(results["rows"], out / "scores.png", highlight="model", note=note, kind=kind)
    pit_histogram(walks[horizons[0]].pit(), out / "pit.png", name="model", note=note)
    report = Report.of(results)
    write_page(report, out / "report.html", walks=walks, kind=kind)
    return report


def _found(walk: WalkForward, seed: int) -> dict[str, Any]:
    """What one horizon says of the model beside its baselines."""
    strongest, verdicts = walk.strongest, walk.verdicts(seed)
    told: dict[str, Any] = {"verdict": headline(verdicts, strongest)} if strongest is not None else {}
    losses = {name: walk.crps(name) for name in walk.steps[-1]}
    told |= {"mcs": confidence_set(losses, walk.origin, horizon=walk.overlap, seed=seed), "groups": groups(walk)}
    told |= {"calibration": walk.calibration(), "failed": walk.failed}
    if walk.demand is not None:
        told["demand_verdicts"] = walk.demand_verdicts(seed)
    return {"n": len(walk.origin), "strongest": strongest, "verdicts": verdicts, **told}


def _on_calendar(series: Sequence[EncodedSeries], result: WalkForward, horizon: int, calendar: str) -> float:
    """The share of the scored steps whose bar has the time that a forecast would have given them."""
    hits = []
    for one in series:
        for row in np.searchsorted(one.timestamp, result.origin[result.ticker == one.ticker]):
            due = next_timestamps(one.timestamp[: row + 1], horizon, calendar)
            hits.append((one.timestamp[row + 1 : row + 1 + horizon] == due.to_numpy()).mean())
    return round(float(np.mean(hits)), 4)
