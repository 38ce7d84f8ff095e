"""docs/cli.md says what the commands declare, of every command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from tsctl import errors
from tsctl.cli.main import app
from tsctl.cli.reference import exit_codes, render_reference

CHECKOUT = Path(__file__).resolve().parents[2]


def leaves() -> list[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    root: Any = typer.main.get_command(app)
    commands = []
    for name, command in root.commands.items():
        below = getattr(command, "commands", {})
        commands += [(f"{name} {verb}", sub) for verb, sub in below.items()] or [(name, command)]
    return commands


def test_the_file_is_what_the_generator_writes() -> None:
    written = (CHECKOUT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert written == render_reference(), "run: .venv/bin/python -m tsctl.cli.reference > docs/cli.md"


@pytest.mark.parametrize(("words", "command"), leaves(), ids=[words for words, _ in leaves()])
def test_every_command_is_there_with_its_help_and_options(words: str, command: Any) -> None:
    page = render_reference()
    _, heading, section = page.partition(f" tsctl {words}\n")
    assert heading, f"no section for {words}"
    section = section.split("\n#")[0]
    assert command.help, f"tsctl {words} has no docstring"
    assert command.help.strip().splitlines()[0] in section
    for param in command.params:
        if param.param_type_name == "option" and param.name != "help":
            assert param.help, f"tsctl {words}: {param.opts[0]} has no help"
            assert f"`{param.opts[0]}" in section


def test_exit_codes_are_those_of_the_errors() -> None:
    codes = dict(exit_codes())
    assert codes[errors.ConflictError.exit_code] == "another process holds the lock, or the state changed meanwhile"
    assert len(codes) == len(exit_codes()), "two errors share a code"
    assert errors.TsctlError.exit_code not in codes, "the base is never raised itself"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = render_reference()
    monkeypatch.setenv("COLUMNS", "40")
    assert render_reference() == wide
