"""Sends an archive's samples through a node before its version counts as ready, because the JVM starts cold."""

from __future__ import annotations

import time

from tsctl.archive.container import read_samples
from tsctl.archive.store import StoredArchive
from tsctl.errors import NodeError
from tsctl.host.progress import Note
from tsctl.nodes.torchserve.client import Reply
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.readiness import require_version

#: Requests for each worker at least, and in all at most; past the least, for this many seconds at most. The JVM
#: compiles what ran some 200 times.
LEAST_PER_WORKER = 2
MOST_REQUESTS = 300
LONGEST_S = 3.0
#: Every so many requests a new connection is opened: accepting one is a path of its own, which is cold as well.
REQUESTS_PER_CONNECTION = 10


def warm_up(node: Node, archive: StoredArchive, note: Note) -> Reply | None:
    """Send the archive's samples to the explicit version URL, so that the node's own path is warm as well.

    Returns the last answer, or None for an archive without samples.

    Raises:
        NodeError: a sample was not answered with 200.
    """
    samples = read_samples(archive.path)
    least = LEAST_PER_WORKER * require_version(node, archive.model, archive.version).ready_workers
    begin = time.monotonic()
    last = None
    for count in range(max(least, MOST_REQUESTS) if samples else 0):
        if count >= least and time.monotonic() > begin + LONGEST_S:
            break
        if count % REQUESTS_PER_CONNECTION == 0:
            node.client.reconnect()
        name, body, media_type = samples[count % len(samples)]
        note(f"warm-up request {count + 1}")
        last = node.client.predict(archive.model, archive.version, body, media_type)
        if last.status != 200:
            raise NodeError(
                f"{archive.model} {archive.version} on node {node.name} answered sample {name} with {last.status}:"
                f" {last.body[:300].decode('utf-8', 'replace')}"
            )
    return last
