"""`tsf-llm forecast --engine`: forecasts of thousands of tickers, in memory that does not grow with them.

Design choices:
* Bars go to disk first, regrouped by ticker, and come back in groups (`data_prep/ticker_files.py`), whichever way they
  lie in files. A group is one call of the pipeline, so that a model and a group are all that is in memory.
* Which tickers are a group is up to the data alone. So the rows, and the bytes, do not depend on the engine or on how
  many processes there are; engines only say where a `Worker` runs.
* The rows of a group are a file in a folder beside OUT, with a digest of its bars, the model and the settings. A run
  that was stopped reads the bars again and computes the groups that lack such a file, or have another digest. OUT
  appears whole, and then the folder goes. Its lock keeps a second run away, and goes with a process that is killed.
* A market that features read is worked out once, and every worker gets it.
"""

import json
import logging
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..bars_tsf_llm import LISTED, refuse_if_none_left
from ..common.files import check_free, claim, has_keys, remove, remove_empty, write_json, write_parquet, write_tables
from ..data_prep.columns import USUAL, Columns
from ..data_prep.prepare import check_engine, ray_cluster
from ..data_prep.shards import hash_of, hash_of_code, hash_of_rows
from ..data_prep.ticker_files import Group, collect_groups, read_groups
from ..evaluation.track_record import Appended
from ..pipeline_tsf_llm import TsfLlmPipeline
from ..training.models import digest
from .loading import load_pipeline
from .record import Recorder

BY = "forecast"  # the author of all in the work folder
BARS, PARTS = "bars", "parts"
MARKET = "market.parquet"  # among the bars
LOCK = ".lock"
TIMES = ("origin", "timestamp")
FACTS = b"tsf-llm"  # of a part, in its schema
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    rows: int
    tickers: int
    groups: int
    kept: int  # of the groups, from an earlier run
    skipped: dict[str, str]
    logged: Appended | None = None  # to the track record, if there is one


@dataclass(frozen=True)
class Job:
    """What all workers share, small enough to be sent to them; what is large lies in the folder."""

    model: str
    digest: str  # of its weights
    settings: str  # a digest of all that rows depend on but their bars
    folder: Path
    asked: Mapping[str, Any]  # of the pipeline's call, but the market

    def part(self, number: int) -> Path:
        return self.folder / PARTS / f"{number:06d}.parquet"


class Worker:
    """A loaded model that forecasts one group after the other; also an actor of Ray Data.

    Raises:
        ValueError: the weights are others than those that the run began with.
    """

    def __init__(self, job: Job, pipe: TsfLlmPipeline | None = None):
        self.job, self.pipe = job, pipe or load_pipeline(job.model)
        if pipe is None and digest(self.pipe.model) != job.digest:
            raise ValueError(f"{job.model} is another model on this machine: copy the same weights to all")
        self.groups = read_groups(job.folder / BARS)
        market = job.folder / BARS / MARKET
        self.asked = {**job.asked, "market": pd.read_parquet(market) if market.is_file() else None}

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {**batch, "facts": [json.dumps(self.run(int(number))) for number in batch["number"]]}

    def run(self, number: int) -> dict[str, Any]:
        """Forecasts a group into its part, unless that is there; returns what is known of it, or what is wrong."""
        bars, part = self.groups[number].read(), self.job.part(number)
        extractor = self.pipe.processor.feature_extractor
        id = extractor.series_kind.id
        texts = [*dict.fromkeys([id, *extractor.static_covariates])]
        rows = [hash_of_rows(one.drop(columns=texts)) for _, one in bars.groupby(id, sort=False)]
        told = bars[texts].drop_duplicates().to_numpy().tolist() if texts != [id] else None
        key = hash_of(self.job.settings, [*self.groups[number].places], [*bars.columns], rows, told, bars.attrs)
        if (facts := facts_of(part)).get("key") == key:
            return {**facts, "kept": True}
        try:
            with _quiet() as notes:
                frame, skipped = forecast_group(self.pipe, bars, id, self.asked)
        except ValueError as error:
            return {"error": str(error)}
        facts = {
            "key": key,
            "rows": len(frame),
            "tickers": frame["ticker"].nunique() if len(frame) else 0,
            "has_clock": any(bool((frame[name] != frame[name].dt.normalize()).any()) for name in TIMES if len(frame)),
            "skipped": skipped,
            "notes": notes,
        }
        table = pa.Table.from_pandas(frame, preserve_index=False)
        told = {**(table.schema.metadata or {}), FACTS: json.dumps(facts).encode()}
        write_parquet(table.replace_schema_metadata(told), part)
        return {**facts, "kept": False}


