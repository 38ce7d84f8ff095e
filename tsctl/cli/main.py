"""The command line: `tsctl <noun> <verb>`; importing it must stay light, so a noun's module is imported when called."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pkgutil import resolve_name
from typing import Any, NoReturn

import typer

from tsctl.cli import top
from tsctl.cli.capture import capture, replay
from tsctl.cli.init import init, path
from tsctl.cli.logs import logs
from tsctl.cli.schema import schema
from tsctl.cli.serve import serve
from tsctl.cli.tune import tune
from tsctl.errors import TsctlError

#: Where the commands of each noun are, and its help text.
NOUNS = {
    "archive": ("tsctl.cli.archive:app", "Build, verify, inspect and list .mar archives."),
    "node": ("tsctl.cli.node:app", "Start, stop and wait for a node on this machine."),
    "models": (
        "tsctl.cli.models:app",
        "List, register, scale and unregister model versions on one node or on all.",
    ),
    "engines": ("tsctl.cli.engines:app", "List, install and compare the engines that serve archives."),
    "export": ("tsctl.cli.export:app", "Write an archive in the form in which another server takes models."),
    "render": ("tsctl.cli.render:app", "Write files for other systems that run what deployment.yaml describes."),
    "gateway": ("tsctl.cli.gateway:app", "Render, start, stop and show the gateway of this machine."),
    "keys": ("tsctl.cli.keys:app", "Give clients keys for the gateway, list and revoke them."),
    "weights": ("tsctl.cli.weights:weights", "Set and show the weights of a model's versions."),
    "shadow": ("tsctl.cli.shadow:app", "Copy requests to a version, and compare its answers with stable's."),
    "rollout": (
        "tsctl.cli.rollout:app",
        "Release a version step by step; it is promoted or rolled back automatically.",
    ),
    "control": ("tsctl.cli.control:app", "Show who runs rollouts from which machine, and take over from a dead one."),
    "records": (
        "tsctl.cli.records:app",
        "Read, export, compact and purge the prediction records of the nodes on this machine.",
    ),
    "labels": ("tsctl.cli.labels:app", "Add labels of requests, and show how right each version was."),
    "drift": ("tsctl.cli.drift:app", "Compare inputs and predictions with their reference, and watch them."),
    "metrics": ("tsctl.cli.metrics:app", "Show or export metrics of this machine."),
    "monitoring": (
        "tsctl.cli.monitoring:app",
        "Render and run Prometheus, Alertmanager and dashboards for deployment.yaml.",
    ),
}


class _Noun(typer.core.TyperGroup):
    """The commands of a noun, which are imported when one of them is called or listed."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._imported())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return self._imported().get(cmd_name)

    def _imported(self) -> Mapping[str, Any]:
        if not self.commands:
            place, _ = NOUNS[self.name or ""]
            self.commands = typer.main.get_group(resolve_name(place)).commands
        return self.commands


app = typer.Typer(
    name="tsctl",
    help="Takes a PyTorch model from a file of weights to a safe release on TorchServe, uvicorn, Triton or BentoML.",
    epilog="Exit codes: 0 done; 1 this machine refuses, for want of rights or space; 2 an invalid YAML file, option or"
    " configuration; 3 an archive; 4 a node; 5 the gateway;"
    " 6 evidence cannot be read or judged; 7 a conflict: another process holds the lock, or a version is served from"
    " other bytes; 10 rolled back; 11 a rollout is undecided;"
    " 12 'tsctl plan' found changes; 13 a rollout failed before its first request; 14 'tsctl archive diff' found"
    " too many different answers; 130 interrupted, by Ctrl-C,"
    " SIGTERM or SIGHUP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    init,
    top.up,
    top.down,
    top.status,
    top.plan,
    top.apply,
    logs,
    serve,
    capture,
    replay,
    tune,
    schema,
    path,
):
    app.command()(command)
