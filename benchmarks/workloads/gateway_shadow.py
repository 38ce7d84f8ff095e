"""What clients notice of a shadow that is slow, hangs or crashes: their 99th percentile with it and without it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.harness.figures import Figure, Result, Target, Turn
from benchmarks.harness.workload import LEAD_S, own_folder
from benchmarks.harness.wrk import require_wrk, run_wrk, write_script
from benchmarks.targets.fleet import BODY, MODEL, SHADOWS, Fleet, running_fleet
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL
from tsctl.gateway.change import set_shadow
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.node import Node

#: Both wait without computing, so that on two cores the shadow takes no processor time from the others.
PRIMARY = "waits"
KINDS = {"slow": "ten times slower", "hangs": "hangs", "crashes": "crashes at every request"}
ALONE = "no shadow"
CONNECTIONS = 4
MOVED = Target(1.1, is_ceiling=True)


def run(project: Project, rounds: int, seconds: int, progress: Progress) -> Result:
    """Each shadow gets a copy of every request, in turns with no shadow at all.

    Raises:
        TsctlError: wrk is missing, or the node or the gateway does not serve.
    """
    require_wrk()
    turns: dict[str, list[Turn]] = {}
    ratios: dict[str, list[float]] = {}
    served, spare = [(MODEL, PRIMARY)], [(MODEL, version) for version in KINDS]
    with (
        own_folder() as folder,
        running_fleet(project, folder / "own", 1, served, progress, spare=spare, shadows=True) as fleet,
    ):
        [shadows] = [node for node in fleet.nodes if node.name == SHADOWS]
        _turn(fleet, folder, 2 * seconds)
        for number in range(rounds):
            for version, how in KINDS.items():
                with progress.step(f"round {number + 1} of {rounds}: a shadow {how}") as step:
                    alone = _turn(fleet, folder, seconds)
                    fleet.register(MODEL, version, [shadows])
                    set_shadow(fleet.gateway, MODEL, version, TOTAL)
                    beside = _turn(fleet, folder, seconds)
                    _take_away(fleet, shadows, version)
                    turns.setdefault(ALONE, []).append(alone)
                    turns.setdefault(f"shadow {how}", []).append(beside)
                    ratios.setdefault(how, []).append((beside.p99_ms or 0.0) / (alone.p99_ms or 1.0))
                    step.done(f"p99 {alone.p99_ms:.1f} ms alone, {beside.p99_ms:.1f} ms beside it")
    figures = [
        Figure(f"p99 beside a shadow that {_verb(how)}", "times", tuple(found), MOVED, _failed(turns[f"shadow {how}"]))
        for how, found in ratios.items()
    ]
    return Result("shadow", "a shadow that is bad", {"connections": CONNECTIONS, "percent": 100}, turns, figures)


def _turn(fleet: Fleet, folder: Path, seconds: int) -> Turn:
    address = fleet.address(f"/predictions/{MODEL}")
    script = write_script(folder, address.headers, [BODY])
    run_wrk(address.url, script, CONNECTIONS, LEAD_S)
    seen, _ = run_wrk(address.url, script, CONNECTIONS, seconds)
    return Turn(seen.requests_s, seen.p50_ms, seen.p99_ms, seen.failed)


def _take_away(fleet: Fleet, node: Node, version: str) -> None:
    set_shadow(fleet.gateway, MODEL, None, 0)
    versions.unregister(node, MODEL, version)


def _verb(how: str) -> str:
    return f"is {how}" if how.startswith("ten") else how


def _failed(turns: list[Turn]) -> int:
    return sum(turn.failed for turn in turns)
