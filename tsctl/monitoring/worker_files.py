"""Adds up the files into which the workers of each node write their metrics.

Invariant: a file that cannot be read loses only its own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tsctl.errors import NodeError

#: Size of a file, and the time of its last change in ns.
FileState = tuple[int, int]
NODE_LABEL = "node"
#: How often all files are read at most: a starting node may empty the folder in between.
ATTEMPTS = 3


def counts_by_outcome(folder: Path, counter: str) -> tuple[dict[str, int], list[str]]:
    """A counter of all workers of a node by its label `outcome`, and why files or the folder cannot be read.

    Args:
        folder: the workers' files.
        counter: its name, with `_total`.
    """
    counts: dict[str, int] = {}
    problems: list[str] = []
    try:
        for metric in WorkerFiles(folder, problems.append).collect():
            for sample in metric.samples if metric.name == counter.removesuffix("_total") else ():
                outcome = sample.labels["outcome"]
                counts[outcome] = counts.get(outcome, 0) + round(sample.value)
    except NodeError as error:
        problems.append(error.message)
    return counts, problems


class WorkerFiles(Collector):
    """The metrics of all workers since their node was started, ended workers included.

    Args:
        folder: the workers' files; it may appear, disappear and be emptied at any time.
        warn: gets one warning for each file that cannot be read.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._damaged: dict[Path, FileState] = {}

    def collect(self) -> Iterable[Metric]:
        """The sums over all files at this moment; called at every scrape.

        Raises:
            NodeError: the folder cannot be read.
        """
        for _ in range(ATTEMPTS - 1):
            try:
                return _merged(self._readable())
            except NodeError:
                raise
            except Exception:  # noqa: BLE001 - its file is looked for next
                self._find_damaged()
        return _merged(self._readable())

    def _readable(self) -> list[Path]:
        """The files without those that are still damaged, and without empty ones, which a worker is creating."""
        files = _files(self._folder)
        return [path for path, state in files.items() if state[0] and self._damaged.get(path) != state]

    def _find_damaged(self) -> None:
        files = _files(self._folder)
        self._damaged = {path: state for path, state in self._damaged.items() if path in files}
        for path in self._readable():
            try:
                _merged([path])
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - damaged bytes raise anything, from KeyError to struct.error
                if path not in self._damaged:  # a file that changes and stays damaged is reported once
                    self._warn(f"{path} cannot be read and is left out: {type(error).__name__}: {error}")
                self._damaged[path] = files.get(path, (0, 0))


class NodesFiles(Collector):
    """The metrics of the workers of several nodes; the label `node` tells them apart."""

    def __init__(self, files: Mapping[str, WorkerFiles]) -> None:
        self._files = files

    def collect(self) -> Iterable[Metric]:
        """The sums of each node at this moment, with one entry for each metric; raises as `WorkerFiles.collect`."""
        merged: dict[str, Metric] = {}
        for node, files in self._files.items():
            for metric in files.collect():
                named = [sample._replace(labels={**sample.labels, NODE_LABEL: node}) for sample in metric.samples]
                merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type)).samples += named
        return merged.values()


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry of this collector and of nothing in this process."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry


def _merged(paths: list[Path]) -> Iterable[Metric]:
    merge: Any = MultiProcessCollector.merge  # it has no types
    metrics: Iterable[Metric] = merge([str(path) for path in paths])
    return metrics


def _files(folder: Path) -> dict[Path, FileState]:
    """The state of every worker's file, by name; none where there is no folder yet."""
    files: dict[Path, FileState] = {}
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix == ".db":
                with suppress(FileNotFoundError):  # a starting node has just removed it
                    state = path.stat()
                    files[path] = (state.st_size, state.st_mtime_ns)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise NodeError(
            f"{folder} cannot be read: {error.strerror}", "Run this as the user who runs the node."
        ) from None
    return files
