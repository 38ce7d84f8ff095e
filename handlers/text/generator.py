"""Computes many answers at once: who gets a place, who waited too long, what becomes of the rest when one fails.

The backend forms the batches. One thread works on it; everything else talks to this class.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from handlers.errors import DeadlinePassed, DoesNotFit, ModelFailed, RequestError, Unavailable
from handlers.log_lines import about
from handlers.text.answer import Answer, Piece
from handlers.text.backend import Backend, Produced

logger = logging.getLogger(__name__)

#: What one step gave, all answers together: so that whoever listens wakes up once.
Delivery = Sequence[tuple[Answer, Piece]]


@dataclass
class _Change:
    """What other threads want of the one that works."""

    submitted: list[Answer] = field(default_factory=list)
    cancelled: list[Answer] = field(default_factory=list)
    is_closing: bool = False


class Generator:
    """A backend and the answers that it works on.

    Args:
        most: answers at a time, those that wait for a place in the backend's batch among them.
        deliver: called in the working thread after each step that gave something; must be quick.
        on_failure: called there with what a step raised.
        on_crash: called there with what ended this thread: the backend raised where it must not, and nothing more is
            answered.
    """

    def __init__(
        self,
        backend: Backend,
        most: int,
        deliver: Callable[[Delivery], None],
        on_failure: Callable[[Exception], None] = lambda error: None,
        on_crash: Callable[[Exception], None] = lambda error: None,
    ) -> None:
        self._backend = backend
        self._most = most
        self._deliver = deliver
        self._on_failure = on_failure
        self._on_crash = on_crash
        self._changed = threading.Condition()
        self._change = _Change()
        self._open = 0  # answers that were submitted and have not ended
        self._keys = 0
        self._working: dict[int, Answer] = {}
        self._waiting: list[Answer] = []
        self._suspects: list[Answer] = []  # were new in a step that failed; they begin one after the other
        self._thread = threading.Thread(target=self._work, name="generator", daemon=True)
        self._thread.start()

    @property
    def in_hand(self) -> int:
        """Answers that have not ended."""
        with self._changed:
            return self._open

    def submit(self, *answers: Answer) -> None:
        """Begin answers; all of them or none. Each gets pieces until one has a `finish` or an `error`.

        Raises:
            DoesNotFit: a prompt has no token, or is too long for the model.
            Unavailable: `most` answers are in the making.
        """
        for answer in answers:
            if not answer.prompt:
                raise DoesNotFit("The prompt is empty.", [{"field": "prompt", "message": "has no token"}])
            room = self._backend.context - len(answer.prompt)
            if room < 1:
                has = f"{len(answer.prompt)} tokens, and the model reads {self._backend.context} with its answer"
                raise DoesNotFit(f"The prompt has {has}.", [{"field": "prompt", "message": "is too long"}])
        with self._changed:
            if self._change.is_closing:
                raise Unavailable("This worker ends.")
            if self._open + len(answers) > self._most:
                raise Unavailable(f"{self._open} answers are in the making, and {self._most} may be.")
            self._open += len(answers)
            for answer in answers:
                answer.submitted_at = answer.submitted_at or time.monotonic()
            self._change.submitted += answers
            self._changed.notify()

    def cancel(self, answers: Iterable[Answer]) -> None:
        """Nobody reads these answers any more; they give their places back before the next step. Never raises."""
        with self._changed:
            self._change.cancelled += answers
            self._changed.notify()

    def close(self) -> None:
        """Fail what has not ended, and end the thread and the backend."""
        with self._changed:
            self._change.is_closing = True
            self._changed.notify()
        self._thread.join()

    # ---- the working thread ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._keep_working()
        except Exception as error:
            logger.critical("text generation ended", exc_info=True)
            with self._changed:
                self._change.is_closing = True
                submitted = self._change.submitted
            self._end([*submitted, *self._waiting, *self._working.values(), *self._suspects])
            self._on_crash(error)

    def _keep_working(self) -> None:
        while True:
            with self._changed:
                while not self._has_work():
                    self._changed.wait()
                change, self._change = self._change, _Change(is_closing=self._change.is_closing)
            if change.is_closing:
                self._end([*change.submitted, *self._waiting, *self._working.values(), *self._suspects])
                self._backend.close()
                return
            self._waiting += change.submitted
            self._drop(change.cancelled)
            delivery = [*self._expire(), *self._admit(), *self._step()]
            self._tell(delivery)

    def _has_work(self) -> bool:
        change = self._change
        return bool(
            change.submitted
            or change.cancelled
            or change.is_closing
            or self._waiting
            or self._working
            or self._suspects
        )

    def _admit(self) -> Delivery:
        """Begin what waits. While there are suspects, they come first, and one at a time."""
        if not self._suspects:
            begun, self._waiting = self._waiting, []
        elif any(not answer.tokens for answer in self._working.values()):
            begun = []
        else:
            begun = [self._suspects.pop(0)]
        return [each for answer in begun if (each := self._begin(answer))]

    def _begin(self, answer: Answer) -> tuple[Answer, Piece] | None:
        self._keys += 1
        try:
            self._backend.add(self._keys, answer.prompt, answer.sampling, answer.salt)
        except ValueError as error:
            return answer, self._ended(answer, DoesNotFit(f"This model cannot do that: {error}."))
        except Exception:
            with about([answer]):
                logger.exception("an answer to %d tokens could not begin", len(answer.prompt))
            return answer, self._ended(answer, ModelFailed("The model failed while it began this answer."))
        answer.begun_at = answer.begun_at or time.monotonic()
        self._working[self._keys] = answer
        return None

    def _expire(self) -> Delivery:
        now = time.monotonic()
        error = DeadlinePassed("The answer was not complete when its time was over.")
        return [(answer, self._ended(answer, error)) for answer in self._remove(lambda answer: answer.is_late(now))]

    def _drop(self, answers: Iterable[Answer]) -> None:
        dropped = {id(answer) for answer in answers}
        for answer in self._remove(lambda answer: id(answer) in dropped):
            self._ended(answer)

    def _remove(self, is_meant: Callable[[Answer], bool]) -> list[Answer]:
        """Take answers out, wherever they are."""
        removed = self._remove_working(is_meant)
        for answers in (self._waiting, self._suspects):
            removed += filter(is_meant, answers)
            answers[:] = [answer for answer in answers if not is_meant(answer)]
        return removed

    def _remove_working(self, is_meant: Callable[[Answer], bool]) -> list[Answer]:
        keys = [key for key, answer in self._working.items() if is_meant(answer)]
        for key in keys:
            self._backend.cancel(key)
        return [self._working.pop(key) for key in keys]

    def _step(self) -> Delivery:
        if not self._working:
            return []
        try:
            return [each for produced in self._backend.step() if (each := self._taken(produced))]
        except Exception as error:
            with about(list(self._working.values())):
                logger.exception("a step with %d answers failed", len(self._working))
            self._on_failure(error)
            return self._after_failure()

    def _taken(self, produced: Produced) -> tuple[Answer, Piece] | None:
        answer = self._working.get(produced.key)
        if answer is None:
            return None
        if produced.failure:
            del self._working[produced.key]
            return answer, self._ended(answer, ModelFailed(f"The answer cannot go on: {produced.failure}."))
        if answer.first_at is None and produced.tokens:
            answer.first_at = time.monotonic()
        piece = answer.take(produced.tokens, produced.finish, self._backend.token_bytes)
        if piece.finish:
            if not produced.finish:
                self._backend.cancel(produced.key)
            del self._working[produced.key]
            self._ended(answer)
        return answer, piece

    def _after_failure(self) -> Delivery:
        """Find out which answer makes a step fail: one of the new ones, where there are any, else nobody knows.

        The others go on. New ones have no token that a client has read, so they can begin once more.
        """
        new = self._remove_working(lambda answer: not answer.tokens)
        if len(new) > 1:
            self._suspects += new
            return []
        failed = new or self._remove_working(lambda answer: True)
        error = ModelFailed("The model failed while it computed this answer.")
        return [(answer, self._ended(answer, error)) for answer in failed]

    def _end(self, answers: Iterable[Answer]) -> None:
        error = Unavailable("This worker ends.")
        self._tell([(answer, self._ended(answer, error)) for answer in answers])

    def _tell(self, delivery: Delivery) -> None:
        if not delivery:
            return
        try:
            self._deliver(delivery)
        except Exception:
            with about([answer for answer, _ in delivery]):
                logger.exception("%d pieces of answers reached nobody", len(delivery))

    def _ended(self, answer: Answer, error: RequestError | None = None) -> Piece:
        answer.ended_at = time.monotonic()
        with self._changed:
            self._open -= 1
        return Piece("", (), error=error)
