"""Prints tables and sentences: with colours on a terminal, as plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
import textwrap

import typer
from rich.console import Console
from rich.text import Text

from tsctl.views.table import Table

#: Columns of what is printed into a file or a pipe.
PLAIN_WIDTH = 160


def new_console() -> Console:
    """Open a console with colours and the terminal's width on a terminal, neither anywhere else."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_table(table: Table, indent: int = 0) -> None:
    """Print a table; a line that is too long for the terminal goes on in the next one."""
    text = render_table(table, indent)
    text.overflow = "ignore"
    new_console().print(text, soft_wrap=True)


def render_table(table: Table, indent: int = 0) -> Text:
    """Render a table in colours; a line that is too long for its place is cut off."""
    text = Text(textwrap.indent("\n".join(table.lines()), " " * indent), no_wrap=True, overflow="ellipsis")
    text.highlight_regex("━+", "yellow")
    text.highlight_regex("reached.*", "red")
    if table.has_total:
        text.stylize("bold", text.plain.rindex("\n"))
    return text


def print_wrapped(text: str, before: str = "") -> None:
    """Print a sentence, wrapped on a terminal with later lines under the first, as one line anywhere else."""
    if not sys.stdout.isatty():
        typer.echo(before + text)
        return
    width = max(40 + len(before), min(120, shutil.get_terminal_size().columns))
    indent = " " * len(before)
    lines = textwrap.wrap(text, width, initial_indent=before, subsequent_indent=indent, break_long_words=False)
    typer.echo("\n".join(lines))
