"""What one worker's spans say: which requests have some, the times of a batch, and its links. Pure.

A request is traced where its `traceparent` says that its spans are kept: the gateway has decided that, and no worker
decides it again. The span of a batch is a child of its first traced request's span, and linked to those of all its
traced requests; the others' spans are linked to the batch's. A request to a language model has no batch: its answer
shares each step with whichever others are in the making then.

Invariant: where no request of a batch is traced, all that happens is one look at a header of each.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from handlers.contract import ASSIGNED_TRACK_HEADER, SHADOW_HEADER, TRACEPARENT_HEADER
from handlers.messages import Outcome, Request

#: A trace's id, the parent's, and the flags, of which the last bit says that spans are kept (W3C Trace Context).
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
_SAMPLED = 1
#: Spans of stages that one batch may have: micro-batches and halves of a failing batch have one each.
MOST_STAGES = 64
#: Characters of a header that a client may have chosen.
_LONGEST_TEXT = 128
SERVER, INTERNAL = "server", "internal"

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True, slots=True)
class Context:
    """The place of a span: its trace and its own id, as numbers."""

    trace_id: int
    span_id: int


@dataclass(frozen=True, slots=True)
class Span:
    """One span that has ended; times in nanoseconds since 1970."""

    name: str
    context: Context
    parent: Context
    kind: str  # SERVER or INTERNAL
    begin: int
    end: int
    attributes: Attributes
    links: tuple[Context, ...] = ()
    error: str = ""  # why it failed by our own fault; empty where it did not


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a batch, in seconds of `time.perf_counter`."""

    name: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Traced:
    """One traced request of a batch and how it was answered; it holds no body."""

    parent: Context
    attributes: Attributes
    waited: int  # nanoseconds in the node's queue, before the batch began
    error: str  # as in `Span`


@dataclass(slots=True)
class Batch:
    """A batch that has traced requests.

    Args:
        items: all its requests.
        wall: nanoseconds since 1970 at `begin`.
        begin: seconds of `time.perf_counter`.
    """

    items: int
    wall: int
    begin: float
    end: float = 0.0
    stages: list[Stage] = field(default_factory=list)
    traced: Sequence[Traced] = ()

    def at(self, moment: float) -> int:
        """Nanoseconds since 1970 of a moment of `time.perf_counter`."""
        return self.wall + round((moment - self.begin) * 1e9)

    @property
    def spans(self) -> int:
        """How many spans it becomes: one or two for each traced request, one for itself, and its stages."""
        return 1 + min(len(self.stages), MOST_STAGES) + sum(2 if each.waited else 1 for each in self.traced)


@dataclass(frozen=True, slots=True)
class Generated:
    """A traced request to a language model that has ended; moments in seconds of `time.monotonic`.

    Args:
        traced: its `waited` is not used: `begun` says when the model began.
        wall: nanoseconds since 1970 at `end`.
        submitted: it came.
        begun: the model began with its prompt; None: it never did.
        first: its first token came; None: none did.
    """

    traced: Traced
    wall: int
    end: float
    submitted: float
    begun: float | None = None
    first: float | None = None

    def at(self, moment: float) -> int:
        """Nanoseconds since 1970 of a moment."""
        return self.wall - round((self.end - moment) * 1e9)

    @property
    def stages(self) -> list[Stage]:
        """Its queue, its prompt and its tokens, as far as it came."""
        begun = self.end if self.begun is None else self.begun
        stages = [Stage("queue", self.submitted, begun)]
        if self.begun is not None:
            stages.append(Stage("prompt", begun, self.end if self.first is None else self.first))
        if self.first is not None:
            stages.append(Stage("tokens", self.first, self.end))
        return stages

    @property
    def spans(self) -> int:
        """How many spans it becomes."""
        return 1 + len(self.stages)


def parents(requests: Sequence[Request]) -> dict[int, Context] | None:
    """The parents of the requests that are traced, by position; None where none is."""
    traced_at: dict[int, Context] = {}
    for place, request in enumerate(requests):
        header = request.headers.get(TRACEPARENT_HEADER)
        if header is not None and (parent := read_traceparent(header)) is not None:
            traced_at[place] = parent
    return traced_at or None


