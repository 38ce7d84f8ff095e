"""One request in vLLM's server and its answer, which is held until its status and its first bytes are known."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

from handlers.adapters.vllm.measures import Measured
from handlers.adapters.vllm.settings import Settings
from handlers.adapters.vllm.translate import EventStream, Tokens, error_of
from handlers.contract import JSON, MODEL_VERSION_HEADER, REQUEST_ID_HEADER, TOKENS_HEADER
from handlers.errors import ModelFailed, RequestError
from handlers.messages import Request
from handlers.protocols.openai.answers import EVENT_STREAM
from handlers.protocols.openai.requests import Asked
from handlers.worker.exchange import refusal

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


class Call:
    """One request.

    Args:
        send: to its client.
    """

    def __init__(self, settings: Settings, request: Request, send: Send) -> None:
        self.request = request
        self.at_first: Callable[[], None] = lambda: None  # called when the answer begins
        self.error: RequestError | None = None  # why there is no whole answer
        self._settings = settings
        self._send = send
        self._tells_usage = False
        self._status, self._is_stream, self._held = 0, False, b""
        self._events: EventStream | None = None  # of a stream that has begun
        self._tokens = Tokens()
        self._is_answered = False

    @property
    def tokens(self) -> Tokens:
        """What it cost, as far as that is known."""
        return self._events.known_tokens if self._events is not None else self._tokens

    @property
    def is_whole(self) -> bool:
        """Whether the client got all of it."""
        return self._is_answered and self.error is None and (self._events is None or self._events.is_over)

    @property
    def is_refused(self) -> bool:
        """Whether vLLM took it for a mistake of the client, such as a prompt that is too long."""
        return self._events is None and self.error is not None and self.error.status < 500

    # ---- what vLLM sends ---------------------------------------------------------------------------------------------

    def begin(self, asked: Asked, measured: Measured) -> None:
        """vLLM gets it now."""
        self._tells_usage, self._measured = asked.tells_usage, measured

    async def take(self, message: Message) -> None:
        """A message of vLLM's answer."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            types = [value for name, value in message["headers"] if name.lower() == b"content-type"]
            self._is_stream = self._status == 200 and bool(types) and types[0].startswith(EVENT_STREAM.encode())
        elif message["type"] == "http.response.body" and self._is_stream:
            await self._stream(message.get("body", b""))
        elif message["type"] == "http.response.body":
            self._held += message.get("body", b"")

    async def _stream(self, body: bytes) -> None:
        begun = self._events
        events = begun or EventStream(self._tells_usage)
        out = events.feed(body)
        if begun is None:
            if not out:
                return
            if events.error is not None:  # before anything else: it is the answer
                raise events.error
            self._measured.first()
            self.at_first()
            self._events, self._is_answered = events, True
            headers = [(b"content-type", EVENT_STREAM.encode()), (b"cache-control", b"no-cache"), *self._own()]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        self.error = self.error or events.error
        if out:
            await self._send({"type": "http.response.body", "body": out, "more_body": not events.is_over})

    async def end(self, error: RequestError | None) -> None:
        """vLLM has nothing more to say; with an error, the answer cannot go on."""
        if self._events is not None:
            if not self._events.is_over:
                self.error = error or ModelFailed("The answer ended before its time.")
                with suppress(OSError):  # the client may be gone
                    await self._send({"type": "http.response.body", "body": self._events.fail(self.error)})
            return
        if error is None and self._status != 200:
            error = error_of(self._status, self._held)
        if error is not None:
            self._tokens.finish = "error"
            await self.refuse(error, (TOKENS_HEADER, self._tokens.text()))
            return
        self._tokens.take(json.loads(self._held))
        await self.answer(200, JSON, self._held, (TOKENS_HEADER, self._tokens.text()))

    # ---- what the client gets ----------------------------------------------------------------------------------------

    async def answer(self, status: int, media_type: str, body: bytes, *headers: tuple[str, str]) -> None:
        """Answer in one piece."""
        self._is_answered = True
        own = [(b"content-type", media_type.encode()), (b"content-length", b"%d" % len(body)), *self._own()]
        more = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": [*own, *more]})
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, error: RequestError, *headers: tuple[str, str]) -> None:
        """Answer with an error, in the form of the request's API; nothing happens where an answer has begun."""
        self.error = error
        if self._is_answered:
            return
        outcome = refusal(self.request, error, self._settings.model, self._settings.version)
        given = [(name, value) for name, value in outcome.headers if name != MODEL_VERSION_HEADER]
        await self.answer(outcome.status, outcome.media_type, outcome.body, *given, *headers)

    def _own(self) -> list[tuple[bytes, bytes]]:
        request_id = (self.request.request_id or "").encode("latin-1", "replace")
        return [
            (MODEL_VERSION_HEADER.encode(), self._settings.version.encode()),
            (REQUEST_ID_HEADER.encode(), request_id),
        ]
