"""Adds up the files into which the workers of one node write their metrics.

Invariant: a file that cannot be read takes nothing from the page but its own numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from tsctl.errors import NodeError

#: A file as it was when it could not be read: its size and when it was changed last, in ns.
Seen = tuple[int, int]
#: Times that all files are read: a node that starts empties the folder in between.
ATTEMPTS = 3


class WorkerFiles(Collector):
    """Metrics of all workers that ran since their node was started, those that ended among them.

    Args:
        folder: where they write; it may come and go, and be emptied, at any time.
        warn: is told once of each file that cannot be read.
    """

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self._folder = folder
        self._warn = warn
        self._damaged: dict[Path, Seen] = {}

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
            except Exception:  # noqa: BLE001 - the file that it comes from is found and told next
                self._find_damaged()
        return _merged(self._readable())

    def _readable(self) -> list[Path]:
        """The files, but for those that were damaged when they were read last; an empty one is being made."""
        found = _files(self._folder)
        return [path for path, seen in found.items() if seen[0] and self._damaged.get(path) != seen]

    def _find_damaged(self) -> None:
        found = _files(self._folder)
        self._damaged = {path: seen for path, seen in self._damaged.items() if path in found}
        for path in self._readable():
            try:
                _merged([path])
            except FileNotFoundError:
                continue
            except Exception as error:  # noqa: BLE001 - damaged bytes raise anything, from KeyError to struct.error
                if path not in self._damaged:  # one that changes and stays damaged is told once
                    self._warn(f"{path} cannot be read and is left out: {type(error).__name__}: {error}")
                self._damaged[path] = found.get(path, (0, 0))


def registry_of(files: WorkerFiles) -> CollectorRegistry:
    """What prometheus_client's own exposition writes out: these files and nothing of this process."""
    registry = CollectorRegistry()
    registry.register(files)
    return registry


def _merged(paths: list[Path]) -> Iterable[Metric]:
    merge: Any = MultiProcessCollector.merge  # it has no types
    metrics: Iterable[Metric] = merge([str(path) for path in paths])
    return metrics


def _files(folder: Path) -> dict[Path, Seen]:
    """Every worker's file, in the order of their names; none where there is no folder yet."""
    found: dict[Path, Seen] = {}
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".db")
    except FileNotFoundError:
        return found
    except OSError as error:
        raise NodeError(
            f"{folder} cannot be read: {error.strerror}", "Run this as the user who runs the node."
        ) from None
    for path in paths:
        try:
            state = path.stat()
        except FileNotFoundError:  # a node that starts has just removed it
            continue
        found[path] = (state.st_size, state.st_mtime_ns)
    return found
