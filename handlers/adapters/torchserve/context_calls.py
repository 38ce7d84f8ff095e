"""TorchServe's calls for an author's class that has an `initialize` or a `handle` of its own, and calls `super()`'s."""

from __future__ import annotations

from typing import Any

from handlers.base import ServingHandler


class ContextCalls:
    """Stands behind the author's class in its method resolution order, so that `super().handle(data, context)` there
    answers the batch as every worker does."""

    entry: Any  # handlers.adapters.torchserve.entry.Entry

    def initialize(self, context: Any) -> None:
        """Load, self-test and warm up."""
        self.entry.load(context)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """The body of each item's answer; statuses and headers go into `context`."""
        bodies: list[bytes] = self.entry.answer_in_context(data, context)
        return bodies


def with_context_calls(cls: type[ServingHandler]) -> type[ServingHandler]:
    """The class itself, or with TorchServe's calls behind it where it defines one of them."""
    if hasattr(cls, "handle") or hasattr(cls, "initialize"):
        return type(cls.__name__, (cls, ContextCalls), {})
    return cls
