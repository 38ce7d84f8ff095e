"""The two states that a plan compares: the desired one of deployment.yaml, and the actual one of nodes and Envoy.

Plain values: nothing here asks, waits or decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tsctl.errors import AnalysisError
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.observed import ObservedNode, ObservedVersion, Settings


@dataclass(frozen=True)
class WantedVersion:
    """One version that deployment.yaml names, and its archive."""

    version: str
    archive: str | None  # file name in the store; None: the store has none, or none that fits the pin
    digest: str = ""  # of that file: its whole SHA-256 where it is pinned, else the 12 digits of its name
    pin: str | None = None  # digits that the digest must begin with; None: any
    workers: int | None = None  # None: neither deployment.yaml nor an archive says
    others: tuple[str, ...] = ()  # file names of the version's other archives in the store
    problem: str = ""  # why the archive cannot be read or pulled; empty where it can, or there is none
    remedy: str = ""  # of the problem; empty: to build the archive again
    is_pulled: bool = False  # its archive came from the store of all machines
    #: Why it must not be registered, and what lets it be: a pickle that nobody trusts, a secret without a source.
    barred: tuple[str, str] | None = None
    recorded: str | None = None  # digits of the bytes that were READY under this version before; None: never recorded
    source: str = ""  # the version whose archive it serves; empty: its own
    nodes: tuple[str, ...] | None = None  # that are to serve it; None: every node
    impossible: Mapping[str, str] = field(default_factory=dict)  # why a node that is to serve it never can, by node
    settings: Mapping[str, Settings] = field(default_factory=dict)  # that nodes have beside workers, by node
    lacks_golden: bool = False  # nothing says which of its answers are right
    lacks_packages: str = ""  # what becomes of a stock archive's requirements; empty: nothing is missing

    def is_on(self, node: str) -> bool:
        """Whether the node is to serve it."""
        return self.nodes is None or node in self.nodes

    @property
    def archive_version(self) -> str:
        """The version whose archive it serves."""
        return self.source or self.version


@dataclass(frozen=True)
class WantedModel:
    """One model as deployment.yaml wants it."""

    model: str
    default: str
    versions: tuple[WantedVersion, ...]
    shares: Mapping[str, int] | None = None  # of TOTAL, by version; None: deployment.yaml does not say


@dataclass(frozen=True)
class Desired:
    """The state that deployment.yaml and the store describe."""

    models: tuple[WantedModel, ...]
    as_applied: frozenset[str] = frozenset()  # the models that the last complete `apply` left in this state


@dataclass(frozen=True)
class GatewayState:
    """Envoy's routes; where it does not run, those that it will have when it starts."""

    is_live: bool
    traffic: Mapping[str, Traffic] = field(default_factory=dict)  # by model
    absent: Mapping[str, str] = field(default_factory=dict)  # of several: why one does not take changes now, by name
    is_behind: bool = False  # of several: deployment.yaml is not what was published


@dataclass(frozen=True)
class Actual:
    """The state of nodes, gateway and rollouts now."""

    nodes: tuple[ObservedNode, ...]
    gateway: GatewayState | None = None  # None: deployment.yaml has none
    rollouts: Mapping[str, str] = field(default_factory=dict)  # ids of unfinished rollouts, by model
    unknown_rollouts: Mapping[str, AnalysisError] = field(default_factory=dict)  # by model: a journal cannot be read

    @property
    def answering(self) -> tuple[ObservedNode, ...]:
        return tuple(node for node in self.nodes if node.error is None)

    def route(self, model: str) -> Traffic | None:
        return self.gateway.traffic.get(model) if self.gateway else None

    @property
    def models(self) -> list[str]:
        """Every model that a node serves or a route names, by name."""
        served = {model for node in self.answering for model in node.models}
        return sorted(served | (self.gateway.traffic.keys() if self.gateway else set()))

    def on(self, model: str, version: str) -> dict[str, ObservedVersion]:
        """The version on each answering node that has it."""
        versions = {node.name: node.version(model, version) for node in self.answering}
        return {name: state for name, state in versions.items() if state is not None}
