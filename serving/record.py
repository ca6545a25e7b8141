"""Forecasts into a track record, and what came true of it: the work of `forecast --log` and `reconcile`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_datetime64_dtype, is_float_dtype

from ..bars_tsf_llm import KINDS, Kind, split_tickers
from ..columns_tsf_llm import as_frame, given_bars
from ..common.files import check_apart
from ..common.provenance import provenance
from ..data_prep.columns import Columns
from ..data_prep.sources import read_data
from ..evaluation.reconcile import reconcile
from ..evaluation.track_record import Appended, TrackRecord, asked_levels, shown, told_kind
from ..pipeline_tsf_llm import COLUMN_NAMES, TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_QUANTILES
from ..training.models import digest, public_name


class Recorder:
    """The forecasts of one pipeline, written down as they are made; threads may share it.

    `append` writes down what the pipeline answers to `asking(asked)`, and gives back what it answers to `asked`:

    >>> recorder = Recorder(pipe, "shipped", "record.sqlite")  # doctest: +SKIP
    >>> frame, _ = recorder.append(pipe(bars, **recorder.asking(asked)), bars, asked)  # doctest: +SKIP

    Raises:
        ValueError: the model names classes, or the file is of something else.
    """

    def __init__(self, pipe: TsfLlmPipeline, model: str | Path, path: str | Path):
        if not pipe.model.can_generate() and pipe.model.config.prediction_type == "classification":
            raise ValueError("a model of classes names no law of a return that could be scored: leave out --log")
        self.pipe, self.record = pipe, TrackRecord(path)
        made, extractor = provenance("forecast"), pipe.processor.feature_extractor
        self.facts = {
            "version": made["version"],
            "code": made["commit"],
            "model": public_name(str(model)),
            "model_digest": digest(pipe.model),
            "processor_digest": pipe.processor.digest,
            "kind": told_kind(pipe.processor.kind, nonnegative=extractor.nonnegative, integer=extractor.integer),
        }

    @staticmethod
    def asking(asked: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a pipeline's call, with the quantiles that a record needs."""
        return {**asked, "quantile_levels": asked_levels(asked.get("quantile_levels", FORECAST_QUANTILES))}

    def append(self, frame: pd.DataFrame, bars: Any, asked: Mapping[str, Any]) -> tuple[pd.DataFrame, Appended]:
        """Writes the answer to `asking(asked)` down.

        Args:
            bars: what it was made from, as the pipeline was given it.
            asked: the arguments of the pipeline's call.

        Returns the answer to `asked`, and what was written.
        """
        kind, calibration = self.pipe.processor.kind, asked.get("calibration", "auto")
        horizon = int(frame["step"].max())
        used = "used" if self.pipe.calibration(calibration, horizon) else "none"
        facts = {**self.facts, "calibration": f"{calibration}, {used}", "horizon": horizon}
        facts |= {name: int(asked.get(name, usual)) for name, usual in (("seed", 0), ("samples", 256))}
        facts["market"] = int(asked.get("market") is not None)
        written, bars = _with_our_names(frame, bars, asked, kind)
        appended = self.record.append(written, _by_ticker(bars, kind, written["ticker"]), facts)
        return self.shown(frame, asked), appended

    @staticmethod
    def shown(frame: pd.DataFrame, asked: Mapping[str, Any]) -> pd.DataFrame:
        """The answer to `asked`, out of that to `asking(asked)`."""
        return shown(frame, asked.get("quantile_levels", FORECAST_QUANTILES))


def _with_our_names(frame: pd.DataFrame, bars: Any, asked: Mapping[str, Any], kind: Kind) -> tuple[pd.DataFrame, Any]:
    """An answer and its bars, where a call named columns (`id_column`, ...)."""
    given = {name: asked[name] for name in COLUMN_NAMES if asked.get(name) is not None}
    ours = dict(zip(COLUMN_NAMES, (kind.id, "timestamp", kind.value), strict=True))
    theirs = {given[name]: column for name, column in ours.items() if name in given}
    answered = {
        given[name]: column
        for name, column in zip(COLUMN_NAMES[:2], ("ticker", "timestamp"), strict=True)
        if name in given
    }
    bars = as_frame(bars).rename(columns=theirs) if given else bars
    return frame.rename(columns=answered), given_bars(bars, kind)


def _by_ticker(bars: Any, kind: Kind, tickers: pd.Series) -> Mapping[str, pd.DataFrame]:
    """Those of the tickers that were forecast. The pipeline has checked them: types that are right are right."""
    told = isinstance(bars, pd.DataFrame) and kind.id in bars and is_datetime64_dtype(bars["timestamp"])
    if not (told and all(is_float_dtype(bars[name]) for name in kind.needed)):
        return split_tickers(bars, kind)
    known = bars[bars[kind.needed].notna().all(axis=1) & bars[kind.id].isin(tickers)]
    return {str(name): part.sort_values("timestamp") for name, part in known.groupby(kind.id, observed=True)}


def reconcile_data(
    log: Path, data: str, out: Path, *, tickers: list[str] | None, columns: Columns, strict: bool, **options: Any
) -> tuple[dict[str, Any], Any]:
    """What `tsf-llm reconcile` does: what it found, and the kind of the series."""
    check_apart(out, data, log)
    kinds = TrackRecord(log).kinds()
    bars = read_data(data, tickers, kind=KINDS[kinds[0]] if len(kinds) == 1 else None, columns=columns, strict=strict)
    kind = next(kind for kind in KINDS.values() if kind.id in bars)
    found = reconcile(log, bars, kind=kind, out=out, tickers=tickers, strict=strict, **options)
    return found, kind
