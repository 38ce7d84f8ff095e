"""The two states that a plan is made from: what deployment.yaml and the store want, and what nodes and Envoy do.

Plain values: nothing here asks, waits or decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tsctl.gateway.traffic import Traffic
from tsctl.nodes.observe import ObservedNode, ObservedVersion


@dataclass(frozen=True)
class WantedVersion:
    """One version that deployment.yaml names, and its archive."""

    version: str
    archive: str | None  # file name in the store; None: the store has none, or none that fits the pin
    digest: str = ""  # of that file: its whole SHA-256 where it is pinned, else the 12 digits of its name
    pin: str | None = None  # digits that the digest must begin with; None: none are asked for
    workers: int | None = None  # None: neither deployment.yaml nor an archive says
    others: tuple[str, ...] = ()  # file names of the version's other archives in the store
    recorded: str | None = None  # digits of the bytes that were READY under this version before; None: none were


@dataclass(frozen=True)
class WantedModel:
    """One model as deployment.yaml wants it on every node."""

    model: str
    default: str
    versions: tuple[WantedVersion, ...]
    shares: Mapping[str, int] | None = None  # of TOTAL, by version; None: deployment.yaml does not say

    def version(self, name: str) -> WantedVersion | None:
        return next((one for one in self.versions if one.version == name), None)


@dataclass(frozen=True)
class Desired:
    """What shall be."""

    models: tuple[WantedModel, ...]
    as_applied: frozenset[str] = frozenset()  # the models of which the last `apply` made just this so

    def model(self, name: str) -> WantedModel | None:
        return next((one for one in self.models if one.model == name), None)


@dataclass(frozen=True)
class GatewayState:
    """What Envoy does; where it does not run, what it will do when it starts."""

    is_live: bool
    traffic: Mapping[str, Traffic] = field(default_factory=dict)  # by model


@dataclass(frozen=True)
class Actual:
    """What is."""

    nodes: tuple[ObservedNode, ...]
    gateway: GatewayState | None = None  # None: deployment.yaml has none
    rollouts: Mapping[str, str] = field(default_factory=dict)  # ids of those that have not ended, by model

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
        found = {node.name: node.version(model, version) for node in self.answering}
        return {name: state for name, state in found.items() if state is not None}
