"""One explanation: `explain.json` and `explain.html`."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...bars_tsf_llm import Kind, day_end
from ...common.files import check_free, claim, write_json, write_text
from ...common.provenance import provenance
from ...feature_extraction_tsf_llm import EncodedSeries
from ...pipeline_tsf_llm import TsfLlmPipeline
from .experts import experts_by_regime
from .importance import increase, last_forecasts, permutation_importance
from .page import page
from .past import past_bars
from .probe import Probe

BY = "explain"
FILES = ("explain.json", "explain.html")


def explain_model(pipe: TsfLlmPipeline, bars: pd.DataFrame, *, out: Path, **options: Any) -> dict[str, Any]:
    """Writes `explain.json` and a page that opens offline, and returns what the first says."""
    check_free(out, FILES, by=BY)
    result = {**explanation(pipe, bars, **options), **provenance(BY)}
    claim(out, FILES, by=BY)
    write_json(result, out / "explain.json")
    write_text(page(result), out / "explain.html")
    return result


def explanation(
    pipe: TsfLlmPipeline,
    bars: pd.DataFrame,
    *,
    start: Any = None,
    end: Any = None,
    most: int = 40,
    repeats: int = 3,
    seed: int = 0,
    market: pd.DataFrame | None = None,
    strict: bool = False,
    features: bool = True,
    step: int = 1,
) -> dict[str, Any]:
    """What forecasts rest on; nothing is written.

    Windows are those of at most `most` dates of [start, end], drawn by the seed; by default of dates that the model
    has not seen, if it says which and the bars go on. Each permutation is repeated `repeats` times. Without
    `features`, groups of them alone are permuted, which takes a fifth of the time. What is explained lies `step` bars
    ahead: 1, but of a head any.
    """
    # A model of its own, for hooks and another attention: a server may forecast with the first one meanwhile.
    pipe = TsfLlmPipeline(model=copy.deepcopy(pipe.model), processor=pipe.processor, device=pipe.device)
    panel = pipe.processor.feature_extractor.check_known(bars, strict=strict)
    series = pipe.processor.encode(panel, market=market)
    cutoff = pipe.model.config.trained_through
    begin = _first_unseen(series, cutoff) if start is None else start
    probe = Probe.of(pipe, series, start=begin, end=end, most=most, seed=seed, step=step)
    first, last = pd.Timestamp(probe.dates.min()), pd.Timestamp(probe.dates.max())
    result = {
        "loss": probe.loss_name,
        "unit": unit_in_words(pipe.processor.kind),
        "mean_loss": float(probe.loss().mean()),
        "windows": len(probe.outcome),
        "dates": len(np.unique(probe.dates)),
        "start": str(first.date()),
        "end": str(last.date()),
        "horizon": probe.horizon,
        "tickers": sorted({*probe.batch["ticker"]}),
        "skipped": panel.skipped,
        "trained_through": cutoff,
        "out_of_sample": None if cutoff is None else bool(first > day_end(cutoff)),
        "seed": seed,
        "repeats": repeats,
        **permutation_importance(probe, repeats=repeats, seed=seed, features=features),
        "past_bars": past_bars(probe, seed),
        "experts": experts_by_regime(probe, seed),
        "without_market": _without_market(probe, panel, market, seed),
        "last_bars": last_forecasts(probe.at_last_bars(series)),
    }
    panel.settle()
    return result


def unit_in_words(kind: Kind) -> str:
    """Of losses and forecasts."""
    return "mean absolute change" if kind.unit_scores else "%"


def _first_unseen(series: list[EncodedSeries], cutoff: str | None) -> pd.Timestamp | None:
    """The bar time from which on forecasts are out of sample, if enough bars lie behind it."""
    if cutoff is None:
        return None
    later = [one.timestamp[one.timestamp > day_end(cutoff, one.timestamp).to_datetime64()] for one in series]
    times = np.unique(np.concatenate(later))
    return pd.Timestamp(times[0]) if len(times) > 1 else None


def _without_market(probe: Probe, panel: Any, market: Any, seed: int) -> dict[str, Any] | None:
    """How much the loss rises when the market's features are unknown; None where none was read."""
    if market is None or not probe.pipe.processor.feature_extractor.reads_market:
        return None
    blind = probe.encoded_as(probe.pipe.processor.encode(panel, market=None))
    usual, without = probe.law(), blind.law()
    moved = np.abs(without.median - usual.median)
    losses = without.crps(probe.outcome)
    return {**increase(probe, usual.crps(probe.outcome), losses, seed), "mean_change_of_median": float(moved.mean())}
