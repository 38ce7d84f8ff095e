"""`tsctl node`: start, stop and wait for the node on this machine."""

from __future__ import annotations

import signal
import time
from typing import Annotated

import typer

from tsctl.cli.context import open_deployment, open_one_node
from tsctl.cli.options import Json, NodeOption
from tsctl.cli.output import print_done, print_json
from tsctl.config.project import find_project
from tsctl.deploy.pulls import pull_served
from tsctl.deploy.status import node_status
from tsctl.errors import NodeError, TsctlError, printable
from tsctl.host.files import tail
from tsctl.host.progress import Progress
from tsctl.nodes.node import Node, Restored
from tsctl.nodes.record import running_nodes

app = typer.Typer(rich_markup_mode=None)


@app.command()
def start(
    node: NodeOption = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground", help="Stay in the foreground, and stop the node on Ctrl-C or SIGTERM; for service managers."
        ),
    ] = False,
    empty: Annotated[bool, typer.Option("--empty", help="Start without the versions that it served before.")] = False,
    json: Json = False,
) -> None:
    """Start the node and register again the versions that it served before.

    Their archives are pulled first where they are not here, and deployment.yaml names a store.
    """
    project, deployment, opened = open_one_node(node)
    progress = Progress()
    if not empty:
        pull_served(project, deployment, opened.name, progress)
    if foreground:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    process = opened.start(project, progress)
    try:
        if empty:
            opened.forget_served()
        restored = opened.restore(project, progress, frozenset())
        document = _started(opened, restored)
        failure = _restore_error(opened, restored, document)
        said = [f"node {opened.name} answers at {opened.spec.url}"]
        if not foreground and failure and json:
            raise failure
        print_done(document, said, json)
        if not foreground:
            if failure:
                raise failure
            return
        if failure:  # the other versions serve, so this is a warning and does not end the node
            typer.echo(f"warning: {failure.message}", err=True)
        status = process.wait()
    except BaseException as error:
        if foreground or isinstance(error, KeyboardInterrupt):
            opened.stop(progress)
        raise
    raise NodeError(f"node {opened.name} ended by itself with status {status}:\n{opened.crash_report()}")


@app.command()
def stop(node: NodeOption = None, json: Json = False) -> None:
    """Stop the node and its workers, also one that deployment.yaml describes otherwise by now, or no longer names."""
    from tsctl.nodes.engines import open_to_stop

    opened = open_to_stop(*open_deployment(), node)
    was_running = opened.stop(Progress())
    said = [] if was_running else [f"node {opened.name} was not running"]
    print_done({"node": opened.name, "was_running": was_running}, said, json)


@app.command()
def logs(
    node: NodeOption = None,
    lines: Annotated[int, typer.Option(min=1, max=1000, help="Of each file.")] = 20,
) -> None:
    """Print the last lines of the node's logs; what its workers print is in the last file."""
    project, _, opened = open_one_node(node)
    if not opened.is_here:
        raise NodeError(f"node {opened.name} is on {opened.spec.host}, and so are its logs", "Run this there.")
    present = [path for path in opened.logs if path.is_file()]
    if not present:
        raise NodeError(f"node {opened.name} was never started here: no {opened.logs[-1]}", "Run 'tsctl up'.")
    for path in present:
        typer.echo(f"==> {project.relative(path)}")
        typer.echo(printable(tail(path, lines), kept="\n\t"))


@app.command()
def running(json: Json = False) -> None:
    """Print pid and record of every node that runs from this folder; exit code 1 if none does."""
    project = find_project()
    nodes = running_nodes(project)
    if json:
        print_json([{"pid": pid, "record": str(record)} for record, pid in nodes])
    for record, pid in nodes if not json else ():
        typer.echo(f"pid {pid}, {project.relative(record)}")
    if not nodes:
        raise typer.Exit(1)


@app.command()
def wait(
    node: NodeOption = None,
    timeout: Annotated[float, typer.Option(min=0, max=86_400, help="Seconds to wait at most.")] = 120.0,
    json: Json = False,
) -> None:
    """Wait until all versions of deployment.yaml, and all others with workers, are ready on the node."""
    _, deployment, opened = open_one_node(node)
    end = time.monotonic() + timeout
    with Progress().step(f"waiting for node {opened.name}") as step:
        while not (now := node_status(opened, deployment)).is_ready:
            missing = [f"{row.model} {row.version} {row.state}" for row in now.versions if not row.is_ready]
            seen = "; ".join(missing) or now.reason
            if time.monotonic() > end:
                raise NodeError(f"node {opened.name} is not ready after {timeout:g} s: {seen}")
            step.note(seen)
            time.sleep(0.5)
        step.done(f"{len(now.versions)} versions ready")
    print_done(now.as_json(), [], json)


def _started(node: Node, restored: Restored) -> dict[str, object]:
    served = [{"model": model, "version": version} for model, version in restored.served]
    failed = [{"model": model, "version": version, "reason": why} for (model, version), why in restored.failed]
    return {"node": node.name, "url": node.spec.url, "pid": node.pid, "restored": served, "failed": failed}


def _restore_error(node: Node, restored: Restored, document: dict[str, object]) -> TsctlError | None:
    if not restored.failed:
        return None
    reasons = "\n".join(f"  {model} {version}: {reason}" for (model, version), reason in restored.failed)
    return NodeError(
        f"node {node.name} runs, but some versions did not come back:\n{reasons}",
        "The next start tries them again; 'tsctl models unregister' removes one from the list.",
        document,
    )
