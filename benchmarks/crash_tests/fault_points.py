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

from tsctl.rollout.decide.events import EffectDone, Entry, Event, to_json
from tsctl.rollout.decide.state import State
from tsctl.rollout.run import begin
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.journal import Journal

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


class FaultyJournal(Journal):
    """A journal with fault points around every line, and in the middle of it."""

    _name = ""

    def append(self, event: Event) -> Entry:
        self._name = line_name(event.kind, to_json(event))
        fault_point(f"before {self._name}")
        entry = super().append(event)
        fault_point(f"after {self._name}")
        return entry

    def _write(self, line: bytes) -> None:
        if is_due(f"amid {self._name}"):
            super()._write(line[: len(line) // 2])
            _die()
        super()._write(line)


def line_name(kind: str, content: Mapping[str, Any]) -> str:
    """`the line done weigh 2000`."""
    words = [content[key] for key in ("what", "index", "verdict") if key in content]
    words += [content["weight"]] if content.get("what") == "weigh" else []
    return " ".join(map(str, ["the line", kind, *words]))


class FaultyEffects(LiveEffects):
    """Effects with fault points, which have the names that journals store."""

    def verify(self, state: State) -> EffectDone:
        with around("verify", 0.5):
            return super().verify(state)

    def register(self, state: State) -> EffectDone:
        with around("register", 0.8):
            return super().register(state)

    def verify_golden(self, state: State) -> EffectDone:
        with around("prove", 0.05):
            return super().verify_golden(state)

    def set_weight(self, state: State) -> EffectDone:
        with around(f"weigh {state.weight}", 0.008):
            return super().set_weight(state)

    def revert_weight(self, state: State) -> EffectDone:
        with around("weigh 0", 0.008):
            return super().revert_weight(state)

    def set_default(self, state: State) -> EffectDone:
        with around("default", 0.004):
            return super().set_default(state)

    def restore_default(self, state: State) -> EffectDone:
        with around("undefault", 0.004):
            return super().restore_default(state)

    def retire(self, state: State) -> EffectDone:
        with around("retire", 0.6):
            return super().retire(state)


def main() -> None:
    """Run the rest of the command line as a command of tsctl."""
    from tsctl.cli.main import run

    vars(begin).update(Journal=FaultyJournal, LiveEffects=FaultyEffects)
    run()


if __name__ == "__main__":
    main()
