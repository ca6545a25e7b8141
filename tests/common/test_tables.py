"""tables.py: the same cells on a page and on the terminal, a dash for what is undefined."""

import doctest

from rich.console import Console

from tsf_llm.common import tables
from tsf_llm.common.tables import Table, number, with_interval

COLUMNS = {"name": lambda row: row["name"], "score [95 % CI]": lambda row: with_interval(row, "score", ".2f")}
ROWS = [{"name": "a", "score": 0.5, "score_ci95": [0.25, 0.75]}, {"name": "b", "score": None}]


def test_one_table_for_page_and_terminal(capsys):
    table = Table.of(ROWS, COLUMNS)
    lines = ["| name | score [95 % CI] |", "| --- | --- |", "| a | 0.50 [0.25, 0.75] |", "| b | - |"]
    assert table.markdown().splitlines() == lines
    Console(width=80).print(table.terminal(title="scores"))
    told = capsys.readouterr().out
    assert all(cell in told for line in table.cells for cell in line)


def test_undefined_is_a_dash_and_zero_is_none():
    assert (number(None, ".2f"), number(0.0, ".2f"), number(0.5, ".1f", 100)) == ("-", "0.00", "50.0")


def test_examples_in_docstrings():
    assert doctest.testmod(tables) == (0, 1)
