"""Prints tables and sentences: with colours on a terminal, as plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
import textwrap

import typer
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from tsctl.views.table import ProgressCell, Table

#: Columns of what is printed into a file or a pipe; nothing is cut off there.
PLAIN_WIDTH = 160
BAR_WIDTH = 16


def new_console() -> Console:
    """Open a console with colours and the terminal's width on a terminal, neither anywhere else."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PLAIN_WIDTH)


def print_renderable(renderable: RenderableType) -> None:
    """Print it with colours on a terminal, and without spaces at the ends of lines anywhere else."""
    console = new_console()
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    typer.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_table(table: Table, indent: int = 0) -> None:
    print_renderable(Padding(render_table(table), (0, 0, 0, indent), expand=False))


def render_table(table: Table) -> RichTable:
    """Render a table without lines, as all tables of tsctl are."""
    rendered = RichTable(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name, kind in table.headings:
        rendered.add_column(name.upper(), justify="right" if kind == "number" else "left", no_wrap=True)
    for number, row in enumerate(table.rows, 1):
        is_total = table.has_total and number == len(table.rows)
        rendered.add_row(*map(_cell, row), style="bold" if is_total else "")
    return rendered


def _cell(cell: str | ProgressCell) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    colour = "red" if cell.share >= 1 else "yellow" if cell.share >= 0.5 else "green"
    return Text.assemble(f"{cell!s:>7}  ", ("━" * round(cell.share * BAR_WIDTH), colour))


def print_wrapped(text: str, before: str = "") -> None:
    """Print a sentence, wrapped on a terminal with later lines under the first, as one line anywhere else."""
    if sys.stdout.isatty():
        width = max(40 + len(before), min(120, shutil.get_terminal_size().columns))
        indent = " " * len(before)
        text = textwrap.fill(text, width, initial_indent=before, subsequent_indent=indent, break_long_words=False)
    else:
        text = before + text
    typer.echo(text)
