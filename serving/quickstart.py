"""The main job on the embedded prices: audit, forecast by the shipped weights, fit to a ticker, evaluate, plot; or,
where these do not suit the data or `--from-scratch` is given: audit, train, forecast, evaluate, plot."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import numpy as np
import pandas as pd
import transformers
from rich.console import Console

from ..audit_tsf_llm import audit_features, bound_in_words
from ..bars_tsf_llm import UNIVARIATE, Kind, kind_of
from ..common.files import check_apart, check_free, check_ours, claim, write_csv, write_json, write_parquet
from ..common.parser import Parser
from ..common.reading import read_json
from ..data_prep.columns import USUAL, Columns
from ..data_prep.sources import read_data
from ..data_prep.survey import lines, other_numbers, survey, usable
from ..data_prep.windows import Split
from ..evaluation.evaluate import BY as SCORED_BY
from ..evaluation.evaluate import FILES as SCORES
from ..evaluation.evaluate import evaluate_model
from ..evaluation.plots import fan_chart
from ..evaluation.report import Report, print_evaluation
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..training.arguments import DataArguments, ModelArguments, SftArguments
from ..training.starting_model import CONFIGS
from ..training.supervised import train
from .loading import load_pipeline
from .series_plan import first_series, part_of, plan_series
from .shipped import copy_model, fences, shipped_model, variants, why_from_scratch

FILES = ("audit.json", "forecast.csv", "forecast.png", "hindsight.png")  # beside those of training and evaluation

VARIANTS_BY = 150  # seconds since the start after which no second variant is begun
SHOWN = 24  # rows of a forecast that are printed
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
    head: str | None = None,
    from_scratch: bool = False,
) -> Report:
    """Leaves `model/`, `forecast.csv`, `results.json` and plots in `out`; returns what the evaluation found.

    A file without price columns is a plain series: `columns` and covariates are those of `read_data`. The ticker is by
    default AAPL, or else the first; the horizon that of the config. `head` is `causal_lm` or `quantile`. Of more data
    than `MOST_BARS` and `MOST_SERIES` a part is used, see `bounded`.

    Raises:
        ValueError: for a ticker or data that cannot be used.
    """
    if head not in (None, "causal_lm", "quantile"):
        raise ValueError(f"--head {head}: choose causal_lm or quantile, which give a distribution")
    check_apart(out, dataset)
    check_free(out, SCORES, by=SCORED_BY)
    check_ours(out / "dpo", by="quickstart")
    check_free(out, FILES, by="quickstart", told_by=("audit.json", "passed", "prefix_invariance"))
    started, console = time.perf_counter(), Console()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()  # of loading and saving; training keeps its own
    datasets.disable_progress_bars()  # of reading pairs

    covariates = [*past_covariates, *known_covariates]
    bars = read_data(dataset, columns=columns, covariates=covariates)
    bars.attrs.pop("lasting", None)  # below, a moment is the stamp of its row
    kind, plan, config, options = kind_of(bars), None, "quickstart.yaml", dict[str, Any]()
    bars = usable(bars) if kind is UNIVARIATE else bars
    console.rule("1. Series" if kind is UNIVARIATE else "1. Prices")
    tickers = list(bars[kind.id].unique())
    head = head or ("quantile" if kind is UNIVARIATE else "causal_lm")
    ticker = ticker or ("AAPL" if "AAPL" in tickers else first_series(bars) if kind is UNIVARIATE else tickers[0])
    if ticker not in tickers:
        raise ValueError(f"no ticker {ticker!r} in {dataset}; choose one of {shortened(tickers)}")
    whole = bars
    if kind is UNIVARIATE:
        found = survey(bars, other_numbers(dataset, columns, covariates))
        for line in lines(found.facts()):
            console.print(line, highlight=False, markup=False)
        plan = plan_series(bars, found, ticker, horizon=horizon, head=head)
        bars, horizon, config, options = plan.bars, plan.horizon, plan.config, plan.options
        for line in lines(plan.told):
            console.print(line, highlight=False, markup=False)
    else:
        bars = bounded(bars, kind, ticker)
    mine = bars[bars[kind.id] == ticker]
    why = "--from-scratch asks for it" if from_scratch else why_from_scratch(bars, head=head, covariates=covariates)
    pipe = None if why else load_pipeline(shipped_model())
    chosen = {name: options.get(name) for name in ("train_through", "valid_through")}
    split = Split.of(bars, **chosen) if pipe is None else fences(bars, pipe.model.config.trained_through)
    _tell_parts(bars, split, kind, console, whole=whole)
    console.print(f"From scratch: {why}." if why else f"From the shipped weights, {_size(pipe)}.", highlight=False)

    console.rule("2. Leak audit")
    console.print(_audited(bars, out, past_covariates=past_covariates, known_covariates=known_covariates))

    told: dict[str, Any] = {"weights": "from scratch" if why else "shipped"}
    with TemporaryDirectory() as folder:
        data = Path(folder) / Path(dataset).name  # which the model notes
        write_parquet(bars, data / "bars.parquet")
        if pipe is None:
            console.rule("3. Training")
            options |= {"past_covariates": list(past_covariates), "known_covariates": list(known_covariates)}
            pipe = trained(out / "model", {"data": data, "horizon": horizon, "head": head, **options}, config)
            console.rule("4. Forecast")
        else:
            console.rule("3. Forecast by the shipped weights")
            copy_model(pipe, out / "model")
        horizon = horizon or pipe.model.config.prediction_length
        market = bars if pipe.processor.feature_extractor.reads_market else None
        as_of = last_known(mine, horizon, known_covariates) if kind is UNIVARIATE else None
        if as_of is not None:
            console.print(f"no row to come has {', '.join(known_covariates)}: a forecast from {as_of}, of what came")
        _forecast(pipe, mine, out, console, horizon=horizon, market=market, as_of=as_of)
        hindsight(pipe, mine, out / "hindsight.png", market)
        if not why:
            console.rule(f"4. An adapter and a DPO variant for {ticker}")
            options = {"data": data, "split": split, "market": market is not None, "until": started + VARIANTS_BY}
            told |= variants(out / "model", ticker, out=out, horizon=horizon, **options)

    console.rule("5. Evaluation on the test dates")
    start, end = split.valid_through + pd.Timedelta(1, "ns"), bars["timestamp"].max()
    scoring: dict[str, Any] = {}
    scored = bars if plan is None else part_of(bars, ticker, plan.scored)
    if plan is not None:
        season = next(iter(pipe.processor.feature_extractor.seasons or ()), None)
        scoring = {"stride": plan.stride, "baselines": plan.baselines(kind, season)}
        told["found"] = found.to_json()
    evaluate_model(pipe, scored, start=start, end=end, horizon=horizon, out=out, market=market, **scoring)
    report = noted(told, out / "results.json")
    print_evaluation(report, kind)
    console.rule()
    written = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    console.print(f"Everything is in {out}: {', '.join(written)}", highlight=False)
    return report


def _tell_parts(bars: pd.DataFrame, split: Split, kind: Kind, console: Console, *, whole: pd.DataFrame) -> None:
    """How many bars are looked at, of how many, and when is trained, validated and tested."""
    one, many = ("rows", "series") if kind is UNIVARIATE else ("bars", "tickers")
    console.print(f"{len(bars)} {one} of {bars[kind.id].nunique()} {many}")
    if len(bars) < len(whole):
        of_all = f"of {len(whole)} {one} of {whole[kind.id].nunique()}"
        console.print(f"{of_all}: a quick start looks at a part; sft trains on all")
    days = [bars["timestamp"].min(), split.train_through, split.valid_through, bars["timestamp"].max()]
    for name, first, last in zip(("train", "validate", "test"), days, days[1:], strict=False):
        console.print(f"  {name:9}{_moment(first, days)} to {_moment(last, days)}", highlight=False)


def _audited(bars: pd.DataFrame, out: Path, **covariates: Sequence[str]) -> str:
    """Leaves `audit.json`, and tells what passed.

    Raises:
        ValueError: something did not.
    """
    audit = audit_features(bars, **covariates)
    claim(out, FILES, by="quickstart")
    write_json(audit, out / "audit.json")
    if not audit["passed"]:
        raise ValueError(f"the leak audit failed, see {out / 'audit.json'}: remove the features it names")
    return (
        f"passed: {audit['features']} features, unchanged to the bit when their future is cut off or replaced;\n"
        f"{bound_in_words(audit)}"
    )


def _forecast(
    pipe: TsfLlmPipeline,
    mine: pd.DataFrame,
    out: Path,
    console: Console,
    *,
    horizon: int,
    market: pd.DataFrame | None,
    as_of: pd.Timestamp | None,
) -> None:
    """Leaves a forecast and its picture, and shows its first and last steps."""
    forecast = pipe(mine, horizon=horizon, market=market, as_of=as_of)
    write_csv(forecast, out / "forecast.csv")
    ahead = None if as_of is None else mine[mine["timestamp"] > as_of]
    fan_chart(mine, forecast, out / "forecast.png", realised=ahead)
    shown = forecast.drop(columns=["q05", "q25", "q75", "q95"])
    for part in [shown] if len(shown) <= SHOWN else [shown.head(SHOWN // 2), shown.tail(SHOWN // 2)]:
        console.print(part.to_string(index=False, float_format="{:.3f}".format), highlight=False)


def trained(folder: Path, options: dict[str, Any], config: str = "quickstart.yaml") -> TsfLlmPipeline:
    """A small model of the data, in a folder without checkpoints."""
    options["disable_tqdm"] = False  # transformers takes a quiet log for a wish for no bar
    parser = Parser((DataArguments, ModelArguments, SftArguments))
    train(*parser.read(CONFIGS / config, output_dir=folder, **options))
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    return load_pipeline(folder)


def shortened(names: list[str], most: int = 20) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def _moment(time: pd.Timestamp, all_times: list[pd.Timestamp]) -> str:
    """The date, or the instant where a day has several rows."""
    within_a_day = all_times[-1] - all_times[0] < pd.Timedelta(days=10)
    return str(time.floor("s")) if within_a_day else str(time.date())


def noted(told: dict[str, Any], path: Path) -> Report:
    """`results.json` with what else a quick start found; and with no verdict on dates that the shipped weights have
    seen."""
    content = {**read_json(path), **told}
    if told["weights"] == "shipped" and content["out_of_sample"] is not True:
        through = content["trained_through"]
        content["verdict"] = f"no verdict: in sample for the shipped weights, which have seen prices through {through}"
        for one in content["horizons"].values():
            one["verdict"] = content["verdict"]
        content["in_sample"] = "tsf-llm quickstart --from-scratch tests a small model on dates that it has not seen"
    write_json(content, path)
    return Report.of(content)


def _size(pipe: TsfLlmPipeline) -> str:
    return f"{pipe.model.num_parameters():,} parameters, trained through {pipe.model.config.trained_through}"


def last_known(series: pd.DataFrame, horizon: int, known: Sequence[str]) -> pd.Timestamp | None:
    """The last time of a plain series from which known covariates are there for so many rows; None: from its end."""
    if not known:
        return None
    end = int(np.flatnonzero(series["value"].notna().to_numpy())[-1])
    told = series[[*known]].notna().all(axis=1).to_numpy()
    row = min(end, int(np.flatnonzero(told)[-1]) - horizon) if told.any() else end
    return None if row == end or row < 0 else series["timestamp"].iloc[row]


def hindsight(pipe: TsfLlmPipeline, bars: pd.DataFrame, path: Path, market: pd.DataFrame | None) -> None:
    """A fan chart from as many bars ago as the model names without sampling, with what happened since."""
    horizon = max(pipe.law_reach, pipe.reach)
    origin = bars.dropna(subset=kind_of(bars).value)["timestamp"].iloc[-horizon - 1]
    past, ahead = bars[bars["timestamp"] <= origin], bars[bars["timestamp"] > origin]
    fan_chart(past, pipe(bars, horizon=horizon, market=market, as_of=origin), path, realised=ahead)


def bounded(bars: pd.DataFrame, kind: Kind, ticker: str) -> pd.DataFrame:
    """Whole series, `ticker` and then the others as they come, up to `MOST_SERIES` and `MOST_BARS`; of a `ticker` that
    is longer than that its last bars."""
    counts = bars[kind.id].value_counts(sort=False)
    names = [ticker, *counts.index.drop(ticker)]
    fitting = int(np.searchsorted(counts[names].cumsum(), MOST_BARS, side="right"))
    kept = bars[bars[kind.id].isin(names[: min(max(fitting, 1), MOST_SERIES)])]
    return kept.groupby(kind.id, sort=False).tail(MOST_BARS).reset_index(drop=True)
