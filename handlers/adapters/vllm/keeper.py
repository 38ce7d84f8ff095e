"""Keeps one server of vLLM for a version: prepared, tested on the golden answers, restarted when it ends by itself.

Invariant: a server counts as ready only after it gave the archive's golden answers. A first server that cannot load or
answers wrongly is refused; one that ends later starts anew, with pauses that become longer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handlers.adapters.asgi.options import DRAIN_S
from handlers.adapters.asgi.workers import FIRST_PAUSE_S, LONGEST_PAUSE_S, PoolOptions
from handlers.adapters.vllm.command import Place, server_command, server_environment, usable_core_numbers
from handlers.adapters.vllm.server import Server, end_children, start_server
from handlers.adapters.vllm.settings import Settings
from handlers.adapters.vllm.weights import model_folder
from handlers.contract import Tolerance, difference, threads_per_worker, usable_cores
from handlers.errors import LoadError
from handlers.text.backends.chat import reads_tools
from handlers.text.backends.files import read_chat_template, special_tokens
from handlers.text.options import GenerationOptions
from handlers.worker.self_test import Sample, read_samples

logger = logging.getLogger(__name__)

POLL_S = 0.2
#: Seconds beyond the time for its answers until a server that was told to end is killed.
BEYOND_DRAIN_S = 10.0


@dataclass(frozen=True)
class Version:
    """What is served, and how."""

    options: PoolOptions
    content: dict[str, Any]  # of model-config.yaml
    weights: Path  # in the unpacked archive
    root: Path  # the node's folder
    python: Path  # of vLLM's environment
    host: str
    port: int
    gpu_share: float
    has_gpu: bool
    token: str | None  # of requests; None: everybody may ask

    @property
    def generation(self) -> GenerationOptions:
        return GenerationOptions(**self.content["serving"]["generation"])

    @property
    def dtype(self) -> str:
        """float32 on a CPU where the archive asks for answers that do not depend on their neighbours."""
        asked = self.content["serving"].get("acceleration", {}).get("dtype", "float32")
        return "float32" if asked == "float32" and not self.has_gpu else "bfloat16"

    @property
    def settings_file(self) -> Path:
        """A file of its own: by its name the server's children are found."""
        return self.root / "vllm" / f"{self.options.model}-{self.options.version}.json"

    def settings(self, weights: Path) -> Settings:
        """What the middleware needs.

        Args:
            weights: the folder that vLLM reads.
        """
        generation, options = self.generation, self.options
        own = None if generation.chat_template is None else options.folder / generation.chat_template
        return Settings(
            options.model, options.version, self.token, generation.max_answers, generation.max_tokens,
            generation.most_tokens, generation.temperature, generation.top_p, generation.first_token_s,
            options.response_s, self.content["serving"]["limits"]["request_bytes"], special_tokens(weights),
            reads_tools(read_chat_template(weights, own).pieces),
        )  # fmt: skip


