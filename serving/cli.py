"""The command `tsf-llm`. Each command wires the library's functions together and does nothing of its own.

Exit codes: 0 done, 1 a check failed, 2 the input is wrong (one line on stderr says what, where and what to do).
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ..data_prep.errors import one_line_errors

app = typer.Typer(
    name="tsf-llm",
    help="Forecast distributions of market prices, honestly scored. Start with: tsf-llm quickstart",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

DATA_HELP = "Price file (csv, csv.gz, parquet), folder of them, or 'sample' for the embedded prices."
Data = Annotated[str, typer.Option(help=DATA_HELP)]
Model = Annotated[str, typer.Option(help="Model folder that training wrote, or a Hub name.")]
Horizon = Annotated[int, typer.Option(min=1, help="Bars ahead.")]
Samples = Annotated[int, typer.Option(min=2, help="Sampled paths per forecast.")]
Seed = Annotated[int, typer.Option(help="Seed of the sampled paths.")]
Ticker = Annotated[str | None, typer.Option(help="Only this ticker, or several with commas between.")]


@app.command()
def quickstart(
    ticker: Annotated[str, typer.Option(help="Ticker to forecast and plot.")] = "AAPL",
    out: Annotated[Path, typer.Option(help="Folder for everything that is written.")] = Path("quickstart"),
    dataset: Annotated[str, typer.Option(help=DATA_HELP)] = "sample",
) -> None:
    """Train on real daily prices, forecast, score beside naive forecasts and plot; offline, in minutes on two cores.

    Example: tsf-llm quickstart --ticker MSFT --out quickstart
    """
    from .quickstart import run

    run(ticker=ticker, out=out, dataset=dataset)


@app.command()
def forecast(
    model: Model,
    data: Data,
    horizon: Horizon,
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    ticker: Ticker = None,
    as_of: Annotated[str | None, typer.Option(help="Forecast as if nothing after this date were known.")] = None,
    samples: Samples = 256,
    seed: Seed = 0,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a fan chart (one ticker).")] = None,
) -> None:
    """Forecast prices: mean, quantiles and the probability of a rise for every ticker and step.

    Example: tsf-llm forecast --model quickstart/model --data sample --ticker AAPL --horizon 5 --out forecast.csv
    """
    from ..data_prep.files import write_csv
    from ..data_prep.sources import read_bars
    from ..evaluation.plots import fan_chart
    from ..processing_tsf_llm import day_end
    from .loading import load_pipeline

    bars = read_bars(data, _names(ticker))
    if plot is not None and bars["ticker"].nunique() > 1:
        raise ValueError("--plot draws one ticker: choose it with --ticker")
    if as_of is not None:
        day_end(as_of)  # refuses what is no date before the model is loaded
    frame = load_pipeline(model)(bars, horizon=horizon, samples=samples, seed=seed, as_of=as_of)
    write_csv(frame, out)
    if plot is not None:
        past = bars["timestamp"] <= frame["origin"].iloc[0]
        ahead = bars[~past].head(horizon)
        fan_chart(bars[past], frame, plot, realised=ahead if len(ahead) else None)
    typer.echo(f"{len(frame)} rows written to {out}")


@app.command()
def evaluate(
    model: Model,
    data: Data,
    start: Annotated[str, typer.Option(help="First date to forecast from.")],
    end: Annotated[str, typer.Option(help="Last date to forecast from.")],
    horizon: Horizon,
    out: Annotated[Path, typer.Option(help="Folder for results.json and plots.")],
    ticker: Ticker = None,
    stride: Annotated[int | None, typer.Option(min=1, help="Bars between forecasts; by default the horizon.")] = None,
    samples: Samples = 256,
    seed: Seed = 0,
) -> None:
    """Score past forecasts beside random walk, drift and historical volatility, with intervals and a verdict.

    Example: tsf-llm evaluate --model quickstart/model --data sample --start 2012-01-01 --end 2013-03-01 --horizon 5
    --out evaluation
    """
    from ..data_prep.sources import read_bars
    from ..processing_tsf_llm import day_end
    from .loading import load_pipeline
    from .results import evaluate_model, print_results

    if day_end(start) > day_end(end):
        raise ValueError(f"--start {start} lies after --end {end}: swap them")
    bars = read_bars(data, _names(ticker))
    results = evaluate_model(
        load_pipeline(model),
        bars,
        start=start,
        end=end,
        horizon=horizon,
        stride=stride,
        samples=samples,
        seed=seed,
        out=out,
    )
    print_results(results)
    typer.echo(f"results.json, scores.png and pit.png written to {out}")


@app.command()
def audit(
    data: Data,
    model: Annotated[
        str | None, typer.Option(help="Audit the features of this model instead of the whole table.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Python file that defines your own features with @feature; it is run.")
    ] = None,
    ticker: Ticker = None,
    seed: Seed = 0,
) -> None:
    """Prove on your own bars that no feature knows the future. JSON on stdout; exit code 1 on a leak.

    Example: tsf-llm audit --data prices.csv --features my_features.py
    """
    from ..data_prep.sources import read_bars
    from ..processing_tsf_llm import TsfLlmProcessor, audit_features
    from .loading import find_model

    if features is not None:
        _run_feature_file(features)
    audit_bars = audit_features if model is None else TsfLlmProcessor.from_pretrained(find_model(model)).audit
    report = audit_bars(read_bars(data, _names(ticker)), seed=seed)
    typer.echo(json.dumps(report, indent=2))
    if not report["passed"]:
        leaks = ", ".join(leak["feature"] for leak in report["prefix_invariance"]["leaks"]) or "a canary sings"
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
    from ..data_prep.sources import read_bars
    from .leak import print_leak, run

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
    from .convert import convert as convert_checkpoint

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


def _run_feature_file(path: Path) -> None:
    """Imports a user's Python file; its `@feature` functions join the table."""
    if path.suffix != ".py" or not path.is_file():
        raise FileNotFoundError(f"{path} is no Python file: name the one that defines your features")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)


def main() -> None:
    with one_line_errors("tsf-llm"):
        app()
