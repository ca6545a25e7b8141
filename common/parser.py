"""One command line for every script: dataclasses, a YAML file below the command line, one-line complaints.

A script is a file with a docstring and a `main` whose parameters are such dataclasses.
"""

import argparse
import datetime
import difflib
import sys
from dataclasses import MISSING, field
from pathlib import Path
from types import FunctionType
from typing import Any, get_type_hints

import torch
import yaml
from trl import TrlParser

from .errors import one_line_errors, printable

MOST_VALUES = 10_000  # in a file of options
BOOLEAN = "?"  # the nargs of an option of true or false, which alone may come without a value
NO_TEXT = int | float | datetime.date | Path  # becomes text where one is wanted


def option(default: Any = MISSING, help: str = "") -> Any:
    """A field of such a dataclass: its default, of which a list is copied for each, and what `--help` says of it."""
    value = {"default_factory": default.copy} if isinstance(default, list) else {"default": default}
    return field(**value, metadata={"help": help})


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the commands of a script's docstring as they are, and tells defaults."""


class Parser(TrlParser):
    """TrlParser whose complaints are one line: the usage of some 150 options helps nobody.

    It also looks at the values of a YAML file as argparse looks at those of a command line.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        usage = "%(prog)s [--config FILE.yaml] [--option VALUE ...]"
        super().__init__(*args, **{"formatter_class": _Help, "usage": usage, **kwargs})
        self._given: dict[str, Any] = {}

    def error(self, message: str) -> Any:
        self.exit(2, f"{self.prog}: error: {printable(' '.join(message.split()))} (see --help)\n")

    def parse_args_and_config(self, args: Any = None, **options: Any) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        if "--config" in words[-1:]:
            self.error("argument --config: expected a YAML file")
        if "--config" in words:
            check_yaml(Path(words[words.index("--config") + 1]))
        try:
            *found, from_file, from_words = super().parse_args_and_config(
                words, return_remaining_strings=True, separate_remaining_strings=True, **options
            )
        except (TypeError, AttributeError) as error:  # of the arguments of transformers, trl or accelerate
            if "--config" not in words:
                raise
            raise ValueError(f"{words[words.index('--config') + 1]}: a value is of a wrong type ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{words[words.index('--config') + 1]} is no text file in UTF-8 ({error})") from None
        if unknown := from_file[::2]:
            path = words[words.index("--config") + 1]
            raise ValueError(f"{path}: unknown: {', '.join(one[2:] for one in unknown)}{self._meant(unknown[0])}")
        if from_words:
            self.error(f"unknown: {' '.join(from_words)}{self._meant(from_words[0])}")
        return tuple(found)

    def read(self, path: str | Path, **given: Any) -> Any:
        """What a YAML file says, with given values over it; None leaves one to the file."""
        self._given = {name: value for name, value in given.items() if value is not None}
        return self.parse_args_and_config(["--config", str(path)])

    def _meant(self, word: str) -> str:
        options = [option for action in self._actions for option in action.option_strings]
        close = difflib.get_close_matches(word, options, n=1, cutoff=0.75)
        return f"; did you mean {close[0]}?" if close else ""

    def set_defaults_with_config(self, **config: Any) -> list[str]:
        config |= self._given
        actions = {action.dest: action for action in reversed(self._actions)}  # before --no_ ones of the same dest
        known = {name: self._value(actions[name], value) for name, value in config.items() if name in actions}
        return super().set_defaults_with_config(**{**config, **known})

    def _value(self, action: argparse.Action, value: Any) -> Any:
        """A value of a YAML file, of the type that the command line would give it.

        argparse converts defaults that are strings; a date, a number where a name is wanted, or a list in place of a
        number would go through."""
        if action.nargs in ("+", "*"):
            listed = value if value is None or isinstance(value, list) else [value]
            return listed and [self._value_of_one(action, one) for one in listed]
        if value is None and action.default is not None and (action.type in (int, float) or action.nargs == BOOLEAN):
            self.error(f"{action.dest} is empty: give a value, or leave it out")
        return self._value_of_one(action, value)

    def _value_of_one(self, action: argparse.Action, value: Any) -> Any:
        if action.type is str and isinstance(value, NO_TEXT) and not isinstance(value, bool):
            return str(value)
        if action.nargs == BOOLEAN and isinstance(value, list | dict | float):
            self.error(f"{action.dest}: give true or false, not {value!r}")
        if action.type is str and isinstance(value, list if action.choices is None else list | dict):
            self.error(f"{action.dest}: give one text, not {value!r}")
        if action.type in (int, float) and value is not None and not isinstance(value, str):
            allowed = (int,) if action.type is int else (int, float)
            if not isinstance(value, allowed) or isinstance(value, bool):
                self.error(f"{action.dest}: invalid {action.type.__name__} value: {value!r}")
        return value


def check_yaml(path: Path) -> None:
    """Raises ValueError for a YAML file that is no plain list of options and values."""
    try:
        with path.open("rb") as file:  # whose name its complaints tell
            root = yaml.compose(file, yaml.SafeLoader)
            file.seek(0)
            content = yaml.safe_load(file)
    except RecursionError:
        raise ValueError(f"{path}: nested too deep for a YAML file of options") from None
    except ValueError as error:  # a number of too many digits, or a date that is none
        raise ValueError(f"{path}: {error}") from None
    if not isinstance(content, dict | None):
        raise ValueError(f"{path} holds no options: write each as `name: value`")
    _check_size(content, path)
    names = [key.value for key, _ in root.value if isinstance(key, yaml.ScalarNode)] if content else []
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{path}: '{twice[:99]}' is there twice; keep one of them")
    for name in content or {}:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"{path}: {str(name)[:99]!r} is no name of an option; write each as `name: value`")


def _check_size(content: Any, path: Path) -> None:
    """Raises ValueError for more values than options can have, as of aliases of aliases; a cycle has no end."""
    left, seen = [content], 0
    while left:
        value = left.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ValueError(f"{path}: holds more than {MOST_VALUES:,} values, aliases counted; write fewer")
        left += [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []


def parse_for(main: FunctionType, arguments: list[str] | None = None) -> tuple[Any, ...]:
    """What to call a script's `main` with; by default read from the command line."""
    types = [one for name, one in get_type_hints(main).items() if name != "return"]
    parser = Parser(types, prog=_program(main), description=main.__globals__["__doc__"])
    return parser.parse_args_and_config(arguments)


def run(main: FunctionType) -> None:
    """A script from its command line to its exit code."""
    with one_line_errors(_program(main)):
        main(*parse_for(main))
        leave_group()


def leave_group() -> None:
    """Ends the group of several processes; one that exits within it may abort, and take the others along."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _program(main: FunctionType) -> str:
    return Path(main.__code__.co_filename).stem
