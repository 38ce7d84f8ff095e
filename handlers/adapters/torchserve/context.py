"""TorchServe's context: the configuration and the author's handler in it, and an author's own calls with it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.base import ServingHandler
from handlers.contract import ANSWER_LIMIT_VARIABLE
from handlers.secrets import open_secrets
from handlers.worker.config import WorkerConfig, handler_class, read_config
from handlers.worker.packages import use_packages

#: What `max_response_size` is for a node whose config.properties has none. A longer answer ends the worker.
DEFAULT_LONGEST_ANSWER = 6_553_500


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


def author_handler(context: Any) -> Any:
    """A new object of the author's class; one that is no ServingHandler has TorchServe's calls itself."""
    config = worker_config(context)
    use_packages(config.requirements)
    open_secrets(config.model, config.secrets)
    cls = handler_class(config.handler)
    return with_context_calls(cls)() if issubclass(cls, ServingHandler) else cls()


def worker_config(context: Any) -> WorkerConfig:
    """The configuration in the archive, with TorchServe's choices.

    Raises:
        LoadError: the archive was not built by tsctl.
    """
    properties: Mapping[str, Any] = context.system_properties
    return read_config(
        Path(properties["model_dir"]),
        context.manifest["model"],
        context.model_yaml_config,
        model=model_and_version(context)[0],
        gpu_id=properties.get("gpu_id"),
        batch_size=properties.get("batch_size"),
        answer_bytes=longest_answer(),
    )


def longest_answer() -> int:
    """Bytes of the longest answer that the node reads; where nobody said, TorchServe's own default."""
    return int(os.environ.get(ANSWER_LIMIT_VARIABLE) or DEFAULT_LONGEST_ANSWER)


def model_and_version(context: Any) -> tuple[str, str]:
    """The names under which TorchServe serves this worker's model."""
    manifest: Mapping[str, Any] = context.manifest["model"]
    model = context.model_name if isinstance(context.model_name, str) else manifest["modelName"]
    return model, manifest["modelVersion"]


def read_properties(properties: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Media types of the fields, and headers, out of TorchServe's request properties.

    They mix both: a field's name has a dict of its own headers, a header's name a str.
    """
    types = {name: own.get("content-type") or "" for name, own in properties.items() if isinstance(own, dict)}
    return types, {name: value for name, value in properties.items() if isinstance(value, str)}


def raw_body(value: Any) -> bytes:
    """The bytes of a body that TorchServe hands over in another type.

    Raises:
        TypeError: TorchServe parsed it.
    """
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    # this worker's switch to raw bodies did not take effect
    raise TypeError(f"TorchServe handed over a {type(value).__name__} instead of the raw body")
