"""Builds the application of Ray Serve: `import_path: handlers.adapters.ray.app:build` in a Serve config."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray._private.runtime_env.packaging import pin_runtime_env_uri

from handlers.adapters.ray.replica import Replica, Source, answer, beside_package
from handlers.unpacked import read_documents

#: The deployment's name in the application.
DEPLOYMENT = "worker"
#: Seconds for which Ray keeps the package of a version after the last look at its health, at least half of them.
PIN_S = 7200


class ServedReplica(Replica):
    """A replica that keeps its package on the cluster, with the name of its end as Ray calls it.

    Ray forgets a package with the last replica that runs from it. Where a machine is lost with the only replica of a
    version, the next one could not start on another machine.
    """

    async def check_health(self) -> None:
        await super().check_health()
        now = asyncio.get_running_loop().time()
        if now > getattr(self, "_kept_until", 0.0) - PIN_S / 2:
            self._kept_until = now + PIN_S
            await asyncio.to_thread(_keep_package)

    async def __del__(self) -> None:
        await self.close()


def build(args: Mapping[str, Any]) -> Any:
    """The application of an archive in the working directory.

    Args:
        args: `model`, `version`, `archive` and `digest` of a `Source`; what else stands there is for tsctl.
    """
    names = ("model", "version", "archive", "digest")
    return _bind(Source("archive", **{name: str(args[name]) for name in names}))


def build_folder(name: str) -> Any:
    """The application of an archive that is unpacked in a folder beside this package, as its files say.

    Args:
        name: of that folder, which lies elsewhere on each machine.
    """
    manifest, content = read_documents(beside_package(name))
    options = {
        "num_replicas": max(1, content.get("minWorkers", 1)),
        "max_ongoing_requests": most_ongoing(content.get("jobQueueSize", 100), content.get("batchSize", 1)),
        "graceful_shutdown_timeout_s": float(content.get("responseTimeout", 60)),
    }
    return _bind(Source(name, manifest["modelName"], str(manifest["modelVersion"])), **options)


def _keep_package() -> None:
    """Have Ray keep the package of this process for PIN_S from now."""
    package = str(ray.get_runtime_context().runtime_env.get("working_dir") or "")
    if package.startswith("gcs://"):
        pin_runtime_env_uri(package, expiration_s=PIN_S)


def most_ongoing(queue: int, batch: int) -> int:
    """Requests of a replica at a time: those that its own queue holds, which knows their deadlines, and a batch."""
    return queue + batch


def _bind(source: Source, **options: Any) -> Any:
    deployment = serve.deployment(name=DEPLOYMENT, **options)
    return deployment(serve.ingress(_application)(ServedReplica)).bind(source)


def _application() -> Any:
    """Ray wants a function, which is called in the replica."""
    return answer
