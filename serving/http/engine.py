"""One model, many clients: features in threads, model passes shared by the requests that wait together.

Design choices:
* The model runs in one thread, sampled paths, which take long, in one beside it, everything else in a few others: the
  event loop never waits, and no long request holds up the short ones.
* Work whose client is gone, or has waited too long, ends before the model's next step.
* Steps with a law share a pass: the windows of all that wait, of one length, are stacked. Sampled paths go alone, each
  request being a batch of them already.
* The weights are float64 here. Which other rows share a pass changes the last bits of a float32 answer, but not the
  digits that are printed of a float64 one: an answer does not depend on who else asked.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import pandas as pd
import torch
from transformers.feature_extraction_utils import BatchFeature

from ...bars_tsf_llm import day_end
from ...laws_tsf_llm import PiecewiseLaw
from ...pipeline_tsf_llm import COLUMN_NAMES, TsfLlmPipeline
from ..record import Recorder
from .adapters import Adapters
from .errors import Refusal, refused
from .metrics import Metrics
from .notes import hear
from .settings import Settings

P = ParamSpec("P")
R = TypeVar("R")
RUNNING = threading.local()  # `ended`: set when nobody waits for this thread's work
MAX_TICKERS = 250
COLUMNS = (
    "past_values",
    "attention_mask",
    "input_ids",
    "scale",
    "last_close",
    "ticker",
    "adapter_names",
)  # that laws want


@dataclass(eq=False)
class Waiting:
    """A request for laws, `laws` being one per step up to its horizon."""

    batch: BatchFeature
    horizon: int
    pipe: TsfLlmPipeline
    laws: "asyncio.Future[list[PiecewiseLaw]]"
    pass_rows: int = 0  # of the pass that answered it

    def __len__(self) -> int:
        return len(self.batch["ticker"])

    @property
    def kind(self) -> tuple[int, int]:
        """What the requests of one pass have in common: the model, and the length of their windows."""
        return id(self.pipe.model), self.batch["past_values"].shape[1]


@dataclass(frozen=True)
class Answer:
    """A forecast, and what is said beside it.

    Args:
        out_of_sample: whether the model has seen no price as late as the first origin; None where nobody knows.
        notes: warnings of the library.
        rows: series that shared its model pass.
    """

    frame: pd.DataFrame
    out_of_sample: bool | None
    notes: list[str]
    rows: int


class Engine:
    """The pipeline, for many requests at one time."""

    def __init__(
        self,
        pipe: TsfLlmPipeline,
        settings: Settings,
        metrics: Metrics,
        adapters: Adapters | None = None,
        market: pd.DataFrame | None = None,
        recorder: Recorder | None = None,
    ):
        self.adapters, self.market, self.recorder = adapters or Adapters({}), market, recorder
        self.pipe, self.settings, self.metrics = exact(pipe), settings, metrics
        if self.adapters.pipe is not None:
            exact(self.adapters.pipe)
        self._notes = hear()
        self._model, self._long = ThreadPoolExecutor(1, "model"), ThreadPoolExecutor(1, "long")
        self._workers = ThreadPoolExecutor(settings.workers, "worker")
        self._waiting: list[Waiting] = []
        self._passing: asyncio.Task[None] | None = None

    async def in_model_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Whatever runs the model goes through here, one at a time; a ValueError is told to the client."""
        return await self._in(self._model, function, *args, **kwargs)

    async def in_long_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Long work of the model, one at a time beside the short; a ValueError is told to the client."""
        return await self._in(self._long, function, *args, **kwargs)

    async def in_worker(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Work beside the model; a ValueError is told to the client."""
        return await self._in(self._workers, function, *args, **kwargs)

    async def _in(self, pool: ThreadPoolExecutor, function: Callable[..., R], *args: Any, **kwargs: Any) -> R:
        ended = threading.Event()

        def work() -> R:
            RUNNING.ended = ended
            try:
                return function(*args, **kwargs)
            finally:
                RUNNING.ended = None

        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except ValueError as error:
            raise refused(error) from error
        finally:
            ended.set()  # also where nobody waits any longer

    async def forecast(
        self, read: Callable[[], dict[str, Any]], *, adapter: str | None = None, **asked: Any
    ) -> Answer:
        """What `pipe(bars, **asked)` gives, by the base or an adapter.

        `read` gives `bars`, and further arguments of the pipeline's `preprocess`, as `market`."""
        notes: list[str] = []
        recorder = self.recorder if adapter is None else None  # whose record is of one model's weights
        wanted = asked if recorder is None else recorder.asking(asked)
        pipe, (preprocess, forward, postprocess) = await self.in_worker(self._checked, adapter, wanted)
        batch, bars = await self.in_worker(self._batch, pipe, read, preprocess, notes, adapter)
        rows, horizon = len(batch["ticker"]), forward["horizon"]
        if horizon <= pipe.law_reach:
            waiting = await self._shared(batch, horizon, pipe)
            forward["laws"], rows = waiting.laws.result(), waiting.pass_rows
            outputs = await self.in_worker(pipe._forward, {"batch": batch}, **forward)
        elif not pipe.model.can_generate():  # a head answers in one pass
            outputs = await self.in_model_thread(pipe._forward, {"batch": batch}, **forward)
        else:
            self.check_paths(rows, horizon, forward.get("samples", 256))
            outputs = await self.in_long_thread(pipe._forward, {"batch": batch}, **forward)
        frame = await self.in_worker(pipe.postprocess, outputs, **postprocess)
        if recorder is not None:  # before anybody sees it
            frame, _ = await self.in_worker(recorder.append, frame, bars, asked)
        return Answer(frame, self._is_out_of_sample(batch, adapter), notes, rows)

    def _checked(self, adapter: str | None, asked: dict[str, Any]) -> tuple[TsfLlmPipeline, tuple[dict, dict, dict]]:
        """Who answers, and the arguments of its three steps; raises ValueError for those that nobody can answer."""
        pipe = self.pipe if adapter is None else self.adapters.pipe_of(adapter)
        if asked.get("as_of") is not None:
            day_end(asked["as_of"])
        steps = pipe._sanitize_parameters(**asked)
        steps[1]["horizon"] = steps[1].get("horizon") or pipe.reach
        pipe.calibration(steps[1].get("calibration", "auto"), steps[1]["horizon"])
        return pipe, steps

    def _batch(
        self,
        pipe: TsfLlmPipeline,
        read: Callable[[], dict[str, Any]],
        preprocess: dict[str, Any],
        notes: list[str],
        adapter: str | None,
    ) -> tuple[BatchFeature, pd.DataFrame]:
        """The rows of a request, ready for the model, and its bars."""
        with self._notes.listening(notes):
            given = read()
            if given.get("market") is None:
                given["market"] = self.market
            names = {name: given.pop(name) for name in {*COLUMN_NAMES} & {*given}}
            bars = pipe._renamed(given.pop("bars"), names)
            tickers = pipe.processor.feature_extractor.check_known(bars, strict=preprocess.get("strict", False))
            if len(tickers) > MAX_TICKERS:
                raise ValueError(f"{len(tickers):,} tickers: ask for at most {MAX_TICKERS:,} at once")
            batch = pipe.preprocess(tickers, **given, **preprocess)["batch"]
        if adapter is not None:
            batch["adapter_names"] = self.adapters.keys(adapter, batch["ticker"])
        return batch, bars

    def check_paths(self, rows: int, horizon: int, samples: int) -> None:
        """Raises Refusal for more sampled steps than one request may want: they hold up all others."""
        if (steps := rows * horizon * samples) > self.settings.max_steps:
            raise Refusal(
                422,
                "too_much",
                f"{rows} series x {samples} samples x {horizon} bars are {steps:,} sampled steps, and this server "
                f"samples {self.settings.max_steps:,} at once: lower samples or horizon, or send fewer series",
            )

    def _is_out_of_sample(self, batch: BatchFeature, adapter: str | None) -> bool | None:
        seen = [self.pipe.model.config.trained_through]
        if adapter is not None:
            seen += self.adapters.seen(adapter, batch["ticker"])
        if not all(seen):
            return None
        return bool(min(batch["origin"]) > max(map(day_end, seen)))

    # --- shared passes

    async def _shared(self, batch: BatchFeature, horizon: int, pipe: TsfLlmPipeline) -> Waiting:
        """Waits for a pass that has these rows in it."""
        waiting = Waiting(batch, horizon, pipe, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._passing is None or self._passing.done():
            self._passing = asyncio.create_task(self._pass_all())
        try:
            await waiting.laws
        except ValueError as error:
            raise refused(error) from error
        return waiting

    async def _pass_all(self) -> None:
        await asyncio.sleep(self.settings.window)
        while group := self._together():
            for each in self._tries(group):
                try:
                    all_laws = await self._in(self._model, self._laws, each)
                except Exception as error:
                    if len(each) == 1 and not each[0].laws.done():
                        each[0].laws.set_exception(error)
                    continue
                for waiting, laws in zip(each, all_laws, strict=True):
                    if not waiting.laws.done():
                        waiting.laws.set_result(laws)

    def _tries(self, group: list[Waiting]) -> Iterator[list[Waiting]]:
        """All at once; and, if that failed, each by itself, so that one cannot spoil the others' answers."""
        yield group
        for waiting in group:
            if not waiting.laws.done():
                yield [waiting]

    def _together(self) -> list[Waiting]:
        """The first that waits and those that fit beside it, in the order they came."""
        self._waiting = [one for one in self._waiting if not one.laws.done()]  # the others' clients are gone
        group: list[Waiting] = []
        for one in self._waiting:
            fits = not group or sum(map(len, group)) + len(one) <= self.settings.batch_rows
            if fits and (not group or one.kind == group[0].kind):
                group.append(one)
        self._waiting = [one for one in self._waiting if one not in group]
        return group

    def _laws(self, group: list[Waiting]) -> list[list[PiecewiseLaw]]:
        """One model pass."""
        rows = sum(map(len, group))
        self.metrics.passes.inc()
        self.metrics.batch_rows.observe(rows)
        self.metrics.batch_requests.observe(len(group))
        steps = group[0].pipe.laws(stacked([one.batch for one in group]), max(one.horizon for one in group))
        answers, start = [], 0
        for one in group:
            end, one.pass_rows = start + len(one), rows
            answers.append(
                [PiecewiseLaw(law.values[start:end], law.levels[start:end]) for law in steps[: one.horizon]]
            )
            start = end
        return answers


def stacked(batches: list[BatchFeature]) -> BatchFeature:
    """The rows of several batches of one length."""
    parts = {name: [batch[name] for batch in batches] for name in COLUMNS if name in batches[0]}
    return BatchFeature(
        {
            name: torch.cat(part) if torch.is_tensor(part[0]) else [cell for cells in part for cell in cells]
            for name, part in parts.items()
        }
    )


def exact(pipe: TsfLlmPipeline) -> TsfLlmPipeline:
    """The pipeline with float64 weights, whose rows do not change a printed digit of one another.

    Its model ends work that nobody waits for."""
    pipe.model.set_experts_implementation("eager")  # torch's grouped product knows no float64
    pipe.model.double()
    pipe.model.get_input_embeddings().register_forward_pre_hook(_end_if_nobody_waits)  # of every step too
    return pipe


class Abandoned(Exception):
    """Nobody waits for this work any longer."""


def _end_if_nobody_waits(model: Any, args: Any) -> None:
    ended = getattr(RUNNING, "ended", None)
    if ended is not None and ended.is_set():
        raise Abandoned
