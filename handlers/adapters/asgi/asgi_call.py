"""Asks an ASGI application, such as FastAPI's routes, and waits for the whole of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from handlers.adapters.asgi.exchange import Exchange
from handlers.adapters.asgi.frames import Answer, Headers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


async def call(application: Application, exchange: Exchange, transport: asyncio.Transport) -> Answer:
    """The application's answer, without its content-length; it is cancelled where the client hangs up.

    Raises:
        Exception: the application's own.
    """
    status, parts = 500, list[bytes]()
    headers: Headers = ()
    request: list[Message] = [{"type": "http.request", "body": exchange.body, "more_body": False}]

    async def receive() -> Message:
        if request:
            return request.pop()
        await asyncio.get_running_loop().create_future()  # until this call is cancelled
        raise AssertionError("nothing completes it")

    async def send(message: Message) -> None:
        nonlocal status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            headers = tuple((n, v) for n, v in message.get("headers", ()) if n != b"content-length")
        else:
            parts.append(bytes(message.get("body", b"")))

    await application(_scope(exchange, transport), receive, send)
    return Answer(status, headers, b"".join(parts))


def _scope(exchange: Exchange, transport: asyncio.Transport) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "scheme": "http",
        "method": exchange.method,
        "path": exchange.path,
        "raw_path": exchange.path.encode(),
        "root_path": "",
        "query_string": exchange.query,
        "headers": exchange.headers,
        "server": _address(transport, "sockname"),
        "client": _address(transport, "peername"),
        "state": {},
    }


def _address(transport: asyncio.Transport, name: str) -> tuple[str, int] | None:
    address = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else None
