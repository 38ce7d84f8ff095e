"""Where rollouts are killed: a model that is released again and again behind a gateway, under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import CHECKOUT
from benchmarks.crash_tests.cases import POLICY, Killed, Way, repeated, unread
from benchmarks.crash_tests.fault_points import POINTS_VARIABLE, STRIKE_VARIABLE
from benchmarks.harness.client import Address, Connection
from tsctl.config.project import PROJECT_VARIABLE, Project
from tsctl.config.weights import TOTAL, percent
from tsctl.errors import NodeError, TsctlError
from tsctl.gateway.state import Gateway, traffic_in_force
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.torchserve.node import open_nodes
from tsctl.rollout.decide.actions import Action, next_action
from tsctl.rollout.decide.events import Outcome
from tsctl.rollout.decide.state import fold
from tsctl.rollout.run.journal import journals, read, unfinished, whole_bytes

#: Between two requests of a client.
CLIENT_S, CLIENTS = 0.02, 2
SAMPLE_S = 0.03
#: Nobody watches for so long after a kill, while requests go on.
GONE_S = 0.5
COMMAND_S = 120
EXIT_CODES = {Outcome.PROMOTED: 0, Outcome.ROLLED_BACK: 10}


@dataclass
class Seen:
    """The canary's weight in the gateway, looked at again and again."""

    highest: int = 0
    misses: list[str] = field(default_factory=list)

    def add(self, weight: int, most: int) -> None:
        """The weight, and the most that the journal had decided just before and just after."""
        self.highest = max(self.highest, weight)
        if weight > most:
            self.misses.append(f"the gateway had {percent(weight)}, and the journal {percent(most)}")


@dataclass(frozen=True)
class Attempt:
    """One rollout of a way.

    Args:
        stable: before it.
        old: journals that were there before, and are none of it.
    """

    way: Way
    canary: str
    stable: str
    old: frozenset[Path]

    @property
    def wanted(self) -> str:
        """The version that has everything in the end."""
        return self.canary if self.way.outcome is Outcome.PROMOTED else self.stable

    def command(self, model: str) -> list[str]:
        return [self.way.command, model, *([self.canary] if self.way.command == "start" else [])]