@dataclass(eq=False)
class Keeper:
    """The server of one version, as `handlers.adapters.asgi.workers.Workers` has it: one worker or none.

    Args:
        refused: called where the first server must not serve, with the reason.
        closed: called when no server will be started any more.
    """

    version: Version
    refused: Callable[[str], None]
    closed: Callable[[], None] = lambda: None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    ready_workers: int = 0
    failure: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    _server: Server | None = None
    _task: asyncio.Task[None] | None = None

    @property
    def options(self) -> PoolOptions:
        return self.version.options

    @property
    def waiting(self) -> int:
        """Requests that wait: vLLM tells only its own metrics."""
        return 0

    @property
    def ready_pids(self) -> dict[int, int]:
        return {0: self._server.pid} if self._server is not None and self.ready_workers else {}

    async def start(self) -> None:
        """Begin to keep a server, if one is wanted."""
        await self.scale(self.options.workers)

    async def scale(self, workers: int) -> None:
        """Have a server, or none."""
        if workers and self._task is None:
            self._task = asyncio.create_task(self._keep())
        elif not workers:
            await self._halt()

    async def stop(self, drain_s: float = math.inf) -> None:
        """End the server for good; it answers the requests that it has first, for at most DRAIN_S seconds."""
        await self._halt()
        self.closed()

    async def _halt(self) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    # ---- one server after the other ----------------------------------------------------------------------------------

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            try:
                await self._serve()
                pause = FIRST_PAUSE_S
            except (LoadError, OSError) as error:
                self.failure = str(error)
                if not self.ready.is_set():
                    self.refused(self.failure)
                    return
            except asyncio.CancelledError:
                raise
            except Exception as error:  # of whatever kind it is, the version goes on or is refused
                logger.exception("the server of %s %s", self.options.model, self.options.version)
                self.failure = f"{type(error).__name__}: {error}"
                if not self.ready.is_set():
                    self.refused(self.failure)
                    return
            logger.warning("%s %s starts anew in %.1f s: %s", self.options.model, self.options.version, pause,
                           self.failure or "its server ended")  # fmt: skip
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _serve(self) -> None:
        """Start a server, and return when it has ended after it was ready; raises LoadError where it never was."""
        version, begun = self.version, time.monotonic()
        output = version.options.output if version.options.output is not None else 2
        weights = await model_folder(
            version.weights, version.dtype, version.root / "weights", version.python, output, version.options.folder
        )
        version.settings_file.parent.mkdir(mode=0o700, exist_ok=True)
        version.settings(weights).write(version.settings_file)
        await asyncio.to_thread(end_children, version.settings_file)  # of a node that was killed
        place = Place(version.python, weights, version.host, version.port, version.gpu_share, version.dtype)
        names = [version.options.model, f"{version.options.model}:{version.options.version}"]
        cores = usable_core_numbers(
            threads_per_worker(version.content["serving"].get("threads"), usable_cores(), version.options.workers)
        )
        server = self._server = await start_server(
            server_command(place, names, version.generation, version.options.folder, version.has_gpu),
            server_environment(
                os.environ, version.settings_file, version.options.metrics, version.root / "vllm" / "cache", cores
            ),
            version.options.folder,
            output,
            version.host,
            version.port,
        )
        ended = asyncio.create_task(server.wait())
        try:
            await self._until_ready(server, ended, begun + version.options.startup_s)
            await self._verify(server)
            self.facts = {"engine": "vllm", "load_s": round(time.monotonic() - begun, 1), "threads": len(cores)}
            self.ready_workers, self.failure = 1, ""
            self.ready.set()
            status = await asyncio.shield(ended)
            self.failure = f"vLLM ended with status {status}"
        finally:
            was_ready, self.ready_workers = self.ready_workers, 0
            await _end(server, ended, DRAIN_S + BEYOND_DRAIN_S if was_ready else 0.0)

    async def _until_ready(self, server: Server, ended: asyncio.Task[int], end: float) -> None:
        while not await server.is_ready():
            if ended.done():
                raise LoadError(f"vLLM ended with status {ended.result()} while it loaded; see the node's log")
            if time.monotonic() > end:
                raise LoadError(f"vLLM was not ready within {self.options.startup_s:g} s")
            await asyncio.sleep(POLL_S)

    async def _verify(self, server: Server) -> None:
        """Ask for the archive's golden answers.

        Raises:
            LoadError: one is wrong; the first is named.
        """
        tolerance = Tolerance(**self.version.content["serving"]["tolerance"])
        path = f"/predictions/{self.options.model}/{self.options.version}"
        for sample in read_samples(self.options.folder):
            status, body = await server.ask(path, sample.request.body, self.version.token, self.options.response_s)
            if mistake := wrong_answer(sample, status, body, tolerance):
                raise LoadError(f"sample {sample.name}: {mistake}")


def wrong_answer(sample: Sample, status: int, body: bytes, tolerance: Tolerance) -> str:
    """Why this is not the golden answer; empty where it is."""
    if status != 200:
        return f"answered with {status}: {body[:300].decode('utf-8', 'replace')}" if status else "no answer"
    return difference(json.loads(body), sample.golden, tolerance) or ""


async def _end(server: Server, ended: asyncio.Task[int], grace_s: float) -> None:
    """End the server: it has so many seconds for its answers."""
    if grace_s and not ended.done():
        server.terminate()
        await asyncio.wait([ended], timeout=grace_s)
    server.kill()
    await ended
