"""The gateway and its nodes as deployment.yaml describes them now: a rollout outlives edits of that file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from tsctl.config.deployment import read_deployment
from tsctl.errors import SpecError
from tsctl.gateway.state import Gateway, open_gateway, reopened
from tsctl.nodes.engines import open_nodes
from tsctl.nodes.node import Node


@dataclass
class LiveGateway:
    """The gateway of a rollout.

    Attributes:
        error: why deployment.yaml could not be read last; empty where it could.
    """

    opened: Gateway  # by the last deployment.yaml that could be read
    error: str = ""
    _modified_ns: int | None = None
    _nodes: list[Node] = field(default_factory=list)

    def now(self) -> Gateway:
        """The gateway by deployment.yaml as it is now; by the last one that could be read where it cannot be read."""
        project = self.opened.project
        try:
            modified_ns = project.deployment.stat().st_mtime_ns
            if modified_ns != self._modified_ns:
                opened = open_gateway(project, read_deployment(project.deployment))
                self.opened = reopened(opened, self.opened)
                self._modified_ns, self._nodes = modified_ns, []
            self.error = ""
        except (SpecError, OSError) as error:
            self.error = f"deployment.yaml cannot be read: {error}"
        return self.opened

    def nodes(self, names: Collection[str]) -> list[Node]:
        """Those of the nodes that deployment.yaml names."""
        gateway = self.now()
        self._nodes = self._nodes or open_nodes(gateway.project, gateway.deployment)
        return [node for node in self._nodes if node.name in names]
