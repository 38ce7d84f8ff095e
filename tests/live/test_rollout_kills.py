"""A rollout that is killed with SIGKILL and resumed repeats nothing, loses nothing, and converges.

Some fault points; `make bench-kills` tries all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.crash_tests.cases import PROMOTED, ROLLED_BACK, CrashCase
from benchmarks.crash_tests.harness import CrashHarness
from tests.support.releases import FAILS_ON_LARGE, LARGE, ROUTE, releasing
from tsctl.config.project import Project


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CrashHarness]:
    versions = {"1.0": {}, "2.0": {}, "3.0": FAILS_ON_LARGE}
    with releasing(tmp_path_factory.mktemp("kills"), versions) as front:
        project = Project(front.site.root)
        yield CrashHarness(project, front.gateway, front.address(ROUTE), LARGE, "tiny", ("1.0", "2.0"), "3.0")


@pytest.mark.parametrize(("case", "point"), [
    (PROMOTED, "amid the line started"),
    (PROMOTED, "amid register"),
    (PROMOTED, "before weigh 2000"),
    (PROMOTED, "after weigh 5000"),
    (ROLLED_BACK, "after the line verdict fail"),
])  # fmt: skip
def test_a_killed_rollout_converges(harness: CrashHarness, case: CrashCase, point: str) -> None:
    killed = harness.kill(case, point)
    assert killed.violations == ()
    assert killed.repeated == 0
