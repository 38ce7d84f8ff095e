"""The server as an ASGI application, as another server such as BentoML's calls it."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest

from handlers.adapters.asgi.app import Server
from tests.handlers.test_asgi_connection import LONGEST_BODY, EchoPool, routes


async def ask(pool: EchoPool, received: list[MutableMapping[str, Any]], path: str, method: str = "POST") -> list[Any]:
    """The messages that the application sends; after the received ones nothing comes."""
    sent: list[Any] = []

    async def receive() -> MutableMapping[str, Any]:
        if not received:
            await asyncio.get_running_loop().create_future()
        return received.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "path": path,
        "query_string": b"",
        "method": method,
        "headers": [(b"x-request-id", b"mine")],
    }
    await asyncio.wait_for(Server(pool, LONGEST_BODY, routes)(scope, receive, send), 10)
    return sent


def body(*parts: bytes) -> list[MutableMapping[str, Any]]:
    return [{"type": "http.request", "body": part, "more_body": at < len(parts) - 1} for at, part in enumerate(parts)]


@pytest.mark.parametrize(
    ("received", "path", "method", "status", "answer"),
    [
        (body(b"a", b"b"), "/predictions/m", "POST", 200, b"ab"),
        (body(b""), "/predictions/m/1", "GET", 405, b"Use POST"),
        (body(b"x" * LONGEST_BODY, b"x"), "/predictions/m", "POST", 413, b"1000 bytes"),
        (body(b"full"), "/v2/models/m/infer", "POST", 503, b"retry later"),
        (body(b""), "/elsewhere", "GET", 200, b"GET"),
    ],
)
def test_every_path_is_answered_once_and_no_byte_stays_held(
    received: list[MutableMapping[str, Any]], path: str, method: str, status: int, answer: bytes
) -> None:
    async def run() -> None:
        pool = EchoPool()
        start, *rest = await ask(pool, received, path, method)
        assert start["status"] == status
        assert answer in b"".join(message["body"] for message in rest)
        assert path == "/elsewhere" or (b"x-request-id", b"mine") in start["headers"]
        assert pool.held == 0
        assert pool.left == [], "only what waits can leave"

    asyncio.run(run())


def test_a_client_that_hangs_up_leaves_the_pool_and_gets_no_answer() -> None:
    async def run() -> None:
        pool = EchoPool()
        assert await ask(pool, [*body(b"wait"), {"type": "http.disconnect"}], "/predictions/m") == []
        assert pool.left == pool.held_back != []
        assert await ask(pool, [{"type": "http.disconnect"}], "/predictions/m") == []
        assert pool.held == 0

    asyncio.run(run())
