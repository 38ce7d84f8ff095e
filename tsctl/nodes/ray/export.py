"""Writes an archive as a folder that `serve run` and `serve deploy` take, with no need of tsctl."""

from __future__ import annotations

from pathlib import Path

from tsctl.archive.libraries import Libraries
from tsctl.nodes.export_service import Service, export_service

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


def export(archive: Path, target: Path) -> Libraries:
    """As `export_service`."""
    return export_service(SERVICE, archive, target)
