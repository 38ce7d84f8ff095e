"""What a trace says of a request to a language model, once its answer has ended."""

from __future__ import annotations

import time

from handlers.contract import CHECK_HEADER, TRACEPARENT_HEADER
from handlers.messages import Outcome, Request
from handlers.telemetry.tracer import Tracer
from handlers.telemetry.traces import Context, Generated, read_traceparent, traced
from handlers.worker.exchange import Exchange, refusal

#: How an answer ended that its client did not wait for.
CANCELLED = "cancelled"


def trace_refused(tracer: Tracer | None, request: Request, outcome: Outcome) -> None:
    """Take a request that got no text."""
    if tracer is not None and (parent := _parent(request)) is not None:
        now = time.monotonic()
        tracer.take(Generated(traced(request, parent, outcome, 0.0), time.time_ns(), now, now))


def trace_ended(tracer: Tracer | None, exchange: Exchange, is_cancelled: bool = False) -> None:
    """Take a request whose answers have ended, or are not waited for any more."""
    if tracer is None or (parent := _parent(exchange.request)) is None:
        return
    request, error = exchange.request, exchange.error
    outcome = refusal(request, error, exchange.model, exchange.version) if error is not None else Outcome(200, b"")
    more: dict[str, str | int | None] = {
        "gen_ai.usage.input_tokens": exchange.prompt_tokens,
        "gen_ai.usage.output_tokens": exchange.reply.tokens,
        "tsctl.finish": CANCELLED if is_cancelled else None if error is not None else exchange.reply.finish,
    }
    if exchange.has_begun:  # the head of a stream that breaks later was sent
        more["http.response.status_code"] = 200
    elif is_cancelled:
        more["http.response.status_code"] = None
    answers = exchange.answers
    begun = [answer.begun_at for answer in answers if answer.begun_at is not None]
    first = [answer.first_at for answer in answers if answer.first_at is not None]
    tracer.take(
        Generated(
            traced(request, parent, outcome, 0.0, more),
            time.time_ns(),
            time.monotonic(),
            min(answer.submitted_at for answer in answers),
            min(begun, default=None),
            min(first, default=None),
        )
    )


def _parent(request: Request) -> Context | None:
    header = request.headers.get(TRACEPARENT_HEADER)
    return None if header is None or CHECK_HEADER in request.headers else read_traceparent(header)
