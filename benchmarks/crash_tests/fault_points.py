"""`tsctl` as it is, but that it kills itself with SIGKILL at one named point of a rollout: before, amid or after a line
of the journal or an effect.

`TSCTL_STRIKE='after weigh 2000' TSCTL_POINTS=points.txt python -m benchmarks.crash_tests.fault_points rollout start
digits 2.0`. Every point that is passed is appended to the file; without TSCTL_STRIKE nothing is killed.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tsctl.rollout.decide.events import Entry, Event, to_json
from tsctl.rollout.run import begin
from tsctl.rollout.run.effects import Site
from tsctl.rollout.run.journal import Journal

STRIKE_VARIABLE, POINTS_VARIABLE = "TSCTL_STRIKE", "TSCTL_POINTS"
#: Effects, and seconds after which each is amid.
EFFECTS = {"verify": 0.5, "register": 0.8, "prove": 0.05, "weigh": 0.008, "default": 0.004, "undefault": 0.004,
           "retire": 0.6}  # fmt: skip
_passed: Counter[str] = Counter()


def is_due(point: str) -> bool:
    """Whether the process is to end here; the point is noted. Only its first time has this name, the next is `(2)`."""
    _passed[point] += 1
    name = point if _passed[point] == 1 else f"{point} ({_passed[point]})"
    with Path(os.environ[POINTS_VARIABLE]).open("a", encoding="utf-8") as file:
        file.write(f"{name}\n")
    return os.environ.get(STRIKE_VARIABLE) == name


def strike(point: str) -> None:
    if is_due(point):
        _kill()


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class StruckJournal(Journal):
    """A journal whose process may be killed around every line, and when half of it is written."""

    _name = ""

    def append(self, event: Event) -> Entry:
        self._name = line_name(event.kind, to_json(event))
        strike(f"before {self._name}")
        entry = super().append(event)
        strike(f"after {self._name}")
        return entry

    def _write(self, line: bytes) -> None:
        if is_due(f"amid {self._name}"):
            super()._write(line[: len(line) // 2])
            _kill()
        super()._write(line)


def line_name(kind: str, content: Mapping[str, Any]) -> str:
    """`the line done weigh 2000`."""
    told = [content[key] for key in ("what", "index", "verdict") if key in content]
    told += [content["weight"]] if content.get("what") == "weigh" else []
    return " ".join(map(str, ["the line", kind, *told]))


def _struck(name: str, amid_s: float) -> Callable[..., Any]:
    effect = getattr(Site, name)

    def act(self: Site, *given: Any) -> Any:
        point = " ".join([name, *map(str, given[1:])])  # the first one is the state
        strike(f"before {point}")
        if is_due(f"amid {point}"):
            threading.Timer(amid_s, _kill).start()
        found = effect(self, *given)
        strike(f"after {point}")
        return found

    return act


StruckSite: type[Site] = type("StruckSite", (Site,), {name: _struck(name, amid_s) for name, amid_s in EFFECTS.items()})


def main() -> None:
    """What follows on the command line is a command of tsctl."""
    from tsctl.cli.main import run

    vars(begin).update(Journal=StruckJournal, Site=StruckSite)
    run()


if __name__ == "__main__":
    main()
