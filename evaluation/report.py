"""What a command has found: one `Report`, whoever wrote it, and its rows as a table.

Design choices:
* Files keep the keys of the command that writes them: `rows` of an evaluation, `before` and `after` of a training,
  `tickers` of a run of adapters. `made_by` says which command it was. Reading gives all of them one shape.
* An evaluation of several horizons is a report of the first one listed; the others are its parts.
* What stands in a report is what stands in a table: cards, pages and the terminal take the same cells.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.text import Text

from ..bars_tsf_llm import OHLCV, Kind
from ..common.errors import printable
from ..common.reading import shapes_of
from ..common.tables import Columns, Row, Table, number, with_interval

OURS, BEFORE, ORIGINAL = "model", "before", "original"  # names of rows
SCORES = ("rows", "before", "after", "baselines", "verdicts", "verdict", "difference", "differences", "horizons")
USUAL = "garch_t"  # what a quant measures skill against, where it is there
SIGNS = {"loss_type": "dpo", "reward": "grpo", "teacher": "distill", "tickers": "lora", "kept": "adapt"}


@dataclass(frozen=True)
class Report:
    """The content of `results.json`, `report.json` or `compression.json`."""

    made_by: str  # the command: evaluate, sft, dpo, ...; of a part `adapter` or `copy`
    rows: dict[str, dict[str, Any]]  # by name: `model` is what this is about, the others stand beside it
    verdicts: dict[str, str]  # on `model`, by what it is compared with or by the figure compared
    facts: dict[str, Any]  # settings, data, dates, costs: all that is no score
    parts: dict[str, "Report"] = field(default_factory=dict)  # of a single adapter, copy or further horizon each
    headline: str | None = None  # the verdict against the strongest baseline first
    comparisons: dict[str, dict[str, Any]] = field(default_factory=dict)  # the numbers behind `verdicts`, if any

    @classmethod
    def of(cls, content: Mapping[str, Any], made_by: str | None = None) -> "Report":
        made_by = made_by or content.get("made_by") or _maker(content)
        facts = {name: value for name, value in content.items() if name not in SCORES}
        rows = {OURS: content.get("after"), BEFORE: content.get("before")}
        rows |= {row["model"]: row for row in _own(content) if row["model"] != "student"}  # "after" is
        rows |= content.get("baselines") or {}
        kind, parts = _parts(content, made_by)
        shared = {name: value for name, value in facts.items() if name not in _of_horizons(content)}
        return cls(
            made_by=made_by,
            rows={name: row for name, row in rows.items() if row},
            verdicts=_verdicts(content),
            facts=facts,
            parts={name: cls.of({**shared, **part}, kind) for name, part in parts.items()},
            headline=content.get("verdict") if made_by in ("evaluate", "horizon") else None,
            comparisons={n: one for n, one in (content.get("verdicts") or {}).items() if isinstance(one, dict)},
        )

    @classmethod
    def read(cls, path: Path) -> "Report":
        """Raises ValueError for a file that is none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(f"{path} is no results.json of `tsf-llm evaluate`, nor a report.json: {error}") from error
        if not isinstance(content, dict) or not {"rows", "after"} & set(content):
            raise ValueError(f"{path} holds no scores: give a results.json of `tsf-llm evaluate`, or a report.json")
        with shapes_of(path, "give one that this package wrote"):
            return cls.of(content)

    @property
    def horizons(self) -> list["Report"]:
        """One per horizon: this, and its parts if they are further ones."""
        return [self, *(part for part in self.parts.values() if part.made_by == "horizon")]

    @property
    def strongest(self) -> str | None:
        """The baseline of least CRPS."""
        rest = {name: row["crps"] for name, row in self.rows.items() if name != OURS and row.get("crps") is not None}
        return self.facts.get("strongest") or min(rest, key=rest.__getitem__, default=None)

    @property
    def reference(self) -> str | None:
        """What skill is measured against: GARCH-t, or else the strongest baseline."""
        return USUAL if USUAL in self.rows else self.strongest

    @property
    def best(self) -> list[str]:
        """The model confidence set: which may be the best."""
        told = self.facts.get("mcs") or {}
        return [name for name, row in self.rows.items() if {**row, **told.get(name, {})}.get("in_mcs")]


