"""The command line: `tsctl <noun> <verb>`; importing it must stay light, so commands import what they need."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import typer

from tsctl.cli import archive, gateway, keys, metrics, models, node, release, rollout, top, weights
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
app.command()(top.up)
app.command()(top.down)
app.command()(top.status)
app.command()(release.plan)
app.command()(release.apply)
app.add_typer(archive.app, name="archive")
app.add_typer(node.app, name="node")
app.add_typer(models.app, name="models")
app.add_typer(gateway.app, name="gateway")
app.add_typer(keys.app, name="keys")
app.add_typer(weights.weights, name="weights")
app.add_typer(weights.shadow, name="shadow")
app.add_typer(rollout.app, name="rollout")
app.add_typer(metrics.app, name="metrics")


#: ClickException, the base of what a wrong command line raises; typer carries click inside itself and exports it not.
_ClickException: Any = typer.BadParameter.__mro__[2]


def run(*arguments: str) -> None:
    """Run the command line with `arguments` before those of the process; ends the process with the right exit code."""
    run_app(app, "tsctl", arguments)


def run_app(commands: typer.Typer, name: str, arguments: Sequence[str] = ()) -> None:
    """Run any commands in the same way, and end the process."""
    try:
        status = commands(args=[*arguments, *sys.argv[1:]], prog_name=name, standalone_mode=False)
    except TsctlError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"       {error.hint}", err=True)
        sys.exit(error.exit_code)
    except _ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


if __name__ == "__main__":
    run()
