"""`tsctl rollout`: commands to a rollout; rollout_start.py begins one, rollout_views.py shows it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from tsctl.cli.context import open_deployment, open_gateway_here
from tsctl.cli.options import Json, Model
from tsctl.cli.output import plural, print_json
from tsctl.cli.rollout_start import run_shown, start
from tsctl.cli.rollout_views import explain, history, plan, report, status, watch
from tsctl.config.project import find_project
from tsctl.deploy.pulls import pull_files
from tsctl.errors import AnalysisError, SpecError
from tsctl.gateway.backend import is_on_cluster
from tsctl.host.progress import Progress
from tsctl.rollout.cluster.begin import OpenedCluster, resumed_on_cluster
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.fold import start_of
from tsctl.rollout.decide.interventions import Command
from tsctl.rollout.run.commands import OpenedSpec, send
from tsctl.rollout.run.hold import is_running
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.journal_files import find_journal, unfinished
from tsctl.rollout.run.resume import reopened, resumed

app = typer.Typer(rich_markup_mode=None)
app.command()(start)


@app.command()
def resume(model: Model, json: Json = False) -> None:
    """Resume a rollout that was paused, or whose process has ended."""
    _command(model, Command.RESUME, json)


@app.command()
def pause(model: Model, json: Json = False) -> None:
    """Take no further step; a canary that fails is still rolled back."""
    if not _is_sent(model, Command.PAUSE, json):
        waiting = unfinished(find_project(), model)
        raise AnalysisError(
            f"no process runs the rollout {waiting}, so it does not advance"
            if waiting
            else f"no rollout of {model} is in progress",
            f"See 'tsctl rollout status {model}'." if waiting else "See 'tsctl rollout history'.",
        )


@app.command()
def abort(model: Model, json: Json = False) -> None:
    """Roll back to stable and end the rollout as aborted; exit code 10."""
    _command(model, Command.ABORT, json)


@app.command()
def promote(model: Model, json: Json = False) -> None:
    """Skip the remaining steps: the canary gets all requests and becomes stable."""
    _command(model, Command.PROMOTE, json)


@app.command()
def rollback(model: Model, json: Json = False) -> None:
    """Roll back to the version that was stable before, also after a promotion; exit code 10."""
    if unfinished(find_project(), model) is not None:
        return _command(model, Command.ROLLBACK, json)
    if is_on_cluster(open_deployment()[1]):
        raise SpecError(
            f"no rollout of {model} is in progress, and a promotion on a cluster is not rolled back by itself",
            f"Set the weights: tsctl weights set {model} VERSION=100%",
        )
    gateway = open_gateway_here()
    run_shown(f"rolling {model} back", lambda note: reopened(gateway, model, note), json)


@app.command()
def repair(model: Model, json: Json = False) -> None:
    """Repair the journals of a model: keep every entry that can be read, and the damaged file beside it.

    A rollout that had not ended can only be rolled back afterwards, because its evidence has gaps. Weights stay as they
    are. Refused while a process runs a rollout of the model.
    """
    from tsctl.rollout.run.repair import repair as repair_journals

    repaired = repair_journals(find_project(), model)
    if json:
        return print_json([asdict(journal) | {"kept_as": str(journal.kept_as)} for journal in repaired])
    for journal in repaired:
        kept = find_project().relative(journal.kept_as)
        typer.echo(f"{journal.id}: {plural(journal.lost, 'line')} lost; the damaged file is kept as {kept}")
        typer.echo(f"  {_after_repair(model, journal.is_readable, journal.outcome)}")
    if not repaired:
        typer.echo(f"no journal of {model} is damaged")


def _after_repair(model: str, is_readable: bool, outcome: Outcome | None) -> str:
    if not is_readable:
        return (
            f"its start is lost, so nothing is left of it; see what it left with 'tsctl weights show {model}', and give"
            f" one version all requests: tsctl weights set {model} VERSION=100%"
        )
    if outcome is None:
        return f"it has not ended, and can only be rolled back: tsctl rollout abort {model}"
    return f"it has ended: {outcome}"


for view in (plan, status, watch, history, explain, report):
    app.command()(view)


def _command(model: str, command: Command, json: bool) -> None:
    """Send the command to the process that runs the rollout, or run the rollout here where none does."""
    if _is_sent(model, command, json):
        return
    project, deployment = open_deployment()
    if is_on_cluster(deployment):
        opened = OpenedCluster(project, deployment)
        _pull_again(opened, model)
        run_shown(f"{model}: {command}", lambda note: resumed_on_cluster(opened, model, note, command), json)
    gateway = open_gateway_here()
    _pull_again(gateway, model)
    run_shown(f"{model}: {command}", lambda note: resumed(gateway, model, note, command), json)


def _pull_again(gateway: OpenedSpec, model: str) -> None:
    """Pull the archive of the unfinished rollout where this machine lacks it; what fails is printed.

    A rollout can be rolled back without it.
    """
    if (rollout := unfinished(gateway.project, model)) is None:
        return
    progress, file = Progress(), start_of(Journal(find_journal(gateway.project, model, rollout)).entries).file
    for name, error in pull_files(gateway.project, gateway.deployment, [file], progress).items():
        progress.line(f"{name} is not pulled: {error.message}")


def _is_sent(model: str, command: Command, json: bool) -> bool:
    """Whether a process runs the rollout, and was sent the command; a mistake in deployment.yaml is no obstacle."""
    project = find_project()
    said: list[str] = []

    def say_once(text: str) -> None:
        if not said:
            typer.echo(text, err=True)
        said.append(text)

    if not is_running(project, model, say_once):
        return False
    send(project, model, command)
    if json:
        print_json({"model": model, "asked": command})
    else:
        typer.echo(f"sent {command} to the rollout of {model}; follow it with 'tsctl rollout watch {model}'")
    return True
