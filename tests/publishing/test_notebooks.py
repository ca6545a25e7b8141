"""The notebooks: small, with outputs that a run made, free of this machine; and, slowly, they still run."""

import json
import re
from pathlib import Path

import pytest

from tsf_llm.publishing import notebooks

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed: pip install 'tsf-llm[dev]'")
PAGES = sorted((Path(notebooks.__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def test_there_are_four():
    assert [path.stem for path in PAGES] == [
        "audit_your_features",
        "fine_tune_on_your_csv",
        "one_tickers_adapter",
        "quickstart",
    ]


def outputs(notebook):
    return [one for cell in notebook.cells for one in cell.get("outputs", [])]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_free_of_this_machine(path):
    notebook, text = read(path), path.read_text(encoding="utf-8")
    nbformat.validate(notebook)
    assert path.stat().st_size < 200_000
    assert notebook.metadata.kernelspec.name == "python3"
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert not any(cell.metadata for cell in notebook.cells)
    without_pictures = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not re.findall(r"(?<![\w.:/])/(?:tmp|home|root|Users|usr|work|opt|var)\b|\b[A-Z]:\\", without_pictures)
    assert not any(one.output_type == "error" or one.get("name") == "stderr" for one in outputs(notebook))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_has_its_outputs_and_a_picture(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert sum("image/png" in one.get("data", {}) for one in outputs(notebook)) == 1


def test_what_differs_from_run_to_run_is_left_out():
    cell = nbformat.v4.new_code_cell("print(1)", metadata={"execution": {"iopub.status.busy": "now"}})
    cell.outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="50%|##"),
        nbformat.v4.new_output("stream", name="stdout", text="a\n"),
        nbformat.v4.new_output("stream", name="stdout", text="b\n"),
        nbformat.v4.new_output("display_data", {"text/plain": "x", "application/json": {}}, metadata={"width": 9}),
    ]
    tidy = notebooks.tidy(
        nbformat.v4.new_notebook(cells=[cell], metadata={"language_info": {"name": "python", "version": "3.11.2"}})
    )
    stream, display = tidy.cells[0].outputs
    assert (stream.text, dict(display.data), dict(display.metadata)) == ("a\nb\n", {"text/plain": "x"}, {})
    assert tidy.cells[0].metadata == {}
    assert "3.11.2" not in json.dumps(tidy)


def test_what_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(notebooks, "NEEDED", ("nbformat", "no_such_package"))
    with pytest.raises(ValueError, match=r"^no_such_package is not installed: pip install"):
        notebooks.main([])


@pytest.mark.slow
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_notebook_runs(path, monkeypatch):
    pytest.importorskip("nbclient", reason="nbclient is not installed: pip install 'tsf-llm[dev]'")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed: pip install 'tsf-llm[dev]'")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    committed, now = read(path), notebooks.executed(read(path))
    assert [cell.source for cell in now.cells] == [cell.source for cell in committed.cells]
    kinds = [[one.output_type for one in outputs(notebook)] for notebook in (committed, now)]
    assert kinds[0] == kinds[1]
