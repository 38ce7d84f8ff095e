"""The record of a node's process: which one was started, as what, and how the rest of its group is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from tsctl.config.nodes import BaseNodeSpec, NodeSpec
from tsctl.config.project import Project
from tsctl.errors import NodeError
from tsctl.host.files import write_document
from tsctl.host.process import ProcessIdentity, identify
from tsctl.mistakes import first_mistake

_RECORD = "node.json"


@dataclass(frozen=True)
class NodeRecord(ProcessIdentity):
    """The record of a started node."""

    tmp: str  # its temporary folder, which every process of its group has in TMPDIR
    #: What deployment.yaml said of it then; empty: an older tsctl started it.
    spec: dict[str, Any] = field(default_factory=dict)

    @property
    def node(self) -> NodeSpec | None:
        """That as a node; None where an older tsctl, or a later one with other engines, started it."""
        try:
            node: NodeSpec | None = TypeAdapter(NodeSpec).validate_python(self.spec) if self.spec else None
        except ValueError:
            return None
        return node


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
        return TypeAdapter(NodeRecord).validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise NodeError(f"{path} is damaged: {first_mistake(error)}", f"Remove it if no node runs: {path}") from error


def write_record(folder: Path, pid: int, tmp: Path, spec: BaseNodeSpec) -> None:
    """Record a process that was just started."""
    record = NodeRecord(**asdict(identify(pid)), tmp=str(tmp), spec=spec.model_dump(mode="json"))
    write_document(record_path(folder), asdict(record))


def running_record(folder: Path) -> NodeRecord | None:
    """The record of the node's process, if that process still runs."""
    record = read_record(folder)
    return record if record is not None and record.is_running else None


def running_pid(folder: Path) -> int | None:
    """The pid of the node's process, if that process still runs."""
    record = running_record(folder)
    return record.pid if record is not None else None


def running_nodes(project: Project) -> list[tuple[Path, int]]:
    """Record and pid of every running node that was started in this folder, whatever deployment.yaml says."""
    records = sorted((project.state / "nodes").glob(f"*/{_RECORD}"))
    return [(record, pid) for record in records if (pid := running_pid(record.parent)) is not None]


def unnamed_running(project: Project, named: Mapping[str, object]) -> dict[str, int]:
    """Pids of the nodes that run from this folder and that deployment.yaml does not name, by their name."""
    return {path.parent.name: pid for path, pid in running_nodes(project) if path.parent.name not in named}


def require_described(name: str, folder: Path, spec: BaseNodeSpec) -> None:
    """Check that the process that runs as this node was started with the engine and the addresses of `spec`.

    Raises:
        NodeError: it was started with others, so nothing that is sent to it means what it should.
    """
    record = running_record(folder) if spec.key_file is None else None
    for what, has, wanted in _differences(record, spec) if record is not None else ():
        if what in spec.places:
            raise NodeError(
                f"node {name} runs with {what} {has} (pid {record.pid if record else 0}), and deployment.yaml says"
                f" {wanted}",
                f"Stop it as it runs, and start it as the file says: tsctl node stop --node {name}; tsctl node start"
                f" --node {name}",
            )


def changed_settings(folder: Path, spec: BaseNodeSpec) -> str:
    """What deployment.yaml says otherwise than at the start of the running node; empty where that is nothing."""
    record = running_record(folder)
    differences = _differences(record, spec) if record is not None else ()
    return ", ".join(f"{what} {wanted} (it runs with {has})" for what, has, wanted in differences)


def _differences(record: NodeRecord, spec: BaseNodeSpec) -> Iterator[tuple[str, Any, Any]]:
    """Each key with another value than at the start, the engine first: key, value then, value now.

    A key that the record lacks, because another tsctl wrote it, is not compared.
    """
    now = spec.model_dump(mode="json")
    for key in sorted(record.spec.keys() & now.keys() - {"key_file"}, key=lambda key: (key != "engine", key)):
        if record.spec[key] != now[key]:
            yield key, record.spec[key], now[key]
