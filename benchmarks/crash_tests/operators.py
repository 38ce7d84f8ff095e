"""The operators whose rollouts are killed and resumed: one alone, or two that share a place."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks.harness.redis import DURABLE, running_redis
from tsctl.config.project import Project
from tsctl.host.ports import free_ports

NOWHERE, FOLDER, REDIS = "none", "folder", "redis"


@contextmanager
def _nowhere(folder: Path) -> Iterator[str | None]:
    yield None


@contextmanager
def _in_folder(folder: Path) -> Iterator[str | None]:
    place = folder / "place"
    place.mkdir(mode=0o700)
    yield str(place)


@contextmanager
def _in_redis(folder: Path) -> Iterator[str | None]:
    [port] = free_ports(1)
    with running_redis(folder / "redis", port, *DURABLE):
        yield f"redis://127.0.0.1:{port}/0"


#: Opens a place of each kind in an empty folder, and gives its address; None where operators share nothing.
PLACES: dict[str, Callable[[Path], AbstractContextManager[str | None]]] = {
    NOWHERE: _nowhere,
    FOLDER: _in_folder,
    REDIS: _in_redis,
}


def second_operator(project: Project, root: Path) -> Project:
    """A project beside the first one, with the same deployment.yaml and archives.

    What both see of the gateway and of the nodes are the same files, as on a shared disk. Locks, copies of journals and
    commands are the second one's own.
    """
    (root / ".tsctl").mkdir(parents=True, mode=0o700)
    for shared in ("archives", ".tsctl/gateway", ".tsctl/nodes"):
        (root / shared).symlink_to(project.root / shared)
    for copied in (project.deployment, project.config_properties, project.log_config):
        if copied.exists():
            shutil.copy(copied, root / copied.name)
    return Project(root)
