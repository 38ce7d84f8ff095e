"""What one release of a game day came to, from its journal and from what users met. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.gameday.users import picture_of
from benchmarks.harness.client import Answer
from tsctl.config.policy import LIMIT
from tsctl.rollout.decide.events import Entry, Outcome, Tick
from tsctl.rollout.decide.evidence import Window
from tsctl.rollout.decide.state import fold

#: The gateway tells times of answers so late; counts of them, at once.
TOLD_LATE_S = 1.0


@dataclass(frozen=True)
class Canary:
    """A version that is released, and what is bad about it."""

    version: str
    what: str
    is_bad: bool = True


@dataclass(frozen=True)
class Row:
    """How one canary's release went.

    Args:
        outcome: how the rollout ended; `unfinished` where it did not.
        signal: what it was rolled back by: a signal, or one of the checks before the first request.
        requests: of the route, while the canary had a weight, that the judge had seen at the verdict; `on_canary`,
            those of the canary among them.
        seconds: from the canary's first request to the verdict; None where no request came to it.
        back_s: from the deciding request to the rollback in force; None where no request came to it, or no rollback.
        met: requests of users while it was released.
        failed: of those, the ones without a 200; `others_failed`, those among them that the canary did not answer.
        misled: requests that the canary answered with another class than stable, where stable had the same picture.
    """

    canary: str
    what: str
    is_right: bool
    outcome: str
    signal: str
    why: str
    requests: int
    on_canary: int
    seconds: float | None
    back_s: float | None
    met: int
    failed: int
    others_failed: int
    misled: int


def row(
    canary: Canary,
    entries: Sequence[Entry],
    answers: Sequence[Answer],
    logged: Mapping[str, str],
    known: Mapping[str, str],
    began: float,
) -> Row:
    """What the release came to.

    Args:
        entries: the journal.
        answers: of all users while it was released.
        logged: the version of requests whose answer does not tell it, by id, as the gateway's log has it.
        known: stable's class for each picture.
        began: seconds since 1970 when `Answer`'s clock was 0.
    """
    state = fold(entries)
    is_promoted = state.outcome is Outcome.PROMOTED
    windows = [window for window in _windows(entries) if window.weight]
    on_canary = [one for one in answers if (one.version or logged.get(one.user)) == canary.version]
    failed = [one for one in answers if one.status != 200]
    first = min((one.asked + began for one in on_canary), default=None)
    verdict = next((entry for entry in reversed(entries) if _is_fail(entry)), None)
    end = verdict.at if verdict else state.ended_at
    others = {one.user for one in failed} - {one.user for one in on_canary}
    return Row(
        canary=canary.version,
        what=canary.what,
        is_right=state.outcome is not None and is_promoted is not canary.is_bad,
        outcome=state.outcome or "unfinished",
        signal=state.signal,
        why=state.why,
        requests=sum(window.stable.requests + window.canary.requests for window in windows),
        on_canary=sum(window.canary.requests for window in windows),
        seconds=round(end - first, 2) if first is not None and end is not None else None,
        back_s=back_s(verdict, entries, on_canary, began) if verdict else None,
        met=len(answers),
        failed=len(failed),
        others_failed=len(others),
        misled=sum(_is_misled(one, known) for one in on_canary),
    )


def back_s(verdict: Entry, entries: Sequence[Entry], on_canary: Sequence[Answer], began: float) -> float | None:
    """Seconds from the deciding request's answer until the gateway had said that stable has everything again, and the
    canary had got its last request, whichever was later; None without a request.

    The request that decided is one of those whose answers came after the last reading that did not decide. Which one
    is not known, so the first of them is taken, and of errors the first error: the true time is at most this.
    """
    readings = [entry.at for entry in entries if entry.kind in ("tick", "step") and entry.seq < verdict.seq]
    done = [entry.at for entry in entries if entry.kind == "done" and entry.content["what"] == "back"]
    if not on_canary or len(readings) < 2 or not done:
        return None
    signal = verdict.content.get("signal")
    since = readings[-2] - (TOLD_LATE_S if signal == "slow" else 0.0)
    came = [
        one.came + began
        for one in on_canary
        if one.came + began >= since and (one.status != 200 or signal not in ("errors", LIMIT))
    ]
    if not came:
        return None
    last = max(one.asked for one in on_canary) + began
    return round(max(done[-1], last) - min(came), 2)


def _windows(entries: Sequence[Entry]) -> list[Window]:
    return [window for entry in entries if isinstance(entry.event, Tick) for window in entry.event.windows]


def _is_misled(answer: Answer, known: Mapping[str, str]) -> bool:
    return answer.status == 200 and known.get(picture_of(answer), answer.predicted) != answer.predicted


def _is_fail(entry: Entry) -> bool:
    return entry.kind == "verdict" and entry.content["verdict"] == "fail"
