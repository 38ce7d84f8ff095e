"""The effect of a shadow that is slow, hangs or crashes on clients: their 99th percentile with it and without it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.figures import Figure, Goal, Result, Turn, failures
from benchmarks.harness.run import Job
from benchmarks.harness.workload import load, own_folder
from benchmarks.harness.wrk import require_wrk
from benchmarks.targets.fleet import BODY, MODEL, SHADOWS, Fleet, running_fleet
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_shadow
from tsctl.nodes.node import Node

#: Primary and shadows wait without computing, so that on two cores the shadow takes no processor time from the others.
PRIMARY = "waits"
KINDS = {"slow": "is ten times slower", "hangs": "hangs", "crashes": "crashes at every request"}
ALONE = "no shadow"
CONNECTIONS = 4
P99_TIMES = Goal(1.1, is_ceiling=True)


def run(job: Job) -> Result:
    """Each shadow gets a copy of every request, in turns with no shadow at all.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    turns: dict[str, list[Turn]] = {}
    served, spare = [(MODEL, PRIMARY)], [(MODEL, version) for version in KINDS]
    with (
        own_folder() as folder,
        running_fleet(job.project, folder / "own", 1, served, job.progress, spare=spare, shadows=True) as fleet,
    ):
        [shadows] = [node for node in fleet.nodes if node.name == SHADOWS]
        _turn(fleet, folder, 2 * job.seconds)
        for number in range(job.rounds):
            for version, kind in KINDS.items():
                with job.progress.step(f"round {number + 1} of {job.rounds}: a shadow that {kind}") as step:
                    alone = _turn(fleet, folder, job.seconds)
                    shadowed = _shadowed_turn(fleet, shadows, version, folder, job.seconds)
                    turns.setdefault(f"{ALONE}, beside {version}", []).append(alone)
                    turns.setdefault(f"shadow {version}", []).append(shadowed)
                    step.done(f"p99 {alone.p99_ms:.1f} ms alone, {shadowed.p99_ms:.1f} ms with the shadow")
    figures = [
        Figure(f"p99 with a shadow that {kind}", "times", _p99_times(turns, version), P99_TIMES,
               failures(turns[f"shadow {version}"]))
        for version, kind in KINDS.items()
    ]  # fmt: skip
    return Result("shadow", "a shadow that is bad", {"connections": CONNECTIONS, "percent": 100}, turns, figures)


def _turn(fleet: Fleet, folder: Path, seconds: int) -> Turn:
    return load(fleet.address(f"/predictions/{MODEL}"), [BODY], CONNECTIONS, seconds, folder)


def _shadowed_turn(fleet: Fleet, node: Node, version: str, folder: Path, seconds: int) -> Turn:
    fleet.register(MODEL, version, [node])
    set_shadow(fleet.gateway, MODEL, version, TOTAL)
    turn = _turn(fleet, folder, seconds)
    set_shadow(fleet.gateway, MODEL, None, 0)
    node.unregister(MODEL, version)
    return turn


def _p99_times(turns: dict[str, list[Turn]], version: str) -> tuple[float, ...]:
    """The 99th percentile with the shadow over that without it, round by round."""
    pairs = zip(turns[f"shadow {version}"], turns[f"{ALONE}, beside {version}"], strict=True)
    return tuple((shadowed.p99_ms or 0.0) / (alone.p99_ms or 1.0) for shadowed, alone in pairs)
