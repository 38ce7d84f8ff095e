"""The kinds of change that a plan consists of: each says what it changes and where.

Invariant: PHASES is the only order in which changes are made. Versions become warm before they get weight, and lose
their weight before they lose workers or leave.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from tsctl.errors import TsctlError
from tsctl.gateway.traffic import Traffic, weights_text
from tsctl.nodes.observed import ObservedVersion, Settings

GATEWAY = "gateway"


def gateway_place(name: str) -> str:
    """The place of one of several gateways."""
    return f"{GATEWAY} {name}"


Before = TypeVar("Before")


@dataclass(frozen=True)
class PlanOptions:
    """What the caller lets a plan do besides what deployment.yaml names."""

    prune: bool = False  # retire versions that it does not name, except those with weight
    prune_models: bool = False  # the same, and models that it does not name lose their routes first
    replace: bool = False  # new bytes under a version that a node has: `tsctl up`, never `tsctl apply`


@dataclass(frozen=True)
class Register:
    """Registers a version on nodes that lack it, READY and warm; traffic and default stay."""

    kind: ClassVar[str] = "register"
    model: str
    version: str
    archive: str
    workers: int
    nodes: tuple[str, ...]
    lacks_golden: bool = False  # nothing says which of its answers are right
    lacks_packages: str = ""  # what becomes of a stock archive's requirements; empty: nothing is missing
    is_pulled: bool = False  # the archive came from the store of all machines


@dataclass(frozen=True)
class _OnNodes(Generic[Before]):
    """A change of a version that nodes have."""

    model: str
    version: str
    before: Mapping[str, Before]  # by node

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(self.before)


@dataclass(frozen=True)
class _OnRoute:
    """A change of a model's route."""

    version: ClassVar[None] = None
    nodes: ClassVar[tuple[str, ...]] = ()
    model: str


@dataclass(frozen=True)
class Replace(_OnNodes[ObservedVersion]):
    """Replaces the bytes of a version in place: the old ones end, the new ones become READY, the default stays."""

    kind: ClassVar[str] = "replace"
    archive: str
    workers: int
    lacks_golden: bool = False
    lacks_packages: str = ""
    is_pulled: bool = False


@dataclass(frozen=True)
class Scale(_OnNodes[ObservedVersion]):
    """Gives a version this many workers, all READY."""

    kind: ClassVar[str] = "scale"
    workers: int
    is_down: bool = False  # fewer workers, where all are READY


@dataclass(frozen=True)
class Configure(_OnNodes[ObservedVersion]):
    """Gives a version what deployment.yaml says of it beside its workers; the engine may replace them one by one."""

    kind: ClassVar[str] = "configure"
    settings: Mapping[str, Settings]  # all of them, by node


@dataclass(frozen=True)
class SetWeights(_OnRoute):
    """Sets the weights of a model's route."""

    kind: ClassVar[str] = "weights"
    weights: Mapping[str, int]  # above 0, of TOTAL
    before: Traffic | None  # None: there is no route yet


@dataclass(frozen=True)
class SetDefault(_OnNodes[str | None]):
    """Makes a version answer the node's callers that name none; `before` is the default until then."""

    kind: ClassVar[str] = "default"


@dataclass(frozen=True)
class RemoveRoute(_OnRoute):
    """Removes a model's route: the gateway answers 404 for it."""

    kind: ClassVar[str] = "route"
    before: Traffic


@dataclass(frozen=True)
class Retire(_OnNodes[ObservedVersion]):
    """Unregisters a version without weight from every node, after its last request was answered."""

    kind: ClassVar[str] = "retire"


@dataclass(frozen=True)
class Withdraw(_OnNodes[ObservedVersion]):
    """Unregisters a version from nodes that deployment.yaml does not name for it; others go on serving it."""

    kind: ClassVar[str] = "withdraw"


Change = Register | Replace | Scale | Configure | SetWeights | SetDefault | RemoveRoute | Withdraw | Retire

