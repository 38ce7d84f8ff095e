"""A node of deployment.yaml as this machine reaches it: the one interface that every engine implements.

Callers outside `tsctl/nodes/` know this class and no engine (docs/engines.md). Every call that changes a version
returns only when the change is true, and may be made again after any failure.
"""

from __future__ import annotations

import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from tsctl.archive.inspect import Serving, facts_of
from tsctl.archive.packages import conflicts, own_packages, require_packages
from tsctl.archive.secrets import missing_secrets, publish_secrets
from tsctl.archive.store import StoredArchive
from tsctl.config.deployment import VersionTarget, read_deployment
from tsctl.config.nodes import BaseNodeSpec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError, NodeError, SpecError
from tsctl.host.limits import memory_bytes
from tsctl.host.ports import is_address_here
from tsctl.host.progress import Note, Progress
from tsctl.nodes.observed import ObservedModel, ObservedVersion, Reply, Settings, VersionKey
from tsctl.nodes.record import require_described, running_pid

#: In the folder of a node; it may be a link to another disk.
RECORDS_FOLDER = "records"


def _serving(archive: StoredArchive) -> Serving:
    try:
        return facts_of(archive.path).serving
    except ArchiveError:
        return Serving()  # the registration says why it cannot be read


class Unreachable(NodeError):
    """Nothing answers at the node's address."""


class NotRunning(NodeError):
    """The node was never started, or was stopped."""


def not_running(name: str) -> NotRunning:
    """The error of a node that tsctl starts here, and that does not run."""
    return NotRunning("the node is not running", f"Start it: tsctl node start --node {name}")


@dataclass(frozen=True)
class Restored:
    """The versions that came back after a start, and those that did not, with the reason."""

    served: tuple[VersionKey, ...]
    failed: tuple[tuple[VersionKey, str], ...]


