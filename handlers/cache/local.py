"""The response cache of one worker: equal requests to the same archive are computed once.

Pure: the clock, the random numbers and the tier that workers share come in as arguments.
"""

from __future__ import annotations

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

from handlers.cache.keys import KeyMaker
from handlers.contract import Tolerance, difference

#: Memory of an entry beside its body: key, class, dictionary slot and bookkeeping, measured with tracemalloc.
ENTRY_BYTES = 330


#: Seconds by which the clock of a node that wrote an answer may be ahead.
MOST_SKEW_S = 60.0


def steady_clock() -> Callable[[], float]:
    """A clock of seconds since 1970 that begins right, and goes on whatever the host's clock is set to afterwards."""
    begin = time.time() - time.monotonic()
    return lambda: begin + time.monotonic()


class CachedAnswer(NamedTuple):
    """An answer as the cache keeps it."""

    body: bytes
    class_name: str = ""


class Directive(Enum):
    """How a request uses the cache, by its Cache-Control header."""

    USE = "use"
    REFRESH = "refresh"  # no-cache: compute anew, and store
    BYPASS = "bypass"  # no-store: neither look up nor store


def directive(cache_control: str | None) -> Directive:
    """The directive of a Cache-Control header (RFC 9111, section 5.2.1); unknown words are ignored."""
    if not cache_control:
        return Directive.USE
    words = {word.strip().lower() for word in cache_control.split(",")}
    if "no-store" in words:
        return Directive.BYPASS
    return Directive.REFRESH if words & {"no-cache", "max-age=0"} else Directive.USE


class AnswerStore:
    """Answers by key in the memory of one worker: bounded in bytes, the least recently used leaves first.

    Args:
        max_bytes: of all entries together, with ENTRY_BYTES for each.
        clock: seconds, by the same clock as `expires`.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, CachedAnswer]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> CachedAnswer | None:
        """The answer; None where there is none or it has expired."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, answer = entry
        if expires <= self._clock():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return answer

    def put(self, key: bytes, answer: CachedAnswer, expires: float) -> None:
        """Store the answer until `expires`; one that is larger than the whole store is not stored."""
        self.drop(key)
        size = len(answer.body) + ENTRY_BYTES
        if size > self._max_bytes:
            return
        self._entries[key] = (expires, answer)
        self.bytes += size
        while self.bytes > self._max_bytes:
            _, (_, oldest) = self._entries.popitem(last=False)
            self.bytes -= len(oldest.body) + ENTRY_BYTES

    def drop(self, key: bytes) -> None:
        """Forget the key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= len(entry[1].body) + ENTRY_BYTES


@dataclass(frozen=True)
class SharedAnswer:
    """An answer out of the shared tier."""

    answer: CachedAnswer
    created: float  # seconds since 1970, by the clock of the worker that computed it


class SharedTier(Protocol):
    """The tier behind the worker's own; neither call may raise, or take longer than a small budget."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, SharedAnswer]: ...

    def put(self, entries: dict[bytes, CachedAnswer], created: float) -> None: ...


@dataclass
class Lookup:
    """The cache's knowledge of one batch; every position is in exactly one of `known`, `same` and `compute`."""

    known: dict[int, CachedAnswer] = field(default_factory=dict)  # the answer
    same: dict[int, int] = field(default_factory=dict)  # the earlier position that is computed for both
    compute: list[int] = field(default_factory=list)
    checked: dict[int, CachedAnswer] = field(default_factory=dict)  # computed as a check: the known answer
    tiers: dict[int, str] = field(default_factory=dict)  # where a known answer came from: worker, shared


class ResponseCache:
    """The answers of one archive, in this worker and in the shared tier behind it.

    Args:
        key: makes the key of a media type and canonical bytes.
        ttl_s: seconds for which an answer is served again.
        check: share of the hits, 0 to 1, that are computed all the same.
        tolerance: how far a checked answer may lie from the cached one.
        clock: seconds since 1970, because nodes share moments; `steady_clock` in a worker.
        random: a random number from 0 up to 1.
    """

    def __init__(
        self,
        key: KeyMaker,
        store: AnswerStore,
        shared: SharedTier | None,
        ttl_s: float,
        check: float,
        tolerance: Tolerance,
        clock: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self.key = key
        self._store = store
        self._shared = shared
        self._ttl_s = ttl_s
        self._check = check
        self._tolerance = tolerance
        self._clock = clock
        self._random = random

    def look_up(self, keys: Sequence[bytes], directives: Sequence[Directive]) -> Lookup:
        """The known answers to a batch, and the positions that must be computed."""
        lookup = Lookup()
        unknown: dict[bytes, list[int]] = {}
        for position, (key, wish) in enumerate(zip(keys, directives, strict=True)):
            if wish is not Directive.USE:
                lookup.compute.append(position)
            elif (answer := self._store.get(key)) is not None:
                self._use(lookup, position, answer, "worker")
            else:
                unknown.setdefault(key, []).append(position)
        shared = self._from_shared(self._shared, list(unknown)) if unknown and self._shared else {}
        for key, positions in unknown.items():
            if key in shared:
                for position in positions:
                    self._use(lookup, position, shared[key], "shared")
            else:
                first, *rest = positions
                lookup.compute.append(first)
                lookup.same.update(dict.fromkeys(rest, first))
        lookup.compute.sort()
        return lookup

    def keep(self, answers: dict[bytes, CachedAnswer]) -> None:
        """Store answers that were 200, by key."""
        now = self._clock()
        for key, answer in answers.items():
            self._store.put(key, answer, now + self._ttl_s)
        if self._shared and answers:
            self._shared.put(answers, now)

    def is_right(self, known: bytes, computed: bytes) -> bool:
        """Whether a cached body agrees with the one that was just computed, within the archive's tolerance."""
        if known == computed:
            return True
        try:
            return difference(json.loads(known), json.loads(computed), self._tolerance) is None
        except ValueError:  # an integer of more digits than Python reads
            return False

    def _use(self, lookup: Lookup, position: int, answer: CachedAnswer, tier: str) -> None:
        lookup.tiers[position] = tier
        if self._random() < self._check:
            lookup.checked[position] = answer
            lookup.compute.append(position)
        else:
            lookup.known[position] = answer

    def _from_shared(self, tier: SharedTier, keys: list[bytes]) -> dict[bytes, CachedAnswer]:
        now = self._clock()
        answers = {}
        for key, shared in tier.get(keys).items():
            expires = min(shared.created, now) + self._ttl_s
            # one from the future has an age that nobody knows: a clock here or there was set
            if expires > now and shared.created <= now + MOST_SKEW_S:
                self._store.put(key, shared.answer, expires)
                answers[key] = shared.answer
        return answers
