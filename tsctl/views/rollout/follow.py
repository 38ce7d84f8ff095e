"""Reads a journal that another process appends to, as it grows, with the request rates of its last minute."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tsctl.config.policy import RolloutPolicy
from tsctl.errors import AnalysisError
from tsctl.rollout.decide.events import Entry, StepBegan, Tick
from tsctl.rollout.decide.fold import after
from tsctl.rollout.decide.interventions import PolicyChanged
from tsctl.rollout.decide.state import State
from tsctl.rollout.run.journal_lines import parse

#: Rates are requests per second of this much watched time.
RECENT_S = 60.0
#: The fields of a state that `tsctl rollout status --json` has as they are.
_IN_JSON = {
    *("id", "model", "canary", "stable", "outcome", "step", "weight", "is_paused", "waits_for", "why", "signal"),
    *("started_at", "ended_at"),
}


def new_entries(path: Path, refresh: Callable[[], None] = lambda: None) -> Iterator[list[Entry]]:
    """Yield the journal's entries since the last ones, whenever the next ones are asked for; each once it is whole.

    Args:
        refresh: writes what another machine has added to the journal into the file.

    Raises:
        AnalysisError: the file is gone, or a line is no entry.
    """
    offset = count = 0
    while True:
        refresh()
        try:
            with path.open("rb") as file:
                file.seek(offset)
                content = file.read()
        except FileNotFoundError:
            raise AnalysisError(f"{path} is gone", "Somebody moved the journal away.") from None
        entries, size = parse(path, content, count)
        offset, count = offset + size, count + len(entries)
        yield entries


@dataclass(frozen=True)
class Snapshot:
    """A rollout as it is now, for people to look at."""

    state: State
    written_at: float  # time of the last entry, seconds since 1970
    ticks: tuple[Tick, ...] = ()  # of the present step, the last minute of them

    @property
    def rates(self) -> tuple[float, float] | None:
        """Requests per second of stable and of the canary; None before the first tick of the step."""
        seconds = sum(tick.held_s for tick in self.ticks)
        if not seconds:
            return None
        stable, canary = (sum(counts) for counts in zip(*(tick.requests for tick in self.ticks), strict=True))
        return stable / seconds, canary / seconds


def snapshot(entries: Iterable[Entry], before: Snapshot | None = None) -> Snapshot | None:
    """The rollout after these entries more; None before the first of all."""
    now = before
    for entry in entries:
        state = after(now.state if now else None, entry)
        now = Snapshot(state, entry.at, _ticks(now.ticks if now else (), entry))
    return now


def _ticks(ticks: tuple[Tick, ...], entry: Entry) -> tuple[Tick, ...]:
    """The last minute of ticks after one more entry; a tick without hold time has no known duration."""
    if isinstance(entry.event, StepBegan | PolicyChanged):
        return ()
    if not isinstance(entry.event, Tick) or not entry.event.held_s:
        return ticks
    ticks = (*ticks, entry.event)
    while sum(tick.held_s for tick in ticks[1:]) >= RECENT_S:
        ticks = ticks[1:]
    return ticks


def policy_json(policy: RolloutPolicy) -> dict[str, Any]:
    """The policy with weights as every other JSON has them, in hundredths of a percent; a file has percent."""
    content = policy.model_dump(mode="json") | {"steps": list(policy.weights)}
    if policy.shadow is not None:
        content["shadow"] = {"share": policy.shadow.share, **policy.shadow.model_dump(exclude={"percent"})}
    return content


def as_json(state: State) -> dict[str, Any]:
    """The state for `tsctl rollout status --json`."""
    return {name: value for name, value in vars(state).items() if name in _IN_JSON} | {
        "steps": list(state.weights),
        "held_s": round(state.held_s, 1),
        "policy": policy_json(state.policy),
        "policy_digest": state.policy.digest,
        "judgement": asdict(state.judgement),
    }
