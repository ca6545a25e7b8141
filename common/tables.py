"""Tables of results: rows and columns, as Markdown or on the terminal."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table as TerminalTable

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]  # what stands in a row's cell, by heading


@dataclass(frozen=True)
class Table:
    """Headings and cells. The first column names the row."""

    headings: Sequence[str]
    cells: Sequence[Sequence[str]]

    @classmethod
    def of(cls, rows: Sequence[Row], columns: Columns) -> "Table":
        return cls(list(columns), [[cell(row) for cell in columns.values()] for row in rows])

    def markdown(self) -> str:
        lines = [self.headings, ["---"] * len(self.headings), *self.cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def terminal(self, **options: Any) -> TerminalTable:
        table = TerminalTable(**options)
        for i, name in enumerate(self.headings):
            table.add_column(name, justify="right" if i else "left", no_wrap=True)
        for line in self.cells:
            table.add_row(*line)
        return table


def number(value: float | None, form: str, factor: float = 1.0) -> str:
    """A dash for what is undefined."""
    return "-" if value is None else format(factor * value, form)


def with_interval(row: Row, key: str, form: str, ends: tuple[str, str] | None = None) -> str:
    """The figure `key`, and `key_ci95` in brackets if there is one; or `ends`, the interval's key and its form.

    >>> with_interval({"crps": 0.02, "crps_ci95": [0.01, 0.03]}, "crps", ".3f"), with_interval({}, "crps", ".3f")
    ('0.020 [0.010, 0.030]', '-')
    """
    where, how = ends or (f"{key}_ci95", form)
    interval = row.get(where)
    return number(row.get(key), form) + (f" [{', '.join(number(end, how) for end in interval)}]" if interval else "")
