"""`tsf-llm calibrate`: a calibration of a folder's model on its validation dates, stored with its processor.

Of the folder only `processor_config.json` changes, and only where the manifest says that it is ours."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from transformers.utils import PROCESSOR_NAME

from ..bars_tsf_llm import day_end
from ..common.files import WRITTEN, write_json, written
from ..common.reading import read_json
from ..data_prep.columns import USUAL, Columns
from ..data_prep.sources import read_for
from ..evaluation.calibration import calibrate as calibrate_pipeline
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import TsfLlmProcessor
from .loading import is_adapter, load_pipeline

CODE = "calibration_tsf_llm.py"  # what a folder's own code needs to use it


def calibrate(
    model: str | Path,
    data: str,
    *,
    start: str | None = None,
    end: str | None = None,
    horizon: int | None = None,
    samples: int = 256,
    seed: int = 0,
    names: list[str] | None = None,
    columns: Columns = USUAL,
    market: pd.DataFrame | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Fits, tests and stores it; returns what is stored. Dates default to those between training and the test.

    Raises:
        ValueError: the folder is not ours, holds an adapter, or the dates are not those of validation.
    """
    folder = _ours(Path(model))
    pipe = load_pipeline(folder)
    first, last = _dates(pipe, _trained_to(folder, pipe.processor), start, end)
    bars = read_for(pipe.processor, data, names, columns, strict=strict)
    series = pipe.processor.encode(bars, last, market=market, strict=strict)
    options = {"horizon": horizon or pipe.reach, "samples": samples, "seed": seed}
    state = calibrate_pipeline(pipe, series, start=first, end=last, **options)
    write_json(read_json(folder / PROCESSOR_NAME) | {"calibration": state}, folder / PROCESSOR_NAME)
    return state


def _ours(folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: download the model, then name its folder")
    if is_adapter(str(folder)):
        raise ValueError(f"{folder} is an adapter: calibrate a model")
    if PROCESSOR_NAME not in written(folder):
        raise ValueError(
            f"{folder / WRITTEN} does not say that {PROCESSOR_NAME} is ours: name a folder that training wrote"
        )
    if not (folder / CODE).is_file():
        raise ValueError(f"{folder} has the code of an older version, without {CODE}: train it again")
    return folder


def _trained_to(folder: Path, processor: TsfLlmProcessor) -> str | None:
    """The last date that weights, scalers or bins were fitted on."""
    report = folder / "report.json"
    told = read_json(report).get("train_through") if report.is_file() else None
    return max(filter(None, (processor.fitted_through, told)), key=day_end, default=None)


def _dates(pipe: TsfLlmPipeline, trained: str | None, start: str | None, end: str | None) -> tuple[Any, Any]:
    """The first moment to forecast from and the last that is read: all after training, nothing of the test."""
    seen = pipe.model.config.trained_through
    if trained is None or (end is None and seen is None):
        raise ValueError("this model does not say which dates it has seen: train it again, or give --end")
    if start is not None and day_end(start) <= day_end(trained):
        raise ValueError(f"--start {start} lies in the training dates, which end on {trained}: give a later one")
    if end is not None and seen is not None and day_end(end) > day_end(seen):
        raise ValueError(f"--end {end} lies after {seen}, where the test begins: give {seen} or earlier")
    first = day_end(trained) + pd.Timedelta(1, "ns") if start is None else start
    last = seen if end is None else end
    if day_end(last) <= day_end(first):
        raise ValueError(f"no date lies between {first} and {last}: give other dates")
    return first, last


def print_calibrated(state: dict[str, Any]) -> None:
    """Whether it was kept, and the figures of the later half."""
    console = Console(highlight=False)
    console.print("Kept." if state["kept"] else f"Not kept: {state['reason']}.")
    if "by_step" not in state:
        return
    console.print(f"From {state['tested_from']} to {state['through']}: {state['later_half']['verdict']}")
    for key in ("crps", "coverage_80"):
        pairs = zip(state["by_step"]["before"][key], state["by_step"]["after"][key], strict=True)
        console.print(f"{key}, step by step: " + ", ".join(f"{before:.4f} -> {after:.4f}" for before, after in pairs))
