"""The model as it is on other markets and assets, beside GARCH-t and EWMA: one file of bars, one verdict per horizon.

examples:
    python -m tsf_llm.benchmarks.elsewhere --model . --files india.csv indices.parquet bitcoin.csv --json out.json
    python -m tsf_llm.benchmarks.elsewhere --model mini --files indices.parquet --start 2010-01-01 --end 2018-11-30

Design choices:
* A ticker is forecast from its own bars alone, as by `tsf-llm forecast` without `--market`.
* By default the dates after those that the model has seen are scored, where the file has enough of them, or else the
  later half of the file: `after_training` says which.
* Bars within a day are made days, for a model of days. A day of less than half the usual number of bars, as a Sunday
  evening of currencies, is a part of the next one.
* "Worse" needs the whole interval of the ratio of CRPS above 1. Where the model is worse than GARCH-t, or where its
  80 % interval holds less than 76 or more than 84 % of the outcomes, it is calibrated on up to three years before the
  dates that are scored, in memory alone, and scored again.
* A file that cannot be read, or is too short, has a line that says why. Closes alone are refused: features read the
  ranges of bars.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from ..bars_tsf_llm import day_end
from ..common.errors import one_line_errors
from ..common.files import write_json, write_text
from ..common.parser import Parser, option
from ..common.provenance import provenance
from ..common.tables import Table, number
from ..data_prep.sources import read_bars
from ..evaluation.calibration import calibrate
from ..evaluation.distributions import Scored
from ..evaluation.every_bar import Outcomes, baselines, check_prices, forecasts
from ..evaluation.scores import bands
from ..evaluation.significance import paired_difference
from ..feature_extraction_tsf_llm import EncodedSeries
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..serving.loading import load_pipeline
from .results import Output, circumstances

BY = "elsewhere"
REFERENCE, OTHER = "garch_t", "ewma"
COVERED = (0.76, 0.84)
FEWEST_DAYS = 60  # after the model's dates, to be scored
HISTORY = 270  # days that GARCH-t is given before the first origin, where the file has them
FULL_DAY = 0.5  # of the usual number of bars
DAY = 86400.0  # seconds
EARLIER = pd.DateOffset(years=3)
RATIO = ("ratio", "ratio_ci95", "dm_p")


@dataclass
class Arguments(Output):
    """Which model, on which files."""

    model: str | None = option(None, "folder or Hub name of a model (needed)")
    files: list[str] = option([], "files of bars (needed)")
    horizons: list[int] = option([1, 5, 20], "steps ahead")
    start: str | None = option(None, "first origin (default: after the dates that the model has seen)")
    end: str | None = option(None, "last origin (default: the last that can be scored)")
    markdown: Path | None = field(default=None, metadata={"metavar": "FILE", "help": "write the table here"})
    per_window: int = option(1, "origins that share a window, for large models: faster, and all but the same laws")
    samples: int = option(256, "paths, of a horizon beyond the laws of the model")
    seed: int = option(0, "of paths and bootstraps")
    num_proc: int = option(1, "processes that run baselines")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model is None or not self.files:
            raise ValueError("--model and --files are needed: give a model, and one or more files of bars")
        if absent := [one for one in self.files if not Path(one).exists()]:
            raise ValueError(f"--files {absent[0]}: there is no such file")
        if not self.horizons or min(self.horizons) < 1 or self.per_window < 1:
            raise ValueError("--horizons and --per_window: give numbers from 1 on")
        if self.markdown is not None and (self.markdown.is_dir() or not self.markdown.absolute().parent.is_dir()):
            raise ValueError(f"--markdown {self.markdown}: give a file name in an existing folder")


def run(args: Arguments) -> dict[str, Any]:
    """Rows of all files, and why others have none.

    Raises:
        ValueError: a model without laws of returns, or no file that can be scored.
    """
    pipe = load_pipeline(args.model or "")
    check_prices(pipe)
    rows: list[dict[str, Any]] = []
    refused: dict[str, str] = {}
    for path in args.files:
        try:
            rows += _file(pipe, path, args)
        except ValueError as error:
            refused[Path(path).name] = " ".join(str(error).split())
    if not rows:
        raise ValueError(f"no file can be scored: {'; '.join(f'{name}: {why}' for name, why in refused.items())}")
    told = {"model": args.model, "trained_through": pipe.model.config.trained_through, "per_window": args.per_window}
    return {"rows": rows, "refused": refused, **told, "seed": args.seed, **circumstances("torch"), **provenance(BY)}


def _file(pipe: TsfLlmPipeline, path: str, args: Arguments) -> list[dict[str, Any]]:
    bars = read_bars(path)
    if pipe.processor.feature_extractor.bar_seconds == DAY:
        bars = days_of(bars)
    if args.quick:
        bars = bars[bars["ticker"].isin(bars["ticker"].unique()[:2])]
    start = _start(bars["timestamp"], pipe.model.config.trained_through) if args.start is None else args.start
    series = pipe.processor.encode(bars)
    asked = [Outcomes.of(series, start, args.end, horizon) for horizon in dict.fromkeys(args.horizons)]
    options: dict[str, Any] = {"samples": args.samples, "seed": args.seed, "per_window": args.per_window}
    found = forecasts(pipe, series, asked, told=Path(path).name, **options)
    rows = [_row(*pair, series, args) for pair in zip(asked, found, strict=True)]
    cutoff, first = pipe.model.config.trained_through, pd.Timestamp(asked[0].origin.min())
    about = {"file": Path(path).name, "after_training": None if cutoff is None else bool(first > day_end(cutoff))}
    if any(row["not_worse"] is False or row["covered"] is False for row in rows):
        state = _calibration(pipe, bars, first, args)
        again = _calibrated(pipe, series, asked, state, options) if state["kept"] else [None] * len(rows)
        for row, outcomes, law in zip(rows, asked, again, strict=True):
            after = None if law is None else _row(outcomes, law, series, args)
            keys = ("ratio", "ratio_ci95", "coverage_80", "not_worse", "covered")
            row["calibrated"] = {"kept": state["kept"], "reason": state.get("reason")}
            row["calibrated"] |= {key: after and after[key] for key in keys}
    return [about | row for row in rows]


def days_of(bars: pd.DataFrame) -> pd.DataFrame:
    """Bars within a day as bars of days; those of days or longer as they are.

    >>> hours = pd.DataFrame({"timestamp": pd.date_range("2024-01-01", periods=48, freq="h"), "ticker": "A"})
    >>> numbers = ["open", "high", "low", "close", "volume"]
    >>> days_of(hours.assign(**dict.fromkeys(numbers, np.arange(48.0))))[numbers].to_numpy().tolist()
    [[0.0, 23.0, 0.0, 23.0, 276.0], [24.0, 47.0, 24.0, 47.0, 852.0]]
    """
    tickers = [_days_of_one(one) for _, one in bars.groupby("ticker", sort=False)]
    return pd.concat(tickers, ignore_index=True)


def _days_of_one(bars: pd.DataFrame) -> pd.DataFrame:
    day = bars["timestamp"].dt.normalize()
    counts = day.value_counts().sort_index()
    if (usual := counts.median()) <= 1:
        return bars
    full = counts >= FULL_DAY * usual
    belongs = counts.index.to_series().where(full).bfill()  # a short day to the next full one
    rules = {"ticker": "first", "open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    whole = bars.groupby(day.map(belongs).rename("day")).agg(rules)
    return whole.rename_axis("timestamp").reset_index()


def _start(times: pd.Series, cutoff: str | None) -> pd.Timestamp:
    """The first day after the model's, or the middle of the file if too few days follow; with history before it."""
    days = np.unique(times.to_numpy())
    seen = len(days) if cutoff is None else int(np.searchsorted(days, day_end(cutoff).to_datetime64(), side="right"))
    enough = [at for at in (max(seen, HISTORY), max(len(days) // 2, HISTORY)) if at + FEWEST_DAYS <= len(days)]
    return pd.Timestamp(days[(enough or [len(days) // 2])[0]])


def _row(outcomes: Outcomes, law: Scored, series: Sequence[EncodedSeries], args: Arguments) -> dict[str, Any]:
    """Ratios of CRPS with what they say; None beside a baseline that could not be made."""
    options: dict[str, Any] = {"seed": args.seed, "num_proc": args.num_proc}
    theirs, failed = baselines([REFERENCE, OTHER], series, outcomes, **options)
    told, beside = bands(law, outcomes.realised), {}
    for name in (REFERENCE, OTHER):
        beside[name] = _ratio(outcomes, law, theirs[name], args.seed) if name in theirs else dict.fromkeys(RATIO)
    interval, coverage = beside[REFERENCE]["ratio_ci95"], told["coverage_80"]
    return {
        "horizon": outcomes.horizon,
        "start": str(pd.Timestamp(outcomes.origin.min()).date()),
        "end": str(pd.Timestamp(outcomes.origin.max()).date()),
        "tickers": len(np.unique(outcomes.ticker)),
        "n": len(outcomes.origin),
        "days": len(np.unique(outcomes.origin)),
        "crps": told["crps"],
        **beside[REFERENCE],
        "vs_ewma": beside[OTHER],
        "not_worse": None if interval is None else bool(interval[0] <= 1),
        "coverage_80": coverage,
        "covered": None if coverage is None else bool(COVERED[0] <= coverage <= COVERED[1]),
        "failed": failed,
        "calibrated": None,
    }


def _ratio(outcomes: Outcomes, law: Scored, theirs: Scored, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = paired_difference(law.losses, theirs.losses, outcomes.origin, outcomes.horizon, seed=seed)
    interval = found["relative_ci95"] and [1 + bound for bound in found["relative_ci95"]]
    ratio = None if found["relative"] is None else 1 + found["relative"]
    return dict(zip(RATIO, (ratio, interval, found["dm_p"]), strict=True))


def _calibration(pipe: TsfLlmPipeline, bars: pd.DataFrame, first: pd.Timestamp, args: Arguments) -> dict[str, Any]:
    """What `tsf-llm calibrate` would find on up to three years of the file before the first origin."""
    before = bars[bars["timestamp"] < first]
    options: dict[str, Any] = {"horizon": max(args.horizons), "samples": args.samples, "seed": args.seed}
    try:
        return calibrate(pipe, pipe.processor.encode(before), start=first - EARLIER, end=first, **options)
    except ValueError as error:
        return {"kept": False, "reason": " ".join(str(error).split())}


def _calibrated(
    pipe: TsfLlmPipeline,
    series: Sequence[EncodedSeries],
    asked: Sequence[Outcomes],
    state: dict[str, Any],
    options: Mapping[str, Any],
) -> list[Scored]:
    """The forecasts with this calibration; the processor then has its own again."""
    own, pipe.processor.calibration = pipe.processor.calibration, state
    try:
        return forecasts(pipe, series, asked, told="calibrated", calibration="on", **options)
    finally:
        pipe.processor.calibration = own


def table(results: Mapping[str, Any]) -> Table:
    return Table.of(
        results["rows"],
        {
            "file": lambda row: row["file"],
            "tickers": lambda row: str(row["tickers"]),
            "dates": lambda row: f"{row['start']} to {row['end']}" + ("" if row["after_training"] else "*"),
            "h": lambda row: str(row["horizon"]),
            f"CRPS / {REFERENCE}": _interval,
            f"CRPS / {OTHER}": lambda row: number(row["vs_ewma"]["ratio"], ".3f"),
            "in 80 %": lambda row: number(row["coverage_80"], ".3f"),
            "worse": lambda row: "-" if row["not_worse"] is None else "no" if row["not_worse"] else "yes",
            "after calibration": _after,
        },
    )


def _interval(row: Mapping[str, Any]) -> str:
    ends = row["ratio_ci95"]
    return number(row["ratio"], ".3f") + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else "")


def _after(row: Mapping[str, Any]) -> str:
    after = row["calibrated"]
    if after is None:
        return ""
    return f"{_interval(after)}, {number(after['coverage_80'], '.3f')}" if after["kept"] else "not kept"


def note(results: Mapping[str, Any]) -> str:
    words = (
        f"Ratios of CRPS, below 1 the model is better; 95 % intervals over dates. * dates that the model was trained "
        f"on, by other prices (through {results['trained_through'] or 'an unknown date'})."
    )
    reasons = {name: f"{name} has no row: {why}." for name, why in results["refused"].items()}
    for row in results["rows"]:
        for why in row["failed"].values():
            reasons.setdefault(row["file"], f"{row['file']}: {why}.")
    return " ".join([words, *reasons.values()])


@one_line_errors(BY)
def main(arguments: list[str] | None = None) -> int:
    (args,) = Parser(Arguments, prog=BY, description=__doc__).parse_args_and_config(arguments)
    results = run(args)
    console = Console()
    console.print(table(results).terminal())
    console.print(note(results), soft_wrap=True)
    if args.json is not None:
        write_json(results, args.json)
    if args.markdown is not None:
        write_text(f"{table(results).markdown()}\n\n{note(results)}\n", args.markdown)
    return 0


if __name__ == "__main__":
    main()
