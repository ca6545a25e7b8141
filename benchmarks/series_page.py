"""The page of `series`: tables and sentences made of its rows. Nothing there is typed by hand.

Design choices:
* A row of a table is a model: means over its seeds, with the deviation between seeds where there are several. The best
  is bold; a score that is not a number is a dash and never the best.
* Ours is compared with each other model on the measures that are tested, by the mean over seeds of its losses at the
  same origins: a 95 % interval and the p of Diebold and Mariano, with the autocovariances of all origins whose
  outcomes overlap (`evaluation/significance.py`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..common.tables import Columns, Table, number
from ..evaluation.significance import Figure, finding, paired_difference, verdict
from .series_frame import Measure, Row, Section

MUST = 0.02  # within this of the best
TEXT = """# Plain series, beside the specialists

By `python -m tsf_llm.benchmarks.series --data FOLDER --out FOLDER --page docs/series.md` on {date}; rows were computed
by commit {commits}, with {versions}, on {cores} cores.{quick}

Means over seeds, ± their standard deviation; **bold** is the best row. CPU seconds are those of one run: training,
validation and all forecasts. *p* is that of Diebold and Mariano for the losses of `{ours}` and of that row being the
same on average, on the mean of the seeds, with the autocovariances of all origins that share outcomes; of the first
score, or of the one it names.

