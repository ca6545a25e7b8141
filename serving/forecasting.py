"""The work of `tsf-llm forecast`: what was asked for is checked first, then bars are read, then files are written.

What scores, plots and keeps records takes a second to import: only where it is asked for."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from ..bars_tsf_llm import day_end
from ..calendars_tsf_llm import check_calendar
from ..common.files import check_apart, check_output, write_table
from ..data_prep.columns import Columns
from ..data_prep.sources import read_for
from ..pipeline_tsf_llm import TsfLlmPipeline
from .bars import Barriers, forecast_bars, risk_file, write_risk
from .inputs import inputs_of
from .joint import joint_file, print_joint, read_weights
from .loading import load_pipeline
from .options import market_bars, names

SAMPLES, JOINT_SAMPLES = 256, 1024  # paths, where none are asked for


@dataclass(frozen=True)
class Request:
    """The options of the command, by the names that they have there."""

    data: str
    horizon: int
    out: Path
    model: str
    ticker: str | None
    as_of: str | None
    samples: int | None
    seed: int
    calibration: str
    joint: bool
    weights: str | None
    plot: Path | None
    log: Path | None
    report: Path | None
    engine: str | None
    num_proc: int
    ray_address: str | None
    ohlcv: bool
    levels: str | None
    stop: float | None
    target: float | None
    strict: bool
    market: str | None
    calendar: str | None
    value: str | None
    id: str | None
    time: str | None
    dates: str | None
    decimal: str | None
    static: str | None
    resample: str | None

    def check(self) -> None:
        """Raises ValueError for options that do not go together, and files that must not be written."""
        check_output(self.out, ".csv", ".parquet")
        if self.plot is not None:
            check_output(self.plot, ".png")
        if self.report is not None:
            check_output(self.report, ".html")
        if self.weights is not None and not self.joint:
            raise ValueError("--weights are those of a portfolio: add --joint")
        if self.joint and self.ohlcv:
            raise ValueError("--joint and --ohlcv ask two different questions: run the command once for each")
        self._check_engine()
        if self.ticker is not None and not names(self.ticker):
            raise ValueError(f"--ticker {self.ticker!r} names none: name one, or leave it out for all")
        others = {path.resolve() for path in self.written if path is not self.log}
        if self.log is not None and self.log.resolve() in others:
            raise ValueError(f"--log {self.log} is another output too: name another file for the track record")
        for path in self.written:
            check_apart(path, self.data, names(self.market), self.weights, self.static)
        if self.as_of is not None:
            day_end(self.as_of)  # refuses what is no date before the model is loaded
        check_calendar(self.calendar, needed=True)

    def _check_engine(self) -> None:
        if self.engine is None and (self.num_proc, self.ray_address) != (1, None):
            raise ValueError("--num-proc and --ray-address say how an engine works: add --engine local or ray")
        together = {"--joint": self.joint, "--ohlcv": self.ohlcv, "--plot": self.plot}
        together["--report"] = self.report
        if self.engine is not None and (asked := [name for name, given in together.items() if given]):
            raise ValueError(
                f"{' and '.join(asked)} read all bars at once, and --engine some at a time: leave one of them out"
            )

    @property
    def written(self) -> list[Path]:
        """The files that the run writes."""
        asked = [self.plot, self.report, self.log, joint_file(self.out) if self.joint else None]
        if self.engine:
            from .whole_market import skipped_file

            asked.append(skipped_file(self.out))
        return [self.out, *(path for path in asked if path is not None)]

    @property
    def columns(self) -> Columns:
        how = {"static_file": self.static, "resample": self.resample}
        return Columns(self.value, self.id, self.time, self.dates, self.decimal, **how)

    def asked(self) -> dict[str, Any]:
        """The arguments of the pipeline's call; the market is read."""
        return {
            "horizon": self.horizon,
            "samples": self.samples or (JOINT_SAMPLES if self.joint else SAMPLES),
            "seed": self.seed,
            "as_of": self.as_of,
            "strict": self.strict,
            "calibration": self.calibration,
            "calendar": self.calendar,
            "market": market_bars(self.market, self.dates, self.decimal),
        }


