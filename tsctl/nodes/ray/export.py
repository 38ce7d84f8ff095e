"""Writes an archive as a folder that `serve run` and `serve deploy` take, with no need of tsctl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsctl.archive.libraries import Libraries
from tsctl.config.deployment import VersionTarget
from tsctl.errors import SpecError
from tsctl.nodes.export_service import Service, export_service
from tsctl.nodes.ray.applications import number_of

#: The adapter in the archive, without which Ray Serve cannot serve it.
ADAPTER = "handlers/adapters/ray/app.py"
SERVICE = Service(
    engine="ray",
    title="Ray Serve",
    adapter=ADAPTER,
    programs=("handlers.adapters.ray.app", "handlers.adapters.asgi.child"),  # a replica, and its worker
    server=("ray", "fastapi"),
    extras={"ray": "[serve]"},
    has_package=True,
    templates=("service.py", "serve.yaml", "README.md"),
)


def export(archive: Path, target: Path, wanted: VersionTarget | None = None) -> Libraries:
    """As `export_service`, with the version's workers and replicas in serve.yaml.

    Args:
        wanted: of deployment.yaml; None: as the archive says.

    Raises:
        SpecError: `wanted` allows fewer replicas than the archive has workers.
    """
    named = wanted or VersionTarget()

    def settings(workers: int) -> dict[str, Any]:
        least, replicas = named.workers or workers, named.ray
        if replicas.max_replicas is not None and replicas.max_replicas < least:
            raise SpecError(
                f"deployment.yaml says max_replicas {replicas.max_replicas}, and the archive asks for {least} workers",
                "Give the version `workers`, or a larger `ray.max_replicas`.",
            )
        most = (
            {} if replicas.max_replicas_per_node is None else {"max_replicas_per_node": replicas.max_replicas_per_node}
        )
        actor = {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus}
        return {"deployment": {**number_of(least, replicas), **most, "ray_actor_options": actor}}

    return export_service(SERVICE, archive, target, settings)
