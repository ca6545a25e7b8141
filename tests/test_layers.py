"""Imports run one way, and the root files lean on nothing that a Hub user might lack."""

import ast
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import tsf_llm.configuration_tsf_llm as configuration

ROOT = Path(configuration.__file__).parent
# Each may import those behind it, and the root files.
LAYERS = ["serving", "train_scripts", "original", "preferences", "training"]
LAYERS += ["publishing", "evaluation", "data_prep", "common"]
ROOT_FILES = sorted(path.stem for path in ROOT.glob("*_tsf_llm.py"))
ALLOWED = {"torch", "numpy", "pandas", "transformers", "huggingface_hub"}


def imports(path):
    """(dots, module) of every import statement, those inside `try:` left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {node for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
    for node in ast.walk(tree):
        if node in guarded:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_those_behind_it(layer):
    behind = {layer, *LAYERS[LAYERS.index(layer) + 1 :], *ROOT_FILES}
    files = list((ROOT / layer).glob("*.py"))
    assert files
    for path in files:
        for level, module in imports(path):
            if level == 2:
                assert module.split(".")[0] in behind, f"{path.name} imports {module}"
            assert not module.startswith("tsf_llm"), f"{path.name} imports {module} by its absolute name"


def test_no_module_imports_itself_by_way_of_others():
    """Imports under `if TYPE_CHECKING:` and in function bodies count too."""
    graph = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if parts[0] in ROOT_FILES or parts[0] in LAYERS:
            graph[".".join(parts)] = path
    TopologicalSorter({name: set(imported(name, path, graph)) for name, path in graph.items()}).prepare()


def imported(name, path, graph):
    """Modules of this package that a file imports, as their dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = name.split(".")[: -node.level]
            module = [*package, *(node.module.split(".") if node.module else [])]
            candidates = (".".join([*module, alias.name]) for alias in node.names)
            yield from (known for known in (".".join(module), *candidates) if known in graph)


def test_root_files_import_only_each_other_and_the_allowed_libraries(code_files):
    assert {f"{name}.py" for name in ROOT_FILES} == code_files
    for name in ROOT_FILES:
        for level, module in imports(ROOT / f"{name}.py"):
            first = module.split(".")[0]
            known = first in ROOT_FILES if level else first in ALLOWED | sys.stdlib_module_names
            assert known, f"{name}.py imports {module}"


@pytest.mark.parametrize("package", ["train_scripts", "serving"])
@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
    ids=["none", "count", "policy"],
)
def test_waiting_threads_spin_for_a_short_time_unless_told_otherwise(package, given, spins):
    kept = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = f"import os, sys, tsf_llm.{package}; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=kept | given, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [spins, "False"]  # torch would have read the environment already
