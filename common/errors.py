"""How every command of this package ends on bad input: one clear line on stderr, exit code 2, no traceback.

A command that is stopped by Ctrl-C ends in one line as well, with exit code 130; by SIGTERM with 143.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from yaml import MarkedYAMLError, YAMLError

OF_THE_INPUT = (ValueError, OSError, StrictDataclassError, SafetensorError, YAMLError, PackageNotFoundError)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which then unwinds as Ctrl-C does."""


@contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns the errors that speak of the user's input into one line and exit code 2; others keep their traceback."""
    try:
        with _terminated_as_interrupted():
            yield
    except OF_THE_INPUT as error:
        _end(f"{program}: error: {_told(error)}", 2)
    except ImportError as error:
        if error.name != "transformers" or error.path is not None:  # other than missing or too old
            raise
        _end(f"{program}: error: {error}", 2)
    except KeyboardInterrupt as stop:
        code = 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
        print(file=sys.stderr)  # the cursor stands behind a progress bar, or behind ^C
        _end(": ".join((program, "stopped", *map(str, stop.args))), code)


def from_folder(model_class: type[Any], name: str) -> Any:
    """`from_pretrained` whose errors name the folder; those of torch and safetensors do not.

    Raises:
        ValueError: the weights are cut off, missing, no numbers, or not those of the config beside them.
    """
    try:
        model, found = model_class.from_pretrained(name, output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"{name}: its weights are not whole ({error}); copy or train it again") from error
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "mismatched" not in str(error):
            raise
        raise ValueError(f"{name}: its weights have other shapes than its config.json says; copy it again") from error
    if lost := sorted(found["missing_keys"]):
        raise ValueError(f"{name}: {len(lost)} weights are missing, as {lost[0]}; copy or train it again")
    if broken := next((one for one, weight in model.named_parameters() if not weight.isfinite().all()), None):
        raise ValueError(f"{name}: {broken} holds NaN or infinite numbers; copy or train it again")
    return model


def _told(error: BaseException) -> str:
    """What the error says; of a file also which one, and where to look."""
    if isinstance(error, StrictDataclassError) and error.__cause__:
        return str(error.__cause__)
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: no valid YAML ({error.problem})"
    if type(error).__module__ == "builtins" and isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename or 'an empty path'}: {error.strerror}; check the path and its permissions"
    return str(error)


def printable(text: str) -> str:
    """Without control characters, with which a name in a file could steer the terminal: each as its escape."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _end(line: str, code: int) -> None:
    print(printable(" ".join(line.split())), file=sys.stderr)
    sys.exit(code)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM raises `Terminated` in this process; one that it forks dies of it as ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: Any) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
