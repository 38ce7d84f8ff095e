"""What every engine says of a version that is registered already, or could not be registered."""

from __future__ import annotations

from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError, TsctlError


def already_registered(model: str, version: str, node: str) -> NodeError:
    """The refusal to register a version a second time."""
    return NodeError(
        f"{model} {version} is already registered on node {node}",
        "Change its workers with 'tsctl models scale', or unregister it first.",
    )


def require_as_wanted(
    archive: StoredArchive, version: str, wanted_workers: int | None, node: str, registered: str, workers: int
) -> None:
    """Check that a registered version is the one that is wanted.

    Args:
        wanted_workers: None: as many as it has.
        registered: file name of its archive.
        workers: how many it is to have.

    Raises:
        NodeError: it has other bytes, another number of workers, or none.
    """
    name = f"{archive.model} {version}"
    if registered != archive.path.name:
        raise NodeError(
            f"{name} is already registered on node {node} with other bytes, {registered}",
            "Give the new bytes a version of their own, or unregister the old ones first.",
        )
    if workers == 0 or (wanted_workers and wanted_workers != workers):
        raise NodeError(
            f"{name} is already registered on node {node}, with {workers} workers",
            f"Change that with: tsctl models scale {name} {wanted_workers or 1}",
        )


def still_served(error: NodeError, model: str, version: str, old: str) -> NodeError:
    """The error of a replacement after which the old archive serves again."""
    return NodeError(f"{error.message}\n{model} {version} serves what it served before, {old}", error.hint)


def add_failed_undo(error: BaseException, second: NodeError, model: str, version: str) -> None:
    """Add to the error of a register that unregistering failed as well."""
    if isinstance(error, TsctlError):
        error.message += f"\nand it could not be unregistered again: {second.message}"
        error.hint = error.hint or f"Try again: tsctl models unregister {model} {version}"
