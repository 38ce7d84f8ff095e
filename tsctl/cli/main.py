"""The command line: `tsctl <noun> <verb>`; importing it must stay light, so commands import what they need."""

from __future__ import annotations

import sys

import typer

from tsctl.cli import archive
from tsctl.errors import TsctlError

app = typer.Typer(
    name="tsctl",
    help="Takes a PyTorch model from a file of weights to a safe release on TorchServe nodes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(archive.app, name="archive")


def run(*arguments: str) -> None:
    """Run the command line with `arguments` before those of the process; ends the process with the right exit code."""
    try:
        app(args=[*arguments, *sys.argv[1:]], prog_name="tsctl", standalone_mode=True)
    except TsctlError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"       {error.hint}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    run()
