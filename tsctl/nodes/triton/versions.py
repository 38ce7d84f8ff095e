"""Changes one version on one node, one change of a model at a time, and waits until the change is true.

Invariant: every function returns only when the version is in the state that it names. It raises NodeError otherwise,
and ConflictError while another tsctl changes this model on this node. The public functions hold the lock of the model.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress

from pydantic import TypeAdapter

from tsctl.archive.samples import read_samples
from tsctl.archive.store import StoredArchive, require_whole
from tsctl.errors import NodeError
from tsctl.host.files import size, write_document
from tsctl.host.locks import exclusive
from tsctl.host.progress import Note
from tsctl.nodes.load_reports import read_load_reports
from tsctl.nodes.registered import already_registered, require_as_wanted, still_served
from tsctl.nodes.triton.client import READY, Refused
from tsctl.nodes.triton.node import Node
from tsctl.nodes.triton.pending import forget
from tsctl.nodes.triton.repository import Served, remove, triton_name, with_workers
from tsctl.nodes.triton.workers import live_workers

#: Starting a worker's process comes before its load, which startup_s bounds.
PROCESS_START_S = 60.0
#: How long workers may take to answer what they have, and to end.
ENDING_S = 60.0
#: The supervisor may be replacing a dead worker of the model for so long.
LOCK_S = 10.0
POLL_S = 0.1
#: Requests for each worker after a load.
WARM_REQUESTS = 2


def register(
    node: Node, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
) -> None:
    """Register the archive as a version; see `Node.register`."""
    node.require_here()
    with _locked(node, archive.model):
        _register(node, archive, version, workers, note, timeout_s)


def ensure(
    node: Node, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None = None
) -> bool:
    """Register the version unless it is registered; see `Node.ensure`."""
    node.require_here()
    with _locked(node, archive.model):
        node.client.states()
        served = node.repository.find(archive.model, version)
        if served is None:
            _register(node, archive, version, workers, note, timeout_s)
            return True
        require_as_wanted(archive, version, workers, node.name, served.archive, served.workers)
        _wait_ready(node, served, note, timeout_s)
        return False


def replace(node: Node, archive: StoredArchive, version: str, workers: int | None, note: Note) -> None:
    """Replace the bytes of a version; see `Node.replace`. The old workers answer until the new ones are ready."""
    node.require_here()
    require_whole(archive)
    with _locked(node, archive.model):
        old = _require(node, archive.model, version)
        served, made = node.repository.make(archive, version, workers, node.spec.gpus)
        before = node.repository.put(made, served)
        try:
            _load(node, served, note, None)
        except BaseException as error:
            if before is not None:
                node.repository.put(before, old)
                with suppress(NodeError):
                    _load(node, old, note, None)
            if isinstance(error, NodeError):
                raise still_served(error, archive.model, version, old.archive) from error
            raise
        if before is not None:
            remove(before)


def scale(node: Node, model: str, version: str, workers: int, note: Note, timeout_s: float | None = None) -> None:
    """Give the version exactly this many workers; see `Node.scale`."""
    node.require_here()
    with _locked(node, model):
        node.client.states()
        before = _require(node, model, version)
        served = with_workers(before, workers, _live(node, before))
        node.repository.update(served)
        if workers == 0:
            _unload(node, served.name)
            return
        try:
            _load(node, served, note, timeout_s)
        except BaseException:
            node.repository.update(before)
            raise


def unregister(node: Node, model: str, version: str) -> bool:
    """Remove the version from the node; False if it was not registered."""
    node.require_here()
    with _locked(node, model):
        node.client.states()
        forget(node.paths, model, version)
        if node.repository.find(model, version) is None:
            return False
        _unload(node, triton_name(model, version))
        node.repository.remove(model, version)
        return True


def warm_up(node: Node, archive: StoredArchive, version: str, note: Note) -> None:
    """Send the archive's samples to the version; raises NodeError where one is not answered with 200."""
    served = _require(node, archive.model, version)
    for number, (name, body, media_type) in enumerate(read_samples(archive.path)):
        if number >= WARM_REQUESTS * max(1, served.workers):
            break
        note(f"warm-up request {number + 1}")
        reply = node.client.predict(served.name, body, media_type)
        if reply.status != 200:
            raise NodeError(
                f"{archive.model} {version} on node {node.name} answered sample {name} with {reply.status}:"
                f" {reply.body[:300].decode('utf-8', 'replace')}"
            )


