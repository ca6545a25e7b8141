"""The parity page: small errors, and written by its command."""

import sys
from pathlib import Path

import pytest

from tsf_llm.original import parity

FIXTURES = Path(__file__).parents[1] / "fixtures" / "original"
PAGE = Path(parity.__file__).parents[1] / "docs" / "original.md"


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.fixture(scope="module")
def rows():
    return cells(parity.table(FIXTURES))


def test_every_error_is_small(rows):
    assert len(rows) == 25
    assert all(float(error) < 1e-5 for _, _, error in rows)


def test_the_page_has_these_rows(rows):
    written = cells(PAGE.read_text(encoding="utf-8").split("<!-- parity -->")[1].split("<!-- /parity")[0].strip())
    assert [row[:2] for row in written] == [row[:2] for row in rows]
    assert all(float(error) < 1e-5 for _, _, error in written)


def test_a_changed_weight_shows(monkeypatch):
    """The table can tell: one weight in a thousand, moved by a thousandth."""
    true_read = parity.read

    def spoilt(path):
        state, data = true_read(path)
        return {**state, "head.bias": state["head.bias"] + 1e-3} if "head.bias" in state else state, data

    monkeypatch.setattr(parity, "read", spoilt)
    errors = parity.model_errors(FIXTURES / "tiny_standard_rmsnorm_q0_regression.safetensors")
    assert all(error > 1e-5 for error in errors.values())


def test_a_folder_without_fixtures_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["parity", str(tmp_path)])
    with pytest.raises(ValueError, match="holds no fixtures"):
        parity.main()
