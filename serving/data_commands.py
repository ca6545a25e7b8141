"""The commands of `tsf-llm` about data: they make, check or show files, and need no forecast."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import (
    Data,
    Dates,
    Decimal,
    Id,
    KnownCovariates,
    Market,
    PastCovariates,
    Resample,
    Seed,
    Static,
    Strict,
    Ticker,
    Time,
    Value,
    market_bars,
    names,
)


def download(
    tickers: Annotated[str, typer.Option(help="Tickers as Yahoo Finance writes them, with commas between.")],
    start: Annotated[str, typer.Option(help="First day.")],
    end: Annotated[str | None, typer.Option(help="Last day; by default and at most yesterday (UTC).")] = None,
    interval: Annotated[str, typer.Option(help="1d, 1h, 30m, 15m, 5m, 2m or 1m.")] = "1d",
    out: Annotated[Path, typer.Option(help="Folder for the price files and manifest.json.")] = Path("data/raw"),
    rate: Annotated[float, typer.Option(help="Requests per second at most.")] = 2.0,
    retries: Annotated[int, typer.Option(min=0, help="Further tries of a request that failed.")] = 4,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for an answer.")] = 20.0,
) -> None:
    """Download adjusted prices from Yahoo Finance. Run it again to go on, or to renew; exit code 1 if a ticker failed.

    Example: tsf-llm download --tickers AAPL,MSFT --start 2015-01-01 --out data/raw
    """
    from ..data_prep.yahoo import download as download_bars

    report = download_bars(
        tickers, start=start, end=end, interval=interval, out=out, rate=rate, retries=retries, timeout=timeout
    )
    typer.echo(f"{len(report['downloaded'])} downloaded to {out}, {len(report['kept'])} kept from an earlier run")
    if report["failed"]:
        typer.echo(f"tsf-llm: {len(report['failed'])} failed:", err=True)
        for ticker, reason in report["failed"].items():
            typer.echo(f"  {ticker}: {reason}", err=True)
        raise typer.Exit(1)


def clean(
    data: Data,
    out: Annotated[Path, typer.Option(help="Parquet file to write; cleaning.json goes beside it.")],
    ticker: Ticker = None,
    covariates: Annotated[
        str | None, typer.Option(help="Further columns to keep: names or patterns as text_*; commas between.")
    ] = None,
    strict: Strict = False,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Repair, mask, drop or keep what is wrong with price files, by the rules of docs/data.md, and report each case.

    Example: tsf-llm clean --data prices.csv --out clean/prices.parquet
    """
    from ..data_prep.columns import Columns
    from .preparation import clean as clean_file
    from .preparation import print_cleaning

    columns = Columns(id=id, time=time, dates=dates, decimal=decimal)
    print_cleaning(clean_file(data, out, names(ticker), names(covariates) or (), columns=columns, strict=strict))
    typer.echo(f"written to {out}, every case to {out.with_name('cleaning.json')}")


