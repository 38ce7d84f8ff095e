"""Opens the client of a node that deployment.yaml names, and keeps its header file in step with its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsctl.deployment import NodeSpec
from tsctl.management import ManagementClient
from tsctl.node.process import NodePaths, node_paths, running_pid
from tsctl.node.properties import parse_properties
from tsctl.node.tokens import read_tokens, write_header_file
from tsctl.project import Project


@dataclass(frozen=True)
class Node:
    """One node of the deployment as this machine reaches it."""

    name: str
    spec: NodeSpec
    paths: NodePaths
    client: ManagementClient
    key_file: Path | None  # None: the node asks for no token

    @property
    def pid(self) -> int | None:
        """The process, where tsctl started it on this machine and it runs."""
        return running_pid(self.paths)

    def lock(self, model: str) -> Path:
        """The lock that a change of one model on this node holds."""
        return self.paths.folder / "locks" / f"{model}.lock"

    def refresh_header(self) -> None:
        """Make the header files hold the present tokens."""
        if self.key_file is not None and self.key_file.is_file():
            self.paths.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            tokens = read_tokens(self.key_file)
            write_header_file(self.paths.inference_header, tokens.inference)
            write_header_file(self.paths.management_header, tokens.management)


def open_node(project: Project, name: str, spec: NodeSpec) -> Node:
    """The node with its client; nothing is sent yet."""
    paths = node_paths(project, name)
    key_file = project.root / spec.key_file if spec.key_file else paths.key_file if _asks_tokens(project) else None
    node = Node(name, spec, paths, ManagementClient(spec, key_file), key_file)
    node.client.on_renewed = node.refresh_header
    return node


def _asks_tokens(project: Project) -> bool:
    path = project.config_properties
    properties = parse_properties(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return properties.get("disable_token_authorization", "false").lower() != "true"
