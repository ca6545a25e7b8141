"""The page of a track record, `track_record.html`, and its table: what was forecast in time first, the rest apart.

Design choices:
* It is laid out as an evaluation's page (`page.html`): one file, nothing loaded from anywhere.
* A section is a model at a horizon that was asked for; the steps before it stand in the table of all steps.
* Only forecasts made in time have a headline. What was made after the fact has sections of its own at the end.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text

from ..bars_tsf_llm import Kind
from ..common.errors import printable
from ..common.figures import embedded
from ..common.pages import html
from ..common.tables import Columns, Row, Table, number, with_interval
from . import page_plots
from .outcomes import Part
from .page import Plot, meanings, percent, standing, unit_of
from .report import OURS, Report, evaluation_table, p_value
from .significance import finding

NOTHING = "nothing to score yet"
AFTER = "Made after the fact"
NAMED = 6  # tickers of one reason
SHORT = {"": 0, "n": 1, "CRPS": 2, "beside": 4, "DM p": 5, "cov80": 6, "direction": 8}  # columns for 80 characters
MEANT = ("CRPS", "skill", "DM p", "95 % CI", "coverage", "PIT", "direction")
RECORD = {
    "made after the fact": "Later bars were there when it was made (--as-of, old prices), or it was logged after the "
    "bar of its first step was over. It may have been chosen for its end, so it counts for nothing.",
    "logged before": "The first forecast of a ticker's origin and step by the same weights counts; others are kept "
    "unscored.",
    "head": "The hash of the last row. Every row carries that of the row before, so whoever noted an earlier head can "
    "tell whether what stood there then still does.",
}


def page(results: Mapping[str, Any], parts: Sequence[Part], kind: Kind) -> str:
    """The whole page, as HTML."""
    told = {(part.model, part.step, part.late): part for part in parts}
    timely, late = ([*_chapters(results, told, late=late)] for late in (False, True))
    counts, several = results["counts"], len(results["models"]) > 1
    known = meanings([report for _, report, _ in (*timely, *late)])
    return html(
        Path(__file__).with_name("page.html"),
        title="Track record",
        about=f"{results['rows']:,} rows of {printable(results['log'])}: {words_of(counts)}. Each was written down "
        "when it was made, and is scored beside naive ones of the same outcomes.",
        headlines=[
            {"words": words, "ahead": _ahead(report, model, several), "standing": standing(words)}
            for model, report, _ in timely
            if (words := report.headline)
        ]
        or [{"words": NOTHING, "ahead": f"{counts['open']:,} rows open", "standing": "even"}],
        warning=warning_of(results),
        overview=overview(results, kind) if counts["scored"] else None,
        sections=[
            *(_section(*one, kind, several=several) for one in timely),
            *(_section(*one, kind, several=several, before=f"{AFTER}: ") for one in late),
        ],
        meanings=RECORD | {name: known[name] for name in MEANT if name in known},
        settings=_settings(results),
        remarks=remarks(results),
        skipped={printable(name): printable(str(why)) for name, why in results["skipped"].items()},
    )


def words_of(counts: Mapping[str, int]) -> str:
    """How many rows came to what."""
    names = {"scored": "scored", "open": "open", "late": "made after the fact", "repeated": "logged before"}
    names |= {"unmatched": "without an outcome in the data"}
    return ", ".join(f"{counts[key]:,} {words}" for key, words in names.items() if counts[key] or key == "scored")


def warning_of(results: Mapping[str, Any]) -> str | None:
    if results["sound"]:
        return None
    kept = f"Nothing from row {results['broken_at']} on" if results["broken_at"] > 1 else "Nothing of it"
    return f"The record was changed: {results['broken']}. {kept} is scored, and its keeper has to say why."


def overview(results: Mapping[str, Any], kind: Kind, *, late: bool = False) -> Table:
    """A line for each model and step."""
    lines = [
        _line(model, step, found)
        for model in results["models"]
        for step, found in model["late" if late else "steps"].items()
    ]
    columns: Columns = {
        "": lambda row: row["name"],
        "n": lambda row: f"{row['n']:,}",
        f"CRPS, {unit_of(kind)}": lambda row: number(row["crps"], ".3f", kind.score_factor),
        "strongest": lambda row: row["strongest"] or "-",
        "beside it, % [95 % CI]": lambda row: with_interval(row, "relative", "+.1f", ("ends", "+.1f")),
        "DM p": lambda row: p_value(row["dm_p"]),
        "coverage 80": lambda row: number(row["coverage_80"], ".2f"),
        "90": lambda row: number(row["coverage_90"], ".2f"),
        "direction": lambda row: number(row["direction_accuracy"], ".3f"),
    }
    return Table.of(lines, columns)


def _line(model: Mapping[str, Any], step: str, found: Mapping[str, Any]) -> dict[str, Any]:
    beside = found["verdicts"].get(found["strongest"] or "", {})
    ends = [percent(end) for end in beside.get("relative_ci95") or []]
    told = {"relative": percent(beside.get("relative")), "ends": ends, "dm_p": beside.get("dm_p")}
    return {**found["rows"][0], **told, "name": f"{name_of(model)}, {step} ahead", "strongest": found["strongest"]}


def name_of(model: Mapping[str, Any]) -> str:
    """A model by its name and the first digits of its weights' digest."""
    return f"{printable(model['model'])} {model['model_digest'][:6]}"


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What is open, what has no outcome, which closes moved or jumped, what failed."""
    waiting = ", ".join(f"{count:,} of step {step}" for step, count in results["open"].items())
    lines = [f"Open, their bars have not come: {waiting}."] if waiting else []
    for why, told in results["unmatched"].items():
        lines.append(f"{told['rows']:,} rows have no outcome: {why} ({_named(told['tickers'])}).")
    for name, told in results["other_close"].items():
        lines.append(
            f"{printable(name)}: the close at {told['origins']} origin(s) is no longer the one that was logged, but "
            f"{told['ratio']:.6g} times as high: a split, a dividend, or a bar that was not over. Outcomes are the "
            "returns of the data."
        )
    lines += [f"{name} failed: {printable(str(why))}" for name, why in results["failed"].items()]
    if results["clock_went_back"]:
        lines.append(
            f"The clock went back before {results['clock_went_back']} row(s): their time is not to be trusted."
        )
    for name, report in results["jumps"].items():
        lines.append(f"{printable(name)}: among its outcomes, {report}")
    return lines


def print_record(results: Mapping[str, Any], kind: Kind) -> None:
    """The verdicts, the table, and what a reader has to know beside them."""
    console = Console()
    if warning := warning_of(results):
        console.print(Text(warning, style="bold red"))
    counts = results["counts"]
    for model in results["models"]:
        for step in _asked(model, model["steps"]):
            if words := model["steps"][step]["verdict"]:
                console.print(Text(f"{name_of(model)}, {step} ahead: {words}", style="bold"))
    console.print(Text(f"{results['rows']:,} rows: {words_of(counts)}"))
    for late, title in ((False, "Made in time"), (True, AFTER)):
        table = overview(results, kind, late=late)
        if table.cells:
            short = Table([*SHORT], [[line[i] for i in SHORT.values()] for line in table.cells])
            style: dict[str, Any] = {
                "box": SIMPLE_HEAD,
                "pad_edge": False,
                "show_edge": False,
                "padding": (0, 1, 0, 0),
            }
            console.print(short.terminal(title=title, **style))
    for words in remarks(results):
        console.print(Text(words))
    console.print(Text(f"head of the chain: {results['head']}"))


# --- sections --------------------------------------------------------------------------------------------------------


def _asked(model: Mapping[str, Any], steps: Mapping[str, Any]) -> list[str]:
    """The steps that were a forecast's last, or the last that came."""
    horizons = [str(one) for one in model["horizons"] if str(one) in steps]
    return horizons or list(steps)[-1:]


