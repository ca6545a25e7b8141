"""What the page asks of a model, all through the pipeline: a forecast, several together, what it rests on.

Design choices:
* Each answer holds plain values, so that a process which lends a GPU can hand it over, and no model.
* Of more tickers than one, only those that are shown are forecast.
* The market beside the tickers is known of the sample alone; of other prices it is masked, as `tsf-llm forecast` does.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from ...bars_tsf_llm import MIN_BARS, UNIVARIATE, Kind, day_end, kind_of
from ...common.files import write_csv
from ...data_prep.sources import read_bars, read_market
from ...data_prep.tables import SAMPLE
from ...evaluation.explanation.importance import last_forecasts, permutation_importance
from ...evaluation.explanation.probe import Probe
from ...evaluation.portfolio import PORTFOLIO, joint_forecast
from ...pipeline_tsf_llm import TsfLlmPipeline
from ..bars import Barriers, forecast_bars
from ..report import report
from ..verdict import Verdict, own_verdict
from .reading import Refusal, refusing

MOST_AHEAD = 20  # bars
MOST_LEVELS = 8
MOST_TOGETHER = 12  # tickers
SAMPLES, JOINT_SAMPLES = 512, 1024
WINDOWS = 40  # bars of the past that an explanation looks at
SAMPLE_AS_OF = "2013-01-31"  # twenty bars before its end, so that the first picture shows what happened
SAMPLE_TOGETHER = ("AAPL", "GOOG", "IBM", "MSFT")


@dataclass(frozen=True)
class Prices:
    """What a visitor looks at: bars of some tickers, and the market beside them where it is known; or plain series."""

    bars: pd.DataFrame
    market: pd.DataFrame | None = None
    skipped: dict[str, Refusal] = field(default_factory=dict)

    @property
    def kind(self) -> Kind:
        return kind_of(self.bars)

    @property
    def tickers(self) -> list[str]:
        return [str(name) for name in self.bars[self.kind.id].unique()]

    def of(self, tickers: Sequence[str]) -> pd.DataFrame:
        return self.bars[self.bars[self.kind.id].isin(tickers)].reset_index(drop=True)


@cache
def sample() -> Prices:
    """The embedded daily prices, with their market and the VIX of the same years."""
    return Prices(read_bars(SAMPLE), read_market(SAMPLE))


@dataclass(frozen=True)
class Answer:
    """A forecast of one ticker."""

    ticker: str
    rows: pd.DataFrame  # of the pipeline, one per step
    past: pd.DataFrame  # bars up to the origin
    later: pd.DataFrame  # what is known of the bars that were forecast
    risk: dict[str, Any] | None  # of `forecast_bars`; None of a model that knows closes alone
    trained_through: str | None
    out_of_sample: bool | None

    @property
    def kind(self) -> Kind:
        return kind_of(self.past)

    @property
    def is_plain(self) -> bool:
        """Whether it is a plain series."""
        return self.kind is UNIVARIATE

    @property
    def last(self) -> dict[str, Any]:
        """The row of the last step."""
        return {str(name): value for name, value in self.rows.iloc[-1].items()}

    @property
    def close(self) -> float:
        """At the origin; of a plain series its value there."""
        return float(self.past[self.kind.value].iloc[-1])

    @property
    def outcome(self) -> float | None:
        """The close at the last step, where it is known."""
        return float(self.later[self.kind.value].iloc[-1]) if len(self.later) == len(self.rows) else None

    @property
    def bars(self) -> pd.DataFrame:
        """Those up to the origin, and those that followed."""
        return pd.concat([self.past, self.later], ignore_index=True)

    def csv(self) -> bytes:
        """The rows, as `tsf-llm forecast` writes them."""
        with TemporaryDirectory(prefix="tsf-llm-page-") as folder:
            write_csv(self.rows, path := Path(folder) / "forecast.csv")
            return path.read_bytes()


def forecast(
    pipe: TsfLlmPipeline, prices: Prices, ticker: str, *, horizon: int, as_of: str = "", levels: str = ""
) -> Answer:
    """The forecast of one ticker.

    Raises:
        Refusal: bars that cannot be forecast from, a date that is none, levels that are no prices.
    """
    bars, moment, given = prices.of([ticker]), read_date(as_of), read_levels(levels)
    value, plain = prices.kind.value, prices.kind is UNIVARIATE
    if moment is not None and bars["timestamp"].le(moment).sum() < MIN_BARS:
        raise Refusal("bad_before", name=ticker, given=as_of.strip(), plain=plain)
    read: dict[str, Any] = {"as_of": moment, "market": prices.market, "strict": True}
    with refusing(ticker, plain=plain):
        rows = pipe(bars, horizon=horizon, samples=SAMPLES, **read)
        risk = None
        if getattr(pipe.model, "bar_head", None) is not None:
            asked = Barriers(given or _levels_in_reach(rows.iloc[-1]))
            options: dict[str, Any] = {"horizon": horizon, "samples": SAMPLES, "seed": 0, "calibration": "auto"}
            _, risk = forecast_bars(pipe, bars, asked, **options, **read)
    origin, cutoff = rows["origin"].iloc[0], pipe.model.config.trained_through
    observed = bars[bars[value].notna()].sort_values("timestamp")
    return Answer(
        ticker=ticker,
        rows=rows,
        past=observed[observed["timestamp"] <= origin],
        later=observed[observed["timestamp"] > origin].head(horizon),
        risk=risk,
        trained_through=cutoff,
        out_of_sample=None if cutoff is None else bool(origin > day_end(cutoff)),
    )


def read_date(given: str) -> pd.Timestamp | None:
    """The end of that day; None for an empty one.

    Raises:
        Refusal: it is no date.
    """
    given = (given or "").strip()
    if not given:
        return None
    if not re.fullmatch(r"\d{4}-\d{1,2}-\d{1,2}", given):
        raise Refusal("bad_as_of", given=given[:40])
    try:
        return day_end(given)
    except ValueError as error:
        raise Refusal("bad_as_of", given=given[:40]) from error


def read_levels(given: str) -> list[str]:
    """Price levels as they were written, apart by commas, semicolons or blanks.

    >>> read_levels("180, 200.5"), read_levels("")
    (['180', '200.5'], [])

    Raises:
        Refusal: one is no price, or they are too many.
    """
    names = list(dict.fromkeys(re.split(r"[\s,;，；、]+", (given or "").strip(" ,;，；、"))))
    names = [name for name in names if name]
    wrong = [name for name in names if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?", name) or float(name) == 0]
    if wrong or len(names) > MOST_LEVELS:
        raise Refusal("bad_levels", given=(wrong or [given])[0][:40], most=MOST_LEVELS)
    return names


def _levels_in_reach(row: pd.Series) -> list[str]:
    """Round prices near the ends of the 80 % band, for visitors who name none."""
    return list(dict.fromkeys(f"{float(f'{row[name]:.3g}'):.15g}" for name in ("q10", "q90")))


def together(
    pipe: TsfLlmPipeline, prices: Prices, tickers: Sequence[str], *, horizon: int, as_of: str = ""
) -> pd.DataFrame:
    """The last step of the portfolio, in equal parts, and of every ticker, the likeliest best first; simple returns.

    Raises:
        Refusal: fewer than two tickers, or bars that cannot be forecast from.
    """
    if len(prices.tickers) < 2:
        raise Refusal("joint_one")
    if len(tickers) < 2:
        raise Refusal("joint_few")
    options: dict[str, Any] = {"horizon": horizon, "samples": JOINT_SAMPLES, "market": prices.market}
    with refusing(", ".join(tickers)):
        _, table = joint_forecast(pipe, prices.of(tickers[:MOST_TOGETHER]), as_of=read_date(as_of), **options)
    table = table[table["step"] == table["step"].max()]
    whole, each = (table[(table["ticker"] == PORTFOLIO) == flag] for flag in (True, False))
    return pd.concat([whole, each.sort_values("p_best", ascending=False, kind="stable")], ignore_index=True)


def verdict(pipe: TsfLlmPipeline, prices: Prices, ticker: str, *, horizon: int, as_of: str = "") -> Verdict:
    """What forecasts were worth on this ticker before the origin.

    Raises:
        Refusal: as `forecast`.
    """
    with refusing(ticker, plain=prices.kind is UNIVARIATE):
        return own_verdict(
            pipe, prices.of([ticker]), horizon=horizon, market=prices.market, as_of=read_date(as_of), samples=SAMPLES
        )


def report_of(
    pipe: TsfLlmPipeline, prices: Prices, ticker: str, *, horizon: int, as_of: str, levels: str, language: str
) -> str:
    """The forecast and its verdict as one page of HTML, for people who forward it.

    Raises:
        Refusal: as `forecast`.
    """
    found = forecast(pipe, prices, ticker, horizon=horizon, as_of=as_of, levels=levels)
    worth = verdict(pipe, prices, ticker, horizon=horizon, as_of=as_of)
    return report(found.rows, found.bars, pipe=pipe, verdict=worth, risk=found.risk, language=language)


@dataclass(frozen=True)
class Why:
    """What the forecast of the next bar rests on."""

    windows: int
    usual: dict[str, float]  # median, q10 and q90 of this forecast, in percent; of a plain series in usual changes
    groups: list[dict[str, Any]]  # name, percent, percent_ci95, q10 and q90 without it; the most important first


def why(pipe: TsfLlmPipeline, prices: Prices, ticker: str, *, as_of: str = "") -> Why:
    """Each group of features in turn: the loss without it over past bars, and this forecast without it.

    Raises:
        Refusal: as `forecast`, and where no outcome is known yet.
    """
    with refusing(ticker, plain=prices.kind is UNIVARIATE):
        series = pipe.processor.encode(prices.of([ticker]), read_date(as_of), market=prices.market, strict=True)
        probe = Probe.of(pipe, series, most=WINDOWS)
        now = {row["without"]: row for row in last_forecasts(probe.at_last_bars(series))}
        groups = permutation_importance(probe, repeats=1, features=False)["groups"]
    told = {key: now[None][key] for key in ("median", "q10", "q90")}
    rows = [one | {key: now[one["name"]][key] for key in ("q10", "q90")} for one in groups]
    return Why(len(probe.outcome), told, rows)
