"""`tsctl archive`: build, verify, inspect and list archives."""

from __future__ import annotations

import typer

app = typer.Typer(help="Build, verify, inspect and list .mar archives.", no_args_is_help=True)
