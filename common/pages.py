"""Pages whose figures a command writes between two markers, so that no number there is typed by hand."""


def fill(page: str, text: str, markers: tuple[str, str]) -> str:
    """The page with `text` between its markers.

    Raises:
        ValueError: the page has no markers.
    """
    start, end = markers
    before, found, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page has no {start} ... {end}: add both markers")
    return f"{before}{start}\n{text}\n{end}{after}"
