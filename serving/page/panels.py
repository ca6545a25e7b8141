"""Answers as HTML: figures above the chart, what stands below it, and the tables of the tabs.

Whatever a visitor wrote or uploaded goes through templates that escape it. Numbers of undefined value are a dash."""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...common.pages import html
from ..verdict import Verdict
from .answers import SAMPLES, Answer, Prices, Why
from .reading import Refusal
from .words import WORDS, say

HERE = Path(__file__).parent
DASH = "–"  # noqa: RUF001


def head(answer: Answer, language: str) -> str:
    """Figures of the last step, and, where it is known, the outcome."""
    row, word = answer.last, partial(say, language, plain=answer.is_plain)
    ahead = bars(len(answer.rows), language, plain=answer.is_plain)
    about = word("about", ticker=answer.ticker, bars=ahead, origin=day(row["origin"]), target=day(row["timestamp"]))
    tiles = (_of_series if answer.is_plain else _of_prices)(answer, word)
    return html(HERE / "answer.html", say=word, about=about, tiles=tiles, known=len(answer.later))


def _of_prices(answer: Answer, word: Callable[..., str]) -> list[dict[str, Any]]:
    """Chance, move, band, and the outcome or the last close."""
    row, close, outcome = answer.last, answer.close, answer.outcome
    percents = f"{percent(row['q10'] / close - 1, sign=True)} … {percent(row['q90'] / close - 1, sign=True)}"
    move = {"figure": percent(row["mean"] / close - 1, sign=True), "small": price(row["mean"] - close, sign=True)}
    band = {"figure": f"{price(row['q10'])} {DASH} {price(row['q90'])}", "small": percents}
    if outcome is None:
        last = {"name": word("close"), "figure": price(close), "small": day(row["origin"])}
    else:
        where = "inside" if row["q10"] <= outcome <= row["q90"] else "outside"
        last = {"name": word("happened_tile"), "figure": percent(outcome / close - 1, sign=True)}
        last |= {"small": f"{price(outcome)}, {word(where)}", "look": "tsf-happened"}
    return [
        {"name": word("p_up"), "figure": chance(row["p_up"]), "share": share(row["p_up"]), "coin": True},
        {"name": word("move"), **move},
        {"name": word("band"), **band, "look": "tsf-wide"},
        last,
    ]


def _of_series(answer: Answer, word: Callable[..., str]) -> list[dict[str, Any]]:
    """What is expected in all, the band of the last step, chances, and the outcomes or the last value."""
    row, rows, count = answer.last, answer.rows, len(answer.rows)
    before = answer.past["value"].tail(count)
    ahead = word("one_bar" if count == 1 else "many_bars", count=count)
    total = {"name": word("total", bars=ahead), "figure": amount(rows["mean"].sum())}
    tiles = [
        {**total, "small": word("total_before", value=amount(before.sum())) if len(before) == count else ""},
        {
            "name": word("band"),
            "figure": f"{amount(row['q10'])} {DASH} {amount(row['q90'])}",
            "small": word("band_day", day=day(row["timestamp"])),
        },
        {"name": word("p_up"), "figure": chance(row["p_up"]), "share": share(row["p_up"])},
    ]
    if "p_zero" in rows:
        tiles.append({"name": word("p_zero"), "figure": chance(row["p_zero"]), "share": share(row["p_zero"])})
    if len(answer.later):
        known = rows.head(len(answer.later))
        value = answer.later["value"].to_numpy()
        inside = int(((known["q10"] <= value) & (value <= known["q90"])).sum())
        told = word("held_of", inside=inside, count=len(value))
        tiles.append(
            {"name": word("happened_tile"), "figure": amount(value.sum()), "small": told, "look": "tsf-happened"}
        )
    else:
        tiles.append({"name": word("close"), "figure": amount(answer.close), "small": day(row["origin"])})
    return tiles


