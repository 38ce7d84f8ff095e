"""Writes an archive as a folder that `bentoml serve` and `bentoml build` take, with no need of tsctl."""

from __future__ import annotations

from pathlib import Path

from tsctl.archive.libraries import Libraries
from tsctl.nodes.export_service import Service, export_service

#: The adapter in the archive, without which BentoML cannot serve it.
ADAPTER = "handlers/adapters/bentoml/service.py"
SERVICE = Service(
    engine="bentoml",
    title="BentoML",
    adapter=ADAPTER,
    programs=("handlers.adapters.bentoml.service", "handlers.adapters.asgi.child"),  # the service, and its workers
    server=("bentoml", "fastapi", "httptools", "uvloop"),
    extras={},
    has_package=False,
    templates=("service.py", "bentofile.yaml", "README.md"),
)


def export(archive: Path, target: Path) -> Libraries:
    """As `export_service`."""
    return export_service(SERVICE, archive, target)
