"""Events of a rollout: one frozen type for each kind of entry in the journal, to and from JSON. Pure.

Invariant: kinds and keys are stored, so they keep their names. A key that this version does not know is ignored, and a
kind that it does not know becomes `Unknown` and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from tsctl.config.policy import RolloutPolicy
from tsctl.rollout.decide.judge import Judgement, Verdict
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.shadow import PairCounts
from tsctl.rollout.decide.windows import Window


class Effect(StrEnum):
    """A change to nodes or the gateway, by the name that journals store."""

    VERIFY = "verify"
    REGISTER = "register"
    VERIFY_GOLDEN = "prove"
    SET_WEIGHT = "weigh"
    REVERT_WEIGHT = "back"
    SET_DEFAULT = "default"
    RESTORE_DEFAULT = "undefault"
    RETIRE = "retire"
    EXTEND = "extend"
    COPY = "copy"
    STOP_COPYING = "uncopy"


class Command(StrEnum):
    """A person's command to a rollout."""

    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"


#: Where reading evidence goes on, by the source's keys. The first event has the whole cursor, later ones its changes.
Cursor = Mapping[str, int]
#: How the detail of an effect begins that was left undone.
LEFT_UNDONE = "left undone: "


def _without_removed(policy: Any) -> Any:
    """A policy without settings that older journals have, and that never had a source of evidence."""
    if not isinstance(policy, Mapping):
        return policy
    kept = {name: value for name, value in policy.items() if name != "shadow_floor"}
    if isinstance(signals := kept.get("signals"), list):
        kept["signals"] = [signal for signal in signals if signal != "disagreement"]
    return kept


_Policy = Annotated[
    RolloutPolicy,
    BeforeValidator(_without_removed),
    PlainSerializer(lambda policy: policy.model_dump(mode="json")),
]
_WINDOW = TypeAdapter(Window)
#: Zeros are not stored.
_Window = Annotated[Window, PlainSerializer(lambda window: _WINDOW.dump_python(window, exclude_defaults=True))]
_Effect = Annotated[Effect, Field(alias="what")]
_Command = Annotated[Command, Field(alias="what")]


@dataclass(frozen=True)
class Event:
    """What one entry of the journal says."""

    kind: ClassVar[str]


@dataclass(frozen=True)
class Started(Event):
    """The first entry.

    Args:
        archive: SHA-256 digest of the canary's archive; `file` is its name in the store.
        workers: of the canary on each node; None: as the archive says.
        stable_nodes: that serve stable, where the canary is on other ones; None: the same.
        classes: predicted by stable before the rollout, the most frequent first.
        sticky: what tells users on the route, such as `header x-user`; empty: single requests are assigned.
        trust_pickles: pickles that import more than tensors do not fail the archive.
        by: the person who started it.
        is_text: the model's answers are texts of a language model; evidence is read from the gateway's access log.
    """

    kind = "started"
    id: str
    model: str
    canary: str
    stable: str
    archive: str
    policy: _Policy
    file: str = ""
    workers: int | None = None
    nodes: tuple[str, ...] = ()
    policy_digest: str = ""
    classes: tuple[str, ...] = ()
    cursor: Cursor = field(default_factory=dict)
    sticky: str = ""
    trust_pickles: bool = False
    by: str = ""
    stable_nodes: tuple[str, ...] | None = None
    is_text: bool = False


@dataclass(frozen=True)
class EffectBegan(Event):
    """An effect is about to be tried; written once, however often it is tried."""

    kind = "doing"
    effect: _Effect
    weight: int | None = None


@dataclass(frozen=True)
class EffectDone(Event):
    """An effect succeeded, or was left undone at the end of a promotion.

    Args:
        new: nodes on which the canary was not registered before; of EXTEND, those that joined and have it now.
        requests_per_s: measured capacity of all workers of the canary together.
        workers: READY when the capacity was measured.
        warm_bytes: memory of each worker when it was warm.
    """

    kind = "done"
    effect: _Effect
    detail: str = ""
    weight: int | None = None
    new: tuple[str, ...] | None = None
    requests_per_s: float | None = None
    workers: int | None = None
    warm_bytes: Mapping[str, int] | None = None


@dataclass(frozen=True)
class StepBegan(Event):
    """A step begins; its weight is in force once SET_WEIGHT is done.

    Args:
        slow_ms: an answer that takes as long is slow; None while that is not known.
        token_ms: of a language model, an answer whose tokens take as long each has slow tokens; None as before.
        longest_s: of a language model, how long nearly all of stable's answers take.
    """

    kind = "step"
    index: int
    weight: int
    slow_ms: float | None = None
    cursor: Cursor = field(default_factory=dict)
    token_ms: float | None = None
    longest_s: float | None = None


