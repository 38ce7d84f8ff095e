"""A project and a node of a benchmark's own, which touch nothing of the person who runs it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from tsctl.archive.container import read_samples
from tsctl.archive.store import StoredArchive
from tsctl.config.deployment import NodeSpec
from tsctl.config.project import Project
from tsctl.errors import ArchiveError
from tsctl.host.progress import Progress
from tsctl.nodes.torchserve import versions
from tsctl.nodes.torchserve.node import Node
from tsctl.nodes.torchserve.start import start_node, stop_node
from tsctl.nodes.torchserve.tokens import read_tokens


def own_project(project: Project, folder: Path) -> Project:
    """A project for this run alone, with the node settings of the real one."""
    own = Project(folder)
    own.store.mkdir(parents=True)
    shutil.copyfile(project.config_properties, own.config_properties)
    if (project.root / "log4j2.xml").is_file():
        shutil.copyfile(project.root / "log4j2.xml", own.root / "log4j2.xml")
    return own


def free_node() -> NodeSpec:
    """A node on ports that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(5)]
        for opened in sockets:
            opened.bind(("127.0.0.1", 0))
        ports = [opened.getsockname()[1] for opened in sockets]
    inference, management, metrics = (f"http://127.0.0.1:{port}" for port in ports[:3])
    return NodeSpec(inference=inference, management=management, metrics=metrics, grpc_ports=(ports[3], ports[4]))


def free_port() -> int:
    """A port of the loopback address that nothing listens on now."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def json_sample(archive: StoredArchive) -> tuple[bytes, str]:
    """Body and media type of the archive's first sample that is JSON, else of its first."""
    samples = read_samples(archive.path)
    if not samples:
        raise ArchiveError(f"{archive.path.name} has no sample to ask it with")
    _, body, media_type = next((sample for sample in samples if sample[2] == "application/json"), samples[0])
    return body, media_type


def archived_by_torchserve(
    model: str, version: str, handler: Path, extra: Sequence[Path], folder: Path, config: Path | None = None
) -> Path:
    """A stock archive, made by torch-model-archiver into the folder.

    Args:
        config: its model-config.yaml.

    Raises:
        ArchiveError: torch-model-archiver failed.
    """
    command = [
        sys.executable, "-m", "model_archiver.model_packaging", "--model-name", model, "--version", version,
        "--handler", str(handler), "--extra-files", ",".join(map(str, extra)), "--export-path", str(folder), "--force",
    ]  # fmt: skip
    if config is not None:
        command += ["--config-file", str(config)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ArchiveError(f"torch-model-archiver failed: {made.stderr.strip()[-500:]}")
    return folder / f"{model}.mar"


@contextmanager
def serving(own: Project, node: Node, archive: StoredArchive) -> Iterator[None]:
    """The node, started cold, serves the archive with one worker while the block runs."""
    quiet = Progress(Console(quiet=True))
    start_node(own, node, quiet)
    node.paths.pending_restore.unlink(missing_ok=True)  # what the round before served
    try:
        versions.register(node, archive, 1, lambda _: None)
        yield
    finally:
        stop_node(node, quiet)


def request_headers(node: Node, media_type: str) -> dict[str, str]:
    """The headers of an inference request, with the node's token where it asks for one."""
    token = read_tokens(node.key_file).inference.header if node.key_file is not None else {}
    return {"Content-Type": media_type, **token}
