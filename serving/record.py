"""Forecasts into a track record, and what came true of it: the work of `forecast --log` and `reconcile`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..bars_tsf_llm import KINDS, split_tickers
from ..columns_tsf_llm import given_bars
from ..common.files import check_apart
from ..common.provenance import provenance
from ..data_prep.columns import Columns
from ..data_prep.sources import read_data
from ..evaluation.reconcile import reconcile
from ..evaluation.track_record import Appended, TrackRecord, asked_levels, shown
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..training.models import digest, public_name


class Recorder:
    """The forecasts of one pipeline, written down as they are made; threads may share it.

    Ask the pipeline for `quantile_levels=Recorder.levels`; `append` then writes its answer, and gives it back with the
    usual quantiles alone:

    >>> recorder = Recorder(pipe, "shipped", "record.sqlite")  # doctest: +SKIP
    >>> frame = recorder.append(pipe(bars, **asked, quantile_levels=recorder.levels), bars, asked)  # doctest: +SKIP

    Raises:
        ValueError: the model names classes, or the file is of something else.
    """

    levels = asked_levels()

    def __init__(self, pipe: TsfLlmPipeline, model: str | Path, path: str | Path):
        if not pipe.model.can_generate() and pipe.model.config.prediction_type == "classification":
            raise ValueError("a model of classes names no law of a return that could be scored: leave out --log")
        self.pipe, self.record = pipe, TrackRecord(path)
        made = provenance("forecast")
        self.facts = {
            "version": made["version"],
            "code": made["commit"],
            "model": public_name(str(model)),
            "model_digest": digest(pipe.model),
            "processor_digest": pipe.processor.digest,
            "kind": pipe.processor.kind.name,
        }

    def append(self, frame: pd.DataFrame, bars: Any, asked: Mapping[str, Any]) -> tuple[pd.DataFrame, Appended]:
        """Writes an answer down.

        Args:
            bars: what it was made from, as the pipeline was given it.
            asked: the arguments of the pipeline's call.

        Returns the answer as it would be without `levels`, and what was written.
        """
        kind, calibration = self.pipe.processor.kind, asked.get("calibration", "auto")
        horizon = int(frame["step"].max())
        used = "used" if self.pipe.calibration(calibration, horizon) else "none"
        bars = given_bars(bars, kind)
        if isinstance(bars, pd.DataFrame) and kind.id in bars:
            bars = bars[bars[kind.id].astype(str).isin(frame["ticker"])]
        facts = {**self.facts, "calibration": f"{calibration}, {used}", "seed": int(asked.get("seed", 0))}
        facts |= {"samples": int(asked.get("samples", 256)), "market": int(asked.get("market") is not None)}
        appended = self.record.append(frame, split_tickers(bars, kind), facts | {"horizon": horizon})
        return shown(frame), appended


def reconcile_data(
    log: Path, data: str, out: Path, *, tickers: list[str] | None, columns: Columns, num_proc: int, strict: bool
) -> tuple[dict[str, Any], Any]:
    """What `tsf-llm reconcile` does: what it found, and the kind of the series."""
    check_apart(out, data, log)
    kinds = TrackRecord(log).kinds()
    bars = read_data(data, tickers, kind=KINDS[kinds[0]] if len(kinds) == 1 else None, columns=columns, strict=strict)
    kind = next(kind for kind in KINDS.values() if kind.id in bars)
    found = reconcile(log, bars, kind=kind, out=out, tickers=tickers, num_proc=num_proc, strict=strict)
    return found, kind
