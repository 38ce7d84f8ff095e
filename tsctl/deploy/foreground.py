"""Brings up what deployment.yaml places on this machine, and stays until a signal comes: for a container.

Invariant: whatever way it ends, the gateway and the nodes that it started have ended before it. A request that was
accepted is answered first.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from tsctl.config.deployment import DeploymentSpec
from tsctl.config.project import Project
from tsctl.deploy.up import UpResult, up
from tsctl.errors import GatewayError, NodeError, SpecError
from tsctl.gateway.start import start_gateway, stop_gateway
from tsctl.gateway.state import Gateway, open_gateway, supervisor_pid
from tsctl.host.progress import Progress
from tsctl.monitoring.exporter import parse_listen, start_server, url_of
from tsctl.monitoring.state import MachineState
from tsctl.monitoring.worker_files import NodesFiles, WorkerFiles, registry_of
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe

#: How often it looks whether all that it started still runs.
WATCH_S = 0.5


class Asked(KeyboardInterrupt):
    """SIGTERM came: the end that was asked for, and no failure."""


def run(
    project: Project,
    deployment: DeploymentSpec,
    nodes: Sequence[Node],
    listen: str | None,
    on_up: Callable[[UpResult], None],
) -> None:
    """Bring everything up, and stay until SIGTERM; then stop all of it.

    Args:
        nodes: those of this machine; none where only the gateway is here.
        listen: where metrics of this machine are served; None: nowhere.
        on_up: gets what came up. A version that failed stops no other, unless none serves.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it.
        NodeError: a node ended by itself, or none of its versions can be served.
        GatewayError: the gateway does not start, or its supervisor ended by itself.
        SpecError: `listen` is no address, or deployment.yaml places nothing here.
    """
    gateway = open_gateway(project, deployment) if deployment.gateway is not None else None
    if not nodes and gateway is None:
        raise SpecError(
            f"deployment.yaml places nothing on this machine: {', '.join(deployment.nodes)} are elsewhere",
            "Give a node an address of this machine and no key_file, or add a gateway.",
        )
    progress = Progress()
    signal.signal(signal.SIGTERM, _end)
    try:
        with _metrics(project, nodes, listen, progress):
            result = up(project, deployment, nodes, progress) if nodes else UpResult(has_several_nodes=False)
            if result.failures and not _serves(nodes):
                raise result.kind("nothing is served:\n  " + "\n  ".join(result.failures))
            if gateway is not None:
                start_gateway(gateway, progress)
            on_up(result)
            _watch(nodes, gateway)
    except Asked:
        pass
    finally:
        if gateway is not None:
            stop_gateway(gateway, progress)
        for node in nodes:
            node.stop(progress)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # the second one must not interrupt what the first began
    raise Asked


def _serves(nodes: Sequence[Node]) -> bool:
    served = (model for node in observe(nodes) for model in node.models.values())
    return any(version.is_ready for model in served for version in model.versions.values())


def _watch(nodes: Sequence[Node], gateway: Gateway | None) -> NoReturn:
    while True:
        for node in nodes:
            if node.pid is None:
                raise NodeError(f"node {node.name} ended by itself:\n{node.crash_report()}")
        if gateway is not None and supervisor_pid(gateway) is None:
            raise GatewayError("the supervisor of the gateway ended by itself", f"See {gateway.files.supervisor_log}.")
        time.sleep(WATCH_S)


@contextmanager
def _metrics(project: Project, nodes: Sequence[Node], listen: str | None, progress: Progress) -> Iterator[None]:
    if listen is None:
        yield
        return
    host, port = parse_listen(listen)
    files = {node.name: WorkerFiles(node.metrics_folder, progress.line) for node in nodes}
    with start_server(host, port, registry_of(NodesFiles(files)), registry_of(MachineState(project))) as server:
        progress.line(f"metrics at {url_of(server)}")
        try:
            yield
        finally:
            server.shutdown()
