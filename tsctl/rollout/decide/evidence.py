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

NO_EVENT = RatioProcess()


@dataclass(frozen=True)
class Comparison:
    """The processes that compare the canary with stable.

    Args:
        mix: by class. The classes are fixed before the first request, or their average would be no e-process.
        finish: by the end of an answer, and `length`: by its tokens; empty where answers are no texts.
    """

    errors: RatioProcess = NO_EVENT
    refused: RatioProcess = NO_EVENT
    slow: RatioProcess = NO_EVENT
    mix: Mapping[str, RatioProcess] = field(default_factory=dict)
    tokens: RatioProcess = NO_EVENT
    finish: Mapping[str, RatioProcess] = field(default_factory=dict)
    length: Mapping[str, RatioProcess] = field(default_factory=dict)

    def answered(self, stable: OutcomeCounts, canary: OutcomeCounts, weight: float) -> Comparison:
        """After these refusals and predictions, computed or from a cache, at this weight of the canary, as a share."""
        mix = _each_seen(self.mix, stable.classes, canary.classes, weight)
        return replace(self, refused=self.refused.seen(canary.refused, stable.refused, weight), mix=mix)

    def completed(self, stable: OutcomeCounts, canary: OutcomeCounts, share: float) -> Comparison:
        """After these complete texts, of which the canary has this share."""
        return replace(
            self,
            finish=_each_seen(self.finish, stable.finishes, canary.finishes, share),
            length=_each_seen(self.length, stable.lengths, canary.lengths, share),
        )

    def distribution(self, signal: str) -> Mapping[str, RatioProcess]:
        """The processes of a signal that compares shares of classes; empty for any other."""
        return {"mix": self.mix, "finish": self.finish, "length": self.length}.get(signal, {})

    def without(self, part: Comparison, kept: float = 0.0) -> Comparison:
        """As of `RatioProcess.without`, for every process."""
        return Comparison(
            self.errors.without(part.errors, kept),
            self.refused.without(part.refused, kept),
            self.slow.without(part.slow, kept),
            _each_without(self.mix, part.mix, kept),
            self.tokens.without(part.tokens, kept),
            _each_without(self.finish, part.finish, kept),
            _each_without(self.length, part.length, kept),
        )

    @property
    def logs(self) -> dict[str, float]:
        """Logarithm of each signal's e-value."""
        return {
            "errors": self.errors.log_e,
            "refused": self.refused.log_e,
            "slow": self.slow.log_e,
            "mix": _average(self.mix),
            "tokens": self.tokens.log_e,
            "finish": _average(self.finish),
            "length": _average(self.length),
        }


#: Of a signal that compares how often both versions' answers are of each class.
Processes = Mapping[str, RatioProcess]


def _each_seen(
    processes: Processes, stable: Mapping[str, int], canary: Mapping[str, int], weight: float
) -> dict[str, RatioProcess]:
    return {
        name: process.seen(class_count(canary, name, processes), class_count(stable, name, processes), weight)
        for name, process in processes.items()
    }


def _each_without(processes: Processes, part: Processes, kept: float) -> dict[str, RatioProcess]:
    return {name: process.without(part[name], kept) for name, process in processes.items()}


def _average(processes: Processes) -> float:
    """Logarithm of the average e-value; that of 1 where there is none."""
    return log_mean([process.log_e for process in processes.values()]) if processes else 0.0


#: Adds events of stable and of the canary to a comparison.
Step = Callable[[Comparison, OutcomeCounts, OutcomeCounts], Comparison]


@dataclass(frozen=True)
class Kind:
    """A kind of event that only computed answers have, or only texts.

    Args:
        computed: how many of a version's answers could have been one.
        step: how to compare, where this share of both versions' computed answers is the canary's.
        is_time: it depends on how busy the version's workers are.
    """

    name: str
    computed: Callable[[OutcomeCounts], int]
    step: Callable[[float], Step]
    is_time: bool = False


def _errors(share: float) -> Step:
    return lambda old, stable, canary: replace(old, errors=old.errors.seen(canary.errors, stable.errors, share))


def _slow(share: float) -> Step:
    return lambda old, stable, canary: replace(old, slow=old.slow.seen(canary.slow, stable.slow, share))


def _tokens(share: float) -> Step:
    return lambda old, stable, canary: replace(
        old, tokens=old.tokens.seen(canary.slow_tokens, stable.slow_tokens, share)
    )


def _completed(share: float) -> Step:
    return lambda old, stable, canary: old.completed(stable, canary, share)


ERRORS = Kind("errors", lambda counts: counts.computed, _errors)
SLOW = Kind("slow", lambda counts: counts.timed, _slow, is_time=True)
TOKENS = Kind("tokens", lambda counts: counts.paced, _tokens, is_time=True)
COMPLETED = Kind("completed", lambda counts: counts.complete, _completed)


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
        after = after._compare(window, lambda compared, *counts: compared.answered(*counts, weight))
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
            return self._count_warm(kind, window)._compare(window, kind.step(window.weight / TOTAL))
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
        return after._count_warm(kind, block)._compare(block, kind.step(canary / (canary + stable)))

    def _count_warm(self, kind: Kind, window: Window) -> Evidence:
        return replace(self, warm=self.warm + window.canary.timed) if kind is SLOW else self

    def _compare(self, window: Window, step: Step) -> Evidence:
        """Take a step with the counts of all clients, and with those of each where the route divides users."""
        clients = dict(self.clients)
        for name, new in window.clients.items() if window.is_by_user else ():
            before = self._client(name)
            compared = step(before.compared or _no_event(self.compared), new.stable_users, new.canary_users)
            clients[name] = replace(before, compared=compared)
        return replace(self, compared=step(self.compared, *window.compared), clients=clients)

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
    named = [*classes, OTHER] if classes else []
    finish, length = (ENDS, LENGTHS) if is_text else ((), ())
    compared = Comparison(mix=_both_ways(named), finish=_both_ways(finish), length=_both_ways(length))
    return Evidence(compared, policy.max_error_rate, is_text=is_text)


def _both_ways(classes: Collection[str]) -> Processes:
    return {name: RatioProcess(BOTH_WAYS) for name in classes}


def _no_event(like: Comparison) -> Comparison:
    """No event yet, with the classes of another comparison."""
    return Comparison(
        mix=_both_ways(like.mix.keys()), finish=_both_ways(like.finish.keys()), length=_both_ways(like.length.keys())
    )