def below(answer: Answer, prices: Prices, language: str) -> str:
    """Price levels, and what to know of the dates and the tickers."""
    [risk] = answer.risk["tickers"] if answer.risk else [{"p_touch": {}}]
    touches = [
        {"level": level, "share": share(value), "chance": chance(value)} for level, value in risk["p_touch"].items()
    ]
    notes = []
    if answer.out_of_sample is False:
        notes.append(say(language, "in_sample", plain=answer.is_plain, cutoff=answer.trained_through))
    if prices.skipped:
        notes.append(say(language, "left_out", names=", ".join(list(prices.skipped)[:10])))
    return html(
        HERE / "below.html",
        say=partial(say, language),
        touches=touches,
        drawdown=percent(-risk["expected_max_drawdown"], sign=True) if answer.risk else "",
        touch_note=say(language, "touch_note", samples=SAMPLES),
        notes=notes,
    )


def link(answer: Answer, language: str) -> str:
    """The forecast as a file that is part of the page: nothing is left on the server."""
    name = file_name(answer.ticker, day(answer.last["origin"])) + ".csv"
    csv = base64.b64encode(answer.csv()).decode("ascii")
    return html(HERE / "link.html", name=name, csv=csv, label=say(language, "csv"))


def file_name(ticker: str, when: Any) -> str:
    """
    >>> file_name("^GSPC/x", "2024-01-31")
    '_GSPC_x_2024-01-31'
    """
    return re.sub(r"[^\w.-]+", "_", f"{ticker}_{when}")


def text(words: str) -> str:
    """Words that hold names of columns, escaped."""
    return html(HERE / "text.html", text=words)


def message(text: str, tone: str = "warn") -> str:
    return html(HERE / "message.html", text=text, tone=tone) if text else ""


def refused(refusal: Refusal, language: str) -> str:
    return message(refusal.said(language))


def of_verdict(found: Verdict, language: str, *, plain: bool = False) -> str:
    """In our words: those of the verdict itself are English alone."""
    names = {"model": "model", **{row["model"]: row["model"] for row in found.rows}}
    key = {"no edge": "no_edge", "too few dates": "too_few"}.get(found.finding, found.finding)
    lead = say(language, f"verdict_{key}", name=_named(language, names.get(found.strongest or "", "random_walk")))
    seen = {None: "unknown_seen", True: "unseen", False: "seen"}[found.out_of_sample]
    told = {"dates": found.dates, "bars": bars(found.horizon, language, plain=plain)}
    told |= {"start": found.start, "end": found.end}
    lines = [say(language, "verdict_dates", **told), say(language, seen, cutoff=found.trained_through)]
    scale = 1 if plain else 100
    rows = [
        [_named(language, row["model"]), number(row["crps"], scale), _beside(row), chance(row["coverage_80"])]
        for row in found.rows
    ]
    return _table(
        language,
        ["forecaster", "error", "beside", "held"],
        rows,
        lead=lead,
        tone=key,
        lines=lines if found.dates else [],
        note=say(language, "lower_better") if rows else "",
        first_stands_out=True,
        plain=plain,
    )


def _beside(row: dict[str, Any]) -> str:
    if row.get("relative") is None:
        return ""
    return f"{percent(row['relative'], sign=True)} {_interval(row['relative_ci95'])}"


def _interval(ends: Sequence[float] | None, scale: float = 100) -> str:
    return "" if ends is None else "[" + ", ".join(f"{scale * one:+.1f}" for one in ends) + "]"


def of_why(found: Why, language: str, *, plain: bool = False) -> str:
    form = _changes if plain else _percents
    rows = [[say(language, "as_it_is"), "", form(found.usual)]]
    for one in found.groups:
        ci95 = _interval(one["percent_ci95"], 1)
        rows.append([_named(language, f"group_{one['name']}"), f"{one['percent']:+.1f} % {ci95}", form(one)])
    note = say(language, "why_note", plain=plain, windows=found.windows)
    heads = ["group", "worse_by", "band_without"]
    lines = [say(language, "why_intro", plain=plain)]
    return _table(language, heads, rows, lines=lines, note=note, first_stands_out=True)


def _changes(law: dict[str, Any]) -> str:
    return f"{law['q10']:+.2f} … {law['q90']:+.2f}"


