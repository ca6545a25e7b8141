"""Work that this process shares with others that it starts.

Design choices:
- This process works too: the others need seconds to import torch, and work is done meanwhile.
- Fresh processes, not forks: torch's threads do not survive a fork.
- A job is taken when somebody is free, so large and small ones even out, and jobs that a generator makes are in memory
  only while they are worked on.
"""

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from importlib import import_module
from threading import Lock
from typing import Any, Self

from transformers.utils import logging

from ..feature_extraction_tsf_llm import PATIENCE


class Crew:
    """So many processes, this one among them.

    Args:
        module: what the others import at once, by its full name.
    """

    def __init__(self, processes: int = 1, module: str = __name__):
        self.others = processes - 1
        self._module = module
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        if self.others:
            start = {"initializer": import_module, "initargs": (self._module,)}
            self._pool = ProcessPoolExecutor(self.others, multiprocessing.get_context("spawn"), **start)
            for _ in range(self.others):
                self._pool.submit(int)  # they start now, not at the first job
        return self

    def __exit__(self, *_: Any) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def run(self, jobs: Iterable[Callable[[], Any]], told: Callable[[Any], Any] = lambda answer: None) -> list[Any]:
        """The answers of the jobs, in their order; `told` hears of each as it comes.

        A job is a `partial` of a module's function, and goes to another process whole. An error of one ends the run.
        """
        answers: dict[int, Any] = {}
        left, lock, failed = enumerate(jobs), Lock(), False

        def take() -> tuple[int, Callable[[], Any]] | None:
            with lock:
                return None if failed else next(left, None)

        def work_off(call: Callable[[Callable[[], Any]], Any]) -> None:
            nonlocal failed
            try:
                while (taken := take()) is not None:
                    number, job = taken
                    answer = call(job)
                    with lock:
                        answers[number] = answer
                        told(answer)
            except BaseException:
                failed = True
                raise

        with ThreadPoolExecutor(max(self.others, 1)) as threads:
            helpers = [threads.submit(work_off, self._elsewhere) for _ in range(self.others)]
            work_off(lambda job: job())
            for helper in helpers:
                helper.result()
        return [answers[number] for number in sorted(answers)]

    def _elsewhere(self, job: Callable[[], Any]) -> Any:
        assert self._pool is not None
        try:
            return self._pool.submit(job).result()
        except BrokenProcessPool as error:
            raise ValueError("a process was killed, as happens where memory is short: run it with fewer") from error


def progress_bar(what: str, total: int, unit: str = "ticker") -> Any:
    """A bar to update, on a terminal, where it takes more than `PATIENCE` seconds."""
    return logging.tqdm(total=total, desc=what, unit=unit, disable=None, delay=PATIENCE, leave=False)
