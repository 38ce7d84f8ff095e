"""Moves the records of nodes to a place that machines share, by any address that fsspec knows; reads and purges it.

Invariant: a file is at the shared place, whole, before it is removed here; it has the same name there, by which a
reader that sees both counts it once. A shared place that does not answer leaves all files where they are.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

from handlers.record_files import RECORDS, RecordFile, parse_record_file
from tsctl.errors import AnalysisError, ConflictError
from tsctl.host.remote import put_whole
from tsctl.records.compact import compact, count_rows, hand_over, write_rows
from tsctl.records.database import Place, remote_errors, require, select
from tsctl.records.labels import forget


@dataclass(frozen=True)
class Pushed:
    """What one pass over a node's folder did."""

    files: int  # that were moved
    bytes: int  # of them
    expired: int  # of the node's files at the shared place, deleted


@dataclass(frozen=True)
class SharedPlace:
    """A place with a folder for each node.

    Args:
        address: an absolute path, or an address such as s3://bucket/records.
    """

    address: str

    def places(self) -> list[Place]:
        """The folder of each node that has moved records there; none where nobody has.

        Raises:
            AnalysisError: it does not answer, or fsspec does not know the address.
        """
        with self._system() as (system, root):
            if not system.exists(root):
                return []
            found = system.ls(root, detail=True)
        names = sorted(PurePosixPath(entry["name"]).name for entry in found if entry["type"] == "directory")
        return [Place(name, f"{self.address.rstrip('/')}/{name}") for name in names]

    def push(self, node: str, folder: Path, now_s: float | None = None) -> Pushed:
        """Compact a node's folder, and move its Parquet files there; what has expired there is deleted.

        Raises:
            AnalysisError: the place does not answer; what was not moved stays.
            ConflictError: another process changes the folder.
            OSError: the folder cannot be changed.
        """
        now_ms = (time.time() if now_s is None else now_s) * 1000
        compact(folder, now_s)
        moved: list[int] = []
        with self._system() as (system, root):
            target = f"{root}/{node}"

            def take(path: Path) -> None:
                moved.append(_put(system, path, f"{target}/{path.name}"))

            hand_over(folder, take)
            expired = [path for path, file in _files(system, target) if file.expiry_ms <= now_ms]
            for path in expired:
                system.rm_file(path)
        return Pushed(len(moved), sum(moved), len(expired))

    def purge(self, client: str, labels: Path) -> dict[str, dict[str, int]]:
        """Remove everything of a client; returns the number of rows by node and kind, those of `labels` included.

        Each file is written again without the client, under its name.

        Raises:
            ConflictError: another purge wrote a file again at the same time.
            AnalysisError: the place does not answer, or a file cannot be read.
        """
        removed: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        with self._system() as (system, root), TemporaryDirectory(prefix="tsctl-purge-") as empty:
            changed = []
            for path, file in _files(system, root):
                node, local = PurePosixPath(path).parent.name, Path(empty) / file.name
                system.get_file(path, str(local))
                rows, kept = count_rows(local, file.kind, client)
                if rows and file.kind == RECORDS:
                    requests = f"SELECT request_id FROM ({select(RECORDS, [str(local)])}) WHERE client = $1"
                    if forgotten := forget(labels, requests, [client]):
                        removed[node]["labels"] += forgotten
                if rows and kept:
                    without = local.with_suffix(".kept.parquet")
                    write_rows(file.kind, [local], without, client)
                    _put(system, without, path)
                    without.unlink()
                    changed.append((path, file))
                elif rows:
                    system.rm_file(path)
                local.unlink()
                removed[node][file.kind] += rows
            for path, file in changed:
                local = Path(empty) / file.name
                system.get_file(path, str(local))
                if count_rows(local, file.kind, client)[0]:
                    raise ConflictError(f"{path} was written again by another purge", "Run this again, one at a time.")
                local.unlink()
        return {node: dict(kinds) for node, kinds in removed.items()}

    @contextmanager
    def _system(self) -> Iterator[tuple[Any, str]]:
        """The file system and the path of the place in it."""
        with remote_errors(self.address):
            system, root = require("fsspec").core.url_to_fs(self.address)
            system.invalidate_cache()  # others write there too
            yield system, str(root).rstrip("/")


def _files(system: Any, folder: str) -> list[tuple[str, RecordFile]]:
    """The files of records below a folder, by path."""
    found = ((path, parse_record_file(PurePosixPath(path).name)) for path in system.find(folder))
    return [(path, file) for path, file in found if file is not None]


def _put(system: Any, path: Path, target: str) -> int:
    """Upload a file, which gets its name when it is whole; returns its bytes."""
    size = path.stat().st_size
    if (there := put_whole(system, path, target, 0o600)) != size:
        raise AnalysisError(f"{target} has {there} bytes and not {size}", "Run this again.")
    return size
