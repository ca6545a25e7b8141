"""Plain series beside the specialists, on their own tests, in one run: long horizons, weather, demand, text.

examples:
    python -m tsf_llm.benchmarks.series --data FOLDER --out series --page docs/series.md
    python -m tsf_llm.benchmarks.series --data FOLDER --out series --only etth1 --seeds 0
    python -m tsf_llm.benchmarks.series --out series --stored --page series.md  # no training: what is there
    python -m tsf_llm.benchmarks.series --out tiny --quick      # made-up data: shows that it works

Each row (a model at a task with a seed) is kept in the folder as a JSON file. A run that was stopped goes on where it
was, and no row is computed twice. Leave the data, which you download yourself, as it is published; see the list below.
"""

import time
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from rich.console import Console

from ..common.errors import one_line_errors
from ..common.files import check_apart, check_folder, check_output, write_text
from ..common.parser import Parser, option
from . import (
    series_continual,
    series_demand,
    series_guide,
    series_long,
    series_sentiment,
    series_time_llm,
    series_tweets,
)
from .series_frame import Context, Row, Section
from .series_page import page, words

SECTIONS: dict[str, Section] = {
    "etth1": series_long.ETTH1,
    "weather": series_long.WEATHER,
    "retail": series_demand.RETAIL,
    "ecommerce": series_demand.ONLINE,
    "time_llm": series_time_llm.TIME_LLM,
    "guide": series_guide.GUIDE,
    "sentiment": series_sentiment.SENTIMENT,
    "tweets": series_tweets.TWEETS,
    "continual": series_continual.CONTINUAL,
}
QUICK_SEEDS = [0]


@dataclass
class Arguments:
    """What to run, on which data, and what to write."""

    data: Path | None = field(
        default=None, metadata={"metavar": "FOLDER", "help": "with the files listed below (needed without --quick)"}
    )
    out: Path | None = field(default=None, metadata={"metavar": "FOLDER", "help": "where rows are kept (needed)"})
    only: list[str] = option(list(SECTIONS), "sections")
    seeds: list[int] = option([0, 1, 2], "of whatever draws numbers (0 alone with --quick)")
    models: list[str] = option([], "compute rows of these alone, by their names in the tables (default all)")
    page: Path | None = field(default=None, metadata={"metavar": "FILE", "help": "write this page of Markdown"})
    quick: bool = option(False, "tiny, on made-up data, to see that it works; its figures mean nothing")
    stored: bool = option(False, "compute nothing: a page of the rows that are there")

    def __post_init__(self) -> None:
        self.only = [name for given in self.only for name in given.split(",") if name]
        if unknown := [name for name in self.only if name not in SECTIONS]:
            raise ValueError(f"--only {unknown[0]}: choose of {', '.join(SECTIONS)}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: give one or more different ones, from 0 on")
        if self.out is None:
            raise ValueError("--out is needed: name a folder, where rows are kept")
        check_folder(self.out)
        if not (self.quick or self.stored):
            if self.data is None or not self.data.is_dir():
                told = "is needed" if self.data is None else f"{self.data}: there is no such folder"
                raise ValueError(f"--data {told}: name one with the files that --help lists")
            check_apart(self.out, self.data)
        if self.stored and self.models:
            raise ValueError("--stored computes nothing, --models something: give one")
        if self.page is not None:
            check_output(self.page, ".md")


def run(args: Arguments, console: Console) -> dict[str, list[Row]]:
    """The rows of each section."""
    started, found = time.perf_counter(), {}
    assert args.out is not None
    for name in args.only:
        context = Context(
            section=name,
            out=args.out,
            data=None if args.quick else args.data,
            seeds=tuple(QUICK_SEEDS if args.quick else args.seeds),
            quick=args.quick,
            models=() if args.stored else tuple(args.models) or None,
            say=lambda line: console.print(f"{time.perf_counter() - started:5.0f} s  {line}", soft_wrap=True),
        )
        if context.data is not None:
            for files in SECTIONS[name].files:
                context.file(*files.split(" or "))
        found[name] = [row for row in SECTIONS[name].run(context) if row is not None]
    return found


def listed() -> str:
    """The files that `--data` is to hold."""
    lines = [f"  {files} ({name}): {told}" for name, one in SECTIONS.items() for files, told in one.files.items()]
    return "\n".join(["files of --data:", *lines])


@one_line_errors("series")
def main(arguments: list[str] | None = None) -> int:
    described = f"{__doc__}\n{listed()}"
    (parsed,) = Parser(Arguments, prog="series", description=described).parse_args_and_config(arguments)
    rows = run(parsed, Console(stderr=True))
    sections = {name: SECTIONS[name] for name in rows}
    console = Console()
    for name, section in sections.items():
        for line in words(section, rows[name]):
            console.print(f"{name}: {line}", soft_wrap=True, markup=False)
    if parsed.page is not None:
        write_text(page(sections, rows, today=date.today().isoformat(), quick=parsed.quick), parsed.page)
    return 0


if __name__ == "__main__":
    main()