def _chapters(
    results: Mapping[str, Any], told: Mapping[tuple, Part], *, late: bool
) -> list[tuple[Mapping[str, Any], Report, Part]]:
    return [
        (
            model,
            _report(steps[step], int(step)),
            told[(model["model_digest"], model["processor_digest"]), int(step), late],
        )
        for model in results["models"]
        for steps in [model["late" if late else "steps"]]
        for step in _asked(model, steps)
    ]


def _report(found: Mapping[str, Any], step: int) -> Report:
    return Report(
        made_by="horizon",
        rows={row["model"]: row for row in found["rows"]},
        verdicts={name: one["verdict"] for name, one in found["verdicts"].items()},
        facts={**found, "horizon": step},
        headline=found["verdict"],
        comparisons=found["verdicts"],
    )


def _ahead(report: Report, model: Mapping[str, Any], several: bool) -> str:
    step = report.facts["horizon"]
    return f"{step} bar{'' if step == 1 else 's'} ahead" + (f", {name_of(model)}" if several else "")


def _section(
    model: Mapping[str, Any], report: Report, part: Part, kind: Kind, *, several: bool, before: str = ""
) -> dict[str, Any]:
    row, facts, ahead = report.rows[OURS], report.facts, _ahead(report, model, several)
    made = (
        "" if before else f" It forecast from {model['origins']:,} of {model['bars_between']:,} bars since its first."
    )
    return {
        "title": before + ahead[0].upper() + ahead[1:],
        "about": f"{row['n']:,} forecasts by {name_of(model)} from {row['num_dates']:,} dates, {facts['start']} to "
        f"{facts['end']}.{made} Scores are of the {kind.score_name}.",
        "scores": evaluation_table(report, kind, heading="row"),
        "best": "",
        "verdicts": list(report.verdicts.values()),
        "plots": _plots(part, facts, kind),
        "more": [_by_month(facts, kind)],
        "more_title": "By month of the outcome",
    }


