"""Kills rollouts of a model that is released again and again behind a gateway, under load, and checks how they end."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.crash_tests.cases import (
    POLICY,
    CrashCase,
    CrashResult,
    object_faults,
    repeated_steps,
    uncounted_requests,
)
from benchmarks.crash_tests.fault_points import KILL_VARIABLE, POINTS_VARIABLE
from benchmarks.harness.client import Address, Connection, asking
from benchmarks.harness.commands import run_tsctl
from tsctl.config.project import Project
from tsctl.config.weights import TOTAL, percent
from tsctl.errors import NodeError, TsctlError
from tsctl.gateway.state import Gateway, traffic_in_force
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.engines import open_nodes
from tsctl.rollout.decide.actions import next_action
from tsctl.rollout.decide.events import Entry, Outcome
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.run.journal_files import journals, unfinished
from tsctl.rollout.run.journal_lines import read, whole_bytes
from tsctl.rollout.run.shared import SharedJournals, entries_at, read_object, shared_journals

#: Seconds between two requests of a client.
CLIENT_S, CLIENTS = 0.02, 2
#: Seconds between two looks at the gateway's weights.
SAMPLE_S = 0.03
#: Seconds between a kill and the command that resumes; requests go on meanwhile.
GONE_S = 0.5
EXIT_CODES = {Outcome.PROMOTED: 0, Outcome.ROLLED_BACK: 10}


@dataclass
class WeightWatch:
    """The canary's weight in the gateway, sampled while a rollout runs."""

    highest: int = 0
    violations: list[str] = field(default_factory=list)

    def add(self, weight: int, most: int) -> None:
        """Note a weight, and the most that the journal had decided just before and just after."""
        self.highest = max(self.highest, weight)
        if weight > most:
            self.violations.append(f"the gateway had {percent(weight)}, and the journal {percent(most)}")


@dataclass(frozen=True)
class Attempt:
    """One rollout of a case.

    Args:
        stable: the stable version before it.
        old: names of journals of earlier rollouts.
    """

    case: CrashCase
    canary: str
    stable: str
    old: frozenset[str]

    @property
    def wanted(self) -> str:
        """The version that has all traffic in the end."""
        return self.canary if self.case.outcome is Outcome.PROMOTED else self.stable

    def command(self, model: str) -> list[str]:
        return [self.case.command, model, *([self.canary] if self.case.command == "start" else [])]


