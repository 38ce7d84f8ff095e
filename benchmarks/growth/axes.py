"""The axes of growth, by their keys."""

from __future__ import annotations

from benchmarks.growth import batch, connections, keys, nodes, versions
from benchmarks.harness.run import Run

AXES: dict[str, Run] = {
    nodes.KEY: nodes.run,
    connections.KEY: connections.run,
    versions.KEY: versions.run,
    batch.KEY: batch.run,
    keys.KEY: keys.run,
}