def _by_month(facts: Mapping[str, Any], kind: Kind) -> Table:
    def crps_of(name: str) -> Callable[[Row], str]:
        return lambda row: number(row[name], ".3f", kind.score_factor)

    beside = f"beside {facts['strongest']}, % [95 % CI]"
    columns: Columns = {
        "month": lambda row: row["month"],
        "n": lambda row: f"{row['n']:,}",
        **{f"CRPS of {one['model']}": crps_of(one["model"]) for one in facts["rows"]},
        "coverage 80": lambda row: number(row["coverage_80"], ".2f"),
        "coverage 90": lambda row: number(row["coverage_90"], ".2f"),
        beside: lambda row: with_interval(row, "relative", "+.1f", ("ends", "+.1f")),
        "verdict": lambda row: finding(row) or "too few dates",
    }
    return Table.of([_of_month(name, one, facts["strongest"]) for name, one in facts["months"].items()], columns)


def _of_month(name: str, one: Mapping[str, Any], strongest: str | None) -> dict[str, Any]:
    beside = one["verdicts"].get(strongest or "", {"ci95": None})
    ends = [percent(end) for end in beside.get("relative_ci95") or []]
    return {**beside, **one, "relative": percent(beside.get("relative")), "ends": ends, "month": name}


def _plots(part: Part, facts: Mapping[str, Any], kind: Kind) -> list[Plot]:
    strongest, months = facts["strongest"], facts["months"]
    found: list[tuple[str, str, Figure | None]] = []
    if strongest is not None:
        by_date = pd.Series(part.crps() - part.crps(strongest)).groupby(part.rows["due"].to_numpy()).mean()
        words = (
            f"Each date adds its mean difference. Falling: the model beats {strongest} there. A fall in one place is "
            "luck or a crash."
        )
        found.append((f"CRPS beside {strongest} over time", words, page_plots.cumulative(by_date, kind)))
    words = "Share of outcomes inside the bands that were to hold 80 and 90 % of them, the dotted lines."
    found.append(("Coverage by month", words, page_plots.coverage_by_month(months)))
    ours = part.forecasts[OURS]
    if (ours.variance > 0).any():
        words = "Where outcomes fell in their forecasts. Flat is right; a hump is too wide, a valley too narrow."
        found.append(("Calibration (PIT)", words, page_plots.pit(ours.pit(ours.outcome))))
    return [Plot(title, words, embedded(figure)) for title, words, figure in found if figure is not None]


def _settings(results: Mapping[str, Any]) -> dict[str, str]:
    told = {"log": printable(results["log"]), "head": results["head"]}
    for model in results["models"]:
        made = (
            f"{model['first_made'][:10]} to {model['last_made'][:10]} (UTC) by tsf-llm {', '.join(model['versions'])}"
        )
        digests = f"weights {model['model_digest']}, processor {model['processor_digest']}"
        told[name_of(model)] = f"{digests}; {model['tickers']} ticker(s); forecasts made {made}"
    return told | {name.replace("_", " "): results[name] for name in ("made_by", "version", "commit") if results[name]}


def _named(tickers: Sequence[str]) -> str:
    more = f" and {len(tickers) - NAMED} more" if tickers[NAMED:] else ""
    return printable(", ".join(tickers[:NAMED])) + more