def forecast_group(
    pipe: TsfLlmPipeline, bars: pd.DataFrame, id: str, asked: Mapping[str, Any]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The rows of a group, none if no ticker has any, and why tickers have none.

    Raises:
        ValueError: one cannot be forecast, and that was to be refused.
    """
    try:
        frame = pipe(bars, **asked)
        return frame, frame.attrs.pop("skipped")
    except ValueError as error:
        names = bars[id].unique()
        if asked.get("strict"):
            raise
        if len(names) == 1:
            return pd.DataFrame(), {str(names[0]): str(error)}
        answers = [forecast_group(pipe, one, id, asked) for _, one in bars.groupby(id, sort=False)]
        frames = [frame for frame, _ in answers if len(frame)]
        skipped = {name: why for _, one in answers for name, why in one.items()}
        return (pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()), skipped


def facts_of(part: Path) -> dict[str, Any]:
    """What a part says of itself; nothing where there is none, or none of ours."""
    try:
        return json.loads((pq.read_schema(part).metadata or {})[FACTS])
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return {}


class _Notes(logging.Handler):
    """Warnings of the libraries, to be told once at the end."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not text.startswith("skipped "):  # which have a record of their own
            self.texts.append(text)


@contextmanager
def _quiet() -> Iterator[list[str]]:
    """Neither warnings nor progress bars of this package within; the warnings come in the list."""
    ours, notes = logging.getLogger(__name__.partition(".")[0]), _Notes()
    had_bar, propagated = transformers_logging.is_progress_bar_enabled(), ours.propagate
    transformers_logging.disable_progress_bar()
    ours.addHandler(notes)
    ours.propagate = False
    try:
        yield notes.texts
    finally:
        ours.removeHandler(notes)
        ours.propagate = propagated
        if had_bar:
            transformers_logging.enable_progress_bar()


# --- a run ---------------------------------------------------------------------------------------------------------


def work_folder(out: Path) -> Path:
    """Where the parts of a run lie.

    >>> work_folder(Path("deep/forecast.csv")).as_posix()
    'deep/forecast.csv.parts'
    """
    return out.with_name(f"{out.name}.parts")


def skipped_file(out: Path) -> Path:
    """Where all reasons are written, if there are any.

    >>> skipped_file(Path("deep/forecast.csv")).as_posix()
    'deep/forecast.skipped.json'
    """
    return out.with_name(f"{out.stem}.skipped.json")


def forecast_market(
    source: str | Path | list,
    out: Path,
    *,
    model: str,
    tickers: Sequence[str] | None = None,
    columns: Columns = USUAL,
    market: pd.DataFrame | None = None,
    engine: str = "local",
    num_proc: int = 1,
    ray_address: str | None = None,
    strict: bool = False,
    log: Path | None = None,
    **asked: Any,
) -> Summary:
    """Forecasts all tickers of `source` into the file `out`: the rows of the pipeline, `asked` being its arguments.

    With `log`, a track record, the rows of all groups are written there before they are in `out`.

    With `engine="ray"` workers are those of the cluster at `ray_address`, all of whose machines must see `out` and the
    model under the same paths, or `num_proc` that are started on this machine and stopped again.

    Raises:
        ValueError: for bars, settings or a model that allow no forecast, without Ray, or a foreign file in the place
            of ours.
    """
    check_engine(engine, ray_address)
    work, told = work_folder(out).resolve(), skipped_file(out)
    check_free(work, [BARS, PARTS], by=BY)
    if told.exists() and not has_keys(told, ["skipped"]):
        raise ValueError(f"{told} is not of an earlier forecast and stands where one goes: choose another --out")
    model = str(Path(model).resolve()) if Path(model).is_dir() else model
    pipe = load_pipeline(model)
    pipe.calibration(asked.get("calibration", "auto"), asked["horizon"])  # refuses before the data is read
    extractor = pipe.processor.feature_extractor
    recorder, logged = None if log is None else Recorder(pipe, model, log), None
    asked["strict"], state = strict, extractor.state_of_market(market)
    usual = {**asked, "market": market}
    asked = asked if recorder is None else recorder.asking(asked)
    lock = _locked(work, out)
    remove(work, [BARS], by=BY)  # of a killed run
    claim(work, [BARS, PARTS], by=BY)
    try:
        columns = replace(columns, static=tuple(extractor.static_covariates))
        read: dict[str, Any] = {"kind": extractor.series_kind, "columns": columns, "covariates": extractor.covariates}
        with tqdm(desc="bars read", unit=" rows", unit_scale=True, disable=None, leave=False) as bar:
            groups, skipped = collect_groups(source, work / BARS, tickers, strict=strict, told=bar.update, **read)
        if state is not None:
            write_parquet(state, work / BARS / MARKET)
        job = Job(model, digest(pipe.model), _settings(pipe, asked, state), work, asked)
        done = _run(job, pipe, groups, engine=engine, num_proc=num_proc, ray_address=ray_address)
        skipped |= {name: why for one in done for name, why in one["skipped"].items()}
        some = [number for number, one in enumerate(done) if one["rows"]]
        if not some:
            remove(work, [PARTS], by=BY)
        refuse_if_none_left(some, skipped)
        has_clock = any(one["has_clock"] for one in done)
        if recorder is not None:
            for number in some:
                added = recorder.append(pd.read_parquet(job.part(number)), groups[number].read(), usual)[1]
                logged = added if logged is None else logged + added
        rows = (_rows(job.part(number), out, has_clock=has_clock) for number in some)
        write_tables(rows if recorder is None else (recorder.shown(one, usual) for one in rows), out)
        remove(work, [PARTS], by=BY)
    finally:
        remove(work, [BARS, *(() if _has_parts(work) else (PARTS,))], by=BY)
        (work / LOCK).unlink(missing_ok=True)
        lock.release()
        remove_empty(work)
    if skipped:
        write_json({"skipped": skipped}, told)
    else:
        told.unlink(missing_ok=True)
    _tell([note for one in done for note in one["notes"]])
    counts = {name: sum(one[name] for one in done) for name in ("rows", "tickers", "kept")}
    return Summary(**counts, groups=len(groups), skipped=skipped, logged=logged)


def _locked(work: Path, out: Path) -> FileLock:
    """Raises ValueError while another run works here."""
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise ValueError(f"another run writes {out} now: wait until it is done, or choose another --out") from error
    return lock


def _settings(pipe: TsfLlmPipeline, asked: Mapping[str, Any], market: pd.DataFrame | None) -> str:
    """A digest of what rows depend on beside bars and weights."""
    processor = pipe.processor
    learned = (processor.feature_extractor.to_dict(), processor.tokenizer.bin_edges, processor.tokenizer.law_edges)
    others = (processor.calibration, asked, hash_of_rows(market), hash_of_code(processor.feature_extractor))
    return hash_of(digest(pipe.model), pipe.model.config.to_dict(), *learned, *others)


def _run(job: Job, pipe: TsfLlmPipeline, groups: Sequence[Group], **engine: Any) -> list[dict[str, Any]]:
    """What is known of each group, all of which have parts then.

    Raises:
        ValueError: what is wrong with one of them.
    """
    done: dict[int, dict[str, Any]] = {}
    with tqdm(desc="forecast", unit=" tickers", total=sum(len(one.places) for one in groups), disable=None) as bar:
        for number, facts in _results(job, pipe, range(len(groups)), **engine):
            if "error" in facts:
                raise ValueError(facts["error"])
            done[number] = facts
            bar.update(len(groups[number].places))
    return [done[number] for number in range(len(groups))]


def _has_parts(work: Path) -> bool:
    return any((work / PARTS).glob("[0-9]*"))


def _rows(part: Path, out: Path, *, has_clock: bool) -> pd.DataFrame:
    """In a CSV file times are written in one way: as dates only where all are."""
    frame = pd.read_parquet(part)
    texts = TIMES if has_clock and out.suffix.lower() == ".csv" else ()
    return frame.assign(**{name: frame[name].map(str) for name in texts})


def _tell(notes: Sequence[str]) -> None:
    """Each warning once; of many the first."""
    notes = [*dict.fromkeys(notes)]
    for note in notes[:LISTED]:
        logger.warning(note)
    if len(notes) > LISTED:
        logger.warning("%d more warnings of this kind", len(notes) - LISTED)


# --- engines -------------------------------------------------------------------------------------------------------


def _results(
    job: Job, pipe: TsfLlmPipeline, numbers: Sequence[int], *, engine: str, num_proc: int, ray_address: str | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Of each group what came of it, in any order."""
    if engine == "ray":
        with ray_cluster(num_proc, ray_address):
            yield from _on_ray(job, numbers, num_proc)
    elif num_proc == 1:
        worker = Worker(job, pipe)
        yield from ((number, worker.run(number)) for number in numbers)
    else:
        yield from _on_processes(job, numbers, num_proc)


_here: dict[str, Worker] = {}  # of a worker process


def _begin(job: Job) -> None:
    _here["worker"] = Worker(job)


def _go_on(number: int) -> dict[str, Any]:
    return _here["worker"].run(number)


def _on_processes(job: Job, numbers: Sequence[int], num_proc: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Fresh processes, not forks: torch's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_proc, context, initializer=_begin, initargs=(job,)) as pool:
        futures = {pool.submit(_go_on, number): number for number in numbers}
        try:
            yield from ((futures[one], one.result()) for one in as_completed(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _on_ray(job: Job, numbers: Sequence[int], num_proc: int) -> Iterator[tuple[int, dict[str, Any]]]:
    import ray

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # of how it plans, and how long that took
    groups = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    pool = ray.data.ActorPoolStrategy(size=min(num_proc, len(numbers)))
    done = groups.map_batches(Worker, fn_constructor_args=(job,), compute=pool, num_cpus=1, batch_size=1)
    yield from ((int(row["number"]), json.loads(row["facts"])) for row in done.iter_rows())
