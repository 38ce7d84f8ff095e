"""The ways of serving that are compared: each is started, asked at its address, and stopped, alike.

Versions that are served under the same settings share one node, and so one JVM. A way stops only what it started.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from rich.console import Console

from benchmarks.harness.client import Address
from benchmarks.harness.processes import children
from benchmarks.targets.own_project import free_node, free_port, own_project, request_headers
from tsctl.archive.store import StoredArchive, import_archive
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.node import open_node
from tsctl.nodes.torchserve.properties import parse_properties, render_properties
from tsctl.nodes.torchserve.start import start_node, stop_node

#: Properties of this project that a node with TorchServe's own defaults has too: with other tokens or metrics it would
#: do other work for each request.
SHARED_PROPERTIES = (
    "disable_token_authorization",
    "token_expiration_min",
    "enable_model_api",
    "metrics_mode",
    "disable_system_metrics",
)
UVICORN_PROCESSES = 2
START_S = 60.0
STOP_S = 10.0


class Way(Protocol):
    """One way of serving a model."""

    @property
    def name(self) -> str: ...

    def start(self) -> Address:
        """It answers at the address.

        Raises:
            NodeError: it does not.
        """

    def pids(self) -> dict[str, list[int]]:
        """Its processes: `workers` run the model, `server` is what stands before them."""

    def stop(self) -> None:
        """Its processes are gone; nothing happens where it does not run."""


class OwnNode:
    """A node of the benchmark's own, with a project and a store in `folder`."""

    def __init__(self, project: Project, folder: Path, is_default: bool = False) -> None:
        """
        Args:
            is_default: TorchServe's own defaults in place of this project's config.properties, but for
                SHARED_PROPERTIES and the quiet logs.
        """
        self.project = own_project(project, folder)
        if is_default:
            properties = parse_properties(self.project.config_properties.read_text(encoding="utf-8"))
            kept = {name: properties[name] for name in SHARED_PROPERTIES if name in properties}
            self.project.config_properties.write_text(render_properties(kept), encoding="utf-8")
        self.node = open_node(self.project, "bench", free_node())
        self._quiet = Progress(Console(quiet=True))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """The node runs, and serves nothing yet; nothing happens where it runs already."""
        if self.node.pid is None:
            self._process = start_node(self.project, self.node, self._quiet)
            self.node.paths.pending_restore.unlink(missing_ok=True)  # what it served in an earlier run

    def stop(self) -> None:
        """The node and its workers are gone; nothing happens where it does not run."""
        stop_node(self.node, self._quiet)
        ended, self._process = self._process, None
        if ended is not None:
            ended.wait()


class OnNode:
    """An archive on a node, with one worker."""

    def __init__(self, name: str, own: OwnNode, archive: Path, media_type: str) -> None:
        self.name = name
        self.own = own
        self.archive: StoredArchive = import_archive(own.project, archive)
        self.media_type = media_type

    def start(self) -> Address:
        self.own.start()
        versions.register(self.own.node, self.archive, 1, lambda _: None)
        path = f"/predictions/{self.archive.model}/{self.archive.version}"
        return Address(self.own.node.spec.inference + path, request_headers(self.own.node, self.media_type))

    def pids(self) -> dict[str, list[int]]:
        pid = self.own.node.pid
        return {"server": [pid], "workers": children(pid)} if pid is not None else {}

    def stop(self) -> None:
        self.own.stop()


class OnUvicorn:
    """An application under uvicorn with two processes, uvloop and httptools, and no access log."""

    def __init__(self, name: str, application: Path, environment: Mapping[str, str], path: str) -> None:
        """
        Args:
            application: a module that defines `app`.
            path: what follows the address in a request's URL.
        """
        self.name = name
        self._application = application
        self._environment = environment
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Address:
        port = free_port()
        command = [
            sys.executable, "-m", "uvicorn", "--app-dir", str(self._application.parent), "--host", "127.0.0.1",
            "--port", str(port), "--workers", str(UVICORN_PROCESSES), "--loop", "uvloop", "--http", "httptools",
            "--no-access-log", "--log-level", "warning", f"{self._application.stem}:app",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            command,
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # so that the whole group can be ended by one signal
        )
        self._wait_answering(self._process, port)
        return Address(f"http://127.0.0.1:{port}{self._path}", {"Content-Type": "application/json"})

    def pids(self) -> dict[str, list[int]]:
        if self._process is None:
            return {}
        return {"server": [self._process.pid], "workers": children(self._process.pid)}

    def stop(self) -> None:
        started, self._process = self._process, None
        if started is None:
            return
        started.terminate()
        try:
            started.wait(STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            started.wait()

    def _wait_answering(self, started: subprocess.Popen[bytes], port: int) -> None:
        end = time.monotonic() + START_S
        while True:
            if started.poll() is not None:
                raise NodeError(f"uvicorn ended with status {started.returncode}", "Run 'make setup'.")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
            except OSError as error:
                if time.monotonic() > end:
                    self.stop()
                    raise NodeError(f"uvicorn does not answer after {START_S:g} s: {error}") from None
                time.sleep(0.05)
            else:
                return
