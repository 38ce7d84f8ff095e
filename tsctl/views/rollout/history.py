"""Sums up a rollout in one row: versions, outcome, requests and duration. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tsctl.rollout.decide.events import Ended, Entry, Tick, VerdictReached
from tsctl.rollout.decide.fold import start_of
from tsctl.rollout.decide.interventions import Reopened
from tsctl.rollout.decide.judge import Verdict


@dataclass(frozen=True)
class Summary:
    """A rollout, read from its journal without judging anything anew."""

    id: str
    model: str
    stable: str
    canary: str
    outcome: str  # of its end, or `in progress`
    signal: str  # that failed the canary; empty where none did
    requests: int  # of the canary
    began_at: float
    ended_at: float | None  # None where it has not ended
    lasted_s: float  # until its end, or its last entry


def summary(entries: Sequence[Entry]) -> Summary:
    """The rollout of these entries.

    Raises:
        ValueError: they do not begin with its start.
    """
    start = start_of(entries)
    last = next((entry for entry in reversed(entries) if isinstance(entry.event, Ended | Reopened)), entries[-1])
    ended = last.event if isinstance(last.event, Ended) else None
    last = last if ended else entries[-1]
    verdicts = [entry.event for entry in entries if isinstance(entry.event, VerdictReached)]
    fails = [event.signal for event in verdicts if event.verdict is Verdict.FAIL]
    return Summary(
        id=start.id,
        model=start.model,
        stable=start.stable,
        canary=start.canary,
        outcome=ended.outcome if ended else "in progress",
        signal=fails[-1] if fails else "",
        requests=sum(entry.event.requests[1] for entry in entries if isinstance(entry.event, Tick)),
        began_at=entries[0].at,
        ended_at=last.at if ended else None,
        lasted_s=last.at - entries[0].at,
    )
