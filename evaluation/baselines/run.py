"""How baselines are run: in processes beside each other, kept on disk by content, and never stopping one another.

Design choices:
* A task is one baseline on one series, or on all of them where it is fitted on all. What a task gives is what scores
  ask (`Scored`), in safetensors, under a name that hashes everything it could read: the code, the bars, the origins.
  A baseline that is not `learned` sees prices alone, so models with other features find its tasks too.
* The laws of `TOGETHER` tasks are scored at once: so few numbers as one series has cost more in calls than in sums.
* A run that died, or one with another model, finds the tasks that are done. `TSF_LLM_CACHE` moves the folder.
* A task that fails leaves its reason. Every row is scored on the same outcomes: a forecast that could not be made is
  that of `historical_volatility_20`, and the reason says so. A row of which less than half could be made is left out.
"""

import hashlib
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from ...common.files import replace_file
from ...feature_extraction_tsf_llm import EncodedSeries
from ..distributions import Admitted, Forecast, Scored
from .catalogue import NEVER, Baseline, choose
from .panel import Panel

LIBRARIES = ("numpy", "scipy", "arch", "statsmodels", "torch")
[STAND_IN] = choose("historical_volatility_20")  # which every origin has history for
FAILURES = (ValueError, ArithmeticError, RuntimeError, ImportError, np.linalg.LinAlgError)
MANY_STEPS = 60  # above which all quantiles would take gigabytes
TOGETHER = 16  # tasks of a baseline; a run that dies loses what of them is done


@dataclass(frozen=True)
class Task:
    """One baseline on some series."""

    baseline: Baseline
    panel: Panel
    positions: np.ndarray  # of its forecasts among all
    outcome: np.ndarray  # [n,P]
    unit: np.ndarray  # [n]
    digests: Sequence[bytes]  # of its series; none where what it gives is not kept


def run(
    baselines: Sequence[Baseline],
    panel: Panel,
    steps: Sequence[int],
    outcome: np.ndarray,
    unit: np.ndarray,
    *,
    num_proc: int = 1,
    progress: bool = True,
    keep: bool = True,
    brief: bool = False,
) -> tuple[dict[str, dict[int, Scored]], dict[str, str]]:
    """Each baseline's forecasts by step, scored on outcomes `[n,P]` in units `[n]`; and what failed, by name.

    Unless `keep`, nothing is taken from the disk or left on it. If `brief`, all quantiles of more than `MANY_STEPS`
    are kept of the last step alone."""
    seen = {learned: panel if learned else panel.prices_alone() for learned in {one.learned for one in baselines}}
    hashed = {one.learned for one in baselines if keep and one.refit != NEVER}
    digests = {learned: [_digest(one) for one in seen[learned].series] for learned in hashed}
    batches: list[list[Task]] = []
    for one in baselines:
        kept = digests[one.learned] if keep and one.refit != NEVER else []
        tasks = _tasks(one, seen[one.learned], outcome, unit, kept)
        batches += [tasks[i : i + TOGETHER] for i in range(0, len(tasks), TOGETHER)]
    answers = Parallel(n_jobs=num_proc, return_as="generator")(delayed(_answers)(batch, steps) for batch in batches)
    bar = tqdm(
        total=sum(map(len, batches)), desc="baselines", unit="fit", disable=None if progress else True, leave=False
    )
    cut = set(steps[:-1] if brief and len(steps) > MANY_STEPS else ())
    found: dict[str, dict[int, Scored]] = {}
    failures: dict[str, list[str]] = {}
    for batch, answered in zip(batches, answers, strict=True):
        for task, answer in zip(batch, answered, strict=True):
            name = task.baseline.name
            if isinstance(answer, str):
                failures.setdefault(name, []).append(answer)
                continue
            if name not in found:
                found[name] = {step: _missing(outcome[:, i], step in cut) for i, step in enumerate(steps)}
            for step, scored in answer.items():
                scored = scored.brief() if step in cut else scored
                _fill(found[name][step], task.positions, scored)
        bar.update(len(batch))
    bar.close()
    told = {name: _told(reasons, len(panel.series)) for name, reasons in failures.items()}
    for name, by_step in [*found.items()]:
        known = np.logical_and.reduce([one.known for one in by_step.values()])
        if known.all():
            continue
        words, missing = f"{told.get(name, 'not every forecast could be made')}; {{}}", np.flatnonzero(~known)
        if 2 * len(missing) > len(known):
            told[name] = words.format(f"{len(missing)} of {len(known)} forecasts are missing, so it has no row")
            del found[name]
            continue
        told[name] = words.format(f"{len(missing)} of {len(known)} forecasts are those of {STAND_IN.name}")
        others, _ = run([STAND_IN], panel, steps, outcome, unit, progress=False, brief=brief)
        for step, scored in by_step.items():
            _fill(scored, missing, others[STAND_IN.name][step].take(missing))
    return found, told


def _missing(outcome: np.ndarray, brief: bool) -> Scored:
    return Scored.missing(outcome).brief() if brief else Scored.missing(outcome)


def _fill(scored: Scored, positions: np.ndarray, values: Scored) -> None:
    for part in fields(Scored):
        getattr(scored, part.name)[positions] = getattr(values, part.name)


