"""The engine Triton: a node of it, made of this room's functions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tsctl.archive.store import StoredArchive
from tsctl.config.nodes import BaseNodeSpec, TritonSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Note, Progress
from tsctl.nodes import process as nodes_process
from tsctl.nodes.load_reports import last_failures, read_load_reports
from tsctl.nodes.node import Restored
from tsctl.nodes.observed import ObservedModel, ObservedVersion, Reply, VersionKey
from tsctl.nodes.session import require_running
from tsctl.nodes.triton import process, repository, versions
from tsctl.nodes.triton.client import READY, WHOLE_BODY, Client, path_of, unwrap
from tsctl.nodes.triton.node import Node
from tsctl.nodes.triton.pending import read_pending, remember_served
from tsctl.nodes.triton.repository import Repository, Served, triton_name
from tsctl.nodes.triton.restore import restore
from tsctl.nodes.triton.workers import live_workers


@dataclass(frozen=True)
class TritonNode(Node):
    """One tritonserver with its supervisor."""

    waits_for_batches: ClassVar[bool] = True

    @property
    def addresses(self) -> Mapping[str, str]:
        return {"inference": self.spec.address}

    def path(self, model: str, version: str) -> str:
        return path_of(triton_name(model, version))

    def access(self) -> dict[str, str]:
        return dict(WHOLE_BODY)

    def unwrap(self, reply: Reply) -> Reply:
        return unwrap(reply.status, reply.headers, reply.body)

    @property
    def logs(self) -> tuple[Path, ...]:
        return self.paths.console, self.paths.log

    def start(self, project: Project, progress: Progress) -> subprocess.Popen[bytes]:
        self.require_here()
        return nodes_process.start(
            self,
            progress,
            lambda: self._launch(project),
            lambda: "" if self.client.is_live() else f"nothing answers at {self.spec.address}",
            lambda pid: f"pid {pid}",
            lambda: process.end(self.paths),
        )

    def _launch(self, project: Project) -> subprocess.Popen[bytes]:
        remember_served(self.paths)
        return process.launch(project, self.spec, self.paths)

    def restore(self, project: Project, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
        return restore(project, self, progress, superseded)

    def forget_served(self) -> None:
        self.paths.pending_restore.unlink(missing_ok=True)

    def stop(self, progress: Progress) -> bool:
        return nodes_process.stop(self, progress, lambda: process.end(self.paths))

    def crash_report(self) -> str:
        return nodes_process.crash_report(self)

    def load_failures(self) -> Mapping[VersionKey, str]:
        return last_failures(read_load_reports(self.paths.log))

    def models(self) -> dict[str, ObservedModel]:
        states, live = self._look()
        defaults, found = versions.read_defaults(self), dict[str, dict[str, ObservedVersion]]()
        for served in self.repository.served():
            found.setdefault(served.model, {})[served.version] = _observed(served, states, live)
        return {model: ObservedModel(_default(defaults.get(model), of), of) for model, of in found.items()}

    def version(self, model: str, version: str) -> ObservedVersion | None:
        states, live = self._look()
        served = self.repository.find(model, version)
        return None if served is None else _observed(served, states, live)

    def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
        self._look()
        chosen = [s for s in self.repository.served() if s.model == model and version in (None, s.version)]
        return [
            {**asdict(served), "config": self.client.config(served.name) if served.workers else None}
            for served in chosen
        ]

    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        if version is None:
            version = self.models()[model].default if model in self.models() else None
        return self.client.predict(triton_name(model, version or "none"), body, media_type)

    def cannot(self, archive: StoredArchive, version: str) -> str:
        return repository.why_not(archive) or self.why_unprepared(archive)

    def register(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> None:
        self.prepare(archive, note)
        versions.register(self, archive, version, workers, note, timeout_s)

    def ensure(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> bool:
        self.prepare(archive, note)
        return versions.ensure(self, archive, version, workers, note, timeout_s)

    def replace(self, archive: StoredArchive, version: str, workers: int | None, note: Note) -> None:
        self.prepare(archive, note)
        versions.replace(self, archive, version, workers, note)

    def scale(
        self, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
    ) -> ObservedVersion:
        versions.scale(self, model, version, workers, note, timeout_s)
        return self.require_version(model, version)

    def warm_up(self, archive: StoredArchive, version: str, note: Note) -> None:
        versions.warm_up(self, archive, version, note)

    def set_default(self, model: str, version: str) -> None:
        if not self.require_version(model, version).is_ready:
            raise NodeError(
                f"{model} {version} on node {self.name} is not ready, so it cannot become the default",
                f"Scale it first: tsctl models scale {model} {version} 1",
            )
        versions.write_default(self, model, version)

    def unregister(self, model: str, version: str) -> bool:
        return versions.unregister(self, model, version)

    def give_up_default(self, model: str, version: str, successor: str | None) -> None:
        observed = self.models().get(model)
        others = {v: state for v, state in (observed.versions if observed else {}).items() if v != version}
        if observed is None or observed.default != version or not others:
            return
        best = min(others, key=lambda v: (not others[v].is_ready, v != successor))
        versions.write_default(self, model, best)

    def _look(self) -> tuple[Mapping[str, str], Mapping[str, Mapping[int, int]]]:
        """State of each of Triton's models, and the pids of their workers; raises where nothing answers."""
        return self.client.states(), live_workers(self.pid or 0, self.paths.repository)


def _observed(served: Served, states: Mapping[str, str], live: Mapping[str, Mapping[int, int]]) -> ObservedVersion:
    pids = live.get(served.name, {}) if states.get(served.name) == READY else {}
    ready = [number for number in served.numbers if number in pids]
    return ObservedVersion(
        served.archive,
        served.workers,
        len(ready),
        tuple(pids[number] for number in ready),
        0,
        served.failure,
        tuple(f"w{number}" for number in ready),
        served.startup_s,
    )


def _default(chosen: str | None, of_model: Mapping[str, ObservedVersion]) -> str | None:
    """The chosen version; where none was chosen, the only or the first one, as TorchServe does."""
    return chosen if chosen in of_model else min(of_model, default=None)


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> TritonNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, TritonSpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    folder = project.state / "nodes" / name
    client = Client(spec.address, read_timeout_s, partial(require_running, name, folder, spec))
    return TritonNode(name, spec, folder, client)


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    paths = process.Paths(folder)
    for served in [*Repository(paths.repository).served(), *read_pending(paths)]:
        yield served.archive
