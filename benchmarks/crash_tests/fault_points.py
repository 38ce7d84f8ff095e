"""`tsctl`, but that it kills itself with SIGKILL at one fault point of a rollout: before, amid or after a line of the
journal or an effect.

`TSCTL_KILL_AT='after weigh 2000' TSCTL_FAULT_POINTS=points.txt python -m benchmarks.crash_tests.fault_points rollout
start digits 2.0`. Every point that is passed is appended to the file; without TSCTL_KILL_AT nothing is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tsctl.rollout.decide.events import Effect, EffectDone, Entry, Event
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.run import hold, live_runner
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.journal import Journal
from tsctl.rollout.run.shared_journal import SharedJournal

KILL_VARIABLE, POINTS_VARIABLE = "TSCTL_KILL_AT", "TSCTL_FAULT_POINTS"
_passed: Counter[str] = Counter()


def is_due(point: str) -> bool:
    """Note the point; whether to die here. Its first time has this name, the second is `POINT (2)`."""
    _passed[point] += 1
    name = point if _passed[point] == 1 else f"{point} ({_passed[point]})"
    with Path(os.environ[POINTS_VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return os.environ.get(KILL_VARIABLE) == name


def fault_point(point: str) -> None:
    """Note the point, and die if it is due."""
    if is_due(point):
        _die()


@contextmanager
def around(effect: str, amid_s: float) -> Iterator[None]:
    """Fault points before and after an effect, and `amid_s` seconds after its begin."""
    fault_point(f"before {effect}")
    if is_due(f"amid {effect}"):
        threading.Timer(amid_s, _die).start()
    yield
    fault_point(f"after {effect}")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class FaultPoints(Journal):
    """Fault points of a journal around every line, and in the middle of it."""

    _name = ""

    def append(self, event: Event, may_be_late: bool = False) -> Entry:
        self._name = line_name(event.kind, to_json(event))
        fault_point(f"before {self._name}")
        entry = super().append(event, may_be_late)
        fault_point(f"after {self._name}")
        return entry

    def _write(self, line: bytes) -> None:
        if is_due(f"amid {self._name}"):
            super()._write(line[: len(line) // 2])
            _die()
        super()._write(line)


class FaultyJournal(FaultPoints):
    """A journal in a file."""


class FaultySharedJournal(FaultPoints, SharedJournal):
    """A journal at a place. In the middle of a line, the place has the entry, and the copy a half of it."""


def line_name(kind: str, content: Mapping[str, Any]) -> str:
    """`the line done weigh 2000`."""
    words = [content[key] for key in ("what", "index", "verdict") if key in content]
    words += [content["weight"]] if content.get("what") == "weigh" else []
    return " ".join(map(str, ["the line", kind, *words]))


#: Seconds from the begin of an effect to a moment amid it.
AMID_S = {
    Effect.VERIFY: 0.5,
    Effect.REGISTER: 0.8,
    Effect.VERIFY_GOLDEN: 0.05,
    Effect.SET_WEIGHT: 0.008,
    Effect.REVERT_WEIGHT: 0.008,
    Effect.SET_DEFAULT: 0.004,
    Effect.RESTORE_DEFAULT: 0.004,
    Effect.RETIRE: 0.6,
    Effect.EXTEND: 0.8,
}


class FaultyEffects(LiveEffects):
    """Effects with fault points, which have the names that journals store."""

    def apply(self, effect: Effect, state: State) -> EffectDone:
        weights = {Effect.SET_WEIGHT: f"weigh {state.weight}", Effect.REVERT_WEIGHT: "weigh 0"}
        with around(weights.get(effect, effect), AMID_S[effect]):
            return super().apply(effect, state)


def main() -> None:
    """Run the rest of the command line as a command of tsctl."""
    from tsctl.cli.main import run

    for module, name, faulty in (
        (hold, "Journal", FaultyJournal),
        (hold, "SharedJournal", FaultySharedJournal),
        (live_runner, "LiveEffects", FaultyEffects),
    ):
        vars(module)[name]  # a module that does not use the name would pass no fault point
        vars(module)[name] = faulty
    run()


if __name__ == "__main__":
    main()
