"""The versions that a node served before it ended, until they are back: a start that fails or is killed loses none."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

from tsctl.errors import NodeError
from tsctl.host.files import write_secret
from tsctl.nodes.triton.process import Paths
from tsctl.nodes.triton.repository import Repository, Served, read_served


def remember_served(paths: Paths) -> None:
    """Keep what the node served last, and empty its repository; what was still pending stays so."""
    served = Repository(paths.repository).served()
    keys = {entry.key for entry in served}
    _write_pending(paths, [*served, *(entry for entry in read_pending(paths) if entry.key not in keys)])
    for entry in served:
        Repository(paths.repository).remove(*entry.key)
    shutil.rmtree(paths.repository, ignore_errors=True)  # also what was being made


def read_pending(paths: Paths) -> list[Served]:
    """The versions that are still to be registered again.

    Raises:
        NodeError: the file is damaged.
    """
    path = paths.pending_restore
    if not path.is_file():
        return []
    try:
        return [read_served(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise NodeError(f"{path} is damaged: {reason}", f"Remove it to start the node empty: rm {path}") from error


def forget(paths: Paths, model: str, version: str) -> None:
    """Remove the version from the list, so that it does not come back at the next start."""
    pending = read_pending(paths)
    kept = [entry for entry in pending if entry.key != (model, version)]
    if kept != pending:
        _write_pending(paths, kept)


def _write_pending(paths: Paths, pending: list[Served]) -> None:
    if pending:
        write_secret(paths.pending_restore, json.dumps([asdict(entry) for entry in pending], indent=2) + "\n")
    else:
        paths.pending_restore.unlink(missing_ok=True)
