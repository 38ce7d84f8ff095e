"""The service: BentoML's HTTP server before the application and the workers of `handlers.adapters.asgi`.

Importing an exported service starts nothing, because `bentoml build` and BentoML's parent process import it too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import bentoml
import yaml

from handlers.adapters.asgi.__main__ import pool_options
from handlers.adapters.asgi.app import Message, Receive, Send, Server
from handlers.adapters.asgi.pool import Pool
from handlers.adapters.asgi.routes import build_routes
from handlers.contract import METRICS_FOLDER_VARIABLE
from handlers.errors import LoadError


class Served:
    """The application that BentoML mounts; it answers once `start` has returned."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
        self.content: dict[str, Any] = yaml.safe_load((folder / "model-config.yaml").read_text(encoding="utf-8"))
        self._server: Server | None = None
        self._pool: Pool | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        assert self._server is not None
        await self._server(scope, receive, send)

    async def start(self) -> None:
        options = pool_options(self.manifest, self.content, None, Path(os.environ[METRICS_FOLDER_VARIABLE]), self.folder)
        refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        pool = Pool(options, lambda reason: None if refused.done() else refused.set_result(reason))
        self._pool = pool
        self._server = Server(pool, self.content["serving"]["limits"]["request_bytes"], build_routes(pool))
        await pool.start()
        ready = asyncio.ensure_future(pool.ready.wait())
        await asyncio.wait([ready, refused], return_when=asyncio.FIRST_COMPLETED)
        if refused.done():
            raise LoadError(refused.result())

    async def stop(self) -> None:
        if self._pool is not None:
            await self._pool.stop()


def build_service(folder: Path) -> Any:
    served = Served(folder)
    response_s = served.content.get("responseTimeout", 60)

    @bentoml.service(
        name=re.sub(r"[^a-z0-9_.-]", "-", served.manifest["modelName"].lower()),
        workers=1,
        traffic={"timeout": 2 * response_s + 10},
        logging={"access": {"enabled": False}},
    )
    class Service:
        @bentoml.on_startup
        async def start(self) -> None:
            await served.start()

        @bentoml.on_shutdown
        async def stop(self) -> None:
            await served.stop()

    Service.mount_asgi_app(served, path="/")
    return Service
