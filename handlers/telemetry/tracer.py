"""Takes traced requests off the request path, and has a thread send their spans; the only module that knows
OpenTelemetry's SDK.

Invariant: `take` never waits and never raises, and a collector that is slow or away changes no answer; spans that are
not sent are counted.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from handlers.contract import TRACES_VARIABLE
from handlers.errors import LoadError
from handlers.telemetry.traces import SERVER, Batch, Context, Generated, Span, spans_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

logger = logging.getLogger(__name__)

#: Of a worker's spans; the gateway's have a name of their own.
SERVICE = "tsctl-worker"
#: Spans that wait for the thread; those of a later batch are dropped.
MOST_SPANS = 4096
#: Seconds between two posts, and what a killed worker loses.
FLUSH_S = 0.5
#: Spans in one post.
MOST_AT_ONCE = 512
#: Seconds for one post with its repetitions.
SEND_S = 3.0


class Exporter(Protocol):
    """Sends spans."""

    def send(self, spans: Sequence[Span]) -> bool:
        """Whether the collector took them; never raises."""


class Tracer:
    """The spans of one worker.

    Args:
        count: gets so many spans by one of SPAN_OUTCOMES, from any thread.
        new_id: a span's id.
    """

    def __init__(
        self, model: str, version: str, exporter: Exporter, count: Callable[[str, int], None], new_id: Callable[[], int]
    ) -> None:
        self._of_version = (model, version)
        self._exporter = exporter
        self._count = count
        self._new_id = new_id
        self._queue: deque[Batch | Generated] = deque()
        self._put = self._got = 0  # spans; each changed by one thread alone, so that neither waits for a lock
        self._sending = threading.Lock()
        self._is_away = False

    def start(self) -> None:
        """Send from now on, in a thread; at the process's own end what waits is sent."""
        threading.Thread(target=self._keep_sending, name="traces", daemon=True).start()
        atexit.register(self.close)

    def take(self, answered: Batch | Generated) -> None:
        """Take what is answered."""
        spans = answered.spans
        if self._put - self._got + spans > MOST_SPANS:
            self._count("queue-full", spans)
            return
        self._put += spans
        self._queue.append(answered)

    def flush(self) -> None:
        """Send what waits; called by the thread, and by tests."""
        with self._sending:
            while self._queue:
                self._send_some()

    def close(self) -> None:
        """Send what waits, until the collector takes one post no more: the process ends."""
        with self._sending:
            while self._queue and not self._is_away:
                self._send_some()

    def _keep_sending(self) -> None:
        while True:
            time.sleep(FLUSH_S)
            try:
                self.flush()
            except Exception:
                logger.exception("sending spans failed; serving goes on")

    def _send_some(self) -> None:
        spans: list[Span] = []
        taken = 0
        while self._queue and len(spans) < MOST_AT_ONCE:
            answered = self._queue.popleft()
            taken += answered.spans
            spans += spans_of(answered, *self._of_version, self._new_id)
            time.sleep(0)  # lets the request path run: it would wait 5 ms for a thread that computes
        is_sent = self._exporter.send(spans)
        self._got += taken  # only now: while the collector is away, what comes meanwhile is bounded too
        self._count("exported" if is_sent else "failed", len(spans))
        if is_sent == self._is_away:  # the first of each, and not one line for every post
            self._is_away = not is_sent
            logger.warning(
                "%s %s: %s",
                *self._of_version,
                "spans are sent again" if is_sent else "spans are dropped, and counted: the collector takes none",
            )


def open_tracer(model: str, version: str, count: Callable[[str, int], None]) -> Tracer | None:
    """The tracer of this worker, not started; None where the node's environment names no collector.

    Raises:
        LoadError: it names one, and OpenTelemetry's packages are missing.
    """
    endpoint = os.environ.get(TRACES_VARIABLE)
    if not endpoint:
        return None
    try:
        from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

        exporter = _OtlpExporter(endpoint)
    except ImportError as error:
        raise LoadError(
            f"deployment.yaml asks for tracing, and a package of OpenTelemetry is missing ({error}): install"
            " 'tsctl[tracing]' where workers run, or remove 'tracing' and start the node again"
        ) from error
    return Tracer(model, version, exporter, count, RandomIdGenerator().generate_span_id)


class _OtlpExporter:
    """OpenTelemetry's own exporter of OTLP over HTTP, with protobuf.

    Its batch processor is not used: where its queue is full it drops spans uncounted, and it would build spans on the
    request path.
    """

    def __init__(self, endpoint: str) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        logging.getLogger(OTLPSpanExporter.__module__).setLevel(logging.CRITICAL)  # else a line for every failed post
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=SEND_S)
        self._resource = Resource({"service.name": SERVICE, "process.pid": os.getpid()})

    def send(self, spans: Sequence[Span]) -> bool:
        from opentelemetry.sdk.trace.export import SpanExportResult

        result: object = self._exporter.export([self._readable(span) for span in spans])
        return result is SpanExportResult.SUCCESS

    def _readable(self, span: Span) -> ReadableSpan:
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

        def context(of: Context, is_remote: bool = False) -> SpanContext:
            return SpanContext(of.trace_id, of.span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))

        return ReadableSpan(
            span.name,
            context=context(span.context),
            parent=context(span.parent, is_remote=span.kind == SERVER),
            resource=self._resource,
            attributes=dict(span.attributes),
            links=[Link(context(link)) for link in span.links],
            kind=SpanKind.SERVER if span.kind == SERVER else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=span.begin,
            end_time=span.end,
        )
