"""Renders the status of nodes for people. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tsctl.config.deployment import ModelTarget
from tsctl.config.weights import percent
from tsctl.deploy.cluster_status import ClusterVersion
from tsctl.deploy.status import NodeStatus
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.monitoring.exchanges import Exchanges
from tsctl.monitoring.recorded import Recorded

COLUMNS = ("model", "version", "default", "state", "workers", "queue", "archive")


def heading(status: NodeStatus, is_one_of_several: bool) -> str:
    """The line above a node's table."""
    condition = "ready" if status.is_ready else "not ready" if status.is_running else "not running"
    if is_one_of_several and not status.is_running:
        condition = f"does not answer ({status.reason})"
    pid = f" (pid {status.pid})" if status.pid else ""
    shown = [f"{what} {address}" for what, address in status.addresses.items() if what != "metrics"]
    return f"node {status.node}: {condition}{pid}, {', '.join(shown)}"


def rows(status: NodeStatus) -> list[tuple[object, ...]]:
    """A row for each version, with the cells of COLUMNS."""
    return [
        (
            row.model,
            row.version,
            "yes" if row.is_default else "",
            row.state,
            f"{row.ready_workers}/{row.workers}",
            row.queue,
            row.digest,
        )
        for row in status.versions
    ]


def reasons(status: NodeStatus) -> list[str]:
    """A line for each version that is not ready, and one for settings that wait for the node's next start."""
    lines = [f"{row.model} {row.version} is {row.state}: {row.reason}" for row in status.versions if row.reason]
    if status.changed:
        lines.append(
            f"deployment.yaml was edited since node {status.node} was started. Its next start: {status.changed}"
        )
    return lines


def records_line(recorded: Recorded) -> str:
    """One line about a node's prediction records: what was dropped, and why."""
    parts = [f"{recorded.written:,} written"]
    if recorded.without_input:
        parts[0] += f" ({recorded.without_input:,} without their input)"
    if recorded.dropped:
        reasons = ", ".join(f"{count:,} {outcome}" for outcome, count in recorded.dropped.items())
        parts.append(f"{sum(recorded.dropped.values()):,} dropped ({reasons})")
    if recorded.repeats_lost:
        parts.append(f"{recorded.repeats_lost:,} second answers lost")
    size = f"{recorded.bytes / (1 << 20):.1f} of {recorded.most_bytes >> 20:,} MiB on the disk"
    line = f"records since the node's start: {', '.join(parts)}; {size}"
    return f"{line}; {recorded.problem}" if recorded.problem else line


def exchanges_line(exchanges: Exchanges) -> str:
    """One line about the shared cache: how often it could not be used, and why."""
    failed = sum(exchanges.failed.values())
    reasons = ", ".join(f"{count:,} {outcome}" for outcome, count in exchanges.failed.items())
    said = f"{failed:,} failed ({reasons})" if failed else "none failed"
    line = f"shared cache since the node's start: {exchanges.ok + failed:,} exchanges, {said}"
    return f"{line}; {exchanges.problem}" if exchanges.problem else line


def routed_lines(traffic: Iterable[Traffic], models: Mapping[str, ModelTarget]) -> list[str]:
    """A line for each model whose clients get other answers than the default of deployment.yaml alone.

    So it is after a rollback, or in the middle of a rollout.
    """
    return [
        f"clients of {route.model} get {weights_text(route.shares)}; default in deployment.yaml:"
        f" {models[route.model].default}"
        for route in traffic
        if route.model in models and list(route.shares) != [models[route.model].default]
    ]


CLUSTER_COLUMNS = ("model", "version", "requests", "pods ready")


def cluster_rows(versions: Iterable[ClusterVersion]) -> list[tuple[str, str, str, str]]:
    """The rows of CLUSTER_COLUMNS."""
    return [
        (one.model, one.version, "copies" if one.is_shadow else percent(one.weight), str(one.pods)) for one in versions
    ]


def unnamed_line(name: str, pid: int) -> str:
    """The line of a node that was started here, and that deployment.yaml does not name."""
    end = f"tsctl node stop --node {name}"
    return f"node {name} runs here (pid {pid}), and deployment.yaml does not name it. To end it: {end}"


def trouble(status: NodeStatus) -> str:
    """Why the node does not serve all that it should; empty where it does."""
    if not status.is_running:
        return f"node {status.node} does not answer: {status.reason}"
    waiting = ", ".join(f"{row.model} {row.version}" for row in status.versions if not row.is_ready)
    return f"node {status.node} is not ready: {waiting}" if waiting else ""


def hint(statuses: Sequence[NodeStatus]) -> str:
    """The commands that start what does not answer; empty where all do."""
    silent = [status for status in statuses if not status.is_running]
    if len(statuses) > 1 and silent:
        return "'tsctl up' starts the nodes of this machine; 'tsctl apply' catches up on others."
    if silent:
        return "'tsctl down' ends it, 'tsctl up' starts it." if silent[0].pid else "Start it with 'make up' (tsctl up)."
    return ""
