"""Says which files no archive may hold, so that nothing is packed that is refused or does harm elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tsctl.archive.canonical import MAX_ENTRIES
from tsctl.archive.container import Content
from tsctl.archive.sources import require_no_secret
from tsctl.errors import ArchiveError

#: Packages that every worker imports; a file of the same name in an archive would come before them.
WORKER_PACKAGES = frozenset(
    ("ts", "torch", "numpy", "pydantic", "pydantic_core", "PIL", "safetensors", "yaml", "packaging", "psutil")
)


def require_packable(entries: Mapping[str, Content], folder: Path) -> None:
    """Raises ArchiveError for more entries than are read, and for files that must not leave the machine."""
    if len(entries) >= MAX_ENTRIES:  # one more has the digests
        raise ArchiveError(
            f"{len(entries)} files are too many for an archive, which has fewer than {MAX_ENTRIES}",
            "Pack them into one, as a zip or tar file, and name that in `files`.",
        )
    if shadowed := shadowing_names(list(entries)):
        raise ArchiveError(
            f"the archive cannot be packed: {', '.join(shadowed)} would replace a module of that name in the worker",
            "Rename it, or put it into a folder.",
        )
    for content in entries.values():
        if isinstance(content, Path) and content.is_relative_to(folder):
            require_no_secret(content, folder)


def shadowing_names(entries: Sequence[str]) -> list[str]:
    """Entries that a worker would import in place of the standard library or of its own packages."""
    tops = {entry.split("/")[0] for entry in entries if entry.endswith(".py")}
    taken = sys.stdlib_module_names | WORKER_PACKAGES
    return sorted(top for top in tops if top.removesuffix(".py") in taken)
