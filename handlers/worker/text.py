"""A worker that generates text, whatever server holds it: requests go in at any time, and parts of answers come out.

Invariant: each submitted request gets its last part exactly once, unless it is cancelled. `submit` never raises for a
client's mistake or a model's failure.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from handlers.contract import (
    CHECK_ANSWER,
    CHECK_HEADER,
    CHECK_HEALTH,
    CLIENT_HEADER,
    JSON,
    MODEL_VERSION_HEADER,
    TIMEOUT_HEADER,
    threads_per_worker,
    usable_cores,
)
from handlers.errors import DoesNotFit, ModelFailed, RequestError, Unavailable, UnsupportedMedia
from handlers.log_lines import about
from handlers.messages import Head, Outcome, Part, Request
from handlers.pipeline.deadline import read_timeout
from handlers.protocols.encoding import ENCODING_HEADER, decode_body
from handlers.protocols.media_types import media_type_of
from handlers.protocols.openai.answers import Reply
from handlers.protocols.openai.requests import Asked, ChatCompletion, Completion
from handlers.protocols.plain import check_size
from handlers.records.record import Batch
from handlers.records.recorder import Recorder
from handlers.records.texts import TextItem
from handlers.telemetry.metrics import Telemetry
from handlers.telemetry.tracer import Tracer
from handlers.text.answer import Answer, Piece
from handlers.text.generator import Delivery, Generator
from handlers.text.options import GenerationOptions
from handlers.text_generation import TextGenerationHandler
from handlers.worker.config import WorkerConfig, check_package
from handlers.worker.exchange import Exchange, part_of, read_asked, refusal
from handlers.worker.text_tracing import CANCELLED, trace_ended, trace_refused

logger = logging.getLogger(__name__)

#: A health check is answered at once where a token came no longer ago.
FRESH_S = 10.0
#: Bytes of a body whose prompt is made in about 10 ms. Longer ones, and requests with a JSON schema, are prepared in
#: threads of their own, where no other request waits for them.
SHORT_BODY = 1 << 14
PREPARING_THREADS = 2
#: Headers of a request that say nothing of the same request at another time: its body is decoded.
_OF_ONE_TIME = (ENCODING_HEADER, TIMEOUT_HEADER)
#: Seconds from the last answers to the end of a worker whose device failed.
ENDING_S = 0.5


@dataclass(eq=False)
class _Waiting:
    """The ticket of a request whose answer somebody in this process waits for."""

    head: Head = field(default=Head(0, ""))
    body: bytes = b""
    pieces: list[list[str]] = field(default_factory=list)  # texts of each answer, as they came
    document: bytes = b""  # the answer as records have it; empty where it has no text
    is_done: threading.Event = field(default_factory=threading.Event)


class TextWorker:
    """One handler that generates text, with everything that it needs to answer requests.

    Args:
        handler: a new object of the author's class; its attributes are set here.

    Raises:
        LoadError: another package `handlers` runs than the archive's.
    """

    def __init__(self, handler: TextGenerationHandler, config: WorkerConfig) -> None:
        check_package(config.model_dir)
        self.handler = handler
        self.config = config
        self.options = config.generation or GenerationOptions()
        #: Gets the parts of all answers that one step made, in the generator's thread; the answer to a request that is
        #: refused, in the submitter's. The adapter sets it before its first `submit`. It must be quick, and may get a
        #: part of a request that was just cancelled.
        self.deliver: Callable[[Sequence[Part]], None] = _deliver_to_nobody
        self.telemetry = Telemetry()
        self.last_failure = ""  # what the model's last failing step raised, for the operator
        self._turn = threading.Lock()
        self._exchanges: dict[Hashable, Exchange] = {}
        self._of: dict[Answer, tuple[Exchange, int]] = {}
        self._preparing: set[Hashable] = set()  # tickets of requests that take long to read
        self._preparer = ThreadPoolExecutor(PREPARING_THREADS, "prepare")
        self._is_closing = False
        self._generator: Generator  # from `load` on
        self._reads_tools = False
        self._token_at = 0.0  # monotonic seconds of the last token
        self._recorder: Recorder | None = None
        self._tracer: Tracer | None = None
        _configure(handler, config, self.options)

    def load(self) -> None:
        """Load the model; from now on requests are answered.

        Raises:
            LoadError: the worker must not serve.
        """
        self.handler.load()
        self._reads_tools = self.handler.reads_tools()
        self._generator = Generator(
            self.handler.backend, self.options.max_answers, self._take, self._failed, self._crashed
        )

    def open(self, recorder: Recorder | None = None, tracer: Tracer | None = None) -> None:
        """From now on requests come from clients; they are counted by the handler's telemetry, recorded and traced."""
        self.telemetry, self._recorder, self._tracer = self.handler.telemetry, recorder, tracer
        self.telemetry.watch_text(self.occupancy)

    def occupancy(self) -> tuple[int, float]:
        """Answers in the making, and the share of the memory for keys and values that they use."""
        return self._generator.in_hand, self.handler.backend.cache_usage()

    # ---- requests ----------------------------------------------------------------------------------------------------

    def submit(self, ticket: Hashable, request: Request) -> None:
        """Begin to answer a request. Its parts go to `deliver`, possibly before this returns. Never raises.

        Args:
            ticket: the adapter's own name of the request, which no other request in hand has.
        """
        arrived = time.monotonic()
        with self._refusing(ticket, request):
            if request.error is not None:
                raise request.error
            if request.wants_description:
                self._send([part_of(ticket, self._known(to_json(self.describe())))])
            elif request.headers.get(CHECK_HEADER) == CHECK_HEALTH and self._is_producing():
                self._send([part_of(ticket, self._known(b'{"healthy":true}'))])
            else:
                self._read_body(request)
                asked = self._asked(request) if len(request.body) <= SHORT_BODY else None
                if asked is None or asked.sampling.json_schema is not None:
                    self._prepare_aside(ticket, request, asked, arrived)
                else:
                    self._begin(self._exchange(ticket, request, asked, arrived))

    @contextmanager
    def _refusing(self, ticket: Hashable, request: Request) -> Iterator[None]:
        """What is raised inside becomes the answer to the request."""
        with about([request]):
            try:
                yield
            except RequestError as error:
                self._refuse(ticket, request, error)
            except Exception:
                logger.exception("%s %s: reading %s failed", self.config.model, self.config.version, request.request_id)
                self._refuse(ticket, request, ModelFailed("The handler failed while it read the request."))

    def cancel(self, ticket: Hashable) -> None:
        """Nobody reads the answer any more; its places are free before the next step. Never raises."""
        with self._turn:
            self._preparing.discard(ticket)
            exchange = self._exchanges.get(ticket)
            if exchange is None:
                return  # it has ended, or `_prepare` will see that nobody waits
            self._forget(exchange)
        self._count_cancelled(exchange)
        self._stop(exchange.answers)

    def _count_cancelled(self, exchange: Exchange) -> None:
        if exchange.is_counted:
            self._count_ends(CANCELLED, exchange.answers)
        trace_ended(self._tracer, exchange, is_cancelled=True)

    def answer(self, requests: Sequence[Request]) -> list[Outcome]:
        """The whole answers to requests that are answered together; a stream is its events in one body.

        The `value` of an outcome is the texts of its answers, each as a list of the pieces that came.
        """
        return [
            Outcome(each.head.status, each.body, each.head.media_type, value=each.pieces, headers=each.head.headers)
            for each in self._waited_for(requests)
        ]

    def answer_again(self, requests: Sequence[Request], items: Sequence[Any]) -> list[Outcome]:
        """Answers to requests that were answered before, as records have them; they are not counted."""
        again = []
        for request in requests:
            kept = {name: text for name, text in request.headers.items() if name not in _OF_ONE_TIME}
            again.append(replace(request, headers={**kept, CHECK_HEADER: CHECK_ANSWER}))
        waited_for = self._waited_for(again)
        return [Outcome(200 if each.document else max(500, each.head.status), each.document) for each in waited_for]

    def _waited_for(self, requests: Sequence[Request]) -> list[_Waiting]:
        """The tickets of requests that are answered together, once they are."""
        tickets = [_Waiting() for _ in requests]
        for ticket, request in zip(tickets, requests, strict=True):
            self.submit(ticket, request)
        for ticket in tickets:
            ticket.is_done.wait()
        return tickets

    def refuse(self, request: Request, error: RequestError) -> Outcome:
        """The outcome of a request whose answer the adapter cannot send."""
        return refusal(request, error, self.config.model, self.config.version)

    def describe(self) -> dict[str, Any]:
        """The model, its limits, and the requests that it reads."""
        options, defaults = self.options, self.handler.defaults()
        return {
            "model": self.config.model,
            "version": self.config.version,
            "handler": type(self.handler).__name__,
            "media_types": list(self.handler.media_types),
            "request_schema": TypeAdapter(ChatCompletion | Completion).json_schema(),
            "max_request_bytes": self.config.request_bytes,
            "generation": {
                "backend": self.handler.backend.name,
                "device": self.handler.device,
                "context": self.handler.backend.context,
                "max_answers": options.max_answers,
                "max_tokens": defaults.max_tokens,
                "most_tokens": defaults.most_tokens,
                "temperature": defaults.temperature,
                "top_p": defaults.top_p,
                "first_token_s": options.first_token_s,
                "reads_tools": self._reads_tools,
                "response_s": self.config.response_timeout_s,
            },
        }

    def close(self) -> None:
        """Tell what has not ended that it will not, write the records, and give the memory back."""
        self._is_closing = True
        self._generator.close()
        self._preparer.shutdown()
        if self._recorder is not None:
            self._recorder.close()
        if self._tracer is not None:
            self._tracer.close()

    # ---- in the submitter's thread, or one of those that prepare -----------------------------------------------------

    def _prepare_aside(self, ticket: Hashable, request: Request, asked: Asked | None, arrived: float) -> None:
        """Have a request prepared in a thread of its own.

        Raises:
            Unavailable: as many are prepared as may be answered, or this worker ends.
        """
        with self._turn:
            if len(self._preparing) >= self.options.max_answers:
                raise Unavailable(f"{len(self._preparing)} requests are being read.")
            self._preparing.add(ticket)
        try:
            self._preparer.submit(self._prepare, ticket, request, asked, arrived)
        except RuntimeError:  # of `close`
            with self._turn:
                self._preparing.discard(ticket)
            raise Unavailable("This worker ends.") from None

    def _prepare(self, ticket: Hashable, request: Request, asked: Asked | None, arrived: float) -> None:
        try:
            if ticket not in self._preparing:  # its client has left
                if CHECK_HEADER not in request.headers:
                    self.telemetry.answer_ended(CANCELLED, 0, 0.0)
                return
            with self._refusing(ticket, request):
                if self._is_closing:
                    raise Unavailable("This worker ends.")
                asked = self._asked(request) if asked is None else asked
                self._begin(self._exchange(ticket, request, asked, arrived), is_prepared=True)
        except Exception:
            with about([request]):
                logger.exception("the refusal of a request reached nobody")
        finally:
            with self._turn:
                self._preparing.discard(ticket)

    def _asked(self, request: Request) -> Asked:
        asked = self.handler.check(read_asked(request, self.handler.defaults()), request.headers)
        asked.require_places(self.options.max_answers)
        asked.require_tools_are_read(self._reads_tools)
        return asked

    def _exchange(self, ticket: Hashable, request: Request, asked: Asked, arrived: float) -> Exchange:
        """The request as it is to be answered.

        Args:
            arrived: monotonic seconds.
        """
        handler, config = self.handler, self.config
        prompts = handler.prompts(asked)
        is_chat = asked.messages is not None
        first_by, deadline = self._times(request, asked.is_stream, arrived)
        client = request.headers.get(CLIENT_HEADER)  # prompts are kept for a client's own later ones
        grammar = self._grammar(asked.sampling.json_schema, client)
        answers = []
        for prompt in prompts:
            room = self._room(len(prompt), "messages" if is_chat else "prompt")
            for number in range(asked.answers):
                most = min(asked.sampling.max_tokens, room)
                seed = None if asked.sampling.seed is None else (asked.sampling.seed + number) % (1 << 64)
                sampling = replace(asked.sampling, max_tokens=most, seed=seed, grammar=grammar)
                answer = Answer(prompt, sampling, asked.stops, deadline, first_by, client, request.request_id)
                answer.submitted_at = arrived
                answers.append(answer)
        reply = Reply(
            f"{'chatcmpl' if is_chat else 'cmpl'}-{request.request_id or uuid4().hex}",
            config.model,
            int(time.time()),
            is_chat,
            len(answers),
            asked.sampling.top_logprobs,
            handler.backend.token_bytes,
            asked.tells_usage,
            asked.is_stream,
        )
        return Exchange(
            ticket,
            request,
            reply,
            answers,
            sum(map(len, prompts)),
            asked.is_stream,
            config.model,
            config.version,
            is_counted=CHECK_HEADER not in request.headers,
        )

    def _read_body(self, request: Request) -> None:
        if (encoding := request.headers.get(ENCODING_HEADER)) is not None:
            request.body = decode_body(request.body, encoding, self.config.request_bytes)
        check_size(request.body, self.config.request_bytes)
        sent_as = request.media_type
        if sent_as not in self.handler.media_types and media_type_of(sent_as, request.body) != JSON:
            raise UnsupportedMedia(f"{sent_as or 'This media type'} is not read here; send {JSON}.")

    def _room(self, tokens: int, field_name: str) -> int:
        """Tokens that an answer to a prompt of so many may have.

        Raises:
            DoesNotFit: none.
        """
        context = self.handler.backend.context
        if 0 < tokens < context:
            return context - tokens
        message = (
            f"has {tokens} tokens, and the model reads {context} with its answer; send less" if tokens else "is empty"
        )
        raise DoesNotFit(f"{field_name} {message}.", [{"field": field_name, "message": message}])

    def _grammar(self, schema: str | None, client: str | None) -> Any:
        """What the answers of a request share, made once.

        Raises:
            DoesNotFit: the backend cannot follow the schema.
        """
        if schema is None:
            return None
        try:
            return self.handler.backend.grammar(schema, client)
        except ValueError as error:
            mistake = {"field": "response_format", "message": str(error)}
            raise DoesNotFit(f"This model cannot do that: {error}.", [mistake]) from None

    def _times(self, request: Request, is_stream: bool, arrived: float) -> tuple[float, float]:
        """When the first token and the end must have come, in monotonic seconds."""
        first_s, whole_s = self.options.first_token_s, self.config.response_timeout_s
        if (timeout := request.headers.get(TIMEOUT_HEADER)) is not None:
            wait_s = read_timeout(timeout)
            first_s = min(first_s, wait_s)
            whole_s = whole_s if is_stream else min(whole_s, wait_s)
        return arrived + first_s, arrived + whole_s

    def _begin(self, exchange: Exchange, is_prepared: bool = False) -> None:
        """Have the generator answer; not where the client left while the request was prepared."""
        with self._turn:
            is_left = is_prepared and exchange.ticket not in self._preparing
            if not is_left:
                self._preparing.discard(exchange.ticket)
                self._exchanges[exchange.ticket] = exchange
                for index, answer in enumerate(exchange.answers):
                    self._of[answer] = exchange, index
        if is_left:
            self._count_cancelled(exchange)
            return
        try:
            self._generator.submit(*exchange.answers)
        except RequestError:
            with self._turn:
                self._forget(exchange)
            raise
        if exchange.is_counted:
            self.telemetry.prompt(exchange.prompt_tokens)
        with self._turn:
            is_open = self._exchanges.get(exchange.ticket) is exchange
        if not is_open:  # it has ended, or its client left before the generator knew it
            self._stop(exchange.answers)

    def _refuse(self, ticket: Hashable, request: Request, error: RequestError) -> None:
        if CHECK_HEADER not in request.headers:
            self.telemetry.answered(error.kind)
        outcome = self.refuse(request, error)
        trace_refused(self._tracer, request, outcome)
        self._record(request, None, outcome, 0.0)
        self._send([part_of(ticket, outcome)])

    def _known(self, body: bytes) -> Outcome:
        return Outcome(200, body, headers=((MODEL_VERSION_HEADER, self.config.version),))

    def _is_producing(self) -> bool:
        """Whether the model is known to work without asking it."""
        return time.monotonic() - self._token_at < FRESH_S

    # ---- in the generator's thread -----------------------------------------------------------------------------------

    def _take(self, delivery: Delivery) -> None:
        parts: list[Part] = []
        for answer, piece in delivery:
            with self._turn:
                known = self._of.get(answer)
            if known is None:
                continue  # cancelled, or ended with another answer of its request
            exchange, index = known
            self._observe(exchange, answer, piece)
            if isinstance(exchange.ticket, _Waiting):
                _keep(exchange.ticket, len(exchange.answers), index, piece)
            parts += exchange.take(index, piece)
            if exchange.has_ended:
                self._end(exchange)
        self._send(parts)

    def _observe(self, exchange: Exchange, answer: Answer, piece: Piece) -> None:
        """Count what a piece says of its answer."""
        if piece.tokens:
            self._token_at = time.monotonic()
        if not exchange.is_counted:
            return
        if piece.tokens and answer not in exchange.begun:
            exchange.begun.add(answer)
            if answer.first_at is not None and answer.begun_at is not None:
                self.telemetry.first_token(answer.begun_at - answer.submitted_at, answer.first_at - answer.submitted_at)
        if piece.finish or piece.error:
            self._count_ends(piece.finish or "error", [answer])

    def _count_ends(self, finish: str, answers: Iterable[Answer]) -> None:
        for answer in answers:
            token_s = 0.0
            if answer.first_at is not None and answer.ended_at is not None and answer.tokens > 1:
                token_s = (answer.ended_at - answer.first_at) / (answer.tokens - 1)
            self.telemetry.answer_ended(finish, answer.tokens, token_s)

    def _end(self, exchange: Exchange) -> None:
        with self._turn:
            self._forget(exchange)
        if exchange.is_counted:
            self.telemetry.answered(exchange.error.kind if exchange.error else "ok")
        if isinstance(exchange.ticket, _Waiting):
            exchange.ticket.document = exchange.text_document
        trace_ended(self._tracer, exchange)
        self._record_text(exchange)
        if exchange.error is not None:  # the other answers of the request go nowhere
            rest = [answer for answer in exchange.answers if not answer.has_ended]
            if exchange.is_counted:
                self._count_ends("error", rest)
            self._stop(rest)

    def _record_text(self, exchange: Exchange) -> None:
        if self._recorder is None or not self._recorder.wanted([exchange.request]):
            return
        request, error = exchange.request, exchange.error
        item = TextItem(from_json(request.body), request.body, exchange.prompt_tokens)
        took_s = time.monotonic() - min(answer.submitted_at for answer in exchange.answers)
        if error is None:
            return self._record(request, item, Outcome(200, exchange.text_document), took_s)
        self._record(request, item, refusal(request, error, exchange.model, exchange.version), took_s)

    def _record(self, request: Request, item: TextItem | None, outcome: Outcome, took_s: float) -> None:
        if self._recorder is None or CHECK_HEADER in request.headers:
            return
        if wanted := self._recorder.wanted([request]):
            read = ([], []) if item is None else ([0], [item])
            self._recorder.take(wanted, [request], [outcome], *read, Batch(time.time(), took_s, 1, {}))

    def _failed(self, error: Exception) -> None:
        """A step raised; a failed device works again only in a new process."""
        self.last_failure = f"{type(error).__name__}: {error}"
        if type(error).__name__ == "AcceleratorError":  # torch's, which this process need not have imported
            logger.critical("%s %s: the device failed, and this worker ends", self.config.model, self.config.version)
            self._end_process()

    def _crashed(self, error: Exception) -> None:
        self.last_failure = f"{type(error).__name__}: {error}"
        self._end_process()

    def _end_process(self) -> None:
        """End this process once the answers are sent: its server starts another one."""
        ending = threading.Timer(ENDING_S, os._exit, (1,))
        ending.daemon = True
        ending.start()

    # ---- both --------------------------------------------------------------------------------------------------------

    def _forget(self, exchange: Exchange) -> None:
        """`_turn` is held."""
        self._exchanges.pop(exchange.ticket, None)
        for answer in exchange.answers:
            self._of.pop(answer, None)

    def _stop(self, answers: Iterable[Answer]) -> None:
        self._generator.cancel(answers)

    def _send(self, parts: Iterable[Part]) -> None:
        """Hand parts to whoever waits for them."""
        others = []
        for part in parts:
            if isinstance(part.ticket, _Waiting):
                part.ticket.head = part.head or part.ticket.head
                part.ticket.body += part.body
                if part.is_last:
                    part.ticket.is_done.set()
            else:
                others.append(part)
        if others:
            self.deliver(others)


def _keep(ticket: _Waiting, answers: int, index: int, piece: Piece) -> None:
    """Keep the text of a piece."""
    if not ticket.pieces:
        ticket.pieces = [[] for _ in range(answers)]
    if piece.text:
        ticket.pieces[index].append(piece.text)


def _deliver_to_nobody(parts: Sequence[Part]) -> None:
    raise RuntimeError("the adapter has not said where parts of answers go: set TextWorker.deliver")


def _configure(handler: TextGenerationHandler, config: WorkerConfig, options: GenerationOptions) -> None:
    """Set the attributes that the author's methods read."""
    handler.model, handler.version = config.model, config.version
    handler.model_dir, handler.weights_file, handler.settings = config.model_dir, config.weights_file, config.settings
    handler.generation = options
    handler.device = _device(config.gpu_id)
    handler.is_exact = config.acceleration.dtype == "float32"
    handler.threads = threads_per_worker(config.threads, usable_cores(), config.workers)


def _device(gpu_id: int | None) -> str:
    """Torch is imported only where there may be a GPU: a backend may do without it."""
    if gpu_id is None or gpu_id < 0:
        return "cpu"
    import torch

    from handlers.device import choose_device

    return choose_device(gpu_id, torch.cuda.device_count())
