"""`tsctl up`, `down` and `status`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tsctl.cli.context import open_deployment, open_one_node
from tsctl.cli.models import Json
from tsctl.cli.node import NodeOption
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.deployment import DeploymentSpec
    from tsctl.gateway.state import Gateway
    from tsctl.node.connection import Node
    from tsctl.project import Project
    from tsctl.status import NodeStatus
    from tsctl.up import Outcome

#: An answer is shown on one line, cut to this many characters.
SHOWN_ANSWER = 96


def up(node: NodeOption = None) -> None:
    """Build, start and register what deployment.yaml says, and ask every model once."""
    from tsctl.errors import NodeError
    from tsctl.gateway.start import start_gateway
    from tsctl.gateway.state import open_gateway
    from tsctl.progress import Progress
    from tsctl.up import up as bring_up

    project, deployment, opened = open_one_node(node)
    outcome = bring_up(project, deployment, opened, Progress())
    gateway = None
    if deployment.gateway is not None:
        gateway = open_gateway(project, deployment)
        outcome.changes += start_gateway(gateway, Progress())
    if not outcome.changes and not outcome.failures:
        typer.echo(f"nothing to change: node {opened.name} serves what deployment.yaml says")
    if outcome.unnamed:
        typer.echo(
            f"it serves {', '.join(outcome.unnamed)} as well, which deployment.yaml does not name;"
            " 'tsctl models unregister' removes a version"
        )
    _print_answers(outcome)
    if outcome.failures:
        raise NodeError("not all is served:\n  " + "\n  ".join(outcome.failures), "See 'tsctl status'.")
    _print_endpoints(project, deployment, opened, gateway)


def down(node: NodeOption = None) -> None:
    """Stop the gateway and the node that were started here, and only those."""
    from tsctl.cli.node import stop
    from tsctl.gateway.start import stop_gateway
    from tsctl.gateway.state import open_gateway
    from tsctl.progress import Progress

    project, deployment = open_deployment()
    if deployment.gateway is not None:
        stop_gateway(open_gateway(project, deployment), Progress())
    stop(node)


def status(node: NodeOption = None, json: Json = False) -> None:
    """Models, versions, workers and queues, and why a version is not ready; exit code 4 if one is not."""
    from tsctl.errors import NodeError
    from tsctl.status import node_status

    project, deployment, opened = open_one_node(node)
    found = node_status(opened, deployment)
    if json:
        print_json(found.as_json())
    else:
        _print_status(found)
    _print_gateway(project, deployment, json)
    if not found.is_running:
        hint = "'tsctl down' ends it, 'tsctl up' starts it." if found.pid else "Start it with 'make up' (tsctl up)."
        raise NodeError(f"node {found.node} does not answer: {found.reason}", hint)
    if not found.is_ready:
        waiting = ", ".join(f"{row.model} {row.version}" for row in found.versions if not row.is_ready)
        raise NodeError(f"node {found.node} is not ready: {waiting}")


def _print_status(found: NodeStatus) -> None:
    condition = "ready" if found.is_ready else "not ready" if found.is_running else "not running"
    pid = f" (pid {found.pid})" if found.pid else ""
    typer.echo(f"node {found.node}: {condition}{pid}, inference {found.inference}, management {found.management}")
    if not found.versions:
        return
    typer.echo("")
    rows = [
        (
            r.model,
            r.version,
            "yes" if r.is_default else "",
            r.state,
            f"{r.ready_workers}/{r.workers}",
            r.queue,
            r.digest,
        )
        for r in found.versions
    ]
    print_table(("model", "version", "default", "state", "workers", "queue", "archive"), rows)
    for row in found.versions:
        if row.reason:
            typer.echo(f"\n{row.model} {row.version} is {row.state}: {row.reason}")


def _print_gateway(project: Project, deployment: DeploymentSpec, is_json: bool) -> None:
    if deployment.gateway is None or is_json:
        return
    from tsctl.gateway.start import gateway_status
    from tsctl.gateway.state import open_gateway

    found = gateway_status(open_gateway(project, deployment))
    condition = "ready" if found.is_ready else "not ready" if found.is_live else "not running"
    typer.echo(f"\ngateway: {condition}, {found.address}; 'tsctl gateway status' has its routes")


def _print_answers(outcome: Outcome) -> None:
    for model, version, sample, reply in outcome.answers:
        text = " ".join(reply.body.decode("utf-8", "replace").split())
        shown = text if len(text) <= SHOWN_ANSWER else text[: SHOWN_ANSWER - 4] + " ..."
        typer.echo(f"{model} {version}  {sample}\n  {reply.status} {shown}")


def _print_endpoints(project: Project, deployment: DeploymentSpec, node: Node, gateway: Gateway | None) -> None:
    from tsctl.archive.store import find_archive
    from tsctl.gateway.start import local_key
    from tsctl.up import curl_line

    rows = {
        "inference": f"{node.spec.inference}/predictions/<model>[/<version>]",
        "management": f"{node.spec.management}/models",
        "metrics": f"{node.spec.metrics}/metrics",
    }
    base, header = node.spec.inference, node.paths.inference_header if node.key_file else None
    if gateway is not None:
        base, header = gateway.spec.address, local_key(gateway)
        rows = {"gateway": f"{base}/predictions/<model>", **rows}
    typer.echo("")
    for name, address in rows.items():
        typer.echo(f"{name:<12}{address}")
    typer.echo("")
    for model, target in list(deployment.models.items())[:1]:
        typer.echo(curl_line(project, base, header, find_archive(project, model, target.default), Path.cwd()))
