"""Says what an answer is evidence of: an error or a refusal of its version, a slow answer, or nothing. Pure.

Invariant: a client alone cannot make evidence against a version. Its own mistakes fall on both versions alike; a
deadline that it set itself, and its leaving, before an answer or in the middle of a stream, count as no request.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import floor, inf, nextafter

from handlers.contract import CACHE_STATES, FINISHES
from tsctl.gateway.access_log import AccessLogEntry
from tsctl.gateway.headers import CLIENT
from tsctl.rollout.decide.evidence import LENGTHS
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds

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
#: The share of a language model's answers that take no longer than `longest_s`.
NEARLY_ALL = 0.99


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


def answer_of(entry: AccessLogEntry) -> Answer:
    """The answer in a line of the access log."""
    texts = (entry.predicted_class, entry.flags, entry.deadline, entry.cache, entry.finish)
    return Answer(str(entry.status), *(text or "" for text in texts))


def is_slow(entry: AccessLogEntry, slow_ms: float | None) -> bool:
    """Whether its client waited as long as the slow threshold; not where there is none, or nothing was computed."""
    waited_ms = computed_ms(entry)
    return slow_ms is not None and waited_ms is not None and waited_ms >= slow_ms


def computed_ms(entry: AccessLogEntry) -> float | None:
    """How long its client waited for an answer that was not from a cache; None where no node answered.

    Of a language model's stream that is the time to its first token. An answer in one piece has none: the time of all
    of it depends on its length.
    """
    is_whole_text = entry.finish is not None and not entry.is_stream
    return None if entry.cache == HIT or is_whole_text else entry.waited_ms


def text_counts(entry: AccessLogEntry, token_ms: float | None) -> OutcomeCounts:
    """What a language model's answer tells besides; nothing where it is none, or not complete.

    Args:
        token_ms: an answer whose tokens take as long each has slow tokens; None: none has.
    """
    if entry.finish is None or entry.finish in (FAILED, BROKEN) or answer_of(entry).is_of_client:
        return OutcomeCounts()
    tokens = entry.tokens_out
    return OutcomeCounts(
        finishes={entry.finish: 1},
        lengths={} if tokens is None else {length_class(tokens): 1},
        paced=int(entry.token_ms is not None),
        slow_tokens=int(token_ms is not None and entry.token_ms is not None and entry.token_ms >= token_ms),
    )


def length_class(tokens: int) -> str:
    """The class of LENGTHS that an answer of so many tokens is in."""
    return min("0" if tokens < 1 else str(1 << tokens.bit_length() - 1), LENGTHS[-1], key=int)


def text_thresholds(entries: Iterable[AccessLogEntry], quantile: float, least: int) -> Thresholds:
    """From which times on a language model's answers are slow: longer than this share of these took.

    Args:
        entries: of one version.
        least: answers whose time is known, for a threshold.
    """
    complete = [entry for entry in entries if text_counts(entry, None).complete]
    firsts = [first_ms for entry in complete if (first_ms := computed_ms(entry)) is not None]
    tokens = [token_ms for entry in complete if (token_ms := entry.token_ms) is not None]
    return Thresholds(
        slow_ms=_beyond(firsts, quantile) if len(firsts) >= least else None,
        token_ms=_beyond(tokens, quantile) if len(tokens) >= least else None,
        longest_s=_beyond([entry.duration_ms / 1000 for entry in complete], NEARLY_ALL) if complete else None,
    )


def _beyond(values: Sequence[float], quantile: float) -> float:
    """The least number that at most a share of 1 - quantile of the values reach."""
    most = floor((1 - quantile) * len(values) + 1e-9)
    return nextafter(sorted(values, reverse=True)[most], inf)
