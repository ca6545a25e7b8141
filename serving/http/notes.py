"""What the library warns of while it works for a request, for its answer: a jump in the prices, a ticker left out."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any

from ...common.errors import printable

MOST, LONGEST = 20, 300  # notes of an answer, characters of one


class Notes(logging.Handler):
    """Gives each thread's warnings to whoever listens in it; keeps them out of the log, which has no data."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        heard = getattr(self._heard, "notes", None)
        note = printable(" ".join(record.getMessage().split()))[:LONGEST]
        if heard is not None and len(heard) < MOST and note not in heard:
            heard.append(note)

    @property
    def are_heard(self) -> bool:
        return getattr(self._heard, "notes", None) is not None

    @contextmanager
    def listening(self, notes: list[str]) -> Iterator[None]:
        """Within, warnings of this thread are added to the notes, those that are told once too."""
        self._heard.notes = notes
        try:
            yield
        finally:
            self._heard.notes = None


NOTES = Notes()


def hear() -> Notes:
    """The handler of this package's warnings; a second time changes nothing.

    `warning_once`, which transformers gives to every logger, tells once per process. Where somebody listens it tells
    each time: what an answer says must not depend on who asked before."""
    logging.getLogger("tsf_llm").addHandler(NOTES)
    once = logging.Logger.warning_once  # type: ignore[attr-defined]
    if not hasattr(once, "of_process"):

        @wraps(once)
        def told(logger: logging.Logger, *args: Any, **options: Any) -> None:
            (logger.warning if NOTES.are_heard else partial(once, logger))(*args, **options)

        told.of_process, told.cache_clear = once, once.cache_clear  # type: ignore[attr-defined]
        logging.Logger.warning_once = told  # type: ignore[attr-defined]
    return NOTES
