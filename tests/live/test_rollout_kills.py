"""A rollout that is killed with SIGKILL and resumed repeats nothing, loses nothing, and converges.

Some fault points; `make bench-kills` tries all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.crash_tests.cases import PROMOTED, ROLLED_BACK, CrashCase
from benchmarks.crash_tests.harness import CrashHarness
from benchmarks.crash_tests.operators import FOLDER, PLACES, REDIS
from benchmarks.crash_tests.run import sharing
from tests.support.programs import program
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


@pytest.mark.parametrize(("kind", "kills"), [
    (FOLDER, [(PROMOTED, "amid the line step 1"), (ROLLED_BACK, "amid weigh 0")]),
    (REDIS, [(PROMOTED, "before the line started"), (PROMOTED, "after weigh 2000")]),
], ids=[FOLDER, REDIS])  # fmt: skip
def test_a_killed_rollout_converges_when_another_operator_resumes_it(
    harness: CrashHarness, tmp_path: Path, kind: str, kills: list[tuple[CrashCase, str]]
) -> None:
    if kind == REDIS:
        program("redis-server")
    with PLACES[kind](tmp_path) as control:
        assert control is not None
        shared = sharing(harness, control, tmp_path / "second")
        for case, point in kills:
            killed = shared.kill(case, point)
            assert killed.violations == (), point
            assert killed.repeated == 0