#: The first phase is made first.
PHASES = (
    "register", "replace", "scale", "configure", "weights", "default", "scale down", "route", "withdraw", "retire",
)  # fmt: skip


def phase(change: Change) -> int:
    """The position of the change in PHASES."""
    is_down = isinstance(change, Scale) and change.is_down
    return PHASES.index("scale down" if is_down else change.kind)


def places(change: Change) -> tuple[str, ...]:
    """The nodes that the change is made on, or the gateway."""
    return change.nodes or (GATEWAY,)


def title(change: Change) -> str:
    """The change in progress, for people."""
    match change:
        case Register():
            unchecked = ", which has no golden answers" if change.lacks_golden else ""
            return f"registering {change.model} {change.version}{unchecked}"
        case Replace():
            return f"replacing {change.model} {change.version}"
        case Scale():
            return f"scaling {change.model} {change.version} to {workers_text(change.workers)}"
        case Configure():
            return f"configuring {change.model} {change.version}"
        case SetWeights():
            return f"weights of {change.model}: {weights_text(change.weights)}"
        case SetDefault():
            return f"default of {change.model}: {change.version}"
        case RemoveRoute():
            return f"removing the route of {change.model}"
        case Withdraw():
            return f"withdrawing {change.model} {change.version}"
        case Retire():
            return f"retiring {change.model} {change.version}"


def is_barred_by_rollout(change: Change, options: PlanOptions) -> bool:
    """Whether an unfinished rollout of the model forbids the change.

    `apply` changes nothing of such a model. `up` may bring back what it serves, and must not change its bytes.
    """
    return not options.replace or isinstance(change, Replace)


@dataclass(frozen=True)
class Refusal:
    """A reason why a plan must not be applied."""

    model: str
    version: str | None  # None: the model as a whole
    places: tuple[str, ...]
    reason: str
    hint: str
    error: type[TsctlError]  # what `apply` ends with

    def covers(self, change: Change, options: PlanOptions) -> bool:
        """Whether the change is not made: `apply` changes nothing of the model, `up` leaves out what is refused."""
        return self.model == change.model and (not options.replace or self.version in (None, change.version))


@dataclass(frozen=True)
class Unmanaged:
    """Something that exists, that deployment.yaml does not name, and that the plan leaves as it is."""

    model: str
    version: str | None
    place: str
    description: str
    reason: str  # why it is kept


@dataclass(frozen=True)
class Unavailable:
    """A node or the gateway that did not answer, so that the plan does not cover it."""

    place: str
    reason: str
    hint: str = ""  # what makes it answer


@dataclass(frozen=True)
class Plan:
    """What `apply` does, in this order, and what it does not do."""

    changes: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    unmanaged: tuple[Unmanaged, ...] = ()
    unavailable: tuple[Unavailable, ...] = ()
    drifted: tuple[str, ...] = ()  # models that differ from deployment.yaml though the same was applied before
    is_unknown: bool = False  # no node answers, so nothing is compared
    is_unpublished: bool = False  # of several gateways: deployment.yaml is not what they have

    @property
    def is_empty(self) -> bool:
        """Whether nothing would change."""
        return not self.changes and not self.refusals and not self.is_unpublished


def workers_text(count: int) -> str:
    return "1 worker" if count == 1 else f"{count} workers"


def settings_text(settings: Settings, other: Settings) -> str:
    """`num_cpus 0.5, max_replicas 4`: those that the other ones have otherwise."""
    differing = {key: value for key, value in settings.items() if key not in other or other[key] != value}
    return ", ".join(f"{key} {'none' if value is None else value}" for key, value in differing.items()) or "none"


def state_text(state: ObservedVersion) -> str:
    """`2 workers`, and how many of them are READY where not all are."""
    missing = "" if state.is_ready or not state.workers else f", {state.ready} ready"
    return workers_text(state.workers) + missing
