"""Items are answered again while somebody waits for it, and never for long at a time, however slow the model is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from handlers.contract import ASSIGNED_TRACK_HEADER, COPIED_HEADER, REPEAT_ALONE, REPEAT_BATCH
from handlers.messages import Outcome, Request
from handlers.records.record import Batch, Sampled
from handlers.records.repeats import FULL, LATE_S, LONGEST_S, Repeats

BATCH = Batch(0.0, 0.0, 1, {})
HEADERS = {ASSIGNED_TRACK_HEADER: "stable", COPIED_HEADER: "1"}


class Slow:
    """A model that takes so many seconds for each call, whatever is in its batch."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.now = seconds, 100.0
        self.batches: list[list[str | None]] = []
        self.repeats = Repeats(1.0, self._answer, 4, lambda: self.now)
        self._asked = 0

    def _answer(self, requests: Sequence[Request], items: Sequence[Any]) -> list[Outcome]:
        self.now += self.seconds
        self.batches.append([request.request_id for request in requests])
        return [Outcome(200, b"{}", "application/json") for _ in requests]

    def ask(self, count: int) -> None:
        for _ in range(count):
            request = Request(b"{}", "application/json", HEADERS, f"r{self._asked}")
            self.repeats.take(Sampled(request, {}, Outcome(200, b"{}", "application/json"), BATCH))
            self._asked += 1

    def due(self) -> list[tuple[str | None, str]]:
        return [(each.request.request_id, kind) for each, kind, _ in self.repeats.due()]


def test_a_fast_model_answers_all_that_wait() -> None:
    fast = Slow(0.001)
    fast.ask(FULL)
    assert len(fast.due()) == 2 * FULL
    fast.ask(3 * FULL)
    assert len(fast.due()) == 2 * 3 * FULL
    assert fast.due() == []


def test_a_slow_model_answers_few_at_a_time_and_leaves_out_what_waited_too_long() -> None:
    slow = Slow(1.0)
    slow.ask(FULL)
    assert len(slow.due()) == 2 * FULL, "nobody knows yet that it is slow"
    slow.ask(FULL)
    assert slow.due() == [("r8", REPEAT_ALONE), ("r8", REPEAT_BATCH)]
    assert slow.batches[-1] == ["r8", "r7"], "it was in another batch"
    slow.now += LATE_S
    assert slow.due() == []
    slow.ask(1)
    slow.now += LONGEST_S
    assert slow.due() == [("r16", REPEAT_ALONE), ("r16", REPEAT_BATCH)]


def test_an_item_waits_for_others_only_so_long() -> None:
    model = Slow(0.001)
    model.ask(2)
    assert model.due() == []
    model.now += LONGEST_S
    assert [name for name, _ in model.due()] == ["r0", "r1", "r0", "r1"]
