"""The gRPC service of the Open Inference Protocol, beside the HTTP server and before the same workers.

A ModelInferRequest goes to a worker as it came, and its answer to the client as the worker made it; only the names of
model and version are read here. Methods that change the server, and streams, are UNIMPLEMENTED.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NoReturn

import grpc
from pydantic_core import from_json

from handlers.adapters.asgi.backlog import Waiting
from handlers.adapters.asgi.frames import Answer, Item
from handlers.adapters.asgi.model_index import open_inference, repository_index
from handlers.adapters.asgi.workers import Workers
from handlers.adapters.errors import NotFound
from handlers.contract import GRPC_CODES, GRPC_SERVICE, OPEN_INFERENCE, PROTOBUF, REQUEST_ID_HEADER, TIMEOUT_HEADER
from handlers.errors import RequestError, Unavailable
from handlers.messages import request_id_of
from handlers.protocols.open_inference import messages, server_metadata

Context = Any  # grpc.aio.ServicerContext, whose package has no types
Method = Callable[[bytes, Context], Awaitable[bytes]]

#: Of one message, besides the body that the archive allows: names and shapes of a body without data.
SLACK_BYTES = 64 << 10
MOST_CALLS = 4096
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_TYPE = b"content-type"


class Service(grpc.GenericRpcHandler):  # type: ignore[misc]
    """One archive over gRPC.

    Args:
        next_id: makes the id of a request that came without one.
    """

    def __init__(self, pool: Workers, next_id: Callable[[], str]) -> None:
        self._pool = pool
        self._next_id = next_id
        self._methods: dict[str, Method] = {
            f"/{GRPC_SERVICE}/{name}": method
            for name, method in {
                "ServerLive": self._live,
                "ServerReady": self._server_ready,
                "ModelReady": self._model_ready,
                "ServerMetadata": self._server_metadata,
                "ModelMetadata": self._model_metadata,
                "ModelInfer": self._infer,
                "RepositoryIndex": self._index,
            }.items()
        }

    def service(self, handler_call_details: Any) -> Any:
        """The method's handler, which gets and gives messages as bytes; None: UNIMPLEMENTED."""
        method = self._methods.get(handler_call_details.method)
        return None if method is None else grpc.unary_unary_rpc_method_handler(method)

    async def _live(self, message: bytes, context: Context) -> bytes:
        return messages.encode_flag(True)

    async def _server_ready(self, message: bytes, context: Context) -> bytes:
        return messages.encode_flag(self._pool.ready_workers > 0)

    async def _model_ready(self, message: bytes, context: Context) -> bytes:
        await self._check_target(message, context)
        return messages.encode_flag(self._pool.ready_workers > 0)

    async def _server_metadata(self, message: bytes, context: Context) -> bytes:
        return messages.encode_server_metadata(server_metadata())

    async def _model_metadata(self, message: bytes, context: Context) -> bytes:
        await self._check_target(message, context)
        try:
            metadata: Any = open_inference(self._pool)
        except RequestError as error:
            await _refuse(error, context)
        return messages.encode_model_metadata(metadata)

    async def _index(self, message: bytes, context: Context) -> bytes:
        try:
            only_ready = messages.read_index_request(memoryview(message))
        except RequestError as error:
            await _refuse(error, context)
        return messages.encode_repository_index(repository_index([self._pool], only_ready))

    async def _infer(self, message: bytes, context: Context) -> bytes:
        headers = [(name.encode(), _as_bytes(value)) for name, value in context.invocation_metadata()]
        sent = {name.decode(): value.decode("latin-1") for name, value in headers if name == REQUEST_ID_HEADER.encode()}
        request_id = request_id_of(sent, None) or self._next_id()
        left_s = context.time_remaining()
        wait_s = self._pool.options.response_s
        if left_s is not None:
            wait_s = min(wait_s, left_s)
            headers.append((TIMEOUT_HEADER.encode(), b"%d" % max(0, round(left_s * 1000))))
        headers.append((_TYPE, PROTOBUF.encode()))
        await self._check_target(message, context)
        if not self._pool.hold(len(message)):
            await _refuse(Unavailable("Too many bytes of requests wait; retry later."), context)
        try:
            answer = await self._predict(Item(headers, message, request_id, OPEN_INFERENCE), wait_s)
        except RequestError as error:
            await _refuse(error, context)
        finally:
            self._pool.release(len(message))
        metadata = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        metadata = [(REQUEST_ID_HEADER, request_id), *(pair for pair in metadata if pair[0] != "content-type")]
        if answer.status != 200:
            await _abort(answer.status, from_json(answer.body)["detail"], metadata, context)
        await context.send_initial_metadata(metadata)
        return answer.body

    async def _predict(self, item: Item, wait_s: float) -> Answer:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def answer(given: Answer) -> None:
            if not future.done():
                future.set_result(given)

        now = loop.time()
        waiting = Waiting(item, now, now + wait_s, answer)  # a client that leaves cancels this coroutine
        self._pool.submit(waiting)
        try:
            return await future
        except asyncio.CancelledError:
            self._pool.leave(waiting)
            raise

    async def _check_target(self, message: bytes, context: Context) -> None:
        """Refuse a request for another model or version than the one that is served."""
        options = self._pool.options
        try:
            target = messages.read_target(memoryview(message))
            if target.model != options.model or target.version not in ("", options.version):
                raise NotFound(f"There is {options.model} {options.version} here, and no other model or version.")
        except RequestError as error:
            await _refuse(error, context)


def create_server(pool: Workers, request_bytes: int, next_id: Callable[[], str]) -> Any:
    """A grpc.aio server that is not started."""
    options = [
        ("grpc.max_receive_message_length", request_bytes + SLACK_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=MOST_CALLS)
    server.add_generic_rpc_handlers((Service(pool, next_id),))
    return server


async def _refuse(error: RequestError, context: Context) -> NoReturn:
    metadata = [("retry-after", "1")] if isinstance(error, Unavailable) else []
    await _abort(error.status, error.detail, metadata, context)


async def _abort(status: int, detail: str, metadata: Sequence[tuple[str, str]], context: Context) -> NoReturn:
    code = _CODES[GRPC_CODES.get(status, GRPC_CODES[500])]
    await context.abort(code, detail, tuple(metadata))
    raise AssertionError("abort raises")


def _as_bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1", "replace")
