"""The page of all commands: what is committed is what the help says, and its examples are command lines."""

import shlex
from pathlib import Path

import pytest
import typer

from tsf_llm.serving import cli, cli_page

PAGE = Path(cli.__file__).parents[1] / "docs" / "cli.md"
COMMANDS = typer.main.get_command(cli.app).commands


def test_the_page_is_that_of_the_commands():
    again = "write it again: python -m tsf_llm.serving.cli_page docs/cli.md"
    assert PAGE.read_text(encoding="utf-8") == cli_page.page(), again


@pytest.mark.parametrize("name", COMMANDS)
def test_an_example_is_a_command_line(name):
    program, command, *words = shlex.split(cli_page.example(COMMANDS[name]))
    assert (program, command) == ("tsf-llm", name)
    COMMANDS[name].make_context(name, words)  # raises for an option that is not there, or one that is missing


def test_the_page_tells_every_option_of_every_command(tmp_path, capsys):
    cli_page.main(str(tmp_path / "page.md"))
    assert f"{len(COMMANDS)} commands" in capsys.readouterr().out
    sections = (tmp_path / "page.md").read_text(encoding="utf-8").split("\n## ")
    told = {section.partition("\n")[0]: section for section in sections}
    for name, command in COMMANDS.items():
        assert all(word in told[name] for option in command.params for word in option.opts if word.startswith("-"))
