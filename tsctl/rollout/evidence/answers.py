"""Says what an answer is evidence of: an error or a refusal of its version, a slow answer, or nothing. Pure.

Invariant: a client alone cannot make evidence against a version. Its own mistakes fall on both versions alike; a
deadline that it set itself, and its leaving, before an answer or in the middle of a stream, count as no request.
"""

from __future__ import annotations

from dataclasses import dataclass

from handlers.contract import CACHE_STATES, FINISHES
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
#: How a language model's answer ended that could not go on, and a stream whose end never came.
FAILED, BROKEN = FINISHES[-1], "broken"
#: Envoy's response flag of a connection that the client closed.
CLIENT_CLOSED = "DC"


@dataclass(frozen=True)
class Answer:
    """What the gateway knows of an answer; an empty text is nothing.

    Args:
        predicted: class of the prediction.
        flags: Envoy's response flags; without one, a node answered.
        deadline: who set the deadline of the request: CLIENT, or the route.
        cache: what the response cache did.
        finish: how a language model's answer ended.
    """

    status: str
    predicted: str = ""
    flags: str = ""
    deadline: str = ""
    cache: str = ""
    finish: str = ""

    @property
    def is_of_client(self) -> bool:
        """Whether the client alone caused the answer: it left, or set a deadline that was too short."""
        is_too_short = self.status == DEADLINE_PASSED and self.deadline == CLIENT and not self.flags
        is_left = self.finish == BROKEN and CLIENT_CLOSED in self.flags.split(",")
        return self.status == LEFT or is_too_short or is_left

    def is_error(self, count_4xx: bool) -> bool:
        """Whether the version did not answer a request that it should have answered, or not to the end."""
        if self.finish in (FAILED, BROKEN):
            return True
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
