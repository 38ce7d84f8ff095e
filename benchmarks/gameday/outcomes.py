"""How one release of a game day went, from its journal and from the answers that users got. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.gameday.users import digit_of
from benchmarks.harness.client import Answer
from tsctl.config.policy import LIMIT
from tsctl.rollout.decide.events import Entry, Outcome, Tick
from tsctl.rollout.decide.fold import fold
from tsctl.rollout.decide.stored import to_json
from tsctl.rollout.decide.windows import Window

#: The gateway reports the time of an answer up to so many seconds late; it counts the answer at once.
LATE_S = 1.0
#: The engine of the stable version, and of a canary that names none.
TORCHSERVE = "torchserve"


@dataclass(frozen=True)
class Canary:
    """A version that is released, and its fault.

    Args:
        engine: of the node that it is on.
        archive: the version whose archive it serves; empty: the one of its own name.
        policy: where its release needs another policy than the others.
    """

    version: str
    fault: str
    is_bad: bool = True
    engine: str = TORCHSERVE
    archive: str = ""
    policy: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Release:
    """How one canary's release went.

    Args:
        outcome: how the rollout ended; `unfinished` where it did not.
        signal: why it was rolled back: a signal, or one of the checks before the first request.
        requests: of the route, while the canary had a weight, that the judge had read at the verdict; `on_canary`:
            those of the canary among them.
        seconds: from the canary's first request to the verdict; None where no request came to it.
        rollback_s: from the deciding request to the rollback in force; None without such a request or rollback.
        sent: requests of users during the release.
        failed: those without a 200; `failed_elsewhere`: those among them that the canary did not answer.
        misled: requests that the canary answered with another class than stable answers for the same digit.
    """

    canary: Canary
    is_right: bool
    outcome: str
    signal: str
    why: str
    requests: int
    on_canary: int
    seconds: float | None
    rollback_s: float | None
    sent: int
    failed: int
    failed_elsewhere: int
    misled: int


def release_of(
    canary: Canary,
    entries: Sequence[Entry],
    answers: Sequence[Answer],
    logged: Mapping[str, str],
    classes: Mapping[str, str],
    began: float,
) -> Release:
    """The release, from these records of it.

    Args:
        entries: the journal.
        answers: of all users during the release.
        logged: the version in the gateway's log, by id, of requests whose answer names none.
        classes: stable's class for each digit.
        began: seconds since 1970 when `Answer`'s clock was 0.
    """
    state = fold(entries)
    is_promoted = state.outcome is Outcome.PROMOTED
    windows = [window for window in _windows(entries) if window.weight]
    on_canary = [answer for answer in answers if (answer.version or logged.get(answer.user)) == canary.version]
    failed = [answer for answer in answers if answer.status != 200]
    first = min((answer.asked + began for answer in on_canary), default=None)
    verdict = next((entry for entry in reversed(entries) if _is_fail(entry)), None)
    end = verdict.at if verdict else state.ended_at
    elsewhere = {answer.user for answer in failed} - {answer.user for answer in on_canary}
    return Release(
        canary=canary,
        is_right=state.outcome is not None and is_promoted is not canary.is_bad,
        outcome=state.outcome or "unfinished",
        signal=state.signal,
        why=state.why,
        requests=sum(window.stable.requests + window.canary.requests for window in windows),
        on_canary=sum(window.canary.requests for window in windows),
        seconds=round(end - first, 2) if first is not None and end is not None else None,
        rollback_s=rollback_s(verdict, entries, on_canary, began) if verdict else None,
        sent=len(answers),
        failed=len(failed),
        failed_elsewhere=len(elsewhere),
        misled=sum(_is_misled(answer, classes) for answer in on_canary),
    )


def rollback_s(verdict: Entry, entries: Sequence[Entry], on_canary: Sequence[Answer], began: float) -> float | None:
    """Seconds from the deciding request's answer until the rollback is in force; None without a request.

    It is in force when the gateway has confirmed that stable has all traffic, and the canary has got its last request,
    whichever is later. The deciding request is one of those answered after the last reading that did not decide. Which
    one is not known, so the first is taken, and of errors the first error: the true time is at most this.
    """
    readings = [entry.at for entry in entries if entry.kind in ("tick", "step") and entry.seq < verdict.seq]
    reverted = [entry.at for entry in entries if entry.kind == "done" and to_json(entry.event)["what"] == "back"]
    if not on_canary or len(readings) < 2 or not reverted:
        return None
    signal = to_json(verdict.event).get("signal")
    since = readings[-2] - (LATE_S if signal == "slow" else 0.0)
    came = [
        answer.came + began
        for answer in on_canary
        if answer.came + began >= since and (answer.status != 200 or signal not in ("errors", LIMIT))
    ]
    if not came:
        return None
    last = max(answer.asked for answer in on_canary) + began
    return round(max(reverted[-1], last) - min(came), 2)


def _windows(entries: Sequence[Entry]) -> list[Window]:
    return [window for entry in entries if isinstance(entry.event, Tick) for window in entry.event.windows]


def _is_misled(answer: Answer, classes: Mapping[str, str]) -> bool:
    return answer.status == 200 and classes.get(digit_of(answer), answer.predicted) != answer.predicted


def _is_fail(entry: Entry) -> bool:
    return entry.kind == "verdict" and to_json(entry.event)["verdict"] == "fail"
