"""The command `tsf-llm`. Each command wires the library's functions together and does nothing of its own.

Exit codes: 0 done, 1 a check failed, 2 the input is wrong (one line on stderr says what, where and what to do).
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..common.errors import one_line_errors


class _Commands(TyperGroup):
    """Ctrl-C ends as in the other commands of this package, not with `Aborted!`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            with one_line_errors("tsf-llm"):
                raise


app = typer.Typer(
    cls=_Commands,
    name="tsf-llm",
    help="Forecast distributions of market prices, honestly scored. Start with: tsf-llm quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DATA_HELP = "Price file (csv, csv.gz, parquet), folder of them, hf:org/name, or 'sample' for the embedded prices."
Data = Annotated[str, typer.Option(help=DATA_HELP)]
SHIPPED = "shipped"  # as training/models.py has it, which takes long to import
Model = Annotated[
    str, typer.Option(help="Folder of a model or adapter, a Hub name, or shipped or mini, which lie beside the code.")
]
Horizon = Annotated[int, typer.Option(min=1, help="Bars ahead.")]
Samples = Annotated[int, typer.Option(min=2, help="Sampled paths per forecast.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampled paths.")]
Ticker = Annotated[str | None, typer.Option(help="Only this ticker, or several with commas between.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse data of which one ticker cannot be used; by default it is skipped.")
]
Market = Annotated[
    str | None,
    typer.Option(help="Price files that features read: a universe, an index, VIX; commas between, or 'sample'."),
]
Calendar = Annotated[
    str | None,
    typer.Option(help="Exchange whose sessions date the steps, as XNYS, XBOM or 24/7; by default the model's own."),
]
Calibrated = Annotated[
    str,
    typer.Option(
        "--calibration", metavar="auto|on|off", help="Use what `calibrate` kept, insist on it, or leave it out."
    ),
]
Value = Annotated[
    str | None, typer.Option(help="Plain series: column to forecast; by default value, y or the only one of numbers.")
]
Id = Annotated[
    str | None, typer.Option("--id", help="Column that names the tickers or series, if its name is unusual.")
]
Time = Annotated[str | None, typer.Option(help="Column of times, if its name is unusual.")]
Dates = Annotated[
    str | None, typer.Option(metavar="dmy|mdy|ymd", help="Order of numeric dates, where they do not tell themselves.")
]
Decimal = Annotated[
    str | None, typer.Option(metavar="point|comma", help="Decimal mark, where the numbers do not tell themselves.")
]
PastCovariates = Annotated[
    str | None,
    typer.Option(help="Further columns, each known up to its row: names or patterns as text_*; commas between."),
]
KnownCovariates = Annotated[
    str | None, typer.Option(help="Further columns that are known in advance: names or patterns; commas between.")
]


@app.command()
def quickstart(
    ticker: Annotated[
        str | None, typer.Option(help="Ticker or series to forecast and plot; by default AAPL, or else the first.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("quickstart"),
    dataset: Annotated[str, typer.Option(help=DATA_HELP)] = "sample",
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Bars ahead; by default 5.")] = None,
    head: Annotated[
        str,
        typer.Option(metavar="causal_lm|quantile", help="Paths of any length, or all steps of the horizon at once."),
    ] = "causal_lm",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train a small model, where the shipped weights would suit as well.")
    ] = False,
) -> None:
    """Forecast, fit to a ticker, score beside naive forecasts and plot; offline, in five minutes on two cores.

    Daily prices are forecast by the weights that lie beside this code; all else is learned from scratch. A file
    without price columns is taken for plain series: timestamp, [series_id,] value.

    Example: tsf-llm quickstart --ticker MSFT --out quickstart
    """
    from ..data_prep.columns import Columns
    from .quickstart import run

    run(
        ticker=ticker,
        out=out,
        dataset=dataset,
        columns=Columns(value, id, time, dates, decimal),
        past_covariates=_names(past_covariates) or [],
        known_covariates=_names(known_covariates) or [],
        horizon=horizon,
        head=head,
        from_scratch=from_scratch,
    )


@app.command()
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


@app.command()
def forecast(
    data: Data,
    horizon: Horizon,
    out: Annotated[Path, typer.Option(help="CSV or parquet file to write.")],
    model: Model = SHIPPED,
    ticker: Ticker = None,
    as_of: Annotated[
        str | None, typer.Option(help="Forecast as if nothing after this were known: a date (a whole day), or a time.")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(min=2, help="Sampled paths per forecast; by default 256, with --joint 1024.")
    ] = None,
    seed: Seed = 0,
    calibration: Calibrated = "auto",
    joint: Annotated[
        bool,
        typer.Option("--joint", help="What the tickers do together too, in a file of OUT's name with .joint in it."),
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(help='Of the portfolio: "AAPL=0.5,MSFT=0.5", or a CSV file of ticker, weight; else all equal.'),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a fan chart (one ticker).")] = None,
    ohlcv: Annotated[
        bool,
        typer.Option("--ohlcv", help="Whole bars: quantiles of open, high, low, volume; OUT.risk.json beside it."),
    ] = False,
    levels: Annotated[
        str | None,
        typer.Option(metavar="PRICES", help="With --ohlcv: probability that a bar touches each, as 180,200."),
    ] = None,
    stop: Annotated[
        float | None, typer.Option(help="With --ohlcv: price of a stop, which comes before --target or not.")
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="With --ohlcv: price of a target. In one bar, stop first.")
    ] = None,
    strict: Strict = False,
    market: Market = None,
    calendar: Calendar = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Forecast prices: mean, quantiles and the probability of a rise for every ticker and step.

    Tickers that cannot be forecast are skipped and named, with the reason; exit code 2 if none is left. With --joint,
    paths of all tickers move together as they did lately: the portfolio's quantiles, VaR and ES, and for every ticker
    the probability to be the best, or in the top fifth. With --ohlcv OUT gets columns open_q10 to volume_q90 too,
    and a JSON file beside it says P(touch) of --levels, P(stop before target) and the expected maximum drawdown.

    Example: tsf-llm forecast --model quickstart/model --data sample --ticker AAPL --horizon 5 --out forecast.csv
    """
    from ..bars_tsf_llm import day_end
    from ..calendars_tsf_llm import check_calendar
    from ..common.files import check_apart, check_output, write_table
    from ..data_prep.columns import Columns
    from ..evaluation.plots import fan_chart
    from ..evaluation.portfolio import joint_forecast
    from ..training.data import read_for
    from .bars import Barriers, forecast_bars, risk_file, write_risk
    from .joint import joint_file, print_joint, read_weights
    from .loading import load_pipeline

    check_output(out, ".csv", ".parquet")
    barriers = Barriers.read(levels, stop, target, asked=ohlcv)
    risk_to = risk_file(out, data, _names(market)) if ohlcv else None
    if plot is not None:
        check_output(plot, ".png")
    if weights is not None and not joint:
        raise ValueError("--weights are those of a portfolio: add --joint")
    if joint and ohlcv:
        raise ValueError("--joint and --ohlcv ask two different questions: run the command once for each")
    shares = read_weights(weights)
    for path in (out, *([plot] if plot else []), *([joint_file(out)] if joint else [])):
        check_apart(path, data, _names(market), weights)
    if as_of is not None:
        day_end(as_of)  # refuses what is no date before the model is loaded
    check_calendar(calendar, needed=True)
    pipe = load_pipeline(model)
    pipe.calibration(calibration, horizon)  # refuses before the data is read
    if ohlcv:
        pipe.check_emits_bars()
    columns = Columns(value, id, time, dates, decimal)
    bars = read_for(pipe.processor, data, _names(ticker), columns, strict=strict)
    if plot is not None and bars[pipe.processor.feature_extractor.series_kind.id].nunique() > 1:
        raise ValueError("--plot draws one ticker: choose it with --ticker")
    asked: dict[str, Any] = {"horizon": horizon, "seed": seed, "as_of": as_of, "strict": strict}
    asked |= {"calibration": calibration, "market": _market(market, dates, decimal), "calendar": calendar}
    asked["samples"] = samples or (1024 if joint else 256)
    risk: dict[str, Any] = {}
    if joint:
        frame, table = joint_forecast(pipe, bars, weights=shares, **asked)
        write_table(table, joint_file(out))
        print_joint(table, joint_file(out))
    elif ohlcv:
        frame, risk = forecast_bars(pipe, bars, barriers, **asked)
    else:
        frame = pipe(bars, **asked)
    write_table(frame, out)
    if plot is not None:
        past = bars["timestamp"] <= frame["origin"].iloc[0]
        ahead = bars[~past].head(horizon)
        fan_chart(bars[past], frame, plot, realised=ahead if len(ahead) else None)
    skipped = f", {len(frame.attrs['skipped'])} skipped" if frame.attrs["skipped"] else ""
    typer.echo(f"{len(frame)} rows written to {out}{skipped}")
    if risk_to is not None:
        typer.echo(write_risk(risk, barriers, risk_to))


@app.command()
def evaluate(
    data: Data,
    start: Annotated[str, typer.Option(help="First date to forecast from.")],
    end: Annotated[str, typer.Option(help="Last date to forecast from.")],
    horizon: Annotated[str, typer.Option(metavar="N[,N...]", help="Bars ahead; several with commas between.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.json and plots.")],
    model: Model = SHIPPED,
    ticker: Ticker = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Bars between forecasts; by default the horizon.")] = None,
    baselines: Annotated[
        str,
        typer.Option(metavar="fast|standard|all|NAMES", help="What the model is to beat; names with commas between."),
    ] = "standard",
    num_proc: Annotated[int, typer.Option("--num-proc", min=1, help="Processes for the baselines.")] = 1,
    samples: Samples = 256,
    seed: Seed = 0,
    calibration: Calibrated = "auto",
    strict: Strict = False,
    market: Market = None,
    calendar: Calendar = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Score past forecasts beside the strongest baselines (GARCH, HAR on ranges, ...), with intervals and a verdict.

    Tickers that cannot be scored are skipped: `skipped` in results.json says why.

    Example: tsf-llm evaluate --model quickstart/model --data sample --start 2012-01-01 --end 2013-03-01 --horizon 5
    --out evaluation
    """
    from ..bars_tsf_llm import day_end
    from ..calendars_tsf_llm import check_calendar
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from ..evaluation.evaluate import evaluate_model
    from ..evaluation.report import print_evaluation
    from ..training.data import read_for
    from .loading import load_pipeline

    check_apart(out, data, _names(market))
    steps = _steps(horizon)
    if day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    check_calendar(calendar, needed=True)
    pipe = load_pipeline(model)
    pipe.calibration(calibration, max(steps))  # refuses before the data is read
    columns = Columns(value, id, time, dates, decimal)
    bars = read_for(pipe.processor, data, _names(ticker), columns, strict=strict)
    report = evaluate_model(
        pipe,
        bars,
        start=start,
        end=end,
        horizon=steps,
        stride=stride,
        baselines=baselines,
        num_proc=num_proc,
        samples=samples,
        seed=seed,
        calibration=calibration,
        out=out,
        market=_market(market, dates, decimal),
        calendar=calendar,
        strict=strict,
    )
    print_evaluation(report, pipe.processor.feature_extractor.series_kind)
    typer.echo(f"report.html (opens offline), results.json and two plots written to {out}")


@app.command()
def backtest(
    data: Data,
    start: Annotated[str, typer.Option(help="First date to decide on.")],
    end: Annotated[str, typer.Option(help="Last date; what is held is sold at its last close.")],
    horizon: Horizon,
    out: Annotated[Path, typer.Option(help="Folder for backtest.json and equity.png.")],
    model: Model = SHIPPED,
    rule: Annotated[
        str,
        typer.Option(
            metavar="sign|threshold|kelly|long-short|all", help="What is held; several rules with commas between."
        ),
    ] = "sign",
    cost_bp: Annotated[float, typer.Option(min=0, help="Costs in basis points of what is traded.")] = 10.0,
    every: Annotated[int | None, typer.Option(min=1, help="Bars between decisions; by default the horizon.")] = None,
    trials_log: Annotated[
        Path | None,
        typer.Option(
            help="Log of all that was tried, which the verdict pays for; by default trials.jsonl beside OUT."
        ),
    ] = None,
    ticker: Ticker = None,
    samples: Samples = 256,
    seed: Seed = 0,
    strict: Strict = False,
    market: Market = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Trade on past forecasts: decided at a close, filled at the next open, with costs, beside buy and hold.

    Tickers that cannot be forecast are skipped: `skipped` in backtest.json says why.

    Example: tsf-llm backtest --model quickstart/model --data sample --start 2012-01-01 --end 2013-02-28 --horizon 5
    --out backtest
    """
    from ..bars_tsf_llm import day_end
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from ..evaluation.strategy import backtest_model, print_backtest
    from ..training.data import read_for
    from ..training.models import digest
    from .loading import load_pipeline

    check_apart(out, data, _names(market))
    if day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    pipe = load_pipeline(model)
    columns = Columns(None, id, time, dates, decimal)
    results = backtest_model(
        pipe,
        read_for(pipe.processor, data, _names(ticker), columns, strict=strict),
        start=start,
        end=end,
        horizon=horizon,
        out=out,
        weights=digest(pipe.model),
        rules=rule,
        every=every,
        cost_bp=cost_bp,
        samples=samples,
        seed=seed,
        market=_market(market, dates, decimal),
        strict=strict,
        trials_log=trials_log,
    )
    print_backtest(results)
    typer.echo(
        f"backtest.json and equity.png written to {out}, {results['trials']} trial(s) in {results['trials_log']}"
    )


@app.command()
def calibrate(
    model: Annotated[str, typer.Option(help="Folder of a model that training wrote.")],
    data: Data,
    ticker: Ticker = None,
    start: Annotated[
        str | None, typer.Option(help="First date to forecast from; by default the first after training.")
    ] = None,
    end: Annotated[
        str | None, typer.Option(help="Last date that is read; by default the last that the model has seen.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Bars ahead; by default those the model learned.")] = None,
    samples: Samples = 256,
    seed: Seed = 0,
    strict: Strict = False,
    market: Market = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Widen or narrow a model's law as validation dates ask; kept only if later validation dates are better for it.

    Exit code 0 in both cases; what was found is stored in the model's processor_config.json.

    Example: tsf-llm calibrate --model quickstart/model --data sample
    """
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from .calibrate import calibrate as calibrate_folder
    from .calibrate import print_calibrated

    check_apart(model, data, _names(market))
    columns = Columns(value, id, time, dates, decimal)
    options = {"start": start, "end": end, "horizon": horizon, "samples": samples, "seed": seed, "strict": strict}
    options |= {"names": _names(ticker), "columns": columns, "market": _market(market, dates, decimal)}
    print_calibrated(calibrate_folder(model, data, **options))


@app.command()
def explain(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for explain.json and explain.html.")],
    model: Model = SHIPPED,
    ticker: Ticker = None,
    start: Annotated[
        str | None, typer.Option(help="First date to explain; by default the first that the model has not seen.")
    ] = None,
    end: Annotated[str | None, typer.Option(help="Last date to explain; by default the last.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Dates, drawn at random by the seed.")] = 40,
    repeats: Annotated[int, typer.Option(min=1, help="Permutations of every feature and group.")] = 3,
    seed: Annotated[int, typer.Option(help="Seed of dates and permutations.")] = 0,
    strict: Strict = False,
    market: Market = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Show what forecasts rest on: features, past bars, experts by regime, the market; JSON and one page with plots.

    Example: tsf-llm explain --model quickstart/model --data sample --out explanation
    """
    from ..bars_tsf_llm import day_end
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from ..evaluation.explanation.explain import explain_model
    from ..training.data import read_for
    from .loading import load_pipeline

    check_apart(out, data, _names(market))
    if start is not None and end is not None and day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    pipe = load_pipeline(model)
    bars = read_for(pipe.processor, data, _names(ticker), Columns(value, id, time, dates, decimal), strict=strict)
    options = {"most": most, "repeats": repeats, "seed": seed, "strict": strict}
    result = explain_model(
        pipe, bars, out=out, start=start, end=end, market=_market(market, dates, decimal), **options
    )
    first = result["groups"][0]
    interval = "too few dates for an interval"
    if first["percent_ci95"] is not None:
        interval = "95 % interval {:+.2f} % to {:+.2f} %".format(*first["percent_ci95"])
    typer.echo(
        f"{result['windows']} windows, {result['start']} to {result['end']}; most important is the group "
        f"{first['name']}: permuted, it changes the loss by {first['percent']:+.2f} % ({interval})"
    )
    typer.echo(f"explain.json and explain.html written to {out}")


@app.command()
def adapt(
    model: Model,
    ticker: Annotated[str, typer.Option(help="Ticker or series to fit the model to; the model need not know it.")],
    data: Data,
    out: Annotated[
        Path | None, typer.Option(help="Folder for adapter and report.json; by default MODEL/adapters/TICKER.")
    ] = None,
    train_through: Annotated[
        str | None, typer.Option(help="Last training date; by default the model's own, or after 80 % of the bars.")
    ] = None,
    valid_through: Annotated[
        str | None, typer.Option(help="Last validation date; by default the model's own, or after another 10 %.")
    ] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Bars ahead; by default those the model learned.")] = None,
    rank: Annotated[int | None, typer.Option(help="Rank of the adapter; by default 8.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the training windows; by default 10.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate; by default 1e-4.")] = None,
    experts: Annotated[
        bool, typer.Option("--experts", help="Adapt the routed experts too; such an adapter mixes with no other.")
    ] = False,
    per_ticker: Annotated[bool, typer.Option("--per-ticker", help="Scale the ticker by itself.")] = False,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with any argument of train_scripts/lora.py instead of lora.yaml.")
    ] = None,
    samples: Samples = 256,
    seed: Seed = 0,
    strict: Strict = False,
    market: Market = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Fit a model to one ticker by an adapter; it is kept only if it forecasts better on the validation dates.

    Exit code 0 in both cases; report.json says what was found, on later dates too.

    Example: tsf-llm adapt --model quickstart/model --ticker AAPL --data sample
    """
    from .adapt import adapt as adapt_model
    from .adapt import print_adapted

    options = {
        "data": data,
        "train_through": train_through,
        "valid_through": valid_through,
        "horizon": horizon,
        "r": rank,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "target_experts": True if experts else None,
        "per_ticker": True if per_ticker else None,
        "report_samples": samples,
        "seed": seed,
        "strict": strict,
        "market": _names(market),
        "value_column": value,
        "id_column": id,
        "time_column": time,
        "dates": dates,
        "decimal": decimal,
    }
    print_adapted(*adapt_model(model, ticker=ticker, out=out, config=config, options=options))


@app.command()
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
    print_cleaning(clean_file(data, out, _names(ticker), _names(covariates) or (), columns=columns, strict=strict))
    typer.echo(f"written to {out}, every case to {out.with_name('cleaning.json')}")


@app.command()
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
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
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
        "tickers": _names(ticker),
        "market": _names(market),
        "feature_groups": _names(groups),
        "value_column": value,
        "id_column": id,
        "time_column": time,
        "dates": dates,
        "decimal": decimal,
        "past_covariates": _names(past_covariates),
        "known_covariates": _names(known_covariates),
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
    info = prepare_folder(data, out, given, **run)
    print_prepared(info)
    typer.echo(f"{len(info['tickers'])} tickers, {len(info['features'])} features written to {out}")


@app.command()
def describe(
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for describe.json, describe.html and plots.")],
    ticker: Ticker = None,
    strict: Strict = False,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Show what is in price files: coverage, gaps, defects by rule and the distribution of returns.

    Example: tsf-llm describe --data prices.csv --out description
    """
    from ..data_prep.columns import Columns
    from ..data_prep.describe import describe as describe_data

    columns = Columns(id=id, time=time, dates=dates, decimal=decimal)
    summary = describe_data(data, out, _names(ticker), columns=columns, strict=strict)
    typer.echo(
        f"{summary['bars']:,} bars of {len(summary['tickers'])} tickers, {summary['first']} to {summary['last']}; "
        f"found: {', '.join(summary['defects']) or 'no defect'}"
    )
    typer.echo(f"describe.json, describe.html and plots written to {out}")


@app.command()
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
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
) -> None:
    """Prove on your own bars that no feature knows the future. JSON on stdout; exit code 1 on a leak.

    Example: tsf-llm audit --data prices.csv --features my_features.py
    """
    from ..audit_tsf_llm import audit_features, bound_in_words
    from ..data_prep.columns import Columns
    from ..data_prep.sources import read_data
    from ..processing_tsf_llm import TsfLlmProcessor
    from ..training.data import read_for
    from ..training.models import find_model

    count = _cuts(cuts)
    if features is not None:
        _run_feature_file(features)
    columns = Columns(value, id, time, dates, decimal)
    if model is None:
        past, known = _names(past_covariates) or [], _names(known_covariates) or []
        bars = read_data(data, _names(ticker), columns=columns, covariates=[*past, *known], strict=strict)
        covariates = {"past_covariates": past, "known_covariates": known}
        options = {"seed": seed, "cuts": count, "market": _market(market, dates, decimal), "strict": strict}
        report = audit_features(bars, **options, **covariates)
    else:
        processor = TsfLlmProcessor.from_pretrained(find_model(model))
        bars = read_for(processor, data, _names(ticker), columns, strict=strict)
        options = {"seed": seed, "cuts": count, "market": _market(market, dates, decimal), "strict": strict}
        report = processor.audit(bars, **options)
    typer.echo(json.dumps(report, indent=2))
    typer.echo(f"tsf-llm: {bound_in_words(report)}", err=True)
    if not report["passed"]:
        leaks = ", ".join({leak["feature"]: None for leak in report["prefix_invariance"]["leaks"]}) or "a canary sings"
        typer.echo(f"tsf-llm: the audit failed: {leaks}", err=True)
        raise typer.Exit(1)


@app.command()
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
    print_leak(run(read_bars(data, _names(ticker)), out=out, horizon=horizon, seed=seed))
    typer.echo(f"leak.json and leak.png written to {out}")


@app.command()
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


def _names(ticker: str | None) -> list[str] | None:
    return None if ticker is None else [name.strip() for name in ticker.split(",") if name.strip()]


def _steps(horizons: str) -> list[int]:
    """Raises ValueError for what is no list of bars ahead."""
    parts = [part.strip() for part in horizons.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--horizon {horizons}: give bars ahead, as 5, or several, as 1,5,20")
    return [int(part) for part in parts]


def _market(market: str | None, dates: str | None, decimal: str | None) -> Any:
    """Its bars, if there is one."""
    from ..data_prep.sources import read_market

    return None if market is None else read_market(_names(market) or [], dates=dates, decimal=decimal)


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


def main() -> None:
    with one_line_errors("tsf-llm"):
        app()
