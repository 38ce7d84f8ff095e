"""Makes the worker that fits a handler: one that answers batches, or one that generates text."""

from __future__ import annotations

from typing import Any

from handlers.worker.config import WorkerConfig, handler_class
from handlers.worker.text import TextWorker
from handlers.worker.worker import Worker


def make_worker(config: WorkerConfig, handler: Any = None) -> Worker | TextWorker:
    """A worker that has not loaded its model yet; `startup.start` makes it ready.

    Args:
        handler: None: a new object of the class that the archive names.

    Raises:
        LoadError: there is no such class, or another package `handlers` runs than the archive's.
    """
    handler = handler_class(config.handler)() if handler is None else handler
    return TextWorker(handler, config) if handler.is_generative else Worker(handler, config)
