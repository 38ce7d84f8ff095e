"""Runs a comparison: every engine once a round, one after the other, alone on the machine."""

from __future__ import annotations

from collections.abc import Sequence

from tsctl.compare.answers import agreement
from tsctl.compare.bare import BareWorker
from tsctl.compare.contender import Contender
from tsctl.compare.recorded import RecordedRequest
from tsctl.compare.result import Bare, Comparison, Measured, Setting, Turn
from tsctl.compare.turn import Plan, ask, ask_together, measure, search, start
from tsctl.errors import SpecError, TsctlError
from tsctl.host.progress import Progress
from tsctl.nodes.observed import Reply
from tsctl.shadow.comparators import Comparator

#: Requests whose answers are compared at most, the first of the recorded ones.
MOST_COMPARED = 256


class Run:
    """One comparison.

    Args:
        contenders: in the order of the first round; each round begins with the next of them.
        comparator: of the answers, as JSON values.
    """

    def __init__(
        self,
        setting: Setting,
        contenders: Sequence[Contender],
        requests: Sequence[RecordedRequest],
        bare: BareWorker,
        comparator: Comparator,
        plan: Plan,
        progress: Progress,
    ) -> None:
        self._setting = setting
        self._contenders = contenders
        self._requests = requests
        self._bare = bare
        self._comparator = comparator
        self._plan = plan
        self._progress = progress
        self._turns: dict[str, list[Turn]] = {contender.name: [] for contender in contenders}
        self._connections: dict[str, int] = {}
        self._failures = {each.name: each.unavailable for each in contenders if each.unavailable}
        self._differences: dict[str, str] = {}

    def run(self) -> Comparison:
        """All rounds; an engine that fails is measured no further, and does not stop the others.

        Raises:
            ArchiveError: the archive does not load without a server, so there is nothing to compare answers with.
            SpecError: the model itself refuses a request.
        """
        compared = self._requests[:MOST_COMPARED]
        with self._progress.step("the archive's own answers"):
            expected = self._bare.answers(compared)
        require_answered(compared, expected)
        bare = Bare()
        for number in range(self._setting.rounds):
            where = f"round {number + 1} of {self._setting.rounds}"
            with self._progress.step(f"{where}: the model without a server") as step:
                speed, lone = self._bare.measure(self._requests, self._plan.seconds)
                bare = Bare((*bare.requests_s, speed), (*bare.lone_ms, lone))
                step.done(f"{speed:,.0f} requests/s")
            for contender in rotated(self._contenders, number):
                if contender.name not in self._failures:
                    self._take(contender, where, compared, expected)
        return Comparison(self._setting, bare, tuple(self._measured(each.name) for each in self._contenders))

    def _take(
        self, contender: Contender, where: str, compared: Sequence[RecordedRequest], expected: Sequence[Reply]
    ) -> None:
        name = contender.name
        with self._progress.step(f"{where}: {name}") as step:
            try:
                step.note("starting")
                started = start(contender, self._requests[0])
                if name not in self._connections:
                    replies, again = ([ask(started.endpoint, request) for request in compared] for _ in range(2))
                    together = ask_together(started.endpoint, compared)
                    names = [request.name for request in compared]
                    found = agreement(names, expected, replies, again, together, self._comparator)
                    self._differences[name] = found.difference
                messages = [started.endpoint.message(request) for request in self._requests]
                if name not in self._connections:
                    self._connections[name] = search(started, messages, self._plan, step.note)
                turn = measure(contender, started, messages, self._connections[name], self._plan, step.note)
                self._turns[name].append(turn)
                step.done(f"{turn.capacity_s:,.0f} requests/s")
            except TsctlError as error:
                self._failures[name] = reason(error)
                step.done(f"failed: {error.summary}")
            finally:
                self._stop(contender)

    def _stop(self, contender: Contender) -> None:
        """Stop it; what is left of it would disturb the others, so a failure counts as the contender's."""
        try:
            contender.stop()
        except TsctlError as error:
            self._failures.setdefault(contender.name, reason(error))

    def _measured(self, name: str) -> Measured:
        return Measured(name, tuple(self._turns[name]), self._failures.get(name, ""), self._differences.get(name, ""))


def reason(error: TsctlError) -> str:
    """The error on one line, with its hint, such as the command that installs an engine; without a full stop."""
    return ". ".join(part.removesuffix(".") for part in (error.summary, " ".join(error.hint.split())) if part)


def require_answered(requests: Sequence[RecordedRequest], replies: Sequence[Reply]) -> None:
    """Check that the model answers every request with 200, or all figures would count refusals.

    Raises:
        SpecError: it refuses one.
    """
    for request, reply in zip(requests, replies, strict=True):
        if reply.status != 200:
            text = reply.body[:300].decode("utf-8", "replace")
            raise SpecError(
                f"{request.name}: the model itself answers with {reply.status}: {text}",
                "Leave out requests that the model refuses: they would be counted as failed.",
            )


def rotated(contenders: Sequence[Contender], number: int) -> list[Contender]:
    """The contenders in the order of a round: each round begins with another one, and so none is always the first."""
    at = number % len(contenders) if contenders else 0
    return [*contenders[at:], *contenders[:at]]
