"""uvicorn with our own connections, on uvloop: signals, drain and times are uvicorn's and those of `connection.py`."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
import uvloop
from uvicorn.server import ServerState

from handlers.adapters.asgi.connection import Answering, Connection
from handlers.adapters.asgi.options import DRAIN_S

Result = TypeVar("Result")

#: How often connections are looked at that are idle or slow, in seconds.
SWEEP_S = 1.0


def run(serving: Coroutine[Any, Any, Result]) -> Result:
    """Run to its end what serves; its result, such as the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serving)


def http_server(answering: Answering) -> uvicorn.Server:
    """A server that is not started; its `should_exit` ends it."""
    loop = asyncio.get_running_loop()

    def connection(server_state: ServerState, **_: object) -> Connection:
        return Connection(answering, server_state.connections, loop)

    config = uvicorn.Config(
        answering.others, http=connection, lifespan="off", log_level="warning",  # type: ignore[arg-type] # makes one
        timeout_graceful_shutdown=DRAIN_S,
    )  # fmt: skip
    return _Server(config)


class _Server(uvicorn.Server):
    """uvicorn's own sends the signal again once it has shut down, which would end the process before its workers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals in the block shut the server down, and are done with."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def serve(server: uvicorn.Server, listener: socket.socket) -> None:
    """Accept connections until a signal comes; what came is answered."""
    sweeping = asyncio.create_task(_sweep(server.server_state))
    try:
        await server.serve([listener])
    finally:
        sweeping.cancel()


async def _sweep(state: ServerState) -> None:
    """Have every connection look at its times."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        for connection in [each for each in state.connections if isinstance(each, Connection)]:
            connection.sweep(loop.time())
