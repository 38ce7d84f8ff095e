"""The evidence of a rollout: counts of both versions, and the e-processes that they feed. Pure.

The journal stores counts: folding the same windows in the same order gives the same evidence. Invariant: no client with
at most half of the requests can fail a canary alone, whatever it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from handlers.contract import OTHER_CLASS
from tsctl.config.policy import RolloutPolicy
from tsctl.config.weights import TOTAL
from tsctl.rollout.decide.labels import NO_LABELS, LabelCounts
from tsctl.rollout.decide.windows import NOTHING, ClientCounts, OutcomeCounts, Window
from tsctl.statistics.sequential import BOTH_WAYS, RateProcess, RatioProcess, log_mean

#: The class of every prediction whose class was not known before the rollout began.
OTHER = OTHER_CLASS
#: A client with a larger share of the requests is the service's own traffic, and is not left out.
MOST_SHARE = 0.5
#: Computed answers of each version that are compared at once, where a cache answers others.
LEAST_COMPUTED = 30
#: Answers of a language model that are compared at once, of each version.
LEAST_TEXTS = 10
#: Kinds of ends of a language model's answer, which are judged one by one.
ENDS = ("stop", "length", "tool_calls", OTHER)
#: Lengths of a language model's answers that are judged one by one: from so many tokens up to the next.
LENGTHS = ("0", *(str(1 << power) for power in range(13)))

#: The events that each signal compares, by class; where it knows no classes, all are of the class EVENT.
EVENT = ""
COUNTS: Mapping[str, Callable[[OutcomeCounts], Mapping[str, int]]] = {
    "errors": lambda counts: {EVENT: counts.errors},
    "refused": lambda counts: {EVENT: counts.refused},
    "slow": lambda counts: {EVENT: counts.slow},
    "mix": lambda counts: counts.classes,
    "tokens": lambda counts: {EVENT: counts.slow_tokens},
    "finish": lambda counts: counts.finishes,
    "length": lambda counts: counts.lengths,
}
#: Signals that compare how often both versions' answers are of each class.
BY_CLASS = frozenset({"mix", "finish", "length"})


@dataclass(frozen=True)
class Comparison:
    """The processes that compare the canary with stable.

    Args:
        processes: of each signal by class. The classes are fixed before the first request, or their average would be no
            e-process; a signal that is not judged may have none.
    """

    processes: Mapping[str, Mapping[str, RatioProcess]]

    def seen(self, signals: Collection[str], stable: OutcomeCounts, canary: OutcomeCounts, share: float) -> Comparison:
        """After more events of these signals, each of which is the canary's with this probability."""
        after = dict(self.processes)
        for signal in signals:
            of_stable, of_canary, processes = COUNTS[signal](stable), COUNTS[signal](canary), after[signal]
            after[signal] = {
                name: process.seen(
                    class_count(of_canary, name, processes), class_count(of_stable, name, processes), share
                )
                for name, process in processes.items()
            }
        return Comparison(after)

    def distribution(self, signal: str) -> Mapping[str, RatioProcess]:
        """The processes of a signal that compares shares of classes; empty for any other."""
        return self.processes[signal] if signal in BY_CLASS else {}

    def without(self, part: Comparison, kept: float = 0.0) -> Comparison:
        """As of `RatioProcess.without`, for every process."""
        return Comparison(
            {
                signal: {
                    name: process.without(part.processes[signal][name], kept) for name, process in by_class.items()
                }
                for signal, by_class in self.processes.items()
            }
        )

    @property
    def logs(self) -> dict[str, float]:
        """Logarithm of each signal's e-value, the average over its classes; that of 1 where it has none."""
        return {
            signal: log_mean([process.log_e for process in by_class.values()]) if by_class else 0.0
            for signal, by_class in self.processes.items()
        }

    @property
    def without_events(self) -> Comparison:
        """No event yet, with the same classes."""
        return Comparison(
            {
                signal: {name: RatioProcess(process.ratios) for name, process in by_class.items()}
                for signal, by_class in self.processes.items()
            }
        )


@dataclass(frozen=True)
class Kind:
    """A kind of event that only computed answers have, or only texts.

    Args:
        computed: how many of a version's answers could have been one.
        signals: that compare it; of both versions' computed answers, the canary's share is its probability.
        is_time: it depends on how busy the version's workers are.
    """

    name: str
    computed: Callable[[OutcomeCounts], int]
    signals: tuple[str, ...]
    is_time: bool = False


