"""The command `tsf-llm`. Each command wires the library's functions together and does nothing of its own.

Exit codes: 0 done, 1 a check failed, 2 the input is wrong (one line on stderr says what, where and what to do).
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..common.errors import one_line_errors
from . import data_commands
from .options import (
    DATA_HELP,
    SHIPPED,
    Calendar,
    Calibrated,
    Data,
    Dates,
    Decimal,
    Horizon,
    Id,
    KnownCovariates,
    Market,
    Model,
    PastCovariates,
    Resample,
    Samples,
    Seed,
    Source,
    Static,
    Strict,
    Ticker,
    Time,
    Value,
    check_extra,
    looked_up,
    market_bars,
    names,
)


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
    resample: Resample = None,
    past_covariates: PastCovariates = None,
    known_covariates: KnownCovariates = None,
    horizon: Annotated[
        int | None,
        typer.Option(min=1, help="Bars ahead; by default 5 of prices, and as suits the step and length of a series."),
    ] = None,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="causal_lm|quantile",
            help="Paths of any length, by default of prices; or all steps of the horizon at once.",
        ),
    ] = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Train a small model, where the shipped weights would suit as well.")
    ] = False,
) -> None:
    """Forecast, fit to a ticker, score beside naive forecasts and plot; offline, in five minutes on two cores.

    Daily prices are forecast by the weights that lie beside this code; all else is learned from scratch. A file
    without price columns is taken for plain series: timestamp, [series_id,] value. What it holds is told first (step,
    seasons, zeros, gaps), and horizon and model follow from it.

    Example: tsf-llm quickstart --ticker MSFT --out quickstart
    """
    from ..data_prep.columns import Columns
    from .quickstart import run

    run(
        ticker=ticker,
        out=out,
        dataset=dataset,
        columns=Columns(value, id, time, dates, decimal, resample=resample),
        past_covariates=names(past_covariates) or [],
        known_covariates=names(known_covariates) or [],
        horizon=horizon,
        head=head,
        from_scratch=from_scratch,
    )


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
    log: Annotated[
        Path | None, typer.Option(help="Track record to add the forecast to, which `reconcile` scores: SQLite.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="HTML file for people: charts, words and an honest verdict, offline, to forward."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="local|ray",
            help="Thousands of tickers, some at a time, on this machine or Ray; goes on if stopped.",
        ),
    ] = None,
    num_proc: Annotated[
        int, typer.Option("--num-proc", min=1, help="With --engine: processes; the rows do not depend on it.")
    ] = 1,
    ray_address: Annotated[
        str | None, typer.Option(help="Ray cluster that sees OUT; by default one of --num-proc workers is started.")
    ] = None,
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
    static: Static = None,
    resample: Resample = None,
) -> None:
    """Forecast prices: mean, quantiles and the probability of a rise for every ticker and step.

    Tickers that cannot be forecast are skipped and named, with the reason; exit code 2 if none is left. With --joint,
    paths of all tickers move together as they did lately: the portfolio's quantiles, VaR and ES, and for every ticker
    the probability to be the best, or in the top fifth. With --ohlcv OUT gets columns open_q10 to volume_q90 too,
    and a JSON file beside it says P(touch) of --levels, P(stop before target) and the expected maximum drawdown.

    Example: tsf-llm forecast --model quickstart/model --data sample --ticker AAPL --horizon 5 --out forecast.csv
    """
    given = locals()
    from .forecasting import Request, run

    run(Request(**given))


@app.command()
def reconcile(
    log: Annotated[Path, typer.Option(help="Track record that `forecast --log` has written.")],
    data: Data,
    out: Annotated[Path, typer.Option(help="Folder for track_record.html and track_record.json.")] = Path(
        "track_record"
    ),
    ticker: Ticker = None,
    head: Annotated[
        str | None, typer.Option(help="Head of the record that was noted before: the record must still have it.")
    ] = None,
    num_proc: Annotated[int, typer.Option("--num-proc", min=1, help="Processes for the baselines.")] = 1,
    strict: Strict = False,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    resample: Resample = None,
) -> None:
    """Score what has come true of logged forecasts, by model, horizon and month, beside naive forecasts of the same.

    Forecasts that were logged after the fact are scored apart. Exit code 1 if the record was changed; the page says
    where. See docs/track_record.md.

    Example: tsf-llm reconcile --log record.sqlite --data prices.csv --out track_record
    """
    from ..data_prep.columns import Columns
    from ..evaluation.track_record_page import print_record
    from .record import reconcile_data

    columns = Columns(value, id, time, dates, decimal, resample=resample)
    options: dict[str, Any] = {"tickers": names(ticker), "columns": columns, "noted": head, "num_proc": num_proc}
    found, kind = reconcile_data(log, data, out, strict=strict, **options)
    print_record(found, kind)
    typer.echo(f"track_record.html (opens offline) and track_record.json written to {out}")
    if not found["sound"]:
        raise typer.Exit(1)


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
    static: Static = None,
    resample: Resample = None,
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
    from ..data_prep.sources import read_for
    from ..evaluation.evaluate import evaluate_model
    from ..evaluation.report import print_evaluation
    from .loading import load_pipeline

    check_apart(out, data, names(market))
    steps = _steps(horizon)
    if day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    check_calendar(calendar, needed=True)
    pipe = load_pipeline(model)
    pipe.calibration(calibration, max(steps))  # refuses before the data is read
    columns = Columns(value, id, time, dates, decimal, static_file=static, resample=resample)
    bars = read_for(pipe.processor, data, names(ticker), columns, strict=strict)
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
        market=market_bars(market, dates, decimal),
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
    from ..data_prep.sources import read_for
    from ..evaluation.strategy import backtest_model, print_backtest
    from ..training.models import digest
    from .loading import load_pipeline

    check_apart(out, data, names(market))
    if day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    pipe = load_pipeline(model)
    columns = Columns(None, id, time, dates, decimal)
    results = backtest_model(
        pipe,
        read_for(pipe.processor, data, names(ticker), columns, strict=strict),
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
        market=market_bars(market, dates, decimal),
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
    static: Static = None,
    resample: Resample = None,
) -> None:
    """Widen or narrow a model's law as validation dates ask; kept only if later validation dates are better for it.

    Exit code 0 in both cases; what was found is stored in the model's processor_config.json.

    Example: tsf-llm calibrate --model quickstart/model --data sample
    """
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from .calibrate import calibrate as calibrate_folder
    from .calibrate import print_calibrated

    check_apart(model, data, names(market))
    columns = Columns(value, id, time, dates, decimal, static_file=static, resample=resample)
    options = {"start": start, "end": end, "horizon": horizon, "samples": samples, "seed": seed, "strict": strict}
    options |= {"names": names(ticker), "columns": columns, "market": market_bars(market, dates, decimal)}
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
    step: Annotated[int, typer.Option(min=1, help="The step ahead that is explained; only a head has others.")] = 1,
    strict: Strict = False,
    market: Market = None,
    value: Value = None,
    id: Id = None,
    time: Time = None,
    dates: Dates = None,
    decimal: Decimal = None,
    static: Static = None,
    resample: Resample = None,
) -> None:
    """Show what forecasts rest on: features, past bars, experts by regime, the market; JSON and one page with plots.

    Example: tsf-llm explain --model quickstart/model --data sample --out explanation
    """
    from ..bars_tsf_llm import day_end
    from ..common.files import check_apart
    from ..data_prep.columns import Columns
    from ..data_prep.sources import read_for
    from ..evaluation.explanation.explain import explain_model
    from .loading import load_pipeline

    check_apart(out, data, names(market))
    if start is not None and end is not None and day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    pipe = load_pipeline(model)
    columns = Columns(value, id, time, dates, decimal, static_file=static, resample=resample)
    bars = read_for(pipe.processor, data, names(ticker), columns, strict=strict)
    options = {"most": most, "repeats": repeats, "seed": seed, "strict": strict, "step": step}
    result = explain_model(
        pipe, bars, out=out, start=start, end=end, market=market_bars(market, dates, decimal), **options
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
    static: Static = None,
    resample: Resample = None,
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
        "market": names(market),
        "value_column": value,
        "id_column": id,
        "time_column": time,
        "dates": dates,
        "decimal": decimal,
        "static": static,
        "resample": resample,
    }
    print_adapted(*adapt_model(model, ticker=ticker, out=out, config=config, options=options))


@app.command()
def serve(
    model: Model = SHIPPED,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is reached from elsewhere.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    adapter: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="An adapter that requests may name; repeatable.")
    ] = None,
    market: Market = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Most seconds of a request.")] = 60.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests at one time; further ones are told to come back.")] = 64,
    state: Annotated[
        Path | None, typer.Option(help="Folder that keeps streams; without one they end with the server.")
    ] = None,
    source: Source = None,
    cors: Annotated[
        list[str] | None, typer.Option(metavar="ORIGIN", help="Let pages of this origin ask; repeatable.")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="Track record that forecasts of /v1/forecast join; see docs/track_record.md.")
    ] = None,
    page: Annotated[bool, typer.Option("--page/--no-page", help="The page for people, at /.")] = True,
    mcp: Annotated[bool, typer.Option("--mcp/--no-mcp", help="Tools for chat assistants, at /mcp.")] = True,
) -> None:
    """Answer forecasts over HTTP: /v1/forecast and more (/docs), a page for people at /, tools for chats at /mcp.

    Where the environment has TSF_LLM_TOKEN, clients must send it as `Authorization: Bearer TOKEN`. Requests that come
    together share a model pass; no answer depends on that. SIGTERM ends it when what is in flight is answered.

    Ask it with: curl -F file=@AAPL.csv -F horizon=5 http://127.0.0.1:8000/v1/forecast

    Example: tsf-llm serve --model shipped --port 8000
    """
    check_extra(
        "serve",
        "fastapi",
        "uvicorn",
        "prometheus_client",
        "python_multipart",
        *["mcp"] * mcp,
        *["gradio", "plotly"] * page,
    )
    from .http.run import name_of, run, token
    from .http.settings import Settings

    symbols = looked_up(source)
    settings = Settings(
        name=name_of(model),
        token=token(),
        cors=tuple(cors or ()),
        timeout=timeout,
        queue=queue,
        state=state,
        mcp=mcp,
        page=page,
        host=host,
    )
    beside: dict[str, Any] = {"adapters": adapter or [], "market": market_bars(market, None, None)}
    run(model, host=host, port=port, settings=settings, symbols=symbols, log=log, **beside)


@app.command()
def mcp(
    model: Model = SHIPPED,
    market: Market = None,
    allow_files: Annotated[
        Path | None, typer.Option(help="Folder whose price files the assistant may read; by default none.")
    ] = None,
    source: Source = None,
    dates: Dates = None,
    decimal: Decimal = None,
) -> None:
    """Serve chat assistants over stdio (MCP): tools to forecast, evaluate, explain and audit, with the verdict inside.

    An assistant starts this itself; docs/mcp.md says what to write into its settings.

    Example: tsf-llm mcp --model shipped --allow-files prices
    """
    check_extra("serve", "mcp")
    from .assistant import build, run
    from .loading import load_pipeline

    if allow_files is not None and not allow_files.is_dir():
        raise FileNotFoundError(f"{allow_files} is no folder: name one with price files as --allow-files")
    symbols = looked_up(source)
    with redirect_stdout(sys.stderr):  # stdout is the protocol's alone
        beside = market_bars(market, dates, decimal)
        server = build(load_pipeline(model), market=beside, folder=allow_files, symbols=symbols)
    run(server)


def _steps(horizons: str) -> list[int]:
    """Raises ValueError for what is no list of bars ahead."""
    parts = [part.strip() for part in horizons.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--horizon {horizons}: give bars ahead, as 5, or several, as 1,5,20")
    return [int(part) for part in parts]


for command in data_commands.COMMANDS:
    app.command()(command)


def main() -> None:
    with one_line_errors("tsf-llm"):
        app()
