"""What the server answers, by path: predictions are a worker's, everything else FastAPI's.

Also an ASGI application that does the same, for a server that is not ours; `connection.py` does not pass through it.
"""

from __future__ import annotations

import asyncio
import os
from itertools import count

from handlers.adapters.asgi.asgi_call import Application, Message, Receive, Send
from handlers.adapters.asgi.exchange import Exchange, Route, Target
from handlers.adapters.asgi.frames import Answer, Headers, Part
from handlers.adapters.asgi.openai_api import by_model, models_of
from handlers.adapters.asgi.problems import problem_answer
from handlers.adapters.asgi.workers import Workers
from handlers.contract import OPEN_INFERENCE, REQUEST_ID_HEADER
from handlers.errors import RequestError

_LENGTH, _REQUEST_ID = b"content-length", REQUEST_ID_HEADER.encode()


class Server:
    """One archive over HTTP.

    Args:
        request_bytes: the longest body.
        others: answers all paths but those of predictions.
    """

    def __init__(self, pool: Workers, request_bytes: int, others: Application) -> None:
        model, version = pool.options.model, pool.options.version
        self._name = model, version
        self.workers = pool
        self.others = others
        plain, infer = Route(pool, "", request_bytes), Route(pool, OPEN_INFERENCE, request_bytes)
        models = models_of(pool, request_bytes)
        self._routes: dict[bytes, Target] = {
            **by_model(lambda: models, pool),
            f"/predictions/{model}".encode(): plain,
            f"/predictions/{model}/{version}".encode(): plain,
            f"/v2/models/{model}/infer".encode(): infer,
            f"/v2/models/{model}/versions/{version}/infer".encode(): infer,
        }
        self._prefix, self._numbers = os.urandom(6).hex(), count(1)

    def route(self, path: bytes, headers: Headers = ()) -> Target | None:
        """Where the predictions of a path are computed; None: it asks for none."""
        return self._routes.get(path)

    def next_id(self) -> str:
        """An id for a request that came without one."""
        return f"{self._prefix}-{next(self._numbers)}"

    def problem(self, error: RequestError, request_id: str) -> Answer:
        """The answer to a request that no worker gets."""
        return problem_answer(error, request_id or None, *self._name)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        target = self.route(path.encode()) if scope["type"] == "http" else None
        if target is None:
            await self.others(scope, receive, send)
        else:
            await predict(target, self.next_id(), scope, receive, send)


async def predict(target: Target, request_id: str, scope: Message, receive: Receive, send: Send) -> None:
    """Answer a request for a prediction.

    Args:
        request_id: for a client that names none.
    """
    pending = _Pending()
    exchange = Exchange(pending)
    exchange.headers, exchange.method = list(scope["headers"]), scope["method"]
    exchange.begin(target, request_id)
    hanging_up: asyncio.Task[None] | None = None
    try:
        while not exchange.is_whole and exchange.error is None:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            exchange.take(message.get("body", b""))
            exchange.is_whole = not message.get("more_body", False)
        if exchange.error is not None:
            raise exchange.error
        exchange.submit(asyncio.get_running_loop().time())
        hanging_up = asyncio.create_task(_hangs_up(receive))
        await _send_parts(pending, hanging_up, exchange, send)
    except RequestError as error:
        await send_answer(exchange.problem(error), exchange.request_id, send)
    finally:
        if hanging_up is not None:
            hanging_up.cancel()
        exchange.leave()


class _Pending:
    """What came of the answer to one exchange."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[Answer | Part] = asyncio.Queue()

    def send(self, exchange: Exchange, answer: Answer) -> None:
        self.parts.put_nowait(answer)

    def send_part(self, exchange: Exchange, part: Part) -> None:
        self.parts.put_nowait(part)


async def _send_parts(pending: _Pending, hanging_up: asyncio.Task[None], exchange: Exchange, send: Send) -> None:
    """Send what comes, until that was all, or the client is gone."""
    while True:
        coming = asyncio.ensure_future(pending.parts.get())
        await asyncio.wait((coming, hanging_up), return_when=asyncio.FIRST_COMPLETED)
        if not coming.done():
            coming.cancel()
            return
        part = coming.result()
        if isinstance(part, Answer):
            return await send_answer(part, exchange.request_id, send)
        if part.head is not None:
            headers = [*part.head.headers, _id_header(exchange.request_id)]
            await send({"type": "http.response.start", "status": part.head.status, "headers": headers})
        await send({"type": "http.response.body", "body": part.body, "more_body": not part.is_last})
        if part.is_last:
            return


async def _hangs_up(receive: Receive) -> None:
    """Returns once the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_answer(answer: Answer, request_id: str, send: Send) -> None:
    """Send an answer, with its length and the id of the request."""
    headers = [
        *answer.headers,
        (_LENGTH, b"%d" % len(answer.body)),
        _id_header(request_id),
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def _id_header(request_id: str) -> tuple[bytes, bytes]:
    return _REQUEST_ID, request_id.encode("latin-1", "replace")
