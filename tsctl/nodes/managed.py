"""Changes of versions on a node that does what it is asked for, and says how far it is.

For engines whose server registers, scales and unregisters by itself, and keeps the list of what it serves over a
restart. Invariant: every change returns only when it is true. A version that could not be registered is unregistered
again.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tsctl.archive.store import StoredArchive, archive_of, require_whole
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note, Progress
from tsctl.nodes import process
from tsctl.nodes.node import Node, Restored, Unreachable
from tsctl.nodes.observed import ObservedModel, ObservedVersion, VersionKey
from tsctl.nodes.registered import add_failed_undo, already_registered, require_as_wanted, still_served

POLL_S = 0.1
#: Starting a worker's process comes before its load, which the archive's startup timeout bounds.
PROCESS_START_S = 60.0
#: How long workers may take to end, which answer the requests that they have first.
ENDING_S = 90.0
#: How long an interrupted or unanswered register is looked for, to unregister it.
UNDO_S = 5.0


@dataclass(frozen=True)
class VersionReport:
    """One version as the node reports it."""

    key: VersionKey
    observed: ObservedVersion
    is_default: bool
    refusal: str = ""  # why it must not serve: it has no workers, and may be registered anew
    is_ending: bool = False

    @property
    def is_registered(self) -> bool:
        return not (self.refusal or self.is_ending)


@dataclass(frozen=True)
class ManagedNode(Node, ABC):
    """A node of such an engine, whose server is one process of this machine, or is started by one."""

    #: Seconds from SIGTERM until it has ended by itself.
    stop_grace_s: ClassVar[float]

    # ---- the process -------------------------------------------------------------------------------------------------

    @property
    def logs(self) -> tuple[Path, ...]:
        return self.folder / "logs" / "console.log", self.folder / "logs" / "node.log"

    def start(self, project: Project, progress: Progress) -> subprocess.Popen[bytes]:
        return process.start(
            self,
            progress,
            lambda: self.launch(project),
            self.not_answering,
            lambda pid: f"pid {pid}",
            lambda: process.end(self.folder, self.stop_grace_s),
        )

    def stop(self, progress: Progress) -> bool:
        return process.stop(self, progress, lambda: process.end(self.folder, self.stop_grace_s))

    def crash_report(self) -> str:
        return process.crash_report(self)

    @abstractmethod
    def launch(self, project: Project) -> subprocess.Popen[bytes]:
        """The process, started and not waited for."""

    @abstractmethod
    def not_answering(self) -> str:
        """Why it does not answer; empty where it does."""

    # ---- what an engine does -----------------------------------------------------------------------------------------

    @abstractmethod
    def reports(self) -> list[VersionReport]:
        """Every version, also those that must not serve."""

    @abstractmethod
    def report(self, model: str, version: str) -> VersionReport | None:
        """One version; None where the node does not know it."""

    @abstractmethod
    def ask_to_register(self, archive: StoredArchive, version: str, workers: int | None) -> None:
        """Have the node register the version, or the one that must not serve anew; raises NodeError if it refuses."""

    @abstractmethod
    def ask_to_scale(self, model: str, version: str, workers: int) -> None:
        """Have the node start or end workers; raises NodeError if it refuses."""

    @abstractmethod
    def ask_to_unregister(self, model: str, version: str) -> None:
        """Have the node end the version; raises NodeError if it refuses."""

    @abstractmethod
    def ask_for_default(self, model: str, version: str) -> None:
        """Make the version the default; raises NodeError if the node refuses."""

    # ---- what it serves ----------------------------------------------------------------------------------------------

    def models(self) -> dict[str, ObservedModel]:
        versions: dict[str, dict[str, ObservedVersion]] = {}
        defaults: dict[str, str] = {}
        for report in self.reports():
            model, version = report.key
            if report.is_registered:
                versions.setdefault(model, {})[version] = report.observed
                if report.is_default:
                    defaults[model] = version
        return {model: ObservedModel(defaults.get(model), of_model) for model, of_model in versions.items()}

    def version(self, model: str, version: str) -> ObservedVersion | None:
        report = self.report(model, version)
        return report.observed if report is not None and report.is_registered else None

    def load_failures(self) -> Mapping[VersionKey, str]:
        try:
            return {report.key: report.refusal for report in self.reports() if report.refusal}
        except NodeError:
            return {}

    # ---- changes -----------------------------------------------------------------------------------------------------

    def register(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> None:
        with self._locked(archive.model):
            self._register(archive, version, workers, note, timeout_s)

    def ensure(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> bool:
        with self._locked(archive.model):
            observed = self.version(archive.model, version)
            if observed is None:
                self._register(archive, version, workers, note, timeout_s)
                return True
            require_as_wanted(archive, version, workers, self.name, observed.archive, observed.workers)
            if not observed.is_ready:
                self._wait_ready(archive.model, version, note, timeout_s)
            return False

    def replace(self, archive: StoredArchive, version: str, workers: int | None, note: Note) -> None:
        require_whole(archive)
        self._require_possible(archive, version)
        with self._locked(archive.model):
            served = self.require_version(archive.model, version)
            has_moved = self._move_default(archive.model, version)
            self._unregister(archive.model, version)
            try:
                self._register_or_restore(served, archive, version, workers, note)
            finally:
                if has_moved and self.version(archive.model, version) is not None:
                    self.ask_for_default(archive.model, version)

    def scale(
        self, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
    ) -> ObservedVersion:
        with self._locked(model):
            if self.require_version(model, version).workers != workers:  # the node restarts dead ones by itself
                self.ask_to_scale(model, version, workers)
            if workers:
                self._wait_ready(model, version, note, timeout_s)
            return self._wait(
                model, version, lambda observed: observed.ready <= workers, timeout_s or ENDING_S, "end workers"
            )

    def warm_up(self, archive: StoredArchive, version: str, note: Note) -> None:
        """Do nothing: a worker is READY when it has answered the golden samples, and nothing before it is cold."""

    def set_default(self, model: str, version: str) -> None:
        with self._locked(model):
            self.require_version(model, version)
            self.ask_for_default(model, version)

    def unregister(self, model: str, version: str) -> bool:
        with self._locked(model):
            return self._unregister(model, version)

    def give_up_default(self, model: str, version: str, successor: str | None) -> None:
        served = self.models().get(model)
        if served is None or served.default != version or len(served.versions) == 1:
            return
        others = {name: one for name, one in served.versions.items() if name != version}
        best = min(others, key=lambda name: (not others[name].is_ready, name != successor))
        self.set_default(model, best)

    def restore(self, project: Project, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
        """As in `Node`: the node does it by itself, and this waits."""
        served: list[VersionKey] = []
        for report in self.reports():
            if report.key in superseded or not report.is_registered or report.observed.ready or report.observed.failure:
                continue
            model, version = report.key
            try:
                with progress.step(f"restoring {model} {version}") as step:
                    if report.observed.workers:
                        self._wait_ready(model, version, step.note, None)
                    step.done(f"{report.observed.workers} ready")
                served.append(report.key)
            except NodeError as error:
                progress.line(error.message)
        failed = [(key, why) for key, why in self.load_failures().items() if key not in superseded]
        return Restored(tuple(served), tuple(failed))

    def forget_served(self) -> None:
        for report in sorted(self.reports(), key=lambda report: report.is_default):
            self.unregister(*report.key)

    # ---- steps of a change, with the lock held -----------------------------------------------------------------------

    def _register(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> None:
        require_whole(archive)
        self._require_possible(archive, version)
        self.prepare(archive, note)
        if self.version(archive.model, version) is not None:
            raise already_registered(archive.model, version, self.name)
        try:
            self.ask_to_register(archive, version, workers)
            self._wait_ready(archive.model, version, note, timeout_s)
        except BaseException as error:
            self._undo(archive.model, version, error)
            raise

    def _register_or_restore(
        self, served: ObservedVersion, archive: StoredArchive, version: str, workers: int | None, note: Note
    ) -> None:
        try:
            self._register(archive, version, workers, note)
        except NodeError as error:
            old = archive.other_build(served.archive)
            if not old.is_file():
                raise
            note("registering the old bytes again")
            self._register(archive_of(old), version, served.workers or None, note)
            raise still_served(error, archive.model, version, old.name) from error

    def _unregister(self, model: str, version: str) -> bool:
        report = self.report(model, version)
        if report is None:
            return False
        if not report.is_ending:
            self.ask_to_unregister(model, version)
        end = time.monotonic() + ENDING_S
        while self.report(model, version) is not None:
            if time.monotonic() > end:
                raise NodeError(f"{model} {version} on node {self.name} did not end within {ENDING_S:g} s")
            time.sleep(POLL_S)
        return report.is_registered

    def _undo(self, model: str, version: str, error: BaseException) -> None:
        """Unregister what failed, and add to `error` what fails here.

        A register whose answer never came may still be on its way, so this looks for a while.
        """
        end = time.monotonic() + (UNDO_S if isinstance(error, Unreachable | KeyboardInterrupt) else 0.0)
        try:
            while self.report(model, version) is None and time.monotonic() < end:
                time.sleep(POLL_S)
            self._unregister(model, version)
        except NodeError as second:
            add_failed_undo(error, second, model, version)

    def _move_default(self, model: str, version: str) -> bool:
        """Make another ready version the default where this one is; True if that was so."""
        served = self.models().get(model)
        if served is None or served.default != version or len(served.versions) == 1:
            return False
        ready = next((name for name, one in served.versions.items() if name != version and one.is_ready), None)
        if ready is None:
            raise NodeError(
                f"{model} {version} on node {self.name} is the default, and no other version is ready to replace it",
                f"Scale another one first: tsctl models scale {model} VERSION 1",
            )
        self.ask_for_default(model, ready)
        return True

    def _wait_ready(self, model: str, version: str, note: Note, timeout_s: float | None) -> ObservedVersion:
        """Wait until the version's workers are READY.

        Raises:
            NodeError: they refuse to load, or are not READY in time.
        """

        def is_ready(observed: ObservedVersion) -> bool:
            note(f"{observed.ready} of {observed.workers} workers ready")
            if not observed.is_ready and observed.failure:
                raise NodeError(
                    f"{model} {version} will not be ready on node {self.name}: {observed.failure}", self._log_hint
                )
            return observed.is_ready

        limit_s = timeout_s or self._startup_s(model, version) + PROCESS_START_S
        return self._wait(model, version, is_ready, limit_s, "be ready")

    def _startup_s(self, model: str, version: str) -> float:
        report = self.report(model, version)
        return report.observed.startup_s if report is not None else 0.0

    def _wait(
        self, model: str, version: str, is_reached: Callable[[ObservedVersion], bool], timeout_s: float, action: str
    ) -> ObservedVersion:
        end = time.monotonic() + timeout_s
        while True:
            report = self.report(model, version)
            if report is not None and report.refusal:
                raise NodeError(
                    f"{model} {version} refused to load on node {self.name}: {report.refusal}", self._log_hint
                )
            observed = self.require_version(model, version) if report is None else report.observed
            if is_reached(observed):
                return observed
            if time.monotonic() > end:
                raise NodeError(
                    f"{model} {version} on node {self.name} did not {action} within {timeout_s:g} s:"
                    f" {observed.ready} of {observed.workers} workers are ready",
                    self._log_hint,
                )
            time.sleep(POLL_S)

    @property
    def _log_hint(self) -> str:
        return f"The workers' log is {self.logs[-1]}."

    def _require_possible(self, archive: StoredArchive, version: str) -> None:
        if reason := self.cannot(archive, version) or self.why_unprepared(archive):
            raise NodeError(f"{archive.model} {version} cannot be on node {self.name}: {reason}")

    def _locked(self, model: str) -> AbstractContextManager[object]:
        return exclusive(self.lock(model), f"model {model} on node {self.name}")