{sections}
"""


@dataclass(frozen=True)
class Model:
    """The rows of one model at one task."""

    name: str
    rows: Sequence[Row]

    def scores(self, key: str) -> list[float]:
        """One per seed; none where one is unknown."""
        values = [row.found.scores.get(key) for row in self.rows]
        known = [float(one) for one in values if one is not None and math.isfinite(one)]
        return known if len(known) == len(values) else []

    def mean(self, key: str) -> float | None:
        return float(np.mean(values)) if (values := self.scores(key)) else None

    def losses(self, key: str) -> np.ndarray | None:
        """Per origin `[n]`, means over seeds; None where there are none."""
        each = [row.found.losses.get(key) for row in self.rows]
        return None if any(one is None or not len(one) for one in each) else np.mean(np.array(each, float), axis=0)

    @cached_property
    def cpu_seconds(self) -> float:
        return float(np.mean([row.cpu_seconds for row in self.rows]))


def models(rows: Sequence[Row]) -> dict[str, list[Model]]:
    """The models of each task, in order of appearance."""
    tasks: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        tasks.setdefault(row.task, {}).setdefault(row.model, []).append(row)
    return {task: [Model(name, each) for name, each in found.items()] for task, found in tasks.items()}


def best(measure: Measure, of: Sequence[Model]) -> str | None:
    """The name of the best model; None where there is nothing to choose."""
    means = {one.name: value for one in of if (value := one.mean(measure.key)) is not None}
    if not measure.plain or len(means) < 2:
        return None
    return (max if measure.more_is_better else min)(means, key=lambda name: means[name])


def score(measure: Measure, one: Model, first: str | None) -> str:
    """A cell: mean, spread between seeds, bold where it is the best."""
    values = one.scores(measure.key)
    if not values:
        return "-"
    spread = f" ± {np.std(values, ddof=1):{measure.form}}" if len(values) > 1 else ""
    told = f"{np.mean(values):{measure.form}}{spread}"
    return f"**{told}**" if one.name == first else told


def difference(key: str, ours: Model, other: Model) -> dict | None:
    """`paired_difference` of a measure; None where the origins are not the same."""
    a, b = ours.losses(key), other.losses(key)
    if a is None or b is None or a.shape != b.shape:
        return None
    overlap = max(row.found.overlap for row in [*ours.rows, *other.rows])
    return paired_difference(a, b, np.arange(len(a)), overlap)


def table(section: Section, task: str, of: Sequence[Model]) -> Table:
    """Scores of a task, and what they cost."""
    ours = next((one for one in of if one.name == section.ours), None)
    columns: Columns = {"model": lambda row: row["model"].name}
    for measure in section.measures:
        first = best(measure, of)
        columns[measure.title] = lambda row, measure=measure, first=first: score(measure, row["model"], first)
    if ours is not None:
        for i, measure in enumerate(section.tested):
            title = f"p, {measure.title}" if i else "p"
            columns[title] = lambda row, key=measure.key: p_value(key, ours, row["model"])
    columns["CPU s"] = lambda row: f"{row['model'].cpu_seconds:,.0f}"
    columns["parameters"] = lambda row: number(row["model"].rows[0].found.parameters, ",.0f")
    if marks := {one.name: section.published[one.name, task] for one in of if (one.name, task) in section.published}:
        columns[f"published {section.measures[0].title}"] = lambda row: marks.get(row["model"].name, "-")
    return Table.of([{"model": one} for one in of], columns)


def p_value(key: str, ours: Model, other: Model) -> str:
    found = None if other is ours else difference(key, ours, other)
    p = None if found is None else found["dm_p"]
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def comparison(section: Section, task: str, of: Sequence[Model]) -> Iterator[str]:
    """Ours beside the best of the others, then every other, in words, by each measure that is tested."""
    for measure in section.tested:
        yield from compared(section.ours, measure, task, of)


def compared(name: str, measure: Measure, task: str, of: Sequence[Model]) -> Iterator[str]:
    """By one measure; ours is called `name`."""
    ours = next((one for one in of if one.name == name), None)
    others = [one for one in of if one.name != name and one.mean(measure.key) is not None]
    if ours is None or (mine := ours.mean(measure.key)) is None or not others:
        return
    first = next(one for one in others if one.name == (best(measure, others) or one.name))
    theirs = first.mean(measure.key) or 0.0
    far = (theirs - mine if measure.more_is_better else mine - theirs) / abs(theirs) if theirs else math.inf
    place = "the best row" if far < 0 else f"within {MUST:.0%} of the best" if far <= MUST else "behind the best"
    yield (
        f"{task}: {ours.name} is {place} by {measure.title} ({mine:{measure.form}}; the best other is {first.name},"
        f" {theirs:{measure.form}}: {(mine - theirs) / abs(theirs):+.1%})."
        if theirs
        else f"{task}: {ours.name} {mine:{measure.form}}, {first.name} {theirs:{measure.form}} by {measure.title}."
    )
    figure = Figure(measure.title, "+.1f", relative=True, more_is_better=measure.more_is_better)
    tests = {one.name: found for one in others if (found := difference(measure.key, ours, one)) is not None}
    for heading, kind in (("Wins over", "better"), ("Loses to", "worse"), ("No edge over", "no edge")):
        told = [verdict(one, name, figure) for name, one in tests.items() if finding(one, figure) == kind]
        if told:
            told = [line.removeprefix(f"{kind} than ").removeprefix("no edge over ") for line in told]
            yield f"{task}: {heading.lower()} {'; '.join(told)}."
    if few := [name for name, one in tests.items() if finding(one, figure) is None]:
        yield f"{task}: too few origins that share no outcome for a test against {', '.join(few)}."


def seed_of(one: Model) -> str:
    """Whose note is told, where there are several."""
    return f"seed {one.rows[0].seed}: " if len(one.rows) > 1 else ""


def words(section: Section, rows: Sequence[Row]) -> list[str]:
    """Wins and losses of a section, a line each."""
    return [line for task, of in models(rows).items() for line in comparison(section, task, of)]


def block(section: Section, rows: Sequence[Row]) -> str:
    """The section's part of the page."""
    parts = [f"## {section.title}", section.about.strip()]
    for task, of in models(rows).items() if section.measures else ():
        parts += [f"### {section.title.split(':')[0]}: {task}", table(section, task, of).markdown()]
        parts.append("\n".join(f"* {line.partition(': ')[2]}" for line in comparison(section, task, of)))
        notes = {one.name: f"{seed_of(one)}{note}" for one in of if (note := one.rows[0].found.note)}
        parts.append("\n".join(f"* {name}: {note}" for name, note in notes.items()))
    if not rows:
        parts.append("No row of it has been computed.")
    elif section.more is not None:
        parts.append(section.more(rows).strip())
    parts.append("\n".join(f"* `{files}`: {told}" for files, told in section.files.items()))
    return "\n\n".join(part for part in parts if part)


def page(sections: Mapping[str, Section], rows: Mapping[str, Sequence[Row]], *, today: str, quick: bool) -> str:
    """The whole page, as Markdown."""
    about = [row.about for each in rows.values() for row in each]
    versions = {f"{name} {version}" for one in about for name, version in one["versions"].items()}
    return TEXT.format(
        date=today,
        commits=", ".join(sorted({str(one["commit"] or "(not recorded)") for one in about})) or "none",
        versions=", ".join(sorted(versions)) or "nothing",
        cores=", ".join(sorted({str(one["machine"]["cpu_count"]) for one in about})) or "no",
        quick=" **A quick run on made-up data, to see that it works: its figures mean nothing.**" if quick else "",
        ours=next((one.ours for one in sections.values()), ""),
        sections="\n\n".join(block(section, rows[name]) for name, section in sections.items()),
    )