def read_defaults(node: Node) -> dict[str, str]:
    """The version of each model that answers callers who name none; Triton has no such thing, so tsctl keeps it."""
    try:
        return TypeAdapter(dict[str, str]).validate_json(node.paths.defaults.read_bytes(), strict=True)
    except (OSError, ValueError):
        return {}


def write_default(node: Node, model: str, version: str) -> None:
    """Keep the default version of a model."""
    node.require_here()
    with _locked(node, model):
        write_document(node.paths.defaults, {**read_defaults(node), model: version})


def _register(
    node: Node, archive: StoredArchive, version: str, workers: int | None, note: Note, timeout_s: float | None
) -> None:
    node.client.states()  # finds a node that does not run sooner
    if node.repository.find(archive.model, version) is not None:
        raise already_registered(archive.model, version, node.name)
    require_whole(archive)
    note("unpacking")
    served, made = node.repository.make(archive, version, workers, node.spec.gpus)
    try:
        node.repository.put(made, served)
        if served.workers:
            _load(node, served, note, timeout_s)
            warm_up(node, archive, version, note)
    except BaseException:
        remove(made)
        with suppress(NodeError):
            _unload(node, served.name)
        node.repository.remove(archive.model, version)
        raise


def _load(node: Node, served: Served, note: Note, timeout_s: float | None) -> None:
    """Load the version, or what has changed of it, and wait until all its workers are ready."""
    note(f"{served.workers} workers load")
    log_offset, begun = size(node.paths.log), time.monotonic()
    limit_s = timeout_s or served.startup_s + PROCESS_START_S
    try:
        node.client.load(served.name, limit_s)
    except Refused as error:
        reports = read_load_reports(node.paths.log, log_offset)
        refused = [
            report.reason for report in reports if (report.model, report.version) == served.key and report.reason
        ]
        reason = refused[-1] if refused else (error.reason.splitlines() or ["Triton does not say why"])[0]
        if not refused and time.monotonic() - begun > served.startup_s:
            reason = f"no worker was ready within {served.startup_s} s"
        raise NodeError(
            f"{served.model} {served.version} refused to load on node {node.name}: {reason}",
            f"The log is {node.paths.log}.",
        ) from error
    _wait_ready(node, served, note, timeout_s)


def _wait_ready(node: Node, served: Served, note: Note, timeout_s: float | None) -> None:
    end = time.monotonic() + (timeout_s or served.startup_s + PROCESS_START_S)
    while True:
        live, state = len(_live(node, served).keys() & set(served.numbers)), node.client.states().get(served.name)
        if live == served.workers and (state == READY or not served.workers):
            return
        note(f"{live} of {served.workers} workers ready")
        if time.monotonic() > end:
            raise NodeError(
                f"{served.model} {served.version} on node {node.name} is not ready: last seen {live} of"
                f" {served.workers} workers, {state}",
                f"See {node.paths.log}.",
            )
        time.sleep(POLL_S)


def _unload(node: Node, name: str) -> None:
    """Unload the model, and wait until its workers have answered what they had and ended."""
    node.client.unload(name)
    end = time.monotonic() + ENDING_S
    while live_workers(node.pid or 0, node.paths.repository).get(name):
        if time.monotonic() > end:
            raise NodeError(
                f"the workers of {name} on node {node.name} do not end",
                f"See {node.paths.log}; they end with the node.",
            )
        time.sleep(POLL_S)


def _live(node: Node, served: Served) -> Mapping[int, int]:
    """Pids of the version's workers that live, by their number."""
    return live_workers(node.pid or 0, node.paths.repository).get(served.name, {})


def _require(node: Node, model: str, version: str) -> Served:
    served = node.repository.find(model, version)
    if served is None:
        raise NodeError(f"{model} {version} is not registered on node {node.name}", "See 'tsctl models list'.")
    return served


def _locked(node: Node, model: str) -> AbstractContextManager[object]:
    return exclusive(node.lock(model), f"model {model} on node {node.name}", LOCK_S)
