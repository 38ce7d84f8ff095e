"""How the answers of two archives to the same requests differ. Pure.

Each request is answered alone, in a batch, and alone again, by both archives. So a difference between the two can be
seen beside the differences of each with itself: what rounding, the neighbours in a batch or chance make of an answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

from handlers.contract import Tolerance
from tsctl.archive.answers import BatchAnswer, BatchAnswers
from tsctl.compare.statistics import percentile
from tsctl.errors import AnalysisError, SpecError
from tsctl.host.documents import parse_json
from tsctl.shadow.comparators import COMPARATORS, Comparator, Comparison, Json, Label, NotComparable, comparator_for
from tsctl.shadow.disagreement import compare
from tsctl.shadow.pairing import Answer, Track
from tsctl.statistics.sequential import rate_bounds

#: Examples that are kept, of differing answers, and characters of each answer in them.
EXAMPLES, SHOWN = 30, 300
#: Probability with which an interval misses the rate.
ALPHA = 0.05


class Compared(StrEnum):
    """Which answers to one request were compared."""

    ALONE = "new with old"
    BATCH = "new with old, in a batch"
    OLD_AGAIN = "old with itself, again"
    OLD_BATCH = "old with itself, in a batch"
    NEW_AGAIN = "new with itself, again"
    NEW_BATCH = "new with itself, in a batch"


#: What is judged; the others are the noise.
JUDGED = (Compared.ALONE, Compared.BATCH)


@dataclass
class Rate:
    """Requests whose answers differ."""

    differing: int = 0
    of: int = 0

    def add(self, differs: bool) -> None:
        self.differing += differs
        self.of += 1

    @property
    def share(self) -> float:
        return self.differing / self.of if self.of else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """An interval of the rate among all requests of which these are a random sample."""
        return rate_bounds(self.differing, self.of, ALPHA)


@dataclass(frozen=True)
class Example:
    """A request whose answers differ."""

    request: str
    about: str
    old: str
    new: str


@dataclass(frozen=True)
class Latency:
    """Milliseconds in the worker, without a server."""

    p50: float
    p90: float
    p99: float
    most: float


@dataclass
class Side:
    """What one archive answered."""

    statuses: Counter[int] = field(default_factory=Counter)  # to each request alone
    alone_ms: list[float] = field(default_factory=list)
    batch_ms: list[float] = field(default_factory=list)  # of full batches, for one request of it

    @property
    def alone(self) -> Latency:
        return _latency(self.alone_ms)

    @property
    def in_batch(self) -> Latency | None:
        """None where there was no full batch."""
        return _latency(self.batch_ms) if self.batch_ms else None


@dataclass
class Diff:
    """The differences so far.

    Attributes:
        comparator: that decides whether two answers differ; None: no answer was a prediction yet.
        rates: by what was compared.
        values: requests whose answers differ anywhere beyond the archive's tolerance, where the comparator is another.
        flips: label of the old and of the new answer, and how often.
        distances: finite ones of differing and agreeing answers alone; their unit is the comparator's.
    """

    tolerance: Tolerance
    comparator: Comparator | None = None
    rates: dict[Compared, Rate] = field(default_factory=lambda: {kind: Rate() for kind in Compared})
    values: Rate = field(default_factory=Rate)
    flips: Counter[tuple[str, str]] = field(default_factory=Counter)
    distances: list[float] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    old: Side = field(default_factory=Side)
    new: Side = field(default_factory=Side)

    @property
    def requests(self) -> int:
        return self.rates[Compared.ALONE].of

    @property
    def disagreement(self) -> float:
        """The larger share of requests to which both answered differently, alone and in batches."""
        return max(self.rates[kind].share for kind in JUDGED)

    def seen(self, names: Sequence[str], old: ChunkAnswers, new: ChunkAnswers) -> None:
        """Count the answers to a chunk of requests."""
        for side, chunk in ((self.old, old), (self.new, new)):
            side.statuses.update(answer.status for answer in chunk.alone)
            side.alone_ms += chunk.alone_ms
            if chunk.batch is not None and chunk.batch_ms is not None:
                side.batch_ms.append(chunk.batch_ms)
        for place, name in enumerate(names):
            before, after = (_answer(name, each.alone[place]) for each in (old, new))
            self._choose(before)
            self._seen_alone(name, before, after)
            self._count(Compared.OLD_AGAIN, before, _answer(name, old.again[place]))
            self._count(Compared.NEW_AGAIN, after, _answer(name, new.again[place]))
            if old.batch is not None and new.batch is not None:
                batched = _answer(name, old.batch[place]), _answer(name, new.batch[place])
                self._count(Compared.BATCH, *batched)
                self._count(Compared.OLD_BATCH, before, batched[0])
                self._count(Compared.NEW_BATCH, after, batched[1])

    def _choose(self, answer: Answer) -> None:
        if self.comparator is None and answer.status == 200:
            self.comparator = comparator_for(answer.value, self.tolerance)

    def _seen_alone(self, name: str, before: Answer, after: Answer) -> None:
        comparison = self._count(Compared.ALONE, before, after)
        if before.status != 200 or after.status != 200:
            if comparison.differs:
                self._keep(name, comparison.about, before, after)
            return
        if isfinite(comparison.distance):
            self.distances.append(comparison.distance)
        about = comparison.about
        if not isinstance(self.comparator, Json):
            whole = compare(before, after, Json(self.tolerance))
            self.values.add(whole.differs)
            about = about or whole.about
        if isinstance(self.comparator, Label) and comparison.differs:
            self.flips[_label(before, self.comparator), _label(after, self.comparator)] += 1
        if comparison.differs:
            self._keep(name, about, before, after)

    def _count(self, kind: Compared, first: Answer, second: Answer) -> Comparison:
        try:
            # without a comparator no answer was a prediction yet, and statuses decide
            comparison = compare(first, second, self.comparator or Json(self.tolerance))
        except NotComparable as error:
            raise SpecError(f"{first.request_id}: {error}", "Choose with --comparator, --field and --k.") from None
        self.rates[kind].add(comparison.differs)
        return comparison

    def _keep(self, name: str, about: str, before: Answer, after: Answer) -> None:
        if len(self.examples) < EXAMPLES:
            self.examples.append(Example(name, about, _shown(before), _shown(after)))


@dataclass(frozen=True)
class ChunkAnswers:
    """One archive's answers to a chunk of requests; `batch` is None where a batch holds one request only."""

    alone: Sequence[BatchAnswer]
    alone_ms: Sequence[float]  # of both times
    again: Sequence[BatchAnswer]
    batch: Sequence[BatchAnswer] | None = None
    batch_ms: float | None = None  # for one request of a full batch; None: the batch was not full


