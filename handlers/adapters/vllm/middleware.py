"""The middleware in vLLM's server (`--middleware`): its answers have our paths, headers, errors and deadlines.

It answers POST /predictions/MODEL[/VERSION], /v1/chat/completions and /v1/completions, and GET /v1/models. What else
vLLM offers is closed, but for health and metrics. vLLM itself is not imported here.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from hmac import compare_digest
from itertools import count
from secrets import token_hex

from pydantic_core import to_json

from handlers.adapters.errors import NotFound, Unauthorized, WrongMethod
from handlers.adapters.vllm.call import Application, Call, Message, Receive, Send
from handlers.adapters.vllm.measures import Measured, open_telemetry
from handlers.adapters.vllm.settings import Settings, read_settings
from handlers.adapters.vllm.translate import CHAT_PATH, COMPLETION_PATH, to_vllm
from handlers.contract import (
    CHECK_HEADER,
    CHECK_HEALTH,
    CLIENT_HEADER,
    JSON,
    OPENAI_CHAT,
    OPENAI_COMPLETION,
    PROTOCOL_HEADER,
    SERVER_NAME,
    TIMEOUT_HEADER,
)
from handlers.errors import (
    DeadlinePassed,
    ModelFailed,
    PayloadTooLarge,
    RequestError,
    Unavailable,
    UndecodableBody,
    UnsupportedMedia,
)
from handlers.log_lines import log_error
from handlers.messages import Request, bare_media_type, request_id_of
from handlers.pipeline.deadline import read_timeout
from handlers.protocols.encoding import ENCODING_HEADER, decode_body
from handlers.protocols.media_types import media_type_of
from handlers.protocols.openai.requests import Asked
from handlers.telemetry.metrics import Telemetry
from handlers.worker.exchange import read_asked

logger = logging.getLogger(__name__)

HEALTH_PATHS = frozenset({"/health", "/ping"})
METRICS_PATH, MODELS_PATH = "/metrics", "/v1/models"
_ROUTES = {CHAT_PATH: OPENAI_CHAT, COMPLETION_PATH: OPENAI_COMPLETION}


class Contract:
    """The ASGI application around vLLM's.

    Args:
        settings: None: those of this process.
        telemetry: None: into the files of this process.
    """

    def __init__(self, app: Application, settings: Settings | None = None, telemetry: Telemetry | None = None) -> None:
        self._app = app
        self._settings = settings = settings or read_settings()
        self._in_hand = 0
        self._telemetry = telemetry or open_telemetry(settings.model, settings.version, lambda: self._in_hand)
        self._header = f"Bearer {settings.token}".encode() if settings.token is not None else None
        base = f"/predictions/{settings.model}"
        self._predictions = {base, f"{base}/{settings.version}"}
        self._names = (settings.model, f"{settings.model}:{settings.version}")
        models = [
            {"id": name, "object": "model", "created": int(time.time()), "owned_by": SERVER_NAME}
            for name in self._names
        ]
        self._models = to_json({"object": "list", "data": models})
        self._prefix, self._numbers = os.urandom(6).hex(), count(1)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path in HEALTH_PATHS:
            await self._app(_asking(scope, "GET", "/health"), receive, send)
            return
        call = Call(self._settings, self._request(scope), send)
        try:
            self._require_token(call.request.headers)
            if path == METRICS_PATH and scope["method"] == "GET":
                await self._app(scope, receive, send)
            elif path == MODELS_PATH and scope["method"] == "GET":
                await call.answer(200, JSON, self._models)  # vLLM's own names folders of this machine
            elif path not in self._predictions and path not in _ROUTES:
                raise NotFound("The server has no such path.")
            elif scope["method"] == "OPTIONS":
                await call.answer(200, JSON, b"{}")
            elif scope["method"] != "POST":
                raise WrongMethod("Use POST.")
            elif call.request.headers.get(CHECK_HEADER) == CHECK_HEALTH:
                await self._check(scope, call)
            else:
                await self._answer(path, scope, receive, call)
        except RequestError as error:
            await call.refuse(error)

    def _request(self, scope: Message) -> Request:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if (route := _ROUTES.get(scope["path"])) is not None:
            headers[PROTOCOL_HEADER] = route
        request_id = request_id_of(headers, None) or f"{self._prefix}-{next(self._numbers)}"
        return Request(b"", bare_media_type(headers.get("content-type", "")), headers, request_id)

    def _require_token(self, headers: Mapping[str, str]) -> None:
        sent = headers.get("authorization", "").encode("latin-1")
        if self._header is not None and not compare_digest(sent, self._header):
            raise Unauthorized("Send the token of this node as a bearer token.")

    async def _check(self, scope: Message, call: Call) -> None:
        """Answer a health check by what vLLM says of itself."""
        statuses: list[int] = []

        async def keep(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self._app(_asking(scope, "GET", "/health"), _Sent(b"", _never), keep)
        if statuses != [200]:
            raise Unavailable("The model cannot answer at the moment; retry later.")
        await call.answer(200, JSON, b'{"healthy":true}')

    async def _answer(self, path: str, scope: Message, receive: Receive, call: Call) -> None:
        """Have vLLM answer, and count the answer."""
        counting = None if CHECK_HEADER in call.request.headers else self._telemetry
        try:
            asked = await self._read(path, receive, call.request)
            first_s, whole_s = self._limits(asked, call.request.headers)
            wanted, most = asked.all_answers, self._settings.max_answers
            asked.require_places(most)
            if self._in_hand + wanted > most:
                raise Unavailable(f"{self._in_hand} answers are in the making, and {most} may be.")
        except RequestError as error:
            if counting is not None:
                counting.answered(error.kind)
            raise
        self._in_hand += wanted
        measured = Measured(counting, wanted)
        call.begin(asked, measured)
        client = call.request.headers.get(CLIENT_HEADER, "")
        salt = f"client {client}" if client else f"request {token_hex(16)}"
        target, body = to_vllm(asked, self._settings.model, salt, self._settings.special)
        sent = _Sent(body, receive)
        try:
            await self._compute(_asking(scope, "POST", target, body), sent, call, first_s, whole_s)
        finally:
            self._in_hand -= wanted
            is_left = sent.is_gone and not call.is_whole
            finish = "cancelled" if is_left else "error" if call.error else call.tokens.finish or "error"
            if call.is_refused and counting is not None:
                counting.answered(call.error.kind if call.error is not None else "other")
            elif not call.is_refused:
                measured.ended(call.error.kind if call.error is not None else "ok", call.tokens, finish)

    async def _compute(self, inner: Message, sent: _Sent, call: Call, first_s: float, whole_s: float) -> None:
        error: RequestError | None = None
        end = asyncio.get_running_loop().time() + whole_s
        try:
            async with asyncio.timeout(first_s) as limit:
                call.at_first = lambda: limit.reschedule(end)
                await self._app(inner, sent, call.take)
        except TimeoutError:
            error = DeadlinePassed("The answer was not complete when its time was over.")
        except RequestError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - logged, and answered
            log_error(logger, [call.request.request_id], "an answer failed", raised)
            error = ModelFailed("The model failed while it computed this answer.")
        if not sent.is_gone:
            await call.end(error)

    async def _read(self, path: str, receive: Receive, request: Request) -> Asked:
        """What the request asks for.

        Raises:
            RequestError: it cannot be read, or asks for another model than this one.
        """
        most = self._settings.request_bytes
        request.body = await _body(receive, most)
        if (encoding := request.headers.get(ENCODING_HEADER)) is not None:
            request.body = decode_body(request.body, encoding, most)
        if media_type_of(request.media_type, request.body) != JSON:
            raise UnsupportedMedia(f"{request.media_type or 'This media type'} is not read here; send {JSON}.")
        asked = read_asked(request, self._settings.defaults)
        if path in _ROUTES and asked.model not in self._names:
            raise NotFound(f"This server has the model {self._settings.model}, and no other.")
        asked.require_tools_are_read(self._settings.reads_tools)
        return asked

    def _limits(self, asked: Asked, headers: Mapping[str, str]) -> tuple[float, float]:
        """Seconds to the first byte of the answer, and to its last.

        Raises:
            UnreadableHeader: the client's time is no number.
        """
        settings = self._settings
        timeout = headers.get(TIMEOUT_HEADER)
        client_s = float("inf") if timeout is None else read_timeout(timeout)
        if asked.is_stream:
            return min(settings.first_token_s, client_s), settings.response_s
        whole_s = min(settings.response_s, client_s)
        return whole_s, whole_s


class _Sent:
    """The body that vLLM reads; afterwards, what the client's connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive
        self.is_gone = False  # the client hung up

    async def __call__(self) -> Message:
        body, self._body = self._body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        message = await self._receive()
        self.is_gone = self.is_gone or message["type"] == "http.disconnect"
        return message


async def _never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def _asking(scope: Message, method: str, path: str, body: bytes = b"") -> Message:
    """A request to vLLM in place of the client's."""
    kept = [(name, value) for name, value in scope["headers"] if name.lower() in (b"host", b"traceparent")]
    headers = [(b"content-type", JSON.encode()), (b"content-length", b"%d" % len(body)), *kept]
    return {
        **scope, "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": headers,
    }  # fmt: skip


async def _body(receive: Receive, most: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: it is too long, or the client left before its end.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise UndecodableBody("The body ended before its time.")
        body += message.get("body", b"")
        if len(body) > most:
            raise PayloadTooLarge(f"The body is longer than {most} bytes.")
        if not message.get("more_body", False):
            return bytes(body)