def prepare(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for the dataset; run again to go on, or to add new bars.")],
    ticker: Ticker = None,
    market: Annotated[
        str | None,
        typer.Option(help="Price files that features read: a universe, an index, VIX; commas between, or 'sample'."),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(help="Groups of features, see docs/features.md; commas between. By default 64 features."),
    ] = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    resample: Resample = None,
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
    static: Static = None,
    static_covariates: Annotated[
        str | None,
        typer.Option(help="Columns with one value per series (store), commas between; by default all of --static."),
    ] = None,
    series_form: Annotated[
        bool, typer.Option("--series-form", help="For models in series form (patch_length): of steps ahead too.")
    ] = False,
    nonnegative: Annotated[
        bool, typer.Option("--nonnegative", help="Plain series: no value is below zero, and no forecast either.")
    ] = False,
    integer: Annotated[
        bool, typer.Option("--integer", help="Plain series: all values are whole numbers, and so are forecasts.")
    ] = False,
    train_through: Annotated[
        str | None, typer.Option(help="Last training date; by default after 80 % of all bar times.")
    ] = None,
    valid_through: Annotated[
        str | None, typer.Option(help="Last validation date; by default after another 10 %.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Bars ahead, and the embargo; by default 5.")] = None,
    context_length: Annotated[
        int | None, typer.Option(min=1, help="Bars a model will look back; by default 128.")
    ] = None,
    scaling: Annotated[str | None, typer.Option(help="robust (default), standard or minmax.")] = None,
    per_ticker: Annotated[bool, typer.Option("--per-ticker", help="Scale every ticker by itself.")] = False,
    bins: Annotated[int | None, typer.Option(help="Return tokens; by default 256.")] = None,
    refit: Annotated[
        bool, typer.Option("--refit", help="Choose the dates anew; by default a folder keeps those it has.")
    ] = False,
    num_proc: Annotated[int, typer.Option(min=1, help="Processes; the bytes do not depend on it.")] = 1,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Processes of this machine, or Ray tasks; the bytes are the same.")
    ] = "local",
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster that sees --out; by default one of --num-proc workers is started.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of which tickers are fitted on, if there are many.")] = 0,
    strict: Strict = False,
) -> None:
    """Clean, fit and encode price files, or plain series, into a parquet dataset that training and `datasets` read.

    Example: tsf-llm prepare --data prices.csv --out dataset --train-through 2018-12-31
    """
    from .preparation import prepare as prepare_folder
    from .preparation import print_prepared

    given = {
        "tickers": names(ticker),
        "market": names(market),
        "feature_groups": names(groups),
        "value_column": value,
        "id_column": id,
        "time_column": time,
        "dates": dates,
        "decimal": decimal,
        "resample": resample,
        "past_covariates": names(past_covariates),
        "known_covariates": names(known_covariates),
        "static": static,
        "static_covariates": names(static_covariates),
        "nonnegative": nonnegative,
        "integer": integer,
        "train_through": train_through,
        "valid_through": valid_through,
        "horizon": horizon,
        "context_length": context_length,
        "scaling": scaling,
        "per_ticker": per_ticker,
        "n_bins": bins,
    }
    run = {"num_proc": num_proc, "refit": refit, "engine": engine, "ray_address": ray_address, "seed": seed}
    run["strict"] = strict
    info = prepare_folder(data, out, given, series_form=series_form, **run)
    print_prepared(info)
    typer.echo(f"{len(info['tickers'])} tickers, {len(info['features'])} features written to {out}")


def describe(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for describe.json, describe.html and plots.")],
    ticker: Ticker = None,
    strict: Strict = False,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    resample: Resample = None,
) -> None:
    """Show what is in price files: coverage, gaps, defects by rule and the distribution of returns. Of plain series:
    step, seasons, zeros, gaps, and which are new, dead or of one value.

    Example: tsf-llm describe --data prices.csv --out description
    """
    from ..data_prep.columns import Columns
    from ..data_prep.describe import describe as describe_data
    from ..data_prep.describe import describe_series
    from ..data_prep.sources import check_no_value, has_prices
    from ..data_prep.survey import lines

    columns = Columns(value, id, time, dates, decimal, resample=resample)
    if value is not None or not has_prices(data):
        summary = describe_series(data, out, names(ticker), columns=columns, strict=strict)
        typer.echo("\n".join([*lines(summary["facts"]), f"describe.json, describe.html and a plot written to {out}"]))
        return
    check_no_value(columns)
    summary = describe_data(data, out, names(ticker), columns=columns, strict=strict)
    typer.echo(
        f"{summary['bars']:,} bars of {len(summary['tickers'])} tickers, {summary['first']} to {summary['last']}; "
        f"found: {', '.join(summary['defects']) or 'no defect'}"
    )
    typer.echo(f"describe.json, describe.html and plots written to {out}")


