"""The engine uvicorn: a node of it is `handlers.adapters.asgi.node`, a process that serves many versions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from handlers.contract import (
    METRICS_FOLDER_VARIABLE,
    SHARED_CACHE_KEY_VARIABLE,
    SHARED_CACHE_VARIABLE,
    WORKER_PYTHON_VARIABLE,
)
from tsctl.archive.container import digest_of
from tsctl.archive.inspect import facts_of
from tsctl.archive.sources import core_program
from tsctl.archive.store import StoredArchive, list_archives
from tsctl.config.nodes import BaseNodeSpec, OwnServerSpec, UvicornSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import make_folder
from tsctl.host.process import inherited
from tsctl.nodes import process
from tsctl.nodes.environments import require_environment
from tsctl.nodes.fetching import fetch_arguments
from tsctl.nodes.managed import ManagedNode, VersionReport
from tsctl.nodes.observed import ObservedVersion, Reply
from tsctl.nodes.session import require_running
from tsctl.nodes.uvicorn.client import AdminClient, VersionState
from tsctl.nodes.uvicorn.installed import SERVER, require_installed
from tsctl.nodes.uvicorn.keys import make_keys, read_keys

#: While a version is unpacked, nobody knows how many workers it will have, and how long they take to load.
UNKNOWN_WORKERS, UNKNOWN_STARTUP_S = 1, 120
_SERVED = "served.json"


@dataclass(frozen=True)
class UvicornNode(ManagedNode):
    """One accepting process and its workers."""

    stop_grace_s: ClassVar[float] = 45.0  # longer than it takes to answer the requests at hand

    spec: OwnServerSpec
    client: AdminClient
    key_file: Path

    # ---- the place ---------------------------------------------------------------------------------------------------

    @property
    def addresses(self) -> Mapping[str, str]:
        return {"inference": self.spec.address}

    @property
    def token_file(self) -> Path | None:
        return self.key_file if self.spec.tokens else None

    def token(self) -> str | None:
        return read_keys(self.key_file).inference if self.spec.tokens and self.key_file.is_file() else None

    @property
    def header_file(self) -> Path | None:
        return self.folder / "inference.header" if self.spec.tokens else None

    # ---- the process -------------------------------------------------------------------------------------------------

    @property
    def has_packages(self) -> bool:
        return isinstance(self.spec, UvicornSpec) and self.spec.environment is None

    def server(self, project: Project) -> tuple[list[str], dict[str, str]]:
        """The program of the node, which takes the arguments of `handlers.adapters.asgi.node`, and its own variables.

        Raises:
            NodeError: it is not installed.
        """
        require_installed(*SERVER)
        chosen = self.spec.environment if isinstance(self.spec, UvicornSpec) else None
        python = {WORKER_PYTHON_VARIABLE: str(require_environment(project, chosen).python)} if chosen else {}
        return [sys.executable, *core_program("handlers.adapters.asgi.node.__main__")], python

    def launch(self, project: Project) -> subprocess.Popen[bytes]:
        program, variables = self.server(project)
        for folder in (project.state, self.folder.parent, self.folder, self.folder / "logs"):
            make_folder(folder)
        project.store.mkdir(parents=True, exist_ok=True)
        list_archives(project)  # takes in what was copied into the store by hand
        host, port = self.spec.host, urlsplit(self.spec.address).port or 0
        process.require_free_ports(host, {"inference": port})
        process.sweep(self.folder)
        tmp = process.temporary_folder(self.folder)
        process.empty_metrics(self.metrics_folder)
        make_keys(self.key_file, self.folder / "inference.header")
        command = [
            *program, "--host", host, "--port", str(port),
            "--folder", str(self.folder), "--store", str(project.store), *([] if self.spec.tokens else ["--open"]),
            *fetch_arguments(project, self.folder),
        ]  # fmt: skip
        passed = {
            name: os.environ[name] for name in (SHARED_CACHE_VARIABLE, SHARED_CACHE_KEY_VARIABLE) if name in os.environ
        }
        environment = {
            **inherited(os.environ), **passed, METRICS_FOLDER_VARIABLE: str(self.metrics_folder),
            **process.worker_variables(self.folder, self.spec),
            "TMPDIR": str(tmp), "TEMP": str(tmp), "PYTHONUNBUFFERED": "1", **variables,
        }  # fmt: skip
        return process.spawn_recorded(command, self.folder, self.spec, environment, tmp, self.logs[0])

    def not_answering(self) -> str:
        try:
            self.client.versions()
        except NodeError as error:
            return error.message
        return ""

    # ---- what it serves ----------------------------------------------------------------------------------------------

    def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
        names = [state.version for state in self.client.versions() if state.model == model]
        described = (self.client.describe(model, name) for name in names if version in (None, name))
        return [content for content in described if content is not None]

    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        path = self.path(model, version) if version is not None else self.path(model, "").rstrip("/")
        return self.client.predict(path, body, media_type)

    def cannot(self, archive: StoredArchive, version: str) -> str:
        is_stock = facts_of(archive.path).is_stock
        return f"{archive.path.name} was not built by tsctl, so only TorchServe can serve it" if is_stock else ""

    def reports(self) -> list[VersionReport]:
        return [_report(state) for state in self.client.versions()]

    def report(self, model: str, version: str) -> VersionReport | None:
        state = self.client.version(model, version)
        return _report(state) if state is not None else None

    # ---- changes -----------------------------------------------------------------------------------------------------

    def ask_to_register(self, archive: StoredArchive, version: str, workers: int | None) -> None:
        digest = digest_of(archive.path)
        self.client.register(archive.model, version, archive.path.name, digest, workers)

    def ask_to_scale(self, model: str, version: str, workers: int) -> None:
        self.client.scale(model, version, workers)

    def ask_to_unregister(self, model: str, version: str) -> None:
        self.client.unregister(model, version)

    def ask_for_default(self, model: str, version: str) -> None:
        self.client.set_default(model, version)


SomeNode = TypeVar("SomeNode", bound=UvicornNode)


def _report(state: VersionState) -> VersionReport:
    observed = ObservedVersion(
        state.archive,
        UNKNOWN_WORKERS if state.workers is None else state.workers,
        len(state.ready),
        tuple(worker.pid for worker in state.ready),
        state.waiting,
        state.failure if state.state != "refused" else "",
        tuple(worker.id for worker in state.ready),
        round(state.startup_s) or UNKNOWN_STARTUP_S,
        address=state.address,
    )
    return VersionReport(
        (state.model, state.version),
        observed,
        state.is_default,
        state.failure if state.state == "refused" else "",
        state.state == "ending",
    )


def open_node(project: Project, name: str, spec: BaseNodeSpec, read_timeout_s: float) -> UvicornNode:
    """The node with its client; nothing is sent yet."""
    if not isinstance(spec, UvicornSpec):
        raise TypeError(f"node {name} is of engine {spec.engine}. This is a bug.")
    return make_node(UvicornNode, project, name, spec, read_timeout_s)


def make_node(
    kind: type[SomeNode], project: Project, name: str, spec: OwnServerSpec, read_timeout_s: float
) -> SomeNode:
    """A node of this class with its client."""
    folder = project.state / "nodes" / name
    key_file = project.root / spec.key_file if spec.key_file else folder / "key_file.json"
    guard = partial(require_running, name, folder, spec)
    client = AdminClient(spec.address, key_file, spec.tokens, read_timeout_s, guard)
    return kind(name, spec, folder, client, key_file)


def served_at_start(folder: Path) -> Iterator[str]:
    """File names of the archives that a node with this folder serves again when it starts."""
    try:
        entries = json.loads((folder / _SERVED).read_text(encoding="utf-8"))
        yield from (str(entry["archive"]) for entry in entries)
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise NodeError(
            f"{folder / _SERVED} is damaged: {error}", f"Remove it to start the node empty: rm {folder / _SERVED}"
        ) from error