ERRORS = Kind("errors", lambda counts: counts.computed, ("errors",))
SLOW = Kind("slow", lambda counts: counts.timed, ("slow",), is_time=True)
TOKENS = Kind("tokens", lambda counts: counts.paced, ("tokens",), is_time=True)
COMPLETED = Kind("completed", lambda counts: counts.complete, ("finish", "length"))
#: Signals whose events a cache's answers have as well.
ANSWERED = ("refused", "mix")


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

    def seen(self, new: ClientCounts) -> ClientEvidence:
        """With more counts."""
        return replace(self, share=new.share, stable=self.stable + new.stable, canary=self.canary + new.canary)

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

    A cache answers without an error, and at once. So where one answers, errors and slow answers are compared in blocks:
    of all answers that both versions computed in one, each is the canary's with the probability of its share of them
    (drawn without replacement, which only lowers the expectation of a factor: Hoeffding 1963). While the canary's
    cache is cold, its workers compute more than stable's, and no answer is judged as slow.

    A language model's answer is known when it ends, so of two versions the faster one is known sooner. So all but its
    errors is compared in such blocks: of the answers that have ended, wherever they are in time. A worker computes the
    next token of all its answers at once, and takes longer for more of them: while the canary has more than half of
    the requests, no time is judged.

    Args:
        compared: with the events of all clients.
        clients: those that had an event.
        set_aside: requests that count for no version, because a node, or stable as well, was unavailable.
        blocks: of computed answers that are not compared yet, by kind of event.
        labels: of recorded requests, since the rollout began.
        cold: answers that the canary computed while its cache was cold; `warm`: those that were judged as slow or not.
        is_text: answers are texts of a language model.
    """

    compared: Comparison
    max_error_rate: float
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    clients: Mapping[str, ClientEvidence] = field(default_factory=dict)
    set_aside: int = 0
    blocks: Mapping[str, Window] = field(default_factory=dict)
    labels: LabelCounts = NO_LABELS
    cold: int = 0
    warm: int = 0
    is_text: bool = False

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
        after = replace(
            self,
            stable=self.stable + window.stable,
            canary=self.canary + window.canary,
            clients={**self.clients, **{name: self._client(name).seen(new) for name, new in window.clients.items()}},
            set_aside=self.set_aside + requests - window.stable.requests - window.canary.requests,
        )
        if window.weight == TOTAL:  # no request went to stable
            return after
        weight = window.weight / TOTAL
        after = after._compare(window, ANSWERED, weight)
        after = after._add_computed(ERRORS, window)
        for kind in (SLOW, TOKENS, COMPLETED) if self.is_text else (SLOW,):
            is_busier = self.is_text and kind.is_time and 2 * window.weight > TOTAL
            after = after._add_computed(kind, window) if is_settled and not is_busier else after
        return after

    def _add_computed(self, kind: Kind, window: Window) -> Evidence:
        """Compare errors or slow answers of a window at once, or where a cache answers of a block."""
        block = self.blocks.get(kind.name)
        is_at_once = not self.stable.cached and not self.canary.cached
        if self.is_text:  # users are assigned by weight, however many requests each of them sends
            is_at_once = kind is ERRORS or window.is_by_user
        if block is None and is_at_once:
            return self._count_warm(kind, window)._compare(window, kind.signals, window.weight / TOTAL)
        if block is not None and block.weight != window.weight:
            if not kind.computed(window.stable) + kind.computed(window.canary):
                return self  # events of a weight that is past
            return self._compare_block(kind, block)._add_computed(kind, window)
        block = window if block is None else block + window
        least = LEAST_TEXTS if self.is_text else LEAST_COMPUTED
        if min(kind.computed(block.stable), kind.computed(block.canary)) >= least:
            return self._compare_block(kind, block)
        return replace(self, blocks={**self.blocks, kind.name: block})

    def _compare_block(self, kind: Kind, block: Window) -> Evidence:
        after = replace(self, blocks={name: other for name, other in self.blocks.items() if name != kind.name})
        if kind is SLOW and block.is_cold:
            return replace(after, cold=after.cold + block.canary.timed)
        stable, canary = kind.computed(block.stable), kind.computed(block.canary)
        if not stable or not canary:
            return after
        return after._count_warm(kind, block)._compare(block, kind.signals, canary / (canary + stable))

    def _count_warm(self, kind: Kind, window: Window) -> Evidence:
        return replace(self, warm=self.warm + window.canary.timed) if kind is SLOW else self

    def _compare(self, window: Window, signals: Collection[str], share: float) -> Evidence:
        """Compare the counts of all clients, and those of each where the route divides users."""
        clients = dict(self.clients)
        for name, new in window.clients.items() if window.is_by_user else ():
            before = self._client(name)
            compared = before.compared or self.compared.without_events
            compared = compared.seen(signals, new.stable_users, new.canary_users, share)
            clients[name] = replace(before, compared=compared)
        return replace(self, compared=self.compared.seen(signals, *window.compared, share), clients=clients)

    def _client(self, name: str) -> ClientEvidence:
        return self.clients.get(name, ClientEvidence())

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
        return {**lowest, "labels": self.labels.log_e, "limit": cap.log_e}


def class_count(classes: Mapping[str, int], name: str, known: Collection[str]) -> int:
    """Answers of a class; those of a class that was not known before are of OTHER."""
    if name != OTHER:
        return classes.get(name, 0)
    return sum(count for label, count in classes.items() if label not in known or label == OTHER)


def no_evidence(policy: RolloutPolicy, classes: Sequence[str], is_text: bool = False) -> Evidence:
    """Before the first request.

    Args:
        classes: that stable predicted before the rollout began; none: the class distribution is not judged.
        is_text: answers are texts of a language model.
    """
    named = {
        "mix": [*classes, OTHER] if classes else [],
        "finish": ENDS if is_text else (),
        "length": LENGTHS if is_text else (),
    }
    processes = {
        signal: {name: RatioProcess(BOTH_WAYS) for name in named[signal]}
        if signal in named
        else {EVENT: RatioProcess()}
        for signal in COUNTS
    }
    return Evidence(Comparison(processes), policy.max_error_rate, is_text=is_text)