def read_traceparent(header: str) -> Context | None:
    """The caller's span; None where the header cannot be read, or says that no span is kept."""
    if header.endswith("-00"):  # most are: of the requests that the gateway did not choose
        return None
    read = _TRACEPARENT.fullmatch(header)
    if read is None or not int(read[3], 16) & _SAMPLED:
        return None
    return Context(int(read[1], 16), int(read[2], 16))


def traced(
    request: Request,
    parent: Context,
    outcome: Outcome,
    waited_s: float,
    more: Mapping[str, str | int | None] | None = None,
) -> Traced:
    """A traced request that is answered.

    Args:
        waited_s: seconds in the node's queue; 0 or more.
        more: attributes of its kind of request; those that are None are left out.
    """
    track = "shadow" if SHADOW_HEADER in request.headers else request.headers.get(ASSIGNED_TRACK_HEADER)
    values: dict[str, str | int | None] = {
        "http.response.status_code": outcome.status,
        "tsctl.request_id": request.request_id and request.request_id[:_LONGEST_TEXT],
        "tsctl.track": track and track[:_LONGEST_TEXT],
        "tsctl.cache": outcome.cache or None,
        "error.type": outcome.error.kind if outcome.error is not None else None,
        **(more or {}),
    }
    attributes = {name: value for name, value in values.items() if value is not None}
    return Traced(parent, attributes, round(waited_s * 1e9), _error(outcome))


def spans_of(answered: Batch | Generated, model: str, version: str, new_id: Callable[[], int]) -> list[Span]:
    """The spans of what is answered.

    Args:
        new_id: a span's id that no other has.
    """
    of_version = {"tsctl.model": model, "tsctl.version": version}
    if isinstance(answered, Generated):
        return _of_generated(answered, of_version, new_id)
    return _of_batch(answered, of_version, new_id)


def _of_generated(answered: Generated, of_version: Attributes, new_id: Callable[[], int]) -> list[Span]:
    each = answered.traced
    own = Context(each.parent.trace_id, new_id())
    attributes = {**of_version, **each.attributes}
    name = f"predict {of_version['tsctl.model']}"
    begin, end = answered.at(answered.submitted), answered.at(answered.end)
    return [
        Span(name, own, each.parent, SERVER, begin, end, attributes, (), each.error),
        *(_stage_span(stage, own, answered.at, new_id) for stage in answered.stages),
    ]


def _stage_span(stage: Stage, parent: Context, at: Callable[[float], int], new_id: Callable[[], int]) -> Span:
    context = Context(parent.trace_id, new_id())
    return Span(stage.name, context, parent, INTERNAL, at(stage.begin), at(stage.end), {})


def _of_batch(batch: Batch, of_version: Attributes, new_id: Callable[[], int]) -> list[Span]:
    model = of_version["tsctl.model"]
    requests = [Context(each.parent.trace_id, new_id()) for each in batch.traced]
    own = Context(requests[0].trace_id, new_id())
    begin, end = batch.at(batch.begin), batch.at(batch.end)
    spans = [
        Span(
            f"batch {model}", own, requests[0], INTERNAL, begin, end,
            {**of_version, "tsctl.batch.items": batch.items, "tsctl.batch.traced_items": len(requests)},
            tuple(requests),
        )
    ]  # fmt: skip
    for each, context in zip(batch.traced, requests, strict=True):
        came = begin - each.waited
        links = () if context is requests[0] else (own,)
        spans.append(
            Span(
                f"predict {model}", context, each.parent, SERVER, came, end,
                {**of_version, **each.attributes}, links, each.error,
            )
        )  # fmt: skip
        if each.waited:
            spans.append(Span("queue", Context(context.trace_id, new_id()), context, INTERNAL, came, begin, {}))
    spans += [_stage_span(stage, own, batch.at, new_id) for stage in batch.stages[:MOST_STAGES]]
    return spans


def _error(outcome: Outcome) -> str:
    """A client's own mistake is no failure of the span, as OpenTelemetry has it for servers."""
    if outcome.status < 500:
        return ""
    return outcome.error.kind if outcome.error is not None else str(outcome.status)
