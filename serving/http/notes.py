"""What the library warns of while it works for a request, for its answer: a jump in the prices, a ticker left out."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from ...common.errors import printable

MOST, LONGEST = 20, 300  # notes of an answer, characters of one


class Notes(logging.Handler):
    """Gives each thread's warnings to whoever listens in it; keeps them out of the log, which has no data."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        heard = self._here()
        if heard is not None and len(heard) < MOST:
            note = printable(" ".join(record.getMessage().split()))[:LONGEST]
            heard += [note] if note not in heard else []

    def _here(self) -> list[str] | None:
        return getattr(self._heard, "notes", None)

    @contextmanager
    def listening(self, notes: list[str]) -> Iterator[None]:
        """Within, warnings of this thread are added to the notes, those that are told once too."""
        self._heard.notes = notes
        try:
            yield
        finally:
            self._heard.notes = None


NOTES = Notes()


ONCE: Any = logging.Logger.warning_once  # type: ignore[attr-defined]  # of transformers: once in the process


@wraps(ONCE)
def _once_for_each(self: logging.Logger, *args: Any, **kwargs: Any) -> None:
    """Once for each who listens, whoever else has heard it; once in the process where nobody does."""
    (ONCE if NOTES._here() is None else logging.Logger.warning)(self, *args, **kwargs)


_once_for_each.cache_clear = ONCE.cache_clear  # type: ignore[attr-defined]


def hear() -> Notes:
    """The handler of this package's warnings; a second time changes nothing."""
    logging.getLogger("tsf_llm").addHandler(NOTES)
    logging.Logger.warning_once = _once_for_each  # type: ignore[attr-defined]
    return NOTES
