"""Reads evidence from Envoy, or from a Prometheus server that scrapes it; both have the same counters."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

import requests

from tsctl.config.policy import RolloutPolicy
from tsctl.errors import AnalysisError
from tsctl.gateway.counters import SERIES, Sample, parse_page
from tsctl.gateway.envoy.admin import Admin
from tsctl.host.http import direct_session
from tsctl.rollout.decide.events import Cursor, Started
from tsctl.rollout.decide.labels import LabelCounts
from tsctl.rollout.decide.state import State
from tsctl.rollout.decide.windows import UNKNOWN, Thresholds, Window
from tsctl.rollout.evidence.counts import (
    LEAST_ANSWERS,
    SLOW,
    Durations,
    EvidenceQuery,
    client_shares,
    cursor_of,
    durations_of,
    hits_of,
    is_of,
    requests_of,
    slow_threshold_ms,
    together,
    windows_of_all,
)
from tsctl.rollout.evidence.labels import LabelReader
from tsctl.rollout.evidence.log import RequestLog
from tsctl.rollout.evidence.prometheus import ask

#: The rate of requests is measured over at least this time.
RATE_S = 2.0


class Source(Protocol):
    """Has the gateway's counters."""

    def samples(self, model: str) -> list[Sample]:
        """Every series of the model, with its value now.

        Raises:
            AnalysisError, GatewayError: it does not answer now; a later call loses nothing.
        """
        ...

    def parts(self, model: str) -> dict[str, list[Sample]]:
        """As `samples`, of each Envoy by its name; a single one has an empty name."""
        ...


@dataclass(frozen=True)
class EnvoyCounters:
    """The gateway of this machine, or all of several."""

    admin: Admin

    def samples(self, model: str) -> list[Sample]:
        return together(self.parts(model))

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {name: parse_page(page) for name, page in self.admin.pages("tsctl").items()}


@dataclass(frozen=True)
class PrometheusServer:
    """A server that scrapes the gateway's metrics."""

    address: str  # such as http://127.0.0.1:9090
    session: requests.Session = field(default_factory=direct_session)

    def samples(self, model: str) -> list[Sample]:
        query = f'{{__name__=~"{"|".join(SERIES)}", model="{model}"}}'
        return ask(self.session, self.address, query, samples_of, "Does it run, and scrape the gateway?")

    def parts(self, model: str) -> dict[str, list[Sample]]:
        return {"": self.samples(model)}


def open_source(policy: RolloutPolicy, admin: Admin) -> Source:
    """The source that the policy names; nothing is asked."""
    return PrometheusServer(policy.prometheus) if policy.prometheus else EnvoyCounters(admin)


def samples_of(results: list[dict[str, Any]], address: str) -> list[Sample]:
    """The samples of an answer of Prometheus.

    Raises:
        AnalysisError: they are of more than one gateway, or of one that is scraped twice. Both would share the keys of
            a cursor, and every request would count again at each reading.
    """
    metrics = [result["metric"] for result in results]
    targets = sorted({f"{metric.get('job', '')} {metric.get('instance', '')}".strip() for metric in metrics})
    if len(targets) > 1:
        raise AnalysisError(
            f"Prometheus at {address} has the counts of more than one gateway: {', '.join(targets)}",
            "Name a server in the policy that scrapes this gateway once, or leave prometheus out.",
        )
    return [Sample(r["metric"]["__name__"], r["metric"], round(float(r["value"][1]))) for r in results]


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
