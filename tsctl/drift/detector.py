"""Raises an alarm when features move from their references; the time between false alarms is stated. Pure.

Each feature is a sum over all times at which a change could have begun, of the likelihood of what came since after a
change, divided by that without one (the Shiryaev-Roberts statistic), averaged over the changes that are bet on. Without
a change this sum, minus the time that passed, is a martingale; so the expected time until it reaches the budget is at
least the budget, whatever the distribution is. The average over features has the same property, however they depend on
each other: a hundred features raise no more false alarms than one.

The reference is finite, so the true share of a bin is not known, but its law is: between order statistics of m values
of a continuous distribution shares have a Dirichlet distribution. So "no change" is Polya's urn: the next value falls
into a bin with a probability proportional to the values already in it, in the reference and since. With few reference
values only large changes can be found, and the urn makes the detector wait instead of raising a false alarm.

Sources: Roberts, "A comparison of some control chart procedures", Technometrics 1966; Pollak, "Average run lengths of
an optimal method of detecting a change in distribution", Annals of Statistics 1987; Shin, Ramdas and Rinaldo,
"E-detectors", NEJSDS 2024.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, inf, lgamma, log

from tsctl.drift.alternatives import Alternative, alternatives
from tsctl.drift.reference import NumberReference, Reference

#: An alarm is raised when the logarithm of the average statistic reaches this: times are counted in budgets.
ALARM = 0.0


@dataclass(frozen=True)
class Detector:
    """One feature.

    Args:
        changes: that are bet on.
        weights: of the bins in the urn: reference values and values since.
        logs: logarithm of the statistic of each change, in budgets; empty before the first value.
    """

    changes: tuple[Alternative, ...]
    weights: tuple[float, ...]
    logs: tuple[float, ...] = ()

    def seen(self, counts: Sequence[int], time: float) -> Detector:
        """After so many values in each bin.

        Args:
            time: that passed, as a share of the budget. A time without values does not count.

        Raises:
            ValueError: a count is below 0, there is not one for each bin, or the time is not above 0.
        """
        if len(counts) != len(self.weights) or min(counts) < 0 or time <= 0:
            expected = f"needs {len(self.weights)} counts of at least 0 and a time above 0"
            raise ValueError(f"{expected}, found {list(counts)} and {time}")
        if not any(counts):
            return self
        before = self.logs or (-inf,) * len(self.changes)
        total, unchanged = sum(self.weights), _log_urn(self.weights, counts)

        def changed(change: Alternative) -> float:
            return _log_urn([total * share for share in change.shares(self.weights)], counts)

        logs = tuple(
            _log_sum(log_s, log(time)) + changed(change) - unchanged
            for log_s, change in zip(before, self.changes, strict=True)
        )
        weights = tuple(weight + new for weight, new in zip(self.weights, counts, strict=True))
        return Detector(self.changes, weights, logs)

    @property
    def log_statistic(self) -> float:
        """Logarithm of the average over the changes, in budgets; -inf before the first value."""
        if not self.logs:
            return -inf
        return _log_mix(self.logs, [change.part for change in self.changes])

    @property
    def likeliest(self) -> Alternative:
        """The change with the largest part of the statistic."""
        logs = self.logs or (0.0,) * len(self.changes)
        return max(zip(self.changes, logs, strict=True), key=lambda pair: log(pair[0].part) + pair[1])[0]

    def restarted(self) -> Detector:
        """After an alarm that was looked at: no evidence, and what came since belongs to the urn.

        For a change that is over, such as a camera that was cleaned, take a new detector of the reference instead.
        """
        return replace(self, logs=())


def detector(reference: Reference) -> Detector:
    """The detector of a feature, before the first value."""
    weights = urn(reference)
    return Detector(alternatives(reference, weights), weights)


def urn(reference: Reference) -> tuple[float, ...]:
    """The weight of each bin: its reference values, and a little for bins that the reference hardly reaches.

    Below the least and above the largest of m values, the next one falls with probability 1 / (m + 1) each. A new
    category is as likely as one that came once (Good and Turing's estimate), and at least as likely as one value.
    """
    counts = reference.reference
    if isinstance(reference, NumberReference):
        known = sum(reference.counts)
        inner = [value * (known - 1) / known for value in reference.counts]
        return (counts[0] + 1.0, 1.0, *(max(value, 0.5) for value in inner), 1.0)
    singles = sum(value == 1 for value in (*reference.counts.values(), *reference.others.values()))
    return (counts[0] + 1.0, *(value + 1.0 for value in counts[1:-2]), counts[-2] + 1.0, singles + 1.0)


@dataclass(frozen=True)
class Watch:
    """All features of a model under one budget.

    Args:
        budget: expected time between false alarms, in any unit of time or in items; the same as of `seen`.
        detectors: by feature.
    """

    budget: float
    detectors: Mapping[str, Detector] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.budget > 0:
            raise ValueError(f"the budget must be above 0, found {self.budget}")

    def seen(self, counts: Mapping[str, Sequence[int]], time: float) -> Watch:
        """After so many values in the bins of each feature; a feature that is left out had none.

        Args:
            time: since the last call, in the unit of the budget.

        Raises:
            ValueError: a feature is unknown, or as of `Detector.seen`.
        """
        if unknown := sorted(counts.keys() - self.detectors.keys()):
            raise ValueError(f"no reference for {', '.join(unknown)}")
        share = time / self.budget
        after = {name: d.seen(counts[name], share) if name in counts else d for name, d in self.detectors.items()}
        return replace(self, detectors=after)

    @property
    def log_statistic(self) -> float:
        """Logarithm of the average over the features, in budgets."""
        logs = [detector.log_statistic for detector in self.detectors.values()]
        return _log_mix(logs, [1 / len(logs)] * len(logs)) if logs else -inf

    @property
    def is_alarm(self) -> bool:
        """Whether something has moved; wrongly so once in the budget, on average, or more rarely."""
        return self.log_statistic >= ALARM

    def causes(self) -> list[tuple[str, Alternative]]:
        """The features that an alarm is made of, the strongest first: each would raise it, or half of it, alone."""
        logs = {name: each.log_statistic - log(len(self.detectors)) for name, each in self.detectors.items()}
        largest = max(logs.values(), default=-inf)
        strong = [name for name, value in logs.items() if value > -inf and value >= min(ALARM, largest) - log(2)]
        return [(name, self.detectors[name].likeliest) for name in sorted(strong, key=lambda name: -logs[name])]

    def restarted(self) -> Watch:
        """As of `Detector.restarted`, for all features."""
        return replace(self, detectors={name: each.restarted() for name, each in self.detectors.items()})


def watch(references: Mapping[str, Reference], budget: float) -> Watch:
    """The watch over all features, before the first value."""
    return Watch(budget, {name: detector(reference) for name, reference in references.items()})


def _log_urn(weights: Sequence[float], counts: Sequence[int]) -> float:
    """Logarithm of the probability of the values from an urn, apart from a part that only depends on their number."""
    return sum(
        lgamma(weight + count) - lgamma(weight) if count > 1 else log(weight)
        for weight, count in zip(weights, counts, strict=True)
        if count
    )


def _log_sum(first: float, second: float) -> float:
    low, high = sorted((first, second))
    return high + log(1 + exp(low - high)) if high > -inf else -inf


def _log_mix(logs: Sequence[float], parts: Sequence[float]) -> float:
    largest = max(logs)
    if largest == -inf:
        return -inf
    return largest + log(sum(part * exp(value - largest) for value, part in zip(logs, parts, strict=True)))