def _percents(law: dict[str, Any]) -> str:
    return f"{law['q10']:+.2f} % … {law['q90']:+.2f} %"


def of_together(table: pd.DataFrame, language: str) -> str:
    """The portfolio first, then the tickers, the likeliest best first."""
    rows = []
    for i, row in enumerate(table.to_dict("records")):
        risks = [chance(row["p_loss"]), percent(row["var_95"]), percent(row["es_95"])]
        band = f"{percent(row['q10'], sign=True)} … {percent(row['q90'], sign=True)}"
        name = say(language, "portfolio") if i == 0 else row["ticker"]
        rows.append([name, percent(row["mean"], sign=True), band, *risks, chance(row["p_best"])])
    first = table.iloc[0]
    told = {"count": len(table) - 1, "origin": day(first["origin"]), "bars": bars(first["step"], language)}
    heads = ["ticker", "mean", "band_80", "p_loss", "var", "es", "p_best"]
    lines = [say(language, "joint_about", **told)]
    note = say(language, "joint_note")
    if skipped := table.attrs.get("skipped"):
        lines.append(say(language, "left_out", names=", ".join(skipped)))
    return _table(language, heads, rows, lines=lines, note=note, first_stands_out=True)


def _table(
    language: str,
    heads: Iterable[str],
    rows: list[list[str]],
    *,
    lead: str = "",
    tone: str = "",
    lines: Sequence[str] = (),
    note: str = "",
    first_stands_out: bool = False,
    plain: bool = False,
) -> str:
    return html(
        HERE / "table.html",
        heads=[say(language, key, plain=plain) for key in heads],
        rows=rows,
        lead=lead,
        tone=tone,
        lines=lines,
        note=note,
        first_stands_out=first_stands_out,
    )


def _named(language: str, key: str) -> str:
    return say(language, key) if key in WORDS else key.removeprefix("group_")


def bars(count: int, language: str, *, plain: bool = False) -> str:
    """
    >>> bars(1, "en"), bars(5, "en"), bars(5, "zh")
    ('1 bar', '5 bars', '5 根 K 线')
    """
    return say(language, "one_bar" if count == 1 else "many_bars", plain=plain, count=count)


def day(moment: Any) -> str:
    """Without a time of midnight."""
    return str(pd.Timestamp(moment)).removesuffix(" 00:00:00")


def chance(value: float) -> str:
    """
    >>> chance(0.5371), chance(0.9999), chance(float("nan")), chance(0)
    ('54 %', '> 99 %', '–', '0 %')
    """  # noqa: RUF002
    if pd.isna(value):
        return DASH
    if 0 < value < 0.005 or 0.995 <= value < 1:
        return "< 1 %" if value < 0.5 else "> 99 %"
    return f"{100 * value:.0f} %"


def share(value: float) -> float:
    """Of a bar's width, in percent."""
    return 0.0 if pd.isna(value) else round(100 * float(value), 1)


def percent(value: float, *, sign: bool = False) -> str:
    return DASH if pd.isna(value) else f"{100 * value:{'+' if sign else ''}.1f} %"


def number(value: float | None, scale: float = 1) -> str:
    return DASH if value is None or pd.isna(value) else f"{scale * value:.2f}"


def amount(value: float) -> str:
    """
    >>> amount(18.0), amount(18.804), amount(0.57031), amount(123456.7)
    ('18', '18.8', '0.570', '123,457')
    """
    if pd.isna(value):
        return DASH
    decimals = 0 if value == round(value) else max(2 - int(np.floor(np.log10(abs(value)))), 0)
    return f"{value:,.{decimals}f}"


def price(value: float, *, sign: bool = False) -> str:
    """
    >>> price(1234.5), price(0.0012345), price(-3.2, sign=True)
    ('1,234.50', '0.001235', '-3.20')
    """
    if pd.isna(value):
        return DASH
    form = ",.2f" if abs(value) >= 1 or value == 0 or (sign and abs(value) >= 0.01) else ".4g"
    return f"{value:{'+' if sign else ''}{form}}"
