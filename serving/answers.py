"""What a chat assistant asks of a model, and its answers: each forecast with its worth, and with what it was made of.

Design choices:
* Nothing here computes: the answers are those of the pipeline, of `own_verdict`, of the explanation and of the audit.
* A question is bounded before the work begins: letters, bars, series, steps, forecasts of a verdict.
* Bars are read as every file is, by `data_prep/sources.py`, whichever way they came.
"""

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..audit_tsf_llm import audit_features, bound_in_words
from ..bars_tsf_llm import OHLCV, day_end
from ..common.errors import OF_THE_INPUT, printable
from ..data_prep.columns import Columns
from ..data_prep.sources import read_for
from ..data_prep.tables import open_table
from ..evaluation.explanation.explain import explanation
from ..evaluation.significance import FEWEST_DATES
from ..pipeline_tsf_llm import TsfLlmPipeline
from .inputs import inputs_of
from .options import names
from .verdict import Verdict, own_verdict

MOST_LETTERS = 4_000_000  # of bars in a question
MOST_BYTES = 64 * 2**20  # of a file
MOST_BARS = 40_000
MOST_SERIES = 20
MOST_STEPS = 60  # ahead, but of a head that knows more
AUDITED = 1_000  # last bars of each series
FORECASTS_AGAIN = 240  # of a verdict, of all series together
DATES, EXPLAINED = 120, 12  # of a verdict within a forecast, of an explanation
NOTICE = "A distribution of what may come, from past prices alone. No investment advice."
SAMPLE_ENDS = "The sample is for trying: it ends in February 2013."
COUNTED = ("features", "percent", "percent_ci95")
NAME = r"^[^\x00-\x1f\x7f]{1,64}$"
NAMES = r"[^,\s]"  # not empty
Cell = str | float | int | None


