"""Executes the notebooks of `docs/notebooks`, each in a folder of its own, and keeps their outputs with them.

    python -m tsf_llm.publishing.notebooks docs/notebooks/*.ipynb

So no output is made by hand. What differs from run to run, or from machine to machine, is left out: progress and
warnings (stderr), times of execution, the folder. `nbclient` and `ipykernel` come with `pip install "tsf-llm[dev]"`.
"""

import argparse
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from ..common.errors import one_line_errors
from ..common.files import write_text

KERNEL = "python3"
NEEDED = ("nbformat", "nbclient", "ipykernel")
MOST_SECONDS = 600  # of one cell
KEPT = ("text/plain", "text/html", "image/png")


def executed(notebook: Any) -> Any:
    """The notebook with the outputs of this run; its files are gone.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    with TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        options: dict[str, Any] = {"timeout": MOST_SECONDS, "kernel_name": KERNEL, "record_timing": False}
        done = NotebookClient(nbformat.from_dict(notebook), resources=resources, **options).execute()
    return tidy(done)


def tidy(notebook: Any) -> Any:
    """Without what no reader needs, and what differs in the next run."""
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = _joined(_tidy(one) for one in cell.outputs if one.get("name") != "stderr")
    return notebook


def _joined(outputs: Iterable[Any]) -> list[Any]:
    """What is printed in one cell, as one text, however often it was flushed."""
    joined: list[Any] = []
    for one in outputs:
        if joined and one.output_type == joined[-1].output_type == "stream":
            joined[-1].text += one.text
        else:
            joined.append(one)
    return joined


def _tidy(output: Any) -> Any:
    if "data" in output:
        output.data = {kind: output.data[kind] for kind in KEPT if kind in output.data}
        output.metadata = {}
    return output


def main(paths: list[Path]) -> None:
    """Raises ValueError where a package that executes notebooks is not installed."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f'{", ".join(missing)} is not installed: pip install "tsf-llm[dev]"')
    import nbformat

    for path in tqdm(paths, desc="notebooks"):
        notebook = executed(nbformat.read(path, as_version=4))
        write_text(nbformat.writes(notebook) + "\n", path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser("notebooks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("notebooks", type=Path, nargs="+", help="notebooks to execute and to write again")
    with one_line_errors("notebooks"):
        main(parser.parse_args().notebooks)
