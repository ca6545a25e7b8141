"""What a model's forecasts are worth on the user's own series: the last dates again, beside naive forecasts.

* Scores, intervals and tests are those of `tsf-llm evaluate`; nothing is written, and nothing is kept on disk.
* Where the model has not seen enough dates whose outcome is known, only they are scored: dates of its training say
  little. Too few dates, dates that it has seen, and no edge are said in as many words.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..bars_tsf_llm import day_end
from ..evaluation.baselines.catalogue import choose
from ..evaluation.significance import FEWEST_DATES, finding, headline
from ..evaluation.walk_forward import WalkForward, history_before, pick_origins, walk_forward
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline

BESIDE = ("random_walk", "seasonal_naive", "garch_t", "har_range")  # those of them that suit the series
MOST = 250  # dates
FITTED_ON = 300  # bars before the first date, where there are as many: GARCH and HAR want about 280
SCORES = ("crps", "coverage_80")
Finding = Literal["better", "no edge", "worse", "too few dates"]


@dataclass(frozen=True)
class Verdict:
    """What `own_verdict` found. Everything in it goes into JSON as it is."""

    sentence: str  # for people
    finding: Finding  # the model beside the strongest baseline
    horizon: int
    strongest: str | None = None  # the baseline of least CRPS
    rows: list[dict[str, Any]] = field(default_factory=list)  # `model` first; the others with ours - theirs
    n: int = 0  # forecasts scored
    dates: int = 0  # that they were made on
    start: str | None = None  # the first of them
    end: str | None = None  # the last
    trained_through: str | None = None
    out_of_sample: bool | None = None  # None where the model does not say what it has seen, or nothing was scored
    skipped: dict[str, str] = field(default_factory=dict)  # ticker -> why it was not scored
    failed: dict[str, str] = field(default_factory=dict)  # baseline -> why it has no row, or not a whole one


def own_verdict(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    *,
    horizon: int,
    market: pd.DataFrame | None = None,
    as_of: Any = None,
    most: int = MOST,
    samples: int = 256,
    seed: int = 0,
    calibration: str = "auto",
) -> Verdict:
    """Forecasts `horizon` bars ahead once more from up to `most` of the last dates, `horizon` bars apart; scores them.

    No bar after `as_of` is read. `samples`, `seed` and `calibration` are those of the forecast that is judged.

    Raises:
        ValueError: bars that the processor refuses, a horizon that the model cannot reach, or none.
    """
    if min(horizon, most) < 1:
        raise ValueError(f"horizon={horizon}, most={most}: a verdict needs 1 or more of both")
    if pipe.model.config.prediction_type == "classification" and not pipe.model.can_generate():
        return Verdict("This model names classes, not prices: there is nothing to score.", "too few dates", horizon)
    extractor, cutoff = pipe.processor.feature_extractor, pipe.model.config.trained_through
    panel = extractor.check_known(bars)
    series = pipe.processor.encode(panel, as_of, market=market)
    panel.settle()
    kind, season = extractor.series_kind, next(iter(extractor.seasons or ()), None)
    start = _start(series, horizon, season=season, most=most, cutoff=cutoff)
    if start is None:
        why = f"Too few dates to say what this is worth: no earlier forecast of {horizon} bar(s) has come true yet."
        return Verdict(why, "too few dates", horizon, trained_through=cutoff, skipped=dict(panel.skipped))
    beside = [one.name for one in choose("all", kind, season) if one.name in BESIDE]
    options: dict[str, Any] = {"samples": samples, "seed": seed, "calibration": calibration, "baselines": beside}
    options |= {"progress": False, "keep": False}
    walk = walk_forward(pipe, series, start=start, end=None, horizon=horizon, **options)
    scored = {*walk.ticker.tolist()}
    for one in series:
        if one.ticker not in scored:
            panel.skip(one.ticker, f"{one.ticker}: too few bars, no forecast of {horizon} step(s) can be scored")
    return _told(walk, cutoff, seed=seed, skipped=dict(panel.skipped))


def _start(
    series: Sequence[EncodedSeries], horizon: int, *, season: int | None, most: int, cutoff: str | None
) -> pd.Timestamp | None:
    """The first date to forecast from, so that the last is the latest whose outcome is known; None where none is."""
    needed, best = history_before(season, horizon), None
    for history in (needed, max(needed, FITTED_ON + horizon)):
        times = _times(series, horizon, history)
        unseen = times if cutoff is None else times[times > day_end(cutoff).to_datetime64()]
        for some in (times, unseen):  # the last that has enough dates is the best
            if len(some) > (0 if best is None else (FEWEST_DATES - 1) * horizon):
                best = some
    return None if best is None else pd.Timestamp(best[::-1][::horizon][:most][-1])


def _times(series: Sequence[EncodedSeries], horizon: int, history: int) -> np.ndarray:
    """Bar times with this many bars before them and a known outcome, `datetime64`."""
    try:
        rows = pick_origins(series, None, None, horizon, 1, history)
    except ValueError:  # there is none
        return np.array([], dtype="datetime64[ns]")
    return np.unique(np.concatenate([one.timestamp[mine] for one, mine in zip(series, rows, strict=True)]))


def _told(walk: WalkForward, cutoff: str | None, *, seed: int, skipped: dict[str, str]) -> Verdict:
    verdicts, scores, strongest = walk.verdicts(seed), walk.by_name(seed), walk.strongest
    rows = [
        {"model": name, **{key: row[key] for key in SCORES}, **verdicts.get(name, {})} for name, row in scores.items()
    ]
    first, last = (pd.Timestamp(moment) for moment in (walk.origin.min(), walk.origin.max()))
    dates, horizon = len(np.unique(walk.origin)), len(walk.steps)
    unseen = None if cutoff is None else bool(first > day_end(cutoff))
    words = "nothing to compare with" if strongest is None else headline(verdicts, strongest)
    period = f"{dates} earlier date(s), {first.date()} to {last.date()}, {horizon} bar(s) ahead"
    seen = {
        None: "The model does not say which dates it has seen.",
        True: f"The model has not seen these dates: it was trained through {cutoff}.",
        False: f"The model has seen these dates, or some of them (trained through {cutoff}): this is no test of it.",
    }[unseen]
    missing = ", ".join(name for name in walk.failed if name not in scores)
    sentences = [
        f"Forecast once more from {period}: {words}.",
        f"The 80 % band held {100 * rows[0]['coverage_80']:.0f} % of the outcomes.",
        *([f"There were too few bars to compare with {missing}."] if missing else []),
        seen,
    ]
    return Verdict(
        sentence=" ".join(sentences),
        finding=(finding(verdicts[strongest]) if strongest else None) or "too few dates",
        horizon=horizon,
        strongest=strongest,
        rows=rows,
        n=len(walk.origin),
        dates=dates,
        start=str(first.date()),
        end=str(last.date()),
        trained_through=cutoff,
        out_of_sample=unseen,
        skipped=skipped,
        failed=walk.failed,
    )
