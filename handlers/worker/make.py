"""Makes the worker that fits a handler: one that answers batches, or one that generates text."""

from __future__ import annotations

from typing import Any

from handlers.errors import LoadError
from handlers.secrets import open_secrets
from handlers.worker.config import WorkerConfig, handler_class
from handlers.worker.packages import use_packages
from handlers.worker.text import TextWorker
from handlers.worker.worker import Worker


def make_worker(config: WorkerConfig, handler: Any = None) -> Worker | TextWorker:
    """A worker that has not loaded its model yet; `startup.start` makes it ready.

    Args:
        handler: None: a new object of the class that the archive names.

    Raises:
        LoadError: there is no such class, another package `handlers` runs than the archive's, or archive.yaml says of
            the handler what is not so: that it generates text, or gives embeddings.
    """
    use_packages(config.requirements)
    open_secrets(config.model, config.secrets)
    handler = handler_class(config.handler)() if handler is None else handler
    is_generative = getattr(handler, "is_generative", False)
    if is_generative != (config.generation is not None):
        needs = "needs the section generation" if is_generative else "cannot use the section generation"
        raise LoadError(f"the handler {type(handler).__name__} {needs} of archive.yaml")
    if is_generative:
        return TextWorker(handler, config)
    worker = Worker(handler, config)
    if config.embeddings and not worker.protocols.gives_embeddings:
        raise LoadError(
            f"archive.yaml has embeddings: true, and the handler {type(handler).__name__} defines no count_tokens"
        )
    return worker
