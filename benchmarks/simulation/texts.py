"""Simulates releases of language models, each answer judged when it ends, as a rollout would judge it.

Requests come at random times and stay in the making until their answer ends, so that of two versions the faster one is
known sooner; what a rollout makes of that is part of what is simulated.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import log

import numpy as np

from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.gateway.access_log import AccessLogEntry
from tsctl.rollout.decide.evidence import no_evidence
from tsctl.rollout.decide.judge import AVERAGE, log_e_values
from tsctl.rollout.decide.readings import read_signals
from tsctl.rollout.decide.windows import OutcomeCounts, Thresholds, Window
from tsctl.rollout.evidence.counts import EvidenceQuery
from tsctl.rollout.evidence.log import RECENT, counts_of
from tsctl.rollout.evidence.log_answers import text_thresholds
from tsctl.rollout.evidence.totals import LEAST_ANSWERS
from tsctl.statistics.sequential import rejects

QUERY = EvidenceQuery("m", "1.0", "2.0")
#: Seconds between two readings of the evidence.
READ_S = 2.0


@dataclass(frozen=True)
class Writer:
    """How one version answers. Times and lengths are lognormal; `spread` is the deviation of a length's logarithm.

    Args:
        first_ms: median until the first token.
        token_ms: median for each of the others.
        tokens: median of an answer that the model ends; a request's limit cuts it off.
        most: the limit.
        endless: share of the answers that only the limit ends.
        broken: share of the streams that break.
        cut: share of the answers that end after a quarter of their tokens.
    """

    first_ms: float = 150.0
    token_ms: float = 20.0
    tokens: float = 60.0
    most: int = 256
    endless: float = 0.02
    broken: float = 0.002
    cut: float = 0.0
    spread: float = 0.8


@dataclass(frozen=True)
class Course:
    """The requests of a rollout.

    Args:
        rate: requests per second of the route.
        weights: of the canary at each step, in hundredths of a percent.
        hold_s: of each step.
    """

    rate: float = 10.0
    weights: tuple[int, ...] = (500, 2500, 5000)
    hold_s: float = 150.0


@dataclass(frozen=True)
class End:
    """Where a run ended.

    Args:
        requests: that had ended, of the route; `on_canary`: the canary's.
        signal: the strongest; empty where it was not rolled back.
    """

    requests: int
    on_canary: int
    signal: str


def ends(policy: RolloutPolicy, stable: Writer, canary: Writer, course: Course, runs: int, seed: int) -> list[End]:
    """Simulate rollouts, each until it is rolled back or its steps end."""
    chance = np.random.default_rng(seed)
    return [_end(policy.judging(is_text=True), stable, canary, course, chance) for _ in range(runs)]


def _end(policy: RolloutPolicy, stable: Writer, canary: Writer, course: Course, chance: np.random.Generator) -> End:
    before = [entry for _, entry in _answers(stable, np.zeros(RECENT), "1.0", 0, chance)]
    thresholds = text_thresholds(before, policy.slow_quantile, LEAST_ANSWERS)
    settle_s = max(policy.settle_s, min(thresholds.longest_s or 0.0, course.hold_s / 2))
    evidence = no_evidence(policy, (), is_text=True)
    for at, window in _windows(stable, canary, course, thresholds, chance):
        evidence = evidence.seen(window, is_settled=at % course.hold_s >= settle_s)
        if rejects(log_e_values(policy, evidence)[AVERAGE], policy.alpha):
            strongest = max(read_signals(policy, evidence), key=lambda reading: reading.log_part).signal
            return End(evidence.stable.requests + evidence.canary.requests, evidence.canary.requests, strongest)
    return End(evidence.stable.requests + evidence.canary.requests, evidence.canary.requests, "")


def _windows(
    stable: Writer, canary: Writer, course: Course, thresholds: Thresholds, chance: np.random.Generator
) -> Iterator[tuple[float, Window]]:
    """Each reading's windows, and when it is read; what has not ended with the last step is not known."""
    query = replace(QUERY, slow_ms=thresholds.slow_ms, token_ms=thresholds.token_ms)
    totals: dict[int, dict[int, dict[str, OutcomeCounts]]] = defaultdict(lambda: defaultdict(dict))
    last = len(course.weights) * course.hold_s
    for number, weight in enumerate(course.weights):
        came = (
            number * course.hold_s + np.sort(chance.random(chance.poisson(course.rate * course.hold_s))) * course.hold_s
        )
        is_canary = chance.random(came.size) < weight / TOTAL
        for writer, version, own, at in (
            (stable, "1.0", TOTAL - weight, came[~is_canary]),
            (canary, "2.0", weight, came[is_canary]),
        ):
            for ended, entry in _answers(writer, at, version, own, chance):
                if ended < last:
                    counts = totals[int(ended // READ_S)][weight]
                    counts[version] = counts.get(version, OutcomeCounts()) + counts_of(entry, query)
    for reading in sorted(totals):
        for weight, counts in sorted(totals[reading].items()):
            nothing = OutcomeCounts()
            yield (reading + 1) * READ_S, Window(weight, counts.get("1.0", nothing), counts.get("2.0", nothing))


def _answers(
    writer: Writer, came: np.ndarray, version: str, weight: int, chance: np.random.Generator
) -> Iterator[tuple[float, AccessLogEntry]]:
    """When each answer ends, and its line in the log."""
    size = came.size
    first_ms = writer.first_ms * np.exp(0.4 * chance.standard_normal(size))
    token_ms = writer.token_ms * np.exp(0.15 * chance.standard_normal(size))
    wanted = np.maximum(1, np.exp(log(writer.tokens) + writer.spread * chance.standard_normal(size)))
    wanted = np.where(chance.random(size) < writer.cut, np.maximum(1, wanted / 4), wanted)
    wanted = np.where(chance.random(size) < writer.endless, np.inf, wanted)
    tokens = np.minimum(wanted, writer.most).astype(int)
    broken = chance.random(size) < writer.broken
    for at, first, pace, count, is_cut, is_broken in zip(
        came, first_ms, token_ms, tokens, wanted >= writer.most, broken, strict=True
    ):
        took_ms = round(first + pace * (count - 1))
        finish = "broken" if is_broken else "length" if is_cut else "stop"
        yield (
            float(at) + took_ms / 1000,
            AccessLogEntry(
                float(at), "m", version, None, True, weight, None, None, 200, took_ms, round(first),
                finish=finish, tokens_out=None if is_broken else int(count), is_stream=True,
            ),
        )  # fmt: skip