class Data(BaseModel):
    """Where the bars come from: exactly one of bars, file, symbol, sample."""

    model_config = ConfigDict(extra="forbid")

    bars: str | list[dict[str, Cell]] | None = Field(
        None,
        description="The bars themselves, oldest first: CSV text with a header line, or records. Prices: timestamp, "
        "open, high, low, close, [volume, adj_close, ticker]; a plain series: timestamp, value, [series_id]. Give 200 "
        "bars or more, better 1,000: the verdict needs them.",
    )
    file: str | None = Field(
        None, description="CSV or parquet file on the server's machine, where it was started with --allow-files."
    )
    symbol: str | None = Field(
        None,
        pattern=NAMES,
        description="Symbol(s) as Yahoo Finance writes them, commas between, where the server has --source.",
    )
    sample: str | None = Field(
        None,
        pattern=NAMES,
        description="Ticker of the embedded sample, as AAPL: real daily prices that end in February 2013.",
    )
    only: str | None = Field(
        None, pattern=NAMES, description="Of bars or a file with many series: these, commas between."
    )
    static: str | list[dict[str, Cell]] | None = Field(
        None,
        description="Plain series: what never changes of each, as its store: CSV text or records, a row per series.",
    )
    name: str | None = Field(None, pattern=NAME, description="What to call the series, where the bars do not name it.")
    dates: Literal["dmy", "mdy", "ymd"] | None = Field(None, description="Order of numeric dates, if ambiguous.")
    decimal: Literal["point", "comma"] | None = Field(None, description="Decimal mark of the numbers, if ambiguous.")
    id: str | None = Field(None, description="Column that names the series, if its name is unusual.")
    time: str | None = Field(None, description="Column of times, if its name is unusual.")
    value: str | None = Field(None, description="Plain series: the column to forecast, if there are several.")
    resample: str | None = Field(
        None,
        pattern=NAME,
        description="Plain series in uneven steps: the rule that makes the rows even, as 1h:mean, 1d:sum, last.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> "Data":
        given = [name for name in ("bars", "file", "symbol", "sample") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of bars, file, symbol, sample; here are {given or 'none'}")
        if self.resample is not None and given[0] in ("symbol", "sample"):
            raise ValueError(f"resample is for plain series, and a {given[0]} has prices: leave it out")
        return self


class Step(BaseModel):
    """The distribution of the close (of the value) one step ahead."""

    step: int
    date: str
    mean: float | None
    p_up: float | None = Field(description="Probability to be above the last price.")
    p_zero: float | None = Field(None, description="Probability of zero, of a model that gives it one of its own.")
    quantiles: dict[str, float] = Field(description="q05 to q95; q10 and q90 bound the 80 % band.")


class SeriesForecast(BaseModel):
    """What may come of one series."""

    name: str
    sentence: str = Field(description="The answer in plain words.")
    last_price: float
    last_date: str
    horizon: int
    expected_move: float | None = Field(description="Mean less last price, in units of price.")
    expected_move_percent: float | None
    p_up: float | None
    band_80: tuple[float, float] | None = Field(description="Of the last step.")
    out_of_sample: bool | None = Field(description="False: the model has seen prices of this date and later ones.")
    steps: list[Step]


class Inputs(BaseModel):
    """What the forecast was made of."""

    used: list[str]
    ignored: list[str] = Field(description="Columns of the bars that the model does not read.")
    masked: list[str] = Field(description="What the model can read and was not given.")


class Forecast(BaseModel):
    forecasts: list[SeriesForecast]
    verdict: Verdict
    inputs: Inputs
    trained_through: str | None
    skipped: dict[str, str]
    notes: list[str]
    notice: str = NOTICE


class Evaluation(BaseModel):
    verdict: Verdict
    inputs: Inputs
    notes: list[str]


class Influence(BaseModel):
    group: str
    features: int
    percent: float = Field(description="By how much the loss rises when the group's history is another date's.")
    percent_ci95: tuple[float, float] | None


class Explanation(BaseModel):
    sentence: str
    groups: list[Influence]
    last_forecast: list[dict[str, Any]] = Field(description="Of the next bar, with all inputs, then without a group.")
    unit: str
    dates: int
    start: str
    end: str
    out_of_sample: bool | None
    notes: list[str]


class Audit(BaseModel):
    sentence: str
    passed: bool
    features: int
    bars: int
    leaks: list[dict[str, Any]]
    tests: dict[str, bool]
    notes: list[str]


@dataclass(frozen=True)
class Answers:
    """The answers of one model, which may read a market (bars, or a `market_state` of them); bars come as text, and
    from a folder and a source of symbols where there are such."""

    pipe: TsfLlmPipeline
    market: pd.DataFrame | None = None
    folder: Path | None = None
    symbols: Any = None  # a `serving.symbols.Symbols`

    def forecast(self, data: Data, *, horizon: int, as_of: str | None = None, seed: int = 0) -> Forecast:
        """The forecasts, and the verdict on them. Raises ValueError for what cannot be read or forecast."""
        bars, inputs, notes = self.read(data)
        pipe, dates = self.pipe, again(self.pipe, bars, horizon, most=DATES)
        asked = pipe.preprocess(bars, as_of=as_of, market=self.market, horizon=horizon)
        frame, batch = pipe.postprocess(pipe.forward(asked, horizon=horizon, seed=seed)), asked["batch"]
        options: dict[str, Any] = {"market": self.market, "as_of": as_of, "seed": seed, "most": dates}
        verdict = own_verdict(pipe, bars, horizon=horizon, **options)
        cutoff, is_price, told = pipe.model.config.trained_through, pipe.processor.kind is OHLCV, []
        by_name = dict(iter(frame.groupby("ticker", sort=False)))
        for name, origin, last in zip(batch["ticker"], batch["origin"], np.asarray(batch["last_close"]), strict=True):
            unseen = None if cutoff is None else bool(origin > day_end(cutoff))
            steps = [_step(row) for row in by_name[name].to_dict("records")]
            told.append(_series(name, origin, float(last), steps, unseen, verdict, is_price=is_price))
        return Forecast(
            forecasts=told,
            verdict=verdict,
            inputs=inputs,
            trained_through=cutoff,
            skipped=dict(frame.attrs["skipped"]),
            notes=notes,
        )

    def evaluate(self, data: Data, *, horizon: int, dates: int) -> Evaluation:
        bars, inputs, notes = self.read(data)
        most = again(self.pipe, bars, horizon, most=dates)
        verdict = own_verdict(self.pipe, bars, horizon=horizon, market=self.market, most=most)
        return Evaluation(verdict=verdict, inputs=inputs, notes=notes)

    def explain(self, data: Data, *, seed: int = 0) -> Explanation:
        """Groups of features alone: each feature by itself takes minutes."""
        bars, _, notes = self.read(data)
        options = {"market": self.market, "seed": seed, "features": False}
        found = explanation(self.pipe, bars, most=EXPLAINED, repeats=1, **options)
        groups = [Influence(group=one["name"], **{key: one[key] for key in COUNTED}) for one in found["groups"]]
        sure = [one.group for one in groups if one.percent_ci95 is not None and one.percent_ci95[0] > 0]
        say = f"the forecasts rest on {', '.join(sure)}" if sure else "no group of inputs matters by more than chance"
        return Explanation(
            sentence=f"On {found['dates']} dates, {found['start']} to {found['end']}, {say}.",
            groups=groups,
            last_forecast=found["last_bars"],
            **{name: found[name] for name in ("unit", "dates", "start", "end", "out_of_sample")},
            notes=notes,
        )

    def audit(self, data: Data, *, features: Literal["model", "table"] = "model") -> Audit:
        """Of the last bars of each series, which bounds its time."""
        bars, _, notes = self.read(data)
        some = bars.groupby(self.pipe.processor.kind.id, sort=False).tail(AUDITED).reset_index(drop=True)
        audit = audit_features if features == "table" else self.pipe.processor.audit
        bars_of_market = self.market if self.market is not None and OHLCV.id in self.market else None
        report = audit(some, market=bars_of_market)
        tests = {name: one for name, one in report.items() if isinstance(one, dict) and "passed" in one}
        say = "no feature knows the future" if report["passed"] else "a test failed: a feature may know the future"
        return Audit(
            sentence=f"Of {report['features']} features on {report['bars']:,} bars: {say}. {_found_with(report)}",
            passed=report["passed"],
            features=report["features"],
            bars=report["bars"],
            leaks=[leak for one in tests.values() for leak in one.get("leaks", [])],
            tests={name: one["passed"] for name, one in tests.items()},
            notes=notes,
        )

    def read(self, data: Data) -> tuple[pd.DataFrame, Inputs, list[str]]:
        """The bars, what of them is read, and what to say of them.

        Raises:
            ValueError: what is no readable bars, too many, or a source that this server does not have.
        """
        with tempfile.TemporaryDirectory() as folder:
            try:
                bars, columns, notes = self._bars(data, Path(folder))
            except OF_THE_INPUT as error:
                said = str(error).replace(f"{folder}/bars.csv", "data.bars")
                raise ValueError(said.replace(f"{folder}/static.csv", "data.static")) from error
        skipped = bars.attrs.get("skipped", {}).items()
        bars.attrs["skipped"] = {name: why.replace(f"{folder}/bars.csv", "data.bars") for name, why in skipped}
        kind = self.pipe.processor.kind
        count = bars[kind.id].nunique()
        if len(bars) > MOST_BARS or count > MOST_SERIES:
            raise ValueError(
                f"{len(bars):,} bars of {count} series: give {MOST_BARS:,} bars of {MOST_SERIES} series or "
                "fewer, or say with data.only which to take"
            )
        if data.name is not None and count == 1:
            bars = bars.assign(**{kind.id: data.name})
        extractor, named = self.pipe.processor.feature_extractor, (data.id, data.time, data.value)
        return bars, Inputs(**inputs_of(extractor, bars, self.market, columns=columns, named=named)), notes

    def _bars(self, data: Data, folder: Path) -> tuple[pd.DataFrame, list[str], list[str]]:
        if data.sample is not None:
            return read_for(self.pipe.processor, "sample", names(data.sample)), [], [SAMPLE_ENDS]
        if data.symbol is not None:
            return self._of_symbols(data.symbol)
        path = folder / "bars.csv" if data.bars is not None else self._file(str(data.file))
        if data.bars is not None:
            _write(data.bars, path)
        columns = Columns(data.value, data.id, data.time, data.dates, data.decimal, resample=data.resample)
        if data.static is not None:
            _write(data.static, folder / "static.csv")
            columns = replace(columns, static_file=folder / "static.csv")
        bars = read_for(self.pipe.processor, str(path), names(data.only), columns)
        return bars, [*open_table(path).columns], []

    def _of_symbols(self, symbol: str) -> tuple[pd.DataFrame, list[str], list[str]]:
        if self.symbols is None:
            raise ValueError(
                "this server looks up no symbols (start it with --source yahoo): give data.bars, or data.sample to try"
            )
        if self.pipe.processor.kind is not OHLCV:
            raise ValueError("the model of this server reads plain series, and symbols have prices: give data.bars")
        found = self.symbols.recent(symbol)
        notes = [f"{name}: bars up to {facts['as_of']}" for name, facts in found.symbols.items()]
        notes += [f"{name}: {facts['stale']}" for name, facts in found.symbols.items() if "stale" in facts]
        return found.bars, [], notes + [f"{name}: {why}" for name, why in found.skipped.items()]

    def _file(self, name: str) -> Path:
        if self.folder is None:
            raise ValueError("this server reads no files (start tsf-llm mcp with --allow-files DIR): give data.bars")
        path = (self.folder / name).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.is_file():
            raise ValueError(f"{name}: no file in the folder that this server reads")
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{name}: more than {MOST_BYTES // 2**20} MB; give a smaller file")
        return path


def _write(bars: str | list[dict[str, Cell]], path: Path) -> None:
    text = bars if isinstance(bars, str) else pd.DataFrame(bars).to_csv(index=False)
    if len(text) > MOST_LETTERS:
        raise ValueError(f"data.bars has {len(text):,} letters: give {MOST_LETTERS:,} or fewer, the last bars suffice")
    path.write_text(text, encoding="utf-8")


def again(pipe: TsfLlmPipeline, bars: pd.DataFrame, horizon: int, *, most: int) -> int:
    """How many dates a verdict takes, which bounds its time.

    Raises:
        ValueError: steps beyond the laws of the model, of which paths would take too long.
    """
    count = bars[pipe.processor.kind.id].nunique()
    if not pipe.model.can_generate() or horizon <= pipe.law_reach:
        return max(FEWEST_DATES, min(most, FORECASTS_AGAIN // count))
    if count * horizon > MOST_STEPS:
        raise ValueError(
            f"{count} series x {horizon} bars, of which paths are sampled: ask for {MOST_STEPS // horizon} series or "
            f"fewer at once, or for {pipe.law_reach or 1} bar(s) ahead"
        )
    return max(FEWEST_DATES, min(most, FORECASTS_AGAIN // (count * horizon)))


def _step(row: dict[str, Any]) -> Step:
    quantiles = {name: _number(value) for name, value in row.items() if re.fullmatch(r"q\d\d", name)}
    return Step(
        step=row["step"],
        date=_date(row["timestamp"]),
        mean=_number(row["mean"]),
        p_up=_number(row["p_up"]),
        p_zero=_number(row.get("p_zero")),
        quantiles={name: value for name, value in quantiles.items() if value is not None},
    )


def _series(
    name: str,
    origin: pd.Timestamp,
    last: float,
    steps: list[Step],
    unseen: bool | None,
    verdict: Verdict,
    *,
    is_price: bool,
) -> SeriesForecast:
    end = steps[-1]
    move = None if end.mean is None else end.mean - last
    band = (end.quantiles["q10"], end.quantiles["q90"]) if {"q10", "q90"} <= {*end.quantiles} else None
    told = [f"80 % for {band[0]:.6g} to {band[1]:.6g}" if band else "no distribution"]
    told += [] if end.p_up is None else [f"P({'up' if is_price else 'above it'}) {100 * end.p_up:.0f} %"]
    told += [] if end.p_zero is None else [f"P(zero) {100 * end.p_zero:.0f} %"]
    if move is not None:
        told.append(f"the mean {end.mean:.6g}" + (f" ({100 * move / last:+.2f} %)" if is_price else ""))
    said, now = ", ".join(told), f"{printable(name)} was at {last:.6g} on {_date(origin)}"
    return SeriesForecast(
        name=name,
        sentence=f"{now}. For {end.date}, {end.step} bar(s) ahead, the model says: {said}. {worth(verdict)}",
        last_price=float(f"{last:.6g}"),
        last_date=_date(origin),
        horizon=end.step,
        expected_move=_number(move),
        expected_move_percent=_number(100 * move / last) if move is not None and is_price else None,
        p_up=end.p_up,
        band_80=band,
        out_of_sample=unseen,
        steps=steps,
    )


def worth(verdict: Verdict) -> str:
    """The verdict in one short sentence, for the end of an answer."""
    if verdict.finding == "too few dates":
        return "There are too few earlier dates to say what this is worth."
    found = {
        "better": f"better than the strongest baseline ({verdict.strongest})",
        "no edge": f"no better than the strongest baseline ({verdict.strongest}): no edge",
        "worse": f"worse than the strongest baseline ({verdict.strongest})",
    }[verdict.finding]
    seen = "" if verdict.out_of_sample else ", and the model may have seen them, so this is no test"
    if verdict.out_of_sample is False:
        seen = ", but the model has seen some of them or all, so this is no test"
    held = f"their 80 % bands held {100 * verdict.rows[0]['coverage_80']:.0f} % of the outcomes"
    return f"On {verdict.dates} earlier dates such forecasts were {found}; {held}{seen}."


def _number(value: Any) -> float | None:
    """With six digits; None for what is undefined."""
    return None if value is None or not np.isfinite(value) else float(f"{value:.6g}")


def _date(moment: Any) -> str:
    moment = pd.Timestamp(moment)
    return str(moment.date()) if moment == moment.normalize() else str(moment)


def _found_with(report: dict[str, Any]) -> str:
    words = bound_in_words(report)
    return f"{words[0].upper()}{words[1:]}."
