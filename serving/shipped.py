"""The quick start from the weights that lie beside this code: what suits them, and two variants, kept only if better.

Design choices:
* The weights know daily bars of markets. All else is learned from scratch, and one line says why.
* Variants learn from one ticker: an adapter as `tsf-llm adapt` trains it, and low-rank updates by pairs of price paths
  (DPO). Each is compared with the shipped weights on the dates after validation. The adapter has to be better on the
  validation dates too, where `adapt` decides.
* Pairs tune paths, not the laws that the shipped weights name, so that variant forecasts by sampled paths.
"""

import io
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from transformers.utils import CONFIG_NAME

from ..bars_tsf_llm import OHLCV, day_end, kind_of
from ..calendars_tsf_llm import bar_spacing
from ..common.files import replace_folder
from ..common.parser import Parser
from ..data_prep.windows import Split, fence
from ..evaluation.report import forecast_columns, table_of
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..preferences.reader import PreferenceArguments
from ..preferences.trainers import DpoArguments
from ..train_scripts import dpo
from ..training.adapters import adapter_name, check_adapter, quiet
from ..training.arguments import DataArguments
from ..training.checkpoints import claim_folder
from ..training.models import ROOT
from ..training.starting_model import CONFIGS, BaseArguments
from .adapt import adapt

DAY = 86_400
FEWEST_LATER = 60  # bar times behind all that the weights have seen, from which on these are the test
ADAPTER = {"max_seconds": 45, "per_device_train_batch_size": 16}
PAIRS = 128  # of the variant by DPO
DPO = {"lora_r": 8, "learning_rate": 1e-4, "pair_samples": 8, "report_samples": 64}


def shipped_model() -> Path | None:
    """The folder of the model beside this code; None where there is none, as in a wheel."""
    return ROOT if (ROOT / CONFIG_NAME).is_file() else None


def why_from_scratch(bars: pd.DataFrame, *, head: str, covariates: Sequence[str]) -> str | None:
    """Why the shipped weights are not what to start from with these bars; None if they are."""
    seconds = bar_spacing(np.unique(bars["timestamp"].to_numpy()))
    if shipped_model() is None:
        return "no weights lie beside this code"
    if kind_of(bars) is not OHLCV:
        return "the shipped weights know prices, and this is a plain series"
    if not 0.5 < seconds / DAY < 2:
        return f"the shipped weights know daily bars, and here comes one every {pd.Timedelta(seconds=seconds)}"
    if covariates:
        return "the shipped weights read no further columns"
    return None if head == "causal_lm" else f"the shipped weights have no {head} head"


def fences(bars: pd.DataFrame, seen: str | None) -> Split:
    """80/10/10 percent; or validation ends with what the weights have seen, where enough lies behind to test on."""
    split = Split.of(bars)
    if seen is None or split.valid_through > day_end(seen):
        return split
    later = bars["timestamp"][bars["timestamp"] > day_end(seen)].nunique()
    return Split.of(bars, split.train_through, seen) if later >= FEWEST_LATER else split


def copy_model(pipe: TsfLlmPipeline, folder: Path) -> None:
    """Model and processor as a training leaves them, so that the same commands take the folder."""
    claim_folder(folder)
    pipe.model.save_pretrained(folder)
    pipe.processor.save_pretrained(folder)


def variants(
    model: Path, ticker: str, *, out: Path, data: Path, horizon: int, split: Split, market: bool, until: float
) -> dict[str, Any]:
    """Trains both on `ticker`, keeps what is better, prints the comparison; returns what `results.json` says of it.

    `data` is the folder that the quick start looks at, `market` whether the features read one; the second is left out
    if it would begin after `until`, on the clock of `time.perf_counter`."""
    options = {"data": data, "train_through": fence(split.train_through), "valid_through": fence(split.valid_through)}
    options |= {"horizon": horizon, "disable_tqdm": False}
    adapted = _told(lambda: _adapter(model, ticker, options))
    shipped = adapted.get("before")
    if time.perf_counter() > until:
        tuned = {"kept": False, "reason": "left out, for the five minutes are nearly over"}
    elif shipped is None:
        tuned = {"kept": False, "reason": "left out, for there is nothing to compare it with"}
    else:
        options |= {"tickers": [ticker], "market": data if market else None}
        tuned = _told(lambda: _preference_variant(model, shipped, out / "dpo", data.parent, options))
    _print(ticker, adapted, tuned)
    return {"ticker": ticker, "adapter": adapted, "dpo": tuned}


