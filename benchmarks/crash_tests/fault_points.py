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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsctl.rollout.decide.events import EffectDone, Entry, Event, to_json
from tsctl.rollout.decide.state import State
from tsctl.rollout.run import begin
from tsctl.rollout.run.effects import LiveEffects
from tsctl.rollout.run.journal import Journal

KILL_VARIABLE, POINTS_VARIABLE = "TSCTL_KILL_AT", "TSCTL_FAULT_POINTS"
#: Methods of effects, the name of each in fault points, and seconds after which it is amid.
EFFECTS = {
    "verify": ("verify", 0.5), "register": ("register", 0.8), "verify_golden": ("prove", 0.05),
    "set_weight": ("weigh", 0.008), "revert_weight": ("weigh 0", 0.008), "set_default": ("default", 0.004),
    "restore_default": ("undefault", 0.004), "retire": ("retire", 0.6),
}  # fmt: skip
_passed: Counter[str] = Counter()


def is_due(point: str) -> bool:
    """Note the point; whether to die here. Its first time has this name, the second is `POINT (2)`."""
    _passed[point] += 1
    name = point if _passed[point] == 1 else f"{point} ({_passed[point]})"
    with Path(os.environ[POINTS_VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return os.environ.get(KILL_VARIABLE) == name


def fault_point(point: str) -> None:
    """Note the point, and die where it is the one."""
    if is_due(point):
        _die()


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


def _with_fault_points(method: str, name: str, amid_s: float) -> Callable[[LiveEffects, State], EffectDone]:
    effect: Callable[[LiveEffects, State], EffectDone] = getattr(LiveEffects, method)

    def act(self: LiveEffects, state: State) -> EffectDone:
        point = f"{name} {state.weight}" if method == "set_weight" else name
        fault_point(f"before {point}")
        if is_due(f"amid {point}"):
            threading.Timer(amid_s, _die).start()
        done = effect(self, state)
        fault_point(f"after {point}")
        return done

    return act


FaultyEffects: type[LiveEffects] = type(
    "FaultyEffects",
    (LiveEffects,),
    {method: _with_fault_points(method, name, amid_s) for method, (name, amid_s) in EFFECTS.items()},
)


def main() -> None:
    """Run the rest of the command line as a command of tsctl."""
    from tsctl.cli.main import run

    vars(begin).update(Journal=FaultyJournal, LiveEffects=FaultyEffects)
    run()


if __name__ == "__main__":
    main()
