"""The cache's step of a batch: known answers are not computed, and equal items are computed once."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from handlers.cache.keys import canonical
from handlers.cache.local import CachedAnswer, Directive, Lookup, ResponseCache, directive
from handlers.contract import JSON
from handlers.messages import Outcome, Request, problem
from handlers.telemetry.metrics import Telemetry

logger = logging.getLogger(__name__)

#: The model's answers to decoded items.
Compute = Callable[[Sequence[Request], list[Any]], list[Outcome]]


class CachedAnswers:
    """The cache of one worker, in front of its model."""

    def __init__(self, cache: ResponseCache, model: str, version: str) -> None:
        self._cache = cache
        self._model, self._version = model, version
        self._has_been_wrong = False

    def answer(
        self, requests: Sequence[Request], items: list[Any], compute: Compute, telemetry: Telemetry
    ) -> list[Outcome]:
        """One outcome for each decoded item, in order."""
        cache = self._cache
        directives = [directive(request.headers.get("cache-control")) for request in requests]
        keys = []
        for position, (request, item) in enumerate(zip(requests, items, strict=True)):
            try:
                keys.append(request_key(cache, request, item))
            except TypeError:  # the samples had keys; a rare value of a request need not
                keys.append(b"")
                directives[position] = Directive.BYPASS
        lookup = cache.look_up(keys, directives)
        computed = compute([requests[i] for i in lookup.compute], [items[i] for i in lookup.compute])
        outcomes = {position: _hit(answer) for position, answer in lookup.known.items()}
        fresh: dict[bytes, CachedAnswer] = {}
        for position, outcome in zip(lookup.compute, computed, strict=True):
            outcome.cache = "miss" if directives[position] is Directive.USE else "bypass"
            if position in lookup.checked:
                outcome = self._check(lookup.checked[position], outcome, telemetry)
            if outcome.status == 200 and outcome.cache != "hit" and directives[position] is not Directive.BYPASS:
                fresh[keys[position]] = CachedAnswer(outcome.body, outcome.class_name)
            outcomes[position] = outcome
        for position, first in lookup.same.items():
            outcomes[position] = self._repeat(outcomes[first], requests[position])
        cache.keep(fresh)
        if telemetry.is_on:
            _count(telemetry, lookup, outcomes)
        return [outcomes[position] for position in range(len(requests))]

    def _check(self, known: CachedAnswer, outcome: Outcome, telemetry: Telemetry) -> Outcome:
        """The cached answer to an item that was computed as a check; the computed one where the cached one is wrong."""
        if outcome.status != 200 or self._cache.is_right(known.body, outcome.body):
            return _hit(known)
        if not self._has_been_wrong:  # once: a model that answers otherwise each time would fill the log
            name = f"{self._model} {self._version}"
            logger.error("%s: a cached answer was wrong and is replaced; later ones are only counted", name)
            self._has_been_wrong = True
        telemetry.cache("wrong", "none", 1)
        return outcome

    def _repeat(self, outcome: Outcome, request: Request) -> Outcome:
        """The outcome of an equal item of the same batch, for this request."""
        if outcome.error is not None:
            repeated = problem(outcome.error, request.request_id, self._model, self._version)
            repeated.cache = "hit"
            return repeated
        return Outcome(200, outcome.body, value=outcome.value, class_name=outcome.class_name, cache="hit")


def request_key(cache: ResponseCache, request: Request, item: Any) -> bytes:
    """The cache's key of a decoded request.

    Raises:
        TypeError: the decoded item has no canonical bytes.
    """
    return cache.key(JSON if request.row is not None else request.media_type, canonical(item))


def _hit(answer: CachedAnswer) -> Outcome:
    return Outcome(200, answer.body, class_name=answer.class_name, cache="hit")


def _count(telemetry: Telemetry, lookup: Lookup, outcomes: Mapping[int, Outcome]) -> None:
    tiers = Counter(
        (outcome.cache, lookup.tiers.get(position, "batch" if position in lookup.same else "none"))
        for position, outcome in outcomes.items()
    )
    for (result, tier), items in tiers.items():
        telemetry.cache(result, "none" if result != "hit" else tier, items)
