"""Reads evidence from Envoy, or from a Prometheus server that scrapes it; both have the same counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

from tsctl.errors import AnalysisError
from tsctl.rollout.decide.events import Cursor
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import UNKNOWN, Thresholds, Window
from tsctl.rollout.evidence.counts import SLOW, EvidenceQuery, client_shares
from tsctl.rollout.evidence.labels import LabelReader
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.rate import RATE_S, Measured, measure
from tsctl.rollout.evidence.several import cursor_of, is_of, together, windows_of_all
from tsctl.rollout.evidence.source import Source
from tsctl.rollout.evidence.totals import (
    LEAST_ANSWERS,
    Durations,
    durations_of,
    slow_threshold_ms,
)


def query_of(state: State, thresholds: Thresholds) -> EvidenceQuery:
    """The query of a rollout, with these thresholds."""
    return EvidenceQuery(
        state.model,
        state.stable,
        state.canary,
        state.policy.count_4xx,
        thresholds.slow_ms,
        thresholds.token_ms,
        bool(state.sticky),
    )


@dataclass
class LiveEvidence:
    """Counts of one rollout.

    Args:
        source: of all counts but the rate of requests.
        envoy: of the rate, which Prometheus only has between two scrapes.
        log: of all counts where the route divides users, or where answers are texts.
        labelled: of labelled items; None: there are none.
        measured: the route's requests when the rate was measured last.
    """

    source: Source
    envoy: Source
    log: RequestLog | None = None
    labelled: LabelReader | None = None
    measured: Measured | None = None
    clock: Callable[[], float] = time.monotonic
    _before: Durations = field(default_factory=Durations)
    _rate: float | None = None  # as measured last

    def thresholds(self, state: State) -> tuple[Thresholds, Cursor]:
        """By stable's answers since the last call; where they are few, since the gateway started. Texts: by the log."""
        if state.is_text and self.log is not None:
            return self.log.thresholds(state.model, state.stable, state.policy.slow_quantile), {}
        parts = self.source.parts(state.model)
        samples = together(parts)
        total = durations_of(samples, state.model, state.stable)
        recent = total - self._before if self._before[inf] <= total[inf] else total  # else a counter was reset
        self._before = total
        if total[inf] < LEAST_ANSWERS:
            return UNKNOWN, {}
        durations = recent if recent[inf] >= LEAST_ANSWERS else total
        thresholds = Thresholds(slow_threshold_ms(durations, state.policy.slow_quantile))
        if state.sticky:  # each line of the log has its duration
            return thresholds, {}
        values = cursor_of(parts, query_of(state, thresholds))
        return thresholds, {key: value for key, value in values.items() if is_of(SLOW, key)}

    def read(self, state: State) -> tuple[list[Window], Cursor]:
        query, parts = query_of(state, state.thresholds), self.source.parts(state.model)
        shares = client_shares(together(parts), state.model)
        if (state.sticky or state.is_text) and self.log is not None:
            return self.log.read(query, state.cursor, shares, state.before, state.since)
        return windows_of_all(state.cursor, parts, query, shares)

    def labels(self, state: State) -> LabelCounts | None:
        return self.labelled.read(state) if self.labelled is not None else None

    def mark(self, state: State) -> Cursor:
        """Where evidence begins that is read from now on."""
        values = cursor_of(self.source.parts(state.model), query_of(state, state.thresholds))
        return values if self.log is None else {**values, **self.log.mark()}

    def request_rate(self, state: State) -> float:
        """Since the last measurement, or as measured then where that was less than RATE_S ago; AnalysisError before."""
        now = measure(self.envoy, state, self.clock())
        if self.measured is None or now.requests < self.measured.requests:
            self.measured = now
        if now.at - self.measured.at >= RATE_S:
            self.measured, self._rate = now, now.rate_since(self.measured)
        if self._rate is None:
            raise AnalysisError("the rate of requests is being measured")
        return self._rate
