"""The help pages: of at most 80 columns, in groups, with examples that can be run."""

import shlex
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from cmnet_cli.app import app
from cmnet_cli.help_page import EXECUTION, MESSAGES, SUBJECTS, split_examples

ROOT: Any = typer.main.get_command(app)
# Those with most options need three screens of a terminal of 24 lines; that of all commands, two.
MOST_LINES = {"": 48}


def _commands(group: Any = ROOT, *names: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        yield from _commands(command, *names, name) if hasattr(command, "commands") else [((*names, name), command)]


COMMANDS = {" ".join(names): command for names, command in _commands()}


def _help(name: str, columns: int = 80) -> list[str]:
    ran = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": str(columns)})
    assert ran.exit_code == 0
    return ran.output.splitlines()


@pytest.mark.parametrize("name", ["", "models", *COMMANDS])
def test_help_fits_80_columns(name: str) -> None:
    for columns in (80, 200):
        lines = _help(name, columns)
        assert max(map(len, lines)) <= 80, max(lines, key=len)
        assert len(lines) <= MOST_LINES.get(name, 80)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands(name: str) -> None:
    examples = split_examples(COMMANDS[name].help)[1]
    assert examples
    for example in examples:
        assert f"  {example}" in _help(name)
        words = shlex.split(example)
        assert words[: 1 + len(name.split())] == ["cmnet", *name.split()]
        # Raises an error where an option is unknown, has no value or is missing.
        COMMANDS[name].make_context(name, [word for word in words[1 + len(name.split()) :] if word != "/scratch/run"])


def test_options_are_grouped_and_in_order() -> None:
    lines = _help("infer")
    headings = [line.rstrip(":") for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options", SUBJECTS, EXECUTION, MESSAGES, "Examples"]
    assert any(line.startswith("  -m, --manifest FILE") for line in lines)


def test_commands_are_listed_by_panel_with_one_line_each() -> None:
    lines = _help("")
    for name, command in ROOT.commands.items():
        listed = [line for line in lines if line.split()[:1] == [name]]
        assert len(listed) == (not command.hidden)
    assert "Analysis:" in lines
