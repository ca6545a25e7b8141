"""One parser: a YAML file, and typed values over it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tsf_llm.common.errors import one_line_errors
from tsf_llm.common.parser import Parser, check_yaml, option, parse_for


@dataclass
class Arguments:
    name: str = "a"
    rate: float = 1.0
    steps: int | None = None
    columns: list[str] = option(["t"], "which columns")
    loud: bool = False


def main(arguments: Arguments) -> Any:
    """A script."""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: from_file\nrate: 1e-3\nloud: true\n")
    return path


def test_given_values_go_over_the_file_and_keep_their_types(config):
    [read] = Parser((Arguments,)).read(config, name=Path("b"), steps=3, columns=["x", "y z"], loud=False)
    assert read == Arguments(name="b", rate=0.001, steps=3, columns=["x", "y z"], loud=False)


def test_none_leaves_a_value_to_the_file(config):
    [read] = Parser((Arguments,)).read(config, name=None, rate=None)
    assert read == Arguments(name="from_file", rate=0.001, loud=True)


def test_given_values_are_looked_at_as_those_of_a_file(config, capsys):
    with pytest.raises(SystemExit):
        Parser((Arguments,), prog="it").read(config, rate=[1, 2])
    assert "it: error: rate: invalid float value: [1, 2]" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"unknown: nam; did you mean --name\?"):
        Parser((Arguments,)).read(config, nam="b")


def test_the_parameters_of_a_script_say_what_it_takes(capsys):
    [one], [other] = parse_for(main, ["--steps", "3"]), parse_for(main, [])
    assert (one.steps, one.columns, other.steps) == (3, ["t"], None)
    assert one.columns is not other.columns
    with pytest.raises(SystemExit):
        parse_for(main, ["--help"])
    said = capsys.readouterr().out
    assert "which columns" in said
    assert __doc__ in said
    with pytest.raises(SystemExit):
        parse_for(main, ["--step", "x"])
    assert "test_parser: error" in capsys.readouterr().err


ALIASES = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(12))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("seed: 1\nseed: 2", "a.yaml: 'seed' is there twice; keep one of them"),
        ("seed: " + "9" * 5000, "a.yaml: Exceeds the limit"),
        (
            "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 1}]" for i in range(12)),
            "than 10,000 values",
        ),
        ("a: &x [*x]", "than 10,000 values"),
    ],
)
def test_yaml_that_is_larger_than_it_looks_or_contradicts_itself(tmp_path, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        check_yaml(tmp_path / "a.yaml")


@dataclass
class Run:
    name: str = option("a")
    fast: bool = option(True)
    slow: bool = option(False)

    def __post_init__(self):
        self.name.casefold()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fast: [1]", r"fast: give true or false, not \[1\]"),
        ("slow: {a: 1}", "slow: give true or false, not {'a': 1}"),
        ("slow: 3.5", "slow: give true or false, not 3.5"),
        ("fast:", "fast is empty"),
        ("name: [x]", r"name: give one text, not \['x'\]"),
        ("name: {x: 1}", "a.yaml: a value is of a wrong type"),
        ('slow: "\\e[31m"', r"got \\x1b\[31m but"),
    ],
)
def test_values_that_no_command_line_could_give(tmp_path, capsys, text, says):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"), one_line_errors("x"):
        Parser([Run], prog="x").parse_args_and_config(["--config", str(tmp_path / "a.yaml")])
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(says, line), line


@pytest.mark.parametrize(
    "text", ["3: 4", "- a", "text", "? [1, 2]\n: 3", "null: 1", "a: !!python/object:os.system x", "[" * 5000, "a-b: 1"]
)
def test_yaml_that_is_no_list_of_options_is_one_line(tmp_path, capsys, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(SystemExit, match="2"), one_line_errors("x"):
        check_yaml(path)
    assert len(capsys.readouterr().err.splitlines()) == 1
