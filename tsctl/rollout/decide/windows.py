"""Counts of requests by outcome, of each version and each client, as they are read and as journals store them; and the
thresholds by which times are counted. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Thresholds:
    """From which times on an answer counts as slow, by stable's recent answers; None where that is not known.

    Args:
        slow_ms: until the answer begins.
        token_ms: for each token of a language model's answer.
        longest_s: of a language model, how long nearly all answers take. When a weight has been in force for less,
            short answers are known, and long ones are not.
    """

    slow_ms: float | None = None
    token_ms: float | None = None
    longest_s: float | None = None


UNKNOWN = Thresholds()


@dataclass(frozen=True)
class OutcomeCounts:
    """Requests of one version by outcome.

    Args:
        slow: computed answers, and clients that left, after the slow threshold.
        refused: as the client's mistake.
        unanswered: no worker took them, or no answer came; errors where that is the version's fault.
        cached: answered from a cache, and not computed.
        timed: computed answers whose times are known; the gateway knows times later than requests. Of a language
            model only streams, which begin with their first token.
        slow_tokens: of a language model, answers whose tokens took as long as the threshold of tokens, or longer.
        paced: those whose time for a token is known.
        finishes: complete answers of a language model, by how they ended; `lengths`: by their tokens (LENGTHS).
    """

    requests: int = 0
    errors: int = 0
    slow: int = 0
    classes: Mapping[str, int] = field(default_factory=dict)  # predictions, where the handler names a class
    refused: int = 0
    unanswered: int = 0
    cached: int = 0
    timed: int = 0
    slow_tokens: int = 0
    paced: int = 0
    finishes: Mapping[str, int] = field(default_factory=dict)
    lengths: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: OutcomeCounts) -> OutcomeCounts:
        return OutcomeCounts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.slow + other.slow,
            _sum(self.classes, other.classes),
            self.refused + other.refused,
            self.unanswered + other.unanswered,
            self.cached + other.cached,
            self.timed + other.timed,
            self.slow_tokens + other.slow_tokens,
            self.paced + other.paced,
            _sum(self.finishes, other.finishes),
            _sum(self.lengths, other.lengths),
        )

    @property
    def complete(self) -> int:
        """Answers of a language model that the model, or its limit of tokens, ended."""
        return sum(self.finishes.values())

    @property
    def computed(self) -> int:
        """Requests that no cache answered."""
        return max(0, self.requests - self.cached)

    def judged(self, is_fault: bool) -> OutcomeCounts:
        """With the unanswered requests as errors of the version, or without them."""
        if is_fault:
            return replace(self, errors=self.errors + self.unanswered, unanswered=0)
        return replace(self, requests=max(0, self.requests - self.unanswered), unanswered=0)


def _sum(counts: Mapping[str, int], others: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) + others.get(name, 0) for name in sorted(counts.keys() | others.keys())}


NOTHING = OutcomeCounts()


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

    def each(self, change: Callable[[OutcomeCounts], OutcomeCounts]) -> ClientCounts:
        """With every count changed."""
        counts = (self.stable, self.canary, self.stable_users, self.canary_users)
        return ClientCounts(self.share, *map(change, counts))

    def __add__(self, other: ClientCounts) -> ClientCounts:
        return ClientCounts(
            other.share,
            self.stable + other.stable,
            self.canary + other.canary,
            self.stable_users + other.stable_users,
            self.canary_users + other.canary_users,
        )


@dataclass(frozen=True)
class Window:
    """Requests that were routed at one weight of the canary, since the last reading.

    Args:
        weight: of the canary, in hundredths of a percent.
        is_by_user: the route divides users; `stable_users` and `canary_users` count each user's first event of a kind.
        clients: those with an error or a refusal, or where the route divides users with any event.
    """

    weight: int
    stable: OutcomeCounts = NOTHING
    canary: OutcomeCounts = NOTHING
    is_by_user: bool = False
    stable_users: OutcomeCounts = NOTHING
    canary_users: OutcomeCounts = NOTHING
    clients: Mapping[str, ClientCounts] = field(default_factory=dict)

    def __add__(self, other: Window) -> Window:
        """Both windows in one, of the same weight and route."""
        names = dict.fromkeys([*self.clients, *other.clients])
        nobody = ClientCounts()
        return Window(
            self.weight,
            self.stable + other.stable,
            self.canary + other.canary,
            other.is_by_user,
            self.stable_users + other.stable_users,
            self.canary_users + other.canary_users,
            {name: self.clients.get(name, nobody) + other.clients.get(name, nobody) for name in names},
        )

    def each(self, change: Callable[[OutcomeCounts], OutcomeCounts]) -> Window:
        """With every count changed, those of clients too."""
        return replace(
            self,
            stable=change(self.stable),
            canary=change(self.canary),
            stable_users=change(self.stable_users),
            canary_users=change(self.canary_users),
            clients={name: client.each(change) for name, client in self.clients.items()},
        )

    def judged(self, is_disturbed: bool) -> Window:
        """With the unanswered requests as errors; without them where a node, or stable as well, was unavailable.

        Args:
            is_disturbed: a node was unavailable, or has just come back.
        """
        is_stable_gone = 0 < self.stable.requests <= 2 * self.stable.unanswered
        is_fault = not is_disturbed and not is_stable_gone
        return self.each(lambda counts: counts.judged(is_fault))

    @property
    def compared(self) -> tuple[OutcomeCounts, OutcomeCounts]:
        """Counts of stable and of the canary that fell to their version by chance."""
        return (self.stable_users, self.canary_users) if self.is_by_user else (self.stable, self.canary)

    @property
    def is_cold(self) -> bool:
        """Whether the canary computes so much more of its answers than stable that its workers are not as busy."""
        return self.canary.computed * self.stable.requests > COLD * self.stable.computed * self.canary.requests


#: A cache of the canary is cold while it computes this many times as large a share of its answers as stable does.
COLD = 2
