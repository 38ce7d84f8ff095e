"""One replica of Ray Serve: the ASGI application of one archive, before one worker process of ours.

Ray's proxies choose the replica; batches, limits, deadlines and errors are those of `handlers.adapters.asgi`.
Importing this module needs nothing of Ray.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.asgi_call import Application, Message, Receive, Send
from handlers.adapters.asgi.node.output import Output
from handlers.adapters.asgi.node.unpacked import unpack
from handlers.adapters.asgi.options import open_pool, pool_options
from handlers.adapters.asgi.routes import build_routes
from handlers.adapters.asgi.workers import Workers
from handlers.contract import NODE_FOLDER_VARIABLE, REQUEST_ID_HEADER, LoadReport
from handlers.errors import LoadError
from handlers.unpacked import read_documents

logger = logging.getLogger("handlers.adapters")

#: A request waits so long for a worker that starts anew. Meanwhile Ray's proxies see that this replica is busy and send
#: to others: a replica that refused at once would look idle, and draw all requests.
HOLD_S, _POLL_S = 5.0, 0.02
#: Seconds for the requests at hand when the replica ends; Ray has sent it no new ones before.
END_S = 5.0
_REQUEST_ID = REQUEST_ID_HEADER.encode()


@dataclass(frozen=True)
class Source:
    """Where the archive of a replica is, in the working directory that Ray gives it."""

    folder: str  # with the archive, or where it is unpacked, beside the package
    model: str = ""
    version: str | None = None  # under which it is served; None: the archive's own
    archive: str = ""  # file name of the archive; empty: it is unpacked
    digest: str = ""  # SHA-256 of that file


class Replica:
    """The worker of one replica. Ray calls `__init__`, `check_health`, `reconfigure` and, at the end, `close`."""

    current: Replica | None = None  # the one of this process

    async def __init__(self, source: Source) -> None:  # type: ignore[misc] # Ray awaits it
        """Verify and unpack the archive, start the worker, and wait until it is ready.

        Raises:
            LoadError: it cannot load; Ray tries again a few times, and then gives up.
        """
        _log_lines()
        self._output: Output | None = None
        self.pool: Workers | None = None
        self.server: Application | None = None
        self.refusal = ""
        try:
            await self._start(source)
        except LoadError as error:
            await self.close()
            report = LoadReport(source.model, source.version or "", os.getpid(), False, str(error))
            logger.error("%s %s: %s", source.model, source.version, report.line())
            raise
        Replica.current = self

    async def _start(self, source: Source) -> None:
        folder = await asyncio.to_thread(unpacked, source)
        manifest, content = read_documents(folder)
        if source.model and manifest["modelName"] != source.model:
            raise LoadError(f"{source.archive} holds {manifest['modelName']}, and not {source.model}")
        version = source.version or str(manifest["modelVersion"])
        self._output = Output(f"{manifest['modelName']} {version}")
        await self._output.open()
        options = pool_options(manifest, content, 1, metrics_folder(), folder, version, self._output.descriptor)
        is_refused = asyncio.Event()

        def refused(reason: str) -> None:
            self.refusal = reason
            is_refused.set()

        self.pool = open_pool(options, refused)
        request_bytes = content["serving"]["limits"]["request_bytes"]
        self.server = Server(self.pool, request_bytes, build_routes(self.pool, request_bytes))
        await self.pool.start()
        waits = [asyncio.ensure_future(event.wait()) for event in (self.pool.ready, is_refused)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if is_refused.is_set():
            raise LoadError(self.refusal)
        logger.info("%s %s is ready: %s", options.model, version, self.pool.facts)

    async def check_health(self) -> None:
        """Raises LoadError where the worker does not come back; Ray then replaces this replica."""
        if self.pool is not None and not self.pool.ready_workers and (self.refusal or self.pool.failure):
            raise LoadError(self.refusal or self.pool.failure)

    def reconfigure(self, settings: dict[str, Any]) -> None:
        """Do nothing: `user_config` says what tsctl remembers of the version, and nothing to a replica."""

    async def close(self) -> None:
        """Answer the requests at hand, and end the worker."""
        pool, output = self.pool, self._output
        self.pool, self._output = None, None
        if pool is not None:
            await pool.stop(END_S)
        if output is not None:
            output.close()


async def answer(scope: Message, receive: Receive, send: Send) -> None:
    """The ASGI application of this process: that of its replica, below the prefix of the application's route."""
    if scope["type"] == "lifespan":  # the replica has started already
        await _live(receive, send)
        return
    replica = Replica.current
    assert replica is not None  # noqa: S101 - Ray asks no replica before its `__init__` has ended
    if replica.pool is None or replica.server is None:
        raise ConnectionError("the replica has ended")  # Ray answers 500, which the gateway turns into a 503
    await _worker_back(replica.pool)
    root, path = scope.get("root_path", ""), scope["path"]
    if root and path.rstrip("/") == root.rstrip("/"):  # the prefix is the path of predictions
        scope = {**scope, "path": root.rstrip("/"), "root_path": ""}

    async def send_once(message: Message) -> None:
        if message["type"] == "http.response.start":  # Ray's proxy adds the id itself
            kept = [(name, value) for name, value in message.get("headers", ()) if bytes(name) != _REQUEST_ID]
            message = {**message, "headers": kept}
        await send(message)

    await replica.server(scope, receive, send_once)


async def _live(receive: Receive, send: Send) -> None:
    """Say that the application has started, and that it has ended."""
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


async def _worker_back(pool: Workers) -> None:
    """Wait for a worker, HOLD_S at most."""
    if not pool.ready_workers:
        end = asyncio.get_running_loop().time() + HOLD_S
        while not pool.ready_workers and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(_POLL_S)


def unpacked(source: Source) -> Path:
    """The folder with the unpacked archive; replicas of one machine share it.

    Raises:
        LoadError: the archive is not there, is another one than its digest says, or has no room.
    """
    if not source.archive:
        return beside_package(source.folder)
    folder = Path(source.folder).resolve()
    place = folder / source.digest
    try:
        return unpack(folder / source.archive, source.digest, folder)
    except LoadError:
        if place.is_dir():  # another replica was first
            return place
        raise


def beside_package(name: str) -> Path:
    """The folder of that name beside this package."""
    return Path(__file__).resolve().parents[3] / name


def metrics_folder() -> Path:
    """The folder into which the worker writes its metrics: that of a node on this machine, else one of this replica."""
    folder = os.environ.get(NODE_FOLDER_VARIABLE)
    return Path(folder) / "metrics" if folder else Path(tempfile.mkdtemp(prefix="tsctl-metrics-"))


def _log_lines() -> None:
    """Write this package's lines to the log of the node on this machine, else to Ray's own of this process."""
    if logger.handlers:
        return
    folder = os.environ.get(NODE_FOLDER_VARIABLE)
    handler = (
        logging.FileHandler(Path(folder) / "logs" / "node.log", encoding="utf-8")
        if folder
        else logging.StreamHandler(sys.stderr)
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