def _own(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the first listed horizon, where there are several."""
    rows = content.get("rows") or []
    return [row for row in rows if row["horizon"] == content["horizon"]] if content.get("horizons") else rows


def _of_horizons(content: Mapping[str, Any]) -> set[str]:
    """Facts that each horizon has for itself, so that none is taken for another's."""
    return {name for one in (content.get("horizons") or {}).values() for name in one}


def _maker(content: Mapping[str, Any]) -> str:
    """Who wrote a file of the versions that did not say so."""
    if "after" in content:
        return next((maker for sign, maker in SIGNS.items() if sign in content), "sft")
    return "evaluate" if "verdicts" in content else "compress"


def _parts(content: Mapping[str, Any], made_by: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """What the parts are, and each as a report by itself: a copy as if training had made it of the original."""
    if made_by == "compress":
        rows = {row["model"]: row for row in content["rows"]}
        return "copy", {
            name: {"after": row, "rows": [rows[ORIGINAL]], "differences": {ORIGINAL: row.get("difference") or {}}}
            for name, row in rows.items()
        }
    if made_by == "evaluate":
        further = {n: one for n, one in (content.get("horizons") or {}).items() if int(n) != content["horizon"]}
        return "horizon", {
            name: {
                **one,
                "horizon": int(name),
                "rows": [row for row in content["rows"] if row["horizon"] == int(name)],
            }
            for name, one in further.items()
        }
    return "adapter", content["tickers"] if made_by == "lora" else {}


def _verdicts(content: Mapping[str, Any]) -> dict[str, str]:
    """In words: against what came before or taught it, then against the baselines."""
    told = {**(content.get("differences") or {}), **(content.get("verdicts") or {})}
    if isinstance(difference := content.get("difference"), dict):  # of several figures
        told = difference | told
    elif "verdict" in content and not content.get("rows"):  # of an evaluation it is the headline
        told = {BEFORE: content["verdict"]} | told
    words = {name: one.get("verdict") if isinstance(one, dict) else one for name, one in told.items()}
    return {name: one for name, one in words.items() if one}


def forecast_columns(kind: Kind) -> Columns:
    """Scores of forecasts, under headings for a page."""
    unit = "%" if kind is OHLCV else kind.score_unit
    return {
        f"CRPS, {unit}": lambda row: number(row.get("crps"), ".3f", kind.score_factor),
        f"RMSE, {unit}": lambda row: number(row.get("rmse"), ".3f", kind.score_factor),
        "MASE": lambda row: number(row.get("mase"), ".3f"),
        "coverage 80": lambda row: number(row.get("coverage_80"), ".2f"),
        "direction [95 % CI]": lambda row: with_interval(row, "direction_accuracy", ".3f", ("direction_ci95", ".2f")),
        "base rate": lambda row: number(row.get("direction_base_rate"), ".3f"),
    }


def table_of(rows: Mapping[str, Row], columns: Columns, heading: str = "") -> Table:
    """One line per row, its name first."""
    return Table.of(
        [{**row, "model": name} for name, row in rows.items()], {heading: lambda row: row["model"], **columns}
    )


def evaluation_columns(report: Report, kind: Kind = OHLCV) -> Columns:
    """What an evaluation is judged by: rows are compared with one another, so each is asked for beside the others."""
    unit = "%" if kind is OHLCV else kind.score_unit
    columns = forecast_columns(kind)
    base = (report.rows.get(report.reference or "") or {}).get("crps")

    def skill(row: Row) -> str:
        crps = row.get("crps")
        return "-" if not base or crps is None else number(1 - crps / base, "+.1f", 100)

    kept = ("coverage 80", "direction [95 % CI]", "base rate")
    return {
        f"CRPS, {unit}": columns[f"CRPS, {unit}"],
        f"skill, % of {report.reference}": skill,
        "DM p": lambda row: p_value(report.comparisons.get(row["model"], {}).get("dm_p")),
        **{name: columns[name] for name in kept},
    }


def p_value(p: float | None) -> str:
    """A small one without its digits.

    >>> p_value(0.0004), p_value(0.0123), p_value(None)
    ('<.001', '0.012', '-')
    """
    return "<.001" if p is not None and p < 0.001 else number(p, ".3f")


def evaluation_table(report: Report, kind: Kind = OHLCV, heading: str = "") -> Table:
    """The rows of one horizon."""
    return table_of(report.rows, evaluation_columns(report, kind), heading)


def conclusions(report: Report) -> list[str]:
    """The headline, or else, in a file without one, all verdicts."""
    return [report.headline] if report.headline else list(report.verdicts.values())


def headlines(report: Report) -> list[str]:
    """The `conclusions` of every horizon, each with its horizon where there are several."""
    return [
        f"{one.facts['horizon']} ahead: {words}" if len(report.horizons) > 1 else words
        for one in report.horizons
        for words in conclusions(one)
    ]


def warning_of(report: Report) -> str | None:
    """Of scores that are not, or may not be, out of sample."""
    if (out_of_sample := report.facts.get("out_of_sample")) is False:
        return f"Not out of sample: the model has seen prices through {report.facts['trained_through']}."
    unknown = "Whether this is out of sample is unknown: the model does not say which dates it has seen."
    return unknown if out_of_sample is None else None


def print_evaluation(report: Report, kind: Kind = OHLCV) -> None:
    """The verdict first, then the scores that matter most, one table per horizon, then what went wrong."""
    facts, console = report.facts, Console()
    for words in headlines(report):
        console.print(Text(f"model, {words}" if report.parts else f"model: {words}", style="bold"))
    if warning := warning_of(report):
        console.print(Text(warning, style="bold red" if facts["out_of_sample"] is False else ""))
    for one in report.horizons:
        console.print(_terminal(one, kind))
    unit = "percent" if kind is OHLCV else kind.score_unit
    console.print(
        Text(
            f"CRPS in {unit}, lower is better; skill: CRPS saved, % of {report.reference}'s; DM p: of no difference "
            "to the model (Diebold-Mariano); cov80 should be 0.80"
        )
    )
    for words in remarks(report):
        console.print(Text(words))


def _terminal(report: Report, kind: Kind) -> Any:
    facts, table = report.facts, evaluation_table(report, kind)
    title = f"{facts['horizon']} bar(s) ahead, {facts['start']} to {facts['end']}, {report.rows[OURS]['n']} forecasts"
    short = Table(("", "CRPS", "skill", "DM p", "cov80", "direction", "base"), table.cells)  # fits 80 columns
    return short.terminal(title=title, box=SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))


def remarks(report: Report) -> list[str]:
    """What failed, how often the others were fitted, what a calibration did, what the calendar did not foresee."""
    facts = report.facts
    lines = [f"{name} failed: {printable(str(why))}" for name, why in (facts.get("failed") or {}).items()]
    if refits := facts.get("refits"):
        lines.append(f"How baselines were fitted, on the past alone: {refit_schedule(refits)}.")
    if (calibration := facts.get("calibration") or {}).get("used"):
        shares = " to ".join(number(calibration[when]["coverage_80"], ".3f") for when in ("before", "after"))
        lines.append(f"The model's law is calibrated, which took coverage 80 from {shares}.")
    if facts.get("on_calendar", 1) < 1:
        lines.append(f"{1 - facts['on_calendar']:.1%} of the scored steps came when {facts['calendar']} has none.")
    return lines


def refit_schedule(refits: Mapping[str, str]) -> str:
    """Who was fitted when, in one line.

    >>> refit_schedule({"drift": "running statistics", "garch_t": "refitted yearly", "har_range": "refitted yearly"})
    'running statistics (drift), refitted yearly (garch_t, har_range)'
    """
    whens: dict[str, list[str]] = {}
    for name, when in refits.items():
        whens.setdefault(when, []).append(name)
    return ", ".join(f"{when} ({', '.join(names)})" for when, names in whens.items())
