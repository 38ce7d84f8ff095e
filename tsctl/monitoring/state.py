"""The state of this machine's nodes, gateway and rollouts as metrics: their names, labels and values.

Invariant: a part that cannot be read loses only its own metrics, and STATE["tsctl_exporter_error"] says so.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import exp
from typing import NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tsctl.config.deployment import DeploymentSpec, read_deployment
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.gateway.notices import Notices
from tsctl.gateway.state import PATIENCE_S, gateway_status, open_here
from tsctl.monitoring.drift_metrics import FollowedDrift
from tsctl.monitoring.followed import FollowedRollouts
from tsctl.monitoring.recorded import read_recorded
from tsctl.monitoring.shadows import FollowedShadows
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node
from tsctl.nodes.observe import observe
from tsctl.nodes.observed import ObservedNode
from tsctl.rollout.decide.judge import AVERAGE
from tsctl.rollout.decide.state import State

logger = logging.getLogger(__name__)

#: An e-value times alpha is cut off here, so that a plot of it can be read.
MOST_EVIDENCE = 1000.0


@dataclass(frozen=True)
class Description:
    """One gauge, or a counter if its name ends with _total, as docs/monitoring.md and the exported page describe it."""

    help: str
    labels: tuple[str, ...] = ()


_ON_NODE = ("node", "model", "version")
_OF_VERSION = ("model", "version")
STATE = {
    "tsctl_node_up": Description("Whether the node answers tsctl.", ("node", "engine")),
    "tsctl_node_workers": Description("Workers asked for.", _ON_NODE),
    "tsctl_node_ready_workers": Description("Workers that are READY.", _ON_NODE),
    "tsctl_node_failed": Description("Whether the node no longer restarts a worker that died.", _ON_NODE),
    "tsctl_node_queue_items": Description("Requests that wait for a worker.", _ON_NODE),
    "tsctl_node_queue_size_items": Description("Requests that may wait for a worker.", _ON_NODE),
    "tsctl_node_token_expiry_timestamp_seconds": Description("When the node's token expires.", ("node", "renewal")),
    "tsctl_records_bytes": Description("Size of the files of prediction records.", ("node",)),
    "tsctl_records_most_bytes": Description("The size that they may have, records_mb of the node.", ("node",)),
    "tsctl_gateway_supervisor_up": Description("Whether the supervisor of Envoy runs."),
    "tsctl_gateway_weight_ratio": Description("The version's share of its route.", (*_OF_VERSION, "track")),
    "tsctl_gateway_nodes": Description("Nodes that serve the version.", _OF_VERSION),
    "tsctl_gateway_healthy_nodes": Description("Nodes of them in rotation.", _OF_VERSION),
    "tsctl_gateway_active_requests": Description("Requests in flight to the version.", _OF_VERSION),
    "tsctl_rollout_running": Description("Whether a process runs the unfinished rollout.", _OF_VERSION),
    "tsctl_rollout_step": Description("The present step, from 1; 0 before the first.", _OF_VERSION),
    "tsctl_rollout_undecided_seconds": Description("Time since the present step began to be watched.", _OF_VERSION),
    "tsctl_rollout_max_hold_seconds": Description("Its policy's max_hold_s.", _OF_VERSION),
    "tsctl_rollout_evidence_ratio": Description("E-value times alpha; at 1 it fails.", (*_OF_VERSION, "signal")),
    "tsctl_rollout_ended_timestamp_seconds": Description("End of the last rollout.", (*_OF_VERSION, "outcome")),
    "tsctl_shadow_pairs_total": Description("Requests that stable and the shadow both answered.", _OF_VERSION),
    "tsctl_shadow_disagreement_ratio": Description("Share of the last hour's pairs that differ.", _OF_VERSION),
    "tsctl_shadow_noise_ratio": Description("Share of stable's second answers that differ, likewise.", _OF_VERSION),
    "tsctl_shadow_evidence_ratio": Description("E-value by 1 / alpha: at 1 it disagrees too much.", _OF_VERSION),
    "tsctl_shadow_paired_ratio": Description("Share of the copied requests that have a pair, likewise.", _OF_VERSION),
    "tsctl_drift_items": Description("Recorded answers of the last 24 h.", _OF_VERSION),
    "tsctl_drift_psi": Description(
        "Population stability index of the last 24 h against the reference.", (*_OF_VERSION, "feature")
    ),
    "tsctl_drift_psi_noise": Description("What it would be without drift, on average.", (*_OF_VERSION, "feature")),
    "tsctl_drift_evidence_ratio": Description("Evidence of a change; at 1 an alarm is raised.", _OF_VERSION),
    "tsctl_drift_alarm": Description("Whether an alarm is raised, because of this feature.", (*_OF_VERSION, "feature")),
    "tsctl_disk_free_bytes": Description("Free space of the disk with .tsctl."),
    "tsctl_disk_size_bytes": Description("Size of that disk."),
    "tsctl_exporter_error": Description("Whether this part cannot be read now.", ("part",)),
}


class Value(NamedTuple):
    """One sample: the metric's name without its prefix, the value, and the labels' values in their order."""

    name: str
    value: float
    labels: tuple[str, ...] = ()


class MachineState(Collector):
    """The state of this machine; every `collect` reads it anew.

    Args:
        project: its deployment.yaml is read again at each collection.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._rollouts = FollowedRollouts(project)
        self._shadows = FollowedShadows(project)
        self._drift = FollowedDrift(project)
        self._notices = Notices(logger)
        self._collecting = threading.Lock()  # what is followed of journals changes meanwhile

    def collect(self) -> Iterable[Metric]:
        """Every metric of STATE, with the samples that can be read now."""
        families = {
            name: (CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily)(
                name, about.help, labels=about.labels
            )
            for name, about in STATE.items()
        }
        with self._collecting:
            for value in self._values():
                families[f"tsctl_{value.name}"].add_metric(value.labels, value.value)
        return families.values()

    def _values(self) -> Iterator[Value]:
        parts: Mapping[str, Callable[[], Iterable[Value]]] = {
            "nodes": self._of_nodes,
            "gateway": self._of_gateway,
            "rollouts": self._of_rollouts,
            "shadows": self._of_shadows,
            "drift": self._of_drift,
            "disk": self._of_disk,
        }
        for part, read in parts.items():
            values: list[Value] = []
            try:
                values += read()
            except Exception as error:  # noqa: BLE001 - logged and exported; the other parts must not be lost with it
                self._notices.trouble(part, f"{type(error).__name__}: {error}")
                yield Value("exporter_error", 1, (part,))
            else:
                self._notices.over(part)
                yield Value("exporter_error", 0, (part,))
            yield from values

    @property
    def _deployment(self) -> DeploymentSpec:
        return read_deployment(self._project.deployment)

    def _of_nodes(self) -> Iterator[Value]:
        nodes = open_nodes(self._project, self._deployment, PATIENCE_S)
        here = [node for node in nodes if node.is_here]
        for node, observed in zip(here, observe(here), strict=True):
            yield from _of_node(node, observed)
            recorded = read_recorded(node.metrics_folder, node.records_folder, node.spec.records_mb << 20)
            if recorded is not None:
                yield Value("records_bytes", recorded.bytes, (node.name,))
                yield Value("records_most_bytes", recorded.most_bytes, (node.name,))
        for node in nodes:
            if (expiry := node.token_expiry) is not None:
                renewal = "tsctl" if node.is_ours else "copy"
                yield Value("node_token_expiry_timestamp_seconds", expiry.timestamp(), (node.name, renewal))

    def _of_gateway(self) -> Iterator[Value]:
        deployment = self._deployment
        if deployment.gateway is None:
            return
        status = gateway_status(open_here(self._project, deployment))
        is_supervised = all(one.reports for one in status.gateways) if status.gateways else bool(status.supervisor)
        yield Value("gateway_supervisor_up", is_supervised)
        for row in status.rows if status.is_live else ():
            version = (row.model, row.version)
            yield Value("gateway_weight_ratio", row.weight / TOTAL, (*version, row.track or "none"))
            yield Value("gateway_nodes", row.nodes, version)
            yield Value("gateway_healthy_nodes", row.healthy, version)
            yield Value("gateway_active_requests", row.active, version)

    def _of_rollouts(self) -> Iterator[Value]:
        for rollout in self._rollouts.read():
            yield from _of_rollout(rollout.state, rollout.is_running)

    def _of_shadows(self) -> Iterator[Value]:
        for shadow in self._shadows.read(self._deployment):
            version = (shadow.model, shadow.version)
            yield Value("shadow_pairs_total", shadow.pairs, version)
            rates = {"disagreement": shadow.disagreement, "noise": shadow.noise, "paired": shadow.paired,
                     "evidence": shadow.evidence}  # fmt: skip
            for name, rate in rates.items():
                if rate is not None:
                    yield Value(f"shadow_{name}_ratio", rate, version)

    def _of_drift(self) -> Iterator[Value]:
        for name, value, labels in self._drift.read(self._deployment):
            yield Value(f"drift_{name}", value, labels)

    def _of_disk(self) -> Iterator[Value]:
        state = self._project.state
        usage = shutil.disk_usage(state if state.is_dir() else self._project.root)
        yield Value("disk_free_bytes", usage.free)
        yield Value("disk_size_bytes", usage.total)