def _told(train: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What training found; a ticker of too few bars leaves its reason."""
    try:
        return train()
    except ValueError as error:
        return {"kept": False, "reason": str(error)}


def _adapter(model: Path, ticker: str, options: dict[str, Any]) -> dict[str, Any]:
    folder = model / "adapters" / adapter_name(ticker)
    check_adapter(folder)
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier quick start
    report, _ = adapt(str(model), ticker=ticker, out=folder, options={**options, **ADAPTER})
    kept = report["kept"] and report["difference"] < 0
    if report["kept"] and not kept:
        shutil.rmtree(folder)
    dates = "validation and the later" if kept else "later" if report["kept"] else "validation"
    told = {name: report[name] for name in ("before", "after", "baselines", "difference", "ci95", "verdict", "steps")}
    return {"kept": kept, "reason": _reason(kept, dates, report, folder), **told}


def _preference_variant(
    model: Path, shipped: dict[str, Any], folder: Path, work: Path, options: dict[str, Any]
) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier quick start
    bars = pd.read_parquet(options["data"] / "bars.parquet", columns=["timestamp", "ticker"])
    options["pair_stride"] = max(1, int((bars["ticker"] == options["tickers"][0]).sum()) // PAIRS)
    options |= {"model_name_or_path": str(model), "output_dir": work / "dpo", **DPO}
    parser = Parser((DataArguments, BaseArguments, PreferenceArguments, DpoArguments))
    with quiet(), redirect_stdout(io.StringIO()):  # its findings stand in our table
        report = dpo.main(*parser.read(CONFIGS / "dpo.yaml", **options))
    difference = report["after"]["crps"] - shipped["crps"]
    kept = difference < 0
    if kept:
        unused = shutil.ignore_patterns("checkpoint-*", "preferences")
        ignore = {"ignore": unused, "dirs_exist_ok": True}
        replace_folder(folder, lambda unfinished: shutil.copytree(work / "dpo", unfinished, **ignore), by="quickstart")
    told = {"after": report["after"], "pairs": report["pairs"]["train"], "difference": difference}
    return {"kept": kept, "reason": _reason(kept, "later", report, folder), **told}


def _reason(kept: bool, dates: str, report: dict[str, Any], folder: Path) -> str:
    words = f"{'kept: better' if kept else 'not kept: no better'} on the {dates} dates"
    words += "" if report["out_of_sample"] else ", in sample for the shipped weights"
    return f"{words}; forecast with --model {folder}" if kept else words


def _print(ticker: str, adapted: dict[str, Any], tuned: dict[str, Any]) -> None:
    """Shipped, variants and naive forecasts on the dates after validation, then what became of each variant."""
    rows = {"shipped": adapted.get("before"), "adapter": adapted.get("after"), "dpo": tuned.get("after")}
    rows = {name: row for name, row in rows.items() if row} | adapted.get("baselines", {})
    console = Console(highlight=False)
    if rows:
        shown = {"CRPS": "CRPS, %", "cov80": "coverage 80", "direction": "direction [95 % CI]", "base": "base rate"}
        columns = {name: forecast_columns(OHLCV)[long] for name, long in shown.items()}
        options = {"box": SIMPLE_HEAD, "pad_edge": False, "show_edge": False}
        title = f"{ticker} on the dates after validation"
        console.print(table_of(rows, columns).terminal(title=title, **options))
    for name, one in (("adapter", adapted), ("dpo", tuned)):
        console.print(f"{name}: {one['reason']}", soft_wrap=True)
