"""The record of a node's process: which one was started, and how the rest of its group is known."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import write_document
from tsctl.host.process import ProcessIdentity, identify

_RECORD = "node.json"


@dataclass(frozen=True)
class NodeRecord(ProcessIdentity):
    """The record of a started node."""

    tmp: str  # its temporary folder, which every process of its group has in TMPDIR


def record_path(folder: Path) -> Path:
    """The record in a node's folder."""
    return folder / _RECORD


def read_record(folder: Path) -> NodeRecord | None:
    """The record of the node that was started last; None where there is none.

    Raises:
        NodeError: it is damaged.
    """
    path = record_path(folder)
    try:
        return NodeRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise NodeError(f"{path} is damaged: {error}", f"Remove it if no node runs: {path}") from error


def write_record(folder: Path, pid: int, tmp: Path) -> None:
    """Record a process that was just started."""
    write_document(record_path(folder), asdict(NodeRecord(**asdict(identify(pid)), tmp=str(tmp))))


def running_pid(folder: Path) -> int | None:
    """The pid of the node's process, if that process still runs."""
    record = read_record(folder)
    return record.pid if record and record.is_running else None


def running_nodes(project: Project) -> list[tuple[Path, int]]:
    """Record and pid of every running node that was started in this folder, whatever deployment.yaml says."""
    records = sorted((project.state / "nodes").glob(f"*/{_RECORD}"))
    return [(record, pid) for record in records if (pid := running_pid(record.parent)) is not None]
