"""A TorchServe node: its client, its files, and its header files with the present tokens."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tsctl.config.nodes import TorchServeSpec
from tsctl.host.files import make_folder
from tsctl.nodes import node
from tsctl.nodes.key_files import write_header_file
from tsctl.nodes.torchserve.client import ManagementClient
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.tokens import read_tokens


@dataclass(frozen=True)
class Node(node.Node, ABC):
    """What this room's functions need of a node; `engine.py` has the whole one."""

    spec: TorchServeSpec
    client: ManagementClient
    key_file: Path | None  # None: the node asks for no token

    @property
    def paths(self) -> NodePaths:
        """Its files."""
        return NodePaths(self.folder)

    @property
    def addresses(self) -> Mapping[str, str]:
        return {"inference": self.spec.inference, "management": self.spec.management, "metrics": self.spec.metrics}

    @property
    def token_file(self) -> Path | None:
        return self.key_file

    def token(self) -> str | None:
        if self.key_file is None or not self.key_file.is_file():
            return None
        return read_tokens(self.key_file).inference.value

    @property
    def header_file(self) -> Path | None:
        return self.paths.inference_header if self.key_file is not None else None

    @property
    def logs(self) -> tuple[Path, ...]:
        return self.paths.console, self.paths.node_log, self.paths.worker_log

    def refresh_header(self) -> None:
        """Write the present tokens into the header files."""
        if self.key_file is not None and self.key_file.is_file():
            make_folder(self.folder)
            tokens = read_tokens(self.key_file)
            write_header_file(self.paths.inference_header, tokens.inference.value)
            write_header_file(self.paths.management_header, tokens.management.value)
