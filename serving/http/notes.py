"""What the library warns of while it works for a request, for its answer: a jump in the prices, a ticker left out."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ...common.errors import printable

MOST, LONGEST = 20, 300  # notes of an answer, characters of one


class Notes(logging.Handler):
    """Gives each thread's warnings to whoever listens in it; keeps them out of the log, which has no data."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._heard = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        heard = getattr(self._heard, "notes", None)
        if heard is not None and len(heard) < MOST:
            heard.append(printable(" ".join(record.getMessage().split()))[:LONGEST])

    @contextmanager
    def listening(self, notes: list[str]) -> Iterator[None]:
        """Within, warnings of this thread are added to the notes, those that are told once too."""
        logging.Logger.warning_once.cache_clear()  # type: ignore[attr-defined]  # of transformers, for the process
        self._heard.notes = notes
        try:
            yield
        finally:
            self._heard.notes = None


NOTES = Notes()


def hear() -> Notes:
    """The handler of this package's warnings; a second time changes nothing."""
    logging.getLogger("tsf_llm").addHandler(NOTES)
    return NOTES
