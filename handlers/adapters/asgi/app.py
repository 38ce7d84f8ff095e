"""The server as an ASGI application: predictions go straight to the workers, everything else to FastAPI's routes.

A prediction passes no router and no middleware, because those cost as much as all that is done here.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping
from itertools import count
from typing import Any

from pydantic_core import to_json

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer, Headers, Item
from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.problems import Unavailable, WrongMethod, problem_answer
from handlers.contract import JSON, OPEN_INFERENCE_METADATA, PROTOCOL_HEADER, REQUEST_ID_HEADER, TIMEOUT_HEADER
from handlers.errors import PayloadTooLarge, RequestError
from handlers.messages import request_id_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_REQUEST_ID, _TIMEOUT = REQUEST_ID_HEADER.encode(), TIMEOUT_HEADER.encode()
_LENGTH = b"content-length"
#: With this header the gateway asks what the model takes and gives.
_METADATA = (PROTOCOL_HEADER.encode(), OPEN_INFERENCE_METADATA.encode())
#: Digits of a time that a client is willing to wait.
LONGEST_TIMEOUT = 10


class _Gone(Exception):
    """The client hung up."""


class Server:
    """One archive over HTTP.

    Args:
        request_bytes: the longest body.
        others: answers all paths but those of predictions.
    """

    def __init__(self, pool: Pool, request_bytes: int, others: Application) -> None:
        self._pool = pool
        self._request_bytes = request_bytes
        self._others = others
        model, version = pool.options.model, pool.options.version
        self._is_infer = {  # by path
            f"/predictions/{model}": False,
            f"/predictions/{model}/{version}": False,
            f"/v2/models/{model}/infer": True,
            f"/v2/models/{model}/versions/{version}/infer": True,
        }
        self._ids = (f"{os.urandom(6).hex()}-{number}" for number in count(1))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        is_infer = self._is_infer.get(scope["path"]) if scope["type"] == "http" else None
        if is_infer is None:
            await self._others(scope, receive, send)
            return
        request_id, wait_s = self._read(scope["headers"])
        try:
            if scope["method"] == "OPTIONS":
                return await send_answer(self._description(), request_id, send)
            if scope["method"] != "POST" and _METADATA not in scope["headers"]:
                raise WrongMethod("Use POST.")
            answer = await self._answer(scope["headers"], request_id, is_infer, wait_s, receive)
        except RequestError as error:
            answer = self.problem(error, request_id)
        except _Gone:
            return
        await send_answer(answer, request_id, send)

    def next_id(self) -> str:
        """An id for a request that came without one."""
        return next(self._ids)

    def problem(self, error: RequestError, request_id: str) -> Answer:
        """The answer to a request that no worker gets."""
        return problem_answer(error, request_id, self._pool.options.model, self._pool.options.version)

    def _description(self) -> Answer:
        """The model as its worker describes it.

        Raises:
            Unavailable: no worker is ready.
        """
        if not self._pool.ready_workers:
            raise Unavailable("The model has no worker at the moment; retry later.")
        return Answer(200, [(b"content-type", JSON.encode())], to_json(self._pool.description))

    async def _answer(
        self, headers: Headers, request_id: str, is_infer: bool, wait_s: float, receive: Receive
    ) -> Answer:
        held: list[int] = []
        try:
            body = await self._body(receive, held)
            return await self._predict(Item(headers, body, request_id, is_infer), wait_s, receive)
        finally:
            self._pool.release(sum(held))

    async def _body(self, receive: Receive, held: list[int]) -> bytes:
        """The whole body; its bytes are held in the pool, and counted in `held`."""
        parts = []
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part: bytes = message.get("body", b"")
            length += len(part)
            if length > self._request_bytes:
                raise PayloadTooLarge(f"The body has more than {self._request_bytes} bytes.")
            if not self._pool.hold(len(part)):
                raise Unavailable("Too many bytes of requests wait; retry later.")
            held.append(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _predict(self, item: Item, wait_s: float, receive: Receive) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def answer(given: Answer) -> None:
            if not future.done():
                future.set_result(given)

        def watch() -> None:
            watcher = loop.create_task(self._hangs_up(receive, future))
            future.add_done_callback(lambda _: watcher.cancel())

        now = loop.time()
        waiting = Waiting(item, now, now + wait_s, answer, watch)
        self._pool.submit(waiting)
        try:
            return await future
        except _Gone:
            self._pool.leave(waiting)
            raise

    async def _hangs_up(self, receive: Receive, future: asyncio.Future[Answer]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not future.done():
            future.set_exception(_Gone())

    def _read(self, headers: Headers) -> tuple[str, float]:
        """The request's id, and how many seconds it may wait; a time that is no number is the worker's to refuse."""
        request_id, wait_s = next(self._ids), self._pool.options.response_s
        for name, value in headers:
            if name == _REQUEST_ID:
                request_id = request_id_of({REQUEST_ID_HEADER: value.decode("latin-1")}, request_id) or request_id
            elif name == _TIMEOUT and value.isdigit() and len(value) < LONGEST_TIMEOUT:
                wait_s = min(wait_s, int(value) / 1000)
        return request_id, wait_s


async def send_answer(answer: Answer, request_id: str, send: Send) -> None:
    """Send an answer, with its length and the request's id."""
    headers = [
        *answer.headers,
        (_LENGTH, b"%d" % len(answer.body)),
        (_REQUEST_ID, request_id.encode("latin-1", "replace")),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
