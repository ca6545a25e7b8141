"""How every command of this package ends on bad input: one clear line on stderr, exit code 2, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import StrictDataclassError


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns the errors that speak of the user's input into one line and exit code 2; others keep their traceback."""
    try:
        yield
    except (ValueError, OSError, StrictDataclassError) as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        print(f"{program}: error: {' '.join(str(cause).split())}", file=sys.stderr)
        sys.exit(2)
