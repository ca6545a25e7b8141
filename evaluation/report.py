"""One evaluation: `results.json`, its plots, and the same numbers as a table on the terminal."""

from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from ..bars_tsf_llm import OHLCV, Kind, day_end
from ..common.files import write_json
from ..common.provenance import provenance
from ..pipeline_tsf_llm import TsfLlmPipeline
from .plots import pit_histogram, score_bars
from .walk_forward import walk_forward


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
) -> dict[str, Any]:
    """Walks forward over [start, end], writes `results.json`, `scores.png` and `pit.png`, and returns the results.

    `out_of_sample` is false when the model has seen prices of the period, and null when it does not say."""
    series = pipe.processor.feature_extractor.encode(bars, market=market)
    result = walk_forward(
        pipe, series, start=start, end=end, horizon=horizon, stride=stride, samples=samples, seed=seed
    )
    cutoff = pipe.model.config.trained_through
    first = pd.Timestamp(result.origin.min())
    period = {"start": str(first.date()), "end": str(pd.Timestamp(result.origin.max()).date())}
    results = {
        "rows": result.rows(seed),
        "verdicts": result.verdicts(seed),
        **period,
        "horizon": horizon,
        "stride": stride or horizon,
        "tickers": sorted(set(result.ticker.tolist())),
        "samples": samples,
        "seed": seed,
        "trained_through": cutoff,
        "out_of_sample": None if cutoff is None else bool(first > day_end(cutoff)),
        **provenance(),
    }
    write_json(results, out / "results.json")
    note = f"{len(results['tickers'])} ticker(s), origins {period['start']} to {period['end']}, {horizon} bar(s) ahead"
    kind = pipe.processor.feature_extractor.series_kind
    score_bars(results["rows"], out / "scores.png", highlight="model", note=note, kind=kind)
    pit_histogram(result.pit(), out / "pit.png", name="model", note=note)
    return results


def print_results(results: dict[str, Any], kind: Kind = OHLCV) -> None:
    """The scores of `results.json` that matter most, and the verdicts."""
    count = results["rows"][0]["n"]
    title = f"{results['horizon']} bar(s) ahead, {results['start']} to {results['end']}, {count} forecasts"
    unit = "percent" if kind is OHLCV else kind.score_unit
    caption = f"CRPS, RMSE in {unit}, lower is better; cov80 should be 0.80"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
    for name in ("", "CRPS", "RMSE", "MASE", "cov80", "direction", "base"):  # fits 80 columns
        table.add_column(name, justify="left" if name == "" else "right", no_wrap=True)
    for row in results["rows"]:
        scores = [f"{kind.score_factor * row[key]:.3f}" for key in ("crps", "rmse")]
        covered = _number(row["coverage_80"], ".2f")
        table.add_row(
            row["model"],
            *scores,
            _number(row["mase"], ".3f"),
            covered,
            _direction(row),
            _number(row["direction_base_rate"], ".3f"),
        )
    console = Console()
    console.print(table)
    for answer in results["verdicts"].values():
        console.print(f"model: {answer['verdict']}", highlight=False)
    if results["out_of_sample"] is False:
        console.print(
            f"Not out of sample: the model has seen prices through {results['trained_through']}.", style="bold red"
        )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _direction(row: dict[str, Any]) -> str:
    if row["direction_accuracy"] is None:
        return "-"
    interval = row["direction_ci95"]
    return f"{row['direction_accuracy']:.3f}" + (f" [{interval[0]:.2f},{interval[1]:.2f}]" if interval else "")
