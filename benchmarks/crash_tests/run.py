"""Kills a rollout at every fault point of each case, and tables how it ended."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.crash_tests.cases import POLICY, CrashCase, CrashResult
from benchmarks.crash_tests.harness import CrashHarness
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, running_fleet
from tsctl.config.project import Project
from tsctl.config.weights import percent
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

GOOD, BAD = ("1.0", "2.0"), "crashes"
COLUMNS = ("rollout", "killed", "converged", "steps repeated", "highest weight", "policy's", "resumed in s")


def run(project: Project, cases: Sequence[CrashCase], progress: Progress) -> list[CrashResult]:
    """Runs the cases on a node and a gateway of their own.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    served = [(MODEL, version) for version in GOOD]
    with (
        own_folder() as folder,
        running_fleet(project, folder / "own", 1, served, progress, spare=[(MODEL, BAD)]) as fleet,
    ):
        address = fleet.address(f"/predictions/{MODEL}")
        harness = CrashHarness(fleet.project, fleet.gateway, address, BODY, MODEL, GOOD, BAD)
        return [result for case in cases for result in _kill_everywhere(harness, case, progress)]


def cells(result: CrashResult) -> tuple[object, ...]:
    """A row of COLUMNS."""
    most = f"{max(POLICY['steps']):g}%"
    converged = "; ".join(result.violations) or "yes"
    seconds = f"{result.resumed_s:.1f}"
    return result.case, result.point, converged, result.repeated, percent(result.highest), most, seconds


def _kill_everywhere(harness: CrashHarness, case: CrashCase, progress: Progress) -> list[CrashResult]:
    results = []
    with progress.step(f"{case.name}: not killed") as step:
        points = harness.points(case)
        step.done(f"{len(points)} points")
    for number, point in enumerate(points):
        with progress.step(f"{case.name} {number + 1}/{len(points)}: {point}") as step:
            try:
                result = harness.kill(case, point)
            except NodeError as error:
                result = CrashResult(case.name, point, (error.message,))
            step.done("; ".join(result.violations) or "converged")
        results.append(result)
    return results
