"""Reads a journal that another process appends to, as it grows, and what its last minute came to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from tsctl.errors import AnalysisError
from tsctl.rollout.decide.evidence import window_of
from tsctl.rollout.decide.state import State, after
from tsctl.rollout.run.journal import Entry, parse

#: Requests per second are those of this much watched time.
RECENT_S = 60.0


class Tail:
    """One journal, read on from where it was read last; a line is read once it is whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self._count = 0

    def new(self) -> list[Entry]:
        """Entries that came since the last call, the oldest first.

        Raises:
            AnalysisError: the file is gone, or a line is no entry.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:
            raise AnalysisError(f"{self._path} is gone", "Somebody moved the journal away.") from None
        found, size = parse(self._path, content, self._count)
        self._offset += size
        self._count += len(found)
        return found


@dataclass(frozen=True)
class Standing:
    """A rollout as it is now, for people to look at.

    Args:
        written_at: time of the last entry, seconds since 1970.
        ticks: of the present step, the last minute of them: seconds, requests of stable, requests of the canary.
    """

    state: State
    written_at: float
    ticks: tuple[tuple[float, int, int], ...] = ()

    @property
    def rates(self) -> tuple[float, float] | None:
        """Requests a second of stable and of the canary; None where nothing was watched yet."""
        seconds = sum(held_s for held_s, _, _ in self.ticks)
        if not seconds:
            return None
        return sum(stable for _, stable, _ in self.ticks) / seconds, sum(seen for _, _, seen in self.ticks) / seconds


def standing(entries: Iterable[Entry], before: Standing | None = None) -> Standing | None:
    """The rollout after these entries more; None before the first of all."""
    now = before
    for entry in entries:
        state = after(now.state if now else None, entry)
        ticks = now.ticks if now else ()
        if entry.kind in ("step", "policy"):
            ticks = ()
        elif entry.kind == "tick" and entry.content.get("held_s"):  # else nobody knows in how long they came
            windows = [window_of(content) for content in entry.content.get("windows", ())]
            stable, canary = (sum(getattr(w, name).requests for w in windows) for name in ("stable", "canary"))
            ticks = _recent((*ticks, (entry.content.get("held_s", 0.0), stable, canary)))
        now = (
            Standing(state, entry.at, ticks)
            if now is None
            else replace(now, state=state, written_at=entry.at, ticks=ticks)
        )
    return now


def _recent(ticks: tuple[tuple[float, int, int], ...]) -> tuple[tuple[float, int, int], ...]:
    """Without those at the beginning that a minute of the rest does not need."""
    seconds = sum(held_s for held_s, _, _ in ticks)
    while len(ticks) > 1 and seconds - ticks[0][0] >= RECENT_S:
        seconds -= ticks[0][0]
        ticks = ticks[1:]
    return ticks
