"""`tsctl engines`: compare the engines that serve archives."""

from __future__ import annotations

import typer

from tsctl.cli.compare import compare

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)
app.command()(compare)


@app.callback()
def engines() -> None:
    """Compare the engines that serve archives."""
