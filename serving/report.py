"""One page of a forecast, for people who forward it: what may happen, how sure the model is, and what made it.

Design choices:
* One file that opens offline. Pictures lie in the page, and its content policy refuses all else; the only script is
  that of the page itself, which sorts a table.
* First the answer in words, then the picture, the steps, the honest verdict, and what the forecast was made of.
* Of many tickers a table of all comes first; pictures and steps are of the first `DRAWN`.
* Names of tickers and reasons are text, never markup. What is undefined is a dash.
* The words lie in `report_words.py`, in each language.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..bars_tsf_llm import OHLCV, UNIVARIATE, day_end, kind_of
from ..common.errors import printable
from ..common.figures import drawn, new_figure
from ..common.files import write_text
from ..common.pages import html
from ..common.provenance import release
from ..common.tables import number
from ..evaluation.plots import BANDS, fan_panel, fan_rows
from ..evaluation.portfolio import PORTFOLIO
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..processing_tsf_llm import FORECAST_COLUMNS
from ..training.models import digest, public_name
from .report_words import WORDS, day_in_words, words_of
from .verdict import Verdict

DRAWN = 20  # tickers with a picture and a table of steps
STEP_COLUMNS = ("step", "day", "mean", "median", "50", "80", "90", "up", "zero")
TAILS = ("VaR 95", "ES 95")
LIKELIEST = 10  # tickers of a portfolio
TEMPLATE = Path(__file__).with_name("report.html")


def write_report(path: Path, frame: pd.DataFrame, bars: pd.DataFrame, *, pipe: TsfLlmPipeline, **told: Any) -> Path:
    """Writes the page of a forecast; see `report` for what may be told."""
    write_text(report(frame, bars, pipe=pipe, **told), path)
    return path


def report(
    frame: pd.DataFrame,
    bars: pd.DataFrame,
    *,
    pipe: TsfLlmPipeline,
    model: str = "",
    verdict: Verdict | Mapping[str, Verdict] | None = None,
    inputs: Mapping[str, Sequence[str]] | None = None,
    joint: pd.DataFrame | None = None,
    risk: Mapping[str, Any] | None = None,
    command: str = "",
    made: datetime | None = None,
    language: str = "en",
) -> str:
    """The page, as HTML.

    Args:
        frame: what the pipeline answered to `bars`, with the usual quantiles and names of columns.
        bars: as they were read; those behind a ticker's origin are drawn as what happened.
        model: what was asked for, a name or a folder; by default what the model itself remembers.
        verdict: of all tickers, or of each by its name.
        inputs: `used`, `masked` and `ignored`, in words.
        joint: the table of `joint_forecast`.
        risk: the answers of `forecast_bars` about price levels.
        command: that makes the forecast again.
        made: when, by default now.

    Raises:
        ValueError: an empty forecast, other columns than the usual ones, or a language that is not spoken.
    """
    if language not in WORDS:
        raise ValueError(f"language={language!r}: a report speaks {', '.join(WORDS)}")
    if missing := [name for name in FORECAST_COLUMNS if name not in frame]:
        raise ValueError(f"the forecast has no column(s) {missing}: leave its quantiles and column names as they are")
    if frame.empty:
        raise ValueError("the forecast has no rows: there is nothing to report")
    plain = kind_of(bars) is UNIVARIATE
    words = words_of(language, plain=plain)
    histories = _histories(bars, [*frame["ticker"].unique()])
    tickers = [_ticker(one, histories[str(name)], words) for name, one in frame.groupby("ticker", sort=False)]
    verdicts = verdict if isinstance(verdict, Mapping) else {}
    for one in tickers[:DRAWN]:
        one["chart"], one["realised"] = _chart(one["rows"], one["history"], words)
        one["verdict"] = _verdict(verdicts.get(one["name"]), words)
    origin, horizon = frame["origin"].max(), frame["step"].max()
    several, moment = len(tickers) > 1, made or datetime.now(UTC)
    ahead = words["ahead_each" if frame["origin"].nunique() > 1 else "ahead"]
    page = TEMPLATE.read_text(encoding="utf-8")
    [script] = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    return html(
        TEMPLATE,
        words=words,
        script=_hash(script),
        title=words["many"].format(count=len(tickers)) if several else tickers[0]["name"],
        about=ahead.format(
            bars=words["bars"][int(horizon > 1)].format(horizon=horizon), origin=day_in_words(origin, language)
        ),
        made=words["made"].format(moment=f"{moment:%Y-%m-%d %H:%M}"),
        overview=tickers if several else [],
        overview_keys=["ticker", "origin", "last", "median", *([] if plain else ["move"]), "range", "up"],
        first=words["first"].format(shown=DRAWN, count=len(tickers)) if len(tickers) > DRAWN else "",
        tickers=tickers[:DRAWN],
        verdict=_verdict(verdict if isinstance(verdict, Verdict) else None, words),
        has_verdict=verdict is not None,
        portfolio=None if joint is None else _portfolio(joint, words, language),
        risk=None if risk is None else _risk(risk, words),
        facts=_facts(pipe, model, frame, inputs, words),
        skipped={printable(name): printable(str(why)) for name, why in (frame.attrs.get("skipped") or {}).items()},
        command=printable(command),
    )


def _hash(script: str) -> str:
    """What the content policy names the page's script by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _histories(bars: pd.DataFrame, names: Sequence[Any]) -> dict[str, pd.DataFrame]:
    """The bars of each of these tickers; bars without a column of names are those of the only one."""
    id = kind_of(bars).id
    parts = {str(name): one for name, one in bars.groupby(id, sort=False)} if id in bars else {str(names[0]): bars}
    if lost := [str(name) for name in names if str(name) not in parts]:
        raise ValueError(f"the bars have no ticker {lost[0]}: pass those that the forecast was made from")
    return parts


