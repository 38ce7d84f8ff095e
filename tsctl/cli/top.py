"""`tsctl up`, `down`, `status`, `plan` and `apply`; each imports what it needs, so that `tsctl --help` stays light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tsctl.cli.context import open_deployment, open_one_node
from tsctl.cli.options import Json
from tsctl.cli.output import plural, print_done, print_json, print_table

if TYPE_CHECKING:
    from tsctl.config.deployment import DeploymentSpec
    from tsctl.config.project import Project
    from tsctl.deploy.changes import Plan
    from tsctl.deploy.status import NodeStatus
    from tsctl.deploy.up import UpResult
    from tsctl.errors import TsctlError
    from tsctl.nodes.node import Node

#: The exit code of `tsctl plan` where something would change.
WOULD_CHANGE = 12

NodeHere = Annotated[
    str | None, typer.Option("--node", help="Node of deployment.yaml; all of this machine if left out.")
]
NodeShown = Annotated[str | None, typer.Option("--node", help="Node of deployment.yaml; all if left out.")]
PruneVersions = Annotated[
    bool, typer.Option("--prune", help="Retire versions that deployment.yaml does not name; never one with weight.")
]
PruneModels = Annotated[
    bool, typer.Option("--prune-models", help="The same, and remove the routes of models that it does not name first.")
]


def up(
    node: NodeHere = None,
    foreground: Annotated[
        bool,
        typer.Option(
            "--foreground",
            help="Stay until SIGTERM, then answer the requests at hand and stop all; for containers.",
        ),
    ] = False,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="With --foreground: serve metrics as 'tsctl metrics serve' does."),
    ] = None,
    json: Json = False,
) -> None:
    """Build archives, start the nodes of this machine, serve what deployment.yaml says, and ask every model once.

    For a developer's machine: a version whose archive was built again is replaced, which 'tsctl apply' never does. For
    a container, with --foreground: the exit code is 0 after SIGTERM.
    """
    if foreground:
        return _up_and_stay(node, metrics, json)
    from tsctl.deploy.up import up as bring_up
    from tsctl.errors import NodeError, SpecError
    from tsctl.gateway.start import local_key, start_gateway
    from tsctl.gateway.state import open_gateway, traffic_in_force
    from tsctl.host.progress import Progress
    from tsctl.views.status import routed_lines
    from tsctl.views.up import curl_line, endpoint_lines, result_lines, up_json

    if metrics is not None:
        raise SpecError("--metrics serves them while the command runs", "Give --foreground as well.")
    project, deployment, nodes = _open_here(node)
    deployment.require_nodes()
    if not nodes:
        raise NodeError(
            f"no node of deployment.yaml is started on this machine: {', '.join(deployment.nodes)}",
            "Start each where it is; 'tsctl apply' and 'tsctl gateway start' work from here.",
        )
    result = bring_up(project, deployment, nodes, Progress())
    gateway = open_gateway(project, deployment) if deployment.gateway is not None else None
    gateway_changes = start_gateway(gateway, Progress()) if gateway is not None else []
    if json:
        _print_up(up_json(nodes, result, gateway.address if gateway else None, gateway_changes), result)
        return
    for line in result_lines(nodes, result, result.is_changed or bool(gateway_changes)):
        typer.echo(line)
    typer.echo("")
    for line in endpoint_lines(deployment, nodes):
        typer.echo(line)
    for line in routed_lines(traffic_in_force(gateway).values() if gateway else (), deployment.models):
        typer.echo(line)
    answered = [(answer.model, answer.node) for answer in result.answers if answer.reply.status == 200]
    for model, name in [*answered, *((model, nodes[0].name) for model in deployment.models)][:1]:
        asked = next(node for node in nodes if node.name == name)
        base, header = asked.spec.url, asked.header_file
        if gateway is not None:
            base, header = gateway.address, local_key(gateway)
        typer.echo(f"\n{curl_line(project, base, header, model, Path.cwd())}")
    if error := _up_error(result):
        raise error


def _up_and_stay(named: str | None, metrics: str | None, json: bool) -> None:
    from tsctl.deploy.foreground import run
    from tsctl.views.up import result_lines, up_json

    project, deployment, opened = _open_here(named)
    deployment.require_nodes()
    nodes = [node for node in opened if node.is_ours]

    def say(result: UpResult) -> None:
        if json:
            return print_json(up_json(nodes, result, deployment.gateway.address if deployment.gateway else None, []))
        for line in (*result_lines(nodes, result, is_changed=True), *(f"warning: {each}" for each in result.failures)):
            typer.echo(line)
        places = [f"node {node.name} answers at {node.spec.url}" for node in nodes]
        places += [f"the gateway answers at {deployment.gateway.address}"] if deployment.gateway else []
        for line in places:
            typer.echo(line)

    run(project, deployment, nodes, metrics, say)


def _up_error(result: UpResult, document: Mapping[str, Any] | None = None) -> TsctlError | None:
    if not result.failures:
        return None
    return result.kind("not all is served:\n  " + "\n  ".join(result.failures), "See 'tsctl status'.", document)


def _print_up(document: Mapping[str, Any], result: UpResult) -> None:
    if error := _up_error(result, document):
        raise error
    print_json(document)


def down(node: NodeHere = None, json: Json = False) -> None:
    """Stop the monitoring, the gateway and the nodes that were started here, and only those.

    A node is stopped also where deployment.yaml describes it otherwise by now, or does not name it any more. With
    --node, the monitoring and the gateway keep running for the other nodes.
    """
    from tsctl.errors import NodeError, TsctlError
    from tsctl.gateway.start import stop_gateway
    from tsctl.gateway.state import open_here
    from tsctl.host.progress import Progress
    from tsctl.monitoring.processes import stop_monitoring
    from tsctl.nodes.engines import open_to_stop
    from tsctl.nodes.record import unnamed_running

    project, deployment = open_deployment()
    stops_all = node is None or len(deployment.nodes) == 1
    stopped = {"monitoring": False, "gateway": False}
    if stops_all:
        stopped["monitoring"] = stop_monitoring(project, Progress())
    if deployment.gateway is not None and stops_all:
        stopped["gateway"] = stop_gateway(open_here(project, deployment), Progress())
    failures = []
    rows = []
    names = [opened.name for opened in _open_here(node)[2]] if node is None else [node]
    gone: list[str] = []
    try:
        gone += unnamed_running(project, deployment.nodes) if node is None else []
    except NodeError as error:  # a damaged record of one node keeps no other running
        failures.append(error.message)
    for name in [*names, *gone]:
        try:
            opened = open_to_stop(project, deployment, name)
            was_running = opened.stop(Progress())
            rows.append({"node": opened.name, "was_running": was_running})
            if not (was_running or json):
                typer.echo(f"node {opened.name} was not running")
        except TsctlError as error:
            if len(names) + len(gone) == 1:
                raise
            failures.append(f"node {name}: {error.message}")
    document = {**{f"{name}_was_running": was for name, was in stopped.items()}, "nodes": rows}
    if failures:
        raise NodeError("not all is stopped:\n  " + "\n  ".join(failures), "Run this again.", document)
    print_done(document, [], json)


def status(node: NodeShown = None, json: Json = False) -> None:
    """Show models, versions, workers, queues, and why a version is not ready; exit code 4 if one is not.

    Shows every node; a node that does not answer has a line with the reason. Exit code 5 if Envoy or its supervisor has
    ended by itself or hangs. With 'kubernetes: {traffic: httproute}' also the versions of the cluster: their shares of
    the requests, and pods that are ready.
    """
    from dataclasses import asdict

    from tsctl.deploy.cluster_status import ClusterVersion, cluster_status
    from tsctl.deploy.status import all_status, node_status
    from tsctl.errors import NodeError, TsctlError
    from tsctl.gateway.state import gateway_status, gateway_trouble, open_here
    from tsctl.nodes.engines import open_nodes
    from tsctl.nodes.record import unnamed_running
    from tsctl.views.status import CLUSTER_COLUMNS, cluster_rows, hint, routed_lines, trouble, unnamed_line

    project, deployment = open_deployment()
    if node is None and (len(deployment.nodes) > 1 or deployment.is_on_cluster):
        statuses = all_status(open_nodes(project, deployment), deployment)
    else:
        statuses = [node_status(open_one_node(node)[2], deployment)]
    only = statuses[0].as_json() if len(statuses) == 1 else {}  # as it was before `nodes` had each of any number
    is_ready = all(status.is_ready for status in statuses)
    document = {**only, "is_ready": is_ready, "nodes": [status.as_json() for status in statuses]}
    served: list[ClusterVersion] = []
    unknown: TsctlError | None = None
    try:
        served = cluster_status(deployment)
    except TsctlError as error:  # it hides no node
        unknown = error
    if served or unknown:
        document["is_ready"] = is_ready and unknown is None and all(one.is_ready for one in served)
        document["cluster"] = [asdict(one) for one in served]
    gateway = gateway_status(open_here(project, deployment)) if deployment.gateway is not None else None
    if gateway is not None and gateway.gateways:
        document["gateways"] = [one.as_json() for one in gateway.gateways]
    if json:
        print_json(document)
    else:
        _print_statuses(statuses)
        if served:
            typer.echo("cluster:")
            print_table(CLUSTER_COLUMNS, cluster_rows(served))
        if gateway is not None:
            typer.echo(f"\ngateway: {gateway.condition}, {gateway.address}; 'tsctl gateway status' has its routes")
            for line in (*(one.line for one in gateway.gateways), *routed_lines(gateway.traffic, deployment.models)):
                typer.echo(line)
        for name, pid in unnamed_running(project, deployment.nodes).items():
            typer.echo(f"\n{unnamed_line(name, pid)}")
        _print_monitoring(project, deployment)
    if troubles := list(filter(None, map(trouble, statuses))):
        raise NodeError("\n".join(troubles), hint(statuses))
    if unknown is not None:
        raise unknown
    if waiting := [f"{one.model} {one.version}" for one in served if not one.is_ready]:
        raise NodeError(f"no pod is ready of {', '.join(waiting)}", "See kubectl get pods.")
    if gateway is not None and gateway.problem:
        raise gateway_trouble(gateway)


def plan(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> int:
    """Show what 'tsctl apply' would change; exit code 12 if anything, 0 if nothing.

    Where the plan refuses a model, that of the refusal: 3 its archive, 5 the gateway, 6 evidence, 7 a conflict, such as
    other bytes of a version that is served. 4 if a node does not answer.
    """
    from tsctl.deploy.changes import PlanOptions
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.reconcile import coverage_error, plan_now
    from tsctl.host.progress import Progress
    from tsctl.views.plan import plan_json

    planned = plan_now(open_owners(*open_deployment()), PlanOptions(prune, prune_models), Progress())
    if json:
        print_json(plan_json(planned))
    else:
        _print_plan(planned)
    if error := coverage_error(planned):
        raise error
    return WOULD_CHANGE if planned.changes or planned.is_unpublished else 0


def apply(json: Json = False, prune: PruneVersions = False, prune_models: PruneModels = False) -> None:
    """Make nodes and gateway do what deployment.yaml says; safe to run again, because only differences are changed.

    If a node does not answer, the others are changed and the exit code is 4; run this again when it is back.
    """
    from tsctl.deploy.changes import PlanOptions, places
    from tsctl.deploy.observe import open_owners
    from tsctl.deploy.reconcile import reconcile
    from tsctl.host.progress import Progress
    from tsctl.views.plan import applied_json, summary

    owners = open_owners(*open_deployment())
    options = PlanOptions(prune, prune_models)
    result = reconcile(owners, options, Progress(), lambda planned: None if json else _print_plan(planned))
    if json:
        print_json(applied_json(result.before, result.applied, result.after))
    elif not result.before.is_empty:
        count = sum(len(places(change)) for change in result.applied.done)
        typer.echo(f"{plural(count, 'change')} made; now {summary(result.after)}")
    if error := result.error:
        raise error


def _open_here(named: str | None) -> tuple[Project, DeploymentSpec, list[Node]]:
    """The node of that name, or the only one; else every node of this machine, and a line for each other."""
    from tsctl.nodes.engines import open_nodes

    project, deployment = open_deployment()
    if named is not None or len(deployment.nodes) == 1:
        return project, deployment, [open_one_node(named)[2]]
    nodes = open_nodes(project, deployment)
    for opened in nodes:
        if not opened.is_ours:
            typer.echo(f"node {opened.name} at {opened.spec.host} is started and stopped by its own tsctl", err=True)
    return project, deployment, [opened for opened in nodes if opened.is_ours]


def _print_statuses(statuses: Sequence[NodeStatus]) -> None:
    from tsctl.views.status import COLUMNS, exchanges_line, heading, reasons, records_line, rows

    for number, status in enumerate(statuses):
        typer.echo(("\n" if number else "") + heading(status, is_one_of_several=len(statuses) > 1))
        if status.versions:
            typer.echo("")
            print_table(COLUMNS, rows(status))
        for line in reasons(status):
            typer.echo(f"\n{line}")
        if status.records is not None:
            typer.echo(f"\n{records_line(status.records)}")
        if status.shared_cache is not None:
            typer.echo(f"\n{exchanges_line(status.shared_cache)}")


def _print_monitoring(project: Project, deployment: DeploymentSpec) -> None:
    """One line about the servers of the monitoring, where they were started here."""
    from tsctl.monitoring.processes import is_monitored, monitoring_status

    if is_monitored(project):
        problems = [f"{one.name} {one.problem}" for one in monitoring_status(project, deployment) if one.problem]
        state = "; ".join([*problems, "run 'tsctl monitoring start'"]) if problems else "all servers answer"
        typer.echo(f"\nmonitoring: {state}")


def _print_plan(planned: Plan) -> None:
    from tsctl.views.plan import render_plan
    from tsctl.views.terminal import new_console

    new_console().print(render_plan(planned), soft_wrap=True)
