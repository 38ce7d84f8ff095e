"""Files of the package that people use outside of it."""

from __future__ import annotations

from pathlib import Path

from tsctl.archive.sources import handlers_package
from tsctl.errors import SpecError
from tsctl.nodes.torchserve import settings


def carried(name: str) -> Path:
    """Where a file that tsctl carries lies.

    Raises:
        SpecError: it carries none of that name.
    """
    paths = {
        "constraints": Path(__file__).with_name("constraints.txt"),
        settings.CONFIG.name: settings.CONFIG,
        settings.LOG_CONFIG.name: settings.LOG_CONFIG,
        "handlers": handlers_package(),
        "docs": handlers_package().with_name("docs"),  # not in a container's image
    }
    there = [name for name, path in paths.items() if path.exists()]
    if name not in there:
        raise SpecError(f"tsctl carries no {name}", f"It carries {', '.join(there)}.")
    return paths[name]
