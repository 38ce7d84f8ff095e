"""What users of streams met inside a window of time: tokens/s, times to the first token and per token, gaps. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.text.stream import OUTCOMES, REFUSED, WHOLE, Stream
from tsctl.compare.statistics import percentile


@dataclass(frozen=True)
class Times:
    """Percentiles in milliseconds, and how many values they are of; NaN of none."""

    count: int
    p50: float
    p90: float
    p99: float


def times(seconds: Iterable[float]) -> Times:
    ordered = sorted(value * 1000 for value in seconds)
    if not ordered:
        return Times(0, math.nan, math.nan, math.nan)
    return Times(len(ordered), *(percentile(ordered, share) for share in (0.5, 0.9, 0.99)))


@dataclass(frozen=True)
class Served:
    """One window.

    Args:
        tokens_s: of all answers together.
        first: from a request to its first text, of those whose first text came in the window.
        token: of one answer after its first text, divided by its tokens; of those that ended in the window.
        gap: between two texts of one answer that both came in the window; texts that come together have none.
        refusal: from a request to the end of an answer of another status than 200.
        outcomes: of the requests that ended in the window, each of stream.OUTCOMES.
    """

    seconds: float
    tokens_s: float
    first: Times
    token: Times
    gap: Times
    refusal: Times
    outcomes: Mapping[str, int]

    @property
    def burst(self) -> float:
        """The 99th percentile of the gaps as a multiple of their median; infinite where texts mostly come together."""
        return self.gap.p99 / self.gap.p50 if self.gap.p50 else math.inf

    @property
    def failed(self) -> int:
        """Requests that were not answered as a whole."""
        return sum(count for outcome, count in self.outcomes.items() if outcome not in (WHOLE, "cut"))


def served(streams: Sequence[Stream], begin: float, end: float) -> Served:
    """What was served from `begin` to `end`, in seconds of the streams' clock."""

    def is_inside(moment: float) -> bool:
        return begin <= moment < end

    tokens = 0.0
    gaps: list[float] = []
    for stream in streams:
        inside = [moment for moment in stream.moments if is_inside(moment)]
        tokens += len(inside) * (stream.tokens / len(stream.moments) if stream.moments else 0)
        gaps += [later - earlier for earlier, later in pairwise(inside)]
    ended = [stream for stream in streams if is_inside(stream.ended)]
    counts = Counter(stream.outcome for stream in ended)
    return Served(
        seconds=end - begin,
        tokens_s=tokens / (end - begin),
        first=times(s.first_s for s in streams if s.first_s is not None and is_inside(s.moments[0])),
        token=times(s.token_s for s in ended if s.token_s is not None),
        gap=times(gaps),
        refusal=times(s.ended - s.asked for s in ended if s.outcome == REFUSED),
        outcomes={outcome: counts[outcome] for outcome in OUTCOMES},
    )


def users_within(levels: Mapping[int, Served], limit: Served, factor: float) -> int:
    """The most users at once whose median times to the first token and per token are at most `factor` times the limit.

    Args:
        levels: what was served, by users; a level with a failed request does not count, nor does any above a level that
            is too slow.
    """
    most = 0
    for users in sorted(levels):
        level = levels[users]
        is_within = level.first.p50 <= factor * limit.first.p50 and level.token.p50 <= factor * limit.token.p50
        if level.failed or not is_within:
            break
        most = users
    return most
