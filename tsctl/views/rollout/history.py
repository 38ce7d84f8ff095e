"""One line for a whole rollout: what it was, how it ended, and how much it took. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tsctl.rollout.run.journal import ENDED, REOPENED, STARTED, Entry
from tsctl.views.rollout.series import requests_of


@dataclass(frozen=True)
class Summary:
    """A rollout, read from its journal without judging anything anew.

    Args:
        outcome: of its end; `in progress` where it has none.
        signal: that failed the canary, or what else did; empty where nothing did.
        requests: of the canary.
        ended_at: None where it has not ended.
        lasted_s: until its end, or its last entry.
    """

    id: str
    model: str
    stable: str
    canary: str
    outcome: str
    signal: str
    requests: int
    began_at: float
    ended_at: float | None
    lasted_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


IN_PROGRESS = "in progress"


def summary(entries: Sequence[Entry]) -> Summary:
    """The rollout of these entries.

    Raises:
        ValueError: they do not begin with its start.
    """
    if not entries or entries[0].kind != STARTED:
        raise ValueError("a rollout's journal begins with its start")
    told = entries[0].content
    ended = next((entry for entry in reversed(entries) if entry.kind in (ENDED, REOPENED)), None)
    is_over = ended is not None and ended.kind == ENDED
    fails = [e.content.get("signal", "") for e in entries if e.kind == "verdict" and e.content["verdict"] == "fail"]
    last = ended if ended is not None and is_over else entries[-1]
    return Summary(
        told["id"],
        told["model"],
        told["stable"],
        told["canary"],
        last.content["outcome"] if is_over else IN_PROGRESS,
        fails[-1] if fails else "",
        requests_of(entries)[1],
        entries[0].at,
        last.at if is_over else None,
        last.at - entries[0].at,
    )
