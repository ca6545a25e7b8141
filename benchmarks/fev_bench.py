"""A list of fev's tasks, as those of fev-bench: a model of this package beside the seasonal naive, scored by fev.

examples:
    python -m tsf_llm.benchmarks.fev_bench --tasks my_tasks.yaml --out outputs/fev
    python -m tsf_llm.benchmarks.fev_bench --tasks my_tasks.yaml --out outputs/fev --model outputs/sft

The file of tasks is that of `fev.Benchmark.from_yaml`: a list `tasks` of mappings, with `dataset_path`, `horizon` and
the other fields of `fev.Task`. Paths are read from where the command runs; data sets of the Hub need a network.

Design choices:
* A result lies in a file of its own, and is kept where task and settings are the same: a run that was stopped goes on.
* A task that cannot be run says why and is tried again by the next run; the others go on.
* `summaries.json` is what `fev.leaderboard` reads, so that other models' results can stand beside ours.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ..common.errors import OF_THE_INPUT, one_line_errors
from ..common.files import claim, has_keys, write_json, write_text
from ..common.parser import Parser, check_yaml, option
from ..common.provenance import provenance, release
from ..common.reading import read_json
from ..common.tables import Table, number

BY = "fev_bench"
NAIVE = "seasonal_naive"
LONGEST = 500  # letters of a reason
FAILURES = (*OF_THE_INPUT, RuntimeError, AssertionError)  # what fev and data sets refuse a task with


@dataclass
class Arguments:
    """Which tasks, and what answers them."""

    tasks: Path | None = option(None, "YAML of tasks (needed)")
    out: Path | None = option(None, "folder of the results (needed)")
    model: str | None = option(None, "folder or Hub model that answers as it is; by default one is trained per task")
    recipe: str | None = option(None, "YAML of sft for models trained per task; by default they follow from the data")
    seconds: float | None = option(None, "seconds of each training; by default those of the recipe")
    trained_on: list[str] = option([], "with model: data sets (dataset_config of tasks) that it was trained on")
    seed: int = option(0, "of weights, windows and sampled paths")

    def __post_init__(self) -> None:
        if self.tasks is None or self.out is None:
            raise ValueError("--tasks and --out are needed: give a YAML file of tasks and a folder for the results")
        if self.model is None and self.trained_on:
            raise ValueError("--trained_on says what a given model has seen: name it with --model, or leave it out")
        if self.seconds is not None and not self.seconds > 0:
            raise ValueError(f"--seconds {self.seconds}: must be above 0")


def check_installed() -> None:
    """Raises ValueError where fev is missing, or beside data sets that it cannot load."""
    found, needed = release("datasets") or "0", "pip install 'tsf-llm[fev]' brings both, and datasets 4"
    if release("fev") is None:
        raise ValueError(f"fev is not installed: {needed}")
    if int(found.partition(".")[0]) >= 5:
        raise ValueError(f"fev loads nothing with datasets {found}, it wants one below 5: {needed}")


def run(args: Arguments) -> list[dict[str, Any]]:
    """Summaries by fev, one per task and model, or why there is none (`failed`).

    Raises:
        ValueError: fev is missing, or the file is no list of tasks.
    """
    check_installed()
    import fev

    from .fev_model import SeasonalNaive, TsfLlmModel

    assert args.out is not None
    tasks = read_tasks(args.tasks, fev.Task)
    options: dict[str, Any] = {"recipe": args.recipe, "seconds": args.seconds, "seed": args.seed}
    names = [f"{i:03d}_{re.sub(r'[^A-Za-z0-9_.-]+', '_', str(task.task_name))}" for i, task in enumerate(tasks)]
    claim(args.out, [f"{name}.{one}.json" for name in names for one in (NAIVE, "tsf-llm")] + ["summaries.json"], by=BY)
    rows = []
    for name, task in zip(names, tasks, strict=True):
        for model, how in ((SeasonalNaive, {}), (partial(TsfLlmModel, args.model, **options), asdict(args))):
            kind = NAIVE if model is SeasonalNaive else "tsf-llm"
            settings = {key: how[key] for key in ("model", "recipe", "seconds", "seed") if key in how}
            path, asked = args.out / f"{name}.{kind}.json", {"task": task.to_dict(), "settings": settings}
            rows.append(kept(path, asked) or scored(task, model(), kind, args.trained_on))
            write_json({**asked, "summary": rows[-1], **provenance(BY)}, path)
    write_text(json.dumps([row for row in rows if "failed" not in row], indent=2) + "\n", args.out / "summaries.json")
    return rows


def read_tasks(path: Path | None, task_class: Any) -> list[Any]:
    """Raises ValueError, naming the task, for what fev takes for none."""
    assert path is not None
    check_yaml(path)
    listed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("tasks")
    if not isinstance(listed, list) or not listed or not all(isinstance(one, dict) for one in listed):
        raise ValueError(f"{path}: write a list `tasks` of mappings, each with dataset_path and horizon")
    tasks = []
    for i, one in enumerate(listed):
        try:
            tasks.append(task_class(**one))
        except (ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"{path}, task {i + 1}: {error}") from None
    return tasks


def kept(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """The summary that an earlier run left for the same question."""
    if not has_keys(path, ("task", "settings", "summary")):
        return None
    before = read_json(path)
    same = all(before[key] == asked[key] for key in ("task", "settings"))
    return before["summary"] if same and "failed" not in before["summary"] else None


def scored(task: Any, model: Any, name: str, trained_on: list[str]) -> dict[str, Any]:
    """What fev says of the model on the task."""
    try:
        found = task.evaluation_summary(
            model.fit_predict(task),
            model_name=name,
            training_time_s=model.training_time,
            inference_time_s=model.inference_time,
            trained_on_this_dataset=name != NAIVE and task.dataset_config in trained_on,
            extra_info=None if name == NAIVE else {"series_by_seasonal_naive": len(model.left_out)},
        )
        if not math.isfinite(found["test_error"]):
            raise ValueError(f"the {task.eval_metric} of its outcomes is not defined")
        return {key: None if isinstance(one, float) and not math.isfinite(one) else one for key, one in found.items()}
    except FAILURES as error:
        return {"model_name": name, **task.to_dict(), "failed": " ".join(str(error).split())[:LONGEST]}


def table(rows: list[dict[str, Any]]) -> Table:
    """One line per task: fev's error of both, and their ratio."""
    pairs = [(naive, ours) for naive, ours in zip(rows[::2], rows[1::2], strict=True)]
    lines = [{"naive": naive.get("test_error"), "ours": ours.get("test_error"), **ours} for naive, ours in pairs]
    return Table.of(
        lines,
        {
            "task": _named,
            "metric": lambda row: str(row.get("eval_metric", "-")),
            NAIVE: lambda row: number(row["naive"], ".4f"),
            "tsf-llm": lambda row: number(row["ours"], ".4f"),
            "ratio": lambda row: number(row["ours"] / row["naive"] if row["ours"] and row["naive"] else None, ".3f"),
            "by naive": lambda row: str(row.get("series_by_seasonal_naive", "-")),
        },
    )


def _named(row: Mapping[str, Any]) -> str:
    return str(row["task_name"] or Path(row["dataset_path"]).stem)


@one_line_errors(BY)
def main(arguments: list[str] | None = None) -> int:
    (args,) = Parser(Arguments, prog=BY, description=__doc__).parse_args_and_config(arguments)
    rows, console = run(args), Console()
    console.print(table(rows).terminal())
    for row in rows:
        if "failed" in row:
            console.print(f"{_named(row)}, {row['model_name']}: {row['failed']}", soft_wrap=True, markup=False)
    return int(all("failed" in row for row in rows))


if __name__ == "__main__":
    main()