@dataclass(frozen=True)
class Ground:
    """What is released.

    Args:
        address: of the model's route.
        good: two versions that answer the body; one of them is stable, and the other one its canary.
        bad: a version that fails on the body.
    """

    project: Project
    gateway: Gateway
    address: Address
    body: bytes
    model: str
    good: tuple[str, str]
    bad: str

    def points(self, way: Way) -> list[str]:
        """Where a rollout of this way can be killed; one is run whole for it.

        Raises:
            NodeError: it does not end as it should even so.
        """
        passed, whole = self._run(way, "")
        if whole.misses:
            raise NodeError(f"a rollout that nobody kills, {way.name}, is not as it should be: {whole.misses}")
        return way.points(passed)

    def kill(self, way: Way, point: str) -> Killed:
        """A rollout was killed at the point, and somebody went on with it.

        Raises:
            NodeError: the point was not reached.
        """
        return self._run(way, point)[1]

    def _run(self, way: Way, point: str) -> tuple[list[str], Killed]:
        attempt = self._prepare(way)
        with tempfile.TemporaryDirectory() as folder, self._watched(attempt) as seen:
            points = Path(folder) / "points"
            struck = {STRIKE_VARIABLE: point, POINTS_VARIABLE: str(points)}
            status: int | None = self._tsctl("rollout", *attempt.command(self.model), struck=struck)
            if (status == -signal.SIGKILL) != bool(point):
                raise NodeError(f"{way.name}: {attempt.command(self.model)} ended with {status} at {point!r}")
            begin = time.monotonic()
            if point:
                time.sleep(GONE_S)
                status = self._go_on(attempt)
            took_s = time.monotonic() - begin
            passed = points.read_text(encoding="utf-8").splitlines()
        misses = (*self._misses(attempt, status), *dict.fromkeys(seen.misses))
        return passed, Killed(way.name, point, misses, repeated(read(self._begun()[-1])), seen.highest, took_s)

    # ---- before ----------------------------------------------------------------------------------------------------

    def _prepare(self, way: Way) -> Attempt:
        """Everything is as the way begins."""
        if unfinished(self.project, self.model) is not None:  # what an earlier miss has left
            self._tsctl("rollout", "abort", self.model)
        content = yaml.safe_load(self.project.deployment.read_text(encoding="utf-8"))
        self._write({**content, "rollout": {**POLICY, **way.policy}})
        stable = self._route().stable
        canary = self.bad if way.is_bad else next(one for one in self.good if one != stable)
        if way.is_new and any(node.client.describe(self.model, canary) for node in self.gateway.nodes()):
            self._tsctl("models", "retire", self.model, canary)
        if way.is_idle:
            self._tsctl("gateway", "stop")
            self._tsctl("gateway", "start")
        old = frozenset(journals(self.project, self.model))
        with clients(self.address, self.body):
            if way.command == "rollback":
                self._tsctl("rollout", "start", self.model, canary)
            if way.command == "resume":
                with tempfile.NamedTemporaryFile() as points:
                    struck = {STRIKE_VARIABLE: "after the line step 0", POINTS_VARIABLE: points.name}
                    self._tsctl("rollout", "start", self.model, canary, struck=struck)
        return Attempt(way, canary, stable, old)

    def _write(self, content: dict[str, Any]) -> None:
        beside = self.project.deployment.with_suffix(".new")
        beside.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        beside.replace(self.project.deployment)

    # ---- meanwhile -------------------------------------------------------------------------------------------------

    @contextmanager
    def _watched(self, attempt: Attempt) -> Iterator[Seen]:
        """What the gateway does, under load, while the block runs."""
        seen, ended = Seen(), threading.Event()

        def decided() -> int:
            begun = self._begun(attempt.old)
            return fold(read(begun[-1])).weight if begun else 0

        def look() -> None:
            while not ended.wait(SAMPLE_S):
                try:
                    most = decided()
                    weight = self._route().weights.get(attempt.canary, 0)
                    seen.add(weight, max(most, decided()))
                except TsctlError as error:
                    seen.misses.append(f"while it ran: {error.message}")

        def edit() -> None:
            while not ended.wait(SAMPLE_S):
                if decided():
                    content = yaml.safe_load(self.project.deployment.read_text(encoding="utf-8"))
                    self._write({**content, "rollout": {**POLICY, "hold_s": 0.7}})
                    return

        def begins() -> bool:
            return not attempt.way.is_idle or decided() > 0

        threads = [threading.Thread(target=act) for act in ((look, edit) if attempt.way.is_edited else (look,))]
        with clients(self.address, self.body, begins):
            for thread in threads:
                thread.start()
            try:
                yield seen
            finally:
                ended.set()
                for thread in threads:
                    thread.join()

    def _go_on(self, attempt: Attempt) -> int | None:
        """Exit code of whoever goes on; None where there was nothing left to do."""
        if unfinished(self.project, self.model) is not None:
            return self._tsctl("rollout", "resume", self.model)
        begun = self._begun(attempt.old)
        if begun and fold(read(begun[-1])).outcome is attempt.way.outcome:
            return None
        return self._tsctl("rollout", *attempt.command(self.model))

    # ---- afterwards ------------------------------------------------------------------------------------------------

    def _misses(self, attempt: Attempt, status: int | None) -> list[str]:
        """What is not as it should be at the end."""
        content = self._begun()[-1].read_bytes()
        entries = read(self._begun()[-1])
        state = fold(entries)
        shares = {version: weight for version, weight in self._route().weights.items() if weight}
        nodes = open_nodes(self.project, self.gateway.deployment)
        defaults = {node.client.default_version(self.model) for node in nodes}
        lost = unread(entries, state.canary)
        held = {
            f"it ended {state.outcome}: {state.why}": state.outcome is attempt.way.outcome,
            f"the exit code was {status}": status in (None, EXIT_CODES[attempt.way.outcome]),
            f"the weights are {shares}": shares == {attempt.wanted: TOTAL},
            f"the default is {', '.join(sorted(defaults))}": defaults == {attempt.wanted},
            f"{lost} requests are no evidence": lost == 0,
            f"{repeated(entries)} steps were repeated": repeated(entries) == 0,
            f"there is still to do: {next_action(state)}": next_action(state).action is Action.NOTHING,
            "the journal ends with half a line": whole_bytes(content) == len(content),
        }
        return [what for what, is_so in held.items() if not is_so]

    def _route(self) -> Traffic:
        return next(one for one in traffic_in_force(self.gateway) if one.model == self.model)

    def _begun(self, old: frozenset[Path] = frozenset()) -> list[Path]:
        """Journals that are not old; one without a whole line was not begun."""
        there = [path for path in journals(self.project, self.model) if path not in old]
        return [path for path in there if whole_bytes(path.read_bytes())]

    def _tsctl(self, *command: str, struck: Mapping[str, str] | None = None) -> int:
        module = "tsctl.cli.main" if struck is None else "benchmarks.crash_tests.fault_points"
        environment = {**os.environ, PROJECT_VARIABLE: str(self.project.root), **(struck or {})}
        ended = subprocess.run(
            [sys.executable, "-m", module, *command],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            check=False,
            timeout=COMMAND_S,
        )
        return ended.returncode


@contextmanager
def clients(address: Address, body: bytes, begins: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """CLIENTS ask without an end while the block runs, with a pause between two requests, once `begins` holds."""
    ended = threading.Event()

    def ask() -> None:
        connection = Connection(address)
        while not begins() and not ended.wait(CLIENT_S):
            pass
        while not ended.wait(CLIENT_S):
            connection.ask(body)
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
