"""One unpacked archive as a service of BentoML: its HTTP server before the application and workers of this package.

Importing an exported service starts nothing, because `bentoml build` and BentoML's parent process import it too.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from pathlib import Path
from typing import Any

import bentoml

from handlers.adapters.asgi.app import Server
from handlers.adapters.asgi.asgi_call import Message, Receive, Send
from handlers.adapters.asgi.options import open_pool, pool_options
from handlers.adapters.asgi.routes import build_routes
from handlers.adapters.asgi.workers import Workers
from handlers.contract import METRICS_FOLDER_VARIABLE, LoadReport
from handlers.errors import LoadError
from handlers.unpacked import read_documents

logger = logging.getLogger("bentoml.service")

#: BentoML's own deadline lies so many seconds after ours, which answers with a problem document.
BEYOND_S = 10


class Served:
    """The ASGI application that BentoML mounts; it answers from the end of `start` on.

    Args:
        folder: with the unpacked archive.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.manifest, self.content = read_documents(folder)
        self._pool: Workers | None = None
        self._server: Server | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert self._server is not None  # noqa: S101 - BentoML's server accepts nothing before `start` has returned
        await self._server(scope, receive, send)

    async def start(self) -> None:
        """Start the workers, and wait until one is ready.

        Raises:
            LoadError: none can load; the log has a line of LoadReport too.
        """
        # BentoML's page /metrics adds up the files in its folder, so the workers' metrics are on it
        metrics = Path(os.environ[METRICS_FOLDER_VARIABLE])
        options = pool_options(self.manifest, self.content, None, metrics, self._folder)
        refusal: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def refused(reason: str) -> None:
            if not refusal.done():
                refusal.set_result(reason)

        self._pool = open_pool(options, refused)
        request_bytes = self.content["serving"]["limits"]["request_bytes"]
        self._server = Server(self._pool, request_bytes, build_routes(self._pool, request_bytes))
        await self._pool.start()
        ready = asyncio.ensure_future(self._pool.ready.wait())
        await asyncio.wait((ready, refusal), return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if refusal.done():
            await self._pool.stop()
            report = LoadReport(options.model, options.version, os.getpid(), False, refusal.result())
            logger.error("%s", report.line())
            raise LoadError(refusal.result())
        logger.info("%s %s is ready: %s", options.model, options.version, self._pool.facts)

    async def stop(self) -> None:
        """Answer the requests at hand, and end the workers."""
        if self._pool is not None:
            await self._pool.stop()


def build_service(folder: Path) -> Any:
    """The service of the archive that is unpacked in `folder`.

    One process accepts, as `workers=1` says, and starts the archive's own number of worker processes: batches are cut
    from all requests of the service. All paths but /livez, /healthz, /readyz and /metrics are the archive's.
    """
    served = Served(folder)

    @bentoml.service(
        name=service_name(served.manifest["modelName"]),
        workers=1,
        traffic={"timeout": 2 * served.content.get("responseTimeout", 60) + BEYOND_S},  # to wait, and to be computed
        logging={"access": {"enabled": False}},
    )
    class Service:
        @bentoml.on_startup  # type: ignore[untyped-decorator]
        async def start(self) -> None:
            await served.start()

        @bentoml.on_shutdown  # type: ignore[untyped-decorator]
        async def stop(self) -> None:
            await served.stop()

    service: Any = Service  # of BentoML's class, which the decorator makes
    service.mount_asgi_app(served, path="/")
    return service


def service_name(model: str) -> str:
    """The model's name as BentoML takes names: lower case, and each other character a hyphen."""
    return re.sub(r"[^a-z0-9_.-]", "-", model.lower()).strip("-_.") or "model"
