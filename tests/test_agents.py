"""AGENTS.md and SKILL.md: what they name is there, and their commands run as they stand."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import yaml

from tsf_llm.serving import cli, verdict

ROOT = Path(verdict.__file__).parents[1]
AGENTS, SKILL = (ROOT / name for name in ("AGENTS.md", "SKILL.md"))


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page):
    lines = [re.sub(r"\s+#.*", "", line) for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line]


def mentioned(page):
    """Commands and options that stand in running text."""
    return re.findall(r"`(tsf-llm [a-z][^`]*)`", page.read_text(encoding="utf-8"))


OURS = [*dict.fromkeys(one for page in (AGENTS, SKILL) for one in commands(page) if one.startswith("tsf-llm"))]
SLOW = ("tsf-llm adapt", "tsf-llm audit")  # the README's tests run an audit too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("skill")


def run(words):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as end:
            cli.main()
    return end.value.code or 0


@pytest.mark.parametrize(
    "command", [pytest.param(one, marks=[pytest.mark.slow] * one.startswith(SLOW)) for one in OURS]
)
def test_its_commands_run(folder, monkeypatch, command):
    monkeypatch.chdir(folder)
    assert run(shlex.split(command)) == 0


def test_other_commands_are_there():
    others = [line for page in (AGENTS, SKILL) for line in commands(page) if line not in OURS]
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in others:
        assert line.startswith("make ")
        assert re.search(rf"^{line.split()[1]}:", targets, flags=re.MULTILINE), line


@pytest.mark.parametrize("page", [AGENTS, SKILL], ids=lambda path: path.name)
def test_what_running_text_mentions_exists(page, capsys):
    text = page.read_text(encoding="utf-8")
    for words in mentioned(page):
        assert run([*words.split()[:2], "--help"]) == 0, words
    helps = ""
    for name in {words.split()[1] for words in [*mentioned(page), *commands(page)] if words.startswith("tsf-llm")}:
        run(["tsf-llm", name, "--help"])
        helps += capsys.readouterr().out
    known = {"--help", *re.findall(r"--[a-z][a-z-]+", helps)}
    assert {*re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)} <= known
    for name in re.findall(r"`([\w./]+/)`", text):
        assert (ROOT / name).is_dir(), name


def test_the_front_matter_is_that_of_a_skill():
    head = yaml.safe_load(SKILL.read_text(encoding="utf-8").split("---\n")[1])
    assert head.keys() == {"name", "description"}
    assert re.fullmatch(r"[a-z0-9-]{1,64}", head["name"])
    assert 0 < len(head["description"]) <= 1024
    assert "Use when" in head["description"]


def test_the_example_in_python_runs(capsys):
    [example] = blocks(SKILL, "python")
    exec(example, {})
    out = capsys.readouterr().out
    assert "q10" in out
    assert "80 % band held" in out


def test_the_map_has_every_room():
    text = AGENTS.read_text(encoding="utf-8")
    rooms = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"benchmarks"}
    assert all(f"`{room}/`" in text for room in rooms)


def test_the_order_of_imports_is_that_of_contributing():
    order = r"serving -> train_scripts.*?root modules"
    pages = [(ROOT / name).read_text(encoding="utf-8") for name in ("AGENTS.md", "CONTRIBUTING.md")]
    first, second = (re.search(order, page, re.DOTALL)[0].split() for page in pages)
    assert first == second
