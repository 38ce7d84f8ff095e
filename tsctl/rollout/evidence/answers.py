"""Says what an answer is evidence of: an error or a refusal of its version, a slow answer, or nothing. Pure.

Invariant: a client alone cannot make evidence against a version. Its own mistakes fall on both versions alike; a
deadline that it set itself, and its leaving, count as no request.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.contract import CACHE_STATES
from tsctl.gateway.access_log import AccessLogEntry
from tsctl.gateway.headers import CLIENT
from tsctl.rollout.decide.windows import OutcomeCounts

#: The answer was not computed.
HIT = CACHE_STATES[0]
#: The client left before the answer began.
LEFT = "0"
#: An operation that no version offers: the client's mistake, like any 4xx.
NOT_IMPLEMENTED = "501"
DEADLINE_PASSED = "504"
#: Of the gateway without a node, and of a node without a worker or with a full queue; handlers have no such error.
UNAVAILABLE = "503"


@dataclass(frozen=True)
class Answer:
    """What the gateway knows of an answer; an empty text is nothing.

    Args:
        predicted: class of the prediction.
        flags: Envoy's response flags; without one, a node answered.
        deadline: who set the deadline of the request: CLIENT, or the route.
        cache: what the response cache did.
    """

    status: str
    predicted: str = ""
    flags: str = ""
    deadline: str = ""
    cache: str = ""

    @property
    def is_of_client(self) -> bool:
        """Whether the client alone caused the answer: it left, or set a deadline that was too short."""
        is_too_short = self.status == DEADLINE_PASSED and self.deadline == CLIENT and not self.flags
        return self.status == LEFT or is_too_short

    def is_error(self, count_4xx: bool) -> bool:
        """Whether the version did not answer a request that it should have answered."""
        if self.status.startswith("4"):
            return count_4xx
        return self.status.startswith("5") and self.status != NOT_IMPLEMENTED

    @property
    def is_unanswered(self) -> bool:
        """Whether no worker took the request, or the gateway got no answer: of the version, or of its node."""
        return self.status == UNAVAILABLE or (self.status.startswith("5") and bool(self.flags))

    @property
    def is_refused(self) -> bool:
        """Whether the request was refused as the client's mistake."""
        return self.status.startswith("4") or self.status == NOT_IMPLEMENTED

    def counts(self, requests: int, count_4xx: bool) -> OutcomeCounts:
        """Counts of so many requests with this answer."""
        if self.is_of_client:
            return OutcomeCounts()
        is_error = self.is_error(count_4xx) and not self.is_unanswered
        return OutcomeCounts(
            requests=requests,
            errors=requests if is_error else 0,
            classes={self.predicted: requests} if self.predicted else {},
            refused=requests if self.is_refused else 0,
            unanswered=requests if self.is_unanswered else 0,
            cached=requests if self.cache == HIT else 0,
        )


def answer_of(entry: AccessLogEntry) -> Answer:
    """The answer in a line of the access log."""
    texts = (entry.predicted_class, entry.flags, entry.deadline, entry.cache)
    return Answer(str(entry.status), *(text or "" for text in texts))


def is_slow(entry: AccessLogEntry, slow_ms: float | None) -> bool:
    """Whether its client waited as long as the slow threshold; not where there is none, or nothing was computed."""
    waited_ms = computed_ms(entry)
    return slow_ms is not None and waited_ms is not None and waited_ms >= slow_ms


def computed_ms(entry: AccessLogEntry) -> float | None:
    """How long its client waited for an answer that was not from a cache; None where no node answered."""
    return None if entry.cache == HIT else entry.waited_ms
