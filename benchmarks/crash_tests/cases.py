"""Which rollouts are killed, at which of their points, and what is held against whoever goes on with one. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tsctl.rollout.decide.events import Entry, Outcome

#: Steps that pass within a second or two of the load in kill_ground.py.
POLICY: dict[str, Any] = {
    "steps": [20, 50, 100], "hold_s": 0.6, "max_hold_s": 120, "min_requests": 8, "max_error_rate": 0.6,
    "signals": ["errors"], "settle_s": 0, "tick_s": 0.2, "max_utilisation": 0.95, "keep": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Way:
    """A rollout as it goes where nobody kills it.

    Args:
        command: is struck. A `rollback` follows a promotion, and a `resume` a start that was killed after its first
            step had begun.
        policy: where it differs from POLICY.
        is_bad: whether the canary fails.
        is_new: whether the canary is registered on no node.
        is_edited: whether deployment.yaml changes once the first step has begun.
        is_idle: whether the gateway has just started, and requests come only once the first step has begun.
        struck: what the names of its points have that are struck; None: all are.
    """

    name: str
    outcome: Outcome
    command: str = "start"
    policy: Mapping[str, Any] = field(default_factory=dict)
    is_bad: bool = False
    is_new: bool = False
    is_edited: bool = False
    is_idle: bool = False
    struck: str | None = None

    def points(self, passed: Sequence[str]) -> list[str]:
        """Of the points that a rollout passed, those that are worth a kill, in order."""
        halves: dict[str, str] = {}
        for point in passed:
            if point.startswith(HALF):
                halves.setdefault(point.removeprefix(HALF).split()[0], point)
        kept = [point for point in passed if point in halves.values() or not PASSED_OVER.search(point)]
        return [point for point in kept if self.struck is None or re.search(self.struck, point)]


PROMOTED = Way("promoted", Outcome.PROMOTED)
ROLLED_BACK = Way("rolled back", Outcome.ROLLED_BACK, is_bad=True, struck="fail|weigh 0|back|ended")
WAYS = (
    PROMOTED,
    Way("registered and retired", Outcome.PROMOTED, policy={"keep": 0}, is_new=True, struck="register|retire"),
    ROLLED_BACK,
    Way("taken back", Outcome.ROLLED_BACK, command="rollback", policy={"steps": [100], "hold_s": 0}),
    Way("resumed", Outcome.PROMOTED, command="resume", struck="asked"),
    Way("edited", Outcome.PROMOTED, is_edited=True, struck="policy"),
    Way("nothing known of stable", Outcome.PROMOTED, policy={"hold_s": 4}, is_idle=True, struck="slow"),
)
HALF = "amid the line "
#: What comes again and again, what is the same moment as another point, and lines of a kind of which one was halved.
PASSED_OVER = re.compile(r"line (tick|waits).*\)$|before the line (doing|done)|after the line doing|" + HALF)


@dataclass(frozen=True)
class Killed:
    """What became of a rollout that was killed at a point.

    Args:
        misses: what was not as it should be; none where it converged.
        highest: weight of the canary that the gateway had at any time, in hundredths of a percent.
        resumed_s: from the kill to the end.
    """

    way: str
    point: str
    misses: tuple[str, ...]
    repeated: int
    highest: int
    resumed_s: float


def repeated(entries: Sequence[Entry]) -> int:
    """Steps that were begun, put in force or judged more than once; an edited policy begins its steps anew."""
    counts: Counter[tuple[Any, ...]] = Counter()
    policies, step = 0, -1
    for entry in entries:
        told = entry.content
        policies += entry.kind == "policy"
        if entry.kind == "step":
            step = told["index"]
        if entry.kind in ("step", "verdict") or (entry.kind == "done" and told["what"] == "weigh"):
            counts[entry.kind, policies, step] += 1
    return sum(count - 1 for count in counts.values())


def unread(entries: Sequence[Entry], canary: str) -> int:
    """Requests of the canary between the first cursor and the last one that no tick has told."""
    windows = [window for entry in entries for window in entry.content.get("windows", ())]
    told: int = sum(window.get("canary", {}).get("requests", 0) for window in windows)
    cursor = dict(entries[0].content["cursor"])
    begin = _requests(cursor, canary)
    for entry in entries[1:]:
        cursor.update(entry.content.get("cursor", {}))
    return _requests(cursor, canary) - begin - told


def _requests(cursor: Mapping[str, int], version: str) -> int:
    return sum(value for key, value in cursor.items() if key.startswith(f"r|{version}|"))
