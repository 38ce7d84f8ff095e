"""docs/cli.md, which typer writes, says what the commands declare, of every command."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
from typer.cli import app as typer_app
from typer.testing import CliRunner

from tsctl import errors
from tsctl.cli.main import app

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")


def commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        if not hasattr(command, "list_commands"):
            yield name, command
            continue
        for verb in command.list_commands(context):
            yield f"{name} {verb}", command.get_command(context, verb)


LEAVES = list(commands())


def rendered() -> str:
    result = CliRunner().invoke(typer_app, ["tsctl.cli.main", "utils", "docs", "--name", "tsctl"])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_file_is_what_typer_writes() -> None:
    wanted = "run: .venv/bin/python -m typer tsctl.cli.main utils docs --name tsctl --output docs/cli.md"
    assert rendered().strip() == PAGE.strip(), wanted


def test_no_number_that_is_given_may_be_infinite() -> None:
    """`inf` passes a check for the least number, and then waits for ever or cannot be slept for."""
    bounds = {
        f"tsctl {words}: {name}": next(info.max for info in hint.__metadata__ if hasattr(info, "max"))
        for words, command in LEAVES
        for name, hint in get_type_hints(inspect.unwrap(command.callback), include_extras=True).items()
        if float in (get_args(hint) or (hint,)) or float in get_args(next(iter(get_args(hint)), None))
    }
    assert len(bounds) > 10
    assert [option for option, most in bounds.items() if most is None] == []


@pytest.mark.parametrize(("words", "command"), LEAVES, ids=[words for words, _ in LEAVES])
def test_every_command_is_there_with_its_help_and_options(words: str, command: Any) -> None:
    _, heading, section = PAGE.partition(f" `tsctl {words}`\n")
    assert heading, f"no section for {words}"
    section = section.split("\n#")[0]
    assert command.help, f"tsctl {words} has no docstring"
    assert command.help.strip().splitlines()[0] in section
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help":
            assert param.help, f"tsctl {words}: {param.opts[0]} has no help"
            assert f"`{param.opts[0]}" in section


def test_exit_codes_are_those_of_the_errors() -> None:
    named = [int(code) for code in re.findall(r"(\d+) ", str(app.info.epilog))]
    assert len(set(named)) == len(named), "two errors share a code"
    assert set(named) == {cls.exit_code for cls in errors.TsctlError.__subclasses__()} | {0, 1, 10, 11, 12, 13, 14, 130}
    assert errors.TsctlError.exit_code == 1, "the base alone has the code of what the machine refuses"
    assert str(app.info.epilog) in PAGE


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = rendered()
    monkeypatch.setenv("COLUMNS", "40")
    assert rendered() == wide
