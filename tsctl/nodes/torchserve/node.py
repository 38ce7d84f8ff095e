"""Opens a node of deployment.yaml: its client, its files, and its header files with the present tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tsctl.config.deployment import DeploymentSpec, NodeSpec
from tsctl.config.project import Project
from tsctl.host.files import make_folder
from tsctl.host.ports import is_address_here
from tsctl.nodes.torchserve.client import READ_TIMEOUT_S, ManagementClient
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.process import running_pid
from tsctl.nodes.torchserve.properties import read_properties
from tsctl.nodes.torchserve.tokens import read_tokens, write_header_file


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
        """The pid of its process, if tsctl started it on this machine and it runs."""
        return running_pid(self.paths)

    @property
    def is_here(self) -> bool:
        """Whether the node runs on this machine, because its address is here."""
        return self.spec.is_loopback or is_address_here(self.spec.host)

    @property
    def is_ours(self) -> bool:
        """Whether `tsctl` may start and stop it here."""
        return self.is_here and self.spec.key_file is None

    def lock(self, model: str) -> Path:
        """The lock for changes of one model on this node."""
        return self.paths.folder / "locks" / f"{model}.lock"

    def refresh_header(self) -> None:
        """Write the present tokens into the header files."""
        if self.key_file is not None and self.key_file.is_file():
            make_folder(self.paths.folder)
            tokens = read_tokens(self.key_file)
            write_header_file(self.paths.inference_header, tokens.inference)
            write_header_file(self.paths.management_header, tokens.management)


def open_nodes(project: Project, deployment: DeploymentSpec, read_timeout_s: float = READ_TIMEOUT_S) -> list[Node]:
    """Every node of the deployment, in its order; nothing is sent yet."""
    return [open_node(project, name, spec, read_timeout_s) for name, spec in deployment.nodes.items()]


def open_node(project: Project, name: str, spec: NodeSpec, read_timeout_s: float = READ_TIMEOUT_S) -> Node:
    """The node with its client; nothing is sent yet.

    Args:
        read_timeout_s: for it to describe its state.
    """
    paths = NodePaths(project.state / "nodes" / name)
    key_file = project.root / spec.key_file if spec.key_file else paths.key_file if _asks_tokens(project) else None
    node = Node(name, spec, paths, ManagementClient(spec, key_file, read_timeout_s), key_file)
    node.client.when_renewed(node.refresh_header)
    return node


def _asks_tokens(project: Project) -> bool:
    path = project.config_properties
    properties = read_properties(path) if path.is_file() else {}
    return properties.get("disable_token_authorization", "false").lower() != "true"
