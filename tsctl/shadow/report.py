"""Sums up a comparison of a shadow with stable: verdict, rates, slices, labels, latencies and examples. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import ceil
from statistics import quantiles
from typing import Any

from tsctl.shadow.comparators import Comparator
from tsctl.shadow.disagreement import Disagreement, Repeat, observe, without
from tsctl.shadow.labels import McNemar
from tsctl.shadow.pairing import Answer, Pair, Unpaired, paired_share
from tsctl.shadow.slices import MOST_SLICES, Slice, Slices, slice_names

#: Examples of answers that differ, and points of the curves over pairs.
EXAMPLES, POINTS = 30, 100
#: Bins of a number: its quarters.
_BINS = 4
#: Percentiles of latency that are compared.
PERCENTILES = (50, 90, 95, 99)


class Verdict(StrEnum):
    """What the pairs say of a shadow."""

    TOO_MUCH = "too much"
    LOW_ENOUGH = "low enough"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class PairedRequest:
    """One request with both answers, and stable's second ones.

    Args:
        features: of the input; None: the request has no such feature.
        label: that arrived later; None: none did.
        predicted: class of stable's answer, and of the shadow's; None where there is none.
    """

    pair: Pair
    repeats: Mapping[Repeat, Answer] = field(default_factory=dict)
    features: Mapping[str, float | str | None] = field(default_factory=dict)
    label: str | None = None
    predicted: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True)
class Paired:
    """The requests of a time, and the answers without a partner by reason."""

    requests: Sequence[PairedRequest] = ()
    unpaired: Mapping[Unpaired, int] = field(default_factory=dict)

    @property
    def compared(self) -> Iterator[tuple[Answer, Answer]]:
        """Stable's answers, each with another one: the shadow's, or a second one of stable's own."""
        for request in self.requests:
            yield request.pair.stable, request.pair.shadow
            yield from ((request.pair.stable, again) for again in request.repeats.values())

    @property
    def share(self) -> float | None:
        """Pairs as a share of the copied requests that were recorded; None without any."""
        return paired_share(len(self.requests), self.unpaired)


@dataclass(frozen=True)
class Example:
    """A request whose answers differ."""

    request_id: str
    stable: str
    shadow: str
    about: str
    distance: float


@dataclass(frozen=True)
class Point:
    """The evidence after so many pairs.

    Args:
        rate, low, high: of disagreement, with an interval that holds at all times at once.
        floor: rate at which stable differs from itself; None where it was not measured.
        above, below: logarithms of the e-values for too much and for low enough disagreement.
    """

    pairs: int
    rate: float
    low: float
    high: float
    floor: float | None
    above: float
    below: float


@dataclass(frozen=True)
class Latency:
    """Milliseconds at some percentiles, of stable and of the shadow, for the same requests."""

    percentile: int
    stable_ms: float
    shadow_ms: float


@dataclass(frozen=True)
class ShadowReport:
    """A whole comparison.

    Args:
        examples: the EXAMPLES with the largest distances.
        looked_at: slices; `left_out`: names of others.
        features_left_out: numeric features of which no slice was made, because there was no room for all.
        mcnemar: None where no label arrived.
    """

    verdict: Verdict
    evidence: Disagreement
    limit: float
    alpha: float
    unpaired: Mapping[Unpaired, int]
    worst: Sequence[Slice]
    looked_at: int
    left_out: int
    features_left_out: int
    mcnemar: McNemar | None
    latencies: Sequence[Latency]
    examples: Sequence[Example]
    points: Sequence[Point]

    @property
    def paired_share(self) -> float | None:
        return paired_share(self.evidence.pairs, self.unpaired)


def judge(evidence: Disagreement, limit: float, alpha: float) -> Verdict:
    """The verdict on these pairs; undecided while no noise floor is measured."""
    measured = measured_floors(evidence)
    if measured.exceeds(limit, alpha):
        return Verdict.TOO_MUCH
    return Verdict.LOW_ENOUGH if measured.stays_below(limit, alpha) else Verdict.UNDECIDED


def measured_floors(evidence: Disagreement) -> Disagreement:
    """The evidence without kinds of repeats that stable never makes: with a batch of one, there is no other batch.

    A worker makes all kinds for each item that it repeats, so a kind is missing for all of them or for none.
    """
    if not any(process.pairs for process in evidence.floors.values()):
        return evidence
    for kind, process in evidence.floors.items():
        if not process.pairs:
            evidence = without(evidence, kind)
    return evidence


