"""The wheel holds the package, the sample, the configs and the templates of cards, and nothing else: no weights."""

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SUBPACKAGES = [
    "common",
    "data_prep",
    "evaluation",
    "evaluation/baselines",
    "evaluation/explanation",
    "publishing",
    "training",
    "preferences",
    "original",
    "train_scripts",
    "serving",
    "serving/http",
    "serving/page",
    "benchmarks",
]
PACKAGING = ["setup.py", "pyproject.toml", "LICENSE", "NOTICE", "README.md"]
NOTICE_LINE = "Sample prices (2000-2013): Quandl WIKI Prices, public domain, via bokeh_sampledata."


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that no build folder appears in the checkout; `tests` is there to be left out."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("wheel")
    for path in _sources() + [ROOT / name for name in PACKAGING] + sorted(ROOT.glob("tests/*.py")):
        if path.is_file():
            target = copy / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    for name in ("model.safetensors", "config.json", "mini/model.safetensors", "mini/config.json"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("{}")  # shipped beside the code, and no part of it
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("*.whl"))) as archive:
        return {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}


def _sources():
    """What a user of the package needs, read from the checkout."""
    files = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    for folder in SUBPACKAGES:
        files += (ROOT / folder).glob("*.py")
    files += [*(ROOT / "serving" / "page").glob("*.html"), *(ROOT / "serving" / "page").glob("*.css")]
    files += (ROOT / "publishing").glob("*.md")
    files += (ROOT / "train_scripts" / "configs").glob("*.yaml")
    files += (ROOT / "data_prep" / "sample").glob("*.csv.gz")
    return [*sorted(files), ROOT / "data_prep" / "sample" / "NOTICE"]


def test_wheel_holds_the_sources_and_nothing_else(wheel):
    expected = {f"tsf_llm/{path.relative_to(ROOT).as_posix()}" for path in _sources()}
    assert {name for name in wheel if ".dist-info/" not in name} == expected
    for name in ("us_daily_2000_2013_publicdomain.csv.gz", "vix_daily_2000_2013_publicdomain.csv.gz"):
        assert f"tsf_llm/data_prep/sample/{name}" in expected


def test_wheel_carries_licence_notice_and_command(wheel):
    info = {name.split(".dist-info/")[1]: text for name, text in wheel.items() if ".dist-info/" in name}
    assert "MIT License" in info["licenses/LICENSE"]
    assert NOTICE_LINE in info["licenses/NOTICE"]
    assert "tsf-llm = tsf_llm.serving.cli:main" in info["entry_points.txt"]
    assert "Requires-Python: >=3.11,<3.14" in info["METADATA"]
    assert "library_name" not in info["METADATA"]  # the head of the README is for the Hub


def test_notices_name_the_sample():
    for path in [ROOT / "NOTICE", ROOT / "data_prep" / "sample" / "NOTICE"]:
        assert NOTICE_LINE in path.read_text(encoding="utf-8")


def test_root_folder_is_not_a_regular_package():
    assert not (ROOT / "__init__.py").exists()


def test_every_subpackage_is_shipped():
    places = [*ROOT.glob("*/__init__.py"), *ROOT.glob("*/*/__init__.py")]
    folders = {path.parent.relative_to(ROOT).as_posix() for path in places}
    assert folders == set(SUBPACKAGES)


def test_packaging_metadata_lives_in_setup_py_only():
    assert "project" not in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"pathlib", "setuptools"}
    assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import) for node in ast.walk(tree))


def test_every_direct_dependency_has_a_tested_version():
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    direct = {_name(text.split(">=")[0]) for text in strings if ">=" in text and not text.startswith(">=")}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {_name(line.split("==")[0]) for line in lines if "==" in line and not line.startswith("#")}
    assert direct
    assert direct <= tested


def _name(requirement):
    return requirement.split("[")[0].replace("_", "-").lower()
