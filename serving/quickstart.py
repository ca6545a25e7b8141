"""The main job on the embedded prices: audit, train, forecast, evaluate, plot."""

import shutil
from pathlib import Path

import pandas as pd
import transformers
from rich.console import Console

from ..data_prep.files import write_csv, write_json
from ..data_prep.sources import read_bars
from ..data_prep.windows import Split
from ..evaluation.plots import fan_chart
from ..processing_tsf_llm import audit_features
from ..train_scripts import sft
from .loading import load_pipeline
from .results import evaluate_model, print_results

CONFIG = Path(sft.__file__).parent / "configs" / "quickstart.yaml"
HINDSIGHT_BARS = 20  # the second fan chart starts this many bars before the end, to show what happened


def run(*, ticker: str, out: Path, dataset: str = "sample") -> dict:
    """Leaves `model/`, `forecast.csv`, `results.json` and plots in `out`; returns the results.

    Raises:
        ValueError: for a ticker or data that cannot be used.
    """
    console = Console()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; training keeps its own

    console.rule("1. Prices")
    bars = read_bars(dataset)
    mine = bars[bars["ticker"] == ticker]
    if mine.empty:
        raise ValueError(f"no ticker {ticker!r} in {dataset}; choose one of {', '.join(bars['ticker'].unique())}")
    split = Split.of(bars)
    days = [bars["timestamp"].min(), split.train_through, split.valid_through, bars["timestamp"].max()]
    console.print(f"{len(bars)} bars of {bars['ticker'].nunique()} tickers")
    for name, first, last in zip(("train", "validate", "test"), days, days[1:], strict=False):
        console.print(f"  {name:9}{first.date()} to {last.date()}", highlight=False)

    console.rule("2. Leak audit")
    report = audit_features(bars)
    write_json(report, out / "audit.json")
    if not report["passed"]:
        raise ValueError(f"the leak audit failed, see {out / 'audit.json'}: remove the features it names")
    console.print(
        f"passed: {report['features']} features, unchanged to the bit when their future is cut off or replaced"
    )

    console.rule("3. Training")
    sft.main(*sft.parse(["--config", str(CONFIG), "--data", dataset, "--output_dir", str(out / "model")]))
    for checkpoint in (out / "model").glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    pipe = load_pipeline(out / "model")
    horizon = pipe.model.config.prediction_length

    console.rule("4. Forecast")
    forecast = pipe(mine, horizon=horizon)
    write_csv(forecast, out / "forecast.csv")
    fan_chart(mine, forecast, out / "forecast.png")
    shown = forecast.drop(columns=["q05", "q25", "q75", "q95"])
    console.print(shown.to_string(index=False, float_format="{:.3f}".format), highlight=False)
    hindsight(pipe, mine, out / "hindsight.png")

    console.rule("5. Evaluation on the test dates")
    start = split.valid_through + pd.Timedelta(1, "ns")
    results = evaluate_model(pipe, bars, start=start, end=bars["timestamp"].max(), horizon=horizon, out=out)
    print_results(results)
    console.rule()
    console.print(f"Everything is in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}", highlight=False)
    return results


def hindsight(pipe, bars: pd.DataFrame, path: Path) -> None:
    """A fan chart from some bars ago, with what happened since."""
    origin = bars["timestamp"].iloc[-HINDSIGHT_BARS - 1]
    past, ahead = bars[bars["timestamp"] <= origin], bars[bars["timestamp"] > origin]
    fan_chart(past, pipe(past, horizon=HINDSIGHT_BARS), path, realised=ahead)
