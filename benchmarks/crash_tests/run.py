"""Kills a rollout at every fault point of each case, with each kind of place, and tables how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from benchmarks.crash_tests.cases import POLICY, CrashCase, CrashResult
from benchmarks.crash_tests.harness import CrashHarness
from benchmarks.crash_tests.operators import NOWHERE, PLACES, second_operator
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, running_fleet
from tsctl.config.project import Project
from tsctl.config.weights import percent
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

GOOD, BAD = ("1.0", "2.0"), "crashes"
COLUMNS = ("rollout", "place", "killed", "converged", "steps repeated", "highest weight", "policy's", "resumed in s")


def run(
    project: Project, cases: Sequence[CrashCase], progress: Progress, places: Sequence[str] = (NOWHERE,)
) -> list[CrashResult]:
    """Runs the cases on a node and a gateway of their own, with each kind of place.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    served = [(MODEL, version) for version in GOOD]
    with (
        own_folder() as folder,
        running_fleet(project, folder / "own", 1, served, progress, spare=[(MODEL, BAD)]) as fleet,
    ):
        address = fleet.address(f"/predictions/{MODEL}")
        alone = CrashHarness(fleet.project, fleet.gateway, address, BODY, MODEL, GOOD, BAD)
        results = []
        for kind in places:
            (folder / kind).mkdir()
            with PLACES[kind](folder / kind) as control:
                harness = alone if control is None else sharing(alone, control, folder / kind / "second")
                for case in cases:
                    results += [replace(each, place=kind) for each in _kill_everywhere(harness, case, progress)]
        return results


def sharing(alone: CrashHarness, control: str, second: Path) -> CrashHarness:
    """The same model, whose operators share a place: what the first one begins and is killed at, the second resumes.

    Args:
        second: the folder of the second operator's project; it is made.
    """
    deployment = alone.project.deployment
    content = yaml.safe_load(deployment.read_text(encoding="utf-8")) | {"control": control}
    deployment.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return replace(alone, other=second_operator(alone.project, second))


def cells(result: CrashResult) -> tuple[object, ...]:
    """A row of COLUMNS."""
    most = f"{max(POLICY['steps']):g}%"
    converged = "; ".join(result.violations) or "yes"
    seconds = f"{result.resumed_s:.1f}"
    return result.case, result.place, result.point, converged, result.repeated, percent(result.highest), most, seconds


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