def _of_node(node: Node, observed: ObservedNode) -> Iterator[Value]:
    yield Value("node_up", observed.error is None, (node.name, node.engine))
    for model, of_model in observed.models.items():
        for name, version in of_model.versions.items():
            labels = (node.name, model, name)
            yield Value("node_workers", version.workers, labels)
            yield Value("node_ready_workers", version.ready, labels)
            yield Value("node_failed", bool(version.failure), labels)
            yield Value("node_queue_items", version.queue, labels)
            if version.queue_size is not None:
                yield Value("node_queue_size_items", version.queue_size, labels)


def _of_rollout(state: State, is_running: bool) -> Iterator[Value]:
    version = (state.model, state.canary)
    if state.outcome is not None:
        yield Value("rollout_ended_timestamp_seconds", state.ended_at or 0.0, (*version, state.outcome))
        return
    yield Value("rollout_running", is_running, version)
    yield Value("rollout_step", state.step + 1, version)
    yield Value("rollout_undecided_seconds", state.waited_s if state.verdict is None else 0.0, version)
    yield Value("rollout_max_hold_seconds", state.policy.max_hold_s, version)
    judgement = state.judgement
    for signal, log_e in [(AVERAGE, judgement.log_e), *((each.signal, each.log_e) for each in judgement.readings)]:
        evidence = min(exp(min(log_e, 700.0)) * state.policy.alpha, MOST_EVIDENCE)
        yield Value("rollout_evidence_ratio", evidence, (*version, signal))