# --- one ticker ----------------------------------------------------------------------------------------------------


def _ticker(rows: pd.DataFrame, history: pd.DataFrame, words: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a ticker."""
    kind, language = kind_of(history), _language(words)
    known, rows = fan_rows(history.sort_values("timestamp"), rows)
    last, end = float(known[kind.value].iloc[-1]), rows.iloc[-1]
    values = [last, *rows[["q05", "q25", "q50", "q95"]].to_numpy().ravel()]
    form, form_mean = (_form(values, whole=whole) for whole in (_are_whole(values), False))
    name, what = printable(str(end["ticker"])), words["close" if kind is OHLCV else "value"]
    is_price = kind is OHLCV
    move, *band = (_relative(end[key], last, is_price=is_price) for key in ("q50", "q10", "q90"))
    low, high = (np.nan if one is None else one for one in band)
    told = {
        "day": day_in_words(end["timestamp"], language),
        "ticker": name,
        "low": form(end["q10"]),
        "high": form(end["q90"]),
        "median": form(end["q50"]),
        "mean": form_mean(end["mean"]),
        "move": "" if move is None else f" ({move:+.1f}\u00a0%)",
        "what": what,
        "last": form(last),
    }
    sure = np.isfinite(end["q50"])
    first = "by" if sure else "one_number" if np.isfinite(end["mean"]) else "classes"
    return {
        "name": name,
        "rows": rows,
        "history": history,
        "headline": words[first].format(**told),
        "middle": words["middle"].format(**told) if sure else "",
        "up": words["up"].format(**told),
        "p_up": _defined(end["p_up"]),
        "last": (form(last), last),
        "median": (form(end["q50"]), _defined(end["q50"])),
        "move": (number(move, "+.2f"), move),
        "range": (f"{low:+.1f} … {high:+.1f}" if low < high else "-", _defined(high - low))
        if is_price
        else (_between(end, "q10", "q90", form), _defined(end["q90"] - end["q10"])),
        "origin": _day(rows["origin"].iloc[0]),
        "caption": words["chart"].format(shown=len(known), **told),
        "headings": [words["columns"][key] for key in STEP_COLUMNS if key != "zero" or "p_zero" in rows],
        "steps": [_step(row, form, form_mean) for row in rows.to_dict("records")],
    }


def _step(row: Mapping[Any, Any], form: Any, form_mean: Any) -> list[str]:
    bands = [_between(row, low, high, form) for _, low, high, _ in BANDS[::-1]]
    cells = [str(row["step"]), _day(row["timestamp"]), form_mean(row["mean"]), form(row["q50"]), *bands]
    chances = [row[name] for name in ("p_up", "p_zero") if name in row]
    return [*cells, *(number(_defined(p), ".0f", 100) + (" %" if np.isfinite(p) else "") for p in chances)]


def _between(row: Mapping[Any, Any], low: str, high: str, form: Any) -> str:
    return f"{form(row[low])} … {form(row[high])}" if np.isfinite(row[low]) else "-"


def _are_whole(values: Sequence[float]) -> bool:
    known = np.array([one for one in values if np.isfinite(one)])
    return bool(len(known) and (known == known.round()).all())


def _chart(rows: pd.DataFrame, history: pd.DataFrame, words: Mapping[str, Any]) -> tuple[str, bool]:
    """The picture, small enough for a phone, and whether it shows what happened. Its words stand around it."""
    history = history[history[kind_of(history).value].notna()].sort_values("timestamp")
    known, rows = fan_rows(history, rows)
    figure, [axes] = new_figure(width=5.4, height=3.0)
    ahead = history[history["timestamp"] > rows["origin"].iloc[0]].head(len(rows))
    fan_panel(axes, known, rows, realised=ahead if len(ahead) else None, day=words["day"], month=words["month"])
    return drawn(figure), len(ahead) > 0


def _form(values: Sequence[float], *, whole: bool = False) -> Any:
    """Numbers of one ticker with as many decimals as their size asks for, `whole` ones with none; a dash for what is
    undefined.

    >>> _form([187.4])(187.44), _form([1.0832])(1.08321), _form([51234.5])(51234.5), _form([1.0])(float("nan"))
    ('187.44', '1.0832', '51,234.50', '-')
    """
    known = [abs(one) for one in values if np.isfinite(one)]
    largest = max(known, default=0.0)
    decimals = 0 if whole else 2 if largest >= 10 or largest == 0 else int(min(4 - np.floor(np.log10(largest)), 12))
    return lambda value: number(_defined(value), f",.{decimals}f")


def _relative(value: float, last: float, *, is_price: bool) -> float | None:
    """Percent above the last close; of a plain series, which may be 0, nothing."""
    return 100 * (float(value) / last - 1) if is_price and np.isfinite(value) else None


def _defined(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _day(moment: Any) -> str:
    moment = pd.Timestamp(moment)
    return f"{moment:%Y-%m-%d}" if moment == moment.normalize() else f"{moment:%Y-%m-%d %H:%M}"


def _language(words: Mapping[str, Any]) -> str:
    return words["lang"].partition("-")[0]


# --- the rest ------------------------------------------------------------------------------------------------------


def _verdict(verdict: Verdict | None, words: Mapping[str, Any]) -> dict[str, str] | None:
    if verdict is None:
        return None
    standing = verdict.finding if verdict.finding in ("better", "worse") else "even"
    return {
        "standing": standing,
        "finding": words["findings"][verdict.finding],
        "sentence": printable(_judged(verdict, words["judged"])),
    }


def _judged(verdict: Verdict, words: Mapping[str, Any]) -> str:
    """The verdict's own sentences, or those of another language from its figures."""
    if not words or not verdict.rows:
        return "" if words else verdict.sentence
    skill = next((row.get("skill") for row in verdict.rows if row["model"] == verdict.strongest), None)
    told = {"coverage": 100 * verdict.rows[0]["coverage_80"], "through": verdict.trained_through}
    told |= {key: getattr(verdict, key) for key in ("start", "end", "dates", "horizon", "strongest")}
    sentences = [words["again"], words["beside"] if skill is not None else "", words["coverage"]]
    told["skill"] = 100 * (skill or 0.0)
    return "".join(one.format(**told) for one in (*sentences, words["seen"][verdict.out_of_sample]))


def _portfolio(joint: pd.DataFrame, words: Mapping[str, Any], language: str) -> dict[str, Any]:
    """The portfolio at every step, and the tickers likeliest to be the best at the last one; returns in percent."""
    named, columns = words["joint_columns"], words["columns"]
    steps = joint[joint["ticker"] == PORTFOLIO]
    ends = joint[(joint["ticker"] != PORTFOLIO) & (joint["step"] == joint["step"].max())]

    def percent(row: Mapping[Any, Any], *keys: str) -> list[str]:
        return [number(_defined(row[key]), ".2f", 100) for key in keys]

    keys = ("mean", "q05", "q50", "q95", "p_loss", "var_95", "es_95")
    best = ends.sort_values("p_best", ascending=False, kind="stable").head(LIKELIEST)
    return {
        "headings": [*(columns[key] for key in ("step", "day", "mean")), "5 %", "50 %", "95 %", named["loss"], *TAILS],
        "cells": [
            [str(row["step"]), day_in_words(row["timestamp"], language), *percent(row, *keys)]
            for row in steps.to_dict("records")
        ],
        "best_headings": [columns["ticker"], named["weight"], columns["mean"], named["loss"], named["best"]],
        "best": [
            [printable(str(row["ticker"])), *percent(row, "weight", "mean", "p_loss", "p_best")]
            for row in best.to_dict("records")
        ],
    }


def _risk(risk: Mapping[str, Any], words: Mapping[str, Any]) -> dict[str, Any]:
    """Probabilities and the drawdown of each ticker, in percent; a question that was not asked has no column."""
    named, rows = words["risk_columns"], risk["tickers"][:DRAWN]
    columns: dict[str, Any] = {words["columns"]["ticker"]: lambda row: printable(str(row["ticker"]))}
    for level in rows[0]["p_touch"]:
        columns[named["touch"].format(level=level)] = lambda row, level=level: row["p_touch"][level]
    if rows[0]["p_stop_first"] is not None:
        columns[named["stop"].format(stop=risk["stop"])] = lambda row: row["p_stop_first"]
        columns[named["target"].format(target=risk["target"])] = lambda row: row["p_target_first"]
    columns[named["drawdown"]] = lambda row: row["expected_max_drawdown"]

    def cell(value: Any) -> str:
        return value if isinstance(value, str) else f"{number(value, '.1f', 100)} %"

    return {"headings": [*columns], "cells": [[cell(column(row)) for column in columns.values()] for row in rows]}


def _facts(
    pipe: TsfLlmPipeline,
    model: str,
    frame: pd.DataFrame,
    inputs: Mapping[str, Sequence[str]] | None,
    words: Mapping[str, Any],
) -> dict[str, str]:
    named, through = words["facts"], pipe.model.config.trained_through
    name = public_name(model or str(pipe.model.config.name_or_path or ""))
    told = {
        named["model"]: printable(name) or words["unknown"],
        named["digest"]: digest(pipe.model),
        named["trained"]: through or words["unknown"],
        named["sample"]: _sample(frame, through, words),
    }
    for key in ("used", "masked", "ignored"):
        if inputs is not None:
            told[named[key]] = printable(", ".join(map(str, inputs.get(key) or ()))) or words["none"]
    return told | {named["version"]: release("tsf-llm") or words["unknown"]}


def _sample(frame: pd.DataFrame, through: str | None, words: Mapping[str, Any]) -> str:
    """Whether the model has seen the dates that it forecasts from."""
    if through is None:
        return words["untold"]
    origins = frame.groupby("ticker", sort=False)["origin"].first()
    seen = int((origins <= day_end(through)).sum())
    if 0 < seen < len(origins):
        return words["mixed"].format(count=seen, total=len(origins))
    return words["in" if seen else "out"]
