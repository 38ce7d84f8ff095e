"""Kills the process of a rollout with SIGKILL at every point of its way, and sees whether whoever goes on converges.

`python -m benchmarks.crash_tests [WAY...]`; ends with 1 where a rollout did not end as it would have without a kill.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.crash_tests.cases import POLICY, WAYS, Killed, Way
from benchmarks.crash_tests.harness import Ground
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import BODY, MODEL, running_fleet
from tsctl.cli.output import print_table
from tsctl.config.project import Project, find_project
from tsctl.config.weights import percent
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

GOOD, BAD = ("1.0", "2.0"), "crashes"
COLUMNS = ("rollout", "killed", "converged", "steps repeated", "highest weight", "policy's", "back after s")


def kill_everywhere(ground: Ground, ways: Sequence[Way], progress: Progress) -> list[Killed]:
    """What became of a rollout at each point of these ways."""
    found = []
    for way in ways:
        with progress.step(f"{way.name}: not killed") as step:
            points = ground.points(way)
            step.done(f"{len(points)} points")
        for number, point in enumerate(points):
            with progress.step(f"{way.name} {number + 1}/{len(points)}: {point}") as step:
                try:
                    killed = ground.kill(way, point)
                except NodeError as error:
                    killed = Killed(way.name, point, (error.message,), 0, 0, 0.0)
                step.done("; ".join(killed.misses) or "converged")
            found.append(killed)
    return found


def measure(project: Project, names: Sequence[str], progress: Progress) -> list[Killed]:
    """All of it on a node and a gateway of its own.

    Raises:
        TsctlError: the node or the gateway does not serve.
    """
    ways = [way for way in WAYS if not names or way.name in names]
    served = [(MODEL, version) for version in GOOD]
    with (
        own_folder() as folder,
        running_fleet(project, folder / "own", 1, served, progress, spare=[(MODEL, BAD)]) as fleet,
    ):
        address = fleet.address(f"/predictions/{MODEL}")
        ground = Ground(fleet.project, fleet.gateway, address, BODY, MODEL, GOOD, BAD)
        return kill_everywhere(ground, ways, progress)


def main() -> None:
    """Measure, print the table, and end with 1 where there is a miss."""
    killed = measure(find_project(), sys.argv[1:], Progress())
    most = f"{max(POLICY['steps']):g}%"
    print_table(
        COLUMNS,
        [
            (k.way, k.point, "; ".join(k.misses) or "yes", k.repeated, percent(k.highest), most, f"{k.resumed_s:.1f}")
            for k in killed
        ],
    )
    missed = sum(bool(k.misses) for k in killed)
    print(f"{len(killed)} kills, {len(killed) - missed} converged")  # noqa: T201 - the last line of a table
    sys.exit(1 if missed or not killed else 0)


if __name__ == "__main__":
    main()
