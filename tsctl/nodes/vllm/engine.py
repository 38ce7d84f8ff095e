"""The engine vllm: a node of it is `handlers.adapters.vllm.node`, which starts a server of vLLM for each version."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tsctl.archive.inspect import facts_of
from tsctl.archive.sources import core_program
from tsctl.archive.store import StoredArchive
from tsctl.config.nodes import BaseNodeSpec, VllmSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.nodes.environments import require_environment
from tsctl.nodes.observed import Reply
from tsctl.nodes.uvicorn import engine as uvicorn
from tsctl.nodes.uvicorn.installed import SERVER, require_installed


@dataclass(frozen=True)
class VllmNode(uvicorn.UvicornNode):
    """One process with the admin API, and a server of vLLM for each version."""

    own_addresses: ClassVar[bool] = True

    spec: VllmSpec

    def server(self, project: Project) -> tuple[list[str], dict[str, str]]:
        environment = require_environment(project, self.engine)
        require_installed(*SERVER)
        first, last = self.spec.version_ports
        return [
            sys.executable, *core_program("handlers.adapters.vllm.node"), "--python", str(environment.python),
            "--ports", str(first), str(last), "--gpu-share", f"{self.spec.gpu_share:g}",
        ], {}  # fmt: skip

    def url(self, model: str, version: str) -> str:
        return self.require_version(model, version).address

    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        version = version or self.require_default(model)
        return self.client.predict(self.path(model, version), body, media_type, self.url(model, version))

    def cannot(self, archive: StoredArchive, version: str) -> str:
        if reason := super().cannot(archive, version):
            return reason
        is_text = facts_of(archive.path).is_text
        return "" if is_text else f"{archive.model} is no language model, and vLLM serves no others"

    def cannot_have(self, archive: StoredArchive, workers: int) -> str:
        if workers < 2:
            return ""
        return (
            f"vLLM computes all answers of a version in one server, so it cannot have {workers} workers: set"
            " `workers: 1`, and serve it on further nodes for more"
        )

    def ask_to_register(self, archive: StoredArchive, version: str, workers: int | None) -> None:
        _require_one(archive.model, version, workers)
        super().ask_to_register(archive, version, 1 if workers is None else workers)

    def ask_to_scale(self, model: str, version: str, workers: int) -> None:
        _require_one(model, version, workers)
        super().ask_to_scale(model, version, workers)


def _require_one(model: str, version: str, workers: int | None) -> None:
    if workers is not None and workers > 1:
        raise NodeError(
            f"{model} {version} cannot have {workers} workers: vLLM computes all answers of a version in one server",
            "Use one worker, and a further node for more.",
        )


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> VllmNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, VllmSpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    return uvicorn.make_node(VllmNode, project, name, spec, read_timeout_s)


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    return uvicorn.served_at_start(folder)
