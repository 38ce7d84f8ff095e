"""`tsctl up`, `down` and `status`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tsctl.cli.context import open_deployment, open_one_node
from tsctl.cli.models import Json
from tsctl.cli.output import print_json, print_table

if TYPE_CHECKING:
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.config.project import Project
    from tsctl.deploy.status import NodeStatus
    from tsctl.deploy.up import Archives, Outcome
    from tsctl.gateway.state import Gateway
    from tsctl.host.progress import Progress
    from tsctl.nodes.torchserve.node import Node

NodeHere = Annotated[
    str | None, typer.Option("--node", help="Node of deployment.yaml; all of this machine if left out.")
]
NodeShown = Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml; all if left out.")]

#: An answer is shown on one line, cut to this many characters.
SHOWN_ANSWER = 96


def up(node: NodeHere = None) -> None:
    """Build, start and register what deployment.yaml says, and ask every model once; on every node of this machine."""
    from tsctl.deploy.up import build
    from tsctl.errors import NodeError
    from tsctl.gateway.start import start_gateway
    from tsctl.gateway.state import open_gateway
    from tsctl.host.progress import Progress

    project, deployment, nodes = _open_here(node)
    if not nodes:
        raise NodeError(
            f"no node of deployment.yaml is started on this machine: {', '.join(deployment.nodes)}",
            "Start each where it is; 'tsctl models register --all-nodes' and 'tsctl gateway start' work from here.",
        )
    progress = Progress()
    archives, changes = build(project, deployment, progress)
    ended = [(opened, _bring_up(project, deployment, opened, archives, progress)) for opened in nodes]
    changes += [change for _, outcome in ended for change in outcome.changes]
    gateway = None
    if deployment.gateway is not None:
        gateway = open_gateway(project, deployment)
        changes += start_gateway(gateway, Progress())
    failures = [f"{_told_of(deployment, opened)}{why}" for opened, outcome in ended for why in outcome.failures]
    if not changes and not failures:
        names, serve = ", ".join(opened.name for opened in nodes), "serves" if len(nodes) == 1 else "serve"
        typer.echo(f"nothing to change: {_nodes(nodes)} {names} {serve} what deployment.yaml says")
    for opened, outcome in ended:
        _print_unnamed(deployment, opened, outcome)
    for opened, outcome in ended:
        _print_answers(deployment, opened, outcome)
    if failures:
        raise NodeError("not all is served:\n  " + "\n  ".join(failures), "See 'tsctl status'.")
    _print_endpoints(project, deployment, nodes, gateway)


def down(node: NodeHere = None) -> None:
    """Stop the gateway and the nodes that were started here, and only those."""
    from tsctl.errors import NodeError, TsctlError
    from tsctl.gateway.start import stop_gateway
    from tsctl.gateway.state import open_gateway
    from tsctl.host.progress import Progress
    from tsctl.nodes.torchserve.start import stop_node

    project, deployment = open_deployment()
    if deployment.gateway is not None:
        stop_gateway(open_gateway(project, deployment), Progress())
    failures = []
    for opened in _open_here(node)[2]:
        try:
            if not stop_node(opened, Progress()):
                typer.echo(f"node {opened.name} was not running")
        except TsctlError as error:
            if len(deployment.nodes) == 1:
                raise
            failures.append(f"node {opened.name}: {error.message}")
    if failures:
        raise NodeError("not all is stopped:\n  " + "\n  ".join(failures), "Run this again.")


def status(node: NodeShown = None, json: Json = False) -> None:
    """Models, versions, workers and queues, and why a version is not ready; exit code 4 if one is not.

    Of every node; one that does not answer is a line with its reason.
    """
    from tsctl.deploy.status import all_status, node_status
    from tsctl.errors import NodeError
    from tsctl.nodes.torchserve.node import open_nodes

    project, deployment = open_deployment()
    if node is None and len(deployment.nodes) > 1:
        found = all_status(open_nodes(project, deployment), deployment)
        shown: object = {"is_ready": all(one.is_ready for one in found), "nodes": [one.as_json() for one in found]}
    else:
        _, _, opened = open_one_node(node)
        found = [node_status(opened, deployment)]
        shown = found[0].as_json()
    if json:
        print_json(shown)
    else:
        for number, one in enumerate(found):
            typer.echo("\n" if number else "", nl=False)
            _print_status(one, is_one_of_several=len(found) > 1)
    _print_gateway(project, deployment, json)
    troubles = [trouble for one in found if (trouble := _trouble(one))]
    if troubles:
        raise NodeError("\n".join(troubles), _what_to_do(found))


def _open_here(named: str | None) -> tuple[Project, DeploymentSpec, list[Node]]:
    """The node of that name, or the only one; else every node of this machine, and the others are told of."""
    from tsctl.nodes.torchserve.node import open_nodes

    project, deployment = open_deployment()
    if named is not None or len(deployment.nodes) == 1:
        return project, deployment, [open_one_node(named)[2]]
    nodes = open_nodes(project, deployment)
    here = [opened for opened in nodes if opened.is_ours]
    for opened in nodes:
        if not opened.is_ours:
            typer.echo(f"node {opened.name} at {opened.spec.host} is started and stopped by its own tsctl", err=True)
    return project, deployment, here


def _bring_up(
    project: Project, deployment: DeploymentSpec, node: Node, archives: Archives, progress: Progress
) -> Outcome:
    """What `up` did; of several nodes, one that cannot be started does not keep the next one from it."""
    from tsctl.deploy.up import Outcome, up
    from tsctl.errors import TsctlError

    if len(deployment.nodes) == 1:
        return up(project, deployment, node, archives, progress)
    progress.line(f"node {node.name}")
    try:
        return up(project, deployment, node, archives, progress)
    except TsctlError as error:
        return Outcome(failures=[error.message])


def _told_of(deployment: DeploymentSpec, node: Node) -> str:
    """What a line about one of several nodes begins with."""
    return f"node {node.name}: " if len(deployment.nodes) > 1 else ""


def _nodes(nodes: Sequence[Node]) -> str:
    return "node" if len(nodes) == 1 else "nodes"


def _trouble(found: NodeStatus) -> str:
    """What is wrong with the node; empty where nothing is."""
    if not found.is_running:
        return f"node {found.node} does not answer: {found.reason}"
    waiting = ", ".join(f"{row.model} {row.version}" for row in found.versions if not row.is_ready)
    return f"node {found.node} is not ready: {waiting}" if waiting else ""


def _what_to_do(found: Sequence[NodeStatus]) -> str:
    silent = [one for one in found if not one.is_running]
    if len(found) > 1 and silent:
        return "'tsctl up' starts the nodes of this machine; 'tsctl models register --all-nodes' catches up on others."
    if silent:
        return "'tsctl down' ends it, 'tsctl up' starts it." if silent[0].pid else "Start it with 'make up' (tsctl up)."
    return ""


def _print_status(found: NodeStatus, is_one_of_several: bool) -> None:
    condition = "ready" if found.is_ready else "not ready" if found.is_running else "not running"
    if is_one_of_several and not found.is_running:
        condition = f"does not answer ({found.reason})"
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
    from tsctl.gateway.state import open_gateway
    from tsctl.gateway.status import gateway_status

    found = gateway_status(open_gateway(project, deployment))
    condition = "ready" if found.is_ready else "not ready" if found.is_live else "not running"
    typer.echo(f"\ngateway: {condition}, {found.address}; 'tsctl gateway status' has its routes")


def _print_unnamed(deployment: DeploymentSpec, node: Node, outcome: Outcome) -> None:
    if outcome.unnamed:
        who = f"node {node.name}" if len(deployment.nodes) > 1 else "it"
        typer.echo(
            f"{who} serves {', '.join(outcome.unnamed)} as well, which deployment.yaml does not name;"
            " 'tsctl models unregister' removes a version"
        )


def _print_answers(deployment: DeploymentSpec, node: Node, outcome: Outcome) -> None:
    for model, version, sample, reply in outcome.answers:
        text = " ".join(reply.body.decode("utf-8", "replace").split())
        shown = text if len(text) <= SHOWN_ANSWER else text[: SHOWN_ANSWER - 4] + " ..."
        typer.echo(f"{_told_of(deployment, node)}{model} {version}  {sample}\n  {reply.status} {shown}")


def _print_endpoints(
    project: Project, deployment: DeploymentSpec, nodes: Sequence[Node], gateway: Gateway | None
) -> None:
    from tsctl.archive.store import find_archive
    from tsctl.deploy.up import curl_line
    from tsctl.gateway.start import local_key

    rows = [
        (f"{name} of {node.name}" if len(deployment.nodes) > 1 else name, address)
        for node in nodes
        for name, address in (
            ("inference", f"{node.spec.inference}/predictions/<model>[/<version>]"),
            ("management", f"{node.spec.management}/models"),
            ("metrics", f"{node.spec.metrics}/metrics"),
        )
    ]
    base, header = nodes[0].spec.inference, nodes[0].paths.inference_header if nodes[0].key_file else None
    if gateway is not None:
        base, header = gateway.spec.address, local_key(gateway)
        rows = [("gateway", f"{base}/predictions/<model>"), *rows]
    width = max(10, *(len(name) for name, _ in rows)) + 2
    typer.echo("")
    for name, address in rows:
        typer.echo(f"{name:<{width}}{address}")
    typer.echo("")
    for model, target in list(deployment.models.items())[:1]:
        typer.echo(curl_line(project, base, header, find_archive(project, model, target.default), Path.cwd()))
