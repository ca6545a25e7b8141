"""Pages whose figures a command writes between two markers, so that no number there is typed by hand."""

from pathlib import Path

from .files import write_text


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
