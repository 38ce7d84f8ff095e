"""Asks our gateway, a stock Triton and MLServer the same, one server after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.peers import peers
from benchmarks.protocol.questions import answers
from benchmarks.protocol.servers import MLSERVER_VERSION, MODEL, TRITON_VERSION, Place, mlserver, running, triton
from benchmarks.targets.fleet import running_fleet
from tsctl.config.project import Project
from tsctl.gateway.headers import KEY_HEADER
from tsctl.host.progress import Progress
from tsctl.nodes.install import install

HERE, TRITON, MLSERVER = "here", "Triton", "MLServer"
VERSION = "1.0"


def compare(project: Project, progress: Progress) -> dict[str, dict[str, str]]:
    """Answers by server and question.

    Args:
        project: in whose state the servers' environments are installed.

    Raises:
        TsctlError: a server cannot be installed, or does not become ready.
    """
    with TemporaryDirectory(prefix="tsctl-protocol-") as made:
        folder = Path(made)
        servers: Mapping[str, Callable[[], AbstractContextManager[Place]]] = {
            HERE: lambda: _here(project, folder / "here", progress),
            TRITON: lambda: _triton(project, folder / "triton", progress),
            MLSERVER: lambda: _mlserver(project, folder / "mlserver", progress),
        }
        found = {}
        for name, start in servers.items():
            with start() as place, progress.step(f"asking {name}"):
                found[name] = answers(place)
    return found


@contextmanager
def _here(project: Project, folder: Path, progress: Progress) -> Iterator[Place]:
    """Our gateway before a node of uvicorn; the other engines answer the same, which tests/live checks."""
    with running_fleet(project, folder, 1, [(MODEL, VERSION)], progress, engine="uvicorn") as fleet:
        address = fleet.gateway.spec.address.removeprefix("http://")
        yield Place(address, address, MODEL, VERSION, {KEY_HEADER: fleet.key})


def _triton(project: Project, folder: Path, progress: Progress) -> AbstractContextManager[Place]:
    environment = install(project, peers.ENVIRONMENTS[peers.TRITON], progress)
    return running(triton(environment.python, folder), folder, TRITON_VERSION)


def _mlserver(project: Project, folder: Path, progress: Progress) -> AbstractContextManager[Place]:
    environment = install(project, peers.ENVIRONMENTS[peers.MLSERVER], progress)
    return running(mlserver(environment.python, folder), folder, MLSERVER_VERSION)
