"""The rollouts that are killed, the points at which each is killed, and the checks of its journal. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsctl.rollout.decide.events import Entry, Outcome
from tsctl.rollout.decide.stored import to_json

#: Steps that pass within a second or two of the load in harness.py.
POLICY: dict[str, Any] = {
    "steps": [20, 50, 100], "hold_s": 0.6, "max_hold_s": 120, "min_requests": 8, "max_error_rate": 0.6,
    "signals": ["errors"], "settle_s": 0, "tick_s": 0.2, "max_utilisation": 0.95, "keep": 1,
}  # fmt: skip


@dataclass(frozen=True)
class CrashCase:
    """A rollout, and how it ends without a kill.

    Args:
        command: the command that is killed. A `rollback` follows a promotion; a `resume` follows a start that was
            killed after its first step began.
        policy: where it differs from POLICY.
        is_bad: whether the canary fails.
        is_new: whether the canary is registered on no node.
        is_edited: whether deployment.yaml changes after the first step began.
        is_idle: whether the gateway has just started, and requests come only after the first step began.
        points_of: pattern of the fault points that are killed; None: all.
    """

    name: str
    outcome: Outcome
    command: str = "start"
    policy: Mapping[str, Any] = field(default_factory=dict)
    is_bad: bool = False
    is_new: bool = False
    is_edited: bool = False
    is_idle: bool = False
    points_of: str | None = None

    def points(self, passed: Sequence[str]) -> list[str]:
        """The fault points at which to kill, in order, from those that a whole rollout passed."""
        halves: dict[str, str] = {}
        for point in passed:
            if point.startswith(HALF):
                halves.setdefault(point.removeprefix(HALF).split()[0], point)
        kept = [point for point in passed if point in halves.values() or not PASSED_OVER.search(point)]
        return [point for point in kept if self.points_of is None or re.search(self.points_of, point)]


PROMOTED = CrashCase("promoted", Outcome.PROMOTED)
ROLLED_BACK = CrashCase("rolled back", Outcome.ROLLED_BACK, is_bad=True, points_of="fail|weigh 0|back|ended")
CASES = (
    PROMOTED,
    CrashCase("registered and retired", Outcome.PROMOTED, policy={"keep": 0}, is_new=True, points_of="register|retire"),
    ROLLED_BACK,
    CrashCase("rollback command", Outcome.ROLLED_BACK, command="rollback", policy={"steps": [100], "hold_s": 0}),
    CrashCase("resumed", Outcome.PROMOTED, command="resume", points_of="asked"),
    CrashCase("edited", Outcome.PROMOTED, is_edited=True, points_of="policy"),
    CrashCase("idle stable", Outcome.PROMOTED, policy={"hold_s": 4}, is_idle=True, points_of="slow"),
)
HALF = "amid the line "
#: Points that repeat, that are the same moment as another point, and all but one half line of each kind.
PASSED_OVER = re.compile(r"line (tick|waits).*\)$|before the line (doing|done)|after the line doing|" + HALF)


@dataclass(frozen=True)
class CrashResult:
    """How a rollout ended that was killed at a point.

    Args:
        violations: what is wrong at the end; none where the rollout converged.
        highest: the canary's highest weight in the gateway, in hundredths of a percent.
        resumed_s: seconds from the kill to the end.
        place: that the operators share.
    """

    case: str
    point: str
    violations: tuple[str, ...]
    repeated: int = 0
    highest: int = 0
    resumed_s: float = 0.0
    place: str = "none"


def repeated_steps(entries: Sequence[Entry]) -> int:
    """Steps that were begun, set or judged more than once; an edited policy begins its steps anew."""
    counts: Counter[tuple[Any, ...]] = Counter()
    policies, step = 0, -1
    for entry in entries:
        policies += entry.kind == "policy"
        if entry.kind == "step":
            step = to_json(entry.event)["index"]
        is_weight = entry.kind == "done" and to_json(entry.event)["what"] == "weigh"
        if entry.kind in ("step", "verdict") or is_weight:
            counts[entry.kind, policies, step] += 1
    return sum(count - 1 for count in counts.values())


def uncounted_requests(entries: Sequence[Entry], canary: str) -> int:
    """Requests of the canary between the first cursor and the last that no tick counts."""
    windows = [window for entry in entries for window in to_json(entry.event).get("windows", ())]
    counted: int = sum(window.get("canary", {}).get("requests", 0) for window in windows)
    cursor = dict(to_json(entries[0].event)["cursor"])
    first = _requests(cursor, canary)
    for entry in entries[1:]:
        cursor.update(to_json(entry.event).get("cursor", {}))
    return _requests(cursor, canary) - first - counted


def object_faults(entries: Sequence[Entry], copies: Sequence[Sequence[Entry]], writers: Sequence[str]) -> list[str]:
    """What is wrong with a journal at a place.

    Args:
        entries: that the place has; `copies`: of the operators.
        writers: the token of the process that wrote each entry.
    """
    order = [writer for number, writer in enumerate(writers) if number == 0 or writers[number - 1] != writer]
    checks = {
        "the place's entries have gaps": [entry.seq for entry in entries] == list(range(len(entries))),
        f"copies have {', '.join(str(len(copy)) for copy in copies)} entries, and the place {len(entries)}": all(
            list(copy) == list(entries) for copy in copies
        ),
        f"{len(set(order))} processes wrote the journal in {len(order)} turns": len(order) == len(set(order)),
    }
    return [fault for fault, holds in checks.items() if not holds]


def _requests(cursor: Mapping[str, int], version: str) -> int:
    return sum(value for key, value in cursor.items() if key.startswith(f"r|{version}|"))
