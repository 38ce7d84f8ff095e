"""Runs a workload: all ways are started, must answer alike, are warmed, and then take turns under the same load.

All ways run during the whole workload, so that no round pays for a start; what does not have its turn is idle.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Turn
from benchmarks.harness.processes import cpu_s
from benchmarks.harness.wrk import run_wrk, write_script
from benchmarks.targets.node import Way
from tsctl.errors import NodeError
from tsctl.host.progress import Progress

#: Load before every turn: caches of the processor, and what slept meanwhile.
LEAD_S = 1
#: Bodies that every way must answer alike before anything is measured, and how far two numbers may lie apart.
ASKED = 4
TOLERANCE = 1e-4
ANSWER_S = 60

#: One turn of what takes turns: figures by name; a loop over several batch sizes has several.
TakeTurn = Callable[[], dict[str, Turn]]


@dataclass(frozen=True)
class Traffic:
    """What is sent, by how many connections at once."""

    bodies: Sequence[bytes]
    connections: int
    warming_s: int  # load on each way before the first round: the JVM compiles its hot paths only under load


@dataclass(frozen=True)
class Workload:
    """The ways that are compared, and what they are asked."""

    traffic: Traffic
    ways: Sequence[Way]
    numbers: Callable[[Any], list[float]]  # of an answer, in an order that is the same for every way
    notes: tuple[str, ...] = ()


def answers(address: Address, bodies: Sequence[bytes]) -> list[Any]:
    """The decoded answers.

    Raises:
        NodeError: one is no 200.
    """
    found = []
    for body in bodies:
        try:
            answer = requests.post(address.url, data=body, headers=dict(address.headers), timeout=ANSWER_S)
        except requests.RequestException as error:
            raise NodeError(f"{address.url} does not answer: {error}") from None
        if answer.status_code != 200:
            raise NodeError(f"{address.url} answered {answer.status_code}: {answer.text[:300]}")
        found.append(answer.json())
    return found


@contextmanager
def started(workload: Workload, progress: Progress) -> Iterator[dict[str, Address]]:
    """The address of each way by its name, while all of them run and answer alike.

    Raises:
        NodeError: one does not start, or answers otherwise than the first one.
    """
    with ExitStack() as stack:
        addresses = {}
        for way in workload.ways:
            with progress.step(f"starting {way.name}"):
                stack.callback(way.stop)
                addresses[way.name] = way.start()
        _require_alike(workload, addresses)
        yield addresses


def load_turns(workload: Workload, addresses: dict[str, Address], seconds: int, folder: Path) -> dict[str, TakeTurn]:
    """For each way, what puts load on it for `seconds` and says what came of it."""
    return {way.name: _load_turn(workload, way, addresses[way.name], seconds, folder) for way in workload.ways}


def warm(workload: Workload, addresses: dict[str, Address], folder: Path, progress: Progress) -> None:
    """Load on each way until it is warm."""
    for way in workload.ways:
        with progress.step(f"warming {way.name}") as step:
            address = addresses[way.name]
            script = write_script(folder, address.headers, workload.traffic.bodies)
            printed, _ = run_wrk(address.url, script, workload.traffic.connections, workload.traffic.warming_s)
            step.done(f"{printed.requests_s:,.0f} requests/s")


def take_turns(turns: dict[str, TakeTurn], rounds: int, progress: Progress) -> dict[str, list[Turn]]:
    """Every turn once in every round; the figures of each name, one for each round."""
    found: dict[str, list[Turn]] = {}
    for number in range(rounds):
        for title, turn in turns.items():
            with progress.step(f"round {number + 1} of {rounds}: {title}") as step:
                measured = turn()
                step.done(", ".join(f"{one.requests_s:,.0f}" for one in measured.values()) + " requests/s")
            for name, one in measured.items():
                found.setdefault(name, []).append(one)
    return found


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for nodes, archives and scripts."""
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as name:
        yield Path(name)


def _load_turn(workload: Workload, way: Way, address: Address, seconds: int, folder: Path) -> TakeTurn:
    def turn() -> dict[str, Turn]:
        script = write_script(folder, address.headers, workload.traffic.bodies)
        run_wrk(address.url, script, workload.traffic.connections, LEAD_S)
        pids = way.pids()
        before = {kind: cpu_s(group) for kind, group in pids.items()}
        printed, load_s = run_wrk(address.url, script, workload.traffic.connections, seconds)
        spent = {kind: cpu_s(group) - before[kind] for kind, group in pids.items()}
        if printed.requests == 0:
            raise NodeError(f"{way.name} answered nothing in {seconds} s", "Is the machine busy? Give more --seconds.")
        cpu_us = {kind: round(s / printed.requests * 1e6, 1) for kind, s in {**spent, "load": load_s}.items()}
        return {way.name: Turn(printed.requests_s, printed.p50_ms, printed.p99_ms, printed.failed, cpu_us)}

    return turn


def _require_alike(workload: Workload, addresses: dict[str, Address]) -> None:
    bodies = workload.traffic.bodies[:ASKED]
    found = {name: answers(address, bodies) for name, address in addresses.items()}
    first = next(iter(found))
    expected = [workload.numbers(answer) for answer in found[first]]
    for name, given in found.items():
        for want, answer in zip(expected, given, strict=True):
            have = workload.numbers(answer)
            if len(have) != len(want) or any(abs(a - b) > TOLERANCE for a, b in zip(have, want, strict=True)):
                raise NodeError(f"{name} does not answer as {first} does: {json.dumps(answer)[:300]}")
