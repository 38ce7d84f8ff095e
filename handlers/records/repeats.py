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
#: An item that has waited for LATE_S is left out: who reads the records does not wait for its second answers. A call
#: answers as many items as the last one would have answered in SLICE_S.
LATE_S, SLICE_S = 5.0, 2.0

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
        self._waiting: deque[tuple[float, Sampled]] = deque()  # each with the time when it came
        self._since = 0.0  # when the first of them came
        self._slice = FULL  # items of the next call of `due`
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
        now = self._clock()
        if not self._waiting:
            self._since = now
        self._waiting.append((now, sampled))

    def due(self) -> Iterator[tuple[Sampled, str, Outcome]]:
        """The second answers to the items whose turn it is, each with its kind; the others stay.

        It takes about SLICE_S seconds, so that the thread can do other work between two calls.

        Raises:
            Exception: the model failed in a way that is no outcome; the items are left out.
        """
        begin = self._clock()
        while self._waiting and begin - self._waiting[0][0] > LATE_S:
            self._waiting.popleft()
            self._since = self._waiting[0][0] if self._waiting else begin
        is_due = len(self._waiting) >= FULL or begin - self._since >= LONGEST_S
        has_company = len(self._waiting) > 1 or self._last is not None or self._batch_size == 1
        if not (self._waiting and is_due and has_company):
            return
        items = [self._waiting.popleft()[1] for _ in range(min(self._slice, len(self._waiting)))]
        self._since = self._waiting[0][0] if self._waiting else begin
        for item in items:
            yield item, REPEAT_ALONE, self._answered([item])[0]
        if self._batch_size > 1:
            for place in range(0, len(items), self._batch_size):
                batch = items[place : place + self._batch_size]
                neighbour = items[place - 1] if place else self._last
                if neighbour is None and self._waiting:
                    neighbour = self._waiting[0][1]
                beside = [neighbour] if neighbour is not None and len(batch) == 1 else []
                answers = self._answered([*batch, *beside])
                yield from ((item, REPEAT_BATCH, again) for item, again in zip(batch, answers, strict=False))
        self._last = items[-1]
        each_s = (self._clock() - begin) / len(items)
        self._slice = min(MOST_ITEMS, max(1, int(SLICE_S / each_s))) if each_s > 0 else MOST_ITEMS

    def _answered(self, batch: Sequence[Sampled]) -> list[Outcome]:
        return self._answer([each.request for each in batch], [each.item for each in batch])
