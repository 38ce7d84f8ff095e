"""Reads TorchServe's context: the configuration of a worker, the author's handler, headers of a request."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from handlers.adapters.torchserve.context_calls import with_context_calls
from handlers.base import ServingHandler
from handlers.worker.config import WorkerConfig, handler_class, read_config


def author_handler(context: Any) -> Any:
    """A new object of the author's class; one that is no ServingHandler has TorchServe's calls itself."""
    cls = handler_class(worker_config(context).handler)
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
        model_and_version(context)[0],
        properties.get("gpu_id"),
        properties.get("batch_size"),
    )


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
