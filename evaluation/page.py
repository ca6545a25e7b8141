"""One page of an evaluation, `report.html`: what a reader would ask of it, in one file that opens offline.

Design choices:
* Words and figures come from the typed `Report`; only what it has no room for, one loss per forecast, is taken from
  the walks themselves. Without walks, as from an old file, those plots are left out.
* Nothing is loaded from anywhere: pictures lie in the page, and its content policy refuses the rest.
* Names of tickers and reasons are text, never markup: neither of HTML nor of matplotlib.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..bars_tsf_llm import OHLCV, Kind
from ..common.errors import printable
from ..common.figures import embedded
from ..common.files import write_text
from ..common.pages import html
from ..common.tables import Columns, Row, Table, number, with_interval
from . import page_plots
from .report import OURS, Report, conclusions, evaluation_table, p_value, remarks, table_of, warning_of
from .walk_forward import WalkForward

NAMED = 12  # tickers at most
CRASH = "2020-03-16"  # its largest fall
GROUPS = {  # kind of group: (title, what it shows)
    "year": ("By year", "An edge of one year alone is no edge."),
    "volatility": ("By regime of volatility", "Regimes are told by what was known at the origin."),
    "period": ("With and without the crash of 2020", "Half of an edge may come from a few weeks."),
    "ticker": ("By ticker", "Tickers share most of what happens: few of them are independent."),
}
MEANINGS: dict[str, tuple[tuple[str, ...], str]] = {  # name: (keys of rows, words), told where a row has one of them
    "CRPS": (
        ("crps",),
        "Distance of the forecast distribution from what happened, in units of the outcome. It rewards a distribution "
        "that is both sharp and honest. Lower is better; only rows of one table can be compared.",
    ),
    "skill": (
        ("crps",),
        "CRPS saved, in percent of the CRPS of the row named in the heading. Above 0 is better than that row.",
    ),
    "DM p": (
        ("crps",),
        "Diebold and Mariano's test with Harvey's correction that model and row are equally good, over dates. Below "
        "0.05 a difference is more than chance would often give. “Better” needs this and the interval.",
    ),
    "95 % CI": (("crps",), "Interval by a block bootstrap over dates, so that tickers that move together count once."),
    "confidence set": (
        ("in_mcs",),
        "Rows that may be the best: in 90 % of all samples it holds the best (Hansen, Lunde, Nason).",
    ),
    "coverage": (
        ("coverage_80",),
        "Share of outcomes inside the central band of that level; it should equal the level.",
    ),
    "PIT": (
        ("crps",),
        "Where the outcome fell in its forecast distribution. Flat is right; a hump in the middle is too wide a "
        "forecast, a valley too narrow a one, a slope a forecast that leans to one side.",
    ),
    "direction": (
        ("direction_accuracy",),
        "Share of moves whose sign was called, with its interval. It means something only above 0.5 and above the "
        "base rate, the share of rises, which “always up” reaches.",
    ),
    "RMSE, MASE": (
        ("rmse", "mase"),
        "Error of the mean; error of the median over the error that the last price had in sample.",
    ),
    "mean of steps": (
        ("crps_mean",),
        "Of all steps up to the last one, each counted once; the other scores are of the last step alone.",
    ),
    "WRMSSE, WQL, bias": (
        ("wrmsse",),
        "Over all steps, in the series' own units: error of the mean beside that of the last value, and quantile "
        "loss, series weighed by what they sold; what the mean forecasts have too much, as a share of that. zeros: "
        "the share of zeros that came, beside the mean probability that they were given.",
    ),
    "interval score": (
        ("interval_score_80",),
        "Width of the 80 % band plus a fine for each outcome outside of it. Lower is better.",
    ),
    "QLIKE, R2 variance": (("qlike", "r2_variance"), "How well the forecast variance foretold the squared outcome."),
    "IC, rank IC": (
        ("ic", "rank_ic"),
        "Mean over dates of the correlation of forecast and outcome across tickers, and its Newey-West t: above 2 is "
        "notable.",
    ),
    "RPS": (
        ("rps",),
        "Ranked probability score of quintiles across tickers, as in the M6 competition; guessing gives 0.16.",
    ),
}
SETTINGS = {
    "samples": "sampled paths per forecast",
    "seed": "seed",
    "trained_through": "model trained through",
    "calendar": "calendar",
    "made_by": "made by",
    "version": "version of tsf-llm",
    "commit": "commit",
}


@dataclass(frozen=True)
class Plot:
    title: str
    words: str
    image: str
    wide: bool = False


def write_page(
    report: Report, path: Path, *, walks: Mapping[int, WalkForward] | None = None, kind: Kind = OHLCV
) -> Path:
    """Writes the page of an evaluation. `walks` are its forecasts by horizon; `kind` says in which unit scores are."""
    write_text(page(report, walks=walks, kind=kind), path)
    return path


def page(report: Report, *, walks: Mapping[int, WalkForward] | None = None, kind: Kind = OHLCV) -> str:
    """The whole page, as HTML."""
    facts, several = report.facts, len(report.horizons) > 1
    tickers = facts.get("tickers") or []
    named = ", ".join(map(printable, tickers[:NAMED])) + (
        f" and {len(tickers) - NAMED} more" if tickers[NAMED:] else ""
    )
    of = f" of {named}" if tickers else ""
    return html(
        Path(__file__).with_name("page.html"),
        title=f"Evaluation, {facts['start']} to {facts['end']}",
        about=f"Past forecasts{of}, each made from what was known on its day, beside others of the same outcomes.",
        headlines=[
            {"words": words, "ahead": _ahead(one), "standing": standing(words)}
            for one in report.horizons
            for words in (conclusions(one) or ["no baseline to compare with"])
        ],
        warning=warning_of(report),
        overview=_overview(report, kind) if several else None,
        sections=[_section(one, (walks or {}).get(one.facts["horizon"]), kind) for one in report.horizons],
        meanings=meanings([report]),
        settings={name: facts[key] for key, name in SETTINGS.items() if facts.get(key) is not None},
        remarks=remarks(report),
        skipped={printable(name): printable(str(why)) for name, why in (facts.get("skipped") or {}).items()},
    )


def _ahead(report: Report) -> str:
    horizon = report.facts["horizon"]
    return f"{horizon} bar{'' if horizon == 1 else 's'} ahead"


def standing(words: str) -> str:
    return next((one for one in ("better", "worse") if words.startswith(one)), "even")


def _overview(report: Report, kind: Kind) -> Table:
    """One line per horizon: the model beside the strongest baseline."""
    lines = []
    for one in report.horizons:
        beside, row = one.comparisons.get(one.strongest or "", {}), one.rows[OURS]
        ends = [percent(end) for end in beside.get("relative_ci95") or []]
        relative = {"relative": percent(beside.get("relative")), "ends": ends}
        lines.append({**row, **relative, "name": _ahead(one), "strongest": one.strongest, "dm_p": beside.get("dm_p")})
    columns: Columns = {
        "": lambda row: row["name"],
        f"CRPS, {unit_of(kind)}": lambda row: number(row.get("crps"), ".3f", kind.score_factor),
        "strongest baseline": lambda row: row["strongest"] or "-",
        "CRPS beside it, % [95 % CI]": lambda row: with_interval(row, "relative", "+.1f", ("ends", "+.1f")),
        "DM p": lambda row: p_value(row["dm_p"]),
        "coverage 80": lambda row: number(row.get("coverage_80"), ".2f"),
        "forecasts": lambda row: f"{row['n']:,}",
    }
    return Table.of(lines, columns)


def percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def unit_of(kind: Kind) -> str:
    return "%" if kind is OHLCV else kind.score_unit


def _section(report: Report, walk: WalkForward | None, kind: Kind) -> dict[str, Any]:
    row, best = report.rows[OURS], report.best
    dates = f" from {row['num_dates']:,} dates" if row.get("num_dates") else ""
    stride = f", {report.facts['stride']} bar(s) apart" if report.facts.get("stride") else ""
    return {
        "title": _ahead(report)[0].upper() + _ahead(report)[1:],
        "about": f"{row['n']:,} forecasts{dates}{stride}. Scores are of the {kind.score_name} to the last step.",
        "scores": evaluation_table(report, kind, heading="row"),
        "best": f"The best may be any of: {', '.join(best)} (model confidence set, 90 %)." if best else "",
        "verdicts": list(report.verdicts.values()),
        "plots": _plots(report, walk, kind),
        "more": _further(report, kind),
    }


def _further(report: Report, kind: Kind) -> list[Table]:
    """Scores that only some readers ask for, in tables that fit on paper; what no row has is left out."""
    unit, factor = unit_of(kind), kind.score_factor
    means = {
        f"CRPS, mean of steps, {unit}": ("crps_mean", ".3f", factor),
        "MASE, mean of steps": ("mase_mean", ".3f", 1),
    }
    tables: list[dict[str, tuple[str, str, float]]] = [
        {
            f"MAE, {unit}": ("mae", ".3f", factor),
            "MASE": ("mase", ".3f", 1),
            f"RMSE, {unit}": ("rmse", ".3f", factor),
            "RMSSE": ("rmsse", ".3f", 1),
            f"pinball, {unit}": ("pinball", ".3f", factor),
            f"interval score 80, {unit}": ("interval_score_80", ".2f", factor),
            "coverage 50": ("coverage_50", ".2f", 1),
            "coverage 90": ("coverage_90", ".2f", 1),
            "PIT KS": ("pit_ks", ".3f", 1),
            "PIT p": ("pit_ks_p", ".3f", 1),
        },
        {
            "QLIKE": ("qlike", ".3f", 1),
            "R2 variance": ("r2_variance", ".3f", 1),
            "R2 out of sample, %": ("r2_oos", ".2f", 100),
            "Pesaran-Timmermann p": ("pesaran_timmermann_p", ".3f", 1),
            "IC": ("ic", ".3f", 1),
            "IC t": ("ic_t", ".1f", 1),
            "rank IC": ("rank_ic", ".3f", 1),
            "rank IC t": ("rank_ic_t", ".1f", 1),
            "RPS": ("rps", ".4f", 1),
            "energy score": ("energy_score", ".4f", 1),
        },
        {
            **({} if report.facts["horizon"] == 1 else means),
            "WRMSSE": ("wrmsse", ".3f", 1),
            "WQL": ("wql", ".3f", 1),
            "bias, %": ("bias", "+.1f", 100),
            "zeros": ("zeros", ".3f", 1),
            "zeros forecast": ("zeros_forecast", ".3f", 1),
        },
    ]
    rows = report.rows

    def cell(key: str, form: str, factor: float) -> Any:
        return lambda row: number(row.get(key), form, factor)

    told = [
        {name: cell(*how) for name, how in table.items() if any(row.get(how[0]) is not None for row in rows.values())}
        for table in tables
    ]
    return [table_of(rows, columns, heading="row") for columns in told if columns]


def _plots(report: Report, walk: WalkForward | None, kind: Kind) -> list[Plot]:
    strongest = report.strongest
    found: list[tuple[str, str, Figure | None, bool]] = [
        (
            "CRPS",
            "Whiskers: 95 % interval of each row alone. They overlap even where the paired difference is clear.",
            page_plots.scores(_named(report.rows), kind),
            False,
        ),
        (
            "Coverage",
            "Share of outcomes inside the bands that were to hold 50, 80 and 90 % of them, the dotted lines.",
            page_plots.coverage(report.rows),
            False,
        ),
    ]
    if walk is not None:
        found.append(("Calibration (PIT)", MEANINGS["PIT"][1], page_plots.pit(walk.pit()), False))
    if walk is not None and strongest is not None:
        by_date = pd.Series(walk.crps() - walk.crps(strongest)).groupby(walk.origin).mean()
        words = (
            f"Each date adds its mean difference. Falling: the model beats {strongest} there. "
            "A fall in one place is luck or a crash."
        )
        found.append((f"CRPS beside {strongest} over time", words, page_plots.cumulative(by_date, kind), False))
    if calibration := report.facts.get("calibration"):
        words = "Coverage of the model's bands before (hollow) and after (filled) its calibration."
        found.append(("Before and after calibration", words, page_plots.calibration(calibration), False))
    for name, (title, words) in GROUPS.items():
        skills = _skills((report.facts.get("groups") or {}).get(name) or {}, strongest)
        if len(skills) < 2 or (name == "period" and not report.facts["start"] <= CRASH <= report.facts["end"]):
            continue  # of one group the table tells all
        words = f"CRPS saved, % of {strongest}'s: right of 0 the model is better. {words}"
        found.append((title, words, page_plots.skills(skills), False))
    return [Plot(title, words, embedded(figure), wide) for title, words, figure, wide in found if figure is not None]


def meanings(reports: Sequence[Report]) -> dict[str, str]:
    """Of what stands on a page."""
    horizons = [one for report in reports for one in report.horizons]
    told = {key for one in horizons for row in one.rows.values() for key, value in row.items() if value is not None}
    told |= {"in_mcs"} if any(one.best for one in horizons) else set()
    return {name: words for name, (keys, words) in MEANINGS.items() if told.intersection(keys)}


def _named(rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    return [{**row, "model": name} for name, row in rows.items() if row.get("crps") is not None]


def _skills(groups: Mapping[str, Row], strongest: str | None) -> dict[str, float]:
    """Percent of CRPS saved beside the strongest baseline, by group; a group without both is left out."""
    both = {name: (row.get(OURS), row.get(strongest or "")) for name, row in groups.items()}
    return {
        printable(name): 100 * (1 - ours / other) for name, (ours, other) in both.items() if other and ours is not None
    }
