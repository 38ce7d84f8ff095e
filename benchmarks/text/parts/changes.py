"""Streams while weights change, a node retires, and a worker is killed."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from benchmarks.harness.figures import Figure, Goal
from benchmarks.harness.run import Job
from benchmarks.harness.workload import own_folder
from benchmarks.targets.fleet import Fleet
from benchmarks.text.load import Measured, Plan, running_load
from benchmarks.text.parts.turns import LEAD_S, NONE, SHORT, Turns, clients
from benchmarks.text.prompts import MODEL, Lengths, bodies
from benchmarks.text.stream import BROKEN, REFUSED, TOLD, UNREACHED
from benchmarks.text.table import TextResult
from benchmarks.text.targets import COMPLETIONS, two_nodes
from tsctl.config.weights import TOTAL
from tsctl.errors import NodeError
from tsctl.gateway.change import set_weights
from tsctl.gateway.drain import drained

USERS = 8
CHANGES, BETWEEN_S = 20, 1.0
STABLE, CANARY = "1.0", "2.0"
#: Long answers, so that many are in the making when something ends.
LENGTHS = Lengths(SHORT.prompt, (96, 160))
BODIES, SEED = 2000, 11
#: Seconds of load before and after, and until a worker is back.
AROUND_S, BACK_S = 4.0, 120.0
POLL_S = 0.1
#: A load ends by itself after so long.
MOST_S = 280.0
TARGET = "gateway, two uvicorn nodes"
FEW = Goal(1, is_ceiling=True)


def run(job: Job) -> TextResult:
    """All of it on two nodes that serve both versions.

    Raises:
        TsctlError: a node or the gateway does not serve.
    """
    turns = Turns(job, LENGTHS)
    with own_folder() as folder, two_nodes(job, folder) as fleet:
        changed = _weights(fleet, turns)
        killed, in_hand, back_s = _killed(fleet, turns)
        retired = _retired(fleet, turns)
    settings = {"users": USERS, "changes": CHANGES, "prompt": LENGTHS.prompt, "answer": LENGTHS.answer}
    figures = [
        *lost(f"{CHANGES} changes of weight", changed),
        *killed_figures(killed, in_hand, back_s),
        *lost("a node retired with a drain", retired),
        clients(turns.rows),
    ]
    return TextResult("changes", "streams while things change", settings, {}, figures, rows=turns.rows)


class _Streams:
    """Streams of USERS while the block runs; `measured` when it has ended."""

    measured: Measured


@contextmanager
def _streams(fleet: Fleet, turns: Turns, name: str) -> Iterator[_Streams]:
    found = _Streams()
    plan = Plan(bodies(LENGTHS, BODIES, SEED), USERS, MOST_S, LEAD_S, drain_s=60.0)
    with turns.job.progress.step(name) as step, running_load(fleet.address(COMPLETIONS), plan) as running:
        time.sleep(LEAD_S + AROUND_S)
        yield found
        time.sleep(AROUND_S)
        found.measured = running.stop()
        turns.keep(f"{TARGET}: {name}", str(USERS), found.measured)
        step.done(", ".join(f"{count} {outcome}" for outcome, count in counted(found.measured).items() if count))


def _weights(fleet: Fleet, turns: Turns) -> Measured:
    """All traffic moves from one version to the other and back."""
    with _streams(fleet, turns, f"{CHANGES} changes of weight") as streams:
        for number in range(CHANGES):
            chosen = (CANARY, STABLE)[number % 2]
            set_weights(fleet.gateway, MODEL, {v: TOTAL if v == chosen else 0 for v in (STABLE, CANARY)})
            time.sleep(BETWEEN_S)
    return streams.measured


def _killed(fleet: Fleet, turns: Turns) -> tuple[Measured, float, float]:
    """What was measured, when the first node's worker was killed, and seconds until it had a successor."""
    node = fleet.nodes[0]
    with _streams(fleet, turns, "a worker is killed with -9") as streams:
        [pid, *_] = node.require_version(MODEL, STABLE).pids
        killed_at = time.perf_counter()
        os.kill(pid, signal.SIGKILL)

        def is_back() -> bool:
            found = node.require_version(MODEL, STABLE)
            return found.is_ready and pid not in found.pids

        _wait_until(is_back, "the killed worker has no successor")
        back_s = time.perf_counter() - killed_at
    return streams.measured, killed_at, back_s


def _retired(fleet: Fleet, turns: Turns) -> Measured:
    """The second node gives the stable version up; its streams end before its workers do."""
    node = fleet.nodes[1]
    node.set_default(MODEL, CANARY)  # a node's default version cannot be the first to go
    with (
        _streams(fleet, turns, "a node retires with a drain") as streams,
        drained(fleet.gateway, MODEL, STABLE, node, lambda _: None, is_for_good=True),
    ):
        node.unregister(MODEL, STABLE)
    return streams.measured


def _wait_until(holds: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + BACK_S
    while not holds():
        if time.monotonic() > end:
            raise NodeError(f"{failure} after {BACK_S:g} s")
        time.sleep(POLL_S)


def counted(measured: Measured) -> dict[str, int]:
    """Requests by outcome."""
    found: dict[str, int] = {}
    for stream in measured.streams:
        found[stream.outcome] = found.get(stream.outcome, 0) + 1
    return found


def lost(name: str, measured: Measured) -> list[Figure]:
    """Streams that ended badly, where none may."""
    counts = counted(measured)
    broken = counts.get(BROKEN, 0) + counts.get(TOLD, 0)
    return [
        Figure(f"{name}: requests", "requests", (float(len(measured.streams)),)),
        Figure(f"{name}: streams that broke", "streams", (float(broken),), NONE),
        Figure(f"{name}: refused or not reached", "requests",
               (float(counts.get(REFUSED, 0) + counts.get(UNREACHED, 0)),), NONE),
    ]  # fmt: skip


def killed_figures(measured: Measured, killed_at: float, back_s: float) -> list[Figure]:
    """What became of the streams that a killed worker had in hand: they must be told, or answered by another one."""
    begun = [s for s in measured.streams if s.moments and s.moments[0] < killed_at < s.ended]
    told = [stream for stream in begun if stream.outcome == TOLD]
    silent = [stream for stream in measured.streams if stream.outcome == BROKEN]
    failed = [stream for stream in measured.streams if stream.outcome in (REFUSED, UNREACHED)]
    soon = sorted(stream.ended - killed_at for stream in told)
    name = "a worker killed with -9"
    return [
        Figure(f"{name}: streams that had begun, on both nodes", "streams", (float(len(begun)),)),
        Figure(f"{name}: of them told", "streams", (float(len(told)),)),
        Figure(
            f"{name}: told after, slowest", "s", (soon[-1],) if soon else (), why_not="" if soon else "none was told"
        ),
        Figure(f"{name}: streams that ended in silence", "streams", (float(len(silent)),), NONE),
        Figure(f"{name}: refused or not reached", "requests", (float(len(failed)),), NONE),
        Figure(f"{name}: ready again after", "s", () if math.isnan(back_s) else (back_s,)),
    ]
