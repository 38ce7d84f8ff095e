"""Serves one archive in the foreground, from a folder that is removed afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handlers.contract import SECRETS_VARIABLE
from tsctl.archive.build import read_archive_folders
from tsctl.archive.container import unpack
from tsctl.archive.inspect import facts_of
from tsctl.archive.packages import packages_of_archive, variables_for
from tsctl.archive.secrets import secrets_here
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, SpecError, TsctlError
from tsctl.host.changes import changes
from tsctl.host.process import end_child, inherited
from tsctl.host.progress import Progress

#: Seconds in which the server answers the requests that it has; afterwards it is killed.
STOP_S = 40.0
#: Exit status of a server whose archive must not serve.
REFUSED = 3


@dataclass(frozen=True)
class Address:
    """Where the server listens, and with how many workers; None: as the archive says."""

    host: str
    port: int
    workers: int | None = None
    grpc_port: int | None = None  # None: no gRPC


def folder_of_name(project: Project, name: str) -> Path:
    """The folder from which a model is built.

    Raises:
        SpecError: it is not in the project.
    """
    folders = read_archive_folders(project)
    model = name.partition(":")[0]
    if model not in folders:
        raise SpecError(f"{model} has no folder in {project.relative(project.archives)}, so there is nothing to reload")
    return folders[model][0]


def serve(archive: Path, address: Address) -> None:
    """Serve an archive until SIGINT or SIGTERM comes.

    Raises:
        ArchiveError: the archive must not serve; the server has printed why.
        NodeError: the server ended by itself.
    """
    with _interruptible(), _serving(archive, address) as server:
        server.wait()
        if server.returncode == REFUSED:
            raise ArchiveError(f"{archive.name} cannot be served", "The lines above say why.")
        if server.returncode:
            raise NodeError(f"the server ended with exit code {server.returncode}", "Its last lines above say why.")


def serve_and_reload(build: Callable[[], Path], folder: Path, address: Address, progress: Progress) -> None:
    """Serve what `build` builds, and serve anew after each change in `folder`, until SIGINT or SIGTERM comes.

    What cannot be built leaves the server as it is.
    """
    with _interruptible():
        archive = build()
        while True:
            with _serving(archive, address):
                archive = _next_build(build, archive, folder, progress)


def _next_build(build: Callable[[], Path], present: Path, folder: Path, progress: Progress) -> Path:
    for _ in changes(folder):
        try:
            archive = build()
        except TsctlError as error:
            progress.line(f"error: {error.message}")
            continue
        if archive != present:
            return archive
    raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, and neither is an error."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _serving(archive: Path, address: Address) -> Iterator[subprocess.Popen[bytes]]:
    """A server of the archive, which is stopped at the end of the block.

    Raises:
        ArchiveError: it was not built by tsctl, or is damaged.
    """
    facts = facts_of(archive)
    if facts.is_stock:
        raise ArchiveError(f"{archive.name} was not built by tsctl, so only TorchServe can serve it")
    model, needs = facts.names[0], facts.serving
    packages = variables_for(packages_of_archive(needs.requirements, model))
    options = ["--host", address.host, "--port", str(address.port)]
    if address.workers is not None:
        options += ["--workers", str(address.workers)]
    if address.grpc_port is not None:
        options += ["--grpc-port", str(address.grpc_port)]
    with (
        tempfile.TemporaryDirectory(prefix="tsctl-serve-") as folder,
        secrets_here(model, needs.secrets) as secrets,
    ):
        unpack(archive, Path(folder))
        server = subprocess.Popen(
            [sys.executable, "-m", "handlers.adapters.asgi", *options],  # the archive's own package
            cwd=folder,
            env={**inherited(os.environ), **packages, **({SECRETS_VARIABLE: str(secrets)} if secrets else {})},
            stdin=subprocess.DEVNULL,
        )
        try:
            yield server
        finally:
            if server.poll() is None:
                end_child(server, STOP_S)
