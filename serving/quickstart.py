"""The main job on the embedded prices: audit, train, forecast, evaluate, plot."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import transformers
from rich.console import Console

from ..audit_tsf_llm import audit_features, bound_in_words
from ..bars_tsf_llm import Kind, kind_of
from ..common.files import check_apart, check_free, claim, write_csv, write_json, write_parquet
from ..common.parser import Parser
from ..data_prep.columns import USUAL, Columns
from ..data_prep.sources import read_data
from ..data_prep.windows import Split
from ..evaluation.evaluate import BY as SCORED_BY
from ..evaluation.evaluate import FILES as SCORES
from ..evaluation.evaluate import evaluate_model
from ..evaluation.plots import fan_chart
from ..evaluation.report import Report, print_evaluation
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.starting_model import CONFIGS
from ..training.supervised import train
from .loading import load_pipeline

FILES = ("audit.json", "forecast.csv", "forecast.png", "hindsight.png")  # beside those of training and evaluation

MOST_BARS, MOST_SERIES = 50_000, 30  # what a quick start looks at, so that it stays one whatever the data


def run(
    *,
    ticker: str | None,
    out: Path,
    dataset: str = "sample",
    columns: Columns = USUAL,
    past_covariates: Sequence[str] = (),
    known_covariates: Sequence[str] = (),
    horizon: int | None = None,
    head: str = "causal_lm",
) -> Report:
    """Leaves `model/`, `forecast.csv`, `results.json` and plots in `out`; returns what the evaluation found.

    A file without price columns is a plain series: `columns` and covariates are those of `read_data`. The ticker is by
    default AAPL, or else the first; the horizon that of the config. `head` is `causal_lm` or `quantile`. Of more data
    than `MOST_BARS` and `MOST_SERIES` a part is used, see `bounded`.

    Raises:
        ValueError: for a ticker or data that cannot be used.
    """
    if head not in ("causal_lm", "quantile"):
        raise ValueError(f"--head {head}: choose causal_lm or quantile, which give a distribution")
    check_apart(out, dataset)
    check_free(out, SCORES, by=SCORED_BY)
    check_free(out, FILES, by="quickstart", told_by=("audit.json", "passed", "prefix_invariance"))
    console = Console()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; training keeps its own

    console.rule("1. Prices")
    bars = read_data(dataset, columns=columns, covariates=[*past_covariates, *known_covariates])
    kind = kind_of(bars)
    tickers = list(bars[kind.id].unique())
    ticker = ticker or ("AAPL" if "AAPL" in tickers else tickers[0])
    if ticker not in tickers:
        raise ValueError(f"no ticker {ticker!r} in {dataset}; choose one of {', '.join(tickers)}")
    whole, bars = bars, bounded(bars, kind, ticker)
    mine = bars[bars[kind.id] == ticker]
    split = Split.of(bars)
    days = [bars["timestamp"].min(), split.train_through, split.valid_through, bars["timestamp"].max()]
    console.print(f"{len(bars)} bars of {bars[kind.id].nunique()} tickers")
    if len(bars) < len(whole):
        console.print(f"of {len(whole)} bars of {len(tickers)}: a quick start looks at a part; sft trains on all")
    for name, first, last in zip(("train", "validate", "test"), days, days[1:], strict=False):
        console.print(f"  {name:9}{first.date()} to {last.date()}", highlight=False)

    console.rule("2. Leak audit")
    report = audit_features(bars, past_covariates=past_covariates, known_covariates=known_covariates)
    claim(out, FILES, by="quickstart")
    write_json(report, out / "audit.json")
    if not report["passed"]:
        raise ValueError(f"the leak audit failed, see {out / 'audit.json'}: remove the features it names")
    console.print(
        f"passed: {report['features']} features, unchanged to the bit when their future is cut off or replaced;\n"
        f"{bound_in_words(report)}"
    )

    console.rule("3. Training")
    options = {"past_covariates": list(past_covariates), "known_covariates": list(known_covariates)}
    options |= {"output_dir": out / "model", "horizon": horizon, "head": head}
    options["disable_tqdm"] = False  # transformers takes a quiet log for a wish for no bar
    parser = Parser((DataArguments, ModelArguments, SftArguments))
    with TemporaryDirectory() as folder:
        data = Path(folder) / Path(dataset).name  # which the model notes
        write_parquet(bars, data / "bars.parquet")
        train(*parser.read(CONFIGS / "quickstart.yaml", **options, data=data))
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
    report = evaluate_model(pipe, bars, start=start, end=bars["timestamp"].max(), horizon=horizon, out=out)
    print_evaluation(report, kind)
    console.rule()
    written = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    console.print(f"Everything is in {out}: {', '.join(written)}", highlight=False)
    return report


def hindsight(pipe, bars: pd.DataFrame, path: Path) -> None:
    """A fan chart from as many bars ago as the model names without sampling, with what happened since."""
    horizon = pipe.law_reach or pipe.reach
    origin = bars["timestamp"].iloc[-horizon - 1]
    past, ahead = bars[bars["timestamp"] <= origin], bars[bars["timestamp"] > origin]
    fan_chart(past, pipe(past, horizon=horizon), path, realised=ahead)


def bounded(bars: pd.DataFrame, kind: Kind, ticker: str) -> pd.DataFrame:
    """Whole series, `ticker` and then the others as they come, up to `MOST_SERIES` and `MOST_BARS`; of a `ticker` that
    is longer than that its last bars."""
    counts = bars[kind.id].value_counts(sort=False)
    names = [ticker, *counts.index.drop(ticker)]
    fitting = int(np.searchsorted(counts[names].cumsum(), MOST_BARS, side="right"))
    kept = bars[bars[kind.id].isin(names[: min(max(fitting, 1), MOST_SERIES)])]
    return kept.groupby(kind.id, sort=False).tail(MOST_BARS).reset_index(drop=True)