def audit(
    data: Data,
    model: Annotated[
        str | None, typer.Option(help="Audit the features of this model instead of the whole table.")
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            help="Python file that defines your own features with @feature. Its code is run: trust it first."
        ),
    ] = None,
    ticker: Ticker = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            metavar="N|all", help="Bars of each ticker to cut at; by default 6 or more, and 38 to 90 in all."
        ),
    ] = None,
    seed: Seed = 0,
    strict: Strict = False,
    market: Market = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    static: Static = None,
    resample: Resample = None,
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
) -> None:
    """Prove on your own bars that no feature knows the future. JSON on stdout; exit code 1 on a leak.

    Example: tsf-llm audit --data prices.csv --features my_features.py
    """
    from ..audit_tsf_llm import audit_features, bound_in_words
    from ..data_prep.columns import Columns
    from ..data_prep.sources import read_data, read_for
    from ..processing_tsf_llm import TsfLlmProcessor
    from ..training.models import find_model

    count = _cuts(cuts)
    if features is not None:
        _run_feature_file(features)
    columns = Columns(value, id, time, dates, decimal, static_file=static, resample=resample)
    if model is None:
        past, known = names(past_covariates) or [], names(known_covariates) or []
        bars = read_data(data, names(ticker), columns=columns, covariates=[*past, *known], strict=strict)
        covariates = {"past_covariates": past, "known_covariates": known}
        options = {"seed": seed, "cuts": count, "market": market_bars(market, dates, decimal), "strict": strict}
        report = audit_features(bars, **options, **covariates)
    else:
        processor = TsfLlmProcessor.from_pretrained(find_model(model))
        bars = read_for(processor, data, names(ticker), columns, strict=strict)
        options = {"seed": seed, "cuts": count, "market": market_bars(market, dates, decimal), "strict": strict}
        report = processor.audit(bars, **options)
    typer.echo(json.dumps(report, indent=2))
    typer.echo(f"tsf-llm: {bound_in_words(report)}", err=True)
    if not report["passed"]:
        leaks = ", ".join({leak["feature"]: None for leak in report["prefix_invariance"]["leaks"]}) or "a canary sings"
        typer.echo(f"tsf-llm: the audit failed: {leaks}", err=True)
        raise typer.Exit(1)


def leak(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for leak.json and leak.png.")],
    ticker: Ticker = None,
    horizon: Annotated[int, typer.Option(help="Bars ahead of the original's target: 1, 2, 5 or 10.")] = 2,
    seed: Seed = 0,
) -> None:
    """Show what the future returns among the original's 64 inputs are worth: its recipe with and without them.

    Example: tsf-llm leak --data sample --out leak
    """
    from ..common.files import check_apart
    from ..data_prep.sources import read_bars
    from ..original.leak_page import print_leak, run

    check_apart(out, data)
    print_leak(run(read_bars(data, names(ticker)), out=out, horizon=horizon, seed=seed))
    typer.echo(f"leak.json and leak.png written to {out}")


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Checkpoint (.pt, .bin, .safetensors) or a folder with one.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the converted model.")],
    layout: Annotated[
        str | None,
        typer.Option(metavar="plain|mixed", help="Softmax over heads or over keys; told by the tensors' names."),
    ] = None,
    num_heads: Annotated[
        int | None, typer.Option(min=1, help="Attention heads; computed from shapes, checked if given.")
    ] = None,
    num_experts_per_tok: Annotated[
        int | None, typer.Option(min=1, help="Experts per token, which no shape tells; by default 2, as the original.")
    ] = None,
) -> None:
    """Turn a checkpoint of SpaceExploreAI into a model folder that gives the same numbers.

    The file's tensors are all checked first; nothing in it is run, and nothing is written unless all is well.

    Example: tsf-llm convert SpaceExploreAI-Small-Base-Regression-27M converted
    """
    from ..original.convert import convert as convert_checkpoint

    model = convert_checkpoint(
        source, out, layout=layout, num_heads=num_heads, num_experts_per_tok=num_experts_per_tok
    )
    c = model.config
    typer.echo(
        f"{model.num_parameters():,} parameters written to {out}: {c.prediction_type}, {c.num_hidden_layers} layers, "
        f"{c.num_attention_heads} heads, softmax over {c.attention_softmax_axis}, {c.norm_type}, "
        f"{c.num_experts_per_tok} of {c.n_routed_experts} experts per token, {c.num_features} features"
    )


def _cuts(given: str | None) -> Any:
    """Raises ValueError for what is neither a number of cuts nor `all`."""
    if given is None or given == "all":
        return given
    if not given.isdecimal() or int(given) < 1:
        raise ValueError(f"--cuts {given}: give a number of bars of each ticker, 1 or more, or all")
    return int(given)


def _run_feature_file(path: Path) -> None:
    """Imports a user's Python file; its `@feature` functions join the table."""
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"{path} is no Python file: name the one that defines your features")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever a user's code stumbles over
        raise ValueError(f"{path} cannot be run: {type(error).__name__}: {error}") from error


COMMANDS = (download, clean, prepare, describe, audit, leak, convert)