@dataclass(frozen=True)
class Tick(Event):
    """Evidence was read.

    Args:
        held_s: watched since the last tick.
        is_disturbed: a node was unavailable, or has just come back: what it left unanswered is no evidence.
        labels: of all labelled items since the rollout began; None: as before.
        log_e: logarithm of each judged signal's e-value after this tick, and of their average; empty in old journals.
    """

    kind = "tick"
    held_s: float = 0.0
    windows: tuple[_Window, ...] = ()
    cursor: Cursor = field(default_factory=dict)
    log_e: Mapping[str, float] | None = None
    is_disturbed: bool = False
    labels: LabelCounts | None = None

    @property
    def requests(self) -> tuple[int, int]:
        """Requests of stable and of the canary."""
        return sum(window.stable.requests for window in self.windows), sum(w.canary.requests for w in self.windows)


@dataclass(frozen=True)
class PairsCompared(Event):
    """Answers of the canary, as a shadow, were compared with stable's.

    Args:
        counts: of this reading; the cursor says up to when it has the records.
        waited_s: length of the period.
        examples: ids of some requests whose answers differ.
    """

    kind = "pairs"
    counts: PairCounts
    cursor: Cursor = field(default_factory=dict)
    waited_s: float = 0.0
    examples: tuple[str, ...] = ()


@dataclass(frozen=True)
class SlowThresholdSet(Event):
    """Stable has answered often enough to tell slow answers; evidence of them begins here.

    Args:
        slow_ms: and the others, as of StepBegan.
    """

    kind = "slow"
    slow_ms: float | None = None
    cursor: Cursor = field(default_factory=dict)
    token_ms: float | None = None
    longest_s: float | None = None


@dataclass(frozen=True)
class Waiting(Event):
    """The rollout waits, or still waits; `waited_s` since it was written last."""

    kind = "waits"
    why: str
    waited_s: float = 0.0


@dataclass(frozen=True)
class VerdictReached(Event):
    """A step passed, or the canary failed.

    Args:
        signal: that failed the canary.
        judgement: the evidence behind the verdict; None before the first step and in some old journals.
    """

    kind = "verdict"
    verdict: Verdict
    why: str
    signal: str = ""
    judgement: Judgement | None = None


@dataclass(frozen=True)
class CommandReceived(Event):
    """A person, or the policy, gave a command."""

    kind = "asked"
    command: _Command
    by: str = ""


@dataclass(frozen=True)
class PolicyChanged(Event):
    """deployment.yaml has another policy; evidence begins anew under it."""

    kind = "policy"
    policy: _Policy
    policy_digest: str = ""


@dataclass(frozen=True)
class StickyChanged(Event):
    """The route assigns users where it assigned requests, or the other way; evidence begins anew at the cursor."""

    kind = "sticky"
    sticky: str
    cursor: Cursor = field(default_factory=dict)


@dataclass(frozen=True)
class Ended(Event):
    """The rollout ended; `judgement` is the last one, absent in old journals."""

    kind = "ended"
    outcome: Outcome
    why: str
    judgement: Judgement | None = None


@dataclass(frozen=True)
class Reopened(Event):
    """A promotion that has ended is rolled back on a person's command."""

    kind = "reopened"
    by: str = ""


@dataclass(frozen=True)
class NodesJoined(Event):
    """Nodes serve stable that did not when the rollout began; EXTEND registers the canary there."""

    kind = "joined"
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Repaired(Event):
    """The journal was written again: by its own process, which loses nothing, or by `tsctl rollout repair`.

    Args:
        lost: lines that could not be read. A rollout that has not ended can only be rolled back after that.
    """

    kind = "repaired"
    lost: int = 0
    by: str = ""


@dataclass(frozen=True)
class Unknown(Event):
    """An event of a kind that this version does not know."""

    kind: str  # type: ignore[misc]
    content: Mapping[str, Any]


EVENTS = {event.kind: event for event in Event.__subclasses__() if event is not Unknown}


@dataclass(frozen=True)
class Entry:
    """One line of a journal.

    Args:
        seq: 0 for the first line of a file, and one more for each.
        at: seconds since 1970, by the clock of the machine that wrote it.
    """

    seq: int
    at: float
    event: Event

    @property
    def kind(self) -> str:
        return self.event.kind

    @property
    def content(self) -> dict[str, Any]:
        """The event as the journal stores it."""
        return to_json(self.event)


def to_json(event: Event) -> dict[str, Any]:
    """The stored keys of an event; those without a value are left out."""
    if isinstance(event, Unknown):
        return dict(event.content)
    content: dict[str, Any] = _adapter(event.kind).dump_python(event, mode="json", by_alias=True, exclude_none=True)
    return content


class LaterEvent(ValueError):
    """A later version of tsctl wrote it: it has a word or a setting that this version does not know."""


def parse_event(kind: str, content: Mapping[str, Any]) -> Event:
    """The event that was stored with these keys.

    Raises:
        LaterEvent: it has a setting, or names an effect, an outcome and the like, that this version does not know.
        ValueError: a known kind lacks a key, or has a wrong value.
    """
    if not isinstance(kind, str):
        raise ValueError(f"kind {kind!r} is no word")
    if kind not in EVENTS:
        return Unknown(kind, content)
    try:
        event: Event = _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        is_later = first["type"] in ("extra_forbidden", "enum", "literal_error")
        problem = f"{kind}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise (LaterEvent if is_later else ValueError)(problem) from None
    return event


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(EVENTS[kind])