@dataclass(frozen=True)
class CrashHarness:
    """A model behind a gateway, whose rollouts are killed.

    Args:
        address: of the model's route.
        good: two versions that answer the body; one of them is stable, and the other its canary.
        bad: a version that fails on the body.
        other: another operator, who shares a place with the first one and resumes what was killed; None: the first one
            does it.
    """

    project: Project
    gateway: Gateway
    address: Address
    body: bytes
    model: str
    good: tuple[str, str]
    bad: str
    other: Project | None = None

    @property
    def resumer(self) -> Project:
        """Who resumes, and watches meanwhile: with two operators, the copy of the one that is killed stays as it is."""
        return self.other or self.project

    def points(self, case: CrashCase) -> list[str]:
        """The fault points of a case, from one rollout that nobody kills.

        Raises:
            NodeError: even this rollout does not end as it should.
        """
        passed, whole = self._run(case, "")
        if whole.violations:
            raise NodeError(f"{case.name}: a rollout that nobody kills is wrong: {whole.violations}")
        return case.points(passed)

    def kill(self, case: CrashCase, point: str) -> CrashResult:
        """Kill a rollout at the point, and resume it.

        Raises:
            NodeError: the point was not reached.
        """
        return self._run(case, point)[1]

    def _run(self, case: CrashCase, point: str) -> tuple[list[str], CrashResult]:
        attempt = self._prepare(case)
        with tempfile.TemporaryDirectory() as folder, self._watched(attempt) as watch:
            points = Path(folder) / "points"
            status: int | None = self._rollout(*attempt.command(self.model), kill_at=point, points=points)
            if (status == -signal.SIGKILL) != bool(point):
                raise NodeError(f"{case.name}: {attempt.command(self.model)} ended with {status} at {point!r}")
            begin = time.monotonic()
            if point:
                time.sleep(GONE_S)
                status = self._resume(attempt)
            took_s = time.monotonic() - begin
            passed = points.read_text(encoding="utf-8").splitlines()
        violations = (*self._violations(attempt, status), *dict.fromkeys(watch.violations))
        repeated = repeated_steps(read(self._begun()[-1]))
        return passed, CrashResult(case.name, point, violations, repeated, watch.highest, took_s)

    # ---- before ----------------------------------------------------------------------------------------------------

    def _prepare(self, case: CrashCase) -> Attempt:
        """Bring model, gateway and deployment.yaml to the state in which the case begins."""
        if unfinished(self.resumer, self.model) is not None:  # an earlier violation left it
            self._tsctl("rollout", "abort", self.model)
        if shared_journals(self.project) is not None:
            self._tsctl("rollout", "history", self.model, project=self.project)
        self._write_policy(case.policy)
        stable = self._route().stable
        canary = self.bad if case.is_bad else next(version for version in self.good if version != stable)
        if case.is_new and any(node.version(self.model, canary) for node in self.gateway.nodes()):
            self._tsctl("models", "retire", self.model, canary)
        if case.is_idle:
            self._tsctl("gateway", "stop")
            self._tsctl("gateway", "start")
        old = frozenset(path.name for path in journals(self.resumer, self.model))
        with clients(self.address, self.body):
            if case.command == "rollback":
                self._tsctl("rollout", "start", self.model, canary)
            if case.command == "resume":
                with tempfile.NamedTemporaryFile() as points:
                    kill_at = "after the line step 0"
                    self._rollout("start", self.model, canary, kill_at=kill_at, points=Path(points.name))
        return Attempt(case, canary, stable, old)

    def _write_policy(self, policy: Mapping[str, Any]) -> None:
        for project in dict.fromkeys((self.project, self.resumer)):
            content = yaml.safe_load(project.deployment.read_text(encoding="utf-8"))
            content["rollout"] = {**POLICY, **policy}
            beside = project.deployment.with_suffix(".new")
            beside.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
            beside.replace(project.deployment)

    # ---- meanwhile -------------------------------------------------------------------------------------------------

    @contextmanager
    def _watched(self, attempt: Attempt) -> Iterator[WeightWatch]:
        """Samples the gateway's weights, under load, while the block runs."""
        watch, ended = WeightWatch(), threading.Event()

        def decided() -> int:
            begun = self._begun(attempt.old)
            return fold(read(begun[-1])).weight if begun else 0

        def sample(_: int) -> None:
            while not ended.wait(SAMPLE_S):
                try:
                    before = decided()
                    weight = self._route().weights.get(attempt.canary, 0)
                    watch.add(weight, max(before, decided()))
                except TsctlError as error:
                    watch.violations.append(f"while it ran: {error.message}")

        def edit(_: int) -> None:
            while attempt.case.is_edited and not ended.wait(SAMPLE_S):
                if decided():
                    self._write_policy({"hold_s": 0.7})
                    return

        def begins() -> bool:
            return not attempt.case.is_idle or decided() > 0

        with clients(self.address, self.body, begins), asking(sample, 1, ended), asking(edit, 1, ended):
            yield watch

    def _resume(self, attempt: Attempt) -> int | None:
        """Exit code of the command that goes on; None where nothing was left to do."""
        if unfinished(self.resumer, self.model) is not None:
            return self._tsctl("rollout", "resume", self.model)
        begun = self._begun(attempt.old)
        if begun and fold(read(begun[-1])).outcome is attempt.case.outcome:
            return None
        return self._tsctl("rollout", *attempt.command(self.model))

    # ---- afterwards ------------------------------------------------------------------------------------------------

    def _violations(self, attempt: Attempt, status: int | None) -> list[str]:
        """What is not as it would be without a kill."""
        content = self._begun()[-1].read_bytes()
        entries = read(self._begun()[-1])
        state = fold(entries)
        shares = self._route().shares
        nodes = open_nodes(self.project, self.gateway.deployment)
        defaults = {str(node.models()[self.model].default) for node in nodes}
        uncounted, repeated = uncounted_requests(entries, state.canary), repeated_steps(entries)
        checks = {
            f"it ended {state.outcome}: {state.why}": state.outcome is attempt.case.outcome,
            f"the exit code was {status}": status in (None, EXIT_CODES[attempt.case.outcome]),
            f"the weights are {shares}": shares == {attempt.wanted: TOTAL},
            f"the default is {', '.join(sorted(defaults))}": defaults == {attempt.wanted},
            f"{uncounted} requests are not counted": uncounted == 0,
            f"{repeated} steps were repeated": repeated == 0,
            f"the next action is {next_action(state)}": next_action(state) is None,
            "the journal ends with half a line": whole_bytes(content) == len(content),
        }
        faults = [violation for violation, holds in checks.items() if not holds]
        shared = shared_journals(self.project)
        return faults if shared is None else [*faults, *self._place_faults(shared, state.id, entries)]

    def _place_faults(self, shared: SharedJournals, id: str, copy: Sequence[Entry]) -> list[str]:
        """What is wrong at the place that two operators share, or in their copies of the rollout's journal."""
        place, prefix = shared.place, entries_at(self.model, id)
        objects = [
            read_object(name, number, place.read(name) or b"") for number, name in enumerate(place.names(f"{prefix}/"))
        ]
        [killed] = [path for path in journals(self.project, self.model) if path.stem == id]
        faults = object_faults(
            [entry for entry, _ in objects], [copy, read(killed)], [writer["token"] for _, writer in objects]
        )
        begun = shared.ids(self.model).count(id)
        left = place.names("asked/")
        return [*faults, *[f"it began {begun} times"] * (begun != 1), *[f"commands are left: {left}"] * bool(left)]

    def _route(self) -> Traffic:
        return traffic_in_force(self.gateway)[self.model]

    def _begun(self, old: frozenset[str] = frozenset()) -> list[Path]:
        """Journals that are not old and have a whole line; without one nothing was begun."""
        paths = [path for path in journals(self.resumer, self.model) if path.name not in old]
        return [path for path in paths if whole_bytes(path.read_bytes())]

    def _tsctl(self, *command: str, project: Project | None = None) -> int:
        return run_tsctl(project or self.resumer, *command).status

    def _rollout(self, *command: str, kill_at: str, points: Path) -> int:
        """Exit code of `tsctl rollout` with fault points; it is killed at `kill_at`, or at none where that is ''."""
        environment = {KILL_VARIABLE: kill_at, POINTS_VARIABLE: str(points)}
        module = "benchmarks.crash_tests.fault_points"
        return run_tsctl(self.project, "rollout", *command, module=module, environment=environment).status


@contextmanager
def clients(address: Address, body: bytes, begins: Callable[[], bool] = lambda: True) -> Iterator[None]:
    """CLIENTS send requests, CLIENT_S apart, while the block runs; the first comes once `begins` holds."""
    ended = threading.Event()

    def ask(_: int) -> None:
        connection = Connection(address)
        while not begins() and not ended.wait(CLIENT_S):
            pass
        while not ended.wait(CLIENT_S):
            connection.ask(body)
        connection.close()

    with asking(ask, CLIENTS, ended):
        yield
