"""What a node needs of that which answers the requests of one version; `Workers` is that of our own workers."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Protocol

from handlers.adapters.asgi.workers import PoolOptions


class Serving(Protocol):
    """Workers of whatever kind."""

    ready: asyncio.Event  # a worker has been ready
    ready_workers: int
    failure: str  # why the worker that ended last did not become ready; empty where it did
    facts: dict[str, Any]  # of the last load

    @property
    def options(self) -> PoolOptions:
        """How the archive is served."""

    @property
    def waiting(self) -> int:
        """Requests that wait for a worker."""

    @property
    def ready_pids(self) -> dict[int, int]:
        """Process ids of the workers that are ready, by their number."""

    async def start(self) -> None:
        """Start the workers; they become ready later."""

    async def scale(self, workers: int) -> None:
        """Have this many workers."""

    async def stop(self, drain_s: float = math.inf) -> None:
        """End the workers; the requests that they have are answered first, for so many seconds."""
