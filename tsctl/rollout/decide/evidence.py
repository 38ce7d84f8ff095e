"""The evidence of a rollout: counts of both versions, and the e-processes that they feed. Pure.

The journal stores counts: folding the same windows in the same order gives the same evidence. Invariant: no client with
at most half of the requests can fail a canary alone, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from handlers.contract import OTHER_CLASS
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.statistics import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of every prediction whose class was not known before the rollout began.
OTHER = OTHER_CLASS
#: A client with a larger share of the requests is the service's own traffic, and is not left out.
MOST_SHARE = 0.5


@dataclass(frozen=True)
class OutcomeCounts:
    """Requests of one version by outcome.

    Args:
        slow: answers, and clients that left, after the slow threshold.
        refused: as the client's mistake.
        unanswered: no worker took them, or no answer came; errors where that is the version's fault.
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions, where the handler names a class
    refused: int = 0
    unanswered: int = 0

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        names = self.classes.keys() | other.classes.keys()
        return OutcomeCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            {name: self.classes.get(name, 0) + other.classes.get(name, 0) for name in sorted(names)},
            self.refused + other.refused,
            self.unanswered + other.unanswered,
        )

    def judged(self, is_fault: bool) -> OutcomeCounts:
        """With the unanswered requests as errors of the version, or without them."""
        if is_fault:
            return replace(self, errors=self.errors + self.unanswered, unanswered=0)
        return replace(self, requests=max(0, self.requests - self.unanswered), unanswered=0)


NOTHING, NO_EVENT = OutcomeCounts(), RatioProcess()


@dataclass(frozen=True)
class ClientCounts:
    """Events of one client, by version.

    Args:
        share: of the route's requests since the gateway began to count, at most 1.
        stable_users: and `canary_users`: as in a window.
    """

    share: float = 0.0
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    stable_users: OutcomeCounts = NOTHING
    canary_users: OutcomeCounts = NOTHING

    def judged(self, is_fault: bool) -> ClientCounts:
        """As of `OutcomeCounts.judged`."""
        counts = (self.stable, self.canary, self.stable_users, self.canary_users)
        return ClientCounts(self.share, *(count.judged(is_fault) for count in counts))


@dataclass(frozen=True)
class Window:
    """Requests that were routed at one weight of the canary, since the last reading.

    Args:
        weight: of the canary, in hundredths of a percent.
        pairs: requests that stable and a shadow both answered.
        disagreements: pairs whose answers differ.
        is_by_user: the route divides users; `stable_users` and `canary_users` count each user's first event of a kind.
        clients: those with an error or a refusal, or where the route divides users with any event.
    """

    weight: int
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    pairs: int = 0
    disagreements: int = 0
    is_by_user: bool = False
    stable_users: OutcomeCounts = NOTHING
    canary_users: OutcomeCounts = NOTHING
    clients: Mapping[str, ClientCounts] = field(default_factory=dict)

    def judged(self, is_disturbed: bool) -> Window:
        """With the unanswered requests as errors; without them where a node, or stable as well, was unavailable.

        Args:
            is_disturbed: a node was unavailable, or has just come back.
        """
        is_stable_gone = 0 < self.stable.requests <= 2 * self.stable.unanswered
        is_fault = not is_disturbed and not is_stable_gone
        return replace(
            self,
            stable=self.stable.judged(is_fault),
            canary=self.canary.judged(is_fault),
            stable_users=self.stable_users.judged(is_fault),
            canary_users=self.canary_users.judged(is_fault),
            clients={name: client.judged(is_fault) for name, client in self.clients.items()},
        )

    @property
    def compared(self) -> tuple[OutcomeCounts, OutcomeCounts]:
        """Counts of stable and of the canary that fell to their version by chance."""
        return (self.stable_users, self.canary_users) if self.is_by_user else (self.stable, self.canary)


@dataclass(frozen=True)
class Comparison:
    """The processes that compare the canary with stable.

    Args:
        mix: by class. The classes are fixed before the first request, or their average would be no e-process.
    """

    errors: RatioProcess = NO_EVENT
    refused: RatioProcess = NO_EVENT
    slow: RatioProcess = NO_EVENT
    mix: Mapping[str, RatioProcess] = field(default_factory=dict)

    def seen(self, stable: OutcomeCounts, canary: OutcomeCounts, weight: float, is_settled: bool) -> Comparison:
        """After these events, of requests that were routed at this weight of the canary, as a share."""
        return Comparison(
            self.errors.seen(canary.errors, stable.errors, weight),
            self.refused.seen(canary.refused, stable.refused, weight),
            self.slow.seen(canary.slow, stable.slow, weight) if is_settled else self.slow,
            {
                name: process.seen(class_count(canary, name, self.mix), class_count(stable, name, self.mix), weight)
                for name, process in self.mix.items()
            },
        )

    def without(self, part: Comparison, kept: float = 0.0) -> Comparison:
        """As of `RatioProcess.without`, for every process."""
        return Comparison(
            self.errors.without(part.errors, kept),
            self.refused.without(part.refused, kept),
            self.slow.without(part.slow, kept),
            {name: process.without(part.mix[name], kept) for name, process in self.mix.items()},
        )

    @property
    def logs(self) -> dict[str, float]:
        """Logarithm of each signal's e-value."""
        mix = log_mean([process.log_e for process in self.mix.values()]) if self.mix else 0.0
        return {"errors": self.errors.log_e, "refused": self.refused.log_e, "slow": self.slow.log_e, "mix": mix}