def compare_pairs(paired: Paired, comparator: Comparator, limit: float, alpha: float) -> ShadowReport:
    """Compare all pairs, in the order in which stable answered.

    Args:
        limit: that the disagreement above the noise floor may have, `max_disagreement`.
        alpha: probability with which a verdict may be wrong, ever; so for slices and intervals.

    Raises:
        NotComparable: the comparator is none for stable's answers.
    """
    evidence, slices, labels = Disagreement(), Slices(), McNemar()
    examples: list[Example] = []
    points: list[Point] = []
    edges, features_left_out = _edges(paired.requests)
    every = max(1, ceil(len(paired.requests) / POINTS))
    for number, request in enumerate(paired.requests, start=1):
        evidence, comparison = observe(evidence, request.pair, request.repeats, comparator)
        slices.seen(_slices_of(request, edges), comparison.differs)
        if request.label is not None and None not in request.predicted:
            stable, shadow = (predicted == request.label for predicted in request.predicted)
            labels = labels.seen(stable, shadow)
        if comparison.differs:
            examples.append(_example(request.pair, comparison.about, comparison.distance))
        if number % every == 0 or number == len(paired.requests):
            points.append(_point(evidence, limit, alpha))
    examples.sort(key=lambda example: -example.distance)
    return ShadowReport(
        verdict=judge(evidence, limit, alpha),
        evidence=measured_floors(evidence),
        limit=limit,
        alpha=alpha,
        unpaired=paired.unpaired,
        worst=slices.worst(alpha),
        looked_at=slices.looked_at,
        left_out=len(slices.left_out),
        features_left_out=features_left_out,
        mcnemar=labels if labels.labels else None,
        latencies=latencies([request.pair for request in paired.requests]),
        examples=examples[:EXAMPLES],
        points=points,
    )


def latencies(pairs: Iterable[Pair]) -> list[Latency]:
    """Percentiles of both versions, over requests whose times are known of both; none for fewer than two."""
    both = [
        (pair.stable.latency_ms, pair.shadow.latency_ms)
        for pair in pairs
        if pair.stable.latency_ms is not None and pair.shadow.latency_ms is not None
    ]
    if len(both) < 2:
        return []
    stable, shadow = (quantiles(times, n=100, method="inclusive") for times in zip(*both, strict=True))
    return [Latency(percentile, stable[percentile - 1], shadow[percentile - 1]) for percentile in PERCENTILES]


def _edges(requests: Sequence[PairedRequest]) -> tuple[dict[str, Sequence[float]], int]:
    """Quartiles of as many numeric features as MOST_SLICES has room for, and how many others there are.

    They depend on the inputs alone, and so favour no answer. Classes, categories and missing features come first; of
    the numeric ones, those that most requests have.
    """
    values: dict[str, list[float]] = {}
    others = set[str]()
    for request in requests:
        others.update(slice_names(request.features, {}, request.predicted[0]))
        for name, value in request.features.items():
            if isinstance(value, float):
                values.setdefault(name, []).append(value)
    varied = sorted((n for n, numbers in values.items() if len(set(numbers)) > 1), key=lambda n: (-len(values[n]), n))
    chosen = varied[: max(0, MOST_SLICES - len(others)) // _BINS]
    edges: dict[str, Sequence[float]] = {
        name: sorted(set(quantiles(values[name], n=_BINS, method="inclusive"))) for name in sorted(chosen)
    }
    return edges, len(varied) - len(chosen)


def _slices_of(request: PairedRequest, edges: Mapping[str, Sequence[float]]) -> list[str]:
    chosen = {name: value for name, value in request.features.items() if name in edges or not isinstance(value, float)}
    return slice_names(chosen, edges, request.predicted[0])


def _example(pair: Pair, about: str, distance: float) -> Example:
    return Example(pair.stable.request_id, _shown(pair.stable), _shown(pair.shadow), about, distance)


def _shown(answer: Answer) -> str:
    if answer.status != 200:
        return f"status {answer.status}"
    text: Any = getattr(answer.value, "text", answer.value)
    return str(text)


def _point(evidence: Disagreement, limit: float, alpha: float) -> Point:
    low, high = evidence.rate_bounds(alpha)
    measured = measured_floors(evidence)
    floors = [measured.repeats_differing[kind] / p.pairs for kind, p in measured.floors.items() if p.pairs]
    return Point(
        pairs=evidence.pairs,
        rate=evidence.differing / evidence.pairs,
        low=low,
        high=high,
        floor=max(floors, default=None),
        above=measured.log_e_above(limit),
        below=measured.log_e_below(limit),
    )