def _tasks(
    baseline: Baseline, panel: Panel, outcome: np.ndarray, unit: np.ndarray, digests: Sequence[bytes]
) -> list[Task]:
    if baseline.pooled:
        return [Task(baseline, panel, np.arange(len(outcome)), outcome, unit, digests)]
    ends = np.cumsum([len(rows) for rows in panel.rows])
    tasks = []
    for i, (part, end) in enumerate(zip(panel.alone(), ends, strict=True)):
        mine = np.arange(end - len(part.rows[0]), end)
        tasks.append(Task(baseline, part, mine, outcome[mine], unit[mine], digests[i : i + 1]))
    return tasks


def _told(reasons: Sequence[str], count: int) -> str:
    return reasons[0] if len(reasons) == 1 == count else f"{len(reasons)} of {count} series: {'; '.join(reasons[:3])}"


def _answers(tasks: Sequence[Task], steps: Sequence[int]) -> list[dict[int, Scored] | str]:
    """What tasks of one baseline give, from the disk where it is there; or why each failed."""
    paths = [cache_folder() / f"{_key(one, steps)}.safetensors" if one.digests else None for one in tasks]
    answers: list[Any] = [None if path is None else _kept(path, steps) for path in paths]
    laws = {i: _laws(task, steps) for i, task in enumerate(tasks) if answers[i] is None}
    made = [(i, one) for i, one in laws.items() if not isinstance(one, str)]
    scored = {step: _scored(step, p, [(tasks[i], one[step]) for i, one in made]) for p, step in enumerate(steps)}
    for place, (i, _) in enumerate(made):
        answers[i] = {step: parts[place] for step, parts in scored.items()}
        if (path := paths[i]) is not None:
            _keep(answers[i], path)
    return [laws[i] if one is None else one for i, one in enumerate(answers)]


def _laws(task: Task, steps: Sequence[int]) -> Mapping[int, Forecast] | str:
    """What a task forecasts, or why it failed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters of a fit is refused by the baseline itself
            return task.baseline.forecast(task.panel, steps)
    except FAILURES as error:
        names = [one.ticker for one in task.panel.series]
        reason = " ".join(str(error).split())
        return reason if len(names) > 1 or names[0] in reason else f"{names[0]}: {reason}"


def _scored(step: int, place: int, pairs: Sequence[tuple[Task, Forecast]]) -> list[Scored]:
    """The laws of one step of several tasks, scored at once, and parted again."""
    if not pairs:
        return []
    unit, outcome = (
        np.concatenate(one) for one in zip(*((t.unit, t.outcome[:, place]) for t, _ in pairs), strict=True)
    )
    law, panel = type(pairs[0][1]).joined([law for _, law in pairs]), pairs[0][0].panel
    if panel.is_bounded:
        law = Admitted(
            law, np.concatenate([task.panel.now for task, _ in pairs]), panel.admissible, np.ones(len(unit))
        )
    whole = Scored.of(law.divided(unit), outcome)
    ends = np.cumsum([len(task.unit) for task, _ in pairs])
    return [whole.take(slice(end - len(task.unit), end)) for end, (task, _) in zip(ends, pairs, strict=True)]


def cache_folder() -> Path:
    """Where finished tasks are kept: `TSF_LLM_CACHE`, or `tsf_llm` in the user's cache folder."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tsf_llm"
    return Path(os.environ.get("TSF_LLM_CACHE") or usual) / "baselines"


def _key(task: Task, steps: Sequence[int]) -> str:
    """A hash of everything that the answer depends on, all code of this room among it."""
    panel, versions = task.panel, [_version(name) for name in (*LIBRARIES, task.baseline.package)]
    settings = (task.baseline.name, panel.kind.name, panel.season, str(panel.start), panel.seed, [*steps], versions)
    settings += (panel.nonnegative, panel.integer)
    digest = hashlib.sha256(_code() + repr(settings).encode())
    for array in (task.outcome, task.unit, *panel.rows):
        digest.update(np.ascontiguousarray(array).tobytes())
    for one in task.digests:
        digest.update(one)
    return digest.hexdigest()


def _digest(one: EncodedSeries) -> bytes:
    digest = hashlib.sha256()
    for part in vars(one).values():
        digest.update(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return digest.digest()


@cache
def _code() -> bytes:
    """The sources of this room and of the laws."""
    room = Path(__file__).parent
    return b"".join(source.read_bytes() for source in (room.parent / "distributions.py", *sorted(room.glob("*.py"))))


@cache
def _version(package: str | None) -> str | None:
    try:
        return package and version(package)
    except PackageNotFoundError:
        return None


def _keep(scored: Mapping[int, Scored], path: Path) -> None:
    """Best effort: a full or read-only disk costs the next run time, and this one nothing."""
    arrays = {f"{step}.{one.name}": getattr(scored[step], one.name) for step in scored for one in fields(Scored)}
    whole = {name: np.ascontiguousarray(array, dtype=np.float64) for name, array in arrays.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda unfinished: save_file(whole, unfinished))
    except OSError:
        return


def _kept(path: Path, steps: Sequence[int]) -> dict[int, Scored] | None:
    try:
        arrays = load_file(path)
        return {step: Scored(**{one.name: arrays[f"{step}.{one.name}"] for one in fields(Scored)}) for step in steps}
    except (OSError, SafetensorError, KeyError):
        return None
