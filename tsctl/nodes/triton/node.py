"""A Triton node: its client and its files."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from tsctl.config.nodes import TritonSpec
from tsctl.errors import NodeError
from tsctl.nodes import node
from tsctl.nodes.triton.client import Client
from tsctl.nodes.triton.process import Paths
from tsctl.nodes.triton.repository import Repository


@dataclass(frozen=True)
class Node(node.Node, ABC):
    """What this room's functions need of a node; `engine.py` has the whole one."""

    spec: TritonSpec
    client: Client

    @property
    def paths(self) -> Paths:
        """Its files."""
        return Paths(self.folder)

    @property
    def repository(self) -> Repository:
        """The versions that it serves."""
        return Repository(self.paths.repository)

    def require_here(self) -> None:
        """Check that this is the node's machine: Triton reads archives from a folder of its own.

        Raises:
            NodeError: it is another one.
        """
        if not self.is_here:
            raise NodeError(
                f"node {self.name} is on {self.spec.host}, and Triton takes archives from its own machine only",
                "Run tsctl there.",
            )