@dataclass(frozen=True)
class Node(ABC):
    """One node; each engine has a class of its own.

    Every method that asks the node raises Unreachable or NotRunning where nothing answers, and another NodeError where
    it refuses. Methods that change a version raise ConflictError while another tsctl changes that model on this node.
    """

    name: str
    spec: BaseNodeSpec
    folder: Path  # its files on this machine, which only their owner may read

    #: Whether each version answers at an address of its own (`url`), and not at the node's.
    own_addresses: ClassVar[bool] = False
    #: Whether it is a cluster, whose versions answer at several addresses (`ObservedVersion.addresses`).
    is_cluster: ClassVar[bool] = False
    #: Whether it waits for a batch to fill, for the archive's `max_delay_ms` at most.
    waits_for_batches: ClassVar[bool] = False

    # ---- the place ---------------------------------------------------------------------------------------------------

    @property
    def protocol(self) -> str:
        """How it answers: PLAIN, or TRITON."""
        return self.spec.protocol

    @property
    def engine(self) -> str:
        """The engine's name in deployment.yaml."""
        return self.spec.engine

    @property
    def pid(self) -> int | None:
        """The pid of its process, if tsctl started it on this machine and it runs."""
        return running_pid(self.folder)

    @property
    def is_here(self) -> bool:
        """Whether the node runs on this machine, because its address is here."""
        return self.spec.is_loopback or is_address_here(self.spec.host)

    @property
    def is_ours(self) -> bool:
        """Whether `tsctl` may start and stop it here."""
        return self.is_here and self.spec.key_file is None

    @property
    def waiting_bytes(self) -> int:
        """Bytes of bodies that it can hold beside its work, where it has a machine like this one."""
        return memory_bytes() // 8

    @property
    def metrics_folder(self) -> Path:
        """The files into which its workers write their metrics."""
        return self.folder / "metrics"

    @property
    def records_folder(self) -> Path:
        """The files into which its workers write prediction records; they outlive its process."""
        return self.folder / RECORDS_FOLDER

    def lock(self, model: str) -> Path:
        """The lock for changes of one model on this node."""
        return self.folder / "locks" / f"{model}.lock"

    @property
    @abstractmethod
    def addresses(self) -> Mapping[str, str]:
        """Its addresses for people, by what answers there."""

    @property
    def token_file(self) -> Path | None:
        """The file that changes when its tokens do; None: requests for answers need none."""
        return None

    def token(self) -> str | None:
        """The bearer token of requests for answers; None where none is needed, or none is written yet.

        Raises:
            NodeError: the file cannot be trusted or read.
        """
        return None

    @property
    def token_expiry(self) -> datetime | None:
        """When the first of its tokens expires; None where none does, or none is written yet.

        Raises:
            NodeError: the file cannot be trusted or read.
        """
        return None

    @property
    def header_file(self) -> Path | None:
        """The file with the header of that token, for `curl -H @file`; None where none is needed."""
        return None

    @property
    @abstractmethod
    def logs(self) -> tuple[Path, ...]:
        """The files on this machine into which it writes; what its workers print is in the last one."""

    def path(self, model: str, version: str) -> str:
        """The path at which the version answers, at its `url`."""
        return f"/predictions/{quote(model, safe='')}/{quote(version, safe='')}"

    def url(self, model: str, version: str) -> str:
        """The address at which the version answers, which has its `path`.

        Raises:
            NodeError: the version has an address of its own, and is not registered.
        """
        return self.spec.url

    def access(self) -> dict[str, str]:
        """Headers that a request for an answer needs beside those of its body; their names are in lower case.

        Raises:
            NodeError: the file with the token cannot be trusted or read.
        """
        token = self.token()
        return {"authorization": f"Bearer {token}"} if token else {}

    def unwrap(self, reply: Reply) -> Reply:
        """The worker's answer that is in the server's answer to such a request."""
        return reply

    # ---- the process -------------------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, project: Project, progress: Progress) -> subprocess.Popen[bytes]:
        """Start the node's process and wait until it answers; end it if this fails or is interrupted.

        Raises:
            NodeError: it runs already, cannot be started, or ended by itself.
            ConflictError: another tsctl starts it at this moment.
        """

    @abstractmethod
    def restore(self, project: Project, progress: Progress, superseded: frozenset[VersionKey]) -> Restored:
        """Serve again what the node served before; one that fails stops no other, and is tried at the next start.

        Args:
            superseded: versions that the caller will register itself from newer bytes.
        """

    @abstractmethod
    def forget_served(self) -> None:
        """The next `restore` serves nothing again."""

    @abstractmethod
    def stop(self, progress: Progress) -> bool:
        """End the node and its workers; False if it did not run.

        Raises:
            NodeError: processes are left that cannot be ended.
            ConflictError: another tsctl starts or stops it at this moment.
        """

    def require_same_addresses(self) -> None:
        """Check that the running node has the engine and addresses that deployment.yaml gives it; else NodeError."""
        require_described(self.name, self.folder, self.spec)

    @abstractmethod
    def crash_report(self) -> str:
        """The last lines that it wrote before it ended by itself."""

    @abstractmethod
    def load_failures(self) -> Mapping[VersionKey, str]:
        """Why workers on this machine refused to load; of the last load of each version, empty where it was good."""

    # ---- what it serves ----------------------------------------------------------------------------------------------

    @abstractmethod
    def models(self) -> dict[str, ObservedModel]:
        """Every model that it has registered."""

    @abstractmethod
    def version(self, model: str, version: str) -> ObservedVersion | None:
        """One version as it is now; None where it is not registered."""

    def require_version(self, model: str, version: str) -> ObservedVersion:
        """The version as it is now; NodeError where it is not registered."""
        observed = self.version(model, version)
        if observed is None:
            raise NodeError(f"{model} {version} is not registered on node {self.name}", "See 'tsctl models list'.")
        return observed

    def require_default(self, model: str) -> str:
        """The version that answers where none is named; NodeError where there is none."""
        served = self.models().get(model)
        if served is None or served.default is None:
            raise NodeError(f"node {self.name} serves no version of {model}", "See 'tsctl models list'.")
        return served.default

    @abstractmethod
    def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
        """The engine's own description of the versions of a model, or of one; empty where none is registered."""

    @abstractmethod
    def predict(self, model: str, version: str | None, body: bytes, media_type: str) -> Reply:
        """The model's own answer to one request, whatever its status, past cache and metrics; None: the default."""

    @property
    def has_packages(self) -> bool:
        """Whether its workers can have packages of one model beside its own."""
        return False

    def why_unprepared(self, archive: StoredArchive) -> str:
        """Why a worker of the archive cannot have the packages or secrets that it needs here; empty where it can."""
        serving = _serving(archive)
        if (serving.requirements or serving.secrets) and not self.is_ours:
            what = "requirements" if serving.requirements else "secrets"
            return f"archive.yaml has {what}, and tsctl hands them only to nodes that it starts itself"
        if serving.requirements and not self.has_packages:
            return (
                f"archive.yaml has requirements, and engine {self.engine} has no packages for one model: serve it on an"
                " engine torchserve or uvicorn without `environment`, or install them beside the engine and leave out"
                " requirements"
            )
        return "; ".join(conflicts(serving.requirements, own_packages())) if serving.requirements else ""

    def prepare(self, archive: StoredArchive, note: Note) -> None:
        """Before the archive is registered: install the packages that it requires, and hand out its secrets.

        Raises:
            NodeError: its workers cannot have the packages or the secrets.
            ArchiveError: the packages cannot be installed.
            SpecError: a secret has no source, or cannot be read.
        """
        if reason := self.why_unprepared(archive):
            raise NodeError(f"{archive.model} {archive.version} cannot be on node {self.name}: {reason}")
        serving, project = _serving(archive), Project(self.folder.parents[2])  # its folder is .tsctl/nodes/NAME
        if serving.requirements and self.has_packages:
            require_packages(project, serving.requirements, archive.model, note)
        if not self.is_ours or not project.deployment.is_file():
            return
        deployment = read_deployment(project.deployment)
        if missing := missing_secrets(deployment, archive.model, serving.secrets):
            raise SpecError(
                f"{archive.model} needs the secret {missing[0]}, and deployment.yaml does not give it",
                f"Add to models: {archive.model}: secrets: {{{missing[0]}: {{env: VARIABLE}}}}",
            )
        publish_secrets(project, deployment, archive.model)

    # ---- changes -----------------------------------------------------------------------------------------------------

    @abstractmethod
    def cannot(self, archive: StoredArchive, version: str) -> str:
        """Why this engine cannot serve the archive as this version, whatever is done; empty where it can.

        Raises:
            ArchiveError: it cannot be read.
        """

    def cannot_have(self, archive: StoredArchive, workers: int) -> str:
        """Why a version of the archive cannot have so many workers on this node; empty where it can.

        Raises:
            ArchiveError: it cannot be read.
        """
        return ""

    def settings(self, target: VersionTarget | None) -> Settings:
        """What deployment.yaml gives a version here beside its workers; empty where the engine has no such settings."""
        return {}

    def configure(self, model: str, version: str, note: Note) -> None:
        """Give the version the `settings` of deployment.yaml; where that fails, the former ones are put back.

        Raises:
            NodeError: it is not registered, or is not READY with them before the deadline.
        """
        assert not self.settings(None), f"engine {self.engine} has settings and does not make them. This is a bug."  # noqa: S101

    @abstractmethod
    def register(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> None:
        """Register the archive as a version, and wait until its workers are READY, warm and right on golden samples.

        Args:
            workers: how many; None: as the archive says.
            note: gets the progress.
            timeout_s: None: the archive's startup timeout and a minute for the process.

        Raises:
            ArchiveError: its file is damaged.
            NodeError: it is registered already, or cannot be; what failed is unregistered again.
        """

    @abstractmethod
    def ensure(
        self, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
    ) -> bool:
        """Register the version as `register` does, unless it is registered; False where it was.

        Raises:
            NodeError: it cannot be registered, or other bytes or another number of workers are registered.
        """

    @abstractmethod
    def replace(self, archive: StoredArchive, version: str, workers: int | None, note: Note) -> None:
        """Replace the bytes of a registered version; where the new ones do not load, the old ones serve again.

        Raises:
            NodeError: the new bytes do not load, or the version cannot be replaced now.
        """

    @abstractmethod
    def scale(
        self, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None
    ) -> ObservedVersion:
        """Give the version exactly this many workers, all READY; dead ones are restarted.

        Raises:
            NodeError: it is not registered, or does not have them before the deadline.
        """

    @abstractmethod
    def warm_up(self, archive: StoredArchive, version: str, note: Note) -> None:
        """Send what the path to a version needs before it is as fast as later; raises NodeError for a wrong answer."""

    @abstractmethod
    def set_default(self, model: str, version: str) -> None:
        """Let the version, which has READY workers, answer callers of the node that name none.

        Raises:
            NodeError: it is not registered, or not ready.
        """

    @abstractmethod
    def unregister(self, model: str, version: str) -> bool:
        """Remove the version from the node; False if it was not registered.

        Raises:
            NodeError: the engine keeps it because it is the default while others exist, or its workers did not end.
        """

    @abstractmethod
    def give_up_default(self, model: str, version: str, successor: str | None) -> None:
        """Where the version is the default and others exist, another one becomes it: the successor, if it is ready."""