def run(request: Request) -> None:
    """Forecasts, writes and says so.

    Raises:
        ValueError: the options, the bars or the model do not allow what is asked for.
    """
    request.check()
    if request.engine is not None:
        run_in_groups(request)
        return
    barriers = Barriers.read(request.levels, request.stop, request.target, asked=request.ohlcv)
    risk_to = risk_file(request.out, request.data, names(request.market)) if request.ohlcv else None
    shares = read_weights(request.weights)
    pipe = load_pipeline(request.model)
    pipe.calibration(request.calibration, request.horizon)  # refuses before the data is read
    if request.ohlcv:
        pipe.check_emits_bars()
    recorder = None if request.log is None else _recorder(pipe, request.model, request.log)
    bars = read_bars_of(request, pipe)
    usual, table = request.asked(), None
    risk: dict[str, Any] = {}
    asked = usual if recorder is None else recorder.asking(usual)
    if request.joint:
        from ..evaluation.portfolio import joint_forecast

        frame, table = joint_forecast(pipe, bars, weights=shares, **asked)
        write_table(table, joint_file(request.out))
        print_joint(table, joint_file(request.out))
    elif request.ohlcv:
        frame, risk = forecast_bars(pipe, bars, barriers, **asked)
    else:
        frame = pipe(bars, **asked)
    if recorder is not None:  # before anybody sees it
        frame, logged = recorder.append(frame, bars, usual)
        typer.echo(f"{request.log}: {logged}")
    write_table(frame, request.out)
    if request.plot is not None:
        draw(frame, bars, request.plot)
    if request.report is not None:
        report(request, pipe, frame, bars, market=asked["market"], joint=table, risk=risk or None)
    skipped = f", {len(frame.attrs['skipped'])} skipped" if frame.attrs["skipped"] else ""
    typer.echo(f"{len(frame)} rows written to {request.out}{skipped}")
    if risk_to is not None:
        typer.echo(write_risk(risk, barriers, risk_to))


def _recorder(pipe: TsfLlmPipeline, model: str, log: Path) -> Any:
    from .record import Recorder

    return Recorder(pipe, model, log)


def run_in_groups(request: Request) -> None:
    """As `run`, in memory that does not grow with the number of tickers."""
    from .whole_market import forecast_market, skipped_file

    engine = {"engine": request.engine, "num_proc": request.num_proc, "ray_address": request.ray_address}
    done = forecast_market(
        request.data,
        request.out,
        model=request.model,
        tickers=names(request.ticker),
        columns=request.columns,
        log=request.log,
        **engine,
        **request.asked(),
    )
    kept = f"; {done.kept} of {done.groups} groups kept from a run that was stopped" if done.kept else ""
    typer.echo(f"{done.rows} rows of {done.tickers} tickers written to {request.out}{kept}")
    if request.log is not None:
        typer.echo(f"{request.log}: {done.logged}")
    if done.skipped:
        typer.echo(f"{len(done.skipped)} skipped: {skipped_file(request.out)} says why")


def read_bars_of(request: Request, pipe: TsfLlmPipeline) -> pd.DataFrame:
    """The bars that are asked about.

    Raises:
        ValueError: they cannot be read, or are of several tickers for a plot of one.
    """
    bars = read_for(pipe.processor, request.data, names(request.ticker), request.columns, strict=request.strict)
    if request.plot is not None and bars[pipe.processor.feature_extractor.series_kind.id].nunique() > 1:
        raise ValueError("--plot draws one ticker: choose it with --ticker")
    return bars


def draw(frame: pd.DataFrame, bars: pd.DataFrame, path: Path) -> None:
    """The fan chart of one ticker, with what came after the origin where the bars know it."""
    from ..evaluation.plots import fan_chart

    past = bars["timestamp"] <= frame["origin"].iloc[0]
    ahead = bars[~past].head(frame["step"].max())
    fan_chart(bars[past], frame, path, realised=ahead if len(ahead) else None)


def report(
    request: Request,
    pipe: TsfLlmPipeline,
    frame: pd.DataFrame,
    bars: pd.DataFrame,
    *,
    market: pd.DataFrame | None,
    **told: Any,
) -> None:
    """The page of the forecast, with a verdict on the tickers that it draws, from bars up to their forecast."""
    from .report import DRAWN, write_report
    from .verdict import own_verdict

    assert request.report is not None
    id = pipe.processor.feature_extractor.series_kind.id
    drawn = bars[bars[id].isin(frame["ticker"].unique()[:DRAWN])]
    options: dict[str, Any] = {
        "seed": request.seed,
        "samples": request.samples or SAMPLES,
        "calibration": request.calibration,
    }
    told["verdict"] = own_verdict(pipe, drawn, horizon=request.horizon, market=market, as_of=request.as_of, **options)
    told["inputs"] = inputs_of(pipe.processor.feature_extractor, bars, market)
    told |= {"model": request.model, "command": shlex.join(["tsf-llm", *sys.argv[1:]])}
    write_report(request.report, frame, bars, pipe=pipe, **told)
    typer.echo(f"report written to {request.report}")
