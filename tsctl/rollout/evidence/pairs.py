"""Reads from the nodes' records which answers of a shadow differ from stable's, a period after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tsctl.errors import AnalysisError
from tsctl.records.database import Place
from tsctl.records.pairs import WAIT_S, Versions, read_pairs
from tsctl.rollout.decide.shadow import PairsCompared, counts_of
from tsctl.rollout.decide.state import SHADOW_CURSOR, State
from tsctl.shadow.comparators import NotComparable
from tsctl.shadow.disagreement import Disagreement, observe
from tsctl.shadow.pairing import Answer
from tsctl.shadow.summaries import SummaryComparator

#: Seconds between two readings; the latter where a model embeds texts, which begins with a load of some seconds.
READ_S, EMBED_READ_S = 5.0, 60.0
#: Requests that an event names, of those whose answers differ.
NAMED = 5


@dataclass
class RecordedPairs:
    """The pairs of one rollout.

    Args:
        places: of the records, now.
        comparator: of the stable archive.
        ready: gives a comparator the vectors that it needs of these pairs.
        clock: seconds since 1970.
    """

    places: Callable[[], list[Place]]
    comparator: Callable[[], SummaryComparator]
    ready: Callable[[SummaryComparator, Iterable[tuple[Answer, Answer]]], SummaryComparator]
    clock: Callable[[], float] = time.time

    def read(self, state: State) -> PairsCompared | None:
        since_us = state.cursor[SHADOW_CURSOR]
        until_s = self.clock() - WAIT_S
        if until_s - since_us / 1e6 < READ_S:
            return None
        comparator = self.comparator()
        if comparator.asks:
            if until_s - since_us / 1e6 < EMBED_READ_S:
                return None
            until_s = since_us / 1e6 + EMBED_READ_S  # no more texts at once, however long nothing was read
        versions = Versions(state.model, state.stable, state.canary)
        reading = read_pairs(self.places(), versions, since_us / 1e6, until_s)
        comparator = self.ready(comparator, reading.paired.compared)
        evidence, named = Disagreement(), list[str]()
        for request in reading.paired.requests:
            try:
                evidence, comparison = observe(evidence, request.pair, request.repeats, comparator)
            except NotComparable as error:
                raise AnalysisError(str(error)) from None
            if comparison.differs:
                named.append(request.pair.stable.request_id)
        until_us = round(reading.until_s * 1e6)
        counts = counts_of(evidence, reading.paired.unpaired)
        return PairsCompared(
            counts, {SHADOW_CURSOR: until_us}, round((until_us - since_us) / 1e6, 3), tuple(named[:NAMED])
        )
