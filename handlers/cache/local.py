"""Answers that are known already: equal requests to the same archive are computed once.

Pure: the clock, the chance and the tier that workers share come in as arguments.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from handlers.cache.keys import KeyMaker
from handlers.contract import Tolerance, difference

#: What an entry costs beside its body: key, dictionary slot and bookkeeping, measured with tracemalloc.
ENTRY_BYTES = 250


class Directive(Enum):
    """What a request's Cache-Control header asks for."""

    USE = "use"
    REFRESH = "refresh"  # no-cache: compute anew, and remember
    LEAVE = "leave"  # no-store: neither look nor remember


def directive(cache_control: str | None) -> Directive:
    """The directive of a Cache-Control header (RFC 9111, section 5.2.1); what is unknown there means nothing."""
    if not cache_control:
        return Directive.USE
    words = {word.strip().lower() for word in cache_control.split(",")}
    if "no-store" in words:
        return Directive.LEAVE
    return Directive.REFRESH if words & {"no-cache", "max-age=0"} else Directive.USE


class AnswerStore:
    """Bodies by key in the memory of one worker: bounded in bytes, the least recently used leaves first.

    Args:
        max_bytes: of all entries together, with ENTRY_BYTES for each.
        clock: seconds, the same that `expires` is told in.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> bytes | None:
        """The body, None where there is none or its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, body = entry
        if expires <= self._clock():
            self.drop(key)
            return None
        self._entries.move_to_end(key)
        return body

    def put(self, key: bytes, body: bytes, expires: float) -> None:
        """Hold the body until `expires`; one that is larger than the whole store is not held."""
        self.drop(key)
        size = len(body) + ENTRY_BYTES
        if size > self._max_bytes:
            return
        self._entries[key] = (expires, body)
        self.bytes += size
        while self.bytes > self._max_bytes:
            _, (_, left) = self._entries.popitem(last=False)
            self.bytes -= len(left) + ENTRY_BYTES

    def drop(self, key: bytes) -> None:
        """Forget the key."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.bytes -= len(entry[1]) + ENTRY_BYTES


@dataclass(frozen=True)
class Shared:
    """An answer out of the shared tier."""

    body: bytes
    created: float  # seconds since 1970


class SharedTier(Protocol):
    """What the cache asks of the tier behind it; neither call may raise, or take longer than a small budget."""

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Shared]: ...

    def put(self, entries: dict[bytes, bytes]) -> None: ...


@dataclass
class Lookup:
    """What the cache knows of one batch; every position is in exactly one of `found`, `same` and `compute`."""

    found: dict[int, bytes] = field(default_factory=dict)  # the body that answers it
    same: dict[int, int] = field(default_factory=dict)  # the earlier position that is computed for both
    compute: list[int] = field(default_factory=list)
    checked: dict[int, bytes] = field(default_factory=dict)  # computed though known: the known body
    tiers: dict[int, str] = field(default_factory=dict)  # where a known body came from: worker, shared


class ResponseCache:
    """The answers of one archive, in this worker and in the shared tier behind it.

    Args:
        key: makes the key of a media type and canonical bytes.
        ttl_s: seconds for which an answer is right.
        check: share of the hits, 0 to 1, that are computed all the same.
        tolerance: how far a checked answer may lie from the remembered one.
        clock: seconds since 1970, because nodes share moments.
        chance: a random number from 0 up to 1.
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
        chance: Callable[[], float],
    ) -> None:
        self.key = key
        self._store = store
        self._shared = shared
        self._ttl_s = ttl_s
        self._check = check
        self._tolerance = tolerance
        self._clock = clock
        self._chance = chance

    def look_up(self, keys: Sequence[bytes], directives: Sequence[Directive]) -> Lookup:
        """What is known of a batch."""
        lookup = Lookup()
        unknown: dict[bytes, list[int]] = {}
        for position, (key, wish) in enumerate(zip(keys, directives, strict=True)):
            if wish is not Directive.USE:
                lookup.compute.append(position)
            elif (body := self._store.get(key)) is not None:
                self._take(lookup, position, body, "worker")
            else:
                unknown.setdefault(key, []).append(position)
        shared = self._from_shared(self._shared, list(unknown)) if unknown and self._shared else {}
        for key, positions in unknown.items():
            if key in shared:
                for position in positions:
                    self._take(lookup, position, shared[key], "shared")
            else:
                first, *rest = positions
                lookup.compute.append(first)
                lookup.same.update(dict.fromkeys(rest, first))
        lookup.compute.sort()
        return lookup

    def keep(self, answers: dict[bytes, bytes]) -> None:
        """Remember the bodies of answers that were 200, by key."""
        expires = self._clock() + self._ttl_s
        for key, body in answers.items():
            self._store.put(key, body, expires)
        if self._shared and answers:
            self._shared.put(answers)

    def is_right(self, known: bytes, computed: bytes) -> bool:
        """Whether a remembered body agrees with the one that was just computed, within the archive's tolerance."""
        return known == computed or difference(json.loads(known), json.loads(computed), self._tolerance) is None

    def _take(self, lookup: Lookup, position: int, body: bytes, tier: str) -> None:
        lookup.tiers[position] = tier
        if self._chance() < self._check:
            lookup.checked[position] = body
            lookup.compute.append(position)
        else:
            lookup.found[position] = body

    def _from_shared(self, tier: SharedTier, keys: list[bytes]) -> dict[bytes, bytes]:
        now = self._clock()
        found = {}
        for key, answer in tier.get(keys).items():
            expires = min(answer.created, now) + self._ttl_s  # a clock that goes ahead makes nothing live longer
            if expires > now:
                self._store.put(key, answer.body, expires)
                found[key] = answer.body
        return found
