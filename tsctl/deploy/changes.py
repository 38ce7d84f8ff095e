"""The kinds of change that a plan is made of: each says what it does, where, from what to what.

Invariant: PHASES is the only order in which changes are made. Versions become warm before they get weight, and lose
their weight before they lose workers or leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from tsctl.config.weights import percent
from tsctl.errors import TsctlError
from tsctl.gateway.traffic import Traffic
from tsctl.nodes.observe import ObservedVersion

GATEWAY = "gateway"
NOTHING = "nothing"


@dataclass(frozen=True)
class Step:
    """One line of a change: a place, and what is there before and afterwards, for people."""

    place: str  # a node's name, or GATEWAY
    before: str
    after: str


@dataclass(frozen=True)
class Register:
    """The version is registered on nodes that lack it, READY and warm; traffic and default stay."""

    kind: ClassVar[str] = "register"
    sign: ClassVar[str] = "+"
    model: str
    version: str
    archive: str
    workers: int
    nodes: tuple[str, ...]

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(Step(node, NOTHING, f"{self.archive}, {workers_text(self.workers)}") for node in self.nodes)


@dataclass(frozen=True)
class Scale:
    """The version has this many workers, all READY."""

    kind: ClassVar[str] = "scale"
    sign: ClassVar[str] = "~"
    model: str
    version: str
    workers: int
    before: Mapping[str, ObservedVersion]  # by node
    is_down: bool = False  # fewer workers, where all are READY

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.before)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(Step(node, state_text(was), workers_text(self.workers)) for node, was in self.before.items())


@dataclass(frozen=True)
class Weigh:
    """The model's route has these weights."""

    kind: ClassVar[str] = "weights"
    sign: ClassVar[str] = "~"
    version: ClassVar[None] = None
    nodes: ClassVar[tuple[str, ...]] = ()
    model: str
    weights: Mapping[str, int]  # above 0, of TOTAL
    before: Traffic | None  # None: there is no route yet

    @property
    def steps(self) -> tuple[Step, ...]:
        return (
            Step(GATEWAY, weights_text(self.before.weights) if self.before else "no route", weights_text(self.weights)),
        )


@dataclass(frozen=True)
class SetDefault:
    """The version answers callers of the node that name none."""

    kind: ClassVar[str] = "default"
    sign: ClassVar[str] = "~"
    model: str
    version: str
    before: Mapping[str, str | None]  # the default until then, by node

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.before)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(Step(node, was or "none", self.version) for node, was in self.before.items())


@dataclass(frozen=True)
class EndRoute:
    """The model has no route: the gateway answers 404 for it."""

    kind: ClassVar[str] = "route"
    sign: ClassVar[str] = "-"
    version: ClassVar[None] = None
    nodes: ClassVar[tuple[str, ...]] = ()
    model: str
    before: Traffic

    @property
    def steps(self) -> tuple[Step, ...]:
        return (Step(GATEWAY, weights_text(self.before.weights), "no route"),)


@dataclass(frozen=True)
class Retire:
    """The version, which has no weight, has nothing in hand and is on no node any more."""

    kind: ClassVar[str] = "retire"
    sign: ClassVar[str] = "-"
    model: str
    version: str
    before: Mapping[str, ObservedVersion]  # by node

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.before)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(Step(node, f"{was.archive}, {state_text(was)}", NOTHING) for node, was in self.before.items())


Change = Register | Scale | Weigh | SetDefault | EndRoute | Retire

#: What is done first stands first.
PHASES = ("register", "scale", "weights", "default", "scale down", "route", "retire")


def phase(change: Change) -> int:
    """Where the change stands in PHASES."""
    is_down = isinstance(change, Scale) and change.is_down
    return PHASES.index("scale down" if is_down else change.kind)


@dataclass(frozen=True)
class Refusal:
    """Why a plan is not to be applied."""

    model: str
    version: str | None  # None: the model as a whole
    places: tuple[str, ...]
    reason: str
    hint: str
    error: type[TsctlError]  # what `apply` ends with


@dataclass(frozen=True)
class Unmanaged:
    """Something that is, that deployment.yaml does not say, and that the plan leaves as it is."""

    model: str
    version: str | None
    place: str
    what: str
    why_kept: str


@dataclass(frozen=True)
class Away:
    """A node or the gateway, of which the plan says nothing because it does not answer."""

    place: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What `apply` does, in this order, and what it does not do."""

    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    unmanaged: tuple[Unmanaged, ...] = ()
    away: tuple[Away, ...] = ()
    drifted: tuple[str, ...] = ()  # models that would change though the same was applied before: somebody else did it

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes and not self.refusals


def workers_text(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def state_text(state: ObservedVersion) -> str:
    """`2 workers`, and how many of them are READY where not all are."""
    missing = "" if state.is_ready or not state.workers else f", {state.ready} ready"
    return workers_text(state.workers) + missing


def weights_text(weights: Mapping[str, int]) -> str:
    """`1.0 95%, 2.0 5%`: what gets requests, the largest share first."""
    ranked = sorted(((share, version) for version, share in weights.items() if share), key=lambda one: -one[0])
    return ", ".join(f"{version} {percent(share)}" for share, version in ranked)
