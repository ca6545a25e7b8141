"""The README: its commands run, its twin keeps step, its badges are true; and docs/python.md runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from tsf_llm.pipeline_tsf_llm import ALIASES, TsfLlmPipeline
from tsf_llm.publishing import first_screen
from tsf_llm.serving import cli
from tsf_llm.train_scripts import sft

ROOT = Path(first_screen.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md"]


def blocks(page, language):
    fenced = [block.partition("\n") for block in page.read_text(encoding="utf-8").split("```")[1::2]]
    return [text for head, _, text in fenced if head == language]


def without_comments(text):
    return [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]


def commands(page):
    return [line for block in blocks(page, "bash") for line in without_comments(block) if line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory as the quick start leaves it, with a model that took seconds."""
    where = tmp_path_factory.mktemp("readme")
    config = ROOT / "train_scripts" / "configs" / "debug_sft.yaml"
    options = ["--output_dir", where / "quickstart" / "model", "--num_train_epochs", 1, "--report_samples", 0]
    sft.main(*sft.parse(["--config", str(config), *map(str, options), "--disable_tqdm", "true"]))
    (where / "train_scripts").symlink_to(ROOT / "train_scripts")
    return where


@pytest.fixture
def clone(tmp_path):
    """A working directory that looks like the root of a clone, in which nothing of it can be overwritten."""
    for path in ROOT.iterdir():
        if path.suffix in (".py", ".json", ".safetensors") or path.name in ("mini", "train_scripts"):
            (tmp_path / path.name).symlink_to(path)
    return tmp_path


def test_the_twin_has_the_same_commands_code_and_figures():
    english, chinese = PAGES
    assert commands(english) == commands(chinese)
    assert [without_comments(b) for b in blocks(english, "python")] == [
        without_comments(b) for b in blocks(chinese, "python")
    ]
    pictures = [re.findall(r"\]\((docs/images/[\w./]+)\)", page.read_text(encoding="utf-8")) for page in PAGES]
    assert pictures[0] == pictures[1] == ["docs/images/fan.png"]
    headings = [len(re.findall(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)) for page in PAGES]
    assert headings[0] == headings[1]


def test_the_files_it_names_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        linked = re.findall(r"\]\(([\w./]+)\)", text)
        tree = [line.split()[0] for line in blocks(page, "")[-1].splitlines() if line]
        assert linked
        assert tree
        assert all((ROOT / name).exists() for name in [*linked, *tree])


def test_the_make_targets_exist():
    targets = (ROOT / "Makefile").read_text()
    for command in commands(PAGES[0]):
        if command.startswith("make"):
            assert re.search(rf"^{command.split()[1]}:", targets, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in commands(PAGES[0]) if not c.startswith("make")])
def test_its_commands_run(folder, monkeypatch, command):
    words = shlex.split(command)
    monkeypatch.chdir(folder)
    if words[0] == "tsf-llm":
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code
    else:
        assert words[0] == "python"
        done = subprocess.run([sys.executable, *words[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_its_badges_are_true():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for page in PAGES:
        said = re.findall(r"img\.shields\.io/badge/(\S+?)\)", page.read_text(encoding="utf-8"))
        python, transformers = said[1], said[2]
        assert 'license="MIT"' in setup
        assert said[0].startswith("licence-MIT-")
        assert 'python_requires=">=3.11,<3.14"' in setup
        assert python.startswith("Python-3.11_to_3.13-")
        assert '"transformers>=5.20"' in setup
        assert transformers.startswith("transformers-5.20_or_later-")


def test_the_python_page_runs_from_top_to_bottom(clone, monkeypatch, capsys):
    page = ROOT / "docs" / "python.md"
    monkeypatch.chdir(clone)
    names = {}
    for block in blocks(page, "python"):
        exec(block, names)
    assert len(names["forecast"]) == 10
    assert len(names["each"]) == 2
    assert list(names["tails"]["step"]) == [1, 1]
    assert {"q01", "q99"} <= set(names["tails"])
    assert names["returns"].shape == (2, 1, 5)
    alone = names["pipe"](names["apple"], horizon=5)
    pd.testing.assert_frame_equal(names["rows"].reset_index(drop=True), alone, rtol=1e-4)
    assert "no edge" in capsys.readouterr().out


def test_the_python_page_tells_every_argument():
    rows = re.findall(r"^\| (`.+?) \|", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    told = {name.strip("`") for row in rows for name in row.split(", ")}
    with pytest.raises(ValueError, match="unknown argument") as refused:
        TsfLlmPipeline._sanitize_parameters(None, no_such=1)
    known = set(str(refused.value).partition(": use ")[2].split(", "))
    assert known | set(ALIASES) <= told
