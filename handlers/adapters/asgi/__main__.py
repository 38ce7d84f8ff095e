"""Serves an unpacked archive, in its folder:
`python -m handlers.adapters.asgi [--host H] [--port P] [--grpc-port P] [--workers N]`.

Ends with 0 after SIGTERM or SIGINT, when the requests at hand are answered; with 3 where the archive must not serve,
and with 4 where the address cannot be had.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import socket
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.http_server import http_server, run, serve
from handlers.adapters.asgi.listener import listen
from handlers.adapters.asgi.options import DRAIN_S, open_pool, pool_options
from handlers.adapters.asgi.routes import build_routes
from handlers.adapters.asgi.workers import PoolOptions, Workers
from handlers.unpacked import read_documents

REFUSED, NO_ADDRESS = 3, 4


class NoAddress(OSError):
    """The address of gRPC cannot be had."""


def main() -> int:
    """Serve until a signal comes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m handlers.adapters.asgi")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, help="of gRPC, which needs grpcio; none unless given")
    parser.add_argument("--workers", type=int, help="as model-config.yaml says, unless given")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    manifest, content = read_documents(Path())
    try:
        listener = listen(arguments.host, arguments.port)
    except OSError as error:
        print(f"error: cannot listen on {arguments.host}:{arguments.port}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return NO_ADDRESS
    if arguments.grpc_port is not None and find_spec("grpc") is None:
        print("error: --grpc-port needs grpcio: pip install 'tsctl[grpc]', or grpcio", file=sys.stderr)  # noqa: T201
        return REFUSED
    with listener, tempfile.TemporaryDirectory(prefix="tsctl-metrics-") as metrics:
        options = pool_options(manifest, content, arguments.workers, Path(metrics))
        serving = _serve(options, content["serving"]["limits"]["request_bytes"], arguments, listener)
        try:
            return run(serving)
        except NoAddress as error:
            print(f"error: cannot listen on {error}", file=sys.stderr)  # noqa: T201 - a program of its own
            return NO_ADDRESS


async def _serve(
    options: PoolOptions, request_bytes: int, arguments: argparse.Namespace, listener: socket.socket
) -> int:
    reasons: list[str] = []

    def refused(reason: str) -> None:
        reasons.append(reason)
        server.should_exit = True

    pool = open_pool(options, refused)
    application = Server(pool, request_bytes, build_routes(pool, request_bytes))
    server = http_server(application)
    beside = await _start_grpc(pool, request_bytes, application, arguments)
    await pool.start()
    announcing = asyncio.create_task(_announce_ready(pool, arguments))
    try:
        await serve(server, listener)
    finally:
        announcing.cancel()
        if beside is not None:
            await beside.stop(DRAIN_S)
        await pool.stop(0 if options.places else math.inf)  # streams had their time while the connections closed
    if reasons:
        print(f"error: {reasons[0]}", file=sys.stderr)  # noqa: T201 - a program of its own
        return REFUSED
    return 0


async def _start_grpc(pool: Workers, request_bytes: int, application: Server, arguments: argparse.Namespace) -> Any:
    """The server of gRPC where a port is given, else None.

    Raises:
        NoAddress: the port cannot be had.
    """
    if arguments.grpc_port is None:
        return None
    from handlers.adapters.asgi.grpc_service import create_server

    server = create_server(pool, request_bytes, application.next_id)
    address = f"{arguments.host}:{arguments.grpc_port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise NoAddress(address) from error
    if not bound:
        raise NoAddress(address)
    await server.start()
    return server


async def _announce_ready(pool: Workers, arguments: argparse.Namespace) -> None:
    await pool.ready.wait()
    options = pool.options
    url = f"http://{arguments.host}:{arguments.port}"
    facts = pool.facts
    print(  # noqa: T201 - a program of its own
        f"{options.model} {options.version} is ready after {facts.get('seconds', 0):.1f} s on {facts.get('device')}:"
        f" POST {url}/predictions/{options.model}, see {url}/docs",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
