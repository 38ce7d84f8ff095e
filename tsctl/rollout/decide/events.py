"""Events of a rollout: one frozen type for each kind of entry in the journal. Pure.

Invariant: kinds and keys are stored (stored.py), so they keep their names. Events that come from outside are in
interventions.py, the shadow stage's in shadow.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from tsctl.rollout.decide.judge import Judgement, Verdict
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.stored_values import StoredPolicy, StoredWindow


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


class Outcome(StrEnum):
    """How a rollout ended."""

    PROMOTED = "promoted"
    ROLLED_BACK = "rolled back"
    ABORTED = "aborted"


#: Where reading evidence goes on, by the source's keys. The first event has the whole cursor, later ones its changes.
Cursor = Mapping[str, int]
#: How the detail of an effect begins that was left undone.
LEFT_UNDONE = "left undone: "


_Effect = Annotated[Effect, Field(alias="what")]


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
    policy: StoredPolicy
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
    windows: tuple[StoredWindow, ...] = ()
    cursor: Cursor = field(default_factory=dict)
    log_e: Mapping[str, float] | None = None
    is_disturbed: bool = False
    labels: LabelCounts | None = None

    @property
    def requests(self) -> tuple[int, int]:
        """Requests of stable and of the canary."""
        return sum(window.stable.requests for window in self.windows), sum(w.canary.requests for w in self.windows)


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
class Ended(Event):
    """The rollout ended; `judgement` is the last one, absent in old journals."""

    kind = "ended"
    outcome: Outcome
    why: str
    judgement: Judgement | None = None


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