def batches_of(count: int, size: int) -> Iterator[list[int]]:
    """Places of requests in each batch that is to be answered, in the order that `chunks` reads."""
    for begin in range(0, count, size):
        chunk = list(range(begin, min(begin + size, count)))
        yield from ([place] for place in chunk)
        if size > 1:
            yield chunk
        yield from ([place] for place in chunk)


def chunks(answers: Iterator[BatchAnswers], count: int, size: int) -> Iterator[ChunkAnswers]:
    """The answers to `batches_of`, by chunk."""
    for begin in range(0, count, size):
        length = min(size, count - begin)
        alone = [next(answers) for _ in range(length)]
        batch = next(answers) if size > 1 else None
        again = [next(answers) for _ in range(length)]
        yield ChunkAnswers(
            [each.answers[0] for each in alone],
            [each.ms for each in (*alone, *again)],
            [each.answers[0] for each in again],
            batch.answers if batch else None,
            batch.ms / length if batch and length == size else None,
        )


def require_answered(diff: Diff, name: str) -> None:
    """Check that the old archive answered something: otherwise nothing was compared.

    Raises:
        AnalysisError: it refused every request.
    """
    if not diff.old.statuses[200]:
        statuses = ", ".join(f"{count} with {status}" for status, count in sorted(diff.old.statuses.items()))
        raise AnalysisError(
            f"{name} refused all {diff.requests} requests ({statuses}), so no answer was compared",
            "Are they requests to this model? What redact(item) returns must be a request that the model reads.",
        )


def named_comparator(name: str, field_name: str, k: int | None, tolerance: Tolerance) -> Comparator:
    """The comparator of this name.

    Args:
        field_name: empty: the comparator's own; k: of `top_k`, None: its own.

    Raises:
        SpecError: there is none, or it looks at no single field, or at no number of classes.
    """
    if name not in COMPARATORS:
        raise SpecError(f"--comparator {name}: there is none", f"There are {', '.join(COMPARATORS)}.")
    kind = COMPARATORS[name]
    fields = kind.__dataclass_fields__  # type: ignore[attr-defined]  # each is a dataclass
    if field_name and "field" not in fields:
        raise SpecError(f"--comparator {name} compares whole answers", "Leave out --field.")
    if k is not None and "k" not in fields:
        raise SpecError(f"--comparator {name} looks at no number of classes", "Leave out --k.")
    options: Mapping[str, Any] = {
        **({"tolerance": tolerance} if "tolerance" in fields else {}),
        **({"field": field_name} if field_name else {}),
        **({"k": k} if k is not None else {}),
    }
    comparator: Comparator = kind(**options)
    return comparator


def _answer(name: str, answer: BatchAnswer) -> Answer:
    try:
        value = parse_json(answer.body)
    except ValueError:
        value = answer.body.decode("utf-8", "replace")
    return Answer(name, Track.STABLE, value, answer.status)


def _label(answer: Answer, comparator: Label) -> str:
    value = answer.value
    for key in comparator.field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return str(value)[:SHOWN]


def _shown(answer: Answer) -> str:
    text = str(answer.value) if answer.status == 200 else f"{answer.status}: {answer.value}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def _latency(milliseconds: Sequence[float]) -> Latency:
    ordered = sorted(milliseconds)
    return Latency(*(percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0)))
