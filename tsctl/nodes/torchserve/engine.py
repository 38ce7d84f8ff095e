"""The engine TorchServe: a node of it, made of this room's functions."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tsctl.archive.inspect import facts_of
from tsctl.archive.store import StoredArchive
from tsctl.config.nodes import BaseNodeSpec, TorchServeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.limits import memory_bytes
from tsctl.host.progress import Note, Progress
from tsctl.nodes.load_reports import last_failures, read_load_reports
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import ObservedModel, ObservedVersion, Reply, VersionKey
from tsctl.nodes.record import require_described
from tsctl.nodes.torchserve import process, readiness, start, versions
from tsctl.nodes.torchserve.client import READ_TIMEOUT_S, ManagementClient, ManagementError, VersionState
from tsctl.nodes.torchserve.heap import heap_bytes
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.paths import NodePaths
from tsctl.nodes.torchserve.served import last_served, read_pending
from tsctl.nodes.torchserve.settings import node_defaults
from tsctl.nodes.torchserve.tokens import read_tokens


@dataclass(frozen=True)
class TorchServeNode(Node):
    """One TorchServe process."""

    waits_for_batches: ClassVar[bool] = True

    heap_bytes: int  # the largest size of its JVM's heap

    @property
    def waiting_bytes(self) -> int:
        return self.heap_bytes // 2

    @property
    def token_expiry(self) -> datetime | None:
        if self.key_file is None or not self.key_file.is_file():
            return None
        tokens = read_tokens(self.key_file)
        return min((token.expires for token in (tokens.inference, tokens.management) if token.expires), default=None)

    def start(self, project: Project, progress: Progress) -> subprocess.Popen[bytes]:
        return start.start_node(project, self, progress)

    def restore(self, project: Project, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
        return start.restore(project, self, progress, superseded)

    def forget_served(self) -> None:
        self.paths.pending_restore.unlink(missing_ok=True)

    def stop(self, progress: Progress) -> bool:
        return start.stop_node(self, progress)

    def crash_report(self) -> str:
        return process.crash_report(self.paths)

    def load_failures(self) -> Mapping[VersionKey, str]:
        return last_failures(read_load_reports(self.paths.worker_log))

    def models(self) -> dict[str, ObservedModel]:
        states: dict[str, dict[str, ObservedVersion]] = {}
        try:
            for state in self.client.states():
                states.setdefault(state.model, {})[state.version] = self._observed(state)
            return {model: ObservedModel(self._default(model), of_model) for model, of_model in states.items()}
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise NodeError(f"{self.spec.management} does not answer like TorchServe: {kind}") from error

    def version(self, model: str, version: str) -> ObservedVersion | None:
        return next(map(self._observed, self.client.describe(model, version)), None)

    def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
        states = self.client.describe(model, version)
        return [{**asdict(state), "ready_workers": state.ready_workers, "is_ready": state.is_ready} for state in states]

    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        return self.client.predict(model, version, body, media_type)

    @property
    def has_packages(self) -> bool:
        return True

    def cannot(self, archive: StoredArchive, version: str) -> str:
        if version == archive.version:
            return ""
        return (
            f"TorchServe serves an archive under the version in its manifest, which is {archive.version}, and not as"
            f" {version}"
        )

    def cannot_have(self, archive: StoredArchive, workers: int) -> str:
        if workers < 2 or not _is_text(archive):
            return ""
        return (
            "it generates text, and TorchServe lets a version's workers wait for each other, so it cannot have"
            f" {workers} workers: set `workers: 1`, and serve it on further nodes for more, or on a node of uvicorn"
        )

    def register(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> None:
        self._require(archive, version, workers)
        self.prepare(archive, note)
        versions.register(self, archive, workers, note, timeout_s)

    def ensure(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> bool:
        self._require(archive, version, workers)
        self.prepare(archive, note)
        return versions.ensure(self, archive, workers, note, timeout_s)

    def replace(self, archive: StoredArchive, version: str, workers: int | None, note: Note) -> None:
        self._require(archive, version, workers)
        self.prepare(archive, note)
        versions.replace(self, archive, workers, note)

    def scale(
        self, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
    ) -> ObservedVersion:
        return self._observed(versions.scale(self, model, version, workers, note, timeout_s))

    def warm_up(self, archive: StoredArchive, version: str, note: Note) -> None:
        self._require(archive, version, None)
        readiness.warm_up(self, archive, note)

    def set_default(self, model: str, version: str) -> None:
        versions.set_default(self, model, version)

    def unregister(self, model: str, version: str) -> bool:
        return versions.unregister(self, model, version)

    def give_up_default(self, model: str, version: str, successor: str | None) -> None:
        others = [state for state in self.client.describe(model) if state.version != version]
        if not others or self.client.default_version(model) != version:
            return
        best = min(others, key=lambda state: (not state.is_ready, state.version != successor))
        versions.set_default(self, model, best.version)

    def _why_not(self, archive: StoredArchive, version: str, workers: int | None) -> str:
        return self.cannot(archive, version) or self.cannot_have(archive, workers or 0) or self.why_unprepared(archive)

    def _require(self, archive: StoredArchive, version: str, workers: int | None) -> None:
        if reason := self._why_not(archive, version, workers):
            raise NodeError(f"{archive.model} {version} cannot be on node {self.name}: {reason}")

    def _observed(self, state: VersionState) -> ObservedVersion:
        ready = [worker for worker in state.workers if worker.is_ready]
        return ObservedVersion(
            state.archive,
            state.min_workers,
            state.ready_workers,
            tuple(worker.pid for worker in ready),
            state.queue_pending,
            readiness.given_up(self, state, time.time()),
            tuple(worker.id for worker in ready),
            state.startup_timeout_s,
            state.queue_capacity or None,
        )

    def _default(self, model: str) -> str | None:
        """The node's default version; None where TorchServe has lost it (see `versions.py`)."""
        try:
            return self.client.default_version(model)
        except ManagementError as error:
            if error.status != 404:
                raise
            return None


def open_node(
    project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float = READ_TIMEOUT_S
) -> TorchServeNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, TorchServeSpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    paths = NodePaths(project.state / "nodes" / name)
    properties = node_defaults(project)
    asks_tokens = properties.get("disable_token_authorization", "false").lower() != "true"
    key_file = project.root / spec.key_file if spec.key_file else paths.key_file if asks_tokens else None
    heap = heap_bytes(properties.get("vmargs", "").split(), memory_bytes())
    guard = partial(require_described, name, paths.folder, spec)
    client = ManagementClient(spec, key_file, read_timeout_s, guard)
    node = TorchServeNode(name, spec, paths.folder, client, key_file, heap)
    node.client.when_renewed(node.refresh_header)
    return node


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    paths = NodePaths(folder)
    for entry in [*last_served(paths.snapshots), *read_pending(paths.pending_restore)]:
        yield entry.archive


def _is_text(archive: StoredArchive) -> bool:
    return facts_of(archive.path).is_text
