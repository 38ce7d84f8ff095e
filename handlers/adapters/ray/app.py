"""Builds the application of Ray Serve: `import_path: handlers.adapters.ray.app:build` in a Serve config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import serve

from handlers.adapters.ray.replica import Replica, Source, answer
from handlers.unpacked import read_documents

#: The deployment's name in the application.
DEPLOYMENT = "worker"


class ServedReplica(Replica):
    """A replica, with the name of its end as Ray calls it."""

    async def __del__(self) -> None:
        await self.close()


def build(args: Mapping[str, Any]) -> Any:
    """The application of an archive in the working directory.

    Args:
        args: `model`, `version`, `archive` and `digest` of a `Source`; what else stands there is for tsctl.
    """
    names = ("model", "version", "archive", "digest")
    return _bind(Source("archive", **{name: str(args[name]) for name in names}))


def build_folder(folder: Path) -> Any:
    """The application of an archive that is unpacked in the folder, with what its files say of replicas and queue."""
    manifest, content = read_documents(folder)
    options = {
        "num_replicas": max(1, content.get("minWorkers", 1)),
        "max_ongoing_requests": most_ongoing(content.get("jobQueueSize", 100), content.get("batchSize", 1)),
        "graceful_shutdown_timeout_s": float(content.get("responseTimeout", 60)),
    }
    return _bind(Source(str(folder), manifest["modelName"], str(manifest["modelVersion"])), **options)


def most_ongoing(queue: int, batch: int) -> int:
    """Requests of a replica at a time: those that its own queue holds, which knows their deadlines, and a batch."""
    return queue + batch


def _bind(source: Source, **options: Any) -> Any:
    deployment = serve.deployment(name=DEPLOYMENT, **options)
    return deployment(serve.ingress(_application)(ServedReplica)).bind(source)


def _application() -> Any:
    """Ray wants a function, which is called in the replica."""
    return answer
