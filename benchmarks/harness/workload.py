"""Runs a workload: all targets are started, must answer alike, are warmed, and then take turns under the same load.

All targets run during the whole workload, so that no round pays for a start; those without the turn are idle.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks.harness.client import Address
from benchmarks.harness.figures import Turn
from benchmarks.harness.target import Target
from benchmarks.harness.wrk import run_wrk, write_script
from tsctl.errors import NodeError
from tsctl.host.http import direct_session
from tsctl.host.progress import Progress
from tsctl.host.usage import cpu_seconds

#: Seconds of load before every turn, for the processor's caches and for processes that slept meanwhile.
LEAD_S = 1
#: Bodies that all targets must answer alike before anything is measured, and how far two numbers may lie apart.
COMPARED = 4
TOLERANCE = 1e-4
ANSWER_S = 60

#: Measures one turn: figures by name. A loop over several batch sizes has several.
TakeTurn = Callable[[], dict[str, Turn]]


@dataclass(frozen=True)
class Requests:
    """The bodies that are sent, in this order and over and over."""

    bodies: Sequence[bytes]
    connections: int
    warming_s: int  # load on each target before the first round: the JVM compiles its hot paths only under load


@dataclass(frozen=True)
class Workload:
    """The targets that are compared, and their requests."""

    requests: Requests
    targets: Sequence[Target]
    numbers: Callable[[Any], list[float]]  # of an answer, in an order that is the same for every target
    notes: tuple[str, ...] = ()


def answers(address: Address, bodies: Sequence[bytes]) -> list[Any]:
    """The decoded answers.

    Raises:
        NodeError: an answer is no 200.
    """
    decoded, session = [], direct_session()
    for body in bodies:
        try:
            answer = session.post(address.url, data=body, headers=dict(address.headers), timeout=ANSWER_S)
        except requests.RequestException as error:
            raise NodeError(f"{address.url} does not answer: {error}") from None
        if answer.status_code != 200:
            raise NodeError(f"{address.url} answered {answer.status_code}: {answer.text[:300]}")
        decoded.append(answer.json())
    return decoded


@contextmanager
def started(workload: Workload, progress: Progress) -> Iterator[dict[str, Address]]:
    """The address of each target by its name, while all of them run and answer alike.

    Raises:
        NodeError: a target does not start, or answers otherwise than the first.
    """
    with ExitStack() as stack:
        addresses = {}
        for target in workload.targets:
            with progress.step(f"starting {target.name}"):
                stack.callback(target.stop)
                addresses[target.name] = target.start()
        _require_alike(workload, addresses)
        yield addresses


def measure_turns(
    workload: Workload,
    rounds: int,
    seconds: int,
    folder: Path,
    progress: Progress,
    more: Mapping[str, TakeTurn] | None = None,
) -> dict[str, list[Turn]]:
    """Start and warm all targets, then let them take turns; the turns of each target, one for each round.

    Args:
        seconds: measured load per turn.
        more: what takes turns besides the targets, by title.
    """
    with started(workload, progress) as addresses:
        _warm(workload, addresses, folder, progress)
        sent = workload.requests

        def turn_of(target: Target) -> TakeTurn:
            address = addresses[target.name]
            return lambda: {target.name: load(address, sent.bodies, sent.connections, seconds, folder, target.pids)}

        targets = {target.name: turn_of(target) for target in workload.targets}
        return _take_turns({**targets, **(more or {})}, rounds, progress)


def load(
    address: Address,
    bodies: Sequence[bytes],
    connections: int,
    seconds: int,
    folder: Path,
    pids: Callable[[], dict[str, list[int]]] = dict,
) -> Turn:
    """One turn of wrk, after LEAD_S of the same load.

    Args:
        pids: the server's processes, whose processor time is measured.

    Raises:
        NodeError: nothing was answered.
    """
    script = write_script(folder, address.headers, bodies)
    run_wrk(address.url, script, connections, LEAD_S)
    groups = pids()
    before = {kind: cpu_seconds(group) for kind, group in groups.items()}
    report, load_s = run_wrk(address.url, script, connections, seconds)
    spent = {kind: cpu_seconds(group) - before[kind] for kind, group in groups.items()}
    if report.requests == 0:
        raise NodeError(f"{address.url} answered nothing in {seconds} s", "Is the machine busy? Give more --seconds.")
    cpu_us = {kind: round(s / report.requests * 1e6, 1) for kind, s in {**spent, "load": load_s}.items()}
    return Turn(report.requests_s, report.p50_ms, report.p99_ms, report.failed, cpu_us)


@contextmanager
def own_folder() -> Iterator[Path]:
    """A temporary folder for nodes, archives and scripts."""
    with tempfile.TemporaryDirectory(prefix="tsctl-bench-") as name:
        yield Path(name)


def _warm(workload: Workload, addresses: dict[str, Address], folder: Path, progress: Progress) -> None:
    for target in workload.targets:
        with progress.step(f"warming {target.name}") as step:
            address = addresses[target.name]
            script = write_script(folder, address.headers, workload.requests.bodies)
            report, _ = run_wrk(address.url, script, workload.requests.connections, workload.requests.warming_s)
            step.done(f"{report.requests_s:,.0f} requests/s")


def _take_turns(turns: Mapping[str, TakeTurn], rounds: int, progress: Progress) -> dict[str, list[Turn]]:
    measured: dict[str, list[Turn]] = {}
    for number in range(rounds):
        for title, take_turn in turns.items():
            with progress.step(f"round {number + 1} of {rounds}: {title}") as step:
                figures = take_turn()
                step.done(", ".join(f"{turn.requests_s:,.0f}" for turn in figures.values()) + " requests/s")
            for name, turn in figures.items():
                measured.setdefault(name, []).append(turn)
    return measured


def _require_alike(workload: Workload, addresses: dict[str, Address]) -> None:
    bodies = workload.requests.bodies[:COMPARED]
    first, *others = addresses
    expected = [workload.numbers(answer) for answer in answers(addresses[first], bodies)]
    for name in others:
        for want, answer in zip(expected, answers(addresses[name], bodies), strict=True):
            have = workload.numbers(answer)
            if len(have) != len(want) or any(abs(a - b) > TOLERANCE for a, b in zip(have, want, strict=True)):
                raise NodeError(f"{name} does not answer as {first} does: {json.dumps(answer)[:300]}")
