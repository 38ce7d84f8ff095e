"""The process of a rollout is killed with SIGKILL, and whoever goes on repeats nothing, loses nothing, and converges.

Some points of the way; `make bench-kills` does all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.crash_tests.cases import PROMOTED, ROLLED_BACK, Way
from benchmarks.crash_tests.harness import Ground
from tests.support.releases import FAILS_ON_LARGE, LARGE, ROUTE, releasing
from tsctl.config.project import Project


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    versions = {"1.0": {}, "2.0": {}, "3.0": FAILS_ON_LARGE}
    with releasing(tmp_path_factory.mktemp("kills"), versions) as front:
        project = Project(front.site.root)
        yield Ground(project, front.gateway, front.address(ROUTE), LARGE, "tiny", ("1.0", "2.0"), "3.0")


@pytest.mark.parametrize(("way", "point"), [
    (PROMOTED, "amid the line started"),
    (PROMOTED, "amid register"),
    (PROMOTED, "before weigh 2000"),
    (PROMOTED, "after weigh 5000"),
    (ROLLED_BACK, "after the line verdict fail"),
])  # fmt: skip
def test_killed_it_converges(ground: Ground, way: Way, point: str) -> None:
    killed = ground.kill(way, point)
    assert killed.misses == ()
    assert killed.repeated == 0
