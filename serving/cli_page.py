"""The page of all commands, written from their own `--help`.

    python -m tsf_llm.serving.cli_page docs/cli.md

It is written again after a change of a command; a test compares the two. Options that stand with the same words at
`SHARED` commands or more are told once.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from ..common.errors import one_line_errors
from ..common.files import write_text
from ..common.tables import Table
from .cli import app

SHARED = 3
TOP = """# Command line

Written by `python -m tsf_llm.serving.cli_page docs/cli.md` from the `--help` of every command.

`tsf-llm` comes with `pip install -e .` in a clone. Exit codes: 0 done, 1 a check failed, 2 the input is wrong, and
one line says what, where and what to do. A command replaces and removes only files that an earlier run wrote
(`.tsf_llm.json` in each folder names them) or that you named, and writes into nothing that it reads.

`--data` takes a CSV or parquet file or a folder of them (`date, ticker, open, high, low, close, [adj_close,] volume`;
the exports of the usual vendors are understood) or a Hub dataset (`hf:org/name`); `sample` is the prices that come
with the code. What a file does not prove is asked for, never guessed: `--dates dmy`, `--decimal comma`, `--id
COLUMN`. A ticker that cannot be read is skipped and named, the others are answered; `--strict` refuses. Sales, loads,
temperatures go the same way: `--value COLUMN`. [data.md](data.md) has the details.

`quickstart/model` in the examples is what `tsf-llm quickstart` leaves. Without `--model` the model that lies in the
clone is used; `--model mini` is the small one.
"""


def page() -> str:
    """The whole page, as Markdown."""
    commands = _commands()
    seen = Counter(_row(option) for command in commands.values() for option in _options(command))
    shared = {row for row, count in seen.items() if count >= SHARED}
    contents = [(f"[{name}](#{name})", _summary(command)) for name, command in commands.items()]
    parts = [TOP, Table(("command", "does"), contents).markdown()]
    parts += [_section(name, command, shared) for name, command in commands.items()]
    parts += ["## Options that commands share", _table(sorted(shared))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def example(command: Any) -> str:
    """The one command line of its help."""
    found = next(text for text in command.help.split("\n\n") if text.startswith("Example:"))
    return " ".join(found.removeprefix("Example:").split())


def _summary(command: Any) -> str:
    return " ".join(command.help.split("\n\n")[0].split())


def _section(name: str, command: Any, shared: set[tuple[str, ...]]) -> str:
    told = [text for text in command.help.split("\n\n") if not text.startswith("Example:")]
    rows = [_row(option) for option in _options(command)]
    parts = [f"## {name}", *told, f"```bash\n{example(command)}\n```"]
    if written := next((option for option in command.params if option.name == "out"), None):
        parts.append(f"It writes what {_row(written)[0]} names: {_row(written)[2]}")
    if own := [row for row in rows if row not in shared]:
        parts.append(_table(own))
    if others := [row[0] for row in rows if row in shared]:
        parts.append(f"[Shared](#options-that-commands-share): {', '.join(others)}.")
    return "\n\n".join(parts)


def _options(command: Any) -> Iterable[Any]:
    return (one for one in command.params if one.name != "help" and not getattr(one, "hidden", False))


def _row(option: Any) -> tuple[str, ...]:
    """The name with what it takes, whether it is needed or what it is by default, and its help."""
    is_flag = getattr(option, "is_flag", False)
    name = "/".join(option.opts) if option.param_type_name == "option" else option.metavar or option.name.upper()
    takes = f" {option.metavar}" if option.metavar and option.param_type_name == "option" and not is_flag else ""
    default = "needed" if option.required else "off" if is_flag else "" if option.default is None else option.default
    return f"`{name}{takes}`", str(default), _cell(option.help or "")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    cells = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return Table(("option", "default", "what"), cells).markdown()


def main(target: str) -> None:
    write_text(page(), Path(target))
    print(f"{len(_commands())} commands written to {target}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser("cli_page", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("page", help="Markdown file to write")
    with one_line_errors("cli_page"):
        main(parser.parse_args().page)
