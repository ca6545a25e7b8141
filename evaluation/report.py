"""What a command has found: one `Report`, whoever wrote it, and its rows as a table.

Design choices:
* Files keep the keys of the command that writes them: `rows` of an evaluation, `before` and `after` of a training,
  `tickers` of a run of adapters. `made_by` says which command it was. Reading gives all of them one shape.
* What stands in a report is what stands in a table: cards, pages and the terminal take the same cells.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console

from ..bars_tsf_llm import OHLCV, Kind
from ..common.reading import shapes_of
from ..common.tables import Columns, Row, Table, number, with_interval

OURS, BEFORE, ORIGINAL = "model", "before", "original"  # names of rows
SCORES = ("rows", "before", "after", "baselines", "verdicts", "verdict", "difference", "differences")
SIGNS = {"loss_type": "dpo", "reward": "grpo", "teacher": "distill", "tickers": "lora", "kept": "adapt"}


@dataclass(frozen=True)
class Report:
    """The content of `results.json`, `report.json` or `compression.json`."""

    made_by: str  # the command: evaluate, sft, dpo, ...; of a part `adapter` or `copy`
    rows: dict[str, dict[str, Any]]  # by name: `model` is what this is about, the others stand beside it
    verdicts: dict[str, str]  # on `model`, by what it is compared with or by the figure compared
    facts: dict[str, Any]  # settings, data, dates, costs: all that is no score
    parts: dict[str, "Report"] = field(default_factory=dict)  # of a single adapter or copy each

    @classmethod
    def of(cls, content: Mapping[str, Any], made_by: str | None = None) -> "Report":
        made_by = made_by or content.get("made_by") or _maker(content)
        facts = {name: value for name, value in content.items() if name not in SCORES}
        rows = {OURS: content.get("after"), BEFORE: content.get("before")}
        rows |= {row["model"]: row for row in content.get("rows") or () if row["model"] != "student"}  # "after" is
        rows |= content.get("baselines") or {}
        kind, parts = _parts(content, made_by)
        return cls(
            made_by=made_by,
            rows={name: row for name, row in rows.items() if row},
            verdicts=_verdicts(content),
            facts=facts,
            parts={name: cls.of({**facts, **part}, kind) for name, part in parts.items()},
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
    return "adapter", content["tickers"] if made_by == "lora" else {}


def _verdicts(content: Mapping[str, Any]) -> dict[str, str]:
    """In words: against what came before or taught it, then against the baselines."""
    told = {**(content.get("differences") or {}), **(content.get("verdicts") or {})}
    if isinstance(difference := content.get("difference"), dict):  # of several figures
        told = difference | told
    elif "verdict" in content:
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


def print_evaluation(report: Report, kind: Kind = OHLCV) -> None:
    """The scores of an evaluation that matter most, and the verdicts."""
    facts, count = report.facts, report.rows[OURS]["n"]
    table = table_of(report.rows, forecast_columns(kind))
    short = Table(("", "CRPS", "RMSE", "MASE", "cov80", "direction", "base"), table.cells)  # fits 80 columns
    console = Console()
    console.print(
        short.terminal(
            title=f"{facts['horizon']} bar(s) ahead, {facts['start']} to {facts['end']}, {count} forecasts",
            caption=f"CRPS, RMSE in {'percent' if kind is OHLCV else kind.score_unit}, lower is better; cov80 should "
            "be 0.80",
            box=SIMPLE_HEAD,
            pad_edge=False,
            show_edge=False,
            padding=(0, 1, 0, 0),
        )
    )
    for words in report.verdicts.values():
        console.print(f"model: {words}", highlight=False)
    if facts.get("on_calendar", 1) < 1:
        console.print(f"{1 - facts['on_calendar']:.1%} of the scored steps came when {facts['calendar']} has none.")
    if facts["out_of_sample"] is False:
        console.print(
            f"Not out of sample: the model has seen prices through {facts['trained_through']}.", style="bold red"
        )
    elif facts["out_of_sample"] is None:
        console.print("Whether this is out of sample is unknown: the model does not say which dates it has seen.")