@dataclass(frozen=True)
class ClientEvidence:
    """One client's part of the evidence.

    Args:
        share: of the requests, at its last event.
        compared: None where the route divides requests.
    """

    share: float = 0.0
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    compared: Comparison | None = None

    @property
    def is_bounded(self) -> bool:
        """Whether it may not fail the canary alone."""
        return self.share <= MOST_SHARE


@dataclass(frozen=True)
class Evidence:
    """Processes and counts since the rollout, or the policy that it runs under, began.

    A route by requests assigns each of them at random once it was sent, so no client can aim at a version. Users are
    assigned by a name that their client chooses: it may make up users until they are the canary's. So there, a signal
    counts without the one client that adds most to it. The error rate cap compares with no version, and counts on
    every route without the errors of the one client that has most.

    Args:
        compared: with the events of all clients.
        clients: those that had an event.
        set_aside: requests that count for no version, because a node, or stable as well, was unavailable.
    """

    compared: Comparison
    max_error_rate: float
    disagreement: RateProcess
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    clients: Mapping[str, ClientEvidence] = field(default_factory=dict)
    set_aside: int = 0

    def seen(self, window: Window, is_settled: bool = True, is_disturbed: bool = False) -> Evidence:
        """The evidence with one more window; a window without a weight of the canary has nothing to compare.

        Args:
            is_settled: False leaves slow answers out: workers that have just got more requests may still warm up.
            is_disturbed: as of `Window.judged`.
        """
        if not window.weight:
            return self
        requests = window.stable.requests + window.canary.requests
        window = window.judged(is_disturbed)
        set_aside = requests - window.stable.requests - window.canary.requests
        weight = window.weight / TOTAL if window.weight < TOTAL else None  # None: no request went to stable
        compared = self.compared if weight is None else self.compared.seen(*window.compared, weight, is_settled)
        return replace(
            self,
            compared=compared,
            disagreement=self.disagreement.seen(window.disagreements, window.pairs),
            stable=self.stable + window.stable,
            canary=self.canary + window.canary,
            clients={**self.clients, **dict(self._clients_after(window, weight, is_settled))},
            set_aside=self.set_aside + set_aside,
        )

    def _clients_after(
        self, window: Window, weight: float | None, is_settled: bool
    ) -> Iterator[tuple[str, ClientEvidence]]:
        for name, new in window.clients.items():
            before = self.clients.get(name, ClientEvidence())
            stable, canary = before.stable + new.stable, before.canary + new.canary
            compared = before.compared
            if window.is_by_user and weight is not None:
                begun = compared or _compared(self.compared.mix)
                compared = begun.seen(new.stable_users, new.canary_users, weight, is_settled)
            yield name, ClientEvidence(new.share, stable, canary, compared)

    @cached_property
    def capped(self) -> OutcomeCounts:
        """The canary's requests as the error rate cap counts them: without the errors of one client."""
        errors = [client.canary.errors for client in self.clients.values() if client.is_bounded]
        most = min(self.canary.errors, max(errors, default=0))
        return OutcomeCounts(self.canary.requests - most, self.canary.errors - most)

    @cached_property
    def logs(self) -> dict[str, float]:
        """Logarithm of each signal's e-value, without the one client that adds most to it."""
        return self._logs(is_kept=False)

    @cached_property
    def bounded_logs(self) -> dict[str, float]:
        """As `logs`, but that client's events count for its share of the requests."""
        return self._logs(is_kept=True)

    def _logs(self, is_kept: bool) -> dict[str, float]:
        lowest = self.compared.logs
        for client in self.clients.values():
            if client.compared is None or not client.is_bounded or client.canary == NOTHING:
                continue
            others = self.compared.without(client.compared, client.share if is_kept else 0.0).logs
            lowest = {signal: min(value, others[signal]) for signal, value in lowest.items()}
        cap = RateProcess(self.max_error_rate).seen(self.capped.errors, self.capped.requests)
        return {**lowest, "disagreement": self.disagreement.log_e, "limit": cap.log_e}


def class_count(counts: OutcomeCounts, name: str, known: Collection[str]) -> int:
    """Predictions of a class; those of a class that was not known before are of OTHER."""
    if name != OTHER:
        return counts.classes.get(name, 0)
    return sum(count for label, count in counts.classes.items() if label not in known or label == OTHER)


def no_evidence(policy: RolloutPolicy, classes: Sequence[str]) -> Evidence:
    """Before the first request.

    Args:
        classes: that stable predicted before the rollout began; none: the class distribution is not judged.
    """
    named = [*classes, OTHER] if classes else []
    return Evidence(_compared(named), policy.max_error_rate, RateProcess(policy.shadow_floor))


def _compared(classes: Collection[str]) -> Comparison:
    """No event yet."""
    return Comparison(mix={name: RatioProcess(BOTH_WAYS) for name in classes})
