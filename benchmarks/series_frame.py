"""What the sections of `series` share: what a section is, what it is given, and rows that are computed once.

Design choices:
* A row is one model at one task with one seed. It is kept as a JSON file of its own as soon as it is there, and found
  again by section, model, task, seed and settings: a killed run goes on, and other settings never take its place.
* Losses are kept per origin, in order of time, so that models are compared on the same outcomes.
"""

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..common.files import claim, write_json
from ..common.provenance import provenance
from .results import circumstances

BY = "benchmarks.series"
OURS = "tsf-llm"
DIGITS = 7  # of a loss per origin


@dataclass(frozen=True)
class Measure:
    """A column of scores. One that is not `plain` is neither good nor bad: no row of it is the best. The first of a
    section is compared with tests in words, and so are those that are `tested`."""

    key: str
    title: str
    form: str = ".3f"
    more_is_better: bool = False
    plain: bool = True
    tested: bool = False


@dataclass(frozen=True)
class Found:
    """What a model was found to be worth.

    `losses` are per origin, in order of time; a measure that has them and no score has their mean. `overlap` origins
    in a row share a part of their outcomes. `extra` is for what the section's own text tells.
    """

    scores: Mapping[str, float | None] = field(default_factory=dict)
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    overlap: int = 1
    parameters: int | None = None
    note: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """`found`, and of what. `task` names a table of the section; `seed` is None for what draws nothing."""

    section: str
    model: str
    task: str
    seed: int | None
    cpu_seconds: float
    found: Found
    settings: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclass(frozen=True)
class Context:
    """What a section is given. `data` is None in a quick run, which makes its own."""

    section: str
    out: Path
    data: Path | None
    seeds: tuple[int, ...]
    quick: bool
    models: tuple[str, ...] | None  # of which rows are computed, None for all; kept ones of others are found too
    say: Callable[[str], None]

    def file(self, *names: str) -> Path:
        """The first of these that is in the folder of data.

        Raises:
            ValueError: none is.
        """
        assert self.data is not None
        found = next((self.data / name for name in names if (self.data / name).is_file()), None)
        if found is None:
            raise ValueError(f"--data {self.data}: no {' or '.join(names)} there, which {self.section} reads (--help)")
        return found

    def row(
        self, model: str, task: str, measure: Callable[[], Found], *, seed: int | None = None, **settings: Any
    ) -> Row | None:
        """The row of these settings: the kept one, or what `measure` finds, kept. None where none is kept of a model
        that is not computed."""
        settings = json.loads(json.dumps({**settings, "quick": self.quick}, sort_keys=True, default=str))
        name = f"{file_name(self.section, model, task, seed, settings)}.json"
        told = f"{self.section}: {model}, {task}" + ("" if seed is None else f", seed {seed}")
        if (self.out / name).is_file():
            self.say(f"{told} (kept)")
            return read_row(self.out / name)
        if self.models is not None and model not in self.models:
            self.say(f"{told} is not there")
            return None
        started = time.process_time()
        found = rounded(measure())
        seconds = time.process_time() - started
        about = {**circumstances("torch", "transformers", "numpy", "pandas"), **provenance(BY)}
        row = Row(self.section, model, task, seed, round(seconds, 2), found, settings, about)
        claim(self.out, [name], by=BY)
        write_json(asdict(row), self.out / name)
        scores = ", ".join(f"{key} {value:.4g}" for key, value in found.scores.items() if value is not None)
        self.say(f"{told}: {scores}; {seconds:.0f} CPU s")
        return row


@dataclass(frozen=True)
class Section:
    """One part of the page.

    `about` is Markdown: data, split, what is scored, how often the test dates were looked at. `files` names what it
    reads of the folder of data, with source and licence.
    `published` has marks by model and task, as text. `more` adds Markdown of its own after the tables.
    """

    title: str
    about: str
    files: Mapping[str, str]
    measures: tuple[Measure, ...]
    run: Callable[[Context], Iterable[Row | None]]
    ours: str = OURS
    published: Mapping[tuple[str, str], str] = field(default_factory=dict)
    more: Callable[[Sequence[Row]], str] | None = None

    @property
    def tested(self) -> list[Measure]:
        return [one for i, one in enumerate(self.measures) if i == 0 or one.tested]


def file_name(section: str, model: str, task: str, seed: int | None, settings: Mapping[str, Any]) -> str:
    """
    >>> file_name("etth1", "PatchTST", "96 steps", 0, {"quick": False})
    'etth1-patchtst-96-steps-0-d18eb4d8'
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    words = re.sub("[^a-z0-9]+", "-", f"{section} {model} {task}".lower()).strip("-")
    return "-".join([words, *([] if seed is None else [str(seed)]), digest])


def rounded(found: Found) -> Found:
    """With losses of few digits, and the mean of those whose score is not given."""
    losses = {name: [float(f"{one:.{DIGITS}g}") for one in values] for name, values in found.losses.items()}
    means = {name: sum(values) / len(values) for name, values in losses.items() if len(values)}
    return replace(found, losses=losses, scores={**means, **found.scores})


def read_row(path: Path) -> Row:
    """Raises ValueError for a file that is no row."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return Row(**{**kept, "found": Found(**kept["found"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no row of {BY}: remove it, and it is computed again") from error
