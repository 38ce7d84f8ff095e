"""How many requests a canary would compute in a second. Pure but for reading the counters."""

from __future__ import annotations

from dataclasses import dataclass

from tsctl.rollout.decide.events import Started
from tsctl.rollout.decide.state import State
from tsctl.rollout.evidence.source import Source
from tsctl.rollout.evidence.totals import (
    hits_of,
    requests_of,
)

#: The rate of requests is measured over at least this time.
RATE_S = 2.0


@dataclass(frozen=True)
class Measured:
    """Requests by weight until a moment of the clock, and those of them that a cache answered.

    Args:
        of_canary: with `hits_of_canary`, the canary's part.
    """

    at: float
    requests: int
    hits: int = 0
    of_canary: int = 0
    hits_of_canary: int = 0

    def rate_since(self, before: Measured) -> float:
        """Requests per second that the canary would compute, if it had all of them: the share that it computes now.

        While it has no request, that is what all versions compute.
        """
        requests, of_canary = self.requests - before.requests, self.of_canary - before.of_canary
        hits = self.hits_of_canary - before.hits_of_canary if of_canary else self.hits - before.hits
        return requests / (self.at - before.at) * (1 - hits / (of_canary or requests or 1))


def measure(source: Source, state: State | Started, at: float) -> Measured:
    """The requests of a rollout's route now."""
    samples, model, canary = source.samples(state.model), state.model, state.canary
    counts = (count(samples, model, version) for version in (None, canary) for count in (requests_of, hits_of))
    return Measured(at, *counts)
