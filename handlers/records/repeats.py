"""Has the model answer recorded items of stable again, by which the noise floor of a shadow is measured.

Only items of which a shadow got a copy are answered again, so that nothing is computed where nothing is compared.
Invariant: each item is answered alone and in a batch with others, or not at all; what has no room is left out.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from handlers.contract import ASSIGNED_TRACK_HEADER, COPIED_HEADER, REPEAT_ALONE, REPEAT_BATCH, SHADOW_HEADER
from handlers.messages import Outcome, Request
from handlers.records.record import Sampled
from handlers.records.sampling import sampler

#: Items that wait. They are answered once FULL of them wait, or the first has waited for LONGEST_S.
MOST_ITEMS, FULL, LONGEST_S = 64, 8, 2.0

#: The model's answers to items, outside of the cache and of all counts.
AnswerAgain = Callable[[Sequence[Request], Sequence[Any]], list[Outcome]]


class Repeats:
    """The items of one worker that are to be answered again.

    Args:
        share: of the requests that are answered again; at most that of the recorded ones.
        batch_size: the most items of a batch; with 1, there is no answer in another batch.
        clock: seconds of a monotonic clock.
    """

    def __init__(
        self, share: float, answer: AnswerAgain, batch_size: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._is_chosen = sampler(share)
        self._answer = answer
        self._batch_size = batch_size
        self._clock = clock
        self._waiting: deque[Sampled] = deque()
        self._since = 0.0  # when the first of them came
        self._last: Sampled | None = None  # stands beside an item that is alone

    def take(self, sampled: Sampled) -> None:
        """Keep the item until its turn, where it is one of those that are answered again."""
        headers = sampled.request.headers
        is_of_stable = headers.get(ASSIGNED_TRACK_HEADER) == "stable" and SHADOW_HEADER not in headers
        is_answered = sampled.item is not None and sampled.outcome.status == 200
        if not (is_of_stable and COPIED_HEADER in headers and is_answered):
            return
        if len(self._waiting) >= MOST_ITEMS or not self._is_chosen(sampled.request.request_id):
            return
        if not self._waiting:
            self._since = self._clock()
        self._waiting.append(sampled)

    def due(self) -> Iterator[tuple[Sampled, str, Outcome]]:
        """The second answers to the items whose turn it is, each with its kind; items that came later stay.

        Raises:
            Exception: the model failed in a way that is no outcome; the items are left out.
        """
        is_due = len(self._waiting) >= FULL or self._clock() - self._since >= LONGEST_S
        has_company = len(self._waiting) > 1 or self._last is not None or self._batch_size == 1
        if not (self._waiting and is_due and has_company):
            return
        items = [self._waiting.popleft() for _ in range(len(self._waiting))]
        for item in items:
            yield item, REPEAT_ALONE, self._answered([item])[0]
        if self._batch_size > 1:
            for begin in range(0, len(items), self._batch_size):
                batch = items[begin : begin + self._batch_size]
                before = items[begin - 1] if begin else self._last
                beside = [before] if before is not None and len(batch) == 1 else []
                answers = self._answered([*batch, *beside])
                yield from ((item, REPEAT_BATCH, again) for item, again in zip(batch, answers, strict=False))
        self._last = items[-1]

    def _answered(self, batch: Sequence[Sampled]) -> list[Outcome]:
        return self._answer([each.request for each in batch], [each.item for each in batch])
