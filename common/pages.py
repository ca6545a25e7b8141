"""Pages that a command writes, whole or between two markers, so that no number there is typed by hand."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from .errors import one_line_errors
from .files import write_text


def html(template: Path, **told: Any) -> str:
    """A page of HTML from its template; what is told stands there as text, whatever it contains."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template.read_text(encoding="utf-8")).render(**told) + "\n"


def fill(page: str, text: str, name: str) -> str:
    """The page with `text` between its markers of this name.

    Raises:
        ValueError: the page has no markers.
    """
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {start} ... {end}: add both markers")
    return f"{before}{start}\n{text}\n{end}{after}"


def write_between(path: Path, text: str, name: str) -> None:
    """Fills the page in this file."""
    write_text(fill(path.read_text(encoding="utf-8"), text, name), path)


def fill_pages(program: str, help: str | None, text_of: Callable[[Path], str], name: str) -> None:
    """A command: what `text_of` makes of a file, written between the markers of this name in every page."""
    with one_line_errors(program):
        parser = argparse.ArgumentParser(program, description=help, formatter_class=argparse.RawTextHelpFormatter)
        parser.add_argument("results", type=Path, help="the JSON file that has the figures")
        parser.add_argument("pages", type=Path, nargs="+", help=f"pages with <!-- {name} --> ... <!-- /{name} -->")
        arguments = parser.parse_args()
        text = text_of(arguments.results)
        for page in arguments.pages:
            write_between(page, text, name)