for name, (_, help_text) in NOUNS.items():
    app.add_typer(typer.Typer(cls=_Noun, help=help_text, no_args_is_help=True), name=name)

#: The exit code of a command that was interrupted.
INTERRUPTED = 130
#: Signals that interrupt a command as Ctrl-C does.
ENDING = (signal.SIGTERM, signal.SIGHUP)

#: ClickException, the base of what a wrong command line raises; typer carries click inside itself and exports it not.
_ClickException: Any = typer.BadParameter.__mro__[2]


def run(*arguments: str) -> None:
    """Run the command line with `arguments` before those of the process; ends the process with the right exit code."""
    run_app(app, "tsctl", arguments)


def run_app(commands: typer.Typer, name: str, arguments: Sequence[str] = ()) -> None:
    """Run any commands in the same way, and end the process.

    Nothing that they or their children write has wider rights than 0644, and a character that the terminal does not
    have is written as its number. Where --json is among the arguments, an error is a JSON document as well, on standard
    output (docs/scripting.md).
    """
    given = [*arguments, *sys.argv[1:]]
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    os.umask(os.umask(0o077) | 0o022)
    _open_closed_streams()
    _interrupt_on_signals()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        status = commands(args=given, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except TsctlError as error:
        typer.echo(f"error: {error.message}", err=True)
        if error.hint:
            typer.echo(f"       {error.hint}", err=True)
        _end(error.exit_code, as_json, error.message, error.hint, error.document)
    except _ClickException as error:
        error.show()
        _end(error.exit_code, as_json, error.format_message(), "See --help.")
    except OSError as error:
        if isinstance(error, BrokenPipeError):  # nobody reads the output any more
            _end_output()
            sys.exit(1)
        typer.echo(f"error: {_refusal(error)}", err=True)
        _end(1, as_json, _refusal(error))
    except (typer.Abort, KeyboardInterrupt):
        with suppress(OSError):  # the terminal may be what went away
            typer.echo("interrupted", err=True)
        _end(INTERRUPTED, as_json, "interrupted")
    except Exception as error:
        if as_json:
            from tsctl.cli.output import print_failure

            print_failure({"error": f"{type(error).__name__}: {error}", "hint": "This is a bug of tsctl.", "code": 1})
        raise
    if status == INTERRUPTED:  # typer makes it of a KeyboardInterrupt
        _end(INTERRUPTED, as_json, "interrupted")
    sys.exit(status if isinstance(status, int) else 0)


def _end(code: int, as_json: bool, message: str, hint: str = "", document: Mapping[str, Any] | None = None) -> NoReturn:
    """End the process after an error, which is a JSON document as well where one was asked for and none was printed."""
    if as_json:
        from tsctl.cli.output import print_failure

        with suppress(OSError):  # standard output may be what failed; the error was told on the other stream
            print_failure({**(document or {}), "error": message, "hint": hint, "code": code})
    _end_output()
    sys.exit(code)


def _interrupt_on_signals() -> None:
    """SIGTERM and SIGHUP interrupt the command, so that its folders, nodes and other processes do not outlive it.

    A signal that is ignored stays so, as under nohup. Commands that serve have handlers of their own.
    """
    for number in ENDING:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(*_: object) -> NoReturn:
    for number in ENDING:
        signal.signal(number, lambda *_: None)  # a second one must not interrupt what the first began
    raise KeyboardInterrupt


def _open_closed_streams() -> None:
    """Open those of the three standard streams that the caller closed, on nothing.

    Python has no such stream then, and the next file that is opened would get its number: what a child prints would be
    written into it.
    """
    for number, mode in enumerate(("r", "w", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
            setattr(sys, ("stdin", "stdout", "stderr")[number], stream)


def _end_output() -> None:
    """Write what was printed where that is possible; Python would try again at its end, and print a traceback."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refusal(error: OSError) -> str:
    """What the kernel said, and of which file, on one line."""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename is not None else reason


if __name__ == "__main__":
    run()
