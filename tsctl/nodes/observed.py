"""What nodes of any engine serve, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tsctl.errors import TsctlError

VersionKey = tuple[str, str]  # model and version
#: An engine's own settings of a version beside its workers, by their names in deployment.yaml.
Settings = Mapping[str, float | str | None]


@dataclass(frozen=True)
class ObservedVersion:
    """One version on one node."""

    archive: str  # file name in the store
    workers: int  # asked for
    ready: int  # READY now
    pids: tuple[int, ...] = ()  # of the READY ones
    queue: int = 0  # requests that wait for a worker
    failure: str = ""  # why the node starts no further worker for one that died; empty where it does
    ids: tuple[str, ...] = ()  # names of the READY workers, one for each pid
    startup_s: int = 120  # how long a worker may take to load
    queue_size: int | None = None  # requests that may wait for a worker; None: the engine does not say
    address: str = ""  # where it answers, such as http://10.0.0.2:8301; empty: where its node does
    #: Addresses at each of which it answers, where the node is a cluster of machines; empty: at one.
    addresses: tuple[str, ...] = ()
    settings: Settings = field(default_factory=dict)  # in force; empty: its engine has none

    @property
    def is_ready(self) -> bool:
        """As many READY workers as were asked for; a version with none asked for is not ready."""
        return self.workers > 0 and self.ready >= self.workers


@dataclass(frozen=True)
class ObservedModel:
    """One model's versions on one node."""

    default: str | None  # None: the node names one that it no longer has
    versions: Mapping[str, ObservedVersion]


@dataclass(frozen=True)
class ObservedNode:
    """What one node serves, or why that is not known."""

    name: str
    models: Mapping[str, ObservedModel] = field(default_factory=dict)
    error: TsctlError | None = None  # None: it answered

    @property
    def reason(self) -> str:
        """Why it did not answer, on one line; empty where it did."""
        return self.error.summary if self.error is not None else ""

    def version(self, model: str, version: str) -> ObservedVersion | None:
        """The version on this node; None where it is not registered."""
        observed = self.models.get(model)
        return observed.versions.get(version) if observed else None


@dataclass(frozen=True)
class Reply:
    """A model's answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
