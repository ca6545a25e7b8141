"""The rooms: a file lies where its work says, the README's tree is the tree, no page names what is not there."""

import ast
import re
from pathlib import Path

import pytest

import tsf_llm.configuration_tsf_llm as configuration

ROOT = Path(configuration.__file__).parent
ROOMS = sorted(path.parent for path in ROOT.glob("*/__init__.py"))
ROOT_FILES = sorted([*ROOT.glob("*_tsf_llm.py"), ROOT / "app.py"])
SOURCES = [*ROOT_FILES, *(path for room in ROOMS for path in sorted(room.rglob("*.py")) if path.stem != "__init__")]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md"), ROOT / "Makefile"]
MOST_LINES = 950
WITHOUT_A_SOURCE = {  # tests of what several files do together
    "test_agents",
    "test_conformance",
    "test_covariates",
    "test_deploy",
    "test_distributed",
    "test_faults",
    "test_fences",
    "test_fuzz",
    "test_house",
    "test_layers",
    "test_packaging",
    "test_readme",
    "test_remote_code",
    "test_saved_folders",
}


def lines(path):
    return len(path.read_text(encoding="utf-8").splitlines())


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_the_tree_of_the_readme_is_the_tree(page):
    blocks = re.findall(r"^```\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    [tree] = [block for block in blocks if "modeling_tsf_llm.py" in block]
    named = [line.split()[0].rstrip("/") for line in tree.splitlines() if line and not line.startswith(" ")]
    assert len(named) == len(set(named))
    assert set(named) == {path.name for path in [*ROOT_FILES, *ROOMS, ROOT / "docs", ROOT / "tests"]}


def test_no_file_and_no_room_is_too_large():
    sizes = {path: lines(path) for path in SOURCES}
    assert {path.name: size for path, size in sizes.items() if size > MOST_LINES} == {}
    total = sum(sizes.values())
    rooms = {room.name: sum(size for path, size in sizes.items() if path.parent == room) for room in ROOMS}
    assert {name: size for name, size in rooms.items() if size > total / 5} == {}


def test_tests_mirror_the_sources():
    tests = {path.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    mirrored = {path.relative_to(ROOT).with_name(f"test_{path.name}") for path in SOURCES}
    strangers = {path for path in tests - mirrored if path.stem not in WITHOUT_A_SOURCE}
    assert strangers == set()
    assert mirrored - tests == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_page_names_only_files_and_modules_that_exist(page):
    text = page.read_text(encoding="utf-8")
    here = {path.name for path in [*SOURCES, *ROOT.glob("docs/*"), *ROOT.glob("**/configs/**/*.yaml")]}
    for module in set(re.findall(r"(?<!\.)\btsf_llm((?:\.[a-z_0-9]+)+)", text)):
        assert exists(module[1:].split(".")), f"tsf_llm{module}"
    for name in set(re.findall(r"(?<![\w./-])((?:[\w-]+/)*[\w-]+\.(?:py|yaml|md))\b", text, re.ASCII)):
        folder = name.rpartition("/")[0]
        places = (ROOT, page.parent, ROOT / "train_scripts", ROOT / "tests")
        known = any((place / name).exists() for place in places) or (not folder and name in here)
        assert known or is_example(name), name


def exists(parts):
    """Whether a dotted name is a module here, or a name that one defines."""
    path = ROOT.joinpath(*parts)
    if path.with_suffix(".py").is_file() or (path / "__init__.py").is_file():
        return True
    module = path.parent.with_suffix(".py")
    if len(parts) < 2 or not module.is_file():
        return False
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return parts[-1] in {name.id for name in ast.walk(tree) if isinstance(name, ast.Name)} | {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }


def is_example(name):
    """What a user of a command writes, or a command."""
    return name.startswith(("my_", "outputs/", "quickstart/")) or name in {"card.md", "page.md", "__init__.py"}
