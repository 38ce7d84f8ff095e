"""Serves an unpacked archive: `python -m handlers.adapters.asgi [--host H] [--port P] [--workers N]` in its folder.

Ends with 0 after SIGTERM or SIGINT, when the requests at hand are answered; with 3 where the archive must not serve,
and with 4 where the address cannot be had.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import uvicorn
import uvloop
import yaml
from uvicorn.server import ServerState

from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.connection import Connection
from handlers.adapters.asgi.pool import Pool, PoolOptions
from handlers.adapters.asgi.routes import build_routes

#: Bodies of as many full batches for each worker may be held at a time, and at least LEAST_BYTES.
HELD_BATCHES, LEAST_BYTES, MOST_BYTES = 2, 64 << 20, 1 << 30
DRAIN_S = 30
#: Connections that the kernel holds until they are accepted.
BACKLOG = 2048
#: How often connections are looked at that are idle or slow, in seconds.
SWEEP_S = 1.0
REFUSED, NO_ADDRESS = 3, 4


def main() -> int:
    """Serve until a signal comes; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m handlers.adapters.asgi")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, help="as model-config.yaml says, unless given")
    arguments = parser.parse_args()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    manifest = json.loads(Path("MAR-INF/MANIFEST.json").read_text(encoding="utf-8"))["model"]
    content = yaml.safe_load(Path("model-config.yaml").read_text(encoding="utf-8"))
    try:
        listener = socket.create_server((arguments.host, arguments.port), backlog=BACKLOG, reuse_port=False)
    except OSError as error:
        print(f"error: cannot listen on {arguments.host}:{arguments.port}: {error.strerror}", file=sys.stderr)  # noqa: T201
        return NO_ADDRESS
    with listener, tempfile.TemporaryDirectory(prefix="tsctl-metrics-") as metrics:
        options = pool_options(manifest, content, arguments.workers, Path(metrics))
        serving = _serve(options, content["serving"]["limits"]["request_bytes"], arguments, listener)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serving)


async def _serve(
    options: PoolOptions, request_bytes: int, arguments: argparse.Namespace, listener: socket.socket
) -> int:
    reasons: list[str] = []

    def refused(reason: str) -> None:
        reasons.append(reason)
        server.should_exit = True

    pool = Pool(options, refused)
    application = Server(pool, request_bytes, build_routes(pool))
    loop = asyncio.get_running_loop()

    def connection(server_state: ServerState, **_: object) -> Connection:
        return Connection(application, server_state.connections, loop)

    config = uvicorn.Config(
        application.others, http=connection, lifespan="off", log_level="warning",  # type: ignore[arg-type] # makes one
        timeout_graceful_shutdown=DRAIN_S,
    )  # fmt: skip
    server = uvicorn.Server(config)
    await pool.start()
    announcing = asyncio.create_task(_announce_ready(pool, arguments))
    sweeping = asyncio.create_task(_sweep(server.server_state.connections))
    try:
        await server.serve([listener])
    finally:
        announcing.cancel()
        sweeping.cancel()
        await pool.stop()
    if reasons:
        print(f"error: {reasons[0]}", file=sys.stderr)  # noqa: T201 - a program of its own
        return REFUSED
    return 0


async def _sweep(connections: Collection[Any]) -> None:
    """Have every connection look at its times."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(SWEEP_S)
        for connection in list(connections):
            connection.sweep(loop.time())


async def _announce_ready(pool: Pool, arguments: argparse.Namespace) -> None:
    await pool.ready.wait()
    options = pool.options
    url = f"http://{arguments.host}:{arguments.port}"
    facts = pool.facts
    print(  # noqa: T201 - a program of its own
        f"{options.model} {options.version} is ready after {facts.get('seconds', 0):.1f} s on {facts.get('device')}:"
        f" POST {url}/predictions/{options.model}, see {url}/docs",
        flush=True,
    )


def pool_options(manifest: dict[str, Any], content: dict[str, Any], workers: int | None, metrics: Path) -> PoolOptions:
    """How an archive is served, by its manifest's section `model` and its model-config.yaml."""
    batch_size = content.get("batchSize", 1)
    workers = workers or content.get("minWorkers", 1)
    full = content["serving"]["limits"]["request_bytes"] * batch_size * workers
    return PoolOptions(
        folder=Path.cwd(),
        metrics=metrics,
        model=manifest["modelName"],
        version=manifest["modelVersion"],
        workers=workers,
        batch_size=batch_size,
        most_waiting=content.get("jobQueueSize", 100),
        most_bytes=min(MOST_BYTES, max(LEAST_BYTES, HELD_BATCHES * full)),
        response_s=content.get("responseTimeout", 60),
        startup_s=content.get("startupTimeout", 120),
    )


if __name__ == "__main__":
    sys.exit(main())
